"""How often something happened within the last hour, over restarts: what events of earlier boots tell counts too."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ravel_node.replica.events import Event

WINDOW_S: Final = 3_600.0
KEPT: Final = 1_024
"""Moments of the last hour that are remembered: more than that many are told as that many."""

LEADER_KNOWN: Final = "leader-known"


class PastHour:
    """Counts moments of the last hour by a clock that only goes forward."""

    def __init__(self, clock: Callable[[], float], ages_s: Iterable[float] = ()) -> None:
        """`ages_s`: how long ago it happened before now, the longest ago first."""
        self._clock = clock
        now = clock()
        self._moments: deque[float] = deque((now - age for age in ages_s), maxlen=KEPT)

    def add(self) -> None:
        self._moments.append(self._clock())

    @property
    def count(self) -> int:
        since = self._clock() - WINDOW_S
        while self._moments and self._moments[0] <= since:
            self._moments.popleft()
        return len(self._moments)


def elections(events: Sequence[Event], now_ms: int) -> list[float]:
    """The ages, in seconds, of the terms whose beginning these events tell of. The first of all began without this replica.

    A wall clock that was set back since makes an age of 0: too new rather than forgotten.
    """
    return _ages(_firsts(events), now_ms)


def leaders(events: Sequence[Event], now_ms: int) -> list[float]:
    """The same of leaders: who took over, be it the same one again in a later term."""
    return _ages(_firsts([event for event in events if event.name == LEADER_KNOWN]), now_ms)


def _firsts(events: Iterable[Event]) -> list[Event]:
    """The first event of each term that is later than all before it, but for the first of all."""
    found: list[Event] = []
    newest = 0
    for event in events:
        if event.term > newest:
            newest = event.term
            found.append(event)
    return found[1:]


def _ages(events: Iterable[Event], now_ms: int) -> list[float]:
    ages = (max(0.0, (now_ms - event.wall_ms) / 1000) for event in events)
    return [age for age in ages if age < WINDOW_S]
