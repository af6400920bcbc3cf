"""What must hold at every moment of a run, whatever fails: the invariants of a replicated log and of what rests on it.

    G1 election safety         at most one leader a term
    G2 leader append-only      a leader never replaces an entry of its own log
    G3 log matching            two entries of one name are one entry, and so is everything before them
    G4 leader completeness     a new leader holds everything committed in earlier terms
    G5 state machine safety    every replica applies 1, 2, 3, ... with the same bytes, the same answers and the same state
    G6 durability              what a replica acknowledges, and the term of each message, is on its disk at that moment; a commit
                               is on a majority's
    G7 monotony                term, commit and applied never fall; one vote a term, over restarts too
    G8 order of the marks      applied <= commit <= last, match < next
    G10 read safety            a read shows at least what was committed anywhere before it was asked
    lease                      held only by the leader, in the term and under the configuration it was won in, and by nobody once
                               a later term has a leader; a read is served under it while the clock says so, and from a state
                               that shows what earlier leaders committed

G9, liveness, is the end of every run (world.py). A checker looks at the insides of the core: it compares what is there with what
ever was, on any replica, so that a fault shows at the step that makes it and not where it is felt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn

from ravel_node.machine import envelope
from ravel_node.machine.base import Database, Outcome, Reader, Status, Txn
from ravel_node.machine.kv import KVMachine
from ravel_node.raft import (
    ConfState,
    Entry,
    EntryId,
    HardState,
    Index,
    Message,
    MessageType,
    ReplicaId,
    Role,
    SafetyEvent,
    Term,
)
from ravel_node.raft.tracker import Membership
from ravel_node.storage.directory import RAFT
from ravel_node.storage.keys import (
    APPLIED,
    BASE,
    HARD_STATE,
    LOG,
    META,
    STATE,
    STATE_NAMES,
    STORE,
    decode_entry,
    decode_entry_id,
    decode_hard_state,
    decode_number,
    index_key,
)
from tests.simulation.disk import Databases, SimEnvironment, SimTxn

if TYPE_CHECKING:
    from tests.simulation.server import Server

SEAL_BYTES = 4
"""Of the check sum in front of every record."""


class ViolationError(AssertionError):
    """Something that must never be. The message names the invariant."""


@dataclass(slots=True)
class _Seen:
    """One process's core, as it was after its last turn."""

    term: Term
    vote: ReplicaId
    role: Role
    commit: Index
    applied: Index
    last: EntryId
    membership: Membership


def record_hash(database: Database, key: bytes, value: bytes) -> int:
    """A number for one record; a state's is the exclusive or of its records', so that it can be kept up by each write."""
    digest = blake2b(digest_size=8)
    digest.update(bytes((database, len(key) >> 8, len(key) & 255)))
    digest.update(key)
    digest.update(value)
    return int.from_bytes(digest.digest(), "big")


def state_hash(reader: Reader) -> int:
    total = 0
    for database in Database:
        if database is not Database.SLOTS:
            for key, value in reader.scan(database, b"", None):
                total ^= record_hash(database, key, value)
    return total


class _Recorder:
    """A transaction that keeps up the hash of the state."""

    def __init__(self, txn: Txn) -> None:
        self._txn = txn
        self.change = 0
        self.written: list[bytes] = []  # values put under user keys

    def get(self, database: Database, key: bytes) -> bytes | None:
        return self._txn.get(database, key)

    def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        return self._txn.scan(database, start, end)

    def put(self, database: Database, key: bytes, value: bytes) -> None:
        self._forget(database, key)
        self.change ^= record_hash(database, key, value)
        if database is Database.KV:
            self.written.append(value[8:])
        self._txn.put(database, key, value)

    def delete(self, database: Database, key: bytes) -> None:
        self._forget(database, key)
        self._txn.delete(database, key)

    def _forget(self, database: Database, key: bytes) -> None:
        before = self._txn.get(database, key)
        if before is not None:
            self.change ^= record_hash(database, key, before)


