"""Replicas that come and go: join, promotion, leave, removal of the leader, and disks that were wiped."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravelctl.client import AlreadyMemberError, ClusterClient, RavelClient, RavelError, RefusedError
from ravelpb.errors import Reason
from ravelpb.v1 import cluster_pb2
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, running_cluster, until
from tests.e2e.load import same_on_all, under_load

pytestmark = pytest.mark.e2e


async def is_voter(cluster: Cluster, server: Server) -> None:
    async def voter() -> bool:
        return server.name in await cluster.voters()

    await until(f"{server.name} is a voter", voter, START_S)


async def left(client: ClusterClient, replica_id: int) -> cluster_pb2.ChangeResponse:
    """Take it out. This is refused for as long as a busy machine lets too few of the others look alive."""
    return await until(f"replica {replica_id} leaves", lambda: client.leave([replica_id]), START_S)


async def replica_id(cluster: Cluster, server: Server) -> int:
    return (await cluster.status(server)).header.replica_id


async def test_a_fourth_replica_joins_under_load_and_is_promoted(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        async with under_load(client) as load:
            fourth = cluster.add("n4")
            fourth.start("--join", cluster.endpoints[0])
            await cluster.answering(fourth)
            await is_voter(cluster, fourth)
        assert load.done
        await cluster.caught_up(fourth)
        assert await replica_id(cluster, fourth) == 4
        async with (
            RavelClient([cluster.endpoints[0]], timeout_s=CALL_S) as one,
            RavelClient([fourth.address], timeout_s=CALL_S) as new,
        ):
            await cluster.caught_up(cluster.servers["n1"])
            assert await same_on_all([one, new])


async def test_a_learner_stays_one_until_it_is_promoted(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1"]) as cluster:
        second = cluster.add("n2")
        second.start()
        await cluster.answering(second)
        async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as client:
            await client.join(second.address, [cluster.endpoints[0]], promote=False)
            joined_at = (await cluster.status(second)).uptime_ms

            async def could_have_been_promoted() -> bool:
                """It has been level with the leader for longer than the election timeout that one to be promoted is given."""
                await cluster.caught_up(second)
                status = await cluster.status(second)
                return status.uptime_ms - joined_at > 2 * status.election_timeout_ms

            await until("it has long caught up", could_have_been_promoted, START_S)
            assert await cluster.voters() == {"n1"}
            await cluster.promoted(second)
            assert await cluster.voters() == {"n1", "n2"}
            with pytest.raises(AlreadyMemberError):
                await client.join(second.address, [cluster.endpoints[0]])


async def test_a_replica_leaves_and_stays_out(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1", "n2", "n3", "n4"]) as cluster:
        gone = (await cluster.followers())[0]
        async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as client:
            await left(client, await replica_id(cluster, gone))
        assert gone.name not in await cluster.voters()

        async def removed() -> bool:
            return (await cluster.status(gone)).removed

        async def told_twice() -> bool:
            return gone.log.count('"daemon.removed"') == 2

        await until("it knows that it was removed", removed, START_S)
        gone.kill()
        gone.start()
        await cluster.answering(gone)
        await until("it still knows after a restart", removed, START_S)
        await until("its log has said so in both of its lives", told_twice, START_S)

        async def could_have_campaigned() -> bool:
            status = await cluster.status(gone)
            return status.uptime_ms > 3 * status.election_timeout_ms

        await until("several election timeouts have passed since", could_have_campaigned, START_S)
        async with ClusterClient([gone.address], timeout_s=CALL_S) as client:
            told = [event async for event in client.events(gone.address)]
        since = [event.name for event in told if event.boot_id == told[-1].boot_id]
        assert since[0] == "server-started"
        assert not [event for event in told if event.kind == cluster_pb2.ELECTION and event.boot_id == told[-1].boot_id], told


async def test_a_leader_that_is_removed_hands_over_first(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client, under_load(client):
        leader = await cluster.leader()
        async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as operator:
            answer = await left(operator, await replica_id(cluster, leader))
        assert answer.verdict.allowed
        after = await cluster.leader()
        assert after is not leader
        assert leader.name not in await cluster.voters()


async def test_the_last_voter_and_a_quorum_cannot_be_removed(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, ClusterClient(cluster.endpoints, timeout_s=CALL_S) as client:
        with pytest.raises(RefusedError) as refused:
            await client.leave([1, 2, 3])
        assert refused.value.reason == Reason.UNSAFE_CHANGE
        down = (await cluster.followers())[0]
        down.kill()
        alive_id = await replica_id(cluster, (await cluster.followers())[0])
        await cluster.unheard()
        with pytest.raises(RefusedError, match="quorum"):
            await client.leave([alive_id])
        assert len(await cluster.voters()) == 3


async def test_a_wiped_replica_is_refused_and_can_join_anew(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        await client.put(b"k", b"v")
        wiped = (await cluster.followers())[0]
        old_id = await replica_id(cluster, wiped)
        wiped.kill()
        wiped.wipe()
        wiped.start()
        status = await cluster.answering(wiped)
        assert status.blank, "a wiped directory is nobody; it does not take its old seat by itself"
        async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as operator:
            with pytest.raises(RavelError, match="name"):
                await operator.join(wiped.address, [(await cluster.leader()).address], timeout_s=START_S)
            await left(operator, old_id)

            async def join() -> cluster_pb2.JoinResponse:
                return await operator.join(wiped.address, [(await cluster.leader()).address], timeout_s=CALL_S)

            joined = await until("it is taken in", join, START_S)
        assert joined.replica.replica_id > 3, "an id is never used twice"
        await is_voter(cluster, wiped)


async def test_a_restart_with_another_address_tells_the_leader(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        moved = (await cluster.followers())[0]
        moved_id = await replica_id(cluster, moved)
        moved.terminate()
        elsewhere = Server(tmp_path, moved.name)
        moved.address, moved.peer_address = elsewhere.address, elsewhere.peer_address
        moved.start()

        async def known() -> bool:
            members = (await cluster.status(await cluster.leader())).members
            return any(m.replica_id == moved_id and m.server.addresses.peer == moved.peer_address for m in members)

        await until("the leader knows the new address", known, START_S)
        await client.put(b"k", b"v")
        await cluster.caught_up(moved)


async def test_an_unreachable_joiner_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1"]) as cluster, cluster.client() as client:
        await client.put(b"k", b"v")
        status = await cluster.status(cluster.servers["n1"])
        nobody = Server(tmp_path, "nobody")
        async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as operator:
            server = cluster_pb2.AddMemberRequest().server
            server.CopyFrom(status.server)
            server.server_id, server.name = "0" * 32, "nobody"
            server.addresses.listen, server.addresses.peer = nobody.address, nobody.peer_address
            with pytest.raises(RefusedError, match="cannot reach"):
                await operator.add_member(server)
        assert await cluster.voters() == {"n1"}
        await client.put(b"k", b"w")
