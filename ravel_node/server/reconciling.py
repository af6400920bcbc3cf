"""A reconciliation carried out by the admin's leader: ask every cluster what it owns, work out the plan, and make it true.

Every step can be repeated, and each begins from what the clusters say: after a crash, a change of leadership or a cluster that
went away, whoever asks next goes on. Two that ask at once do no harm: the registry compares what was seen with what is, and so
does each cluster. The registry decides first; then clusters lose slots, then they gain some, then the keys of what was lost are
deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ravel_node.admin.commands import SetSlotMap
from ravel_node.admin.executor import DELETED_AT_ONCE
from ravel_node.admin.model import ClusterNumber, Directory
from ravel_node.admin.movement import seen_by
from ravel_node.admin.ports import ClusterAwayError, StepRefusedError
from ravel_node.admin.reconcile import Change, Cleaning, Migration, Plan, Report, reconciliation
from ravel_node.machine.ownership import Side
from ravel_node.machine.slots import slots_of
from ravel_node.replica.replica import Replica
from ravel_node.server.clusters import Clusters
from ravel_node.server.desk import DirectoryDesk
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import admin_pb2
from ravelpb.v1.slots_pb2 import DROP, OWN, PURGE, ChangeSlotsRequest, OwnershipResponse

CLEAN_S: Final = 2.0
"""How long one call deletes keys."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the registry and the clusters say, and what follows."""

    replica: Replica
    directory: Directory
    plan: Plan
    away: dict[ClusterNumber, str]  # clusters that do not answer, and why
    reports: dict[ClusterNumber, Report]


@dataclass(slots=True)
class Done:
    """What one call did."""

    keys_deleted: int = 0
    obstacles: list[str] = field(default_factory=list)


class Reconciling:
    """What the Admin service does for Reconcile. All raise what DirectoryDesk raises."""

    def __init__(self, desk: DirectoryDesk, clusters: Clusters) -> None:
        self._desk = desk
        self._clusters = clusters

    async def look(self, accepted: Sequence[int]) -> Look:
        """Ask all clusters at once."""
        replica, directory = await self._desk.read()
        numbers = [number for number, cluster in sorted(directory.clusters.items()) if cluster.founded]
        answers = await asyncio.gather(*map(self._ask, numbers))
        asked = dict(zip(numbers, answers, strict=True))
        reports = {number: answer for number, answer in asked.items() if isinstance(answer, Report)}
        away = {number: answer for number, answer in asked.items() if isinstance(answer, str)}
        unfounded = [number for number, cluster in sorted(directory.clusters.items()) if not cluster.founded]
        away |= dict.fromkeys(unfounded, "it is on the list, and nobody has founded it or was adopted as it yet")
        return Look(replica, directory, reconciliation(directory, reports, accepted), away, reports)

    async def carry_out(self, look: Look, accepted: Sequence[int]) -> tuple[Look, Done]:
        """Do what the plan of this look says. Return how it stands afterwards.

        Raises RefusedError (STALE_VIEW) if the registry has changed since.
        """
        done = Done()
        if look.plan.registry_changes:
            await self._decide(look, done)
            look = await self.look(accepted)
        await self._clean(look.plan.cleaning, done)
        return (look if not look.plan.cleaning else await self.look(accepted)), done

    async def _ask(self, number: ClusterNumber) -> Report | str:
        try:
            return _report(await self._clusters.ownership(number, detail=True))
        except ClusterAwayError as error:
            return str(error).partition(": ")[2] or str(error)

    async def _decide(self, look: Look, done: Done) -> None:
        plan = look.plan
        command = SetSlotMap(
            seen=seen_by(look.directory),
            owners=plan.owners,
            struck=plan.struck,
            map_version=plan.map_version,
            last_move=plan.last_move,
        )
        _, answer = await self._desk.ask(command)
        version, move = int(answer["map_version"]), int(answer["move"])
        losing = {change.cluster: change for change in plan.changes if change.lost or not change.gained}
        told = await asyncio.gather(*(self._tell(change, plan, version - 1, move, done) for change in losing.values()))
        taken = {change.cluster for change, is_done in zip(losing.values(), told, strict=True) if is_done}
        still_owned = {slot for change in losing.values() if change.cluster not in taken for slot in change.lost}
        gaining = [
            change
            for change in plan.changes
            if change.gained and not change.gained & still_owned and (not change.lost or change.cluster in taken)
        ]
        await asyncio.gather(*(self._tell(change, plan, version, move, done, gains=True) for change in gaining))

    async def _tell(self, change: Change, plan: Plan, map_version: int, move: int, done: Done, *, gains: bool = False) -> bool:
        """Let one cluster lose slots, or gain some after that. Return whether it did."""
        owned = change.owned - change.lost | (change.gained if gains else frozenset())
        request = ChangeSlotsRequest(
            step=OWN,
            move=move,
            slots=sorted(owned),
            map_version=map_version,
            expected_changes=change.expected + (1 if gains and change.lost else 0),
            ended=sorted({*change.ended, move}) if gains and change.lost else change.ended,
            revision=plan.revision,
        )
        try:
            await self._clusters.change(change.cluster, request)
        except (ClusterAwayError, StepRefusedError) as error:
            done.obstacles.append(str(error))
            return False
        return True

    async def _clean(self, cleaning: Sequence[Cleaning], done: Done) -> None:
        """Delete keys for a while, at all clusters at once."""
        until = asyncio.get_running_loop().time() + CLEAN_S
        by_cluster: dict[ClusterNumber, list[Cleaning]] = {}
        for one in cleaning:
            by_cluster.setdefault(one.cluster, []).append(one)
        await asyncio.gather(*(self._clean_one(work, until, done) for work in by_cluster.values()))

    async def _clean_one(self, work: Sequence[Cleaning], until: float, done: Done) -> None:
        for cluster, move, side in work:
            step = PURGE if side is Side.RELEASED else DROP
            more = True
            while more:
                if asyncio.get_running_loop().time() > until:
                    return
                request = ChangeSlotsRequest(step=step, move=move, limit=DELETED_AT_ONCE)
                try:
                    taken = await self._clusters.change(cluster, request)
                except (ClusterAwayError, StepRefusedError) as error:
                    done.obstacles.append(str(error))
                    return
                more = taken.more
                done.keys_deleted += taken.deleted


