"""A watcher of a real replica in one process, which reads what it is sent and checks what every message must be like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from ravel_node.server.host import Host
from ravel_node.server.kv import KVHandlers
from ravel_node.server.limits import Limits
from ravelpb.v1.kv_pb2 import KeyEvent, WatchRequest, WatchResponse
from tests.replica.cluster import Node


class NodeHost:
    """The daemon around a node, as far as the KV service sees it."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def replica(self) -> object:
        return self._node.replica

    @property
    def identity(self) -> object:
        return self._node.store.identity


def handlers(node: Node, **limits: int) -> KVHandlers:
    return KVHandlers(cast(Host, NodeHost(node)), Limits(**limits))


class Stream:
    """One watcher, which reads what it is sent."""

    def __init__(self, kv: KVHandlers, request: WatchRequest) -> None:
        self._responses = kv.watch(request)
        self.events: list[KeyEvent] = []
        self.revision = 0
        self.messages = 0
        self.missed: list[int] = []
        self.last = WatchResponse()

    async def next(self) -> WatchResponse:
        response = WatchResponse.FromString((await anext(self._responses)).SerializeToString())
        assert response.header.cluster_id
        assert response.revision >= self.revision
        if response.events:
            revisions = [event.revision for event in response.events]
            assert revisions == sorted(revisions)
            assert self.revision < revisions[0] <= revisions[-1] <= response.revision
        self.revision = response.revision
        self.events += response.events
        self.messages += 1
        self.missed += [slot for part in response.missed for slot in part.slots]
        self.last = response
        return response

    async def through(self, revision: int) -> None:
        async with asyncio.timeout(30):
            while self.revision < revision:
                await self.next()

    def told(self) -> list[tuple[int, bytes, bytes | None]]:
        return [(e.revision, e.key, e.value if e.kind == KeyEvent.PUT else None) for e in self.events]

    async def close(self) -> None:
        await self._responses.aclose()  # type: ignore[attr-defined]


@asynccontextmanager
async def watching(kv: KVHandlers, **request: object) -> AsyncIterator[Stream]:
    stream = Stream(kv, WatchRequest(**request))  # type: ignore[arg-type]
    try:
        await stream.next()
        yield stream
    finally:
        await stream.close()
