"""What each command does to the directory: pure functions from the directory and a command to the next directory and an answer.

They run inside apply, so they know nothing but their arguments. Whoever wants to know what a command would do, or whether a
report says anything new, asks `decide` with the directory that it sees: that costs the log nothing.

The order of the checks is part of what a command means; a refused one has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from ravel_node.admin import adoption, movement
from ravel_node.admin.answers import RefusedError, Value
from ravel_node.admin.codec import CLUSTER_NUMBER_MAX
from ravel_node.admin.commands import (
    DEFAULT_CLUSTER,
    AdoptCluster,
    BeginMove,
    Command,
    DecideMove,
    FinishMove,
    ForgetServer,
    MarkLeaving,
    PlanMoves,
    RegisterServer,
    RemoveCluster,
    ReportMembership,
    SetCluster,
    SetSlotMap,
    VacateAddress,
)
from ravel_node.admin.model import (
    NOBODY,
    REPLICAS_WANTED,
    ClusterEntry,
    ClusterNumber,
    Directory,
    Seat,
    ServerEntry,
)
from ravel_node.admin.placement import choose_cluster
from ravel_node.raft.types import Index
from ravelpb.errors import Reason
from ravelpb.slots import SLOT_COUNT

SERVERS_MAX: Final = 4_096
"""Servers in the list; all of them fit into one answer."""

CLUSTERS_MAX: Final = 1_024
"""Clusters in the list: each can own at least four slots."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The directory after a command, the very same one where nothing changed, and the answer."""

    directory: Directory
    answer: Mapping[str, Value]


def decide(directory: Directory, command: Command, index: Index) -> Decision:
    """What this command does, as a part of the log entry at `index`. Raises RefusedError."""
    return _DECISIONS[type(command)](directory, command, index)


# --- registering


def _register(before: Directory, command: RegisterServer, _index: Index) -> Decision:
    known = before.servers.get(command.server_id)
    if known is None and len(before.servers) >= SERVERS_MAX:
        _refuse(Reason.INVALID_ARGUMENT, f"the list holds {SERVERS_MAX} servers and takes no more: forget those that are gone")
    number, directory = (_by_identity if command.cluster_id else _by_choice)(before, command, known)
    known = directory.servers.get(command.server_id)
    entry = ServerEntry(
        server_id=command.server_id,
        name=command.name,
        version=command.version,
        format=command.format,
        listen=command.listen,
        peer=command.peer,
        cluster=number,
        seat=known.seat if known is not None and known.cluster == number else Seat.ASSIGNED,
        replica_id=command.replica_id or (known.replica_id if known is not None else 0),
        leaving=known.leaving if known is not None else False,
    )
    _check_unique(directory, entry)
    if not command.cluster_id:
        if number in before.clusters and _lacks_founder(before.clusters[number]):
            _check_fresh(before, command.fresh_id)
        directory = _with_founder(directory, entry, command.fresh_id)
    return Decision(_with_server(directory, entry), {"cluster": number})


def _by_identity(directory: Directory, command: RegisterServer, known: ServerEntry | None) -> tuple[ClusterNumber, Directory]:
    """The cluster of a server that has a seat, and the directory without the place that it was assigned elsewhere."""
    who = _who(command.server_id, command.name)
    cluster = directory.cluster_of_id(command.cluster_id)
    if cluster is None:
        adoption.check_not_superseded(directory, command.cluster_id, who)
        _refuse(
            Reason.WRONG_CLUSTER_ID,
            f"{who} is of cluster {command.cluster_id[:8]}, which is not in the list. If it was restored or recovered from a "
            "cluster of the list, let it take that one's place (ravelctl admin adopt CLUSTER ADDRESS); else it was founded "
            "without an admin, or by a server that was struck before it reported: wipe its directory to let it join another",
        )
    if known is not None and known.cluster != cluster.number and known.seat is not Seat.ASSIGNED:
        other = directory.clusters[known.cluster].name
        _refuse(Reason.WRONG_IDENTITY, f"{who} is of cluster {cluster.name}, and the leader of cluster {other} reported it there")
    if known is not None and known.cluster == cluster.number and known.replica_id not in (0, command.replica_id):
        _refuse(
            Reason.WRONG_IDENTITY,
            f"{who} is replica {command.replica_id} of cluster {cluster.name}, and the list has it as replica {known.replica_id}",
        )
    for seated in directory.servers_of(cluster.number):
        if seated.replica_id == command.replica_id and seated.server_id != command.server_id:
            named = _who(seated.server_id, seated.name)
            _refuse(Reason.WRONG_IDENTITY, f"{who} is replica {command.replica_id} of cluster {cluster.name}, and so is {named}")
    if known is not None and known.cluster != cluster.number:
        directory = _without_server(directory, known)
    return cluster.number, directory


