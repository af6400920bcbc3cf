"""Whole replicas in one process: the real driver, core, machine and store on an engine in memory, joined by a network in memory.

Time is the loop's (see `virtual`), so every test passes at once and always in the same order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from ravel_node.machine import envelope, kv, members
from ravel_node.machine.base import MemberRecord, Outcome, Txn
from ravel_node.machine.kv import KVMachine
from ravel_node.raft import ConfState, HardState, Index, Message, RaftEvent, ReplicaId, SafetyEvent, Snapshot, Term
from ravel_node.replica.admission import reason_of
from ravel_node.replica.errors import ReplicaError
from ravel_node.replica.events import EventLog
from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.replica import Replica
from ravel_node.replica.status import Expectation
from ravel_node.storage.base import Identity, StagedSnapshot
from ravel_node.storage.memory import MemoryEngine, open_memory_store
from ravel_node.storage.store import DiskStore, StoreOptions
from ravel_node.transport.base import Hello, MemberAddress, PeerRefusedError, ProbeAnswer, StateHashes
from ravel_node.transport.memory import Faults, MemoryNetwork

CLUSTER_ID = "c" * 32
OPTIONS = ReplicaOptions(tick_s=0.01, heartbeat_ticks=2, election_ticks=10)
STORE_OPTIONS = StoreOptions(raft_map_bytes=1 << 20, state_map_bytes=1 << 20)
ANY = Expectation()


async def until(what: str, holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until something holds; fail with its name if it does not come about."""
    try:
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"it did not come about within {within_s} s that {what}") from None


def patch(thing: Any, name: str, value: object) -> None:
    """Give one object another method or attribute."""
    setattr(thing, name, value)


def record(number: int) -> MemberRecord:
    return MemberRecord(
        replica_id=ReplicaId(number),
        server_id=f"{number:032x}",
        name=f"n{number}",
        version="0",
        format=envelope.FORMAT,
        listen=f"client-{number}",
        peer=f"peer-{number}",
        listen_bind=f"client-{number}",
        peer_bind=f"peer-{number}",
    )


