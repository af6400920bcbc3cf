"""The operator who reconciles, as `ravelctl admin reconcile` does."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from random import Random
from typing import Any, Final, Protocol, cast

from ravel_node.admin.answers import RefusedError
from ravel_node.admin.commands import Command
from ravel_node.admin.model import Directory
from ravel_node.admin.ports import ClusterAwayError, DirectoryAwayError
from ravel_node.server.reconciling import Reconciling
from tests.simulation.moves.cluster import SimCluster, SimClusterPort
from tests.simulation.moves.directory import SimDirectory, SimDirectoryPort
from tests.simulation.moves.network import Network, ViolationError

RECONCILED_S: Final = 120.0


class System(Protocol):
    """What is needed of a World."""

    rng: Random
    clusters: dict[int, SimCluster]
    directory: SimDirectory
    network: Network
    slots: list[int]


async def reconcile(system: System, *, in_doubt: Collection[int] = (), gone: Collection[int] = ()) -> None:
    """Until nothing is left to do, with consent where it is asked for, which may be for slots of `in_doubt` only.

    Clusters of `gone` are given up; any other that does not answer is waited for.
    """
    accepted: set[int] = set()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RECONCILED_S
    while True:
        if loop.time() > deadline:
            raise ViolationError("registry and clusters do not come to agree")
        rng = system.rng
        port = SimClusterPort(system.clusters, system.network, Random(rng.random()), system.directory.view)
        desk = _Desk(system.directory, SimDirectoryPort(system.directory, system.network, Random(rng.random())))
        reconciling = Reconciling(cast(Any, desk), cast(Any, port))
        look = await reconciling.look(sorted(accepted))
        if {*look.away} - {*gone}:
            await asyncio.sleep(0.05)
            continue
        asked = {slot for loss in look.plan.losses if not loss.accepted for slot in loss.slots if slot in system.slots}
        if unfounded := sorted(asked - {*in_doubt}):
            raise ViolationError(f"consent is asked for slots {unfounded}, of which nothing can be lost")
        owners = system.directory.view().slot_map.owners
        more = {slot for loss in look.plan.losses for slot in loss.slots}
        more |= {slot for slot, owner in enumerate(owners) if owner in gone}
        if more - accepted:
            accepted |= more
            continue
        if look.plan.empty:
            return
        try:
            await reconciling.carry_out(look, sorted(accepted))
        except (RefusedError, DirectoryAwayError, ClusterAwayError):
            await asyncio.sleep(0.05)


class _Desk:
    """What Reconciling needs of a DirectoryDesk."""

    def __init__(self, directory: SimDirectory, port: SimDirectoryPort) -> None:
        self._directory = directory
        self._port = port

    async def read(self) -> tuple[None, Directory]:
        return None, self._directory.view()

    async def ask(self, command: Command) -> tuple[None, Any]:
        return None, await self._port.propose(command)
