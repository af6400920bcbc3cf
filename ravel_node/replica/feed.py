"""Every change of user data in the order of revisions, as far back as this replica's log reaches.

**Theory.** A watch is a cursor into the log. Nothing is kept for it: what a slow watcher has not taken stands in the log
anyway, and a fast one reads the newest entries, which the store holds in memory. Three things make the log enough:

1. *Which commands did something* depends on a state that is gone. The machine noted, as part of the replicated state, the few
   that did not (`ravel_node.machine.history`), so an entry and its note give the changes. Only applied entries are read: they
   are committed, durable here, and their note is there.
2. *Which revision an entry began with* follows by counting: each change moved the revision by one, and what raised it otherwise
   (an import of slots, which is no event) was noted too. The count begins at an anchor, which the machine wrote for each 64th
   entry, or at what is applied now. From there it goes forward, and backward only to find where the log's first entry stands.
3. *Where the past ends*: at the first entry of the log. Compaction moves it forward (never beyond what is flushed, and always
   leaving `log_retain_entries`), installing a snapshot moves it to the snapshot. A start moves nothing. A reader that is
   behind it gets `RevisionCompactedError` with the first revision there is, and may find more at another replica, since each
   compacts by itself.

A cursor is a `Position`: an entry, and the revision before it. It stays right for ever, because an applied entry never
changes; it can only fall out of the log. Then `seek` finds a new one, which succeeds if no change was missed (a snapshot may
have skipped entries that changed nothing). All is read through one `Reader` and without an await between, so that a snapshot
which takes the place of the state can not mix two points in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from ravel_node.machine import history
from ravel_node.machine.base import Reader
from ravel_node.machine.history import ANCHOR_ENTRIES, Change
from ravel_node.machine.kv import read_revision
from ravel_node.raft import Entry, EntryType, Index
from ravel_node.raft.errors import invariant
from ravel_node.replica.errors import ReplicaBusyError, RevisionCompactedError
from ravel_node.storage.base import Store

COUNT_BYTES_MAX: Final = 1 << 20
"""Bytes of entries that are read at once while counting revisions."""


class Position(NamedTuple):
    """A place in the log: the entry to read next, and the cluster's revision before it."""

    index: Index  # type: ignore[assignment]  # a tuple has a method of that name, which nobody needs here
    revision: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one entry changed: revision `before` + 1 is that of the first list of `changes`, and so on."""

    index: Index
    before: int
    changes: list[list[Change]]
    raised: int = 0  # by how much the revision moved on after these changes, without an event

    @property
    def next(self) -> Position:
        return Position(Index(self.index + 1), self.before + len(self.changes) + self.raised)


class Feed:
    """The changes of one replica. Everything runs on the loop and returns at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._oldest: Position | None = None  # the last answer of `oldest`: right until the log's beginning moves

    def head(self) -> Position:
        """Behind the last applied entry."""
        reader = self._store.reader()
        return Position(Index(reader.applied.index + 1), read_revision(reader.get))

    def oldest(self) -> Position:
        """The first entry whose changes are known. Raises ReplicaBusyError while a snapshot is about to become the state."""
        reader = self._store.reader()
        first = self._first_index(reader)
        if first > reader.applied.index + 1:
            raise ReplicaBusyError("a snapshot is becoming the state of this replica; try again in a moment")
        if self._oldest is None or self._oldest.index != first:
            self._oldest = Position(first, self._revision_before(reader, first))
        return self._oldest

    def seek(self, revision: int) -> Position:
        """A position from which reading finds every change from `revision` on, and few before it.

        A revision that is still to come is found at the head. Raises RevisionCompactedError, ReplicaBusyError.
        """
        reader = self._store.reader()
        head = self.head()
        if revision > head.revision:
            return head
        best = self.oldest()
        if revision <= best.revision:
            raise RevisionCompactedError(revision, best.revision + 1)
        low, high = best.index // ANCHOR_ENTRIES + 1, reader.applied.index // ANCHOR_ENTRIES
        while low <= high:
            middle = (low + high) // 2
            before = _anchor(reader, middle * ANCHOR_ENTRIES)
            if before < revision:
                best, low = Position(Index(middle * ANCHOR_ENTRIES), before), middle + 1
            else:
                high = middle - 1
        return best

    def read(self, position: Position, bytes_max: int) -> Iterator[Step]:
        """The applied entries from `position` on, about `bytes_max` of them and at least one if there is one.

        To be used up without an await. Raises RevisionCompactedError, ReplicaBusyError.
        """
        reader = self._store.reader()
        if position.index > reader.applied.index:
            return
        if position.index < self._first_index(reader):
            raise RevisionCompactedError(position.revision + 1, self.oldest().revision + 1)
        before = position.revision
        for entry in self._store.entries(position.index, Index(reader.applied.index + 1), bytes_max):
            step = Step(entry.index, before, _changes(reader, entry), history.read_raise(reader.get, entry.index))
            before = step.next.revision
            yield step

    def arrivals(self) -> Callable[[int], int]:
        """Return a function of a slot, which returns the revision after the entry by which the slot came here last; 0: none has.

        It is valid until the next await.
        """
        get = self._store.reader().get
        return lambda slot: history.read_arrival(get, slot)

    def _first_index(self, reader: Reader) -> Index:
        """The first entry that is in the log, and whose changes can be told; one more than the last where there is none."""
        since = history.read_since(reader.get) or Index(reader.applied.index + 1)
        return max(self._store.first_index(), since)

    def _revision_before(self, reader: Reader, index: Index) -> int:
        """The revision before this entry, counted back from the next known one."""
        anchor = Index(-(-index // ANCHOR_ENTRIES) * ANCHOR_ENTRIES)
        if anchor <= reader.applied.index:
            revision = _anchor(reader, anchor)
        else:
            anchor, revision = Index(reader.applied.index + 1), read_revision(reader.get)
        while index < anchor:
            for entry in self._store.entries(index, anchor, COUNT_BYTES_MAX):
                revision -= len(_changes(reader, entry)) + history.read_raise(reader.get, entry.index)
                index = Index(entry.index + 1)
        return revision


def _anchor(reader: Reader, index: int) -> int:
    before = history.read_anchor(reader.get, index)
    invariant(before is not None, f"there is no anchor at entry {index}, though {reader.applied.index} was applied")
    return before or 0


def _changes(reader: Reader, entry: Entry) -> list[list[Change]]:
    if entry.type is not EntryType.NORMAL:
        return []
    return history.changes(entry.data, history.read_idle(reader.get, entry.index))
