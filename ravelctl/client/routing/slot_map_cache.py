"""The client's copy of the slot map, and the one place that asks the admin group for a newer one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from ravelctl.client.connection.rules import RETRYABLE
from ravelctl.client.errors import ClosedError, DeadlineError, RavelError
from ravelctl.client.routing.slot_map import SlotRoutes
from ravelctl.client.services.admin import AdminClient
from ravelctl.client.session.cluster_store import Dialling

LOOK_EVERY_S: Final = 1.0
"""The least time between two questions for the addresses of a cluster of which no member is found."""


class SlotMapCache:
    """Keeps the newest slot map. Any number of calls that want a newer one share one question. Used on one event loop."""

    def __init__(
        self,
        admin: Sequence[str],
        dialling: Dialling,
        *,
        timeout_s: float,
        cluster_id: str,
        changed: Callable[[SlotRoutes], None],
    ) -> None:
        """`changed` is called with the map of every answer. Nothing is dialled yet. Raises InvalidArgumentError."""
        self.routes: SlotRoutes | None = None
        self._changed = changed
        self._admin = AdminClient(
            admin,
            timeout_s=timeout_s,
            retry=dialling.retry,
            tls=dialling.tls,
            cluster_id=cluster_id,
            channel_factory=dialling.channel_factory,
        )
        self._asking: asyncio.Task[None] | None = None
        self._error: RavelError | None = None  # of the last question, if it failed
        self._looked = -LOOK_EVERY_S
        self._closed = False

    async def first(self, timeout_s: float) -> SlotRoutes:
        """Return the map, and ask for it if there is none. Raises what the calls of AdminClient raise."""
        self._admin.check_owner()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.routes is None:
            await self.renew(deadline - loop.time())
            if self.routes is None and (loop.time() >= deadline or not self._may_ask_again()):
                raise self._why(timeout_s)
        return self.routes

    def _may_ask_again(self) -> bool:
        return self._error is None or self._error.reason in RETRYABLE

    def _why(self, timeout_s: float) -> RavelError:
        """Return the error of a call that cannot find out which cluster owns its key."""
        if self._error is None:
            return DeadlineError(
                f"the admin group did not say within {timeout_s:.3g} s which cluster owns the key",
                next_step="see `ravelctl status` of the admin group, or allow more time",
            )
        return self._error.reworded(f"the map of slots is not known: {self._error.message}")

    async def renew(self, timeout_s: float) -> None:
        """Ask for the map, and wait at most so long for the answer. Without an answer the map stays as it is."""
        self._admin.check_owner()
        if self._closed:
            raise ClosedError("this client is closed")
        await asyncio.wait({self._ask()}, timeout=max(0.0, timeout_s))

    def look(self) -> None:
        """Ask for the present addresses of members, now and then, while calls go on: some members were not found."""
        now = asyncio.get_running_loop().time()
        if not self._closed and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._ask()

    def refresh(self) -> None:
        """Ask for the map, unless a question is open."""
        if not self._closed:
            self._ask()

    def _ask(self) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._fetch(), name="ravel client: map of slots")
        return self._asking

    async def _fetch(self) -> None:
        known = self.routes
        try:
            answer = await self._admin.slot_map(known.version if known is not None else 0)
            self.routes = SlotRoutes.first(answer) if known is None else known.updated(answer)
        except RavelError as error:
            self._error = error
            return
        self._error = None
        self._changed(self.routes)

    async def close(self) -> None:
        """End the question that is open, and close the connections."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking
        await self._admin.close()
