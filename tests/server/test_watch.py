"""Watch streams of real replicas in one process: nothing lost, nothing twice, nothing halved, and the slow hold up nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import cast

import grpc
import pytest

from ravel_node.machine import envelope
from ravel_node.replica.errors import (
    OutOfTouchError,
    ReplicaBusyError,
    ReplicaStoppedError,
    RevisionCompactedError,
)
from ravel_node.replica.feed import Position
from ravel_node.replica.options import ReplicaOptions
from ravel_node.server import watch as watch_module
from ravel_node.server.host import Host
from ravel_node.server.kv import KVHandlers
from ravel_node.server.limits import InputError, Limits
from ravelpb.errors import Field, Reason
from ravelpb.v1 import kv_pb2, kv_pb2_grpc
from ravelpb.v1.kv_pb2 import WatchRequest, WatchResponse
from tests.replica.cluster import Node, cluster_of, until
from tests.replica.virtual import virtual
from tests.server.fakes import FakeHost, info_of, serving
from tests.server.watcher import Stream, handlers, watching

OPTIONS = ReplicaOptions(tick_s=0.01, heartbeat_ticks=2, election_ticks=10, log_retain_entries=50)


@virtual
async def test_a_watch_is_told_what_happened_and_then_what_happens(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        await node.put(b"a", b"1")
        await node.write(envelope.delete(b"a"), envelope.delete(b"a"), envelope.compare_and_swap(b"a", 0, b"2"))
        async with watching(handlers(node), from_revision=1) as stream:
            assert stream.revision == 0
            await stream.through(3)
            assert stream.told() == [(1, b"a", b"1"), (2, b"a", None), (3, b"a", b"2")]
            await node.write(envelope.get_and_delete(b"a"), envelope.compare_and_swap(b"a", 7, b"x"))
            await stream.through(4)
            assert stream.told()[3:] == [(4, b"a", None)]


@virtual
async def test_from_now_means_after_what_is_applied_and_the_first_message_says_where(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        await node.put(b"a", b"1")
        async with watching(handlers(node)) as stream:
            assert stream.revision == 1
            await node.put(b"a", b"2")
            await stream.next()
            assert stream.told() == [(2, b"a", b"2")]


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        ({"key": b"b"}, [b"b"]),
        ({"start": b"b"}, [b"b", b"b/1", b"b0", b"c"]),
        ({"start": b"b/", "end": b"b0"}, [b"b/1"]),
        ({"end": b"b"}, [b"a"]),
        ({}, [b"a", b"b", b"b/1", b"b0", b"c"]),
    ],
)
def test_only_keys_of_the_range_are_told(tmp_path: Path, request_: dict[str, bytes], wanted: list[bytes]) -> None:
    @virtual
    async def run() -> None:
        async with cluster_of(tmp_path, 1) as cluster:
            node = await cluster.leader()
            kv = handlers(node)
            async with watching(kv, **request_, progress_ms=100) as early:
                for key in (b"a", b"b", b"b/1", b"b0", b"c"):
                    await node.put(key, key)
                await early.through(5)
                assert [event.key for event in early.events] == wanted
            async with watching(kv, from_revision=1, progress_ms=100, **request_) as late:
                await late.through(5)
                assert [event.key for event in late.events] == wanted

    run()


@virtual
async def test_an_idle_watch_says_how_far_it_is_so_that_its_revision_moves_on(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        async with watching(handlers(node), key=b"quiet", progress_ms=200) as stream:
            for number in range(20):
                await node.put(b"loud", b"%d" % number)
            response = await stream.next()
            assert not response.events
            assert response.revision == 20
            began = asyncio.get_running_loop().time()
            await stream.next()
            assert 0.1 < asyncio.get_running_loop().time() - began < 0.5


@virtual
async def test_an_atomic_write_comes_in_one_message_also_where_messages_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "READ_BYTES_MAX", 100)
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        for number in range(5):
            operations = [(b"k%03d" % at, b"v" * number) for at in range(300)]
            await node.write(envelope.write([], [*operations, (b"missing", None)]), envelope.put(b"between", b""))
        async with watching(handlers(node), from_revision=1) as stream:
            while stream.revision < 10:
                response = await stream.next()
                assert {event.revision for event in response.events} == {response.revision}
            assert [event.revision for event in stream.events].count(3) == 300
            assert len(stream.events) == 5 * 301


@virtual
async def test_many_watchers_wake_only_for_what_is_theirs_and_an_event_is_encoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[bytes] = []
    read: list[object] = []
    encode_event, collect = watch_module._encode_event, watch_module.Watches._read

    def count(key: bytes, value: bytes | None, revision: int) -> bytes:
        encoded.append(key)
        return encode_event(key, value, revision)

    def count_reads(self: watch_module.Watches, cursor: watch_module._Cursor) -> watch_module._Collected:
        read.append(cursor.range)
        return collect(self, cursor)

    monkeypatch.setattr(watch_module, "_encode_event", count)
    monkeypatch.setattr(watch_module.Watches, "_read", count_reads)
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        kv = handlers(node)
        streams = [Stream(kv, WatchRequest(key=b"k%d" % (number % 10))) for number in range(100)]
        for stream in streams:
            await stream.next()
        tasks = [asyncio.ensure_future(stream.next()) for stream in streams]
        await asyncio.sleep(0.1)
        await node.put(b"k3", b"v")
        await asyncio.sleep(0.1)
        assert [task.done() for task in tasks] == [number % 10 == 3 for number in range(100)]
        assert encoded == [b"k3"]
        assert len(read) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_books(watches: watch_module.Watches) -> None:
    """What is counted is what is kept."""
    assert watches._cache_bytes == sum(entry.size for entry in watches._cache.values())
    assert watches._shared_bytes == sum(len(collected.events) for collected in watches._shared.values())
    assert watches._cache_bytes <= watch_module.CACHE_BYTES_MAX or len(watches._cache) == 1
    assert watches._shared_bytes <= watch_module.SHARED_BYTES_MAX


@virtual
async def test_the_cache_is_bounded_and_goes_on_serving_the_newest_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is filled and emptied several times over, also with entries that are read once more."""
    monkeypatch.setattr(watch_module, "CACHE_BYTES_MAX", 20_000)
    monkeypatch.setattr(watch_module, "READ_BYTES_MAX", 5_000)
    encoded: list[bytes] = []
    encode_event = watch_module._encode_event

    def count(key: bytes, value: bytes | None, revision: int) -> bytes:
        encoded.append(key)
        return encode_event(key, value, revision)

    monkeypatch.setattr(watch_module, "_encode_event", count)
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        kv = handlers(node)
        async with watching(kv) as one, watching(kv, start=b"a") as other:
            watches = kv._watches
            assert watches is not None
            for number in range(100):
                await node.put(b"a", b"%03d" % number + bytes(1_000))
                await one.through(number + 1)
                _check_books(watches)
                await other.through(number + 1)
                _check_books(watches)
            assert len(encoded) == 100, "each event is encoded once, by whoever comes first"
            async with watching(kv, from_revision=1) as late:
                await late.through(100)
            _check_books(watches)
            assert [event.revision for event in late.events] == list(range(1, 101))
            before = len(encoded)
            for number in range(100, 110):
                await node.put(b"a", b"%03d" % number + bytes(1_000))
            await one.through(110)
            await other.through(110)
            assert len(encoded) == before + 10, "the newest entries are in the cache again"
            assert len(watches._cache) > 10
            index, entry = next(iter(watches._cache.items()))
            watches._load(Position(index, entry.before))  # a run of entries that are there already
            _check_books(watches)


