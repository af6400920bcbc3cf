"""Limits events that repeat: the first ones are logged, the others are counted, and the count is logged now and then.

An event belongs to three groups: events with the same name and fields, events that differ in numbers only, and all events with
that name. It is logged if each group has room for it, so that one event is logged while a different one floods. At the end of its
window a group reports what it withheld: the last such event, with `repeated=57 in_s=60`. Windows grow as long as events are
withheld. A group is forgotten when its events stop, so that the next trouble is logged at once.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Final

Plain = str | int | float | bool | None
Event = Mapping[str, Plain]
"""An event as it is logged: `event` is its name, `level` and `time` are there, and everything else is a field."""

WINDOWS_S: Final = (60.0, 600.0, 3_600.0)
"""Lengths of a group's windows, one after the other. The last one repeats."""

QUIET_S: Final = 120.0
"""A group without an event for this long is over."""

SWEEP_S: Final = 5.0
"""How often groups are looked at. Windows are longer by up to this time."""

GROUPS_MAX: Final = 4_096
"""Groups that are remembered. Beyond that the oldest one reports and is forgotten."""

_NOT_FIELDS: Final = frozenset({"time", "level", "event"})
_IDENTIFIERS: Final = re.compile(r"(^|_)(peer|sender|to|leader|leader_id|replica_id|target|candidate|port)$")
"""Fields whose numbers name something and measure nothing."""

_NUMBER: Final = re.compile(r"(?<![\w.:\-])\d+(?:\.\d+)?(?![\w:]|[.\-]\w)")
"""A number within a sentence that is no part of a name, an address or an identifier."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many events of one group are logged in its first window, and at least in each later one."""

    first: int
    later: int


SAME: Final = Allowance(1, 0)
ALIKE: Final = Allowance(20, 20)
SAME_NAME: Final = Allowance(100, 100)


class _Group:
    """What is known of one group in its window."""

    __slots__ = ("allowance", "began", "last_at", "room", "window", "withheld", "withheld_last")

    def __init__(self, allowance: Allowance, now: float) -> None:
        self.allowance = allowance
        self.began = self.last_at = now
        self.window = 0  # its place in WINDOWS_S
        self.room = allowance.first
        self.withheld = 0
        self.withheld_last: Event = {}

    def withhold(self, event: Event, now: float) -> None:
        self.withheld += 1
        self.withheld_last = event
        self.last_at = now

    def admit(self, now: float) -> None:
        self.room -= 1
        self.last_at = now

    def is_due(self, now: float) -> bool:
        return now - self.began >= WINDOWS_S[self.window] or now - self.last_at >= QUIET_S

    def report(self, now: float) -> list[Event]:
        """Return the last event withheld with the number of all of them, or nothing."""
        if not self.withheld:
            return []
        counted = {"repeated": self.withheld, "in_s": round(now - self.began), "last_at": self.withheld_last.get("time")}
        return [{**self.withheld_last, **counted}]

    def renew(self, now: float) -> bool:
        """Begin the next window. Returns false where the group is over."""
        if now - self.last_at >= QUIET_S:
            return False
        self.began = now
        self.window = min(self.window + 1, len(WINDOWS_S) - 1) if self.withheld else 0
        self.room = max(self.room, self.allowance.later)
        self.withheld, self.withheld_last = 0, {}
        return True


class LogRateLimiter:
    """Decides which events are logged. Belongs to one thread; times are seconds of any clock that only goes forward."""

    def __init__(self, every: frozenset[str] = frozenset()) -> None:
        """`every` holds the names of events of which each one is logged."""
        self._every = every
        self._groups: dict[Hashable, _Group] = {}  # in the order in which they were made
        self._sweep_at = 0.0
        self.withheld = 0
        """Events that were counted instead of logged, since the start."""

    @property
    def remembers(self) -> bool:
        """Whether there is anything to sweep."""
        return bool(self._groups)

    def admits(self, event: Event, now: float) -> bool:
        """Return whether to log the event. If not, it is counted, and a later report contains it."""
        name = str(event["event"])
        if name in self._every:
            return True
        groups = [(key, self._groups.get(key), allowance) for key, allowance in _keys(name, event)]
        for _, group, _ in groups:
            if group is not None and group.room <= 0:
                group.withhold(event, now)
                self.withheld += 1
                return False
        for key, group, allowance in groups:
            if group is None:
                group = self._groups[key] = _Group(allowance, now)
            group.admit(now)
        return True

    def sweep(self, now: float) -> list[Event]:
        """Return the reports of groups whose window has ended. Cheap to call often."""
        reports: list[Event] = []
        while len(self._groups) > GROUPS_MAX:
            oldest = self._groups.pop(next(iter(self._groups)))
            reports += oldest.report(now)
        if now < self._sweep_at:
            return reports
        self._sweep_at = now + SWEEP_S
        for key, group in list(self._groups.items()):
            if group.is_due(now):
                reports += group.report(now)
                if not group.renew(now):
                    del self._groups[key]
        return reports

    def finish(self, now: float) -> list[Event]:
        """Return what all groups have withheld, and forget them: the process ends."""
        reports = [report for group in self._groups.values() for report in group.report(now)]
        self._groups.clear()
        return reports


def _keys(name: str, event: Event) -> list[tuple[Hashable, Allowance]]:
    """The groups of an event, the narrowest first."""
    fields = [(key, value) for key, value in event.items() if key not in _NOT_FIELDS]
    same = (name, *fields)
    alike = (name, *((key, _without_numbers(key, value)) for key, value in fields), "alike")
    return [(same, SAME), (alike, ALIKE), (name, SAME_NAME)]


def _without_numbers(key: str, value: Plain) -> Plain:
    if isinstance(value, str):
        return _NUMBER.sub("#", value)
    if isinstance(value, bool) or value is None or _IDENTIFIERS.search(key):
        return value
    return 0
