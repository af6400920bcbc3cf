"""Leaders and followers that die, under load, and come back. Nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ravelctl.client import ClusterClient, RavelClient
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, running_cluster, until
from tests.e2e.load import Load, same_on_all, under_load

pytestmark = pytest.mark.e2e


async def progress(load: Load, count: int = 200, within_s: float = START_S) -> None:
    """Wait until so many more writes were acknowledged."""
    target = load.done + count

    async def reached() -> bool:
        return load.done >= target

    await until(f"{count} more writes are acknowledged", reached, within_s)


async def converge(cluster: Cluster) -> None:
    await cluster.settled()
    clients = [RavelClient([server.address], timeout_s=CALL_S) for server in cluster.servers.values()]
    try:
        await same_on_all(clients)
    finally:
        for client in clients:
            await client.close()


async def test_the_leader_is_killed_twice_under_load(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        async with under_load(client) as load:
            await progress(load)
            for _ in range(2):
                leader = await cluster.leader()
                leader.kill()
                await progress(load, count=50)
                leader.start()
                await cluster.caught_up(leader)
            await progress(load)
        assert load.unknown == 0, "retries within the session answer what happened"
        await converge(cluster)


async def test_a_follower_is_killed_under_load_and_catches_up(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        async with under_load(client) as load:
            await progress(load)
            follower = (await cluster.followers())[0]
            follower.kill()
            await progress(load)
            follower.start()
            await cluster.caught_up(follower)
        await converge(cluster)


async def test_all_replicas_are_killed_at_once_and_started_again(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        async with under_load(client) as load:
            await progress(load)
            for server in cluster.servers.values():
                server.kill()
            for server in cluster.servers.values():
                server.start()
            await progress(load)
        await converge(cluster)


async def test_a_follower_that_was_away_for_long_gets_a_snapshot(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, flags=["--log-retain-entries", "50"]) as cluster, cluster.client() as client:
        away = (await cluster.followers())[0]
        away.kill()
        last = (await cluster.status(await cluster.leader())).last_index
        for number in range(400):
            await client.put(f"s/{number:05}".encode(), b"x" * 100)

        async def compacted() -> bool:
            return (await cluster.status(await cluster.leader())).first_index > last + 1

        await until("the log begins after what the follower holds", compacted, START_S)
        away.start()
        await cluster.caught_up(away)
        assert (await cluster.status(away)).first_index > last + 1, "it came by a snapshot, not by the log"
        await converge(cluster)


HANDOVERS_MAX = 10


async def test_sigterm_of_the_leader_hands_over_at_once(tmp_path: Path) -> None:
    """Without a timeout that must run out first. Once shows it: a machine that is too busy calls others off."""
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        async with under_load(client, workers=4) as load:
            await progress(load, count=50)
            for _ in range(HANDOVERS_MAX):
                leader = await cluster.leader()
                status = await asyncio.to_thread(leader.terminate)
                assert status == 0, leader.log[-2000:]
                asked = await was_asked_to_lead(await cluster.leader())
                leader.start()
                await cluster.caught_up(leader)
                await progress(load, count=50)
                if asked:
                    break
        assert asked, f"none of {HANDOVERS_MAX} leaders handed over"


async def was_asked_to_lead(leader: Server) -> bool:
    """Whether it stood for the office that it holds because the leader before it had asked it to."""
    async with ClusterClient([leader.address], timeout_s=CALL_S) as client:
        begun = [event async for event in client.events(leader.address) if event.name == "campaign-begun"]
    return begun[-1].fields["transfer"] == "true"
