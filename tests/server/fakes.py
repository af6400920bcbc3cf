"""A host, a replica and a store that do as the test says, around a real machine; and channels to real servers of theirs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from ravel_node.admin.directory import DirectoryMachine
from ravel_node.machine import envelope
from ravel_node.machine.base import MemberRecord, Outcome, Rules
from ravel_node.machine.kv import KVMachine
from ravel_node.machine.members import bootstrap_state
from ravel_node.machine.settings import ClusterSetting
from ravel_node.raft.types import ConfState, Entry, EntryId, Index, Message, ReplicaId, Role, Snapshot, Term
from ravel_node.replica.compaction import Compaction
from ravel_node.replica.errors import BlankError, MoveRefusedError
from ravel_node.replica.events import EventLog
from ravel_node.replica.histogram import LatencySummary
from ravel_node.replica.integrity import Comparison
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.status import Alarm, Counters, Expectation, Member, MemberRole, PeerView, ReplicaStatus, Standing, Verdict
from ravel_node.replica.trail import Lag
from ravel_node.replica.verdict import Plan
from ravel_node.server.app import RpcServer, ServerOptions, build_client_server, build_peer_server
from ravel_node.server.binding import Service
from ravel_node.server.host import Host, Joined
from ravel_node.server.limits import Limits
from ravel_node.storage.base import (
    CheckStep,
    DatabaseStats,
    EnvironmentStats,
    Identity,
    LogPage,
    LogRecord,
    SnapshotFile,
    SnapshotHeader,
    SnapshotRefusedError,
)
from ravel_node.transport.base import HashAt, Hello, MemberAddress, StateHashes
from ravelpb.alarms import Severity
from tests.machine.memory_txn import MemoryState

CLUSTER = "c" * 32


def server_id(number: int) -> str:
    return f"{number:032x}"


def record(number: int, name: str = "") -> MemberRecord:
    return MemberRecord(
        replica_id=ReplicaId(number),
        server_id=server_id(number),
        name=name or f"n{number}",
        version="0.1.0",
        format=envelope.FORMAT,
        listen=f"127.0.0.1:{7000 + number}",
        peer=f"127.0.0.1:{8000 + number}",
        listen_bind=f"0.0.0.0:{7000 + number}",
        peer_bind=f"0.0.0.0:{8000 + number}",
    )


STANDING = Standing(voters=(ReplicaId(1), ReplicaId(2)), learners=(ReplicaId(3),), quorum=2, live=2, caught_up=2, tolerates=0)
VERDICT = Verdict(
    STANDING, replace(STANDING, tolerates=-1), Expectation(7, 5), "it would lose quorum", "bring one back", ("beware",)
)


ACK = LatencySummary(6, 700, 800, 900)


class FakeStaged:
    """A staged snapshot in memory; `store` remembers it across transfers as a disk would."""

    def __init__(self, store: FakeStore, header: bytes, size_bytes: int, sha256: bytes, result: Snapshot) -> None:
        self._store = store
        self._size_bytes = size_bytes
        self._sha256 = sha256
        self._result = result
        self.finish_delay_s = 0.0
        self._data = store.staged_data.setdefault(sha256, bytearray())

    @property
    def received(self) -> int:
        return len(self._data)

    async def write(self, offset: int, data: bytes) -> None:
        if self._store.write_failures:
            raise self._store.write_failures.pop()
        if offset != len(self._data) or offset + len(data) > self._size_bytes:
            raise SnapshotRefusedError(f"offset {offset} where {len(self._data)} bytes are held")
        await asyncio.sleep(self._store.write_delay_s)
        self._data += data

    async def finish(self) -> Snapshot:
        await asyncio.sleep(self.finish_delay_s)
        if hashlib.sha256(self._data).digest() != self._sha256:
            await self.discard()
            raise SnapshotRefusedError("the file's sha256 is not what its header says")
        return self._result

    async def discard(self) -> None:
        self._store.staged_data.pop(self._sha256, None)


class FakeStore:
    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.first = 1
        self.files: list[SnapshotFile] = []
        self.staged_data: dict[bytes, bytearray] = {}
        self.write_failures: list[Exception] = []
        self.write_delay_s = 0.0
        self.unflushed_bytes = 77
        self.unflushed_segments = 2
        self.applied = EntryId(Term(3), Index(9))
        self.damaged_at = 0
        self.damaged = "a check sum does not fit"
        self.steps: list[CheckStep] = []
        self.log_used_bytes = 4096
        self.builds = 0
        self.built: SnapshotFile | Exception | None = None

    def first_index(self) -> Index:
        return Index(self.first)

    def last_index(self) -> Index:
        return Index(self.first + len(self.log) - 1)

    def entries(self, first: Index, end: Index, bytes_max: int) -> Sequence[Entry]:
        found: list[Entry] = []
        size = 0
        for entry in self.log[first - self.first : end - self.first]:
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    async def log_page(self, first: Index, end: Index) -> LogPage:
        found = [record for record in self.records() if first <= record.index < end][:512]
        following = Index(found[-1].index + 1) if found else end
        return LogPage(found, following, self.first_index(), self.last_index())

    def records(self) -> list[LogRecord]:
        return [
            LogRecord(entry.index, None, self.damaged) if entry.index == self.damaged_at else LogRecord(entry.index, entry, "")
            for entry in self.log
        ]

    async def checking(self, rules: Rules | None = None) -> AsyncGenerator[CheckStep, None]:
        for step in self.steps:
            yield step

    def snapshots(self) -> Sequence[SnapshotFile]:
        return self.files

    async def build_snapshot(self) -> SnapshotFile:
        self.builds += 1
        if isinstance(self.built, Exception):
            raise self.built
        assert self.built is not None
        return self.built

    def stats(self) -> Sequence[EnvironmentStats]:
        return [EnvironmentStats("raft", 1 << 20, 4096, 8192, 2, (DatabaseStats("log", 5, 1),))]


@dataclass
class Proposal:
    group: bytes
    count: int
    grows: bool


class FakeReplica:
    """Applies what is proposed to a real machine, unless the test says otherwise."""

    def __init__(self, machine: KVMachine, state: MemoryState, store: FakeStore) -> None:
        self.machine = machine
        self.state = state
        self.store = store
        self.term = Term(3)
        self.vitals = SimpleNamespace(reads=0)
        self.applied = EntryId(Term(3), Index(9))
        self.leader_id = ReplicaId(1)
        self.proposals: list[Proposal] = []
        self.verified: list[int] = []  # slots whose index was verified, in order
        self.damaged_slots: set[int] = set()
        self.slots_at_once = 64
        self.failures: list[Exception | None] = []  # for the next proposals, in order; None: do it
        self.gate: asyncio.Event | None = None  # proposals wait for it
        self.quota_full = False
        self.free = True
        self.free_modes: set[ReadMode] = set()  # though `free` is not set
        self.cold = False
        self.paged_in: list[bytes] = []
        self.paged_in_ranges: list[tuple[bytes, bytes | None, int]] = []
        self.barriers: list[ReadMode] = []
        self.barrier_gate: asyncio.Event | None = None  # who needs a barrier waits for it
        self.barrier_failure: Exception | None = None
        self.stepped: list[Message] = []
        self.peer_failure: Exception | None = None
        self.admit_failure: Exception | None = None
        self.hellos: list[tuple[str, int, int, str]] = []
        self.changes: list[tuple[Any, ...]] = []
        self.change_failure: Exception | None = None
        self.ready = True
        self.staged: list[FakeStaged] = []
        self.finish_delay_s = 0.0
        self.staged_result: Snapshot | None = None
        self.hashes: tuple[HashAt, ...] = ()
        self.comparison = Comparison(EntryId(Term(3), Index(9)), ())

    async def compact(self, keep: int, *, dry_run: bool = False) -> Compaction:
        self.changes.append(("compact", keep))
        if self.change_failure is not None:
            raise self.change_failure
        if not dry_run:
            self.store.first, self.store.log_used_bytes = 8, 1024
        return Compaction(Index(8), "replica 2 still needs it")

    async def propose(self, group: bytes, count: int, *, grows: bool) -> Sequence[Outcome]:
        self.proposals.append(Proposal(group, count, grows))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        if self.gate is not None:
            await self.gate.wait()
        if grows and self.quota_full:
            from ravel_node.replica.errors import QuotaExceededError

            raise QuotaExceededError("the store is full")
        self.applied = EntryId(self.term, Index(self.applied.index + 1))
        outcomes = self.machine.apply(self.applied, envelope.payload([group]), self.state)
        assert len(outcomes) == count
        return outcomes

    async def page_in(self, keys: Sequence[bytes]) -> None:
        self.paged_in += keys

    async def page_in_range(self, start: bytes, end: bytes | None, keys_max: int, bytes_max: int) -> None:
        self.paged_in_ranges.append((start, end, keys_max))

    def barrier_free(self, mode: ReadMode) -> bool:
        return self.free or mode in self.free_modes

    async def read_barrier(self, mode: ReadMode) -> None:
        self.barriers.append(mode)
        await asyncio.sleep(0)
        if self.barrier_gate is not None:
            await self.barrier_gate.wait()
        if self.barrier_failure is not None:
            raise self.barrier_failure

    def reader(self) -> MemoryState:
        return self.state

    async def flush(self) -> None:
        pass

    async def count_keys(self, slots: Sequence[int]) -> int:
        return sum(len(list(self.state.slot_keys(slot))) for slot in slots)

    async def verify_slots(self, slots: Sequence[int], keys_max: int) -> int:
        """Some slots at a time. Raises MoveRefusedError for a damaged one."""
        some = slots[: self.slots_at_once]
        self.verified += some
        for slot in self.damaged_slots.intersection(some):
            raise MoveRefusedError(f"n1 (replica 1) cannot take part in a move: the index of slot {slot} is damaged")
        return len(some)

    def check_leader(self) -> None:
        if self.barrier_failure is not None:
            raise self.barrier_failure

    def step(self, messages: Sequence[Message]) -> None:
        self.stepped += messages

    @property
    def admission(self) -> FakeReplica:
        return self

    def check(self, hello: Hello, to: ReplicaId) -> None:
        self.hellos.append((hello.cluster_id, hello.replica_id, to, hello.server_id))
        if self.peer_failure is not None:
            raise self.peer_failure

    def address_of(self, hello: Hello) -> str:
        record = self.machine.members.get(hello.replica_id)
        return hello.address if record is None else record.peer

    async def admit_peer(self, hello: Hello, to: ReplicaId) -> None:
        if self.admit_failure is not None:
            raise self.admit_failure

    def hello(self) -> Hello:
        return Hello(CLUSTER, ReplicaId(1), server_id(1), "b" * 16, "0.1.0", "127.0.0.1:8001", 7, Term(5), Index(90))

    def member_address(self, replica_id: ReplicaId) -> MemberAddress | None:
        record = self.machine.members.get(replica_id)
        return None if record is None else MemberAddress(record.server_id, record.peer, record.removed)

    async def receive_snapshot(self, message: Message, header: bytes, size_bytes: int, sha256: bytes) -> FakeStaged:
        assert message.snapshot is not None
        staged = FakeStaged(self.store, header, size_bytes, sha256, self.staged_result or message.snapshot)
        staged.finish_delay_s = self.finish_delay_s
        self.staged.append(staged)
        return staged

    def state_hashes(self) -> StateHashes:
        return StateHashes(self.applied.index, self.hashes)

    async def compare_states(self) -> Comparison:
        if self.change_failure is not None:
            raise self.change_failure
        return self.comparison

    def members(self) -> Sequence[Member]:
        return self.status().members

    async def _change(self, *what: Any) -> None:
        self.changes.append(what)
        if self.change_failure is not None:
            raise self.change_failure

    async def set_setting(self, setting: ClusterSetting, value: str) -> None:
        await self._change("set", setting.name, value)

    async def add_member(
        self, record: MemberRecord, *, dry_run: bool, expect: Expectation
    ) -> tuple[MemberRecord | None, Verdict]:
        await self._change("add", record, dry_run, expect)
        return (None if dry_run else replace(record, replica_id=ReplicaId(4))), VERDICT

    async def promote(self, ids: Sequence[ReplicaId], *, dry_run: bool, expect: Expectation) -> Verdict:
        await self._change("promote", list(ids), dry_run, expect)
        return VERDICT

    async def remove(self, ids: Sequence[ReplicaId], *, dry_run: bool, expect: Expectation) -> Verdict:
        await self._change("remove", list(ids), dry_run, expect)
        return VERDICT

    async def change_members(self, plan: Plan, *, dry_run: bool, expect: Expectation) -> Verdict:
        await self._change("change", plan, dry_run, expect)
        return VERDICT

    async def step_down(self, *, dry_run: bool, expect: Expectation) -> Verdict:
        await self._change("step down", dry_run, expect)
        return VERDICT

    async def update_member(self, record: MemberRecord, *, dry_run: bool = False, expect: Expectation) -> Member:
        await self._change("update", record, *([dry_run] if dry_run else []), expect)
        return Member(record, MemberRole.VOTER)

    async def transfer_leader(self, target: ReplicaId, *, dry_run: bool, expect: Expectation) -> Verdict:
        await self._change("transfer", target, dry_run, expect)
        return VERDICT

    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            cluster_id=CLUSTER,
            cluster_name="test",
            replica_id=ReplicaId(1),
            role=Role.LEADER,
            term=self.term,
            leader_id=self.leader_id,
            leader_address="127.0.0.1:7001",
            first_index=Index(2),
            last_index=Index(11),
            commit_index=Index(10),
            applied_index=self.applied.index,
            flushed_index=Index(8),
            revision=self.machine.revision,
            config_index=Index(5),
            members=(Member(record(1), MemberRole.VOTER), Member(replace(record(3), auto_promote=True), MemberRole.LEARNER)),
            progress=(
                PeerView(
                    ReplicaId(3),
                    2,
                    Index(4),
                    Index(5),
                    True,
                    True,
                    3,
                    256,
                    0.25,
                    Index(9),
                    100,
                    1000,
                    Lag(7, 70, True, 1.5, False),
                    ACK,
                ),
                PeerView(ReplicaId(2), 0, Index(0), Index(1), False, False, 0, 256, None, Index(0), 0, 0),
            ),
            leader_age_s=1.5,
            contact_age_s=0.0,
            db_used_bytes=123,
            db_map_bytes=400,
            db_size_max_bytes=456,
            log_used_bytes=789,
            uptime_s=2.5,
            boot_id="b" * 16,
            snapshot_index=Index(6),
            ready=self.ready,
            removed=False,
            lease_remaining_s=0.5,
            transferee_id=ReplicaId(0),
            election_timeout_s=0.8,
            vote_id=ReplicaId(1),
            heartbeat_s=0.1,
            votes={},
            elections_1h=2,
            fsync=LatencySummary(9, 1_000, 2_000, 3_000),
            apply=LatencySummary(8, 100, 200, 300),
            commit=LatencySummary(7, 4_000, 5_000, 6_000),
            saving_s=0.0,
            counters=Counters(12.5, 11, 22, 333, 3),
            alarms=(Alarm("RV301", "the store is nearly full", ReplicaId(1), Severity.WARNING, 1.25),),
        )


class FakeHost:
    """A daemon of one replica; `blank()` makes one without."""

    def __init__(self, machine: KVMachine | None = None) -> None:
        self.boot_id = "b" * 16
        self.version = "0.1.0"
        self.uptime_s = 12.5
        self.client_connections = (3, 4_096)
        self.peer_tls = False
        self.events = EventLog(self.boot_id, lambda: 1_700_000_000.0)
        self.server = record(1)
        self.identity = Identity(server_id(1), CLUSTER, "test", ReplicaId(1), "n1")
        self.machine = machine or KVMachine()
        state = MemoryState()
        bootstrap_state(
            state,
            cluster_name="test",
            member=record(1),
            conf_state=ConfState(voters=(ReplicaId(1),)),
            config_index=Index(1),
            machine=self.machine.machine,
        )
        self.machine.open(state)
        self.store = FakeStore()
        self.fake = FakeReplica(self.machine, state, self.store)
        self.failure: Exception | None = None
        self.asked: list[tuple[Any, ...]] = []
        self.joined = Joined(record(4), (Member(record(1), MemberRole.VOTER),), VERDICT)
        self.fatal: list[Exception] = []

    @property
    def is_admin(self) -> bool:
        return isinstance(self.machine, DirectoryMachine)

    @classmethod
    def blank(cls) -> FakeHost:
        host = cls()
        host.identity = Identity(server_id(1))
        host.failure = BlankError()
        return host

    @property
    def replica(self) -> FakeReplica:
        if self.failure is not None:
            raise self.failure
        return self.fake

    async def bootstrap(self, cluster_id: str, cluster_name: str) -> MemberRecord:
        self.asked.append(("bootstrap", cluster_id, cluster_name))
        return record(1)

    async def join(self, via: Sequence[str], *, promote: bool, dry_run: bool) -> Joined:
        self.asked.append(("join", list(via), promote, dry_run))
        return self.joined

    async def reset(self, server_id: str, *, dry_run: bool) -> str:
        self.asked.append(("reset", server_id, dry_run))
        return "old-1"


def as_host(host: FakeHost) -> Host:
    return cast(Host, host)


def snapshot_file(path: Path, data: bytes, index: int) -> SnapshotFile:
    path.write_bytes(data)
    header = SnapshotHeader(
        format=1,
        cluster_id=CLUSTER,
        cluster_name="test",
        index=index,
        term=3,
        voters=(1, 2),
        learners=(3,),
        voters_outgoing=(),
        learners_next=(),
        auto_leave=False,
        revision=index,
        keys=7,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        taken_at_ms=1_700_000_000_000,
        taken_by="n1",
    )
    return SnapshotFile(path.name, path, header, b'{"format": 1}')


@asynccontextmanager
async def serving(
    host: FakeHost, *, limits: Limits | None = None, listen: str = "127.0.0.1:0", more: Sequence[Service] = ()
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a real client server of this host."""
    options = ServerOptions(listen=listen, limits=limits or Limits())
    server = build_client_server(as_host(host), options, host.fatal.append, more=more)
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.max_receive_message_length", -1)])
    try:
        yield channel
    finally:
        await channel.close()
        await server.stop(0.0)


async def start_peer_server(host: FakeHost, listen: str = "127.0.0.1:0", **more: Any) -> RpcServer:
    server = build_peer_server(as_host(host), ServerOptions(listen=listen), host.fatal.append, **more)
    await server.start()
    return server


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo that every error of ours carries."""
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            return info_of_status(status)
    raise AssertionError(f"no details in {error!r}")


def info_of_status(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert len(status.details) == 1
    assert status.details[0].Unpack(info)
    assert info.domain == "ravel"
    return info
