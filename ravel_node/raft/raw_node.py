"""The way in and out of the core: events in, `Ready` out.

The driver feeds `tick`, `step`, `propose` and the like, then, while `has_ready()`, takes a `Ready` and carries it out.

Synchronous mode: save `hard_state`, `snapshot` and `entries` durably, apply `committed_entries`, send `messages` (all
of them only after the save), then `advance()`. One Ready at a time.

Asynchronous mode (`async_storage_writes`): `messages` is the whole order. What goes to a peer may leave at once. A
message to LOCAL_APPEND asks for a save, one to LOCAL_APPLY for an apply; each carries `responses`, to be delivered once
that is done: those to this replica through `step`, the others over the network. Saves happen in the order in which they
were handed out, and so do applies; a save and an apply may overlap, and any number of Readys may be under way. In a
save `term`, `vote` and `commit` are the hard state, all zero where it did not change. A `snapshot` in a save replaces
log and state, and the entries beside it follow it. Applies that were handed out before it and are at or below its index
are to be answered without being carried out.

When a membership change comes out among the committed entries, the driver calls `apply_conf_change` before it reports
the entry as applied. A Ready that stands is never changed afterwards.

Reads: `read_index` yields, in a later Ready, a ReadState with the same context. The read is linearizable once its index
is applied. Nothing tells of a read that was dropped (no leader, a change of term): whoever asked sets a deadline. For a
lease of its own the driver takes the time before `read_index` and, at the ReadState, counts from there; `term`, `role`
and `in_transfer` say when a lease must end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ravel_node.raft import leader as leading
from ravel_node.raft.confchange import encode_conf_change
from ravel_node.raft.core import Raft
from ravel_node.raft.errors import LocalMessageError, PeerNotFoundError, ProposalDroppedError, invariant
from ravel_node.raft.events import RaftEvent, SteppedDown
from ravel_node.raft.status import Status
from ravel_node.raft.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    NO_REPLICA,
    ConfChange,
    ConfChangeV2,
    ConfState,
    Entry,
    EntryId,
    EntryType,
    HardState,
    Index,
    Message,
    MessageType,
    ReadState,
    ReplicaId,
    Role,
    Snapshot,
    SoftState,
    Term,
)

if TYPE_CHECKING:
    from random import Random

    from ravel_node.raft.config import RaftConfig
    from ravel_node.raft.storage import Storage

LOCAL_TYPES: Final = frozenset(
    {
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAPSHOT_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESPONSE,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESPONSE,
        MessageType.FORGET_LEADER,
    }
)
"""Messages that never come over the network."""

ANSWER_TYPES: Final = frozenset(
    {
        MessageType.APPEND_RESPONSE,
        MessageType.VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.READ_INDEX_RESPONSE,
    }
)
"""Messages that only members of the configuration may send: nobody else was asked."""


@dataclass(slots=True)
class Ready:
    """What there is to do. The receiver owns it; the core keeps no reference to its lists."""

    soft_state: SoftState | None = None  # changed since the last Ready
    hard_state: HardState | None = None  # changed since the last Ready: to be saved
    read_states: list[ReadState] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)  # to be saved, in place of all from their first index on
    snapshot: Snapshot | None = None  # to be installed in place of log and state
    committed_entries: tuple[Entry, ...] = ()  # to be applied
    messages: list[Message] = field(default_factory=list)  # to peers and, in asynchronous mode, to the local workers
    must_sync: bool = False  # entries, term or vote changed, so the save must reach the disk before it counts
    events: list[RaftEvent] = field(default_factory=list)


class RawNode:
    """One replica's core. Not shared: one task owns it and makes every call. No call blocks."""

    def __init__(self, config: RaftConfig, storage: Storage, rng: Random) -> None:
        self._raft: Final = Raft(config, storage, rng)
        self._async: Final = config.async_storage_writes
        self._soft_state = self._raft.soft_state  # as last handed out
        self._hard_state = self._raft.hard_state  # as last handed out, or loaded
        self._on_advance: list[Message] = []  # synchronous mode: our answers to ourselves, due at advance()
        self._unadvanced = False  # synchronous mode: a Ready is being carried out

    # For the driver's hot path.

    @property
    def id(self) -> ReplicaId:
        return self._raft.id

    @property
    def role(self) -> Role:
        return self._raft.role

    @property
    def is_leader(self) -> bool:
        return self._raft.role is Role.LEADER

    @property
    def term(self) -> Term:
        return self._raft.term

    @property
    def leader(self) -> ReplicaId:
        """The leader of this term, NO_REPLICA where none is known."""
        return self._raft.leader

    @property
    def commit(self) -> Index:
        return self._raft.log.committed

    @property
    def applied(self) -> Index:
        return self._raft.log.applied

    @property
    def last_index(self) -> Index:
        return self._raft.log.last_index

    @property
    def in_transfer(self) -> bool:
        """Whether this leader is handing over; it refuses proposals meanwhile."""
        return self._raft.transferee != NO_REPLICA

    @property
    def committed_in_term(self) -> bool:
        """Whether an entry of this term is committed, so that a leader's commit index is current."""
        return self._raft.committed_in_term

    @property
    def uncommitted_bytes(self) -> int:
        """Payload that this leader appended and that was not applied yet; bounded by `uncommitted_bytes_max`."""
        return self._raft.uncommitted_bytes

    def status(self) -> Status:
        """A frozen copy of everything worth showing. Costs a copy of each peer's progress."""
        return Status.of(self._raft)

    # In.

    def tick(self) -> None:
        """Let one tick pass."""
        self._raft.tick()

    def campaign(self) -> None:
        """Start an election now, if this replica may (see ElectionRefused)."""
        self._raft.dispatch(Message(MessageType.HUP, from_=self._raft.id))

    def propose(self, data: bytes) -> EntryId | None:
        """Append `data`, or forward it to the leader.

        Returns the name under which it stands in this leader's log, None if it was forwarded. It is committed once that
        very entry is applied; another term at that index means that it never will be. Raises ProposalDroppedError if it
        was not taken: no leader, a transfer, or too much uncommitted.
        """
        proposal = Entry(Term(0), Index(0), EntryType.NORMAL, data)
        return self._propose(proposal)

    def propose_many(self, datas: Sequence[bytes]) -> list[EntryId]:
        """Append an entry for each of `datas`, all or none, at the leader only. Raises ProposalDroppedError."""
        if not self.is_leader:
            raise ProposalDroppedError
        return leading.propose(self._raft, [Entry(Term(0), Index(0), EntryType.NORMAL, data) for data in datas])

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> EntryId | None:
        """Append a membership change, or forward it; as `propose`.

        A change that cannot take effect is not refused: an empty normal entry is appended in its place, with a
        ConfChangeIgnored event. `conf_change_refusal` tells beforehand.
        """
        kind, data = encode_conf_change(change)
        return self._propose(Entry(Term(0), Index(0), kind, data))

    def conf_change_refusal(self, change: ConfChange | ConfChangeV2) -> str:
        """Why this leader would put an empty entry in the place of `change` now; empty if it would not."""
        return leading.refusal_of(self._raft, change)

    def _propose(self, proposal: Entry) -> EntryId | None:
        raft = self._raft
        if raft.role is Role.LEADER:
            return leading.propose(raft, (proposal,))[0]
        raft.dispatch(Message(MessageType.PROPOSE, from_=raft.id, entries=(proposal,)))
        return None

    def apply_conf_change(self, change: ConfChange | ConfChangeV2, index: Index | None = None) -> ConfState:
        """Take the committed membership change of the entry at `index` into use and return the membership after it.

        To be called for every such entry, in order, before the entry is reported as applied. Changes at or below a
        snapshot that came in meanwhile do nothing: give the index, so that none of them is mistaken for a later one. A
        change that cannot be, which a leader with `conf_change_validation` never appends, leaves the membership as it
        is.
        """
        return self._raft.change_membership(change, index)

    def step(self, message: Message) -> None:
        """Take a message from a peer, or a response of a local worker.

        The transport vouches for `from_`: it must be the peer that is connected, and never a LOCAL_ address. Raises
        LocalMessageError for a message that cannot come from a peer, PeerNotFoundError for an answer of a stranger,
        ProposalDroppedError for a forwarded proposal that cannot be taken. All of them are harmless to ignore.
        """
        kind = message.type
        if message.from_ != LOCAL_APPEND and message.from_ != LOCAL_APPLY:
            if kind in LOCAL_TYPES:
                raise LocalMessageError
            if kind in ANSWER_TYPES and message.from_ not in self._raft.tracker.progress:
                raise PeerNotFoundError
            if message.from_ == NO_REPLICA:
                self._raft.suspect(message, "it names no sender")
                return
        self._raft.step(message)

    def transfer_leader(self, target: ReplicaId) -> None:
        """Ask the leader, this one or another, to hand over to `target` (see TransferIgnored and RequestDropped)."""
        self._raft.dispatch(Message(MessageType.TRANSFER_LEADER, from_=target, term=self._raft.term))

    def step_down(self, reason: str) -> None:
        """Stop leading without waiting for anyone, in the same term; does nothing on a replica that does not lead.

        Always safe: a leader may fall silent at any time. For a driver that sees what the core cannot, such as a disk
        that hangs.
        """
        raft = self._raft
        if raft.role is Role.LEADER:
            raft.become_follower(raft.term, NO_REPLICA)
            raft.emit(SteppedDown(raft.term, reason))

    def forget_leader(self) -> None:
        """Become a follower without a leader, which gives its vote again although the old leader may be alive.

        This ends the promise on which a leader's lease rests: never together with leases.
        """
        self._raft.dispatch(Message(MessageType.FORGET_LEADER, from_=self._raft.id))

    def report_unreachable(self, peer: ReplicaId) -> None:
        """The transport could not deliver to `peer`."""
        self._raft.dispatch(Message(MessageType.UNREACHABLE, from_=peer))

    def report_lost_log(self, peer: ReplicaId) -> None:
        """The log of `peer` does not hold what the peer has acknowledged: a leader does not count on that from now on."""
        raft = self._raft
        progress = raft.tracker.progress.get(peer)
        if raft.role is Role.LEADER and progress is not None and peer != raft.id:
            progress.forget(Index(raft.log.last_index + 1))

    def report_snapshot(self, peer: ReplicaId, delivered: bool) -> None:
        """A snapshot for `peer` arrived, or failed. Without this call the peer waits for the rest of the term."""
        self._raft.dispatch(Message(MessageType.SNAPSHOT_STATUS, from_=peer, reject=not delivered))

    def read_index(self, context: bytes) -> None:
        """Ask from which index on a read that begins now is linearizable. `context` names the answer; see above."""
        request = (Entry(Term(0), Index(0), EntryType.NORMAL, context),)
        self._raft.dispatch(Message(MessageType.READ_INDEX, entries=request))

    def set_randomized_election_timeout(self, ticks: int) -> None:
        """Choose the current election timeout, until it is drawn anew. For tests."""
        self._raft.election_timeout = ticks

    # Out.

    def has_ready(self) -> bool:
        """Whether there is anything to do. Events alone are not: see `take_events`."""
        raft, unstable = self._raft, self._raft.log.unstable
        return bool(
            raft.messages
            or raft.messages_after_append
            or unstable.has_next_entries
            or raft.read_states
            or unstable.next_snapshot() is not None
            or raft.log.has_next_committed(allow_unstable=not self._async)
            or raft.hard_state != self._hard_state
            or raft.soft_state != self._soft_state
        )

    def take_events(self) -> list[RaftEvent]:
        """Fetch the events that no Ready has brought yet. Called after feeding, so that no alarm waits for work."""
        events, self._raft.events = self._raft.events, []
        return events

    def ready(self) -> Ready:
        """Take what there is to do. In synchronous mode `advance` must follow before the next one."""
        invariant(not self._unadvanced, "a Ready was taken before the last one was advanced")
        raft, log = self._raft, self._raft.log
        ready = Ready(
            read_states=raft.read_states,
            entries=log.unstable.next_entries(),
            snapshot=log.unstable.next_snapshot(),
            committed_entries=log.next_committed(allow_unstable=not self._async),
            messages=raft.messages,
            events=raft.events,
        )
        raft.read_states, raft.messages, raft.events = [], [], []
        self._take_states(ready)
        if self._async:
            self._address_workers(ready)
        else:
            self._split_answers(ready)
        log.unstable.accept()
        if ready.committed_entries:
            log.accept_applying(ready.committed_entries, allow_unstable=not self._async)
        return ready

    def _take_states(self, ready: Ready) -> None:
        raft = self._raft
        ready.must_sync = bool(ready.entries)
        if (soft_state := raft.soft_state) != self._soft_state:
            ready.soft_state = self._soft_state = soft_state
        if (hard_state := raft.hard_state) != self._hard_state:
            old = self._hard_state
            ready.must_sync |= hard_state.term != old.term or hard_state.vote != old.vote
            ready.hard_state = self._hard_state = hard_state

    def _address_workers(self, ready: Ready) -> None:
        """Put the save and the apply among the messages."""
        raft = self._raft
        answers, raft.messages_after_append = raft.messages_after_append, []
        if ready.entries or ready.hard_state or ready.snapshot or answers:
            if (saved := self._saved_answer(ready)) is not None:
                answers.append(saved)
            term, vote, commit = ready.hard_state or HardState()
            save = Message(
                MessageType.STORAGE_APPEND,
                to=LOCAL_APPEND,
                from_=raft.id,
                term=term,
                vote=vote,
                commit=commit,
                entries=tuple(ready.entries),
                snapshot=ready.snapshot,
                responses=tuple(answers),
            )
            ready.messages.append(save)
        if ready.committed_entries:
            apply = Message(
                MessageType.STORAGE_APPLY,
                to=LOCAL_APPLY,
                from_=raft.id,
                entries=ready.committed_entries,
                responses=(self._applied_answer(ready),),
            )
            ready.messages.append(apply)

    def _split_answers(self, ready: Ready) -> None:
        """Send the answers for peers with this Ready, which is saved first; keep our own until `advance`."""
        raft = self._raft
        for answer in raft.messages_after_append:
            (self._on_advance if answer.to == raft.id else ready.messages).append(answer)
        raft.messages_after_append = []
        if (saved := self._saved_answer(ready)) is not None:
            self._on_advance.append(saved)
        if ready.committed_entries:
            self._on_advance.append(self._applied_answer(ready))
        self._unadvanced = True

    def _saved_answer(self, ready: Ready) -> Message | None:
        """What says that this save, and so all before it, is durable; None if nothing waits to hear it.

        It names the last entry of the whole log with our term of now. In the meantime another leader may replace an
        entry at the writer by one that looks the same from here, when a third leader puts the first one back (A, B, A):
        the term tells that the answer is too old, and a later save, which every new term makes, frees what this one did
        not.
        """
        raft = self._raft
        log = raft.log
        if not log.unstable.entries and ready.snapshot is None:
            return None
        answer = Message(MessageType.STORAGE_APPEND_RESPONSE, to=raft.id, from_=LOCAL_APPEND, term=raft.term)
        if log.unstable.entries:
            answer.log_term, answer.index = log.last_id
        answer.snapshot = ready.snapshot
        return answer

    def _applied_answer(self, ready: Ready) -> Message:
        return Message(
            MessageType.STORAGE_APPLY_RESPONSE,
            to=self._raft.id,
            from_=LOCAL_APPLY,
            entries=ready.committed_entries,
        )

    def advance(self) -> None:
        """Report that the last Ready was carried out. Synchronous mode only."""
        invariant(not self._async, "advance() has no meaning with asynchronous storage writes")
        answers, self._on_advance = self._on_advance, []
        self._unadvanced = False
        for answer in answers:
            self._raft.step(answer)