class Watcher:
    """The driver's observer: keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[RaftEvent] = []

    def raft_event(self, event: RaftEvent) -> None:
        assert not isinstance(event, SafetyEvent), event
        self.events.append(event)

    def saved(self, seconds: float, saves: int, entries: int) -> None: ...

    def applied(self, seconds: float, commands: int) -> None: ...

    def committed(self, seconds: float) -> None: ...


@dataclass
class Node:
    """One server: its disk outlives its replica."""

    record: MemberRecord
    path: Path
    cluster: Cluster
    engine: MemoryEngine = field(default_factory=MemoryEngine)
    boots: int = 0
    held: Callable[[Message], bool] | None = None  # messages that do not arrive

    @property
    def id(self) -> ReplicaId:
        return self.record.replica_id

    # --- what a servicer does

    async def admit(self, hello: Hello, to: ReplicaId) -> Hello:
        try:
            await self.replica.admit_peer(hello, to)
        except ReplicaError as error:
            raise PeerRefusedError(str(error), reason_of(error)) from None
        return replace(self.replica.hello(), address="")

    def removed(self, peer: ReplicaId) -> bool:
        return self.machine.is_removed(peer)

    def member_address(self, replica_id: ReplicaId) -> MemberAddress | None:
        return self.replica.member_address(replica_id)

    def step(self, messages: Sequence[Message]) -> None:
        self.replica.step([message for message in messages if self.held is None or not self.held(message)])

    async def receive_snapshot(self, message: Message, header: bytes, size_bytes: int, sha256: bytes) -> StagedSnapshot:
        return await self.replica.receive_snapshot(message, header, size_bytes, sha256)

    def state_hashes(self) -> StateHashes:
        return self.replica.state_hashes()

    # --- life

    async def open(self) -> None:
        options = replace(self.cluster.store_options, draw_id=lambda: self.record.server_id, now_ms=lambda: 0)
        self.store: DiskStore = await open_memory_store(self.path, options, self.engine)

    async def start(self) -> None:
        self.boots += 1
        self.machine = KVMachine()
        self.watcher = Watcher()
        self.events = EventLog(f"{self.boots:016x}", asyncio.get_running_loop().time)
        network = self.cluster.network
        self.replica = Replica(
            store=self.store,
            machine=self.machine,
            transport=network.transport(self.record.peer),
            observer=self.watcher,
            events=self.events,
            options=self.cluster.options,
            rng=Random(f"{self.cluster.seed}-{self.id}-{self.boots}"),
            boot_id=f"{self.boots:016x}",
            version="0",
            peer_address=self.record.peer,
            clock=asyncio.get_running_loop().time,
        )
        self.listen()
        await self.replica.start()
        self.watch = asyncio.create_task(self.replica.wait())

    def listen(self) -> None:
        identity = self.store.identity
        answer = ProbeAnswer(identity.server_id, identity.cluster_id, identity.replica_id, "0", f"{self.boots:016x}")
        self.cluster.network.attach(self.record.peer, self, answer)

    async def crash(self) -> None:
        """The process is gone; what the engine holds stays."""
        self.cluster.network.detach(self.record.peer)
        store = self.store
        await _end(self.watch, self.replica._task, store._flusher, store._verifier, store._build)
        await self.replica._transport.close()
        store._directory.release()

    async def stop(self) -> None:
        await self.replica.stop()
        self.cluster.network.detach(self.record.peer)
        await _end(self.watch)
        await self.store.close()

    async def restart(self) -> None:
        """Come back from what was durable."""
        await self.open()
        await self.start()

    # --- use

    async def write(self, *commands: bytes, grows: bool = True) -> Sequence[Outcome]:
        return await self.replica.propose(envelope.group(commands), len(commands), grows=grows)

    async def put(self, key: bytes, value: bytes) -> int:
        (outcome,) = await self.write(envelope.put(key, value))
        return outcome.revision

    async def get(self, key: bytes, mode: ReadMode = ReadMode.LINEARIZABLE) -> bytes | None:
        await self.replica.read_barrier(mode)
        return self.peek(key)

    def peek(self, key: bytes) -> bytes | None:
        found = kv.get(self.replica.reader(), key)
        return found.value if found else None


class Cluster:
    def __init__(self, path: Path, options: ReplicaOptions, store_options: StoreOptions, seed: int) -> None:
        self.path = path
        self.options = options
        self.store_options = store_options
        self.seed = seed
        self.network = MemoryNetwork(Random(seed), asyncio.get_running_loop().call_later, Faults())
        self.nodes: list[Node] = []

    def node(self, number: int) -> Node:
        node = Node(record(number), self.path / f"n{number}", self)
        self.nodes.append(node)
        return node

    async def begin(self, voters: int) -> None:
        """A cluster that was born with so many voters."""
        everyone = [self.node(number) for number in range(1, voters + 1)]
        snapshot = Snapshot(Index(1), Term(1), ConfState(voters=tuple(node.id for node in everyone)))

        def write_state(txn: Txn) -> None:
            members.bootstrap_state(
                txn,
                cluster_name="test",
                member=everyone[0].record,
                conf_state=snapshot.conf_state,
                config_index=snapshot.index,
            )
            for node in everyone[1:]:
                members.write_member(txn, node.record)
                members.write_allocated(txn, node.record.server_id, node.id)

        for node in everyone:
            await node.open()
            identity = Identity(node.record.server_id, CLUSTER_ID, "test", node.id, node.record.name)
            await node.store.bootstrap(identity, snapshot, HardState(Term(1), ReplicaId(0), Index(1)), write_state)
        for node in everyone:
            await node.start()

    async def blank(self, number: int) -> Node:
        """A server that listens and belongs nowhere."""
        node = self.node(number)
        await node.open()
        node.listen()
        return node

    async def seat(self, node: Node, member: MemberRecord) -> None:
        """A blank server takes the seat that a leader gave it."""
        node.record = member
        await node.store.set_identity(Identity(member.server_id, CLUSTER_ID, "test", member.replica_id, member.name))
        await node.start()

    async def join(self, number: int, *, auto_promote: bool = True) -> Node:
        node = await self.blank(number)
        leader = await self.leader()
        member, _ = await leader.replica.add_member(
            replace(node.record, replica_id=ReplicaId(0), auto_promote=auto_promote), dry_run=False, expect=ANY
        )
        assert member is not None
        await self.seat(node, member)
        return node

    def leads(self, *but: Node) -> Node | None:
        leaders = [node for node in self.alive if node not in but and node.replica.is_leader and not node.watch.done()]
        return max(leaders, key=lambda node: node.replica.term, default=None)

    @property
    def alive(self) -> list[Node]:
        return [node for node in self.nodes if node.boots and self.network.server(node.record.peer) is not None]

    async def leader(self, *but: Node) -> Node:
        """Who leads, once somebody does whom a majority follows."""
        await until("there is a leader", lambda: self.leads(*but) is not None)
        found = self.leads(*but)
        assert found is not None
        await found.replica.read_barrier(ReadMode.QUORUM)
        return found

    async def followers(self) -> list[Node]:
        leader = await self.leader()
        return [node for node in self.alive if node is not leader]

    def isolate(self, node: Node) -> None:
        self.network.partition([node.record.peer], [other.record.peer for other in self.nodes if other is not node])

    async def starts_recorded(self) -> None:
        """Return once the log holds the newest start of every member, so that the leader adds nothing to it by itself."""
        leader = await self.leader()

        def recorded() -> bool:
            marks = leader.machine.marks
            ids = {*leader.replica.conf_state.voters, *leader.replica.conf_state.learners}
            return all(
                node.id in marks and marks[node.id].boot_id == node.replica.boot_id for node in self.alive if node.id in ids
            )

        await until("the starts of all members are in the log", recorded)
        await self.converged()

    async def converged(self) -> None:
        """Every replica that lives holds the same, and all of it."""
        leader = await self.leader()
        await until(
            "all have applied the same",
            lambda: all(node.replica.applied.index >= leader.replica._raw.last_index for node in self.alive),
        )
        states = [
            kv.scan(node.replica.reader(), b"", None, 10_000)
            for node in self.alive
            if node.id in leader.replica.conf_state.voters + leader.replica.conf_state.learners
        ]
        assert all(state == states[0] for state in states)

    async def end(self) -> None:
        for node in reversed(self.nodes):
            if node in self.alive:
                await node.stop()


@asynccontextmanager
async def cluster_of(
    path: Path,
    voters: int,
    *,
    options: ReplicaOptions = OPTIONS,
    store_options: StoreOptions = STORE_OPTIONS,
    seed: int = 1,
) -> AsyncIterator[Cluster]:
    cluster = Cluster(path, options, store_options, seed)
    try:
        await cluster.begin(voters)
        yield cluster
    finally:
        await cluster.end()


async def _end(*tasks: asyncio.Task[Any] | None) -> None:
    alive = [task for task in tasks if task is not None]
    for task in alive:
        task.cancel()
    await asyncio.gather(*alive, return_exceptions=True)


async def outcome_of(work: Awaitable[Any]) -> Any:
    """The answer, or the refusal."""
    try:
        return await work
    except ReplicaError as error:
        return error
