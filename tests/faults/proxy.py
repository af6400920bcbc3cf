"""The network between replicas, as TCP connections through this process, so that a test can cut, slow and reset it.

Theory of operation. Each server has a port of its own here, which it advertises instead of its own (`--peer-advertise`); what
connects to it is carried on to the server. Who dialled is looked up in /proc, so that of every byte it is known from which server
to which it travels. Bytes that may not pass are held, not thrown away: TCP would send them again once the network is whole, and
late bytes are harder on a protocol than lost ones.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1 << 16
CHUNKS_MAX: Final = 256
"""Chunks that wait in one direction of one connection; then its sender feels that the network does not take more."""

Link = tuple[str, str]
"""Names of two servers: from whom, to whom."""

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""gRPC dials an IPv4 address with an IPv6 socket where it can."""

OUTSIDE: Final = "outside"
"""The name of whoever dials and is none of the known servers: a client."""


class Network:
    """Carries connections between named servers. Everything runs on one event loop."""

    def __init__(self, pid_of: Callable[[], dict[str, int]]) -> None:
        """`pid_of` gives the process ids of the servers that run now."""
        self._pid_of = pid_of
        self._cut: set[Link] = set()
        self._mute: set[Link] = set()
        self._carried_max: dict[Link, int] = {}
        self._delay_s: dict[Link, float] = {}
        self._changed = asyncio.Event()
        self._listeners: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self.carried_bytes: Counter[Link] = Counter()
        self.held_chunks: Counter[Link] = Counter()  # chunks that met a cut
        self.delayed_chunks: Counter[Link] = Counter()
        self.resets = 0

    # --- what a test does to it

    def cut(self, one: str, other: str) -> None:
        """Nothing passes from `one` to `other`, on whatever connection; the other way is as it was."""
        self._cut.add((one, other))

    def mute(self, one: str, other: str) -> None:
        """No message passes from `one` to `other`: nothing goes that way on the connections that `one` dialled."""
        self._mute.add((one, other))

    def allow(self, one: str, other: str, more_bytes: int) -> None:
        """From `one` to `other` about so many more bytes pass, and then nothing."""
        self._carried_max[one, other] = self.carried_bytes[one, other] + more_bytes

    def part(self, one: str, other: str) -> None:
        """The two do not see each other."""
        self.cut(one, other)
        self.cut(other, one)

    def isolate(self, one: str, others: Iterable[str]) -> None:
        for other in others:
            self.part(one, other)

    def slow(self, one: str, other: str, delay_s: float) -> None:
        """Everything from `one` to `other` arrives this much later."""
        self._delay_s[one, other] = delay_s

    def heal(self) -> None:
        """All passes again, at once; what was held arrives."""
        self._delay_s.clear()
        self._cut.clear()
        self._mute.clear()
        self._carried_max.clear()
        before, self._changed = self._changed, asyncio.Event()
        before.set()

    def reset(self) -> int:
        """Break every connection there is, with a reset on both sides. Returns how many these were."""
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        self.resets += len(connections)
        return len(connections)

    # --- carrying

    async def front(self, name: str, target: str) -> str:
        """A new address that leads to the server `name` at `target`."""
        listener = await asyncio.start_server(lambda r, w: self._accepted(name, target, r, w), "127.0.0.1", 0)
        self._listeners.append(listener)
        return f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        self.reset()
        await asyncio.gather(*(connection.task for connection in list(self._connections)), return_exceptions=True)

    async def _accepted(self, name: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialler = dialled_by(writer.get_extra_info("peername")[1], self._pid_of())
        host, _, port = target.rpartition(":")
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            _abort(writer)
            return
        ways = (
            _Way(self, dialler, name, dialler, reader, there_writer),
            _Way(self, name, dialler, dialler, there_reader, writer),
        )
        connection = _Connection(ways, asyncio.gather(*(way.carry() for way in ways), return_exceptions=True))
        self._connections.add(connection)
        try:
            await connection.task
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def passable(self, link: Link, dialler: str) -> None:
        """Returns as soon as bytes may pass this way."""
        if self._holds(link, dialler):
            self.held_chunks[link] += 1
        while self._holds(link, dialler):
            await self._changed.wait()

    def _holds(self, link: Link, dialler: str) -> bool:
        spent = link in self._carried_max and self.carried_bytes[link] >= self._carried_max[link]
        return spent or link in self._cut or (link in self._mute and dialler == link[0])

    def delay_s(self, link: Link) -> float:
        return self._delay_s.get(link, 0.0)


class _Way:
    """One direction of one connection."""

    def __init__(
        self, network: Network, one: str, other: str, dialler: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._network = network
        self._link = (one, other)
        self._dialler = dialler
        self._reader = reader
        self.writer = writer
        self._chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)

    async def carry(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take())
            tasks.create_task(self._give())

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                chunk = await self._reader.read(CHUNK_BYTES)
            except OSError:
                chunk = b""  # a broken connection ends for the far end when what it sent before has arrived
            delay_s = self._network.delay_s(self._link)
            self._network.delayed_chunks[self._link] += delay_s > 0.0
            await self._chunks.put((loop.time() + delay_s, chunk))
            if not chunk:
                return

    async def _give(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await self._chunks.get()
            if (early_s := due - loop.time()) > 0.0:
                await asyncio.sleep(early_s)
            await self._network.passable(self._link, self._dialler)
            if not chunk:
                with suppress(OSError):
                    self.writer.write_eof()
                return
            self._network.carried_bytes[self._link] += len(chunk)
            self.writer.write(chunk)
            await self.writer.drain()


class _Connection:
    def __init__(self, ways: tuple[_Way, _Way], task: asyncio.Future[list[BaseException | None]]) -> None:
        self._ways = ways
        self.task = task

    def abort(self) -> None:
        for way in self._ways:
            _abort(way.writer)
        self.task.cancel()


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset, as a box in the middle does, so that the far end loses what was under way."""
    connected: socket.socket | None = writer.get_extra_info("socket")
    if connected is not None and connected.fileno() >= 0:
        with suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def dialled_by(port: int, pid_of: dict[str, int]) -> str:
    """Whose connection comes from this local port: a name of `pid_of`, or OUTSIDE."""
    inode = _inode_of(port)
    for name, pid in pid_of.items():
        with suppress(OSError):
            for each in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if os.readlink(each) == f"socket:[{inode}]":
                        return name
    return OUTSIDE


def _inode_of(port: int) -> str:
    """The inode of the socket with this local port, "0" if there is none (any more)."""
    lines = [line for table in TABLES if table.exists() for line in table.read_text().splitlines()[1:]]
    for columns in map(str.split, lines):
        if int(columns[1].rpartition(":")[2], 16) == port and columns[9] != "0":
            return columns[9]
    return "0"
