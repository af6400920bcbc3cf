"""What the admin's directory says, put into values that are shown: clusters, servers, moves, and who owns which slot. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Final

from ravelctl.admin.copy_progress import CopyRow, copy_row
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.output import U64
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import admin_pb2 as pb

NOBODY: Final = 0
"""As the number of a cluster: a slot that nobody owns yet."""


class ClusterState(StrEnum):
    """How a cluster stands, as far as the directory hears of it. What it says itself: `ravelctl status` there."""

    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"  # servers are down, or fewer than wanted
    NO_QUORUM = "NO QUORUM"
    EMPTYING = "EMPTYING"
    EMPTY = "EMPTY"  # it is to own no slots, and owns none
    FOUNDING = "FOUNDING"  # its first server has yet to report
    NO_SERVERS = "NO SERVERS"


@dataclass(frozen=True, slots=True)
class ClusterRow:
    number: int
    name: str
    cluster_id: str
    state: ClusterState
    leader: str  # its name; empty: none was reported
    leader_address: str
    term: U64
    live: int  # servers in its membership that are heard
    servers: int  # those that are assigned to it, in or on their way
    wanted: int
    slots: int
    share: float  # of all slots
    emptying: bool


@dataclass(frozen=True, slots=True)
class ServerRow:
    name: str
    cluster: str
    replica_id: U64  # 0: not reported yet
    seat: str  # assigned, learner, voter
    leads: bool
    leaving: bool
    address: str
    peer: str
    version: str
    heard_s: float | None  # since its last report; None: not since this admin leads
    down: bool
    server_id: str


@dataclass(frozen=True, slots=True)
class MoveRow:
    move: U64
    source: str
    destination: str
    phase: str  # planned, copying, committed, aborted
    slots: tuple[int, ...]
    keys_copied: U64
    obstacle: str
    copying: CopyRow


def cluster_rows(directory: pb.DirectoryResponse) -> tuple[ClusterRow, ...]:
    """By number."""
    return tuple(_cluster_row(directory, cluster) for cluster in sorted(directory.clusters, key=lambda one: one.number))


def _cluster_row(directory: pb.DirectoryResponse, cluster: pb.DirectoryCluster) -> ClusterRow:
    servers = [server for server in directory.servers if server.cluster == cluster.number]
    leader = next((one.server for one in servers if cluster.leader_id and one.server.server_id == cluster.leader_id), None)
    return ClusterRow(
        number=cluster.number,
        name=cluster.name,
        cluster_id=cluster.cluster_id,
        state=_state(cluster, servers),
        leader=leader.name if leader is not None else "",
        leader_address=leader.addresses.listen if leader is not None else "",
        term=U64(cluster.term),
        live=sum(is_seated(server) and not server.down for server in servers),
        servers=len(servers),
        wanted=cluster.replicas_wanted,
        slots=cluster.slots,
        share=cluster.slots / SLOT_COUNT,
        emptying=cluster.emptying,
    )


def is_seated(server: pb.DirectoryServer) -> bool:
    """Whether a report has it in its cluster's membership."""
    return server.seat in (pb.SEAT_LEARNER, pb.SEAT_VOTER)


def _state(cluster: pb.DirectoryCluster, servers: Sequence[pb.DirectoryServer]) -> ClusterState:
    if not servers:
        return ClusterState.NO_SERVERS
    if not cluster.founded:
        return ClusterState.FOUNDING
    voters = [server for server in servers if server.seat == pb.SEAT_VOTER]
    up = sum(not server.down for server in voters)
    if 2 * up <= len(voters):
        return ClusterState.NO_QUORUM
    if cluster.emptying:
        return ClusterState.EMPTYING if cluster.slots else ClusterState.EMPTY
    if any(server.down for server in servers) or up < cluster.replicas_wanted:
        return ClusterState.DEGRADED
    return ClusterState.HEALTHY


