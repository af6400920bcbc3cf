"""Requests that break a bound, on every call of a real daemon: each is told its reason, and nothing of it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from ravelctl.client import ClusterClient
from ravelpb.v1 import cluster_pb2, inspect_pb2, kv_pb2, raft_pb2
from ravelpb.v1.cluster_pb2_grpc import ClusterStub
from ravelpb.v1.inspect_pb2_grpc import InspectStub
from ravelpb.v1.kv_pb2_grpc import KVStub
from ravelpb.v1.raft_pb2_grpc import RaftTransportStub
from tests.e2e.cluster import CALL_S, Cluster, Server
from tests.e2e.hostile import MIB, lone_server, unharmed
from tests.server.anything import UNKNOWN_FIELD
from tests.server.fakes import info_of, info_of_status

LONG = b"k" * 481
LARGE = bytes(MIB + 1)
HUGE = (1 << 64) - 1

Call = Callable[[Any], Any]


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Server]]:
    with lone_server(tmp_path_factory.mktemp("lone")) as served:
        yield served


@pytest.fixture
async def channel(lone: tuple[Cluster, Server]) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(lone[1].address) as channel:
        yield channel


def operation(key: bytes, value: bytes = b"") -> kv_pb2.Operation:
    return kv_pb2.Operation(put=kv_pb2.PutOperation(key=key, value=value))


UNARY: list[tuple[str, Any, str]] = [
    ("Put", kv_pb2.PutRequest(), "KEY_EMPTY"),
    ("Put", kv_pb2.PutRequest(key=LONG), "KEY_TOO_LARGE"),
    ("Put", kv_pb2.PutRequest(key=b"k", value=LARGE), "VALUE_TOO_LARGE"),
    ("Get", kv_pb2.GetRequest(), "KEY_EMPTY"),
    ("Get", kv_pb2.GetRequest(key=LONG), "KEY_TOO_LARGE"),
    ("Get", kv_pb2.GetRequest(key=b"k", consistency=77), "INVALID_ARGUMENT"),  # type: ignore[arg-type]
    ("Get", kv_pb2.GetRequest(key=b"k", consistency=-1), "INVALID_ARGUMENT"),  # type: ignore[arg-type]
    ("Delete", kv_pb2.DeleteRequest(), "KEY_EMPTY"),
    ("Delete", kv_pb2.DeleteRequest(key=LONG), "KEY_TOO_LARGE"),
    ("GetAndDelete", kv_pb2.GetAndDeleteRequest(), "KEY_EMPTY"),
    ("GetAndDelete", kv_pb2.GetAndDeleteRequest(key=LONG), "KEY_TOO_LARGE"),
    ("CompareAndSwap", kv_pb2.CompareAndSwapRequest(), "KEY_EMPTY"),
    ("CompareAndSwap", kv_pb2.CompareAndSwapRequest(key=LONG), "KEY_TOO_LARGE"),
    ("CompareAndSwap", kv_pb2.CompareAndSwapRequest(key=b"k", value=LARGE), "VALUE_TOO_LARGE"),
    ("Write", kv_pb2.WriteRequest(), "INVALID_ARGUMENT"),
    ("Write", kv_pb2.WriteRequest(operations=[kv_pb2.Operation()]), "INVALID_ARGUMENT"),
    ("Write", kv_pb2.WriteRequest(operations=[operation(b"")]), "KEY_EMPTY"),
    ("Write", kv_pb2.WriteRequest(operations=[operation(LONG)]), "KEY_TOO_LARGE"),
    ("Write", kv_pb2.WriteRequest(operations=[operation(b"k", LARGE)]), "VALUE_TOO_LARGE"),
    ("Write", kv_pb2.WriteRequest(operations=[operation(b"k"), operation(b"k")]), "INVALID_ARGUMENT"),
    ("Write", kv_pb2.WriteRequest(operations=[operation(b"%d" % i) for i in range(1_025)]), "INVALID_ARGUMENT"),
    ("Write", kv_pb2.WriteRequest(operations=[operation(b"k")], conditions=[kv_pb2.Condition()]), "KEY_EMPTY"),
    ("Write", kv_pb2.WriteRequest(operations=[operation(b"%d" % i, bytes(MIB)) for i in range(4)]), "REQUEST_TOO_LARGE"),
]


@pytest.mark.parametrize(("name", "request_", "reason"), UNARY, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(UNARY)])
async def test_unary_calls(channel: grpc.aio.Channel, name: str, request_: Any, reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(KVStub(channel), name)(request_)
    assert info_of(caught.value).reason == reason
    assert len(caught.value.details() or "") > 20


STREAMS: list[tuple[Any, str, Any, str]] = [
    (KVStub, "Scan", kv_pb2.ScanRequest(start=LONG), "KEY_TOO_LARGE"),
    (KVStub, "Scan", kv_pb2.ScanRequest(end=LONG), "KEY_TOO_LARGE"),
    (KVStub, "Scan", kv_pb2.ScanRequest(page_keys_max=(1 << 32) - 1), "INVALID_ARGUMENT"),
    (KVStub, "Scan", kv_pb2.ScanRequest(consistency=9), "INVALID_ARGUMENT"),  # type: ignore[arg-type]
    (InspectStub, "FetchSnapshot", inspect_pb2.FetchSnapshotRequest(name="../raft/data.mdb"), "NOT_FOUND"),
    (InspectStub, "FetchSnapshot", inspect_pb2.FetchSnapshotRequest(name="x" * 100_000, offset=HUGE), "NOT_FOUND"),
]


@pytest.mark.parametrize(("stub", "name", "request_", "reason"), STREAMS)
async def test_streams_of_answers(channel: grpc.aio.Channel, stub: Any, name: str, request_: Any, reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(stub(channel), name)(request_).read()
    assert info_of(caught.value).reason == reason


async def test_limits_beyond_all_measure_are_as_good_as_none(channel: grpc.aio.Channel) -> None:
    kv: Any = KVStub(channel)
    inspect: Any = InspectStub(channel)
    await kv.Put(kv_pb2.PutRequest(key=b"some", value=b"v"))
    pages = [page async for page in kv.Scan(kv_pb2.ScanRequest(limit=HUGE))]
    assert b"some" in {item.key for page in pages for item in page.items}
    (page,) = [page async for page in kv.Scan(kv_pb2.ScanRequest(start=b"z", end=b"a", limit=HUGE))]
    assert len(page.items) == 0
    for request in (
        inspect_pb2.ReadLogRequest(limit=HUGE),
        inspect_pb2.ReadLogRequest(limit=HUGE, tail=True),
        inspect_pb2.ReadLogRequest(from_index=HUGE, limit=HUGE),
    ):
        (first, *_) = [page async for page in inspect.ReadLog(request)]
        assert (len(first.entries) > 0) == (request.from_index == 0)
    saved = (await inspect.SaveSnapshot(inspect_pb2.SaveSnapshotRequest())).snapshot
    with pytest.raises(grpc.aio.AioRpcError, match="lies beyond"):
        await inspect.FetchSnapshot(inspect_pb2.FetchSnapshotRequest(name=saved.name, offset=HUGE)).read()


async def test_commands_of_a_session_fail_by_themselves(channel: grpc.aio.Channel) -> None:
    kv: Any = KVStub(channel)
    commands = [
        kv_pb2.Command(put=kv_pb2.PutRequest(key=b"good", value=b"v")),
        kv_pb2.Command(),
        kv_pb2.Command.FromString(UNKNOWN_FIELD),  # a kind of a later version
        kv_pb2.Command(put=kv_pb2.PutRequest(key=LONG)),
        kv_pb2.Command(put=kv_pb2.PutRequest(key=b"k", value=LARGE)),
        kv_pb2.Command(get=kv_pb2.GetRequest()),
        kv_pb2.Command(get=kv_pb2.GetRequest(key=b"k", consistency=9)),  # type: ignore[arg-type]
        kv_pb2.Command(get=kv_pb2.GetRequest(key=b"good")),
    ]
    call = kv.Session()
    await call.write(kv_pb2.SessionRequest(id=1, commands=commands))
    results = (await call.read()).results
    reasons = [info_of_status(each.error).reason if each.HasField("error") else "" for each in results]
    bad = ["INVALID_ARGUMENT", "INVALID_ARGUMENT", "KEY_TOO_LARGE", "VALUE_TOO_LARGE", "KEY_EMPTY", "INVALID_ARGUMENT"]
    assert reasons == ["", *bad, ""]
    assert results[-1].get.value == b"v"
    await call.done_writing()


async def test_unknown_fields_are_passed_over_and_kept_nowhere(channel: grpc.aio.Channel) -> None:
    kv: Any = KVStub(channel)
    request = kv_pb2.PutRequest(key=b"with", value=b"more")
    request.MergeFromString(UNKNOWN_FIELD)
    assert b"unseen" in request.SerializeToString()
    await kv.Put(request)
    assert (await kv.Get(kv_pb2.GetRequest(key=b"with"))).value == b"more"
    log: Any = InspectStub(channel).ReadLog(inspect_pb2.ReadLogRequest(with_data=True))
    data = b"".join([entry.data async for page in log for entry in page.entries])
    assert b"more" in data
    assert b"unseen" not in data


async def test_changes_of_the_cluster(channel: grpc.aio.Channel) -> None:
    cluster: Any = ClusterStub(channel)
    for call, request in (
        (cluster.Bootstrap, cluster_pb2.BootstrapRequest(cluster_id="x", cluster_name="n")),
        (cluster.Bootstrap, cluster_pb2.BootstrapRequest(cluster_id="a" * 32, cluster_name="ü" * 10_000)),
        (cluster.Join, cluster_pb2.JoinRequest()),
        (cluster.Join, cluster_pb2.JoinRequest(via=["h:1"] * 65)),
        (cluster.AddMember, cluster_pb2.AddMemberRequest()),
        (cluster.Promote, cluster_pb2.PromoteRequest()),
        (cluster.Promote, cluster_pb2.PromoteRequest(replica_ids=[HUGE])),
        (cluster.Leave, cluster_pb2.LeaveRequest(replica_ids=[1, 1])),
        (cluster.Leave, cluster_pb2.LeaveRequest(replica_ids=range(1, 100))),
        (cluster.Update, cluster_pb2.UpdateRequest()),
        (cluster.TransferLeader, cluster_pb2.TransferLeaderRequest(replica_id=HUGE)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
        assert info_of(caught.value).reason not in ("", "INTERNAL"), request
        assert len(caught.value.details() or "") > 20


async def test_thousands_of_bad_requests_cost_no_memory(lone: tuple[Cluster, Server], channel: grpc.aio.Channel) -> None:
    cluster, server = lone
    kv: Any = KVStub(channel)
    small = [(name, request) for name, request, _ in UNARY if request.ByteSize() < 10_000]
    oversized: Any = channel.unary_unary("/ravel.v1.KV/Put")
    garbage: Any = channel.stream_stream("/ravel.v1.KV/Session")

    async def refused(call: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await call

    async def all_of_them() -> None:
        for name, request in small:
            await asyncio.gather(*(refused(getattr(kv, name)(request)) for _ in range(10)))
        await asyncio.gather(*(refused(oversized(bytes(6 * MIB))) for _ in range(3)))
        await asyncio.gather(*(refused(kv.Put(kv_pb2.PutRequest(key=b"k", value=LARGE))) for _ in range(5)))
        session = garbage()
        await session.write(b"\xff" * 1_000)
        await refused(session.read())
        empty = kv.Session()
        await empty.write(kv_pb2.SessionRequest.FromString(b"\x12\x00" * 200_000))
        assert len((await empty.read()).results) == 1
        empty.cancel()

    await all_of_them()  # whatever is made once is made now
    async with unharmed(cluster, server, 48 * MIB) as watch:
        for _ in range(6):
            await all_of_them()
            await watch.look()


async def test_a_peer_that_is_not_who_it_says(lone: tuple[Cluster, Server]) -> None:
    """Of another cluster, for another replica, or under the id of one that is here: nothing of its messages is taken."""
    cluster, server = lone
    header = (await cluster.status(server)).header
    heartbeat = raft_pb2.Message(type=8, to=1, term=header.term + 5)
    setattr(heartbeat, "from", 2)
    async with ClusterClient([server.address], timeout_s=CALL_S) as client:
        own_id = (await client.status(server.address)).server.server_id
    right: dict[str, Any] = {
        "cluster_id": header.cluster_id,
        "from_replica_id": 2,
        "to_replica_id": 1,
        "from_server_id": "a" * 32,
    }
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"cluster_id": "d" * 32}, "WRONG_CLUSTER_ID"),
        ({"cluster_id": ""}, "WRONG_CLUSTER_ID"),
        ({"to_replica_id": 7}, "WRONG_CLUSTER_ID"),
        ({"from_replica_id": 1}, "WRONG_IDENTITY"),
        ({"from_replica_id": 1, "from_server_id": own_id}, "WRONG_IDENTITY"),  # a copy of this very directory
    ]
    async with unharmed(cluster, server, 24 * MIB), grpc.aio.insecure_channel(server.peer_address) as channel:
        stub: Any = RaftTransportStub(channel)
        for change, reason in wrong:
            for _ in range(50):
                call = stub.Exchange()
                await call.write(raft_pb2.PeerFrame(hello=raft_pb2.PeerHello(**{**right, **change}), messages=[heartbeat]))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert info_of(caught.value).reason == reason, change
        assert (await cluster.status(server)).header.term == header.term
