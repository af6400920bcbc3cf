"""How far the log may be dropped: pure policy.

The applied state is on disk, so dropping log entries needs no snapshot; entries are kept only for followers that were away and
would otherwise need one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ravel_node.raft import Index


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
