"""The log, the hard state and what else must commit with them, in the environment raft/.

The newest entries are also kept in memory, so that what the core reads while it replicates never touches the disk; what lies
further back (a follower far behind asks for it) is read and checked record by record. Nothing is read ahead at start: a damaged
record is found when it is needed, or by `damage`.

What is in memory follows the disk: it changes on the loop once the commit has returned, and shows only what is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from ravel_node.machine.high_water import HighWaterMark, Marks, decode_marks, encode_marks
from ravel_node.raft.errors import CompactedError, InvariantError, UnavailableError, invariant
from ravel_node.raft.storage import entry_size, limited
from ravel_node.raft.types import Entry, EntryId, HardState, Index, ReplicaId, Term
from ravel_node.storage.base import Boot, DamagedError, EnvironmentStats, Identity, Save
from ravel_node.storage.engine import DATA_FILE, WAY_OUT, Environment, ReadTxn, View, WriteTxn
from ravel_node.storage.identity import decode_identity, encode_identity
from ravel_node.storage.keys import (
    BASE,
    BOOT,
    HARD_STATE,
    IDENTITY,
    LOG,
    META,
    PEERS,
    STATE,
    BadRecordError,
    decode_boot,
    decode_entry,
    decode_entry_id,
    decode_hard_state,
    decode_number,
    encode_boot,
    encode_entry,
    encode_entry_id,
    encode_hard_state,
    encode_number,
    index_key,
    key_index,
    seal,
    seed_of,
    unseal,
)

T = TypeVar("T")

FILE: Final = f"raft/{DATA_FILE}"
PAUSE_RECORDS: Final = 1_024
"""A save of more records lets other threads run after each so many."""

_SEED: Final = seed_of(META)


@dataclass(frozen=True, slots=True)
class Birth:
    """What the first transaction of a directory writes, and that of a cluster's first replica."""

    identity: Identity
    base: EntryId
    hard_state: HardState
    state: int


