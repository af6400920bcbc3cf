"""`log follow`: entries as they come, through restarts of their daemon."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import View, columns, emit
from ravelctl.client.errors import CompactedError, LocalReason, RavelError
from ravelctl.config.settings import Output
from ravelctl.store.log_entries import TITLES, LogQuery, entry_data, entry_rows
from ravelpb.errors import Reason

if TYPE_CHECKING:
    from ravelctl.cli.app import App
    from ravelctl.store.log_entries import LogEntry
    from ravelctl.store.log_source import LogSource

POLL_EVERY_S: Final = 0.3
SHOWN_BEFORE: Final = 10
"""Entries that are shown before those that come, where --from says nothing."""

REMEMBERED: Final = 1_000
"""Entries that a directory's log may lose at its end, to be replaced by others, and we notice which."""

_PASSING: Final = {
    LocalReason.UNREACHABLE, Reason.TIMEOUT, Reason.SHUTTING_DOWN, Reason.STOPPED, Reason.NO_LEADER, Reason.BUSY,
}  # fmt: skip
_WIDTHS: Final = (8, 4, 24, 8, 6)
_COLUMNS: Final = columns(*TITLES)


class Printer:
    """Prints entries one after the other, in columns of a fixed width, or as `-o` asks."""

    def __init__(self, app: App, limit: int) -> None:
        self.left = limit
        self._app = app
        self._begun = False

    def entry(self, entry: LogEntry) -> None:
        """Print one, unless the limit is reached."""
        if self.left <= 0:
            return
        self.left -= 1
        settings = self._app.settings
        if settings.output in (Output.TABLE, Output.WIDE):
            if not self._begun:
                self._row(tuple(column.title for column in _COLUMNS))
                self._begun = True
            for row in entry_rows(entry):
                self._row(row)
            sys.stdout.flush()
        else:
            emit(View("LogEntry", entry_data(entry), names=(str(entry.index),)), settings, sys.stdout, one_line=True)

    def _row(self, cells: tuple[str, ...]) -> None:
        wide = self._app.settings.output is Output.WIDE
        padded = [
            cell.ljust(width) for cell, width, column in zip(cells, _WIDTHS, _COLUMNS, strict=False) if wide or not column.wide
        ]
        sys.stdout.write("  ".join((*padded, cells[-1])) + "\n")

    def note(self, line: str) -> None:
        """Prose, on stderr."""
        self._app.say(line)


async def follow_replica(source: LogSource, query: LogQuery, printer: Printer) -> None:
    """Print committed entries until the limit is reached. Waits for a daemon that does not answer."""
    at, query = await _since(source, query)
    at = at or await _start(source, query, printer)
    silent = False
    while printer.left > 0:
        try:
            async for part in source.parts(replace(query, from_index=at)):
                for entry in part.entries:
                    if entry.index <= part.commit_index:
                        printer.entry(entry)
                at = max(at, min(part.next_index, part.commit_index + 1))
                if part.next_index > part.commit_index:
                    break
            if silent:
                printer.note(f"{source.name} answers again")
            silent = False
        except CompactedError as error:
            printer.note(f"entries {at} to {error.first_index - 1} were compacted away before they could be shown")
            at = max(at + 1, error.first_index)
            continue
        except RavelError as error:
            if error.reason not in _PASSING:
                raise
            if not silent:
                printer.note(f"{source.name} does not answer, waiting for it: {error.message}")
            silent = True
        await asyncio.sleep(POLL_EVERY_S)


async def _since(source: LogSource, query: LogQuery) -> tuple[int, LogQuery]:
    """With a time: the index of the first entry of then or later, from which on all are shown, those without a time too."""
    if not query.by_time:
        return query.from_index, query
    query, timed = replace(query, since_ms=0), replace(query, limit=1)
    async for part in source.parts(timed):
        if part.entries:
            return part.entries[0].index, query
    return part.last_index + 1, query


async def _start(source: LogSource, query: LogQuery, printer: Printer) -> int:
    """Show the last committed entries; the index that comes next."""
    last = await anext(source.parts(replace(query, tail=True, limit=SHOWN_BEFORE)))
    async for part in source.parts(replace(query, tail=True, limit=SHOWN_BEFORE, to_index=max(1, last.commit_index))):
        for entry in part.entries:
            printer.entry(entry)
    return last.commit_index + 1


async def follow_directory(source: LogSource, query: LogQuery, printer: Printer) -> None:
    """Print entries as they are written until the limit is reached; a note tells where some were replaced."""
    known: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED)
    at, query = await _since(source, query)
    if not at:
        last = await anext(source.parts(replace(query, tail=True, limit=1)))
        at = max(last.first_index, last.last_index + 1 - SHOWN_BEFORE)
    while printer.left > 0:
        try:
            if (changed := await _first_changed(source, known)) is not None:
                printer.note(f"a new leader replaced the entries from {changed} on")
                at = changed
                while known and known[-1][0] >= changed:
                    known.pop()
            async for part in source.parts(replace(query, from_index=at, digests=True)):
                for entry in part.entries:
                    printer.entry(entry)
                    known.append((entry.index, entry.digest))
                at = part.next_index
        except CommandError as error:
            if error.reason == "COMPACTED":
                first = (await anext(source.parts(replace(query, tail=True, limit=1)))).first_index
                printer.note(f"entries {at} to {first - 1} were compacted away before they could be shown")
                at = first
            elif error.code in (ExitCode.USAGE, ExitCode.REFUSED, ExitCode.NOT_ALLOWED):
                raise
        await asyncio.sleep(POLL_EVERY_S)


async def _first_changed(source: LogSource, known: deque[tuple[int, bytes]]) -> int | None:
    """The first of the entries that were shown which is not there as it was. Only the newest is looked at if it still is."""
    for shown in (list(known)[-1:], list(known)):
        if not shown:
            return None
        first, last = shown[0][0], shown[-1][0]
        query = LogQuery(to_index=last, tail=True, limit=last - first + 1, digests=True)
        part = await anext(source.parts(query))
        now = {entry.index: entry.digest for entry in part.entries}
        changed = [index for index, digest in shown if index >= part.first_index and now.get(index) != digest]
        if not changed:
            return None
    return changed[0]
