"""The clusters as the mover of slots reaches them: the service Slots at the leader of each, at the addresses of the directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import copy
from typing import Final

from ravel_node.admin.model import ClusterNumber, Directory
from ravel_node.admin.ports import ClusterAwayError, StepRefusedError
from ravel_node.server.desk import DirectoryDesk
from ravelctl.client import RavelError, TlsOptions
from ravelctl.client.connection.rules import NOTHING_DONE, RETRYABLE
from ravelctl.client.errors import WrongServerError
from ravelctl.client.services.slots import SlotsClient
from ravelpb.errors import Reason
from ravelpb.v1.slots_pb2 import (
    ChangeSlotsRequest,
    ChangeSlotsResponse,
    OwnershipResponse,
    ReadSlotsRequest,
    ReadSlotsResponse,
)

CALL_S: Final = 3.0
"""How long one step may take, with looking for the leader."""


class Clusters:
    """Implements admin.ports.ClusterPort. One client a cluster, for as long as its addresses stay the same."""

    def __init__(self, desk: DirectoryDesk, client_tls: TlsOptions | None) -> None:
        self._desk = desk
        self._tls = client_tls
        self._clients: dict[ClusterNumber, tuple[str, frozenset[str], SlotsClient]] = {}  # with cluster id and addresses
        self._meant: Directory | None = None  # None: the clusters that the directory has by then

    def as_of(self, directory: Directory) -> Clusters:
        port = copy(self)  # with the same clients
        port._meant = directory
        return port

    async def ownership(self, cluster: ClusterNumber, *, detail: bool = False) -> OwnershipResponse:
        try:
            return await (await self._client(cluster)).ownership(detail=detail)
        except RavelError as error:
            raise ClusterAwayError(self._sentence(cluster, error)) from None

    async def change(self, cluster: ClusterNumber, request: ChangeSlotsRequest) -> ChangeSlotsResponse:
        try:
            return await (await self._client(cluster)).change(request)
        except RavelError as error:
            raise self._why(cluster, error) from None

    async def read(self, cluster: ClusterNumber, request: ReadSlotsRequest) -> AsyncGenerator[ReadSlotsResponse, None]:
        client = await self._client(cluster)
        pages = client.read(
            request.slots,
            keys_only=request.keys_only,
            noted_for_move=request.noted_for_move,
            linearizable=request.linearizable,
        )
        try:
            async with aclosing(pages):
                async for page in pages:
                    yield page
        except RavelError as error:
            raise self._why(cluster, error) from None

    async def close(self) -> None:
        for _, _, client in self._clients.values():
            await client.close()

    async def _client(self, cluster: ClusterNumber) -> SlotsClient:
        """For a cluster at the addresses that the directory has now. Raises ClusterAwayError."""
        directory = self._desk.directory
        entry = directory.clusters.get(cluster)
        addresses = directory.addresses_of(cluster)
        if entry is None or not addresses:
            raise ClusterAwayError(f"of cluster {cluster} no member has been reported: nobody knows where it is reached")
        meant = entry if self._meant is None else self._meant.clusters.get(cluster)
        if meant is None or meant.cluster_id != entry.cluster_id:
            raise ClusterAwayError(
                f"cluster {entry.name} is another one by now: it was adopted in the place of the one that was meant"
            )
        known = self._clients.get(cluster)
        if known is not None and known[:2] == (entry.cluster_id, frozenset(addresses)):
            return known[2]
        client = SlotsClient(addresses, timeout_s=CALL_S, tls=self._tls, cluster_id=entry.cluster_id)
        self._clients[cluster] = (entry.cluster_id, frozenset(addresses), client)
        if known is not None:
            await known[2].close()
        return client

    def _why(self, cluster: ClusterNumber, error: RavelError) -> Exception:
        """Only the cluster itself refuses a step. A daemon of another one, at its address by now, says nothing of the move."""
        if isinstance(error, WrongServerError):
            return ClusterAwayError(self._sentence(cluster, error))
        if error.reason == Reason.REQUEST_TOO_LARGE:
            return StepRefusedError(f"{self._sentence(cluster, error)}; {error.next_step}")
        if error.reason in NOTHING_DONE and error.reason not in RETRYABLE:
            return StepRefusedError(self._sentence(cluster, error))
        return ClusterAwayError(self._sentence(cluster, error))

    def _sentence(self, cluster: ClusterNumber, error: RavelError) -> str:
        entry = self._desk.directory.clusters.get(cluster)
        name = entry.name if entry is not None else cluster
        adopt = (
            f"; if it came back out of a backup: ravelctl admin adopt {name} ADDRESS"
            if isinstance(error, WrongServerError)
            else ""
        )
        return f"cluster {name}: {error.message}{adopt}"
