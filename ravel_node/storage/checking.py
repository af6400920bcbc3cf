"""A check of everything, in steps: each runs in a read transaction of its own and goes on where the one before stopped.

So a replica serves meanwhile, and no reader pins pages for long. What changes between two steps must not look like damage: a
record is compared only with others of the same transaction, and a log that was compacted or cut short meanwhile goes on where it
is.

`store check` drives them through `Store.checking` on a live replica, and through `EnvironmentReader` on a directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ravel_node.machine.base import Database, Rules
from ravel_node.raft.types import EntryId, Index
from ravel_node.storage import slot_index
from ravel_node.storage.base import CheckStep, DamagedError
from ravel_node.storage.engine import ReadTxn
from ravel_node.storage.identity import decode_identity
from ravel_node.storage.keys import (
    APPLIED,
    BASE,
    HARD_STATE,
    IDENTITY,
    LOG,
    STATE,
    STATE_NAMES,
    STORE,
    BadRecordError,
    decode_entry_id,
    decode_hard_state,
    decode_number,
    key_index,
    seed_of,
    slot_key,
    unseal,
)
from ravel_node.storage.log_pages import Continuity, read_log_page
from ravel_node.storage.log_store import damaged_record, read_meta
from ravel_node.storage.state_store import StateReader
from ravel_node.storage.state_store import damaged_record as damaged_state_record
from ravelpb.slots import SLOT_COUNT

STEP_RECORDS: Final = 512
STEP_BYTES: Final = 1 << 20
"""Bounds of one step: LMDB's binding keeps the interpreter's lock for each record."""

PROBLEMS_MAX: Final = 1_000
"""Problems told of one part. A file of which more is wrong is lost anyhow, and a report must end."""

_KV: Final = STATE_NAMES[Database.KV]
_SLOTS: Final = STATE_NAMES[Database.SLOTS]
_SEALED: Final = (STORE, *(name for database, name in STATE_NAMES.items() if database is not Database.SLOTS))
_DATABASE_OF: Final = {name: database for database, name in STATE_NAMES.items()}


class LogCheck:
    """Check sums, continuity and terms of a log, and that the hard state goes with it."""

    def __init__(self, *, raft: bool = True) -> None:
        """Without `raft` the hard state is not compared with the log: a store keeps any that it is given."""
        self.finished = False
        self._raft = raft
        self._next = Index(0)  # 0: not begun
        self._continuity = Continuity()
        self._done = 0
        self._told = 0

    def step(self, txn: ReadTxn) -> CheckStep:
        """Read the next records. To be called until `finished`."""
        problems: list[str] = []
        if not self._next:
            problems += self._begin(txn)
        page = read_log_page(txn, self._next, Index(self._next + (1 << 62)))
        for index, entry, problem in page.records:
            if entry is None:
                problems.append(str(damaged_record(f"entry {index}", problem)))
            elif why := self._continuity.problem(entry):
                problems.append(str(damaged_record(f"entry {index}", why)))
        self._done += len(page.records)
        self._next = page.next
        if page.next > page.last:
            self.finished = True
            problems += self._end(txn)
        kept = problems[: max(0, PROBLEMS_MAX - self._told)]
        self._told += len(kept)
        return CheckStep("log", self._done, max(txn.entries(LOG), self._done), tuple(kept))

    def _begin(self, txn: ReadTxn) -> Iterator[str]:
        self._next = Index(1)
        for key, decode in ((IDENTITY, decode_identity), (STATE, decode_number), (HARD_STATE, decode_hard_state)):
            try:
                read_meta(txn, key, decode)
            except DamagedError as error:
                yield str(error)
        try:
            base = read_meta(txn, BASE, decode_entry_id)
        except DamagedError as error:
            yield str(error)
        else:
            self._continuity.previous = base if base.index else None
            first = next(iter(txn.items(LOG)), None)
            if first is not None and key_index(first[0]) <= base.index:
                yield str(damaged_record(f"entry {key_index(first[0])}", f"it should be gone: the log begins after {base.index}"))

    def _end(self, txn: ReadTxn) -> Iterator[str]:
        try:
            hard_state, base = read_meta(txn, HARD_STATE, decode_hard_state), read_meta(txn, BASE, decode_entry_id)
        except DamagedError:
            return  # told at the beginning
        last = self._continuity.previous or EntryId(base.term, base.index)
        if self._raft and hard_state.term < last.term:
            why = f"it is of term {hard_state.term}, and entry {last.index} is of term {last.term}"
            yield str(damaged_record("hard_state", why))
        if self._raft and hard_state.commit > max(last.index, base.index):
            yield str(damaged_record("hard_state", f"{hard_state.commit} was committed, and the log ends at {last.index}"))


class StateCheck:
    """Check sums and sense of every record of an applied state, its slots, and its membership."""

    def __init__(self, file: str, rules: Rules | None = None) -> None:
        """`file` is the name by which it is told of; without the machine's rules check sums and slots are all that is checked."""
        self.finished = False
        self._file = file
        self._rules = rules
        self._names = list(_SEALED)
        self._key = b""  # where the next step goes on in the first of `_names`
        self._slot = 0
        self._unsummarized = False  # the index of some slot was not compared with a summary
        self._done = 0
        self._told = 0

    def step(self, txn: ReadTxn) -> CheckStep:
        """Read the next records. To be called until `finished`."""
        problems: list[str] = []
        if not self._done:
            problems += self._whole(txn)
        problems += self._records(txn) if self._names else self._slots(txn)
        total = sum(txn.entries(name) for name in (*_SEALED, _SLOTS))
        kept = problems[: max(0, PROBLEMS_MAX - self._told)]
        self._told += len(kept)
        return CheckStep("state", self._done, max(total, self._done), tuple(kept))

    def _whole(self, txn: ReadTxn) -> Iterator[str]:
        reader = StateReader(txn, self._file)
        try:
            applied = reader.applied()
            if self._rules is not None:
                yield from (f"{self._file}: {problem}" for problem in self._rules.state(reader.get, applied.index))
        except DamagedError as error:
            if txn.get(STORE, APPLIED) is None:
                yield str(error)  # what is there and damaged is told with the other records

    def _records(self, txn: ReadTxn) -> Iterator[str]:
        name = self._names[0]
        seed, size = seed_of(name), 0
        for count, (key, record) in enumerate(txn.items(name, self._key)):
            if count == STEP_RECORDS or size > STEP_BYTES:
                self._key = key
                return
            size += len(record)
            self._done += 1
            try:
                problem = self._sense(txn, name, key, unseal(seed, key, record))
            except BadRecordError as error:
                problem = str(error)
            if problem:
                yield str(damaged_state_record(self._file, name, key, problem))
        del self._names[0]
        self._key = b""

    def _sense(self, txn: ReadTxn, name: str, key: bytes, payload: bytes) -> str:
        database = _DATABASE_OF.get(name)
        if database is None or self._rules is None:
            return ""
        try:
            return self._rules.record(database, key, payload, StateReader(txn, self._file).get)
        except DamagedError:
            return ""  # of another record, told with it

    def _slots(self, txn: ReadTxn) -> Iterator[str]:
        """Compare the index of slots with the keys, and with the summaries of slots where these are of this state.

        Every key that the index names is there, and is in its own slot; as many as there are keys make them all. A state without
        summaries is one that no daemon of this version has opened yet.
        """
        seen = 0
        while self._slot < SLOT_COUNT and seen < STEP_RECORDS:
            summary = self._summary(txn)
            found = slot_index.check_slot(txn, self._slot, summary)
            for problem in found.problems:
                yield str(damaged_state_record(self._file, _SLOTS, slot_key(self._slot), problem))
            self._unsummarized = self._unsummarized or summary is None
            self._slot += 1
            seen += 1 + found.keys
        if self._slot < SLOT_COUNT:
            return
        self._done += txn.entries(_SLOTS)
        self.finished = True
        if self._unsummarized and txn.entries(_SLOTS) != txn.entries(_KV):
            why = f"it has {txn.entries(_SLOTS)} keys and {_KV} has {txn.entries(_KV)}"
            yield str(damaged_state_record(self._file, _SLOTS, b"", why))

    def _summary(self, txn: ReadTxn) -> int | None:
        """Return the summary of the next slot; None where none can be read, which is reported with the other records."""
        try:
            return slot_index.summary_of(txn, self._slot) if slot_index.are_current(txn) else None
        except BadRecordError:
            return None
