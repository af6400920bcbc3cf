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
from ravel_node.server.inspect import FETCH_CHUNK_BYTES
from ravel_node.storage.base import StoreError
from ravelpb.v1 import inspect_pb2
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


def entry(index: int, *commands: bytes, kind: EntryType = EntryType.NORMAL, data: bytes | None = None) -> Entry:
    if data is None:
        data = envelope.payload([envelope.group(commands)]) if commands else b""
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
    assert len(pages) == 4
    entries, _ = await read(inspect, tail=True, limit=5)
    assert [found.index for found in entries] == list(range(2096, 2101))
    entries, _ = await read(inspect, from_index=150, limit=3, with_data=True)
    assert [found.index for found in entries] == [150, 151, 152]
    assert entries[0].data == host.store.log[49].data
    entries, pages = await read(inspect, from_index=5000)
    assert (entries, len(pages), pages[0].last_index) == ([], 1, 2100)
    entries, _ = await read(inspect, tail=True, limit=1 << 63)
    assert len(entries) == 2000


async def test_large_entries_make_small_pages(inspect: Any, host: FakeHost) -> None:
    host.store.log = [entry(1 + i, envelope.put(b"k", b"v" * 700_000)) for i in range(4)]
    entries, pages = await read(inspect, with_data=True)
    assert (len(entries), len(pages)) == (4, 4)


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
    assert (stats.unflushed_bytes, stats.format, stats.header.index) == (77, envelope.FORMAT, 9)


async def test_a_blank_daemon_has_nothing_to_show() -> None:
    async with serving(FakeHost.blank()) as channel:
        blank: Any = InspectStub(channel)
        for call in (
            blank.ListSnapshots(inspect_pb2.ListSnapshotsRequest()),
            blank.SaveSnapshot(inspect_pb2.SaveSnapshotRequest()),
            blank.StoreStats(inspect_pb2.StoreStatsRequest()),
            blank.ReadLog(inspect_pb2.ReadLogRequest()).read(),
            blank.FetchSnapshot(inspect_pb2.FetchSnapshotRequest(name="s")).read(),
        ):
            assert (await refused(call))[1] == "BLANK"
