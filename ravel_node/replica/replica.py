"""One replica: what servicers, the daemon and the transport see of it.

`Replica` is the face of the driver: it refuses what cannot be done here, hands the rest to the inbox, and gives back futures. It
owns what lies beside the core: the peers' addresses, catch-up rounds, and the orderly end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Final

from ravel_node.machine import envelope
from ravel_node.machine.base import MemberRecord, Outcome, Reader
from ravel_node.machine.envelope import Kind, required_format
from ravel_node.machine.high_water import HighWaterMark, encode_marks
from ravel_node.machine.kv import KVMachine
from ravel_node.machine.members import all_replicas
from ravel_node.machine.settings import LEASES, ClusterSetting, value_of
from ravel_node.raft import (
    NO_LIMIT,
    ConfState,
    EntryId,
    Index,
    Message,
    RaftConfig,
    RawNode,
    ReplicaId,
    Role,
    SafetyEvent,
    SoftState,
    Term,
)
from ravel_node.replica.admission import Admission, reason_of
from ravel_node.replica.alarms import LOOK_S
from ravel_node.replica.compaction import Compaction, Retention
from ravel_node.replica.driver import Driver
from ravel_node.replica.errors import (
    CopiedDirectoryError,
    MembershipError,
    MoveRefusedError,
    NotLeaderError,
    OutdatedDirectoryError,
    QuotaExceededError,
    RemovedError,
    ReplicaError,
    ReplicaStoppedError,
)
from ravel_node.replica.events import EventLog
from ravel_node.replica.feed import Feed
from ravel_node.replica.formats import common_format, require_known
from ravel_node.replica.inbox import Proposal
from ravel_node.replica.integrity import Comparison, Integrity
from ravel_node.replica.membership import CatchUp, Changes
from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.peer_marks import PeerMarks
from ravel_node.replica.reads import ReadMode, vote_promise_us
from ravel_node.replica.selfview import Seat, SelfView
from ravel_node.replica.snapshots import Snapshots
from ravel_node.replica.status import Expectation, Member, ReplicaStatus, Verdict
from ravel_node.replica.verdict import Health, Plan
from ravel_node.replica.vitals import Observer, Vitals
from ravel_node.replica.waiters import Waiters
from ravel_node.storage.base import Boot, DamagedError, StagedSnapshot, Store, StoreError
from ravel_node.transport.base import Hello, MemberAddress, PeerRefusedError, PeerStats, StateHashes, Transport
from ravelpb.errors import Reason

if TYPE_CHECKING:
    from random import Random

HANDOVER_S: Final = 1.5
"""How long an orderly stop waits for what is in flight, and then for another leader."""

SLOT_INDEX_DAMAGED: Final = "RV613"

STOP_GRACE_S: Final = 0.5
"""How long the tasks of a replica may take to end after they were cancelled."""

_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # where there is no BOOTTIME, MONOTONIC counts sleep


def boot_clock() -> float:
    """Seconds that go on while the machine sleeps, so that a lease never outlives a nap."""
    return time.clock_gettime(_BOOT_CLOCK)


class Replica:
    """The seat of this server in one cluster. Everything runs on the event loop that called `start`."""

    def __init__(
        self,
        *,
        store: Store,
        machine: KVMachine,
        transport: Transport,
        observer: Observer,
        events: EventLog,
        options: ReplicaOptions,
        rng: Random,
        boot_id: str,
        version: str,
        peer_address: str,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.id: ReplicaId = store.identity.replica_id
        self.options = options
        self.machine = machine
        self.feed = Feed(store)
        self.on_applied: Callable[[], None] | None = None  # called when more is applied, and when this replica ends
        self.boot_id = boot_id
        self._version = version
        self.peer_address = peer_address
        self._store = store
        self._transport = transport
        self._clock = clock
        self._started_at = clock()
        machine.open(store.reader())
        self._raw = RawNode(_raft_config(self.id, store, options), store, rng)
        events.replica_id = self.id
        self.vitals = Vitals(
            observer,
            events,
            clock=clock,
            term=self._raw.term,
            last_index=self._raw.last_index,
            name_of=self._name_of,
            leads=lambda: self._raw.is_leader,
        )
        self._marks = PeerMarks(store, machine, self._raw)
        self._driver = Driver(
            replica_id=self.id,
            raw=self._raw,
            marks=self._marks,
            store=store,
            machine=machine,
            router=self,
            vitals=self.vitals,
            options=options,
            clock=clock,
        )
        self._changes = Changes(self, transport)
        self._catch_up = CatchUp()
        self._peers: dict[ReplicaId, str] = {}
        self.admission = Admission(
            replica_id=self.id,
            store=store,
            machine=machine,
            transport=transport,
            marks=self._marks,
            peers=self._peers,
            name_of=self._name_of,
            on_admitted=self._peer_admitted,
            on_refused=self._peer_refused,
        )
        self._snapshots = Snapshots(
            store=store, transport=transport, chronicle=self.vitals.chronicle, call=self._driver.inbox.call, clock=clock
        )
        self._retention = Retention(store, self._raw, self._driver.live, options)
        self._view = SelfView(
            replica_id=self.id,
            boot_id=boot_id,
            raw=self._raw,
            store=store,
            machine=machine,
            driver=self._driver,
            vitals=self.vitals,
            events=events,
            options=options,
            clock=clock,
            stats_of=lambda peer: transport.stats(peer) if peer in self._peers else PeerStats(),
            name_of=self._name_of,
            sending=self._snapshots.sending,
            seat=lambda: Seat(self.ready, store.identity.removed, self._contact_age_s()),
        )
        self.integrity = Integrity(self, store=store, transport=transport, alarms=self._view, name_of=self._name_of, clock=clock)
        self._changed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._draining = False  # takes no proposals any more, but still votes and answers, so that leadership can move
        self._stopping: ReplicaError | None = None  # why nothing is done here any more
        self._expelled: asyncio.Future[ReplicaError] = asyncio.get_running_loop().create_future()  # why it takes part no more
        self._safety_events = 0  # since the start
        self._expulsion_wanted = asyncio.Event()
        self._expulsion: ReplicaError | None = None  # what a peer said; None: the cluster removed this replica

    # --- life

    async def start(self) -> None:
        """Begin to take part. A removed replica does not: it only answers what it is."""
        await self._record_boot()
        await self._transport.start(self.hello, self)
        if self._store.identity.removed:
            self._stopping = self._removal()
            self._expelled.set_result(self._stopping)
            return
        self.membership_changed()
        if self.conf_state == ConfState(voters=(self.id,)):
            self._driver.inbox.call(lambda raw: raw.campaign())  # nobody else could vote or lead
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"replica-{self.id}")

    async def _record_boot(self) -> None:
        """Make this start durable before anything is sent: a later one must know what this one may have promised."""
        before, own_us = self._store.boot, vote_promise_us(self.options.election_ticks, self.options.tick_s)
        await self._store.record_boot(Boot(before.number + 1, self.boot_id, max(own_us, before.promise_us)))

    async def wait(self) -> None:
        """Raises what stopped the replica if it stopped itself; else never returns: one that was removed still answers so."""
        if self._task is not None:
            await asyncio.shield(self._task)
        await asyncio.get_running_loop().create_future()

    @property
    def why_expelled(self) -> ReplicaError | None:
        """Why this replica has no place in its cluster any more; None: it takes part."""
        return self._expelled.result() if self._expelled.done() else None

    async def expelled(self) -> ReplicaError:
        """Return why this replica has no place in its cluster any more, once it has none: removed, or its directory is old."""
        return await asyncio.shield(self._expelled)

    async def stop(self) -> None:
        """Finish what is in flight, hand leadership over, end. Never removes anything; never takes longer than a few seconds."""
        if self._task is not None and not self._task.done():
            if self.is_leader:
                await self._drain_and_hand_over()
            self._stopping = self._stopping or ReplicaStoppedError()
            self._task.cancel()
            await asyncio.wait([self._task], timeout=STOP_GRACE_S)  # a disk that hangs is not waited for
        self._end(self._stopping or ReplicaStoppedError())
        await self._transport.close()

    async def _drain_and_hand_over(self) -> None:
        """Whatever else this leader is busy with: a membership change that hangs must not keep leadership here."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HANDOVER_S
        self._draining = True
        while not self._driver.idle and loop.time() < deadline:
            await self._driver.worked(deadline - loop.time())
        if (heir := self.best_heir()) is None:
            return  # nobody can take over: the others will elect somebody, or there are no others
        self.begin_transfer(heir)
        deadline = loop.time() + min(HANDOVER_S, 2 * self.options.election_timeout_s)
        while (self.is_leader or not self.leader_id) and loop.time() < deadline:
            await self.changed(deadline - loop.time())

    def check_open(self) -> None:
        """Raises why nothing is done here any more, once that is so."""
        if self._stopping is not None:
            raise self._stopping.with_traceback(None)  # one error for all callers: it must not gather the frames of each

    def _end(self, why: ReplicaError) -> None:
        """Answer everybody who waits; from now on nothing is done here."""
        self._stopping = why
        self._driver.fail_everything(why)
        self._changes.end(why)
        self.integrity.end(why)
        self._tell_change()
        self.applied_moved()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._driver.run(), name="driver")
                tasks.create_task(self._keep_house(), name="housekeeping")
                tasks.create_task(self._look_out(), name="alarms")
                tasks.create_task(self.integrity.run(), name="integrity")
                tasks.create_task(self._leave_when_expelled(), name="expulsion")
                tasks.create_task(self._snapshots.run(), name="snapshots")
        except ExceptionGroup as failures:
            why = _first(failures)
            if isinstance(why, _ExpelledError):
                return
            self._end(ReplicaStoppedError(f"the replica stopped itself: {why}", failed=True))
            raise why from None

    # --- proposals and reads

    async def propose(self, group: bytes, count: int, *, grows: bool) -> Sequence[Outcome]:
        """Append one encoded group of `count` commands and return their outcomes once applied.

        Raises NotLeaderError, ReplicaBusyError, QuotaExceededError, ReplicaStoppedError and RemovedError (nothing was done), or
        OutcomeUnknownError. `grows` says that the group writes data, as deletes and housekeeping do not.
        """
        self.check_open()
        if self._draining:
            raise ReplicaStoppedError()
        if not self._raw.is_leader:
            raise self._driver.not_leader()
        if grows and self._store.db_used_bytes >= self.options.db_size_max_bytes:
            raise QuotaExceededError(
                f"the store holds {self._store.db_used_bytes} bytes and --db-size-max is {self.options.db_size_max_bytes}; "
                "reads and deletes go on: delete keys, or raise --db-size-max on every replica"
            )
        outcomes = await self._append(group, count)
        self.vitals.writes += count
        return outcomes

    async def _append(self, group: bytes, count: int) -> Sequence[Outcome]:
        """Append a group and return its outcomes, as `propose` does; it is not counted as a client's writes."""
        future: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        self._driver.inbox.propose(Proposal(group, count, future))
        return await future

    def barrier_free(self, mode: ReadMode) -> bool:
        """Whether a read of this mode may be served right now, without waiting. Reads the clock."""
        if mode is ReadMode.LINEARIZABLE:
            return self._driver.reads.lease_holds(self._store.applied.index, self._raw.commit)
        return mode is ReadMode.STALE and self._stopping is None

    async def read_barrier(self, mode: ReadMode) -> None:
        """After it returned, `reader()` shows what `mode` promises until the caller's next await.

        Raises NotLeaderError, ReadTimeoutError, ReplicaStoppedError, RemovedError.
        """
        self.check_open()
        if self.barrier_free(mode):
            return
        if not self._raw.is_leader:
            raise self._driver.not_leader()
        reads = self._driver.reads
        if mode is ReadMode.LINEARIZABLE and reads.lease_remaining_s > 0.0:
            await reads.wait_applied(self._raw.commit)
            return
        waiting = reads.wait()
        self._driver.inbox.wake()
        await waiting

    def reader(self) -> Reader:
        return self._store.reader()

    @property
    def cold(self) -> bool:
        """Whether a read may have to wait for the disk: page in first what is about to be read, then."""
        return self._store.cold

    async def page_in(self, keys: Sequence[bytes]) -> None:
        """See Store.page_in. The barrier of a read comes after it."""
        self.check_open()
        await self._store.page_in(keys)

    async def page_in_range(self, start: bytes, end: bytes | None, keys_max: int, bytes_max: int) -> None:
        """See Store.page_in_range."""
        self.check_open()
        await self._store.page_in_range(start, end, keys_max, bytes_max)

    async def verify_slots(self, slots: Sequence[int], keys_max: int) -> int:
        """See Store.verify_slots. Raises MoveRefusedError, with an alarm, where the index is damaged: its keys are whole, so this
        replica goes on.
        """
        try:
            return await self._store.verify_slots(slots, keys_max)
        except DamagedError as error:
            self._view.raise_alarm(SLOT_INDEX_DAMAGED, str(error))
            raise MoveRefusedError(f"{self._name_of(self.id)} (replica {self.id}) cannot take part in a move: {error}") from error

    async def flush(self) -> None:
        """Return once everything that is applied now is in the state on the disk."""
        await self._store.flush()

    async def count_keys(self, slots: Sequence[int]) -> int:
        """See Store.count_keys. 0 where the index is damaged: whatever reads the keys says so."""
        try:
            return await self._store.count_keys(slots)
        except DamagedError:
            return 0

    # --- messages of peers

    def step(self, messages: Sequence[Message]) -> None:
        """Take messages of peers. Never blocks; may drop."""
        if self._stopping is None:
            self._driver.inbox.step(messages)

    def hello(self) -> Hello:
        """Return what this replica says of itself in a handshake now."""
        identity, store = self._store.identity, self._store
        return Hello(
            cluster_id=identity.cluster_id,
            replica_id=self.id,
            server_id=identity.server_id,
            boot_id=self.boot_id,
            version=self._version,
            address=self.peer_address,
            boot_number=store.boot.number,
            term=store.initial_state()[0].term,
            last_index=store.last_index(),
        )

    async def admit_peer(self, hello: Hello, to: ReplicaId) -> None:
        """Check whether a peer that dials may talk to this replica, and answer to it from now on. See Admission.admit."""
        await self.admission.admit(hello, to)
        peer = hello.replica_id
        if peer not in self.machine.members:
            # This replica has no state yet, or an older one: the log will say the rest.
            address = self.admission.address_of(hello)
            if address and self._peers.get(peer) != address:
                self._peers[peer] = address
                self._transport.add_peer(peer, address, hello.server_id)

    def member_address(self, replica_id: ReplicaId) -> MemberAddress | None:
        """Return what the log here says of a member, for a peer that does not know it yet."""
        record = self.machine.members.get(replica_id)
        return None if record is None else MemberAddress(record.server_id, record.peer, record.removed)

    def state_hashes(self) -> StateHashes:
        """What became of the last checksum entries here. Raises why nothing is done here any more."""
        self.check_open()
        return self.integrity.state_hashes()

    async def compare_states(self) -> Comparison:
        """Have all replicas hash their states at one entry, and compare. Only on the leader; see Integrity.compare_now."""
        return await self.integrity.compare_now()

    async def receive_snapshot(self, message: Message, header: bytes, size_bytes: int, sha256: bytes) -> StagedSnapshot:
        """Begin, or go on, taking a snapshot that `message` announces; when it is finished the servicer steps the message."""
        self.check_open()
        self._driver.heard[message.from_] = self._clock()
        index = message.snapshot.index if message.snapshot is not None else Index(0)
        try:
            staged = await self._store.receive(header, size_bytes, sha256)
        except StoreError as error:
            self.vitals.chronicle.snapshot_refused(message.from_, index, str(error))
            raise
        self.vitals.chronicle.snapshot_receiving(message.from_, index, size_bytes)
        return staged

    # --- membership and leadership

    async def add_member(
        self, record: MemberRecord, *, dry_run: bool, expect: Expectation
    ) -> tuple[MemberRecord | None, Verdict]:
        return await self._changes.add_member(record, dry_run=dry_run, expect=expect)

    async def promote(self, ids: Sequence[ReplicaId], *, dry_run: bool, expect: Expectation) -> Verdict:
        return await self._changes.promote(ids, dry_run=dry_run, expect=expect)

    async def remove(self, ids: Sequence[ReplicaId], *, dry_run: bool, expect: Expectation) -> Verdict:
        return await self._changes.remove(ids, dry_run=dry_run, expect=expect)

    async def update_member(self, record: MemberRecord, *, dry_run: bool = False, expect: Expectation) -> Member:
        return await self._changes.update_member(record, dry_run=dry_run, expect=expect)

    async def change_members(self, plan: Plan, *, dry_run: bool, expect: Expectation) -> Verdict:
        return await self._changes.change(plan, dry_run=dry_run, expect=expect)

    async def transfer_leader(self, target: ReplicaId, *, dry_run: bool, expect: Expectation) -> Verdict:
        return await self._changes.transfer_leader(target, dry_run=dry_run, expect=expect)

    async def step_down(self, *, dry_run: bool, expect: Expectation) -> Verdict:
        return await self._changes.step_down(dry_run=dry_run, expect=expect)

    async def set_setting(self, setting: ClusterSetting, value: str) -> None:
        """Set one setting of the whole cluster; an empty value is its default. Only on the leader.

        Raises MembershipError for a value that it cannot have, UnsupportedVersionError, and what `propose` raises.
        """
        self.check_leader()
        if value and value not in setting.values:
            raise MembershipError(
                f"setting {setting.name} cannot be {value[:64]!r}", f"give it one of {', '.join(setting.values)}"
            )
        require_known(Kind.SETTING, [member.record for member in self.members()])
        await self._append(envelope.group([envelope.setting(setting.name, value)]), 1)

    # --- what Changes works with

    @property
    def waiters(self) -> Waiters:
        return self._driver.waiters

    def call(self, function: Callable[[RawNode], None]) -> None:
        """Have the driver call `function`. Raises once nobody would call it any more."""
        self.check_open()
        self._driver.inbox.call(function)

    def begin_transfer(self, target: ReplicaId) -> None:
        self.call(lambda _: self._driver.begin_transfer(target))

    def best_heir(self, exclude: Sequence[ReplicaId] = ()) -> ReplicaId | None:
        return self._driver.best_heir(exclude)

    def not_leader(self) -> NotLeaderError:
        return self._driver.not_leader()

    def check_leader(self) -> None:
        """Raises unless this replica leads, and means to go on."""
        self.check_open()
        if self._draining:
            raise ReplicaStoppedError()
        if not self._raw.is_leader:
            raise self._driver.not_leader()

    async def changed(self, timeout_s: float | None = None) -> None:
        """Returns after the next change of role, leader or membership, or when the time is up."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._changed], timeout=timeout_s)

    def health(self) -> Health:
        """Whom this leader hears, and who has caught up."""
        now, timeout = self._clock(), self.options.election_timeout_s
        others = self._driver.live() & self._peers.keys()
        caught_up = [peer for peer in others if self._catch_up.caught_up(peer, now, timeout)]
        return Health(self.conf_state, frozenset([self.id, *others]), frozenset([self.id, *caught_up]))

    # --- what the driver tells (Router)

    def send(self, messages: Sequence[Message]) -> None:
        self._transport.send(messages)

    def send_snapshot(self, message: Message) -> None:
        self._snapshots.send(message)

    def snapshot_outdated(self) -> None:
        self._snapshots.outdated()

    def safety_alarm(self, event: SafetyEvent) -> None:
        self._safety_events += 1
        self._view.raise_alarm(
            "RV601",
            f"replica {event.sender} sent what a correct cluster cannot produce: {event.type.name.lower()} of term "
            f"{event.term}, {event.reason}; {self._safety_events} such messages were ignored since this replica started",
        )

    def membership_changed(self) -> None:
        """Talk to exactly those who are in the configuration, at the addresses that the log says."""
        conf_state, members = self.conf_state, self.machine.members
        if conf_state == ConfState():
            return  # nothing was applied yet: see `introduce`
        self.vitals.chronicle.members(self.members(), Index(self.machine.config_index))
        wanted = {
            replica_id: members[replica_id]
            for replica_id in sorted(all_replicas(conf_state))
            if replica_id != self.id and replica_id in members
        }
        vouched = self.admission.vouched.keys() - members.keys()
        for gone in self._peers.keys() - wanted.keys() - vouched:
            del self._peers[gone]
            self._transport.remove_peer(gone)
        for replica_id, record in wanted.items():
            if self._peers.get(replica_id) != record.peer:
                self._peers[replica_id] = record.peer
                self._transport.add_peer(replica_id, record.peer, record.server_id)
        own = members.get(self.id)
        if own is not None and own.removed:
            self._expulsion_wanted.set()
        for code in ("RV410", "RV614"):
            for removed in self.machine.removed_ids:
                self._view.clear_alarm(code, removed)
        self._driver.reads.allow_leases(value_of(LEASES, self.machine.settings) == "on")
        self._tell_change()

    def role_changed(self, before: SoftState, after: SoftState) -> None:
        if (before.role is Role.LEADER) != (after.role is Role.LEADER):
            self._catch_up.forget()
        if before.role is Role.LEADER and after.role is not Role.LEADER:
            self._view.leadership_ended()
        self._tell_change()

    def checksum_applied(self, at: EntryId) -> None:
        self.integrity.checksum_applied(at)

    def applied_moved(self) -> None:
        if self.on_applied is not None:
            self.on_applied()

    def _tell_change(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # --- what the transport tells (TransportListener)

    def peer_unreachable(self, peer: ReplicaId) -> None:
        self._driver.inbox.call(lambda raw: raw.report_unreachable(peer))

    def snapshot_sent(self, peer: ReplicaId, delivered: bool) -> None:
        self._snapshots.sent(peer, delivered)

    def refused_by_peer(self, peer: ReplicaId, reason: str, why: str) -> None:
        if reason == Reason.DIRECTORY_OUTDATED:
            self._expulsion = OutdatedDirectoryError(why)
        if reason == Reason.DIRECTORY_COPIED:
            self._expulsion = CopiedDirectoryError(why)
        self._expulsion_wanted.set()

    async def admit_answer(self, hello: Hello) -> None:
        try:
            await self.admission.admit(hello, self.id)
        except ReplicaError as error:
            raise PeerRefusedError(str(error), reason_of(error)) from None

    # --- what the admission tells

    def _peer_admitted(self, peer: ReplicaId) -> None:
        for code in ("RV410", "RV614"):
            self._view.clear_alarm(code, peer)

    def _peer_refused(self, peer: ReplicaId, error: OutdatedDirectoryError | CopiedDirectoryError) -> None:
        if isinstance(error, OutdatedDirectoryError):
            self._driver.inbox.call(lambda raw: raw.report_lost_log(peer))
        self._view.raise_alarm("RV614" if isinstance(error, OutdatedDirectoryError) else "RV410", str(error), peer)

    # --- by itself

    async def _keep_house(self) -> None:
        """Catch-up rounds every heartbeat, promotions, and now and then compaction."""
        interval = self.options.heartbeat_ticks * self.options.tick_s
        rounds = 0
        while True:
            await asyncio.sleep(interval)
            rounds += 1
            if self._raw.is_leader:
                status = self._raw.status()
                matches = {peer: progress.match for peer, progress in status.progress.items() if peer != self.id}
                self._catch_up.observe(matches, self._raw.last_index, self._clock())
                await self._changes.promote_caught_up()
                await self._share_marks()
            if rounds % 10 == 0:
                await self._retention.trim()
                await self._marks.record()

    async def _share_marks(self) -> None:
        """Write the marks of members that have started, or have come far, into the log."""
        members = self.machine.members
        if (
            self._draining
            or not self._raw.committed_in_term
            or common_format(members.values()) < required_format(Kind.HIGH_WATER)
        ):
            return
        boot = self._store.boot
        own = HighWaterMark(boot.number, boot.boot_id, self._raw.term, self._raw.commit)
        present = all_replicas(self.conf_state)
        marks = self._marks.to_share((peer for peer in members if peer in present), own, self.id, self._clock())
        if marks:
            with suppress(ReplicaError):
                await self._append(envelope.group([envelope.high_water(encode_marks(marks))]), 1)

    async def _look_out(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._view.look_out()

    async def compact(self, keep: int, *, dry_run: bool = False) -> Compaction:
        """See Retention.compact. Raises ReplicaStoppedError, StoreFailedError."""
        self.check_open()
        return await self._retention.compact(keep, dry_run=dry_run)

    async def _leave_when_expelled(self) -> None:
        """Stop taking part once this replica learns that it has no place in its cluster. A removal is recorded, for good."""
        await self._expulsion_wanted.wait()
        why = self._expulsion
        if why is None:
            await self._store.mark_removed()
            why = self._removal()
        else:
            self._view.raise_alarm("RV614" if isinstance(why, OutdatedDirectoryError) else "RV410", str(why))
        for peer in self._peers:
            self._transport.remove_peer(peer)
        self._peers.clear()
        self._end(why)
        self._expelled.set_result(why)
        raise _ExpelledError

    def _removal(self) -> RemovedError:
        return RemovedError(
            f"replica {self.id} was removed from cluster {self._store.identity.cluster_id} for good; "
            "its data directory can be deleted"
        )

    # --- looking

    @property
    def is_leader(self) -> bool:
        return self._stopping is None and self._raw.is_leader

    @property
    def in_transfer(self) -> bool:
        return self._raw.in_transfer

    @property
    def leader_id(self) -> ReplicaId:
        return self._raw.leader

    @property
    def term(self) -> Term:
        return self._raw.term

    @property
    def applied(self) -> EntryId:
        return self._store.applied

    @property
    def conf_state(self) -> ConfState:
        return self.machine.conf_state

    def members(self) -> list[Member]:
        """Everyone in the configuration, by id."""
        return self._view.members()

    def _name_of(self, replica_id: ReplicaId) -> str:
        record = self.machine.members.get(replica_id)
        return record.name if record is not None else f"replica {replica_id}"

    @property
    def ready(self) -> bool:
        """It serves: it is a voter, knows a leader, has applied nearly all it knows to be committed, and is not stopping."""
        return (
            self._stopping is None
            and not self._draining
            and self._raw.leader != 0
            and self.id in self.conf_state.voters
            and self._raw.commit - self._store.applied.index <= self.options.log_retain_entries
            and (self._raw.is_leader or self._since_leader_s() < self.options.election_timeout_s)
        )

    def leaderless_s(self) -> float:
        """For how long this replica has heard of no leader; 0.0 on the leader itself."""
        if self._raw.is_leader:
            return 0.0
        return self._since_leader_s() if self._raw.leader else self._clock() - self._driver.leader_since

    def _since_leader_s(self) -> float:
        return self._clock() - self._driver.heard.get(self._raw.leader, self._started_at)

    def _contact_age_s(self) -> float:
        return 0.0 if self._raw.is_leader else self._since_leader_s()

    def status(self) -> ReplicaStatus:
        return replace(self._view.status(), checksum=self.integrity.last)


class _ExpelledError(Exception):
    """Ends the tasks of a replica that has no place in its cluster any more."""


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


def _raft_config(replica_id: ReplicaId, store: Store, options: ReplicaOptions) -> RaftConfig:
    return RaftConfig(
        id=replica_id,
        election_ticks=options.election_ticks,
        heartbeat_ticks=options.heartbeat_ticks,
        applied=store.applied.index,
        async_storage_writes=True,
        message_bytes_max=options.append_message_bytes_max,
        committed_bytes_max=options.committed_bytes_max,
        uncommitted_bytes_max=options.uncommitted_bytes_max,
        inflight_messages_max=options.inflight_messages_max,
        inflight_bytes_max=options.inflight_bytes_max,
        check_quorum=True,
        pre_vote=True,
        proposal_forwarding=False,
        step_down_on_removal=True,
        vote_promise_us=vote_promise_us(options.election_ticks, options.tick_s),
        silent_ticks=_silent_ticks(store, options),
    )


def _silent_ticks(store: Store, options: ReplicaOptions) -> int:
    """Return how long ago this replica must be taken to have heard a leader, in ticks before its start.

    The process before this one may have answered a leader at its last moment. What it promised then was in its memory only, so
    this one keeps the longest promise that is possible. A replica that has never run has promised nothing.
    """
    boot = store.boot
    if not boot.number and not store.initial_state()[0].term:
        return NO_LIMIT
    longest_us = max(boot.promise_us, vote_promise_us(options.election_ticks, options.tick_s))
    return options.election_ticks - 1 - ceil(longest_us / (options.tick_s * 1e6))
