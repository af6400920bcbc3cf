"""Watchers of real daemons, which are killed, stopped and compacted under them: every change once, in order, or a plain word."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import grpc
import pytest

from ravelctl.client import CompactedError, OutcomeUnknownError, RavelClient, Watch, WatchEvent
from ravelctl.client.session.watch import ClusterWatch
from ravelpb.v1 import kv_pb2, kv_pb2_grpc
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, running_cluster, until

pytestmark = pytest.mark.e2e


class Writers:
    """Puts of several tasks, and which revision each acknowledged one got."""

    def __init__(self, client: RavelClient, count: int = 4) -> None:
        self._client = client
        self.acknowledged: dict[int, tuple[bytes, bytes]] = {}
        self._stop = False
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(count)]

    async def _write(self, writer: int) -> None:
        number = 0
        while not self._stop:
            key, value = b"k/%d/%d" % (writer, number % 50), b"%d-%d" % (writer, number)
            with suppress(OutcomeUnknownError):
                self.acknowledged[(await self._client.put(key, value)).revision] = key, value
            number += 1
            await asyncio.sleep(0.002)

    async def more(self, count: int = 100) -> None:
        target = len(self.acknowledged) + count

        async def reached() -> bool:
            return len(self.acknowledged) >= target

        await until(f"{count} more writes are acknowledged", reached, START_S)

    async def stop(self) -> int:
        """The last acknowledged revision."""
        self._stop = True
        await asyncio.gather(*self._tasks)
        return max(self.acknowledged)


class Reader:
    """A watcher that keeps what it is told."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.events: list[WatchEvent] = []
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.watch:
            self.events.append(event)

    async def through(self, revision: int) -> None:
        async def reached() -> bool:
            if self._task.done():
                self._task.result()
            return self.watch.revision >= revision or bool(self.events and self.events[-1].revision >= revision)

        await until(f"the watch is told of revision {revision}", reached, START_S)
        self._task.cancel()

    async def server(self, cluster: Cluster) -> Server:
        """Whose stream it reads; while it is on its way to another one, whose it will be."""

        async def find() -> Server | None:
            endpoint = cast(ClusterWatch, self.watch)._stream._endpoint
            return next((server for server in cluster.servers.values() if server.address == endpoint), None)

        return await until("it reads from a server", find, START_S)

    def check(self, acknowledged: dict[int, tuple[bytes, bytes]]) -> None:
        revisions = [event.revision for event in self.events]
        assert revisions == list(range(revisions[0], revisions[0] + len(revisions))), "a gap, a repetition, or out of order"
        told = {event.revision: (event.key, event.value) for event in self.events}
        missing = {revision: pair for revision, pair in acknowledged.items() if told.get(revision) != pair}
        assert not missing


async def test_watchers_see_every_acknowledged_change_once_and_in_order_whoever_dies(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path) as cluster,
        cluster.client(timeout_s=CALL_S) as client,
        RavelClient([cluster.endpoints[0]], timeout_s=CALL_S) as one,
        one.watch(from_revision=1) as lone,  # knows the others only from the one that it was told of
        client.watch(from_revision=1) as first,
        client.watch(from_revision=1, prefix=b"k/") as second,
    ):
        readers = [Reader(watch) for watch in (lone, first, second)]
        writers = Writers(client)
        await writers.more()
        for _ in range(2):
            watched = await readers[0].server(cluster)  # a replica that is watched
            watched.kill()
            await writers.more()
            watched.start()
            await cluster.caught_up(watched)
            leader = await cluster.leader()
            leader.kill()
            await writers.more()
            leader.start()
            await cluster.caught_up(leader)
        stopped = await readers[1].server(cluster)
        stopped.pause()
        await writers.more()
        await asyncio.sleep(1.0)
        stopped.resume()
        await writers.more()
        last = await writers.stop()
        for reader in readers:
            await reader.through(last)
            reader.check(writers.acknowledged)
        shortest = min(len(reader.events) for reader in readers)
        assert readers[0].events[:shortest] == readers[1].events[:shortest] == readers[2].events[:shortest]


async def test_a_watcher_that_does_not_read_stops_nobody_and_misses_nothing(tmp_path: Path) -> None:
    value = b"v" * 20_000
    async with running_cluster(tmp_path) as cluster, cluster.client(timeout_s=CALL_S) as client:
        leader = await cluster.leader()
        async with grpc.aio.insecure_channel(leader.address) as channel, client.watch() as quick:
            slow = kv_pb2_grpc.KVStub(channel).Watch(kv_pb2.WatchRequest(from_revision=1))
            await slow.read()
            reader = Reader(quick)
            for _ in range(50):  # 20 MB, far more than any buffer on the way holds
                await asyncio.gather(*(client.put(b"%d" % at, value) for at in range(20)))
            await reader.through(1_000)
            seen: list[int] = []
            async with asyncio.timeout(START_S):
                while not seen or seen[-1] < 1_000:
                    message = cast(kv_pb2.WatchResponse, await slow.read())
                    seen += [event.revision for event in message.events]
            assert seen == list(range(1, 1_001))
            slow.cancel()


async def test_a_revision_that_was_compacted_away_is_refused_with_the_first_one_that_is_left(tmp_path: Path) -> None:
    flags = ["--log-retain-entries", "100"]
    async with running_cluster(tmp_path, flags=flags) as cluster, cluster.client(timeout_s=CALL_S) as client:

        async def compacted() -> CompactedError | None:
            for number in range(60):
                await client.put(b"k", b"%d" % number)
            try:
                async with client.watch(from_revision=1):
                    return None
            except CompactedError as error:
                return error

        error = await until("revision 1 is compacted away", compacted, START_S)
        assert error.first_revision > 1

        async def begun() -> int | None:
            """The log may lose its beginning once more before the watch has begun."""
            nonlocal error
            try:
                async with client.watch(from_revision=error.first_revision) as watch, asyncio.timeout(CALL_S):
                    return (await anext(watch)).revision
            except CompactedError as later:
                error = later
                return None

        assert await until("a watch begins with the first revision that is left", begun, START_S) == error.first_revision
        command = ["-m", "ravelctl", "kv", "watch", "--from", "1", "-o", "json", "-e", ",".join(cluster.endpoints)]
        child = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        async with asyncio.timeout(START_S):
            out, said = await child.communicate()
        assert (child.returncode, out) == (1, b"")
        told = json.loads(said)
        assert told["reason"] == "COMPACTED"
        assert int(told["metadata"]["first_revision"]) >= error.first_revision


async def test_ctrl_c_ends_a_watch_with_130_and_says_where_to_go_on(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=("n1",)) as cluster, cluster.client(timeout_s=CALL_S) as client:
        await client.put(b"a", b"1")
        await client.put(b"b", b"2")
        command = [sys.executable, "-m", "ravelctl", "kv", "watch", "--from", "1", "-e", ",".join(cluster.endpoints)]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdout is not None
        async with asyncio.timeout(START_S):
            assert [await child.stdout.readline() for _ in range(2)] == [b"1  put  a  1\n", b"2  put  b  2\n"]
            os.kill(child.pid, signal.SIGINT)
            _, said = await child.communicate()
        assert child.returncode == 130
        assert b"--from 3" in said
