"""RavelClient: the key-value store of one cluster, or of all clusters of an admin group."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

from ravelctl.client.connection.channels import ChannelFactory
from ravelctl.client.connection.connections import no_endpoints
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import InvalidArgumentError
from ravelctl.client.routing.routed_store import RoutedStore
from ravelctl.client.session.cluster_store import ClusterStore, Dialling, Store
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
"""The most bytes that the wire adds to the keys and values of one command."""


class RavelClient:
    """Reads and writes keys; keys and values are bytes (a key 1 to 480 of them).

    Any number of tasks of one event loop may call it at the same time, and should: concurrent calls travel together. Every call
    takes `timeout_s`, or the client's own if it is None; with 0 it raises DeadlineError. The client belongs to the process and
    event loop of its first call: elsewhere calls raise ClientMisusedError.

    All errors are RavelError. After UnreachableError, NoLeaderError, BusyError, WrongServerError, DeadlineError and most others
    nothing was done. Writes may also raise OutcomeUnknownError. A write whose task is cancelled may happen: the `__cause__` of
    the CancelledError is OutcomeUnknownError if the write was sent, else NotSentError.
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

        With `admin` each key is read and written in the cluster that owns it. The client asks the admin group for the slot map
        with the first call, and again when a cluster says that the map has changed. While the admin group is away, calls use the
        map that the client has.

        With `exactly_once` a write is repeated until it is answered or its time is up, and still happens once; without it, a
        write that may have reached a server is not repeated. `tls` is used to dial; None: plain text. A `channel_factory` takes
        its place.

        Every call is meant for `cluster_id` (of the cluster, or of the admin group); empty: for the first one that answers. A
        daemon of another cluster refuses a call before it does anything. The client then asks its other addresses, and raises
        WrongServerError, which names the address and both clusters, if none of them helps.

        With `fail_fast` (and `admin`), after one call has not found a cluster within its time, further calls to it end at once in
        UnreachableError or NoLeaderError, until it answers again. That is for servers with many callers.
        """
        if not endpoints and not admin:
            raise no_endpoints()
        if endpoints and admin:
            raise InvalidArgumentError(
                "a client is given the endpoints of one cluster or those of an admin group, not both",
                next_step="leave one of them out: an admin group knows all of its clusters",
            )
        self._timeout_s = timeout_s
        dialling = Dialling(retry or RetryPolicy(), tls, channel_factory, exactly_once)
        self._store: Store = (
            RoutedStore(admin, dialling, timeout_s=timeout_s, admin_cluster_id=cluster_id, fail_fast=fail_fast)
            if admin
            else ClusterStore(endpoints, dialling, cluster_id=cluster_id, is_alone=True)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def put(self, key: bytes, value: bytes, *, timeout_s: float | None = None) -> PutResult:
        """Set the key's value."""
        command = Command(put=PutRequest(key=key, value=value))
        answer: PutResponse = await self._store.write(
            (key,), command, len(key) + len(value) + FRAME_BYTES, self._limit_s(timeout_s)
        )
        return PutResult(answer.revision)

    async def get(
        self, key: bytes, *, consistency: Consistency = Consistency.LINEARIZABLE, timeout_s: float | None = None
    ) -> KeyValue | None:
        """Return the key's value and revision; None: the key does not exist."""
        command = Command(get=GetRequest(key=key, consistency=kv_pb2.Consistency.ValueType(consistency)))
        answer: GetResponse = await self._store.read(
            key, command, len(key) + FRAME_BYTES, self._limit_s(timeout_s), stale=consistency is Consistency.STALE
        )
        return KeyValue(key, answer.value, answer.revision) if answer.found else None

    async def delete(self, key: bytes, *, timeout_s: float | None = None) -> DeleteResult:
        """Delete the key. A key that does not exist is no error."""
        command = Command(delete=DeleteRequest(key=key))
        answer: DeleteResponse = await self._store.write((key,), command, len(key) + FRAME_BYTES, self._limit_s(timeout_s))
        return DeleteResult(answer.found, answer.revision)

    async def get_and_delete(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None:
        """Delete the key and return its value, in one step; None: the key did not exist."""
        command = Command(get_and_delete=GetAndDeleteRequest(key=key))
        answer: GetAndDeleteResponse = await self._store.write((key,), command, len(key) + FRAME_BYTES, self._limit_s(timeout_s))
        return KeyValue(key, answer.value, answer.revision) if answer.found else None

    async def compare_and_swap(
        self, key: bytes, value: bytes, *, expected_revision: int, timeout_s: float | None = None
    ) -> SwapResult:
        """Set the key's value if its revision is `expected_revision`; 0: if the key does not exist."""
        command = Command(compare_and_swap=CompareAndSwapRequest(key=key, expected_revision=expected_revision, value=value))
        size_bytes = len(key) + len(value) + FRAME_BYTES
        answer: CompareAndSwapResponse = await self._store.write((key,), command, size_bytes, self._limit_s(timeout_s))
        actual = KeyValue(key, answer.value, answer.revision) if answer.found and not answer.swapped else None
        return SwapResult(answer.swapped, answer.revision, actual)

    async def write(
        self, operations: Sequence[Operation], *, conditions: Sequence[Condition] = (), timeout_s: float | None = None
    ) -> WriteResult:
        """Do all operations, at one revision, if all conditions hold; else none. At most 1,024 of each, one for a key.

        All keys must belong to one cluster: InvalidArgumentError names two that do not.
        """
        request = WriteRequest(
            conditions=[kv_pb2.Condition(key=condition.key, revision=condition.revision) for condition in conditions],
            operations=[_operation(operation) for operation in operations],
        )
        command = Command(write=request)
        size_bytes = command.ByteSize() + FRAME_BYTES
        keys = [part.key for part in (*conditions, *operations)]
        answer: WriteResponse = await self._store.write(keys, command, size_bytes, self._limit_s(timeout_s))
        if answer.done:
            return WriteResult(True, answer.revision, None, None)
        failed = KeyValue(answer.failed_key, answer.value, answer.revision) if answer.found else None
        return WriteResult(False, answer.revision, failed, answer.failed_key)

    async def prepare(self, *, timeout_s: float | None = None) -> None:
        """Fetch what the first call would wait for: with `admin` the slot map, else nothing. Raises what calls raise."""
        await self._store.prepare(self._limit_s(timeout_s))

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        """Return these keys in groups that `write` takes at once, by the present slot map, which may change."""
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
        """Yield the keys with start <= key < end that begin with `prefix`, in byte order; `limit` 0: all of them.

        They come in pages of `page_keys_max`, each of which shows one point in time; writes may happen between pages. When the
        leader changes, the scan continues after the last key that was seen. `timeout_s` is the time for one page.

        The pages of several clusters are merged, each of which shows its cluster at one point in time. A key that exists all the
        time is yielded exactly once, also while its slot moves; one that is written or deleted meanwhile, at most once.
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
        parts = self._store.scan(request, self._limit_s(timeout_s))
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
        after: str | None = None,
        timeout_s: float | None = None,
        outage_max_s: float | None = None,
    ) -> Watch:
        """Return a watch of every change of a key, of the keys with a prefix, of those with start <= key < end, or of all keys.

            async with client.watch(prefix=b"orders/") as watch:
                async for event in watch:
                    ...

        Changes come in order and without end. The watch begins with `from_revision`, or resumes at the `position` of an earlier
        watch (`after`), or begins after the state that the first answering replica has applied. Any replica serves it; when one
        is lost, the watch continues at another one, without a gap and without an event twice. `timeout_s` is the time for the
        first answer; later the watch waits as long as necessary, or raises after `outage_max_s` without a replica. Raises
        InvalidArgumentError at once, other errors when it is iterated: CompactedError if the log of no replica reaches back so
        far.

        With `admin`, the watch follows slots from cluster to cluster, and to clusters that are added. Every change comes once,
        and those of one key in order; clusters count their revisions apart, so changes of keys in different clusters come in
        any order, and `from_revision` counts in the cluster that owns a slot now. If a slot was in other hands meanwhile and
        nobody can say what happened there (a cluster was restored from a backup or was lost), the watch raises CompactedError:
        read the keys again. Without `admin` the watch raises WrongClusterError when slots leave or come.
        """
        request = watch_request(key=key, prefix=prefix, start=start, end=end, from_revision=from_revision)
        if after is not None and from_revision is not None:
            raise InvalidArgumentError("from_revision and after exclude each other", next_step="give one of them")
        return self._store.watch(request, self._limit_s(timeout_s), outage_max_s, after)

    async def close(self) -> None:
        """End every call and close the connections. Open calls raise ClosedError, or OutcomeUnknownError."""
        await self._store.close()

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


def _operation(operation: Operation) -> kv_pb2.Operation:
    match operation:
        case Put(key, value):
            return kv_pb2.Operation(put=kv_pb2.PutOperation(key=key, value=value))
        case Delete(key):
            return kv_pb2.Operation(delete=kv_pb2.DeleteOperation(key=key))
