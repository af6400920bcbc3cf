"""Page-ins: when the state is taken to be cold, and that pages really come into memory."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from ravel_node.storage.base import StoreError
from ravel_node.storage.engine import DATA_FILE
from ravel_node.storage.keys import STATE_DATABASES
from ravel_node.storage.lmdb_engine import LmdbEngine
from ravel_node.storage.memory import MemoryTxn, Records, open_memory_store
from ravel_node.storage.page_ins import COLD_S, major_faults, read_keys
from ravel_node.storage.store import DiskStore, StoreOptions, open_store
from tests.replica.virtual import virtual
from tests.storage.support import bootstrap, get, write

KEYS = [b"key-%05d" % number for number in range(1_000)]
ANYHOW = random.Random(1).sample(KEYS, len(KEYS))  # in order, the system reads ahead and nobody waits


@virtual
async def test_the_state_is_cold_until_nobody_has_waited_for_a_while(tmp_path: Path) -> None:
    waits = 0
    store = await open_memory_store(tmp_path / "store", replace(StoreOptions(), major_faults=lambda: waits))
    await bootstrap(store)
    store.look_for_faults()
    assert not store.cold
    waits += 1
    assert not store.cold, "nobody has looked"
    store.look_for_faults()
    assert store.cold
    await asyncio.sleep(0.9 * COLD_S)
    store.look_for_faults()
    assert store.cold
    await asyncio.sleep(0.2 * COLD_S)
    assert not store.cold
    await store.close()


@virtual
async def test_waits_of_page_ins_keep_it_cold_too(tmp_path: Path) -> None:
    counted = 0

    def each_look_counts() -> int:
        nonlocal counted
        counted += 1
        return counted

    store = await open_memory_store(tmp_path / "store", replace(StoreOptions(), major_faults=each_look_counts))
    await bootstrap(store)
    await write(store, [(b"a", b"1"), (b"b", b"2")])
    await store.page_in([b"a", b"absent", b"", b"k" * 5_000])
    assert store.cold
    await asyncio.sleep(0.9 * COLD_S)
    await store.page_in_range(b"", None, 10, 1_000)
    await asyncio.sleep(0.9 * COLD_S)
    assert store.cold
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.page_in([b"a"])


def test_of_a_key_that_is_not_there_the_index_is_read_too() -> None:
    """As the read that follows does."""

    class Noting(MemoryTxn):
        asked: ClassVar[list[bytes]] = []

        def has_value(self, database: str, key: bytes, value: bytes) -> bool:
            self.asked.append(value)
            return super().has_value(database, key, value)

    txn = Noting({name: Records(many) for name, many in STATE_DATABASES.items()})
    txn.put("kv", b"there", b"record")
    read_keys(txn, [b"there", b"absent", b"", b"k" * 5_000])
    assert txn.asked == [b"absent"]


async def test_an_error_is_left_to_the_read_that_follows(tmp_path: Path) -> None:
    store = await open_memory_store(tmp_path / "store", StoreOptions())
    await bootstrap(store)

    async def fails(job: object) -> None:
        raise StoreError("no")

    store._state.environment.inspect = fails  # type: ignore[assignment, method-assign]
    await store.page_in([b"a"])
    await store.close()


@pytest.mark.parametrize("ranged", [False, True], ids=["keys", "a range"])
async def test_pages_that_were_read_elsewhere_keep_nobody_waiting_here(tmp_path: Path, *, ranged: bool) -> None:
    """On a real disk, whose pages the system is told to forget."""
    async with _opened(tmp_path) as store:
        await bootstrap(store)
        await write(store, ((key, os.urandom(64_000)) for key in KEYS))
    async with _opened(tmp_path) as store:
        if not _waits(lambda: [get(store, key) for key in ANYHOW]):
            pytest.skip("this file system keeps its files in memory")
        store.look_for_faults()
        assert store.cold
    async with _opened(tmp_path) as store:
        if ranged:
            await store.page_in_range(KEYS[0], KEYS[-1], len(KEYS), 1 << 30)
        else:
            await store.page_in(KEYS)
        assert _waits(lambda: [get(store, key) for key in ANYHOW]) == 0


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[DiskStore]:
    """The store, of whose state nothing is in memory."""
    await asyncio.to_thread(_forget, path)
    store = await open_store(path / "store", StoreOptions(), LmdbEngine(lambda *_: None))
    try:
        yield store
    finally:
        await store.close()


def _forget(path: Path) -> None:
    for file in path.glob(f"store/state-*/{DATA_FILE}"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _waits(read: Callable[[], object]) -> int:
    before = major_faults()
    read()
    return major_faults() - before
