"""What a leader knows of one peer's log, and how much it may send it.

A peer is in one of three states. PROBE: where its log parts from ours is not known, so one append goes out and its
answer is awaited. REPLICATE: it follows, so appends are sent ahead of their answers, `next` running before `match`,
within a window. SNAPSHOT: its next entry is compacted here, so nothing is sent until it has what the snapshot holds.
(Paper 5.3 gives nextIndex and matchIndex; thesis 10.2.1 the pipelining; section 7 the snapshot.)
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final

from ravel_node.raft.errors import InvariantError, invariant
from ravel_node.raft.types import NO_LIMIT, Index


class ProgressState(IntEnum):
    """How a leader sends to a peer."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


class Inflights:
    """The appends that were sent to a peer and not answered: a window bounded in messages and in payload bytes.

    The byte limit is soft, so that a single big append can always go: the one that reaches the limit closes the window.
    """

    __slots__ = ("_appends", "_bytes", "_bytes_max", "_messages_max")

    def __init__(self, messages_max: int, bytes_max: int = NO_LIMIT) -> None:
        self._messages_max: Final = messages_max
        self._bytes_max: Final = bytes_max
        self._appends: deque[tuple[Index, int]] = deque()  # (last index, bytes) of each append, indexes ascending
        self._bytes = 0  # invariant: the sum over _appends

    @property
    def count(self) -> int:
        return len(self._appends)

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def full(self) -> bool:
        return len(self._appends) >= self._messages_max or self._bytes >= self._bytes_max

    def add(self, last: Index, size: int) -> None:
        """Note an append whose entries end at `last`. The window must not be full."""
        if self.full:
            raise InvariantError(f"append up to {last} sent into a full window")
        self._appends.append((last, size))
        self._bytes += size

    def free_to(self, index: Index) -> None:
        """Take out every append that an answer for `index` covers."""
        appends = self._appends
        while appends and appends[0][0] <= index:
            self._bytes -= appends.popleft()[1]

    def clear(self) -> None:
        self._appends.clear()
        self._bytes = 0


class Progress:
    """One peer, as its leader sees it. Only the methods change it."""

    __slots__ = (
        "inflights",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
        "waiting",
    )

    def __init__(self, next_index: Index, inflights: Inflights, *, is_learner: bool = False) -> None:
        self.match = Index(0)  # the peer is known to hold our log up to here; invariant: match < next
        self.next = next_index  # the first entry to send next
        self.sent_commit = Index(0)  # the highest commit index that the peer may have been told of
        self.state = ProgressState.PROBE
        self.pending_snapshot = Index(0)  # SNAPSHOT only: the index of the snapshot on its way
        self.recent_active = False  # heard of since the last quorum check
        self.waiting = False  # PROBE: an append awaits its answer; REPLICATE: the window is full
        self.inflights = inflights
        self.is_learner = is_learner

    @property
    def paused(self) -> bool:
        """Whether nothing may be sent now."""
        return self.waiting or self.state is ProgressState.SNAPSHOT

    def become_probe(self) -> None:
        """Look for the place where the logs agree, behind a snapshot that was sent if there was one."""
        snapshot = self.pending_snapshot if self.state is ProgressState.SNAPSHOT else Index(0)
        self._enter(ProgressState.PROBE)
        self.next = Index(max(self.match, snapshot) + 1)
        self._cap_sent_commit()

    def become_replicate(self) -> None:
        self._enter(ProgressState.REPLICATE)
        self.next = Index(self.match + 1)

    def become_snapshot(self, index: Index) -> None:
        """Wait for the snapshot at `index`, which carries its own commit."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = Index(index + 1)
        self.sent_commit = index
        invariant(self.match < self.next, f"match {self.match} is not below next {self.next}")

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.waiting = False
        self.pending_snapshot = Index(0)
        self.inflights.clear()

    def sent_entries(self, count: int, size: int) -> None:
        """Account for an append of `count` entries with `size` bytes of payload, starting at `next`."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next = Index(self.next + count)
                self.inflights.add(Index(self.next - 1), size)
            self.waiting = self.inflights.full
        elif self.state is ProgressState.PROBE:
            # An empty append tells only the commit index; it does not probe, so nothing hangs on its answer.
            self.waiting = self.waiting or count > 0
        else:
            raise InvariantError("append sent to a peer that awaits a snapshot")

    def sent_commit_index(self, commit: Index) -> None:
        self.sent_commit = commit

    def may_lack_commit(self, commit: Index) -> bool:
        """Whether the peer, once it has all that was sent, could commit more than it was told of."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def _cap_sent_commit(self) -> None:
        """A peer commits nothing beyond what it holds: of a commit index further on, it may not have taken note."""
        self.sent_commit = min(self.sent_commit, Index(self.next - 1))

    def forget(self, next_index: Index) -> None:
        """Take back everything that the peer has acknowledged: it is not there any more."""
        self._enter(ProgressState.PROBE)
        self.match = self.sent_commit = Index(0)
        self.next = next_index

    def acknowledge(self, index: Index) -> bool:
        """Take an answer for everything up to `index`. False if that is no news."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, Index(index + 1))
        self.waiting = False
        return True

    def refuse(self, rejected: Index, hint: Index) -> bool:
        """Step back after the append behind `rejected` was refused; `hint` may match. False if the answer is stale."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = Index(self.match + 1)
            self._cap_sent_commit()
            return True
        # A probe is refused only at the place where it stands: any other refusal answers something older.
        if self.next - 1 != rejected:
            return False
        self.next = Index(max(min(rejected, hint + 1), self.match + 1))
        self._cap_sent_commit()
        self.waiting = False
        return True

    def snapshot_reported(self, *, delivered: bool) -> None:
        """End SNAPSHOT: after a failure the snapshot counts as never sent. Either way wait for a sign of life."""
        if not delivered:
            self.pending_snapshot = Index(0)
        self.become_probe()
        self.waiting = True

    def heard(self) -> None:
        """Count the peer as alive, for the next quorum check."""
        self.recent_active = True

    def resume(self) -> None:
        """Let one more append go: the peer answered, so what was outstanding may have been lost."""
        self.waiting = False
