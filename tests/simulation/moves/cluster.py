"""One cluster as one linearizable machine: the real one, over a state in memory. It can be away for a while, and be restarted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from ravel_node.admin.model import ClusterNumber, Directory
from ravel_node.admin.ports import ClusterAwayError, StepRefusedError
from ravel_node.machine import envelope, kv
from ravel_node.machine.base import Database, Outcome, Reader
from ravel_node.machine.kv import KVMachine
from ravel_node.machine.members import bootstrap_state
from ravel_node.machine.ownership import Mark, Side, founded, write_ownership
from ravel_node.machine.slots import ALL_SLOTS, NO_SLOTS, MovedKey, SlotsCommand, Step, bitmap, slots_of
from ravel_node.raft.types import EntryId, Index, Term
from ravel_node.replica.errors import MoveRefusedError
from ravel_node.replica.slots import SlotPages, change_slots
from ravel_node.replica.status import Member
from ravelpb.slots import slot_of
from ravelpb.v1 import slots_pb2 as pb
from tests.machine.helpers import member, voters
from tests.machine.memory_txn import MemoryState
from tests.simulation.moves.network import LostError, Network, ViolationError

T = TypeVar("T")


def first_id(number: int) -> str:
    """The id under which a cluster is founded."""
    return f"{1000 + number:032x}"


class WrongClusterError(Exception):
    """The key's slot belongs to another cluster."""


