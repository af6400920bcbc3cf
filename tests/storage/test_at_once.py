"""Two things at once in a store: flushes, installs, compactions, hashes, builds and failures that meet each other."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ravel_node.machine import members
from ravel_node.machine.base import Database, MemberRecord, Txn
from ravel_node.raft.errors import InvariantError, SnapshotTemporarilyUnavailableError
from ravel_node.raft.types import NO_LIMIT, Index, ReplicaId, Snapshot
from ravel_node.storage import files
from ravel_node.storage.base import DamagedError, HashStoppedError, Save, StoreError, StoreFailedError
from ravel_node.storage.engine import Engine
from ravel_node.storage.keys import APPLIED, STORE
from ravel_node.storage.log_store import LogStore
from ravel_node.storage.memory import MemoryEngine
from ravel_node.storage.store import DiskStore, StoreOptions, open_store
from tests.storage.held import HeldEngine, HeldEnvironment
from tests.storage.support import (
    BIRTH,
    NEVER,
    append,
    apply,
    at,
    bootstrap,
    contents,
    entries,
    get,
    hard_state,
    install,
    join,
    seat,
    transfer,
    until,
    write,
)

T = TypeVar("T")
STILL = 30
"""Turns of the loop after which nothing more would happen by itself."""


@asynccontextmanager
async def working(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """A task that ends before the test goes on, and is cancelled where the test fails."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    except BaseException:
        task.cancel()
        raise
    finally:
        await asyncio.wait([task], timeout=30.0)


async def turns() -> None:
    for _ in range(STILL):
        await asyncio.sleep(0)


