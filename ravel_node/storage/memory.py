"""The same store in dictionaries, for tests and simulation: an `Engine` whose environments are dicts, under all else as it is.

The engine outlives the stores that use it, and is their disk: what it holds after a store was dropped without a word is what a
crash would have left. Only the small files around the environments (FORMAT, LOCK, snapshots) are real ones, in a directory that
the caller gives. A write runs at once, on the loop. A simulator derives from `MemoryEnvironment` to let commits fail, stall or
vanish.
"""

from __future__ import annotations

import asyncio
import os
import struct
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

from ravel_node.raft.errors import InvariantError
from ravel_node.storage import files
from ravel_node.storage.base import DamagedError, DatabaseStats, EnvironmentStats, StoreError, StoreFailedError
from ravel_node.storage.engine import DATA_FILE, Engine, Environment, ReadTxn, View, WriteTxn
from ravel_node.storage.store import DiskStore, StoreOptions, open_store

T = TypeVar("T")

MAGIC: Final = b"ravel memory environment 1\n"
PAGE_BYTES: Final = 4_096
"""What sizes are rounded to, so that figures have the shape of LMDB's."""

_HEAD: Final = struct.Struct(">HI")
_RECORD: Final = struct.Struct(">II")


async def open_memory_store(path: Path, options: StoreOptions, engine: MemoryEngine | None = None) -> DiskStore:
    """Open a store on `engine`, or on one of its own. `path` takes the small files; reopen it only with the same engine."""
    return await open_store(path, options, engine or MemoryEngine())


