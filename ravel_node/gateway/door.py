"""What all handlers share: the clients behind the gateway, and how much it takes at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response

from ravel_node.gateway.errors import HttpError, from_client
from ravel_node.gateway.observing import GatewayMetrics
from ravel_node.log_output import LogCounts
from ravelctl.client import (
    Condition,
    Consistency,
    DeleteResult,
    KeyValue,
    Operation,
    PutResult,
    RavelError,
    SwapResult,
    WriteResult,
)
from ravelpb.errors import Reason
from ravelpb.v1.admin_pb2 import DirectoryResponse

REQUESTS_MAX: Final = 1_024
BODY_BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bounds of one gateway. Bytes; requests that are being served at once."""

    body_bytes_max: int = BODY_BYTES_MAX
    requests_max: int = REQUESTS_MAX


class Keys(Protocol):
    """What the gateway needs of RavelClient."""

    async def prepare(self, *, timeout_s: float | None = ...) -> None: ...

    async def put(self, key: bytes, value: bytes) -> PutResult: ...

    async def get(self, key: bytes, *, consistency: Consistency = ...) -> KeyValue | None: ...

    async def delete(self, key: bytes) -> DeleteResult: ...

    async def compare_and_swap(self, key: bytes, value: bytes, *, expected_revision: int) -> SwapResult: ...

    async def write(self, operations: Sequence[Operation], *, conditions: Sequence[Condition] = ...) -> WriteResult: ...

    def scan(
        self,
        *,
        prefix: bytes | None = ...,
        start: bytes = ...,
        end: bytes | None = ...,
        limit: int = ...,
        keys_only: bool = ...,
        consistency: Consistency = ...,
        page_keys_max: int = ...,
    ) -> AsyncGenerator[KeyValue, None]: ...


class Directory(Protocol):
    """What the gateway needs of AdminClient."""

    async def directory(self) -> DirectoryResponse: ...


class Door:
    """Shared by all requests. Used on one event loop."""

    def __init__(self, client: Keys, admin: Directory, limits: GatewayLimits, logged: LogCounts | None = None) -> None:
        self.client = client
        self.admin = admin
        self.limits = limits
        self.metrics = GatewayMetrics(logged)
        self.serving = 0  # requests

    def guarded(self, handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """A handler that is refused above the bound, and whose errors become answers."""

        async def serve(request: Request) -> Response:
            if self.serving >= self.limits.requests_max:
                return _too_many(self.limits.requests_max).response()
            self.serving += 1
            try:
                return await handle(request)
            except HttpError as refused:
                return refused.response()
            except RavelError as error:
                return from_client(error).response()
            finally:
                self.serving -= 1

        return serve


def _too_many(limit: int) -> HttpError:
    return HttpError(503, Reason.BUSY, f"{limit} requests are being served already", next_step="try again, or run more gateways")