class LogStore:
    """The read half of `raft.Storage`, and the writes. Everything runs on the loop."""

    def __init__(self, env: Environment, *, tail_bytes_max: int, compact_records_max: int) -> None:
        self._env = env
        self._tail_bytes_max = tail_bytes_max
        self._compact_records_max = compact_records_max
        self._view: View = env.view()
        self._tail: list[Entry] = []  # invariant: contiguous, and ends at `_last` unless it is empty
        self._tail_bytes = 0
        try:
            self.identity = read_meta(self._view, IDENTITY, decode_identity)
            self.state = read_meta(self._view, STATE, decode_number)
            self.hard_state = read_meta(self._view, HARD_STATE, decode_hard_state)
            self.boot = read_boot(self._view)
            self.peer_marks = _read_peer_marks(self._view)
            self._base = read_meta(self._view, BASE, decode_entry_id)
            self._last = self._last_entry()
        finally:
            self._view.close()

    # --- starting

    @classmethod
    async def create(cls, env: Environment, birth: Birth) -> None:
        """Write the first records of a new directory."""
        await env.write(lambda txn: _write_birth(txn, birth))

    @staticmethod
    def exists(env: Environment) -> bool:
        """Whether the directory was made to its end."""
        view = env.view()
        try:
            return view.get(META, IDENTITY) is not None
        finally:
            view.close()

    def _last_entry(self) -> EntryId:
        found = self._view.last(LOG)
        if found is None:
            return self._base
        last = _decode(*found)
        count = self._view.entries(LOG)
        if last.index != self._base.index + count:
            raise damaged_record(f"entry {last.index}", f"it is the last of {count} after entry {self._base.index}")
        return last.id

    # --- reading (raft.Storage)

    @property
    def base(self) -> EntryId:
        """The entry before the first one: compacted, or the point of the snapshot that the log began from."""
        return self._base

    @property
    def last(self) -> EntryId:
        return self._last

    def first_index(self) -> Index:
        return Index(self._base.index + 1)

    def last_index(self) -> Index:
        return self._last.index

    def term(self, index: Index) -> Term:
        if index == self._last.index:
            return self._last.term
        if index == self._base.index:
            return self._base.term
        if index < self._base.index:
            raise CompactedError
        if index > self._last.index:
            raise UnavailableError
        at = index - self._tail_first
        return self._tail[at].term if at >= 0 else self._read(index, Index(index + 1), 0)[0].term

    def entries(self, first: Index, end: Index, bytes_max: int) -> Sequence[Entry]:
        if first <= self._base.index:
            raise CompactedError
        if end > self._last.index + 1:
            raise UnavailableError
        if first >= end:
            return ()
        tail_first = self._tail_first
        if first >= tail_first:
            return limited(self._tail[first - tail_first : end - tail_first], bytes_max)
        older = self._read(first, Index(min(end, tail_first)), bytes_max)
        if older[-1].index + 1 < tail_first or end <= tail_first:
            return older
        return limited([*older, *self._tail[: end - tail_first]], bytes_max)

    @property
    def _tail_first(self) -> int:
        return self._last.index + 1 - len(self._tail)

    def _read(self, first: Index, end: Index, bytes_max: int) -> list[Entry]:
        """Entries of [first, end) from the disk, cut as `limited` cuts. Raises DamagedError."""
        view = self._env.view()
        try:
            found: list[Entry] = []
            size = 0
            for entry in _entries(view, first, end):
                size += entry_size(entry)
                if found and size > bytes_max:
                    break
                found.append(entry)
        finally:
            view.close()
        if not found:
            raise damaged_record(f"entry {first}", "it is missing")
        return found

    # --- writing

    async def save(self, saves: Sequence[Save], state: int | None = None) -> None:
        """One durable transaction. `state` is the number of the state directory that a snapshot among the saves came with."""
        last = self._last
        await self._env.write(lambda txn: _write_saves(txn, saves, last.index, state))
        for save in saves:
            if save.snapshot is not None:
                self._base = self._last = save.snapshot.id
                self._tail.clear()
                self._tail_bytes = 0
            if save.entries:
                self._extend_tail(save.entries)
            if save.hard_state is not None:
                self.hard_state = save.hard_state
        if state is not None:
            self.state = state

    def _extend_tail(self, entries: Sequence[Entry]) -> None:
        kept = entries[0].index - self._tail_first
        if 0 <= kept < len(self._tail):
            self._tail_bytes -= sum(entry_size(entry) for entry in self._tail[kept:])
            del self._tail[kept:]
        elif kept < 0:
            self._tail.clear()
            self._tail_bytes = 0
        self._tail.extend(entries)
        self._tail_bytes += sum(entry_size(entry) for entry in entries)
        self._last = entries[-1].id
        if self._tail_bytes > self._tail_bytes_max:
            self._shorten_tail()

    def _shorten_tail(self) -> None:
        """Let go of the oldest entries until three quarters of the bound are left: seldom, so that each save does not move the
        list.
        """
        drop = 0
        while self._tail_bytes > self._tail_bytes_max * 3 // 4 and drop < len(self._tail) - 1:
            self._tail_bytes -= entry_size(self._tail[drop])
            drop += 1
        del self._tail[:drop]

    async def birth(self, birth: Birth) -> None:
        """Replace everything: a cluster begins, or this directory joins one."""
        await self._env.write(lambda txn: _write_birth(txn, birth))
        self.identity, self.hard_state, self.state = birth.identity, birth.hard_state, birth.state
        self.boot, self.peer_marks = Boot(), {}
        self._base = self._last = birth.base
        self._tail.clear()
        self._tail_bytes = 0

    async def set_identity(self, identity: Identity) -> None:
        await self._env.write(lambda txn: _put(txn, IDENTITY, encode_identity(identity)))
        self.identity = identity

    async def record_boot(self, boot: Boot) -> None:
        await self._env.write(lambda txn: _put(txn, BOOT, encode_boot(boot)))
        self.boot = boot

    async def record_peer_marks(self, marks: Marks) -> None:
        await self._env.write(lambda txn: _put(txn, PEERS, encode_marks(marks)))
        self.peer_marks = dict(marks)

    async def compact_step(self, to: Index) -> bool:
        """Drop the oldest entries up to `to`, as many as one transaction may; whether there are more."""
        first = self.first_index()
        if to < first:
            return False
        until = Index(min(to, first + self._compact_records_max - 1))
        invariant(until <= self._last.index, f"compacting to {until} beyond the last entry {self._last.index}")
        base = EntryId(self.term(until), until)
        tail_first = self._tail_first
        self._base = base  # before the transaction, so that nothing reads what it is about to drop
        if until >= tail_first:
            dropped = until + 1 - tail_first
            self._tail_bytes -= sum(entry_size(entry) for entry in self._tail[:dropped])
            del self._tail[:dropped]
        await self._env.write(lambda txn: _write_compaction(txn, first, base))
        return until < to

    # --- the rest

    def used_bytes(self) -> int:
        return self._env.stats().used

    def stats(self) -> EnvironmentStats:
        return self._env.stats()

    @property
    def environment(self) -> Environment:
        return self._env

    async def close(self) -> None:
        await self._env.close()


