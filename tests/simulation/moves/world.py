"""Slots on the move, from one seed: the real mover, the real machines of directory and clusters, everything else bad luck.

Clients write and read without pause. An operator plans moves and calls some off. Movers are killed in the middle of whatever they
do, their last requests still on the way, and replaced, sometimes before they are dead. Clusters go away and come back. Then the
faults end, and everything must come to rest: no move is left, every slot is where the map says, and nowhere else; what the
clients were told must be linearizable, key by key, with one row of revisions through all clusters that a key has been in.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Final
from unittest.mock import patch

from ravel_node.admin import copying, executor
from ravel_node.admin.answers import RefusedError
from ravel_node.admin.commands import DecideMove, PlanMoves, PlannedMove
from ravel_node.admin.executor import Mover, MoverOptions
from ravel_node.admin.model import Phase
from ravel_node.machine import envelope
from ravel_node.machine.base import Database
from ravel_node.machine.ownership import Mark
from ravel_node.replica import slots as replica_slots
from ravelctl.linearizability.checker import check
from ravelctl.linearizability.history import Operation
from ravelpb.slots import slot_of
from tests.simulation.moves.clients import KINDS, MOSTLY_DELETES, Client
from tests.simulation.moves.cluster import SimCluster, SimClusterPort, leftovers
from tests.simulation.moves.directory import SimDirectory, SimDirectoryPort
from tests.simulation.moves.network import Faults, Network, ViolationError
from tests.simulation.moves.reconciling import reconcile
from tests.simulation.timeline import Clock, Process, Timeline

FAULTY_S: Final = 10.0
REST_S: Final = 60.0
"""After the faults have ended everything must come to rest within this."""

SLOTS: Final = 5
KEYS_OF_A_SLOT: Final = 4
NEIGHBOUR: Final = next(key for number in range(1_000) if slot_of(key := b"neighbour %d" % number) >= 64)
"""A key in a slot that stays with cluster 1."""

TURNS_MAX: Final = 2_000_000


class SimulationError(AssertionError):
    """A seed that fails."""

    def __init__(self, seed: int, why: BaseException | str) -> None:
        super().__init__(f"seed {seed}: {why}")
        self.why = why


@dataclass(frozen=True, slots=True)
class Result:
    """What happened in a world in which nothing went wrong."""

    operations: int
    moved: int  # moves that were committed
    called_off: int
    movers: int
    seconds: float  # of world time
    digest: str  # of all that clients were told, and when


def _keys(rng: Random) -> list[bytes]:
    """Some keys of each of a few slots."""
    found: dict[int, list[bytes]] = defaultdict(list)
    number = rng.randrange(1000)
    while sum(len(keys) == KEYS_OF_A_SLOT for keys in found.values()) < SLOTS:
        key = f"k{number}".encode()
        number += 1
        slot = slot_of(key) % 64
        if slot_of(key) < 64 and len(found[slot]) < KEYS_OF_A_SLOT:
            found[slot].append(key)
    return [key for keys in found.values() if len(keys) == KEYS_OF_A_SLOT for key in keys]


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = Random(seed)
        self.timeline = Timeline(Random(rng.random()))
        self.process = Process(self.timeline, "world", Clock(self.timeline))
        self.timeline.add(self.process)
        lost, again, late = rng.choice([(0.0, 0.0, 0.0), (0.01, 0.05, 0.02), (0.02, 0.1, 0.03), (0.05, 0.15, 0.05)])
        self.network = Network(Random(rng.random()), Faults(lost, again, late, delay_s=rng.choice([0.002, 0.01, 0.03])))
        count = rng.choice([2, 3, 3, 4])
        self.clusters: dict[int, SimCluster] = {}
        for number in range(1, count + 1):
            self.clusters[number] = SimCluster(number, self.clusters, Random(rng.random()))
        self.directory = SimDirectory(count)
        self.keys = _keys(rng)
        self.slots = sorted({slot_of(key) for key in self.keys})
        reads = rng.choice([0.2, 0.4, 0.6])
        kinds = Random(seed + 2).choice([KINDS, KINDS, MOSTLY_DELETES])
        self.clients = [
            Client(number, self.network, self.clusters, self.directory, self.keys, Random(rng.random()), reads, kinds)
            for number in range(1, rng.randint(3, 7))
        ]
        self.network.faults.held = Random(seed + 3).choice([0.0, 0.1, 0.3])
        self.movers: list[asyncio.Task[None]] = []
        self.started = self.moved = self.called_off = 0
        self.faulty = True

    def run(self) -> Result:
        """Raises SimulationError."""
        sizes = self.rng.choice([1, 2, 5])
        patches = (
            patch.object(copying, "CHUNK_KEYS_MAX", sizes),
            patch.object(replica_slots, "PAGE_KEYS", self.rng.choice([1, 2, 5])),
            patch.object(executor, "DELETED_AT_ONCE", self.rng.choice([1, 3])),
            patch.object(replica_slots, "DELETED_AT_ONCE", Random(self.seed + 4).choice([1, 2])),
        )
        with patches[0], patches[1], patches[2], patches[3]:
            try:
                self._run_until_done(self._live())
                self._judge()
            except ViolationError as error:
                raise SimulationError(self.seed, error) from error
            finally:
                self._close()
        operations = [operation for client in self.clients for operation in client.history]
        digest = sha256("\n".join(map(repr, operations)).encode()).hexdigest()[:16]
        return Result(len(operations), self.moved, self.called_off, self.started, self.timeline.now, digest)

    def _run_until_done(self, life: Coroutine[Any, Any, None]) -> None:
        loop = self.process.loop
        task = loop.create_task(life)
        while not task.done():
            self.timeline.step()
            if self.network.violation is not None:
                raise self.network.violation
            if self.timeline.turns > TURNS_MAX:
                raise ViolationError("the world does not come to rest")
        task.result()

    def _close(self) -> None:
        loop = self.process.loop
        for task in asyncio.all_tasks(loop):
            task.cancel()
        for _ in range(1000):
            if not asyncio.all_tasks(loop):
                break
            loop.turn()
        loop.close()

    # --- what happens

    async def _live(self) -> None:
        running = [asyncio.create_task(client.run()) for client in self.clients]
        chaos = [
            asyncio.create_task(plot)
            for plot in (self._movers(), self._operator(), self._outages(), self._restarts(), self._neighbour())
        ]
        await asyncio.sleep(FAULTY_S)
        self.faulty = False
        faults = self.network.faults
        faults.lost = faults.again = faults.late = faults.held = 0.0
        await _all(chaos)
        await self._rest()
        await reconcile(self)  # what migrations have left behind that were called off while a cluster was away
        for client in self.clients:
            client.stopping = True
        await _all(running)
        for key in self.keys:
            await self.clients[0].get(key)
        for mover in self.movers:
            mover.cancel()

    async def _movers(self) -> None:
        """There is nearly always one; sometimes there are two."""
        rng = self.rng
        while self.faulty:
            self._start_mover()
            await asyncio.sleep(rng.expovariate(1 / rng.choice([0.1, 0.5, 3.0])))
            if rng.random() < 0.4:
                self._start_mover()
                await asyncio.sleep(rng.expovariate(1.0))
            for mover in self.movers:
                mover.cancel()
            _raise_of(self.movers)
            self.movers.clear()
            await asyncio.sleep(rng.choice([0.0, 0.0, 0.5]))
        self._start_mover()

    def _start_mover(self) -> None:
        rng = self.rng
        options = MoverOptions(
            moves_at_once=1 + 3 * (self.started % 2),
            poll_s=0.02,
            retry_s=0.05,
            frozen_s_max=rng.choice([0.3, 2.0]),
            freeze_below_keys=rng.choice([0, 2, 10]),
            passes_max=4,
        )
        seeds = rng.random(), rng.random()
        directory = SimDirectoryPort(self.directory, self.network, Random(seeds[1]))
        mover = Mover(SimClusterPort(self.clusters, self.network, Random(seeds[0]), directory.view), directory, options)
        self.newest = mover
        self.started += 1
        self.movers.append(asyncio.create_task(mover.run(self.started)))

    async def _operator(self) -> None:
        rng = self.rng
        while self.faulty:
            await asyncio.sleep(rng.expovariate(2.0))
            view = self.directory.view()
            if view.moves and rng.random() < 0.3:
                self._propose(DecideMove(rng.choice(list(view.moves)), commit=False))
                continue
            source, destination = rng.sample(sorted(self.clusters), 2)
            owned = [slot for slot in self.slots if view.slot_map.owners[slot] == source]
            if owned:
                slots = tuple(sorted(rng.sample(owned, rng.randint(1, len(owned)))))
                self._propose(PlanMoves(view.slot_map.version, (PlannedMove(slots, source, destination),)))

    def _propose(self, command: PlanMoves | DecideMove) -> None:
        try:
            self.directory.apply(command, self.timeline.now)
        except RefusedError:
            return

    async def _neighbour(self) -> None:
        """Somebody writes to slots that stay: the clusters' revisions have nothing to do with each other."""
        rng = Random(self.seed + 1)
        most = rng.choice([0, 3, 30])
        while self.faulty and most:
            await asyncio.sleep(rng.expovariate(10.0))
            count = rng.randint(1, most)
            await self.clusters[1].propose(envelope.group([envelope.put(NEIGHBOUR, b"")] * count), count, grows=True)

    async def _outages(self) -> None:
        rng = self.rng
        while self.faulty:
            await asyncio.sleep(rng.expovariate(0.4))
            here = [cluster for cluster in self.clusters.values() if not cluster.away]
            cluster = rng.choice(here)
            cluster.away = True
            await asyncio.sleep(rng.choice([0.1, 0.5, 3.0]))
            cluster.away = False

    async def _restarts(self) -> None:
        while self.faulty:
            await asyncio.sleep(self.rng.expovariate(1.0))
            self.rng.choice(list(self.clusters.values())).restart()
            self.directory.reopen()

    async def _rest(self) -> None:
        deadline = self.timeline.now + REST_S
        while self.directory.view().moves:
            _raise_of(self.movers)
            if self.timeline.now > deadline:
                moves = [
                    f"{move.move_id} {move.phase.value}, {self.newest.progress(move.move_id).obstacle or 'no obstacle'}"
                    for move in self.directory.view().moves.values()
                ]
                raise ViolationError(f"moves do not come to an end: {'; '.join(moves)}")
            await asyncio.sleep(0.1)

    # --- what must hold in the end

    def _judge(self) -> None:
        self._count_moves()
        for cluster in self.clusters.values():
            if left := leftovers(cluster):
                raise ViolationError(f"cluster {cluster.number} keeps {left}, though no move is left")
        owners = self.directory.view().slot_map.owners
        for slot in self.slots:
            for number, cluster in self.clusters.items():
                if (cluster.mark(slot) == Mark.OWNED) != (owners[slot] == number):
                    mark = cluster.mark(slot).name
                    raise ViolationError(f"slot {slot} is cluster {owners[slot]}'s, and cluster {number} has it {mark}")
        for number, cluster in self.clusters.items():
            for key in cluster.state.databases[Database.KV].keys() - {NEIGHBOUR}:
                if (owner := owners[slot_of(key)]) != number:
                    raise ViolationError(f"cluster {number} keeps key {key!r} of slot {slot_of(key)}, which is cluster {owner}'s")
        self._check_history()

    def _count_moves(self) -> None:
        phases: dict[int, Phase] = {}
        for _, version in self.directory.versions:
            for move_id, move in version.moves.items():
                if phases.get(move_id) in (Phase.COMMITTED, Phase.ABORTED) and phases[move_id] is not move.phase:
                    raise ViolationError(f"move {move_id} was {phases[move_id].value}, and then {move.phase.value}")
                phases[move_id] = move.phase
        self.moved = sum(phase is Phase.COMMITTED for phase in phases.values())
        self.called_off = sum(phase is Phase.ABORTED for phase in phases.values())

    def _check_history(self) -> None:
        """Key by key, since clusters count their revisions apart."""
        by_key: dict[bytes, list[Operation]] = {key: [] for key in self.keys}
        for client in self.clients:
            for operation in client.history:
                by_key.get(operation.key, []).append(operation)
        for operations in by_key.values():
            report = check(operations)
            if report.violations:
                raise ViolationError(str(report))


async def _all(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        await task


def _raise_of(tasks: list[asyncio.Task[None]]) -> None:
    """What a mover ended with, which never ends by itself."""
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise ViolationError(f"a mover ended: {error!r}") from error
