"""A whole cluster, its clients and its misfortunes, from one seed.

A run has three acts. A cluster is founded and others join, on a good day. Then, for some time, whatever the seed has drawn goes
wrong while clients work. At last everything is healed: a leader must be there within a bounded time, take writes, and all
replicas must come to the same state; what the clients were told must be linearizable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from ravel_node.machine.members import all_replicas
from ravel_node.raft import ConfState, ReplicaId
from ravel_node.replica.errors import (
    MembershipError,
    NotLeaderError,
    OutdatedDirectoryError,
    RemovedError,
    ReplicaError,
    ReplicaStoppedError,
)
from ravel_node.replica.status import Expectation
from ravel_node.storage.base import DamagedError, StoreError
from ravelctl.linearizability.checker import check
from ravelctl.linearizability.history import Kind, Outcome
from tests.simulation.checkers import Checker, ViolationError
from tests.simulation.clients import PATIENCE_S, Client, Habits
from tests.simulation.disk import Disk, DiskFaults, files_in_memory
from tests.simulation.faults import Nemesis
from tests.simulation.network import Network
from tests.simulation.profile import Profile
from tests.simulation.server import Running, Server, Settings
from tests.simulation.timeline import Clock, Process, Timeline
from tests.simulation.trace import Trace

T = TypeVar("T")

FOUNDING_S: Final = 60.0
"""World time within which a cluster must be whole on a good day."""

SERVERS_MAX: Final = 7
"""Servers of one run, those included that were taken out."""

RECOVERY_TIMEOUTS: Final = 40
"""Election timeouts, by the slowest clock, within which a healed cluster must have a leader, take a write and be of one state."""


class SimulationError(AssertionError):
    """A run that failed: what is wrong, the seed, and the last steps in words."""

    def __init__(self, seed: int, profile: Profile, trace: Trace, why: BaseException) -> None:
        self.seed = seed
        self.why = why
        lines = "\n".join(trace.lines())
        super().__init__(
            f"{type(why).__name__}: {why}\n\nthe last of {trace.steps} steps (world time in seconds):\n{lines}\n\n"
            f"drawn: {profile}\nseed {seed}: `make sim SEEDS=1 FIRST={seed}` repeats it"
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What a run that held was like. Two runs of one seed have the same."""

    seed: int
    digest: str
    steps: int
    world_s: float
    operations: int
    unknown: int
    crashes: int
    elections: int
    entries: int


