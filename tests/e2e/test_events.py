"""What real daemons tell of an election and of themselves, before and after a kill."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ravelctl.client import ClusterClient
from ravelpb.v1 import cluster_pb2 as pb
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, running_cluster, until

pytestmark = pytest.mark.e2e

INTERVAL_S = 60.0
"""Between two regular frames, which is the longest that may be asked for. An event does not wait for the next of them."""


class Watch:
    """The frames of one daemon, read as they come."""

    def __init__(self, client: ClusterClient, server: Server) -> None:
        self.client = client
        self.server = server
        self.frames: list[pb.WatchStatusResponse] = []

    async def read(self) -> None:
        async for frame in self.client.watch_status(self.server.address, interval_s=INTERVAL_S):
            self.frames.append(frame)

    def named(self, name: str) -> list[pb.Event]:
        """Those that came in frames of their own, before the next regular one."""
        return [event for frame in self.frames if not frame.HasField("status") for event in frame.events if event.name == name]


@asynccontextmanager
async def watching(client: ClusterClient, servers: list[Server]) -> AsyncIterator[list[Watch]]:
    watches = [Watch(client, server) for server in servers]
    tasks = [asyncio.create_task(watch.read()) for watch in watches]
    try:

        async def all_have_begun() -> bool:
            return all(watch.frames for watch in watches)

        await until("every first frame is here", all_have_begun, CALL_S)
        yield watches
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def start_following(cluster: Cluster, path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ravelctl", "events", "--follow", "-o", "json", "-e", ",".join(cluster.endpoints)]
    with path.open("wb") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out)


@asynccontextmanager
async def following(cluster: Cluster, path: Path) -> AsyncIterator[Callable[[], list[Any]]]:
    """What `ravelctl events --follow` prints, so far; it has printed what was before when this is entered."""
    process = start_following(cluster, path)

    def followed() -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    async def has_begun() -> bool:
        return bool(followed())

    try:
        await until("it tells what was before", has_begun, CALL_S)
        yield followed
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, CALL_S) == 130
    finally:
        process.kill()
        process.wait()


async def kept(cluster: Cluster, server: Server) -> list[pb.Event]:
    async with ClusterClient([server.address], timeout_s=CALL_S) as client:
        return [event async for event in client.events(server.address)]


async def test_an_election_is_seen_as_it_happens_and_remembered(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, ClusterClient(cluster.endpoints, timeout_s=CALL_S) as client:
        leader = await cluster.leader()
        followers = await cluster.followers()
        before = await kept(cluster, leader)
        async with watching(client, followers) as watches, following(cluster, tmp_path / "followed") as followed:
            leader.kill()

            async def known() -> bool:
                return all(watch.named("leader-known") for watch in watches) and any(wins())

            def wins() -> list[pb.Event]:
                """Ordered by time; a busy machine may need more than one election."""
                won = [event for watch in watches for event in watch.named("election-won")]
                return sorted(won, key=lambda event: event.wall_ms)

            await until("both have told who leads now", known, START_S)
            won = wins()[0]
            assert len(won.fields["granted_by"].split(",")) == 2

            async def told() -> bool:
                return won.text in [event["text"] for event in followed()]

            await until("`events --follow` has told it", told, START_S)
            named = [(event["boot_id"], event["sequence"]) for event in followed()]
            assert len(set(named)) == len(named), "each event is told once"

        leader.start()
        await cluster.answering(leader)
        after = await kept(cluster, leader)
        assert after[: len(before)] == before, "what had happened before the kill is not forgotten"
        assert [event.sequence for event in after] == list(range(1, len(after) + 1))
        boots = list(dict.fromkeys(event.boot_id for event in after))
        assert len(boots) == 2
        assert next(event.name for event in after if event.boot_id == boots[1]) == "server-started"


async def test_a_damaged_journal_stops_nobody(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=("n1",)) as cluster:
        (server,) = cluster.servers.values()
        await cluster.leader()
        async with ClusterClient([server.address], timeout_s=CALL_S) as client, watching(client, [server]) as (watch,):
            assert await asyncio.to_thread(server.terminate) == 0, "it does not wait for those who watch"

            async def told() -> bool:
                return bool(watch.named("server-stopping"))

            await until("the watcher was told", told, CALL_S)
        journal = server.data_dir / "events" / "current"
        assert b"server-stopping" in journal.read_bytes()
        data = bytearray(journal.read_bytes())
        data[30] ^= 255
        journal.write_bytes(data)
        server.start()
        await cluster.leader()

        async def said() -> bool:
            return "events.damaged" in server.log

        await until("its log says so", said, CALL_S)
        assert (await kept(cluster, server))[0].name == "server-started"
        assert (journal.parent / "current.damaged").read_bytes() == data
