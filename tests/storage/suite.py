"""The conformance suite of the `Store` port: what every implementation must do, in words of the port alone.

A subclass says which engine a store gets. A harness opens stores by name; opening a name again closes the old store first, so it
is a restart.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ravel_node.machine.base import Database
from ravel_node.machine.high_water import HighWaterMark
from ravel_node.machine.members import read_cluster_name, read_members
from ravel_node.raft.errors import (
    CompactedError,
    InvariantError,
    SnapshotTemporarilyUnavailableError,
    UnavailableError,
)
from ravel_node.raft.storage import entry_size
from ravel_node.raft.types import NO_LIMIT, ConfState, HardState, Index, ReplicaId, Term
from ravel_node.storage.base import Boot, HalfAppliedError, Save, SnapshotFile, SnapshotRefusedError, StoreError, StoreFailedError
from ravel_node.storage.engine import Engine
from ravel_node.storage.store import DiskStore, StoreOptions, open_store
from ravelpb.slots import slot_of
from tests.storage.support import (
    BIRTH,
    CLUSTER,
    NEVER,
    append,
    apply,
    at,
    bootstrap,
    contents,
    entries,
    entry,
    get,
    hard_state,
    install,
    join,
    renamed,
    seat,
    transfer,
    until,
    write,
)


@dataclass
class Harness:
    """Opens stores in one directory. `make_engine` gives None for LMDB, or the engine that stands for one disk."""

    path: Path
    suite: StoreSuite
    stores: dict[str, DiskStore] = field(default_factory=dict)
    engines: dict[str, Engine | None] = field(default_factory=dict)

    async def open(self, name: str = "a", options: StoreOptions = NEVER) -> DiskStore:
        if name in self.stores:
            await self.stores[name].close()
        if name not in self.engines:
            self.engines[name] = self.suite.make_engine()
        self.stores[name] = await open_store(self.path / name, options, self.engines[name])
        return self.stores[name]

    async def restarted(self, store: DiskStore, name: str = "a") -> AsyncIterator[DiskStore]:
        """The store as it is, then the store after a restart: the same must hold for both."""
        yield store
        yield await self.open(name)

    async def close(self) -> None:
        for store in self.stores.values():
            await store.close()


class StoreSuite:
    def make_engine(self) -> Engine | None:
        raise NotImplementedError

    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[Harness]:
        harness = Harness(tmp_path, self)
        yield harness
        await harness.close()

    @pytest.fixture
    async def store(self, harness: Harness) -> DiskStore:
        store = await harness.open()
        await bootstrap(store)
        return store

    # --- birth and identity

    async def test_a_blank_store_has_an_id_and_nothing_else(self, harness: Harness) -> None:
        store = await harness.open()
        server_id = store.identity.server_id
        assert store.identity.blank
        assert len(server_id) == 32
        assert (store.first_index(), store.last_index(), store.term(Index(0))) == (1, 0, 0)
        assert store.initial_state() == (HardState(), ConfState())
        assert store.applied == store.flushed == at(0, 0)
        assert (await harness.open()).identity.server_id == server_id

    async def test_bootstrap_is_one_step(self, harness: Harness, store: DiskStore) -> None:
        async for opened in harness.restarted(store):
            assert opened.identity.cluster_id == CLUSTER
            assert opened.initial_state() == (hard_state(1, 1, vote=0), BIRTH.conf_state)
            assert (opened.first_index(), opened.last_index(), opened.term(Index(1))) == (2, 1, 1)
            assert opened.applied == opened.flushed == at(1)
            assert read_cluster_name(opened.reader().get) == "test"
            assert [record.name for record in read_members(opened.reader()).values()] == ["r1"]

    async def test_bootstrap_is_refused_where_there_is_a_cluster_or_a_log(self, harness: Harness, store: DiskStore) -> None:
        with pytest.raises(StoreError, match="already"):
            await bootstrap(store)
        other = await harness.open("b")
        await append(other, 1, 1)
        with pytest.raises(StoreError, match="has a log"):
            await bootstrap(other)

    async def test_starts_and_marks_of_peers_are_kept(self, harness: Harness) -> None:
        store = await harness.open()
        assert (store.boot, dict(store.peer_marks)) == (Boot(), {})
        await bootstrap(store)
        boot = Boot(3, "ab" * 8, 750_000)
        marks = {ReplicaId(2): HighWaterMark(4, "cd" * 8, Term(7), Index(90)), ReplicaId(3): HighWaterMark(term=Term(2))}
        await store.record_boot(boot)
        await store.record_peer_marks(marks)
        store = await harness.open()
        assert (store.boot, dict(store.peer_marks)) == (boot, marks)
        await store.record_peer_marks({})
        store = await harness.open()
        assert (store.boot, dict(store.peer_marks)) == (boot, {})

    async def test_an_identity_is_taken_once(self, harness: Harness) -> None:
        store = await harness.open()
        wanted = seat(store.identity.server_id, 2)
        for bad in (
            seat("0" * 32, 2),
            replace(wanted, cluster_id="short"),
            replace(wanted, replica_id=ReplicaId(0)),
            store.identity,
        ):
            with pytest.raises(StoreError):
                await store.set_identity(bad)
        await store.set_identity(wanted)
        await store.set_identity(wanted)
        store = await harness.open()
        assert store.identity == wanted
        with pytest.raises(StoreError, match="taken once"):
            await store.set_identity(renamed(wanted, "other"))
        assert store.identity == wanted

    async def test_a_removed_replica_stays_removed(self, harness: Harness, store: DiskStore) -> None:
        await store.mark_removed()
        await store.mark_removed()
        store = await harness.open()
        assert store.identity.removed
        assert store.identity.replica_id == 1

    # --- the log

    async def test_entries_are_read_back(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 40)
        async for opened in harness.restarted(store):
            assert list(opened.entries(Index(2), Index(41), NO_LIMIT)) == entries(2, 40)
            assert list(opened.entries(Index(7), Index(9), NO_LIMIT)) == entries(7, 8)
            assert [opened.term(Index(index)) for index in (1, 2, 40)] == [1, 1, 1]
            assert list(opened.entries(Index(41), Index(41), NO_LIMIT)) == []

    async def test_reads_beyond_the_log_are_refused(self, store: DiskStore) -> None:
        await append(store, 2, 4)
        with pytest.raises(CompactedError):
            store.entries(Index(1), Index(3), NO_LIMIT)
        with pytest.raises(CompactedError):
            store.term(Index(0))
        with pytest.raises(UnavailableError):
            store.entries(Index(4), Index(6), NO_LIMIT)
        with pytest.raises(UnavailableError):
            store.term(Index(5))

    @pytest.mark.parametrize("tail_bytes_max", [0, 500, 1 << 20])
    async def test_a_read_is_cut_at_its_size_wherever_the_entries_are(self, harness: Harness, tail_bytes_max: int) -> None:
        store = await harness.open(options=replace(NEVER, log_tail_bytes_max=tail_bytes_max))
        for index in range(1, 31):
            await store.save([Save([entry(index, data=b"x" * 10)])])
        size = entry_size(entry(1, data=b"x" * 10))
        for first in (1, 5, 12, 13, 14, 15, 16, 20, 28, 29):
            for count in (1, 2, 3, 16):
                wanted = list(range(first, min(first + count, 31)))
                for room in (0, 1, count * size, count * size + size - 1):
                    found = [each.index for each in store.entries(Index(first), Index(31), room)]
                    assert found == (wanted if room >= count * size else [first])
        assert [each.index for each in store.entries(Index(3), Index(31), NO_LIMIT)] == list(range(3, 31))
        assert [store.term(Index(index)) for index in range(31)] == [0] + [1] * 30

    async def test_a_new_suffix_replaces_the_old_one(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 10)
        await append(store, 6, 7, term=3)
        async for opened in harness.restarted(store):
            assert opened.last_index() == 7
            assert list(opened.entries(Index(2), Index(8), NO_LIMIT)) == entries(2, 5) + entries(6, 7, term=3)
            assert opened.term(Index(7)) == 3
            with pytest.raises(UnavailableError):
                opened.term(Index(8))

    async def test_a_suffix_may_begin_before_what_is_in_memory(self, harness: Harness) -> None:
        store = await harness.open(options=replace(NEVER, log_tail_bytes_max=100))
        await append(store, 1, 20)
        await append(store, 3, 4, term=2)
        assert list(store.entries(Index(1), Index(5), NO_LIMIT)) == entries(1, 2) + entries(3, 4, term=2)

    async def test_saves_of_one_call_take_effect_in_order(self, harness: Harness, store: DiskStore) -> None:
        await store.save(
            [
                Save(entries(2, 6), hard_state(2, 1)),
                Save(entries(4, 5, term=2)),
                Save(hard_state=hard_state(3, 2, vote=2)),
                Save(entries(6, 6, term=3)),
            ]
        )
        async for opened in harness.restarted(store):
            assert [opened.term(Index(index)) for index in range(2, 7)] == [1, 1, 2, 2, 3]
            assert opened.initial_state()[0] == hard_state(3, 2, vote=2)

    async def test_a_gap_in_the_log_is_never_written(self, store: DiskStore) -> None:
        await append(store, 2, 3)
        with pytest.raises(InvariantError):
            await append(store, 5, 6)
        assert store.last_index() == 3
        await append(store, 4, 4)

    async def test_commit_at_start_is_at_least_what_was_applied(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 9)
        await store.save([Save(hard_state=hard_state(1, 4))])
        for index in range(2, 8):
            apply(store, index, {})
        store = await harness.open()
        assert store.initial_state()[0] == hard_state(1, 7)

    # --- compaction

    async def test_compaction_stops_at_what_is_flushed(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 50)
        for index in range(2, 31):
            apply(store, index, {b"k": b"%d" % index})
        await store.compact(Index(40))
        assert store.first_index() == 2
        await store.flush()
        await store.compact(Index(40))
        async for opened in harness.restarted(store):
            assert opened.first_index() == 31
            assert opened.term(Index(30)) == 1
            assert list(opened.entries(Index(31), Index(51), NO_LIMIT)) == entries(31, 50)
            with pytest.raises(CompactedError):
                opened.entries(Index(30), Index(32), NO_LIMIT)

    async def test_compaction_goes_in_steps_and_may_be_repeated(self, harness: Harness) -> None:
        store = await harness.open(options=replace(NEVER, compact_records_max=7))
        await append(store, 1, 100)
        for index in range(1, 101):
            apply(store, index, {})
        await store.flush()
        await store.compact(Index(60))
        await store.compact(Index(60))
        await store.compact(Index(20))
        assert store.first_index() == 61
        await store.compact(Index(100))
        assert (store.first_index(), store.last_index()) == (101, 100)
        await append(store, 101, 102)
        assert await store.check() == []

    async def test_a_snapshot_in_transfer_keeps_the_log_after_it(self, harness: Harness) -> None:
        store = await harness.open(options=replace(NEVER, log_retain_bytes_max=1 << 30))
        await append(store, 1, 100)
        for index in range(1, 101):
            apply(store, index, {})
        await store.flush()
        store.hold(Index(40))
        store.hold(Index(40))
        store.hold(Index(70))
        await store.compact(Index(90))
        assert store.first_index() == 41
        store.release(Index(40))
        await store.compact(Index(90))
        assert store.first_index() == 41
        store.release(Index(40))
        await store.compact(Index(90))
        assert store.first_index() == 71

    async def test_a_log_that_is_too_large_is_compacted_all_the_same(self, harness: Harness) -> None:
        store = await harness.open(options=replace(NEVER, log_retain_bytes_max=1_000))
        await append(store, 1, 100)
        for index in range(1, 101):
            apply(store, index, {})
        await store.flush()
        store.hold(Index(40))
        await store.compact(Index(90))
        assert store.first_index() == 91

    # --- the applied state

    async def test_what_was_applied_is_read_at_once_and_after_each_flush(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 10)
        apply(store, 2, {b"a": b"1", b"b": b"2", b"c": b"3"})
        assert (get(store, b"a"), get(store, b"d")) == (b"1", None)
        await store.flush()
        apply(store, 3, {b"a": None, b"b": b"22", b"d": b"4"})
        expected = [(b"b", b"22"), (b"c", b"3"), (b"d", b"4")]
        assert contents(store) == expected
        assert store.applied == at(3)
        assert store.flushed == at(2)
        await store.flush()
        assert contents(store) == expected
        assert store.flushed == at(3)
        store = await harness.open()
        assert contents(store) == expected
        assert contents(store, b"c") == expected[1:]
        assert contents(store, b"b", b"d") == expected[:2]
        assert store.applied == store.flushed == at(3)

    async def test_a_transaction_reads_what_it_wrote(self, store: DiskStore) -> None:
        await append(store, 2, 3)
        txn = store.txn()
        txn.put(Database.SESSIONS, b"s", b"1")
        assert txn.get(Database.SESSIONS, b"s") == b"1"
        assert list(txn.scan(Database.SESSIONS, b"", None)) == [(b"s", b"1")]
        txn.delete(Database.SESSIONS, b"s")
        txn.delete(Database.SESSIONS, b"never there")
        assert txn.get(Database.SESSIONS, b"s") is None
        store.applied_to(at(2))
        await store.flush()
        assert store.reader().get(Database.SESSIONS, b"s") is None

    async def test_databases_are_apart_and_empty_values_are_values(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 2)
        for database in Database:
            if database is not Database.SLOTS:
                store.txn().put(database, b"key", b"%d" % database)
        store.txn().put(Database.KV, b"empty", b"")
        store.applied_to(at(2))
        store = await harness.open()
        reader = store.reader()
        assert [reader.get(database, b"key") for database in Database if database is not Database.SLOTS] == [
            b"%d" % database for database in Database if database is not Database.SLOTS
        ]
        assert reader.get(Database.KV, b"empty") == b""

    @pytest.mark.parametrize("key", [b"", b"k" * 512])
    async def test_a_key_that_no_database_takes_is_not_there_and_never_written(self, store: DiskStore, key: bytes) -> None:
        assert get(store, key) is None
        with pytest.raises(InvariantError, match="511"):
            store.txn().put(Database.KV, key, b"v")

    async def test_the_longest_key_and_a_large_value(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 2)
        apply(store, 2, {b"k" * 480: b"v" * (1 << 20), b"l" * 480: b""})
        store = await harness.open()
        assert get(store, b"k" * 480) == b"v" * (1 << 20)
        assert await store.check() == []

    async def test_entries_are_applied_once_and_in_order(self, store: DiskStore) -> None:
        await append(store, 2, 5)
        apply(store, 3, {})
        for index in (3, 2):
            with pytest.raises(InvariantError):
                store.applied_to(at(index))

    async def test_a_quiet_store_flushes_by_itself(self, harness: Harness) -> None:
        store = await harness.open(options=StoreOptions(flush_interval_s=0.02))
        await append(store, 1, 3)
        apply(store, 1, {b"a": b"1"})
        await until(lambda: store.flushed.index == 1)
        store.applied_to(at(2))  # an entry without effects is flushed too
        await until(lambda: store.flushed.index == 2)
        assert store.unflushed_segments == 0
        apply(store, 3, {b"b": b"1"})
        assert (store.unflushed_segments, store.unflushed_bytes > 0) == (1, True)
        await until(lambda: store.flushed.index == 3)

    async def test_full_segments_flush_in_order_and_too_many_are_congestion(self, harness: Harness) -> None:
        options = replace(NEVER, segment_bytes_max=1_000, unflushed_bytes_max=5_000)
        store = await harness.open(options=options)
        await append(store, 1, 200)
        for index in range(1, 101):
            apply(store, index, {b"k%d" % index: b"v" * 100, b"last": b"%d" % index})
        assert store.congested
        seen = [store.flushed.index]
        while store.congested:
            flushed = store.flushed.index
            await until(lambda flushed=flushed: store.flushed.index > flushed)  # type: ignore[misc]
            seen.append(store.flushed.index)
            assert get(store, b"last") == b"100"
            assert len(contents(store)) == 101
        assert seen == sorted(seen)
        await store.flush()
        assert store.flushed == at(100)
        assert (await harness.open(options=options)).applied == at(100)

    @pytest.mark.parametrize("flushed", [False, True])
    async def test_half_of_an_entry_never_reaches_the_disk(self, harness: Harness, store: DiskStore, flushed: bool) -> None:
        """A machine that raises in the middle of an entry: nobody may see what it wrote of it, now or after a restart."""
        await append(store, 2, 4)
        apply(store, 2, {b"a": b"2"})
        if flushed:
            await store.flush()
        apply(store, 3, {b"a": b"3"})
        store.txn().put(Database.KV, b"a", b"half of entry 4")
        with pytest.raises(HalfAppliedError, match="the entry after 3"):
            store.reader()
        for use in (store.flush, store.build_snapshot, lambda: append(store, 5, 5)):
            with pytest.raises(HalfAppliedError):
                await use()
        with pytest.raises(HalfAppliedError):
            store.hash_applied()
        with pytest.raises(HalfAppliedError):
            store.txn()
        store = await harness.open()
        assert store.applied == (at(2) if flushed else at(1))
        assert contents(store) == ([(b"a", b"2")] if flushed else [])
        assert list(store.entries(Index(2), Index(5), NO_LIMIT)) == entries(2, 4)
        for index in range(store.applied.index + 1, 5):
            apply(store, index, {b"a": b"%d" % index})
        await store.flush()
        assert contents(store) == [(b"a", b"4")]
        assert await store.check() == []

    async def test_the_timer_fails_a_store_with_half_of_an_entry(self, harness: Harness) -> None:
        events: list[str] = []
        options = StoreOptions(flush_interval_s=0.02, observe=lambda event, fields: events.append(event))
        store = await harness.open(options=options)
        await append(store, 1, 2)
        apply(store, 1, {b"a": b"1"})
        store.txn().put(Database.KV, b"a", b"half of entry 2")
        await until(lambda: "store.failed" in events)
        with pytest.raises(HalfAppliedError):
            store.txn()
        store = await harness.open()
        assert (store.applied, contents(store)) == (at(0, 0), [])

    async def test_full_segments_before_half_of_an_entry_are_flushed(self, harness: Harness) -> None:
        store = await harness.open(options=replace(NEVER, segment_bytes_max=1))
        await append(store, 1, 3)
        apply(store, 1, {b"a": b"1"})
        apply(store, 2, {b"a": b"2"})
        store.txn().put(Database.KV, b"a", b"half of entry 3")
        await until(lambda: store.flushed == at(2))
        store = await harness.open()
        assert (store.applied, contents(store)) == (at(2), [(b"a", b"2")])

    async def test_a_scan_does_not_outlive_its_point_in_time(self, store: DiskStore) -> None:
        await append(store, 2, 3)
        apply(store, 2, {b"a": b"1", b"b": b"2"})
        scan = store.reader().scan(Database.KV, b"", None)
        assert next(scan) == (b"a", b"1")
        await store.flush()
        with pytest.raises(InvariantError):
            next(scan)

    async def test_deletes_give_room_back(self, store: DiskStore) -> None:
        await append(store, 2, 3)
        empty = store.db_used_bytes
        apply(store, 2, {b"key %05d" % number: b"v" * 1_000 for number in range(2_000)})
        await store.flush()
        full = store.db_used_bytes
        assert full - empty > 2_000_000
        apply(store, 3, {b"key %05d" % number: None for number in range(2_000)})
        await store.flush()
        assert store.db_used_bytes < empty + 100_000
        assert store.stats()[1].used == store.db_used_bytes
        assert store.log_used_bytes == store.stats()[0].used > 0

    async def test_the_keys_of_a_slot_are_read_wherever_they_are(self, harness: Harness, store: DiskStore) -> None:
        """Some are flushed, some are not, some are deleted, on the disk or not yet."""
        found = [key for number in range(60_000) if slot_of(key := b"%d" % number) in (7, 8)]
        await write(store, [(key, b"v") for key in found[:16]])
        await store.flush()
        await write(store, [*((key, b"v") for key in found[12:]), *((key, None) for key in found[::3]), (b"other", b"v")])
        left = {key for at, key in enumerate(found) if at % 3}
        for flushed in (False, True):
            if flushed:
                await store.flush()
            for slot in (7, 8):
                keys = sorted(key for key in left if slot_of(key) == slot)
                assert len(keys) > 3
                assert list(store.reader().slot_keys(slot)) == keys
                assert list(store.reader().slot_keys(slot, keys[1])) == keys[2:]
                assert list(store.reader().slot_keys(slot, keys[-1])) == []
            assert list(store.reader().slot_keys(9)) == []

    async def test_slots_follow_the_keys(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 10)
        apply(store, 2, {b"key %d" % number: b"v" for number in range(300)})
        await store.flush()
        apply(store, 3, {b"key %d" % number: None for number in range(0, 300, 2)})
        apply(store, 4, {b"key %d" % number: b"w" for number in range(0, 300, 3)})
        await store.flush()
        apply(store, 5, {b"key 0": None, b"key 1": b"x", b"never": None})
        apply(store, 6, {b"key 0": b"again"})
        store = await harness.open()
        assert await store.check() == []
        kv, slots = (next(each for each in store.stats()[1].databases if each.name == name) for name in ("kv", "slots"))
        assert kv.entries == slots.entries == len(contents(store)) > 0

    # --- snapshots

    async def test_a_snapshot_is_made_in_the_background(self, store: DiskStore) -> None:
        await write(store, [(b"a", b"1"), (b"b", b"2")])
        with pytest.raises(SnapshotTemporarilyUnavailableError):
            store.snapshot()
        await until(lambda: len(store.snapshots()) > 0)
        snapshot = store.snapshot()
        assert (snapshot.id, snapshot.conf_state) == (at(3), BIRTH.conf_state)
        file = store.open_snapshot(Index(3))
        assert file.header.keys == 2
        assert (file.header.cluster_id, file.header.cluster_name, file.header.taken_by) == (CLUSTER, "test", "r1")
        assert file.path.stat().st_size == file.header.size_bytes
        with pytest.raises(SnapshotTemporarilyUnavailableError):
            store.open_snapshot(Index(2))

    async def test_a_snapshot_that_the_log_no_longer_reaches_is_not_offered(self, store: DiskStore) -> None:
        await write(store, [(b"a", b"1"), (b"b", b"2")])
        await store.build_snapshot()
        await write(store, [(b"c", b"1"), (b"d", b"2")])
        await store.flush()
        await store.compact(Index(3))
        assert store.snapshot().index == 3
        await store.compact(Index(4))
        with pytest.raises(SnapshotTemporarilyUnavailableError):
            store.snapshot()
        await until(lambda: store.snapshots()[0].header.index == 5)
        assert store.snapshot().index == 5

    async def test_an_unchanged_state_is_not_copied_twice(self, store: DiskStore) -> None:
        await write(store, [(b"a", b"1")])
        assert await store.build_snapshot() is await store.build_snapshot()

    async def test_the_newest_snapshots_are_kept_and_those_in_transfer(self, harness: Harness) -> None:
        options = replace(NEVER, snapshots_kept=2)
        store = await harness.open(options=options)
        await bootstrap(store)
        for number in range(5):
            await write(store, [(b"a", b"%d" % number)])
            await store.build_snapshot()
            if number == 0:
                store.hold(Index(2))
        assert [file.header.index for file in store.snapshots()] == [6, 5, 2]
        store.release(Index(2))
        await write(store, [(b"a", b"z")])
        await store.build_snapshot()
        assert [file.header.index for file in store.snapshots()] == [7, 6]
        assert len(list((harness.path / "a" / "snapshots").iterdir())) == 4
        store = await harness.open(options=options)
        await until(lambda: len(store.snapshots()) == 2)
        assert [file.header.index for file in store.snapshots()] == [7, 6]

    async def built(self, store: DiskStore, count: int = 3) -> SnapshotFile:
        await write(store, [(b"key %04d" % number, b"v" * 500) for number in range(count)])
        return await store.build_snapshot()

    async def test_a_received_snapshot_becomes_the_state(self, harness: Harness, store: DiskStore) -> None:
        file = await self.built(store, 60)
        other = await harness.open("b")
        await join(other)
        await append(other, 1, 5)
        apply(other, 1, {b"old": b"1"})
        snapshot = await transfer(file, other)
        assert other.last_index() == 5
        await install(other, snapshot, [Save(entries(62, 63, term=2))])
        async for opened in harness.restarted(other, "b"):
            assert contents(opened) == contents(store)
            assert opened.applied == opened.flushed == at(61)
            assert (opened.first_index(), opened.last_index(), opened.term(Index(63))) == (62, 63, 2)
            assert opened.initial_state() == (hard_state(1, 61, vote=0), BIRTH.conf_state)
            assert opened.identity.replica_id == 2
            assert await opened.check() == []
        folders = sorted(path.name for path in (harness.path / "b").iterdir() if path.name.startswith("state"))
        assert len(folders) == 1
        assert list((harness.path / "b" / "incoming").iterdir()) == []

    async def test_what_is_applied_after_an_install_goes_on_from_it(self, harness: Harness, store: DiskStore) -> None:
        file = await self.built(store)
        other = await harness.open("b")
        await join(other)
        await install(other, await transfer(file, other))
        await append(other, 5, 5)
        apply(other, 5, {b"key 0001": None, b"new": b"1"})
        other = await harness.open("b")
        assert [key for key, _ in contents(other)] == [b"key 0000", b"key 0002", b"new"]

    async def test_a_broken_transfer_goes_on_where_it_stopped(self, harness: Harness, store: DiskStore) -> None:
        file = await self.built(store, 40)
        data, header = file.path.read_bytes(), file.header
        sha256 = bytes.fromhex(header.sha256)
        other = await harness.open("b")
        await join(other)
        staged = await other.receive(file.header_bytes, header.size_bytes, sha256)
        await staged.write(0, data[:5_000])
        with pytest.raises(SnapshotRefusedError, match="5000 are here"):
            await staged.write(0, data[:5_000])
        with pytest.raises(SnapshotRefusedError):
            await staged.write(5_000, data[5_000:] + b"more")
        other = await harness.open("b")
        staged = await other.receive(file.header_bytes, header.size_bytes, sha256)
        assert staged.received == 5_000
        assert (await transfer(file, other)).id == at(41)
        await install(other, (await transfer(file, other)))
        assert contents(other) == contents(store)

    async def test_a_snapshot_that_is_not_whole_is_refused(self, harness: Harness, store: DiskStore) -> None:
        file = await self.built(store, 40)
        data, header = bytearray(file.path.read_bytes()), file.header
        sha256 = bytes.fromhex(header.sha256)
        other = await harness.open("b")
        await join(other)
        data[len(data) // 2] ^= 1
        staged = await other.receive(file.header_bytes, header.size_bytes, sha256)
        await staged.write(0, bytes(data))
        with pytest.raises(SnapshotRefusedError, match="sha256"):
            await staged.finish()
        with pytest.raises(SnapshotRefusedError, match="given up"):
            await staged.write(0, b"")
        staged = await other.receive(file.header_bytes, header.size_bytes, sha256)
        assert staged.received == 0
        await staged.write(0, bytes(data[:100]))
        with pytest.raises(SnapshotRefusedError, match="100 of"):
            await staged.finish()
        assert list((harness.path / "b" / "incoming").iterdir()) == []

    async def test_a_snapshot_that_is_not_ours_is_refused(self, harness: Harness, store: DiskStore) -> None:
        file = await self.built(store)
        header, sha256 = file.header, bytes.fromhex(file.header.sha256)
        other = await harness.open("b")
        await join(other)
        values = json.loads(file.header_bytes)
        for change, why in (
            ({"cluster_id": "d" * 32}, "cluster"),
            ({"format": 3}, "format 3"),
            ({"index": 0}, "has applied"),
            ({"size_bytes": 1}, "announced"),
            ({"voters": ["1"]}, "fields"),
            ({"more": 1}, "fields"),
            ({"auto_leave": 0}, "fields"),
        ):
            with pytest.raises(SnapshotRefusedError, match=why):
                await other.receive(json.dumps({**values, **change}).encode(), header.size_bytes, sha256)
        for raw in (b"", b"[]", b"\xff", b"{}"):
            with pytest.raises(SnapshotRefusedError, match="cannot be read"):
                await other.receive(raw, header.size_bytes, sha256)
        with pytest.raises(SnapshotRefusedError, match="has applied"):
            await store.receive(file.header_bytes, header.size_bytes, sha256)

    async def test_a_header_that_lies_about_its_content_is_refused(self, harness: Harness, store: DiskStore) -> None:
        file = await self.built(store)
        for change in ({"index": 5}, {"term": 2}, {"voters": [1, 2]}):
            other = await harness.open("b" + "".join(change))
            await join(other)
            lying = json.dumps({**json.loads(file.header_bytes), **change}).encode()
            staged = await other.receive(lying, file.header.size_bytes, bytes.fromhex(file.header.sha256))
            await staged.write(0, file.path.read_bytes())
            with pytest.raises(SnapshotRefusedError, match="it holds the state of"):
                await staged.finish()

    async def test_a_snapshot_that_never_came_stops_the_store(self, store: DiskStore) -> None:
        with pytest.raises(StoreFailedError, match="never received"):
            await install(store, replace(BIRTH, index=Index(9)))
        with pytest.raises(StoreFailedError):
            await append(store, 2, 2)

    async def test_a_finished_transfer_is_not_given_up(self, harness: Harness, store: DiskStore) -> None:
        """A save may be about to name it."""
        file = await self.built(store)
        other = await harness.open("b")
        await join(other)
        snapshot = await transfer(file, other)
        staged = await other.receive(file.header_bytes, file.header.size_bytes, bytes.fromhex(file.header.sha256))
        await staged.discard()
        await install(other, snapshot)
        assert contents(other) == contents(store)

    async def test_two_transfers_of_one_file_do_not_mix(self, harness: Harness, store: DiskStore) -> None:
        file = await self.built(store)
        other = await harness.open("b")
        await join(other)
        data, sha256 = file.path.read_bytes(), bytes.fromhex(file.header.sha256)
        first = await other.receive(file.header_bytes, len(data), sha256)
        second = await other.receive(file.header_bytes, len(data), sha256)
        results = await asyncio.gather(first.write(0, data), second.write(0, data), return_exceptions=True)
        assert [type(result) for result in results].count(SnapshotRefusedError) == 1
        assert (await second.finish()).id == at(file.header.index)

    async def test_only_so_many_unfinished_transfers_are_kept(self, harness: Harness, store: DiskStore) -> None:
        other = await harness.open("b")
        await join(other)
        for number in range(4):
            await write(store, [(b"key", b"%d" % number)])
            file = await store.build_snapshot()
            staged = await other.receive(file.header_bytes, file.header.size_bytes, bytes.fromhex(file.header.sha256))
            await staged.write(0, file.path.read_bytes()[:1_000])
        assert len(list((harness.path / "b" / "incoming").iterdir())) == 4

    async def test_a_snapshot_of_before_the_restart_serves_after_it(self, harness: Harness, store: DiskStore) -> None:
        file = await self.built(store)
        store = await harness.open()
        assert (await store.build_snapshot()).header_bytes == file.header_bytes
        assert store.snapshot().id == at(file.header.index)

    async def test_closing_in_the_middle_of_a_build_leaves_no_part(self, harness: Harness, store: DiskStore) -> None:
        await append(store, 2, 2)
        apply(store, 2, {b"%d" % number: b"v" * (1 << 20) for number in range(20)})
        await store.flush()
        build = asyncio.create_task(store.build_snapshot())
        await asyncio.sleep(0.01)
        await store.close()
        await asyncio.wait([build])
        assert isinstance(build.exception(), StoreError | None)
        store = await harness.open()
        await until(lambda: store._verifier is not None and store._verifier.done())
        names = {path.name for path in (harness.path / "a" / "snapshots").iterdir()}
        assert names == {name for file in store.snapshots() for name in (file.path.name, f"{file.name}.json")}

    # --- the end

    async def test_closing_flushes_and_may_be_repeated(self, harness: Harness, store: DiskStore) -> None:
        await write(store, [(b"a", b"1")])
        await store.close()
        await store.close()
        with pytest.raises(StoreError):
            store.reader()
        with pytest.raises(StoreError):
            await append(store, 3, 3)
        store = await harness.open()
        assert store.flushed == at(2)
        assert get(store, b"a") == b"1"
