"""The index of slots, and the sealed summary of each slot's keys by which a flipped bit in the index is found.

The index (database `slots`) lists the user keys of each slot. It is no part of what replicas compare, and its records carry no
check sum: a record is a user key. A migration trusts the index, though: a key that the index does not list is not copied, and is
lost when the source lets go of its slot. So the flush keeps a second account of the same keys, apart from the index: for each
slot, how many keys were put and not deleted since, and a sum over their hashes. `verify_slots` compares the two.

    summary := 128 bits, the sum over the keys of a slot of 2^96 + hash(key)
    hash(key) := 64 bits, CRC-32 of the key (as in zlib), then CRC-32C of the key

The high 32 bits are the number of keys, the rest is the exact sum of up to 2^32 hashes. A sum does not depend on an order, so
each flush adds what came and subtracts what went. The summaries of GROUP_SLOTS slots are one sealed record of the database
`store`. Another record there holds the entry up to which the summaries were kept. Where that is not the entry of the state, a
version without summaries has written the state, and `build` makes them from the keys before the state is used.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import Final, NamedTuple
from zlib import crc32

from crc32c import crc32c

from ravel_node.machine.base import Database
from ravel_node.raft.types import EntryId
from ravel_node.storage.base import DamagedError
from ravel_node.storage.engine import WAY_OUT, ReadTxn, WriteTxn
from ravel_node.storage.keys import (
    APPLIED,
    STATE_NAMES,
    STORE,
    SUMMARIZED,
    BadRecordError,
    encode_entry_id,
    seal,
    seed_of,
    slot_key,
    summary_key,
    unseal,
)
from ravelpb.slots import SLOT_COUNT, slot_of

GROUP_SLOTS: Final = 64
"""Slots whose summaries are one record: few records for a flush of many keys, few bytes for a flush of one."""

PAUSE_RECORDS: Final = 64
"""A verification lets other threads run after each so many keys."""

BUILD_KEYS: Final = 4_096
"""Keys that `build` holds in memory at once."""

_BYTES: Final = 16  # of one summary
_ONE_KEY: Final = 1 << 96
_HALF: Final = (1 << 64) - 1
_HALVES: Final = struct.Struct(f">{2 * GROUP_SLOTS}Q")  # of the summaries of a group
_NO_KEYS: Final = bytes(_BYTES * GROUP_SLOTS)
_SLOTS: Final = STATE_NAMES[Database.SLOTS]
_KV: Final = STATE_NAMES[Database.KV]
_SEED: Final = seed_of(STORE)


def keys_in(summary: int) -> int:
    """Return how many keys a summary counts."""
    return summary // _ONE_KEY


# --- keeping the summaries


def changes_of(came: Iterable[bytes], went: Iterable[bytes] = ()) -> dict[int, int]:
    """Return what keys that came and keys that went change of the summaries, by slot."""
    changes: defaultdict[int, int] = defaultdict(int)
    for key in came:
        changes[slot_of(key)] += _ONE_KEY + (crc32(key) << 32 | crc32c(key))
    for key in went:
        changes[slot_of(key)] -= _ONE_KEY + (crc32(key) << 32 | crc32c(key))
    return changes


def are_current(txn: ReadTxn) -> bool:
    """Return whether the summaries are those of the state that `txn` shows. Those of a new, empty state are.

    Raises BadRecordError where the record that says so is damaged.
    """
    applied, summarized = txn.get(STORE, APPLIED), txn.get(STORE, SUMMARIZED)
    if applied is None or summarized is None:
        return applied is summarized
    return unseal(_SEED, APPLIED, applied) == unseal(_SEED, SUMMARIZED, summarized)


def add(txn: WriteTxn, changes: Mapping[int, int], at: EntryId) -> None:
    """Add `changes`, by slot, to the summaries, and make them those of the state at `at`.

    Raises BadRecordError for a damaged record, and where more keys would go than there are.
    """
    for group, slots in groupby(sorted(changes), key=lambda slot: slot // GROUP_SLOTS):
        halves = list(_HALVES.unpack(_group(txn, group)))
        for slot in slots:
            place = slot % GROUP_SLOTS * 2
            summary = (halves[place] << 64 | halves[place + 1]) + changes[slot]
            if summary < 0:
                raise BadRecordError(f"the summary of slot {slot} counts fewer keys than were deleted")
            halves[place], halves[place + 1] = summary >> 64, summary & _HALF
        key = summary_key(group)
        if any(halves):
            txn.put(STORE, key, seal(_SEED, key, _HALVES.pack(*halves)))
        else:
            txn.delete(STORE, key)  # it may never have been there
    txn.put(STORE, SUMMARIZED, seal(_SEED, SUMMARIZED, encode_entry_id(at)))


def build(txn: WriteTxn, at: EntryId) -> int:
    """Make the summaries of a state at `at` from its keys. Return how many keys there are."""
    for group in range(SLOT_COUNT // GROUP_SLOTS):
        txn.delete(STORE, summary_key(group))  # those that an older version has left as they were
    add(txn, {}, at)
    keys, count = txn.keys(_KV), 0
    while some := list(islice(keys, BUILD_KEYS)):
        add(txn, changes_of(some), at)
        count += len(some)
        txn.pause()
    return count


def _group(txn: ReadTxn, group: int) -> bytes:
    """Return the summaries of a group of slots. Raises BadRecordError."""
    key = summary_key(group)
    record = txn.get(STORE, key)
    if record is None:
        return _NO_KEYS
    try:
        summaries = unseal(_SEED, key, record)
    except BadRecordError as error:
        raise BadRecordError(f"the summaries of slots {group * GROUP_SLOTS} and following are damaged: {error}") from error
    if len(summaries) != len(_NO_KEYS):
        raise BadRecordError(f"{len(summaries)} bytes of summaries where there must be {len(_NO_KEYS)}")
    return summaries


# --- comparing


def summary_of(txn: ReadTxn, slot: int) -> int:
    """Return the summary of a slot. Raises BadRecordError."""
    return _summary_in(_group(txn, slot // GROUP_SLOTS), slot)


def _summary_in(summaries: bytes, slot: int) -> int:
    """Return the summary of a slot in those of its group."""
    place = slot % GROUP_SLOTS * _BYTES
    return int.from_bytes(summaries[place : place + _BYTES], "big")


def count_keys(txn: ReadTxn, file: str, slots: Sequence[int]) -> int:
    """Return how many keys the summaries of these slots count. Raises DamagedError, which names file and slots."""
    try:
        keys = 0
        for group, members in groupby(sorted(slots), key=lambda slot: slot // GROUP_SLOTS):
            summaries = _group(txn, group)
            keys += sum(keys_in(_summary_in(summaries, slot)) for slot in members)
        return keys
    except BadRecordError as error:
        raise DamagedError(f"{file}: {error}; {WAY_OUT}") from error


class SlotCheck(NamedTuple):
    """What a comparison of one slot found."""

    keys: int  # that the index names
    problems: list[str]


def check_slot(txn: ReadTxn, slot: int, summary: int | None) -> SlotCheck:
    """Compare the index of one slot with the keys that are there, and with `summary` unless it is None."""
    problems: list[str] = []
    keys: list[bytes] = []
    for count, key in enumerate(txn.values(_SLOTS, slot_key(slot), b""), 1):
        if slot_of(key) != slot or not txn.has(_KV, key):
            problems.append(f"it names key {key.hex()}, which is not there")
        keys.append(key)
        if not count % PAUSE_RECORDS:
            txn.pause()
    found = sum(changes_of(keys).values())
    if summary is not None and found != summary:
        problems.append(f"it names {keys_in(found)} keys, and they are not the {keys_in(summary)} that were written")
    return SlotCheck(keys_in(found), problems)


def verify_slots(txn: ReadTxn, file: str, slots: Sequence[int], keys_max: int) -> int:
    """Verify the index of the first of these slots, until `keys_max` keys were seen or no slot is left. Return how many slots.

    Raises DamagedError, which names file and slot, at the first one whose index is not what was written.
    """
    try:
        if not are_current(txn):
            raise BadRecordError("the summaries of slots are not those of this state")
        seen = 0
        for count, slot in enumerate(slots, 1):
            found = check_slot(txn, slot, summary_of(txn, slot))
            if found.problems:
                raise BadRecordError(f"the index of slot {slot} is not what was written (`ravelctl store check` says more)")
            seen += found.keys
            if seen >= keys_max:
                return count
    except BadRecordError as error:
        raise DamagedError(f"{file}: {error}; {WAY_OUT}") from error
    return len(slots)