def _by_choice(directory: Directory, command: RegisterServer, known: ServerEntry | None) -> tuple[ClusterNumber, Directory]:
    """The cluster of a server that has no seat, and the directory with that cluster in it."""
    if known is not None:
        cluster = directory.clusters[known.cluster]
        if command.new_cluster not in ("", cluster.name) and known.seat is Seat.ASSIGNED:
            who = _who(command.server_id, command.name)
            _refuse(
                Reason.WRONG_IDENTITY,
                f"{who} was given a place in cluster {cluster.name} already, and asks for {command.new_cluster}: "
                f"start it without --new-cluster, or first take it from the list (ravelctl admin forget {command.server_id})",
            )
        return known.cluster, directory
    if command.new_cluster:
        named = directory.cluster_named(command.new_cluster)
        if named is None:
            return _with_cluster(directory, command.new_cluster, command.fresh_id, REPLICAS_WANTED)
        if named.emptying:
            _refuse(Reason.CLUSTER_IN_USE, f"cluster {named.name} is being emptied: it takes no servers")
        return named.number, directory
    if not directory.clusters:
        return _with_cluster(directory, DEFAULT_CLUSTER, command.fresh_id, REPLICAS_WANTED)
    chosen = choose_cluster(directory)
    if chosen == NOBODY:
        _refuse(Reason.CLUSTER_IN_USE, "every cluster is being emptied and takes no servers: name a new one (--new-cluster NAME)")
    return chosen, directory


def _lacks_founder(cluster: ClusterEntry) -> bool:
    return not cluster.founded and not cluster.founder_id


def _with_founder(directory: Directory, entry: ServerEntry, fresh_id: str) -> Directory:
    """The directory in which this server founds its cluster, if nobody else does."""
    cluster = directory.clusters[entry.cluster]
    if not _lacks_founder(cluster):
        return directory
    slot_map = directory.slot_map
    if {*slot_map.owners} == {NOBODY} and not any(other.founded for other in directory.clusters.values()):
        slot_map = slot_map.owned_by((cluster.number,) * SLOT_COUNT)
    founded = replace(cluster, founder_id=entry.server_id, cluster_id=fresh_id)
    return replace(_with(directory, founded), slot_map=slot_map)


def _check_unique(directory: Directory, entry: ServerEntry) -> None:
    """Of several that are in the way the one with the lowest id is named, so that every replica says the same."""
    wanted = {entry.listen, entry.peer}
    others = [other for other in directory.servers.values() if other.listen and other.server_id != entry.server_id]
    holder = holder_of(directory, entry.server_id, wanted)
    if holder is not None:
        _refuse(
            Reason.ADDRESS_TAKEN,
            f"{_who(holder.server_id, holder.name)} has the address {min(wanted & {holder.listen, holder.peer})}: give this one "
            "another, or, if that one is gone for good, take it out of its cluster (ravelctl leave) or from the list "
            f"(ravelctl admin forget {holder.server_id})",
        )
    namesakes = [other for other in others if other.cluster == entry.cluster and other.name == entry.name]
    if namesakes:
        cluster = directory.clusters[entry.cluster].name
        named = _who(min(namesakes, key=_server_id).server_id, entry.name)
        _refuse(Reason.NAME_TAKEN, f"{named} of cluster {cluster} has this name already: choose another one (--name)")


