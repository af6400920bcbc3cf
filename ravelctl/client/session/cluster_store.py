"""The store of one cluster, and the interface that it shares with the store of many clusters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

from ravelctl.client.connection.attempts import Backoff
from ravelctl.client.connection.channels import ChannelFactory
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import NotSentError, OutcomeUnknownError, RavelError, SlotMovingError
from ravelctl.client.session.batcher import Answer, CommandBatcher, CommandKind, WriteAnswer
from ravelctl.client.session.scan import Scanner
from ravelctl.client.session.watch import ClusterWatch, Watch
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2 import Command, ScanRequest, ScanResponse, WatchRequest


@dataclass(frozen=True, slots=True)
class Dialling:
    """The settings by which servers are reached: the same for every cluster of a client."""

    retry: RetryPolicy
    tls: TlsOptions | None = None
    channel_factory: ChannelFactory | None = None
    exactly_once: bool = True

    def connections(
        self, endpoints: Sequence[str], *, cluster_id: str = "", on_lost: Callable[[], None] | None = None
    ) -> Connections:
        """Return the connections of one cluster. Raises what `Connections` raises."""
        return Connections(
            endpoints,
            retry=self.retry,
            factory=self.channel_factory,
            tls=self.tls,
            cluster_id=cluster_id,
            on_lost=on_lost,
        )


class Store(Protocol):
    """Carries commands to the clusters of their keys. All errors are RavelError, as RavelClient raises them."""

    def write(self, keys: Sequence[bytes], command: Command, size_bytes: int, timeout_s: float) -> Awaitable[Any]:
        """Return the answer message of a command that writes these keys.

        A CancelledError has OutcomeUnknownError as its cause if the command was sent, else NotSentError.
        """
        ...

    def read(self, key: bytes, command: Command, size_bytes: int, timeout_s: float, *, stale: bool) -> Awaitable[Any]:
        """Return the answer message of a command that reads this key."""
        ...

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        """Return these keys, grouped by the cluster that holds them as far as is known."""
        ...

    async def prepare(self, timeout_s: float) -> None:
        """Fetch what the first command would wait for."""
        ...

    def scan(self, request: ScanRequest, timeout_s: float) -> AsyncGenerator[Iterable[kv_pb2.KeyValue], None]:
        """Yield the keys of the request in order, some at a time; `timeout_s` is for each part."""
        ...

    def watch(self, request: WatchRequest, timeout_s: float, outage_max_s: float | None, after: str | None) -> Watch:
        """Return a watch, which resumes at the position `after` if there is one."""
        ...

    async def close(self) -> None: ...


class ClusterStore:
    """The store of one cluster: three batchers over shared connections. Nothing is dialled before the first call."""

    def __init__(
        self,
        endpoints: Sequence[str],
        dialling: Dialling,
        *,
        cluster_id: str = "",
        on_lost: Callable[[], None] | None = None,
        is_alone: bool = False,
    ) -> None:
        """`on_lost` is called when no known member can be reached, now and then. `is_alone`: the caller knows no other cluster,
        so a write waits here while its slot is moving. Raises InvalidArgumentError.
        """
        self._retry = dialling.retry
        self._is_alone = is_alone
        self.connections = dialling.connections(endpoints, cluster_id=cluster_id, on_lost=on_lost)
        self._watches: WeakSet[Watch] = WeakSet()
        writes = CommandKind.WRITES_ONCE if dialling.exactly_once else CommandKind.WRITES
        # Reads have streams of their own: a Session answers in the order of its requests, and a read need not wait for a disk.
        self._reads, self._stale_reads, self._writes = (
            CommandBatcher(kind, self.connections, self._retry) for kind in (CommandKind.READS, CommandKind.STALE_READS, writes)
        )

    async def write(self, keys: Sequence[bytes], command: Command, size_bytes: int, timeout_s: float) -> Any:
        answer: WriteAnswer = self._writes.submit(command, size_bytes, timeout_s)
        try:
            return await answer
        except asyncio.CancelledError as cancelled:
            raise cancelled from outcome_of_cancelled(answer)
        except SlotMovingError as moving:
            if not self._is_alone:
                raise
            left_s = answer.deadline - asyncio.get_running_loop().time()
            return await self._write_after(moving, command, size_bytes, left_s)

    async def _write_after(self, moving: SlotMovingError, command: Command, size_bytes: int, timeout_s: float) -> Any:
        """Send a write again that was refused because its slot is moving, as a new one: nothing was done.

        If the move is called off, the cluster takes the write; if not, the next refusal is WRONG_CLUSTER.
        """
        if not timeout_s > 0:
            raise moving
        backoff = Backoff(self._retry, timeout_s)
        answer: WriteAnswer | None = None
        try:
            while True:
                await backoff.wait()
                if backoff.is_over:
                    raise backoff.gave_up(moving)
                try:
                    answer = self._writes.submit(command, size_bytes, backoff.left_s or 0.0)
                    return await answer
                except SlotMovingError as still:
                    moving = still
        except asyncio.CancelledError as cancelled:
            raise cancelled from outcome_of_cancelled(answer)

    def read(self, key: bytes, command: Command, size_bytes: int, timeout_s: float, *, stale: bool) -> Answer:
        answer: Answer = (self._stale_reads if stale else self._reads).submit(command, size_bytes, timeout_s)
        return answer

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        together = list(keys)
        return [together] if together else []

    async def prepare(self, timeout_s: float) -> None:
        """Return at once: members are found while a command waits."""

    async def scan(self, request: ScanRequest, timeout_s: float) -> AsyncGenerator[Iterable[kv_pb2.KeyValue], None]:
        pages = self.pages(request, timeout_s)
        async with aclosing(pages):
            async for page in pages:
                yield page.items

    def pages(self, request: ScanRequest, timeout_s: float) -> AsyncGenerator[ScanResponse, None]:
        """Return the pages of a scan as this cluster sends them. `request` is changed as they come."""
        return Scanner(request, self.connections, self._retry, timeout_s).pages()

    def watch(self, request: WatchRequest, timeout_s: float, outage_max_s: float | None, after: str | None) -> Watch:
        watch = ClusterWatch(request, self.connections, self._retry, timeout_s, outage_max_s, after)
        self._watches.add(watch)
        return watch

    async def close(self) -> None:
        """End every call and close the connections."""
        if not self.connections.owner.is_here:
            return
        for watch in self._watches:
            watch.close()
        await asyncio.gather(self._reads.close(), self._stale_reads.close(), self._writes.close())
        await self.connections.close()


def outcome_of_cancelled(answer: WriteAnswer | None) -> RavelError:
    """Return what is known of a write whose caller stopped waiting; None: no attempt was made."""
    if answer is not None and answer.done() and not answer.cancelled() and isinstance(error := answer.exception(), RavelError):
        return error
    if answer is not None and answer.may_have_happened:
        return OutcomeUnknownError(
            "the write was sent and may or may not have happened: its caller did not wait for the answer",
            next_step="read before writing again",
        )
    return NotSentError("the write was cancelled before it was sent: nothing was done")
