"""The log as it lies on the disk, a page at a time, for people: what is damaged or missing is told in its place.

The core reads through `LogStore`, which ends at the first bad record. Whoever looks for what is wrong wants to see past it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ravel_node.raft.types import Entry, EntryId, Index
from ravel_node.storage.base import DamagedError, LogPage, LogRecord
from ravel_node.storage.engine import ReadTxn
from ravel_node.storage.keys import BASE, LOG, decode_entry, decode_entry_id, index_key, key_index
from ravel_node.storage.log_store import read_meta

PAGE_RECORDS: Final = 512
PAGE_BYTES: Final = 1 << 20
"""Bounds of what one read transaction goes through. A record that is larger is a page by itself."""


class LogEnds(NamedTuple):
    """From where to where a log reaches, by its keys alone; `last` is `base` in an empty log."""

    base: Index
    last: Index


def log_ends(txn: ReadTxn) -> LogEnds:
    """Where the log begins is what the record of it says; where that is damaged, where the first entry stands."""
    first = next(iter(txn.items(LOG)), None)
    try:
        base = read_meta(txn, BASE, decode_entry_id).index
    except DamagedError:
        base = Index(key_index(first[0]) - 1) if first is not None else Index(0)
    last = txn.last(LOG)
    return LogEnds(base, base if last is None else key_index(last[0]))


def read_log_page(
    txn: ReadTxn, first: Index, end: Index, *, records_max: int = PAGE_RECORDS, bytes_max: int = PAGE_BYTES
) -> LogPage:
    """The records of [first, end), as far as one page goes. `first` 0, or one before the log, is where the log begins."""
    base, last = log_ends(txn)
    at = Index(max(first, base + 1))
    end = Index(min(end, last + 1))
    records: list[LogRecord] = []
    size = 0
    for key, record in txn.items(LOG, index_key(at)):
        index = key_index(key)
        if at >= end or len(records) >= records_max or (records and size + len(record) > bytes_max):
            break
        if index > at:
            until = Index(min(index, end))
            records.append(LogRecord(at, None, _missing(at, until)))
            at = until
            if at >= end:
                break
        records.append(_record(index, key, record))
        size += len(record)
        at = Index(index + 1)
    return LogPage(records, Index(max(at, first)), Index(base + 1), last)


def _record(index: Index, key: bytes, record: bytes) -> LogRecord:
    try:
        return LogRecord(index, decode_entry(key, record), "")
    except ValueError as error:  # its check sum is wrong, or a later version wrote it
        return LogRecord(index, None, str(error))


def _missing(first: Index, end: Index) -> str:
    return "it is missing" if end == first + 1 else f"it and all others up to {end - 1} are missing"


class Continuity:
    """What must hold from one entry of a log to the next, and between its last one and the hard state."""

    def __init__(self) -> None:
        self.previous: EntryId | None = None

    def problem(self, entry: Entry) -> str:
        """Why this entry cannot follow the last one that was given; empty if it can."""
        previous, self.previous = self.previous, entry.id
        if previous is not None and entry.term < previous.term:
            return f"it is of term {entry.term}, and entry {previous.index} before it is of term {previous.term}"
        return ""


def damaged(records: Sequence[LogRecord]) -> list[LogRecord]:
    """Those that could not be read."""
    return [record for record in records if record.entry is None]
