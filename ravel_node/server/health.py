"""The standard health service (grpc.health.v1), so that load balancers, Kubernetes probes and grpcurl can ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

from grpc_health.v1 import health_pb2

from ravel_node.replica.errors import ReplicaError
from ravel_node.server.errors import NoSuchThingError
from ravel_node.server.host import Host

WATCH_INTERVAL_S: Final = 0.5
"""How soon a watcher hears of a change."""

_Response = health_pb2.HealthCheckResponse


def is_ready(host: Host) -> bool:
    """Whether this server serves: its replica knows a leader and is not behind. A blank or stopping daemon does not."""
    try:
        return host.replica.status().ready
    except ReplicaError:
        return False


class HealthHandlers:
    """Every named service, and the server as a whole (""), is SERVING while `ready` says so."""

    def __init__(self, names: Iterable[str], ready: Callable[[], bool]) -> None:
        self._names = frozenset(["", *names])
        self._ready = ready
        self._closed = asyncio.Event()

    async def check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        if request.service not in self._names:
            raise NoSuchThingError(
                f"no service {request.service!r} is served here, but {', '.join(sorted(filter(None, self._names)))}",
                what="service",
                value=request.service,
            )
        return _Response(status=self._status())

    async def list(self, request: object) -> health_pb2.HealthListResponse:
        """Every name with its status. Only newer versions of the service have this call."""
        status = self._status()
        return health_pb2.HealthListResponse(statuses={name: _Response(status=status) for name in self._names})

    async def watch(self, request: health_pb2.HealthCheckRequest) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and after every change, until the server stops."""
        known = request.service in self._names
        last: health_pb2.HealthCheckResponse.ServingStatus | None = None
        while True:
            closed = self._closed.is_set()  # before the status: the last word is NOT_SERVING, however slowly the caller reads
            status = self._status() if known else _Response.SERVICE_UNKNOWN
            if status != last:
                yield _Response(status=status)
                last = status
            if closed:
                return
            try:
                async with asyncio.timeout(WATCH_INTERVAL_S):
                    await self._closed.wait()
            except TimeoutError:
                continue

    def _status(self) -> health_pb2.HealthCheckResponse.ServingStatus:
        return _Response.SERVING if self._ready() and not self._closed.is_set() else _Response.NOT_SERVING

    def close(self) -> None:
        """Tell every watcher NOT_SERVING and end its stream."""
        self._closed.set()
