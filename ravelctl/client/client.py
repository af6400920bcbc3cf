"""RavelClient: the key-value store of one cluster, or of all clusters of an admin group, as a program sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

from ravelctl.client.connection.connections import ChannelFactory, no_endpoints
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import InvalidArgumentError
from ravelctl.client.routing.routed_store import RoutedStore
from ravelctl.client.session.cluster_store import Dialling, Store
from ravelctl.client.session.patient import PatientStore
from ravelctl.client.session.scan import scan_request
from ravelctl.client.session.watch import Watch, watch_request
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
        endpoints: Sequence[str] = (),
        *,
        admin: Sequence[str] = (),
        timeout_s: float = 5.0,
        exactly_once: bool = True,
        retry: RetryPolicy | None = None,
        tls: TlsOptions | None = None,
        cluster_id: str = "",
        channel_factory: ChannelFactory | None = None,
        fail_fast: bool = False,
    ) -> None:
        """`endpoints` are client addresses ("host:port") of some members of one cluster, or `admin` those of some servers of an
        admin group; more are learned. Nothing is dialled yet.

        With `admin` each key is read and written in the cluster that owns it. The admin is asked for the map of slots with the
        first call, and again when a cluster says that the map has changed: while it is away, calls go on with the map there is.

        With `exactly_once` a write is repeated until it is answered or its time is up, and still happens once; without, a write
        that may have reached a server is not repeated. `tls` is how they are dialled; None: in plain text. A `channel_factory`
        takes its place. With `cluster_id` (of one cluster, or of the admin group) nothing is asked of a daemon of another
        cluster: WrongServerError.

        With `fail_fast` (and `admin`) a cluster that one call did not find within its time is not waited for by those after it:
        they end at once, in UnreachableError or NoLeaderError, until it answers again. That is for servers of many callers.
        """
        if not endpoints and not admin:
            raise no_endpoints()
        if endpoints and admin:
            raise InvalidArgumentError(
                "a client is given the endpoints of one cluster or those of an admin group, not both",
                next_step="leave one of them out: an admin group leads to all of its clusters",
            )
        self._timeout_s = timeout_s
        dialling = Dialling(retry or RetryPolicy(), tls, channel_factory, exactly_once)
        self._store: Store = (
            RoutedStore(admin, dialling, timeout_s=timeout_s, admin_cluster_id=cluster_id, fail_fast=fail_fast)
            if admin
            else PatientStore(endpoints, dialling, cluster_id=cluster_id)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def put(self, key: bytes, value: bytes, *, timeout_s: float | None = None) -> PutResult:
        """Set the key's value."""
        command = Command(put=PutRequest(key=key, value=value))
        answer: PutResponse = await self._store.write(
            (key,), command, len(key) + len(value) + FRAME_BYTES, timeout_s or self._timeout_s
        )
        return PutResult(answer.revision)

    async def get(
        self, key: bytes, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout_s: float | None = None
    ) -> KeyValue | None:
        """The key's value and revision; None: it is not there."""
        command = Command(get=GetRequest(key=key, consistency=kv_pb2.Consistency.ValueType(consistency)))
        answer: GetResponse = await self._store.read(
            key, command, len(key) + FRAME_BYTES, timeout_s or self._timeout_s, stale=consistency is Consistency.STALE
        )
        return KeyValue(key, answer.value, answer.revision) if answer.found else None

    async def delete(self, key: bytes, *, timeout_s: float | None = None) -> DeleteResult:
        """Remove the key. One that is not there is no error."""
        command = Command(delete=DeleteRequest(key=key))
        answer: DeleteResponse = await self._store.write((key,), command, len(key) + FRAME_BYTES, timeout_s or self._timeout_s)
        return DeleteResult(answer.found, answer.revision)

    async def get_and_delete(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None:
        """Remove the key and return what was there, in one step; None: nothing was."""
        command = Command(get_and_delete=GetAndDeleteRequest(key=key))
        answer: GetAndDeleteResponse = await self._store.write(
            (key,), command, len(key) + FRAME_BYTES, timeout_s or self._timeout_s
        )
        return KeyValue(key, answer.value, answer.revision) if answer.found else None

    async def compare_and_swap(
        self, key: bytes, value: bytes, *, expected_revision: int, timeout_s: float | None = None
    ) -> SwapResult:
        """Set the key's value if its revision is `expected_revision`; 0: if it is not there."""
        command = Command(compare_and_swap=CompareAndSwapRequest(key=key, expected_revision=expected_revision, value=value))
        size_bytes = len(key) + len(value) + FRAME_BYTES
        answer: CompareAndSwapResponse = await self._store.write((key,), command, size_bytes, timeout_s or self._timeout_s)
        actual = KeyValue(key, answer.value, answer.revision) if answer.found and not answer.swapped else None
        return SwapResult(answer.swapped, answer.revision, actual)

    async def write(
        self, operations: Sequence[Operation], *, conditions: Sequence[Condition] = (), timeout_s: float | None = None
    ) -> WriteResult:
        """Do all operations, at one revision, if all conditions hold; else none. At most 1,024 of each, one a key.

        All keys must live in one cluster: InvalidArgumentError names two that do not.
        """
        request = WriteRequest(
            conditions=[kv_pb2.Condition(key=condition.key, revision=condition.revision) for condition in conditions],
            operations=[_operation(operation) for operation in operations],
        )
        command = Command(write=request)
        size_bytes = command.ByteSize() + FRAME_BYTES
        keys = [part.key for part in (*conditions, *operations)]
        answer: WriteResponse = await self._store.write(keys, command, size_bytes, timeout_s or self._timeout_s)
        if answer.done:
            return WriteResult(True, answer.revision, None, None)
        failed = KeyValue(answer.failed_key, answer.value, answer.revision) if answer.found else None
        return WriteResult(False, answer.revision, failed, answer.failed_key)

    async def prepare(self, *, timeout_s: float | None = None) -> None:
        """Have what the first call would wait for: with `admin` the map of slots, else nothing. Raises what calls raise."""
        await self._store.prepare(timeout_s or self._timeout_s)

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        """These keys, those together that `write` takes at once: by the map as it is known now, which may change."""
        return self._store.groups(keys)

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

        Over several clusters their pages are merged, each of them its cluster at one point in time. A key that is there all the
        while comes exactly once, also while its slot moves; one that is written or deleted meanwhile comes at most once.
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
        parts = self._store.scan(request, timeout_s or self._timeout_s)
        async with aclosing(parts):
            async for part in parts:
                for item in part:
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

        Over several clusters a watch of one key follows it when its slot moves. A prefix, a range or all keys can be watched only
        while one cluster owns all slots: revisions of several clusters have no common order.
        """
        request = watch_request(key=key, prefix=prefix, start=start, end=end, from_revision=from_revision)
        return self._store.watch(request, timeout_s or self._timeout_s, outage_max_s)

    async def close(self) -> None:
        """End every call and close the connections. Calls under way raise ClosedError, or OutcomeUnknownError."""
        await self._store.close()


def _operation(operation: Operation) -> kv_pb2.Operation:
    match operation:
        case Put(key, value):
            return kv_pb2.Operation(put=kv_pb2.PutOperation(key=key, value=value))
        case Delete(key):
            return kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=key))
