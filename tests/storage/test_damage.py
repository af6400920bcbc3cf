"""A flipped bit is found, named, and never served."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from ravel_node.machine.base import Database
from ravel_node.raft.types import NO_LIMIT, EntryType, Index
from ravel_node.storage.base import DamagedError, Save
from ravel_node.storage.keys import (
    BadRecordError,
    decode_entry,
    decode_entry_id,
    decode_hard_state,
    decode_number,
    encode_entry,
    index_key,
    seal,
    unseal,
)
from ravel_node.storage.store import DiskStore, open_store
from tests.storage.support import CLUSTER, NEVER, append, apply, at, bootstrap, entry, get, until

LOG_MARK: Final = b"a payload that is found only in the log"
STATE_MARK: Final = b"a value that is found only in the state"


async def prepared(path: Path) -> Path:
    """A closed store with one marked entry and one marked key, both on disk, and a snapshot."""
    store = await open_store(path, NEVER)
    await bootstrap(store)
    await append(store, 2, 5)
    await store.save([Save([entry(6, data=LOG_MARK), entry(7)])])
    apply(store, 7, {b"key": STATE_MARK, b"other": b"1"})
    await store.build_snapshot()
    await store.close()
    return path


def flip(path: Path, mark: bytes, *, offset: int = 0) -> None:
    """Flip one bit in every place where `mark` stands, `offset` bytes from its start."""
    data = bytearray(path.read_bytes())
    found = data.find(mark)
    assert found >= 0
    while found >= 0:
        data[found + offset] ^= 0x04
        found = data.find(mark, found + 1)
    path.write_bytes(data)


async def reopened(path: Path) -> DiskStore:
    return await open_store(path, NEVER)


@pytest.mark.parametrize("offset", [0, 20, -1, -13], ids=["data", "more data", "type", "check sum"])
async def test_a_log_record_with_a_flipped_bit(tmp_path: Path, offset: int) -> None:
    path = await prepared(tmp_path / "d")
    flip(path / "raft" / "data.mdb", LOG_MARK, offset=offset)
    store = await reopened(path)
    try:
        assert len(store.entries(Index(2), Index(6), NO_LIMIT)) == 4
        for read in (lambda: store.entries(Index(2), Index(8), NO_LIMIT), lambda: store.term(Index(6))):
            with pytest.raises(DamagedError, match=r"raft/data\.mdb: entry 6 is damaged"):
                read()
        assert [problem[:34] for problem in await store.check()] == ["raft/data.mdb: entry 6 is damaged:"]
    finally:
        await store.close()


@pytest.mark.parametrize("offset", [0, 20, -4], ids=["value", "more of it", "check sum"])
async def test_a_state_record_with_a_flipped_bit(tmp_path: Path, offset: int) -> None:
    path = await prepared(tmp_path / "d")
    flip(path / "state-2" / "data.mdb", STATE_MARK, offset=offset)
    store = await reopened(path)
    try:
        for read in (lambda: get(store, b"key"), lambda: list(store.reader().scan(Database.KV, b"", None))):
            with pytest.raises(DamagedError, match=r"state-2/data\.mdb: record 'key' of database kv"):
                read()
        assert get(store, b"other") == b"1"
        assert len(await store.check()) == 1
    finally:
        await store.close()


async def test_a_key_with_a_flipped_bit(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    flip(path / "state-2" / "data.mdb", b"other", offset=4)
    store = await reopened(path)
    try:
        with pytest.raises(DamagedError, match="record 'othev'"):
            list(store.reader().scan(Database.KV, b"", None))
        assert len(await store.check()) >= 1
    finally:
        await store.close()


async def test_a_snapshot_with_a_flipped_bit_is_put_aside_and_told(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    (file,) = (path / "snapshots").glob("*.mdb")
    store = await reopened(path)
    await until(lambda: len(store.snapshots()) == 1)
    flip(file, STATE_MARK)
    assert [problem.split(":")[0] for problem in await store.check()] == [f"snapshots/{file.name}"]
    await store.close()
    events: list[str] = []
    told = NEVER.__class__(flush_interval_s=3_600.0, observe=lambda event, fields: events.append(f"{event} {fields.get('file')}"))
    store = await open_store(path, told)
    await until(lambda: len(events) > 0)
    assert events == [f"store.snapshot_damaged {file}"]
    assert store.snapshots() == ()
    assert sorted(each.name for each in (path / "snapshots").iterdir()) == [
        f"{file.stem}.json.damaged",
        f"{file.name}.damaged",
    ]
    await store.build_snapshot()
    assert len(store.snapshots()) == 1
    await store.close()


async def test_an_identity_with_a_flipped_bit_does_not_start(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    flip(path / "raft" / "data.mdb", CLUSTER.encode(), offset=3)
    with pytest.raises(DamagedError, match="identity is damaged"):
        await reopened(path)


async def test_an_applied_index_with_a_flipped_bit_does_not_start(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    flip(path / "state-2" / "data.mdb", b"applied", offset=12)
    with pytest.raises(DamagedError, match="record 'applied' of database store"):
        await reopened(path)


async def test_a_state_without_a_key_in_its_slots_is_told(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    store = await reopened(path)
    await store._state.environment.write(lambda txn: txn.delete("slots", next(txn.items("slots"))[0]))
    problems = await store.check()
    assert len(problems) == 1
    assert "database slots" in problems[0]
    await store.close()


async def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    path = await prepared(tmp_path / "d")
    store = await reopened(path)
    await store._log._env.write(lambda txn: txn.delete("log", index_key(4)))
    assert [problem[:34] for problem in await store.check()] == ["raft/data.mdb: entry 4 is damaged:"]
    with pytest.raises(DamagedError, match="entry 4 is damaged: it is missing"):
        store.entries(Index(2), Index(8), NO_LIMIT)
    with pytest.raises(DamagedError, match="entry 4"):
        store.entries(Index(4), Index(5), NO_LIMIT)
    await store.close()
    with pytest.raises(DamagedError, match="it is the last of 5 after entry 1"):
        await reopened(path)


# --- every bit of a record counts


def test_every_bit_of_an_entry_is_covered() -> None:
    whole = entry(9, term=3, data=b"some data")._replace(type=EntryType.CONF_CHANGE_V2)
    record = encode_entry(whole)
    assert decode_entry(index_key(9), record) == whole
    with pytest.raises(BadRecordError):
        decode_entry(index_key(8), record)
    for position in range(len(record) * 8):
        bad = bytearray(record)
        bad[position // 8] ^= 1 << position % 8
        with pytest.raises(BadRecordError):
            decode_entry(index_key(9), bytes(bad))
    for size in range(len(record)):
        with pytest.raises(BadRecordError):
            decode_entry(index_key(9), record[:size])


def test_every_bit_of_a_record_is_covered_and_so_is_its_place() -> None:
    record = seal(7, b"key", b"value")
    assert unseal(7, b"key", record) == b"value"
    for position in range(len(record) * 8):
        bad = bytearray(record)
        bad[position // 8] ^= 1 << position % 8
        with pytest.raises(BadRecordError):
            unseal(7, b"key", bytes(bad))
    for seed, key, size in ((8, b"key", 9), (7, b"kez", 9), (7, b"key", 8), (7, b"key", 0), (7, b"key", 3)):
        with pytest.raises(BadRecordError):
            unseal(seed, key, record[:size])


def test_records_of_another_shape_are_refused() -> None:
    for decode in (decode_entry_id, decode_hard_state, decode_number):
        for size in (0, 7, 9, 15, 17, 23, 25):
            with pytest.raises(BadRecordError):
                decode(b"x" * size)
    assert decode_entry_id(b"\0" * 7 + b"\1" + b"\0" * 7 + b"\2") == at(2)


async def test_a_snapshot_that_goes_bad_later_is_put_aside_once_it_is_doubted(tmp_path: Path) -> None:
    events: list[str] = []
    path = await prepared(tmp_path / "d")
    told = NEVER.__class__(flush_interval_s=3_600.0, observe=lambda event, fields: events.append(event))
    store = await open_store(path, told)
    await until(lambda: len(store.snapshots()) == 1)
    (file,) = store.snapshots()
    await store.doubt_snapshot(Index(file.header.index))
    assert store.snapshots() == (file,), "a whole one stays"
    flip(file.path, STATE_MARK)
    await store.doubt_snapshot(Index(file.header.index))
    assert store.snapshots() == ()
    assert events == ["store.snapshot_damaged"]
    again = await store.build_snapshot()
    again.path.unlink()
    await store.doubt_snapshot(Index(again.header.index))
    assert store.snapshots() == (), "and one that is gone is offered no more"
    await store.close()
