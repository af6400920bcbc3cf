"""What tests of hostile clients share: one daemon that leads a cluster of its own, its memory, and bare connections to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

from ravelctl.client import RavelClient
from tests.e2e.cluster import Cluster, Server

MIB: Final = 1 << 20
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS: Final = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def anonymous_bytes(server: Server) -> int:
    """The memory that is the daemon's own: not the pages of files that it has mapped."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no RssAnon for process {server.pid}")


class Watch:
    """Looks at a daemon while it is abused: it serves a client, and its own memory grows by no more than a bound."""

    def __init__(self, client: RavelClient, server: Server, growth_max: int) -> None:
        self.client = client
        self._server = server
        self._growth_max = growth_max
        self._before = anonymous_bytes(server)
        self._looks = 0

    async def look(self) -> None:
        self._looks += 1
        await self.client.put(b"look", b"%d" % self._looks)
        grown = anonymous_bytes(self._server) - self._before
        assert grown < self._growth_max, f"{grown / MIB:.1f} MiB more than before"


@asynccontextmanager
async def unharmed(cluster: Cluster, server: Server, growth_max: int) -> AsyncIterator[Watch]:
    """A daemon that serves a client before, during (`look`) and after, loses nothing and reports no fault of its own."""
    async with cluster.client() as client:
        await client.put(b"before", b"v")
        watch = Watch(client, server, growth_max)
        yield watch
        await watch.look()
        kept = await client.get(b"before")
        assert kept is not None
        assert kept.value == b"v"
    assert server.running
    for fault in ("internal_error", "stopped_itself", "Traceback"):
        assert fault not in server.log, server.log[-3_000:]


@contextmanager
def lone_server(folder: Path, *flags: str) -> Iterator[tuple[Cluster, Server]]:
    """A daemon that is the only voter of its cluster, for a module of tests: each of them uses a loop of its own."""
    cluster = Cluster(folder, flags)
    server = cluster.add("n1")
    try:
        server.start()
        asyncio.run(cluster.bootstrap(server))
        yield cluster, server
    finally:
        cluster.stop_all()


async def dial(address: str) -> Connection:
    host, port = address.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


@asynccontextmanager
async def connections(address: str, count: int, say: bytes = b"") -> AsyncIterator[list[Connection]]:
    """So many connections that say this and nothing more."""
    opened: list[Connection] = []
    try:
        for _ in range(count):
            opened.append(await dial(address))
            opened[-1][1].write(say)
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


async def tell_and_leave(address: str, payload: bytes) -> None:
    """Say this, hear what comes for a moment, and close."""
    reader, writer = await dial(address)
    with suppress(OSError, TimeoutError):
        writer.write(payload)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(5.0):
            while await reader.read(65_536):
                pass
    writer.close()