@virtual
async def test_messages_are_shared_after_any_number_of_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was kept for watchers that woke together is let go of with the next look, and as much fits in again."""
    monkeypatch.setattr(watch_module, "SHARED_BYTES_MAX", 3_000)
    read: list[object] = []
    collect = watch_module.Watches._read

    def count_reads(self: watch_module.Watches, cursor: watch_module._Cursor) -> watch_module._Collected:
        read.append(cursor.range)
        return collect(self, cursor)

    monkeypatch.setattr(watch_module.Watches, "_read", count_reads)
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        kv = handlers(node)
        streams = [Stream(kv, WatchRequest(key=b"k")) for _ in range(5)]
        for stream in streams:
            await stream.next()
        watches = kv._watches
        assert watches is not None
        for number in range(10):
            read.clear()
            tasks = [asyncio.ensure_future(stream.next()) for stream in streams]
            await asyncio.sleep(0.1)
            await node.put(b"k", b"%d" % number + bytes(1_000))
            await asyncio.gather(*tasks)
            assert len(read) == 1, f"five watchers read once, in round {number} too"
            assert len(watches._shared) <= 1
            _check_books(watches)
        for stream in streams:
            await stream.close()


@virtual
async def test_who_wakes_by_itself_misses_nothing_that_was_not_looked_at_yet(tmp_path: Path) -> None:
    """Its time is up after an entry was applied and before the next look, which has to rest."""
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        kv = handlers(node)
        async with watching(kv, key=b"k", progress_ms=200) as stream:
            watches = kv._watches
            assert watches is not None
            waiting = asyncio.ensure_future(stream.next())
            await asyncio.sleep(0.05)
            await node.put(b"other", b"1")  # a look that wakes nobody
            await asyncio.sleep(0.05)
            watches._rest_until = asyncio.get_running_loop().time() + 3_600
            await node.put(b"k", b"2")
            await waiting
            await stream.through(2)
            assert stream.told() == [(2, b"k", b"2")]


@virtual
async def test_when_the_last_watcher_goes_nothing_is_left_that_listens(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        kv = handlers(node)
        async with watching(kv) as stream:
            waiting = asyncio.ensure_future(stream.next())
            await asyncio.sleep(0.1)
            assert node.replica.on_applied is not None
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert node.replica.on_applied is None
        await node.put(b"a", b"1")


@virtual
async def test_a_slow_watcher_reads_the_log_and_ends_with_the_first_revision_once_that_is_gone(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1, options=OPTIONS) as cluster:
        node = await cluster.leader()
        kv = handlers(node)
        async with watching(kv) as slow, watching(kv) as slower, watching(kv) as quick:
            for number in range(30):
                await node.put(b"a", b"%d" % number)
            await slow.through(30)
            assert [event.revision for event in slow.events] == list(range(1, 31))
            for number in range(30, 400):
                await node.put(b"a", b"%d" % number)
                await quick.through(number + 1)
            await until("the log is compacted", lambda: node.store.first_index() > 200)
            assert [event.revision for event in quick.events] == list(range(1, 401))
            kv._watches._cache.clear()  # type: ignore[union-attr]  # it would still help for a while
            with pytest.raises(RevisionCompactedError) as raised:
                await slower.through(400)
            first = raised.value.first_revision
            assert 31 < first < 400
        async with watching(kv, from_revision=first) as again:
            await again.through(400)
            assert [event.revision for event in again.events] == list(range(first, 401))


@virtual
async def test_a_follower_serves_what_it_has_applied_and_sends_watchers_away_when_it_is_cut_off(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        follower = (await cluster.followers())[0]
        async with watching(handlers(follower), from_revision=1, progress_ms=100) as stream:
            await leader.put(b"a", b"1")
            await stream.through(1)
            cluster.isolate(follower)
            await leader.put(b"a", b"2")
            with pytest.raises(OutOfTouchError):
                await stream.through(2)
            assert stream.told() == [(1, b"a", b"1")]
        cluster.network.heal()
        await cluster.converged()
        async with watching(handlers(follower), from_revision=stream.revision + 1) as again:
            await again.through(2)
            assert again.told() == [(2, b"a", b"2")]


@virtual
async def test_a_watch_goes_on_over_a_snapshot_that_skipped_nothing_and_ends_over_one_that_did(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 3, options=OPTIONS) as cluster:
        leader = await cluster.leader()
        away = (await cluster.followers())[0]
        await leader.put(b"a", b"1")
        await cluster.converged()
        kv = handlers(away)
        async with watching(kv, from_revision=1, progress_ms=100_000) as stream:
            await stream.through(1)
            waiting = asyncio.ensure_future(stream.next())
            await asyncio.sleep(0.01)
            cluster.isolate(away)
            for _ in range(400):
                await leader.write(envelope.delete(b"missing"))
            await until("the log is compacted", lambda: leader.store.first_index() > 200)
            cluster.network.heal()
            await cluster.converged()
            assert away.store.first_index() > 200
            await leader.put(b"a", b"2")
            await waiting
            assert stream.told() == [(1, b"a", b"1"), (2, b"a", b"2")]
            waiting = asyncio.ensure_future(stream.next())
            await asyncio.sleep(0.01)
            cluster.isolate(away)
            for number in range(400):
                await leader.put(b"a", b"%d" % number)
            first = leader.store.first_index()
            await until("the log is compacted", lambda: leader.store.first_index() > first)
            await until("more of it is", lambda: leader.store.first_index() > away.store.last_index())
            cluster.network.heal()
            await cluster.converged()
            with pytest.raises(RevisionCompactedError):
                await waiting


@virtual
async def test_watchers_are_bounded_and_end_with_the_server(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        kv = handlers(node, watches_max=2)
        async with watching(kv) as first:
            async with watching(kv):
                with pytest.raises(ReplicaBusyError, match="--watches-max"):
                    await Stream(kv, WatchRequest()).next()
            async with watching(kv) as second:
                waiting = asyncio.gather(first.next(), second.next(), return_exceptions=True)
                await asyncio.sleep(0.01)
                kv.close()
                assert [type(error) for error in await waiting] == [ReplicaStoppedError] * 2


@virtual
async def test_a_replica_that_ends_tells_its_watchers(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, 1) as cluster:
        node = await cluster.leader()
        async with watching(handlers(node), progress_ms=600_000) as stream:
            waiting = asyncio.ensure_future(stream.next())
            await asyncio.sleep(0.01)
            await node.stop()
            with pytest.raises(ReplicaStoppedError):
                await waiting


@pytest.mark.parametrize(
    "request_",
    [
        {"key": b"k", "start": b"a"},
        {"key": b"k" * 481},
        {"start": b"k" * 481},
        {"start": b"b", "end": b"b"},
        {"progress_ms": 99},
        {"progress_ms": 600_001},
        {"key": b"k", "slots": [{"slots": [1]}]},
        {"slots": [{"slots": [4096]}]},
        {"slots": [{"slots": []}]},
        {"slots": [{"slots": [1, 2]}, {"slots": [2, 3]}]},
        {"slots": [{"slots": [1]}], "from_revision": 1},
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(request_: dict[str, object]) -> None:
    kv = KVHandlers(cast(Host, FakeHost()), Limits())
    with pytest.raises(InputError):
        await anext(aiter(kv.watch(WatchRequest(**request_))))  # type: ignore[arg-type]


def test_on_the_wire_it_is_a_stream_of_messages_and_an_error_with_the_first_revision(tmp_path: Path) -> None:
    async def run() -> None:
        async with cluster_of(tmp_path, 1, options=OPTIONS) as cluster:
            node = await cluster.leader()
            for number in range(400):
                await node.put(b"a", b"%d" % number)
            await until("the log is compacted", lambda: node.store.first_index() > 200, within_s=30.0)
            host = FakeHost()
            host.fake = node.replica  # type: ignore[assignment]
            async with serving(host) as channel:
                stub = kv_pb2_grpc.KVStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    async for _ in stub.Watch(kv_pb2.WatchRequest(from_revision=1)):
                        pass
                assert raised.value.code() is grpc.StatusCode.OUT_OF_RANGE
                info = info_of(raised.value)
                assert info.reason == Reason.COMPACTED
                first = int(info.metadata[Field.FIRST_REVISION])
                call = stub.Watch(kv_pb2.WatchRequest(from_revision=first))
                seen: list[int] = []
                while not seen or seen[-1] < 400:
                    response = cast(WatchResponse, await call.read())
                    seen += [event.revision for event in response.events]
                assert seen == list(range(first, 401))
                call.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_pace_everyone_is_told_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Watchers of random ranges that come, dawdle and come back, while small bounds make caches and messages run over."""
    monkeypatch.setattr(watch_module, "READ_BYTES_MAX", 500)
    monkeypatch.setattr(watch_module, "CACHE_BYTES_MAX", 2_000)
    monkeypatch.setattr(watch_module, "SHARED_BYTES_MAX", 300)
    draw = Random(seed)
    keys = [b"%c" % letter for letter in b"abcdef"]
    happened: list[tuple[int, bytes, bytes | None]] = []

    async def write(node: Node) -> None:
        pairs: set[bytes] = set()
        for number in range(150):
            chosen = draw.sample(keys, draw.randint(1, 4))
            operations = [(key, b"%d" % number if draw.random() < 0.6 else None) for key in chosen]
            (outcome,) = await node.write(envelope.write([], operations))
            changed = [(key, value) for key, value in operations if value is not None or key in pairs]
            happened.extend((outcome.revision, key, value) for key, value in changed)
            pairs = (pairs | {key for key, value in changed if value is not None}) - {k for k, v in changed if v is None}
            await asyncio.sleep(draw.choice([0, 0, 0.001, 0.02]))

    async def follow(kv: KVHandlers, start: bytes, end: bytes, done: asyncio.Event) -> None:
        told: list[tuple[int, bytes, bytes | None]] = []
        revision = 0
        while not (done.is_set() and revision >= happened[-1][0]):
            async with watching(kv, start=start, end=end, from_revision=revision + 1, progress_ms=100) as stream:
                for _ in range(draw.randint(1, 20)):
                    await stream.next()
                    await asyncio.sleep(draw.choice([0, 0, 0, 0.01, 0.3]))
                told += stream.told()
                revision = stream.revision
        assert told == [change for change in happened if start <= change[1] and (not end or change[1] < end)]

    @virtual
    async def run() -> None:
        async with cluster_of(tmp_path, 1, seed=seed) as cluster:
            node = await cluster.leader()
            kv = handlers(node)
            done = asyncio.Event()
            ranges = [tuple(sorted(draw.sample([b"", *keys], 2))) for _ in range(12)]
            followers = [asyncio.ensure_future(follow(kv, start, draw.choice([b"", end]), done)) for start, end in ranges]
            await write(node)
            done.set()
            await asyncio.gather(*followers)
            assert len(happened) > 150

    run()
