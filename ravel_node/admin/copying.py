"""How the keys of one move come from its source to its destination: all of them once, then what was written meanwhile.

Any number of copiers may work at one move at once, a dead one's late messages included; why the destination then has every key as
it is at the source:

- A chunk is taken only if it has the very number that the destination expects, and OK says that this chunk was taken. So what
  was taken is one sequence. A copier learns the number first and reads the source after that, always behind a read barrier; when
  another's chunk comes between, or the outcome of one is not known, it learns the number and reads again. So what is in a chunk
  was read after another copier's chunks before it were taken, and of each key the newest is what was taken last.
- Reading begins after the source has begun to note. A key that is written later is noted, and a note goes (SETTLE) only when a
  chunk with that write, or a later one, has been taken. So a full pass, and then the notes until there are none while writes are
  refused, leave nothing behind.

The first pass compares what is there with what should be, so that it goes on where another copier ended, and no destination is
trusted to be empty. Both clusters verify the index by which they find the keys of a slot, each on the replica that answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple

from ravel_node.admin.model import Move
from ravel_node.admin.ports import ClusterPort, StepImpossibleError, StepRefusedError
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
NO_CHUNK: Final = 0
"""The number of the next chunk is not known."""


class ChunkLostError(Exception):
    """The destination did not take a chunk: another mover's came before it, most likely. What was read must be read again."""


class Pass(NamedTuple):
    """What one pass found to copy."""

    keys: int
    bytes: int  # of keys and values


class Copier:
    """Copies one move. After any error, `begin` comes first; what `compare` has once completed stays done."""

    def __init__(self, clusters: ClusterPort, move: Move, copied: Callable[[int], None]) -> None:
        """`copied` is told of each chunk's keys."""
        self._clusters = clusters
        self._move = move
        self._copied = copied
        self._next_chunk = NO_CHUNK
        self._chunk = _Chunk(move.move_id)

    async def begin(self, source_revision: int) -> None:
        """Let the destination import, from wherever it is. `source_revision` is one that the source had after it began to note.

        Raises StepRefusedError, ClusterAwayError.
        """
        move = self._move
        request = ChangeSlotsRequest(step=IMPORT, move=move.move_id, slots=move.slots, revision=source_revision)
        self._next_chunk = (await self._clusters.change(move.destination, request)).next_chunk

    async def compare(self) -> Pass:
        """Make every key of the slots what it is at the source. Raises ChunkLostError, StepRefusedError, ClusterAwayError.

        Both sides tell their keys in the same order, so that only a page of each is kept.
        """
        here = ReadSlotsRequest(slots=self._move.slots, linearizable=True)
        found = Pass(0, 0)
        self._chunk = _Chunk(self._move.move_id)
        async with aclosing(self._clusters.read(self._move.source, here)) as pages, aclosing(self._taken_before()) as taken:
            there = _Ahead(taken)
            async for page in pages:
                for moved in page.keys:
                    place = (slot_of(moved.key), moved.key)
                    async for key in there.before(place):
                        found = await self._add(MovedKey(key=key), page.revision, found)
                    if await there.take(place) != moved.revision:
                        found = await self._add(moved, page.revision, found)
            async for key in there.before(THE_END):
                found = await self._add(MovedKey(key=key), self._chunk.revision, found)
        await self._send()
        return found

    async def _taken_before(self) -> AsyncGenerator[ReadSlotsResponse, None]:
        """Yield what the destination has already: its keys and their revisions.

        It is asked before the first chunk, too: a key that was left behind when the slot was here last must not come back.
        """
        request = ReadSlotsRequest(slots=self._move.slots, keys_only=True, linearizable=True)
        async with aclosing(self._clusters.read(self._move.destination, request)) as pages:
            async for page in pages:
                yield page

    async def follow(self, *, settle: bool) -> Pass:
        """Copy what was noted, and let the notes go if `settle`. Raises like `compare`."""
        first_revision = 0
        found = Pass(0, 0)
        self._chunk = _Chunk(self._move.move_id)
        request = ReadSlotsRequest(noted_for_move=self._move.move_id, linearizable=True)
        async with aclosing(self._clusters.read(self._move.source, request)) as pages:
            async for page in pages:
                first_revision = first_revision or page.revision
                for moved in page.keys:
                    found = await self._add(moved, page.revision, found)
        await self._send()
        if settle and found.keys:
            # Later pages show later states: of those only the first page's time is sure for every key.
            settled = ChangeSlotsRequest(step=SETTLE, move=self._move.move_id, revision=first_revision)
            await self._clusters.change(self._move.source, settled)
        return found

    async def _add(self, moved: MovedKey, revision: int, found: Pass) -> Pass:
        size = len(moved.key) + len(moved.value)
        if self._chunk.is_full_with(size):
            await self._send()
        self._chunk.add(moved, size, revision)
        return Pass(found.keys + 1, found.bytes + size)

    async def _send(self) -> None:
        """Send what has gathered, if anything has, and wait until it is taken."""
        chunk, self._chunk = self._chunk, _Chunk(self._move.move_id, self._chunk.revision)
        if not chunk.keys:
            return
        number, self._next_chunk = self._next_chunk, NO_CHUNK
        try:
            await self._clusters.change(self._move.destination, chunk.request(number))
        except StepImpossibleError:
            raise
        except StepRefusedError as error:
            raise ChunkLostError(str(error)) from error
        self._next_chunk = number + 1
        self._copied(len(chunk.keys))


class _Chunk:
    """What is to be sent next."""

    def __init__(self, move: int, revision: int = 0) -> None:
        self.keys: list[MovedKey] = []
        self.revision = revision  # of the source, when the newest page was read
        self._move = move
        self._bytes = 0

    def is_full_with(self, size: int) -> bool:
        return len(self.keys) == CHUNK_KEYS_MAX or (bool(self.keys) and self._bytes + size > CHUNK_BYTES_MAX)

    def add(self, moved: MovedKey, size: int, revision: int) -> None:
        self.keys.append(moved)
        self._bytes += size
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
