"""The Watch stream: a cursor of each watcher, one look at the new entries for all of them, and every event encoded once.

A watcher that is behind reads the log by itself, a bounded part at a time, and reads on when its message has left: whoever
takes messages slowly stops only itself, and nothing is queued for it but the one message under way. If the log is compacted
before it has come so far, its stream ends with COMPACTED.

A watch of one key is told all that happened to it here up to the revision at which its slot left, and then ends with
WRONG_CLUSTER: it goes on at the new owner from the revision after that one. What happened to a key before its slot came cannot be
told here, and is COMPACTED; also where a slot left and came back while somebody watched. A watch of a range is told what happens
to keys here; that keys come or go with their slots is no event.

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

from ravel_node.machine.ownership import FROM_THE_BEGINNING, Tenure
from ravel_node.raft.types import Index
from ravel_node.replica.errors import OutOfTouchError, ReplicaBusyError, RevisionCompactedError
from ravel_node.replica.feed import Position, Step
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.replica import Replica
from ravel_node.server.commands import check_owned
from ravel_node.server.interrupts import Interrupts
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


NO_TENURES: Final[Mapping[int, Tenure]] = {}


class Range(NamedTuple):
    """Keys with start <= key < end; an empty end: to the last key."""

    start: bytes
    end: bytes

    @property
    def key(self) -> bytes:
        """The only key in it; empty: it may hold more."""
        return self.start if self.end == self.start + b"\0" else b""

    def holds(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)

    def touches(self, ordered: Sequence[bytes]) -> bool:
        """Whether any of these ascending keys lies in it."""
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
    came: int = 0  # when the watch began: after which revision the slot of the one key that is watched is told of here
    woken: bool = False  # with others of its range, at the same position: they may share what they read


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
        self._tenures = NO_TENURES  # at the last look
        self._rest_until = 0.0
        self._look_timer: asyncio.TimerHandle | None = None
        self._shared: dict[tuple[Range, Position, int], _Collected] = {}
        self._shared_bytes = 0

    async def watch(self, wanted: Range, from_revision: int, progress_s: float) -> AsyncGenerator[EncodedResponse, None]:
        """The messages of one watcher, without end; see WatchRequest.

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
            cursor = self._begin(wanted, from_revision)
            async for response in self._messages(cursor, progress_s):
                yield response
        finally:
            self._count -= 1

    def _begin(self, wanted: Range, from_revision: int) -> _Cursor:
        tenure = FROM_THE_BEGINNING
        ownership = self.replica.machine.ownership
        if ownership is not None and wanted.key:
            tenure = ownership.tenure(wanted.key)
            if not from_revision or from_revision > tenure.left:
                check_owned(ownership, wanted.key)
        if not from_revision:
            head = self._feed.head()
            return _Cursor(wanted, head, head.revision, tenure.came)
        if from_revision <= tenure.came:
            raise RevisionCompactedError(from_revision, tenure.came + 1)
        return _Cursor(wanted, self._feed.seek(from_revision), from_revision - 1, tenure.came)

    async def _messages(self, cursor: _Cursor, progress_s: float) -> AsyncGenerator[EncodedResponse, None]:
        loop = asyncio.get_running_loop()
        yield self._response(b"", cursor.seen)
        told_at = loop.time()
        while True:
            await self.replica.read_barrier(ReadMode.STALE)
            if (left := self._left_at(cursor)) is not None and cursor.seen >= left:
                yield self._response(b"", left)
                self._check_owned(cursor.range)
            if cursor.position.index < self._feed.head().index:
                events = self._collect(cursor)
                if not events:
                    await asyncio.sleep(0)  # a long way through entries that do not matter: others have their turn
            else:
                self._check_in_touch()
                events = b""
                await self._sleep(cursor, told_at + progress_s)
            if events or loop.time() >= told_at + progress_s:
                left = self._left_at(cursor)
                yield self._response(events, cursor.seen if left is None else min(cursor.seen, left))
                told_at = loop.time()

    def _response(self, events: bytes, revision: int) -> EncodedResponse:
        rest = kv_pb2.WatchResponse(revision=revision, header=self._header())
        return EncodedResponse(events + rest.SerializeToString())

    def _left_at(self, cursor: _Cursor) -> int | None:
        """The revision at which the slot of the one key that is watched left; None: it is here.

        Raises RevisionCompactedError where it came back since the watch began.
        """
        ownership = self.replica.machine.ownership
        if ownership is None or not cursor.range.key:
            return None
        tenure = ownership.tenure(cursor.range.key)
        if tenure.came != cursor.came:
            raise RevisionCompactedError(cursor.seen + 1, tenure.came + 1)
        return None if ownership.readable(cursor.range.key) else tenure.left or cursor.seen

    def _check_owned(self, wanted: Range) -> None:
        """Raises WrongSlotError where the one key that is watched belongs to another cluster."""
        ownership = self.replica.machine.ownership
        if ownership is not None and wanted.key:
            check_owned(ownership, wanted.key)

    def _check_in_touch(self) -> None:
        silence_s = self.replica.leaderless_s()
        if silence_s > LEADERLESS_ELECTIONS * self.replica.options.election_timeout_s:
            raise OutOfTouchError(silence_s)

    # --- reading on

    def _collect(self, cursor: _Cursor) -> bytes:
        """Move the cursor on by one turn's reading; the events of whole revisions that its watcher wants of it."""
        key = (cursor.range, cursor.position, cursor.seen)
        found = self._shared.get(key)
        if found is None:
            try:
                found = self._read(cursor)
            except RevisionCompactedError:
                # A snapshot may have skipped entries that changed nothing: then the watch goes on behind them.
                cursor.position = self._feed.seek(cursor.seen + 1)
                return b""
            if cursor.woken and self._shared_bytes + len(found.events) <= SHARED_BYTES_MAX:
                self._shared[key] = found
                self._shared_bytes += len(found.events)
        cursor.position, cursor.seen, cursor.woken = found.position, found.seen, False
        return found.events

    def _read(self, cursor: _Cursor) -> _Collected:
        holds = cursor.range.holds
        position, seen = cursor.position, cursor.seen
        parts: list[bytes] = []
        size = 0
        for entry in self._entries(position):
            for revision, events in enumerate(entry.revisions, entry.before + 1):
                if revision <= seen:
                    continue
                matching = [data for key, data in events if holds(key)]
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
            self._tenures = self._tenures_now()
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
        turned = self._tenures is not (tenures := self._tenures_now())
        self._tenures = tenures
        self._wake([wanted for wanted in self._asleep if wanted.touches(keys) or (turned and wanted.key)], start)
        now = loop.time()
        self._rest_until = now + LOOK_REST * (now - began)
        if not done and self._asleep:
            self._more_applied()

    def _tenures_now(self) -> Mapping[int, Tenure]:
        """Another mapping than before if slots came or left meanwhile."""
        ownership = self.replica.machine.ownership
        return ownership.tenures if ownership is not None else NO_TENURES

    def _wake(self, ranges: Sequence[Range], start: Position) -> None:
        for wanted in ranges:
            for sleeper in self._asleep.pop(wanted):
                if not sleeper.done():
                    sleeper.set_result(start)