class SimMachine(KVMachine):
    """The real machine, which tells the checker what it does."""

    def __init__(self, name: str, checker: Checker) -> None:
        super().__init__()
        self._name = name
        self._checker = checker
        self.reached = Index(0)
        self.hash = 0

    def open(self, reader: Reader) -> None:
        super().open(reader)
        self.reached, self.hash = reader.applied.index, state_hash(reader)
        self._checker.has_state(self._name, self.reached, self.hash, "has loaded")

    def apply(self, at: EntryId, payload: bytes, txn: Txn) -> Sequence[Outcome]:
        recorder = _Recorder(txn)
        outcomes = super().apply(at, payload, recorder)
        self._applied(at, payload, recorder, tuple(outcomes))
        return outcomes

    def apply_membership(self, at: EntryId, conf_state: ConfState, context: bytes, txn: Txn) -> None:
        recorder = _Recorder(txn)
        super().apply_membership(at, conf_state, context, recorder)
        self._applied(at, context, recorder, conf_state)

    def _applied(self, at: EntryId, payload: bytes, recorder: _Recorder, answers: object) -> None:
        self._checker.require(
            at.index == self.reached + 1, f"G5: {self._name} applies entry {at.index} after entry {self.reached}"
        )
        self.reached = at.index
        self.hash ^= recorder.change
        self._checker.applied(self._name, at, payload, answers, recorder.written)
        self._checker.has_state(self._name, at.index, self.hash, "has applied")


