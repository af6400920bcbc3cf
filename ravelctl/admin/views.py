"""How the admin's answers are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from ravelctl.admin.copy_progress import copy_text
from ravelctl.admin.directory import (
    NOBODY,
    ClusterRow,
    MoveRow,
    ServerRow,
    cluster_rows,
    move_rows,
    names_of,
    owners_of,
    ranges,
    ranges_text,
    server_rows,
)
from ravelctl.cli.output import ABSENT, U64, Table, View, age_text, columns, count_text, printable
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1 import admin_pb2 as pb

RANGES_SHOWN: Final = 8
"""Of one cluster, but with -o wide."""
KEY_SHOWN: Final = 64
MOVES_SHOWN: Final = 16


def clusters_view(directory: pb.DirectoryResponse) -> View:
    rows = cluster_rows(directory)
    return View(
        kind="AdminClusters",
        data={"map_version": U64(directory.map_version), "clusters": [asdict(row) for row in rows]},
        body=Table(
            columns=columns(
                "NAME", "NUMBER", "LEADER", "TERM", "REPLICAS", "SLOTS", "SHARE", "STATE", "+CLUSTER-ID", "+LEADER-AT"
            ),
            rows=tuple(map(_cluster_cells, rows)),
            below=(*_moving(directory), *(() if rows else (NO_CLUSTERS,))),
        ),
        names=tuple(row.name for row in rows),
    )


NO_CLUSTERS: Final = "no clusters yet: the first replica that is started with --admin founds one"


def _cluster_cells(row: ClusterRow) -> tuple[str, ...]:
    return (
        row.name,
        str(row.number),
        row.leader or ABSENT,
        str(row.term) if row.term else ABSENT,
        f"{row.live}/{row.wanted}",
        str(row.slots),
        percent(row.share),
        row.state.value,
        row.cluster_id,
        row.leader_address or ABSENT,
    )


def percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 1 else f"{share:.0%}"


def _moving(directory: pb.DirectoryResponse) -> tuple[str, ...]:
    if not directory.moves:
        return ()
    slots = sum(len(move.slots) for move in directory.moves)
    return (f"{count_text(slots, 'slot')} on the move, see `ravelctl admin slots`",)


def servers_view(directory: pb.DirectoryResponse, cluster: str | None = None) -> View:
    """All, or those of one cluster."""
    rows = tuple(row for row in server_rows(directory) if cluster is None or row.cluster == cluster)
    return View(
        kind="AdminServers",
        data={"servers": [asdict(row) for row in rows]},
        body=Table(
            columns=columns("NAME", "CLUSTER", "ID", "SEAT", "ADDRESS", "VERSION", "HEARD", "+PEER", "+SERVER-ID"),
            rows=tuple(map(_server_cells, rows)),
            below=() if rows else ("no servers: none was started with --admin, or none of this cluster",),
        ),
        names=tuple(row.name for row in rows),
    )


def _server_cells(row: ServerRow) -> tuple[str, ...]:
    return (
        row.name,
        row.cluster or ABSENT,
        str(row.replica_id) if row.replica_id else ABSENT,
        seat_text(row),
        row.address,
        row.version or ABSENT,
        heard_text(row),
        row.peer or ABSENT,
        row.server_id,
    )


def seat_text(row: ServerRow) -> str:
    if row.leaving:
        return "leaving"
    return "leader" if row.leads else row.seat


def heard_text(row: ServerRow) -> str:
    age = ABSENT if row.heard_s is None else age_text(row.heard_s)
    return f"DOWN {age}" if row.down else age


# --- slots


def slots_view(directory: pb.DirectoryResponse, slot_map: pb.SlotMapResponse) -> View:
    """Who owns which slots, and what is under way."""
    owners, names = owners_of(slot_map), names_of(slot_map.clusters)
    numbers = [*(number for number in sorted(names)), *([NOBODY] if NOBODY in owners else [])]
    of = {number: tuple(slot for slot, owner in enumerate(owners) if owner == number) for number in numbers}
    moves = move_rows(directory.moves, names_of(directory.clusters))
    return View(
        kind="AdminSlots",
        data={
            "map_version": U64(slot_map.version),
            "slots": SLOT_COUNT,
            "clusters": [
                {"number": number, "name": names.get(number, ""), "slots": len(of[number]), "ranges": ranges(of[number])}
                for number in numbers
            ],
            "moves": list(map(move_data, moves)),
        },
        body=Table(
            columns=(*columns("CLUSTER", "SLOTS", "SHARE", "RANGES"),),
            rows=tuple(
                (
                    names.get(number, "(nobody)"),
                    str(len(of[number])),
                    percent(len(of[number]) / SLOT_COUNT),
                    ranges_text(of[number], RANGES_SHOWN) or ABSENT,
                )
                for number in numbers
            ),
            above=(f"map {slot_map.version}, {count_text(SLOT_COUNT, 'slot')}",),
            below=move_lines(moves),
        ),
        names=tuple(names[number] for number in numbers if number in names),
    )


def move_data(move: MoveRow) -> dict[str, Any]:
    return {**asdict(move), "slots": len(move.slots), "ranges": ranges(move.slots)}


def move_lines(moves: Sequence[MoveRow]) -> tuple[str, ...]:
    """One for each that is under way or kept from it, then what waits for its turn, by source and destination."""
    waiting = [move for move in moves if move.phase == "planned" and not move.obstacle]
    told = [move for move in moves if move not in waiting]
    lines = [_move_line(move) for move in told[:MOVES_SHOWN]]
    if len(told) > MOVES_SHOWN:
        lines.append(f"and {count_text(len(told) - MOVES_SHOWN, 'further move')}")
    flows = _flows(waiting)
    return (*lines, *(f"{source} -> {destination}: {count_text(count, 'slot')} planned" for source, destination, count in flows))


def _move_line(move: MoveRow) -> str:
    said = (
        f"{move.source} -> {move.destination}: {count_text(len(move.slots), 'slot')} ({ranges_text(move.slots, 3)}) {move.phase}"
    )
    if copied := copy_text(move.copying, int(move.keys_copied)):
        said += f", {copied}"
    return f"{said}; waits: {move.obstacle}" if move.obstacle else said


def key_view(
    key: bytes, shown: str, fields: dict[str, Any], directory: pb.DirectoryResponse, slot_map: pb.SlotMapResponse
) -> View:
    """Where a key is: `shown` and `fields` are the key for people and for programs."""
    slot = slot_of(key)
    owner = owners_of(slot_map)[slot]
    cluster = next((one for one in slot_map.clusters if one.number == owner), None)
    move = next((one for one in move_rows(directory.moves, names_of(directory.clusters)) if slot in one.slots), None)
    if cluster is None:
        said = f"{shown} is in slot {slot}, which no cluster owns"
    else:
        said = f"{shown} is in slot {slot}, of cluster {cluster.name} at {', '.join(cluster.addresses) or 'no known address'}"
    if move is not None:
        said += f"\nthe slot moves from {move.source} to {move.destination}: {move.phase}"
    return View(
        kind="AdminSlot",
        data={
            **fields,
            "slot": slot,
            "cluster": {"number": owner, "name": cluster.name, "addresses": list(cluster.addresses)} if cluster else None,
            "move": move_data(move) if move is not None else None,
            "map_version": U64(slot_map.version),
        },
        body=said,
        names=(cluster.name,) if cluster is not None else (),
    )


def key_text(key: bytes) -> str:
    return printable(key, KEY_SHOWN)


# --- rebalance


def plan_view(plan: pb.PlanRebalanceResponse, notes: tuple[str, ...] = ()) -> View:
    """What would move, by cluster."""
    names = names_of(plan.shares)
    moves = move_rows(plan.moves, names)
    slots = sum(len(move.slots) for move in moves)
    return View(
        kind="RebalancePlan",
        data={
            "map_version": U64(plan.map_version),
            "slots": slots,
            "clusters": [
                {"number": s.number, "name": s.name, "slots_before": s.slots_before, "slots_after": s.slots_after}
                for s in plan.shares
            ],
            "moves": list(map(move_data, moves)),
        },
        body=plan_table(plan),
        names=tuple(share.name for share in plan.shares if share.slots_before != share.slots_after),
        notes=notes,
    )


def plan_table(plan: pb.PlanRebalanceResponse) -> Table:
    slots = sum(len(move.slots) for move in plan.moves)
    between = sorted(_flows(move_rows(plan.moves, names_of(plan.shares))))
    said = "balanced: nothing would move" if not slots else f"{count_text(slots, 'slot')} of {SLOT_COUNT} would move"
    return Table(
        columns=columns("CLUSTER", "SLOTS", "AFTER", "CHANGE", "SHARE"),
        rows=tuple(
            (
                share.name,
                str(share.slots_before),
                str(share.slots_after),
                f"{share.slots_after - share.slots_before:+d}" if share.slots_after != share.slots_before else ABSENT,
                percent(share.slots_after / SLOT_COUNT),
            )
            for share in plan.shares
        ),
        below=(said, *(f"{source} -> {destination}: {count_text(count, 'slot')}" for source, destination, count in between)),
    )


def _flows(moves: Iterable[MoveRow]) -> list[tuple[str, str, int]]:
    """Slots for each pair of clusters."""
    found: dict[tuple[str, str], int] = {}
    for move in moves:
        found[move.source, move.destination] = found.get((move.source, move.destination), 0) + len(move.slots)
    return [(*pair, count) for pair, count in found.items()]
