"""Moving slots, and in between clusters and the admin group are restored from older days, or lost, and made to agree again.

Each world has a few rounds. In a round clients, movers and an operator do what they do in a world of moves, and backups are
taken. Then something is restored or lost, in the middle of whatever was going on, with late requests still on their way. An
operator reconciles, under the same bad network, while movers are at work. In the end every slot is where the map says, and
nowhere else, and:

- consent is asked for only where something may be lost: for slots that what was restored or lost owned, or was about to get;
- of all other slots nothing that anybody was told is lost, doubled or hidden.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from ravel_node.admin.commands import AdoptCluster
from ravel_node.admin.model import ClusterNumber, Directory, Phase
from ravel_node.machine.base import Database, Start
from ravel_node.machine.kv import KVMachine
from ravel_node.machine.ownership import Mark
from ravel_node.machine.refounding import FORGOTTEN, Founder, refound, start_above
from ravel_node.raft.types import EntryId, Index, Term
from ravelpb.slots import slot_of
from tests.machine.memory_txn import MemoryState
from tests.simulation.moves.clients import KINDS, Client
from tests.simulation.moves.cluster import SimCluster
from tests.simulation.moves.directory import SimDirectory
from tests.simulation.moves.reconciling import reconcile
from tests.simulation.moves.world import World, _all, _raise_of

ROUNDS_MAX: Final = 3
ADMINS: Final = 0
"""Among the numbers of clusters: the admin group."""


class DisasterWorld(World):
    """A world of moves with disasters in it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.clients = []
        self.spoiled: set[int] = set()  # slots of which something was lost with consent
        self.disasters = 0
        self.in_doubt: set[int] = set()  # slots of which something may be lost by all disasters up to now
        self._saved: list[tuple[int, MemoryState]] = []
        self._lost: dict[int, SimCluster] = {}
        self._ids = 5_000

    async def _live(self) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, ROUNDS_MAX)):
            await self._traffic(rng.uniform(1.0, 4.0))
            self.in_doubt |= self._disaster()
            self.faulty = True
            movers = asyncio.create_task(self._movers()) if rng.random() < 0.7 else None
            await self._reconcile()
            self.faulty = False
            if movers is not None:
                await movers
            self._stop_movers()
        await self._traffic(2.0)
        faults = self.network.faults
        faults.lost = faults.again = faults.late = faults.held = 0.0
        await asyncio.sleep(faults.late_s)  # what is late arrives
        self._start_mover()
        await self._return()
        await self._reconcile()
        await self._rest()
        await self._reconcile()  # what migrations have left behind that were called off while a cluster was away
        reader = self._client(99)
        for key in self.keys:
            await reader.get(key)
        self._stop_movers()

    async def _traffic(self, seconds: float) -> None:
        """All is as it should be, but for the network."""
        rng = self.rng
        self.faulty = True
        clients = [self._client(number) for number in range(1, rng.randint(3, 5))]
        running = [asyncio.create_task(client.run()) for client in clients]
        plots = (self._movers(), self._operator(), self._outages(), self._restarts(), self._backups())
        chaos = [asyncio.create_task(plot) for plot in plots]
        await asyncio.sleep(seconds)
        self.faulty = False
        for client in clients:
            client.stopping = True
        await _all(chaos)
        await _all(running)
        if rng.random() < 0.5:
            await self._decided()
        self._stop_movers()

    async def _decided(self) -> None:
        """Wait for the moment at which a migration is decided and its clusters do not know yet, for a while."""
        ends = self.timeline.now + 2.0
        while self.timeline.now < ends and not any(
            move.phase is Phase.COMMITTED for move in self.directory.view().moves.values()
        ):
            await asyncio.sleep(0.002)
        await asyncio.sleep(self.rng.uniform(0.0, 0.05))

    def _client(self, number: int) -> Client:
        name = 100 * len(self.clients) + number  # every value is written once in a run
        rng = Random(self.rng.random())
        client = Client(name, self.network, self.clusters, self.directory, self.keys, rng, 0.4, KINDS)
        self.clients.append(client)
        return client

    def _stop_movers(self) -> None:
        for mover in self.movers:
            mover.cancel()
        _raise_of(self.movers)
        self.movers.clear()

    async def _backups(self) -> None:
        while self.faulty:
            await asyncio.sleep(self.rng.expovariate(self.rng.choice([2.0, 20.0])))
            number = self.rng.choice([ADMINS, *self.clusters])
            saved = self.directory.state if number == ADMINS else self.clusters[number].state
            self._saved.append((number, _copied(saved)))

    # --- what is lost and comes back

    def _disaster(self) -> set[int]:
        """Restore or lose something; return the slots for which consent may be asked."""
        rng = self.rng
        numbers = [number for number, _ in self._saved if number not in self._lost]
        victims = sorted(set(rng.sample(numbers, min(len(numbers), rng.choice([1, 1, 1, 2])))))
        lost = None
        if rng.random() < 0.3 and len(self.clusters) - len(self._lost) > 2:
            lost = rng.choice([number for number in self.clusters if number not in (*victims, *self._lost)] or [None])
        self.disasters += len(victims) + (lost is not None)
        view = self.directory.view()
        hit = {*victims, *([lost] if lost is not None else [])} - {ADMINS}
        allowed = self._doubtful(view, hit, registry_is_older=ADMINS in victims)
        for number in victims:
            if number != ADMINS:
                self._restore(number)
        if lost is not None:
            self._lost[lost] = self.clusters[lost]
            self.clusters[lost].away = self.clusters[lost].disputed = True
        if ADMINS in victims:
            self._restore_admins()
        self._adopt()
        return allowed

    def _doubtful(self, view: Directory, hit: set[int], *, registry_is_older: bool) -> set[int]:
        """The slots of which something may be lost with these clusters, or of which nobody can know whether it is."""
        owned = {slot for slot in self.slots for number in hit if self.clusters[number].mark(slot) != Mark.FOREIGN}
        committed = [move for move in view.moves.values() if move.phase is Phase.COMMITTED]
        waiting = {slot for move in committed if move.destination in hit for slot in move.slots}
        # A destination that has all keys and was not told so has two witnesses: the registry, and the source.
        unwitnessed = [move for move in committed if move.source in hit and (registry_is_older or move.destination in hit)]
        forgotten = {slot for move in unwitnessed for slot in move.slots}
        self.spoiled |= owned | forgotten
        # A lost cluster keeps what was owned by nobody but itself, and what it gave up in an earlier round is nobody's loss.
        return (
            owned | waiting | forgotten | {slot for number in hit for slot in self.slots if view.slot_map.owners[slot] == number}
        )

    def _restore(self, number: int) -> None:
        """A cluster is another one from now on, with what an older state says."""
        old = self.clusters[number]
        old.away = True
        states = [state for of, state in self._saved if of == number]
        saved = states[-1] if self.rng.random() < 0.3 else self.rng.choice(states)
        state = _copied(saved)
        for database in FORGOTTEN:
            state.databases[database].clear()
        machine = KVMachine()
        machine.open(saved)
        start = self._start_above(saved, machine.revision)
        refound(saved, state, Founder(f"{number:032x}", f"n{number}", "0.1.0", 3), "", start)
        state.applied = start.at
        self._ids += 1
        self.clusters[number] = restored = SimCluster(number, self.clusters, Random(self.rng.random()), state)
        restored.cluster_id = f"{self._ids:032x}"
        restored.restart()

    def _start_above(self, state: MemoryState, revision: int) -> Start:
        return start_above(EntryId(Term(1), Index(1)), revision, int((1_000 + self.timeline.now) * 1_000_000))

    def _restore_admins(self) -> None:
        states = [state for of, state in self._saved if of == ADMINS]
        saved = states[-1] if self.rng.random() < 0.3 else self.rng.choice(states)
        self.directory.away = True
        directory = SimDirectory(0)
        directory.restore(_copied(saved), self._start_above(saved, 0), self.timeline.now)
        self.directory = directory

    def _adopt(self) -> None:
        """Put every cluster that has another id than the registry says into its old place."""
        for number, cluster in self.clusters.items():
            entry = self.directory.view().clusters[ClusterNumber(number)]
            if entry.cluster_id != cluster.cluster_id:
                self.directory.apply(AdoptCluster(entry.name, entry.cluster_id, cluster.cluster_id), self.timeline.now)

    async def _return(self) -> None:
        """What was lost is found again, as it was."""
        for cluster in self._lost.values():
            cluster.away = False
        self._lost.clear()

    async def _reconcile(self) -> None:
        gone = set(self._lost)
        await reconcile(self, in_doubt=self.in_doubt, gone=gone)
        for number, cluster in self.clusters.items():
            cluster.disputed = number in gone

    # --- what must hold in the end

    def _judge(self) -> None:
        self.keys = [key for key in self.keys if slot_of(key) not in self.spoiled]
        super()._judge()

    def _count_moves(self) -> None:
        """A restored admin group has forgotten what it decided: phases go back."""
        self.moved = self.called_off = 0


def _copied(state: MemoryState) -> MemoryState:
    copy = MemoryState()
    copy.applied = state.applied
    for database in Database:
        copy.databases[database] = dict(state.databases[database])
    return copy
