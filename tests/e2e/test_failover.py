"""Leaders and followers that die, under load, and come back. Nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from ravelctl.client import RavelClient
from tests.e2e.cluster import Cluster, Server, running_cluster, until
from tests.e2e.load import Load, same_on_all, under_load

pytestmark = pytest.mark.e2e


async def progress(load: Load, count: int = 200, within_s: float = 60.0) -> None:
    """Wait until so many more writes were acknowledged."""
    target = load.done + count

    async def reached() -> bool:
        return load.done >= target

    await until(f"{count} more writes are acknowledged", reached, within_s)


async def converge(cluster: Cluster) -> None:
    for server in cluster.servers.values():
        await cluster.caught_up(server)
    clients = [RavelClient([server.address]) for server in cluster.servers.values()]
    try:
        await same_on_all(clients)
    finally:
        for client in clients:
            await client.close()


async def test_the_leader_is_killed_twice_under_load(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client(timeout_s=15.0) as client:
        async with under_load(client) as load:
            await progress(load)
            for _ in range(2):
                leader = await cluster.leader()
                killed_at = time.monotonic()
                leader.kill()
                await progress(load, count=50)
                assert time.monotonic() - killed_at < 10.0
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
    async with running_cluster(tmp_path) as cluster, cluster.client(timeout_s=20.0) as client:
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

        await until("the log begins after what the follower holds", compacted, 30.0)
        away.start()
        await cluster.caught_up(away, 30.0)
        assert (await cluster.status(away)).first_index > last + 1, "it came by a snapshot, not by the log"
        await converge(cluster)


async def test_sigterm_of_the_leader_hands_over_at_once(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client(timeout_s=15.0) as client:
        async with under_load(client, workers=4) as load:
            await progress(load, count=50)
            handovers: list[float] = []
            for _ in range(3):
                leader = await cluster.leader()
                status = await asyncio.to_thread(leader.terminate)
                assert status == 0, leader.log[-2000:]
                heir = await cluster.leader()
                handovers.append(when(heir, "raft.role_changed", role="leader") - when(leader, "daemon.stopping"))
                leader.start()
                await cluster.caught_up(leader)
                await progress(load, count=50)
        # One that is left to an election by timeout takes 0.8 s at least.
        assert sorted(handovers)[1] < 0.5, handovers


def when(server: Server, event: str, **fields: str) -> float:
    """The time of the last such event in a daemon's log, in seconds since 1970."""
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    found = [line for line in lines if line["event"] == event and fields.items() <= line.items()]
    return datetime.fromisoformat(found[-1]["time"]).timestamp()
