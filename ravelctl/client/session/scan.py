"""A scan that survives its server: pages in key order, resumed after the last key when the server fails or the leader changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from grpc import aio

from ravelctl.client.connection.attempts import Attempts
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.failures import ConnectionLostError, channel_closed, timed_out
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import RavelError
from ravelctl.client.types import KEY_BYTES_MAX, Consistency
from ravelpb.v1.kv_pb2 import STALE, ScanRequest, ScanResponse
from ravelpb.v1.kv_pb2 import Consistency as ConsistencyNumber
from ravelpb.v1.kv_pb2_grpc import KVStub


def range_of_prefix(prefix: bytes) -> tuple[bytes, bytes]:
    """Return the range [start, end) of the keys that begin with `prefix`; an empty end: to the last key."""
    return prefix, _above(prefix)


def next_key(key: bytes) -> bytes | None:
    """Return the lowest key that a cluster can hold above this one; None: there is none.

    A key of the greatest length has no longer key after it, and a server refuses a bound that is longer than any key.
    """
    if len(key) < KEY_BYTES_MAX:
        return key + b"\x00"
    return _above(key) or None


def _above(stem: bytes) -> bytes:
    """Return the lowest string above all that begin with `stem`; empty: there is none."""
    stem = stem.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


def scan_request(
    *,
    prefix: bytes | None,
    start: bytes,
    end: bytes | None,
    limit: int,
    keys_only: bool,
    consistency: Consistency,
    page_keys_max: int,
) -> ScanRequest | None:
    """Return the request for the keys that are in both the prefix and the range; None: no key is."""
    last = end or b""
    if prefix:
        first_of_prefix, last_of_prefix = range_of_prefix(prefix)
        start = max(start, first_of_prefix)
        last = min(last, last_of_prefix) if last and last_of_prefix else last or last_of_prefix
    if (end is not None and not end) or (last and start >= last):
        return None
    return ScanRequest(
        start=start,
        end=last,
        limit=limit,
        keys_only=keys_only,
        consistency=ConsistencyNumber.ValueType(consistency),
        page_keys_max=page_keys_max,
    )


class Scanner:
    """The pages of one scan. `request` moves on with every page, so that it always asks for the rest."""

    def __init__(self, request: ScanRequest, connections: Connections, retry: RetryPolicy, timeout_s: float) -> None:
        """`timeout_s` is the time for each page."""
        self._request = request
        self._connections = connections
        self._retry = retry
        self._timeout_s = timeout_s
        self._endpoint = ""
        self._stream: aio.UnaryStreamCall[ScanRequest, ScanResponse] | None = None

    async def pages(self) -> AsyncGenerator[ScanResponse, None]:
        """Yield every page. Raises RavelError if a page cannot be had in its time, or the scan is refused."""
        try:
            while True:
                page = await self._next_page()
                yield page
                if not page.more or not self._move_on(page):
                    return
        finally:
            self._leave()

    def _move_on(self, page: ScanResponse) -> bool:
        """Ask for the keys after this page from now on. Returns False if there can be none."""
        if not page.items:
            return True
        start = next_key(page.items[-1].key)
        if start is None or (self._request.end and start >= self._request.end):
            return False
        self._request.start = start
        if not self._request.limit:
            return True
        self._request.limit = max(0, self._request.limit - len(page.items))
        return self._request.limit > 0

    async def _next_page(self) -> ScanResponse:
        any_replica = self._request.consistency == STALE
        attempts = Attempts(self._connections, self._retry, timeout_s=self._timeout_s, any_replica=any_replica)
        while True:
            page = await self._try_page(attempts)
            if isinstance(page, ScanResponse):
                attempts.served(self._endpoint)
                return page
            self._leave()
            await attempts.failed(self._endpoint, page)

    async def _try_page(self, attempts: Attempts) -> ScanResponse | RavelError:
        """Return the next page from the present stream, or from a new one if there is none; else why there is no page."""
        self._connections.owner.check()
        limit_s = attempts.limit_s()
        if self._stream is None:
            self._endpoint = attempts.choose()
        try:
            async with asyncio.timeout(limit_s):
                if self._stream is None:
                    self._stream = KVStub(await self._connections.ready(self._endpoint, limit_s)).Scan(self._request)
                page = await self._stream.read()
            if isinstance(page, ScanResponse):
                self._connections.meet(self._endpoint, page.header.cluster_id)
                return page
        except TimeoutError:
            return timed_out(self._endpoint, limit_s, self._retry.progress_timeout_s)
        except aio.AioRpcError as error:
            return self._connections.error_of(self._endpoint, error)
        except RavelError as error:
            return error
        except (aio.UsageError, asyncio.CancelledError):
            return channel_closed(self._endpoint)
        return ConnectionLostError(f"{self._endpoint} ended the scan before its last page")

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
