"""Keeps a server's events across restarts: between the ring that everybody reads (`replica.events`) and the journal on disk.

A task follows the ring and hands new events to a thread. If the disk does not take them, this is logged, and the events stay in
the ring: no event is worth a save, an answer, or a replica.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from ravel_node.replica.events import Event, EventKind, EventLog
from ravel_node.storage.events_file import EventsFile

CLOSE_S: Final = 0.5
"""How long an orderly end waits for a disk that hangs."""


class EventKeeper:
    """The events of one data directory. Everything but the journal itself runs on the loop."""

    def __init__(self, directory: Path, observe: Callable[[str, Mapping[str, object]], None]) -> None:
        """`observe` is told what goes wrong: the name of an event and its fields. The directory is made if it is not there."""
        self._journal = EventsFile(directory)
        self._observe = observe
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._events: EventLog | None = None
        self._task: asyncio.Task[None] | None = None
        self._handed_over = 0  # the sequence of the newest event that the thread was given

    async def open(self) -> Sequence[Event]:
        """The events of earlier boots, oldest first. Never raises for what is on the disk."""
        loop = asyncio.get_running_loop()
        try:
            payloads, problems = await loop.run_in_executor(self._thread, self._journal.load)
        except OSError as error:
            payloads, problems = [], [str(error)]
        for problem in problems:
            self._observe("events.damaged", {"why": problem})
        return [event for event in map(decode, payloads) if event is not None]

    def follow(self, events: EventLog) -> None:
        """From now on keep what happens. What it holds by now is on the disk already."""
        self._handed_over = events.newest
        self._events = events
        self._task = asyncio.get_running_loop().create_task(self._follow(events), name="event-keeper")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._observe("events.write_failed", {"why": f"an error in this program: {error!r}"})

    async def _follow(self, events: EventLog) -> None:
        while True:
            await events.news(self._handed_over)
            if problem := await asyncio.shield(self._hand_over(events)):
                self._observe("events.write_failed", {"why": problem})

    def _hand_over(self, events: EventLog) -> asyncio.Future[str]:
        """Give the thread what is new. It works in the order of the calls.

        Shield the future from cancellation, which would take events from a thread that has not begun with them.
        """
        news = events.since(self._handed_over)
        self._handed_over = events.newest
        return asyncio.get_running_loop().run_in_executor(self._thread, self._append, [encode(event) for event in news])

    def _append(self, payloads: Sequence[bytes]) -> str:
        """On the thread: why it did not work, or nothing."""
        try:
            self._journal.append(payloads)
        except OSError as error:
            return str(error)
        return ""

    async def close(self) -> None:
        """Write what is left and end. Safe to call twice."""
        if self._task is not None and self._events is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_S)
            self._task = None
            self._hand_over(self._events)
            ended = asyncio.get_running_loop().run_in_executor(self._thread, self._journal.close)
            await asyncio.wait([ended], timeout=CLOSE_S)
        self._thread.shutdown(wait=False)


def encode(event: Event) -> bytes:
    told = {
        "boot_id": event.boot_id,
        "sequence": event.sequence,
        "wall_ms": event.wall_ms,
        "kind": int(event.kind),
        "name": event.name,
        "replica_id": event.replica_id,
        "term": event.term,
        "index": event.index,
        "text": event.text,
        "fields": dict(event.fields),
    }
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def decode(payload: bytes) -> Event | None:
    """None for what this version does not know."""
    try:
        told: dict[str, Any] = json.loads(payload)
        return Event(
            boot_id=str(told["boot_id"]),
            sequence=int(told["sequence"]),
            wall_ms=int(told["wall_ms"]),
            kind=EventKind(told["kind"]),
            name=str(told["name"]),
            replica_id=int(told["replica_id"]),
            term=int(told["term"]),
            index=int(told["index"]),
            text=str(told["text"]),
            fields={str(key): str(value) for key, value in told["fields"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