def _report(told: OwnershipResponse) -> Report:
    owned = slots_of(told.owned)
    return Report(
        managed=told.managed,
        versions=dict(zip(owned, told.versions, strict=True)),
        map_version=told.map_version,
        changes=told.changes,
        last_move=told.last_move,
        revision=told.revision,
        migrations={move.move: Migration(Side(move.side), tuple(move.slots), tuple(move.versions)) for move in told.moves},
        held=frozenset(slots_of(told.held)),
    )


def to_proto(look: Look, done: Done) -> admin_pb2.ReconcileResponse:
    """A look, and what was done before it, without a header."""
    directory, plan = look.directory, look.plan
    names = {number: cluster.name for number, cluster in directory.clusters.items()}
    before = directory.slot_map.owners
    purged: dict[ClusterNumber, list[int]] = {}
    for cluster, move, _ in plan.cleaning:
        purged.setdefault(cluster, []).append(move)
    changes = {number: Change(number, 0, frozenset()) for number in purged} | {change.cluster: change for change in plan.changes}
    return admin_pb2.ReconcileResponse(
        plan=plan.name,
        map_version=directory.slot_map.version,
        changes=[
            admin_pb2.OwnershipChange(
                number=number,
                name=names[number],
                gained=sorted(change.gained - change.owned),
                lost=sorted(change.lost - change.gained),
                lost_with_keys=sorted((change.lost - change.gained) & look.reports[number].held),
                moves_ended=change.ended,
                moves_to_purge=purged.get(number, []),
            )
            for number, change in sorted(changes.items())
        ],
        losses=[
            admin_pb2.SlotsLoss(
                slots=loss.slots, reason=loss.reason, number=loss.cluster, name=names[loss.cluster], accepted=loss.accepted
            )
            for loss in plan.losses
        ],
        moves_struck=plan.struck,
        away=[admin_pb2.AwayCluster(number=number, name=names[number], reason=why) for number, why in look.away.items()],
        done=plan.empty,
        keys_deleted=done.keys_deleted,
        slots_decided=sum(before[slot] != plan.owners[slot] for slot in range(SLOT_COUNT)),
        obstacle="; ".join(dict.fromkeys(done.obstacles)),
    )
