"""The peer port as a stranger sees it: hellos, forged messages, garbage, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from ravel_node.machine.limits import REQUEST_BYTES_CEILING
from ravel_node.machine.members import write_member
from ravel_node.raft.types import Index, ReplicaId, Term
from ravel_node.replica.errors import RemovedError, WrongClusterError, WrongIdentityError
from ravel_node.server import raft as raft_handlers
from ravel_node.server.app import RpcServer, ServerOptions, build_peer_server
from ravel_node.server.limits import Limits
from ravel_node.transport.base import HashAt, Hello, ProbeAnswer, ProbeFailedError, StateHashes
from ravel_node.transport.calls import EXCHANGE, INSTALL_SNAPSHOT
from ravel_node.transport.grpc_transport import GrpcTransport
from ravel_node.transport.wire import message_to_wire
from ravelpb.v1 import raft_pb2
from tests.server.fakes import CLUSTER, FakeHost, as_host, info_of, record, server_id, start_peer_server
from tests.transport.support import Listener, append, heartbeat, snapshot_message


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def server(host: FakeHost) -> AsyncIterator[RpcServer]:
    server = await start_peer_server(host)
    yield server
    await server.stop(0.0)


@pytest.fixture
async def channel(server: RpcServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


HELLO = raft_pb2.PeerHello(
    cluster_id=CLUSTER, from_replica_id=2, to_replica_id=1, from_server_id=server_id(2), boot_id="2" * 16, version="0.1.0"
)


async def test_what_a_leader_takes_from_a_client_this_replica_takes_from_the_leader(host: FakeHost) -> None:
    """However little this replica itself would take from a client."""
    small = ServerOptions(listen="127.0.0.1:0", limits=Limits(value_bytes_max=1_000, request_bytes_max=8 << 10))
    server = build_peer_server(as_host(host), small, host.fatal.append)
    await server.start()
    large = replace(append(8, bytes(REQUEST_BYTES_CEILING + (1 << 20))), from_=ReplicaId(2), to=ReplicaId(1))
    try:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{server.port}", options=[("grpc.max_send_message_length", -1)]
        ) as channel:
            call = await exchange(channel, raft_pb2.PeerFrame(hello=HELLO), raft_pb2.PeerFrame(messages=[message_to_wire(large)]))
            await call.done_writing()
            await _read_to_the_end(call)
    finally:
        await server.stop(0.0)
    assert [message.entries for message in host.fake.stepped] == [large.entries]


async def exchange(channel: grpc.aio.Channel, *frames: raft_pb2.PeerFrame | bytes) -> Any:
    call: Any = channel.stream_stream(EXCHANGE)()
    for frame in frames:
        await call.write(frame if isinstance(frame, bytes) else frame.SerializeToString())
    return call


async def _read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """How the call ends, whatever is answered before."""
    async with asyncio.timeout(20):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_to_the_end(call)
    return caught.value.code(), info_of(caught.value).reason, str(caught.value.details())


async def test_both_ends_say_who_they_are(host: FakeHost, channel: grpc.aio.Channel) -> None:
    first = raft_pb2.PeerFrame(hello=HELLO, messages=[message_to_wire(append(1))])
    call = await exchange(channel, first, raft_pb2.PeerFrame(messages=[message_to_wire(heartbeat())]))
    answer = raft_pb2.PeerFrame.FromString(await call.read()).hello
    assert (answer.cluster_id, answer.from_replica_id, answer.to_replica_id) == (CLUSTER, 1, 2)
    assert (answer.from_server_id, answer.boot_id, answer.version) == (server_id(1), "b" * 16, "0.1.0")
    await call.done_writing()
    assert await call.read() == grpc.aio.EOF
    assert host.fake.stepped == [append(1), heartbeat()]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (RemovedError("replica 2 was removed"), "REMOVED"),
        (WrongClusterError("another"), "WRONG_CLUSTER_ID"),
        (WrongIdentityError("wiped"), "WRONG_IDENTITY"),
    ],
)
async def test_a_hello_that_is_refused_delivers_nothing(
    host: FakeHost, channel: grpc.aio.Channel, failure: Exception, reason: str
) -> None:
    host.fake.peer_failure = failure
    call = await exchange(channel, raft_pb2.PeerFrame(hello=HELLO, messages=[message_to_wire(heartbeat())]))
    assert (await refused(call))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert host.fake.stepped == []


async def test_a_replica_that_is_removed_while_its_stream_is_open_is_told(host: FakeHost, channel: grpc.aio.Channel) -> None:
    call = await exchange(channel, raft_pb2.PeerFrame(hello=HELLO, messages=[message_to_wire(heartbeat())]))
    async with asyncio.timeout(20):
        while not host.fake.stepped:
            await asyncio.sleep(0.01)
    write_member(host.fake.state, replace(record(2), removed=True))
    host.machine.open(host.fake.state)
    await call.write(raft_pb2.PeerFrame(messages=[message_to_wire(heartbeat())]).SerializeToString())
    assert (await refused(call))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "REMOVED")
    assert host.fake.stepped == [heartbeat()]


async def test_a_blank_daemon_says_so_and_can_be_probed() -> None:
    host = FakeHost.blank()
    server = await start_peer_server(host)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        assert (await refused(await exchange(channel, raft_pb2.PeerFrame(hello=HELLO))))[1] == "BLANK"
    answer = await GrpcTransport().probe(f"127.0.0.1:{server.port}", 10.0)
    assert answer == ProbeAnswer(server_id(1), "", ReplicaId(0), "0.1.0", "b" * 16)
    await server.stop(0.0)


async def test_probing_tells_why_nobody_answers(server: RpcServer) -> None:
    address = f"127.0.0.1:{server.port}"
    assert (await GrpcTransport().probe(address, 10.0)).cluster_id == CLUSTER
    await server.stop(0.0)
    with pytest.raises(ProbeFailedError, match=address):
        await GrpcTransport().probe(address, 5.0)


async def test_what_a_replica_hashed_is_told_to_its_peers(host: FakeHost, server: RpcServer) -> None:
    hashes = (HashAt(Index(5), Term(2), b"5" * 32), HashAt(Index(7), Term(3), problem="why"), HashAt(Index(9), Term(3)))
    host.fake.hashes = hashes
    transport = GrpcTransport()
    await transport.start(lambda: Hello(CLUSTER, ReplicaId(2), server_id(2), "2" * 16, "0.1.0", "127.0.0.1:1"), Listener())
    transport.add_peer(ReplicaId(1), f"127.0.0.1:{server.port}", server_id(1))
    transport.add_peer(ReplicaId(3), f"127.0.0.1:{server.port}", server_id(3))
    try:
        assert await transport.state_hashes(ReplicaId(1), 10.0) == StateHashes(host.fake.applied.index, hashes)
        with pytest.raises(ProbeFailedError, match="replica 3 was meant"):
            await transport.state_hashes(ReplicaId(3), 10.0)
        host.fake.peer_failure = RemovedError("replica 2 was removed")
        with pytest.raises(ProbeFailedError, match="replica 2 was removed"):
            await transport.state_hashes(ReplicaId(1), 10.0)
        with pytest.raises(ProbeFailedError, match="no peer"):
            await transport.state_hashes(ReplicaId(4), 10.0)
    finally:
        await transport.close()


async def test_an_older_replica_cannot_be_asked_for_hashes() -> None:
    blank = grpc.aio.server()
    port = blank.add_insecure_port("127.0.0.1:0")
    await blank.start()
    transport = GrpcTransport()
    await transport.start(lambda: Hello(CLUSTER, ReplicaId(2), server_id(2), "2" * 16, "0.1.0", "127.0.0.1:1"), Listener())
    transport.add_peer(ReplicaId(1), f"127.0.0.1:{port}", server_id(1))
    try:
        with pytest.raises(ProbeFailedError, match="of a version that does not answer this"):
            await transport.state_hashes(ReplicaId(1), 10.0)
    finally:
        await transport.close()
        await blank.stop(0.0)


async def test_who_has_dialled_is_told(host: FakeHost) -> None:
    told: list[Any] = []
    server = await start_peer_server(host, on_peer=lambda *who: told.append(who))
    hello = raft_pb2.PeerHello()
    hello.CopyFrom(HELLO)
    hello.from_address = "127.0.0.1:8002"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        await (await exchange(channel, raft_pb2.PeerFrame(hello=hello))).read()
        host.fake.peer_failure = RemovedError("gone")
        await refused(await exchange(channel, raft_pb2.PeerFrame(hello=hello)))
    assert told == [(2,)]
    await server.stop(0.0)


@pytest.mark.parametrize(("field", "value"), [("from", 3), ("to", 2)])
async def test_a_message_of_another_pair_ends_the_stream(
    host: FakeHost, channel: grpc.aio.Channel, field: str, value: int
) -> None:
    forged = message_to_wire(heartbeat())
    setattr(forged, field, value)
    call = await exchange(channel, raft_pb2.PeerFrame(hello=HELLO), raft_pb2.PeerFrame(messages=[forged]))
    assert (await refused(call))[1] == "WRONG_IDENTITY"
    assert host.fake.stepped == []


async def test_a_snapshot_without_its_file_is_refused(host: FakeHost, channel: grpc.aio.Channel) -> None:
    """The core would install a file that is not there."""
    call = await exchange(channel, raft_pb2.PeerFrame(hello=HELLO, messages=[message_to_wire(snapshot_message())]))
    assert (await refused(call))[1] == "INVALID_ARGUMENT"
    assert host.fake.stepped == []


def local() -> raft_pb2.Message:
    wire = message_to_wire(heartbeat())
    wire.type = 19  # STORAGE_APPEND
    return wire


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xff\xfe\xfd garbage"],
        [raft_pb2.PeerFrame(hello=HELLO), b"\x12\xff\xff\xff\xff\x0f"],
        [raft_pb2.PeerFrame(hello=HELLO, messages=[raft_pb2.Message(type=77)])],
        [raft_pb2.PeerFrame(hello=HELLO, messages=[local()])],
        [raft_pb2.PeerFrame(hello=HELLO), raft_pb2.PeerFrame(hello=HELLO)],
    ],
)
async def test_garbage_ends_its_stream_and_nothing_else(
    host: FakeHost, channel: grpc.aio.Channel, frames: list[raft_pb2.PeerFrame | bytes]
) -> None:
    good = await exchange(channel, raft_pb2.PeerFrame(hello=HELLO))
    await good.read()
    code, reason, _ = await refused(await exchange(channel, *frames))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    await good.write(raft_pb2.PeerFrame(messages=[message_to_wire(heartbeat(7))]).SerializeToString())
    await good.done_writing()
    assert await good.read() == grpc.aio.EOF
    assert host.fake.stepped == [heartbeat(7)]
    assert host.fatal == []


async def test_raw_bytes_on_the_port_hurt_nobody(host: FakeHost, server: RpcServer, channel: grpc.aio.Channel) -> None:
    for payload in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 50, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(payload)
        await writer.drain()
        writer.close()
    call = await exchange(channel, raft_pb2.PeerFrame(hello=HELLO))
    assert raft_pb2.PeerFrame.FromString(await call.read()).hello.from_replica_id == 1


async def test_a_caller_that_says_nothing_is_sent_away(channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_handlers, "HELLO_TIMEOUT_S", 0.1)
    assert "no hello" in (await refused(await exchange(channel)))[2]
    call = await exchange(channel)
    await call.done_writing()
    assert (await refused(call))[1] == "INVALID_ARGUMENT"


async def test_a_stopping_server_ends_its_streams_at_once(server: RpcServer, channel: grpc.aio.Channel) -> None:
    call = await exchange(channel, raft_pb2.PeerFrame(hello=HELLO))
    await call.read()
    async with asyncio.timeout(10):
        stopping = asyncio.create_task(server.stop(60.0))
        assert (await refused(call))[1] == "SHUTTING_DOWN"
        await stopping


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [raft_pb2.SnapshotChunk(offset=0, data=b"x")],
        [raft_pb2.SnapshotChunk(open=raft_pb2.SnapshotOpen(hello=HELLO, message=message_to_wire(heartbeat())))],
        [
            raft_pb2.SnapshotChunk(
                open=raft_pb2.SnapshotOpen(
                    hello=HELLO, message=message_to_wire(snapshot_message()), size_bytes=10, sha256=b"s" * 32
                )
            ),
            raft_pb2.SnapshotChunk(offset=3, data=b"x"),
        ],
        [
            raft_pb2.SnapshotChunk(
                open=raft_pb2.SnapshotOpen(
                    hello=HELLO, message=message_to_wire(snapshot_message()), size_bytes=10, sha256=b"s" * 32
                )
            ),
            raft_pb2.SnapshotChunk(offset=0, data=b"x" * 11),
        ],
        [
            raft_pb2.SnapshotChunk(
                open=raft_pb2.SnapshotOpen(
                    hello=HELLO, message=message_to_wire(snapshot_message()), size_bytes=5 << 20, sha256=b"s" * 32
                )
            ),
            raft_pb2.SnapshotChunk(offset=0, data=b"x" * ((1 << 20) + 1)),
        ],
        [
            raft_pb2.SnapshotChunk(
                open=raft_pb2.SnapshotOpen(
                    hello=HELLO, message=message_to_wire(snapshot_message()), size_bytes=10, sha256=b"s" * 32
                )
            ),
            raft_pb2.SnapshotChunk(offset=0, data=b""),
        ],
    ],
)
async def test_a_snapshot_stream_out_of_order_is_refused(
    host: FakeHost, channel: grpc.aio.Channel, chunks: list[raft_pb2.SnapshotChunk]
) -> None:
    call: Any = channel.stream_stream(INSTALL_SNAPSHOT)()
    for chunk in chunks:
        await call.write(chunk.SerializeToString())
    await call.done_writing()
    code, reason, _ = await refused(call)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert host.fake.stepped == []
    assert host.fatal == []
