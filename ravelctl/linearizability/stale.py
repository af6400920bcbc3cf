"""What a stale read promises: no freshness, but the state of one moment of the one history, at the index that it tells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ravelctl.client import KeyValue
from ravelctl.linearizability.history import Operation, Outcome


@dataclass(frozen=True, slots=True)
class StaleRead:
    """One read of a server's own state. Times in seconds of the recorder's clock."""

    server: str
    key: bytes
    index: int  # how far the server says to have applied
    answer: KeyValue | None
    invoked_s: float
    completed_s: float


def broken_promises(reads: Iterable[StaleRead], history: Iterable[Operation]) -> Iterator[str]:
    """Sentences about reads that no correct replica gives, over all servers and their restarts.

    A value was written by somebody who had begun to before the read ended, and under the revision that its writer was told. At
    one index all servers show the same, and at a higher one nothing older.
    """
    writes = {operation.value: operation for operation in history if operation.value is not None}
    by_key: dict[bytes, list[StaleRead]] = defaultdict(list)
    for read in reads:
        by_key[read.key].append(read)
        if read.answer is not None:
            yield from _of_value(read, read.answer, writes.get(read.answer.value))
    for of_key in by_key.values():
        yield from _of_order(sorted(of_key, key=lambda read: read.index))


def _of_value(read: StaleRead, answer: KeyValue, write: Operation | None) -> Iterator[str]:
    if write is None or write.key != read.key:
        yield f"{_told(read)}: nobody wrote that under this key"
    elif write.outcome is Outcome.FAILED or write.swapped is False:
        yield f"{_told(read)}: its writer was told that nothing was done"
    elif write.invoked_s > read.completed_s:
        yield f"{_told(read)}: it was written only later"
    elif write.outcome is Outcome.DONE and write.revision != answer.revision:
        yield f"{_told(read)}: its writer was told revision {write.revision}"


def _of_order(reads: list[StaleRead]) -> Iterator[str]:
    newest: StaleRead | None = None  # the last one that found something
    before: StaleRead | None = None
    for read in reads:
        if before is not None and before.index == read.index and before.answer != read.answer:
            yield f"{_told(read)}, but at the same index {_told(before)}"
        if newest is not None and newest.answer and read.answer and read.answer.revision < newest.answer.revision:
            yield f"{_told(read)} is older than what was there before: {_told(newest)}"
        before, newest = read, read if read.answer is not None else newest


def _told(read: StaleRead) -> str:
    shown = f"{read.answer.value[:40]!r} at revision {read.answer.revision}" if read.answer is not None else "nothing"
    return f"{read.server} showed {read.key!r} at index {read.index} as {shown}"
