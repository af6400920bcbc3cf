"""The read port through which the core sees its durable log, and a log in memory behind the same port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from ravel_node.raft.errors import (
    CompactedError,
    SnapshotOutOfDateError,
    UnavailableError,
    invariant,
)
from ravel_node.raft.types import ConfState, Entry, EntryId, HardState, Index, Snapshot, Term

ENTRY_OVERHEAD_BYTES: Final = 24
"""What an entry is taken to cost besides its payload: its index, its term, its type, a length."""


def entry_size(entry: Entry) -> int:
    """The size that every byte limit on entries counts with; limits on payload alone count `len(entry.data)`."""
    return ENTRY_OVERHEAD_BYTES + len(entry.data)


class Storage(Protocol):
    """What the core reads of the log. Called on the driver's task; must answer from memory or a short disk read.

    It shows only what has been saved. Between `first_index() - 1` and `last_index()` every term is known; entries exist
    from `first_index()` on.
    """

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The hard state and the membership to start with."""
        ...

    def entries(self, first: Index, end: Index, bytes_max: int) -> Sequence[Entry]:
        """Entries of [first, end), cut before the one that would exceed `bytes_max` (`entry_size`), at least one.

        Raises CompactedError where `first` lies below `first_index()`, UnavailableError where the log is shorter.
        """
        ...

    def term(self, index: Index) -> Term:
        """The term of an entry, also of the last compacted one. Raises CompactedError or UnavailableError."""
        ...

    def first_index(self) -> Index:
        """The first index whose entry the log holds; `last_index() + 1` for an empty log."""
        ...

    def last_index(self) -> Index:
        """The last index of the log; the snapshot's where there is nothing after it."""
        ...

    def snapshot(self) -> Snapshot:
        """The newest snapshot that can be sent. Never blocks: raises SnapshotTemporarilyUnavailableError instead."""
        ...


class MemoryStorage:
    """A `Storage` in memory, with the writes that a driver makes. Nothing here survives the process.

    The writes are made by one task, the one that also runs the core; none of them blocks.
    """

    def __init__(self, conf_state: ConfState | None = None) -> None:
        """An empty log whose membership, before any entry, is `conf_state`."""
        self._hard_state = HardState()
        self._conf_state = conf_state or ConfState()
        self._snapshot = Snapshot()
        self._base = EntryId(Term(0), Index(0))  # the last compacted entry; its term stays known
        self._entries: list[Entry] = []  # invariant: contiguous, the first one at _base.index + 1

    @classmethod
    def restore(cls, hard_state: HardState, snapshot: Snapshot, entries: Sequence[Entry] = ()) -> MemoryStorage:
        """The log that a crashed process left behind: `entries` follow `snapshot` without a gap."""
        storage = cls(snapshot.conf_state)
        storage._snapshot = snapshot
        storage._base = snapshot.id
        storage.append(entries)
        storage.set_hard_state(hard_state)
        return storage

    # What the core reads.

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._conf_state

    def first_index(self) -> Index:
        return Index(self._base.index + 1)

    def last_index(self) -> Index:
        return Index(self._base.index + len(self._entries))

    def term(self, index: Index) -> Term:
        if index == self._base.index:
            return self._base.term
        if index < self._base.index:
            raise CompactedError
        if index > self.last_index():
            raise UnavailableError
        return self._entries[index - self._base.index - 1].term

    def entries(self, first: Index, end: Index, bytes_max: int) -> Sequence[Entry]:
        if first <= self._base.index:
            raise CompactedError
        if end > self.last_index() + 1:
            raise UnavailableError
        offset = self._base.index + 1
        return limited(self._entries[first - offset : end - offset], bytes_max)

    def snapshot(self) -> Snapshot:
        return self._snapshot

    # What the driver writes.

    def set_hard_state(self, hard_state: HardState) -> None:
        self._hard_state = hard_state

    def set_conf_state(self, conf_state: ConfState) -> None:
        """Take `conf_state` as the membership that a restart begins with."""
        self._conf_state = conf_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Save `entries`: what stands at their first index or after it is replaced, what is compacted is left out."""
        if not entries or entries[-1].index <= self._base.index:
            return
        entries = entries[max(0, self._base.index + 1 - entries[0].index) :]
        kept = entries[0].index - self._base.index - 1
        invariant(kept <= len(self._entries), f"appending at {entries[0].index} leaves a gap after {self.last_index()}")
        self._entries[kept:] = entries

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the whole log by `snapshot`. Raises SnapshotOutOfDateError unless it is newer than the last."""
        if snapshot.index <= self._snapshot.index:
            raise SnapshotOutOfDateError
        self._snapshot = snapshot
        self._conf_state = snapshot.conf_state
        self._base = snapshot.id
        self._entries = []

    def create_snapshot(self, index: Index, conf_state: ConfState, data: bytes) -> Snapshot:
        """Keep `data` as the state at `index`, which the log must hold, and return the snapshot. The log stays."""
        if index <= self._snapshot.index:
            raise SnapshotOutOfDateError
        self._snapshot = Snapshot(index, self.term(index), conf_state, data)
        return self._snapshot

    def compact(self, index: Index) -> None:
        """Drop entries up to and including `index`. Raises CompactedError where they are gone already."""
        if index <= self._base.index:
            raise CompactedError
        if index > self.last_index():
            raise UnavailableError
        count = index - self._base.index
        self._base = self._entries[count - 1].id
        del self._entries[:count]


def limited(entries: Sequence[Entry], bytes_max: int) -> Sequence[Entry]:
    """The longest prefix of `entries` within `bytes_max`, and at least the first one: progress beats the limit."""
    size = 0
    for count, entry in enumerate(entries):
        size += entry_size(entry)
        if size > bytes_max and count > 0:
            return entries[:count]
    return entries
