"""Retried writes happen once: registered clients and the answers that they may still ask for.

After Ongaro's thesis, section 6.3. A client registers through the log, numbers its writes 1, 2, 3, ... and says with each group
below which number it holds all answers. The cluster keeps every answer from there on, so that a write that comes again is
answered and not run.

    Database.SESSIONS   client id u64 -> stamp u64, acked below u64
    Database.RESULTS    client id u64, first sequence u64 -> the answers of one group (below)

    answers = 0 u8, count u16, first revision u64                                   a run of puts: dense sequences and revisions
            | 1 u8, count u16, then for each: offset u16, status u8, found u8, revision u64, value length u32, value

All numbers are big-endian. A *stamp* is a place in the log: index << 16 | place in the entry. No two groups share one, so stamps
order sessions by their last use, and the least recently used is the same on every replica, before and after a restart: nothing
about the order is kept in memory alone. One record a group keeps the cost of a batch small; it goes once its last sequence is
acknowledged.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ravel_node.machine.base import Database, Outcome, Reader, Status, Txn
from ravel_node.machine.envelope import Kind, Once
from ravel_node.machine.limits import RESULT_BYTES_MAX, RESULTS_MAX, SESSIONS_MAX
from ravel_node.raft.errors import invariant

_SESSION: Final = struct.Struct(">QQ")
_RESULT_KEY: Final = struct.Struct(">QQ")
_RUN: Final = struct.Struct(">BHQ")
_HEAD: Final = struct.Struct(">BH")
_ANSWER: Final = struct.Struct(">HBBQI")
_U64: Final = struct.Struct(">Q")
_FORM_RUN: Final = 0
_FORM_ANSWERS: Final = 1
_PUTS_ONLY: Final[set[int]] = {Kind.PUT}
_SEQUENCE_END: Final = 1 << 64

_EXPIRED: Final = Outcome(Status.SESSION_EXPIRED)
_FORGOTTEN: Final = Outcome(Status.RESULT_FORGOTTEN)


@dataclass(slots=True)
class _Session:
    """What memory mirrors of one client: which sequences have an answer, and in which record it is.

    The arrays have one item for each run of sequences that are not acknowledged: its first and last sequence, the record with its
    answers, and that record's size at the last of its runs, 0 at its others. So what is acknowledged tells which records go.
    """

    stamp: int
    acked_below: int
    firsts: array[int] = field(default_factory=lambda: array("Q"))  # invariant: runs ascend and do not overlap
    lasts: array[int] = field(default_factory=lambda: array("Q"))
    records: array[int] = field(default_factory=lambda: array("Q"))
    weights: array[int] = field(default_factory=lambda: array("Q"))
    count: int = 0  # invariant: the sequences in all runs
    size: int = 0  # invariant: the sum of weights

    def add(self, sequences: Sequence[int], record: int, weight: int) -> None:
        """Note the answers of one record. Sequences ascend; those of other records may lie between."""
        for first, last in _runs(sequences):
            at = bisect_right(self.firsts, first)
            self.firsts.insert(at, first)
            self.lasts.insert(at, last)
            self.records.insert(at, record)
            self.weights.insert(at, weight if last == sequences[-1] else 0)
        self.count += len(sequences)
        self.size += weight

    def acknowledge(self, below: int) -> list[int]:
        """Forget the answers below this sequence; the records that hold no other are returned."""
        self.acked_below = below
        end = bisect_left(self.firsts, below)
        if end and self.lasts[end - 1] >= below:
            end -= 1
            self.count -= below - self.firsts[end]
            self.firsts[end] = below
        weights = self.weights[:end]
        gone = [record for record, weight in zip(self.records, weights, strict=False) if weight]
        self.count -= sum(self.lasts[:end]) - sum(self.firsts[:end]) + end
        self.size -= sum(weights)
        del self.firsts[:end], self.lasts[:end], self.records[:end], self.weights[:end]
        return gone

    def record_of(self, sequence: int) -> int | None:
        """First sequence of the record that holds this one's answer."""
        at = bisect_right(self.firsts, sequence) - 1
        return self.records[at] if at >= 0 and sequence <= self.lasts[at] else None


