"""The clusters as the mover of slots reaches them: the service Slots at the leader of each, at the addresses of the directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, TypeVar

from ravel_node.admin.model import ClusterNumber
from ravel_node.admin.ports import ClusterAwayError, StepRefusedError
from ravel_node.server.desk import DirectoryDesk
from ravelctl.client import RavelError, RetryPolicy, TlsOptions
from ravelctl.client.channels import Channels
from ravelctl.client.errors import NOTHING_DONE, RETRYABLE
from ravelctl.client.following import ask_leader, stream_from
from ravelpb.v1.slots_pb2 import (
    ChangeSlotsRequest,
    ChangeSlotsResponse,
    OwnershipRequest,
    OwnershipResponse,
    ReadSlotsRequest,
    ReadSlotsResponse,
)
from ravelpb.v1.slots_pb2_grpc import SlotsStub

if TYPE_CHECKING:
    from ravelpb.v1.slots_pb2_grpc import SlotsAsyncStub

T = TypeVar("T")

CALL_S: Final = 3.0
"""How long one step may take, with looking for the leader."""


class Clusters:
    """Implements admin.ports.ClusterPort. One set of connections a cluster, for as long as its addresses stay the same."""

    def __init__(self, desk: DirectoryDesk, client_tls: TlsOptions | None) -> None:
        self._desk = desk
        self._tls = client_tls
        self._retry = RetryPolicy()
        self._channels: dict[ClusterNumber, tuple[str, frozenset[str], Channels]] = {}  # with id and addresses

    async def ownership(self, cluster: ClusterNumber) -> OwnershipResponse:
        try:
            return await self._ask(cluster, lambda stub: stub.Ownership(OwnershipRequest()), repeatable=True)
        except RavelError as error:
            raise ClusterAwayError(self._sentence(cluster, error)) from None

    async def change(self, cluster: ClusterNumber, request: ChangeSlotsRequest) -> ChangeSlotsResponse:
        try:
            return await self._ask(cluster, lambda stub: stub.ChangeSlots(request), repeatable=False)
        except RavelError as error:
            raise self._why(cluster, error) from None

    async def read(self, cluster: ClusterNumber, request: ReadSlotsRequest) -> AsyncGenerator[ReadSlotsResponse, None]:
        await self.ownership(cluster)  # whoever answers this one leads
        channels = await self._of(cluster)
        pages = stream_from(channels, channels.choose(), lambda channel: SlotsStub(channel).ReadSlots(request), timeout_s=CALL_S)
        try:
            async with aclosing(pages):
                async for page in pages:
                    yield page
        except RavelError as error:
            raise self._why(cluster, error) from None

    async def close(self) -> None:
        for _, _, channels in self._channels.values():
            await channels.close()

    async def _ask(self, cluster: ClusterNumber, call: Callable[[SlotsAsyncStub], Awaitable[T]], *, repeatable: bool) -> T:
        channels = await self._of(cluster)
        return await ask_leader(
            channels, self._retry, lambda channel: call(SlotsStub(channel)), timeout_s=CALL_S, repeatable=repeatable
        )

    async def _of(self, cluster: ClusterNumber) -> Channels:
        """The connections to a cluster, at the addresses that the directory has now. Raises ClusterAwayError."""
        directory = self._desk.directory
        entry = directory.clusters.get(cluster)
        addresses = directory.addresses_of(cluster)
        if entry is None or not addresses:
            raise ClusterAwayError(f"of cluster {cluster} no member has been reported: nobody knows where it is reached")
        known = self._channels.get(cluster)
        if known is not None and known[:2] == (entry.cluster_id, frozenset(addresses)):
            return known[2]
        channels = Channels(addresses, retry=self._retry, tls=self._tls, cluster_id=entry.cluster_id)
        self._channels[cluster] = (entry.cluster_id, frozenset(addresses), channels)
        if known is not None:
            await known[2].close()
        return channels

    def _why(self, cluster: ClusterNumber, error: RavelError) -> Exception:
        if error.reason in NOTHING_DONE and error.reason not in RETRYABLE:
            return StepRefusedError(self._sentence(cluster, error))
        return ClusterAwayError(self._sentence(cluster, error))

    def _sentence(self, cluster: ClusterNumber, error: RavelError) -> str:
        entry = self._desk.directory.clusters.get(cluster)
        return f"cluster {entry.name if entry is not None else cluster}: {error.message}"
