"""Every Inspect call over a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from ravel_node.machine import envelope
from ravel_node.machine.members import encode_context
from ravel_node.raft.confchange import encode_conf_change
from ravel_node.raft.types import (
    ChangeType,
    ConfChange,
    ConfChangeV2,
    Entry,
    EntryId,
    EntryType,
    Index,
    ReplicaId,
    SingleChange,
    Term,
)
from ravel_node.replica.errors import NotLeaderError, ReplicaStoppedError, UnsupportedVersionError
from ravel_node.replica.integrity import Comparison, ReplicaHash
from ravel_node.server.inspect import FETCH_CHUNK_BYTES
from ravel_node.storage.base import CheckStep, StoreError
from ravelpb.v1 import cluster_pb2, inspect_pb2
from ravelpb.v1.inspect_pb2_grpc import InspectStub
from tests.server.fakes import CLUSTER, FakeHost, info_of, record, serving, snapshot_file


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def inspect(host: FakeHost) -> AsyncIterator[Any]:
    async with serving(host) as channel:
        yield InspectStub(channel)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = info_of(caught.value)
    return caught.value.code(), info.reason, dict(info.metadata)


def entry(index: int, *commands: bytes, kind: EntryType = EntryType.NORMAL, data: bytes | None = None, time_ms: int = 0) -> Entry:
    if data is None:
        data = envelope.payload([envelope.group(commands)], time_ms) if commands else b""
    return Entry(Term(3), Index(index), kind, data)


async def read(inspect: Any, **fields: Any) -> tuple[list[inspect_pb2.LogEntry], list[inspect_pb2.ReadLogResponse]]:
    pages = [page async for page in inspect.ReadLog(inspect_pb2.ReadLogRequest(**fields))]
    return [found for page in pages for found in page.entries], pages


async def test_the_log_in_words(inspect: Any, host: FakeHost) -> None:
    joined = ConfChangeV2((SingleChange(ChangeType.ADD_LEARNER, ReplicaId(4)),), context=encode_context([record(4)]))
    kind, data = encode_conf_change(joined)
    old_kind, old_data = encode_conf_change(ConfChange(ChangeType.REMOVE, ReplicaId(2)))
    leave_kind, leave_data = encode_conf_change(ConfChangeV2())
    host.store.first = 5
    host.store.log = [
        entry(5),
        entry(6, envelope.put(b"user/1", b"value")),
        entry(7, envelope.put(b"a", b""), envelope.delete(b"b"), envelope.compare_and_swap(b"c", 4, b"x")),
        entry(8, kind=kind, data=data),
        entry(9, kind=old_kind, data=old_data),
        entry(10, kind=leave_kind, data=leave_data),
        entry(11, data=b"\xffnonsense"),
        entry(12, kind=EntryType.CONF_CHANGE_V2, data=b"\xff\xff"),
    ]
    entries, (page,) = await read(inspect)
    assert [found.index for found in entries] == list(range(5, 13))
    assert [found.type for found in entries] == [
        "noop",
        "put",
        "batch",
        "config",
        "config",
        "config",
        "unreadable",
        "config",
    ]
    assert list(entries[0].summary) == []
    assert "user/1" in entries[1].summary[0]
    assert [line.split()[0] for line in entries[2].summary] == ["put", "delete", "cas"]
    assert entries[3].summary[0].startswith("add learner 4 n4 listen 127.0.0.1:7004")
    assert list(entries[4].summary) == ["remove 2"]
    assert "joint" in entries[5].summary[0]
    assert "unreadable" in entries[7].summary[0]
    assert (entries[1].term, entries[1].bytes, entries[1].data) == (3, len(host.store.log[1].data), b"")
    assert (page.first_index, page.last_index, page.commit_index) == (5, 12, 10)
    assert (page.snapshot_index, page.header.cluster_id) == (0, CLUSTER)


async def test_parts_of_the_log(inspect: Any, host: FakeHost) -> None:
    host.store.first = 101
    host.store.log = [entry(101 + i, envelope.put(b"%d" % i, b"v")) for i in range(2000)]
    entries, pages = await read(inspect)
    assert [found.index for found in entries] == list(range(101, 1101))
    assert len(pages) == 2
    entries, _ = await read(inspect, tail=True, limit=5)
    assert [found.index for found in entries] == list(range(2096, 2101))
    entries, _ = await read(inspect, from_index=150, limit=3, with_data=True)
    assert [found.index for found in entries] == [150, 151, 152]
    assert entries[0].data == host.store.log[49].data
    entries, pages = await read(inspect, from_index=5000)
    assert (entries, len(pages), pages[0].last_index) == ([], 1, 2100)
    entries, _ = await read(inspect, tail=True, limit=1 << 63)
    assert len(entries) == 2000


async def test_the_log_is_chosen_by_time_though_a_clock_has_jumped(inspect: Any, host: FakeHost) -> None:
    times = {2: 1_000, 3: 3_000, 4: 2_000, 5: 0, 6: 4_000}
    host.store.log = [entry(1), *[entry(index, envelope.put(b"k%d" % index, b"v"), time_ms=at) for index, at in times.items()]]
    entries, _ = await read(inspect)
    assert [found.time_ms for found in entries] == [0, *times.values()]

    async def chosen(**fields: Any) -> tuple[list[int], int]:
        entries, pages = await read(inspect, **fields)
        return [found.index for found in entries], sum(page.untimed for page in pages)

    assert await chosen(since_ms=2_000) == ([3, 4, 6], 2)
    assert await chosen(until_ms=2_000) == ([2, 4], 2)
    assert await chosen(since_ms=2_000, until_ms=3_000, key_prefix=b"k") == ([3, 4], 1)
    assert await chosen(since_ms=1, tail=True, limit=2) == ([4, 6], 2)
    assert await chosen(since_ms=5_000) == ([], 2)
    assert await chosen(since_ms=2_500, from_index=4, limit=1) == ([6], 1)


async def test_the_log_is_filtered(inspect: Any, host: FakeHost) -> None:
    host.store.log = [
        entry(1, envelope.put(b"orders/1", b"v"), envelope.put(b"users/1", b"v")),
        entry(2, envelope.delete(b"users/2")),
        entry(3, envelope.write([(b"orders/7", 3)], [(b"users/7", b"v")])),
        entry(4),
        Entry(Term(4), Index(5), data=entry(5, envelope.put(b"orders/9", b"v")).data),
        *[entry(index, envelope.delete(b"users/x")) for index in range(6, 1500)],
    ]

    async def looked_for(**fields: Any) -> list[tuple[int, list[str]]]:
        entries, _ = await read(inspect, **fields)
        return [(found.index, list(found.summary)) for found in entries]

    assert [index for index, _ in await looked_for(key_prefix=b"orders/")] == [1, 3, 5]
    assert (await looked_for(key_prefix=b"orders/"))[0] == (1, ["put orders/1 = 1 bytes"])
    assert [index for index, _ in await looked_for(types=["put"])] == [1, 5]
    assert [index for index, _ in await looked_for(types=["put", "noop"], term=3)] == [1, 4]
    assert await looked_for(types=["batch"]) == [(1, ["put orders/1 = 1 bytes", "put users/1 = 1 bytes"])]
    assert await looked_for(types=["batch"], key_prefix=b"users/") == [(1, ["put users/1 = 1 bytes"])]
    assert await looked_for(types=["delete"], key_prefix=b"orders/") == []
    assert [index for index, _ in await looked_for(key_prefix=b"users/", limit=2, from_index=2)] == [2, 3]
    assert [index for index, _ in await looked_for(key_prefix=b"users/", limit=2, tail=True)] == [1498, 1499]
    assert [index for index, _ in await looked_for(key_prefix=b"orders/", to_index=4)] == [1, 3]
    _, pages = await read(inspect, key_prefix=b"nothing")
    assert [page.next_index for page in pages] == [513, 1025, 1500], "a page tells how far it looked"
    _, (page,) = await read(inspect, key_prefix=b"orders/", limit=2)
    assert page.next_index == 4


async def test_a_damaged_entry_is_shown_whatever_is_looked_for(inspect: Any, host: FakeHost) -> None:
    host.store.log = [entry(1 + i, envelope.put(b"k", b"v")) for i in range(3)]
    host.store.damaged_at = 2
    entries, _ = await read(inspect, types=["delete"])
    assert [(found.index, found.type, list(found.summary)) for found in entries] == [(2, "damaged", [host.store.damaged])]


async def test_digests_tell_entries_apart(inspect: Any, host: FakeHost) -> None:
    first = entry(1, envelope.put(b"k", b"v"))
    host.store.log = [first, first._replace(index=Index(2)), first._replace(term=Term(9)), first]
    entries, _ = await read(inspect, with_digest=True)
    digests = [found.digest for found in entries]
    assert ({len(each) for each in digests}, digests[0] == digests[3], len(set(digests))) == ({16}, True, 3)
    assert (await read(inspect))[0][0].digest == b""


async def test_a_check_tells_each_step(inspect: Any, host: FakeHost) -> None:
    host.store.steps = [CheckStep("log", 5, 9, ()), CheckStep("log", 9, 9, ("entry 7 is damaged",)), CheckStep("state", 3, 3, ())]
    told = [step async for step in inspect.CheckStore(inspect_pb2.CheckStoreRequest())]
    assert [(step.part, step.done, step.total, list(step.problems), step.finished) for step in told] == [
        ("log", 5, 9, [], False),
        ("log", 9, 9, ["entry 7 is damaged"], False),
        ("state", 3, 3, [], False),
        ("", 0, 0, [], True),
    ]
    told = [step async for step in inspect.CheckStore(inspect_pb2.CheckStoreRequest(log_only=True))]
    assert [(step.part, step.finished) for step in told] == [("log", False), ("log", False), ("", True)]


async def test_compaction_by_hand(inspect: Any, host: FakeHost) -> None:
    host.store.log = [entry(1 + i) for i in range(9)]
    dry = await inspect.Compact(inspect_pb2.CompactRequest(keep=2, dry_run=True))
    assert (dry.first_index_before, dry.first_index, host.store.first) == (1, 8, 1)
    done = await inspect.Compact(inspect_pb2.CompactRequest(keep=2))
    assert (done.first_index_before, done.first_index, done.log_used_bytes_before, done.log_used_bytes) == (1, 8, 4096, 1024)
    assert done.held_by == "replica 2 still needs it"
    host.replica.change_failure = ReplicaStoppedError()
    assert (await refused(inspect.Compact(inspect_pb2.CompactRequest())))[1] == "SHUTTING_DOWN"


async def test_an_entry_of_very_many_commands_is_cut(inspect: Any, host: FakeHost) -> None:
    host.store.log = [entry(1, *[envelope.delete(b"%d" % i) for i in range(1000)])]
    ((found,), _) = await read(inspect)
    assert len(found.summary) == 257
    assert found.summary[256] == "and 744 more"


async def test_what_was_compacted_is_told(inspect: Any, host: FakeHost) -> None:
    host.store.first = 50
    host.store.log = [entry(50)]
    call = inspect.ReadLog(inspect_pb2.ReadLogRequest(from_index=3)).read()
    assert await refused(call) == (grpc.StatusCode.OUT_OF_RANGE, "COMPACTED", {"first_index": "50"})


async def test_snapshots_are_listed(inspect: Any, host: FakeHost, tmp_path: Path) -> None:
    host.store.files = [snapshot_file(tmp_path / "20", b"new", 20), snapshot_file(tmp_path / "10", b"old", 10)]
    listed = await inspect.ListSnapshots(inspect_pb2.ListSnapshotsRequest())
    assert [(found.name, found.index, found.size_bytes) for found in listed.snapshots] == [("20", 20, 3), ("10", 10, 3)]
    first = listed.snapshots[0]
    assert (first.term, list(first.voters), list(first.learners), first.keys, first.revision) == (3, [1, 2], [3], 7, 20)
    assert (len(first.sha256), first.taken_by, first.format, first.cluster_name) == (32, "n1", 1, "test")
    _, (page,) = await read(inspect)
    assert (page.snapshot_index, page.snapshot_term) == (20, 3)


async def test_a_snapshot_is_built_unless_there_is_one_as_new(inspect: Any, host: FakeHost, tmp_path: Path) -> None:
    host.store.built = snapshot_file(tmp_path / "9", b"data", 9)
    saved = await inspect.SaveSnapshot(inspect_pb2.SaveSnapshotRequest())
    assert (saved.snapshot.name, host.store.builds) == ("9", 1)
    host.store.files = [host.store.built]
    assert (await inspect.SaveSnapshot(inspect_pb2.SaveSnapshotRequest())).snapshot.name == "9"
    assert host.store.builds == 1
    host.store.applied = EntryId(Term(3), Index(10))
    host.store.built = StoreError("no space left on the disk for a snapshot")
    with pytest.raises(grpc.aio.AioRpcError, match="no space left") as caught:
        await inspect.SaveSnapshot(inspect_pb2.SaveSnapshotRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert host.fatal == []


@pytest.mark.parametrize("offset", [0, 1, FETCH_CHUNK_BYTES, 2 * FETCH_CHUNK_BYTES + 99, 2 * FETCH_CHUNK_BYTES + 100])
async def test_a_snapshot_is_fetched_from_any_byte(inspect: Any, host: FakeHost, tmp_path: Path, offset: int) -> None:
    data = bytes(range(256)) * (2 * FETCH_CHUNK_BYTES // 256) + b"x" * 100
    host.store.files = [snapshot_file(tmp_path / "s", data, 9)]
    got = b""
    async for part in inspect.FetchSnapshot(inspect_pb2.FetchSnapshotRequest(name="s", offset=offset)):
        assert part.offset == offset + len(got)
        assert bool(part.header) == (got == b"" and part.offset == offset)
        assert len(part.data) <= FETCH_CHUNK_BYTES
        got += part.data
    assert got == data[offset:]


async def test_only_snapshots_of_the_store_are_fetched(inspect: Any, host: FakeHost, tmp_path: Path) -> None:
    host.store.files = [snapshot_file(tmp_path / "s", b"data", 9)]
    for name in ("none", "../../etc/passwd", "", str(tmp_path / "s")):
        call = inspect.FetchSnapshot(inspect_pb2.FetchSnapshotRequest(name=name)).read()
        assert (await refused(call))[:2] == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    call = inspect.FetchSnapshot(inspect_pb2.FetchSnapshotRequest(name="s", offset=5)).read()
    assert await refused(call) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        {"field": "offset", "value": "5", "limit": "4"},
    )
    (tmp_path / "s").unlink()
    call = inspect.FetchSnapshot(inspect_pb2.FetchSnapshotRequest(name="s")).read()
    assert (await refused(call))[1] == "NOT_FOUND"


async def test_store_stats(inspect: Any) -> None:
    stats = await inspect.StoreStats(inspect_pb2.StoreStatsRequest())
    (environment,) = stats.environments
    assert (environment.name, environment.map_size_bytes, environment.used_bytes) == ("raft", 1 << 20, 4096)
    assert (environment.free_bytes, environment.readers) == (8192, 2)
    assert [(database.name, database.entries, database.pages) for database in environment.databases] == [("log", 5, 1)]
    assert (stats.unflushed_bytes, stats.unflushed_segments, stats.format) == (77, 2, envelope.FORMAT)


async def test_a_comparison_of_states_is_told_with_names(inspect: Any, host: FakeHost) -> None:
    same, other = b"s" * 32, b"o" * 32
    host.fake.comparison = Comparison(
        EntryId(Term(3), Index(9)),
        (
            ReplicaHash(ReplicaId(1), same),
            ReplicaHash(ReplicaId(2), problem="no replica answers"),
            ReplicaHash(ReplicaId(3), other, "", True, Index(5), Index(7)),
        ),
    )
    told = await inspect.StateHash(inspect_pb2.StateHashRequest())
    assert (told.header.replica_id, told.index, told.term) == (1, 9, 3)
    assert [(one.replica_id, one.name, one.sha256, one.problem, one.differs) for one in told.replicas] == [
        (1, "n1", same, "", False),
        (2, "", b"", "no replica answers", False),
        (3, "n3", other, "", True),
    ]
    assert (told.replicas[2].agreed_index, told.replicas[2].differed_index) == (5, 7)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (UnsupportedVersionError("checksum entries need format 2"), "UNSUPPORTED_VERSION"),
        (NotLeaderError(ReplicaId(2), "a:1"), "NOT_LEADER"),
    ],
)
async def test_a_comparison_that_cannot_be_made_says_why(inspect: Any, host: FakeHost, failure: Exception, reason: str) -> None:
    host.fake.change_failure = failure
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await inspect.StateHash(inspect_pb2.StateHashRequest())
    assert info_of(caught.value).reason == reason


async def test_a_snapshot_that_was_decided_on_an_older_view_is_not_taken(inspect: Any, host: FakeHost, tmp_path: Path) -> None:
    host.store.built = snapshot_file(tmp_path / "9", b"state", 9)
    now = cluster_pb2.Expectation(term=3, config_index=host.machine.config_index)
    for stale in (
        cluster_pb2.Expectation(term=2, config_index=now.config_index),
        cluster_pb2.Expectation(term=3, config_index=now.config_index + 1),
    ):
        assert (await refused(inspect.SaveSnapshot(inspect_pb2.SaveSnapshotRequest(expect=stale))))[1] == "STALE_VIEW"
    assert host.store.builds == 0
    await inspect.SaveSnapshot(inspect_pb2.SaveSnapshotRequest(expect=now))
    assert host.store.builds == 1


async def test_a_blank_daemon_has_nothing_to_show() -> None:
    async with serving(FakeHost.blank()) as channel:
        blank: Any = InspectStub(channel)
        for call in (
            blank.ListSnapshots(inspect_pb2.ListSnapshotsRequest()),
            blank.SaveSnapshot(inspect_pb2.SaveSnapshotRequest()),
            blank.StoreStats(inspect_pb2.StoreStatsRequest()),
            blank.CheckStore(inspect_pb2.CheckStoreRequest()).read(),
            blank.Compact(inspect_pb2.CompactRequest()),
            blank.StateHash(inspect_pb2.StateHashRequest()),
            blank.ReadLog(inspect_pb2.ReadLogRequest()).read(),
            blank.FetchSnapshot(inspect_pb2.FetchSnapshotRequest(name="s")).read(),
        ):
            assert (await refused(call))[1] == "BLANK"