class World:
    """Everything of one run."""

    def __init__(self, seed: int, path: Path) -> None:
        self.seed = seed
        self.rng = Random(f"world {seed}")
        self.profile = Profile.draw(Random(f"profile {seed}"))
        self.trace = Trace()
        self.timeline = Timeline(Random(f"timeline {seed}"))
        self.network = Network(self.timeline, Random(f"network {seed}"), self.tell)
        self.checker = Checker(self.profile.leases)
        self.healed = False
        self._changing = False
        self.crashes = 0
        self._path = path
        self._settings = Settings(
            timeline=self.timeline,
            network=self.network,
            checker=self.checker,
            tell=self.tell,
            replica=self.profile.replica,
            store=self.profile.store,
            stopped=self._stopped,
            crashed=self.crashed,
        )
        self.servers: list[Server] = []
        self.restored: set[Server] = set()  # whose disk was replaced by a backup, or is about to be
        self._by_name: dict[str, Server] = {}
        for _ in range(self.profile.servers):
            self.add_server()
        self.process = Process(self.timeline, "clients", Clock(self.timeline))
        self.process.loop.set_exception_handler(self._unhandled)
        self.timeline.add(self.process)
        profile = self.profile
        habits = [profile.writing] * profile.writers + [profile.reading] * profile.readers
        self.clients = [self._client(number, each) for number, each in enumerate(habits, 1)]
        self._failure: BaseException | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    def tell(self, what: str) -> None:
        self.trace.add(self.timeline.now, what)

    def addresses(self) -> list[str]:
        return [server.address for server in self.servers]

    def _client(self, number: int, habits: Habits) -> Client:
        rng = Random(f"client {number} {self.seed}")
        return Client(number, self.process, self.network, self.checker, self.addresses, habits, rng)

    def add_server(self) -> Server:
        number = len(self._by_name) + 1
        path = self._path / f"s{number}"
        slow, fast = self.profile.rates
        rate = self.rng.choice((slow, fast, self.rng.uniform(slow, fast)))
        if self.profile.apart:
            rate = slow if number == 1 else fast
        timings = self.profile.timings
        disk = Disk(path, Random(f"disk {number} {self.seed}"))
        server = Server(number, disk, self._settings, rate, self.seed, timings[(number - 1) % len(timings)])
        self.servers.append(server)
        self._by_name[server.name] = server
        return server

    # --- running

    def run(self) -> Result:
        """Raises SimulationError."""
        try:
            with files_in_memory():
                try:
                    self._found()
                    self._suffer()
                    self._recover()
                finally:
                    self._close()
        except Exception as error:
            raise SimulationError(self.seed, self.profile, self.trace, self.checker.violation or error) from error
        return self._judge()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.process.loop.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failure = self._failure or context.get("exception") or RuntimeError(str(context.get("message")))

    def step(self) -> None:
        process = self.timeline.step()
        if process is not None and (server := self._by_name.get(process.name)) is not None:
            self.checker.observe(server)
        if self.checker.violation is not None:
            raise self.checker.violation
        if self._failure is not None:
            raise self._failure

    def until(self, holds: Callable[[], bool], within_s: float, what: str) -> None:
        """Go on until something is so. Raises ViolationError if it does not come to be in time."""
        deadline = self.timeline.now + within_s
        while not holds():
            if self.timeline.now > deadline:
                raise ViolationError(f"G9: after {within_s:g} s of world time still not: {what}")
            self.step()

    def finish(self, work: Coroutine[Any, Any, Any], within_s: float, what: str) -> Any:
        """Run one piece of work of the world itself to its end."""
        task = self.spawn(work)
        self.until(task.done, within_s, what)
        return task.result()

    def _stopped(self, server: Server, error: BaseException) -> None:
        """A process ended itself. It may, if its disk failed."""
        self.tell(f"{server.name} stops itself: {error}")
        disk_failed = isinstance(error, StoreError | OSError) and not isinstance(error, DamagedError)
        if not (disk_failed and server.disk_was_bad):
            self._failure = self._failure or error
            return
        server.crash("after it has stopped itself")
        self.crashed(server)

    def crashed(self, server: Server) -> None:
        """A process is gone: another one starts after a while."""
        self.crashes += 1

        def again() -> None:
            if server.running is None and not server.gone:
                server.boot()

        if not self.healed:
            self.timeline.after(self.rng.uniform(0.0, self.profile.down_max_s), again)
        else:
            self.timeline.after(0.0, again)

    # --- the three acts

    def _found(self) -> None:
        first, *others = self.servers
        for server in self.servers:
            server.boot()
        self.finish(self._bootstrap(first), FOUNDING_S, "a cluster of one server")
        for server in others:
            self.finish(self.join(server), FOUNDING_S, f"{server.name} has joined")
        self.until(self._all_vote, FOUNDING_S, "every server is a voter, and knows it")

    def members(self) -> list[Server]:
        """The servers in the newest configuration that any running replica knows."""
        newest, known = -1, ConfState()
        for server in self.servers:
            replica = server.replica
            if replica is not None and replica.machine.config_index > newest:
                newest, known = replica.machine.config_index, replica.conf_state
        servers = self.checker.servers
        return [servers[replica_id] for replica_id in sorted(all_replicas(known)) if replica_id in servers]

    def _all_vote(self) -> bool:
        replicas = [server.replica for server in self.servers]
        return all(replica is not None and len(replica.conf_state.voters) == len(self.servers) for replica in replicas)

    def _suffer(self) -> None:
        self.tell("founded; from now on things go wrong")
        for client in self.clients:
            self.spawn(client.run())
        nemesis = self.spawn(Nemesis(self, Random(f"nemesis {self.seed}")).run())
        end = self.timeline.now + self.profile.suffering_s
        self.until(lambda: self.timeline.now >= end, 2 * self.profile.suffering_s, "time passes")
        nemesis.cancel()

    def _recover(self) -> None:
        self.tell("everything is healed")
        self.healed = True
        self.network.heal()
        for server in self.servers:
            server.disk.faults = DiskFaults()
            server.resume()
            if server.running is None:
                server.boot()
        bound = RECOVERY_TIMEOUTS * self.profile.election_timeout_s
        self.finish(self._probe(), bound, "a healed cluster takes a write")
        for client in self.clients:
            client.stopping = True
        self.until(self._all_idle, PATIENCE_S + bound, "every client has its answer")
        self.until(self._all_equal, bound, "all replicas have come to the same state")
        self.finish(self._no_hash_differs(), bound, "the alarms of all are looked at")

    async def _probe(self) -> None:
        """A write and a read of one more client, until they are answered."""
        client = self._client(0, self.profile.writing)
        self.clients.append(client)
        while (await client.write(Kind.PUT, self.profile.writing.keys[0], b"probe")).outcome is not Outcome.DONE:
            pass
        while await client.get(self.profile.writing.keys[0]) is None:
            pass

    def _all_idle(self) -> bool:
        return all(task.done() for task in self._tasks)

    async def _no_hash_differs(self) -> None:
        """The replicas compare hashes of their states all the time, as daemons do every hour: no leader found a difference."""
        for server in self.members():
            if server.replica is not None:
                for alarm in server.replica.status().alarms:
                    if alarm.code == "RV602":
                        raise ViolationError(f"G5: {alarm.message}")

    def _all_equal(self) -> bool:
        """Every member of the configuration has applied everything that any of them has in its log."""
        reached: set[tuple[int, int, int]] = set()
        for server in self.members():
            replica = server.replica
            if replica is None:
                return False
            reached.add((replica._raw.last_index, replica._raw.commit, replica.applied.index))
        return len(reached) == 1 and len(set(reached.pop())) == 1

    def _close(self) -> None:
        for server in self.servers:
            if server.running is not None:
                server.running.die()
                server.running = None
        for task in self._tasks:
            task.cancel()
        while not self.process.loop.idle:
            self.process.loop.turn()
        self.process.loop.close()

    def _judge(self) -> Result:
        operations = [operation for client in self.clients for operation in client.history]
        report = check(operations, only_writers=True)
        if report.violations:
            raise SimulationError(self.seed, self.profile, self.trace, ViolationError(str(report)))
        return Result(
            seed=self.seed,
            digest=self.trace.digest,
            steps=self.trace.steps,
            world_s=self.timeline.now,
            operations=report.done,
            unknown=report.unknown,
            crashes=self.crashes,
            elections=self.checker.elections,
            entries=max(self.checker.applies, default=0),
        )

    # --- what operators do

    async def ask(self, server: Server, what: str, ask: Callable[[Running], Awaitable[T]]) -> T:
        """Have something done at a server. Raises what that raises, or ConnectionError."""
        return await self.network.call(self.process, "operator", server.address, what, ask)

    async def at_leader(self, what: str, ask: Callable[[Running], Awaitable[T]]) -> T:
        """Have something done at whoever leads. Raises MembershipError and OutcomeUnknownError."""
        names = self.addresses()
        while True:
            for name in names:
                try:
                    return await self.ask(self._by_name[name], what, ask)
                except (NotLeaderError, ReplicaStoppedError, RemovedError, OutdatedDirectoryError, ConnectionError):
                    await asyncio.sleep(0.05)

    async def _bootstrap(self, server: Server) -> None:
        while server.address not in self.network.listening:
            await asyncio.sleep(0.01)
        await self.ask(server, "bootstrap", lambda running: running.bootstrap())

    async def join(self, server: Server) -> None:
        """Take a server in; asked again, the cluster gives the same answer."""
        while True:
            try:
                record, _ = await self.at_leader(
                    f"add {server.name}",
                    lambda running: running.replica.add_member(server.record, dry_run=False, expect=Expectation()),
                )
                if record is not None:
                    await self._seat(server, record.replica_id)
                    return
            except (MembershipError, ReplicaError, StoreError, ConnectionError) as error:
                self.tell(f"{server.name} has not joined: {error}")
            await asyncio.sleep(0.2)

    async def _seat(self, server: Server, replica_id: ReplicaId) -> None:
        await self.ask(server, "take a seat", lambda running: running.take_seat(replica_id))

    async def transfer(self, target: Server) -> None:
        replica = target.replica
        if replica is None:
            return
        try:
            await self.at_leader(
                f"transfer to {target.name}",
                lambda running: running.replica.transfer_leader(replica.id, dry_run=False, expect=Expectation()),
            )
        except (ReplicaError, ConnectionError) as error:
            self.tell(f"no transfer to {target.name}: {error}")

    async def change_membership(self, rng: Random) -> None:
        """Take one more server in, or a member out; one change at a time."""
        if self._changing:
            return
        self._changing = True
        try:
            members = self.members()
            if len(self.servers) < SERVERS_MAX and (len(members) < 3 or rng.random() < 0.5):
                server = self.add_server()
                server.boot()
                await self.join(server)
            elif len(members) > 2:
                await self.remove(rng.choice(members))
        finally:
            self._changing = False

    def replace_restored(self, server: Server) -> None:
        """What an operator does once an alarm names a server whose directory was restored: a new replica takes its place."""
        self.spawn(self._replace_restored(server))

    async def _replace_restored(self, server: Server) -> None:
        await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        while server in self.members():
            await self.remove(server)
            await asyncio.sleep(0.2)
        if len(self.servers) < SERVERS_MAX:
            other = self.add_server()
            other.boot()
            await self.join(other)

    async def remove(self, server: Server) -> None:
        replica = server.replica
        if replica is None:
            return
        self.tell(f"{server.name} is to be removed")
        try:
            await self.at_leader(
                f"remove {server.name}",
                lambda running: running.replica.remove([replica.id], dry_run=False, expect=Expectation()),
            )
        except (ReplicaError, ConnectionError) as error:
            self.tell(f"{server.name} was not removed: {error}")
