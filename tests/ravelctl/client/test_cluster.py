"""ClusterClient and InspectClient against fake daemons."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from google.rpc.status_pb2 import Status

from ravelctl.client import (
    AlreadyMemberError,
    ClusterClient,
    DeadlineError,
    InspectClient,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    RavelError,
    RefusedError,
    RetryPolicy,
    UnreachableError,
)
from ravelpb.errors import Field, Reason
from ravelpb.v1 import cluster_pb2, inspect_pb2
from ravelpb.v1.common_pb2 import Addresses, ReplicaRef, ServerRef
from tests.ravelctl.client.fake_server import FakeCluster, FakeReplica, fake_cluster, make_status

QUICK = RetryPolicy(backoff_min_s=0.005, backoff_max_s=0.02, progress_timeout_s=0.3, suspicion_s=0.05)


def server_of(replica: FakeReplica) -> ServerRef:
    name = f"n{replica.replica_id}"
    return ServerRef(server_id=replica.server_id, name=name, addresses=Addresses(listen=replica.address))


def answer_status(replica: FakeReplica, request: cluster_pb2.StatusRequest) -> cluster_pb2.StatusResponse:
    members = [
        cluster_pb2.Member(replica_id=member.replica_id, server=server_of(member), role=cluster_pb2.VOTER)
        for member in replica.cluster.replicas
    ]
    return cluster_pb2.StatusResponse(server=server_of(replica), members=members)


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with fake_cluster(3) as cluster:
        for replica in cluster.replicas:
            replica.answers["Status"] = partial(answer_status, replica)
        yield cluster


@pytest.fixture
async def client(cluster: FakeCluster) -> AsyncIterator[ClusterClient]:
    async with ClusterClient([cluster.replicas[0].address], timeout_s=20, retry=QUICK) as client:
        yield client


@pytest.fixture
def nowhere() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there, nobody else can take it
        yield f"127.0.0.1:{taken.getsockname()[1]}"


async def test_status_asks_the_one_it_names(cluster: FakeCluster, client: ClusterClient) -> None:
    status = await client.status(cluster.replicas[1].address)
    assert status.server.name == "n2"


async def test_status_tells_refused_from_hanging(cluster: FakeCluster, client: ClusterClient, nowhere: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=nowhere):
        await client.status(nowhere)
    assert time.monotonic() - began < 15
    cluster.replicas[1].hangs = True
    with pytest.raises(DeadlineError, match="did not answer"):
        await client.status(cluster.replicas[1].address, timeout_s=0.2)
    cluster.replicas[1].hangs = False
    assert (await client.status(cluster.replicas[1].address)).server.name == "n2"


async def test_one_endpoint_is_enough_to_see_all(cluster: FakeCluster, client: ClusterClient) -> None:
    cluster.replicas[2].hangs = True
    found = await client.statuses(timeout_s=2.0)
    assert list(found) == [replica.address for replica in cluster.replicas]
    assert isinstance(found[cluster.replicas[1].address], cluster_pb2.StatusResponse)
    assert isinstance(found[cluster.replicas[2].address], DeadlineError)


async def test_a_member_is_not_asked_again_under_its_other_address(cluster: FakeCluster) -> None:
    port = cluster.replicas[0].address.rpartition(":")[2]
    async with ClusterClient([f"localhost:{port}"], timeout_s=20) as client:
        found = await client.statuses()
    assert list(found) == [f"localhost:{port}", cluster.replicas[1].address, cluster.replicas[2].address]
    assert cluster.replicas[0].calls["Status"] == 1


async def test_bootstrap_and_join_ask_one_daemon(cluster: FakeCluster, client: ClusterClient) -> None:
    replica = cluster.replicas[1]
    asked: list[object] = []

    def bootstrap(request: cluster_pb2.BootstrapRequest) -> cluster_pb2.BootstrapResponse:
        asked.append(request)
        return cluster_pb2.BootstrapResponse(replica=ReplicaRef(replica_id=1))

    def join(request: cluster_pb2.JoinRequest) -> cluster_pb2.JoinResponse:
        asked.append(request)
        return cluster_pb2.JoinResponse(replica=ReplicaRef(replica_id=4))

    replica.answers |= {"Bootstrap": bootstrap, "Join": join}
    assert (await client.bootstrap(replica.address, "ab" * 16, "orders")).replica.replica_id == 1
    assert (await client.join(replica.address, ["127.0.0.1:1"], promote=False)).replica.replica_id == 4
    assert asked == [
        cluster_pb2.BootstrapRequest(cluster_id="ab" * 16, cluster_name="orders"),
        cluster_pb2.JoinRequest(via=["127.0.0.1:1"], no_promote=True),
    ]
    fields = {Field.CLUSTER_ID: "cd" * 16, Field.REPLICA_ID: "7"}
    replica.answers["Bootstrap"] = lambda request: make_status(Reason.ALREADY_MEMBER, "it has an identity", fields)
    with pytest.raises(AlreadyMemberError) as told:
        await client.bootstrap(replica.address, "ab" * 16, "orders")
    assert (told.value.cluster_id, told.value.replica_id) == ("cd" * 16, 7)


async def test_changes_follow_the_leader(cluster: FakeCluster, client: ClusterClient) -> None:
    leader = cluster.leader = cluster.replicas[2]
    seen: list[object] = []

    def change(request: object) -> cluster_pb2.ChangeResponse:
        seen.append(request)
        return cluster_pb2.ChangeResponse(verdict=cluster_pb2.Verdict(allowed=True))

    answers: dict[str, Callable[[Any], Any]] = {
        "Promote": change,
        "Leave": change,
        "Update": lambda request: cluster_pb2.UpdateResponse(member=cluster_pb2.Member(replica_id=request.replica_id)),
        "TransferLeader": lambda request: cluster_pb2.TransferLeaderResponse(leader_id=request.replica_id),
        "AddMember": lambda request: cluster_pb2.AddMemberResponse(cluster_name="orders"),
    }
    leader.answers |= answers
    expect = cluster_pb2.Expectation(term=3, config_index=9)
    assert (await client.promote([4, 5], dry_run=True, expect=expect)).verdict.allowed
    assert (await client.leave([4])).verdict.allowed
    assert seen == [
        cluster_pb2.PromoteRequest(replica_ids=[4, 5], dry_run=True, expect=expect),
        cluster_pb2.LeaveRequest(replica_ids=[4]),
    ]
    assert (await client.update_member(2, ServerRef(name="x"))).member.replica_id == 2
    assert (await client.transfer_leader(2)).leader_id == 2
    assert (await client.add_member(ServerRef(name="n4"), auto_promote=False)).cluster_name == "orders"
    assert cluster.replicas[0].calls["Promote"] == 1
    assert cluster.replicas[0].calls["Leave"] == 0, "the leader is remembered"


async def test_a_refused_change_is_told_with_its_next_step(cluster: FakeCluster, client: ClusterClient) -> None:
    leader = cluster.replicas[0]
    leader.answers["Leave"] = lambda request: make_status(
        Reason.UNSAFE_CHANGE, "2 of 3 would be left", {Field.NEXT_STEP: "join another first"}
    )
    with pytest.raises(RefusedError) as told:
        await client.leave([1])
    assert told.value.reason is Reason.UNSAFE_CHANGE
    assert told.value.next_step == "join another first"
    assert leader.calls["Leave"] == 1


async def test_a_change_whose_answer_is_lost_is_unknown_and_not_repeated(cluster: FakeCluster, client: ClusterClient) -> None:
    leader = cluster.replicas[0]
    leader.answers["Leave"] = lambda request: make_status(Reason.OUTCOME_UNKNOWN, "leadership was lost")
    with pytest.raises(OutcomeUnknownError):
        await client.leave([2])
    assert leader.calls["Leave"] == 1
    leader.hangs = True
    with pytest.raises(OutcomeUnknownError):
        await client.promote([2], timeout_s=2.0)
    assert leader.calls["Promote"] == 1


async def test_what_changes_nothing_or_is_always_the_same_is_repeated(cluster: FakeCluster, client: ClusterClient) -> None:
    """The first attempt is never answered; each call is made again, unchanged, and then finds the leader."""
    first, leader, _ = cluster.replicas
    cluster.leader = leader
    seen: list[object] = []

    def add(request: cluster_pb2.AddMemberRequest) -> cluster_pb2.AddMemberResponse:
        seen.append(request)
        return cluster_pb2.AddMemberResponse(cluster_name="orders")

    def leave(request: cluster_pb2.LeaveRequest) -> cluster_pb2.ChangeResponse:
        seen.append(request)
        return cluster_pb2.ChangeResponse(verdict=cluster_pb2.Verdict(allowed=True))

    leader.answers |= {"AddMember": add, "Leave": leave}
    first.hangs = True
    calls = asyncio.gather(
        client.add_member(ServerRef(name="n4"), timeout_s=6), client.leave([2], dry_run=True, timeout_s=6)
    )  # fmt: skip
    while not (first.calls["AddMember"] and first.calls["Leave"]):
        await asyncio.sleep(0.01)
    assert (first.calls["AddMember"], first.calls["Leave"]) == (1, 1)
    first.hangs = False
    added, left = await calls
    assert (added.cluster_name, left.verdict.allowed) == ("orders", True)
    assert (first.calls["AddMember"], first.calls["Leave"]) == (2, 2), "once more, and no oftener"
    assert sorted(map(repr, seen)) == sorted(
        map(
            repr,
            [
                cluster_pb2.AddMemberRequest(server=ServerRef(name="n4"), auto_promote=True),
                cluster_pb2.LeaveRequest(replica_ids=[2], dry_run=True),
            ],
        )
    )


async def test_one_that_was_taken_out_or_cut_off_still_leads_to_the_others(cluster: FakeCluster, client: ClusterClient) -> None:
    """The only address that the client was given is that of a replica which does not lead and cannot say who does."""
    leaver, leader, _ = cluster.replicas
    cluster.leader = leader
    leader.answers["Leave"] = lambda request: cluster_pb2.ChangeResponse()
    removed = make_status(Reason.REMOVED, "replica 1 was removed from cluster c for good")
    no_leader = make_status(Reason.NO_LEADER, "no leader is known here")

    def refuse(answer: Status, request: Any) -> Status:
        return answer

    for answer in (removed, no_leader):
        leaver.answers["Leave"] = partial(refuse, answer)
        async with ClusterClient([leaver.address], timeout_s=20, retry=QUICK) as fresh:
            assert (await fresh.leave([3])).header.replica_id == leader.replica_id
    assert cluster.leader is leader


async def test_no_endpoints(cluster: FakeCluster) -> None:
    async with ClusterClient([], timeout_s=20) as client:
        assert (await client.status(cluster.replicas[0].address)).server.name == "n1"
        with pytest.raises(InvalidArgumentError):
            await client.statuses()
        with pytest.raises(InvalidArgumentError):
            await client.leave([1])


async def test_inspect_asks_the_one_it_names(cluster: FakeCluster) -> None:
    replica = cluster.replicas[1]
    info = inspect_pb2.SnapshotInfo(name="s1")
    requests: list[object] = []

    def read_log(request: inspect_pb2.ReadLogRequest) -> list[inspect_pb2.ReadLogResponse]:
        requests.append(request)
        return [inspect_pb2.ReadLogResponse(first_index=1), inspect_pb2.ReadLogResponse(first_index=2)]

    def fetch(request: inspect_pb2.FetchSnapshotRequest) -> list[object]:
        if request.name != "s1":
            return [make_status(Reason.NOT_FOUND, "there is no such file")]
        pieces = [b"abc", b"def"]
        return [inspect_pb2.FetchSnapshotResponse(offset=request.offset + 3 * i, data=piece) for i, piece in enumerate(pieces)]

    replica.answers |= {
        "ReadLog": read_log,
        "FetchSnapshot": fetch,
        "ListSnapshots": lambda request: inspect_pb2.ListSnapshotsResponse(snapshots=[info]),
        "SaveSnapshot": lambda request: inspect_pb2.SaveSnapshotResponse(snapshot=info),
        "StoreStats": lambda request: inspect_pb2.StoreStatsResponse(format=1),
    }
    async with InspectClient(timeout_s=20) as client:
        assert [page.first_index async for page in client.read_log(replica.address, limit=5, tail=True)] == [1, 2]
        assert requests == [inspect_pb2.ReadLogRequest(limit=5, tail=True)]
        assert list((await client.snapshots(replica.address)).snapshots) == [info]
        assert (await client.save_snapshot(replica.address)).snapshot == info
        assert (await client.store_stats(replica.address)).format == 1
        pieces = [(piece.offset, piece.data) async for piece in client.fetch_snapshot(replica.address, "s1", 6)]
        assert pieces == [(6, b"abc"), (9, b"def")]
        with pytest.raises(NotFoundError):
            await anext(client.fetch_snapshot(replica.address, "s2"))


async def test_a_status_stream_is_read_as_it_comes(cluster: FakeCluster, client: ClusterClient) -> None:
    replica = cluster.replicas[0]
    requests: list[object] = []
    frames = [cluster_pb2.WatchStatusResponse(events=[cluster_pb2.Event(sequence=number)]) for number in (4, 5)]

    def watch(request: cluster_pb2.WatchStatusRequest) -> list[Any]:
        requests.append(request)
        return [*frames, make_status(Reason.SHUTTING_DOWN, "the replica is shutting down")]

    replica.answers["WatchStatus"] = watch
    after = cluster_pb2.EventPosition(boot_id="b", sequence=3)
    stream = client.watch_status(replica.address, 2.0, after)
    assert [await anext(stream), await anext(stream)] == frames
    with pytest.raises(RavelError) as caught:
        await anext(stream)
    assert caught.value.reason == Reason.SHUTTING_DOWN
    assert requests == [cluster_pb2.WatchStatusRequest(interval_ms=2_000, after=after)]


async def test_events_come_one_by_one(cluster: FakeCluster, client: ClusterClient) -> None:
    replica = cluster.replicas[0]
    requests: list[object] = []

    def events(request: cluster_pb2.EventsRequest) -> list[Any]:
        requests.append(request)
        pages = [[1, 2], [], [3]]
        return [cluster_pb2.EventsResponse(events=[cluster_pb2.Event(sequence=n) for n in page]) for page in pages]

    replica.answers["Events"] = events
    found = client.events(replica.address, since_ms=7, limit=9, kinds=[cluster_pb2.ALARM])
    assert [event.sequence async for event in found] == [1, 2, 3]
    assert requests == [cluster_pb2.EventsRequest(since_ms=7, limit=9, kinds=[cluster_pb2.ALARM])]


async def test_a_status_stream_that_hangs_ends(cluster: FakeCluster) -> None:
    cluster.replicas[0].hangs = True
    async with ClusterClient([cluster.replicas[0].address], timeout_s=0.2) as client:
        with pytest.raises(DeadlineError):
            await anext(client.watch_status(cluster.replicas[0].address, 0.1))


async def test_inspect_tells_what_is_not_there(cluster: FakeCluster, nowhere: str) -> None:
    async with InspectClient(timeout_s=1.0) as client:
        with pytest.raises(UnreachableError):
            await client.store_stats(nowhere)
        with pytest.raises(UnreachableError):
            await anext(client.read_log(nowhere))
        cluster.replicas[0].hangs = True
        with pytest.raises(DeadlineError):
            await client.store_stats(cluster.replicas[0].address)
        with pytest.raises(DeadlineError):
            await anext(client.read_log(cluster.replicas[0].address))
