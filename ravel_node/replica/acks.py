"""How long a follower takes from an append message to its answer."""

from __future__ import annotations

from collections import deque
from typing import Final

from ravel_node.raft import Index, Message, ReplicaId
from ravel_node.replica.histogram import NOTHING, LatencySummary, SlidingHistogram

WAITING_MAX: Final = 256
"""Appends to one peer that wait for an answer; those beyond are not timed."""


class AckTimers:
    """A leader's view of its followers. Times in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._waiting: dict[ReplicaId, deque[tuple[Index, float]]] = {}  # (last index, when it was sent), as sent
        self._histograms: dict[ReplicaId, SlidingHistogram] = {}

    def sent(self, message: Message, now: float) -> None:
        """An append message with entries left."""
        waiting = self._waiting.get(message.to)
        if waiting is None:
            waiting = self._waiting[message.to] = deque()
        if len(waiting) < WAITING_MAX:
            waiting.append((message.entries[-1].index, now))

    def answered(self, message: Message, now: float) -> None:
        """An answer covers every append up to its index; it is timed by the newest of them."""
        waiting = self._waiting.get(message.from_)
        if not waiting:
            return
        if message.reject:
            waiting.clear()
            return
        sent_at: float | None = None
        while waiting and waiting[0][0] <= message.index:
            sent_at = waiting.popleft()[1]
        if sent_at is not None:
            histogram = self._histograms.get(message.from_)
            if histogram is None:
                histogram = self._histograms[message.from_] = SlidingHistogram()
            histogram.observe(now, now - sent_at)

    def forget(self) -> None:
        """Leadership began or ended here."""
        self._waiting.clear()
        self._histograms.clear()

    def summary(self, peer: ReplicaId, now: float) -> LatencySummary:
        histogram = self._histograms.get(peer)
        return NOTHING if histogram is None else histogram.summary(now)
