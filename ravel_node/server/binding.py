"""The only file that knows the RPC library: it binds plain handlers to a grpc.aio server.

A handler is an object with one method for each RPC of a service, named in snake case:

- unary: `async def put(self, request) -> response`;
- server stream: `def scan(self, request) -> AsyncIterator[response]`;
- both streams: `def session(self, requests) -> AsyncIterator[response]`, where `requests` is an async iterator.

A method that also wants to know who calls takes a second argument, a `CallInfo`. Cancellation by the caller, or by the server's
stop, reaches a handler as `asyncio.CancelledError` at its next await. Handlers raise our typed exceptions; `errors.py` says what
they become.

grpc.aio costs about 200 microseconds a call, so everything is done in the coroutine of the call: no interceptors, no context
object for handlers, and messages are parsed here so that bytes which are no message get the same kind of error as everything
else. `_admitted` is the one way in: it refuses a call that names another cluster, and turns every exception into a status.
"""

from __future__ import annotations

import errno
import inspect
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol, TypeAlias

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from ravel_node.raft.errors import invariant
from ravel_node.server.errors import FATAL, fault_id, is_refusal, to_rpc_status
from ravel_node.server.limits import InputError
from ravelpb.metadata import CLUSTER_ID

PORT_MAX: Final = 65_535
STATUS_DETAILS: Final = "grpc-status-details-bin"
_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}
_log = structlog.get_logger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Parse: TypeAlias = Callable[[bytes], Message]


class ListenError(Exception):
    """A server could not listen where it was told to; the message names the address, the cause and the way out."""


