"""What happened at this replica, for people and dashboards: typed, numbered, bounded.

Sequences go on over restarts and never name two events together with the boot id, so a reader who remembers the last pair that it
saw gets exactly what came after it, from any connection. The newest `EVENTS_KEPT` are held; a reader that is slower loses the
oldest, never memory. Who makes them durable reads them from here, too (`ravel_node.event_keeper`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

EVENTS_KEPT: Final = 1_000

TEXT_CHARS_MAX: Final = 400
FIELD_CHARS_MAX: Final = 200
FIELDS_MAX: Final = 12
"""Bounds of one event: longer texts are cut."""


class EventKind(IntEnum):
    """What an event is about. Numbers as in cluster.proto."""

    SERVER = 1
    ELECTION = 2
    LEADERSHIP = 3
    MEMBERSHIP = 4
    SNAPSHOTS = 5
    ALARM = 6
    ACTION = 7


class Position(NamedTuple):
    """Where a reader stands: the last event that it has seen."""

    boot_id: str
    sequence: int  # 0: before the oldest


@dataclass(frozen=True, slots=True)
class Event:
    boot_id: str  # of the process that it happened in
    sequence: int
    wall_ms: int  # since 1970, UTC
    kind: EventKind
    name: str  # stable, for programs
    replica_id: int
    term: int
    index: int  # of the log, where it has one; else 0
    text: str  # one sentence for people
    fields: Mapping[str, str]

    @property
    def position(self) -> Position:
        return Position(self.boot_id, self.sequence)


class EventLog:
    """The newest events of one replica's directory. Everything runs on the loop; nothing blocks or raises."""

    def __init__(self, boot_id: str, wall_clock: Callable[[], float], *, kept: Iterable[Event] = ()) -> None:
        """`wall_clock` gives seconds since 1970; `kept` are the events of earlier boots, oldest first."""
        self.boot_id = boot_id
        self.replica_id = 0
        """Whose events these are from now on; 0 while the server belongs to no cluster."""
        self._wall_clock = wall_clock
        self._events: deque[Event] = deque(_unbroken(kept), maxlen=EVENTS_KEPT)  # invariant: sequences without a gap
        self._newest = self._events[-1].sequence if self._events else 0
        self._changed: asyncio.Future[None] | None = None

    @property
    def wall_ms(self) -> int:
        """Now, on the clock that events are dated by."""
        return int(self._wall_clock() * 1000)

    @property
    def newest(self) -> int:
        """The sequence of the newest event; 0: there has been none."""
        return self._newest

    def record(
        self, kind: EventKind, name: str, text: str, fields: Mapping[str, object] | None = None, *, term: int = 0, index: int = 0
    ) -> None:
        self._newest += 1
        told = {key: str(value)[:FIELD_CHARS_MAX] for key, value in list((fields or {}).items())[:FIELDS_MAX]}
        self._events.append(
            Event(
                boot_id=self.boot_id,
                sequence=self._newest,
                wall_ms=self.wall_ms,
                kind=kind,
                name=name,
                replica_id=self.replica_id,
                term=term,
                index=index,
                text=text[:TEXT_CHARS_MAX],
                fields=told,
            )
        )
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def since(self, sequence: int, limit: int = EVENTS_KEPT) -> Sequence[Event]:
        """The oldest `limit` of the kept events with a greater sequence, oldest first."""
        if sequence >= self._newest:
            return ()
        missing = self._newest - sequence
        skip = max(0, len(self._events) - missing)
        return [self._events[at] for at in range(skip, min(len(self._events), skip + limit))]

    def sequence_of(self, position: Position) -> int:
        """The sequence to go on from for a reader who stands there.

        0 for a position that these events do not know: it is older than what is kept, or of another directory.
        """
        oldest = self._newest - len(self._events) + 1
        if not oldest <= position.sequence <= self._newest:
            return 0
        known = self._events[position.sequence - oldest]
        return position.sequence if known.boot_id == position.boot_id else 0

    async def news(self, sequence: int, timeout_s: float | None = None) -> None:
        """Returns once there is an event after this sequence, or when the time is up."""
        if sequence < self._newest:
            return
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._changed], timeout=timeout_s)


def _unbroken(events: Iterable[Event]) -> Sequence[Event]:
    """The newest events without a gap between their sequences."""
    found: list[Event] = []
    for event in events:
        if found and event.sequence != found[-1].sequence + 1:
            found.clear()
        found.append(event)
    return found
