"""One server: a disk that stays, and the processes that come and go on it, each with the real store, driver and replica."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from typing import Any, Final

from ravel_node.machine import members
from ravel_node.machine.base import MemberRecord, Txn
from ravel_node.machine.envelope import FORMAT
from ravel_node.raft import (
    ConfState,
    HardState,
    Index,
    Message,
    RaftEvent,
    ReplicaId,
    SafetyEvent,
    Snapshot,
    Term,
)
from ravel_node.replica.admission import reason_of
from ravel_node.replica.errors import RemovedError, ReplicaError, ReplicaStoppedError
from ravel_node.replica.events import EventLog
from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.replica import Replica
from ravel_node.storage.base import Identity, StoreError, StoreFailedError
from ravel_node.storage.store import DiskStore, StoreOptions, open_store
from ravel_node.transport.base import Hello, PeerRefusedError, ProbeAnswer
from tests.simulation.checkers import Checker, SimMachine
from tests.simulation.disk import Disk, SimEngine, SimEnvironment, SimTxn
from tests.simulation.network import Network, SimTransport
from tests.simulation.timeline import Clock, Process, Timeline

BIRTH: Final = Snapshot(Index(1), Term(1), ConfState(voters=(ReplicaId(1),)))
CLUSTER: Final = "c1" * 16
VERSION: Final = "0.0.0"
UNWIND_TURNS: Final = 200
"""Turns of its loop that a dead process needs at most to give up all its tasks."""


@dataclass(slots=True)
class Settings:
    """What the servers of one world share."""

    timeline: Timeline
    network: Network
    checker: Checker
    tell: Callable[[str], None]
    replica: ReplicaOptions
    store: StoreOptions
    stopped: Callable[[Server, BaseException], None]  # a process stopped itself
    crashed: Callable[[Server], None]  # a process died at a step that its disk drew


class Server:
    """What an operator would call a machine."""

    def __init__(self, number: int, disk: Disk, settings: Settings, rate: float, seed: int, election_ticks: int) -> None:
        self.name = f"s{number}"
        self.number = number
        self.address = self.name
        self.server_id = blake2b(self.name.encode(), digest_size=16).hexdigest()
        self.disk = disk
        self.settings = settings
        self.rate = rate
        self.election_ticks = election_ticks
        self.boots = 0
        self.seed = seed
        self.running: Running | None = None
        self.disk_was_bad = False  # so a process may stop itself
        self.gone = False  # taken out for good

    @property
    def record(self) -> MemberRecord:
        return MemberRecord(
            replica_id=ReplicaId(self.number),
            server_id=self.server_id,
            name=self.name,
            version=VERSION,
            format=FORMAT,
            listen=self.address,
            peer=self.address,
            listen_bind=self.address,
            peer_bind=self.address,
            auto_promote=True,
        )

    @property
    def replica(self) -> Replica | None:
        """The replica that runs here now."""
        return None if self.running is None else self.running.maybe_replica

    def boot(self) -> None:
        self.boots += 1
        self.settings.tell(f"{self.name} starts, for the {self.boots}. time")
        self.running = Running(self)
        self.running.start()

    def crash(self, why: str) -> None:
        """The process dies, and whatever it had not made durable is gone."""
        running, self.running = self.running, None
        if running is not None:
            self.settings.tell(f"{self.name} crashes {why}")
            running.die()

    def pause(self) -> None:
        if self.running is not None:
            self.settings.tell(f"{self.name} is stopped")
            self.running.process.paused = True

    def resume(self, slept_s: float = 0.0) -> None:
        """Go on. With `slept_s` the machine was asleep, so that the loop's clock did not see the time pass."""
        if self.running is not None and self.running.process.paused:
            self.settings.tell(f"{self.name} goes on")
            self.running.process.clock.offset_s -= slept_s * self.rate
            self.running.process.resume()


