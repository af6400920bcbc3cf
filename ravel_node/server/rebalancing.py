"""Moves of slots, as operators plan, begin, follow and stop them. What moves is decided in ravel_node.admin.rebalance; the mover
carries it out, whether anybody listens or not."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from ravel_node.admin.answers import RefusedError
from ravel_node.admin.commands import DecideMove, PlanMoves, PlannedMove, SetCluster
from ravel_node.admin.model import ClusterNumber, Directory, Move, MoveId, Phase
from ravel_node.admin.progress import Amount, Progress, Totals, bytes_expected, seconds_left
from ravel_node.admin.rebalance import plan, shares
from ravel_node.server.desk import DirectoryDesk
from ravelpb.errors import Reason
from ravelpb.v1 import admin_pb2

TELL_EVERY_S: Final = 0.5
"""Between two messages of a stream that tells how moves get on."""

PHASES: Final = {
    Phase.PLANNED: admin_pb2.PLANNED,
    Phase.COPYING: admin_pb2.COPYING,
    Phase.COMMITTED: admin_pb2.COMMITTED,
    Phase.ABORTED: admin_pb2.ABORTED,
}


class MoverView(Protocol):
    """What is asked of the mover: how it gets on."""

    @property
    def totals(self) -> Totals: ...

    def progress(self, move_id: MoveId) -> Progress: ...


class Rebalancing:
    """The calls of the Admin service that are about moves. All raise what DirectoryDesk raises."""

    def __init__(self, desk: DirectoryDesk, mover: MoverView) -> None:
        self._desk = desk
        self._mover = mover
        self._closing = False

    def close(self) -> None:
        """End the streams."""
        self._closing = True

    async def planned(self, empty: Sequence[str]) -> admin_pb2.PlanRebalanceResponse:
        _, directory = await self._desk.read()
        moves = plan(directory, _numbers(directory, empty))
        return admin_pb2.PlanRebalanceResponse(
            map_version=directory.slot_map.version,
            moves=[_planned_to_proto(move) for move in moves],
            shares=[
                admin_pb2.ClusterShare(
                    number=share.number,
                    name=directory.clusters[share.number].name,
                    slots_before=share.before,
                    slots_after=share.after,
                )
                for share in shares(directory, moves)
            ],
        )

    async def begin(self, empty: Sequence[str], map_version: int) -> None:
        """Put the moves of a plan into the log; `map_version` is that of the plan that was looked at, 0: any."""
        _, directory = await self._desk.read()
        if map_version not in (0, directory.slot_map.version):
            raise RefusedError(
                Reason.STALE_VIEW,
                f"the plan was made for version {map_version} of the map of slots, which is {directory.slot_map.version} now: "
                "look at it anew",
            )
        _numbers(directory, empty)
        for name in empty:
            await self._desk.ask(SetCluster(name, secrets.token_hex(16), emptying=True))
        if moves := plan(self._desk.directory):
            await self._desk.ask(PlanMoves(self._desk.directory.slot_map.version, tuple(moves)))

    async def told(self) -> AsyncGenerator[admin_pb2.RebalanceResponse, None]:
        """How the moves that are under way get on, until all have ended. The last message has none."""
        _, directory = await self._desk.read()
        seen: dict[MoveId, Move] = {}
        begun = replace(self._mover.totals)
        expected: dict[MoveId, int] = {}
        while not self._closing:
            seen |= directory.moves
            moved = sum(len(move.slots) for move in seen.values() if _arrived(directory, move))
            under_way = list(directory.moves.values())
            carried = {move.move_id: self._mover.progress(move.move_id) for move in under_way}
            obstacle = next(filter(None, (progress.obstacle for progress in carried.values())), "")
            totals = self._mover.totals
            if not under_way and totals.called_off > begun.called_off:
                obstacle = totals.why_called_off
            expected |= {move: progress.keys_expected for move, progress in carried.items() if progress.keys_expected is not None}
            copied = totals.copied.minus(begun.copied)
            yield admin_pb2.RebalanceResponse(
                moves=[self.to_proto(move) for move in under_way],
                slots_moved=moved,
                slots_left=sum(len(move.slots) for move in seen.values()) - moved,
                keys_moved=int(copied.keys),
                obstacle=obstacle,
                map_version=directory.slot_map.version,
                copying=_copying(copied, totals.per_s, _all_expected(seen, expected)),
            )
            if not under_way:
                return
            await asyncio.sleep(TELL_EVERY_S)
            _, directory = await self._desk.read()

    async def stop(self) -> int:
        """Call off what is not decided; how many moves that were."""
        _, directory = await self._desk.read()
        stopped = 0
        for move in directory.moves.values():
            if move.phase in (Phase.PLANNED, Phase.COPYING):
                try:
                    await self._desk.ask(DecideMove(move.move_id, commit=False))
                except RefusedError as error:
                    if error.reason not in (Reason.MOVE_REFUSED, Reason.NOT_FOUND):  # it was decided meanwhile
                        raise
                else:
                    stopped += 1
        return stopped

    def to_proto(self, move: Move) -> admin_pb2.DirectoryMove:
        progress = self._mover.progress(move.move_id)
        return admin_pb2.DirectoryMove(
            move=move.move_id,
            slots=move.slots,
            source=move.source,
            destination=move.destination,
            phase=PHASES[move.phase],
            keys_copied=int(progress.copied.keys),
            obstacle=progress.obstacle,
            copying=_copying(progress.copied, progress.per_s, progress.keys_expected),
        )


def _all_expected(seen: Mapping[MoveId, Move], expected: Mapping[MoveId, int]) -> int | None:
    """Estimate the keys of all moves by those whose keys were counted, slot for slot; None: of none they were."""
    counted = sum(len(seen[move].slots) for move in expected)
    return sum(expected.values()) * sum(len(move.slots) for move in seen.values()) // counted if counted else None


def _copying(copied: Amount, per_s: Amount, keys_expected: int | None) -> admin_pb2.CopyProgress:
    left_s = seconds_left(copied.done, per_s.done, keys_expected)
    return admin_pb2.CopyProgress(
        bytes_copied=int(copied.bytes),
        keys_done=int(copied.done),
        keys_expected=keys_expected,
        bytes_expected=bytes_expected(copied, keys_expected),
        keys_per_s=round(per_s.done),
        bytes_per_s=round(per_s.bytes),
        ms_left=None if left_s is None else round(left_s * 1000),
    )


def _planned_to_proto(move: PlannedMove) -> admin_pb2.DirectoryMove:
    return admin_pb2.DirectoryMove(slots=move.slots, source=move.source, destination=move.destination, phase=admin_pb2.PLANNED)


def _arrived(directory: Directory, move: Move) -> bool:
    """Whether a move has ended, and its slots are where it was to take them."""
    return move.move_id not in directory.moves and all(directory.slot_map.owners[slot] == move.destination for slot in move.slots)


def _numbers(directory: Directory, names: Iterable[str]) -> list[ClusterNumber]:
    """Raises RefusedError for a cluster that is not there."""
    found: list[ClusterNumber] = []
    for name in names:
        cluster = directory.cluster_named(name)
        if cluster is None:
            raise RefusedError(Reason.NOT_FOUND, f"there is no cluster {name[:80]} in the list")
        found.append(cluster.number)
    return found
