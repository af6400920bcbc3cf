"""Names of databases, encodings of keys and records, and the check sum that stands in every record (docs/on-disk.md).

All numbers are big-endian, so that byte order is numeric order. A check sum covers where a record belongs as well as what it
says: a record that was moved to another key or another database is as bad as one with a flipped bit.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from crc32c import crc32c

from ravel_node.machine.base import Database
from ravel_node.raft.types import Entry, EntryId, EntryType, HardState, Index, ReplicaId, Term
from ravel_node.storage.base import Boot

FORMAT: Final = 2
"""The format of the data directory and of snapshot files that this version writes, and the newest that it reads."""

KEY_BYTES_MAX: Final = 511
"""LMDB's own bound, for keys and for values of a database with sorted duplicates."""

LOG: Final = "log"
META: Final = "meta"
RAFT_DATABASES: Final[Mapping[str, bool]] = {LOG: False, META: False}
"""Databases of raft/; True where a key has a sorted set of values."""

STORE: Final = "store"
STATE_NAMES: Final[Mapping[Database, str]] = {
    Database.META: "meta",
    Database.KV: "kv",
    Database.SLOTS: "slots",
    Database.SESSIONS: "sessions",
    Database.RESULTS: "results",
    Database.MEMBERS: "members",
    Database.OWNERSHIP: "ownership",
    Database.HISTORY: "history",
    Database.DIRECTORY: "directory",
}
STATE_DATABASES: Final[Mapping[str, bool]] = {
    STORE: False,
    **{name: database is Database.SLOTS for database, name in STATE_NAMES.items()},
}
"""Databases of state-N/: one for each `Database`, and the store's own, which holds the last applied entry."""

IDENTITY: Final = b"identity"
HARD_STATE: Final = b"hard_state"
BASE: Final = b"base"
STATE: Final = b"state"
BOOT: Final = b"boot"
PEERS: Final = b"peers"
"""Keys of META in raft/: identity; term, vote, commit; the entry before the log's first one; the number N of state-N/; the newest
start of the replica; high-water marks of its peers."""

APPLIED: Final = b"applied"
"""Key of STORE in state-N/: the last entry whose effects are in it."""

SUMMARIZED: Final = b"slots"
"""Key of STORE in state-N/: the entry up to which the summaries of slots were kept (storage.slot_index)."""

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_ENTRY_ID: Final = struct.Struct(">QQ")
_HARD_STATE: Final = struct.Struct(">QQQ")
_BOOT: Final = struct.Struct(">Q8sQ")
_ENTRY_HEAD: Final = struct.Struct(">QQB")
_CHECKED_BYTES: Final = 4
_ENTRY_BYTES_MIN: Final = _CHECKED_BYTES + 9

_SEEDS: Final = {name: crc32c(name.encode()) for name in (*RAFT_DATABASES, *STATE_DATABASES)}

pack_u32 = _U32.pack
index_key = _U64.pack


class BadRecordError(ValueError):
    """A record's check sum or shape is wrong. Whoever reads adds which file and which record, and raises DamagedError."""


# --- records


def seed_of(database: str) -> int:
    """What the check sum of each record of a database starts from."""
    return _SEEDS[database]


def seal(seed: int, key: bytes, payload: bytes) -> bytes:
    """The stored form of a record: crc32c (u32) over the database's seed, the key and the payload; then the payload."""
    return pack_u32(crc32c(payload, crc32c(key, seed))) + payload


def unseal(seed: int, key: bytes, record: bytes) -> bytes:
    """The payload of a stored record. Raises BadRecordError."""
    payload = record[4:]
    if pack_u32(crc32c(payload, crc32c(key, seed))) != record[:4]:
        raise BadRecordError(f"{len(record)} bytes whose check sum {record[:4].hex()} does not fit them")
    return payload


# --- the log


def key_index(key: bytes) -> Index:
    return Index(int.from_bytes(key, "big"))


def encode_entry(entry: Entry) -> bytes:
    """crc32c u32 over index u64, term u64, type u8 and data; then term, type and data. The index is the key."""
    head = _ENTRY_HEAD.pack(entry.index, entry.term, entry.type)
    return pack_u32(crc32c(entry.data, crc32c(head))) + head[8:] + entry.data


def decode_entry(key: bytes, record: bytes) -> Entry:
    """Raises BadRecordError."""
    data = record[_ENTRY_BYTES_MIN:]
    head = key + record[_CHECKED_BYTES:_ENTRY_BYTES_MIN]
    if len(head) != _ENTRY_HEAD.size or pack_u32(crc32c(data, crc32c(head))) != record[:_CHECKED_BYTES]:
        raise BadRecordError(f"{len(record)} bytes whose check sum {record[:4].hex()} does not fit them")
    index, term, kind = _ENTRY_HEAD.unpack(head)
    return Entry(Term(term), Index(index), EntryType(kind), data)


# --- what META and STORE hold


def encode_entry_id(at: EntryId) -> bytes:
    return _ENTRY_ID.pack(at.term, at.index)


def decode_entry_id(payload: bytes) -> EntryId:
    """Raises BadRecordError."""
    term, index = _unpack(_ENTRY_ID, payload)
    return EntryId(Term(term), Index(index))


def encode_hard_state(hard_state: HardState) -> bytes:
    return _HARD_STATE.pack(*hard_state)


def decode_hard_state(payload: bytes) -> HardState:
    """Raises BadRecordError."""
    term, vote, commit = _unpack(_HARD_STATE, payload)
    return HardState(Term(term), ReplicaId(vote), Index(commit))


def encode_boot(boot: Boot) -> bytes:
    """Return number u64, boot id (8 bytes), promise in microseconds u64."""
    return _BOOT.pack(boot.number, bytes.fromhex(boot.boot_id), boot.promise_us)


def decode_boot(payload: bytes) -> Boot:
    """Raises BadRecordError."""
    if len(payload) != _BOOT.size:
        raise BadRecordError(f"{len(payload)} bytes where there must be {_BOOT.size}")
    number, boot_id, promise_us = _BOOT.unpack(payload)
    return Boot(number, boot_id.hex(), promise_us)


def encode_number(number: int) -> bytes:
    return _U64.pack(number)


def decode_number(payload: bytes) -> int:
    """Raises BadRecordError."""
    return _unpack(_U64, payload)[0]


def slot_key(slot: int) -> bytes:
    return _U16.pack(slot)


def summary_key(group: int) -> bytes:
    """Return the key of STORE under which the summaries of a group of slots are."""
    return SUMMARIZED + _U16.pack(group)


def _unpack(shape: struct.Struct, payload: bytes) -> tuple[int, ...]:
    if len(payload) != shape.size:
        raise BadRecordError(f"{len(payload)} bytes where there must be {shape.size}")
    return shape.unpack(payload)
