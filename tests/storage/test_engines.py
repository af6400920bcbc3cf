"""What every engine must report of a write: no result of a write may get lost, and both engines say the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ravel_node.raft.errors import InvariantError
from ravel_node.raft.types import Index
from ravel_node.storage.base import DamagedError, Save
from ravel_node.storage.engine import Engine, Environment, WriteTxn
from ravel_node.storage.keys import index_key
from ravel_node.storage.lmdb_engine import LmdbEngine
from ravel_node.storage.memory import MemoryEngine
from ravel_node.storage.store import open_store
from tests.storage.support import NEVER, append, apply, entries

DATABASES = {"kv": False, "sets": True}


@pytest.fixture(params=["lmdb", "memory"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine: Engine = LmdbEngine(lambda event, fields: None) if request.param == "lmdb" else MemoryEngine()
    yield engine
    await engine.close()


@pytest.fixture
async def env(engine: Engine, tmp_path: Path) -> AsyncIterator[Environment]:
    (tmp_path / "env").mkdir()
    env = await engine.open(tmp_path / "env", DATABASES, 1 << 20)
    yield env
    await env.close()


async def content(env: Environment, database: str = "kv") -> list[tuple[bytes, bytes]]:
    return await env.inspect(lambda txn: list(txn.items(database)))


@pytest.mark.parametrize("key", [b"a", b"b"], ids=["below the last", "the last"])
async def test_an_append_that_is_not_above_all_keys_is_refused_and_undone(env: Environment, key: bytes) -> None:
    """LMDB's binding reports it by a result alone, and drops the record."""
    await env.write(lambda txn: txn.append("kv", b"b", b"1"))

    def job(txn: WriteTxn) -> None:
        txn.put("kv", b"c", b"of the same transaction")
        txn.delete("kv", b"c")
        txn.append("kv", key, b"2")

    with pytest.raises(InvariantError, match=f"{key.hex()} .*database kv"):
        await env.write(job)
    assert await content(env) == [(b"b", b"1")]
    await env.write(lambda txn: txn.append("kv", b"c", b"3"))
    assert await content(env) == [(b"b", b"1"), (b"c", b"3")]


async def test_every_write_says_what_it_found(env: Environment) -> None:
    def job(txn: WriteTxn) -> list[bool]:
        return [
            txn.insert("kv", b"a", b"1"),
            txn.insert("kv", b"a", b"2"),
            txn.delete("kv", b"a"),
            txn.delete("kv", b"a"),
            txn.add_value("sets", b"s", b"1"),
            txn.add_value("sets", b"s", b"2"),
            txn.add_value("sets", b"s", b"1"),
            txn.remove_value("sets", b"s", b"3"),
            txn.remove_value("sets", b"s", b"1"),
            txn.remove_value("sets", b"s", b"1"),
            txn.remove_value("sets", b"t", b"2"),
            txn.add_value("sets", b"s", b"3"),
            txn.delete("sets", b"s"),
            txn.delete("sets", b"s"),
        ]

    #                                insert        delete       add                 remove                      add   delete
    assert await env.write(job) == [True, False, True, False, True, True, False, False, True, False, False, True, True, False]
    assert await content(env, "sets") == []


async def test_deleting_from_a_key_on_takes_all_that_follow(env: Environment) -> None:
    def job(txn: WriteTxn) -> None:
        for number in range(2_000):
            txn.append("kv", b"%04d" % number, b"v" * 100)
        txn.delete_from("kv", b"0700")
        txn.delete_from("kv", b"0701")
        for value in (b"1", b"2"):
            txn.add_value("sets", b"a", value)
            txn.add_value("sets", b"b", value)
        txn.delete_from("sets", b"b")

    await env.write(job)
    assert [key for key, _ in await content(env)] == [b"%04d" % number for number in range(700)]
    assert await content(env, "sets") == [(b"a", b"1"), (b"a", b"2")]


async def test_keys_are_told_without_values_and_once(env: Environment) -> None:
    def job(txn: WriteTxn) -> None:
        for key in (b"b", b"a", b"c"):
            txn.put("kv", key, b"value")
            for value in (b"1", b"2"):
                txn.add_value("sets", key, value)

    await env.write(job)
    for database in DATABASES:
        assert await env.inspect(lambda txn, name=database: list(txn.keys(name))) == [b"a", b"b", b"c"]  # type: ignore[misc]
        assert await env.inspect(lambda txn, name=database: txn.has(name, b"b"))  # type: ignore[misc]
        assert not await env.inspect(lambda txn, name=database: txn.has(name, b"bb"))  # type: ignore[misc]


async def test_what_a_job_did_before_it_raised_is_undone(env: Environment) -> None:
    def fill(txn: WriteTxn) -> None:
        txn.put("kv", b"a", b"1")
        for value in (b"1", b"2"):
            txn.add_value("sets", b"s", value)

    def job(txn: WriteTxn) -> None:
        txn.put("kv", b"a", b"2")
        txn.delete("kv", b"a")
        txn.remove_value("sets", b"s", b"1")
        txn.add_value("sets", b"s", b"3")
        txn.add_value("sets", b"s", b"2")
        txn.delete("sets", b"s")
        raise ValueError("no")

    await env.write(fill)
    with pytest.raises(ValueError, match="no"):
        await env.write(job)
    assert await content(env) == [(b"a", b"1")]
    assert await content(env, "sets") == [(b"s", b"1"), (b"s", b"2")]


# --- what the log makes of it


@pytest.fixture(params=["lmdb", "memory"])
def disk(request: pytest.FixtureRequest) -> Engine | None:
    return None if request.param == "lmdb" else MemoryEngine()


async def test_a_save_whose_entries_do_not_follow_each_other_writes_nothing(tmp_path: Path, disk: Engine | None) -> None:
    store = await open_store(tmp_path / "a", NEVER, disk)
    for bad in (entries(1, 2) + entries(4, 4), entries(1, 2) + entries(2, 2), entries(2, 2) + entries(1, 1)):
        with pytest.raises(InvariantError):
            await store.save([Save(bad)])
    assert store.last_index() == 0
    await append(store, 1, 3)
    await store.close()
    store = await open_store(tmp_path / "a", NEVER, disk)
    assert list(store.entries(Index(1), Index(4), 1 << 20)) == entries(1, 3)
    await store.close()


async def test_compaction_reports_an_entry_that_the_disk_has_lost(tmp_path: Path, disk: Engine | None) -> None:
    store = await open_store(tmp_path / "a", NEVER, disk)
    await append(store, 1, 9)
    for index in range(1, 9):
        apply(store, index, {})
    await store.flush()
    await store._log._env.write(lambda txn: txn.delete("log", index_key(Index(4))))
    with pytest.raises(DamagedError, match=r"raft/data\.mdb: entry 4 is damaged: it is missing"):
        await store.compact(Index(8))
    await store.close()
