"""One scan over several clusters: their pages merged in key order, each slot shown by one of them.

Theory of operation. A page shows all keys of some slots in a range, as its cluster had them at one point in time. With one
page of each cluster at hand, a window is the range from the present position up to where the first of the pages ends. It is shown
once its pages together have every slot. Then each slot's keys are taken from one page, so that a key which is there all the
while comes exactly once: a slot that both its source and its destination show (the one before, the other after it moved) is taken
from the owner by the newer map. A slot that no page shows is on its way: the map is renewed, its owner is asked again from the
position on, and the window waits, for the time of a page at most.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import SlotMovingError, UnreachableError
from ravelctl.client.routing.slot_map import ALL_SLOTS, SlotRoutes, slots_in
from ravelpb.slots import slot_of
from ravelpb.v1.kv_pb2 import KeyValue, ScanRequest, ScanResponse

PagesOf = Callable[[int, ScanRequest, float], AsyncGenerator[ScanResponse, None]]
"""The pages of the cluster of this number for a request, each within so many seconds."""

TO_THE_LAST: Final = b""
"""As the end of a range: there is none."""


@dataclass(frozen=True, slots=True)
class Page:
    """All keys of `slots` (a set of bits) with start <= key < end, in order, at one point in time."""

    start: bytes
    end: bytes
    slots: int
    items: tuple[KeyValue, ...]

    def reaches(self, position: bytes) -> bool:
        """Whether it shows what comes at this position."""
        return self.start <= position and (self.end == TO_THE_LAST or position < self.end)


def shares_of(pages: Mapping[int, Page], share: Callable[[int], int]) -> tuple[dict[int, int], int]:
    """Which slots are taken from the page of which cluster, and which slots no page shows. Pure.

    `share` tells the slots of a cluster by the newest map: it is taken before others that show them too.
    """
    chosen = {number: page.slots & share(number) for number, page in pages.items()}
    taken = 0
    for slots in chosen.values():
        taken |= slots
    for number, page in pages.items():
        chosen[number] |= page.slots & ~taken
        taken |= page.slots
    return chosen, ALL_SLOTS & ~taken


def merge(pages: Mapping[int, Page], chosen: Mapping[int, int], position: bytes) -> tuple[list[KeyValue], bytes]:
    """The window that begins at `position`: its keys in order, each from the page of its slot, and where it ends. Pure."""
    ends = [page.end for page in pages.values() if page.end != TO_THE_LAST]
    end = min(ends) if ends else TO_THE_LAST
    found: list[KeyValue] = []
    for number, page in pages.items():
        slots = chosen[number]
        items = [item for item in page.items if position <= item.key and (end == TO_THE_LAST or item.key < end)]
        found += items if slots == page.slots else [item for item in items if slots >> slot_of(item.key) & 1]
    found.sort(key=lambda item: item.key)
    return found, end


class Keeper(Protocol):
    """The map, as SlotMapCache has it."""

    routes: SlotRoutes | None

    async def first(self, timeout_s: float) -> SlotRoutes: ...

    async def renew(self, timeout_s: float) -> None: ...


class MergedScan:
    """The windows of one scan. Used by one task."""

    def __init__(self, request: ScanRequest, keeper: Keeper, pages_of: PagesOf, retry: RetryPolicy, timeout_s: float) -> None:
        """`timeout_s` is the time for each page, and for how long a slot may be shown by nobody."""
        self._request = request
        self._keeper = keeper
        self._pages_of = pages_of
        self._retry = retry
        self._timeout_s = timeout_s
        self._streams: dict[int, _Stream] = {}
        self._pages: dict[int, Page] = {}

    async def windows(self) -> AsyncGenerator[list[KeyValue], None]:
        """The keys of each window. Raises RavelError when one could not be completed in its time."""
        position = self._request.start
        left = self._request.limit
        try:
            while True:
                items, end = await self._window(position, left)
                yield items[:left] if left else items
                if left and len(items) >= left:
                    return
                left -= len(items) if left else 0
                if end == self._request.end:
                    return
                position = end
        finally:
            for number in list(self._streams):
                await self._leave(number)

    async def _window(self, position: bytes, left: int) -> tuple[list[KeyValue], bytes]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        attempt = 0
        while True:
            routes = await self._keeper.first(self._timeout_s)
            await self._fill(routes, position, left)
            chosen, missing = shares_of(self._pages, routes.share)
            if not missing:
                return merge(self._pages, chosen, position)
            attempt += 1
            await self._wait(missing, attempt, deadline)
            routes = self._keeper.routes or routes
            for number in routes.owning:
                if routes.share(number) & missing:
                    await self._leave(number)

    async def _fill(self, routes: SlotRoutes, position: bytes, left: int) -> None:
        """Have a page at this position of every cluster that owns slots. Pages that end before it go."""
        for number in [number for number, page in self._pages.items() if not page.reaches(position)]:
            del self._pages[number]
        wanted = [number for number in routes.owning if number not in self._pages]
        if not wanted and not self._pages:
            raise UnreachableError(
                f"no cluster owns slots by version {routes.version} of the map", next_step="see `ravelctl admin clusters`"
            )
        found = await asyncio.gather(*(self._next(number, position, left) for number in wanted), return_exceptions=True)
        for number, page in zip(wanted, found, strict=True):
            if isinstance(page, BaseException):
                raise page
            self._pages[number] = page

    async def _next(self, number: int, position: bytes, left: int) -> Page:
        """The page of this cluster at a position: the next one of its stream, if that goes on there."""
        stream = self._streams.get(number)
        if stream is None or stream.position != position:
            await self._leave(number)
            request = ScanRequest()
            request.CopyFrom(self._request)
            request.start, request.limit = position, left
            stream = self._streams[number] = _Stream(
                self._pages_of(number, request, self._timeout_s), position, left, request.end
            )
        page = await stream.next()
        if stream.ended:
            await self._leave(number)
            self._pages.pop(number, None)
        return page

    async def _wait(self, missing: int, attempt: int, deadline: float) -> None:
        """Slots are on their way: give them a moment, and see whether the map knows more."""
        loop = asyncio.get_running_loop()
        delay_s = self._retry.delay_s(attempt, random.random) if attempt > 1 else 0.0
        if loop.time() + delay_s >= deadline:
            slot = (missing & -missing).bit_length() - 1
            raise SlotMovingError(
                f"{missing.bit_count()} slots (the first is {slot}) were shown by no cluster within {self._timeout_s:.3g} s",
                next_step="see `ravelctl admin slots`: a move may be waiting for a cluster that is away",
            )
        await asyncio.sleep(delay_s)
        await self._keeper.renew(deadline - loop.time())

    async def _leave(self, number: int) -> None:
        self._pages.pop(number, None)
        stream = self._streams.pop(number, None)
        if stream is not None:
            await stream.close()


class _Stream:
    """The pages of one cluster from a position on.

    A page says which slots it shows, but not how far it looked beyond its last key: what it passed over there, since it was not
    its cluster's own, the next page does not look at again. So a slot that comes to the cluster meanwhile counts as shown only by
    a new stream; within one, slots only get fewer.
    """

    def __init__(self, pages: AsyncGenerator[ScanResponse, None], position: bytes, limit: int, end: bytes) -> None:
        self.position = position  # where its next page begins
        self.ended = False
        self._pages = pages
        self._slots = ALL_SLOTS
        self._limit = limit
        self._end = end
        self._seen = 0

    async def next(self) -> Page:
        """The next page. A page that ends with the limit says nothing of what comes after its last key."""
        message = await self._read()
        while message.more and not message.items:
            message = await self._read()
        self._seen += len(message.items)
        cut = message.more or (self._limit and self._seen >= self._limit)
        end = message.items[-1].key + b"\0" if cut and message.items else self._end
        items = tuple(item for item in message.items if self._slots >> slot_of(item.key) & 1)
        page = Page(self.position, end, self._slots, items)
        self.position = end
        self.ended = not message.more or bool(self._limit and self._seen >= self._limit)
        return page

    async def _read(self) -> ScanResponse:
        message = await anext(self._pages)
        self._slots &= slots_in(message.slots)
        return message

    async def close(self) -> None:
        with suppress(StopAsyncIteration):
            await self._pages.aclose()
