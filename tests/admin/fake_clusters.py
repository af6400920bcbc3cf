"""Clusters and a directory in memory, behind the mover's ports: a plain model of the service Slots, and the directory's rules."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ravel_node.admin.commands import Command, PlanMoves, PlannedMove
from ravel_node.admin.decisions import decide
from ravel_node.admin.model import ClusterEntry, ClusterNumber, Directory, MoveId, SlotMap
from ravel_node.admin.ports import ClusterAwayError, DirectoryAwayError, StepRefusedError
from ravel_node.machine.slots import bitmap
from ravel_node.raft.types import Index
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1 import slots_pb2 as pb

PAGE_KEYS = 3


@dataclass(slots=True)
class ModelMove:
    side: pb.MoveSide.ValueType
    slots: tuple[int, ...]
    next_chunk: int = 1
    notes: dict[bytes, int] = field(default_factory=dict)
    mover: int = 0


class ModelCluster:
    """One cluster: keys with their revisions, and its part in moves."""

    def __init__(self, owned: set[int]) -> None:
        self.keys: dict[bytes, tuple[int, bytes]] = {}
        self.revision = 0
        self.owned = owned
        self.moves: dict[int, ModelMove] = {}
        self.last_move = 0
        self.last_step = 0  # that ended it
        self.map_version = 0
        self.managed = True

    def write(self, key: bytes, value: bytes | None) -> bool:
        """Whether the cluster takes the write."""
        slot = slot_of(key)
        moving = next((move for move in self.moves.values() if slot in move.slots), None)
        if slot not in self.owned or (moving is not None and moving.side == pb.FROZEN):
            return False
        self.revision += 1
        if value is None:
            self.keys.pop(key, None)
        else:
            self.keys[key] = (self.revision, value)
        if moving is not None:
            moving.notes[key] = self.revision
        return True

    def ownership(self) -> pb.OwnershipResponse:
        moves = [
            pb.SlotMove(
                move=number,
                side=move.side,
                slots=move.slots,
                next_chunk=move.next_chunk,
                mover=move.mover,
                keys=sum(slot_of(key) in move.slots for key in self.keys),
            )
            for number, move in self.moves.items()
        ]
        return pb.OwnershipResponse(
            managed=self.managed, owned=bitmap(self.owned), moves=moves, revision=self.revision, last_move=self.last_move
        )

    def change(self, request: pb.ChangeSlotsRequest) -> pb.ChangeSlotsResponse:
        if not self.managed:
            if request.step in (pb.UNFREEZE, pb.DROP):
                return pb.ChangeSlotsResponse()
            raise StepRefusedError("this cluster was never told which slots it owns")
        if request.move == self.last_move and self.last_step in (request.step, pb.PURGE if request.step == pb.RELEASE else 0):
            return pb.ChangeSlotsResponse(revision=self.revision)
        if request.move <= self.last_move:
            raise StepRefusedError(f"move {request.move} has ended")
        move = self.moves.get(request.move)
        if request.step in (pb.EXPORT, pb.IMPORT) and move is None:
            side = pb.EXPORTING if request.step == pb.EXPORT else pb.IMPORTING
            move = self.moves[request.move] = ModelMove(side, tuple(request.slots))
        elif request.step == pb.IMPORT and move is not None:
            move.next_chunk += 64
        if request.step in (pb.EXPORT, pb.FREEZE) and move is not None:
            if request.mover < move.mover:
                raise StepRefusedError(f"mover {request.mover} was replaced by {move.mover}")
            move.mover = request.mover
        taken = request.step == pb.IMPORT_CHUNK and move is not None and move.next_chunk == request.chunk
        more = self._step(request, move)
        raising = request.step in (pb.IMPORT, pb.IMPORT_CHUNK, pb.ACTIVATE)
        self.revision = max(self.revision, request.revision if raising else 0)
        return pb.ChangeSlotsResponse(revision=self.revision, next_chunk=move.next_chunk if move else 0, more=more, taken=taken)

    def _step(self, request: pb.ChangeSlotsRequest, move: ModelMove | None) -> bool:
        """Whether keys are left to delete."""
        if move is None:
            if request.step not in (pb.UNFREEZE, pb.DROP):
                raise StepRefusedError(f"there is no move {request.move}")
            self.last_move, self.last_step = request.move, request.step
            return False
        match request.step:
            case pb.FREEZE if move.side == pb.EXPORTING:
                move.side = pb.FROZEN
            case pb.RELEASE:
                move.side = pb.RELEASED
                self._own(request, self.owned - set(move.slots))
            case pb.ACTIVATE:
                self._own(request, self.owned | set(move.slots))
                self._end(request.move, request.step)
            case pb.UNFREEZE:
                self._end(request.move, request.step)
            case pb.PURGE | pb.DROP:
                return self._delete_some(request, move)
            case pb.IMPORT_CHUNK:
                self._take(request, move)
            case pb.SETTLE:
                move.notes = {key: revision for key, revision in move.notes.items() if revision > request.revision}
        return False

    def _own(self, request: pb.ChangeSlotsRequest, owned: set[int]) -> None:
        self.owned, self.map_version = owned, request.map_version

    def _end(self, number: int, step: int) -> None:
        del self.moves[number]
        self.last_move, self.last_step = number, step

    def _delete_some(self, request: pb.ChangeSlotsRequest, move: ModelMove) -> bool:
        left = [key for key in self.keys if slot_of(key) in move.slots]
        for key in left[:PAGE_KEYS]:
            del self.keys[key]
        if len(left) <= PAGE_KEYS:
            self._end(request.move, request.step)
        return len(left) > PAGE_KEYS

    def _take(self, request: pb.ChangeSlotsRequest, move: ModelMove) -> None:
        if request.chunk != move.next_chunk:
            return
        move.next_chunk += 1
        for moved in request.keys:
            if moved.revision:
                self.keys[moved.key] = (moved.revision, moved.value)
            else:
                self.keys.pop(moved.key, None)

    def read(self, request: pb.ReadSlotsRequest) -> Iterator[pb.ReadSlotsResponse]:
        """Each page as it is when it is asked for."""
        last = (-1, b"")
        while True:
            noted = self.moves[request.noted_for_move].notes if request.noted_for_move else None
            wanted = self.keys if noted is None else noted
            places = sorted((slot_of(key), key) for key in wanted if noted is not None or slot_of(key) in request.slots)
            left = [place for place in places if place > last]
            page = pb.ReadSlotsResponse(revision=self.revision, more=len(left) > PAGE_KEYS)
            for last in left[:PAGE_KEYS]:
                revision, value = self.keys.get(last[1], (0, b""))
                page.keys.add(key=last[1], value=b"" if request.keys_only else value, revision=revision)
            yield page
            if not page.more:
                return


Before = Callable[[ClusterNumber, Any], Awaitable[None]]


class FakeClusters:
    """A ClusterPort. `before` runs before each request and may raise; `after` runs once it is done, and may raise too."""

    def __init__(self, clusters: dict[int, ModelCluster]) -> None:
        self.clusters = clusters
        self.away: set[int] = set()
        self.steps: list[tuple[int, str]] = []
        self.requests: list[tuple[int, pb.ChangeSlotsRequest]] = []
        self.before: Before | None = None
        self.after: Before | None = None

    def as_of(self, _directory: Directory) -> FakeClusters:
        return self

    async def ownership(self, cluster: ClusterNumber) -> pb.OwnershipResponse:
        return (await self._at(cluster, pb.OwnershipRequest())).ownership()

    async def change(self, cluster: ClusterNumber, request: pb.ChangeSlotsRequest) -> pb.ChangeSlotsResponse:
        there = await self._at(cluster, request)
        self.steps.append((cluster, pb.SlotsStep.Name(request.step)))
        self.requests.append((cluster, request))
        response = there.change(request)
        if self.after is not None:
            await self.after(cluster, request)
        return response

    async def read(self, cluster: ClusterNumber, request: pb.ReadSlotsRequest) -> AsyncGenerator[pb.ReadSlotsResponse, None]:
        for page in (await self._at(cluster, request)).read(request):
            yield page
            await self._at(cluster, request)

    async def _at(self, cluster: ClusterNumber, request: Any) -> ModelCluster:
        if self.before is not None:
            await self.before(cluster, request)
        if cluster in self.away:
            raise ClusterAwayError(f"cluster {cluster} does not answer")
        return self.clusters[cluster]


class FakeDirectory:
    """A DirectoryPort: clusters 1 .. n, where cluster 1 owns everything."""

    def __init__(self, clusters: int = 2) -> None:
        entries = {
            ClusterNumber(n): ClusterEntry(ClusterNumber(n), f"c{n}", f"{n:032x}", founded=True) for n in range(1, clusters + 1)
        }
        self.directory = Directory(SlotMap(1, (ClusterNumber(1),) * SLOT_COUNT), clusters=entries)
        self.index = 10
        self.commands: list[Command] = []
        self.away = False

    def view(self) -> Directory:
        return self.directory

    async def propose(self, command: Command) -> Mapping[str, Any]:
        if self.away:
            raise DirectoryAwayError("the admin group has no leader")
        return self.apply(command)

    def apply(self, command: Command) -> Mapping[str, Any]:
        self.index += 1
        decision = decide(self.directory, command, Index(self.index))
        self.directory = decision.directory
        self.commands.append(command)
        return decision.answer

    def plan(self, *slots: int, source: int = 1, destination: int = 2) -> MoveId:
        move = PlannedMove(tuple(sorted(slots)), source, destination)
        self.apply(PlanMoves(self.directory.slot_map.version, (move,)))
        return max(self.directory.moves)
