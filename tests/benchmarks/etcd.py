"""Three members of etcd on loopback, to measure beside: Debian's package etcd-server, with its defaults."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.e2e.cluster import until
from tests.e2e.ports import free_ports

PUT = "/etcdserverpb.KV/Put"
GET = "/etcdserverpb.KV/Range"


def is_installed() -> bool:
    return shutil.which("etcd") is not None


@dataclass(frozen=True, slots=True)
class Etcd:
    """Running members. `commands`, `processes` and `clients` (their addresses) have the same order."""

    commands: tuple[list[str], ...]
    processes: list[asyncio.subprocess.Process]
    clients: tuple[str, ...]
    log: Path

    async def leader(self) -> int:
        """The member that leads, by its own word."""

        async def find() -> list[int] | None:
            for number, client in enumerate(self.clients):
                if self.processes[number].returncode is None and await _leads(client):
                    return [number]
            return None

        return (await until("etcd has a leader", find, 30.0))[0]

    async def start(self, number: int) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(*self.commands[number], stdout=log, stderr=log)

    async def restart(self, number: int) -> None:
        """Start a member that was killed, and wait until it answers."""
        await self.processes[number].wait()
        self.processes[number] = await self.start(number)

        async def answers() -> bool:
            return await _status(self.clients[number]) is not None

        await until("the member answers", answers, 30.0)


async def _leads(client: str) -> bool:
    answer = await _status(client)
    if answer is None:
        return False
    fields = _varints(answer)
    return bool(fields.get(4)) and fields[4] == _varints(_field(answer, 1)).get(2)


async def _status(client: str) -> bytes | None:
    """What a member says of itself; None: it does not answer."""
    async with grpc.aio.insecure_channel(client) as channel:
        status: Any = channel.unary_unary("/etcdserverpb.Maintenance/Status")
        try:
            answer: bytes = await status(b"", timeout=1)
        except grpc.aio.AioRpcError:
            return None
    return answer


@asynccontextmanager
async def running_etcd(folder: Path) -> AsyncIterator[Etcd]:
    ports = free_ports(6)
    peers = [f"http://127.0.0.1:{port}" for port in ports[:3]]
    clients = [f"127.0.0.1:{port}" for port in ports[3:]]
    initial = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    commands = []
    for number, (peer, client) in enumerate(zip(peers, clients, strict=True)):
        command = ["etcd", "--name", f"m{number}", "--data-dir", str(folder / f"m{number}"), "--initial-cluster", initial]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        commands.append([*command, "--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}"])
    etcd = Etcd(tuple(commands), [], tuple(clients), folder / "etcd.log")
    try:
        for number in range(len(peers)):
            etcd.processes.append(await etcd.start(number))
        await etcd.leader()
        yield etcd
    finally:
        for process in etcd.processes:
            if process.returncode is None:
                process.terminate()
        for process in etcd.processes:
            await process.wait()


def _items(message: bytes) -> list[tuple[int, int | bytes]]:
    """Field number and value of each varint and each length-delimited field of a protobuf message."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            found.append((tag >> 3, value))
        else:
            size, at = _varint(message, at)
            found.append((tag >> 3, message[at : at + size]))
            at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _varints(message: bytes) -> dict[int, int]:
    return {number: value for number, value in _items(message) if isinstance(value, int)}


def _field(message: bytes, wanted: int) -> bytes:
    return next((value for number, value in _items(message) if number == wanted and isinstance(value, bytes)), b"")
