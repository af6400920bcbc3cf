"""Entries of a log in words, whoever read them, and how they are asked for and printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ravelctl.cli.output import ABSENT, U64, printable, rfc3339

DAMAGED = "damaged"
"""The type of an entry that cannot be read; its line says why."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which entries. 0 and empty stand for no bound; `limit` counts those that pass the filters."""

    from_index: int = 0
    to_index: int = 0
    limit: int = 1 << 62
    tail: bool = False
    term: int = 0
    types: tuple[str, ...] = ()
    key_prefix: bytes = b""
    since_ms: int = 0  # since 1970
    until_ms: int = 0
    digests: bool = False

    @property
    def by_time(self) -> bool:
        return bool(self.since_ms or self.until_ms)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry in words."""

    index: int
    term: int
    type: str
    size: int  # bytes of the payload
    lines: tuple[str, ...]  # one a command
    digest: bytes  # what entries of two logs are compared by; empty unless it was asked for
    time_ms: int  # since 1970, by the clock of the leader that wrote it; 0: it carries none


@dataclass(frozen=True, slots=True)
class LogPart:
    """Some entries, and where the log stood when they were read."""

    entries: tuple[LogEntry, ...]
    next_index: int  # all before it were looked at
    first_index: int
    last_index: int
    commit_index: int  # as far as this source knows
    snapshot_index: int  # of the newest file; 0: none
    snapshot_term: int
    untimed: int = 0  # left out of a choice by time, since they carry none


TITLES: Final = ("INDEX", "TERM", "+TIME", "TYPE", "BYTES", "SUMMARY")
"""Of the columns of `entry_rows`."""


def time_text(time_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond: what --since and --until take. One that no calendar holds: its number."""
    from datetime import UTC, datetime, timedelta

    try:
        return rfc3339(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms))
    except OverflowError:
        return str(time_ms)


def entry_data(entry: LogEntry) -> dict[str, Any]:
    """For programs."""
    time = time_text(entry.time_ms) if entry.time_ms else None
    values = {"index": U64(entry.index), "term": U64(entry.term), "time": time, "type": entry.type, "bytes": entry.size}
    return {**values, "commands": list(entry.lines)}


def entry_rows(entry: LogEntry) -> list[tuple[str, ...]]:
    """A line a command. The size stands on an entry's first line only, so that a sum over the column is right."""
    lines = [printable(line.encode()) for line in entry.lines] or [ABSENT]
    time = time_text(entry.time_ms) if entry.time_ms else ABSENT
    head = (str(entry.index), str(entry.term) if entry.term else ABSENT, time, entry.type)
    return [(*head, str(entry.size) if number == 0 else ABSENT, line) for number, line in enumerate(lines)]