class World:
    """A store whose writes can be held, and a snapshot that was received by it and may be installed."""

    def __init__(self, path: Path, store: DiskStore, engine: HeldEngine, snapshot: Snapshot, wanted: list[tuple[bytes, bytes]]):
        self.path = path
        self.store = store
        self.engine = engine
        self.snapshot = snapshot
        self.wanted = wanted  # what the snapshot holds

    @property
    def state(self) -> HeldEnvironment:
        """The environment of the state as it is now."""
        return self.engine.held(self.path / self.store._state.path_name)

    @property
    def raft(self) -> HeldEnvironment:
        return self.engine.held(self.path / "raft")

    @property
    def states(self) -> list[str]:
        return sorted(each.name for each in self.path.iterdir() if each.name.startswith("state-"))

    async def restarted(self) -> DiskStore:
        await self.store.close()
        self.store = await open_store(self.path, NEVER, self.engine)
        return self.store

    async def is_whole(self) -> None:
        """The snapshot is the state, and the store goes on from it, now and after a restart."""
        assert len(self.states) == 1, "the old state is gone"
        assert contents(self.store) == self.wanted
        assert (self.store.applied, self.store.flushed, self.store.first_index()) == (at(5), at(5), 6)
        await append(self.store, 6, 6)
        apply(self.store, 6, {b"after": b"1"})
        await asyncio.wait_for(self.store.flush(), 30.0)
        assert self.store.flushed == at(6)
        store = await self.restarted()
        assert contents(store) == sorted([*self.wanted, (b"after", b"1")])
        assert (store.first_index(), store.last_index()) == (6, 6)
        assert await store.check() == []
        assert len(self.states) == 1


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The replica has entries 1 to 4, of which 1 and 2 are applied; the snapshot is of entry 5."""
    source = await open_store(tmp_path / "source", NEVER, MemoryEngine())
    await bootstrap(source)
    await write(source, [(b"key %d" % number, b"v") for number in range(4)])
    file = await source.build_snapshot()
    engine = HeldEngine()
    store = await open_store(tmp_path / "d", NEVER, engine)
    await join(store)
    await append(store, 1, 4)
    for index in (1, 2):
        apply(store, index, {b"old": b"%d" % index})
    snapshot = await transfer(file, store)
    world = World(tmp_path / "d", store, engine, snapshot, contents(source))
    yield world
    for environment in engine.environments.values():
        assert isinstance(environment, HeldEnvironment)
        environment.let_go()
    await world.store.close()
    await source.close()


# --- an install and a flush


async def test_an_install_waits_for_the_flush_that_runs(world: World) -> None:
    world.state.hold()
    old = world.state
    async with working(world.store.flush()) as flush:
        await turns()
        assert old.waiting == 1
        async with working(install(world.store, world.snapshot)) as installing:
            await turns()
            assert world.states == ["state-1"], "nothing of the next state is made while the old one is written to"
            assert not installing.done()
            old.let_go()
            await installing
        await flush
    await world.is_whole()


async def test_no_flush_begins_while_the_state_is_replaced(world: World) -> None:
    world.raft.hold()
    old = world.state
    async with working(install(world.store, world.snapshot)) as installing:
        await turns()
        assert world.raft.waiting == 1
        assert world.states == ["state-1", "state-2"]
        old.hold()
        async with working(world.store.flush()) as flush:
            await turns()
            assert old.waiting == 0, "it would be written to a state that is about to go"
            old.let_go()
            world.raft.let_go()
            await installing
            await asyncio.wait_for(flush, 30.0)  # what was to be flushed is in the snapshot
    await world.is_whole()


async def test_no_compaction_goes_on_while_the_state_is_replaced(world: World) -> None:
    await world.store.flush()
    world.raft.hold()
    async with working(install(world.store, world.snapshot)) as installing:
        await turns()
        async with working(world.store.compact(Index(2))) as compacting:
            await turns()
            assert world.raft.waiting == 1, "the log that is to be compacted is about to go"
            world.raft.let_go()
            await compacting
        await installing
    await world.is_whole()


async def test_a_compaction_stops_between_two_steps_for_an_install(tmp_path: Path, world: World) -> None:
    await world.store.close()
    world.store = await open_store(world.path, replace(NEVER, compact_records_max=1), world.engine)
    source = await open_store(tmp_path / "source 2", NEVER, MemoryEngine())
    await bootstrap(source)
    await write(source, [(b"key %d" % number, b"v") for number in range(4)])
    world.snapshot = await transfer(await source.build_snapshot(), world.store)
    await source.close()
    world.raft.hold()
    async with working(world.store.compact(Index(2))) as compacting:
        await turns()
        async with working(install(world.store, world.snapshot)) as installing:
            await turns()
            world.raft.let_go()
            await asyncio.gather(compacting, installing)
    await world.is_whole()


async def test_a_store_that_is_closed_in_the_middle_of_a_flush_loses_nothing(world: World) -> None:
    world.state.hold()
    async with working(world.store.flush()) as flush:
        await turns()
        async with working(world.store.close()) as closing:
            await turns()
            assert not closing.done()
            world.state.let_go()
            await closing
        await asyncio.wait([flush], timeout=30.0)
    store = await world.restarted()
    assert (store.applied, get(store, b"old")) == (at(2), b"2")


# --- what failed, and is tried again


async def found(store: DiskStore, key: bytes) -> None:
    """Bootstrap, with a first content of its own."""
    identity = seat(store.identity.server_id, 1)
    record = MemberRecord(ReplicaId(1), identity.server_id, identity.name, "1.0", 1, "a:1", "a:2", "a:1", "a:2")

    def write_state(txn: Txn) -> None:
        members.bootstrap_state(txn, cluster_name="test", member=record, conf_state=BIRTH.conf_state, config_index=BIRTH.index)
        txn.put(Database.KV, key, b"")

    await store.bootstrap(identity, BIRTH, hard_state(1, 1, vote=0), write_state)


@pytest.fixture(params=["lmdb", "memory"])
def disk(request: pytest.FixtureRequest) -> Engine | None:
    return None if request.param == "lmdb" else MemoryEngine()


def failing_once(error: OSError, real: Callable[..., Any]) -> Callable[..., Any]:
    failed: list[None] = []

    def step(*arguments: Any, **named: Any) -> Any:
        if failed:
            return real(*arguments, **named)
        failed.append(None)
        raise error

    return step


@pytest.mark.parametrize("step", ["made", "named"])
async def test_a_cluster_that_could_not_be_made_is_made_at_the_second_try(
    tmp_path: Path, disk: Engine | None, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = await open_store(tmp_path / "d", NEVER, disk)
    full = OSError(errno.ENOSPC, "No space left on device")
    if step == "made":
        monkeypatch.setattr(files, "make_directory", failing_once(full, files.make_directory))
    else:
        monkeypatch.setattr(LogStore, "birth", failing_once(full, LogStore.birth))
    with pytest.raises(StoreError, match="No space left") as caught:
        await found(store, b"first")
    assert not isinstance(caught.value, StoreFailedError)
    assert store.identity.blank
    await found(store, b"second")
    assert [key for key, _ in contents(store)] == [b"second"], "nothing of the first try is in it"
    await append(store, 2, 2)
    apply(store, 2, {b"more": b""})
    await asyncio.wait_for(store.flush(), 30.0)
    await store.close()
    store = await open_store(tmp_path / "d", NEVER, disk)
    assert [key for key, _ in contents(store)] == [b"more", b"second"]
    assert len([each for each in (tmp_path / "d").iterdir() if each.name.startswith("state-")]) == 1
    assert await store.check() == []
    await store.close()


@pytest.mark.parametrize("step", ["moved", "named"])
async def test_a_snapshot_that_could_not_be_installed_is_installed_after_a_restart(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    if step == "moved":
        full = OSError(errno.ENOSPC, "No space left on device")
        with monkeypatch.context() as patch:
            patch.setattr(files, "rename", failing_once(full, files.rename))
            with pytest.raises(StoreFailedError, match="No space left"):
                await install(world.store, world.snapshot)
    else:
        world.raft.fail("the disk failed a sync")
        with pytest.raises(StoreFailedError, match="failed a sync"):
            await install(world.store, world.snapshot)
        assert world.engine.held(world.path / "state-2")._closed, "nothing keeps what was half made open"
    for use in (world.store.reader, world.store.txn, world.store.hash_applied):
        with pytest.raises(StoreFailedError):
            use()
    with pytest.raises(StoreFailedError):
        await install(world.store, world.snapshot)
    store = await world.restarted()
    assert world.states == ["state-1"], "what was half made is gone"
    assert (store.applied, store.first_index(), store.last_index()) == (at(0, 0), 1, 4)
    source = await open_store(tmp_path / "source 2", NEVER, MemoryEngine())
    await bootstrap(source)
    await write(source, [(b"key %d" % number, b"v") for number in range(4)])
    await install(store, await transfer(await source.build_snapshot(), store))
    await source.close()
    await world.is_whole()


# --- a hash and what may happen to it


async def test_a_hash_that_waits_for_a_flush_ends_when_the_flush_fails(world: World) -> None:
    world.state.hold()
    hashing = world.store.hash_applied()
    await turns()
    assert not hashing.done()
    world.state.fail("the disk failed a sync")
    world.state.let_go()
    with pytest.raises(HashStoppedError, match="the disk failed a sync"):
        await asyncio.wait_for(hashing, 30.0)
    with pytest.raises(StoreFailedError):
        world.store.hash_applied()


async def test_a_hash_that_waits_for_a_flush_ends_when_the_state_is_replaced(world: World) -> None:
    world.raft.hold()
    async with working(install(world.store, world.snapshot)) as installing:
        await turns()
        hashing = world.store.hash_applied()
        await turns()
        assert not hashing.done()
        world.raft.let_go()
        await installing
    with pytest.raises(HashStoppedError, match="a snapshot took the place"):
        await asyncio.wait_for(hashing, 30.0)
    assert (await asyncio.wait_for(world.store.hash_applied(), 30.0)).at == at(5)


async def test_a_hash_that_waits_for_a_flush_ends_when_the_store_closes(world: World) -> None:
    """It is asked for while the store closes, of an entry that no flush leads to any more."""
    state = world.state
    state.hold()
    async with working(world.store.close()) as closing:
        await turns()
        apply(world.store, 3, {b"old": b"3"})
        hashing = world.store.hash_applied()
        await turns()
        state.let_go(writes=1)
        await turns()
        state.let_go()
        await closing
    with pytest.raises(HashStoppedError, match="closes"):
        await asyncio.wait_for(hashing, 30.0)


async def test_a_state_that_cannot_be_hashed_fails_the_hash_and_the_next_one_is_asked_for_anew(world: World) -> None:
    await world.store.flush()
    record = await world.state.inspect(lambda txn: txn.get(STORE, APPLIED)) or b""
    await world.state.write(lambda txn: txn.put(STORE, APPLIED, record[:-1] + bytes([record[-1] ^ 1])))
    with pytest.raises(DamagedError, match="applied"):
        await asyncio.wait_for(world.store.hash_applied(), 30.0)
    await world.state.write(lambda txn: txn.put(STORE, APPLIED, record))
    assert (await asyncio.wait_for(world.store.hash_applied(), 30.0)).at == at(2)


async def test_a_hash_of_another_entry_than_was_asked_for_is_a_broken_invariant(world: World) -> None:
    await world.store.flush()
    hashing = world.store._hashing.want(Index(1))
    world.store._hashing.flushed(Index(2), world.store._state.environment, "state-1")
    await turns()
    with pytest.raises(InvariantError, match="entry 2 was hashed for that of 1"):
        await asyncio.wait_for(hashing, 30.0)


# --- who waits for which flush


async def test_each_caller_of_flush_waits_for_its_own_entries(world: World) -> None:
    state = world.state
    state.hold()
    async with working(world.store.flush()) as first:
        await turns()
        apply(world.store, 3, {b"old": b"3"})
        async with working(world.store.flush()) as second, working(world.store.flush()) as third:
            await turns()
            state.let_go(writes=1)
            await first
            await turns()
            assert world.store.flushed == at(2)
            assert not second.done()
            state.let_go()
            await asyncio.gather(second, third)
            assert world.store.flushed == at(3)
    await asyncio.wait_for(world.store.flush(), 30.0)  # nothing is left to do


async def test_all_who_wait_hear_of_a_flush_that_failed(world: World) -> None:
    state = world.state
    state.hold()
    async with working(world.store.flush()) as first:
        await turns()
        apply(world.store, 3, {})
        async with working(world.store.flush()) as second:
            await turns()
            state.fail("the disk failed a sync")
            state.let_go()
            results = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in results] == [StoreFailedError, StoreFailedError]
    for use in (world.store.reader, world.store.txn):
        with pytest.raises(StoreFailedError):
            use()


# --- builds


async def test_a_failed_build_is_tried_again_after_a_while_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    options = replace(NEVER, snapshot_retry_s=60.0, observe=lambda event, fields: events.append(event))
    store = await open_store(tmp_path / "d", options, MemoryEngine())
    await bootstrap(store)
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_once(OSError(errno.ENOSPC, "No space left on device"), os.fsync))
        with pytest.raises(SnapshotTemporarilyUnavailableError):
            store.snapshot()
        await turns()
    assert events == ["store.snapshot_failed"]
    for later_s, built in ((0.0, False), (59.0, False), (60.0, True)):
        monkeypatch.setattr(loop, "time", lambda at=now + later_s: at)
        with pytest.raises(SnapshotTemporarilyUnavailableError):
            store.snapshot()
        await turns()
        assert (len(store.snapshots()) == 1) == built, later_s
    monkeypatch.undo()
    await store.close()


async def test_two_who_want_a_snapshot_get_one_build(tmp_path: Path) -> None:
    events: list[str] = []
    store = await open_store(tmp_path / "d", replace(NEVER, observe=lambda event, fields: events.append(event)), MemoryEngine())
    await bootstrap(store)
    await write(store, [(b"a", b"1")])
    one, other = await asyncio.gather(store.build_snapshot(), store.build_snapshot())
    assert one is other
    assert events == ["store.snapshot_built"]
    await write(store, [(b"a", b"2")])
    third = await store.build_snapshot()
    assert third.header.index == one.header.index + 1
    await store.close()


# --- the timer


async def test_the_timer_of_a_store_that_was_closed_or_flushed_does_nothing(tmp_path: Path) -> None:
    engine = HeldEngine()
    store = await open_store(tmp_path / "d", StoreOptions(flush_interval_s=0.05), engine)
    await append(store, 1, 9)
    apply(store, 1, {b"a": b"1"})
    timer = store._flush_timer
    assert timer is not None
    await store.flush()
    assert timer.cancelled()
    assert store._flush_timer is None
    apply(store, 2, {b"a": b"2"})
    assert store._flush_timer is not None, "each first entry after a flush starts it again"
    first = store._flush_timer
    apply(store, 3, {b"a": b"3"})
    assert store._flush_timer is first, "and later ones do not put it off"
    await until(lambda: store.flushed == at(3))
    apply(store, 4, {b"a": b"4"})
    last = store._flush_timer
    assert last is not None
    await store.close()
    assert last.cancelled()


async def test_a_store_that_failed_leaves_no_timer_behind(world: World) -> None:
    apply(world.store, 3, {})
    timer = world.store._flush_timer
    assert timer is not None
    world.raft.fail("the disk failed a sync")
    with pytest.raises(StoreFailedError):
        await append(world.store, 5, 5)
    await world.store.close()
    assert timer.cancelled()
    await world.restarted()


async def test_saves_in_one_call_with_a_snapshot_begin_after_it(world: World) -> None:
    """A snapshot and entries that follow it become durable together; those before it are gone."""
    await install(world.store, world.snapshot, [Save(entries(6, 7, term=2)), Save(entries(7, 8, term=3))])
    for restart in (False, True):
        store = await world.restarted() if restart else world.store
        assert (store.first_index(), store.last_index()) == (6, 8)
        assert list(store.entries(Index(6), Index(9), NO_LIMIT)) == entries(6, 6, term=2) + entries(7, 8, term=3)
        assert contents(store) == world.wanted
