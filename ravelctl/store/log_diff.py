"""Two logs, entry by entry: where they first differ, and whether that may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from ravelctl.store.log_entries import DAMAGED, LogEntry, LogPart, LogQuery
from ravelctl.store.log_source import LogSource


@dataclass(frozen=True, slots=True)
class Difference:
    """The first index where two logs differ. `entries` are None where a log has none."""

    index: int
    entries: tuple[LogEntry | None, LogEntry | None]
    damage: bool  # it cannot come about while all works as it should
    why: str


@dataclass(frozen=True, slots=True)
class Compared:
    """What came out. Nothing was compared where `from_index` lies beyond `to_index`: the logs do not overlap."""

    from_index: int
    to_index: int
    ends: tuple[LogPart, LogPart]
    difference: Difference | None


class _Side:
    """One log, read a page at a time, handed out an entry at a time."""

    def __init__(self, source: LogSource, from_index: int, to_index: int) -> None:
        query = LogQuery(from_index=from_index, to_index=to_index, digests=True)
        self._parts: AsyncIterator[LogPart] = source.parts(query)
        self._waiting: list[LogEntry] = []
        self._looked_at = from_index

    async def at(self, index: int) -> LogEntry | None:
        """The entry at this index, to be asked for in ascending order."""
        while self._looked_at <= index:
            part = await anext(self._parts, None)
            if part is None or part.next_index <= self._looked_at:
                return None
            self._waiting += reversed(part.entries)
            self._waiting.sort(key=lambda entry: -entry.index)
            self._looked_at = part.next_index
        while self._waiting and self._waiting[-1].index < index:
            self._waiting.pop()
        return self._waiting[-1] if self._waiting and self._waiting[-1].index == index else None


_ONE: Final = LogQuery(tail=True, limit=1)


async def compare(a: LogSource, b: LogSource, from_index: int, to_index: int) -> Compared:
    """Compare what both logs have, from `from_index` to `to_index` (0: all of it)."""
    ends = (await anext(a.parts(_ONE)), await anext(b.parts(_ONE)))
    first = max(from_index, *(end.first_index for end in ends))
    last = min(*(end.last_index for end in ends), to_index or 1 << 63)
    sides = _Side(a, first, last), _Side(b, first, last)
    for index in range(first, last + 1):
        found = (await sides[0].at(index), await sides[1].at(index))
        if found[0] is None or found[1] is None or found[0].type == DAMAGED or found[0].digest != found[1].digest:
            return Compared(first, last, ends, _judged(index, found, ends, (a.name, b.name)))
    return Compared(first, last, ends, None)


def _judged(
    index: int, found: tuple[LogEntry | None, LogEntry | None], ends: tuple[LogPart, LogPart], names: tuple[str, str]
) -> Difference:
    for entry, end, name in zip(found, ends, names, strict=True):
        if entry is not None and entry.type == DAMAGED:
            return Difference(index, found, True, f"on {name} it is damaged: {'; '.join(entry.lines)}")
        if entry is None:
            replaced = index > end.commit_index
            why = "it went while the logs were read: compare again" if replaced else "it is not there"
            return Difference(index, found, not replaced, f"on {name} {why}")
    one, other = found
    if one is None or other is None or one.term == other.term:
        return Difference(index, found, True, "both are of one term, in which one leader wrote one entry")
    open_on = [name for end, name in zip(ends, names, strict=True) if index > end.commit_index]
    if not open_on:
        return Difference(index, found, True, "both replicas know it as committed")
    why = f"it is not known as committed on {' and '.join(open_on)}: a leader will replace one of them"
    return Difference(index, found, False, why)