def _runs(sequences: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run without a gap; the sequences ascend strictly."""
    first = last = sequences[0]
    if sequences[-1] - first == len(sequences) - 1:
        yield first, sequences[-1]
        return
    for sequence in sequences[1:]:
        if sequence != last + 1:
            yield first, last
            first = sequence
        last = sequence
    yield first, last


@dataclass(slots=True)
class Admission:
    """What of a group is to be run, and the answers to the rest."""

    client_id: int
    session: _Session | None  # None: nothing runs
    commands: Sequence[tuple[int, int, bytes]]  # to be run, in this order
    sequences: Sequence[int]  # of these commands, ascending
    answers: list[Outcome | None] | None = None  # one for each command of the group, None for those to be run; None: all are


class Sessions:
    """The registered clients of a cluster. Called by its machine only."""

    def __init__(self, sessions_max: int = SESSIONS_MAX) -> None:
        self._sessions_max: Final = sessions_max
        self._by_use: OrderedDict[int, _Session] = OrderedDict()  # invariant: stamps ascend
        self._used: dict[int, _Session] = {}  # to be written at the end of the entry

    def __len__(self) -> int:
        return len(self._by_use)

    def open(self, reader: Reader) -> None:
        """Load the mirror, into an object that was not used before."""
        pairs = reader.scan(Database.SESSIONS, b"", None)
        loaded = {_U64.unpack(key)[0]: _Session(*_SESSION.unpack(value)) for key, value in pairs}
        self._by_use = OrderedDict(sorted(loaded.items(), key=lambda pair: pair[1].stamp))
        for key, value in reader.scan(Database.RESULTS, b"", None):
            client_id, first = _RESULT_KEY.unpack(key)
            acked_below = self._by_use[client_id].acked_below if client_id in self._by_use else _SEQUENCE_END
            sequences = [sequence for sequence, _ in _answers(first, value) if sequence >= acked_below]
            invariant(bool(sequences), f"answers from {first} on of client {client_id} are stored, but it cannot ask for them")
            self._by_use[client_id].add(sequences, first, len(value))

    def register(self, client_id: int, stamp: int, txn: Txn) -> bool:
        """Begin a session, and end the least recently used ones beyond the bound. Return False if the id is in use."""
        if client_id in self._by_use:
            return False
        self._by_use[client_id] = self._used[client_id] = _Session(stamp, 1)
        while len(self._by_use) > self._sessions_max:
            client_id, session = self._by_use.popitem(last=False)
            self._used.pop(client_id, None)
            txn.delete(Database.SESSIONS, _U64.pack(client_id))
            _drop(client_id, session.acknowledge(_SEQUENCE_END), txn)
        return True

    def admit(self, once: Once, commands: Sequence[tuple[int, int, bytes]], stamp: int, txn: Txn) -> Admission:
        """Judge a group, of one command at least. The machine runs what is admitted, then calls `settle`."""
        client_id, first, acked_below = once
        session = self._by_use.get(client_id)
        if session is None:
            return _nothing(client_id, commands, _EXPIRED)
        sequences = [first + offset for _, offset, _ in commands]
        if refusal := _refusal(sequences, first, acked_below):
            return _nothing(client_id, commands, refusal)
        session.stamp = stamp
        self._by_use.move_to_end(client_id)
        self._used[client_id] = session
        if acked_below > session.acked_below:
            _drop(client_id, session.acknowledge(acked_below), txn)
        newest = session.lasts[-1] if session.lasts else session.acked_below - 1
        if sequences[0] > newest and session.count + len(sequences) <= RESULTS_MAX:
            return Admission(client_id, session, commands, sequences)
        return _sort_out(client_id, session, commands, sequences, txn)

    def settle(self, admission: Admission, fresh: list[Outcome], revisions: int, txn: Txn) -> list[Outcome]:
        """Keep the answers of what was run, and return those of the whole group.

        `fresh` has one for each admitted command, `revisions` is by how many the cluster's revision moved while they ran.
        """
        session = admission.session
        if session is not None and fresh:
            sequences = admission.sequences
            record = _encode_answers(admission.commands, sequences, fresh, revisions, RESULT_BYTES_MAX - session.size)
            txn.put(Database.RESULTS, _RESULT_KEY.pack(admission.client_id, sequences[0]), record)
            session.add(sequences, sequences[0], len(record))
        if admission.answers is None:
            return fresh
        rest = iter(fresh)
        return [next(rest) if answer is None else answer for answer in admission.answers]

    def write(self, txn: Txn) -> None:
        """At the end of an entry: write what it changed of each session, once however many groups the session had in it."""
        for client_id, session in self._used.items():
            txn.put(Database.SESSIONS, _U64.pack(client_id), _SESSION.pack(session.stamp, session.acked_below))
        self._used.clear()


def _nothing(client_id: int, commands: Sequence[tuple[int, int, bytes]], answer: Outcome) -> Admission:
    return Admission(client_id, None, (), (), [answer] * len(commands))


def _refusal(sequences: list[int], first: int, acked_below: int) -> Outcome | None:
    """A group that no correct client sends, or one with more writes than answers are kept."""
    count = len(sequences)
    if count > RESULTS_MAX:
        why = f"a group of {count} writes of one session, at most {RESULTS_MAX}"
    elif first < 1 or sequences[-1] >= _SEQUENCE_END:
        why = f"sequences {sequences[0]} to {sequences[-1]}: they start at 1 and have 64 bits"
    elif acked_below > first:
        why = f"acknowledged below {acked_below}, which the group's own sequence {first} lies under"
    elif sequences != list(range(sequences[0], sequences[0] + count)) and sequences != sorted(set(sequences)):
        why = f"the sequences of a group must ascend, {sequences[0]} to {sequences[-1]} do not"
    else:
        return None
    return Outcome(Status.REFUSED, value=why.encode())


def _sort_out(
    client_id: int, session: _Session, commands: Sequence[tuple[int, int, bytes]], sequences: list[int], txn: Txn
) -> Admission:
    """The slow way of `admit`: some commands may have been run before, or too many wait for their acknowledgement."""
    answers: list[Outcome | None] = []
    read: dict[int, dict[int, Outcome]] = {}
    for sequence in sequences:
        record = session.record_of(sequence)
        if sequence < session.acked_below:
            answers.append(_FORGOTTEN)
        elif record is None:
            answers.append(None)
        else:
            if record not in read:
                stored = txn.get(Database.RESULTS, _RESULT_KEY.pack(client_id, record))
                read[record] = dict(_answers(record, stored or b""))
            answers.append(read[record][sequence])
    new = [at for at, answer in enumerate(answers) if answer is None]
    if session.count + len(new) > RESULTS_MAX:
        why = f"{session.count} writes of this session are not acknowledged, at most {RESULTS_MAX}: acknowledge answers first"
        refused = Outcome(Status.REFUSED, value=why.encode())
        return Admission(client_id, None, (), (), [refused if answer is None else answer for answer in answers])
    return Admission(client_id, session, [commands[at] for at in new], [sequences[at] for at in new], answers)


def _drop(client_id: int, records: Sequence[int], txn: Txn) -> None:
    for record in records:
        txn.delete(Database.RESULTS, _RESULT_KEY.pack(client_id, record))


def _encode_answers(
    commands: Sequence[tuple[int, int, bytes]], sequences: Sequence[int], fresh: Sequence[Outcome], revisions: int, room: int
) -> bytes:
    """The record of a group's answers. `room` is how many bytes of values it may hold."""
    count = len(fresh)
    # Puts alone that moved the revision once each: all were done, one after the other, and the first revision tells the rest.
    if revisions == count == sequences[-1] - sequences[0] + 1 and {command[0] for command in commands} == _PUTS_ONLY:
        return _RUN.pack(_FORM_RUN, count, fresh[0].revision)
    parts = [_HEAD.pack(_FORM_ANSWERS, count)]
    for sequence, answer in zip(sequences, fresh, strict=True):
        kept = answer if len(answer.value) <= room else _FORGOTTEN
        room -= len(kept.value)
        parts += (_ANSWER.pack(sequence - sequences[0], kept.status, kept.found, kept.revision, len(kept.value)), kept.value)
    return b"".join(parts)


def stored_sequences(first: int, record: bytes) -> list[int]:
    """The sequences whose answers a record of RESULTS holds. Raises struct.error, ValueError, InvariantError for what is none."""
    return [sequence for sequence, _ in _answers(first, record)]


def _answers(first: int, record: bytes) -> Iterator[tuple[int, Outcome]]:
    """Sequences, ascending, and answers of a record; `first` is the sequence in its key."""
    form, count = _HEAD.unpack_from(record)
    if form == _FORM_RUN:
        revision = _RUN.unpack_from(record)[2]
        yield from ((first + at, Outcome(Status.OK, revision + at)) for at in range(count))
        return
    invariant(form == _FORM_ANSWERS, f"stored answers of form {form}")
    at = _HEAD.size
    for _ in range(count):
        offset, status, found, revision, size = _ANSWER.unpack_from(record, at)
        at += _ANSWER.size + size
        yield first + offset, Outcome(Status(status), revision, bool(found), record[at - size : at])