def _vacate(directory: Directory, command: VacateAddress, _index: Index) -> Decision:
    server = _server(directory, command.server_id)
    if (server.listen, server.peer) != (command.listen, command.peer):
        return Decision(directory, {})
    return Decision(_with_server(directory, replace(server, listen="", peer="")), {})


def holder_of(directory: Directory, server_id: str, addresses: Collection[str]) -> ServerEntry | None:
    """Of the other servers that have one of these addresses the one with the lowest id."""
    others = [other for other in directory.servers.values() if other.listen and other.server_id != server_id]
    holders = [other for other in others if other.listen in addresses or other.peer in addresses]
    return min(holders, key=_server_id, default=None)


# --- reports


def _report(directory: Directory, command: ReportMembership, _index: Index) -> Decision:
    cluster = directory.cluster_of_id(command.cluster_id)
    if cluster is None:
        adoption.check_not_superseded(directory, command.cluster_id, _who(command.leader_id, ""))
        _refuse(Reason.WRONG_CLUSTER_ID, f"a report of cluster {command.cluster_id[:8]}, which is not in the list")
    if command.term < cluster.term:
        _refuse(
            Reason.STALE_REPORT,
            f"a report of term {command.term} of cluster {cluster.name}, of which term {cluster.term} is known",
        )
    if command.term == cluster.term and command.leader_id != cluster.leader_id:
        leader = _who(cluster.leader_id, "")
        _refuse(Reason.STALE_REPORT, f"a report of term {command.term} of cluster {cluster.name}, whose leader in it is {leader}")
    if command.config_index < cluster.config_index:
        _refuse(
            Reason.STALE_REPORT,
            f"a report of membership {command.config_index} of cluster {cluster.name}, of which {cluster.config_index} is known",
        )
    reported = replace(cluster, founded=True, leader_id=command.leader_id, term=command.term, config_index=command.config_index)
    changed = replace(_with(directory, reported), servers=_seated(directory, command, cluster.number))
    return Decision(directory if changed == directory else changed, {})


def _seated(directory: Directory, command: ReportMembership, number: ClusterNumber) -> dict[str, ServerEntry]:
    """The servers as this membership of a cluster leaves them."""
    servers = dict(directory.servers)
    present = {member.server_id for member in command.members}
    taken = {member.replica_id for member in command.members}
    for server in directory.servers_of(number):
        if server.server_id in present:
            continue
        if server.leaving or server.seat is not Seat.ASSIGNED:
            del servers[server.server_id]
        elif server.replica_id in taken:  # it said that it was this replica, and another one is
            servers[server.server_id] = replace(server, replica_id=0)
    for member in command.members:
        known = servers.get(member.server_id)
        if len(servers) >= SERVERS_MAX if known is None else known.cluster != number:
            continue
        known = known or ServerEntry(member.server_id, "", "", 0, "", "", number)
        seat = Seat.LEARNER if member.learner else Seat.VOTER
        servers[member.server_id] = replace(known, seat=seat, replica_id=member.replica_id)
    return servers


# --- leaving


def _leave(directory: Directory, command: MarkLeaving, _index: Index) -> Decision:
    server = _server(directory, command.server_id)
    cluster = directory.clusters[server.cluster]
    others = [other for other in directory.servers_of(cluster.number) if other is not server]
    in_use = _in_use(directory, cluster.number)
    if not others and not in_use:
        return Decision(_without_cluster(_without_server(directory, server), cluster), {"struck": True})
    if server.leaving:
        return Decision(directory, {"struck": False})
    stays = any(not other.leaving and other.seat is not Seat.ASSIGNED for other in others)
    if in_use and not stays and (server.seat is not Seat.ASSIGNED or not others):
        _refuse(
            Reason.LAST_REPLICA,
            f"{_who(server.server_id, server.name)} is the last replica of cluster {cluster.name}, which owns slots or has "
            f"them under way: let another server join first, or give the slots away "
            f"(ravelctl admin rebalance --empty {cluster.name})",
        )
    if not cluster.founded and server.seat is Seat.ASSIGNED:
        return Decision(_without_server(directory, server), {"struck": True})
    return Decision(_with_server(directory, replace(server, leaving=True)), {"struck": False})


