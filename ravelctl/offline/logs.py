"""The log of a data directory, in the form in which commands see every log."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ravel_node.machine.entries import EntryFilter, digest
from ravelctl.cli.errors import CommandError
from ravelctl.offline import directory
from ravelctl.store.log_entries import DAMAGED, LogEntry, LogPart, LogQuery

if TYPE_CHECKING:
    from ravel_node.storage.base import LogPage, LogRecord


class DirectoryLog:
    """A LogSource that dials nobody. Each part is one short read transaction."""

    def __init__(self, path: Path) -> None:
        """Raises CommandError where it is no data directory."""
        directory.reader(path)
        self.name = str(path)
        self._path = path

    async def parts(self, query: LogQuery) -> AsyncIterator[LogPart]:
        """See LogSource. A live daemon's commit index is the one it last wrote down, which may be some entries behind."""
        for part in self._parts(query):
            yield part

    def _parts(self, query: LogQuery) -> Iterator[LogPart]:
        facts = directory.look(self._path)
        commit = directory.commit_index(facts)
        newest = next((file.header for file in facts.snapshots if file.header is not None and not file.problem), None)
        shape = LogPart(
            (),
            0,
            facts.log.first_index,
            facts.log.last_index,
            commit,
            newest.index if newest else 0,
            newest.term if newest else 0,
        )
        if query.from_index and query.from_index < shape.first_index:
            raise CommandError(
                f"entry {query.from_index} was compacted away: the log in {self._path} begins at {shape.first_index}",
                next_step=f"begin with --from {shape.first_index}",
                reason="COMPACTED",
            )
        wanted = EntryFilter(query.term, frozenset(query.types), query.key_prefix, query.since_ms, query.until_ms)
        end = query.to_index + 1 if query.to_index else None
        if query.tail:
            yield self._tail(shape, query, wanted, end)
            return
        left = query.limit
        for page in directory.log_pages(self._path, query.from_index, end):
            found, untimed = _split(wanted, _entries(page.records, wanted, query.digests))
            taken = found[:left]
            left -= len(taken)
            following = taken[-1].index + 1 if taken and not left else page.next
            yield _part(shape, page, taken, following, untimed)
            if not left:
                return

    def _tail(self, shape: LogPart, query: LogQuery, wanted: EntryFilter, end: int | None) -> LogPart:
        first = 0 if wanted else max(0, (end or shape.last_index + 1) - query.limit)
        newest: deque[LogEntry] = deque(maxlen=query.limit)
        left_out = 0
        for page in directory.log_pages(self._path, first, end):
            found, untimed = _split(wanted, _entries(page.records, wanted, query.digests))
            newest += found
            left_out += untimed
        return _part(shape, page, newest, page.next, left_out)


def _split(wanted: EntryFilter, entries: Iterable[LogEntry]) -> tuple[list[LogEntry], int]:
    """Those that are shown, and how many are not because they carry no time."""
    passing = list(entries)
    found = [entry for entry in passing if entry.time_ms or entry.type == DAMAGED or not wanted.by_time]
    return found, len(passing) - len(found)


def _part(shape: LogPart, page: LogPage, entries: Iterable[LogEntry], following: int, untimed: int) -> LogPart:
    found = tuple(entries)
    return replace(shape, entries=found, next_index=following, first_index=page.first, last_index=page.last, untimed=untimed)


def _entries(records: Iterable[LogRecord], wanted: EntryFilter, digests: bool) -> Iterator[LogEntry]:
    for index, entry, problem in records:
        if entry is None:  # it may be any, so it passes every filter
            yield LogEntry(index, 0, DAMAGED, 0, (problem,), b"", 0)
        elif (looked := wanted.look(entry)) is not None:
            sum_ = digest(entry) if digests else b""
            yield LogEntry(index, entry.term, looked.word, len(entry.data), tuple(looked.lines), sum_, looked.time_ms)
