"""An admin server that pretends: the Admin service over a directory in memory that changes only as a test says.

It takes commands without checks of its own; what it should refuse is a field that the test sets. Like the daemons of
tests.ravelctl.fake it answers in threads.
"""

# ruff: noqa: N802 - the names of the calls are those of the proto files

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc

from ravelpb.errors import Reason
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import admin_pb2 as pb
from ravelpb.v1.admin_pb2_grpc import AdminServicer, add_AdminServicer_to_server
from ravelpb.v1.common_pb2 import Addresses, ServerRef
from tests.ravelctl.fake import FakeCluster, refuse


@dataclass
class FakeDirectory:
    """What all admin servers of the test tell."""

    clusters: list[pb.DirectoryCluster] = field(default_factory=list)
    servers: list[pb.DirectoryServer] = field(default_factory=list)
    moves: list[pb.DirectoryMove] = field(default_factory=list)
    owners: list[int] = field(default_factory=lambda: [0] * SLOT_COUNT)
    version: int = 3
    addresses: dict[int, list[str]] = field(default_factory=dict)  # of clusters, by number
    plan: pb.PlanRebalanceResponse = field(default_factory=pb.PlanRebalanceResponse)
    told: list[pb.RebalanceResponse] = field(default_factory=list)  # what a rebalance tells
    between: Callable[[int], None] = lambda _: None  # called before each of them, with its place
    break_at: int = -1  # the message before which the stream breaks, once
    hang: threading.Event | None = None  # after the last one it goes on until this is set
    refusal: tuple[Reason, str, dict[str, str]] | None = None  # of every change
    in_doubt: pb.ReconcileResponse = field(default_factory=lambda: pb.ReconcileResponse(done=True))
    reconciled: list[pb.ReconcileResponse] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)  # every change that was not a dry run
    adopted: dict[str, Any] = field(default_factory=dict)  # what came back, as Adopt tells of it
    keeps_records: bool = False  # a leaving server's record stays
    daemons: dict[int, FakeCluster] = field(default_factory=dict)  # of clusters, by number

    def cluster(self, name: str, slots: range, **fields: Any) -> pb.DirectoryCluster:
        """A founded one, with these slots."""
        number = len(self.clusters) + 1
        for slot in slots:
            self.owners[slot] = number
        values = {"cluster_id": f"{number:08x}" + "c" * 24, "replicas_wanted": 3, "founded": True, "term": 7, **fields}
        self.clusters.append(pb.DirectoryCluster(number=number, name=name, slots=len(slots), **values))
        return self.clusters[-1]

    def server(self, cluster: pb.DirectoryCluster, name: str, **fields: Any) -> pb.DirectoryServer:
        """A voter that is heard; the first one of a cluster leads it."""
        number = len(self.servers) + 1
        ref = ServerRef(
            server_id=f"d{number:031x}",  # apart from those of pretended daemons
            name=name,
            version="0.1.0",
            addresses=Addresses(listen=f"10.0.{cluster.number}.{number}:7400", peer=f"10.0.{cluster.number}.{number}:7401"),
        )
        values = {"replica_id": number, "seat": pb.SEAT_VOTER, "heard": True, "heard_age_ms": 400, **fields}
        values.setdefault("server", ref)
        self.servers.append(pb.DirectoryServer(cluster=cluster.number, **values))
        if not cluster.leader_id and self.servers[-1].seat == pb.SEAT_VOTER:
            cluster.leader_id = self.servers[-1].server.server_id
        return self.servers[-1]

    def seat(self, cluster: pb.DirectoryCluster, daemons: FakeCluster) -> None:
        """All daemons of a pretended cluster as servers of this one."""
        cluster.cluster_id = daemons.cluster_id
        self.daemons[cluster.number] = daemons
        self.addresses[cluster.number] = [daemon.address for daemon in daemons.daemons]
        for daemon in daemons.daemons:
            self.server(cluster, daemon.server_ref.name, server=daemon.server_ref, replica_id=daemon.replica_id)

    def report(self) -> None:
        """Leaving servers go whom their cluster no longer has."""
        if self.keeps_records:
            return
        for server in [one for one in self.servers if one.leaving]:
            daemons = self.daemons.get(server.cluster)
            if daemons is None or server.replica_id not in daemons.members:
                self.servers.remove(server)

    def found(self, word: str) -> pb.DirectoryServer | None:
        return next((one for one in self.servers if word in (one.server.server_id, one.server.name)), None)


