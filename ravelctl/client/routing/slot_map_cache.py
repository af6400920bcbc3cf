"""The client's copy of the map of slots, and the one place that asks the admin for a newer one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from ravelctl.client.errors import RETRYABLE, ClosedError, DeadlineError, RavelError
from ravelctl.client.routing.slot_map import SlotRoutes
from ravelctl.client.services.admin import AdminClient
from ravelctl.client.session.cluster_store import Dialling

LOOK_EVERY_S: Final = 1.0
"""Where members are reached is asked no more often than this when none of a cluster is found."""


class SlotMapCache:
    """Used on one event loop. However many calls want a newer map, one question is under way."""

    def __init__(
        self,
        admin: Sequence[str],
        dialling: Dialling,
        *,
        timeout_s: float,
        cluster_id: str,
        changed: Callable[[SlotRoutes], None],
    ) -> None:
        """`changed` is told of every answer. Nothing is dialled yet. Raises InvalidArgumentError."""
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
        """The map as it is here; asked for if there is none. Raises what the admin's calls raise."""
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
        """The error of a call that does not know where its key is."""
        if self._error is None:
            return DeadlineError(
                f"the admin did not tell within {timeout_s:.3g} s which cluster owns the key",
                next_step="see `ravelctl status` of the admin group, or allow more time",
            )
        return type(self._error)(
            f"the map of slots is not known: {self._error.message}",
            reason=self._error.reason,
            metadata=self._error.metadata,
            next_step=self._error.next_step,
        )

    async def renew(self, timeout_s: float) -> None:
        """Ask for the map, and wait for the answer for so long. Without one, the map stays as it is."""
        if self._closed:
            raise ClosedError("this client is closed")
        await asyncio.wait({self._ask()}, timeout=max(0.0, timeout_s))

    def look(self) -> None:
        """Some members were not found: learn where they are now, now and then, while calls go on."""
        now = asyncio.get_running_loop().time()
        if not self._closed and now - self._looked >= LOOK_EVERY_S:
            self._looked = now
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
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking
        await self._admin.close()
