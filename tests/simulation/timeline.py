"""Virtual time: one line of world time, and event loops that each see it through a clock of their own.

An `asyncio` loop asks two things of the world: what time it is, and to be woken when something is due. Here the time is a
number, and whoever is due next is simply run next. So a run takes no time but what its steps need, and two runs from one seed are
the same run: nothing sleeps, no thread exists, no wall clock is read.

Every process of the simulation has a loop of its own. That is what lets one be stopped (nothing of it runs, then everything at
once), have a clock that is too fast or too slow, or vanish in the middle of a sentence while the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import Any, Final

NEVER: Final = float("inf")

STEP_MIN_S: Final = 2e-6
STEP_MAX_S: Final = 200e-6
"""How long one turn of a loop takes: between these, mostly short. It is what makes loops interleave anew in every seed."""


class _NoSelector:
    """What a loop without files or sockets waits for: nothing."""

    def select(self, timeout: float | None = None) -> list[object]:
        return []

    def close(self) -> None:
        pass


class SimLoop(asyncio.BaseEventLoop):
    """An asyncio loop that is run a turn at a time by `Timeline`, and whose time is a function that it is given."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._selector = _NoSelector()
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._clock()

    def _process_events(self, events: list[object]) -> None:
        """There are no files whose events could come."""

    @property
    def idle(self) -> bool:
        """Nothing is to be run before some time has passed."""
        return not self._ready  # type: ignore[attr-defined]  # of the base class

    def next_due(self) -> float | None:
        """The loop's own time of its first timer; None for never."""
        internal: Any = self
        scheduled = internal._scheduled
        while scheduled and scheduled[0]._cancelled:
            internal._timer_cancelled_count -= 1
            heappop(scheduled)._scheduled = False
        return float(scheduled[0]._when) if scheduled else None

    def turn(self) -> None:
        """Run what is due now."""
        internal: Any = self
        asyncio._set_running_loop(self)
        try:
            internal._run_once()
        finally:
            asyncio._set_running_loop(None)


@dataclass(slots=True)
class Clock:
    """A clock that runs at a constant rate, and may have stood still for some time."""

    timeline: Timeline
    rate: float = 1.0
    offset_s: float = 0.0

    def now(self) -> float:
        return self.timeline.now * self.rate + self.offset_s

    def world_time(self, own: float) -> float:
        return (own - self.offset_s) / self.rate


class Process:
    """One loop on the timeline, with the clock that it sees."""

    def __init__(self, timeline: Timeline, name: str, clock: Clock) -> None:
        self.timeline = timeline
        self.name = name
        self.clock = clock
        self.loop = SimLoop(clock.now)
        self.busy_until = 0.0
        self.paused = False
        self._held: list[Callable[[], None]] = []  # what the world did for it while it was paused

    def next_time(self) -> float:
        """World time of its next turn."""
        if self.paused:
            return NEVER
        internal: Any = self.loop
        if internal._ready:
            return self.busy_until
        due = self.loop.next_due()
        return NEVER if due is None else max(self.busy_until, self.clock.world_time(due))

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run `action` after so much world time, or once the process goes on if it is paused then."""
        self.timeline.after(delay_s, lambda: self._held.append(action) if self.paused else action())

    def resume(self) -> None:
        self.paused = False
        held, self._held = self._held, []
        for action in held:
            action()


class Timeline:
    """World time, in seconds, and everything that is due on it."""

    def __init__(self, rng: Random) -> None:
        self.now = 0.0
        self.turns = 0
        self._rng = rng
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.processes: list[Process] = []

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._due, (self.now + delay_s, self._count, action))

    def add(self, process: Process) -> None:
        self.processes.append(process)

    def remove(self, process: Process) -> None:
        self.processes.remove(process)

    def step(self) -> Process | None:
        """Go on to whatever is due next and do it; the process that had a turn, None where the world itself acted."""
        when, chosen = self._due[0][0] if self._due else NEVER, None
        for process in self.processes:
            time = process.next_time()
            if time < when:
                when, chosen = time, process
        if when == NEVER:
            raise RuntimeError("nothing will ever happen again: every process waits, and nobody wakes it")
        self.now = max(self.now, when)
        if chosen is None:
            heappop(self._due)[2]()
            return None
        self.turns += 1
        chosen.busy_until = self.now + STEP_MIN_S + (STEP_MAX_S - STEP_MIN_S) * self._rng.random() ** 4
        chosen.loop.turn()
        return chosen
