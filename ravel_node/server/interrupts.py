"""Ends the waits of streams that have no end of their own, so that a server can stop at once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Interrupts:
    """The waits of some streams, which end together. Everything runs on the loop."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Timeout] = set()
        self._error: Exception | None = None

    async def guard(self, work: Awaitable[T]) -> T:
        """Await `work`. Raises what `interrupt` was told, now or later; the work is cancelled then."""
        if self._error is not None:
            if asyncio.iscoroutine(work):
                work.close()
            raise self._error
        wait = asyncio.timeout(None)
        try:
            async with wait:
                self._waits.add(wait)
                return await work
        except TimeoutError:
            if self._error is None or not wait.expired():
                raise
            raise self._error from None
        finally:
            self._waits.discard(wait)

    def interrupt(self, error: Exception) -> None:
        """End every wait, and every later one, with `error`. The first call counts."""
        if self._error is None:
            self._error = error
            now = asyncio.get_running_loop().time()
            for wait in self._waits:
                wait.reschedule(now)
