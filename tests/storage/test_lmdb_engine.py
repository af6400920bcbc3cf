"""What only LMDB does: a map that fills and grows, commits that fail, files that are cut, copies that must stop."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import lmdb
import pytest

from ravel_node.storage import lmdb_engine
from ravel_node.storage.base import DamagedError, StoreError, StoreFailedError
from ravel_node.storage.engine import Environment, ReadTxn, WriteTxn
from ravel_node.storage.lmdb_engine import LmdbEngine, LmdbEnvironment
from tests.storage.support import WAIT_S

DATABASES = {"kv": False, "sets": True}
SMALL = 128 << 10


@pytest.fixture
def events() -> list[tuple[str, Mapping[str, object]]]:
    return []


@pytest.fixture
async def engine(events: list[tuple[str, Mapping[str, object]]]) -> AsyncIterator[LmdbEngine]:
    engine = LmdbEngine(lambda event, fields: events.append((event, fields)))
    yield engine
    await engine.close()


@pytest.fixture
async def env(engine: LmdbEngine, tmp_path: Path) -> AsyncIterator[Environment]:
    (tmp_path / "env").mkdir()
    env = await engine.open(tmp_path / "env", DATABASES, SMALL)
    yield env
    await env.close()


def put_many(count: int, size: int) -> Any:
    def job(txn: WriteTxn) -> int:
        for number in range(count):
            txn.put("kv", b"%06d" % number, b"v" * size)
        return count

    return job


def count_of(env: Environment) -> int:
    view = env.view()
    try:
        return view.entries("kv")
    finally:
        view.close()


async def test_a_full_map_grows_and_the_job_runs_again(env: Environment, events: list[tuple[str, Mapping[str, object]]]) -> None:
    view = env.view()
    assert view.get("kv", b"000001") is None
    assert await env.write(put_many(2_000, 1_000)) == 2_000
    assert env.stats().map_size > 2_000_000
    assert [name for name, _ in events] == ["store.map_grown"] * len(events)
    assert view.get("kv", b"000001") is None  # the view came through, and shows its own point in time
    view.renew()
    assert view.get("kv", b"000001") == b"v" * 1_000
    view.close()


async def test_jobs_that_wait_while_the_map_grows_keep_their_order(env: Environment) -> None:
    def mark(number: int) -> Any:
        return lambda txn: txn.put("kv", b"last", b"%d" % number)

    await asyncio.gather(*(env.write(job) for number in range(20) for job in (put_many(100 * number, 500), mark(number))))
    view = env.view()
    assert view.get("kv", b"last") == b"19"
    assert view.entries("kv") == 1_901
    view.close()


async def test_the_map_waits_for_a_copy_before_it_grows(env: Environment, tmp_path: Path) -> None:
    await env.write(put_many(50, 1_000))
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(txn: ReadTxn) -> int:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(WAIT_S)
        return sum(len(value) for _, value in txn.items("kv"))

    inspection = asyncio.create_task(env.inspect(slow))
    await began.wait()
    writing = asyncio.create_task(env.write(put_many(2_000, 1_000)))
    await asyncio.sleep(0.1)
    assert not writing.done()
    assert env.stats().map_size == SMALL
    go_on.set()
    assert await inspection == 50_000
    assert await writing == 2_000


async def test_what_a_job_raises_undoes_it_and_breaks_nothing(env: Environment) -> None:
    def job(txn: WriteTxn) -> None:
        txn.put("kv", b"a", b"1")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await env.write(job)
    assert count_of(env) == 0
    await env.write(put_many(1, 1))
    assert count_of(env) == 1


async def test_after_a_failed_commit_nothing_is_written_again(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB would take the next commit as if nothing had happened; the entry in between would be lost."""
    await env.write(put_many(1, 1))

    def failing(self: LmdbEnvironment, job: Any) -> None:
        raise lmdb.DiskError("mdb_txn_commit", errno.EIO)

    with monkeypatch.context() as patch:
        patch.setattr(LmdbEnvironment, "_commit", failing)
        first, second = env.write(put_many(2, 1)), env.write(put_many(3, 1))
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [StoreFailedError, StoreFailedError]
    assert "env/data.mdb" in str(results[0])
    with pytest.raises(StoreFailedError):
        await env.write(put_many(2, 1))
    assert count_of(env) == 1


async def test_every_commit_is_synced_and_nothing_is_written_through_the_map(env: Environment) -> None:
    assert isinstance(env, LmdbEnvironment)
    flags = env._env.flags()
    assert (flags["sync"], flags["metasync"], flags["writemap"], flags["map_async"]) == (True, True, False, False)


