"""What carries the commands of a RavelClient: the store of one cluster, and what it has in common with that of many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

from ravelctl.client.connection.connections import ChannelFactory, Connections
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import WrongClusterError
from ravelctl.client.session.batcher import CommandBatcher, CommandKind
from ravelctl.client.session.scan import Scanner
from ravelctl.client.session.watch import Watch
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2 import Command, ScanRequest, ScanResponse, WatchRequest


@dataclass(frozen=True, slots=True)
class Dialling:
    """How servers are reached, and how often: the same for every cluster of a client."""

    retry: RetryPolicy
    tls: TlsOptions | None = None
    channel_factory: ChannelFactory | None = None
    exactly_once: bool = True

    def channels(
        self, endpoints: Sequence[str], *, cluster_id: str = "", on_lost: Callable[[], None] | None = None
    ) -> Connections:
        """Raises what `Connections` raises."""
        return Connections(
            endpoints,
            retry=self.retry,
            factory=self.channel_factory,
            tls=self.tls,
            cluster_id=cluster_id,
            on_lost=on_lost,
        )


class Store(Protocol):
    """Carries commands to where their keys live. All errors are RavelError, as RavelClient tells them."""

    def write(self, keys: Sequence[bytes], command: Command, size_bytes: int, timeout_s: float) -> Awaitable[Any]:
        """The answer message of a command that writes these keys."""
        ...

    def read(self, key: bytes, command: Command, size_bytes: int, timeout_s: float, *, stale: bool) -> Awaitable[Any]:
        """The answer message of a command that reads this key."""
        ...

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        """These keys, those together that live in one cluster as far as is known."""
        ...

    async def prepare(self, timeout_s: float) -> None:
        """Have what the first command would wait for."""
        ...

    def scan(self, request: ScanRequest, timeout_s: float) -> AsyncGenerator[Iterable[kv_pb2.KeyValue], None]:
        """The keys of the request in order, some at a time; `timeout_s` is for each part."""
        ...

    def watch(self, request: WatchRequest, timeout_s: float, outage_max_s: float | None) -> Watch: ...

    async def close(self) -> None: ...


class ClusterStore:
    """The store of one cluster: three lanes over shared channels. Nothing is dialled before the first call."""

    def __init__(
        self,
        endpoints: Sequence[str],
        dialling: Dialling,
        *,
        cluster_id: str = "",
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """`on_lost` is called when no known member can be reached, now and then. Raises InvalidArgumentError."""
        self._retry = dialling.retry
        self.channels = dialling.channels(endpoints, cluster_id=cluster_id, on_lost=on_lost)
        self._watches: WeakSet[Watch] = WeakSet()
        writes = CommandKind.WRITES_ONCE if dialling.exactly_once else CommandKind.WRITES
        # Reads have streams of their own: a Session answers in the order of its requests, and a read need not wait for a disk.
        self._reads, self._stale_reads, self._writes = (
            CommandBatcher(kind, self.channels, self._retry) for kind in (CommandKind.READS, CommandKind.STALE_READS, writes)
        )

    def write(self, keys: Sequence[bytes], command: Command, size_bytes: int, timeout_s: float) -> Awaitable[Any]:
        return self._writes.submit(command, size_bytes, timeout_s)

    def read(self, key: bytes, command: Command, size_bytes: int, timeout_s: float, *, stale: bool) -> asyncio.Future[Any]:
        return (self._stale_reads if stale else self._reads).submit(command, size_bytes, timeout_s)

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        together = list(keys)
        return [together] if together else []

    async def prepare(self, timeout_s: float) -> None:
        """There is nothing to know beforehand: members are found while a command waits."""

    async def scan(self, request: ScanRequest, timeout_s: float) -> AsyncGenerator[Iterable[kv_pb2.KeyValue], None]:
        pages = self.pages(request, timeout_s)
        async with aclosing(pages):
            async for page in pages:
                yield page.items

    def pages(self, request: ScanRequest, timeout_s: float) -> AsyncGenerator[ScanResponse, None]:
        """The pages of a scan as this cluster sends them. `request` is changed as they come."""
        return Scanner(request, self.channels, self._retry, timeout_s).pages()

    def watch(self, request: WatchRequest, timeout_s: float, outage_max_s: float | None) -> Watch:
        watch = Watch(request, self._watched, self._retry, timeout_s, outage_max_s)
        self._watches.add(watch)
        return watch

    async def _watched(self, refused: WrongClusterError | None) -> Connections:
        """A watch of one cluster ends where the key goes to another one."""
        if refused is not None:
            raise refused
        return self.channels

    async def close(self) -> None:
        """End every call and close the connections."""
        for watch in self._watches:
            watch.close()
        await asyncio.gather(self._reads.close(), self._stale_reads.close(), self._writes.close())
        await self.channels.close()