class AddressInUseError(ListenError):
    """Another process listens there."""


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What a handler may want to know of its call beside the request."""

    peer: str  # where the caller dials from, as "ipv4:127.0.0.1:40000"
    peer_names: tuple[str, ...] | None = None  # names and addresses in the certificate that it showed; None: it showed none


def _info(context: Context) -> CallInfo:
    shown = context.auth_context()
    if "x509_pem_cert" not in shown:
        return CallInfo(context.peer())
    names = (raw.decode("ascii", "replace") for raw in shown.get("x509_subject_alternative_name", ()))
    return CallInfo(context.peer(), tuple(names))


class ClusterIdentity(Protocol):
    """The cluster of the daemon, and the rule for calls that name one."""

    @property
    def cluster_id(self) -> str:
        """Empty while the daemon belongs to no cluster."""
        ...

    def check(self, meant: str, /) -> None:
        """Raise the refusal of a call that is meant for another cluster."""
        ...


class OnFatal(Protocol):
    """Told of an InvariantError or StoreFailedError that came out of a handler. Called on the loop; must not raise."""

    def __call__(self, error: Exception, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Service:
    """A service and the object that handles its calls."""

    descriptor: ServiceDescriptor
    handler: object
    refusal: Exception | None = None  # what every call ends in, of a service that this daemon must not offer

    @property
    def name(self) -> str:
        return str(self.descriptor.full_name)


class BoundServer:
    """One listening port. Made, started and stopped on one loop."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        on_fatal: OnFatal,
        options: Sequence[tuple[str, int]] = (),
        calls_max: int | None = None,
        identity: ClusterIdentity | None = None,
    ) -> None:
        """With `identity` a call that names another cluster in its metadata is refused before its handler runs."""
        # Sharing a port would let two daemons both believe that they own it, each getting half of the calls.
        self._server = grpc.aio.server(options=[*options, ("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=calls_max)
        self._server.add_generic_rpc_handlers([_generic_handler(service, on_fatal, identity) for service in services])

    def listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Bind `address` ("host:port"; port 0 lets the system choose) and return the port. Raises ListenError."""
        _check_address(address)
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {address}, which was free a moment ago: {error}") from error

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, let those under way end for `grace_s`, then cancel them. Safe to call twice."""
        await self._server.stop(grace_s)


def _check_address(address: str) -> None:
    """Raise ListenError unless every address that `address` stands for can be bound.

    The library takes any port modulo 65,536, is content when one of several addresses of a name is free, and tells no cause.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > PORT_MAX:
        raise ListenError(f"cannot listen on {address}: give host:port, with a port from 0 (any free one) to {PORT_MAX}")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(
            f"cannot listen on {address}: {_lower(error)}; give host:port with a name or address of this machine"
        ) from error
    for family, kind, protocol, _, target in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(target)
                probe.listen(1)
            except OSError as error:
                raise _why_not(address, port, error) from error


def _why_not(address: str, port: str, error: OSError) -> ListenError:
    match error.errno:
        case errno.EADDRINUSE:
            return AddressInUseError(
                f"cannot listen on {address}: the address is in use; stop the process that holds it "
                f"(`ss -ltnp 'sport = :{port}'` names it) or choose another port"
            )
        case errno.EACCES:
            return ListenError(f"cannot listen on {address}: ports below 1024 need privileges; choose a higher port")
    return ListenError(f"cannot listen on {address}: {_lower(error)}; give an address of this machine")


def _lower(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or error)
    return text[:1].lower() + text[1:]


# --- handlers


def snake_case(name: str) -> str:
    """`GetAndDelete` -> `get_and_delete`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _generic_handler(service: Service, on_fatal: OnFatal, identity: ClusterIdentity | None) -> grpc.GenericRpcHandler:
    methods = {method.name: _method_handler(service, method, on_fatal, identity) for method in service.descriptor.methods}
    return grpc.method_handlers_generic_handler(service.name, methods)


def _method_handler(
    service: Service, method: MethodDescriptor, on_fatal: OnFatal, identity: ClusterIdentity | None
) -> grpc.RpcMethodHandler[bytes, bytes]:
    name = snake_case(method.name)
    invariant(
        hasattr(service.handler, name), f"{type(service.handler).__name__} has no method {name} for {service.name}/{method.name}"
    )
    function: Callable[..., Any] = getattr(service.handler, name)
    parse = GetMessageClass(method.input_type).FromString
    refuse = _Refusals(f"{service.name}/{method.name}", on_fatal)
    wants_info = len(inspect.signature(function).parameters) > 1
    if method.client_streaming:
        invariant(method.server_streaming, f"{service.name}/{method.name}: calls that stream only requests are not bound")
        return grpc.stream_stream_rpc_method_handler(
            _admitted(_both_streams(function, parse, wants_info), refuse, identity, service.refusal, True)
        )
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(
            _admitted(_server_stream(function, parse, wants_info), refuse, identity, service.refusal, True)
        )
    return grpc.unary_unary_rpc_method_handler(
        _admitted(_unary(function, parse, wants_info), refuse, identity, service.refusal, False)
    )


def _admitted(
    serve: Callable[[Any, Context], Awaitable[Any]],
    refuse: _Refusals,
    identity: ClusterIdentity | None,
    refusal: Exception | None,
    streams: bool,
) -> Callable[..., Any]:
    """Return the handler that every call goes through: the check of the cluster, the work, and what becomes of a refusal."""

    async def call(raw: Any, context: Context) -> Any:
        try:
            if identity is not None:
                if meant := _meant_cluster(context):
                    identity.check(meant)
                elif streams and (own := identity.cluster_id):
                    with suppress(grpc.aio.InternalError, grpc.aio.UsageError):  # the caller has left already
                        await context.send_initial_metadata(((CLUSTER_ID, own),))
            if refusal is not None:
                raise refusal.with_traceback(None)  # one error for all calls: it must not gather the frames of each
            return await serve(raw, context)
        except Exception as error:
            await refuse(context, error)

    return call


def _meant_cluster(context: Context) -> str:
    """Return the id of the cluster that the caller means; empty if it names none."""
    for key, value in context.invocation_metadata() or ():
        if key == CLUSTER_ID:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""


class _Refusals:
    """Ends the calls of one method that failed."""

    def __init__(self, method: str, on_fatal: OnFatal) -> None:
        self._method = method
        self._on_fatal = on_fatal

    async def __call__(self, context: Context, error: Exception) -> NoReturn:
        """Abort the call with what `error` becomes. Always raises the library's own signal."""
        if isinstance(error, DecodeError):
            error = InputError(
                f"the bytes sent to {self._method} are not the message it takes: client and server use different protocols",
                field="request",
            )
        status = to_rpc_status(error)
        if isinstance(error, FATAL):
            self._on_fatal(error)
        if not is_refusal(error):
            _log.error("server.internal_error", method=self._method, id=fault_id(status), exc_info=error)
        await context.abort(_CODES[status.code], status.message, ((STATUS_DETAILS, status.SerializeToString()),))


class _Requests:
    """The request stream of a call as an async iterator of messages. Raises DecodeError for bytes that are none."""

    __slots__ = ("_parse", "_read")

    def __init__(self, context: Context, parse: Parse) -> None:
        self._read: Callable[[], Awaitable[Any]] = context.read
        self._parse = parse

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Message:
        raw = await self._read()
        if raw is grpc.aio.EOF:
            raise StopAsyncIteration
        return self._parse(raw)


def _unary(function: Callable[..., Any], parse: Parse, wants_info: bool) -> Callable[[Any, Context], Awaitable[bytes]]:
    async def serve(raw: bytes, context: Context) -> bytes:
        request = parse(raw)
        response: Message = await (function(request, _info(context)) if wants_info else function(request))
        return response.SerializeToString()

    return serve


def _server_stream(function: Callable[..., Any], parse: Parse, wants_info: bool) -> Callable[[Any, Context], Awaitable[None]]:
    async def serve(raw: bytes, context: Context) -> None:
        request = parse(raw)
        await _write_all(function(request, _info(context)) if wants_info else function(request), context)

    return serve


def _both_streams(function: Callable[..., Any], parse: Parse, wants_info: bool) -> Callable[[Any, Context], Awaitable[None]]:
    async def serve(_: object, context: Context) -> None:
        requests = _Requests(context, parse)
        await _write_all(function(requests, _info(context)) if wants_info else function(requests), context)

    return serve


class _Encodes(Protocol):
    """A message, or what was encoded as one already."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802


async def _write_all(responses: AsyncGenerator[_Encodes, None], context: Context) -> None:
    """Write each response once the one before has left: a slow caller slows its handler and nobody else.

    Ends early, and quietly, for a caller who has left in the middle of a response: that is no fault of anybody here.
    """
    async with aclosing(responses):
        async for response in responses:
            raw = response.SerializeToString()
            try:
                await context.write(raw)
            except (grpc.aio.InternalError, grpc.aio.UsageError):  # the call is over
                return
