"""A whole system of real daemons: an admin group, and clusters whose servers ask it where they belong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from ravelctl.client import AdminClient, ClusterClient, RavelError
from ravelpb.v1 import admin_pb2
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, until

T = TypeVar("T")


class System:
    """`admins` is the admin group, `servers` all others; which cluster one is in is the admin's affair."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.admins = Cluster(folder)
        self.servers = Cluster(folder)

    def add_admin(self, name: str) -> Server:
        server = self.admins.add(name)
        server.verb = "admin"
        return server

    async def start_admins(self, *names: str) -> None:
        """Started and made a group, as an operator does."""
        servers = [self.add_admin(name) for name in names]
        for server in servers:
            server.start()
        await self.admins.bootstrap(*servers, name="admins")

    def start(self, name: str, *flags: str) -> Server:
        """A server with `--admin`: a new one, or one that was there before."""
        server = self.servers.servers.get(name) or self.servers.add(name)
        server.start("--admin", ",".join(self.admins.endpoints), *flags)
        return server

    def client(self, **options: object) -> AdminClient:
        return AdminClient(self.admins.endpoints, **options)  # type: ignore[arg-type]

    async def directory(self) -> admin_pb2.DirectoryResponse:
        async with self.client(timeout_s=CALL_S) as admin:
            return await admin.directory()

    async def told(self, what: str, ask: Callable[[admin_pb2.DirectoryResponse], T | None], within_s: float = START_S) -> T:
        """The first true answer of `ask` to what the directory says."""

        async def look() -> T | None:
            try:
                return ask(await self.directory())
            except RavelError:
                return None

        return await until(f"the directory says that {what}", look, within_s, every_s=0.2)

    async def seated(self, cluster: str, *names: str, within_s: float = START_S) -> None:
        """Wait until the directory has exactly these servers as voters of the cluster, and nobody else in it."""

        def ask(directory: admin_pb2.DirectoryResponse) -> bool:
            numbers = {entry.number for entry in directory.clusters if entry.name == cluster}
            found = {entry.server.name: entry.seat for entry in directory.servers if entry.cluster in numbers}
            return found == dict.fromkeys(names, admin_pb2.SEAT_VOTER)

        await self.told(f"{', '.join(names)} are the voters of {cluster}", ask, within_s)

    async def members(self, server: Server) -> set[tuple[str, int]]:
        """Name and replica id of the members of this server's cluster, as it sees them."""
        async with ClusterClient([server.address], timeout_s=CALL_S) as client:
            return {(member.server.name, member.replica_id) for member in (await client.status(server.address)).members}

    async def leave(self, server: Server, *flags: str) -> tuple[int, str]:
        """`ravel_node leave` of this server's directory: its exit status, and what it said.

        It is repeated for as long as a busy machine lets too few of the others look alive.
        """
        command = [sys.executable, "-m", "ravel_node", "leave", "--data-dir", str(server.data_dir), *flags]

        async def ran() -> tuple[int, str] | None:
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=START_S, check=False, stdin=subprocess.DEVNULL
            )
            said = done.stdout + done.stderr
            return None if done.returncode and "live voters" in said else (done.returncode, said)

        return await until(f"{server.name} may leave", ran, START_S)

    def stop_all(self) -> None:
        self.servers.stop_all()
        self.admins.stop_all()


@asynccontextmanager
async def running_system(folder: Path, admins: Iterable[str] = ("a1",)) -> AsyncIterator[System]:
    """A bootstrapped admin group, stopped at the end with all that the test started, however it went."""
    system = System(folder)
    try:
        await system.start_admins(*admins)
        yield system
    finally:
        system.stop_all()
