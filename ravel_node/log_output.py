"""The way of log lines to stderr, on which no caller waits: whether the terminal, file or pipe takes them or not.

Two threads work here. The log thread owns everything: it limits events that repeat, makes lines of them and keeps the lines until
they are written. It never waits for a disk or a pipe. The other thread writes one chunk at a time, and may wait for ever.

Lines are kept up to a bound. Lines that exceed it are dropped until all kept lines are written, so that the gap is in one place,
where a line says how many are missing.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from ravel_node.log_limiter import SWEEP_S, Event, LogRateLimiter
from ravel_node.standard_streams import take_stderr

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LINES_MAX: Final = 16_384
BYTES_MAX: Final = 4 << 20
"""Bounds of what is kept while stderr takes nothing."""

CHUNK_BYTES: Final = 4_096
"""Lines are written together up to this size. A pipe takes this much as a whole, between the lines of others who share it."""

LARGE_CHUNK_PART: Final = 2
"""While a lot is kept, this fraction of it is written together. Each write waits for its turn at the processor, and dropped lines
would be worse than lines that others interrupt."""

BACKLOG_MAX: Final = 10_000
"""A caller that is this many events ahead of the log thread lets that thread run."""

AT_EXIT_S: Final = 1.0
"""How long a process that ends waits for stderr."""

Render = Callable[[Event], str]
"""Makes a line of an event, without the newline at its end."""


@dataclass(slots=True)
class LogCounts:
    """Counted since the start by the log thread. Others only read."""

    dropped: int = 0  # lines that stderr did not take
    withheld: int = 0  # events that repeated others and were counted instead of logged


@dataclass(frozen=True, slots=True)
class _Configured:
    render: Render
    limiter: LogRateLimiter | None


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Lines that are being written together."""

    lines: int
    reported: int  # dropped lines that it reports


@dataclass(frozen=True, slots=True)
class _Written:
    """The writing thread is done with its chunk."""

    accepted: bool


@dataclass(frozen=True, slots=True)
class _Finish:
    """The process ends: report what was withheld."""


@dataclass(frozen=True, slots=True)
class _Flush:
    done: threading.Event