async def test_writes_of_one_environment_never_overlap(env: Environment) -> None:
    running = 0

    def job(txn: WriteTxn) -> int:
        nonlocal running
        running += 1
        seen = running
        txn.pause()
        running -= 1
        return seen

    assert await asyncio.gather(*(env.write(job) for _ in range(50))) == [1] * 50


async def test_a_database_of_sets(env: Environment) -> None:
    def job(txn: WriteTxn) -> None:
        for value in (b"c", b"a", b"b", b"a"):
            txn.add_value("sets", b"s", value)
        txn.remove_value("sets", b"s", b"b")
        txn.remove_value("sets", b"s", b"never")

    await env.write(job)
    view = env.view()
    assert list(view.items("sets")) == [(b"s", b"a"), (b"s", b"c")]
    view.close()


async def test_used_and_free_pages_add_up(env: Environment) -> None:
    await env.write(put_many(2_000, 500))
    full = env.stats()

    def empty(txn: WriteTxn) -> None:
        txn.delete_from("kv", b"000010")

    await env.write(empty)
    after = env.stats()
    assert after.used < full.used / 20
    assert after.free > full.used - after.used - 100_000
    assert [each.entries for each in after.databases if each.name == "kv"] == [10]


async def test_a_copy_is_whole_and_a_stopped_one_says_so(engine: LmdbEngine, env: Environment, tmp_path: Path) -> None:
    await env.write(put_many(3_000, 1_000))
    await env.copy(tmp_path / "copy")
    assert await engine.run(lambda: engine.examine(tmp_path / "copy", DATABASES, lambda txn: txn.entries("kv"))) == 3_000
    with pytest.raises(OSError, match="File exists"):
        await env.copy(tmp_path / "copy")
    descriptor = os.open(tmp_path / "stopped", os.O_WRONLY | os.O_CREAT)
    lmdb_engine._stop_copy(descriptor)
    with pytest.raises(OSError, match="failed"):
        await engine.run(lambda: env._copy(descriptor))  # type: ignore[attr-defined]
    os.close(descriptor)


@pytest.mark.parametrize("keep", [0, 100, 5_000, 60_000])
async def test_a_file_that_was_cut_is_damaged_not_deadly(engine: LmdbEngine, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut"
    path.mkdir()
    env = await engine.open(path, DATABASES, SMALL)
    await env.write(put_many(500, 500))
    copy = tmp_path / "copy"
    await env.copy(copy)
    await env.close()
    os.truncate(path / "data.mdb", keep)
    os.truncate(copy, keep)
    if keep:  # an empty file is one that LMDB has yet to begin
        with pytest.raises(StoreError, match=r"cut/data\.mdb"):
            await engine.open(path, DATABASES, SMALL)
    with pytest.raises(DamagedError, match="copy is not a whole"):
        await engine.run(lambda: engine.examine(copy, DATABASES, lambda txn: txn.entries("kv")))


async def test_what_is_no_lmdb_file_is_refused(engine: LmdbEngine, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.mdb").write_bytes(b"hello, world" * 1_000)
    with pytest.raises(DamagedError, match=r"other/data\.mdb"):
        await engine.open(tmp_path / "other", DATABASES, SMALL)
    with pytest.raises(StoreError):
        await engine.open(tmp_path / "other" / "data.mdb", DATABASES, SMALL)


async def test_a_closed_environment_refuses(engine: LmdbEngine, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    env = await engine.open(tmp_path / "e", DATABASES, SMALL)
    view = env.view()
    writing = asyncio.create_task(env.write(put_many(100, 10)))
    await asyncio.sleep(0)
    await env.close()
    await env.close()
    assert await writing == 100  # what was under way is done first
    with pytest.raises(StoreError, match="closed"):
        await env.write(put_many(1, 1))
    with pytest.raises(StoreError, match="closed"):
        await env.inspect(lambda txn: None)
    with pytest.raises(StoreError):
        view.get("kv", b"a")


@pytest.mark.parametrize("count", [1, 20, 2_000])
async def test_the_values_of_a_key_are_walked_through_however_many_they_are(env: Environment, count: int) -> None:
    values = [b"value/%06d" % number for number in range(count)]

    def job(txn: WriteTxn) -> None:
        for key in (b"a", b"b"):
            for value in values:
                txn.add_value("sets", key, value)

    await env.write(job)
    view = env.view()
    try:
        assert list(view.values("sets", b"a", b"")) == values
        assert list(view.values("sets", b"b", values[-1])) == values[-1:]
        assert list(view.values("sets", b"b", b"value/000000\0")) == values[1:]
        assert list(view.values("sets", b"c", b"")) == []
    finally:
        view.close()
