"""Durations of the last ten seconds, in buckets that grow with what they hold: 6 % wide from 32 microseconds on.

An observation touches one small dictionary, whatever was observed before: it stands on the path of every write. Summing up looks
at the few buckets that hold something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 10
_SLOTS: Final = WINDOW_S + 1  # the second that runs is a part of one


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Durations in microseconds, as of one moment. With `count` 0 the others mean nothing."""

    count: int
    p50_us: int
    p99_us: int
    max_us: int


NOTHING: Final = LatencySummary(0, 0, 0, 0)


class _Slot:
    """One second."""

    __slots__ = ("counts", "longest", "second")

    def __init__(self) -> None:
        self.second = -1
        self.counts: dict[int, int] = {}
        self.longest = 0


class SlidingHistogram:
    """Times in seconds of one monotonic clock."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: Sequence[_Slot] = [_Slot() for _ in range(_SLOTS)]

    def observe(self, now: float, duration_s: float) -> None:
        second = int(now)
        slot = self._slots[second % _SLOTS]
        if slot.second != second:
            slot.second, slot.counts, slot.longest = second, {}, 0
        us = int(duration_s * 1e6) if duration_s > 0.0 else 0
        bucket = us if us < 32 else ((us.bit_length() - 5) << 4) + (us >> (us.bit_length() - 5))
        slot.counts[bucket] = slot.counts.get(bucket, 0) + 1
        if us > slot.longest:
            slot.longest = us

    def summary(self, now: float) -> LatencySummary:
        """Of what was observed within `WINDOW_S` before `now`: exact in the longest, else wrong by half of a bucket's width."""
        second = int(now)
        counts: dict[int, int] = {}
        longest = 0
        for slot in self._slots:
            if second - WINDOW_S <= slot.second <= second:
                longest = max(longest, slot.longest)
                for bucket, count in slot.counts.items():
                    counts[bucket] = counts.get(bucket, 0) + count
        total = sum(counts.values())
        if not total:
            return NOTHING
        ordered = sorted(counts.items())
        p50, p99 = (min(_middle(_bucket_at(ordered, total * share)), longest) for share in (0.5, 0.99))
        return LatencySummary(total, p50, p99, longest)


def _bucket_at(ordered: Sequence[tuple[int, int]], rank: float) -> int:
    """The bucket that holds the observation of this rank, counted from 0 to all."""
    seen = 0
    for bucket, count in ordered:
        seen += count
        if seen >= rank:
            return bucket
    return ordered[-1][0]


def _middle(bucket: int) -> int:
    """The microseconds in the middle of a bucket."""
    if bucket < 32:
        return bucket
    shift = (bucket >> 4) - 1
    return ((bucket & 15 | 16) << shift) + (1 << shift >> 1)