class Records:
    """One database: sorted keys, each with one value or, with `many`, a sorted set of them (kept as keys of their own)."""

    def __init__(self, many: bool) -> None:
        self.many = many
        self._order: list[tuple[bytes, bytes]] = []  # (key, value) with many, else (key, b"")
        self._values: dict[tuple[bytes, bytes], bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        if not self.many:
            return self._values.get((key, b""))
        at = bisect_left(self._order, (key, b""))
        return self._order[at][1] if at < len(self._order) and self._order[at][0] == key else None

    def set(self, key: bytes, value: bytes) -> bytes | None:
        """Put a value; what was there."""
        place = (key, value if self.many else b"")
        before = self._values.get(place)
        if before is None:
            insort(self._order, place)
        self._values[place] = value
        return before

    def remove(self, key: bytes, value: bytes = b"") -> bytes | None:
        """Delete a value; what was there."""
        place = (key, value if self.many else b"")
        before = self._values.pop(place, None)
        if before is not None:
            del self._order[bisect_left(self._order, place)]
        return before

    def pairs(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for place in self._order[bisect_left(self._order, (start, b"")) :]:
            yield place[0], self._values[place]

    def values_of(self, key: bytes, start: bytes) -> Iterator[bytes]:
        for at in range(bisect_left(self._order, (key, start)), len(self._order)):
            if self._order[at][0] != key:
                return
            yield self._order[at][1]

    def holds(self, key: bytes, value: bytes) -> bool:
        """Return whether a key has this value, where keys have many."""
        return (key, value) in self._values

    def last(self) -> tuple[bytes, bytes] | None:
        return (self._order[-1][0], self._values[self._order[-1]]) if self._order else None

    def __len__(self) -> int:
        return len(self._order)

    @property
    def pages(self) -> int:
        size = sum(len(key) + len(value) + 16 for (key, _), value in self._values.items())
        return -(-size // PAGE_BYTES)


class MemoryTxn:
    """Reads and writes of one job, or reads of the loop; what a job did is undone if it raises."""

    def __init__(self, databases: Mapping[str, Records]) -> None:
        self._databases = databases
        self._undo: list[tuple[Records, bytes, bytes, bytes | None]] = []  # database, key, value that was put, value before

    def get(self, database: str, key: bytes) -> bytes | None:
        return self._databases[database].get(key)

    def has(self, database: str, key: bytes) -> bool:
        return self._databases[database].get(key) is not None

    def keys(self, database: str) -> Iterator[bytes]:
        return (key for key, _ in groupby(self._databases[database].pairs(), key=lambda pair: pair[0]))

    def items(self, database: str, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._databases[database].pairs(start)

    def has_value(self, database: str, key: bytes, value: bytes) -> bool:
        return self._databases[database].holds(key, value)

    def values(self, database: str, key: bytes, start: bytes) -> Iterator[bytes]:
        return self._databases[database].values_of(key, start)

    def last(self, database: str) -> tuple[bytes, bytes] | None:
        return self._databases[database].last()

    def entries(self, database: str) -> int:
        return len(self._databases[database])

    def close(self) -> None:
        """A read of the loop needs no end here."""

    def renew(self) -> None:
        """It shows the last commit at any time: a write that has returned is one."""

    def put(self, database: str, key: bytes, value: bytes) -> None:
        records = self._databases[database]
        self._undo.append((records, key, value, records.set(key, value)))

    def append(self, database: str, key: bytes, value: bytes) -> None:
        last = self._databases[database].last()
        if last is not None and key <= last[0]:
            raise InvariantError(f"key {key.hex()} was appended to database {database} below its last key")
        self.put(database, key, value)

    def add_value(self, database: str, key: bytes, value: bytes) -> bool:
        records = self._databases[database]
        before = records.set(key, value)
        self._undo.append((records, key, value, before))
        return before is None

    def insert(self, database: str, key: bytes, value: bytes) -> bool:
        fresh = self._databases[database].get(key) is None
        if fresh:
            self.put(database, key, value)
        return fresh

    def delete(self, database: str, key: bytes) -> bool:
        records = self._databases[database]
        if records.many:
            values = list(records.values_of(key, b""))
            for value in values:
                self.remove_value(database, key, value)
            return bool(values)
        before = records.remove(key)
        if before is not None:
            self._undo.append((records, key, before, before))
        return before is not None

    def remove_value(self, database: str, key: bytes, value: bytes) -> bool:
        there = self._databases[database].remove(key, value) is not None
        if there:
            self._undo.append((self._databases[database], key, value, value))
        return there

    def delete_from(self, database: str, start: bytes) -> None:
        for key in [key for key, _ in self._databases[database].pairs(start)]:
            self.delete(database, key)

    def clear(self, database: str) -> None:
        self.delete_from(database, b"")

    def pause(self) -> None:
        """Nothing else runs meanwhile."""

    def undo(self) -> None:
        """Take back what was written, newest first."""
        for records, key, value, before in reversed(self._undo):
            if before is None:
                records.remove(key, value)
            else:
                records.set(key, before)


class MemoryEnvironment:
    """An `Environment` in dictionaries. `databases` is its disk and outlives it."""

    def __init__(self, name: str, databases: dict[str, Records], map_size: int) -> None:
        self.name = name
        self.databases = databases
        self._map_size = map_size
        self._failure: StoreFailedError | None = None
        self._closed = False

    async def write(self, job: Callable[[WriteTxn], T]) -> T:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StoreError(f"{self.name}/ is closed")
        txn = MemoryTxn(self.databases)
        try:
            result = job(txn)
        except BaseException:
            txn.undo()
            raise
        await asyncio.sleep(0)  # as with a disk, others run before the answer is there
        return result

    def fail(self, why: str) -> None:
        """From now on every write fails, as after a failed sync."""
        self._failure = StoreFailedError(f"{self.name}/ failed a write: {why}")

    def view(self) -> View:
        return MemoryTxn(self.databases)

    async def inspect(self, job: Callable[[ReadTxn], T]) -> T:
        return job(MemoryTxn(self.databases))

    def inspect_from_here(self, job: Callable[[ReadTxn, Callable[[], None]], T]) -> asyncio.Future[T]:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            done.set_result(job(MemoryTxn(self.databases), lambda: None))
        except StoreError as error:
            done.set_exception(error)
        return done

    async def copy(self, path: Path) -> None:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.FILE_MODE), "wb") as file:
            file.write(_encode(self.databases))
            file.flush()
            os.fsync(file.fileno())

    def stats(self) -> EnvironmentStats:
        databases = tuple(DatabaseStats(name, len(records), records.pages) for name, records in self.databases.items())
        used = PAGE_BYTES * (2 + sum(database.pages for database in databases))
        return EnvironmentStats(self.name, self._map_size, used, 0, 0, databases)

    async def close(self) -> None:
        self._closed = True


class MemoryEngine(Engine):
    """The disk of one server: give the same one to the next store to start again from what was durable."""

    def __init__(self) -> None:
        self.disk: dict[Path, dict[str, Records]] = {}
        self.environments: dict[Path, MemoryEnvironment] = {}  # those opened last, for tests that break them

    async def open(self, path: Path, databases: Mapping[str, bool], map_size: int, *, read_ahead: bool = True) -> Environment:
        if path not in self.disk:
            data = path / DATA_FILE
            self.disk[path] = _decode(data, databases) if data.exists() else {}
        for name, many in databases.items():
            self.disk[path].setdefault(name, Records(many))
        self.environments[path] = MemoryEnvironment(path.name, self.disk[path], map_size)
        return self.environments[path]

    def examine(self, path: Path, databases: Mapping[str, bool], job: Callable[[ReadTxn], T]) -> T:
        return job(MemoryTxn(_decode(path, databases)))

    def remove(self, path: Path) -> None:
        self.disk.pop(path, None)
        files.remove_tree(path)

    async def run(self, job: Callable[[], T]) -> T:
        return job()

    async def close(self) -> None:
        """What it holds stays, for the next store."""


def _encode(databases: Mapping[str, Records]) -> bytes:
    parts = [MAGIC]
    for name, records in databases.items():
        parts += (_HEAD.pack(len(name), len(records)), name.encode())
        for key, value in records.pairs():
            parts += (_RECORD.pack(len(key), len(value)), key, value)
    return b"".join(parts)


def _decode(path: Path, databases: Mapping[str, bool]) -> dict[str, Records]:
    """Raises DamagedError."""
    data = path.read_bytes()
    found = {name: Records(many) for name, many in databases.items()}
    at = len(MAGIC)
    try:
        while at < len(data):
            name_size, count = _HEAD.unpack_from(data, at)
            at += _HEAD.size + name_size
            records = found[data[at - name_size : at].decode()]
            for _ in range(count):
                key_size, value_size = _RECORD.unpack_from(data, at)
                at += _RECORD.size + key_size + value_size
                records.set(data[at - key_size - value_size : at - value_size], data[at - value_size : at])
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path.name} is not a whole copy of a state") from error
    if at != len(data) or not data.startswith(MAGIC):
        raise DamagedError(f"{path.name} is not a whole copy of a state")
    return found
