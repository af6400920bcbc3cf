"""RavelClient: the key-value store of one cluster, as a program sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self
from weakref import WeakSet

from ravelctl.client.channels import ChannelFactory, Channels, no_endpoints
from ravelctl.client.lane import Lane, LaneKind
from ravelctl.client.retry import RetryPolicy
from ravelctl.client.scan import Scanner, scan_request
from ravelctl.client.tls import TlsOptions
from ravelctl.client.types import (
    Condition,
    Consistency,
    Delete,
    DeleteResult,
    KeyValue,
    Operation,
    Put,
    PutResult,
    SwapResult,
    WriteResult,
)
from ravelctl.client.watch import Watch, watch_request
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2 import (
    Command,
    CompareAndSwapRequest,
    CompareAndSwapResponse,
    DeleteRequest,
    DeleteResponse,
    GetAndDeleteRequest,
    GetAndDeleteResponse,
    GetRequest,
    GetResponse,
    PutRequest,
    PutResponse,
    WriteRequest,
    WriteResponse,
)

FRAME_BYTES: Final = 32
"""What the wire adds to keys and values of one command, at most."""


class RavelClient:
    """Reads and writes keys; keys and values are bytes (a key 1 to 480 of them).

    Any number of tasks of one event loop may call it at once, and should: concurrent calls travel together. Every call takes
    `timeout_s`, or the client's own if it is None.

    All errors are RavelError. Nothing was done: UnreachableError, NoLeaderError, BusyError, ... or DeadlineError when the time
    ran out (whichever tells best why), QuotaExceededError, InvalidArgumentError, ClosedError. Writes may also raise
    OutcomeUnknownError. A write that is cancelled may happen too.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout_s: float = 5.0,
        exactly_once: bool = True,
        retry: RetryPolicy | None = None,
        tls: TlsOptions | None = None,
        cluster_id: str = "",
        channel_factory: ChannelFactory | None = None,
    ) -> None:
        """`endpoints` are client addresses ("host:port") of some members; more are learned. Nothing is dialled yet.

        With `exactly_once` a write is repeated until it is answered or its time is up, and still happens once; without, a write
        that may have reached a server is not repeated. `tls` is how they are dialled; None: in plain text. A `channel_factory`
        takes its place. With `cluster_id` nothing is asked of a daemon of another cluster: WrongServerError.
        """
        if not endpoints:
            raise no_endpoints()
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._channels = Channels(endpoints, retry=self._retry, factory=channel_factory, tls=tls, cluster_id=cluster_id)
        self._watches: WeakSet[Watch] = WeakSet()
        writes = LaneKind.WRITES_ONCE if exactly_once else LaneKind.WRITES
        # Reads have streams of their own: a Session answers in the order of its requests, and a read need not wait for a disk.
        self._reads, self._stale_reads, self._writes = (
            Lane(kind, self._channels, self._retry) for kind in (LaneKind.READS, LaneKind.STALE_READS, writes)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def put(self, key: bytes, value: bytes, *, timeout_s: float | None = None) -> PutResult:
        """Set the key's value."""
        command = Command(put=PutRequest(key=key, value=value))
        answer: PutResponse = await self._writes.submit(
            command, len(key) + len(value) + FRAME_BYTES, timeout_s or self._timeout_s
        )
        return PutResult(answer.revision)

    async def get(
        self, key: bytes, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout_s: float | None = None
    ) -> KeyValue | None:
        """The key's value and revision; None: it is not there."""
        lane = self._stale_reads if consistency is Consistency.STALE else self._reads
        command = Command(get=GetRequest(key=key, consistency=kv_pb2.Consistency.ValueType(consistency)))
        answer: GetResponse = await lane.submit(command, len(key) + FRAME_BYTES, timeout_s or self._timeout_s)
        return KeyValue(key, answer.value, answer.revision) if answer.found else None

    async def delete(self, key: bytes, *, timeout_s: float | None = None) -> DeleteResult:
        """Remove the key. One that is not there is no error."""
        command = Command(delete=DeleteRequest(key=key))
        answer: DeleteResponse = await self._writes.submit(command, len(key) + FRAME_BYTES, timeout_s or self._timeout_s)
        return DeleteResult(answer.found, answer.revision)

    async def get_and_delete(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None:
        """Remove the key and return what was there, in one step; None: nothing was."""
        command = Command(get_and_delete=GetAndDeleteRequest(key=key))
        answer: GetAndDeleteResponse = await self._writes.submit(command, len(key) + FRAME_BYTES, timeout_s or self._timeout_s)
        return KeyValue(key, answer.value, answer.revision) if answer.found else None

    async def compare_and_swap(
        self, key: bytes, value: bytes, *, expected_revision: int, timeout_s: float | None = None
    ) -> SwapResult:
        """Set the key's value if its revision is `expected_revision`; 0: if it is not there."""
        command = Command(compare_and_swap=CompareAndSwapRequest(key=key, expected_revision=expected_revision, value=value))
        size_bytes = len(key) + len(value) + FRAME_BYTES
        answer: CompareAndSwapResponse = await self._writes.submit(command, size_bytes, timeout_s or self._timeout_s)
        actual = KeyValue(key, answer.value, answer.revision) if answer.found and not answer.swapped else None
        return SwapResult(answer.swapped, answer.revision, actual)

    async def write(
        self, operations: Sequence[Operation], *, conditions: Sequence[Condition] = (), timeout_s: float | None = None
    ) -> WriteResult:
        """Do all operations, at one revision, if all conditions hold; else none. At most 1,024 of each, one a key."""
        request = WriteRequest(
            conditions=[kv_pb2.Condition(key=condition.key, revision=condition.revision) for condition in conditions],
            operations=[_operation(operation) for operation in operations],
        )
        command = Command(write=request)
        size_bytes = command.ByteSize() + FRAME_BYTES
        answer: WriteResponse = await self._writes.submit(command, size_bytes, timeout_s or self._timeout_s)
        if answer.done:
            return WriteResult(True, answer.revision, None, None)
        failed = KeyValue(answer.failed_key, answer.value, answer.revision) if answer.found else None
        return WriteResult(False, answer.revision, failed, answer.failed_key)

    async def scan(
        self,
        *,
        prefix: bytes | None = None,
        start: bytes = b"",
        end: bytes | None = None,
        limit: int = 0,
        keys_only: bool = False,
        consistency: Consistency = Consistency.LINEARIZABLE,
        page_keys_max: int = 1000,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[KeyValue, None]:
        """The keys with start <= key < end that begin with `prefix`, in byte order; `limit` 0: all of them.

        They come in pages of `page_keys_max`, each the state at one point in time; between pages the cluster goes on, and when
        the leader moves the scan goes on after the last key that was seen. `timeout_s` is the time for one page.
        """
        request = scan_request(
            prefix=prefix,
            start=start,
            end=end,
            limit=limit,
            keys_only=keys_only,
            consistency=consistency,
            page_keys_max=page_keys_max,
        )
        if request is None:
            return
        pages = Scanner(request, self._channels, self._retry, timeout_s or self._timeout_s).pages()
        async with aclosing(pages):
            async for page in pages:
                for item in page.items:
                    yield KeyValue(item.key, item.value, item.revision)

    def watch(
        self,
        *,
        key: bytes | None = None,
        prefix: bytes | None = None,
        start: bytes = b"",
        end: bytes | None = None,
        from_revision: int | None = None,
        timeout_s: float | None = None,
        outage_max_s: float | None = None,
    ) -> Watch:
        """Every change of a key, of the keys with a prefix, of those with start <= key < end, or of all, in order, for ever.

            async with client.watch(prefix=b"orders/") as watch:
                async for event in watch:
                    ...

        It begins with `from_revision`, or after what the replica that answers first has applied. Any replica serves it; when one
        is lost the watch goes on at another, without a gap and without an event twice. `timeout_s` is the time for the first
        answer; later the watch waits as long as it takes, or raises after `outage_max_s` without a replica. Raises
        InvalidArgumentError at once, the rest when it is iterated: CompactedError when the log of no replica reaches back so far.
        """
        request = watch_request(key=key, prefix=prefix, start=start, end=end, from_revision=from_revision)
        watch = Watch(request, self._channels, self._retry, timeout_s or self._timeout_s, outage_max_s)
        self._watches.add(watch)
        return watch

    async def close(self) -> None:
        """End every call and close the connections. Calls under way raise ClosedError, or OutcomeUnknownError."""
        for watch in self._watches:
            watch.close()
        await asyncio.gather(self._reads.close(), self._stale_reads.close(), self._writes.close())
        await self._channels.close()


def _operation(operation: Operation) -> kv_pb2.Operation:
    match operation:
        case Put(key, value):
            return kv_pb2.Operation(put=kv_pb2.PutOperation(key=key, value=value))
        case Delete(key):
            return kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=key))
