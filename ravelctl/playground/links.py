"""What lies between the daemons of a playground, so that it can be cut: `python -m ravelctl.playground.links FOLDER`.

Replicas dial each other through here. Every daemon advertises a port of this process as its address for peers, and what arrives
there goes on to the port that it really listens on. Who dials is found out from the operating system, which knows whose socket is
at the other end; so a cut goes both ways and concerns the daemons of the playground alone. Nothing of what passes is looked at.

The process reads the playground's file again whenever it changes, and ends with the folder, or on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ravelctl.cli.errors import CommandError
from ravelctl.playground.processes import STATE_FILE, Playground, load

LOOK_EVERY_S: Final = 0.1
CHUNK_BYTES: Final = 1 << 16
_TABLES: Final = {
    "/proc/net/tcp": "0100007F",  # how each writes 127.0.0.1
    "/proc/net/tcp6": "0000000000000000FFFF00000100007F",  # gRPC dials from sockets of both kinds
}


NETLINK_WAIT_S: Final = 1.0
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NETLINK_HEADER: Final = struct.Struct("=IHHII")  # bytes, type, flags (1: a request), sequence, port
_ESTABLISHED: Final = 1  # tcp(7), the first byte of TCP_INFO
_NO_COOKIE: Final = 0xFFFFFFFF
_ALL_STATES: Final = 0xFFFFFFFF
_INODE_AT: Final = _NETLINK_HEADER.size + 4 + 48 + 16  # after the state, the socket's addresses, and four numbers


def can_tell_who_dials() -> bool:
    """Whether this system tells whose a socket is."""
    return Path("/proc/net/tcp").exists()


def dialler(port: int, at: int, pids: dict[int, str]) -> str:
    """The name of the process in `pids` whose socket is bound to `port` of 127.0.0.1 and connected to port `at` there.

    Empty: none of them. Called for every connection, so its cost decides how many daemons may dial each other again and again.
    """
    found = _inode_by_netlink(port, at)
    targets = {f"socket:[{found}]"} if found else _inodes_by_tables(port)
    return next((name for pid, name in pids.items() if targets & _sockets(pid)), "")


def _inode_by_netlink(port: int, at: int) -> int:
    """Of the socket between these ports of 127.0.0.1, by asking the kernel for it alone; 0: it says nothing (sock_diag(7))."""
    loopback = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
    wanted = struct.pack(">HH", port, at) + loopback + loopback + struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + wanted
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(NETLINK_WAIT_S)
            kernel.send(_NETLINK_HEADER.pack(_NETLINK_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, 1, 1, 0) + request)
            answer = kernel.recv(1 << 12)
        kind = _NETLINK_HEADER.unpack_from(answer)[1]
        return struct.unpack_from("=I", answer, _INODE_AT)[0] if kind == _SOCK_DIAG_BY_FAMILY else 0
    except (OSError, AttributeError, struct.error):
        return 0


def _inodes_by_tables(port: int) -> set[str]:
    """Where netlink is closed: the tables of all sockets, which may be long."""
    targets: set[str] = set()
    for table, loopback in _TABLES.items():
        with contextlib.suppress(OSError):
            lines = map(str.split, Path(table).read_text().splitlines()[1:])
            # A socket that was closed and waits for the other end has no inode: 0.
            targets |= {f"socket:[{parts[9]}]" for parts in lines if parts[1] == f"{loopback}:{port:04X}" and parts[9] != "0"}
    return targets


def has_hung_up(writer: asyncio.StreamWriter) -> bool:
    """Whether who dialled has closed the connection since. A daemon gives an attempt up after a second."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    information = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return bool(information[0] != _ESTABLISHED)


def _sockets(pid: int) -> set[str]:
    found: set[str] = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry.path))
    except OSError:
        return set()  # it has ended
    return found


@dataclass(eq=False, slots=True)
class Link:
    """One connection that passes through."""

    source: str  # who dialled; empty: no daemon of the playground
    target: str
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Links:
    def __init__(self, folder: Path, ground: Playground) -> None:
        self._folder = folder
        self._ground = ground
        self._open: set[Link] = set()
        self._servers: dict[str, asyncio.Server] = {}  # by the name of the daemon that is behind it

    async def run(self, stopped: asyncio.Event) -> None:
        """Until told to stop, or the playground is gone."""
        seen = self._stamp()
        await self._open_ports()
        while not stopped.is_set() and seen:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), LOOK_EVERY_S)
            if (now := self._stamp()) != seen:
                seen = now
                self._look_again()
                with contextlib.suppress(OSError):  # the links that there are go on
                    await self._open_ports()
        for server in self._servers.values():
            server.close()
        for link in self._open:
            link.cut()

    async def _open_ports(self) -> None:
        """A port for each daemon that has none yet."""
        for replica in self._ground.replicas:
            if replica.name in self._servers or not replica.link:
                continue
            host, _, port = replica.link.rpartition(":")
            name = replica.name

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
                await self._pass_on(name, reader, writer)

            self._servers[name] = await asyncio.start_server(accept, host, int(port))

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = (self._folder / STATE_FILE).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def _look_again(self) -> None:
        with contextlib.suppress(CommandError):
            self._ground = load(self._folder) or self._ground
        for link in self._open:
            if self._ground.apart(link.source, link.target):
                link.cut()

    async def _pass_on(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if has_hung_up(writer):
            # A process that was held up for long has many of these. To look for their diallers, who have dialled again
            # meanwhile, would take longer than it takes them to give up once more.
            writer.transport.abort()
            return
        fellows = self._ground.of(self._ground.find(target).cluster)  # nobody else dials its port for peers
        pids = {replica.process.pid: replica.name for replica in fellows if replica.process}
        port, at = (writer.get_extra_info(name)[1] for name in ("peername", "sockname"))
        link = Link(dialler(port, at, pids), target, [writer])
        self._open.add(link)
        try:
            if self._ground.apart(link.source, target):
                return
            host, _, port = self._ground.find(target).peer_listen.rpartition(":")
            there, back = await asyncio.open_connection(host, int(port))
            link.writers.append(back)
            if self._ground.apart(link.source, target):  # it may have been cut meanwhile
                return
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, back))
                group.create_task(_copy(there, writer))
        except* OSError:
            pass  # one end has gone, so the other goes too
        finally:
            link.cut()
            self._open.discard(link)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK_BYTES):
        target.write(data)
        await target.drain()
    target.write_eof()


async def _serve(folder: Path) -> int:
    ground = load(folder)
    if ground is None:
        return 1
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await Links(folder, ground).run(stopped)
    return 0


def main(arguments: Sequence[str]) -> int:
    return asyncio.run(_serve(Path(arguments[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
