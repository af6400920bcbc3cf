"""The streams of Cluster that go on: WatchStatus, and Events with `follow`.

Nothing is queued for a watcher. A frame is made when the one before has left, of what is true then; events are read from the
kept ones, by the position that the watcher has reached. So a slow watcher gets fewer frames, and in the end fewer events, and
costs no memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final

from ravel_node.replica.errors import ReplicaBusyError, ReplicaStoppedError
from ravel_node.replica.events import EVENTS_KEPT, Event, EventKind, Position
from ravel_node.server.host import Host
from ravel_node.server.interrupts import Interrupts
from ravel_node.server.limits import InputError
from ravel_node.server.status import events_to_proto, header_of, status_of
from ravelpb.v1 import cluster_pb2

INTERVAL_MS_DEFAULT: Final = 1_000
INTERVAL_MS_MIN: Final = 100
INTERVAL_MS_MAX: Final = 60_000

WATCHERS_MAX: Final = 64
"""Streams at once, of both kinds; a status costs some hundred microseconds of the loop that serves clients."""

FRAME_EVENTS_MAX: Final = 100
"""Events of one message; more follow in the next."""


class Watching:
    """The watchers of one daemon. Everything runs on the loop."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waits = Interrupts()
        self._watchers = 0

    def close(self) -> None:
        """End every stream: the daemon stops."""
        self._waits.interrupt(ReplicaStoppedError())

    async def statuses(self, request: cluster_pb2.WatchStatusRequest) -> AsyncGenerator[cluster_pb2.WatchStatusResponse, None]:
        """A full frame now and then one each interval; events in frames of their own between them.

        Raises InputError, ReplicaBusyError where too many watch, ReplicaStoppedError at the end.
        """
        interval_s = _interval_ms(request.interval_ms) / 1_000
        loop, events = asyncio.get_running_loop(), self._host.events
        with self._watcher():
            seen = events.sequence_of(_position(request.after)) if request.HasField("after") else events.newest
            due = loop.time()
            while True:
                frame = cluster_pb2.WatchStatusResponse()
                if loop.time() >= due:
                    frame.status.CopyFrom(status_of(self._host))
                    due = loop.time() + interval_s
                if news := events.since(seen, FRAME_EVENTS_MAX):
                    frame.events.extend(events_to_proto(news))
                    seen = news[-1].sequence
                yield frame
                while loop.time() < due and events.newest == seen:
                    await self._waits.guard(events.news(seen, due - loop.time()))

    async def events(self, request: cluster_pb2.EventsRequest) -> AsyncGenerator[cluster_pb2.EventsResponse, None]:
        """Those that are kept and were asked for, in pages, at least one page; with `follow` those that come, too.

        Raises what `statuses` raises.
        """
        kinds, limit = _kinds(request), _limit(request)
        events = self._host.events
        with self._watcher():
            first = events.sequence_of(_position(request.after)) if request.HasField("after") else 0
            kept = events.since(first)
            seen = kept[-1].sequence if kept else events.newest

            def wanted(event: Event) -> bool:
                return (not kinds or event.kind in kinds) and event.wall_ms >= request.since_ms

            chosen = [event for event in kept if wanted(event)][-limit:]
            for start in range(0, max(1, len(chosen)), FRAME_EVENTS_MAX):
                yield self._page(chosen[start : start + FRAME_EVENTS_MAX])
            while request.follow:
                await self._waits.guard(events.news(seen))
                news = events.since(seen, FRAME_EVENTS_MAX)
                seen = news[-1].sequence
                if chosen := [event for event in news if wanted(event)]:
                    yield self._page(chosen)

    def _page(self, events: list[Event]) -> cluster_pb2.EventsResponse:
        host = self._host
        header = header_of(host, None if host.identity.blank else host.replica)
        return cluster_pb2.EventsResponse(header=header, events=events_to_proto(events))

    @contextmanager
    def _watcher(self) -> Iterator[None]:
        if self._watchers >= WATCHERS_MAX:
            raise ReplicaBusyError(f"{self._watchers} streams watch this daemon already, which is the most; end one of them")
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1


def _interval_ms(asked: int) -> int:
    if asked and not INTERVAL_MS_MIN <= asked <= INTERVAL_MS_MAX:
        raise InputError(
            f"interval_ms is {asked}, it may be {INTERVAL_MS_MIN} to {INTERVAL_MS_MAX}", field="interval_ms", value=asked
        )
    return asked or INTERVAL_MS_DEFAULT


def _position(message: cluster_pb2.EventPosition) -> Position:
    return Position(message.boot_id, message.sequence)


def _limit(request: cluster_pb2.EventsRequest) -> int:
    if request.limit > EVENTS_KEPT:
        raise InputError(
            f"limit is {request.limit}, and a replica keeps {EVENTS_KEPT} events",
            field="limit",
            value=request.limit,
            limit=EVENTS_KEPT,
        )
    return request.limit or EVENTS_KEPT


def _kinds(request: cluster_pb2.EventsRequest) -> frozenset[EventKind]:
    known = {int(kind) for kind in EventKind}
    for kind in request.kinds:
        if kind not in known:
            raise InputError(f"{kind} is no kind of event that this daemon knows", field="kinds", value=kind)
    return frozenset(EventKind(kind) for kind in request.kinds)
