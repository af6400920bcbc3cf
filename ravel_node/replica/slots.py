"""The steps of a move of slots, as the leader of a cluster takes them: one proposal, or several where keys go by the thousand.

The machine judges every step (machine.ownership). What is done here is to look for the keys that PURGE, DROP and SETTLE name:
which keys a slot has is an index beside the state. What was seen may be old by the time the command is applied, and it does not
matter: in a slot that was released, or whose import was called off, keys only go.

The index is no part of what replicas compare, and a key that it does not list would be lost, or left behind, by a move. So
whatever trusts it here verifies it first, on this very replica: pages of keys, and the last PURGE or DROP, which says that no key
is left. A replica whose index is damaged refuses, and the move with it, until another one leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol

from ravel_node.machine import envelope
from ravel_node.machine.base import Outcome, Reader, Status
from ravel_node.machine.envelope import Kind
from ravel_node.machine.kv import KVMachine, read_revision
from ravel_node.machine.limits import MOVED_BYTES_MAX, MOVED_KEYS_MAX
from ravel_node.machine.ownership import RECONCILE, Ownership, Side, first_dead_note, moved_key, notes
from ravel_node.machine.slots import MovedKey, SlotsCommand, Step, encode_step
from ravel_node.replica.errors import MoveRefusedError
from ravel_node.replica.formats import require_known
from ravel_node.replica.status import Member
from ravelpb.slots import SLOT_COUNT, slot_of

STEP_KEYS_DEFAULT: Final = 1_000
"""Keys of a PURGE or DROP of which nothing else was said."""

PAGE_KEYS: Final = 256
"""Keys of a page of `SlotPages`: what fits into one chunk."""

VERIFIED_KEYS: Final = 4 * PAGE_KEYS
"""Keys whose slots are verified at once: a few pages, so that the first one does not wait for all slots of a move."""

LOOKED_AT_ONCE: Final = 128
"""Slots of `held_slots` between which others have their turn: under a millisecond."""

REVISION_MAX: Final = (1 << 64) - 1
"""Above every revision."""


class SlotsResult(NamedTuple):
    """What came of a step."""

    revision: int  # the cluster's, after it
    next_chunk: int = 0
    more: bool = False
    deleted: int = 0  # PURGE, DROP: keys


class Seat(Protocol):
    """What is needed of a Replica."""

    @property
    def machine(self) -> KVMachine: ...

    def reader(self) -> Reader: ...

    def members(self) -> Sequence[Member]: ...

    def check_leader(self) -> None: ...

    @property
    def cold(self) -> bool: ...

    async def page_in(self, keys: Sequence[bytes]) -> None: ...

    async def verify_slots(self, slots: Sequence[int], keys_max: int) -> int:
        """Verify this replica's index of the first of these slots. Return how many. Raises MoveRefusedError for a damaged one."""
        ...

    async def propose(self, group: bytes, count: int, *, grows: bool) -> Sequence[Outcome]: ...


async def change_slots(seat: Seat, command: SlotsCommand, limit: int = 0) -> SlotsResult:
    """Take one step, on the leader; `limit` is of PURGE and DROP, which name their keys themselves.

    Raises MoveRefusedError where it does not fit, UnsupportedVersionError, and what `Replica.propose` raises.
    """
    seat.check_leader()
    require_known(Kind.SLOTS, [member.record for member in seat.members()])
    limit = min(limit or STEP_KEYS_DEFAULT, MOVED_KEYS_MAX)
    match command.step:
        case Step.PURGE | Step.DROP:
            return await _delete(seat, command, limit)
        case Step.SETTLE:
            await _settle(seat, command.move, command.revision)
            return await _propose(seat, command)
        case Step.EXPORT | Step.UNFREEZE:
            result = await _propose(seat, command)
            await _sweep(seat)
            return result
    return await _propose(seat, command)


async def _propose(seat: Seat, command: SlotsCommand) -> SlotsResult:
    group = envelope.group((envelope.slots(encode_step(command)),))
    (outcome,) = await seat.propose(group, 1, grows=command.step is Step.IMPORT_CHUNK)
    if outcome.status is not Status.OK:
        raise MoveRefusedError(outcome.value.decode(errors="replace"))
    return SlotsResult(outcome.revision, int.from_bytes(outcome.value, "big"), outcome.found)


async def _delete(seat: Seat, command: SlotsCommand, limit: int) -> SlotsResult:
    """PURGE or DROP of the first keys that are left."""
    side = _side(seat, command.move)
    if side is Side.IMPORTING and command.step is Step.DROP:
        await _propose(seat, command)  # from now on no key comes in any more
        side = _side(seat, command.move)
    if side is not (Side.RELEASED if command.step is Step.PURGE else Side.DROPPING):
        return await _propose(seat, command)  # over, or refused: the machine knows
    move = _ownership(seat).moves[command.move]
    found = list(_slot_keys(seat.reader(), move.slots, limit + 1))
    keys = tuple(MovedKey(key, b"", 0) for key in found[:limit])
    if len(found) > limit:
        return (await _propose(seat, command._replace(keys=keys)))._replace(deleted=len(keys))
    left = list(move.slots)
    while left:
        del left[: await seat.verify_slots(left, VERIFIED_KEYS)]
    if side is Side.RELEASED:
        await _settle(seat, command.move, REVISION_MAX)
    return (await _propose(seat, command._replace(keys=keys, last=True)))._replace(deleted=len(keys))


