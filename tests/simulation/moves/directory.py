"""The admin group, as one linearizable machine, and what movers and clients see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import Any, Final

from ravel_node.admin.answers import RefusedError, read_answer
from ravel_node.admin.codec import encode
from ravel_node.admin.commands import Command, RegisterServer, ReportMembership, Seated
from ravel_node.admin.directory import DirectoryMachine
from ravel_node.admin.model import Directory, SlotMap
from ravel_node.admin.ports import DirectoryAwayError
from ravel_node.machine import envelope
from ravel_node.machine.base import Start
from ravel_node.machine.members import DIRECTORY, bootstrap_state
from ravel_node.raft.types import EntryId, Index, Term
from tests.machine.helpers import member, voters
from tests.machine.memory_txn import MemoryState
from tests.simulation.moves.cluster import first_id
from tests.simulation.moves.network import LostError, Network

VIEW_AGE_S_MAX: Final = 1.0
"""A mover that was replaced may see a directory that is so old, and no newer one than it was told of."""


class SimDirectory:
    """The real machine over a state in memory. Every version that was ever there is kept, with its time."""

    def __init__(self, clusters: int) -> None:
        self.state = MemoryState()
        bootstrap_state(
            self.state, cluster_name="admin", member=member(1), conf_state=voters(1), config_index=Index(1), machine=DIRECTORY
        )
        self._machine = DirectoryMachine()
        self._machine.open(self.state)
        self._index = 1
        self.away = False
        self.versions: list[tuple[float, Directory]] = []
        for number in range(1, clusters + 1):
            self._found(number)

    def restore(self, state: MemoryState, start: Start, now: float) -> None:
        """Become a new group, with what an older state says."""
        self.state = state
        self.reopen()
        self._machine.refounded(state, start)
        self._index = start.at.index
        self.versions = [(now, self._machine.directory)]

    def _found(self, number: int) -> None:
        """A cluster with one server, which says that it leads."""
        server_id, address = f"{number:032x}", f"10.0.0.{number}"
        cluster_id = first_id(number)
        listen, peer = f"{address}:7400", f"{address}:7401"
        self.apply(RegisterServer(server_id, f"n{number}", "0.1.0", 3, listen, peer, cluster_id, f"c{number}"), 0.0)
        self.apply(ReportMembership(cluster_id, server_id, 1, 1, (Seated(server_id, 1),)), 0.0)

    def apply(self, command: Command, now: float) -> Mapping[str, Any]:
        """The answer. Raises RefusedError."""
        self._index += 1
        payload = envelope.payload([envelope.group([envelope.directory(encode(command))])])
        (outcome,) = self._machine.apply(EntryId(Term(1), Index(self._index)), payload, self.state)
        self.versions.append((now, self._machine.directory))
        return read_answer(outcome)

    def view(self) -> Directory:
        return self._machine.directory

    async def slot_map(self) -> SlotMap:
        return self.view().slot_map

    def reopen(self) -> None:
        """As after a restart."""
        self._machine = DirectoryMachine()
        self._machine.open(self.state)


class SimDirectoryPort:
    """What one mover has of it: a DirectoryPort."""

    def __init__(self, directory: SimDirectory, network: Network, rng: Random) -> None:
        self._directory = directory
        self._network = network
        self._rng = rng
        self._seen = 0  # the newest version that it knows

    def view(self) -> Directory:
        since = asyncio.get_running_loop().time() - self._rng.uniform(0.0, VIEW_AGE_S_MAX) ** 3
        versions = self._directory.versions
        while self._seen + 1 < len(versions) and versions[self._seen + 1][0] <= since:
            self._seen += 1
        return versions[self._seen][1]

    async def propose(self, command: Command) -> Mapping[str, Any]:
        directory = self._directory

        async def at_the_leader() -> tuple[int, Mapping[str, Any] | RefusedError]:
            if directory.away:
                raise LostError("the admin group is gone")
            now = asyncio.get_running_loop().time()
            try:
                answer: Mapping[str, Any] | RefusedError = directory.apply(command, now)
            except RefusedError as refusal:
                answer = refusal
            return len(directory.versions) - 1, answer

        try:
            seen, answer = await self._network.call(at_the_leader, self._rng.uniform(0.05, 0.5))
        except LostError as error:
            raise DirectoryAwayError(str(error)) from error
        self._seen = max(self._seen, seen)
        if isinstance(answer, RefusedError):
            raise answer
        return answer
