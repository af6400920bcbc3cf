"""One watch over several clusters: a stream at each of them, which names its slots, and follows them when they move.

Theory of operation. A slot is in one cluster after the other. The source sends everything that happened to the slot up to the
revision at which it left, and says so. The destination knows as `came` the source's revision when it let go, and sends everything
after it. So a slot is taken up at the cluster where its time began with the very revision at which it left the last one, and
nowhere else: every change comes once, and those of a key in order. A slot whose time began otherwise was in other hands meanwhile
(its cluster was restored, or was lost and its slots were given to another one): then the watch ends with CompactedError.

The map says which cluster to ask for a slot that has left; the clusters know better. The owner by the map may not have taken the
slot over yet, which is waited for, or the slot may have moved on already: then the other clusters are asked for the time that
follows. A slot that nobody takes up in time ends the watch, with both clusters in the error.

Each stream has one message in hand at most. The next one is taken when all changes of the last one were handed out, so what a
stream has to do next (`MessageStream.starts`) is at the same time the place where another watch can resume.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from ravelctl.client.connection.attempts import no_time
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import (
    ClosedError,
    CompactedError,
    InvalidArgumentError,
    RavelError,
    SlotMovingError,
    UnreachableError,
)
from ravelctl.client.routing.slot_map import ClusterRoute, SlotRoutes
from ravelctl.client.session.message_stream import MessageStream, Start, parts_of, starts_of
from ravelctl.client.session.position import alone, read_position, write_position
from ravelctl.client.session.watch import Watch, events_of
from ravelpb.errors import Field
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1.kv_pb2 import ClusterPosition, WatchPosition, WatchRequest, WatchResponse

MOVED_S: Final = 60.0
"""How long a watch without `outage_max_s` waits for slots that have moved: until the new owner takes them up, or until the old
one answers again, which alone can say what happened before they left."""

TICK_S: Final = 1.0
"""How often a watch that gets no message looks at what it waits for."""

MAP_EVERY_S: Final = 5.0
"""How often a watch asks for the map while all is well: a cluster that was replaced may go on sending messages."""

ROUNDS_MAX: Final = 5
"""How often all clusters are asked for the time that follows, before it is given up: a replica may lag behind."""

READ_AGAIN: Final = "read the keys again, and begin a new watch"


class Keeper(Protocol):
    """The slot map, as SlotMapCache keeps it."""

    routes: SlotRoutes | None

    async def first(self, timeout_s: float) -> SlotRoutes: ...

    def look(self) -> None: ...

    def refresh(self) -> None: ...


class _Seek(NamedTuple):
    """A slot that is to be watched next, and which cluster can do it."""

    start: Start
    since: float  # when it became so
    at: str = ""  # the id of the only cluster; empty: the owner
    left: str = ""  # the id of the cluster that it left, and after which the next time is sought; empty: any time will do
    version: int = 0  # the least version of a map that knows the next owner
    refused: frozenset[str] = frozenset()  # clusters that do not have the time which follows
    rounds: int = 0  # how often all have refused


@dataclass(slots=True)
class _Member:
    """A cluster with slots of this watch."""

    route: ClusterRoute
    stream: MessageStream
    task: asyncio.Task[WatchResponse] | None = None
    fresh: bool = True  # the slots that were added last are not confirmed yet
    placed: dict[int, _Seek] = field(default_factory=dict)  # these slots


class MergedWatch(Watch):
    """A watch of a key or a range in all clusters of an admin group."""

    def __init__(
        self,
        request: WatchRequest,
        keeper: Keeper,
        connections_of: Callable[[ClusterRoute], Connections],
        retry: RetryPolicy,
        timeout_s: float,
        outage_max_s: float | None,
        after: str | None = None,
    ) -> None:
        """Raises InvalidArgumentError if `after` is no position of this watch."""
        super().__init__()
        self._request = request
        self._keeper = keeper
        self._connections_of = connections_of
        self._retry = retry
        self._timeout_s = timeout_s
        self._outage_max_s = outage_max_s
        wanted: Iterable[int] = range(SLOT_COUNT)
        if request.key:
            wanted = (slot_of(request.key),)
            request.start, request.end, request.key = request.key, request.key + b"\0", b""
        start = Start(request.from_revision, None)
        request.from_revision = 0
        self._members: dict[str, _Member] = {}  # by cluster id; the one that waits longest for its turn comes first
        self._current: tuple[_Member, WatchResponse] | None = None  # _events are those of this message
        self._broken: RavelError | None = None  # why the watch cannot continue
        self._closed = False
        self._wake = asyncio.Event()
        self._deadline = 0.0  # of the start; 0: nobody waits for it
        self._patient_since = 0.0  # what was waited for before does not count any more
        self._place_at = 0.0  # when slots are placed again that nobody has taken up
        self._placed_by = 0  # the version of the map by which slots were placed last
        self._attempts = 0  # to place them, in a row
        self._tick_at = 0.0
        self._map_at = 0.0
        self._seeking = dict.fromkeys(wanted, _Seek(start, 0.0)) if after is None else _resumed(read_position(after), wanted)

    def __del__(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._leave()

    # --- where it stands

    @property
    def revision(self) -> int:
        if not self._begun or self._seeking or len(self._members) != 1:
            return 0
        (member,) = self._members.values()
        return min(start.from_revision for start in self._starts(member).values()) - 1

    @property
    def counts_alone(self) -> bool:
        return False

    @property
    def position(self) -> str:
        if not self._begun:
            return ""
        places: dict[str, ClusterPosition] = {}
        seeking = dict(self._seeking)
        for cluster_id, member in self._members.items():
            starts = {slot: start for slot, start in self._starts(member).items() if slot not in member.placed}
            places[cluster_id] = ClusterPosition(cluster_id=cluster_id, slots=parts_of(starts))
            seeking |= member.placed
        for slot, seek in sorted(seeking.items()):
            cluster_id = seek.at or seek.left
            place = places.setdefault(cluster_id, ClusterPosition(cluster_id=cluster_id))
            if seek.at:
                place.slots.extend(parts_of({slot: seek.start}))
                continue
            revision = seek.start.from_revision - 1
            if not place.left or place.left[-1].revision != revision:
                place.left.add(revision=revision)
            place.left[-1].slots.append(slot)
        return write_position(WatchPosition(clusters=list(places.values())))

    def _starts(self, member: _Member) -> dict[int, Start]:
        is_current = self._current is not None and self._current[0] is member
        return member.stream.starts(self._done if is_current else None)

    def map_came(self) -> None:
        """Take in that the map has a new version, or clusters have other members."""
        routes = self._keeper.routes
        if routes is not None and routes.version != self._placed_by:
            self._place_at = 0.0
        self._wake.set()

    # --- messages

    async def _fetch(self) -> None:
        try:
            await self._fetch_one()
        except RavelError:
            self._deadline = 0.0  # a caller that tries again gets all of the time again
            self._patient_since = asyncio.get_running_loop().time()
            raise

    async def _fetch_one(self) -> None:
        was_begun = self._begun
        if not self._events:
            self._settle()
        if self._closed:
            raise ClosedError("the watch was closed")
        if self._broken is not None:
            raise self._broken
        if self._begun and not was_begun:
            return
        now = asyncio.get_running_loop().time()
        if not self._begun and not self._deadline:
            if not self._timeout_s > 0:
                raise no_time(self._timeout_s)
            self._deadline = now + self._timeout_s
            self._seeking = {slot: seek._replace(since=now) for slot, seek in self._seeking.items()}
        routes = self._keeper.routes or await self._keeper.first(self._timeout_s)
        self._check_clusters(routes)
        if self._seeking and now >= self._place_at:
            await self._place(routes, now)
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            self._tick(routes, now)
        self._read_on()
        if (member := self._ready()) is None:
            await self._sleep()
            member = self._ready()
        if member is not None:
            self._receive(member)

    def _read_on(self) -> None:
        """Let each stream fetch its next message; while the watch begins, those that have not begun."""
        loop = asyncio.get_running_loop()
        for member in self._members.values():
            if member.task is None and (self._begun or member.fresh):
                member.task = loop.create_task(member.stream.next(), name="ravel client: watch")
                member.task.add_done_callback(lambda _, wake=self._wake: wake.set())  # type: ignore[misc]

    def _ready(self) -> _Member | None:
        self._wake.clear()
        return next((member for member in self._members.values() if member.task is not None and member.task.done()), None)

    async def _sleep(self) -> None:
        now = asyncio.get_running_loop().time()
        until = min(self._tick_at, self._place_at) if self._seeking else self._tick_at
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - now)):
                await self._wake.wait()

    def _receive(self, member: _Member) -> None:
        task, member.task = member.task, None
        if task is None or task.cancelled():
            return
        message = task.result()
        cluster_id = member.route.cluster_id
        self._members[cluster_id] = self._members.pop(cluster_id)
        self._current = member, message
        self._done, self._handed = member.stream.received, 0
        self._events += events_of(message)

    def _settle(self) -> None:
        if self._current is None:
            return
        (member, message), self._current = self._current, None
        now = asyncio.get_running_loop().time()
        here = member.route.cluster_id
        starts = member.stream.starts()
        member.stream.take(message)
        for slot in message.absent:
            seek = member.placed.get(slot) or _Seek(starts[slot], now, at=here)
            if seek.left and not self._owns(here, slot):
                seek = seek._replace(refused=seek.refused | {here})
            self._seeking[slot] = seek
        for part in message.missed:
            for slot in part.slots:
                if (placed := member.placed.get(slot)) is None or not placed.left:
                    self._broken = _missed(slot, member.route, starts[slot], part.from_revision)
                else:
                    self._seeking[slot] = placed._replace(refused=placed.refused | {here})
        for left in message.left:
            gone = _Seek(Start(left.revision + 1, left.revision), now, left=here, version=message.map_version)
            self._seeking.update(dict.fromkeys(left.slots, gone))
            self._place_at = 0.0
        member.placed.clear()
        member.fresh = False
        if not member.stream.slots:
            member.stream.end()
            del self._members[here]
        if not self._seeking:
            self._attempts = 0
            self._begun = self._begun or not any(other.fresh for other in self._members.values())

    def _owns(self, cluster_id: str, slot: int) -> bool:
        """Return whether this cluster owns the slot by the map."""
        routes = self._keeper.routes
        owner = routes.clusters.get(routes.owners[slot]) if routes is not None else None
        return owner is not None and owner.cluster_id == cluster_id

    # --- slots that are looked for

    async def _place(self, routes: SlotRoutes, now: float) -> None:
        """Have each slot watched by the cluster that may have it, and look for a newer map for the rest."""
        by_id = {cluster.cluster_id: cluster for cluster in routes.clusters.values()}
        targets: dict[str, dict[int, _Seek]] = {}
        for slot, seek in list(self._seeking.items()):
            target = self._target(slot, seek, routes, by_id)
            if target is not None:
                targets.setdefault(target.cluster_id, {})[slot] = self._seeking[slot]
        self._attempts += 1
        self._placed_by = routes.version
        self._place_at = now + self._retry.delay_s(self._attempts, random.random)
        for cluster_id, seeks in targets.items():
            member = self._members.get(cluster_id)
            if member is not None and member.task is not None and member.task.done():
                self._place_at = 0.0  # its message comes first
                continue
            if member is None:
                member = self._members[cluster_id] = self._new_member(by_id[cluster_id], now)
            elif member.task is not None:
                member.task.cancel()
                await asyncio.gather(member.task, return_exceptions=True)
                member.task = None
            member.stream.add({slot: seek.start for slot, seek in seeks.items()})
            member.placed |= seeks
            member.fresh = True
            for slot in seeks:
                del self._seeking[slot]
        if self._attempts > 1 or self._seeking:
            self._keeper.refresh()

    def _new_member(self, route: ClusterRoute, now: float) -> _Member:
        request = WatchRequest()
        request.CopyFrom(self._request)
        timeout_s = self._timeout_s if self._begun else max(self._deadline - now, 0.001)
        connections = self._connections_of(route)
        stream = MessageStream(request, connections, self._retry, timeout_s, self._outage_max_s, has_begun=self._begun)
        return _Member(route, stream)

    def _target(self, slot: int, seek: _Seek, routes: SlotRoutes, by_id: dict[str, ClusterRoute]) -> ClusterRoute | None:
        """Return the cluster to ask for a slot; None: a newer map must say. Raises CompactedError if no cluster can continue."""
        if seek.at:
            if (only := by_id.get(seek.at)) is None:
                raise self._break(_gone(f"cluster {seek.at}", 1, routes))
            return only
        owner = routes.clusters.get(routes.owners[slot])
        if owner is None or not owner.addresses or routes.version < seek.version:
            return None
        if owner.cluster_id not in seek.refused and owner.cluster_id != seek.left:
            return owner
        others = (cluster for cluster in routes.clusters.values() if cluster.addresses and cluster.cluster_id != seek.left)
        if (other := next((other for other in others if other.cluster_id not in seek.refused), None)) is not None:
            return other
        if seek.rounds + 1 >= ROUNDS_MAX:
            raise self._break(_unknown_since(slot, seek, routes))
        self._seeking[slot] = seek._replace(refused=frozenset(), rounds=seek.rounds + 1)
        return None

    def _break(self, error: RavelError) -> RavelError:
        self._broken = error
        return error

    # --- what goes wrong

    def _check_clusters(self, routes: SlotRoutes) -> None:
        """Raise CompactedError if a cluster was replaced or removed while slots were watched there."""
        ids = {cluster.cluster_id for cluster in routes.clusters.values()}
        for cluster_id, member in self._members.items():
            if cluster_id not in ids:
                raise self._break(_gone(f"{member.route.name} (cluster {cluster_id})", len(list(member.stream.slots)), routes))

    def _tick(self, routes: SlotRoutes, now: float) -> None:
        """Look at what the watch has waited for, and ask for the map now and then."""
        troubled = [member for member in self._members.values() if member.stream.trouble_s > 0]
        if troubled or now >= self._map_at:
            self._map_at = now + MAP_EVERY_S
            self._keeper.look()
        limit_s = MOVED_S if self._outage_max_s is None else max(self._outage_max_s, self._timeout_s)
        unsettled = dict(self._seeking)
        for member in self._members.values():
            unsettled |= member.placed
        late = [
            slot
            for slot, seek in unsettled.items()
            if now >= (max(seek.since, self._patient_since) + limit_s if self._begun else self._deadline)
        ]
        if late:
            raise _not_taken_up(min(late), len(late), unsettled[min(late)], routes, now)
        for member in troubled:
            if self._begun and min(member.stream.trouble_s, now - self._patient_since) >= limit_s:
                share = routes.share(member.route.number)
                for elsewhere in (slot for slot in member.stream.slots if not share >> slot & 1):
                    raise _away(elsewhere, member.route, routes, member.stream.trouble_s)

    def _leave(self) -> None:
        self._closed = True
        self._wake.set()
        for member in self._members.values():
            member.stream.end()
            if member.task is not None and not member.task.cancel() and not member.task.cancelled():
                member.task.exception()  # nobody else asks for it


def _resumed(position: WatchPosition, wanted: Iterable[int]) -> dict[int, _Seek]:
    """Return the slots of a position. Raises InvalidArgumentError if it lacks some that are wanted."""
    found: dict[int, _Seek] = {}
    if alone(position) is None:
        for cluster in position.clusters:
            for slot, start in starts_of(cluster.slots).items():
                found[slot] = _Seek(start, 0.0, at=cluster.cluster_id)
            for left in cluster.left:
                start = Start(left.revision + 1, left.revision)
                found.update(dict.fromkeys(left.slots, _Seek(start, 0.0, left=cluster.cluster_id)))
    try:
        return {slot: found[slot] for slot in wanted}
    except KeyError:
        raise InvalidArgumentError(
            "the position is one of another watch: it does not say where all slots of this one were",
            next_step="resume the watch with the key, prefix or range and the admin group that it had",
        ) from None


def _name_of(cluster_id: str, routes: SlotRoutes) -> str:
    return next((one.name for one in routes.clusters.values() if one.cluster_id == cluster_id), f"cluster {cluster_id}")


def _not_taken_up(slot: int, count: int, seek: _Seek, routes: SlotRoutes, now: float) -> RavelError:
    owner = routes.clusters.get(routes.owners[slot])
    if owner is None:
        return UnreachableError(
            f"no cluster owns slot {slot} by version {routes.version} of the map", next_step="see `ravelctl admin clusters`"
        )
    left = f" has left {_name_of(seek.left, routes)} at revision {seek.start.from_revision - 1}, and" if seek.left else ":"
    return SlotMovingError(
        f"slot {slot} (one of {count}){left} {owner.name}, which owns it by version {routes.version} of the map, "
        f"has not continued it for {now - seek.since:.3g} s",
        next_step="see `ravelctl admin slots`: a migration may be waiting; if none is, run `ravelctl admin reconcile`",
    )


def _missed(slot: int, route: ClusterRoute, start: Start, first_revision: int) -> CompactedError:
    return CompactedError(
        f"slot {slot} came to {route.name} after the change of revision {start.from_revision}, which was wanted of it: the first "
        f"that {route.name} can send is that of revision {first_revision}",
        metadata={Field.FIRST_REVISION: str(first_revision), Field.SLOT: str(slot)},
        next_step=READ_AGAIN,
    )


def _unknown_since(slot: int, seek: _Seek, routes: SlotRoutes) -> CompactedError:
    return CompactedError(
        f"slot {slot} left {_name_of(seek.left, routes)} at revision {seek.start.from_revision - 1}, and no cluster has it from "
        "there on: what happened to it since is not known, because its cluster was restored or lost",
        metadata={Field.SLOT: str(slot)},
        next_step=READ_AGAIN,
    )


def _gone(what: str, slots: int, routes: SlotRoutes) -> CompactedError:
    return CompactedError(
        f"{what} is not in version {routes.version} of the map any more: it was replaced or removed, and what happened there to "
        f"the {slots} slots that were watched is not known",
        next_step=READ_AGAIN,
    )


def _away(slot: int, route: ClusterRoute, routes: SlotRoutes, away_s: float) -> RavelError:
    owner = routes.clusters.get(routes.owners[slot])
    return UnreachableError(
        f"slot {slot} belongs to {owner.name if owner is not None else 'no cluster'} by version {routes.version} of the map, and "
        f"{route.name}, which knows what happened before, has not answered for {away_s:.3g} s",
        metadata={Field.SLOT: str(slot)},
        next_step=f"start the servers of {route.name} and resume the watch at its position; if they are lost, {READ_AGAIN}",
    )
