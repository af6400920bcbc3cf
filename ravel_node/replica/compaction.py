"""How far the log may be dropped: a pure rule, and who follows it.

The applied state is on disk, so dropping log entries needs no snapshot; entries are kept only for followers that were away and
would otherwise need one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from ravel_node.raft import Index, RawNode, ReplicaId
from ravel_node.replica.options import ReplicaOptions
from ravel_node.storage.base import Store


class Compaction(NamedTuple):
    """What came of one that was asked for. `held_by`: why less was dropped than that; empty if it was not."""

    first_index: Index
    held_by: str


def compact_to(
    *,
    first: Index,
    last: Index,
    flushed: Index,
    matches: Sequence[Index],
    log_bytes: int,
    retain_entries: int,
    retain_bytes_max: int,
) -> Index | None:
    """The last index to drop, or None to drop nothing now.

    `matches` are those of followers that answer. Nothing is dropped beyond `flushed`. At least `retain_entries` stay, and what
    a follower that answers still needs, while the log is no larger than `retain_bytes_max`. Beyond that only as many entries stay
    as fit into it, taking all for equally large; who needs others will get a snapshot. Dropping starts only once there is
    a tenth more than what must stay, so that it happens in few, larger steps.
    """
    if log_bytes <= retain_bytes_max:
        stay = retain_entries
        target = min([flushed, last - stay, *matches])
    else:
        stay = min(retain_entries, (last - first + 1) * retain_bytes_max // log_bytes)
        target = min(flushed, last - stay)
    due = first + max(stay // 10, 100)
    return Index(target) if target >= due else None


class Retention:
    """Drops the log of one replica: by itself as `compact_to` says, or as far as an operator asks."""

    def __init__(self, store: Store, raw: RawNode, live: Callable[[], Collection[ReplicaId]], options: ReplicaOptions) -> None:
        self._store = store
        self._raw = raw
        self._live = live
        self._options = options

    async def trim(self) -> None:
        """Raises StoreFailedError."""
        to = compact_to(
            first=self._store.first_index(),
            last=self._store.last_index(),
            flushed=self._store.flushed.index,
            matches=list(self._matches().values()),
            log_bytes=self._store.log_used_bytes,
            retain_entries=self._options.log_retain_entries,
            retain_bytes_max=self._options.log_retain_bytes_max,
        )
        if to is not None:
            await self._store.compact(to)

    async def compact(self, keep: int, *, dry_run: bool) -> Compaction:
        """Flush, and drop the log up to `keep` entries before the last applied one.

        What followers that answer still need stays, and what a snapshot in transfer needs: this frees space, it never makes
        anybody start over. A dry run drops nothing. Raises StoreFailedError.
        """
        await self._store.flush()
        wanted = self._store.flushed.index - keep
        behind = self._matches()
        to = min([wanted, *behind.values()])
        if dry_run:
            first = Index(max(self._store.first_index(), self._store.compactable(Index(to)) + 1))
        else:
            await self._store.compact(Index(to))
            first = self._store.first_index()
        if first > wanted:
            return Compaction(first, "")
        if to < wanted:
            slowest = min(behind, key=lambda peer: behind[peer])
            why = f"replica {slowest} has the log up to {behind[slowest]} and still needs what comes after it"
            return Compaction(first, why)
        return Compaction(first, "a snapshot is being sent, and its receiver will need the log after it")

    def _matches(self) -> dict[ReplicaId, Index]:
        """How far the logs of those who answer this leader agree with its own; of anybody but a leader: nobody's."""
        if not self._raw.is_leader:
            return {}
        live = self._live()
        return {peer: progress.match for peer, progress in self._raw.status().progress.items() if peer in live}
