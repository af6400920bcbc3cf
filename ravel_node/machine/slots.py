"""Slots, and the steps by which they move, as they stand in the log: the body of a SLOTS command.

    body = step u8, flags u8 (1 last), move u64, map version u64, number u64, revision u64, slot count u16, key count u16,
           slot u16 ..., then for each key: key length u16, value length u32, revision u64, key, value

All numbers are big-endian; what a step does not use is 0. The number is that of a chunk, of the mover (EXPORT, FREEZE), or how
many ids of migrations (u64) follow the slots (OWN).

What the steps do is told in protos/ravelpb/v1/slots.proto and done in machine.ownership. Where a step deletes something by the
thousand (PURGE, DROP, SETTLE), the leader looks for the keys and the command names them: which keys a slot has is an index that
the flush keeps, and a machine depends on nothing but its log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from itertools import pairwise
from typing import Final, NamedTuple

from ravel_node.machine.envelope import CommandError
from ravel_node.machine.limits import KEY_BYTES_MAX, MOVED_BYTES_MAX, MOVED_KEYS_MAX, MOVES_MAX, VALUE_BYTES_CEILING
from ravelpb.slots import SLOT_COUNT


class Step(IntEnum):
    """What is done. The numbers are in the log and in slots.proto."""

    OWN = 1
    EXPORT = 2
    FREEZE = 3
    UNFREEZE = 4
    RELEASE = 5
    PURGE = 6
    IMPORT = 7
    IMPORT_CHUNK = 8
    ACTIVATE = 9
    DROP = 10
    SETTLE = 11


class MovedKey(NamedTuple):
    """A key as it is at the source. Revision 0: it is not there (any more)."""

    key: bytes
    value: bytes
    revision: int


class SlotsCommand(NamedTuple):
    """One step. `keys` are those to be imported, or to be deleted or settled (then value and revision are left empty)."""

    step: Step
    move: int = 0
    slots: tuple[int, ...] = ()  # ascending
    map_version: int = 0
    chunk: int = 0
    keys: tuple[MovedKey, ...] = ()
    revision: int = 0
    last: bool = False  # PURGE, DROP: the slots have no other keys
    mover: int = 0  # EXPORT, FREEZE: who asks; later ones have higher numbers
    expected: int = 0  # OWN: how often slots had come or left before it
    ended: tuple[int, ...] = ()  # OWN: migrations that end with it, ascending


_HEAD: Final = struct.Struct(">BBQQQQHH")
_KEY: Final = struct.Struct(">HIQ")
_LAST: Final = 1
_OF_A_MOVER: Final = (Step.EXPORT, Step.FREEZE)

# --- sets of slots

BITMAP_BYTES: Final = SLOT_COUNT // 8
NO_SLOTS: Final = bytes(BITMAP_BYTES)
ALL_SLOTS: Final = b"\xff" * BITMAP_BYTES
"""A set of slots is a bitmap of 512 bytes: slot 0 is the lowest bit of the first byte."""


def bitmap(slots: Iterable[int]) -> bytes:
    """The set of these slots."""
    bits = bytearray(BITMAP_BYTES)
    for slot in slots:
        bits[slot >> 3] |= 1 << (slot & 7)
    return bytes(bits)


def slots_of(bits: bytes) -> tuple[int, ...]:
    """The slots of a set, ascending."""
    return tuple(slot for slot in range(SLOT_COUNT) if bits[slot >> 3] >> (slot & 7) & 1)


def union(one: bytes, other: bytes) -> bytes:
    return bytes(a | b for a, b in zip(one, other, strict=True))


def difference(one: bytes, other: bytes) -> bytes:
    """The slots of `one` that are not in `other`."""
    return bytes(a & ~b for a, b in zip(one, other, strict=True))


# --- the body


def encode_step(command: SlotsCommand) -> bytes:
    """The body of a SLOTS command. What does not fit its field raises struct.error."""
    step, move, slots, map_version, chunk, keys, revision, last, mover, expected, ended = command
    number = len(ended) if step is Step.OWN else mover if step in _OF_A_MOVER else chunk
    parts = [_HEAD.pack(step, _LAST if last else 0, move, map_version, number, revision, len(slots), len(keys))]
    parts.append(struct.pack(f">{len(slots)}H", *slots))
    if step is Step.OWN:
        parts.append(struct.pack(f">Q{len(ended)}Q", expected, *ended))
    for key, value, key_revision in keys:
        parts += (_KEY.pack(len(key), len(value), key_revision), key, value)
    return b"".join(parts)


def read_step(body: bytes) -> SlotsCommand:
    """The step in a body. Raises CommandError for what breaks a bound."""
    try:
        return _read_step(body)
    except struct.error:
        raise CommandError(f"a step of {len(body)} bytes ends within a header") from None


def _read_step(body: bytes) -> SlotsCommand:
    code, flags, move, map_version, number, revision, slot_count, key_count = _HEAD.unpack_from(body)
    if not Step.OWN <= code <= Step.SETTLE or flags & ~_LAST:
        raise CommandError(f"step {code} with flags {flags:#x}: there are steps {Step.OWN} to {Step.SETTLE} and flag {_LAST}")
    step = Step(code)
    ended_count = number if step is Step.OWN else 0
    if ended_count > MOVES_MAX:
        raise CommandError(f"a step that ends {ended_count} migrations, at most {MOVES_MAX} are under way at a cluster")
    if slot_count > SLOT_COUNT or key_count > MOVED_KEYS_MAX:
        raise CommandError(f"a step of {slot_count} slots and {key_count} keys, at most {SLOT_COUNT} and {MOVED_KEYS_MAX}")
    at = _HEAD.size + 2 * slot_count
    slots = struct.unpack_from(f">{slot_count}H", body, _HEAD.size)
    expected, ended = 0, list[int]()
    if step is Step.OWN:
        expected, *ended = struct.unpack_from(f">Q{ended_count}Q", body, at)
        at += 8 * (1 + ended_count)
    if any(later <= migration for migration, later in pairwise(ended)):
        raise CommandError("the migrations that a step ends must ascend")
    if any(later <= slot for slot, later in pairwise(slots)) or (slots and slots[-1] >= SLOT_COUNT):
        raise CommandError(f"the slots of a step must ascend and lie below {SLOT_COUNT}")
    keys: list[MovedKey] = []
    moved = 0
    for _ in range(key_count):
        key_size, value_size, key_revision = _KEY.unpack_from(body, at)
        at += _KEY.size
        if not 0 < key_size <= KEY_BYTES_MAX or value_size > VALUE_BYTES_CEILING or at + key_size + value_size > len(body):
            raise CommandError(f"a step with a key of {key_size} bytes and a value of {value_size}, which breaks their bounds")
        keys.append(MovedKey(body[at : at + key_size], body[at + key_size : at + key_size + value_size], key_revision))
        at += key_size + value_size
        moved += key_size + value_size
    if at != len(body):
        raise CommandError(f"a step of {at} bytes is followed by {len(body) - at} more")
    if moved > MOVED_BYTES_MAX and key_count > 1:
        raise CommandError(f"a step with {moved} bytes of keys and values, at most {MOVED_BYTES_MAX} in more than one pair")
    mover = number if step in _OF_A_MOVER else 0
    chunk = 0 if step in _OF_A_MOVER or step is Step.OWN else number
    return SlotsCommand(step, move, slots, map_version, chunk, tuple(keys), revision, bool(flags), mover, expected, tuple(ended))