class Checker:
    """What was ever seen, anywhere. Every method raises ViolationError."""

    def __init__(self, leases: bool = True) -> None:
        self._leases_hold = leases  # the clocks run evenly enough
        self.leaders: dict[Term, str] = {}
        self.votes: dict[tuple[str, Term], ReplicaId] = {}
        self.entries: dict[EntryId, tuple[Term | None, Entry]] = {}  # with the term of the entry before
        self.committed_terms: dict[Index, Term] = {}
        self.commits: dict[Term, Index] = {}  # by the term of the leader that made it: how far
        self.applies: dict[Index, tuple[EntryId, bytes, object]] = {}
        self.states: dict[Index, int] = {}
        self.writes: dict[bytes, Index] = {}  # where each value was written
        self.servers: dict[ReplicaId, Server] = {}
        self.violation: ViolationError | None = None
        self.elections = 0
        self.results: dict[tuple[int, int], Outcome] = {}  # by client and sequence
        self._seen: dict[str, _Seen] = {}
        self._leases: dict[str, tuple[float, tuple[Term, Membership]]] = {}  # until when, and in what they were won
        self._transferred: dict[str, Term] = {}  # the last term that each has begun to hand over
        self._durable: dict[str, HardState] = {}
        self._lost: set[str] = set()  # servers whose disk was replaced by a backup of it

    def require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.fail(otherwise)

    def fail(self, why: str) -> NoReturn:
        self.violation = self.violation or ViolationError(why)  # kept, since the product may swallow it
        raise self.violation

    # --- what a disk shows

    def committed(self, server: Server, environment: SimEnvironment, txn: SimTxn) -> None:
        """A transaction became durable."""
        if environment.name == RAFT:
            self._log_saved(server, environment.databases, txn)
        else:
            self._state_saved(server, environment.databases)

    def _log_saved(self, server: Server, raft: Databases, txn: SimTxn) -> None:
        hard = _hard_state(raft)
        before = self._durable.get(server.name, HardState())
        last = _last(raft)
        self.require(hard.term >= before.term, f"G7: the term on {server.name}'s disk falls from {before.term} to {hard.term}")
        self.require(hard.commit <= last.index, f"G8: {server.name}'s disk has commit {hard.commit} in a log up to {last.index}")
        self._durable[server.name] = hard
        self._require_flushed(server, raft)
        if hard.vote:
            known = self.votes.setdefault((server.name, hard.term), hard.vote)
            self.require(
                known == hard.vote, f"G7: {server.name} votes for {hard.vote} in term {hard.term}, and has voted for {known}"
            )
        for key, record in txn.appended:
            entry = decode_entry(key, record)
            self._entry_seen(server.name, entry, _term_at(raft, Index(entry.index - 1)))

    def _require_flushed(self, server: Server, raft: Databases) -> None:
        """G8: what the log does not hold any more, the state on disk does."""
        number = raft[META].get(STATE)
        name = "" if number is None else f"state-{decode_number(number[SEAL_BYTES:])}"
        state = server.disk.environments.get(server.disk.path / name)
        record = None if state is None else state[STORE].get(APPLIED)
        if record is not None:
            flushed, start = decode_entry_id(record[SEAL_BYTES:]).index, _base(raft).index
            self.require(
                start <= flushed, f"G8: {server.name}'s log starts after {start}, and its state has only {flushed} flushed"
            )

    def _entry_seen(self, where: str, entry: Entry, before: Term | None) -> None:
        known = self.entries.setdefault(entry.id, (before, entry))
        same = known[1] == entry and (None in (before, known[0]) or before == known[0])
        self.require(
            same, f"G3: {where} has another entry {entry.index} of term {entry.term}, or another one before it, than there was"
        )

    def _state_saved(self, server: Server, databases: Databases) -> None:
        record = databases[STORE].get(APPLIED)
        assert record is not None
        at = decode_entry_id(record[SEAL_BYTES:])
        total = 0
        for database in Database:
            if database is not Database.SLOTS:
                for key, value in databases[STATE_NAMES[database]].pairs():
                    total ^= record_hash(database, key, value[SEAL_BYTES:])
        if at.index:
            self.has_state(server.name, at.index, total, "has flushed")

    # --- what a process does

    def started(self, server: Server) -> None:
        """A replica was made from what the disk holds."""
        replica = server.replica
        assert replica is not None
        raft = replica._raw._raft
        before = self._durable.get(server.name, HardState())
        self.require(
            raft.term >= before.term and (raft.term, raft.vote) >= (before.term, before.vote),
            f"G6: {server.name} starts in term {raft.term} with vote {raft.vote}; its disk had {before.term} and {before.vote}",
        )
        self.servers[replica.id] = server
        self._leases.pop(server.name, None)
        self._transferred.pop(server.name, None)
        self._seen[server.name] = self._look(raft)

    @staticmethod
    def _look(raft: Any) -> _Seen:
        log = raft.log
        return _Seen(raft.term, raft.vote, raft.role, log.committed, log.applied, log.last_id, raft.tracker.membership)

    def observe(self, server: Server) -> None:
        """After a turn of a server's loop."""
        replica = server.replica
        if replica is None or (before := self._seen.get(server.name)) is None:
            return
        raft = replica._raw._raft
        self._observe_lease(server, replica, raft)
        now = self._look(raft)
        if now == before:
            return
        name, log = server.name, raft.log
        self._seen[name] = now
        self.require(now.term >= before.term, f"G7: the term of {name} falls from {before.term} to {now.term}")
        self.require(now.commit >= before.commit, f"G7: the commit of {name} falls from {before.commit} to {now.commit}")
        self.require(now.applied >= before.applied, f"G7: applied of {name} falls from {before.applied} to {now.applied}")
        self.require(
            now.term > before.term or before.vote in (0, now.vote),
            f"G7: {name} changes its vote in term {now.term} from {before.vote} to {now.vote}",
        )
        start = Index(0) if log.unstable.snapshot is not None else log.first_index - 1  # of a log that a snapshot is to replace
        marks = (start, log.applied, log.applying, log.committed, log.last_index)
        self.require(marks == tuple(sorted(marks)), f"G8: start, applied, applying, commit, last of {name} are {marks}")
        if now.role is Role.LEADER:
            self._observe_leader(server, raft, before, now)
        if now.commit > before.commit:
            self._observe_commit(server, raft, before, now)

    def _observe_lease(self, server: Server, replica: Any, raft: Any) -> None:
        """A lease is held only by the leader of the term, and under the configuration, that it was won in.

        That a read under any other lease would be stale takes several misfortunes in the right order; that there is one shows
        at once. The same goes for a lease that lasts until another one leads: see `_require_no_lease`.
        """
        reads = replica._driver.reads
        name, until = server.name, reads._lease_until
        if raft.transferee:
            self._transferred[name] = raft.term
        if reads.lease_remaining_s <= 0.0:
            return
        now = (raft.term, raft.tracker.membership)
        known_until, won = self._leases.get(name, (0.0, now))
        if until != known_until:
            self._leases[name] = (until, won := now)
        later = max(self.leaders, default=Term(0))
        if later > raft.term and self._leases_hold:
            self.fail(f"lease: {name} holds one of term {raft.term}, and {self.leaders[later]} leads term {later}")
        if raft.role is not Role.LEADER:
            self.fail(f"lease: {name} holds one as {raft.role.name.lower()} of term {raft.term}")
        if won != now:
            self.fail(
                f"lease: {name} holds one that was won in term {won[0]} under {won[1]}, and now it is {now[0]} under {now[1]}"
            )
        if self._transferred.get(name) == raft.term:
            self.fail(f"lease: {name} holds one in term {raft.term}, which it has begun to hand over")

    def _require_no_lease(self, leader: str, term: Term) -> None:
        """Nobody may answer reads from a lease of an earlier term, once there is a leader who may commit what it does not see."""
        for server in self.servers.values():
            replica = server.replica
            if server.name != leader and replica is not None and replica._raw.term < term:
                reads = replica._driver.reads
                if reads.lease_remaining_s > 0.0:
                    self.fail(f"lease: {leader} leads term {term}, and {server.name} has a lease of term {replica._raw.term}")

    def _observe_leader(self, server: Server, raft: Any, before: _Seen, now: _Seen) -> None:
        name = server.name
        known = self.leaders.setdefault(now.term, name)
        self.require(known == name, f"G1: {name} leads term {now.term}, which {known} has led")
        if (before.role, before.term) == (now.role, now.term):
            self.require(
                now.last.index >= before.last.index, f"G2: leader {name}'s log ended at {before.last}, now at {now.last}"
            )
            kept = before.last.index < raft.log.first_index or raft.log.matches(before.last.index, before.last.term)
            self.require(kept, f"G2: leader {name} has replaced its entry {before.last}")
        else:
            self.elections += 1
            if self._leases_hold:
                self._require_no_lease(name, now.term)
            top = max((index for term, index in self.commits.items() if term < now.term), default=Index(0))
            held = top < raft.log.first_index or raft.log.matches(top, self.committed_terms.get(top, Term(0)))
            self.require(
                held, f"G4: {name} leads term {now.term} without entry {top}, committed before; its log ends at {now.last}"
            )
        for peer, progress in raft.tracker.progress.items():
            self.require(progress.match < progress.next, f"G8: leader {name} has match {progress.match} of replica {peer}")

    def _observe_commit(self, server: Server, raft: Any, before: _Seen, now: _Seen) -> None:
        log, name = raft.log, server.name
        made = EntryId(Term(0), Index(0))  # the last entry that is known to be committed from this turn on
        for number in range(max(before.commit + 1, log.first_index), now.commit + 1):
            at = EntryId(log.term(Index(number)), Index(number))
            known = self.committed_terms.get(at.index)
            if known is None:
                self.committed_terms[at.index] = known = at.term
                made = at
            self.require(at.term == known, f"G4: {name} commits entry {at.index} of term {at.term}, and it was of term {known}")
        if not made.index:
            return
        # A turn may have done more than commit: a leader may have become a follower since, and heard of what another one did.
        leader = before if before.role is Role.LEADER else now
        self.require(leader.role is Role.LEADER, f"G4: {name} commits {made}, which no leader has committed")
        if before.role is Role.LEADER:
            self.require(made.term == leader.term, f"G4: leader {name} of term {leader.term} commits {made} by counting copies")
        self.commits[leader.term] = max(made.index, self.commits.get(leader.term, made.index))
        self._require_majority(server, (before.membership, now.membership), made)

    def _require_majority(self, server: Server, memberships: Sequence[Membership], at: EntryId) -> None:
        """G6: what is committed is on the disks of a majority, by the configuration before this turn or the one after it."""
        holding = {replica_id for replica_id, each in self.servers.items() if self._holds(each, at.index, at.term)}
        majority = any(
            all(2 * len(holding & set(half)) > len(half) for half in (each.voters, each.voters_outgoing) if half)
            for each in (membership.conf_state() for membership in memberships)
        )
        self.require(
            majority,
            f"G6: {server.name} commits {at.index} of term {at.term}, which only replicas {sorted(holding)} have on disk",
        )

    def restored(self, server: Server) -> None:
        """A backup was put in the place of a server's disk: its replica may have forgotten anything, and must take no part."""
        self._durable.pop(server.name, None)
        self._seen.pop(server.name, None)
        self._lost.add(server.name)
        for name, term in [key for key in self.votes if key[0] == server.name]:
            del self.votes[name, term]

    def _holds(self, server: Server, index: Index, term: Term) -> bool:
        if server.name in self._lost:
            return True  # it held what it has acknowledged, until its disk was replaced
        raft = server.disk.raft()
        if raft is None or raft[META].get(BASE) is None:
            return False
        return index <= _base(raft).index or _term_at(raft, index) == term

    def sent(self, server: Server, message: Message) -> None:
        """A message leaves: what it promises must be durable."""
        kind = message.type
        if kind not in (MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE):
            self._term_sent(server, message)
        if kind in (MessageType.APPEND, MessageType.HEARTBEAT):
            self._commit_sent(server, message)
        if message.reject or kind not in (MessageType.VOTE_RESPONSE, MessageType.APPEND_RESPONSE):
            if kind is MessageType.APPEND:
                self._append_sent(server, message)
            return
        raft = server.disk.raft()
        assert raft is not None
        hard = _hard_state(raft)
        if hard.term > message.term:
            return
        if kind is MessageType.VOTE_RESPONSE:
            self.require(
                (hard.term, hard.vote) == (message.term, message.to),
                f"G6: {server.name} votes for {message.to} in term {message.term}; on disk are vote {hard.vote}, {hard.term}",
            )
        else:
            last = _last(raft)
            self.require(
                last.index >= message.index,
                f"G6: {server.name} acknowledges entry {message.index}; on disk its log ends at {last}",
            )

    def _term_sent(self, server: Server, message: Message) -> None:
        raft = server.disk.raft()
        assert raft is not None
        hard = _hard_state(raft)
        self.require(
            hard.term >= message.term,
            f"G6: {server.name} sends {message.type.name.lower()} in term {message.term}; on disk is term {hard.term}",
        )
        if message.type is MessageType.VOTE and hard.term == message.term:
            self.require(
                hard.vote == message.from_,
                f"G6: {server.name} stands in term {message.term}; on disk is its vote for {hard.vote or 'nobody'}",
            )

    def _commit_sent(self, server: Server, message: Message) -> None:
        replica = server.replica
        if replica is None or not replica._raw.is_leader or replica._raw.term != message.term:
            return  # it has led until this turn, and knows nothing of its peers any more
        raft = replica._raw._raft
        commit, last = raft.log.committed, raft.log.last_index
        self.require(
            message.commit <= commit <= last,
            f"G8: {server.name} tells commit {message.commit}; its own is {commit}, and its log ends at {last}",
        )
        progress = raft.tracker.progress.get(message.to)
        if message.type is MessageType.HEARTBEAT and progress is not None:
            self.require(
                message.commit <= progress.match,
                f"G8: {server.name} tells replica {message.to} commit {message.commit}, whose match is {progress.match}",
            )

    def _append_sent(self, server: Server, message: Message) -> None:
        before = message.log_term
        for entry in message.entries:
            self._entry_seen(server.name, entry, before)
            before = entry.term
        known = self.leaders.setdefault(message.term, server.name)
        self.require(known == server.name, f"G1: {server.name} sends appends in term {message.term}, which {known} has led")

    def applied(self, name: str, at: EntryId, payload: bytes, answers: object, written: list[bytes]) -> None:
        server = next((each for each in self.servers.values() if each.name == name), None)
        known = self.applies.get(at.index)
        if known is None:
            self.applies[at.index] = (at, payload, answers)
            self._first_applied(name, at, written)
            if isinstance(answers, tuple):
                self._first_answered(at, payload, answers)
        else:
            self.require(known[:2] == (at, payload), f"G5: {name} applies another entry {at.index} of term {at.term}: {known[0]}")
            self.require(known[2] == answers, f"G5: {name} answers entry {at.index} with {answers}, it was {known[2]}")
        if server is not None:
            self.require(self._holds(server, at.index, at.term), f"G6: {name} applies entry {at}, which is not on its disk")

    def _first_applied(self, name: str, at: EntryId, written: list[bytes]) -> None:
        for value in written:
            before = self.writes.setdefault(value, at.index)
            self.require(before == at.index, f"exactly once: {value!r} was written by entry {before}, and by {at.index} again")
        self.require(
            self.committed_terms.get(at.index, at.term) == at.term, f"G5: {name} applies {at}, which was not what was committed"
        )

    def _first_answered(self, at: EntryId, payload: bytes, outcomes: Sequence[Outcome]) -> None:
        """A write that comes again under its number is answered as it was."""
        rest = iter(outcomes)
        for once, commands in envelope.decode(payload):
            for _, offset, _ in commands:
                outcome = next(rest)
                if once is None or outcome.status in (Status.RESULT_FORGOTTEN, Status.SESSION_EXPIRED):
                    continue
                known = self.results.setdefault((once.client_id, once.sequence + offset), outcome)
                self.require(
                    known == outcome,
                    f"exactly once: entry {at.index} answers write {once.sequence + offset} of {once.client_id} with {outcome}, "
                    f"and it was answered with {known}",
                )

    def has_state(self, name: str, index: Index, value: int, how: str) -> None:
        known = self.states.setdefault(index, value)
        self.require(known == value, f"G5: the state that {name} {how} at entry {index} is not what others had there")

    def alarm(self, server: Server, event: SafetyEvent) -> None:
        raise ViolationError(f"{server.name} raises the alarm: {event}")

    # --- what clients see

    @property
    def committed_index(self) -> Index:
        """The last entry that any leader has committed."""
        return max(self.commits.values(), default=Index(0))

    def read(self, server: Server, floor: Index, leased: bool) -> None:
        """A read is served from a state; `floor` is what it must show, as it was known when the read was asked."""
        replica = server.replica
        assert replica is not None
        name, applied = server.name, replica.applied.index
        self.require(
            applied >= floor, f"G10: {name} serves a read from entry {applied}; {floor} was committed before it was asked"
        )
        if leased:
            reads, term = replica._driver.reads, replica._raw.term
            self.require(reads.lease_remaining_s > 0.0, f"lease: {name} serves a read under a lease that its clock has ended")
            earlier = max((index for each, index in self.commits.items() if each < term), default=Index(0))
            self.require(
                applied >= earlier,
                f"lease: {name} serves a read of term {term} from entry {applied}, and earlier terms committed {earlier}",
            )


def _hard_state(raft: Databases) -> HardState:
    record = raft[META].get(HARD_STATE)
    return HardState() if record is None else decode_hard_state(record[SEAL_BYTES:])


def _base(raft: Databases) -> EntryId:
    record = raft[META].get(BASE)
    assert record is not None
    return decode_entry_id(record[SEAL_BYTES:])


def _last(raft: Databases) -> EntryId:
    found = raft[LOG].last()
    return _base(raft) if found is None else decode_entry(*found).id


def _term_at(raft: Databases, index: Index) -> Term | None:
    """Of a durable entry; None where the log does not have it."""
    record = raft[LOG].get(index_key(index))
    if record is not None:
        return decode_entry(index_key(index), record).term
    base = _base(raft)
    return base.term if base.index == index else None
