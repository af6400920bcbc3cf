"""The store of all clusters of an admin group: each command goes to the cluster that owns its key.

Theory of operation. Each cluster has one ClusterStore, made when it is first needed, with batchers and a session of its own. The
slot map says which cluster to ask; the asked cluster knows better. Its refusals WRONG_CLUSTER and SLOT_MOVING come after it has
looked for the answer of an earlier attempt, so they prove that nothing was done, and the command may go to another cluster as a
new one. A write with an unknown outcome stays where it is: its batcher repeats it under its number, in that cluster's session,
until the cluster answers or the time is up, whatever the map says meanwhile.

While a move is being finished, neither cluster may take a key for a moment: the source has given it away, and the destination
does not know yet. Both refuse, with a version of the map that the client has already; then the command waits and asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final
from weakref import WeakSet

from ravelctl.client.connection.attempts import Backoff
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.owner import Owner
from ravelctl.client.errors import (
    InvalidArgumentError,
    NotSentError,
    RavelError,
    SlotMovingError,
    UnreachableError,
    WrongClusterError,
    WrongServerError,
)
from ravelctl.client.routing.merged_scan import MergedScan
from ravelctl.client.routing.merged_watch import MergedWatch
from ravelctl.client.routing.outages import AWAY, ClusterKey, Outages
from ravelctl.client.routing.slot_map import NOBODY, ClusterRoute, SlotRoutes
from ravelctl.client.routing.slot_map_cache import SlotMapCache
from ravelctl.client.session.cluster_store import ClusterStore, Dialling
from ravelctl.client.session.watch import Watch
from ravelpb.slots import slot_of
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2 import LINEARIZABLE, STALE, Command, GetRequest, ScanRequest, WatchRequest

RETIRE_S: Final = 30.0
"""How long the store of a cluster that has left the map is kept: writes to it may still be unanswered."""

NO_TIME_LEFT_S: Final = 0.001
"""The time of an attempt for which none is left: it ends with the error of a call whose time ran out."""

ASK_EVERY: Final = 3
"""After so many refusals in a row that name no newer map, the client asks for one all the same."""


class RoutedStore:
    """Carries commands to the owners of their keys (see the module). Used on one event loop."""

    def __init__(
        self,
        admin: Sequence[str],
        dialling: Dialling,
        *,
        timeout_s: float,
        admin_cluster_id: str = "",
        fail_fast: bool = False,
    ) -> None:
        """`admin` are addresses of some admin servers; `timeout_s` bounds each question to them. Raises InvalidArgumentError.

        `fail_fast`: no call waits for a cluster that was found away, until it answers again.
        """
        self._owner = Owner()
        self._dialling = dialling
        self._timeout_s = timeout_s
        self._outages = Outages() if fail_fast else None
        self._retry = dialling.retry
        self._stores: dict[ClusterKey, ClusterStore] = {}
        self._retiring: dict[ClusterKey, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._watches: WeakSet[MergedWatch] = WeakSet()
        self._map = SlotMapCache(admin, dialling, timeout_s=timeout_s, cluster_id=admin_cluster_id, changed=self._map_came)

    async def write(self, keys: Sequence[bytes], command: Command, size_bytes: int, timeout_s: float) -> Any:
        try:
            return await self._ask(
                keys, timeout_s, lambda store, left_s: store.write(keys, command, size_bytes, left_s), stale=False
            )
        except asyncio.CancelledError as cancelled:
            if cancelled.__cause__ is not None:
                raise
            raise cancelled from NotSentError("the write was cancelled before it was sent: nothing was done")

    async def read(self, key: bytes, command: Command, size_bytes: int, timeout_s: float, *, stale: bool) -> Any:
        def ask(store: ClusterStore, left_s: float) -> Awaitable[Any]:
            return store.read(key, command, size_bytes, left_s, stale=stale)

        return await self._ask((key,), timeout_s, ask, stale=stale)

    async def prepare(self, timeout_s: float) -> None:
        self._owner.check()
        await self._map.first(timeout_s)

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        routes = self._map.routes
        found: dict[int, list[bytes]] = {}
        for key in keys:
            found.setdefault(routes.owners[slot_of(key)] if routes is not None else NOBODY, []).append(key)
        return list(found.values())

    def scan(self, request: ScanRequest, timeout_s: float) -> AsyncGenerator[Iterable[kv_pb2.KeyValue], None]:
        return MergedScan(request, self._map, self._pages, self._retry, timeout_s).windows()

    def watch(self, request: WatchRequest, timeout_s: float, outage_max_s: float | None, after: str | None) -> Watch:
        watch = MergedWatch(request, self._map, self._connections_of, self._retry, timeout_s, outage_max_s, after)
        self._watches.add(watch)
        return watch

    def _connections_of(self, cluster: ClusterRoute) -> Connections:
        self._owner.check()
        return self._store_of(cluster).connections

    async def close(self) -> None:
        """End every call and close the connections."""
        if not self._owner.is_here:
            return
        for watch in self._watches:
            watch.close()
        for timer in self._retiring.values():
            timer.cancel()
        await self._map.close()
        if self._outages is not None:
            await self._outages.close()
        await asyncio.gather(*self._closing, *(store.close() for store in self._stores.values()))

    # --- one command

    async def _ask(
        self, keys: Sequence[bytes], timeout_s: float, ask: Callable[[ClusterStore, float], Awaitable[Any]], *, stale: bool
    ) -> Any:
        """Return the answer of the owner of these keys, whichever cluster that is by then."""
        self._owner.check()
        backoff = Backoff(self._retry, timeout_s)
        routes = self._map.routes or await self._map.first(timeout_s)
        if len(keys) != 1:
            routes = await self._together(keys, routes, timeout_s)
        while True:
            try:
                owner = routes.owner_of(keys[0]) if len(keys) == 1 else routes.owner_of_all(keys)
            except UnreachableError as nowhere:
                refusal: RavelError = nowhere
            else:
                if self._outages is not None:
                    self._outages.check((owner.number, owner.cluster_id), stale=stale)
                try:
                    return await ask(self._store_of(owner), max(backoff.left_s or 0.0, NO_TIME_LEFT_S))
                except (WrongClusterError, SlotMovingError) as refused:
                    refusal = refused
                except (*AWAY, WrongServerError) as error:
                    self._lost(owner, error, keys[0])
                    raise
            routes = await self._after(refusal, routes, backoff)

    async def _together(self, keys: Sequence[bytes], routes: SlotRoutes, timeout_s: float) -> SlotRoutes:
        """Return a map by which one cluster holds all these keys, if ours or a newer one says so: an old map must not refuse."""
        try:
            routes.owner_of_all(keys)
        except InvalidArgumentError:
            await self._map.renew(timeout_s)
        except UnreachableError:
            pass  # the slots have no owner yet, and the command waits for one
        return self._map.routes or routes

    async def _after(self, refusal: RavelError, routes: SlotRoutes, backoff: Backoff) -> SlotRoutes:
        """Return the map to try next, after a wait unless it is a new one. Raises the refusal when the time is over."""
        if _newer(self._map.routes, routes):
            return self._map.routes or routes  # another call has asked meanwhile
        told = refusal.map_version if isinstance(refusal, WrongClusterError) else 0
        often = (backoff.waits + 1) % ASK_EVERY == 0 and not isinstance(refusal, SlotMovingError)
        if told > routes.version or often:
            await self._map.renew(backoff.left_s or 0.0)
        if not _newer(self._map.routes, routes):
            await backoff.wait()
        if backoff.is_over:
            raise backoff.gave_up(refusal)
        return self._map.routes or routes

    # --- clusters

    def _lost(self, cluster: ClusterRoute, error: RavelError, key: bytes) -> None:
        """Look for a cluster whose members, or whose leader, were not found; `key` is one of its keys."""
        self._map.look()
        if self._outages is None or not isinstance(error, AWAY):
            return
        command = Command(get=GetRequest(key=key, consistency=LINEARIZABLE))
        self._outages.found(
            (cluster.number, cluster.cluster_id),
            error,
            lambda: self._store_of(cluster).read(key, command, command.ByteSize(), self._timeout_s, stale=False),
        )

    def _store_of(self, cluster: ClusterRoute) -> ClusterStore:
        key = (cluster.number, cluster.cluster_id)
        store = self._stores.get(key)
        if store is None:
            store = self._stores[key] = ClusterStore(
                cluster.addresses, self._dialling, cluster_id=cluster.cluster_id, on_lost=self._map.look
            )
        return store

    def _map_came(self, routes: SlotRoutes) -> None:
        """Give the stores the addresses of their members, let those go that are not in the map, and wake the watches."""
        seats = {(cluster.number, cluster.cluster_id): cluster for cluster in routes.clusters.values()}
        for seat, store in self._stores.items():
            if seat in seats:
                if (timer := self._retiring.pop(seat, None)) is not None:
                    timer.cancel()
                for address in seats[seat].addresses:
                    store.connections.learn(address)
            elif seat not in self._retiring:
                self._retiring[seat] = asyncio.get_running_loop().call_later(RETIRE_S, self._retire, seat)
        for watch in self._watches:
            watch.map_came()

    def _retire(self, seat: tuple[int, str]) -> None:
        self._retiring.pop(seat, None)
        gone = self._close(seat, self._stores.pop(seat))
        closing = asyncio.get_running_loop().create_task(gone, name="ravel client: a cluster that is gone")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close(self, key: ClusterKey, store: ClusterStore) -> None:
        if self._outages is not None:
            await self._outages.forget(key)
        await store.close()

    async def _pages(self, number: int, request: ScanRequest, timeout_s: float) -> AsyncGenerator[kv_pb2.ScanResponse, None]:
        """Yield the pages of one cluster. Raises UnreachableError for one that is no longer in the map."""
        routes = self._map.routes
        cluster = routes.clusters.get(number) if routes is not None else None
        if cluster is None or not cluster.addresses:
            self._map.look()  # its members may be known by now
            raise UnreachableError(f"the admin knows no address of cluster {number}", next_step="see `ravelctl admin clusters`")
        if self._outages is not None:
            self._outages.check((cluster.number, cluster.cluster_id), stale=request.consistency == STALE)
        try:
            async with aclosing(self._store_of(cluster).pages(request, timeout_s)) as pages:
                async for page in pages:
                    yield page
        except (*AWAY, WrongServerError) as error:
            self._lost(cluster, error, request.start or b"\0")
            raise


def _newer(now: SlotRoutes | None, than: SlotRoutes) -> bool:
    return now is not None and now.version > than.version
