"""Clusters that were found away, and that no further call waits for.

Whoever asks a cluster that is away finds that out when its time is up. With this, the ones that come after it are told at once,
while one read asks in the background without pause: the first answer, whatever it says, and calls go through again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ravelctl.client.errors import DeadlineError, NoLeaderError, RavelError, UnreachableError

Seat = tuple[int, str]
"""A cluster by its number and cluster id."""

AWAY: Final = (UnreachableError, NoLeaderError)
"""Errors of a call which show that its cluster is away: nobody who could serve it was found in all of its time."""

PAUSE_S: Final = 0.1
"""Between two reads that ask; each of them looks for a leader for as long as a read may take."""


class Outages:
    """Used on one event loop."""

    def __init__(self) -> None:
        self._errors: dict[Seat, RavelError] = {}  # of each that is away, why, as last seen
        self._asking: dict[Seat, asyncio.Task[None]] = {}

    def check(self, seat: Seat, *, stale: bool = False) -> None:
        """Raises the error of a cluster that is away. A stale read needs no leader."""
        error = self._errors.get(seat)
        if error is None or (stale and isinstance(error, NoLeaderError)):
            return
        raise type(error)(
            f"the cluster is away, and is being asked until it answers: {error.message}",
            reason=error.reason,
            metadata=error.metadata,
            next_step=error.next_step,
        )

    def found(self, seat: Seat, error: RavelError, read: Callable[[], Awaitable[object]]) -> None:
        """A call has ended in this error, one of AWAY. `read` asks the cluster once, for a while."""
        if seat not in self._errors:
            self._errors[seat] = error
            task = asyncio.get_running_loop().create_task(self._ask(seat, read), name="ravel client: a cluster that is away")
            self._asking[seat] = task

    async def _ask(self, seat: Seat, read: Callable[[], Awaitable[object]]) -> None:
        try:
            while True:
                try:
                    await read()
                    return
                except AWAY as error:
                    self._errors[seat] = error
                except DeadlineError:
                    pass
                except RavelError:
                    return  # it is there: calls will be told what is wrong with them
                await asyncio.sleep(PAUSE_S)
        finally:
            del self._errors[seat], self._asking[seat]

    async def forget(self, seat: Seat) -> None:
        """This cluster is not asked any more."""
        if (task := self._asking.get(seat)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for seat in list(self._asking):
            await self.forget(seat)
