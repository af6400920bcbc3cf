"""A scan that survives its server: pages in key order, resumed after the last key when the server goes or the leader moves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Final

from grpc import aio

from ravelctl.client.connection.connections import Connections, HangingError, Obstacles, retry_after_s
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import RETRYABLE, RavelError, UnreachableError, from_rpc_error
from ravelctl.client.services.unary import channel_closed
from ravelctl.client.types import Consistency
from ravelpb.v1.kv_pb2 import STALE, ScanRequest, ScanResponse
from ravelpb.v1.kv_pb2 import Consistency as ConsistencyNumber
from ravelpb.v1.kv_pb2_grpc import KVStub

ATTEMPT_SHARE: Final = 0.5
"""The share of the time left for a page that one attempt may take."""


def range_of_prefix(prefix: bytes) -> tuple[bytes, bytes]:
    """The range [start, end) of the keys that begin with `prefix`; an empty end: to the last key."""
    stem = prefix.rstrip(b"\xff")
    return prefix, stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


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
    """The request for what prefix and range have in common. None: nothing at all."""
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

    def __init__(self, request: ScanRequest, channels: Connections, retry: RetryPolicy, timeout_s: float) -> None:
        """`timeout_s` is the time for each page."""
        self._request = request
        self._channels = channels
        self._retry = retry
        self._timeout_s = timeout_s
        self._obstacles = Obstacles()
        self._endpoint = ""
        self._stream: aio.UnaryStreamCall[ScanRequest, ScanResponse] | None = None

    async def pages(self) -> AsyncGenerator[ScanResponse, None]:
        """Every page. Raises RavelError when a page could not be had in its time, or the scan was refused."""
        try:
            while True:
                page = await self._next_page()
                yield page
                if not page.more or not self._move_on(page):
                    return
        finally:
            self._leave()

    def _move_on(self, page: ScanResponse) -> bool:
        """Ask for what comes after this page from now on. False: the limit is reached."""
        if not page.items:
            return True
        self._request.start = page.items[-1].key + b"\x00"
        if not self._request.limit:
            return True
        self._request.limit = max(0, self._request.limit - len(page.items))
        return self._request.limit > 0

    async def _next_page(self) -> ScanResponse:
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        attempt = waits = 0
        while (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            page = await self._try_page(left_s)
            if isinstance(page, ScanResponse):
                self._obstacles.clear()
                self._channels.served(self._endpoint, leads=self._request.consistency != STALE)
                return page
            self._leave()
            if page.reason not in RETRYABLE:
                raise page
            attempt += 1
            self._obstacles.note(self._endpoint, page)
            if not await self._channels.failed(self._endpoint, page, attempt=attempt):
                waits += 1
                wait_s = self._retry.delay_s(waits, random.random, at_least_s=retry_after_s(page))
                await asyncio.sleep(max(0.0, min(wait_s, deadline - asyncio.get_running_loop().time())))
        raise self._obstacles.deadline_error(self._timeout_s)

    async def _try_page(self, left_s: float) -> ScanResponse | RavelError:
        """The next page from the present stream, or from a new one if there is none."""
        limit_s = max(left_s * ATTEMPT_SHARE, min(left_s, self._retry.progress_timeout_s))
        try:
            if self._stream is None:
                stale = self._request.consistency == STALE
                self._endpoint = self._channels.choose_any() if stale else self._channels.choose()
                self._stream = KVStub(await self._channels.ready(self._endpoint, left_s)).Scan(self._request)
            async with asyncio.timeout(limit_s):
                page = await self._stream.read()
        except TimeoutError:
            return HangingError(self._endpoint)
        except aio.AioRpcError as error:
            return from_rpc_error(error, self._endpoint)
        except RavelError as error:
            return error
        except (aio.UsageError, asyncio.CancelledError):
            return channel_closed(self._endpoint)
        return (
            page if isinstance(page, ScanResponse) else UnreachableError(f"{self._endpoint} ended the scan before its last page")
        )

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
