"""What the directory holds: servers, clusters, moves of slots, and the map of slots to clusters. Frozen values; no decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType

from ravelpb.slots import SLOT_COUNT

ClusterNumber = NewType("ClusterNumber", int)
"""1, 2, 3, ... from the directory's own counter; never used twice. 0 stands for no cluster."""

MoveId = NewType("MoveId", int)
"""Log index of the entry that planned the move, << 16, and its place among the moves of that entry: ids ascend."""

NOBODY: Final = ClusterNumber(0)

REPLICAS_WANTED: Final = 3
"""Of a cluster of which nothing else was said."""


class Seat(StrEnum):
    """Where a server stands with its cluster, as the cluster's leader last reported."""

    ASSIGNED = "assigned"  # was told its cluster; no report has it yet
    LEARNER = "learner"
    VOTER = "voter"


class Phase(StrEnum):
    """How far a move is, as far as the directory decides it."""

    PLANNED = "planned"  # waits for its turn
    COPYING = "copying"
    COMMITTED = "committed"  # the map says so; the clusters are being told
    ABORTED = "aborted"  # it is called off; the clusters are being told


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """A daemon with one data directory."""

    server_id: str  # 32 lower-case hex digits
    name: str  # unique among the servers of its cluster; empty: it never registered, a report alone tells of it
    version: str
    format: int
    listen: str  # what clients dial; no two servers share an address; empty as the name is, or where another was met there
    peer: str
    cluster: ClusterNumber
    seat: Seat = Seat.ASSIGNED
    replica_id: int = 0  # 0: neither a report nor the server itself has told it yet
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class ClusterEntry:
    """A Raft cluster, founded or still to be."""

    number: ClusterNumber
    name: str  # unique
    cluster_id: str  # 32 lower-case hex digits; a new one whenever it is given a founder, until a leader has reported
    replicas_wanted: int = REPLICAS_WANTED
    founder_id: str = ""  # server id; empty: nobody was assigned yet, or who was is struck and nobody else has asked
    founded: bool = False  # a leader has reported
    leader_id: str = ""  # server id
    term: int = 0  # of that leader: reports of earlier terms are refused
    config_index: int = 0  # of the membership as reported: earlier ones are refused
    emptying: bool = False  # it is to own no slots, and gets no servers
    superseded: tuple[str, ...] = ()  # ids that it had before it was adopted, the newest first: their members stay out for good


@dataclass(frozen=True, slots=True)
class Move:
    """Slots on their way from one cluster to another. For a cluster one move at a time is copied or committed, the oldest."""

    move_id: MoveId
    slots: tuple[int, ...]  # ascending
    source: ClusterNumber
    destination: ClusterNumber
    phase: Phase = Phase.PLANNED
    map_version: int = 0  # COMMITTED: the one that gave the slots to the destination


@dataclass(frozen=True, slots=True)
class SlotMap:
    """Which cluster owns which slot: what all clusters have agreed on. What one owns in truth is in its own log."""

    version: int
    owners: tuple[ClusterNumber, ...]  # SLOT_COUNT of them; NOBODY before the first cluster is there, or after a disaster
    decided: tuple[int, ...] = (0,) * SLOT_COUNT  # of each slot the version that gave it to its owner

    def owned_by(self, owners: tuple[ClusterNumber, ...], version: int = 0) -> SlotMap:
        """The map with these owners, in this version or in the next one."""
        version = version or self.version + 1
        decided = zip(self.decided, self.owners, owners, strict=True)
        return SlotMap(version, owners, tuple(version if new != old else was for was, old, new in decided))


NO_MAP: Final = SlotMap(0, (NOBODY,) * SLOT_COUNT)
"""Before the first cluster has a founder."""


@dataclass(frozen=True, slots=True)
class Directory:
    """All of it at one log index. Replaced, never changed, when something changes."""

    slot_map: SlotMap = NO_MAP
    servers: Mapping[str, ServerEntry] = field(default_factory=dict)  # by server id
    clusters: Mapping[ClusterNumber, ClusterEntry] = field(default_factory=dict)
    moves: Mapping[MoveId, Move] = field(default_factory=dict)  # unfinished ones, oldest first
    last_cluster: ClusterNumber = NOBODY  # the newest number given out
    last_move: MoveId = MoveId(0)  # the newest id given out

    def cluster_named(self, name: str) -> ClusterEntry | None:
        return next((cluster for cluster in self.clusters.values() if cluster.name == name), None)

    def cluster_of_id(self, cluster_id: str) -> ClusterEntry | None:
        return next((cluster for cluster in self.clusters.values() if cluster.cluster_id == cluster_id), None)

    def cluster_that_superseded(self, cluster_id: str) -> ClusterEntry | None:
        return next((cluster for cluster in self.clusters.values() if cluster_id in cluster.superseded), None)

    def servers_of(self, number: ClusterNumber) -> list[ServerEntry]:
        """By id."""
        return [self.servers[server_id] for server_id in sorted(self.servers) if self.servers[server_id].cluster == number]

    def addresses_of(self, number: ClusterNumber) -> list[str]:
        """Where clients reach the members of a cluster: its leader first, then voters, then learners. Servers that were only
        assigned, and those whose address is not known, are left out."""
        cluster = self.clusters.get(number)
        seated = [server for server in self.servers_of(number) if server.listen and server.seat is not Seat.ASSIGNED]
        leader_id = cluster.leader_id if cluster is not None else ""
        seated.sort(key=lambda server: (server.server_id != leader_id, server.seat is Seat.LEARNER))
        return [server.listen for server in seated]

    def moves_of(self, number: ClusterNumber) -> list[Move]:
        """Unfinished ones, from it or to it."""
        return [move for move in self.moves.values() if number in (move.source, move.destination)]

    def slots_of(self, number: ClusterNumber) -> tuple[int, ...]:
        return tuple(slot for slot, owner in enumerate(self.slot_map.owners) if owner == number)