def _slot_keys(reader: Reader, slots: Iterable[int], limit: int) -> Iterator[bytes]:
    for slot in slots:
        for key in reader.slot_keys(slot):
            if not limit:
                return
            limit -= 1
            yield key


async def _settle(seat: Seat, move: int, revision: int) -> None:
    """Delete the notes of a move up to a revision, some at a time."""
    after = b""
    while page := list(islice(notes(seat.reader(), move, after), PAGE_KEYS)):
        after = page[-1].key
        if settled := tuple(MovedKey(key, b"", 0) for key, noted in page if noted <= revision):
            await _propose(seat, SlotsCommand(Step.SETTLE, move, keys=settled, revision=revision))
        else:
            await asyncio.sleep(0)


async def _sweep(seat: Seat) -> None:
    """Delete the notes that moves which are over have left behind."""
    while (ownership := seat.machine.ownership) is not None and (move := first_dead_note(seat.reader(), ownership)):
        await _settle(seat, move, REVISION_MAX)


def _ownership(seat: Seat) -> Ownership:
    ownership = seat.machine.ownership
    if ownership is None:
        raise MoveRefusedError(f"this cluster was never told which slots it owns, so none can move: {RECONCILE}")
    return ownership


def _side(seat: Seat, move: int) -> Side | None:
    ownership = seat.machine.ownership
    found = ownership.moves.get(move) if ownership is not None else None
    return found.side if found is not None else None


# --- reading


async def held_slots(seat: Seat) -> list[int]:
    """The slots of which this replica's index has keys, owned or not. Raises what Seat.check_leader raises."""
    held: list[int] = []
    for first in range(0, SLOT_COUNT, LOOKED_AT_ONCE):
        seat.check_leader()
        reader = seat.reader()
        held += [slot for slot in range(first, first + LOOKED_AT_ONCE) if next(reader.slot_keys(slot), None) is not None]
        await asyncio.sleep(0)
    return held


class SlotPage(NamedTuple):
    """Some keys at one point in time; `revision` is the cluster's then."""

    keys: list[MovedKey]
    revision: int
    more: bool


class SlotPages:
    """Pages of the keys of slots, or of those that were noted for a move; each page is the state of its own moment.

    Slots come in the order given, keys within each in byte order; noted keys in byte order, those that are gone with revision 0.
    A page has at most PAGE_KEYS keys and MOVED_BYTES_MAX bytes, or one pair: it fits into one chunk. `prepare` comes before each
    `next`, so that only the index of verified slots is read.
    """

    def __init__(self, slots: Sequence[int], *, noted_for: int = 0, keys_only: bool = False) -> None:
        """With `noted_for` a move: its notes, of these slots or of all where none are named."""
        self._slots = list(slots)
        self._verified = 0  # so many of them, from the first, whose index was verified
        self._wanted = frozenset(slots)
        self._noted_for = noted_for
        self._keys_only = keys_only
        self._after = b""

    async def prepare(self, seat: Seat) -> None:
        """Verify the index of the slots that the next page reads, unless that was done. Raises MoveRefusedError."""
        if self._slots and not self._verified and not self._noted_for:
            self._verified = await seat.verify_slots(self._slots, VERIFIED_KEYS)
        if seat.cold:
            await seat.page_in(list(islice(self._coming(seat.reader()), PAGE_KEYS + 1)))

    def next(self, reader: Reader) -> SlotPage:
        """Return the next page, to be called after `prepare`. With `more` there may be another one."""
        keys: list[MovedKey] = []
        size = 0
        for key in self._candidates(reader):
            found = moved_key(reader, key, keys_only=self._keys_only)
            size += len(key) + len(found.value)
            if len(keys) == PAGE_KEYS or (keys and size > MOVED_BYTES_MAX):
                return SlotPage(keys, read_revision(reader.get), True)
            keys.append(found)
            self._after = key
        return SlotPage(keys, read_revision(reader.get), bool(self._slots) and not self._noted_for)

    def _coming(self, reader: Reader) -> Iterator[bytes]:
        """The keys of the next page, and more."""
        if self._noted_for:
            yield from self._noted(reader)
        after = self._after
        for slot in self._slots[: self._verified]:
            yield from reader.slot_keys(slot, after)
            after = b""

    def _candidates(self, reader: Reader) -> Iterator[bytes]:
        if self._noted_for:
            yield from self._noted(reader)
            return
        while self._verified:
            yield from reader.slot_keys(self._slots[0], self._after)
            del self._slots[0]
            self._verified -= 1
            self._after = b""

    def _noted(self, reader: Reader) -> Iterator[bytes]:
        for key, _ in notes(reader, self._noted_for, self._after):
            if not self._wanted or slot_of(key) in self._wanted:
                yield key
