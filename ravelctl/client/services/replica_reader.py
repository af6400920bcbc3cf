"""ReplicaReader: reads that one chosen replica answers, leader or not."""

from __future__ import annotations

from typing import NamedTuple

from ravelctl.client.services.service_client import ServiceClient
from ravelctl.client.services.unary import ask_one
from ravelctl.client.types import Consistency, KeyValue
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2_grpc import KVStub


class Reading(NamedTuple):
    """The answer of a replica, and how far it had applied its log."""

    found: KeyValue | None
    applied_index: int


class ReplicaReader(ServiceClient):
    """Reads at the endpoint that the call names, once. All errors are RavelError: NotLeaderError, UnreachableError, ..."""

    async def get(self, endpoint: str, key: bytes, consistency: Consistency) -> Reading:
        """Return the key as this replica shows it. Only a leader answers reads that are not stale."""
        request = kv_pb2.GetRequest(key=key, consistency=kv_pb2.Consistency.ValueType(consistency))
        answer: kv_pb2.GetResponse = await ask_one(
            self._connections, self._retry, endpoint, lambda channel: KVStub(channel).Get(request), timeout_s=self._timeout_s
        )
        return Reading(KeyValue(key, answer.value, answer.revision) if answer.found else None, answer.header.index)
