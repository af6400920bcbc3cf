"""A watch against a fake cluster: whatever happens to its servers, it tells each change once and in order, or says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ravelctl.client import (
    ClosedError,
    CompactedError,
    Delete,
    InvalidArgumentError,
    NoLeaderError,
    Put,
    RavelClient,
    RetryPolicy,
    UnreachableError,
    Watch,
    WatchEvent,
    WrongServerError,
)
from ravelctl.client.session import message_stream
from ravelpb.errors import Reason
from ravelpb.v1 import cluster_pb2
from tests.ravelctl.client.fake_server import FakeCluster, fake_cluster, make_status

QUICK = RetryPolicy(backoff_min_s=0.005, backoff_max_s=0.02, suspicion_s=0.05)


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with fake_cluster(3) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: FakeCluster) -> AsyncIterator[RavelClient]:
    async with RavelClient([replica.address for replica in cluster.replicas], timeout_s=10, retry=QUICK) as client:
        yield client


async def take(watch: Watch, count: int) -> list[WatchEvent]:
    async with asyncio.timeout(30):
        return [await anext(watch) for _ in range(count)]


async def test_it_tells_what_was_and_what_comes(client: RavelClient) -> None:
    await client.put(b"a", b"1")
    await client.delete(b"a")
    async with client.watch(from_revision=1) as watch:
        assert await take(watch, 2) == [WatchEvent(b"a", b"1", 1, False), WatchEvent(b"a", None, 2, False)]
        waiting = asyncio.ensure_future(anext(watch))
        await client.put(b"a", b"")
        assert await waiting == WatchEvent(b"a", b"", 3, False)


async def test_without_a_revision_it_begins_now(client: RavelClient) -> None:
    await client.put(b"a", b"1")
    async with client.watch() as watch:
        assert watch.revision == await watch.started() == 1
        await client.put(b"a", b"2")
        assert [event.revision for event in await take(watch, 1)] == [2]


async def test_key_prefix_and_range_choose_what_is_told(client: RavelClient) -> None:
    for key in (b"a", b"b", b"b/1", b"b/2", b"c"):
        await client.put(key, key)
    wanted = {"key": (b"b", [b"b"]), "prefix": (b"b", [b"b", b"b/1", b"b/2"]), "start": (b"b/2", [b"b/2", b"c"])}
    for name, (value, keys) in wanted.items():
        async with client.watch(from_revision=1, **{name: value}) as watch:  # type: ignore[arg-type]
            assert [event.key for event in await take(watch, len(keys))] == keys


async def test_a_write_s_changes_come_together_and_say_so(client: RavelClient) -> None:
    await client.write([Put(b"a", b"1"), Put(b"b", b"2")])
    await client.write([Delete(b"a"), Delete(b"b"), Put(b"c", b"3")])
    async with client.watch(from_revision=1) as watch:
        assert [(e.key, e.revision, e.more) for e in await take(watch, 5)] == [
            (b"a", 1, True),
            (b"b", 1, False),
            (b"a", 2, True),
            (b"b", 2, True),
            (b"c", 2, False),
        ]


async def test_the_revision_to_resume_from_covers_what_was_taken_and_what_did_not_matter(client: RavelClient) -> None:
    await client.write([Put(b"a/1", b""), Put(b"a/2", b"")])
    await client.put(b"other", b"")
    await client.put(b"a/3", b"")
    await client.put(b"other", b"")
    async with client.watch(prefix=b"a/", from_revision=1) as watch:
        assert watch.revision == 0
        await anext(watch)
        await anext(watch)
        assert watch.revision == 0  # nobody asked for more yet: the second one may not have been looked at
        await anext(watch)
        assert watch.revision >= 1
        waiting = asyncio.ensure_future(anext(watch))
        async with asyncio.timeout(10):
            while watch.revision < 4:
                await asyncio.sleep(0.01)
        waiting.cancel()


async def test_broken_streams_lose_nothing_and_repeat_nothing(cluster: FakeCluster, client: RavelClient) -> None:
    for replica in cluster.replicas:
        replica.watches_break_after.extend([0, 1, 3, 0, 2, 7])
    async with client.watch(from_revision=1) as watch:
        for number in range(60):
            await client.put(b"k%d" % (number % 5), b"%d" % number)
        events = await take(watch, 60)
    assert [(event.revision, event.value) for event in events] == [(number + 1, b"%d" % number) for number in range(60)]


async def test_it_goes_on_at_another_replica_also_one_that_it_was_not_told_of(cluster: FakeCluster) -> None:
    first, second, _ = cluster.replicas
    member = cluster_pb2.Member(replica_id=2)
    member.server.addresses.listen = second.address
    first.answers["Status"] = lambda request: cluster_pb2.StatusResponse(members=[member])
    cluster.leader = second
    async with (
        RavelClient([first.address], timeout_s=10, retry=QUICK) as client,
        RavelClient([second.address], timeout_s=10) as writer,
        client.watch() as watch,
    ):
        await writer.put(b"a", b"1")
        await take(watch, 1)
        await first.stop()
        await writer.put(b"a", b"2")
        assert [event.revision for event in await take(watch, 1)] == [2]
        assert second.calls["Watch"] == 1


async def test_a_server_that_falls_silent_is_left(
    cluster: FakeCluster, client: RavelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_stream, "SILENCE_S", 0.2)
    for replica in cluster.replicas[:2]:
        replica.watches_fall_silent = True
    async with client.watch(from_revision=1) as watch:
        await client.put(b"a", b"1")
        assert [event.revision for event in await take(watch, 1)] == [1]


async def test_one_that_reaches_far_enough_back_is_enough(cluster: FakeCluster, client: RavelClient) -> None:
    for number in range(20):
        await client.put(b"a", b"%d" % number)
    cluster.replicas[0].first_revision = 15
    cluster.replicas[1].first_revision = 10
    async with client.watch(from_revision=5) as watch:
        assert [event.revision for event in await take(watch, 16)] == list(range(5, 21))
    cluster.replicas[2].first_revision = 12
    with pytest.raises(CompactedError) as raised:
        await client.watch(from_revision=5).started()
    assert raised.value.first_revision == 10
    assert raised.value.reason is Reason.COMPACTED


async def test_a_watch_that_has_begun_waits_out_an_outage_unless_it_was_told_how_long(
    cluster: FakeCluster, client: RavelClient
) -> None:
    lost = make_status(Reason.NO_LEADER, "no leader was heard of")
    async with client.watch() as patient, client.watch(outage_max_s=0.1) as hasty:
        waiting = asyncio.ensure_future(take(patient, 1))
        for replica in cluster.replicas:
            replica.refusal = lost
        with pytest.raises(NoLeaderError):
            await anext(hasty)
        assert not waiting.done()
        for replica in cluster.replicas:
            replica.refusal = None
        await client.put(b"a", b"1")
        assert [event.revision for event in await waiting] == [1]


async def test_a_watch_that_cannot_begin_says_why(cluster: FakeCluster) -> None:
    for replica in cluster.replicas:
        await replica.stop()
    async with RavelClient([replica.address for replica in cluster.replicas], timeout_s=0.3, retry=QUICK) as client:
        with pytest.raises(UnreachableError):
            await client.watch().started()


async def test_another_cluster_behind_the_same_address_is_noticed(cluster: FakeCluster, client: RavelClient) -> None:
    async with client.watch() as watch:
        for replica in cluster.replicas:
            replica.cluster_id = "d" * 32
            replica.refusal = make_status(Reason.SHUTTING_DOWN, "bye")
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.1)
        for replica in cluster.replicas:
            replica.refusal = None
        with pytest.raises(WrongServerError):
            await waiting


async def test_closing_ends_who_waits(client: RavelClient) -> None:
    watch = client.watch()
    await watch.started()
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.05)
    watch.close()
    with pytest.raises(ClosedError):
        await waiting


async def test_closing_the_client_ends_its_watches(cluster: FakeCluster) -> None:
    client = RavelClient([cluster.replicas[0].address])
    watch = client.watch()
    await watch.started()
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.05)
    await client.close()
    with pytest.raises(ClosedError):
        await waiting


async def test_cancelling_ends_only_the_wait(client: RavelClient) -> None:
    async with client.watch() as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await client.put(b"a", b"1")
        assert [event.revision for event in await take(watch, 1)] == [1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": b"a", "prefix": b"a"},
        {"key": b"a", "end": b"b"},
        {"prefix": b"a", "start": b"b"},
        {"key": b""},
        {"from_revision": 0},
    ],
)
async def test_what_makes_no_sense_is_said_at_once(client: RavelClient, arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        client.watch(**arguments)  # type: ignore[arg-type]
