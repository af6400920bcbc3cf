"""AdminClient: the calls of daemons and operators to an admin group. Answers are the protobuf messages of admin.proto."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
from grpc import aio

from ravelctl.client.errors import NotAdminError
from ravelctl.client.services.service_client import ServiceClient
from ravelctl.client.services.unary import ask_leader, stream_from
from ravelpb.v1.admin_pb2 import (
    AdoptRequest,
    AdoptResponse,
    DirectoryRequest,
    DirectoryResponse,
    ForgetRequest,
    ForgetResponse,
    LeaderReport,
    MarkLeavingRequest,
    MarkLeavingResponse,
    PlanRebalanceRequest,
    PlanRebalanceResponse,
    RebalanceRequest,
    RebalanceResponse,
    ReconcileRequest,
    ReconcileResponse,
    RegisterRequest,
    RegisterResponse,
    RemoveClusterRequest,
    RemoveClusterResponse,
    ReportRequest,
    ReportResponse,
    SetClusterRequest,
    SetClusterResponse,
    SlotMapRequest,
    SlotMapResponse,
    StopRebalanceRequest,
    StopRebalanceResponse,
)
from ravelpb.v1.admin_pb2_grpc import AdminStub
from ravelpb.v1.common_pb2 import ServerRef

if TYPE_CHECKING:
    from ravelpb.v1.admin_pb2_grpc import AdminAsyncStub

T = TypeVar("T")

REBALANCE_SILENCE_S: Final = 15.0
"""How long a running rebalance may report nothing: the admin server reports its progress every second."""


class AdminClient(ServiceClient):
    """The calls of the Admin service. Each follows the leader of the admin group from any endpoint.

    Every call takes `timeout_s`, or the client's own if it is None. All errors are RavelError: RefusedError if the admin group
    refuses (`reason` says why, and nothing changed), NotAdminError if only daemons answer that are no admin servers. Every
    command to the registry can be repeated, so a call is repeated until it is answered or the time is up.
    """

    # --- for daemons

    async def register(
        self,
        server: ServerRef,
        *,
        cluster_id: str = "",
        replica_id: int = 0,
        new_cluster: str = "",
        again: bool = False,
        timeout_s: float | None = None,
    ) -> RegisterResponse:
        """Register this daemon and return its cluster. `cluster_id` and `replica_id` are those of a daemon with an identity. An
        uninitialized daemon may name its cluster with `new_cluster`, which is made if it does not exist, and says with `again`
        that it was registered before: NotFoundError if it is no longer in the registry.

        RefusedError: NAME_TAKEN, ADDRESS_TAKEN, CLUSTER_IN_USE, SUPERSEDED. WrongServerError: another identity or cluster.
        """
        request = RegisterRequest(
            server=server, cluster_id=cluster_id, replica_id=replica_id, new_cluster=new_cluster, again=again
        )
        return await self._ask(lambda stub: stub.Register(request), timeout_s)

    async def report(
        self,
        server: ServerRef,
        *,
        cluster_id: str,
        replica_id: int,
        leader: LeaderReport | None = None,
        timeout_s: float | None = None,
    ) -> ReportResponse:
        """Report that this daemon is alive, and with `leader` the state of its cluster. Answered once all news is in the log.

        Raises RefusedError with STALE_REPORT if the admin group knows a later term or membership, NotFoundError for a server
        that is not in the registry (any more).
        """
        request = ReportRequest(server=server, cluster_id=cluster_id, replica_id=replica_id, leader=leader)
        return await self._ask(lambda stub: stub.Report(request), timeout_s)

    # --- for operators

    async def mark_leaving(self, server: str, *, dry_run: bool = False, timeout_s: float | None = None) -> MarkLeavingResponse:
        """Mark the server of this id or name as leaving, and return the addresses of its cluster.

        RefusedError with LAST_REPLICA for the last one of a cluster that owns slots; NotFoundError.
        """
        request = MarkLeavingRequest(server=server, dry_run=dry_run)
        return await self._ask(lambda stub: stub.MarkLeaving(request), timeout_s)

    async def forget(self, server: str, *, timeout_s: float | None = None) -> ForgetResponse:
        """Remove the server of this id or name, gone for good, from the registry. RefusedError if it still is a member."""
        return await self._ask(lambda stub: stub.Forget(ForgetRequest(server=server)), timeout_s)

    async def set_cluster(
        self, name: str, *, replicas_wanted: int = 0, emptying: bool | None = None, timeout_s: float | None = None
    ) -> SetClusterResponse:
        """Add a cluster to the registry, or change its settings; `replicas_wanted` 0, `emptying` None: unchanged."""
        request = SetClusterRequest(name=name, replicas_wanted=replicas_wanted, emptying=emptying)
        return await self._ask(lambda stub: stub.SetCluster(request), timeout_s)

    async def remove_cluster(self, name: str, *, timeout_s: float | None = None) -> RemoveClusterResponse:
        """Remove a cluster without servers and slots from the registry. RefusedError with CLUSTER_IN_USE."""
        return await self._ask(lambda stub: stub.RemoveCluster(RemoveClusterRequest(name=name)), timeout_s)

    async def adopt(
        self,
        cluster: str,
        addresses: Iterable[str],
        *,
        cluster_id: str = "",
        dry_run: bool = False,
        timeout_s: float = 30.0,
    ) -> AdoptResponse:
        """Put the cluster that answers at these addresses in the place of the cluster of this name; the answer says what was
        found before. With `cluster_id` only that cluster is adopted. Which slots it owns then is for `reconcile`.

        Raises RefusedError with UNSAFE_CHANGE while members of the old cluster answer, UNREACHABLE_MEMBER if no daemon answers at
        the addresses, STALE_VIEW, INVALID_ARGUMENT; NotFoundError for a name that is not in the registry.
        """
        request = AdoptRequest(cluster=cluster, addresses=addresses, cluster_id=cluster_id, dry_run=dry_run)
        return await self._ask(lambda stub: stub.Adopt(request), timeout_s)

    async def reconcile(
        self, accept_loss: Iterable[int] = (), *, plan: str = "", dry_run: bool = False, timeout_s: float | None = None
    ) -> ReconcileResponse:
        """Make the registry and the clusters agree about who owns which slot. The answer says what is left: call until `done`.

        Slots whose keys would be lost stay as they are, unless they are in `accept_loss`, ascending. With `plan`, the name in an
        earlier answer, nothing else is done. Raises RefusedError with STALE_VIEW if the plan is another one now.
        """
        request = ReconcileRequest(accept_loss=accept_loss, plan=plan, dry_run=dry_run)
        return await self._ask(lambda stub: stub.Reconcile(request), timeout_s)

    async def directory(self, *, timeout_s: float | None = None) -> DirectoryResponse:
        """Return all clusters, servers and moves of the registry."""
        return await self._ask(lambda stub: stub.Directory(DirectoryRequest()), timeout_s)

    async def slot_map(self, known_version: int = 0, *, timeout_s: float | None = None) -> SlotMapResponse:
        """Return the owner of each slot and the addresses of the clusters. `owners` is empty if `known_version` is the map's."""
        request = SlotMapRequest(known_version=known_version)
        return await self._ask(lambda stub: stub.SlotMap(request), timeout_s)

    async def plan_rebalance(
        self, empty_clusters: Iterable[str] = (), *, timeout_s: float | None = None
    ) -> PlanRebalanceResponse:
        """Return the moves after which every cluster owns its share, and the named ones nothing. Changes nothing."""
        request = PlanRebalanceRequest(empty_clusters=empty_clusters)
        return await self._ask(lambda stub: stub.PlanRebalance(request), timeout_s)

    async def rebalance(
        self,
        empty_clusters: Iterable[str] = (),
        *,
        map_version: int = 0,
        watch_only: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[RebalanceResponse, None]:
        """Begin the moves of a plan, and yield their progress until all have ended. With `watch_only` nothing is begun.

        The moves continue when the caller stops reading: after an error, which may come at any time (for example when another
        admin server becomes leader), continue with `watch_only`. `timeout_s` is for finding the leader.
        """
        request = RebalanceRequest(empty_clusters=empty_clusters, map_version=map_version, watch_only=watch_only)
        await self.slot_map(timeout_s=timeout_s)  # the leader answers it, and is known afterwards
        messages = stream_from(
            self._connections,
            self._retry,
            self._connections.choose(),
            lambda channel: AdminStub(channel).Rebalance(request),
            timeout_s=REBALANCE_SILENCE_S,
            named=False,
        )
        async with aclosing(messages):
            async for message in messages:
                yield message

    async def stop_rebalance(self, *, timeout_s: float | None = None) -> StopRebalanceResponse:
        """Call off the move that is not committed yet, and all waiting ones."""
        return await self._ask(lambda stub: stub.StopRebalance(StopRebalanceRequest()), timeout_s)

    async def _ask(self, call: Callable[[AdminAsyncStub], Awaitable[T]], timeout_s: float | None) -> T:
        return await ask_leader(
            self._connections, self._retry, _with_stub(call), timeout_s=self._limit_s(timeout_s), repeatable=True
        )


def _with_stub(call: Callable[[AdminAsyncStub], Awaitable[T]]) -> Callable[[aio.Channel], Awaitable[T]]:
    """Return the call, with NotAdminError for a daemon that does not offer it."""

    async def called(channel: aio.Channel) -> T:
        try:
            return await call(AdminStub(channel))
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        raise NotAdminError(
            "the daemon that was asked is no admin server",
            next_step="give the addresses of daemons that were started with `ravel_node admin`",
        )

    return called