class Running:
    """One process on a server: the daemon without gRPC. Also the disk's `Host`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.settings = settings = server.settings
        self.dead = False
        self.rng = Random(f"{server.seed} {server.boots}")
        self.process = Process(settings.timeline, server.name, Clock(settings.timeline, server.rate, self.rng.uniform(0, 1000)))
        self._boot_offset_s = self.rng.uniform(0, 1000)
        self._booted_offset_s = self.process.clock.offset_s
        self.engine = SimEngine(server.disk, self)
        self.store: DiskStore | None = None
        self.maybe_replica: Replica | None = None
        self.machine = SimMachine(server.name, settings.checker)
        self.transport = SimTransport(settings.network, self, lambda message: settings.checker.sent(server, message))
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def replica(self) -> Replica:
        if self.maybe_replica is None:
            raise ReplicaStoppedError("no replica runs here yet")
        return self.maybe_replica

    # --- life

    def start(self) -> None:
        self.settings.timeline.add(self.process)
        self.process.loop.set_exception_handler(self._unhandled)
        self.spawn(self._main())

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.process.loop.create_task(work)
        self._tasks = [each for each in self._tasks if not each.done()]
        self._tasks.append(task)
        return task

    async def _main(self) -> None:
        try:
            options = replace(
                self.settings.store, draw_id=lambda: self.server.server_id, now_ms=lambda: 0, observe=self._store_event
            )
            self.store = await open_store(self.server.disk.path, options, self.engine)
            self.settings.network.listening[self.server.address] = self
            if not self.store.identity.blank:
                await self.begin()
        except (StoreError, OSError) as error:
            self.fatal(error)

    async def begin(self) -> None:
        """Take part: the directory has an identity."""
        assert self.store is not None
        self.maybe_replica = Replica(
            store=self.store,
            machine=self.machine,
            transport=self.transport,
            observer=_Observer(self.server),
            events=EventLog(f"{self.server.boots:016x}", self.boot_clock),
            options=replace(self.settings.replica, election_ticks=self.server.election_ticks),
            rng=self.rng,
            boot_id=self.boot_id,
            version=VERSION,
            peer_address=self.server.address,
            clock=self.boot_clock,
        )
        self.settings.checker.started(self.server)
        await self.maybe_replica.start()
        self.spawn(self._watch(self.maybe_replica))

    def boot_clock(self) -> float:
        """As the loop's clock, from another zero, and it goes on while the machine sleeps."""
        clock = self.process.clock
        slept = self._booted_offset_s - clock.offset_s
        return clock.now() + slept + self._boot_offset_s

    async def _watch(self, replica: Replica) -> None:
        try:
            await replica.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.fatal(error)

    def _store_event(self, event: str, fields: Mapping[str, object]) -> None:
        self.settings.tell(f"{self.server.name}: {event}")
        if event == "store.failed":
            self.fatal(StoreFailedError(str(fields.get("why", ""))))

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not self.dead:
            self.fatal(error)

    def fatal(self, error: BaseException) -> None:
        """The process ends itself."""

        def stop() -> None:
            if not self.dead:
                self.settings.stopped(self.server, error)

        self.settings.timeline.after(0.0, stop)

    async def stop(self) -> None:
        """The orderly end."""
        if self.maybe_replica is not None:
            await self.maybe_replica.stop()
        if self.store is not None:
            await self.store.close()

    def die(self) -> None:
        """Nothing of this process has any effect from now on; its tasks are unwound so that nothing stays behind."""
        self.dead = self.engine.dead = True
        self.settings.timeline.remove(self.process)
        if self.settings.network.listening.get(self.server.address) is self:
            del self.settings.network.listening[self.server.address]
        loop = self.process.loop
        for _ in range(UNWIND_TURNS):
            pending = [task for task in asyncio.all_tasks(loop) if not task.done()]
            if not pending:
                break
            for task in pending:
                task.cancel()
            while not loop.idle:
                loop.turn()
        if self.store is not None:
            self.store._directory.release()
        loop.close()

    # --- taking an identity

    async def bootstrap(self) -> None:
        assert self.store is not None
        first = self.server.record

        def write_state(txn: Txn) -> None:
            members.bootstrap_state(txn, cluster_name="sim", member=first, conf_state=BIRTH.conf_state, config_index=BIRTH.index)

        hard_state = HardState(BIRTH.term, ReplicaId(0), BIRTH.index)
        await self.store.bootstrap(self._identity(ReplicaId(1)), BIRTH, hard_state, write_state)
        await self.begin()

    async def take_seat(self, replica_id: ReplicaId) -> None:
        """The cluster has taken this server in."""
        assert self.store is not None
        await self.store.set_identity(self._identity(replica_id))
        await self.begin()

    def _identity(self, replica_id: ReplicaId) -> Identity:
        return Identity(self.server.server_id, CLUSTER, "sim", replica_id, self.server.name)

    # --- what comes in

    def serve(self, ask: Callable[[], Awaitable[Any]], back: Callable[[Any, BaseException | None], None]) -> None:
        """Run one call of somebody else on this process's loop."""
        if self.dead:
            return

        async def run() -> None:
            try:
                result = await ask()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self._respond(back, None, error)
            else:
                self._respond(back, result, None)

        self.spawn(run())

    def _respond(self, back: Callable[[Any, BaseException | None], None], result: Any, error: BaseException | None) -> None:
        if not self.dead:
            back(result, error)

    def take(self, hello: Hello, message: Message) -> bool:
        """Take a message of a peer that was admitted; True if the peer is to be told that it was removed."""
        try:
            self.replica.admission.check(hello, message.to)
        except RemovedError:
            return True
        except ReplicaError:
            return False
        self.replica.step([message])
        return False

    async def admit(self, hello: Hello, to: ReplicaId) -> Hello:
        """The half of a handshake at the end that is dialled. Raises PeerRefusedError."""
        try:
            await self.replica.admit_peer(hello, to)
        except ReplicaError as error:
            raise PeerRefusedError(str(error), reason_of(error)) from None
        return replace(self.replica.hello(), address="")

    async def step_later(self, message: Message) -> None:
        self.replica.step([message])

    async def probed(self) -> ProbeAnswer:
        assert self.store is not None
        identity = self.store.identity
        answer = ProbeAnswer(identity.server_id, identity.cluster_id, identity.replica_id, VERSION, self.boot_id)
        if self.maybe_replica is None:
            return answer
        hello = self.maybe_replica.hello()
        return replace(answer, boot_number=hello.boot_number, term=hello.term, last_index=hello.last_index)

    @property
    def boot_id(self) -> str:
        return f"{self.server.boots:016x}"

    # --- Host of the disk

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.process.after(delay_s, action)

    def crash(self, where: str) -> None:
        if not self.dead:
            self.server.crash(where)
            self.settings.crashed(self.server)

    def committed(self, environment: SimEnvironment, txn: SimTxn) -> None:
        self.settings.checker.committed(self.server, environment, txn)

    def tell(self, what: str) -> None:
        self.settings.tell(f"{self.server.name}: {what}")


class _Observer:
    """What the driver tells."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def raft_event(self, event: RaftEvent) -> None:
        settings = self._server.settings
        settings.tell(f"{self._server.name}: {event}")
        if isinstance(event, SafetyEvent):
            settings.checker.alarm(self._server, event)

    def saved(self, seconds: float, saves: int, entries: int) -> None: ...

    def applied(self, seconds: float, commands: int) -> None: ...

    def committed(self, seconds: float) -> None: ...
