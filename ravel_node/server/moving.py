"""The mover of slots, at work where its server leads the admin group, and its way to the clusters."""

from __future__ import annotations

import asyncio
from typing import Final

from ravel_node.admin.executor import Mover
from ravel_node.admin.model import MoveId
from ravel_node.admin.ports import ClusterPort
from ravel_node.admin.progress import Progress, Totals
from ravel_node.replica.errors import BlankError, ReplicaError, ReplicaStoppedError
from ravel_node.server.desk import DirectoryDesk, DirectoryForMover
from ravel_node.server.host import Host

LOOK_S: Final = 0.5
"""Between two looks whether this server leads; a change of leadership is noticed at once."""


class LeadersMover:
    """Runs a mover while this server leads. Implements rebalancing.MoverView."""

    def __init__(self, host: Host, desk: DirectoryDesk, clusters: ClusterPort) -> None:
        self._host = host
        self._desk = desk
        self._mover = Mover(clusters, DirectoryForMover(desk))

    @property
    def totals(self) -> Totals:
        return self._mover.totals

    def progress(self, move_id: MoveId) -> Progress:
        return self._mover.progress(move_id)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                replica = self._host.replica
            except (BlankError, ReplicaStoppedError):  # the latter: it was told to stop while it was blank
                await asyncio.sleep(LOOK_S)
                continue
            try:
                await self._desk.read()
            except ReplicaError:
                await replica.changed(LOOK_S)
                continue
            term = replica.term
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._mover.run(term), name="mover")
                while replica.is_leader and replica.term == term and not work.done():
                    await replica.changed(LOOK_S)
                work.cancel()