class SimCluster:
    """A `Seat` of replica.slots, and what clients ask of it."""

    def __init__(self, number: int, others: dict[int, SimCluster], rng: Random, state: MemoryState | None = None) -> None:
        """With a state that it was restored with, or as the first cluster, or another one, of a new system."""
        self.number = number
        self.cluster_id = first_id(number)
        self.away = False
        self.disputed = state is not None  # what it owns has not been reconciled with the others yet
        self._others = others
        self._rng = rng
        self.state = state or MemoryState()
        if state is None:
            bootstrap_state(self.state, cluster_name=f"c{number}", member=member(1), conf_state=voters(1), config_index=Index(1))
            write_ownership(self.state, founded(ALL_SLOTS if number == 1 else NO_SLOTS, 1))
        self._index = 1 + self.state.applied.index
        self.held: list[pb.ChangeSlotsRequest] = []  # chunks that the network delivers at the worst moment, if ever
        self._read_at: dict[int, int] = {}  # of each move, the source's revision when the newest chunk was read
        self._exported_by: dict[int, int] = {}  # of each move, the newest mover whose EXPORT was answered
        self.machine = KVMachine()
        self.restart()

    def restart(self) -> None:
        """All that is in memory is loaded again."""
        self.machine = KVMachine()
        self.machine.open(self.state)

    # --- as replica.slots sees it

    def reader(self) -> Reader:
        return self.state

    def members(self) -> Sequence[Member]:
        return ()

    def check_leader(self) -> None:
        """One machine is always its own leader."""

    @property
    def cold(self) -> bool:
        return self._rng.random() < 0.5

    async def page_in(self, keys: Sequence[bytes]) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.002))

    async def flush(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.002))

    async def verify_slots(self, slots: Sequence[int], keys_max: int) -> int:
        """Memory is not damaged here. Few at a time, so that others come between."""
        await asyncio.sleep(self._rng.uniform(0.0, 0.002))
        return self._rng.randint(1, len(slots))

    async def propose(self, group: bytes, count: int, *, grows: bool) -> Sequence[Outcome]:
        await asyncio.sleep(self._rng.uniform(0.0, 0.002))
        self._index += 1
        outcomes = self.machine.apply(EntryId(Term(1), Index(self._index)), envelope.payload([group]), self.state)
        self._check_ownership()
        return outcomes

    def mark(self, slot: int) -> Mark:
        ownership = self.machine.ownership
        return Mark.OWNED if ownership is None else Mark(ownership.marks[slot])

    def _check_ownership(self) -> None:
        """Two clusters never answer for one slot, and none counts from less than the one had come to that had it before."""
        own = self.machine.ownership
        for slot, tenure in own.tenures.items() if own is not None else ():
            if tenure.came > self.machine.revision:
                here = f"cluster {self.number} counts from {self.machine.revision}"
                raise ViolationError(f"slot {slot} came from where revision {tenure.came} was told, and {here}")
        for slot in {slot_of(key) for cluster in self._others.values() for key in cluster.state.databases[Database.KV]}:
            lawful = [cluster for cluster in self._others.values() if not cluster.disputed]
            owners = [cluster for cluster in lawful if cluster.mark(slot) != Mark.FOREIGN]
            if len(owners) > 1:
                names = " and ".join(f"cluster {owner.number} ({owner.mark(slot).name.lower()})" for owner in owners)
                raise ViolationError(f"slot {slot} is owned by {names}")

    # --- as clients see it

    def _check_here(self) -> None:
        if self.away:
            raise LostError(f"cluster {self.number} is away")

    async def write(self, group: bytes) -> Outcome:
        self._check_here()
        (outcome,) = await self.propose(group, 1, grows=True)
        return outcome

    async def get(self, key: bytes) -> tuple[int, bytes | None]:
        """Revision and value. Raises WrongClusterError."""
        self._check_here()
        if self.mark(slot_of(key)) == Mark.FOREIGN:
            raise WrongClusterError
        found = kv.get(self.state, key)
        return (0, None) if found is None else (found.revision, found.value)

    # --- the service Slots

    async def ownership(self) -> pb.OwnershipResponse:
        self._check_here()
        ownership = self.machine.ownership
        assert ownership is not None
        moves = [
            pb.SlotMove(
                move=move.move,
                side=pb.MoveSide.ValueType(move.side),
                slots=move.slots,
                next_chunk=move.next_chunk,
                mover=move.mover,
                versions=map(ownership.came_by, move.slots) if move.side is Side.RELEASED else (),
            )
            for move in ownership.moves.values()
        ]
        return pb.OwnershipResponse(
            managed=True,
            owned=ownership.owned,
            map_version=ownership.map_version,
            moves=moves,
            last_move=ownership.last_move,
            changes=ownership.changes,
            revision=self.machine.revision,
            versions=map(ownership.came_by, slots_of(ownership.owned)),
            held=bitmap({slot_of(key) for key in self.state.databases[Database.KV]}),
        )

    async def change(self, request: pb.ChangeSlotsRequest) -> pb.ChangeSlotsResponse:
        """Raises MoveRefusedError."""
        self._check_here()
        keys = tuple(MovedKey(moved.key, moved.value, moved.revision) for moved in request.keys)
        command = SlotsCommand(
            Step(request.step),
            request.move,
            tuple(request.slots),
            request.map_version,
            request.chunk,
            keys,
            request.revision,
            mover=request.mover,
            expected=request.expected_changes,
            ended=tuple(request.ended),
        )
        result = await change_slots(self, command, request.limit)
        self._check_mover(command)
        if result.taken:
            self._check_chunk(command)
            await self._deliver_held()
        return pb.ChangeSlotsResponse(
            revision=result.revision,
            next_chunk=result.next_chunk,
            more=result.more,
            taken=result.taken,
            deleted=result.deleted,
        )

    def _check_chunk(self, taken: SlotsCommand) -> None:
        """Of two chunks the one that is taken later was read later, whoever read them: a key's newest state is taken last."""
        newest = self._read_at.get(taken.move, 0)
        if taken.revision < newest:
            was = f"chunk {taken.chunk} of move {taken.move} was read at revision {taken.revision}"
            raise ViolationError(f"{was}, and one that was read at {newest} was taken before it")
        self._read_at[taken.move] = taken.revision

    async def _deliver_held(self) -> None:
        """Deliver a chunk whose number comes next."""
        ownership = self.machine.ownership
        moves = ownership.moves if ownership is not None else {}
        for request in self.held:
            move = moves.get(request.move)
            if move is not None and move.next_chunk == request.chunk:
                self.held.remove(request)
                await self.change(request)
                return

    def _check_mover(self, taken: SlotsCommand) -> None:
        """Who has exported, and then sees no freeze, counts on it that nobody before it freezes: only so it bounds the freeze."""
        newest = self._exported_by.get(taken.move, 0)
        if taken.step is Step.FREEZE and taken.mover < newest:
            raise ViolationError(f"mover {taken.mover} froze move {taken.move}, and mover {newest} knows nothing of it")
        if taken.step is Step.EXPORT:
            self._exported_by[taken.move] = max(newest, taken.mover)

    async def page(self, pages: SlotPages) -> pb.ReadSlotsResponse:
        self._check_here()
        await pages.prepare(self)
        page = pages.next(self.state)
        keys = [pb.MovedKey(key=moved.key, value=moved.value, revision=moved.revision) for moved in page.keys]
        return pb.ReadSlotsResponse(keys=keys, revision=page.revision, more=page.more)