class LogOutput:
    """Accepts events and text from any thread. Every method but `flush` returns at once."""

    def __init__(self, write: Callable[[bytes], None], *, on_terminal: bool = False) -> None:
        """`write` may wait, and raises OSError or ValueError if the bytes are lost. It is called on a thread of its own."""
        self.on_terminal = on_terminal
        self.counts = LogCounts()
        self._write = write
        self._inbox: SimpleQueue[Event | bytes | _Configured | _Written | _Finish | _Flush] = SimpleQueue()
        self._chunks: SimpleQueue[bytes] = SimpleQueue()
        # What follows belongs to the log thread.
        self._render: Render = _sentence
        self._limiter: LogRateLimiter | None = None
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0  # invariant: the sum of the sizes in `_kept`
        self._overflowing = False
        self._unreported = 0  # lines that were dropped and not reported yet
        self._accepts = True  # the last chunk was accepted
        self._writing: _Chunk | None = None
        self._flushes: list[_Flush] = []
        for work, name in ((self._run, "log"), (self._write_chunks, "stderr")):
            threading.Thread(target=work, name=name, daemon=True).start()

    # --- for every thread

    def configure(self, render: Render, limiter: LogRateLimiter | None) -> None:
        """Render and limit the events that follow in this way. Call it before the first event."""
        self._inbox.put(_Configured(render, limiter))

    def event(self, event: Event) -> None:
        """Log an event, which nobody changes any more."""
        self._put(event)

    def text(self, text: bytes) -> None:
        """Write whole lines as they are."""
        self._put(text)

    def _put(self, item: Event | bytes) -> None:
        self._inbox.put(item)
        if self._inbox.qsize() > BACKLOG_MAX:
            time.sleep(0)  # the log thread needs the processor and nothing else

    def finish(self) -> None:
        """Log the repetitions that were counted so far, because the process ends."""
        self._inbox.put(_Finish())

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that was logged before is written, for at most this long. Returns whether it is."""
        flush = _Flush(threading.Event())
        self._inbox.put(flush)
        return flush.done.wait(timeout_s)

    # --- the thread that writes

    def _write_chunks(self) -> None:
        while True:
            chunk = self._chunks.get()
            try:
                self._write(chunk)
            except (OSError, ValueError):  # full disk, closed pipe, closed file
                self._inbox.put(_Written(False))
            else:
                self._inbox.put(_Written(True))

    # --- the log thread

    def _run(self) -> None:
        while True:
            try:
                item = self._inbox.get(timeout=SWEEP_S if self._limiter is not None and self._limiter.remembers else None)
            except Empty:
                pass
            else:
                self._take(item)
            if self._limiter is not None:
                self._keep_reports(self._limiter.sweep(time.monotonic()))
                self.counts.withheld = self._limiter.withheld
            self._write_next()

    def _take(self, item: Event | bytes | _Configured | _Written | _Finish | _Flush) -> None:
        match item:
            case bytes():
                self._keep(item)
            case _Configured():
                self._render, self._limiter = item.render, item.limiter
            case _Written():
                self._written(item.accepted)
            case _Finish():
                if self._limiter is not None:
                    self._keep_reports(self._limiter.finish(time.monotonic()))
            case _Flush():
                self._flushes.append(item)
            case _:
                if self._limiter is None or self._limiter.admits(item, time.monotonic()):
                    self._keep_event(item)

    def _keep_reports(self, reports: list[Event]) -> None:
        for report in reports:
            self._keep_event({**report, "time": timestamp()})

    def _keep_event(self, event: Event) -> None:
        self._keep(self._line(event))

    def _line(self, event: Event) -> bytes:
        """The event as a line. If it has none its traceback takes the place: an error here must not end the log for good."""
        try:
            text = self._render(event) + "\n"
        except Exception:
            text = traceback.format_exc()
        return text.encode("utf-8", "backslashreplace")

    def _keep(self, line: bytes) -> None:
        if len(self._kept) >= LINES_MAX or self._kept_bytes + len(line) > BYTES_MAX:
            self._overflowing = True
        if self._overflowing:
            self._lose(1)
            return
        self._kept.append(line)
        self._kept_bytes += len(line)

    def _lose(self, lines: int) -> None:
        self._unreported += lines
        self.counts.dropped += lines

    def _written(self, accepted: bool) -> None:
        if self._writing is not None and not accepted:
            self._lose(self._writing.lines)
            self._unreported += self._writing.reported
        self._writing, self._accepts = None, accepted

    def _write_next(self) -> None:
        """Hand the next chunk to the writing thread, if it has none."""
        if self._writing is not None:
            return
        if not self._kept:
            self._overflowing = False
        chunk: list[bytes] = []
        reported = 0
        if self._unreported and not self._overflowing and (self._kept or self._accepts):
            reported, self._unreported = self._unreported, 0
            chunk.append(self._line(_lines_dropped(reported)))
        size_max = max(CHUNK_BYTES, self._kept_bytes // LARGE_CHUNK_PART)
        lines = size = 0
        while self._kept and (lines == 0 or size + len(self._kept[0]) <= size_max):
            size += len(self._kept[0])
            lines += 1
            chunk.append(self._kept.popleft())
        self._kept_bytes -= size
        if chunk:
            self._writing = _Chunk(lines, reported)
            self._chunks.put(b"".join(chunk))
            return
        for flush in self._flushes:
            flush.done.set()
        self._flushes.clear()


@cache
def stderr_output() -> LogOutput:
    """Return the way to this process's stderr, which everything that Python prints to `sys.stderr` takes from the first call on.

    The process waits for its last lines when it ends, but no longer than `AT_EXIT_S`.
    """
    descriptor = take_stderr()
    output = LogOutput(_Descriptor(descriptor).write, on_terminal=os.isatty(descriptor))
    printed = _PrintedText(output, descriptor)
    sys.stderr = io.TextIOWrapper(printed, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    atexit.register(output.flush, AT_EXIT_S)
    atexit.register(output.finish)  # is called before the other one
    return output


class _Descriptor:
    """An open file of the system, written to from one thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._torn = False  # the last write stopped within a line

    def write(self, chunk: bytes) -> None:
        rest = memoryview(b"\n" + chunk if self._torn else chunk)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever shares this file has set O_NONBLOCK on it
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                self._torn = self._torn or 0 < len(rest) < len(chunk)
                raise
        self._torn = False


class _PrintedText(io.RawIOBase):
    """What is below `sys.stderr`: passes text on to the log, in the order of the events."""

    def __init__(self, output: LogOutput, descriptor: int) -> None:
        self._output = output
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._output.on_terminal

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: ReadableBuffer) -> int:
        raw = bytes(text)
        self._output.text(raw)
        return len(raw)


def timestamp() -> str:
    """Return the time of day as log lines have it: RFC 3339, in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _lines_dropped(lines: int) -> Event:
    why = f"{lines} log lines were dropped because stderr did not take them"
    return {"time": timestamp(), "level": "warning", "event": "log.lines_dropped", "dropped": lines, "why": why}


def _sentence(event: Event) -> str:
    """Render an event before `configure` was called."""
    return f"ravel_node: {event.get('why', event['event'])}"
