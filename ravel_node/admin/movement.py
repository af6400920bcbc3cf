"""The steps of a move of slots, as the directory decides them: planned, begun, committed or called off, finished. Pure.

    PLANNED -> COPYING -> COMMITTED -> struck
       |          |
       |          +-----> ABORTED --> struck
       +----------------------------> struck: no cluster was told of it

Nothing else can be planned for the slots of an unfinished move, so its source owns them until it is committed.
The moves of a cluster begin in the order of their ids, each once those before it have ended: a cluster takes no step of a
move that is older than one that it has ended.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ravel_node.admin.answers import RefusedError
from ravel_node.admin.commands import PlanMoves, PlannedMove, SetSlotMap
from ravel_node.admin.model import NOBODY, ClusterNumber, Directory, Move, MoveId, Phase
from ravel_node.raft.types import Index
from ravelpb.errors import Reason


def planned(directory: Directory, command: PlanMoves, index: Index) -> tuple[Directory, list[MoveId]]:
    """The directory with these moves, and their ids. Raises RefusedError."""
    if command.map_version != directory.slot_map.version:
        raise RefusedError(
            Reason.STALE_VIEW,
            f"a plan for version {command.map_version} of the slot map, which is at {directory.slot_map.version} now: plan again",
        )
    busy = {slot for move in directory.moves.values() for slot in move.slots}
    for wanted in command.moves:
        _check_plan(directory, wanted, busy)
    # Several plans of one entry count on; no id is ever below an earlier entry's.
    first = max(directory.last_move + 1, index << 16)
    moves = [
        Move(MoveId(first + place), wanted.slots, ClusterNumber(wanted.source), ClusterNumber(wanted.destination))
        for place, wanted in enumerate(command.moves)
    ]
    ids = [move.move_id for move in moves]
    after = {**directory.moves, **{move.move_id: move for move in moves}}
    return replace(directory, moves=after, last_move=ids[-1]), ids


def _check_plan(directory: Directory, wanted: PlannedMove, busy: set[int]) -> None:
    for number in (wanted.source, wanted.destination):
        cluster = directory.clusters.get(ClusterNumber(number))
        if cluster is None or not cluster.founded:
            what = "not in the list" if cluster is None else f"{cluster.name}, which nobody has founded yet"
            raise RefusedError(
                Reason.MOVE_REFUSED, f"a move from cluster {wanted.source} to {wanted.destination}: {number} is {what}"
            )
    destination = directory.clusters[ClusterNumber(wanted.destination)]
    if destination.emptying:
        raise RefusedError(Reason.MOVE_REFUSED, f"a move to cluster {destination.name}, which is being emptied")
    for slot in wanted.slots:
        if slot in busy:
            raise RefusedError(Reason.MOVE_REFUSED, f"slot {slot} is part of a move that has not ended")
        if directory.slot_map.owners[slot] != wanted.source:
            owner = directory.slot_map.owners[slot]
            raise RefusedError(Reason.MOVE_REFUSED, f"slot {slot} belongs to cluster {owner}, not to {wanted.source}")


def begun(directory: Directory, move_id: int) -> Directory:
    """The directory in which this move is being copied. Raises RefusedError."""
    move = _move(directory, move_id)
    if move.phase is Phase.COPYING:
        return directory
    if move.phase is not Phase.PLANNED:
        raise RefusedError(Reason.MOVE_REFUSED, f"move {move_id} is {move.phase.value} already")
    for other in directory.moves.values():
        shared = {other.source, other.destination} & {move.source, move.destination}
        if other.move_id < move_id and shared:
            raise RefusedError(
                Reason.MOVE_REFUSED,
                f"move {move_id} must wait until move {other.move_id} has ended: both have to do with cluster {min(shared)}",
            )
    return _with(directory, replace(move, phase=Phase.COPYING))


def decided(directory: Directory, move_id: int, *, commit: bool) -> Directory:
    """The directory in which this move is committed, and with it the map's next version, or called off. Raises RefusedError.

    One that was only planned is struck at once. It must not wait for its clusters: an older one may wait for the same.
    """
    move = _move(directory, move_id)
    wanted = Phase.COMMITTED if commit else Phase.ABORTED
    if move.phase is wanted:
        return directory
    if move.phase is Phase.PLANNED and not commit:
        return _without(directory, move)
    if move.phase is not Phase.COPYING:
        raise RefusedError(Reason.MOVE_REFUSED, f"move {move_id} is {move.phase.value}: it cannot be {wanted.value}")
    if not commit:
        return _with(directory, replace(move, phase=wanted))
    owners = list(directory.slot_map.owners)
    for slot in move.slots:
        owners[slot] = move.destination
    slot_map = directory.slot_map.owned_by(tuple(owners))
    directory = _with(directory, replace(move, phase=wanted, map_version=slot_map.version))
    return replace(directory, slot_map=slot_map)


def finished(directory: Directory, move_id: int) -> Directory:
    """The directory without this move; it may be gone already. Raises RefusedError."""
    move = directory.moves.get(MoveId(move_id))
    if move is None:
        return directory
    if move.phase not in (Phase.COMMITTED, Phase.ABORTED):
        raise RefusedError(Reason.MOVE_REFUSED, f"move {move_id} is {move.phase.value}: it is not decided yet")
    return _without(directory, move)


def slot_map_set(directory: Directory, command: SetSlotMap) -> tuple[Directory, MoveId]:
    """The directory with the map that a reconciliation worked out, and a fresh id. Raises RefusedError.

    Nothing may have happened since it was worked out: no other owner, no other phase of a move, no cluster more or less.
    """
    if command.seen != seen_by(directory):
        raise RefusedError(
            Reason.STALE_VIEW,
            f"the registry has changed since this was worked out (map version {directory.slot_map.version} now): look again",
        )
    owners = tuple(ClusterNumber(owner) for owner in command.owners)
    known = {NOBODY, *directory.clusters}
    if unknown := sorted({*owners} - known):
        raise RefusedError(Reason.INVALID_ARGUMENT, f"a slot map that names cluster {unknown[0]}, which is not in the list")
    moves = {known_id: move for known_id, move in directory.moves.items() if known_id not in command.struck}
    for move in moves.values():
        owner = move.destination if move.phase is Phase.COMMITTED else move.source
        if any(owners[slot] != owner for slot in move.slots):
            raise RefusedError(
                Reason.INVALID_ARGUMENT, f"move {move.move_id} is under way, and a slot map that takes its slots must strike it"
            )
    before = directory.slot_map
    version = max(before.version, command.map_version) + 2  # one for what clusters lose, one for what they gain
    move_id = MoveId(max(directory.last_move, command.last_move) + 1)
    return replace(directory, slot_map=before.owned_by(owners, version), moves=moves, last_move=move_id), move_id


def seen_by(directory: Directory) -> str:
    """What a reconciliation is worked out from, in 32 hex digits: map, moves and clusters."""
    moves = [(move_id, move.phase.value) for move_id, move in directory.moves.items()]
    clusters = [(number, entry.cluster_id) for number, entry in sorted(directory.clusters.items())]
    seen = repr((directory.slot_map.version, moves, clusters))
    return hashlib.sha256(seen.encode()).hexdigest()[:32]


def _move(directory: Directory, move_id: int) -> Move:
    move = directory.moves.get(MoveId(move_id))
    if move is None:
        raise RefusedError(Reason.NOT_FOUND, f"there is no move {move_id}: it has ended, or never was")
    return move


def _with(directory: Directory, move: Move) -> Directory:
    return replace(directory, moves={**directory.moves, move.move_id: move})


def _without(directory: Directory, move: Move) -> Directory:
    return replace(directory, moves={other: entry for other, entry in directory.moves.items() if other != move.move_id})
