"""The end of the log that is not durable yet, and a snapshot that is not.

Entries pass through two stages: appended, then handed to the writer ("in progress"), and leave once the writer says
they are durable. A snapshot passes through the same two. The writer may still be busy with entries that were since
replaced: its answer names the term of the last one, and an answer that does not fit frees nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from ravel_node.raft.errors import invariant
from ravel_node.raft.types import Entry, Index, Snapshot, Term


class Unstable:
    """Entries from `offset` on; everything below is durable or covered by `snapshot`."""

    __slots__ = ("entries", "offset", "snapshot", "snapshot_in_progress", "writing")

    def __init__(self, offset: Index) -> None:
        self.entries: list[Entry] = []  # contiguous from `offset`
        self.offset = offset
        self.writing = offset  # entries below are in progress; invariant: offset <= writing <= offset + len(entries)
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False  # invariant: only with a snapshot

    def term(self, index: Index) -> Term | None:
        """The term of the entry or snapshot at `index`, None if that is not here."""
        position = index - self.offset
        if 0 <= position < len(self.entries):
            return self.entries[position].term
        if self.snapshot is not None and index == self.snapshot.index:
            return self.snapshot.term
        return None

    def append(self, entries: Sequence[Entry]) -> None:
        """Add `entries`, replacing whatever stood at their first index and after it."""
        first = entries[0].index
        kept = max(0, first - self.offset)
        invariant(kept <= len(self.entries), "appending leaves a gap in the unstable log")
        # What is replaced here but already with the writer is written again: the new entries count as not in progress.
        # A fresh list would cost a copy of all; slices that were handed out are copies, so this one may change.
        self.entries[kept:] = entries
        self.offset = min(self.offset, first)
        self.writing = min(self.writing, first)

    def restore(self, snapshot: Snapshot) -> None:
        """Drop everything for `snapshot`."""
        self.entries = []
        self.offset = self.writing = Index(snapshot.index + 1)
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    @property
    def has_next_entries(self) -> bool:
        return self.writing < self.offset + len(self.entries)

    def next_entries(self) -> list[Entry]:
        """The entries that were not handed to the writer yet."""
        return self.entries[self.writing - self.offset :]

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot, unless it was handed to the writer already."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept(self) -> None:
        """Count everything as handed to the writer."""
        self.writing = Index(self.offset + len(self.entries))
        self.snapshot_in_progress = self.snapshot is not None

    def stable_to(self, index: Index, term: Term) -> None:
        """Free entries up to `index`, now durable; nothing happens if another entry stands there by now."""
        count = index + 1 - self.offset
        if not 0 < count <= len(self.entries) or self.entries[count - 1].term != term:
            return
        del self.entries[:count]
        self.offset = Index(index + 1)
        self.writing = max(self.writing, self.offset)

    def stable_snapshot_to(self, index: Index) -> None:
        """Free the snapshot at `index`, now durable; nothing happens if it is another one by now."""
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False
