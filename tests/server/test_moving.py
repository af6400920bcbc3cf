"""The mover's place in a daemon."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from ravel_node.replica.errors import BlankError, ReplicaStoppedError
from ravel_node.server import moving


async def test_a_server_that_is_told_to_stop_before_it_has_a_place_stops_in_order(monkeypatch: Any) -> None:
    """There is no replica then, and will be none: that is no failure of the mover, which would be one of the daemon."""
    looks: list[Exception] = []

    class Stopping:
        @property
        def replica(self) -> object:
            looks.append(ReplicaStoppedError() if looks else BlankError())
            raise looks[-1]

    monkeypatch.setattr(moving, "LOOK_S", 0.001)
    mover = asyncio.create_task(moving.LeadersMover(cast(Any, Stopping()), cast(Any, None), cast(Any, None)).run())
    async with asyncio.timeout(30):
        while len(looks) < 3 and not mover.done():
            await asyncio.sleep(0.001)
    assert not mover.done()
    mover.cancel()
    await asyncio.gather(mover, return_exceptions=True)
    assert mover.cancelled()