def _forget(directory: Directory, command: ForgetServer, _index: Index) -> Decision:
    server = _server(directory, command.server_id)
    cluster = directory.clusters[server.cluster]
    if server.seat is not Seat.ASSIGNED and (not server.leaving or _in_use(directory, cluster.number)):
        _refuse(
            Reason.UNSAFE_CHANGE,
            f"{_who(server.server_id, server.name)} is replica {server.replica_id} of cluster {cluster.name}, as its leader "
            "reported: take it out of its cluster (ravelctl leave)",
        )
    return Decision(_without_server(directory, server), {})


def _without_server(directory: Directory, server: ServerEntry) -> Directory:
    """The directory without this server; a cluster that it was to found and nobody has reported waits for another founder."""
    servers = {server_id: entry for server_id, entry in directory.servers.items() if server_id != server.server_id}
    directory = replace(directory, servers=servers)
    cluster = directory.clusters[server.cluster]
    if cluster.founded or cluster.founder_id != server.server_id:
        return directory
    return _with(directory, replace(cluster, founder_id=""))


# --- clusters


def _set_cluster(directory: Directory, command: SetCluster, _index: Index) -> Decision:
    cluster = directory.cluster_named(command.name)
    if cluster is None:
        number, directory = _with_cluster(directory, command.name, command.fresh_id, command.replicas_wanted or REPLICAS_WANTED)
        cluster = directory.clusters[number]
    if command.emptying and not cluster.emptying:
        _check_may_empty(directory, cluster)
    wanted = replace(cluster, replicas_wanted=command.replicas_wanted or cluster.replicas_wanted, emptying=command.emptying)
    return Decision(_with(directory, wanted), {"cluster": cluster.number})


def _check_may_empty(directory: Directory, cluster: ClusterEntry) -> None:
    others = [other for other in directory.clusters.values() if other.number != cluster.number]
    if cluster.number in directory.slot_map.owners and not any(other.founded and not other.emptying for other in others):
        _refuse(
            Reason.CLUSTER_IN_USE,
            f"cluster {cluster.name} owns slots, and no other cluster could take them: found one first "
            "(ravel_node start --admin ... --new-cluster NAME)",
        )


def _remove_cluster(directory: Directory, command: RemoveCluster, _index: Index) -> Decision:
    cluster = directory.cluster_named(command.name)
    if cluster is None:
        _refuse(Reason.NOT_FOUND, f"there is no cluster {command.name} in the list")
    if servers := directory.servers_of(cluster.number):
        _refuse(
            Reason.CLUSTER_IN_USE,
            f"cluster {cluster.name} has {len(servers)} servers: take them out (ravelctl leave), and the last takes it along",
        )
    if directory.moves_of(cluster.number):
        _refuse(Reason.CLUSTER_IN_USE, f"cluster {cluster.name} has moves of slots under way: wait until they have ended")
    if cluster.number in directory.slot_map.owners and (cluster.founded or len(directory.clusters) > 1):
        step = "give them away" if cluster.founded else "let a server found it, then give them away"
        _refuse(
            Reason.CLUSTER_IN_USE,
            f"cluster {cluster.name} owns {len(directory.slots_of(cluster.number))} slots: {step} "
            f"(ravelctl admin rebalance --empty {cluster.name})",
        )
    return Decision(_without_cluster(directory, cluster), {})


def _with_cluster(directory: Directory, name: str, cluster_id: str, wanted: int) -> tuple[ClusterNumber, Directory]:
    """The number of a new cluster, and the directory with it."""
    if len(directory.clusters) >= CLUSTERS_MAX or directory.last_cluster >= CLUSTER_NUMBER_MAX:
        _refuse(Reason.INVALID_ARGUMENT, f"the list takes no more clusters: {CLUSTERS_MAX} at a time, {CLUSTER_NUMBER_MAX} ever")
    _check_fresh(directory, cluster_id)
    number = ClusterNumber(directory.last_cluster + 1)
    cluster = ClusterEntry(number, name, cluster_id, wanted)
    return number, replace(_with(directory, cluster), last_cluster=number)


