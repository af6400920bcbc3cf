"""Daemons in memory, reached through channels without sockets: for tests on virtual time, where a deadline is exact.

`Network` is the channel factory of a client under test. Each `Daemon` is one address. A handler is what a test sets for a method:
a function of the request that returns the answer, a Status to refuse with, or a coroutine of either; of a stream an async
generator of answers. Real daemons refuse calls that name another cluster before the handler runs, and so do these.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.rpc import status_pb2
from grpc import aio

from ravelpb.errors import Field, Reason
from ravelpb.metadata import CLUSTER_ID
from ravelpb.v1 import cluster_pb2, kv_pb2
from ravelpb.v1.common_pb2 import ResponseHeader
from tests.ravelctl.client.fake_server import make_status

MINE = "a" * 32
OTHER = "b" * 32


def refusal(reason: Reason, message: str = "no", **fields: str) -> status_pb2.Status:
    return make_status(reason, message, {Field(key): value for key, value in fields.items()})


def rpc_error(code: grpc.StatusCode, details: str = "", status: status_pb2.Status | None = None) -> aio.AioRpcError:
    trailing = aio.Metadata() if status is None else aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return aio.AioRpcError(code, aio.Metadata(), trailing, details)


class Daemon:
    """One daemon. `meant` holds the cluster that each call named, by method; `at` the virtual time of each call."""

    def __init__(self, address: str, cluster_id: str = MINE) -> None:
        self.address = address
        self.cluster_id = cluster_id
        self.reachable = True
        self.connects_after_s: float | None = None  # then it is reachable
        self.handlers: dict[str, Callable[..., Any]] = {"Status": lambda request: cluster_pb2.StatusResponse(header=self.header)}
        self.calls: Counter[str] = Counter()
        self.meant: list[tuple[str, str]] = []
        self.at: list[float] = []
        self.dropped_at: list[float] = []  # when the client closed its channels
        self.written: list[Any] = []  # requests on streams, as the client handed them over

    @property
    def header(self) -> ResponseHeader:
        return ResponseHeader(cluster_id=self.cluster_id, replica_id=1)

    def admit(self, method: str, metadata: Any) -> None:
        """Count a call, and refuse it as a real daemon does. Raises AioRpcError."""
        meant = dict(metadata or ()).get(CLUSTER_ID, "")
        self.calls[method] += 1
        self.meant.append((method, meant))
        self.at.append(asyncio.get_running_loop().time())
        if method not in self.handlers:
            raise rpc_error(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        if meant and self.cluster_id and meant != self.cluster_id:
            raise refused(refusal(Reason.WRONG_CLUSTER_ID, "meant for another cluster", cluster_id=self.cluster_id))


def refused(status: status_pb2.Status) -> aio.AioRpcError:
    return rpc_error(grpc.StatusCode.FAILED_PRECONDITION, status.message, status)


class Network:
    """The daemons by address. Called with an endpoint it makes a channel."""

    def __init__(self, *addresses: str) -> None:
        self.daemons = {address: Daemon(address) for address in addresses}
        self.opened: Counter[str] = Counter()
        self._channels: list[Channel] = []

    def __getitem__(self, address: str) -> Daemon:
        return self.daemons.setdefault(address, Daemon(address))

    def __call__(self, endpoint: str) -> Any:
        self.opened[endpoint] += 1
        channel = Channel(self[endpoint])
        self._channels.append(channel)
        return channel

    def break_streams(self, endpoint: str) -> None:
        """End every stream to this address, as the death of its daemon does; the channels stay."""
        for channel in self._channels:
            channel.break_streams(endpoint)


class Channel:
    """What the client uses of an aio.Channel."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._streams: list[Stream] = []

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.READY if self._daemon.reachable else grpc.ChannelConnectivity.CONNECTING

    async def wait_for_state_change(self, last: grpc.ChannelConnectivity) -> None:
        if self._daemon.connects_after_s is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(self._daemon.connects_after_s)
            self._daemon.reachable = True

    def break_streams(self, endpoint: str) -> None:
        if self._daemon.address == endpoint:
            for stream in self._streams:
                stream.break_off("broken")

    async def close(self, grace: float | None = None) -> None:
        self._daemon.dropped_at.append(asyncio.get_running_loop().time())
        for stream in self._streams:
            stream.break_off("closed")

    def unary_unary(self, path: str, **_: Any) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, *, timeout: float | None = None, metadata: Any = None) -> Any:  # noqa: ASYNC109 - gRPC's name
            method = path.rpartition("/")[2]
            self._daemon.admit(method, metadata)
            return await _answer(self._daemon.handlers[method](request))

        return call

    def unary_stream(self, path: str, **_: Any) -> Callable[..., Stream]:
        def call(request: Any, *, timeout: float | None = None, metadata: Any = None) -> Stream:
            return self._opened(Stream(self._daemon, path.rpartition("/")[2], metadata, request))

        return call

    def stream_stream(self, path: str, **_: Any) -> Callable[..., Stream]:
        def call(*, metadata: Any = None) -> Stream:
            return self._opened(Stream(self._daemon, path.rpartition("/")[2], metadata, None))

        return call

    stream_unary = stream_stream

    def _opened(self, stream: Stream) -> Stream:
        self._streams.append(stream)
        return stream


