"""The applied state on disk: the environment state-N/, which always holds exactly what one prefix of the log left.

A flush writes one segment whole, with the id of its last entry, in one synced transaction. It also keeps the index of slots, by
which the keys of a slot are found without scanning all others, and the summaries that protect this index (`slot_index.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from crc32c import crc32c

from ravel_node.machine.base import Database
from ravel_node.raft.errors import invariant
from ravel_node.raft.types import EntryId
from ravel_node.storage import slot_index
from ravel_node.storage.base import DamagedError, EnvironmentStats
from ravel_node.storage.engine import DATA_FILE, WAY_OUT, Environment, ReadTxn, WriteTxn
from ravel_node.storage.keys import (
    APPLIED,
    KEY_BYTES_MAX,
    STATE_NAMES,
    STORE,
    SUMMARIZED,
    BadRecordError,
    decode_entry_id,
    encode_entry_id,
    pack_u32,
    seal,
    seed_of,
    slot_key,
    unseal,
)
from ravel_node.storage.table import Layer, Segment
from ravelpb.slots import SLOT_COUNT, slot_of

PAUSE_RECORDS: Final = 64
"""A flush lets other threads run after each so many records."""

_SLOTS: Final = STATE_NAMES[Database.SLOTS]
_KV: Final = STATE_NAMES[Database.KV]
_SLOT_KEYS: Final = tuple(slot_key(slot) for slot in range(SLOT_COUNT))
_NAMES: Final = tuple(STATE_NAMES[database] for database in Database)
_SEEDS: Final = tuple(seed_of(name) for name in _NAMES)
_STORE_SEED: Final = seed_of(STORE)
_FLUSHED: Final = tuple(database for database in Database if database is not Database.SLOTS)


class StateReader:
    """Checked reads of one point in time, from a read transaction that someone else begins and ends."""

    __slots__ = ("_txn", "file")

    def __init__(self, txn: ReadTxn, file: str) -> None:
        """`file` is the name of the data file, for errors."""
        self._txn = txn
        self.file = file

    def applied(self) -> EntryId:
        record = self._txn.get(STORE, APPLIED)
        if record is None:
            raise damaged_record(self.file, STORE, APPLIED, "it is missing")
        try:
            return decode_entry_id(unseal(_STORE_SEED, APPLIED, record))
        except BadRecordError as error:
            raise damaged_record(self.file, STORE, APPLIED, str(error)) from error

    def get(self, database: Database, key: bytes) -> bytes | None:
        if not 0 < len(key) <= KEY_BYTES_MAX:
            return None
        record = self._txn.get(_NAMES[database], key)
        if record is None:
            if database is Database.KV and self._txn.has_value(_SLOTS, _SLOT_KEYS[slot_of(key)], key):
                # A flipped bit in a key, or in a page above it, hides the record from a lookup.
                raise damaged_record(self.file, _KV, key, "it is missing, and the index of slots names it")
            return None
        payload = record[4:]
        if pack_u32(crc32c(payload, crc32c(key, _SEEDS[database]))) != record[:4]:
            raise damaged_record(self.file, _NAMES[database], key, "its check sum does not fit")
        return payload

    def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        name, seed = _NAMES[database], _SEEDS[database]
        for key, record in self._txn.items(name, start):
            if end is not None and key >= end:
                return
            payload = record[4:]
            if pack_u32(crc32c(payload, crc32c(key, seed))) != record[:4]:
                raise damaged_record(self.file, name, key, "its check sum does not fit")
            yield key, payload

    def slot_keys(self, slot: int, after: bytes = b"") -> Iterator[bytes]:
        """The user keys of a slot that lie above `after`, in byte order."""
        return self._txn.values(_SLOTS, slot_key(slot), after + b"\0" if after else b"")

    def keys(self) -> int:
        """How many user keys there are."""
        return self._txn.entries(_KV)


class StateStore(StateReader):
    """The open state environment. Everything runs on the loop."""

    __slots__ = ("_env", "_sizes", "_view", "path_name")

    def __init__(self, env: Environment, name: str) -> None:
        """`name` is that of the directory, for errors."""
        self._env = env
        self._view = env.view()
        self._sizes = env.stats()
        self.path_name = name
        super().__init__(self._view, f"{name}/{DATA_FILE}")

    @classmethod
    async def create(cls, env: Environment, at: EntryId, segment: Segment) -> None:
        """Make an empty environment the state at `at`, with what `segment` holds."""
        await env.write(lambda txn: write_segment(txn, segment, at, DATA_FILE))

    async def summarize_slots(self) -> int | None:
        """Make the summaries of slots from the keys, unless they are those of this state. Return how many keys were read, if any.

        A state that a version without summaries wrote has none, or old ones. Raises DamagedError, StoreFailedError.
        """
        try:
            if slot_index.are_current(self._view):
                return None
        except BadRecordError as error:
            raise damaged_record(self.file, STORE, SUMMARIZED, str(error)) from error
        at = self.applied()
        keys = await self._env.write(lambda txn: slot_index.build(txn, at))
        self._view.renew()
        self._sizes = self._env.stats()
        return keys

    async def flush(self, segment: Segment) -> None:
        """Write the segment. Once this returns, reads show it, and the disk holds it.

        Raises StoreFailedError, and DamagedError where a record that the flush keeps up is not what was written.
        """
        await self._env.write(lambda txn: write_segment(txn, segment, segment.last, self.file))
        self._view.renew()
        self._sizes = self._env.stats()

    @property
    def used_bytes(self) -> int:
        return self._sizes.used

    @property
    def map_bytes(self) -> int:
        return self._sizes.map_size

    @property
    def environment(self) -> Environment:
        return self._env

    def stats(self) -> EnvironmentStats:
        return self._env.stats()

    async def close(self) -> None:
        await self._env.close()


def write_segment(txn: WriteTxn, segment: Segment, at: EntryId, file: str) -> None:
    """Write a segment within a transaction: its records, what follows from them for the slots, and that the state is now that at
    `at`.

    Summaries of slots that are missing or old are left so: the next start makes them. Raises DamagedError.
    """
    invariant(not segment.layers[Database.SLOTS].records, "the slots are kept by the flush: no machine writes them")
    try:
        summarized = slot_index.are_current(txn)
        for database in _FLUSHED:
            if database is not Database.KV:
                _write_layer(txn, database, segment.layers[database])
        changes = _write_keys(txn, segment.layers[Database.KV], file)
        if summarized:
            slot_index.add(txn, changes, at)
    except BadRecordError as error:
        raise damaged_record(file, STORE, SUMMARIZED, str(error)) from error
    txn.put(STORE, APPLIED, seal(_STORE_SEED, APPLIED, encode_entry_id(at)))


def _write_layer(txn: WriteTxn, database: Database, layer: Layer) -> None:
    name, seed, records = _NAMES[database], _SEEDS[database], layer.records
    for count, key in enumerate(layer.order(), 1):
        value = records[key]
        if value is None:
            txn.delete(name, key)
        else:
            txn.put(name, key, seal(seed, key, value))
        if not count % PAUSE_RECORDS:
            txn.pause()


def _write_keys(txn: WriteTxn, layer: Layer, file: str) -> dict[int, int]:
    """Write user keys, and for each that comes or goes its place in the index of slots. Return how the summaries change, by slot.

    Raises DamagedError where the index does not list a key that is there, or lists one that is not.
    """
    seed, records = _SEEDS[Database.KV], layer.records
    came: list[bytes] = []
    went: list[bytes] = []
    for count, key in enumerate(layer.order(), 1):
        value = records[key]
        if value is None:
            if txn.delete(_KV, key):
                slot = slot_of(key)
                if not txn.remove_value(_SLOTS, _SLOT_KEYS[slot], key):
                    raise damaged_record(file, _SLOTS, _SLOT_KEYS[slot], f"it does not name key {key.hex()}, which was there")
                went.append(key)
        else:
            record = pack_u32(crc32c(value, crc32c(key, seed))) + value  # `seal`, without the call
            if txn.insert(_KV, key, record):
                slot = slot_of(key)
                if not txn.add_value(_SLOTS, _SLOT_KEYS[slot], key):
                    raise damaged_record(file, _SLOTS, _SLOT_KEYS[slot], f"it names key {key.hex()}, which was not there")
                came.append(key)
            else:
                txn.put(_KV, key, record)
        if not count % PAUSE_RECORDS:
            txn.pause()
    return slot_index.changes_of(came, went)


def damaged_record(file: str, database: str, key: bytes, why: str) -> DamagedError:
    """What is wrong with one record of a state, for people."""
    shown = repr(key)[1:] if key.isascii() and key.decode("ascii").isprintable() else f"0x{key.hex()}"
    return DamagedError(f"{file}: record {shown} of database {database} is damaged: {why}; {WAY_OUT}")
