"""The Watch stream: a cursor of each watcher, one look at the new entries for all of them, and every event encoded once.

A watcher that is behind reads the log by itself, a bounded part at a time, and reads on when its message has left: whoever
takes messages slowly stops only itself, and nothing is queued for it but the one message under way. If the log is compacted
before it has come so far, its stream ends with COMPACTED.

A watch of one key, or one that names slots, gets everything that happened to their keys here, and the revisions at which slots
left (`slot_subscription`). Each slot has its own first revision. When no slot remains the stream ends. A watch of a range that
names no slots gets what happens to keys here; keys that come or leave with their slots are no events, but then the version of the
map in its messages changes.

A watcher that has caught up sleeps. When entries are applied, `_look` reads them once for all sleepers, finds by bisection in
the sorted keys whose ranges they touch, and wakes those. Watchers of the same range that wake together share their message.
The look rests for LOOK_REST times as long as it took, so that many watchers cannot take the loop away from what they watch.

What an entry changed is kept in a small cache with each event in its form on the wire. A message is these bytes joined, and
the fields that differ, after them: protobuf allows the fields of a message in any order.

Every message tells up to which revision its stream is complete, and holds whole revisions only. So a watch can go on anywhere
at that revision plus one: without a gap, without an event twice, and without half of an atomic Write.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ravel_node.machine.slots import ALL_SLOTS
from ravel_node.raft.types import Index
from ravel_node.replica.errors import OutOfTouchError, ReplicaBusyError, RevisionCompactedError
from ravel_node.replica.feed import Position, Step
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.replica import Replica
from ravel_node.server.interrupts import Interrupts
from ravel_node.server.slot_subscription import Began, Left, SlotSubscription, View, Views, Wanted
from ravelpb.slots import slot_of
from ravelpb.v1 import common_pb2, kv_pb2

READ_BYTES_MAX: Final = 256 << 10
"""Bytes of entries that one turn reads, and about the bytes of events in one message; a larger revision comes alone."""

CACHE_BYTES_MAX: Final = 8 << 20
"""Encoded events that are kept for other watchers. One entry may be larger; then it alone is kept."""

SHARED_BYTES_MAX: Final = 8 << 20
"""Messages kept for watchers of the same range that woke together."""

EVENT_OVERHEAD_BYTES: Final = 160
"""What an encoded event is taken to cost besides its bytes: its objects, and its place in the lists."""

LOOK_REST: Final = 4.0
"""After a look the next one waits for so many times as long as it took: looking takes at most a fifth of the loop's time."""

LEADERLESS_ELECTIONS: Final = 4.0
"""A watcher that has caught up is sent elsewhere once no leader was heard of for so many election timeouts."""


class Range(NamedTuple):
    """Keys with start <= key < end, an empty end: to the last key; of these slots (a bitmap) only; empty: of all."""

    start: bytes
    end: bytes
    slots: bytes = b""

    @property
    def key(self) -> bytes:
        """The only key in it; empty: it may hold more, or is restricted to slots."""
        return self.start if not self.slots and self.end == self.start + b"\0" else b""

    def holds(self, key: bytes) -> bool:
        """Whether the key lies in it, whatever its slot."""
        return self.start <= key and (not self.end or key < self.end)

    def names(self, key: bytes) -> bool:
        """Whether the key lies in it, where slots are named."""
        slot = slot_of(key)
        return bool(self.slots[slot >> 3] >> (slot & 7) & 1) and self.holds(key)

    def touches(self, ordered: Sequence[bytes]) -> bool:
        """Whether any of these ascending keys lies in it, whatever its slot."""
        at = bisect_left(ordered, self.start)
        return at < len(ordered) and (not self.end or ordered[at] < self.end)


