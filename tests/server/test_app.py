"""The servers as a whole: addresses, health, reflection, sizes, what is served where, how they end."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ravel_node.server.app import REQUEST_SLACK_BYTES, ServerOptions, build_client_server
from ravel_node.server.binding import AddressInUseError, BoundServer, CallInfo, ListenError, Service, snake_case
from ravel_node.server.interrupts import Interrupts
from ravel_node.server.limits import Limits
from ravelpb.v1 import kv_pb2, raft_pb2
from ravelpb.v1.kv_pb2_grpc import KVStub
from ravelpb.v1.raft_pb2_grpc import RaftTransportStub
from tests.server.fakes import FakeHost, as_host, info_of, serving, start_peer_server

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_an_address_in_use_is_named_with_the_way_out() -> None:
    host = FakeHost()
    first = await start_peer_server(host)
    address = f"127.0.0.1:{first.port}"
    second = build_client_server(as_host(host), ServerOptions(address), host.fatal.append)
    with pytest.raises(AddressInUseError, match=f"{address}.*in use.*ss -ltnp"):
        await second.start()
    await second.stop(0.0)
    await first.stop(0.0)
    again = await start_peer_server(host, address)  # and a stopped one lets go of it at once
    assert again.port == first.port
    await again.stop(0.0)


async def test_connections_beyond_the_bound_are_closed_until_another_ends() -> None:
    server = build_client_server(as_host(FakeHost()), ServerOptions("127.0.0.1:0", connections_max=2), print)
    await server.start()

    async def connected() -> grpc.aio.Channel:
        alone = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50)]
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=alone)
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        except grpc.aio.AioRpcError:
            await channel.close()
            raise
        return channel

    channels = [await connected() for _ in range(2)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connected()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await channels.pop().close()
    async with asyncio.timeout(20):
        while len(channels) < 2:
            try:
                channels.append(await connected())
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
    for channel in channels:
        await channel.close()
    await server.stop(0.0)


@pytest.mark.parametrize("address", ["nosuch.invalid:7400", "203.0.113.7:7400", "127.0.0.1:99999", "127.0.0.1:nonsense"])
async def test_an_address_that_is_not_ours_is_named(address: str) -> None:
    server = build_client_server(as_host(FakeHost()), ServerOptions(address), print)
    with pytest.raises(ListenError, match=address) as caught:
        await server.start()
    assert not isinstance(caught.value, AddressInUseError)
    await server.stop(0.0)


async def test_health_follows_the_replica() -> None:
    host = FakeHost()
    async with serving(host) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def status(service: str) -> int:
            return int((await health.Check(health_pb2.HealthCheckRequest(service=service))).status)

        assert [await status(name) for name in ("", "ravel.v1.KV", "ravel.v1.Cluster", "ravel.v1.Inspect")] == [SERVING] * 4
        host.fake.ready = False
        assert await status("") == await status("ravel.v1.KV") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status("no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        if hasattr(health, "List"):  # newer than the oldest version that we run with
            listed = await health.List(health_pb2.HealthListRequest())
            assert set(listed.statuses) == {"", "ravel.v1.KV", "ravel.v1.Cluster", "ravel.v1.Inspect"}
    async with serving(FakeHost.blank()) as channel:
        blank: Any = health_pb2_grpc.HealthStub(channel)
        assert (await blank.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING


async def test_watchers_hear_of_changes_and_of_the_end() -> None:
    host = FakeHost()
    server = build_client_server(as_host(host), ServerOptions("127.0.0.1:0"), host.fatal.append)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch, unknown = health.Watch(health_pb2.HealthCheckRequest()), health.Watch(health_pb2.HealthCheckRequest(service="x"))
        async with asyncio.timeout(20):
            assert (await watch.read()).status == SERVING
            assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            host.fake.ready = False
            assert (await watch.read()).status == NOT_SERVING
            host.fake.ready = True
            assert (await watch.read()).status == SERVING
            stopping = asyncio.create_task(server.stop(60.0))
            assert (await watch.read()).status == NOT_SERVING
            assert await watch.read() == grpc.aio.EOF
            await stopping


async def test_reflection_names_the_services_of_the_client_port() -> None:
    async with serving(FakeHost()) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="ravel.v1.KV"),
        ]
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"ravel.v1.KV", "ravel.v1.Cluster", "ravel.v1.Inspect", "grpc.health.v1.Health"} <= names
    assert "ravel.v1.RaftTransport" not in names
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_no_client_reaches_raft_and_no_peer_the_store() -> None:
    host = FakeHost()
    async with serving(host) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await RaftTransportStub(channel).Probe(raft_pb2.ProbeRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    server = await start_peer_server(host)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await KVStub(channel).Get(kv_pb2.GetRequest(key=b"k"))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.stop(0.0)


async def test_what_is_somewhat_too_large_gets_our_error_and_the_rest_the_librarys() -> None:
    limits = Limits(value_bytes_max=1000, request_bytes_max=2000)
    async with serving(FakeHost(), limits=limits) as channel:
        kv: Any = KVStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v" * (REQUEST_SLACK_BYTES - 10)))
        assert info_of(caught.value).reason == "VALUE_TOO_LARGE"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v" * (REQUEST_SLACK_BYTES + 3000)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v"))).revision == 1


async def test_bytes_that_are_no_message_are_an_invalid_argument() -> None:
    async with serving(FakeHost()) as channel:
        for method in ("/ravel.v1.KV/Put", "/ravel.v1.KV/Scan"):
            make: Any = channel.unary_unary(method) if method.endswith("Put") else channel.unary_stream(method)
            call = make(b"\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call if method.endswith("Put") else call.read())
            assert (caught.value.code(), info_of(caught.value).reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_ARGUMENT",
            )


# --- the binding itself


def test_names_of_methods() -> None:
    assert [snake_case(name) for name in ("Put", "GetAndDelete", "ServerReflectionInfo", "List")] == [
        "put",
        "get_and_delete",
        "server_reflection_info",
        "list",
    ]


async def test_a_handler_without_a_method_is_a_bug_that_shows_at_once() -> None:
    service = Service(kv_pb2.DESCRIPTOR.services_by_name["KV"], object())
    with pytest.raises(Exception, match="has no method"):
        BoundServer([service], on_fatal=lambda error: None)


class Nosy:
    """Handlers that ask who calls."""

    async def probe(self, request: raft_pb2.ProbeRequest, info: CallInfo) -> raft_pb2.ProbeResponse:
        return raft_pb2.ProbeResponse(version=info.peer)

    async def state_hashes(self, request: raft_pb2.StateHashesRequest) -> raft_pb2.StateHashesResponse:
        return raft_pb2.StateHashesResponse()

    async def member(self, request: raft_pb2.MemberRequest) -> raft_pb2.MemberResponse:
        return raft_pb2.MemberResponse()

    async def exchange(self, frames: Any, info: CallInfo) -> Any:
        async for _ in frames:
            yield raft_pb2.PeerFrame(hello=raft_pb2.PeerHello(version=info.peer))

    async def install_snapshot(self, chunks: Any) -> Any:
        yield raft_pb2.SnapshotProgress(received_bytes=1)
        raise RuntimeError("a fault after the first answer")


async def test_handlers_that_ask_are_told_who_calls_and_late_faults_end_the_stream() -> None:
    server = BoundServer([Service(raft_pb2.DESCRIPTOR.services_by_name["RaftTransport"], Nosy())], on_fatal=lambda error: None)
    port = server.listen("127.0.0.1:0", None)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = RaftTransportStub(channel)
        assert "127.0.0.1" in (await stub.Probe(raft_pb2.ProbeRequest())).version
        call = stub.Exchange(iter([raft_pb2.PeerFrame()]))
        assert "127.0.0.1" in (await call.read()).hello.version
        failing = stub.InstallSnapshot(iter([]))
        assert (await failing.read()).received_bytes == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await failing.read()
        assert info_of(caught.value).reason == "INTERNAL"
    await server.stop(0.0)
    await server.stop(0.0)


# --- interrupts


async def test_interrupts_end_waits_now_and_later() -> None:
    interrupts = Interrupts()
    waits = [asyncio.create_task(interrupts.guard(asyncio.get_running_loop().create_future())) for _ in range(2)]
    await asyncio.sleep(0)
    assert await interrupts.guard(asyncio.sleep(0, "through")) == "through"
    interrupts.interrupt(KeyError("first"))
    interrupts.interrupt(ValueError("second"))
    for result in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(result, KeyError)
    with pytest.raises(KeyError):
        await interrupts.guard(asyncio.sleep(0))


async def test_a_timeout_of_the_work_is_its_own() -> None:
    async def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await Interrupts().guard(late())


@pytest.mark.parametrize(
    "say", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"], ids=["nothing", "settings"]
)
async def test_a_connection_that_does_not_answer_is_closed(say: bytes) -> None:
    """A host that vanished, or a client that connects and then hangs, does not take a place for ever."""
    options = ServerOptions("127.0.0.1:0", keepalive_time_s=1.0, keepalive_timeout_s=1.0)
    server = build_client_server(as_host(FakeHost()), options, print)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(say)
    async with asyncio.timeout(30.0):
        while await reader.read(1_024):
            pass
    writer.close()
    await server.stop(0.0)