def _write_birth(txn: WriteTxn, birth: Birth) -> None:
    txn.clear(LOG)
    txn.delete(META, BOOT)
    txn.delete(META, PEERS)
    _put(txn, BASE, encode_entry_id(birth.base))
    _put(txn, HARD_STATE, encode_hard_state(birth.hard_state))
    _put(txn, STATE, encode_number(birth.state))
    _put(txn, IDENTITY, encode_identity(birth.identity))


def _write_saves(txn: WriteTxn, saves: Sequence[Save], last: Index, state: int | None) -> None:
    hard_state = None
    written = 0
    for save in saves:
        if save.snapshot is not None:
            txn.clear(LOG)
            _put(txn, BASE, encode_entry_id(save.snapshot.id))
            last = save.snapshot.index
        if save.entries:
            first = save.entries[0].index
            invariant(first <= last + 1, f"appending at {first} leaves a gap after {last}")
            if first <= last:
                txn.delete_from(LOG, index_key(first))
            for index, entry in enumerate(save.entries, first):
                if entry.index != index:
                    raise InvariantError(f"entry {entry.index} was appended where {index} comes next")
                txn.append(LOG, index_key(index), encode_entry(entry))
                written += 1
                if not written % PAUSE_RECORDS:
                    txn.pause()
            last = save.entries[-1].index
        hard_state = save.hard_state or hard_state
    if hard_state is not None:
        _put(txn, HARD_STATE, encode_hard_state(hard_state))
    if state is not None:
        _put(txn, STATE, encode_number(state))


def _write_compaction(txn: WriteTxn, first: Index, base: EntryId) -> None:
    _put(txn, BASE, encode_entry_id(base))
    for index in range(first, base.index + 1):
        if not txn.delete(LOG, index_key(index)):
            raise damaged_record(f"entry {index}", "it is missing")
        if not index % PAUSE_RECORDS:
            txn.pause()


def _put(txn: WriteTxn, key: bytes, payload: bytes) -> None:
    txn.put(META, key, seal(_SEED, key, payload))


def _decode(key: bytes, record: bytes) -> Entry:
    try:
        return decode_entry(key, record)
    except (BadRecordError, ValueError) as error:
        raise damaged_record(f"entry {key_index(key)}", str(error)) from error


def _entries(txn: ReadTxn, first: Index, end: Index) -> Iterator[Entry]:
    """Checked entries of [first, end). Raises DamagedError at the first bad or missing one."""
    expected = first
    for key, record in islice(txn.items(LOG, index_key(first)), end - first):
        if key != index_key(expected):
            raise damaged_record(f"entry {expected}", f"it is missing, the next one is {key_index(key)}")
        yield _decode(key, record)
        expected = Index(expected + 1)


def read_meta(txn: ReadTxn, key: bytes, decode: Callable[[bytes], T]) -> T:
    """One record of META. Raises DamagedError."""
    record = txn.get(META, key)
    if record is None:
        raise damaged_record(key.decode(), "it is missing")
    try:
        return decode(unseal(_SEED, key, record))
    except BadRecordError as error:
        raise damaged_record(key.decode(), str(error)) from error


def read_boot(txn: ReadTxn) -> Boot:
    """Return the newest start of a replica; an empty Boot where none was recorded. Raises DamagedError."""
    return read_meta(txn, BOOT, decode_boot) if txn.get(META, BOOT) is not None else Boot()


def _read_peer_marks(txn: ReadTxn) -> dict[ReplicaId, HighWaterMark]:
    if txn.get(META, PEERS) is None:
        return {}
    try:
        return read_meta(txn, PEERS, decode_marks)
    except ValueError as error:
        raise damaged_record(PEERS.decode(), str(error)) from error


def damaged_record(what: str, why: str) -> DamagedError:
    return DamagedError(f"{FILE}: {what} is damaged: {why}; {WAY_OUT}")
