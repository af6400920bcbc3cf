"""One scan over several clusters: their pages merged in key order, each slot shown by one of them.

Theory of operation. A page shows all keys of some slots in a range, as its cluster had them at one point in time. With one page
of each cluster, a window is the range from the present position up to the end of the page that ends first. It is complete once
its pages together show every slot. Then the keys of each slot are taken from one page, so that a key that exists all the time
is yielded exactly once: a slot that both its source and its destination show (the one before it moved, the other after) is
taken from its owner by the newer map.

A cluster shows a slot only while it owns it by its own log, and counts only if it is, by the map, the owner or one end of a
migration of the slot: a cluster that was restored from a backup believes to own what it owned then, and its keys are old. A
slot that no such page shows is moving: the map is renewed, its owner is asked again from the position on, and the window waits,
for the time of a page at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from ravelctl.client.connection.attempts import Backoff
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import RavelError, SlotMovingError, UnreachableError
from ravelctl.client.routing.slot_map import ALL_SLOTS, SlotRoutes, slots_in
from ravelctl.client.session.scan import next_key
from ravelpb.errors import Field
from ravelpb.slots import slot_of
from ravelpb.v1.kv_pb2 import KeyValue, ScanRequest, ScanResponse

PagesOf = Callable[[int, ScanRequest, float], AsyncGenerator[ScanResponse, None]]
"""Returns the pages of the cluster with this number for a request, each within so many seconds."""

TO_THE_LAST: Final = b""
"""The end of a range without an upper bound."""


@dataclass(frozen=True, slots=True)
class Page:
    """All keys of `slots` (a set of bits) with start <= key < end, in order, at one point in time."""

    start: bytes
    end: bytes
    slots: int
    items: tuple[KeyValue, ...]

    def reaches(self, position: bytes) -> bool:
        """Return whether it shows the keys at this position."""
        return self.start <= position and (self.end == TO_THE_LAST or position < self.end)


def shares_of(
    pages: Mapping[int, Page], share: Callable[[int], int], may_show: Callable[[int], int]
) -> tuple[dict[int, int], int]:
    """Return the slots to take from the page of each cluster, and the slots that no page may show. Pure.

    `share` returns the slots of a cluster by the newest map: its page is preferred to those of other ends of migrations.
    `may_show` returns the slots that it may show.
    """
    chosen = {number: page.slots & share(number) for number, page in pages.items()}
    taken = 0
    for slots in chosen.values():
        taken |= slots
    for number, page in pages.items():
        further = page.slots & may_show(number) & ~taken
        chosen[number] |= further
        taken |= further
    return chosen, ALL_SLOTS & ~taken


def merge(pages: Mapping[int, Page], chosen: Mapping[int, int], position: bytes) -> tuple[list[KeyValue], bytes]:
    """Return the window that begins at `position`: its keys in order, each from the page of its slot, and its end. Pure."""
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
    """The slot map, as SlotMapCache keeps it."""

    routes: SlotRoutes | None

    async def first(self, timeout_s: float) -> SlotRoutes: ...

    async def renew(self, timeout_s: float) -> None: ...


class MergedScan:
    """The windows of one scan. Used by one task."""

    def __init__(self, request: ScanRequest, keeper: Keeper, pages_of: PagesOf, retry: RetryPolicy, timeout_s: float) -> None:
        """`timeout_s` is the time for each page, and the longest time in which no page shows a slot."""
        self._request = request
        self._keeper = keeper
        self._pages_of = pages_of
        self._retry = retry
        self._timeout_s = timeout_s
        self._streams: dict[int, _Stream] = {}
        self._pages: dict[int, Page] = {}

    async def windows(self) -> AsyncGenerator[list[KeyValue], None]:
        """Yield the keys of each window. Raises RavelError if a window cannot be completed in its time."""
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
        backoff = Backoff(self._retry, self._timeout_s)
        attempted = False
        missing = 0
        while True:
            routes = await self._keeper.first(self._timeout_s)
            await self._fill(routes, position, left, missing)
            chosen, missing = shares_of(self._pages, routes.share, routes.may_show)
            if not missing:
                return merge(self._pages, chosen, position)
            await self._wait(missing, backoff, routes, at_once=not attempted)
            attempted = True
            routes = self._keeper.routes or routes
            for number in list(self._pages):
                if routes.may_show(number) & missing:
                    await self._leave(number)

    async def _fill(self, routes: SlotRoutes, position: bytes, left: int, missing: int) -> None:
        """Fetch a page at this position of every cluster that owns slots, and drop pages that end before it.

        For `missing` slots fetch those of the sources of their migrations too, where these answer.
        """
        for number in [number for number, page in self._pages.items() if not page.reaches(position)]:
            del self._pages[number]
        wanted = [number for number in routes.owning if number not in self._pages]
        if not wanted and not self._pages:
            raise UnreachableError(
                f"no cluster owns slots by version {routes.version} of the map", next_step="see `ravelctl admin clusters`"
            )
        known = {*wanted, *self._pages}
        sources = {
            migration.source for migration in routes.migrations if migration.slots & missing
        } & routes.clusters.keys() - known
        asked = [*wanted, *sources]
        found = await asyncio.gather(*(self._next(number, position, left) for number in asked), return_exceptions=True)
        for number, page in zip(asked, found, strict=True):
            if isinstance(page, RavelError) and number in sources:
                await self._leave(number)
            elif isinstance(page, BaseException):
                raise page
            else:
                self._pages[number] = page

    async def _next(self, number: int, position: bytes, left: int) -> Page:
        """Return the page of this cluster at a position: the next one of its stream, if the stream continues there."""
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

    async def _wait(self, missing: int, backoff: Backoff, routes: SlotRoutes, *, at_once: bool) -> None:
        """Wait a moment for slots that are moving, and ask for a newer map. `at_once`: the map alone may help."""
        if not at_once:
            await backoff.wait()
        if backoff.is_over:
            raise self._not_shown(missing, routes)
        await self._keeper.renew(backoff.left_s or 0.0)

    def _not_shown(self, missing: int, routes: SlotRoutes) -> SlotMovingError:
        slot = (missing & -missing).bit_length() - 1
        owner = routes.clusters.get(routes.owners[slot])
        named = owner.name if owner is not None else "no cluster"
        others = [
            number for number, page in self._pages.items() if page.slots >> slot & 1 and not routes.share(number) >> slot & 1
        ]
        sources = [migration.source for migration in routes.migrations if migration.slots >> slot & 1]
        told = ""
        if others:
            told = f"; {routes.clusters[others[0]].name} believes to own it, and its keys may be old"
        elif sources and sources[0] in routes.clusters:
            told = f"; it is on its way there from {routes.clusters[sources[0]].name}"
        return SlotMovingError(
            f"{missing.bit_count()} slots were not shown within {self._timeout_s:.3g} s: the first is {slot}, which belongs to "
            f"{named} by version {routes.version} of the map and is not there{told}",
            metadata={Field.SLOT: str(slot)},
            next_step="see `ravelctl admin slots`: a migration may be waiting for a cluster that is away; if none is, run "
            "`ravelctl admin reconcile`",
        )

    async def _leave(self, number: int) -> None:
        self._pages.pop(number, None)
        stream = self._streams.pop(number, None)
        if stream is not None:
            await stream.close()


class _Stream:
    """The pages of one cluster from a position on.

    A page says which slots it shows, but not how far it looked beyond its last key: keys that it skipped there, because they did
    not belong to its cluster, are not looked at again by the next page. So a slot that comes to the cluster meanwhile counts as
    shown only on a new stream; within one stream, slots only get fewer.
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
        """Return the next page. A page that ends with the limit does not show what comes after its last key."""
        message = await self._read()
        while message.more and not message.items:
            message = await self._read()
        self._seen += len(message.items)
        cut = message.more or (self._limit and self._seen >= self._limit)
        end = self._end
        if cut and message.items:
            above = next_key(message.items[-1].key)
            end = self._end if above is None or (self._end and above >= self._end) else above
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
