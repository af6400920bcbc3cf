"""The whole log as the core sees it: the durable part in `Storage`, the rest in `Unstable`, and how far it is settled.

Four marks move through it, never backwards: applied <= applying <= committed <= last_index. Entries up to `committed`
are never replaced (paper 5.4.3); entries up to `applying` were handed to the state machine; those up to `applied` took
effect. What is handed out and not applied yet is bounded in bytes, so that a slow machine stops the flow instead of
filling memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ravel_node.raft.errors import CompactedError, InvariantError, StorageError, UnavailableError, invariant
from ravel_node.raft.storage import Storage, entry_size
from ravel_node.raft.types import NO_LIMIT, Entry, EntryId, EntryType, Index, Snapshot, Term
from ravel_node.raft.unstable import Unstable


class RaftLog:
    """The log of one replica. Only the core writes to it."""

    def __init__(self, storage: Storage, applying_bytes_max: int) -> None:
        self._storage: Final = storage
        self._applying_bytes_max: Final = applying_bytes_max
        start = Index(storage.first_index() - 1)
        self.last_index = storage.last_index()
        self.unstable = Unstable(Index(self.last_index + 1))
        self.committed = start
        self.applying = start
        self.applied = start  # invariant: applied <= applying <= committed <= last_index
        self._applying_bytes = 0  # of the entries in (applied, applying]
        self._applying_paused = False  # the limit was met: nothing more is handed out until something is applied
        self._conf_checked = start  # the committed entries up to here were looked through for membership changes
        self._conf_change = Index(0)  # the last one that was found
        # Every entry from _run_start to the last one has the term _run_term: it answers most questions for a term.
        self._run_start = self.last_index
        self._run_term = storage.term(self.last_index)

    # Reading.

    @property
    def first_index(self) -> Index:
        snapshot = self.unstable.snapshot
        return Index(snapshot.index + 1) if snapshot is not None else self._storage.first_index()

    @property
    def last_term(self) -> Term:
        return self._run_term

    @property
    def last_id(self) -> EntryId:
        return EntryId(self._run_term, self.last_index)

    def term(self, index: Index) -> Term:
        """The term of an entry, also of the last compacted one. Raises CompactedError or UnavailableError."""
        if index > self.last_index:
            raise UnavailableError
        if index < self.first_index - 1:
            raise CompactedError
        if index >= self._run_start:
            return self._run_term
        term = self.unstable.term(index)
        return self._storage.term(index) if term is None else term

    def matches(self, index: Index, term: Term) -> bool:
        """Whether our log holds the entry of that name."""
        try:
            return self.term(index) == term
        except StorageError:
            return False

    def is_up_to_date(self, index: Index, term: Term) -> bool:
        """Whether a log that ends there is at least as new as ours (paper 5.4.1)."""
        return (term, index) >= (self._run_term, self.last_index)

    def entries(self, first: Index, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from `first` to the end within `bytes_max`, at least one. Raises CompactedError."""
        if first > self.last_index:
            return ()
        return self.slice(first, Index(self.last_index + 1), bytes_max)

    def slice(self, first: Index, end: Index, bytes_max: int) -> tuple[Entry, ...]:
        """Entries of [first, end) within `bytes_max`, at least one. Raises CompactedError."""
        if first < self.first_index:
            raise CompactedError
        if end > self.last_index + 1:
            raise InvariantError(f"slice up to {end} of a log that ends at {self.last_index}")
        offset = self.unstable.offset
        if first >= offset:
            return _take(self.unstable.entries, first - offset, end - offset, bytes_max)
        stored_end = min(end, offset)
        stored = tuple(self._storage.entries(first, stored_end, bytes_max))
        if not stored:
            raise InvariantError(f"storage gave no entry at {first}")
        if end <= offset or len(stored) < stored_end - first:
            return stored
        return stored + self._unstable_within(end, bytes_max - sum(map(entry_size, stored)))

    def _unstable_within(self, end: Index, bytes_left: int) -> tuple[Entry, ...]:
        """Entries of the unstable part up to `end` that fit in `bytes_left`, none if not even the first does."""
        entries = self.unstable.entries
        if bytes_left < entry_size(entries[0]):
            return ()
        return _take(entries, 0, end - self.unstable.offset, bytes_left)

    def snapshot(self) -> Snapshot:
        """The newest snapshot there is to send. Raises SnapshotTemporarilyUnavailableError."""
        return self.unstable.snapshot or self._storage.snapshot()

    def has_unapplied_conf_change(self, bytes_max: int) -> bool:
        """Return whether a membership change is committed and not applied. Reads pages of `bytes_max`, each entry once.

        What is committed never changes, so a campaign looks only at what the last one has not seen.
        """
        if self._conf_change > self.applied:
            return True
        at = Index(max(self.applied, self._conf_checked) + 1)
        while at <= self.committed:
            page = self.slice(at, Index(self.committed + 1), bytes_max)
            found = [entry.index for entry in page if entry.type is not EntryType.NORMAL]
            at = self._conf_checked = page[-1].index
            if found:
                self._conf_change = found[-1]
                return True
            at = Index(at + 1)
        return False

    # Writing.

    def append(self, entries: Sequence[Entry]) -> None:
        """Put `entries` at the end, replacing what stood at their first index and after it."""
        first = entries[0].index
        if first <= self.committed:
            raise InvariantError(f"appending at {first} would replace entries committed up to {self.committed}")
        if first > self.last_index + 1:
            raise InvariantError(f"appending at {first} leaves a gap after {self.last_index}")
        self.unstable.append(entries)
        self.last_index = entries[-1].index
        if first <= self._run_start:
            self._run_start, self._run_term = first, entries[0].term
        for entry in entries:
            if entry.term != self._run_term:
                self._run_start, self._run_term = entry.index, entry.term

    def find_conflict(self, entries: Sequence[Entry]) -> Index:
        """The index of the first of `entries` that our log does not hold, 0 if it holds all."""
        for entry in entries:
            if not self.matches(entry.index, entry.term):
                return entry.index
        return Index(0)

    def find_match(self, index: Index, term: Term) -> EntryId:
        """The last entry up to `index` whose term is at most `term`: a log with an entry (term, index) may match there.

        A follower and its leader each skip whole terms with it, so that finding the place where two logs part takes a
        round for each term and not for each entry (paper, end of 5.3). Terms never fall along the log, so halving finds
        the place. Beyond our log nothing is known: the answer is then `index` itself, with term 0.
        """
        low = Index(self.first_index - 1)
        if index > self.last_index or index < low:
            return EntryId(Term(0), index)
        low_term = self.term(low)
        if low_term > term:
            return EntryId(Term(0), Index(low - 1))
        high = index  # the answer is in [low, high], and low qualifies
        while low < high:
            middle = Index((low + high + 1) // 2)
            middle_term = self.term(middle)
            if middle_term <= term:
                low, low_term = middle, middle_term
            else:
                high = Index(middle - 1)
        return EntryId(low_term, low)

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by `snapshot`, whose state counts as committed."""
        if snapshot.index <= self.committed:
            raise InvariantError(f"snapshot at {snapshot.index} would undo what is committed up to {self.committed}")
        self.unstable.restore(snapshot)
        self.committed = self.last_index = snapshot.index
        self._run_start, self._run_term = snapshot.index, snapshot.term

    def stable_to(self, index: Index, term: Term) -> None:
        self.unstable.stable_to(index, term)

    def stable_snapshot_to(self, index: Index) -> None:
        self.unstable.stable_snapshot_to(index)

    # Committing and applying.

    def commit_to(self, index: Index) -> None:
        """Move `committed` up to `index`; a lower one changes nothing."""
        if index <= self.committed:
            return
        if index > self.last_index:
            raise InvariantError(f"committing {index} in a log that ends at {self.last_index}")
        self.committed = index

    def commit_if_term(self, index: Index, term: Term) -> bool:
        """Commit up to `index` if its entry is of `term`; True if that is progress (paper 5.4.2)."""
        if index <= self.committed or not self.matches(index, term):
            return False
        self.commit_to(index)
        return True

    def _appliable(self, allow_unstable: bool) -> Index:
        """The last committed entry that may be handed out; what is not durable here only if `allow_unstable`."""
        if allow_unstable:
            return self.committed
        return min(self.committed, Index(self.unstable.offset - 1))

    def has_next_committed(self, *, allow_unstable: bool) -> bool:
        if self._applying_paused or self.unstable.snapshot is not None:
            return False
        return self.applying < self._appliable(allow_unstable)

    def next_committed(self, *, allow_unstable: bool) -> tuple[Entry, ...]:
        """Committed entries that were not handed out yet, within the byte limit; none while a snapshot is pending."""
        if not self.has_next_committed(allow_unstable=allow_unstable):
            return ()
        end = Index(self._appliable(allow_unstable) + 1)
        return self.slice(Index(self.applying + 1), end, self._applying_bytes_max - self._applying_bytes)

    def accept_applying(self, entries: Sequence[Entry], *, allow_unstable: bool) -> None:
        """Count `entries` as handed out."""
        last = entries[-1].index
        if last > self.committed:
            raise InvariantError(f"applying {last} beyond commit {self.committed}")
        self.applying = last
        self._applying_bytes += sum(map(entry_size, entries))
        # Where the limit cut the batch short, the next entry would cross it: wait until something was applied.
        cut_short = last < self._appliable(allow_unstable)
        self._applying_paused = cut_short or self._applying_bytes >= self._applying_bytes_max

    def applied_to(self, index: Index, size: int) -> None:
        """Count entries up to `index`, `size` bytes of them handed out before, as applied."""
        if index < self.applied or index > self.committed:
            raise InvariantError(f"applied {index} outside of [{self.applied}, {self.committed}]")
        self.applied = index
        self.applying = max(self.applying, index)
        self._applying_bytes = max(0, self._applying_bytes - size)
        self._applying_paused = self._applying_bytes >= self._applying_bytes_max

    def check(self) -> None:
        """Raise InvariantError unless the marks stand in order."""
        marks = (self.applied, self.applying, self.committed, self.last_index)
        invariant(marks == tuple(sorted(marks)), f"applied, applying, committed, last index out of order: {marks}")


def _take(entries: list[Entry], start: int, end: int, bytes_max: int) -> tuple[Entry, ...]:
    if bytes_max >= NO_LIMIT or end - start == 1:
        return tuple(entries[start:end])
    size = 0
    for position in range(start, end):
        size += entry_size(entries[position])
        if size > bytes_max and position > start:
            return tuple(entries[start:position])
    return tuple(entries[start:end])
