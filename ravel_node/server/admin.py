"""The Admin service: what an admin group is told and asked. Translates; what commands do is decided in ravel_node.admin.

Everything is answered by the leader, from the directory after a read barrier. A command that the directory would refuse, or that
would change nothing, is answered from there: only what is news goes into the log.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

from ravel_node.admin.answers import RefusedError
from ravel_node.admin.commands import (
    ForgetServer,
    MarkLeaving,
    RegisterServer,
    RemoveCluster,
    ReportMembership,
    Seated,
    SetCluster,
)
from ravel_node.admin.decisions import decide
from ravel_node.admin.liveness import Liveness
from ravel_node.admin.model import ClusterEntry, Directory, Phase, Seat, ServerEntry
from ravel_node.raft.types import Index
from ravel_node.replica.replica import Replica
from ravel_node.server.adopting import Adopting
from ravel_node.server.desk import DirectoryDesk
from ravel_node.server.host import Host
from ravel_node.server.limits import InputError
from ravel_node.server.rebalancing import Rebalancing
from ravel_node.server.reconciling import Done, Look, Reconciling, to_proto
from ravel_node.server.status import header_of
from ravelpb.errors import Reason
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import admin_pb2, common_pb2

_OWNERS: Final = struct.Struct(f">{SLOT_COUNT}H")

_SEATS: Final = {Seat.ASSIGNED: admin_pb2.ASSIGNED, Seat.LEARNER: admin_pb2.SEAT_LEARNER, Seat.VOTER: admin_pb2.SEAT_VOTER}


class AdminHandlers:
    """Handlers of `ravel.v1.Admin` for the replica of one admin server. Those that do not lead raise NotLeaderError."""

    def __init__(
        self,
        host: Host,
        desk: DirectoryDesk,
        liveness: Liveness,
        rebalancing: Rebalancing,
        adopting: Adopting,
        reconciling: Reconciling,
    ) -> None:
        self._host = host
        self._desk = desk
        self._rebalancing = rebalancing
        self._adopting = adopting
        self._reconciling = reconciling
        self._liveness = liveness
        self._owners = (0, b"")  # version of the map, and the map as it travels

    # --- what daemons say

    async def register(self, request: admin_pb2.RegisterRequest) -> admin_pb2.RegisterResponse:
        server, addresses = request.server, request.server.addresses
        if request.again and server.server_id not in (await self._desk.read())[1].servers:
            raise RefusedError(
                Reason.NOT_FOUND,
                f"server {server.name} ({server.server_id[:8]}) was struck from the list while it waited for its cluster: "
                "start it again to let it ask for a place anew",
            )
        command = RegisterServer(
            server_id=server.server_id,
            name=server.name,
            version=server.version,
            format=server.format,
            listen=addresses.listen,
            peer=addresses.peer,
            fresh_id=secrets.token_hex(16),
            new_cluster=request.new_cluster,
            cluster_id=request.cluster_id,
            replica_id=request.replica_id,
        )
        try:
            replica, answer = await self._desk.ask(command)
        except RefusedError as error:
            if error.reason is not Reason.ADDRESS_TAKEN or not await self._adopting.vacated(command):
                raise
            replica, answer = await self._desk.ask(command)
        self._liveness.note(replica.term, server.server_id)
        directory = self._desk.directory
        cluster = directory.clusters[answer["cluster"]]
        found_it = not cluster.founded and cluster.founder_id == server.server_id
        others = [address for address in directory.addresses_of(cluster.number) if address != addresses.listen]
        return admin_pb2.RegisterResponse(
            header=header_of(self._host, replica),
            cluster=_cluster(directory, cluster),
            found_it=found_it,
            owns_all_slots=found_it and len(directory.slots_of(cluster.number)) == SLOT_COUNT,
            map_version=directory.slot_map.version,
            addresses=others if cluster.founded else [],
        )

    async def report(self, request: admin_pb2.ReportRequest) -> admin_pb2.ReportResponse:
        replica, directory = await self._desk.read()
        server_id = request.server.server_id
        _check_reporter(directory, request)
        if request.HasField("leader"):
            report = request.leader
            members = (Seated(member.server_id, member.replica_id, member.learner) for member in report.members)
            await self._desk.ask(
                ReportMembership(request.cluster_id, server_id, report.term, report.config_index, tuple(members))
            )
        directory = self._desk.directory
        server = directory.servers.get(server_id)
        if server is not None:
            self._liveness.note(replica.term, server_id)
        return admin_pb2.ReportResponse(
            header=header_of(self._host, replica),
            leaving=server is not None and server.leaving,
            map_version=directory.slot_map.version,
            register=server is not None and (server.listen, server.peer) != _addresses(request.server),
        )

    # --- what operators ask

    async def mark_leaving(self, request: admin_pb2.MarkLeavingRequest) -> admin_pb2.MarkLeavingResponse:
        replica, directory = await self._desk.read()
        server = _named(directory, request.server)
        cluster = directory.clusters[server.cluster]
        command = MarkLeaving(server.server_id)
        if request.dry_run:
            after = decide(directory, command, Index(0)).directory
        else:
            replica, _ = await self._desk.ask(command)
            after = self._desk.directory
            server = after.servers.get(server.server_id, server)
        return admin_pb2.MarkLeavingResponse(
            header=header_of(self._host, replica),
            server=self._server(replica, server),
            cluster=_cluster(directory, cluster),
            addresses=directory.addresses_of(cluster.number),
            last=cluster.number not in after.clusters,
        )

    async def forget(self, request: admin_pb2.ForgetRequest) -> admin_pb2.ForgetResponse:
        _, directory = await self._desk.read()
        server_id = _named(directory, request.server).server_id
        replica, _ = await self._desk.ask(ForgetServer(server_id))
        self._liveness.forget(server_id)
        return admin_pb2.ForgetResponse(header=header_of(self._host, replica))

    async def set_cluster(self, request: admin_pb2.SetClusterRequest) -> admin_pb2.SetClusterResponse:
        _, directory = await self._desk.read()
        known = directory.cluster_named(request.name)
        emptying = request.emptying if request.HasField("emptying") or known is None else known.emptying
        command = SetCluster(request.name, secrets.token_hex(16), request.replicas_wanted, emptying)
        replica, answer = await self._desk.ask(command)
        directory = self._desk.directory
        return admin_pb2.SetClusterResponse(
            header=header_of(self._host, replica), cluster=_cluster(directory, directory.clusters[answer["cluster"]])
        )

    async def remove_cluster(self, request: admin_pb2.RemoveClusterRequest) -> admin_pb2.RemoveClusterResponse:
        replica, _ = await self._desk.ask(RemoveCluster(request.name))
        return admin_pb2.RemoveClusterResponse(header=header_of(self._host, replica))

    async def adopt(self, request: admin_pb2.AdoptRequest) -> admin_pb2.AdoptResponse:
        replica, directory = await self._desk.read()
        found = await self._adopting.look(directory, request.cluster, list(request.addresses), request.cluster_id)
        response = admin_pb2.AdoptResponse(
            cluster=_cluster(directory, found.cluster),
            cluster_id=found.cluster_id,
            cluster_name=found.cluster_name,
            members=found.members,
            revision=found.revision,
            struck=[] if found.done else [self._server(replica, one) for one in directory.servers_of(found.cluster.number)],
            moves_called_off=found.moves_called_off,
            done=found.done,
        )
        if not request.dry_run:
            replica = await self._adopting.adopt(found)
        response.header.CopyFrom(header_of(self._host, replica))
        return response

    async def reconcile(self, request: admin_pb2.ReconcileRequest) -> admin_pb2.ReconcileResponse:
        accepted = list(request.accept_loss)
        if accepted != sorted(set(accepted)) or (accepted and accepted[-1] >= SLOT_COUNT):
            raise InputError(f"slots must ascend and lie below {SLOT_COUNT}", field="accept_loss", value=len(accepted))
        look, done = await self._reconciling.look(accepted), Done()
        self._check_silent(look, accepted)
        if not request.dry_run:
            if request.plan not in ("", look.plan.name):
                raise RefusedError(
                    Reason.STALE_VIEW, "what registry and clusters say has changed since the plan was made: look again"
                )
            look, done = await self._reconciling.carry_out(look, accepted)
        response = to_proto(look, done)
        response.header.CopyFrom(header_of(self._host, look.replica))
        return response

    def _check_silent(self, look: Look, accepted: Sequence[int]) -> None:
        """Raise RefusedError where a cluster is given up whose servers were heard a moment ago: it may serve its slots."""
        owners, given_up = look.directory.slot_map.owners, frozenset(accepted)
        for number, why in look.away.items():
            servers = look.directory.servers_of(number)
            heard = [server.name for server in servers if self._is_up(look.replica, server)]
            if heard and any(owners[slot] == number for slot in given_up):
                name = look.directory.clusters[number].name
                raise RefusedError(
                    Reason.UNSAFE_CHANGE,
                    f"cluster {name} does not tell what it owns ({why}), and {', '.join(heard)} reported a moment ago: whoever "
                    "has an older map may write there, and that would be lost; stop its servers for good, then give its slots up",
                )

    def _is_up(self, replica: Replica, server: ServerEntry) -> bool:
        heard = self._liveness.look(replica.term, server.server_id)
        return heard.heard and not heard.down

    async def directory(self, request: admin_pb2.DirectoryRequest) -> admin_pb2.DirectoryResponse:
        replica, directory = await self._desk.read()
        return admin_pb2.DirectoryResponse(
            header=header_of(self._host, replica),
            clusters=[_cluster(directory, directory.clusters[number]) for number in sorted(directory.clusters)],
            servers=[self._server(replica, directory.servers[server_id]) for server_id in sorted(directory.servers)],
            moves=[self._rebalancing.to_proto(move) for move in directory.moves.values()],
            map_version=directory.slot_map.version,
        )

    async def slot_map(self, request: admin_pb2.SlotMapRequest) -> admin_pb2.SlotMapResponse:
        replica, directory = await self._desk.read()
        version = directory.slot_map.version
        return admin_pb2.SlotMapResponse(
            header=header_of(self._host, replica),
            version=version,
            owners=b"" if version and request.known_version == version else self._owners_of(directory),
            clusters=[
                admin_pb2.RoutedCluster(
                    number=number,
                    name=cluster.name,
                    cluster_id=cluster.cluster_id,
                    addresses=directory.addresses_of(number),
                )
                for number, cluster in sorted(directory.clusters.items())
            ],
            migrations=[
                admin_pb2.RoutedMigration(slots=move.slots, source=move.source, destination=move.destination)
                for move in directory.moves.values()
                if move.phase is not Phase.PLANNED
            ],
        )

    # --- moves of slots

    async def plan_rebalance(self, request: admin_pb2.PlanRebalanceRequest) -> admin_pb2.PlanRebalanceResponse:
        response = await self._rebalancing.planned(request.empty_clusters)
        response.header.CopyFrom(header_of(self._host, self._host.replica))
        return response

    async def rebalance(self, request: admin_pb2.RebalanceRequest) -> AsyncIterator[admin_pb2.RebalanceResponse]:
        if not request.watch_only:
            await self._rebalancing.begin(request.empty_clusters, request.map_version)
        async with aclosing(self._rebalancing.told()) as messages:
            async for message in messages:
                yield message

    async def stop_rebalance(self, request: admin_pb2.StopRebalanceRequest) -> admin_pb2.StopRebalanceResponse:
        stopped = await self._rebalancing.stop()
        return admin_pb2.StopRebalanceResponse(header=header_of(self._host, self._host.replica), moves_stopped=stopped)

    def close(self) -> None:
        """End the streams."""
        self._rebalancing.close()

    # --- values to messages

    def _owners_of(self, directory: Directory) -> bytes:
        version, owners = directory.slot_map.version, directory.slot_map.owners
        if self._owners[0] != version:
            self._owners = version, _OWNERS.pack(*owners)
        return self._owners[1] or _OWNERS.pack(*owners)

    def _server(self, replica: Replica, server: ServerEntry) -> admin_pb2.DirectoryServer:
        heard = self._liveness.look(replica.term, server.server_id)
        return admin_pb2.DirectoryServer(
            server=common_pb2.ServerRef(
                server_id=server.server_id,
                name=server.name,
                version=server.version,
                addresses=common_pb2.Addresses(listen=server.listen, peer=server.peer),
                format=server.format,
            ),
            cluster=server.cluster,
            replica_id=server.replica_id,
            seat=_SEATS[server.seat],
            leaving=server.leaving,
            heard=heard.heard,
            heard_age_ms=round(heard.age_s * 1_000),
            down=heard.down,
        )


def _cluster(directory: Directory, cluster: ClusterEntry) -> admin_pb2.DirectoryCluster:
    return admin_pb2.DirectoryCluster(
        number=cluster.number,
        name=cluster.name,
        cluster_id=cluster.cluster_id,
        replicas_wanted=cluster.replicas_wanted,
        founder_id=cluster.founder_id,
        founded=cluster.founded,
        leader_id=cluster.leader_id,
        term=cluster.term,
        config_index=cluster.config_index,
        emptying=cluster.emptying,
        slots=directory.slot_map.owners.count(cluster.number),
    )


# --- finding servers


def _check_reporter(directory: Directory, request: admin_pb2.ReportRequest) -> None:
    """Raises RefusedError unless the directory has the reporting server where it says that it is."""
    server_id = request.server.server_id
    server = directory.servers.get(server_id)
    if server is None:
        raise RefusedError(
            Reason.NOT_FOUND, f"server {server_id[:8]} is not in the list (any more): it has to register before it reports"
        )
    cluster = directory.clusters[server.cluster]
    if cluster.cluster_id != request.cluster_id:
        raise RefusedError(
            Reason.WRONG_IDENTITY,
            f"server {server_id[:8]} reports as of cluster {request.cluster_id[:8]}, "
            f"and the list has it in cluster {cluster.name} ({cluster.cluster_id[:8]})",
        )
    if server.replica_id not in (0, request.replica_id):
        raise RefusedError(
            Reason.WRONG_IDENTITY,
            f"server {server_id[:8]} reports as replica {request.replica_id} of cluster {cluster.name}, "
            f"and the list has it as replica {server.replica_id}",
        )


def _addresses(server: common_pb2.ServerRef) -> tuple[str, str]:
    """For clients, and for replicas."""
    return server.addresses.listen, server.addresses.peer


def _named(directory: Directory, name: str) -> ServerEntry:
    """The server of this id, name, or cluster/name. Raises RefusedError, InputError where several have the name."""
    if (server := directory.servers.get(name)) is not None:
        return server
    cluster_name, _, own_name = name.rpartition("/")
    found = [
        server
        for server in directory.servers.values()
        if server.name == own_name and cluster_name in ("", directory.clusters[server.cluster].name)
    ]
    if len(found) > 1:
        listed = ", ".join(sorted(f"{directory.clusters[server.cluster].name}/{name}" for server in found))
        raise InputError(f"{len(found)} servers are named {name}: say which, as one of {listed}", field="server", value=name)
    if not own_name or not found:
        raise RefusedError(Reason.NOT_FOUND, f"there is no server {name[:80]} in the list")
    return found[0]
