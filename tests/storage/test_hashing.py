"""The hash of a state: what it covers, what it is of, and what it never holds up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import lmdb
import pytest

from ravel_node.machine.base import Database
from ravel_node.storage.base import HashStoppedError, StateHash, StoreError
from ravel_node.storage.keys import STATE_NAMES, seal, seed_of
from ravel_node.storage.lmdb_engine import LmdbReadTxn
from ravel_node.storage.memory import open_memory_store
from ravel_node.storage.store import DiskStore, StoreOptions, open_store
from tests.storage.support import NEVER, append, at, bootstrap

Open = Callable[[Path, StoreOptions], Awaitable[DiskStore]]
DRAWN = replace(NEVER, draw_id=lambda: "a" * 32, raft_map_bytes=1 << 20, state_map_bytes=1 << 20)


@pytest.fixture(params=[open_store, open_memory_store], ids=["lmdb", "memory"])
def open_any(request: pytest.FixtureRequest) -> Open:
    return request.param  # type: ignore[no-any-return]


async def fill(store: DiskStore, first: int, last: int, database: Database = Database.KV) -> None:
    """Entry i puts key i."""
    for index in range(first, last + 1):
        store.txn().put(database, b"key %d" % index, b"value %d" % index)
        store.applied_to(at(index))


async def of(store: DiskStore) -> StateHash:
    return await asyncio.wait_for(store.hash_applied(), 30)


async def test_the_same_log_prefix_gives_the_same_hash_however_it_was_flushed(tmp_path: Path) -> None:
    hashes = []
    for name, opened in (("a", open_store), ("b", open_memory_store), ("c", open_store)):
        store = await opened(tmp_path / name, DRAWN)
        await bootstrap(store)
        await append(store, 2, 400)
        await fill(store, 2, 200)
        if name != "a":
            await store.flush()
        await fill(store, 201, 300)
        hashes.append(await of(store))
        assert store.flushed == at(300)
        await store.close()
    assert {found.sha256 for found in hashes} == {hashes[0].sha256}
    assert len(hashes[0].sha256) == 32
    assert {found.at for found in hashes} == {at(300)}
    assert hashes[0].records == hashes[1].records > 299


@pytest.mark.parametrize("database", [database for database in Database if database is not Database.SLOTS])
async def test_one_byte_in_any_hashed_database_changes_it(tmp_path: Path, open_any: Open, database: Database) -> None:
    store = await open_any(tmp_path, DRAWN)
    await bootstrap(store)
    await append(store, 2, 2)
    await fill(store, 2, 2, database)
    before = await of(store)
    name = STATE_NAMES[database]
    forged = seal(seed_of(name), b"key 2", b"value 3")
    await store._state.environment.write(lambda txn: txn.put(name, b"key 2", forged))
    after = await of(store)
    assert after.at == before.at
    assert after.sha256 != before.sha256
    await store.close()


async def test_the_position_is_part_of_it(tmp_path: Path) -> None:
    store = await open_memory_store(tmp_path, DRAWN)
    await bootstrap(store)
    await append(store, 2, 3)
    store.applied_to(at(2))
    before = await of(store)
    store.applied_to(at(3))
    assert (await of(store)).sha256 != before.sha256
    await store.close()


async def test_what_is_applied_and_flushed_after_it_does_not_show(tmp_path: Path) -> None:
    """The thread is kept from its work until later entries are on disk: it still hashes the state of its own entry."""
    store = await open_store(tmp_path / "a", DRAWN)
    await bootstrap(store)
    await append(store, 2, 300)
    await fill(store, 2, 100)
    await store.flush()
    threads = store._engine._files._max_workers  # type: ignore[attr-defined]
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

    held = [asyncio.ensure_future(store._engine.run(wait)) for _ in range(threads)]
    await asyncio.sleep(0)  # now the threads are taken
    hashing = store.hash_applied()
    await asyncio.sleep(0)
    await fill(store, 101, 300)
    await store.flush()
    assert store.flushed == at(300)
    assert not hashing.done()
    gate.set()
    await asyncio.gather(*held)
    found = await asyncio.wait_for(hashing, 30)
    await store.close()

    alone = await open_store(tmp_path / "b", DRAWN)
    await bootstrap(alone)
    await append(alone, 2, 100)
    await fill(alone, 2, 100)
    assert await of(alone) == found._replace(seconds=ANY)
    assert found.at == at(100)
    await alone.close()


async def test_one_at_a_time(tmp_path: Path) -> None:
    store = await open_store(tmp_path, DRAWN)
    await bootstrap(store)
    first, second = store.hash_applied(), store.hash_applied()
    with pytest.raises(HashStoppedError, match="still being hashed"):
        await second
    await asyncio.wait_for(first, 30)
    assert (await of(store)).at == at(1)
    await store.close()


async def test_a_map_that_must_grow_ends_the_hash_instead_of_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ravel_node.storage.lmdb_engine.PAUSE_S", 0.05)  # a state that takes long
    store = await open_store(tmp_path, DRAWN)
    await bootstrap(store)
    await append(store, 2, 2000)
    await fill(store, 2, 1000)
    hashing = store.hash_applied()
    await fill(store, 1001, 1100)
    for index in range(1101, 1200):
        store.txn().put(Database.KV, b"large %d" % index, b"x" * 32_768)
        store.applied_to(at(index))
    await asyncio.wait_for(store.flush(), 60)
    assert store.db_map_bytes > DRAWN.state_map_bytes
    with pytest.raises(HashStoppedError, match="write"):
        await hashing
    monkeypatch.setattr("ravel_node.storage.lmdb_engine.PAUSE_S", 1e-5)
    assert (await of(store)).at == at(1199)
    await store.close()


async def test_a_store_that_closes_ends_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ravel_node.storage.lmdb_engine.PAUSE_S", 0.1)
    store = await open_store(tmp_path, DRAWN)
    await bootstrap(store)
    await append(store, 2, 2000)
    await fill(store, 2, 2000)
    hashing = store.hash_applied()
    await asyncio.wait_for(store.flush(), 30)
    await asyncio.wait_for(store.close(), 30)
    with pytest.raises(HashStoppedError):
        await hashing


async def test_a_reader_table_without_room_fails_the_hash_and_no_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(tmp_path, DRAWN)
    await bootstrap(store)
    await append(store, 2, 30)
    await fill(store, 2, 10)
    real = LmdbReadTxn.__init__

    def full(self: LmdbReadTxn, *arguments: Any) -> None:
        if type(self) is LmdbReadTxn:  # not the writer's, nor the loop's
            raise lmdb.ReadersFullError("no room")
        real(self, *arguments)

    monkeypatch.setattr(LmdbReadTxn, "__init__", full)
    with pytest.raises(StoreError, match="no room"):
        await of(store)
    monkeypatch.setattr(LmdbReadTxn, "__init__", real)
    await fill(store, 11, 20)
    await asyncio.wait_for(store.flush(), 30)
    assert store.flushed == at(20)
    assert (await of(store)).at == at(20)
    await store.close()