async def _answer(found: Any) -> Any:
    if inspect.isawaitable(found):
        found = await found
    if isinstance(found, status_pb2.Status):
        raise refused(found)
    if isinstance(found, Exception):
        raise found
    return found


class Stream:
    """A stream that a handler serves: an async generator function of the request, or of an iterator of requests."""

    def __init__(self, daemon: Daemon, method: str, metadata: Any, request: Any) -> None:
        self._meant = dict(metadata or ()).get(CLUSTER_ID, "")
        self._daemon = daemon
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._over: Any = None
        self._task = asyncio.get_running_loop().create_task(self._serve(method, metadata, request))

    async def _serve(self, method: str, metadata: Any, request: Any) -> None:
        try:
            self._daemon.admit(method, metadata)
            async for answer in self._daemon.handlers[method](self._iterated() if request is None else request):
                self._answers.put_nowait(await _answer(answer))
        except aio.AioRpcError as error:
            self._answers.put_nowait(error)
        else:
            self._answers.put_nowait(aio.EOF)

    async def _iterated(self) -> AsyncIterator[Any]:
        while True:
            yield await self._requests.get()

    async def write(self, request: Any) -> None:
        if self._over is not None:
            raise asyncio.InvalidStateError("the stream is over")
        self._daemon.written.append(request)
        self._requests.put_nowait(request)

    async def read(self) -> Any:
        if self._over is None:
            answer = await self._answers.get()
            if answer is not aio.EOF and not isinstance(answer, Exception):
                return answer
            self._over = answer
        if isinstance(self._over, Exception):
            raise self._over
        return self._over

    async def initial_metadata(self) -> Any:
        return () if self._meant else ((CLUSTER_ID, self._daemon.cluster_id),)

    def cancel(self) -> bool:
        return self._task.cancel()

    def break_off(self, details: str) -> None:
        self._task.cancel()
        self._answers.put_nowait(rpc_error(grpc.StatusCode.CANCELLED, details))


class Cluster:
    """The keys of one cluster behind some daemons: every one of them serves commands, unless the test says otherwise.

    `requests` are the Session requests as they came, `applied` counts how often each value was put.
    """

    def __init__(self, *daemons: Daemon) -> None:
        self.requests: list[kv_pb2.SessionRequest] = []
        self.applied: Counter[bytes] = Counter()
        self.sessions = 0
        self.left = 0  # changes of membership
        self.answer_after_s = 0.0
        self.silent = False  # requests are taken and never answered
        self.held: list[asyncio.Event] = []  # the next requests wait for these, in order
        for daemon in daemons:
            daemon.handlers["Session"] = lambda requests, daemon=daemon: self.session(daemon, requests)
            daemon.handlers["RegisterSession"] = lambda request, daemon=daemon: self.register(daemon)
            daemon.handlers["Scan"] = lambda request, daemon=daemon: self.scan(daemon, request)
            daemon.handlers["Watch"] = lambda request, daemon=daemon: self.watch(daemon, request)
            daemon.handlers["Leave"] = lambda request, daemon=daemon: self.leave(daemon)

    def register(self, daemon: Daemon) -> kv_pb2.RegisterSessionResponse:
        self.sessions += 1
        return kv_pb2.RegisterSessionResponse(client_id=self.sessions, header=daemon.header)

    async def session(self, daemon: Daemon, requests: AsyncIterator[kv_pb2.SessionRequest]) -> AsyncIterator[Any]:
        async for request in requests:
            self.requests.append(request)
            if self.silent:
                await asyncio.Event().wait()
            if self.held:
                await self.held.pop(0).wait()
            await asyncio.sleep(self.answer_after_s)
            yield kv_pb2.SessionResponse(id=request.id, results=map(self.run, request.commands), header=daemon.header)

    async def scan(self, daemon: Daemon, request: kv_pb2.ScanRequest) -> AsyncIterator[Any]:
        yield kv_pb2.ScanResponse(items=[kv_pb2.KeyValue(key=b"k", value=b"v", revision=1)], header=daemon.header)

    async def watch(self, daemon: Daemon, request: kv_pb2.WatchRequest) -> AsyncIterator[Any]:
        yield kv_pb2.WatchResponse(revision=1, header=daemon.header)
        while True:
            await asyncio.sleep(1.0)
            yield kv_pb2.WatchResponse(revision=1, header=daemon.header)

    def leave(self, daemon: Daemon) -> cluster_pb2.ChangeResponse:
        self.left += 1
        return cluster_pb2.ChangeResponse(header=daemon.header)

    def run(self, command: kv_pb2.Command) -> kv_pb2.Result:
        if command.HasField("put"):
            self.applied[command.put.value] += 1
            return kv_pb2.Result(put=kv_pb2.PutResponse(revision=1))
        return kv_pb2.Result(get=kv_pb2.GetResponse(revision=1, value=b"v", found=True))
