"""ReplicaReader: reads that one chosen replica answers itself, whoever leads."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Self

from ravelctl.client.connection.connections import ChannelFactory, Connections
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.services.unary import ask_one
from ravelctl.client.types import Consistency, KeyValue
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2_grpc import KVStub


class Reading(NamedTuple):
    """What a replica answered, and how far it had applied its log."""

    found: KeyValue | None
    applied_index: int


class ReplicaReader:
    """Asks the endpoint it names, and no other, once. All errors are RavelError: NotLeaderError, UnreachableError, ..."""

    def __init__(
        self,
        *,
        timeout_s: float = 5.0,
        tls: TlsOptions | None = None,
        cluster_id: str = "",
        channel_factory: ChannelFactory | None = None,
    ) -> None:
        """As for InspectClient."""
        self._timeout_s = timeout_s
        self._channels = Connections((), retry=RetryPolicy(), factory=channel_factory, tls=tls, cluster_id=cluster_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._channels.close()

    async def get(self, endpoint: str, key: bytes, consistency: Consistency) -> Reading:
        """The key as this replica shows it. Only a leader answers reads that are not stale."""
        request = kv_pb2.GetRequest(key=key, consistency=kv_pb2.Consistency.ValueType(consistency))
        answer: kv_pb2.GetResponse = await ask_one(
            self._channels, endpoint, lambda channel: KVStub(channel).Get(request), timeout_s=self._timeout_s
        )
        return Reading(KeyValue(key, answer.value, answer.revision) if answer.found else None, answer.header.index)