class SimClusterPort:
    """What one mover has of the clusters: a ClusterPort."""

    def __init__(self, clusters: dict[int, SimCluster], network: Network, rng: Random, view: Callable[[], Directory]) -> None:
        """`view` is the registry as whoever asks sees it: a cluster is asked under the id that it has there."""
        self._clusters = clusters
        self._view = view
        self._network = network
        self._rng = rng

    def as_of(self, directory: Directory) -> SimClusterPort:
        return SimClusterPort(self._clusters, self._network, self._rng, lambda: directory)

    async def ownership(self, cluster: ClusterNumber, *, detail: bool = False) -> pb.OwnershipResponse:
        return await self._ask(cluster, self._meant(cluster).ownership)

    async def change(self, cluster: ClusterNumber, request: pb.ChangeSlotsRequest) -> pb.ChangeSlotsResponse:
        there = self._meant(cluster)
        if request.step == pb.IMPORT_CHUNK and self._rng.random() < self._network.faults.held:
            there.held.append(request)
            await asyncio.sleep(self._rng.uniform(0.05, 0.4))
            raise ClusterAwayError(f"cluster {cluster}: there was no answer in time")
        return await self._ask(cluster, lambda: there.change(request))

    async def read(self, cluster: ClusterNumber, request: pb.ReadSlotsRequest) -> AsyncGenerator[pb.ReadSlotsResponse, None]:
        """Page by page, with time between them, in which others write."""
        pages = SlotPages(request.slots, noted_for=request.noted_for_move, keys_only=request.keys_only)
        there = self._meant(cluster)
        told: set[int] = set()

        async def next_page(number: int) -> pb.ReadSlotsResponse:
            """A stream tells each page once, however often the network says something twice."""
            if number in told:
                raise LostError("the page was told already")
            told.add(number)
            return await there.page(pages)

        number, more = 0, True
        try:
            while more:
                page = await self._ask(cluster, lambda at=number: next_page(at))  # type: ignore[misc]
                number, more = number + 1, page.more
                yield page
        finally:
            await pages.close()

    def _meant(self, cluster: ClusterNumber) -> SimCluster:
        """What is sent late reaches the cluster that was meant, and not one restored in its place. Raises ClusterAwayError."""
        there, known = self._clusters[cluster], self._view().clusters.get(cluster)
        if known is None or known.cluster_id != there.cluster_id:
            raise ClusterAwayError(f"cluster {cluster}: another one answers at its addresses")
        return there

    async def _ask(self, cluster: ClusterNumber, action: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._network.call(action, self._rng.uniform(0.05, 0.4))
        except LostError as error:
            raise ClusterAwayError(f"cluster {cluster}: {error}") from error
        except MoveRefusedError as error:
            raise StepRefusedError(str(error)) from error


def leftovers(cluster: SimCluster) -> list[str]:
    """What is left of moves."""
    ownership = cluster.machine.ownership
    assert ownership is not None
    left = [f"move {move.move} {move.side.name}" for move in ownership.moves.values()]
    return left
