"""The store of all clusters of an admin group: each command goes to the cluster that owns its key.

Theory of operation. Each cluster has one ClusterStore, made when it is first needed, with lanes and a session of its own.
The map says which one to ask; the asked cluster knows better. Its refusals WRONG_CLUSTER and SLOT_MOVING come after it has looked
for the answer of an earlier attempt, so they prove that nothing was done, and the command may go elsewhere as a new one. A write
whose outcome is not known stays where it is: its lane repeats it under its number, in that cluster's session, until the cluster
answers or the time is up. Whether the map has changed meanwhile plays no part in that.

While a move is being finished neither cluster may take a key for a moment: the source let go, the destination is not told yet.
Both refuse, with a version of the map that we have already; then the command waits a little and asks again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final
from weakref import WeakSet

from ravelctl.client.connection.connections import Connections
from ravelctl.client.errors import (
    InvalidArgumentError,
    RavelError,
    SlotMovingError,
    UnreachableError,
    WrongClusterError,
    WrongServerError,
)
from ravelctl.client.routing.merged_scan import MergedScan
from ravelctl.client.routing.outages import AWAY, Outages
from ravelctl.client.routing.slot_map import NOBODY, ClusterRoute, SlotRoutes
from ravelctl.client.routing.slot_map_cache import SlotMapCache
from ravelctl.client.session.batcher import LAST_MOMENT_S
from ravelctl.client.session.cluster_store import ClusterStore, Dialling
from ravelctl.client.session.watch import Watch
from ravelpb.slots import slot_of
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2 import LINEARIZABLE, STALE, Command, GetRequest, ScanRequest, WatchRequest

RETIRE_S: Final = 30.0
"""A cluster that is not in the map any more is still heard for so long: writes to it may be under way."""

ASK_EVERY: Final = 3
"""Of the refusals in a row that name no newer map, every so many make the client look for one all the same."""


class RoutedStore:
    """See the module. Used on one event loop."""

    def __init__(
        self,
        admin: Sequence[str],
        dialling: Dialling,
        *,
        timeout_s: float,
        admin_cluster_id: str = "",
        fail_fast: bool = False,
    ) -> None:
        """`admin` are addresses of some admins; `timeout_s` bounds each question to them. Raises InvalidArgumentError.

        `fail_fast`: a cluster that was found away is not waited for until it answers again.
        """
        self._dialling = dialling
        self._timeout_s = timeout_s
        self._outages = Outages() if fail_fast else None
        self._retry = dialling.retry
        self._stores: dict[tuple[int, str], ClusterStore] = {}  # by number and cluster id: a number may be founded anew
        self._retiring: dict[tuple[int, str], asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._watches: WeakSet[Watch] = WeakSet()
        self._map = SlotMapCache(admin, dialling, timeout_s=timeout_s, cluster_id=admin_cluster_id, changed=self._map_came)

    async def write(self, keys: Sequence[bytes], command: Command, size_bytes: int, timeout_s: float) -> Any:
        return await self._ask(keys, timeout_s, lambda store, left_s: store.write(keys, command, size_bytes, left_s), stale=False)

    async def read(self, key: bytes, command: Command, size_bytes: int, timeout_s: float, *, stale: bool) -> Any:
        def ask(store: ClusterStore, left_s: float) -> Awaitable[Any]:
            return store.read(key, command, size_bytes, left_s, stale=stale)

        return await self._ask((key,), timeout_s, ask, stale=stale)

    async def prepare(self, timeout_s: float) -> None:
        await self._map.first(timeout_s)

    def groups(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        routes = self._map.routes
        found: dict[int, list[bytes]] = {}
        for key in keys:
            found.setdefault(routes.owners[slot_of(key)] if routes is not None else NOBODY, []).append(key)
        return list(found.values())

    def scan(self, request: ScanRequest, timeout_s: float) -> AsyncGenerator[Iterable[kv_pb2.KeyValue], None]:
        return MergedScan(request, self._map, self._pages, self._retry, timeout_s).windows()

    def watch(self, request: WatchRequest, timeout_s: float, outage_max_s: float | None) -> Watch:
        watch = Watch(request, lambda refused: self._watched(request, refused, timeout_s), self._retry, timeout_s, outage_max_s)
        self._watches.add(watch)
        return watch

    async def close(self) -> None:
        """End every call and close the connections."""
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
        """What the owner of these keys answers, whoever that is by then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        routes = self._map.routes or await self._map.first(timeout_s)
        if len(keys) != 1:
            routes = await self._together(keys, routes, timeout_s)
        refusals = 0
        while True:
            try:
                owner = routes.owner_of(keys[0]) if len(keys) == 1 else routes.owner_of_all(keys)
            except UnreachableError as nowhere:
                refusal: RavelError = nowhere
            else:
                if self._outages is not None:
                    self._outages.check((owner.number, owner.cluster_id), stale=stale)
                try:
                    return await ask(self._store_of(owner), deadline - loop.time())
                except (WrongClusterError, SlotMovingError) as refused:
                    refusal = refused
                except (*AWAY, WrongServerError) as error:
                    self._lost(owner, error, keys[0])
                    raise
            refusals += 1
            routes = await self._after(refusal, routes, refusals, deadline, timeout_s)

    async def _together(self, keys: Sequence[bytes], routes: SlotRoutes, timeout_s: float) -> SlotRoutes:
        """A map by which these keys live in one cluster, if ours or a newer one says so: an old one must not refuse a write."""
        try:
            routes.owner_of_all(keys)
        except InvalidArgumentError:
            await self._map.renew(timeout_s)
        except UnreachableError:
            pass  # the slots have no owner yet: that is waited for
        return self._map.routes or routes

    async def _after(
        self, refusal: RavelError, routes: SlotRoutes, refusals: int, deadline: float, timeout_s: float
    ) -> SlotRoutes:
        """The map to try next, after a wait unless there is a new one. Raises the refusal when there is no time left."""
        loop = asyncio.get_running_loop()
        told = refusal.map_version if isinstance(refusal, WrongClusterError) else 0
        if _newer(self._map.routes, routes):
            return self._map.routes or routes  # somebody else has asked meanwhile
        if told > routes.version or (refusals % ASK_EVERY == 0 and not isinstance(refusal, SlotMovingError)):
            await self._map.renew(deadline - loop.time())
        if not _newer(self._map.routes, routes):
            delay_s = self._retry.delay_s(refusals, random.random)
            if loop.time() + delay_s >= deadline - min(LAST_MOMENT_S, timeout_s / 4):
                raise type(refusal)(
                    f"gave up within {timeout_s:.3g} s: {refusal.message}",
                    reason=refusal.reason,
                    metadata=refusal.metadata,
                    next_step=refusal.next_step,
                )
            await asyncio.sleep(delay_s)
        elif loop.time() >= deadline:
            raise refusal
        return self._map.routes or routes

    # --- clusters

    def _lost(self, cluster: ClusterRoute, error: RavelError, key: bytes) -> None:
        """Its members were not found, or none that leads; `key` is one of those it is asked for."""
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
        seat = (cluster.number, cluster.cluster_id)
        store = self._stores.get(seat)
        if store is None:
            # With its id nothing of a cluster is asked of a daemon that has its address by now, but belongs to another one.
            store = self._stores[seat] = ClusterStore(
                cluster.addresses, self._dialling, cluster_id=cluster.cluster_id, on_lost=self._map.look
            )
        return store

    def _map_came(self, routes: SlotRoutes) -> None:
        """Tell the stores where their members are now, and let those go that are not in the map."""
        seats = {(cluster.number, cluster.cluster_id): cluster for cluster in routes.clusters.values()}
        for seat, store in self._stores.items():
            if seat in seats:
                if (timer := self._retiring.pop(seat, None)) is not None:
                    timer.cancel()
                for address in seats[seat].addresses:
                    store.channels.learn(address)
            elif seat not in self._retiring:
                self._retiring[seat] = asyncio.get_running_loop().call_later(RETIRE_S, self._retire, seat)

    def _retire(self, seat: tuple[int, str]) -> None:
        self._retiring.pop(seat, None)
        gone = self._close(seat, self._stores.pop(seat))
        closing = asyncio.get_running_loop().create_task(gone, name="ravel client: a cluster that is gone")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close(self, seat: tuple[int, str], store: ClusterStore) -> None:
        if self._outages is not None:
            await self._outages.forget(seat)
        await store.close()

    async def _pages(self, number: int, request: ScanRequest, timeout_s: float) -> AsyncGenerator[kv_pb2.ScanResponse, None]:
        """The pages of one cluster. Raises UnreachableError for one that the map does not have any more."""
        routes = self._map.routes
        cluster = routes.clusters.get(number) if routes is not None else None
        if cluster is None or not cluster.addresses:
            raise UnreachableError(f"the admin knows no address of cluster {number}", next_step="see `ravelctl admin clusters`")
        if self._outages is not None:
            self._outages.check((cluster.number, cluster.cluster_id), stale=request.consistency == STALE)
        try:
            async with aclosing(self._store_of(cluster).pages(request, timeout_s)) as pages:
                async for page in pages:
                    yield page
        except AWAY as error:
            self._lost(cluster, error, request.start or b"\0")
            raise

    async def _watched(self, request: WatchRequest, refused: WrongClusterError | None, timeout_s: float) -> Connections:
        """Where to watch: at the owner of the key, or of all slots."""
        routes = await self._map.first(timeout_s)
        if refused is not None and refused.map_version >= routes.version:
            await self._map.renew(timeout_s)
            routes = self._map.routes or routes
        if request.key:
            return self._store_of(routes.owner_of(request.key)).channels
        if len(routes.owning) != 1:
            await self._map.renew(timeout_s)  # an old map must not refuse a watch
            routes = self._map.routes or routes
        owning = routes.owning
        if len(owning) != 1:
            names = ", ".join(routes.clusters[number].name for number in owning) or "none"
            raise InvalidArgumentError(
                f"keys can be watched together only while one cluster owns all of them, and now it is {len(owning)} ({names})",
                next_step="watch single keys, or each cluster through its own endpoints",
            )
        return self._store_of(routes.clusters[owning[0]]).channels


def _newer(now: SlotRoutes | None, than: SlotRoutes) -> bool:
    return now is not None and now.version > than.version
