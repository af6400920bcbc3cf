"""The streams of Cluster that go on, over a real server: frames, events, positions, bounds, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from ravel_node.replica.events import EVENTS_KEPT, EventKind
from ravel_node.server import watching
from ravelpb.v1 import cluster_pb2 as pb
from ravelpb.v1.cluster_pb2_grpc import ClusterStub
from tests.server.fakes import FakeHost, as_host, info_of, serving

LONG_MS = 60_000


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def cluster(host: FakeHost) -> AsyncIterator[Any]:
    async with serving(host) as channel:
        yield ClusterStub(channel)


def happen(host: FakeHost, *names: str, kind: EventKind = EventKind.ELECTION) -> None:
    for name in names:
        host.events.record(kind, name, f"it was {name}", {"why": name}, term=7, index=3)


def names(frame: Any) -> list[str]:
    return [event.name for event in frame.events]


async def read(stream: Any) -> Any:
    async with asyncio.timeout(20):
        message = await stream.read()
    assert message is not grpc.aio.EOF
    return message


async def read_all(stream: Any) -> Sequence[Any]:
    async with asyncio.timeout(20):
        return [page async for page in stream]


async def test_a_full_frame_first_and_one_each_interval(cluster: Any, host: FakeHost) -> None:
    happen(host, "old")
    stream = cluster.WatchStatus(pb.WatchStatusRequest(interval_ms=100))
    for _ in range(3):
        frame = await read(stream)
        assert (frame.status.cluster_name, frame.status.events_sequence) == ("test", 1)
        assert names(frame) == []
    stream.cancel()


async def test_an_event_comes_at_once_in_a_frame_of_its_own(cluster: Any, host: FakeHost) -> None:
    stream = cluster.WatchStatus(pb.WatchStatusRequest(interval_ms=LONG_MS))
    assert (await read(stream)).HasField("status")
    happen(host, "won")
    frame = await read(stream)
    assert not frame.HasField("status")
    (event,) = frame.events
    assert (event.boot_id, event.sequence, event.kind, event.name) == (host.boot_id, 1, pb.ELECTION, "won")
    assert (event.text, dict(event.fields), event.term, event.index) == ("it was won", {"why": "won"}, 7, 3)
    assert event.wall_ms == 1_700_000_000_000
    stream.cancel()


@pytest.mark.parametrize(
    ("boot_id", "sequence", "expected"),
    [
        ("b" * 16, 1, ["two", "three"]),
        ("b" * 16, 3, []),
        ("b" * 16, 0, ["one", "two", "three"]),
        ("other", 1, ["one", "two", "three"]),  # another directory's: what it has seen is not known
        ("b" * 16, 9, ["one", "two", "three"]),
    ],
)
async def test_exactly_what_came_after_the_position(
    cluster: Any, host: FakeHost, boot_id: str, sequence: int, expected: list[str]
) -> None:
    happen(host, "one", "two", "three")
    after = pb.EventPosition(boot_id=boot_id, sequence=sequence)
    stream = cluster.WatchStatus(pb.WatchStatusRequest(interval_ms=LONG_MS, after=after))
    assert names(await read(stream)) == expected
    happen(host, "four")
    assert names(await read(stream)) == ["four"]
    stream.cancel()


async def test_many_events_come_in_several_frames(cluster: Any, host: FakeHost) -> None:
    count = 2 * watching.FRAME_EVENTS_MAX + 1
    happen(host, *(f"e{number}" for number in range(count)))
    after = pb.EventPosition(boot_id=host.boot_id, sequence=0)
    stream = cluster.WatchStatus(pb.WatchStatusRequest(interval_ms=LONG_MS, after=after))
    found: list[str] = []
    while len(found) < count:
        frame = await read(stream)
        assert len(frame.events) <= watching.FRAME_EVENTS_MAX
        found += names(frame)
    assert found == [f"e{number}" for number in range(count)]
    stream.cancel()


async def test_a_slow_watcher_loses_the_oldest_and_no_memory(host: FakeHost) -> None:
    stream = watching.Watching(as_host(host)).statuses(pb.WatchStatusRequest(interval_ms=LONG_MS))
    await anext(stream)
    happen(host, *(f"e{number}" for number in range(3 * EVENTS_KEPT)))
    found: list[str] = []
    while not found or found[-1] != f"e{3 * EVENTS_KEPT - 1}":
        found += names(await anext(stream))
    assert found == [f"e{number}" for number in range(2 * EVENTS_KEPT, 3 * EVENTS_KEPT)]
    await stream.aclose()


async def test_a_blank_daemon_tells_what_it_can() -> None:
    async with serving(FakeHost.blank()) as channel:
        stream = ClusterStub(channel).WatchStatus(pb.WatchStatusRequest())
        assert (await read(stream)).status.blank
        stream.cancel()


async def test_streams_end_when_the_server_stops(host: FakeHost) -> None:
    async with serving(host) as channel:
        watch = ClusterStub(channel).WatchStatus(pb.WatchStatusRequest(interval_ms=LONG_MS))
        follow = ClusterStub(channel).Events(pb.EventsRequest(follow=True))
        await read(watch)
        await read(follow)
        ending = asyncio.ensure_future(asyncio.gather(watch.read(), follow.read(), return_exceptions=True))
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        errors = await ending
    assert all(isinstance(error, (grpc.aio.AioRpcError, asyncio.CancelledError)) for error in errors), errors


async def test_close_tells_why(host: FakeHost) -> None:
    watchers = watching.Watching(as_host(host))
    stream = watchers.statuses(pb.WatchStatusRequest(interval_ms=LONG_MS))
    await anext(stream)
    asyncio.get_running_loop().call_soon(watchers.close)
    with pytest.raises(Exception, match="shutting down"):
        await anext(stream)


async def test_watchers_are_bounded_and_as_many_fit_in_again(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCHERS_MAX", 2)
    for _ in range(3):
        streams = await _as_many_as_fit(cluster)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cluster.WatchStatus(pb.WatchStatusRequest()).read()
        assert info_of(caught.value).reason == "BUSY"
        for stream in streams:
            stream.cancel()


async def _as_many_as_fit(cluster: Any) -> list[Any]:
    """One stream of each kind. The daemon learns a moment later of those that were cancelled before."""
    async with asyncio.timeout(60):
        while True:
            streams = [cluster.WatchStatus(pb.WatchStatusRequest()), cluster.Events(pb.EventsRequest(follow=True))]
            try:
                for stream in streams:
                    await read(stream)
            except grpc.aio.AioRpcError:
                for stream in streams:
                    stream.cancel()
                await asyncio.sleep(0.02)
            else:
                return streams


@pytest.mark.parametrize(
    "call",
    [
        lambda cluster: cluster.WatchStatus(pb.WatchStatusRequest(interval_ms=99)),
        lambda cluster: cluster.WatchStatus(pb.WatchStatusRequest(interval_ms=60_001)),
        lambda cluster: cluster.Events(pb.EventsRequest(limit=1_001)),
        lambda cluster: cluster.Events(pb.EventsRequest(kinds=[pb.EventKind.ValueType(99)])),
    ],
)
async def test_what_cannot_be_asked(cluster: Any, call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(cluster).read()
    assert info_of(caught.value).reason == "INVALID_ARGUMENT"


async def test_kept_events_are_chosen(cluster: Any, host: FakeHost) -> None:
    happen(host, "one", "two")
    happen(host, "done", kind=EventKind.ACTION)
    happen(host, "three")

    async def ask(**request: Any) -> list[str]:
        pages = await read_all(cluster.Events(pb.EventsRequest(**request)))
        assert pages[0].header.replica_id == 1
        return [name for page in pages for name in names(page)]

    assert await ask() == ["one", "two", "done", "three"]
    assert await ask(limit=2) == ["done", "three"]
    assert await ask(kinds=[pb.ELECTION], limit=2) == ["two", "three"]
    assert await ask(after=pb.EventPosition(boot_id=host.boot_id, sequence=3)) == ["three"]
    assert await ask(since_ms=1_700_000_000_000) == ["one", "two", "done", "three"]
    assert await ask(since_ms=1_700_000_000_001) == []


async def test_followed_events(cluster: Any, host: FakeHost) -> None:
    happen(host, "one")
    stream = cluster.Events(pb.EventsRequest(follow=True, kinds=[pb.ELECTION]))
    assert names(await read(stream)) == ["one"]
    happen(host, "other", kind=EventKind.ALARM)
    happen(host, "two")
    assert names(await read(stream)) == ["two"]
    stream.cancel()