def server_rows(directory: pb.DirectoryResponse) -> tuple[ServerRow, ...]:
    """By cluster, then by name."""
    clusters = {cluster.number: cluster for cluster in directory.clusters}
    rows = []
    for server in sorted(directory.servers, key=lambda one: (one.cluster, _natural(one.server.name), one.server.server_id)):
        ref, cluster = server.server, clusters.get(server.cluster)
        rows.append(
            ServerRow(
                name=ref.name,
                cluster=cluster.name if cluster is not None else "",
                replica_id=U64(server.replica_id),
                seat=_SEATS.get(server.seat, "unknown"),
                leads=cluster is not None and bool(ref.server_id) and cluster.leader_id == ref.server_id,
                leaving=server.leaving,
                address=ref.addresses.listen,
                peer=ref.addresses.peer,
                version=ref.version,
                heard_s=server.heard_age_ms / 1000 if server.heard else None,
                down=server.down,
                server_id=ref.server_id,
            )
        )
    return tuple(rows)


_SEATS: Final[Mapping[int, str]] = {pb.ASSIGNED: "assigned", pb.SEAT_LEARNER: "learner", pb.SEAT_VOTER: "voter"}


def _natural(name: str) -> tuple[str, int]:
    """n2 before n10."""
    head = name.rstrip("0123456789")
    return head, int(name[len(head) :] or 0)


def move_rows(moves: Iterable[pb.DirectoryMove], clusters: Mapping[int, str]) -> tuple[MoveRow, ...]:
    return tuple(
        MoveRow(
            move=U64(move.move),
            source=clusters.get(move.source, str(move.source)),
            destination=clusters.get(move.destination, str(move.destination)),
            phase=pb.MovePhase.Name(move.phase).lower() if move.phase else "planned",
            slots=tuple(move.slots),
            keys_copied=U64(move.keys_copied),
            obstacle=move.obstacle,
            copying=copy_row(move.copying),
        )
        for move in moves
    )


def names_of(clusters: Iterable[pb.DirectoryCluster | pb.RoutedCluster | pb.ClusterShare]) -> dict[int, str]:
    return {cluster.number: cluster.name for cluster in clusters}


# --- slots


def owners_of(slot_map: pb.SlotMapResponse) -> tuple[int, ...]:
    """The number of each slot's owner. Raises CommandError for a map that has not one for each slot."""
    raw = slot_map.owners
    if len(raw) != 2 * SLOT_COUNT:
        raise CommandError(
            f"the admin's map has {len(raw)} bytes, not {2 * SLOT_COUNT}",
            next_step="ravelctl and the admin servers must be of the same version",
        )
    return tuple(int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2))


def ranges(slots: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """First and last slot of each unbroken run, ascending."""
    runs = (list(run) for _, run in groupby(enumerate(sorted(slots)), key=lambda pair: pair[1] - pair[0]))
    return tuple((run[0][1], run[-1][1]) for run in runs)


def ranges_text(slots: Iterable[int], limit: int | None = None) -> str:
    """`0-2047, 3000`; beyond `limit` runs only how many there are."""
    found = ranges(slots)
    shown = found if limit is None else found[:limit]
    texts = [f"{first}-{last}" if last > first else str(first) for first, last in shown]
    if len(found) > len(shown):
        texts.append(f"and {len(found) - len(shown)} more")
    return ", ".join(texts)


# --- finding


def find_server(directory: pb.DirectoryResponse, word: str) -> pb.DirectoryServer:
    """The server that a word means: its name, CLUSTER/NAME, or its id or the first 8 digits or more of it.

    Raises CommandError: 1 where there is none, 2 where several are meant.
    """
    clusters = names_of(directory.clusters)
    found = [
        server
        for server in directory.servers
        if word in (server.server.name, f"{clusters.get(server.cluster)}/{server.server.name}")
        or (len(word) >= ID_DIGITS_MIN and server.server.server_id.startswith(word.lower()))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        full = [f"{clusters.get(server.cluster, server.cluster)}/{server.server.name}" for server in found]
        if len(set(full)) < len(full):
            full = [server.server.server_id for server in found]
        raise usage_error(f"{word!r} means several servers: {', '.join(full)}", "name one of them in full")
    raise CommandError(f"the directory has no server {word!r}", next_step="see `ravelctl admin servers`", reason="NOT_FOUND")


ID_DIGITS_MIN: Final = 8


def find_cluster(directory: pb.DirectoryResponse, word: str) -> pb.DirectoryCluster:
    """By name. Raises CommandError (1) that lists the names there are."""
    for cluster in directory.clusters:
        if cluster.name == word:
            return cluster
    there = ", ".join(cluster.name for cluster in directory.clusters) or "none"
    raise CommandError(
        f"the directory has no cluster {word!r}; there are {there}", next_step="name one of them", reason="NOT_FOUND"
    )
