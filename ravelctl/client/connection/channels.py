"""Channels to one endpoint each: their options, their credentials, and the metadata of their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc import aio

from ravelctl.client.connection.owner import check_process, note_channel
from ravelctl.client.connection.tls import TlsOptions
from ravelpb.metadata import CLUSTER_ID

ChannelFactory = Callable[[str], aio.Channel]
"""Makes the channel to one endpoint ("host:port"): the place for credentials."""

CHANNEL_OPTIONS: Final = (
    # An answer is as large as the values it holds, which the server bounds by the size of the request.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The client repeats calls by itself and must know for each whether it can have reached a server.
    ("grpc.enable_retries", 0),
    # A channel that was dropped because its server hung must not come back with the same connection.
    ("grpc.use_local_subchannel_pool", 1),
    # Back-off is the client's own (RetryPolicy); the second one also bounds an attempt to connect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A connection that died without a word (a host that lost its power) is found even while no call uses it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it gRPC waits a minute for the answer, whatever the line above says
    # Clusters are dialled directly: a proxy for web pages in the environment is not meant for them.
    ("grpc.enable_http_proxy", 0),
)


def plain_channel(endpoint: str) -> aio.Channel:
    """Return a channel without TLS: the default of a client that has neither TLS options nor a factory."""
    return aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)


def secure_channels(tls: TlsOptions) -> ChannelFactory:
    """Return a factory of channels with TLS. Reads the files, once: raises InvalidArgumentError with every fault in them."""
    tls.check()
    ca, cert, key = (path.read_bytes() if path is not None else None for path in (tls.ca, tls.cert, tls.key))
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    return lambda endpoint: aio.secure_channel(endpoint, credentials, options=CHANNEL_OPTIONS)


def open_channel(factory: ChannelFactory, endpoint: str) -> aio.Channel:
    """Return a new channel. Raises ClientMisusedError in a process where gRPC cannot work."""
    check_process()
    return note_channel(factory(endpoint))


class ClusterChannel(aio.Channel):
    """A channel whose calls name the cluster that they are meant for.

    `meant` is asked at each call: a client that does not know its cluster yet learns it from the first answer. Stubs are made
    over it as over any channel; it makes the calls of a stub only when they are used, so a stub costs little.
    """

    def __init__(self, channel: aio.Channel, meant: Callable[[], str]) -> None:
        self._channel = channel
        self._meant = meant

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        return _Call(self._channel.unary_unary, method, arguments, options, self._meant)

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return _Call(self._channel.unary_stream, method, arguments, options, self._meant)

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        return _Call(self._channel.stream_unary, method, arguments, options, self._meant)

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        return _Call(self._channel.stream_stream, method, arguments, options, self._meant)

    async def __aenter__(self) -> ClusterChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()


class _Call:
    """One method of a stub."""

    __slots__ = ("_arguments", "_make", "_meant", "_method", "_options")

    def __init__(
        self,
        make: Callable[..., Any],
        method: str,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        meant: Callable[[], str],
    ) -> None:
        self._make = make
        self._method = method
        self._arguments = arguments
        self._options = options
        self._meant = meant

    def __call__(self, *request: Any, **options: Any) -> Any:
        if cluster_id := self._meant():
            options["metadata"] = (*(options.get("metadata") or ()), (CLUSTER_ID, cluster_id))
        return self._make(self._method, *self._arguments, **self._options)(*request, **options)
