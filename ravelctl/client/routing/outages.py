"""Clusters that were found away, and for which no further call waits.

A caller learns that a cluster is away when its time is up. With `Outages` the callers after it get the error at once, while one
read asks the cluster again and again in the background: after its first answer, of whatever kind, calls go through again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ravelctl.client.errors import DeadlineError, NoLeaderError, RavelError, UnreachableError

ClusterKey = tuple[int, str]
"""A cluster by its number and its id: another cluster may take over a number."""

AWAY: Final = (UnreachableError, NoLeaderError)
"""Errors of a call which show that its cluster is away: no replica that could serve it was found in all of its time."""

PAUSE_S: Final = 0.1
"""The pause between two reads in the background. Each of them looks for a leader for as long as a read may take."""


class Outages:
    """Remembers the clusters that are away. Used on one event loop."""

    def __init__(self) -> None:
        self._errors: dict[ClusterKey, RavelError] = {}  # why each cluster is away, as last seen
        self._asking: dict[ClusterKey, asyncio.Task[None]] = {}

    def check(self, key: ClusterKey, *, stale: bool = False) -> None:
        """Raise the error of a cluster that is away. A stale read needs no leader."""
        error = self._errors.get(key)
        if error is None or (stale and isinstance(error, NoLeaderError)):
            return
        raise error.reworded(f"the cluster is away, and is asked again until it answers: {error.message}")

    def found(self, key: ClusterKey, error: RavelError, read: Callable[[], Awaitable[object]]) -> None:
        """Take in that a call ended in this error, one of AWAY. `read` asks the cluster once, for a while."""
        if key not in self._errors:
            self._errors[key] = error
            task = asyncio.get_running_loop().create_task(self._ask(key, read), name="ravel client: a cluster that is away")
            self._asking[key] = task

    async def _ask(self, key: ClusterKey, read: Callable[[], Awaitable[object]]) -> None:
        try:
            while True:
                try:
                    await read()
                    return
                except AWAY as error:
                    self._errors[key] = error
                except DeadlineError:
                    pass
                except RavelError:
                    return  # the cluster answers: calls get its own refusal
                await asyncio.sleep(PAUSE_S)
        finally:
            del self._errors[key], self._asking[key]

    async def forget(self, key: ClusterKey) -> None:
        """Stop asking this cluster."""
        if (task := self._asking.get(key)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for key in list(self._asking):
            await self.forget(key)
