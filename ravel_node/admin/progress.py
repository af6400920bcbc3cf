"""The progress of migrations, as far as one migrator has carried them out: what was copied, how fast, and how much is left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

RATE_S: Final = 10
"""Seconds over which a rate is measured."""

Clock = Callable[[], float]


class Amount(NamedTuple):
    """An amount of copying, or a rate of it."""

    done: float = 0  # keys of the source that were copied, or found at the destination
    keys: float = 0  # keys that the destination has taken
    bytes: float = 0  # of these keys and their values

    def plus(self, other: Amount) -> Amount:
        return Amount(self.done + other.done, self.keys + other.keys, self.bytes + other.bytes)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.done - other.done, self.keys - other.keys, self.bytes - other.bytes)


NOTHING: Final = Amount()


class Rate:
    """The amount per second over the last RATE_S seconds, or since it began if that is less."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock()
        self._seconds: deque[tuple[int, Amount]] = deque(maxlen=RATE_S + 1)

    def add(self, amount: Amount) -> None:
        second = int(self._clock())
        if self._seconds and self._seconds[-1][0] == second:
            amount = self._seconds.pop()[1].plus(amount)
        self._seconds.append((second, amount))

    def per_s(self) -> Amount:
        now = self._clock()
        since = max(self._began, now - RATE_S)
        amount = NOTHING
        for second, added in self._seconds:
            if second >= int(since):
                amount = amount.plus(added)
        seconds = max(1.0, now - since)
        return Amount(*(part / seconds for part in amount))


class Counter:
    """Counts what was copied, and how fast."""

    def __init__(self, clock: Clock, total: Counter | None = None) -> None:
        """`total` counts the same and more."""
        self.amount = NOTHING
        self.rate = Rate(clock)
        self._total = total

    def compared(self, keys: int) -> None:
        """See copying.Meter."""
        self._add(Amount(done=keys))

    def copied(self, keys: int, size: int) -> None:
        """See copying.Meter."""
        self._add(Amount(keys=keys, bytes=size))

    def restart(self) -> None:
        """Count `done` from 0 again: the comparison begins again."""
        done = self.amount.done
        counter: Counter | None = self
        while counter is not None:
            counter.amount = counter.amount._replace(done=counter.amount.done - done)
            counter = counter._total

    def _add(self, amount: Amount) -> None:
        self.amount = self.amount.plus(amount)
        self.rate.add(amount)
        if self._total is not None:
            self._total._add(amount)


@dataclass(slots=True)
class Progress:
    """The progress of one migration."""

    copied: Amount = NOTHING
    per_s: Amount = NOTHING
    keys_expected: int | None = None  # at the source when this migrator began to copy; None: not known
    obstacle: str = ""  # what delays it; empty: nothing


@dataclass(slots=True)
class Totals:
    """What a migrator has done since it was made."""

    slots_moved: int = 0
    copied: Amount = NOTHING
    per_s: Amount = NOTHING
    called_off: int = 0  # moves
    why_called_off: str = ""  # the last of them


def bytes_expected(copied: Amount, keys_expected: int | None) -> int | None:
    """Estimate the bytes of so many keys by the average of those that were copied; None: nothing says."""
    if keys_expected is None or (keys_expected and not copied.keys):
        return None
    return round(keys_expected * copied.bytes / copied.keys) if keys_expected else 0


def seconds_left(done: float, per_s: float, keys_expected: int | None) -> float | None:
    """Estimate the time until all keys are copied; None: nothing says."""
    if keys_expected is None:
        return None
    left = keys_expected - done
    if left <= 0:
        return 0.0
    return left / per_s if per_s else None