class FakeAdmin(AdminServicer):
    """One server, which leads the group."""

    def __init__(self, directory: FakeDirectory) -> None:
        self.directory = directory
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        add_AdminServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def stop(self) -> None:
        if self.directory.hang is not None:
            self.directory.hang.set()
        self.server.stop(None).wait()

    def _take(self, request: Any, context: grpc.ServicerContext) -> None:
        if self.directory.refusal is not None:
            reason, message, values = self.directory.refusal
            refuse(context, reason, message, **values)
        if not getattr(request, "dry_run", False):
            self.directory.asked.append(request)

    def MarkLeaving(self, request: pb.MarkLeavingRequest, context: grpc.ServicerContext) -> pb.MarkLeavingResponse:
        d = self.directory
        self._take(request, context)
        found = d.found(request.server)
        if found is None:
            refuse(context, Reason.NOT_FOUND, f"there is no server {request.server}")
            raise AssertionError
        cluster = next(one for one in d.clusters if one.number == found.cluster)
        others = [one for one in d.servers if one.cluster == found.cluster and one is not found]
        last = not others and not cluster.slots
        answer = pb.MarkLeavingResponse(server=found, cluster=cluster, addresses=d.addresses.get(cluster.number, []), last=last)
        if not request.dry_run:
            found.leaving = True
            if last:
                d.clusters.remove(cluster)
        return answer

    def Forget(self, request: pb.ForgetRequest, context: grpc.ServicerContext) -> pb.ForgetResponse:
        self._take(request, context)
        found = self.directory.found(request.server)
        if found is not None:
            self.directory.servers.remove(found)
        return pb.ForgetResponse()

    def SetCluster(self, request: pb.SetClusterRequest, context: grpc.ServicerContext) -> pb.SetClusterResponse:
        self._take(request, context)
        found = next((one for one in self.directory.clusters if one.name == request.name), None)
        if found is None:
            found = self.directory.cluster(request.name, range(0), founded=False, term=0)
        found.replicas_wanted = request.replicas_wanted or found.replicas_wanted
        if request.HasField("emptying"):
            found.emptying = request.emptying
        return pb.SetClusterResponse(cluster=found)

    def RemoveCluster(self, request: pb.RemoveClusterRequest, context: grpc.ServicerContext) -> pb.RemoveClusterResponse:
        self._take(request, context)
        self.directory.clusters = [one for one in self.directory.clusters if one.name != request.name]
        return pb.RemoveClusterResponse()

    def Adopt(self, request: pb.AdoptRequest, context: grpc.ServicerContext) -> pb.AdoptResponse:
        self._take(request, context)
        d = self.directory
        found = next(one for one in d.clusters if one.name == request.cluster)
        answer = pb.AdoptResponse(cluster=found, cluster_id="e" * 32, cluster_name="again", revision=1_000_000_007, **d.adopted)
        answer.done = found.cluster_id == answer.cluster_id
        if not answer.done:
            answer.struck.extend(one for one in d.servers if one.cluster == found.number)
        if not request.dry_run:
            d.servers = [one for one in d.servers if one.cluster != found.number]
            found.cluster_id, found.leader_id = answer.cluster_id, ""
            if answer.members:
                d.server(found, "x1", server=answer.members[0])
        return answer

    def Reconcile(self, request: pb.ReconcileRequest, context: grpc.ServicerContext) -> pb.ReconcileResponse:
        """Dry runs say what is found, every other call the next of `reconciled`, the last one for ever."""
        self._take(request, context)
        d = self.directory
        if request.dry_run or not d.reconciled:
            return d.in_doubt
        return d.reconciled.pop(0) if len(d.reconciled) > 1 else d.reconciled[0]

    def Directory(self, request: pb.DirectoryRequest, context: grpc.ServicerContext) -> pb.DirectoryResponse:
        d = self.directory
        d.report()
        return pb.DirectoryResponse(clusters=d.clusters, servers=d.servers, moves=d.moves, map_version=d.version)

    def SlotMap(self, request: pb.SlotMapRequest, context: grpc.ServicerContext) -> pb.SlotMapResponse:
        d = self.directory
        owners = b"".join(number.to_bytes(2, "big") for number in d.owners)
        routed = [
            pb.RoutedCluster(
                number=one.number, name=one.name, cluster_id=one.cluster_id, addresses=d.addresses.get(one.number, [])
            )
            for one in d.clusters
        ]
        return pb.SlotMapResponse(
            version=d.version, owners=b"" if request.known_version == d.version else owners, clusters=routed
        )

    def PlanRebalance(self, request: pb.PlanRebalanceRequest, context: grpc.ServicerContext) -> pb.PlanRebalanceResponse:
        return self.directory.plan

    def Rebalance(self, request: pb.RebalanceRequest, context: grpc.ServicerContext) -> Iterator[pb.RebalanceResponse]:
        d = self.directory
        self._take(request, context)
        for place, message in enumerate(d.told):
            if place == d.break_at:
                d.break_at = -1
                context.abort(grpc.StatusCode.UNAVAILABLE, "the admin went away")
            d.between(place)
            yield message
        if d.hang is not None:
            d.hang.wait(60)

    def StopRebalance(self, request: pb.StopRebalanceRequest, context: grpc.ServicerContext) -> pb.StopRebalanceResponse:
        self._take(request, context)
        stopped = sum(move.phase in (pb.PLANNED, pb.COPYING) for move in self.directory.moves)
        self.directory.moves.clear()
        return pb.StopRebalanceResponse(moves_stopped=stopped)


def fake_admin(directory: FakeDirectory) -> FakeAdmin:
    # As for FakeDaemon: daemons' own calls are not pretended.
    return FakeAdmin(directory)  # type: ignore[abstract]
