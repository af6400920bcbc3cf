"""What a leader once sent a follower, sent again byte for byte, in the same term and in a later one, changes nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from ravelctl.client import ClusterClient, Consistency, RavelClient
from tests.e2e.cluster import CALL_S, START_S, STEADY, Cluster, until
from tests.e2e.hostile import dial
from tests.e2e.ports import free_ports


class Recorder:
    """A port in front of another: passes everything on, and keeps what callers said, a connection at a time."""

    def __init__(self, target: str) -> None:
        self.heard: list[bytearray] = []
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = bytearray()
        self.heard.append(heard)
        with suppress(OSError):
            target_reader, target_writer = await dial(self._target)
            await asyncio.gather(self._pass_on(reader, target_writer, heard), self._pass_on(target_reader, writer, None))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray | None) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if heard is not None:
                    heard += data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", port)


SILENCE_S = 2.0
"""Who has begun to answer and says nothing for so long has nothing more to say."""


async def replay(address: str, heard: bytes) -> bytes:
    """Say it all again, and listen until the server has had enough or has nothing more to say. Returns what it said."""
    reader, writer = await dial(address)
    answered = b""
    with suppress(OSError, TimeoutError):
        writer.write(heard)
        await writer.drain()
        async with asyncio.timeout(CALL_S) as patience:
            while data := await reader.read(65_536):
                answered += data
                patience.reschedule(asyncio.get_running_loop().time() + SILENCE_S)
    writer.close()
    return answered


async def test_a_replayed_stream_of_raft_messages_changes_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, STEADY)
    first, second, third = (cluster.add(name) for name in ("n1", "n2", "n3"))
    (port,) = free_ports(1)
    third.flags += ["--peer-advertise", f"127.0.0.1:{port}"]
    recorder = Recorder(third.peer_address)
    listening = await recorder.listen(port)
    try:
        for server in (first, second, third):
            server.start()
        await cluster.bootstrap(first, second, third)
        assert await cluster.leader() is first
        async with cluster.client(timeout_s=CALL_S) as client:
            for number in range(30):
                await client.put(b"k", b"old %d" % number)
            await cluster.caught_up(third)
            old = [bytes(heard) for heard in recorder.heard if b"old 29" in heard]
            assert old, "the recorder heard nothing of the log"

            async def unchanged(value: bytes) -> None:
                before = await cluster.status(await cluster.leader())
                for heard in old:
                    answered = await replay(third.peer_address, heard)
                    # Once the third has heard from the first of later entries, the hello looks like that of an older copy.
                    taken, refused = before.header.cluster_id.encode() in answered, b"DIRECTORY_OUTDATED" in answered
                    assert taken or refused, "its hello was not even answered"
                after = await cluster.status(await cluster.leader())
                assert (after.header.term, after.leader_id) == (before.header.term, before.leader_id)
                for server in cluster.servers.values():
                    await cluster.caught_up(server)
                    async with RavelClient([server.address], timeout_s=CALL_S) as reading:
                        found = await reading.get(b"k", consistency=Consistency.STALE)
                    assert found is not None
                    assert found.value == value

            await client.put(b"k", b"new")
            await unchanged(b"new")
            async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as operator:
                await operator.transfer_leader((await cluster.status(second)).header.replica_id)

            async def moved() -> bool:
                return await cluster.leader() is second

            await until("n2 leads", moved, START_S)
            await client.put(b"k", b"newer")
            await unchanged(b"newer")
        assert all(server.running and "internal_error" not in server.log for server in cluster.servers.values())
    finally:
        cluster.stop_all()
        listening.close()
