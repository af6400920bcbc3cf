"""The index of slots and its summaries: one flipped bit is found, and the summaries always say what the keys say."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ravel_node.machine.base import Database
from ravel_node.storage import checking, slot_index
from ravel_node.storage.base import DamagedError, StoreFailedError
from ravel_node.storage.engine import Engine, WriteTxn
from ravel_node.storage.keys import (
    APPLIED,
    STATE_DATABASES,
    STORE,
    SUMMARIZED,
    encode_entry_id,
    seal,
    seed_of,
    slot_key,
    summary_key,
)
from ravel_node.storage.memory import MemoryEngine, MemoryTxn, Records
from ravel_node.storage.state_store import write_segment
from ravel_node.storage.store import DiskStore, open_store
from ravel_node.storage.table import Table, written
from ravelpb.slots import SLOT_COUNT, slot_of
from tests.storage.support import NEVER, append, apply, at, bootstrap, contents, install, join, transfer
from tests.storage.test_table import Dict

ALL = range(SLOT_COUNT)
KEYS = [key for number in range(30_000) if slot_of(key := b"key %d" % number) in (7, 8, 70)]
BY_SLOT = {slot: sorted(key for key in KEYS if slot_of(key) == slot) for slot in (7, 8, 70)}
MANY = 1 << 30


@pytest.fixture(params=["lmdb", "memory"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine | None:
    if request.param == "memory":
        return MemoryEngine()
    real = lmdb.open
    monkeypatch.setattr(lmdb, "open", lambda *arguments, **named: real(*arguments, **{**named, "sync": False}))
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    return None


@pytest.fixture
async def store(tmp_path: Path, engine: Engine | None) -> AsyncIterator[DiskStore]:
    """A store with KEYS on its disk."""
    store = await open_store(tmp_path / "a", NEVER, engine)
    await bootstrap(store)
    await append(store, 2, 9)
    apply(store, 2, dict.fromkeys(KEYS, b"value"))
    await store.flush()
    yield store
    await store.close()


async def change(store: DiskStore, job: Callable[[WriteTxn], object]) -> None:
    """Do something to the state that a disk might do."""
    await store._state.environment.write(job)
    store._state._view.renew()


async def problems(store: DiskStore) -> list[str]:
    return list(await store.check())


# --- the summaries say what the keys say

keys = st.binary(min_size=1, max_size=2).map(lambda raw: bytes(byte % 4 for byte in raw))
flushes = st.lists(st.dictionaries(keys, st.none() | st.just(b"v"), max_size=8), max_size=8)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flushes)
def test_after_every_flush_each_slot_is_as_its_summary_says(steps: list[dict[bytes, bytes | None]]) -> None:
    databases = {name: Records(many) for name, many in STATE_DATABASES.items()}
    txn, model = MemoryTxn(databases), set[bytes]()
    for index, step in enumerate(steps, 1):

        def put_all(table: Table, step: dict[bytes, bytes | None] = step) -> None:
            for key, value in step.items():
                if value is None:
                    table.delete(Database.KV, key)
                else:
                    table.put(Database.KV, key, value)

        write_segment(txn, written(Dict(), at(index), put_all), at(index), "f")
        model = (model | {key for key, value in step.items() if value}) - {key for key, value in step.items() if not value}
        assert slot_index.verify_slots(txn, "f", ALL, MANY) == SLOT_COUNT
        assert sum(slot_index.keys_in(slot_index.summary_of(txn, slot)) for slot in ALL) == len(model)
        assert {key for key, _ in txn.items(STORE)} >= {APPLIED, SUMMARIZED}
        again = MemoryTxn({**databases, STORE: Records(False)})
        assert slot_index.build(again, at(index)) == len(model)
        assert {key: value for key, value in again.items(STORE) if key != APPLIED} == {
            key: value for key, value in txn.items(STORE) if key != APPLIED
        }, "made from the keys they are the same, byte for byte"


async def test_a_verification_ends_at_a_slot_once_it_has_seen_enough_keys(store: DiskStore) -> None:
    seven, eight = len(BY_SLOT[7]), len(BY_SLOT[8])
    assert min(seven, eight) > 2
    assert await store.verify_slots([7, 8, 70], 1) == 1
    assert await store.verify_slots([7, 8, 70], seven) == 1
    assert await store.verify_slots([7, 8, 70], seven + 1) == 2
    assert await store.verify_slots([7, 8, 70], MANY) == 3
    assert await store.verify_slots([9, 10, 11, 7, 8], 1) == 4, "slots without keys cost nothing"
    assert await store.verify_slots([], MANY) == 0


async def test_the_keys_of_slots_are_counted_as_of_the_last_flush(store: DiskStore) -> None:
    assert await store.count_keys([7, 70, 9]) == len(BY_SLOT[7]) + len(BY_SLOT[70])
    apply(store, 3, {BY_SLOT[7][0]: None})
    assert await store.count_keys([7]) == len(BY_SLOT[7])
    await store.flush()
    assert await store.count_keys([7]) == len(BY_SLOT[7]) - 1


async def test_what_is_in_memory_needs_no_flush_to_be_verified(store: DiskStore) -> None:
    apply(store, 3, {BY_SLOT[7][0]: None, BY_SLOT[7][1]: b"w"})
    assert await store.verify_slots([7], MANY) == 1
    await store.flush()
    assert await store.verify_slots([7], MANY) == 1


async def test_a_snapshot_brings_the_summaries_along(tmp_path: Path, store: DiskStore, engine: Engine | None) -> None:
    other = await open_store(tmp_path / "b", NEVER, engine)
    await join(other)
    await install(other, await transfer(await store.build_snapshot(), other))
    assert await other.verify_slots(ALL, MANY) == SLOT_COUNT
    await append(other, 3, 4)
    apply(other, 3, {KEYS[0]: None})
    await other.flush()
    assert await other.verify_slots(ALL, MANY) == SLOT_COUNT
    await other.close()


# --- a flipped bit

KEY = BY_SLOT[7][1]


def flipped(key: bytes) -> bytes:
    return key[:-1] + bytes([key[-1] ^ 1])


def renamed(txn: WriteTxn) -> None:
    txn.remove_value("slots", slot_key(7), KEY)
    txn.add_value("slots", slot_key(7), flipped(KEY))


def moved(txn: WriteTxn) -> None:
    txn.remove_value("slots", slot_key(7), KEY)
    txn.add_value("slots", slot_key(9), KEY)


def swapped(txn: WriteTxn) -> None:
    """As many keys as before, each of which is there."""
    txn.remove_value("slots", slot_key(7), KEY)
    txn.add_value("slots", slot_key(7), BY_SLOT[8][0])


def exchanged(txn: WriteTxn) -> None:
    """Index and keys agree, in number too, on a key that nobody wrote."""
    other = next(key for number in range(1_000_000) if slot_of(key := b"other %d" % number) == 7)
    record = txn.get("kv", KEY) or b""
    txn.delete("kv", KEY)
    txn.put("kv", other, seal(seed_of("kv"), other, record[4:]))
    txn.remove_value("slots", slot_key(7), KEY)
    txn.add_value("slots", slot_key(7), other)


DAMAGE: dict[str, tuple[Callable[[WriteTxn], object], tuple[int, ...]]] = {
    "a key of the index": (renamed, (7,)),
    "the slot of a key": (moved, (7, 9)),
    "two slots": (swapped, (7,)),
    "a key in both": (exchanged, (7,)),
    "a key that the index lacks": (lambda txn: txn.remove_value("slots", slot_key(7), KEY), (7,)),
    "a slot that the index lacks": (lambda txn: txn.delete("slots", slot_key(7)), (7,)),
    "a key that the state lacks": (lambda txn: txn.delete("kv", KEY), (7,)),
}


@pytest.mark.parametrize("what", DAMAGE)
async def test_an_index_that_is_not_what_was_written_is_found_and_named(store: DiskStore, what: str) -> None:
    damage, slots = DAMAGE[what]
    await change(store, damage)
    for slot in slots:
        with pytest.raises(DamagedError, match=rf"state-2/data\.mdb: the index of slot {slot} is not what was written") as caught:
            await store.verify_slots([5, slot], MANY)
        assert b"key" not in str(caught.value).encode(), "users' keys do not appear in logs and alarms"
    assert await store.verify_slots([slot for slot in ALL if slot not in slots], MANY) == SLOT_COUNT - len(slots)
    found = await problems(store)
    assert {"database slots" in problem for problem in found} == {True}
    assert len(found) >= len(slots)


@pytest.mark.parametrize("slot", [0, SLOT_COUNT - 1])
async def test_a_check_that_stops_behind_every_slot_reaches_all(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, slot: int
) -> None:
    monkeypatch.setattr(checking, "STEP_RECORDS", 1)
    key = next(key for number in range(1_000_000) if slot_of(key := b"edge %d" % number) == slot)
    apply(store, 3, {key: b""})
    await store.flush()
    assert await problems(store) == []
    await change(store, lambda txn: txn.delete("slots", slot_key(slot)))
    (problem,) = await problems(store)
    assert "database slots is damaged: it names 0 keys, and they are not the 1 that were written" in problem


async def test_a_key_that_the_state_hides_is_not_said_to_be_absent(store: DiskStore) -> None:
    """A bit of the key itself flipped: a lookup does not find the record, and reads no check sum."""

    def hide(txn: WriteTxn) -> None:
        record = txn.get("kv", KEY) or b""
        txn.delete("kv", KEY)
        txn.put("kv", flipped(KEY), record)

    assert store.reader().get(Database.KV, flipped(KEY)) is None
    await change(store, hide)
    with pytest.raises(DamagedError, match="database kv is damaged: it is missing"):
        store.reader().get(Database.KV, KEY)
    with pytest.raises(DamagedError, match="check sum"):
        store.reader().get(Database.KV, flipped(KEY))
    assert store.reader().get(Database.KV, b"never there") is None
    apply(store, 3, {KEY: b"new"})  # what is in memory is read there
    assert store.reader().get(Database.KV, KEY) == b"new"


@pytest.mark.parametrize("key", [SUMMARIZED, summary_key(0)])
async def test_a_summary_with_a_flipped_bit_is_damage(store: DiskStore, key: bytes) -> None:
    await change(store, lambda txn: txn.put(STORE, key, flipped(txn.get(STORE, key) or b"")))
    with pytest.raises(DamagedError, match=r"state-2/data\.mdb: .*check sum"):
        await store.verify_slots([7], MANY)
    if key == summary_key(0):
        assert await store.verify_slots([70], MANY) == 1, "it says nothing of the other slots"
    (problem,) = await problems(store)
    assert "database store" in problem
    apply(store, 3, {KEY: None})
    with pytest.raises(StoreFailedError, match="check sum"):
        await store.flush()


async def test_a_summary_of_other_keys_is_damage(store: DiskStore) -> None:
    """It is sealed, and yet wrong: a version with a fault might write such a one."""

    def forge(txn: WriteTxn) -> None:
        slot_index.add(txn, slot_index.changes_of([KEY]), at(2))

    await change(store, forge)
    with pytest.raises(DamagedError, match="slot 7 "):
        await store.verify_slots([7], MANY)
    assert len(await problems(store)) == 1


async def test_a_flush_meets_an_index_that_lacks_what_it_deletes(store: DiskStore) -> None:
    await change(store, renamed)
    apply(store, 3, {KEY: None})
    with pytest.raises(StoreFailedError, match=r"state-2/data\.mdb.* it does not name key"):
        await store.flush()
    assert store.flushed == at(2)


async def test_a_flush_meets_an_index_that_has_what_it_puts(store: DiskStore) -> None:
    await change(store, lambda txn: txn.delete("kv", KEY))
    apply(store, 3, {KEY: b"again"})
    with pytest.raises(StoreFailedError, match=r"state-2/data\.mdb.* it names key"):
        await store.flush()


async def test_more_deletions_than_keys_are_damage(store: DiskStore) -> None:
    def forge(txn: WriteTxn) -> None:
        slot_index.add(txn, slot_index.changes_of([], BY_SLOT[7]), at(2))

    await change(store, forge)
    apply(store, 3, {KEY: None})
    with pytest.raises(StoreFailedError, match="slot 7 counts fewer keys"):
        await store.flush()


# --- states of versions without summaries


def forget(txn: WriteTxn) -> None:
    """Make it a state of the version before there were summaries."""
    for key in [key for key, _ in txn.items(STORE) if key != APPLIED]:
        txn.delete(STORE, key)


def write_as_before(txn: WriteTxn) -> None:
    """What a version without summaries does to a state that has some, after a downgrade."""
    txn.put("kv", b"new", seal(seed_of("kv"), b"new", b"v"))
    txn.add_value("slots", slot_key(slot_of(b"new")), b"new")
    txn.put(STORE, APPLIED, seal(seed_of(STORE), APPLIED, encode_entry_id(at(3))))


@pytest.mark.parametrize("older", [forget, write_as_before], ids=["never had any", "has old ones"])
async def test_a_start_makes_the_summaries_that_a_state_lacks(
    tmp_path: Path, store: DiskStore, engine: Engine | None, older: Callable[[WriteTxn], None]
) -> None:
    events: list[tuple[str, object]] = []
    count = len(KEYS) + (older is write_as_before)
    await change(store, older)
    assert await problems(store) == [], "missing summaries are no damage"
    with pytest.raises(DamagedError, match="not those of this state"):
        await store.verify_slots([7], MANY)
    await store.close()
    options = replace(NEVER, observe=lambda event, fields: events.append((event, fields.get("keys"))))
    store = await open_store(tmp_path / "a", options, engine)
    assert events == [("store.slots_summarized", count)]
    assert await store.verify_slots(ALL, MANY) == SLOT_COUNT
    apply(store, 4, {KEY: None, b"another": b"v"})
    await store.flush()
    await store.close()
    store = await open_store(tmp_path / "a", options, engine)
    assert len(events) == 1, "they are made once"
    assert await store.verify_slots(ALL, MANY) == SLOT_COUNT
    assert len(contents(store)) == count
    await store.close()


async def test_damage_before_the_summaries_were_made_is_found_by_them(
    tmp_path: Path, store: DiskStore, engine: Engine | None
) -> None:
    """They are made of the keys, not of the index."""
    await change(store, forget)
    await change(store, renamed)
    await store.close()
    store = await open_store(tmp_path / "a", NEVER, engine)
    with pytest.raises(DamagedError, match="slot 7 "):
        await store.verify_slots([7], MANY)
    await store.close()


async def test_a_flush_leaves_old_summaries_to_the_next_start(tmp_path: Path, store: DiskStore, engine: Engine | None) -> None:
    await change(store, forget)
    apply(store, 3, {KEY: None})
    await store.flush()
    with pytest.raises(DamagedError, match="not those of this state"):
        await store.verify_slots([7], MANY)
    await store.close()
    store = await open_store(tmp_path / "a", NEVER, engine)
    assert await store.verify_slots(ALL, MANY) == SLOT_COUNT
    await store.close()


async def test_an_empty_state_gets_its_summaries_too(tmp_path: Path, engine: Engine | None) -> None:
    store = await open_store(tmp_path / "e", NEVER, engine)
    await bootstrap(store)
    await change(store, forget)
    await store.close()
    store = await open_store(tmp_path / "e", NEVER, engine)
    assert await store.verify_slots(ALL, MANY) == SLOT_COUNT
    await store.close()
