"""Calls that name a cluster: another one's are refused before anything is done, whatever the method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ravel_node.admin.directory import DirectoryMachine
from ravel_node.server.binding import BoundServer, Service, snake_case
from ravel_node.server.cluster_check import ClusterCheck
from ravelpb.errors import Field, Reason
from ravelpb.metadata import CLUSTER_ID
from ravelpb.v1 import admin_pb2, cluster_pb2, common_pb2, inspect_pb2, kv_pb2, slots_pb2
from ravelpb.v1.cluster_pb2_grpc import ClusterStub
from tests.server.fakes import CLUSTER, FakeHost, as_host, info_of, serving

SERVICES: list[ServiceDescriptor] = [
    service
    for module in (admin_pb2, cluster_pb2, inspect_pb2, kv_pb2, slots_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
KEY_METHODS = [method for method in METHODS if method.containing_service.name in ("KV", "Slots")]
OTHER = "d" * 32


def recording(service: ServiceDescriptor, ran: list[str]) -> object:
    """A handler of every method of a service, which notes that it ran and answers with an empty message."""

    def unary(method: MethodDescriptor) -> Any:
        async def handle(request: Message) -> Message:
            ran.append(method.full_name)
            return GetMessageClass(method.output_type)()

        return handle

    def stream(method: MethodDescriptor) -> Any:
        async def handle(request: object) -> AsyncIterator[Message]:
            ran.append(method.full_name)
            yield GetMessageClass(method.output_type)()

        return handle

    made = {snake_case(method.name): (stream if method.server_streaming else unary)(method) for method in service.methods}
    return type("Handlers", (), {name: staticmethod(function) for name, function in made.items()})()


@asynccontextmanager
async def recorded(host: FakeHost, ran: list[str]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of all services whose handlers only note that they ran."""
    services = [Service(service, recording(service, ran)) for service in SERVICES]
    server = BoundServer(services, on_fatal=host.fatal.append, identity=ClusterCheck(as_host(host)))
    port = server.listen("127.0.0.1:0", None)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0.0)


async def call(channel: Any, method: MethodDescriptor, meant: str | None) -> Any:
    """Make one call with an empty request, and return the call object once it has been answered."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = None if meant is None else ((CLUSTER_ID, meant),)
    if method.client_streaming:
        made: Any = channel.stream_stream(path)(metadata=metadata)
    elif method.server_streaming:
        made = channel.unary_stream(path)(b"", metadata=metadata)
    else:
        made = channel.unary_unary(path)(b"", metadata=metadata)
        await made
        return made
    async with asyncio.timeout(20):
        assert await made.read() is not grpc.aio.EOF
    return made


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
async def test_no_handler_runs_for_a_call_that_is_meant_for_another_cluster(method: MethodDescriptor) -> None:
    ran: list[str] = []
    async with recorded(FakeHost(), ran) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(channel, method, OTHER)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        info = info_of(refused.value)
        assert info.reason == Reason.WRONG_CLUSTER_ID
        assert dict(info.metadata) == {Field.CLUSTER_ID: CLUSTER}
        assert ran == []
        await call(channel, method, CLUSTER)
        await call(channel, method, None)
        assert ran == [method.full_name] * 2


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
async def test_whoever_names_no_cluster_learns_it_from_every_answer(method: MethodDescriptor) -> None:
    """A unary answer has a header. A stream names the cluster in its initial metadata, before it has read a request."""
    if not method.server_streaming:
        assert method.output_type.fields_by_name["header"].message_type is common_pb2.ResponseHeader.DESCRIPTOR
        return
    async with recorded(FakeHost(), []) as channel:
        told = dict(await (await call(channel, method, None)).initial_metadata())
        assert told[CLUSTER_ID] == CLUSTER
        told = dict(await (await call(channel, method, CLUSTER)).initial_metadata())
        assert CLUSTER_ID not in told


@pytest.mark.parametrize("meant", ["", "c" * 31, "C" * 32, "x" * 500, OTHER])
async def test_only_the_exact_id_is_this_cluster(meant: str) -> None:
    """An empty value names no cluster."""
    ran: list[str] = []
    async with recorded(FakeHost(), ran) as channel:
        put = kv_pb2.DESCRIPTOR.services_by_name["KV"].methods_by_name["Put"]
        if not meant:
            await call(channel, put, meant)
            return
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(channel, put, meant)
        assert info_of(refused.value).reason == Reason.WRONG_CLUSTER_ID
    assert ran == []


async def test_a_daemon_without_a_cluster_answers_as_one() -> None:
    host = FakeHost.blank()
    async with serving(host) as channel:
        metadata = ((CLUSTER_ID, OTHER),)
        put: Any = channel.unary_unary("/ravel.v1.KV/Put", request_serializer=kv_pb2.PutRequest.SerializeToString)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await put(kv_pb2.PutRequest(key=b"k", value=b"v"), metadata=metadata)
        assert info_of(refused.value).reason == Reason.BLANK
        session: Any = channel.stream_stream("/ravel.v1.KV/Session")(metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as refused:  # before it has sent anything
            async with asyncio.timeout(20):
                await session.read()
        assert info_of(refused.value).reason == Reason.BLANK
        status: Any = channel.unary_unary(
            "/ravel.v1.Cluster/Status",
            request_serializer=cluster_pb2.StatusRequest.SerializeToString,
            response_deserializer=cluster_pb2.StatusResponse.FromString,
        )
        assert (await status(cluster_pb2.StatusRequest(), metadata=metadata)).blank


async def test_a_session_for_another_cluster_writes_nothing() -> None:
    host = FakeHost()
    async with serving(host) as channel:
        session: Any = channel.stream_stream("/ravel.v1.KV/Session", request_serializer=kv_pb2.SessionRequest.SerializeToString)(
            metadata=((CLUSTER_ID, OTHER),)
        )
        command = kv_pb2.Command(put=kv_pb2.PutRequest(key=b"k", value=b"v"))
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the refusal may be there before the first request
            await session.write(kv_pb2.SessionRequest(id=1, commands=[command]))
        async with asyncio.timeout(20):
            assert await session.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert host.fake.proposals == []


@pytest.mark.parametrize("method", KEY_METHODS, ids=lambda method: method.full_name)
async def test_an_admin_group_holds_no_keys(method: MethodDescriptor) -> None:
    host = FakeHost(DirectoryMachine())
    async with serving(host) as channel:
        for meant in (None, CLUSTER):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel, method, meant)
            assert info_of(refused.value).reason == Reason.ADMIN_GROUP
            assert "holds no keys" in str(refused.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(channel, method, OTHER)
        assert info_of(refused.value).reason == Reason.WRONG_CLUSTER_ID
        status = await ClusterStub(channel).Status(cluster_pb2.StatusRequest())
        assert status.header.admin_group
    assert (host.fake.proposals, host.fatal) == ([], [])
