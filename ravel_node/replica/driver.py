"""The one task that owns the RawNode.

Each turn it feeds the core what has arrived (ticks, messages of peers, saves that became durable, proposals), takes what the core
wants done, and routes it: messages to their peers, appends to the log's writer, committed entries to the state machine. It never
awaits a save: storage writes are asynchronous (the answers that rest on a save travel with it and leave once it is durable), and
what queues while one is under way becomes the next entry and the next transaction.

It decides nothing about consensus. What it does decide: how commands are packed into entries, how much is applied in a turn, and
that a leader whose disk hangs hands its leadership on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from ravel_node.machine import envelope
from ravel_node.machine.kv import KVMachine
from ravel_node.raft import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    Entry,
    EntryId,
    EntryType,
    HardState,
    Index,
    Message,
    MessageType,
    ProposalDroppedError,
    RaftError,
    RaftEvent,
    RawNode,
    ReplicaId,
    Role,
    SafetyEvent,
    SnapshotOutdated,
    SoftState,
    Term,
    decode_conf_change,
)
from ravel_node.replica.errors import (
    LeadershipLostError,
    NotLeaderError,
    OutcomeUnknownError,
    ReadTimeoutError,
    ReplicaBusyError,
    ReplicaError,
)
from ravel_node.replica.formats import all_read_times
from ravel_node.replica.inbox import Inbox, Proposal, Turn
from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.peer_marks import PeerMarks
from ravel_node.replica.reads import Reads, vote_promise_us
from ravel_node.replica.vitals import Vitals
from ravel_node.replica.waiters import Waiters
from ravel_node.storage.base import Save, Store

_PRE_VOTES: Final = frozenset({MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE})
"""Messages that may name a term which nobody has entered yet."""

_NOT_FOR_PEERS: Final = frozenset({MessageType.PROPOSE, MessageType.READ_INDEX, MessageType.TRANSFER_LEADER})
"""What the core would do for a peer, and no replica asks another for: entries would pass the leader's limits, and a transfer that
this driver did not begin would leave its lease standing while the chosen one is elected."""

_SLEEP_MIN_S: Final = 0.0005
"""The least time to sleep until a tick is due: a coarse timer that came too early is not asked again and again."""


class Router(Protocol):
    """Where the driver sends what leaves the replica, and whom it tells what changed. All calls return at once."""

    def send(self, messages: Sequence[Message]) -> None: ...

    def send_snapshot(self, message: Message) -> None: ...

    def snapshot_outdated(self) -> None:
        """The newest snapshot is older than the membership of a replica that needs one."""
        ...

    def safety_alarm(self, event: SafetyEvent) -> None:
        """A peer sent what a correct cluster cannot produce; it was ignored."""
        ...

    def membership_changed(self) -> None:
        """The machine's members, configuration or settings are not what they were."""
        ...

    def role_changed(self, before: SoftState, after: SoftState) -> None: ...

    def checksum_applied(self, at: EntryId) -> None:
        """The state is that of this entry, which asks for its hash."""
        ...

    def applied_moved(self) -> None:
        """More is applied than before."""
        ...


