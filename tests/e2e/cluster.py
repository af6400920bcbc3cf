"""Real daemons on loopback, as the end-to-end tests and the demo use them: started, killed, paused and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

from ravelctl.client import ClusterClient, RavelClient, RavelError
from ravelpb.v1 import cluster_pb2
from tests.e2e.ports import free_ports

T = TypeVar("T")

START_S: Final = 120.0
"""How long a daemon may take until it answers, ends, or has come to where a test wants it, on a machine that is busy with other
things. Who waits this long waits in vain: what is waited for is a matter of seconds."""

CALL_S: Final = 60.0
"""How long a call may take that nothing hinders but the machine."""

STEADY: Final = ("--election-ticks", "200")
"""Flags of daemons for tests in which leadership must stay where it is: a busy machine lets a replica wait for longer than the
usual election timeout. This one is 10 s."""

LOOK_S: Final = 5.0
"""How long to wait for a daemon that may be stopped or cut off, before others are asked again."""


class Server:
    """One daemon process with its data directory and addresses, which outlive the process."""

    def __init__(self, folder: Path, name: str, flags: Iterable[str] = ()) -> None:
        self.name = name
        self.data_dir = folder / name
        self.log_path = folder / f"{name}.log"
        client_port, peer_port = free_ports(2)
        self.address = f"127.0.0.1:{client_port}"
        self.peer_address = f"127.0.0.1:{peer_port}"
        self.advertised = self.address  # what clients are told to dial
        self.flags = list(flags)
        self.program = ["-m", "ravel_node"]  # what Python runs
        self.verb = "start"
        self.environment: dict[str, str] = {}  # what its process gets besides this one's
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        command = [sys.executable, *self.program, self.verb, "--data-dir", str(self.data_dir), "--name", self.name]
        command += ["--listen", self.address, "--peer-listen", self.peer_address, *self.flags, *more]
        with self.log_path.open("ab") as log:
            environment = {**os.environ, **self.environment}
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def terminate(self, within_s: float = START_S) -> int:
        """SIGTERM; returns the exit status."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(within_s)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def wait(self, within_s: float = START_S) -> int:
        if self.process is None:
            return 0
        return self.process.wait(within_s)

    def until_started(self) -> None:
        """Wait until it says so in its log, in which nothing may stand of an earlier start."""
        deadline = time.monotonic() + START_S
        while "daemon.started" not in self.log:
            assert self.running, self.log
            assert time.monotonic() < deadline, f"{self.name} does not start: {self.log}"
            time.sleep(0.02)

    def wipe(self) -> None:
        shutil.rmtree(self.data_dir)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class Cluster:
    """Servers by name, and what tests ask of them."""

    def __init__(self, folder: Path, flags: Iterable[str] = ()) -> None:
        self.folder = folder
        self.flags = list(flags)
        self.servers: dict[str, Server] = {}

    def add(self, name: str, flags: Iterable[str] = ()) -> Server:
        server = self.servers[name] = Server(self.folder, name, [*self.flags, *flags])
        return server

    @property
    def endpoints(self) -> list[str]:
        return [server.address for server in self.servers.values()]

    def client(self, **options: object) -> RavelClient:
        return RavelClient(self.endpoints, **{"timeout_s": CALL_S, **options})  # type: ignore[arg-type]

    async def status(self, server: Server, timeout_s: float = CALL_S) -> cluster_pb2.StatusResponse:
        async with ClusterClient([server.address], timeout_s=timeout_s) as client:
            return await client.status(server.address)

    async def answering(self, server: Server) -> cluster_pb2.StatusResponse:
        """Its status, once it answers at all."""

        async def ask() -> cluster_pb2.StatusResponse | None:
            if not server.running:
                raise AssertionError(f"{server.name} ended: {server.log[-2000:]}")
            try:
                return await self.status(server, LOOK_S)
            except RavelError:
                return None

        return await until(f"{server.name} answers", ask, START_S)

    async def bootstrap(self, first: Server, *others: Server, name: str = "test") -> None:
        """As `ravelctl bootstrap` does: one voter, then learners, then one joint change."""
        for server in (first, *others):
            await self.answering(server)
        async with ClusterClient([first.address], timeout_s=CALL_S) as client:
            await client.bootstrap(first.address, uuid4().hex, name)
            for other in others:
                await client.join(other.address, [first.address], promote=False)
            if others:
                await self.promoted(*others)

    async def promoted(self, *learners: Server) -> None:
        """Promote them in one change once they have caught up."""
        ids = [(await self.status(learner)).header.replica_id for learner in learners]

        async def promote() -> bool:
            try:
                async with ClusterClient(self.endpoints, timeout_s=CALL_S) as client:
                    await client.promote(ids)
            except RavelError:
                return False
            return True

        await until("learners are promoted", promote, START_S)

    async def leader(self, within_s: float = START_S) -> Server:
        """The server that leads in the highest term, once a majority of those that run agree."""

        async def find() -> Server | None:
            running = [server for server in self.servers.values() if server.running]
            answers = await asyncio.gather(*(self.status(server, LOOK_S) for server in running), return_exceptions=True)
            statuses = {s.name: a for s, a in zip(running, answers, strict=True) if isinstance(a, cluster_pb2.StatusResponse)}
            leaders = [(a.header.term, name) for name, a in statuses.items() if a.role == cluster_pb2.LEADER]
            if not leaders:
                return None
            term, name = max(leaders)
            agree = sum(a.leader_id == statuses[name].header.replica_id and a.header.term == term for a in statuses.values())
            return self.servers[name] if 2 * agree > len(statuses) else None

        return await until("there is a leader", find, within_s)

    async def followers(self) -> list[Server]:
        leader = await self.leader()
        return [server for server in self.servers.values() if server is not leader and server.running]

    async def voters(self) -> set[str]:
        leader = await self.leader()
        status = await self.status(leader)
        return {member.server.name for member in status.members if member.role == cluster_pb2.VOTER}

    async def caught_up(self, server: Server, within_s: float = START_S) -> None:
        """Wait until it has applied everything that the leader has committed by now."""
        target = (await self.status(await self.leader())).commit_index

        async def reached() -> bool:
            try:
                return (await self.status(server)).applied_index >= target
            except RavelError:
                return False

        await until(f"{server.name} has applied {target}", reached, within_s)

    async def settled(self, within_s: float = START_S) -> None:
        """Wait until all have applied the whole log of one leader: nothing of what was asked for is still under way."""

        async def same() -> bool:
            for server in self.servers.values():
                assert server.running, f"{server.name} ended: {server.log[-2000:]}"
            answers = await asyncio.gather(*(self.status(server, LOOK_S) for server in self.servers.values()))
            applied = {(answer.applied_index, answer.last_index, answer.header.term) for answer in answers}
            led = any(answer.role == cluster_pb2.LEADER for answer in answers)
            return led and len(applied) == 1 and all(at == last for at, last, _ in applied)

        await until("all replicas have applied the same log", same, within_s, every_s=0.1)

    async def unheard(self, count: int = 1, within_s: float = START_S) -> None:
        """Wait until the leader has not heard so many other members for longer than an election timeout."""

        async def silent() -> bool:
            status = await self.status(await self.leader())
            return sum(p.contact_age_ms > status.election_timeout_ms or not p.contacted for p in status.progress) >= count

        await until(f"the leader does not hear {count} members", silent, within_s)

    def stop_all(self) -> None:
        for server in self.servers.values():
            if server.running:
                os.kill(server.pid, signal.SIGCONT)
                os.kill(server.pid, signal.SIGTERM)
        for server in self.servers.values():
            try:
                server.wait(10.0)
            except subprocess.TimeoutExpired:
                server.kill()


@asynccontextmanager
async def running_cluster(
    folder: Path, names: Iterable[str] = ("n1", "n2", "n3"), flags: Iterable[str] = ()
) -> AsyncIterator[Cluster]:
    """A bootstrapped cluster of real daemons, stopped at the end however the test went."""
    cluster = Cluster(folder, flags)
    try:
        servers = [cluster.add(name) for name in names]
        for server in servers:
            server.start()
        await cluster.bootstrap(*servers)
        yield cluster
    finally:
        cluster.stop_all()


async def until(what: str, ask: Callable[[], Awaitable[T | None]], within_s: float, every_s: float = 0.05) -> T:
    """The first true answer of `ask`. Fails, saying what was waited for, when the time is up.

    A call that fails is no answer: whoever is asked may be busy, or on its way to another leader.
    """
    deadline = time.monotonic() + within_s
    while True:
        failed: RavelError | None = None
        try:
            if answer := await ask():
                return answer
        except RavelError as error:
            failed = error
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s} s in vain until {what}" + (f": {failed}" if failed else "")) from failed
        await asyncio.sleep(every_s)