def _without_cluster(directory: Directory, cluster: ClusterEntry) -> Directory:
    slot_map = directory.slot_map
    if cluster.number in slot_map.owners:
        slot_map = slot_map.owned_by((NOBODY,) * SLOT_COUNT)
    clusters = {number: entry for number, entry in directory.clusters.items() if number != cluster.number}
    return replace(directory, clusters=clusters, slot_map=slot_map)


def _adopt(directory: Directory, command: AdoptCluster, _index: Index) -> Decision:
    directory, number = adoption.adopted(directory, command)
    return Decision(directory, {"cluster": number})


# --- moves


def _plan(directory: Directory, command: PlanMoves, index: Index) -> Decision:
    directory, ids = movement.planned(directory, command, index)
    return Decision(directory, {"moves": [int(move_id) for move_id in ids]})


def _begin(directory: Directory, command: BeginMove, _index: Index) -> Decision:
    directory = movement.begun(directory, command.move_id)
    return Decision(directory, {"map_version": directory.slot_map.version})


def _decide_move(directory: Directory, command: DecideMove, _index: Index) -> Decision:
    directory = movement.decided(directory, command.move_id, commit=command.commit)
    return Decision(directory, {"map_version": directory.slot_map.version})


def _set_slot_map(directory: Directory, command: SetSlotMap, _index: Index) -> Decision:
    directory, move_id = movement.slot_map_set(directory, command)
    return Decision(directory, {"map_version": directory.slot_map.version, "move": move_id})


def _finish(directory: Directory, command: FinishMove, _index: Index) -> Decision:
    return Decision(movement.finished(directory, command.move_id), {})


_DECISIONS: Final[dict[type[Command], Callable[[Directory, Any, Index], Decision]]] = {
    RegisterServer: _register,
    ReportMembership: _report,
    MarkLeaving: _leave,
    ForgetServer: _forget,
    SetCluster: _set_cluster,
    RemoveCluster: _remove_cluster,
    AdoptCluster: _adopt,
    VacateAddress: _vacate,
    PlanMoves: _plan,
    BeginMove: _begin,
    DecideMove: _decide_move,
    FinishMove: _finish,
    SetSlotMap: _set_slot_map,
}


# --- small things


def _server(directory: Directory, server_id: str) -> ServerEntry:
    server = directory.servers.get(server_id)
    if server is None:
        _refuse(Reason.NOT_FOUND, f"there is no server {server_id[:8]} in the list")
    return server


def _check_fresh(directory: Directory, fresh_id: str) -> None:
    if directory.cluster_of_id(fresh_id) is not None or directory.cluster_that_superseded(fresh_id) is not None:
        _refuse(Reason.INVALID_ARGUMENT, f"the id {fresh_id[:8]} is a cluster's already: a new one must be drawn")


def _with(directory: Directory, cluster: ClusterEntry) -> Directory:
    if directory.clusters.get(cluster.number) == cluster:
        return directory
    return replace(directory, clusters={**directory.clusters, cluster.number: cluster})


def _with_server(directory: Directory, server: ServerEntry) -> Directory:
    if directory.servers.get(server.server_id) == server:
        return directory
    return replace(directory, servers={**directory.servers, server.server_id: server})


def _in_use(directory: Directory, number: ClusterNumber) -> bool:
    """Whether keys may be there: it owns slots, or has moves under way."""
    return number in directory.slot_map.owners or bool(directory.moves_of(number))


def _server_id(server: ServerEntry) -> str:
    return server.server_id


def _who(server_id: str, name: str) -> str:
    """A server in a sentence."""
    return f"server {name} ({server_id[:8]})" if name else f"server {server_id[:8]}"


def _refuse(reason: Reason, message: str) -> NoReturn:
    raise RefusedError(reason, message)
