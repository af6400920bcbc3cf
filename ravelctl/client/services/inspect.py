"""InspectClient: the log, snapshots and store of one replica. Answers are the protobuf messages of inspect.proto."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from grpc import aio

from ravelctl.client.services.service_client import ServiceClient
from ravelctl.client.services.unary import ask_one, stream_from
from ravelpb.v1.cluster_pb2 import Expectation
from ravelpb.v1.inspect_pb2 import (
    CheckStoreRequest,
    CheckStoreResponse,
    CompactRequest,
    CompactResponse,
    FetchSnapshotRequest,
    FetchSnapshotResponse,
    ListSnapshotsRequest,
    ListSnapshotsResponse,
    ReadLogRequest,
    ReadLogResponse,
    SaveSnapshotRequest,
    SaveSnapshotResponse,
    StateHashRequest,
    StateHashResponse,
    StoreStatsRequest,
    StoreStatsResponse,
)
from ravelpb.v1.inspect_pb2_grpc import InspectStub

if TYPE_CHECKING:
    from ravelpb.v1.inspect_pb2_grpc import InspectAsyncStub

T = TypeVar("T")


class InspectClient(ServiceClient):
    """The calls of the Inspect service. Each asks the endpoint that it names, leader or not, and is not repeated.

    On a stream the time is for each message.

    All errors are RavelError: UnreachableError, DeadlineError if the daemon hangs, NotFoundError, CompactedError, BlankError, ...
    """

    async def read_log(
        self,
        endpoint: str,
        *,
        from_index: int = 0,
        to_index: int = 0,
        limit: int = 0,
        tail: bool = False,
        term: int = 0,
        types: Sequence[str] = (),
        key_prefix: bytes = b"",
        since_ms: int = 0,
        until_ms: int = 0,
        with_data: bool = False,
        with_digest: bool = False,
    ) -> AsyncGenerator[ReadLogResponse, None]:
        """Yield entries of the log from `from_index` on (0: from the first one), or with `tail` the last `limit` ones.

        `limit` 0: 1,000 entries that pass the filters; times are in milliseconds since 1970. `with_data`: also the payloads.
        Raises CompactedError if the log no longer reaches back that far.
        """
        request = ReadLogRequest(
            from_index=from_index,
            to_index=to_index,
            limit=limit,
            tail=tail,
            term=term,
            types=types,
            key_prefix=key_prefix,
            since_ms=since_ms,
            until_ms=until_ms,
            with_data=with_data,
            with_digest=with_digest,
        )
        async with aclosing(self._stream(endpoint, lambda stub: stub.ReadLog(request))) as messages:
            async for message in messages:
                yield message

    async def snapshots(self, endpoint: str) -> ListSnapshotsResponse:
        """Return the snapshot files of this replica, newest first."""
        return await self._ask(endpoint, lambda stub: stub.ListSnapshots(ListSnapshotsRequest()))

    async def save_snapshot(
        self, endpoint: str, *, expect: Expectation | None = None, timeout_s: float = 600.0
    ) -> SaveSnapshotResponse:
        """Build a snapshot file of the applied state, unless the newest file is as new, and wait until it is verified.

        Raises RefusedError with STALE_VIEW if the replica's term and configuration are not those of `expect`.
        """
        return await self._ask(endpoint, lambda stub: stub.SaveSnapshot(SaveSnapshotRequest(expect=expect)), timeout_s)

    async def fetch_snapshot(self, endpoint: str, name: str, offset: int = 0) -> AsyncGenerator[FetchSnapshotResponse, None]:
        """Yield the bytes of one snapshot file from `offset` on; the first message has header and size. Raises NotFoundError."""
        request = FetchSnapshotRequest(name=name, offset=offset)
        async with aclosing(self._stream(endpoint, lambda stub: stub.FetchSnapshot(request))) as messages:
            async for message in messages:
                yield message

    async def store_stats(self, endpoint: str) -> StoreStatsResponse:
        """Return the sizes of the replica's LMDB environments, and of the state that is applied but not flushed."""
        return await self._ask(endpoint, lambda stub: stub.StoreStats(StoreStatsRequest()))

    async def check_store(
        self, endpoint: str, *, log_only: bool = False, timeout_s: float = 600.0
    ) -> AsyncGenerator[CheckStoreResponse, None]:
        """Have the replica read and check every record, and yield a message for each step; the last one says `finished`.

        A step may take `timeout_s`: that of a large snapshot reads the whole file.
        """
        request = CheckStoreRequest(log_only=log_only)
        async with aclosing(self._stream(endpoint, lambda stub: stub.CheckStore(request), timeout_s)) as messages:
            async for message in messages:
                yield message

    async def compact(self, endpoint: str, *, keep: int = 0, dry_run: bool = False, timeout_s: float = 600.0) -> CompactResponse:
        """Have the replica flush, and drop its log up to `keep` entries before the last applied one; `dry_run`: only say how
        far."""
        return await self._ask(endpoint, lambda stub: stub.Compact(CompactRequest(keep=keep, dry_run=dry_run)), timeout_s)

    async def state_hash(self, endpoint: str, *, timeout_s: float = 900.0) -> StateHashResponse:
        """Have every replica hash its state at one entry of the log, and compare the hashes. `endpoint` must be the leader's.

        Raises NotLeaderError, and UnsupportedVersionError while a member has a version that cannot.
        """
        return await self._ask(endpoint, lambda stub: stub.StateHash(StateHashRequest()), timeout_s)

    async def _ask(self, endpoint: str, call: Callable[[InspectAsyncStub], Awaitable[T]], timeout_s: float | None = None) -> T:
        return await ask_one(
            self._connections,
            self._retry,
            endpoint,
            lambda channel: call(InspectStub(channel)),
            timeout_s=self._limit_s(timeout_s),
        )

    def _stream(
        self, endpoint: str, call: Callable[[InspectAsyncStub], Any], timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        def open_stream(channel: aio.Channel) -> Any:
            return call(InspectStub(channel))

        return stream_from(self._connections, self._retry, endpoint, open_stream, timeout_s=self._limit_s(timeout_s))
