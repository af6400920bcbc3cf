"""Applications that follow the rules of DESIGN.md, section 5: routed by a map that may be old, exactly once over sessions.

A client has a session at every cluster that it writes to. A write whose outcome is unknown is sent again unchanged, and only to
the cluster that was asked first: its WRONG_CLUSTER then says that nothing was done. Every value is written once in a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from ravel_node.machine import envelope
from ravel_node.machine.base import Outcome, Status
from ravelctl.linearizability import history
from ravelctl.linearizability.history import Kind, Operation
from ravelpb.slots import slot_of
from tests.simulation.clients import _answered, _command
from tests.simulation.moves.cluster import SimCluster, WrongClusterError
from tests.simulation.moves.directory import SimDirectory
from tests.simulation.moves.network import LostError, Network, ViolationError

PATIENCE_S: Final = 6.0
"""How long a client tries before it gives a call up."""

KINDS: Final = (Kind.PUT, Kind.PUT, Kind.PUT, Kind.DELETE, Kind.GET_AND_DELETE, Kind.COMPARE_AND_SWAP, Kind.COMPARE_AND_SWAP)

MOSTLY_DELETES: Final = (Kind.PUT, Kind.DELETE, Kind.DELETE, Kind.DELETE, Kind.GET_AND_DELETE, Kind.COMPARE_AND_SWAP)
"""So that nothing is there, most of the time."""


@dataclass(slots=True)
class _Session:
    client_id: int
    sequence: int = 0


class Client:
    """One application."""

    def __init__(
        self,
        number: int,
        network: Network,
        clusters: dict[int, SimCluster],
        directory: SimDirectory,
        keys: Sequence[bytes],
        rng: Random,
        reads: float,
        kinds: Sequence[Kind],
    ) -> None:
        self.name = f"c{number}"
        self.history: list[Operation] = []
        self.stopping = False
        self._network = network
        self._clusters = clusters
        self._directory = directory
        self._keys = keys
        self._rng = rng
        self._reads = reads
        self._kinds = kinds
        self._map = directory.view().slot_map
        self._sessions: dict[int, _Session] = {}
        self._values = 0

    async def run(self) -> None:
        while not self.stopping:
            await self.call_once()
            await asyncio.sleep(self._rng.uniform(0.0, 0.1))

    async def call_once(self) -> None:
        key = self._rng.choice(self._keys)
        if self._rng.random() < self._reads:
            await self.get(key)
            return
        kind = self._rng.choice(self._kinds)
        if kind is Kind.COMPARE_AND_SWAP:
            seen = await self.get(key)
            if seen is not None:
                await self.write(kind, key, self._next_value(), seen.revision or 0)
        else:
            await self.write(kind, key, self._next_value() if kind is Kind.PUT else None)

    def _next_value(self) -> bytes:
        self._values += 1
        return f"{self.name}.{self._values}".encode()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _ended(self, asked: Operation, outcome: history.Outcome) -> Operation:
        return replace(asked, completed_s=self._now(), outcome=outcome)

    def _owner(self, key: bytes) -> int:
        return self._map.owners[slot_of(key)]

    async def _refresh(self) -> None:
        """Ask for the map, which only grows newer."""
        try:
            found = await self._network.call(self._directory.slot_map, self._rng.uniform(0.02, 0.3))
        except LostError:
            return
        if found.version > self._map.version:
            self._map = found

    async def get(self, key: bytes) -> Operation | None:
        """The operation if it was answered."""
        asked = Operation(self.name, Kind.GET, key, self._now())
        deadline = self._now() + PATIENCE_S
        while self._now() < deadline:
            cluster = self._clusters[self._owner(key)]
            try:
                revision, value = await self._network.call(lambda at=cluster: at.get(key), self._rng.uniform(0.02, 0.4))  # type: ignore[misc]
            except WrongClusterError:
                await self._refresh()
                await asyncio.sleep(self._rng.uniform(0.0, 0.02))
            except LostError:
                await asyncio.sleep(self._rng.uniform(0.0, 0.1))
            else:
                done = replace(self._ended(asked, history.Outcome.DONE), answer=value, revision=revision)
                self.history.append(done)
                return done
        self.history.append(self._ended(asked, history.Outcome.FAILED))
        return None

    async def write(self, kind: Kind, key: bytes, value: bytes | None, expected: int | None = None) -> Operation:
        asked = Operation(self.name, kind, key, self._now(), value=value, expected_revision=expected)
        deadline = self._now() + PATIENCE_S
        ended = self._ended(asked, history.Outcome.FAILED)
        while self._now() < deadline:
            number = self._owner(key)
            outcome, uncertain = await self.attempt(number, _command(asked), deadline)
            if outcome is None:
                if uncertain:
                    ended = self._ended(asked, history.Outcome.UNKNOWN)
                    break
                continue
            if outcome.status in (Status.OK, Status.CONDITION_FAILED):
                ended = _answered(self._ended(asked, history.Outcome.DONE), outcome)
                break
            if outcome.status not in (Status.WRONG_CLUSTER, Status.SLOT_MOVING):
                raise ViolationError(f"{self.name} writes {key!r} and is answered {outcome}")
            if outcome.status is Status.WRONG_CLUSTER:
                await self._refresh()
            await asyncio.sleep(self._rng.uniform(0.0, 0.02))
        self.history.append(self._ended(ended, ended.outcome))
        return ended

    async def attempt(self, number: int, command: bytes, deadline: float) -> tuple[Outcome | None, bool]:
        """What one cluster says of a write, and where it says nothing, whether it may have been done."""
        cluster = self._clusters[number]
        session = self._sessions.get(number)
        if session is None:
            register = envelope.group([envelope.register_session()])
            try:
                registered = await self._network.call(lambda: cluster.write(register), self._rng.uniform(0.02, 0.4))
            except LostError:
                return None, False
            session = self._sessions[number] = _Session(registered.revision)
        session.sequence += 1
        once = envelope.Once(session.client_id, session.sequence, session.sequence)
        group = envelope.group([command], once)
        while self._now() < deadline:
            try:
                return await self._network.call(lambda: cluster.write(group), self._rng.uniform(0.02, 0.4)), True
            except LostError:
                await asyncio.sleep(self._rng.uniform(0.0, 0.1))
        return None, True