class Driver:
    """Joins core, store, machine and network of one replica."""

    def __init__(
        self,
        *,
        replica_id: ReplicaId,
        raw: RawNode,
        marks: PeerMarks,
        store: Store,
        machine: KVMachine,
        router: Router,
        vitals: Vitals,
        options: ReplicaOptions,
        clock: Callable[[], float],
    ) -> None:
        self.replica_id = replica_id
        self._raw = raw
        self._marks = marks
        self._store = store
        self._machine = machine
        self._router = router
        self._vitals = vitals
        self._options = options
        self._clock = clock
        self.inbox = Inbox(
            proposals_max=options.proposals_waiting_max,
            proposals_bytes_max=options.proposals_waiting_bytes_max,
            messages_max=options.messages_waiting_max,
        )
        self.waiters = Waiters()
        self.reads = Reads(clock=clock, lease_max_us=vote_promise_us(options.election_ticks, options.tick_s))
        self.soft = SoftState(raw.leader, raw.role)
        self.term: Term = raw.term
        self.leader_since = clock()
        self.heard: dict[ReplicaId, float] = {}  # when each peer last sent us anything
        self._saves: list[Message] = []  # STORAGE_APPEND messages that wait for the writer
        self._save_wanted = asyncio.Event()
        self._hard, _ = store.initial_state()  # the newest that the core asked to save
        self._durable = self._hard  # what the disk is known to hold
        self._held: list[Message] = []  # messages of one term, which the disk does not hold yet
        self._turned = asyncio.Event()
        self._saving_since: float | None = None
        self._to_apply: deque[Message | Entry] = deque()  # entries, each message's after it: its responses follow its last entry
        self._ticks = 0
        self._ticked_at = 0.0
        self._members_seen: object = None
        self._settings_seen: object = machine.settings
        self._timed = False  # whether all members read entries with a time
        self._paged_to = Index(0)  # what entries up to this one read is in memory
        self._page_in_wanted = asyncio.Event()
        self._stalled = False
        self._gathering: asyncio.TimerHandle | None = None  # until it fires, what comes waits for the last entry's round

    # --- the loop

    async def run(self) -> None:
        """Drive until cancelled. An exception is fatal for the replica: a broken invariant, a failed disk, an unknown command."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._drive(), name="driver")
            tasks.create_task(self._write_log(), name="log-writer")
            tasks.create_task(self._keep_time(), name="ticks")
            tasks.create_task(self._page_in(), name="page-ins")

    async def _drive(self) -> None:
        while True:
            turn = await self.inbox.take()
            self._feed(turn)
            self._pump()
            if self.inbox.proposals:  # they waited for a round, which may have ended in this turn
                self._propose()
                self._pump()
            self._turned.set()

    async def _keep_time(self) -> None:
        """Ask for a tick whenever one is due, counted from when the last one was fed: a late one makes the next one late, too."""
        while True:
            await asyncio.sleep(max(self._until_tick_s(), _SLEEP_MIN_S))
            if self._until_tick_s() <= 0.0:
                self.inbox.tick()

    def _until_tick_s(self) -> float:
        return self._ticked_at + self._options.tick_s - self._clock()

    async def _write_log(self) -> None:
        """Make saves durable, all that wait in one transaction; the answers that rest on them go back through the inbox.

        A commit index alone is not worth a sync: it is volatile in the paper (figure 2), learned again after a restart, and the
        next save that matters carries the newest one.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._save_wanted.wait()
            self._save_wanted.clear()
            work, self._saves = self._saves, []
            if not work:
                continue
            saves = [_save_of(message) for message in work]
            self._hard = next((save.hard_state for save in reversed(saves) if save.hard_state is not None), self._hard)
            if any(save.entries or save.snapshot is not None for save in saves) or self._hard[:2] != self._durable[:2]:
                began = loop.time()
                self._saving_since = began
                saves[-1].hard_state = self._hard
                await self._store.save(saves)
                self._durable = self._hard
                self._saving_since = None
                self._vitals.saved(loop.time() - began, len(work), sum(len(message.entries) for message in work))
            if any(save.snapshot is not None for save in saves):
                self._state_replaced()
                installed = next(save.snapshot for save in reversed(saves) if save.snapshot is not None)
                self._vitals.chronicle.snapshot_installed(installed.index, installed.term)
            for message in work:
                self.inbox.complete(message.responses)

    # --- feeding

    def _feed(self, turn: Turn) -> None:
        raw = self._raw
        if self._held:
            self._release_held()
        for message in turn.completed:
            self._deliver(message)
        if turn.messages:
            self._feed_messages(turn.messages)
        if turn.tick:
            self._tick()
        for call in turn.calls:
            call(raw)
        if self.reads.wanted:
            self._ask_round()
        if self.inbox.proposals:
            self._propose()

    def _feed_messages(self, messages: Sequence[Message]) -> None:
        now = self._clock()
        for message in messages:
            self.heard[message.from_] = now
            self._marks.received(message)
            if message.type is MessageType.APPEND_RESPONSE:
                self._vitals.acks.answered(message, now)
            if message.type in _NOT_FOR_PEERS:
                continue
            try:
                self._raw.step(message)
            except RaftError:
                continue  # an answer of a removed peer: refused, and nobody waits for it

    def _tick(self) -> None:
        if self._until_tick_s() > 0.0:
            return  # leases rest on followers whose ticks are never closer together than one interval
        self._ticked_at = self._clock()
        self._ticks += 1
        self._store.txn()  # raises if a flush has failed behind our back, even while there is nothing to do
        self._store.look_for_faults()
        self._raw.tick()
        if self._raw.is_leader:
            self._watch_disk()
            if self._ticks % self._options.heartbeat_ticks == 0:
                self._ask_round()
        self.reads.expire(
            2 * self._options.election_timeout_s,
            ReadTimeoutError("no majority confirmed this leader in time; the read was not served"),
        )

    def _watch_disk(self) -> None:
        """Let another replica lead once a save, or the flush of what is applied, has hung for longer than an election timeout.

        While the flush is behind, this leader applies nothing and refuses writes, and another one may well have room.
        """
        timeout = self._options.election_timeout_s
        since = self._store.congested_since
        congested_s = 0.0 if since is None else asyncio.get_running_loop().time() - since
        saving_s = self.saving_s
        if saving_s > 2 * timeout:
            self._raw.step_down("its disk has not finished a save for two election timeouts")
        elif max(saving_s, congested_s) <= timeout:
            self._stalled = False
        elif not self._stalled:
            self._stalled = True
            if saving_s > timeout:
                self._vitals.chronicle.save_stalled(saving_s)
            else:
                self._vitals.chronicle.flush_stalled(congested_s)
            if (heir := self.best_heir()) is not None:
                self.begin_transfer(heir)

    def _ask_round(self) -> None:
        raw = self._raw
        if not raw.is_leader:
            self.reads.fail_all(self.not_leader())
            return
        if (context := self.reads.begin_round(raw.term)) is not None:
            raw.read_index(context)

    def _propose(self) -> None:
        """Pack waiting commands into entries. While a save or a round is under way only full entries leave; the rest gathers."""
        inbox, options = self.inbox, self._options
        if not self._raw.is_leader:
            _fail(inbox.take_proposals(), self.not_leader())
            return
        if (
            (self._saving_since is not None or self._saves or self._gathers)
            and inbox.proposals_count < options.batch_commands_max
            and inbox.proposals_bytes < options.batch_bytes_max
        ):
            return
        proposals = [proposal for proposal in inbox.take_proposals() if not proposal.future.done()]
        if self._store.congested:
            _fail(proposals, ReplicaBusyError("the disk does not keep up with what was applied; nothing was done"))
            return
        now = self._clock()
        error: ReplicaError = OutcomeUnknownError("the replica failed as it appended the command: it may or may not take effect")
        appended = 0
        try:
            for batch in _batches(proposals, options.batch_commands_max, options.batch_bytes_max):
                time_ms = self._vitals.wall_ms if self._timed else 0
                (at,) = self._raw.propose_many([envelope.payload([proposal.group for proposal in batch], time_ms)])
                self.waiters.add(at, batch, now)
                appended += len(batch)
        except ProposalDroppedError:
            error = self._why_dropped()
        finally:
            _fail(proposals[appended:], error)
        if appended:
            self._gather()

    def _gather(self) -> None:
        """An entry costs every replica as much as dozens of commands do, so what comes while one is on its round makes one more.

        A lonely command never waits. The time is bounded, or callers who do not act together would wait for two rounds of a slow
        network.
        """
        if self._gathering is not None:
            self._gathering.cancel()
        self._gathering = asyncio.get_running_loop().call_later(self._options.gather_s, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        if self.inbox.proposals:
            self.inbox.wake()

    @property
    def _gathers(self) -> bool:
        return self._gathering is not None and self.waiters.on_round

    # --- taking what the core wants done

    def _pump(self) -> None:
        raw = self._raw
        while True:
            while raw.has_ready():
                ready = raw.ready()
                self._tell(ready.events)
                if ready.soft_state is not None:
                    self._role_changed(ready.soft_state)
                if raw.term != self.term:
                    self._vitals.term_changed(raw.term, raw.leader)
                    self.term = raw.term
                    self.reads.end_lease()
                if ready.messages:
                    self._route(ready.messages)
                if ready.read_states:
                    self.reads.confirmed(ready.read_states, raw.term, self._store.applied.index)
            if not self._apply(limit=self._options.apply_commands_max):
                break
        self._tell(raw.take_events())
        self.reads.release(self._store.applied.index)

    def _tell(self, events: Sequence[RaftEvent]) -> None:
        for event in events:
            self._vitals.raft_event(event)
            if isinstance(event, SnapshotOutdated):
                self._router.snapshot_outdated()
            elif isinstance(event, SafetyEvent):
                self._router.safety_alarm(event)

    def _route(self, messages: Sequence[Message]) -> None:
        outgoing: list[Message] = []
        durable_term = self._durable.term
        for message in messages:
            if message.to == LOCAL_APPEND:
                if message.snapshot is not None:
                    self._skip_to_snapshot()
                    self._vitals.trail.restart(message.snapshot.index, self._clock())
                elif message.entries:
                    self._vitals.appended(message.entries)
                self._saves.append(message)
                self._save_wanted.set()
            elif message.to == LOCAL_APPLY:
                self._to_apply.extend(message.entries)
                self._to_apply.append(message)
            elif message.term > durable_term and message.type not in _PRE_VOTES:
                self._hold(message)
            elif message.type is MessageType.SNAPSHOT:
                self._router.send_snapshot(message)
            else:
                outgoing.append(message)
        if outgoing:
            self._vitals.sending(outgoing)
            self._router.send(outgoing)

    def _hold(self, message: Message) -> None:
        """Keep back a message until its term, and the vote in it, are on disk.

        A candidate that asked for votes and then forgot its own vote in a crash could vote for another one in the same term,
        although the votes of others have made it leader; a leader's entries would then exist twice under one index and term.
        With asynchronous saves the core hands such messages out at once, so the order is kept here, for every kind of message.
        """
        if self._held and self._held[0].term != message.term:
            self._held.clear()  # nobody needs messages of a term that is over
        self._held.append(message)

    def _release_held(self) -> None:
        if self._held[0].term <= self._durable.term:
            held, self._held = self._held, []
            if held[0].term == self._raw.term:
                self._route(held)

    def _deliver(self, message: Message) -> None:
        """An answer that waited for a save or for applying: to ourselves, or to a peer."""
        if message.to == self.replica_id:
            with suppress(RaftError):  # it has left the membership meanwhile, and its own answer counts no more
                self._raw.step(message)
        else:
            self._router.send((message,))

    def _role_changed(self, after: SoftState) -> None:
        before, self.soft = self.soft, after
        if before.leader != after.leader:
            self.leader_since = self._clock()
        if before.role is Role.LEADER and after.role is not Role.LEADER:
            self.waiters.fail_all(LeadershipLostError())
        if after.role is not Role.LEADER:
            self.reads.fail_all(self.not_leader())
        self.reads.end_lease()
        self._stalled = False
        self._vitals.role_changed(before, after, self._raw.term)
        self._router.role_changed(before, after)

    # --- applying

    def _apply(self, limit: int) -> bool:
        """Apply committed entries, about `limit` commands at most; True if the core has to be asked again."""
        if not self._to_apply:
            return False
        queue, store, machine = self._to_apply, self._store, self._machine
        began = asyncio.get_running_loop().time()
        txn = store.txn()
        commands = 0
        answered = pages_out = False
        cold = store.cold
        while queue and commands < limit and not store.congested:
            item = queue[0]
            if cold and isinstance(item, Entry) and item.index > self._paged_to:
                pages_out = True
                self._page_in_wanted.set()
                break
            queue.popleft()
            if isinstance(item, Message):
                for response in item.responses:
                    self._deliver(response)
                answered = True
                continue
            if item.type is EntryType.NORMAL:
                outcomes = machine.apply(item.id, item.data, txn)
                commands += len(outcomes) or 1
                store.applied_to(item.id)
                if machine.checksum_index == item.index:
                    self._router.checksum_applied(item.id)
                appended_at = self.waiters.applied(item.id, outcomes, self.not_leader)
                if appended_at is not None:
                    self._vitals.committed(self._clock() - appended_at)
            else:
                self._apply_change(item)
                commands += 1
            txn = store.txn()
        if machine.members is not self._members_seen or machine.settings is not self._settings_seen:
            self._members_changed()
        self._vitals.applied(asyncio.get_running_loop().time() - began, commands)
        self._router.applied_moved()
        if queue and not store.congested and not pages_out:
            self.inbox.wake()  # the rest in a later turn, so that messages and ticks are not kept waiting; else a tick comes back
        return answered

    async def _page_in(self) -> None:
        """While the state is cold: have what waiting entries will read paged in before they are applied."""
        while True:
            await self._page_in_wanted.wait()
            self._page_in_wanted.clear()
            keys: list[bytes] = []
            paged_to = self._paged_to
            for item in self._to_apply:
                if len(keys) >= self._options.apply_commands_max:
                    break
                if isinstance(item, Entry):
                    paged_to = item.index
                    if item.type is EntryType.NORMAL:
                        keys += self._machine.keys_read(item.data)
            if keys:
                await self._store.page_in(keys)
            self._paged_to = paged_to
            self.inbox.wake()

    def _apply_change(self, entry: Entry) -> None:
        change = decode_conf_change(entry)
        conf_state = self._raw.apply_conf_change(change, entry.index)
        self._machine.apply_membership(entry.id, conf_state, change.context, self._store.txn())
        self._store.applied_to(entry.id)
        self.reads.end_lease()
        self.waiters.change_applied(entry.id, self.not_leader)

    def _skip_to_snapshot(self) -> None:
        """A received snapshot is on its way to the store: whatever waits to be applied is in it.

        Carried out now, a membership change would write the membership of the snapshot, which the core has taken over already,
        into the state of an earlier index.
        """
        for item in self._to_apply:
            if isinstance(item, Message):
                for response in item.responses:
                    self._deliver(response)
        self._to_apply.clear()

    def _state_replaced(self) -> None:
        """A received snapshot has become the state."""
        self._machine.open(self._store.reader())
        self.reads.end_lease()
        self._members_changed()
        self._router.applied_moved()

    def _members_changed(self) -> None:
        self._members_seen, self._settings_seen = self._machine.members, self._machine.settings
        self._timed = all_read_times(self._machine.members.values())
        self._router.membership_changed()

    # --- leadership

    @property
    def saving_s(self) -> float:
        """For how long the save that is under way has been; 0: none is."""
        since = self._saving_since
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def begin_transfer(self, target: ReplicaId) -> None:
        if self._raw.is_leader:  # else the core would ask another leader, whose lease would not know of it
            self.reads.bar_lease(self._raw.term)
            self._raw.transfer_leader(target)

    def live(self) -> frozenset[ReplicaId]:
        """The peers that were heard of within an election timeout."""
        since = self._clock() - self._options.election_timeout_s
        return frozenset(peer for peer, at in self.heard.items() if at > since)

    def best_heir(self, exclude: Sequence[ReplicaId] = ()) -> ReplicaId | None:
        """The voter, other than this one and those excluded, that has the most of the log and was heard of lately."""
        status = self._raw.status()
        able = (self.live() & set(status.membership.voters)) - {self.replica_id, *exclude}
        heirs = [(progress.match, -peer) for peer, progress in status.progress.items() if peer in able]
        return ReplicaId(-max(heirs)[1]) if heirs else None

    # --- the end

    def fail_everything(self, error: ReplicaError) -> None:
        """Nobody will be told an outcome any more. What is in the log may yet take effect, so `error` alone would not be true."""
        _fail(self.inbox.take_proposals(), error)
        self.waiters.fail_all(OutcomeUnknownError(f"the command may or may not take effect: {error}"))
        self.reads.fail_all(error)

    async def worked(self, timeout_s: float) -> None:
        """Returns after the next turn, or when the time is up."""
        self._turned.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._turned.wait()

    @property
    def idle(self) -> bool:
        """Nothing waits to be appended, committed or applied."""
        return not self.inbox.proposals and not len(self.waiters)

    # --- words

    def not_leader(self) -> NotLeaderError:
        leader = self._raw.leader
        if leader == self.replica_id:
            leader = ReplicaId(0)
        record = self._machine.members.get(leader)
        return NotLeaderError(leader, record.listen if record else "")

    def _why_dropped(self) -> NotLeaderError | ReplicaBusyError:
        if self._raw.is_leader and not self._raw.in_transfer:
            return ReplicaBusyError("too much of the log waits for a majority; nothing was done, try again shortly")
        return self.not_leader()


def _save_of(message: Message) -> Save:
    hard = HardState(message.term, message.vote, message.commit)
    return Save(entries=message.entries, hard_state=hard if hard != HardState() else None, snapshot=message.snapshot)


def _batches(proposals: Sequence[Proposal], commands_max: int, bytes_max: int) -> Sequence[Sequence[Proposal]]:
    """Runs of proposals that fit into one entry; one that is larger alone gets an entry of its own."""
    batches: list[list[Proposal]] = []
    commands = size = 0
    for proposal in proposals:
        if not batches or commands + proposal.count > commands_max or size + len(proposal.group) > bytes_max:
            batches.append([])
            commands = size = 0
        batches[-1].append(proposal)
        commands += proposal.count
        size += len(proposal.group)
    return batches


def _fail(proposals: Sequence[Proposal], error: Exception) -> None:
    for proposal in proposals:
        if not proposal.future.done():
            proposal.future.set_exception(error)