class EncodedResponse(NamedTuple):
    """A WatchResponse in its form on the wire."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802  # the one method that the binding needs of a message
        return self.data


class _Events(NamedTuple):
    """The changes of one entry: a list of keys and encoded events for each revision after `before`."""

    before: int
    revisions: list[list[tuple[bytes, bytes]]]
    next: Position
    size: int


def _to_proto(part: Began) -> kv_pb2.SlotsFrom:
    return kv_pb2.SlotsFrom(slots=part.slots, from_revision=part.from_revision, came=part.came)


def _encode(step: Step) -> _Events:
    revisions: list[list[tuple[bytes, bytes]]] = []
    size = EVENT_OVERHEAD_BYTES
    for revision, changes in enumerate(step.changes, step.before + 1):
        events = [(key, _encode_event(key, value, revision)) for key, value in changes]
        size += sum(len(data) + EVENT_OVERHEAD_BYTES for _, data in events)
        revisions.append(events)
    return _Events(step.before, revisions, step.next, size)


def _encode_event(key: bytes, value: bytes | None, revision: int) -> bytes:
    """The event as one element of `WatchResponse.events`, tag and length included."""
    if value is None:
        event = kv_pb2.KeyEvent(kind=kv_pb2.KeyEvent.DELETE, key=key, revision=revision)
    else:
        event = kv_pb2.KeyEvent(key=key, value=value, revision=revision)
    return kv_pb2.WatchResponse(events=[event]).SerializeToString()


@dataclass(slots=True)
class _Cursor:
    """How far one watcher has come."""

    range: Range
    position: Position
    seen: int  # every revision up to this one was sent, or touched nothing in the range
    subscription: SlotSubscription | None  # None: the watch names no slots
    map_version: int  # as last sent
    names_slots: bool
    begins_later: Mapping[int, int]  # slots whose first revision lies above those of the others, until it is reached
    woken: bool = False  # with others of its range, at the same position: they may share what they read


class _News(NamedTuple):
    """Slots to report in a message."""

    left: Sequence[Left] = ()
    missed: Sequence[Began] = ()


class _Collected(NamedTuple):
    events: bytes
    position: Position
    seen: int


class Watches:
    """All watchers of one replica. Everything runs on the loop."""

    def __init__(
        self, replica: Replica, interrupts: Interrupts, watches_max: int, header: Callable[[], common_pb2.ResponseHeader]
    ) -> None:
        self.replica = replica
        self._feed = replica.feed
        self._interrupts = interrupts
        self._watches_max = watches_max
        self._header = header
        self._count = 0
        self._cache: OrderedDict[Index, _Events] = OrderedDict()
        self._cache_bytes = 0
        self._asleep: dict[Range, set[asyncio.Future[Position]]] = {}
        self._looked = Position(Index(0), 0)  # with sleepers: all of them know what lies before it
        self._views = Views()
        self._viewed = self._view()  # at the last look
        self._rest_until = 0.0
        self._look_timer: asyncio.TimerHandle | None = None
        self._shared: dict[tuple[Range, Position, int], _Collected] = {}
        self._shared_bytes = 0

    async def watch(
        self, wanted: Range, from_revision: int, progress_s: float, slots: Sequence[Wanted] = ()
    ) -> AsyncGenerator[EncodedResponse, None]:
        """Yield the messages of one watcher, until its slots have left; see WatchRequest.

        Raises RevisionCompactedError, WrongSlotError, OutOfTouchError, ReplicaBusyError (too many watchers), ReplicaStoppedError,
        RemovedError.
        """
        if self._count >= self._watches_max:
            raise ReplicaBusyError(
                f"{self._count} watches are served here already, the most is {self._watches_max}: "
                "ask another replica, or raise --watches-max"
            )
        self._count += 1
        try:
            await self.replica.read_barrier(ReadMode.STALE)
            cursor = self._begin(wanted, from_revision, slots)
            async for response in self._messages(cursor, progress_s):
                yield response
        finally:
            self._count -= 1

    def _begin(self, wanted: Range, from_revision: int, slots: Sequence[Wanted]) -> _Cursor:
        view, head = self._view(), self._feed.head()
        if not slots and not wanted.key:
            first = from_revision or head.revision + 1
            return _Cursor(wanted, self._position(first, head), first - 1, None, view.map_version, False, {})
        names_slots = bool(slots)
        subscription = SlotSubscription(
            slots or [Wanted((slot_of(wanted.key),), from_revision, None)], view, head.revision, self._feed.arrivals()
        )
        if not names_slots and subscription.missed:
            raise RevisionCompactedError(from_revision, subscription.missed[0].from_revision)
        if not names_slots and subscription.absent:
            raise subscription.refusal(subscription.absent[0])
        if names_slots:
            wanted = wanted._replace(slots=b"" if subscription.bitmap == ALL_SLOTS else subscription.bitmap)
        position = self._position(subscription.first, head)
        return _Cursor(
            wanted,
            position,
            subscription.first - 1,
            subscription,
            view.map_version,
            names_slots=names_slots,
            begins_later=subscription.begins_later,
        )

    def _position(self, revision: int, head: Position) -> Position:
        return head if revision > head.revision else self._feed.seek(revision)

    def _view(self) -> View:
        return self._views.of(self.replica.machine.ownership)

    async def _messages(self, cursor: _Cursor, progress_s: float) -> AsyncGenerator[EncodedResponse, None]:
        loop = asyncio.get_running_loop()
        news = self._look_at_slots(cursor)
        yield self._first_response(cursor, news)
        told_at = loop.time()
        while self._remains(cursor, news):
            await self.replica.read_barrier(ReadMode.STALE)
            if cursor.position.index < self._feed.head().index:
                events = self._collect(cursor)
                if not events:
                    await asyncio.sleep(0)  # a long way through entries that do not matter: others have their turn
            else:
                self._check_in_touch()
                events = b""
                await self._sleep(cursor, told_at + progress_s)
            told_version = cursor.map_version
            news = self._look_at_slots(cursor)
            changed = news != _News() or cursor.map_version != told_version
            if events or changed or loop.time() >= told_at + progress_s:
                yield self._response(events, cursor, news)
                told_at = loop.time()

    def _look_at_slots(self, cursor: _Cursor) -> _News:
        """Look for slots that came or left meanwhile. Raises RevisionCompactedError if the slot of a key left and came back."""
        view = self._view()
        subscription = cursor.subscription
        if subscription is None:
            if view.map_version != cursor.map_version and cursor.position.index >= self._feed.head().index:
                cursor.map_version = view.map_version
            return _News()
        missed = subscription.look(view, self._views, cursor.seen)
        left = subscription.leave(cursor.seen)
        if missed and not cursor.names_slots:
            raise RevisionCompactedError(cursor.seen + 1, missed[0].from_revision)
        if left or missed:
            cursor.map_version = view.map_version
            if cursor.names_slots:
                cursor.range = cursor.range._replace(slots=subscription.bitmap)
            if left and not subscription.slots:
                cursor.seen = min(cursor.seen, left[-1].revision)
        if cursor.begins_later and cursor.seen + 1 >= max(cursor.begins_later.values()):
            cursor.begins_later = {}
        return _News(left, missed)

    def _remains(self, cursor: _Cursor, news: _News) -> bool:
        """Return whether something is left to watch. Raises WrongSlotError where the slot of a key has left."""
        if cursor.subscription is None or cursor.subscription.slots:
            return True
        if not cursor.names_slots:
            raise cursor.subscription.refusal(news.left[-1].slots[0])
        return False

    def _first_response(self, cursor: _Cursor, news: _News) -> EncodedResponse:
        response = self._response(b"", cursor, news)
        if (subscription := cursor.subscription) is None or not cursor.names_slots:
            return response
        beginning = kv_pb2.WatchResponse(
            began=map(_to_proto, subscription.began),
            absent=subscription.absent,
            missed=map(_to_proto, subscription.missed),
        )
        subscription.forget_beginning()
        return EncodedResponse(beginning.SerializeToString() + response.data)

    def _response(self, events: bytes, cursor: _Cursor, news: _News) -> EncodedResponse:
        rest = kv_pb2.WatchResponse(revision=cursor.seen, header=self._header(), map_version=cursor.map_version)
        for slots, revision in news.left:
            rest.left.add(slots=slots, revision=revision)
        rest.missed.extend(map(_to_proto, news.missed))
        return EncodedResponse(events + rest.SerializeToString())

    def _check_in_touch(self) -> None:
        silence_s = self.replica.leaderless_s()
        if silence_s > LEADERLESS_ELECTIONS * self.replica.options.election_timeout_s:
            raise OutOfTouchError(silence_s)

    # --- reading on

    def _collect(self, cursor: _Cursor) -> bytes:
        """Move the cursor on by one turn's reading; the events of whole revisions that its watcher wants of it."""
        key = (cursor.range, cursor.position, cursor.seen)
        found = self._shared.get(key) if not cursor.begins_later else None
        if found is None:
            try:
                found = self._read(cursor)
            except RevisionCompactedError:
                # A snapshot may have skipped entries that changed nothing: then the watch goes on behind them.
                cursor.position = self._feed.seek(cursor.seen + 1)
                return b""
            if cursor.woken and not cursor.begins_later and self._shared_bytes + len(found.events) <= SHARED_BYTES_MAX:
                self._shared[key] = found
                self._shared_bytes += len(found.events)
        cursor.position, cursor.seen, cursor.woken = found.position, found.seen, False
        return found.events

    def _read(self, cursor: _Cursor) -> _Collected:
        holds = cursor.range.names if cursor.range.slots else cursor.range.holds
        later = cursor.begins_later
        position, seen = cursor.position, cursor.seen
        parts: list[bytes] = []
        size = 0
        for entry in self._entries(position):
            for revision, events in enumerate(entry.revisions, entry.before + 1):
                if revision <= seen:
                    continue
                matching = [data for key, data in events if holds(key) and not (later and revision < later.get(slot_of(key), 0))]
                parts += matching
                size += sum(map(len, matching))
                seen = revision
                if size >= READ_BYTES_MAX:
                    return _Collected(b"".join(parts), position, seen)
            position = entry.next
        return _Collected(b"".join(parts), position, max(seen, position.revision))

    def _entries(self, position: Position) -> Iterator[_Events]:
        """The applied entries from `position` on, about READ_BYTES_MAX of them. To be used up without an await."""
        size = 0
        head = self._feed.head().index
        while position.index < head and size < READ_BYTES_MAX:
            entry = self._cache.get(position.index)
            if entry is None:
                entry = self._load(position)
            yield entry
            size += entry.size
            position = entry.next

    def _load(self, position: Position) -> _Events:
        """Read a run of entries into the cache; the first one."""
        first: _Events | None = None
        for step in self._feed.read(position, READ_BYTES_MAX):
            entry = _encode(step)
            first = first or entry
            if (old := self._cache.pop(step.index, None)) is not None:
                self._cache_bytes -= old.size
            self._cache[step.index] = entry
            self._cache_bytes += entry.size
        while self._cache_bytes > CACHE_BYTES_MAX and len(self._cache) > 1:
            _, dropped = self._cache.popitem(last=False)
            self._cache_bytes -= dropped.size
        if first is None:
            raise RevisionCompactedError(position.revision + 1, self._feed.oldest().revision + 1)
        return first

    # --- sleeping

    async def _sleep(self, cursor: _Cursor, until: float) -> None:
        """Return when something may have come for a cursor at the head, or it is time. It then stands where to read on."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[Position] = loop.create_future()
        if not self._asleep:
            self._looked = cursor.position
            self._viewed = self._view()
            self.replica.on_applied = self._more_applied
        self._asleep.setdefault(cursor.range, set()).add(woken)
        try:
            await self._interrupts.guard(asyncio.wait([woken], timeout=max(0.0, until - loop.time())))
        finally:
            looked = self._looked
            self._rise(cursor.range, woken)
        if woken.done():
            cursor.position, cursor.woken = woken.result(), True
        elif looked.index > cursor.position.index:
            cursor.position = looked
        cursor.seen = max(cursor.seen, cursor.position.revision)

    def _rise(self, wanted: Range, woken: asyncio.Future[Position]) -> None:
        """This one sleeps no more. Without sleepers nobody looks."""
        if (sleepers := self._asleep.get(wanted)) is not None:
            sleepers.discard(woken)
            if not sleepers:
                del self._asleep[wanted]
        if not self._asleep:
            self.replica.on_applied = None
            if self._look_timer is not None:
                self._look_timer.cancel()
                self._look_timer = None

    def _more_applied(self) -> None:
        if self._look_timer is None:
            self._look_timer = asyncio.get_running_loop().call_at(self._rest_until, self._look)

    def _look(self) -> None:
        """Wake the sleepers whose ranges were touched by what was applied since the last look."""
        self._look_timer = None
        self._shared.clear()
        self._shared_bytes = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        start = self._looked
        keys: list[bytes] = []
        try:
            for entry in self._entries(start):
                keys += [key for events in entry.revisions for key, _ in events]
                self._looked = entry.next
            done = self._looked.index >= self._feed.head().index
            self.replica.check_open()
        except Exception:  # whatever it is, each watcher meets it when it reads for itself, and tells it
            self._wake(list(self._asleep), start)
            return
        keys.sort()
        viewed, self._viewed = self._viewed, self._view()
        turned = viewed is not self._viewed
        self._wake([wanted for wanted in self._asleep if turned or wanted.touches(keys)], start)
        now = loop.time()
        self._rest_until = now + LOOK_REST * (now - began)
        if not done and self._asleep:
            self._more_applied()

    def _wake(self, ranges: Sequence[Range], start: Position) -> None:
        for wanted in ranges:
            for sleeper in self._asleep.pop(wanted):
                if not sleeper.done():
                    sleeper.set_result(start)
