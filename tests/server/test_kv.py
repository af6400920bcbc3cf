"""Every KV call over a real server: answers, refusals, limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from ravel_node.machine import envelope
from ravel_node.machine import kv as machine_kv
from ravel_node.raft.errors import InvariantError
from ravel_node.raft.types import ReplicaId
from ravel_node.replica.errors import (
    LeadershipLostError,
    NotLeaderError,
    QuotaExceededError,
    ReadTimeoutError,
    ReplicaBusyError,
    ReplicaStoppedError,
)
from ravel_node.replica.reads import ReadMode
from ravel_node.server.limits import Limits
from ravel_node.storage.base import DamagedError, StoreFailedError
from ravelpb.v1 import common_pb2, kv_pb2
from ravelpb.v1.kv_pb2_grpc import KVStub
from tests.server.fakes import CLUSTER, FakeHost, info_of, serving


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def kv(host: FakeHost) -> AsyncIterator[Any]:
    async with serving(host, limits=Limits(value_bytes_max=1000, request_bytes_max=100_000)) as channel:
        yield KVStub(channel)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = info_of(caught.value)
    return caught.value.code(), info.reason, dict(info.metadata)


async def test_put_get_delete(kv: Any) -> None:
    put = await kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v"))
    assert put.revision == 1
    assert (put.header.cluster_id, put.header.replica_id, put.header.term, put.header.index) == (CLUSTER, 1, 3, 10)
    got = await kv.Get(kv_pb2.GetRequest(key=b"k"))
    assert (got.revision, got.value, got.found, got.header.index) == (1, b"v", True, 10)
    deleted = await kv.Delete(kv_pb2.DeleteRequest(key=b"k"))
    assert (deleted.revision, deleted.found, deleted.header.index) == (2, True, 11)
    gone = await kv.Delete(kv_pb2.DeleteRequest(key=b"k"))
    assert (gone.revision, gone.found) == (2, False)
    absent = await kv.Get(kv_pb2.GetRequest(key=b"k"))
    assert (absent.revision, absent.value, absent.found, absent.header.replica_id) == (0, b"", False, 1)


async def test_get_and_delete_returns_what_was_there(kv: Any) -> None:
    await kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v"))
    taken = await kv.GetAndDelete(kv_pb2.GetAndDeleteRequest(key=b"k"))
    assert (taken.revision, taken.value, taken.found) == (1, b"v", True)
    again = await kv.GetAndDelete(kv_pb2.GetAndDeleteRequest(key=b"k"))
    assert (again.value, again.found) == (b"", False)


async def test_compare_and_swap_tells_what_is_there(kv: Any) -> None:
    made = await kv.CompareAndSwap(kv_pb2.CompareAndSwapRequest(key=b"k", expected_revision=0, value=b"1"))
    assert (made.swapped, made.revision) == (True, 1)
    failed = await kv.CompareAndSwap(kv_pb2.CompareAndSwapRequest(key=b"k", expected_revision=7, value=b"2"))
    assert (failed.swapped, failed.revision, failed.value, failed.found) == (False, 1, b"1", True)
    assert failed.header.term == 3


async def test_write_is_atomic_and_names_the_condition_that_failed(kv: Any) -> None:
    operations = [
        kv_pb2.Operation(put=kv_pb2.PutOperation(key=b"a", value=b"1")),
        kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=b"b")),
    ]
    done = await kv.Write(kv_pb2.WriteRequest(conditions=[kv_pb2.Condition(key=b"a")], operations=operations))
    assert (done.done, done.revision) == (True, 1)
    failed = await kv.Write(kv_pb2.WriteRequest(conditions=[kv_pb2.Condition(key=b"a")], operations=operations))
    assert (failed.done, failed.revision, failed.failed_key, failed.value, failed.found) == (False, 1, b"a", b"1", True)


async def test_a_repeated_write_of_a_session_happens_once(kv: Any, host: FakeHost) -> None:
    client_id = (await kv.RegisterSession(kv_pb2.RegisterSessionRequest())).client_id
    assert client_id
    request = kv_pb2.PutRequest(key=b"k", value=b"v", once=common_pb2.Once(client_id=client_id, sequence=1, acked_below=1))
    assert (await kv.Put(request)).revision == (await kv.Put(request)).revision == 1
    assert [proposal.grows for proposal in host.fake.proposals] == [False, True, True]


_PUT = kv_pb2.Operation(put=kv_pb2.PutOperation(key=b"a", value=b"1"))
_DELETE = kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=b"b"))
GROWING = [
    ("put", kv_pb2.PutRequest(key=b"k", value=b"v"), True),
    ("delete", kv_pb2.DeleteRequest(key=b"k"), False),
    ("get_and_delete", kv_pb2.GetAndDeleteRequest(key=b"k"), False),
    ("compare_and_swap", kv_pb2.CompareAndSwapRequest(key=b"k", expected_revision=0, value=b"v"), True),
    ("write", kv_pb2.WriteRequest(operations=[_DELETE, _PUT]), True),
    ("write", kv_pb2.WriteRequest(operations=[_DELETE]), False),
    ("write", kv_pb2.WriteRequest(conditions=[kv_pb2.Condition(key=b"a")], operations=[_DELETE]), False),
]


@pytest.mark.parametrize(("kind", "request_", "grows"), GROWING)
async def test_a_full_store_refuses_exactly_what_makes_it_larger(
    kv: Any, host: FakeHost, kind: str, request_: Any, grows: bool
) -> None:
    """As a call of its own, and as one of many in a Session."""
    host.fake.quota_full = True
    call = getattr(kv, kind.title().replace("_", ""))(request_)
    if grows:
        assert (await refused(call))[1] == "QUOTA_EXCEEDED"
    else:
        await call
    batch = kv_pb2.SessionRequest(id=1, commands=[kv_pb2.Command(**{kind: request_})])
    [response] = [response async for response in kv.Session(iter([batch]))]
    assert response.results[0].WhichOneof("result") == ("error" if grows else kind)
    assert [proposal.grows for proposal in host.fake.proposals] == [grows, grows]


async def test_an_unknown_session_is_refused_and_nothing_is_done(kv: Any, host: FakeHost) -> None:
    once = common_pb2.Once(client_id=99, sequence=1, acked_below=1)
    code, reason, fields = await refused(kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v", once=once)))
    assert (code, reason, fields) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "SESSION_EXPIRED",
        {"field": "once.client_id", "value": "99"},
    )
    assert not (await kv.Get(kv_pb2.GetRequest(key=b"k"))).found


async def test_a_forgotten_answer_is_an_unknown_outcome_and_never_a_failure(kv: Any) -> None:
    client_id = (await kv.RegisterSession(kv_pb2.RegisterSessionRequest())).client_id

    def put(sequence: int, acked_below: int) -> Any:
        once = common_pb2.Once(client_id=client_id, sequence=sequence, acked_below=acked_below)
        return kv.Delete(kv_pb2.DeleteRequest(key=b"k", once=once))

    await put(1, 1)
    await put(2, 2)
    code, reason, fields = await refused(put(1, 1))
    assert (code, reason, fields.get("value")) == (grpc.StatusCode.ABORTED, "OUTCOME_UNKNOWN", "1")


@pytest.mark.parametrize(
    ("request_", "reason", "field", "value", "limit"),
    [
        (kv_pb2.PutRequest(key=b"", value=b"v"), "KEY_EMPTY", "key", "0", "480"),
        (kv_pb2.PutRequest(key=b"k" * 481), "KEY_TOO_LARGE", "key", "481", "480"),
        (kv_pb2.PutRequest(key=b"k", value=b"v" * 1001), "VALUE_TOO_LARGE", "value", "1001", "1000"),
        (kv_pb2.GetRequest(key=b""), "KEY_EMPTY", "key", "0", "480"),
        (kv_pb2.GetRequest(key=b"k", consistency=kv_pb2.Consistency.ValueType(9)), "INVALID_ARGUMENT", "consistency", "9", ""),
        (kv_pb2.DeleteRequest(key=b"k" * 500), "KEY_TOO_LARGE", "key", "500", "480"),
        (kv_pb2.GetAndDeleteRequest(), "KEY_EMPTY", "key", "0", "480"),
        (kv_pb2.CompareAndSwapRequest(key=b"k", value=b"v" * 2000), "VALUE_TOO_LARGE", "value", "2000", "1000"),
        (kv_pb2.WriteRequest(), "INVALID_ARGUMENT", "operations", "0", "1024"),
        (kv_pb2.WriteRequest(operations=[kv_pb2.Operation()]), "INVALID_ARGUMENT", "operations.op", "", ""),
        (
            kv_pb2.WriteRequest(operations=[kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=b"k"))] * 2),
            "INVALID_ARGUMENT",
            "operations.key",
            "6b",
            "",
        ),
        (
            kv_pb2.WriteRequest(operations=[kv_pb2.Operation(put=kv_pb2.PutOperation(key=b"k", value=b"v" * 1001))]),
            "VALUE_TOO_LARGE",
            "operations.value",
            "1001",
            "1000",
        ),
        (
            kv_pb2.WriteRequest(
                conditions=[kv_pb2.Condition()], operations=[kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=b"k"))]
            ),
            "KEY_EMPTY",
            "conditions.key",
            "0",
            "480",
        ),
        (
            kv_pb2.WriteRequest(operations=[kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=b"%d" % i)) for i in range(1025)]),
            "INVALID_ARGUMENT",
            "operations",
            "1025",
            "1024",
        ),
        (
            kv_pb2.WriteRequest(
                operations=[kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=b"%0480d" % i)) for i in range(300)]
            ),
            "REQUEST_TOO_LARGE",
            "request",
            None,
            "100000",
        ),
        (kv_pb2.PutRequest(key=b"k", once=common_pb2.Once(sequence=1)), "INVALID_ARGUMENT", "once.client_id", "", ""),
        (kv_pb2.DeleteRequest(key=b"k", once=common_pb2.Once(client_id=1)), "INVALID_ARGUMENT", "once.sequence", "", ""),
        (kv_pb2.ScanRequest(page_keys_max=10_001), "INVALID_ARGUMENT", "page_keys_max", "10001", "10000"),
        (kv_pb2.ScanRequest(start=b"k" * 481), "KEY_TOO_LARGE", "start", "481", "480"),
        (kv_pb2.ScanRequest(consistency=kv_pb2.Consistency.ValueType(3)), "INVALID_ARGUMENT", "consistency", "3", ""),
    ],
)
async def test_what_breaks_a_limit_names_value_and_limit(
    kv: Any, host: FakeHost, request_: Any, reason: str, field: str, value: str | None, limit: str
) -> None:
    method = type(request_).__name__.removesuffix("Request")
    call = getattr(kv, method)(request_)
    if method == "Scan":
        call = call.read()
    code, found, fields = await refused(call)
    expected = grpc.StatusCode.RESOURCE_EXHAUSTED if reason == "REQUEST_TOO_LARGE" else grpc.StatusCode.INVALID_ARGUMENT
    assert (code, found, fields["field"], fields.get("limit", "")) == (expected, reason, field, limit)
    if value is not None:
        assert fields.get("value", "") == value
    assert host.fake.proposals == []


async def test_the_largest_key_and_value_are_taken(kv: Any) -> None:
    assert (await kv.Put(kv_pb2.PutRequest(key=b"k" * 480, value=b"v" * 1000))).revision == 1


@pytest.mark.parametrize(
    ("failure", "code", "reason", "fields"),
    [
        (
            NotLeaderError(ReplicaId(2), "10.0.0.2:7400"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "NOT_LEADER",
            {"leader_id": "2", "leader_address": "10.0.0.2:7400"},
        ),
        (NotLeaderError(ReplicaId(0), ""), grpc.StatusCode.UNAVAILABLE, "NO_LEADER", {}),
        (ReplicaBusyError("1024 proposals wait"), grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY", {"retry_after_ms": "50"}),
        (QuotaExceededError("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", {}),
        (LeadershipLostError(), grpc.StatusCode.ABORTED, "OUTCOME_UNKNOWN", {}),
        (ReplicaStoppedError(), grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", {}),
        (ReplicaStoppedError("disk", failed=True), grpc.StatusCode.UNAVAILABLE, "STOPPED", {}),
    ],
)
async def test_what_the_replica_refuses_reaches_the_caller(
    kv: Any, host: FakeHost, failure: Exception, code: grpc.StatusCode, reason: str, fields: dict[str, str]
) -> None:
    host.fake.failures = [failure]
    assert await refused(kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v"))) == (code, reason, fields)
    assert host.fatal == []


async def test_reads_pass_the_barrier_unless_it_is_free(kv: Any, host: FakeHost) -> None:
    await kv.Get(kv_pb2.GetRequest(key=b"k"))
    assert host.fake.barriers == []
    host.fake.free = False
    await kv.Get(kv_pb2.GetRequest(key=b"k", consistency=kv_pb2.QUORUM))
    assert host.fake.barriers == [ReadMode.QUORUM]
    host.fake.barrier_failure = ReadTimeoutError("no majority in 0.8 s")
    code, reason, _ = await refused(kv.Get(kv_pb2.GetRequest(key=b"k")))
    assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMEOUT")


async def test_a_fault_of_ours_tells_an_id_and_nothing_else(kv: Any, host: FakeHost) -> None:
    host.fake.failures = [KeyError("secret inner value")]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kv.Put(kv_pb2.PutRequest(key=b"k"))
    info = info_of(caught.value)
    assert (caught.value.code(), info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in str(caught.value.details())
    assert info.metadata["value"] in str(caught.value.details())
    assert host.fatal == []


@pytest.mark.parametrize(
    "failure", [InvariantError("1 is not 2"), StoreFailedError("fdatasync failed"), DamagedError("record 'k' is damaged")]
)
async def test_what_makes_the_replica_untrustworthy_is_told_to_the_daemon(kv: Any, host: FakeHost, failure: Exception) -> None:
    host.fake.failures = [failure]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kv.Put(kv_pb2.PutRequest(key=b"k"))
    assert caught.value.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS}
    assert host.fatal == [failure]


async def test_a_damaged_record_that_a_client_reads_is_told_to_the_daemon(
    kv: Any, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage = DamagedError("state-1/data.mdb: record 'k' of database kv is damaged")

    def damaged(*_: object) -> None:
        raise damage

    monkeypatch.setattr(machine_kv, "get", damaged)
    with pytest.raises(grpc.aio.AioRpcError):
        await kv.Get(kv_pb2.GetRequest(key=b"k"))
    stream = kv.Session()
    await stream.write(kv_pb2.SessionRequest(id=1, commands=[kv_pb2.Command(get=kv_pb2.GetRequest(key=b"k"))]))
    with pytest.raises(grpc.aio.AioRpcError):
        await stream.read()
    assert host.fatal == [damage, damage]


async def fill(kv: Any, count: int, size: int = 1) -> None:
    for i in range(count):
        await kv.Put(kv_pb2.PutRequest(key=b"k%03d" % i, value=bytes([i % 256]) * size))


async def test_scan_gives_pages_in_order_with_their_revision(kv: Any) -> None:
    await fill(kv, 25)
    pages = [page async for page in kv.Scan(kv_pb2.ScanRequest(page_keys_max=10))]
    assert [len(page.items) for page in pages] == [10, 10, 5]
    assert [page.more for page in pages] == [True, True, False]
    items = [item for page in pages for item in page.items]
    assert [item.key for item in items] == [b"k%03d" % i for i in range(25)]
    assert [item.revision for item in items] == list(range(1, 26))
    assert [item.value for item in items[:2]] == [b"\0", b"\1"]
    assert {page.revision for page in pages} == {25}
    assert pages[0].header.cluster_id == CLUSTER


async def test_scan_obeys_bounds_limit_and_keys_only(kv: Any) -> None:
    await fill(kv, 25)
    request = kv_pb2.ScanRequest(start=b"k005", end=b"k020", limit=12, page_keys_max=10, keys_only=True)
    pages = [page async for page in kv.Scan(request)]
    assert [item.key for page in pages for item in page.items] == [b"k%03d" % i for i in range(5, 17)]
    assert [page.more for page in pages] == [True, False]
    assert all(item.value == b"" for page in pages for item in page.items)
    exact = [page async for page in kv.Scan(kv_pb2.ScanRequest(start=b"k015", limit=10, page_keys_max=10))]
    assert [page.more for page in exact] == [False]
    (empty,) = [page async for page in kv.Scan(kv_pb2.ScanRequest(start=b"x"))]
    assert (list(empty.items), empty.more, empty.revision) == ([], False, 25)


async def test_scan_pages_are_bounded_in_bytes(host: FakeHost) -> None:
    async with serving(host) as channel:
        kv = KVStub(channel)
        await fill(kv, 6, size=400_000)
        pages = [page async for page in kv.Scan(kv_pb2.ScanRequest())]
        assert [len(page.items) for page in pages] == [3, 3]


async def test_every_page_of_a_scan_passes_the_barrier(kv: Any, host: FakeHost) -> None:
    await fill(kv, 20)
    host.fake.free = False
    assert len([page async for page in kv.Scan(kv_pb2.ScanRequest(page_keys_max=10))]) == 2
    assert len(host.fake.barriers) == 2


async def test_while_the_state_is_cold_reads_are_paged_in_first(kv: Any, host: FakeHost) -> None:
    await fill(kv, 20)
    await kv.Get(kv_pb2.GetRequest(key=b"k001"))
    assert [page async for page in kv.Scan(kv_pb2.ScanRequest())]
    assert (host.fake.paged_in, host.fake.paged_in_ranges) == ([], [])
    host.fake.cold = True
    await kv.Get(kv_pb2.GetRequest(key=b"k001"))
    assert [page async for page in kv.Scan(kv_pb2.ScanRequest(start=b"k005", end=b"k018", page_keys_max=10, limit=12))]
    assert host.fake.paged_in == [b"k001"]
    assert host.fake.paged_in_ranges == [(b"k005", b"k018", 11), (b"k015", b"k018", 3)]


async def test_a_page_of_keys_ends_when_much_was_read_for_it(kv: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_kv, "PAGE_READ_BYTES_MAX", 1_000)
    await fill(kv, 10, size=400)
    pages = [page async for page in kv.Scan(kv_pb2.ScanRequest(keys_only=True))]
    assert [len(page.items) for page in pages] == [3, 3, 3, 1]


async def test_a_cancelled_call_ends_its_proposal(kv: Any, host: FakeHost) -> None:
    host.fake.gate = asyncio.Event()
    call = kv.Put(kv_pb2.PutRequest(key=b"k"))
    while not host.fake.proposals:
        await asyncio.sleep(0.01)
    call.cancel()
    host.fake.gate.set()
    assert (await kv.Put(kv_pb2.PutRequest(key=b"j"))).revision >= 1
    assert envelope.decode(envelope.payload([host.fake.proposals[0].group]))
