"""The copying of one migration's keys from its source to its destination: all of them once, then the keys written meanwhile.

Any number of copiers may work at one migration at once, a dead one's late messages included. The destination still ends with
every key as it is at the source:

- After an IMPORT the destination takes no chunk of an earlier copier, or of an earlier attempt of the same one. IMPORT skips
  CHUNKS_IN_FLIGHT_MAX numbers, and a copier sends no number that is further above the last one of its own that was taken. A
  copier reads the source only once its IMPORT was answered, always behind a read barrier. So the contents of a chunk were read
  after every chunk of another copier that comes before it was taken.
- A copier numbers its chunks in the order in which it has read them, and a number stays with its keys however often the chunk is
  sent. The destination takes chunks in the order of their numbers. So of a copier's own chunks, too, the one that is taken later
  was read later. Two passes, and two pages of one pass over the notes, may hold the same key: its newest state is taken last.
- From both it follows that of each key the state that was read last is the state that was taken last, although several chunks
  are in flight at a time. A chunk that arrives before its predecessor was taken is refused for the moment (`taken` is false) and
  is sent again, with the same number and keys, once the predecessor was taken. A chunk whose number was used up by another
  copier's IMPORT, or whose outcome is unknown, is given up with all that follow it; its number never comes back, and the keys
  are read again after another IMPORT.
- Reading begins after the source has begun to note. A key that is written later is noted, and a note goes (SETTLE) only once
  every chunk of the pass that has read it was taken. So a full pass, and then the notes until there are none while writes are
  refused, leave nothing behind.

The first pass compares what is there with what should be, so that it goes on where another copier ended, and no destination is
trusted to be empty. A copier's own chunks in flight do not disturb the comparison: they hold keys at places that the
destination's pages have passed already. Both clusters verify the index by which they find the keys of a slot, each on the
replica that answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from ravel_node.admin.model import Move
from ravel_node.admin.ports import ClusterPort
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1.slots_pb2 import (
    IMPORT,
    IMPORT_CHUNK,
    SETTLE,
    ChangeSlotsRequest,
    MovedKey,
    ReadSlotsRequest,
    ReadSlotsResponse,
)

CHUNK_KEYS_MAX: Final = 256
CHUNK_BYTES_MAX: Final = 1 << 20
"""Of one chunk: keys, and bytes of keys and values. A single key with its value may be larger. Clusters take four times as many
keys; with fewer at once the clients of both wait less (bench_move)."""

Place = tuple[int, bytes]
"""Slot and key: the order in which keys are told."""

THE_END: Final = (SLOT_COUNT, b"")
CHUNKS_IN_FLIGHT: Final = 4
"""Chunks that are sent before the first of them was answered; at most machine.ownership.CHUNKS_IN_FLIGHT_MAX."""


class ChunkLostError(Exception):
    """The destination expects another chunk, because another migrator has begun. The source must be read again."""


@dataclass(slots=True)
class Pass:
    """What one pass found to copy."""

    keys: int = 0
    bytes: int = 0  # of keys and values


class Meter(Protocol):
    """Counts as the copier works."""

    def compared(self, keys: int) -> None:
        """The first pass has seen so many further keys of the source. Those that the destination lacked are copied."""
        ...

    def copied(self, keys: int, size: int) -> None:
        """The destination has taken so many keys, with so many bytes of keys and values."""
        ...


class Copier:
    """Copies one migration. After any error, `begin` comes first; what `compare` has once completed stays done."""

    clusters: ClusterPort  # assigned before each `begin`

    def __init__(self, move: Move, meter: Meter) -> None:
        self._move = move
        self._meter = meter
        self._next_chunk = 0
        self._chunk = _Chunk(move.move_id)
        self._in_flight: deque[asyncio.Task[None]] = deque()  # by number

    async def begin(self, source_revision: int) -> None:
        """Make the destination import from this copier alone. The source had `source_revision` after it began to note writes.

        Raises StepRefusedError, ClusterAwayError.
        """
        move = self._move
        request = ChangeSlotsRequest(step=IMPORT, move=move.move_id, slots=move.slots, revision=source_revision)
        self._next_chunk = (await self.clusters.change(move.destination, request)).next_chunk

    async def compare(self) -> Pass:
        """Make every key of the slots what it is at the source. Raises ChunkLostError, StepRefusedError, ClusterAwayError.

        Both sides tell their keys in the same order, so that only a page of each is kept.
        """
        here = ReadSlotsRequest(slots=self._move.slots, linearizable=True)
        async with (
            self._sending() as found,
            aclosing(self.clusters.read(self._move.source, here)) as pages,
            aclosing(self._taken_before()) as taken,
        ):
            there = _Ahead(taken)
            revision = 0
            async for page in pages:
                revision = page.revision
                for moved in page.keys:
                    place = (slot_of(moved.key), moved.key)
                    async for key in there.before(place):
                        await self._add(MovedKey(key=key), revision, found)
                    if await there.take(place) != moved.revision:
                        await self._add(moved, revision, found)
                self._meter.compared(len(page.keys))
            async for key in there.before(THE_END):
                await self._add(MovedKey(key=key), revision, found)
        return found

    async def _taken_before(self) -> AsyncGenerator[ReadSlotsResponse, None]:
        """Yield what the destination has already: its keys and their revisions.

        It is asked before the first chunk, too: a key that was left behind when the slot was here last must not come back.
        """
        request = ReadSlotsRequest(slots=self._move.slots, keys_only=True, linearizable=True)
        async with aclosing(self.clusters.read(self._move.destination, request)) as pages:
            async for page in pages:
                yield page

    async def follow(self, *, settle: bool) -> Pass:
        """Copy what was noted, and let the notes go if `settle`. Raises like `compare`."""
        first_revision = 0
        request = ReadSlotsRequest(noted_for_move=self._move.move_id, linearizable=True)
        async with self._sending() as found, aclosing(self.clusters.read(self._move.source, request)) as pages:
            async for page in pages:
                first_revision = first_revision or page.revision
                for moved in page.keys:
                    await self._add(moved, page.revision, found)
        if settle and found.keys:
            # Later pages show later states: of those only the first page's time is sure for every key.
            settled = ChangeSlotsRequest(step=SETTLE, move=self._move.move_id, revision=first_revision)
            await self.clusters.change(self._move.source, settled)
        return found

    @asynccontextmanager
    async def _sending(self) -> AsyncGenerator[Pass, None]:
        """Yield the account of a pass, at whose end every chunk was taken. After an error none is sent any more."""
        found = Pass()
        self._chunk = _Chunk(self._move.move_id)
        try:
            yield found
            await self._send()
            while self._in_flight:
                await self._first_taken()
        finally:
            for sending in self._in_flight:
                sending.cancel()
            await asyncio.gather(*self._in_flight, return_exceptions=True)
            self._in_flight.clear()

    async def _add(self, moved: MovedKey, revision: int, found: Pass) -> None:
        size = len(moved.key) + len(moved.value)
        if self._chunk.is_full_with(size):
            await self._send()
        self._chunk.add(moved, size, revision)
        found.keys += 1
        found.bytes += size

    async def _send(self) -> None:
        """Send the keys that have gathered, if there are any, once few enough chunks are in flight."""
        chunk, self._chunk = self._chunk, _Chunk(self._move.move_id, self._chunk.revision)
        if not chunk.keys:
            return
        while len(self._in_flight) >= CHUNKS_IN_FLIGHT:
            await self._first_taken()
        before = self._in_flight[-1] if self._in_flight else None
        number, self._next_chunk = self._next_chunk, self._next_chunk + 1
        self._in_flight.append(asyncio.create_task(self._deliver(chunk, number, before)))

    async def _first_taken(self) -> None:
        """Wait until the first chunk in flight was taken. Raises whatever came of it instead."""
        sending = self._in_flight[0]
        await asyncio.wait((sending,))
        self._in_flight.popleft()
        sending.result()

    async def _deliver(self, chunk: _Chunk, number: int, before: asyncio.Task[None] | None) -> None:
        """Send a chunk until it is taken. `before` sends the one with the number before it; None: that one was taken."""
        request = chunk.request(number)
        answer = await self.clusters.change(self._move.destination, request)
        if not answer.taken and answer.next_chunk < number and before is not None:
            await asyncio.wait((before,))
            if before.cancelled() or before.exception() is not None:
                raise ChunkLostError(f"chunk {number - 1} was not taken, so chunk {number} cannot be")
            answer = await self.clusters.change(self._move.destination, request)
        if not answer.taken:
            raise ChunkLostError(
                f"the destination takes chunk {answer.next_chunk} next, not {number}: another migrator has begun"
            )
        self._meter.copied(len(chunk.keys), chunk.bytes)


class _Chunk:
    """What is to be sent next."""

    def __init__(self, move: int, revision: int = 0) -> None:
        self.keys: list[MovedKey] = []
        self.revision = revision  # of the source, when the newest page was read
        self._move = move
        self.bytes = 0

    def is_full_with(self, size: int) -> bool:
        return len(self.keys) == CHUNK_KEYS_MAX or (bool(self.keys) and self.bytes + size > CHUNK_BYTES_MAX)

    def add(self, moved: MovedKey, size: int, revision: int) -> None:
        self.keys.append(moved)
        self.bytes += size
        self.revision = max(self.revision, revision)

    def request(self, number: int) -> ChangeSlotsRequest:
        return ChangeSlotsRequest(step=IMPORT_CHUNK, move=self._move, chunk=number, keys=self.keys, revision=self.revision)


class _Ahead:
    """What the destination has, looked at beside what the source tells. Keys come by slot, and in byte order within each."""

    def __init__(self, pages: AsyncIterator[ReadSlotsResponse]) -> None:
        self._pages = pages
        self._keys: deque[tuple[Place, int]] = deque()  # of one page: place and revision

    async def before(self, place: Place) -> AsyncIterator[bytes]:
        """The keys before this place that nobody took."""
        while await self._fill() and self._keys[0][0] < place:
            yield self._keys.popleft()[0][1]

    async def take(self, place: Place) -> int:
        """The revision of the key at this place, where `before` has come to; 0: it is not there."""
        if not await self._fill() or self._keys[0][0] != place:
            return 0
        return self._keys.popleft()[1]

    async def _fill(self) -> bool:
        """Whether there is a key."""
        while not self._keys and (page := await anext(self._pages, None)) is not None:
            self._keys.extend(((slot_of(moved.key), moved.key), moved.revision) for moved in page.keys)
        return bool(self._keys)
