"""When each part of the log was appended here, and how many bytes it holds: what a lag in seconds and bytes is read from.

Each append is a *run*: it remembers its first index, when its first and its last entry were appended, and the bytes before it.
Once there are too many, neighbours are joined that together span at most `RUN_S`, or a thirty-second of their age, and within a
run time and bytes are taken to grow evenly: a lag is then wrong by 3 %, and a day of steady writes fits into some five hundred
runs. No clock but the one of this process is ever asked.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

from ravel_node.raft import Index

RUN_S: Final = 0.02
RUNS_MAX: Final = 1_024
_COARSENESS: Final = 32.0


class Lag(NamedTuple):
    """How far a replica that holds everything up to some index is behind."""

    entries: int
    bytes: int
    bytes_is_least: bool  # the entries are older than what is remembered: it is at least so much
    seconds: float  # for how long the first entry that it lacks has been here
    seconds_is_least: bool


NO_LAG: Final = Lag(0, 0, False, 0.0, False)


class _Run:
    __slots__ = ("began", "bytes_before", "ended", "first")

    def __init__(self, first: Index, began: float, bytes_before: int) -> None:
        self.first = first
        self.began = began
        self.ended = began
        self.bytes_before = bytes_before


class LogTrail:
    """The log of one replica, as it grew in this process. Times are seconds of one monotonic clock, bytes are payloads."""

    def __init__(self, last: Index, now: float) -> None:
        """`last` is the last index of the log as it was found."""
        self._last = last
        self._runs: list[_Run] = []  # invariant: ascending, without a gap, up to _last
        self._bytes = 0  # of all runs that there have been
        self._known_since = now  # what lies before the first run was here by then
        self.appended_bytes = 0
        """All that was ever appended; unlike the log it never shrinks."""

    def appended(self, first: Index, last: Index, size: int, now: float) -> None:
        """Entries from `first` to `last` with `size` bytes of payload came; what stood there before is gone."""
        if first <= self._last:
            self._cut(first)
        elif first > self._last + 1:
            self.restart(Index(first - 1), now)
        self.appended_bytes += size
        if len(self._runs) >= RUNS_MAX:
            self._coarsen(now)
        self._runs.append(_Run(first, now, self._bytes))
        self._bytes += size
        self._last = last

    def restart(self, last: Index, now: float) -> None:
        """A snapshot up to `last` took the log's place."""
        self._runs.clear()
        self._last, self._known_since = last, now

    def lag(self, match: Index, now: float) -> Lag:
        """How far somebody who holds everything up to `match` is behind this log."""
        missing = match + 1
        if missing > self._last:
            return NO_LAG
        entries = self._last - match
        runs = self._runs
        if not runs or missing < runs[0].first:
            known = self._bytes - runs[0].bytes_before if runs else 0
            return Lag(entries, known, True, max(0.0, now - self._known_since), True)
        at = bisect_right(runs, missing, key=lambda run: run.first) - 1
        run = runs[at]
        share = (missing - run.first) / (self._end(at) - run.first)
        appended_at = run.began + share * (run.ended - run.began)
        before = run.bytes_before + int(share * (self._bytes_to(at) - run.bytes_before))
        return Lag(entries, self._bytes - before, False, max(0.0, now - appended_at), False)

    def _end(self, at: int) -> int:
        """The index after the last one of a run."""
        return self._runs[at + 1].first if at + 1 < len(self._runs) else self._last + 1

    def _bytes_to(self, at: int) -> int:
        return self._runs[at + 1].bytes_before if at + 1 < len(self._runs) else self._bytes

    def _cut(self, first: Index) -> None:
        """Another leader's entries replace ours from `first` on."""
        runs, end = self._runs, self._last + 1
        while runs and runs[-1].first >= first:
            end = runs[-1].first
            self._bytes = runs.pop().bytes_before
        if runs and end > first:
            run = runs[-1]
            share = (first - run.first) / (end - run.first)
            self._bytes = run.bytes_before + int(share * (self._bytes - run.bytes_before))
        self._last = Index(first - 1)

    def _coarsen(self, now: float) -> None:
        """Join neighbours where that costs little; if it does not make room, forget the oldest quarter."""
        joined = self._runs[:1]
        for run in self._runs[1:]:
            if run.ended - joined[-1].began <= max(RUN_S, (now - run.ended) / _COARSENESS):
                joined[-1].ended = run.ended
            else:
                joined.append(run)
        if len(joined) > RUNS_MAX * 3 // 4:
            forgotten = len(joined) - RUNS_MAX * 3 // 4
            self._known_since = joined[forgotten].began
            del joined[:forgotten]
        self._runs = joined
