"""The cluster of a client: named on every call, learned from the first answer, and never mistaken for another one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from ravelctl.client import (
    AdminClient,
    ClusterClient,
    Consistency,
    InspectClient,
    NotAdminError,
    OutcomeUnknownError,
    RavelClient,
    RavelError,
    SlotsClient,
    UnreachableError,
    WrongServerError,
)
from ravelctl.client.services.replica_reader import ReplicaReader
from ravelpb.errors import Reason
from ravelpb.v1 import admin_pb2, cluster_pb2, inspect_pb2, kv_pb2, slots_pb2
from tests.ravelctl.client.scripted import MINE, OTHER, Cluster, Daemon, Network
from tests.replica.virtual import virtual

A, B, C = "a:1", "b:1", "c:1"


class World(NamedTuple):
    """Three addresses; the last two belong to another cluster unless a test says otherwise."""

    network: Network
    mine: Cluster
    other: Cluster

    def client(self, *endpoints: str, **options: Any) -> RavelClient:
        return RavelClient(endpoints or (A, B, C), channel_factory=self.network, **{"timeout_s": 5.0, **options})

    def operator(self, *endpoints: str, **options: Any) -> ClusterClient:
        return ClusterClient(endpoints or (A, B, C), channel_factory=self.network, **{"timeout_s": 5.0, **options})


def world(mine: tuple[str, ...] = (A,)) -> World:
    network = Network(A, B, C)
    for address, daemon in network.daemons.items():
        daemon.cluster_id = MINE if address in mine else OTHER
    return World(
        network,
        Cluster(*(network[address] for address in (A, B, C) if address in mine)),
        Cluster(*(network[address] for address in (A, B, C) if address not in mine)),
    )


async def scanned(client: RavelClient, **options: Any) -> list[bytes]:
    return [item.key async for item in client.scan(**options)]


async def stale_scan(client: RavelClient) -> list[bytes]:
    return await scanned(client, consistency=Consistency.STALE)


WAYS: dict[str, Callable[[RavelClient], Awaitable[Any]]] = {
    "put": lambda client: client.put(b"k", b"v"),
    "get": lambda client: client.get(b"k"),
    "stale get": lambda client: client.get(b"k", consistency=Consistency.STALE),
    "scan": scanned,
    "stale scan": stale_scan,
    "watch": lambda client: client.watch().started(),
}
every_way = pytest.mark.parametrize("way", WAYS)


# --- every call names the cluster


@every_way
@pytest.mark.parametrize("exactly_once", [True, False])
def test_the_first_answer_decides_and_every_call_after_it_names_the_cluster(way: str, exactly_once: bool) -> None:
    @virtual
    async def run() -> None:
        at = world()
        async with at.client(A, exactly_once=exactly_once) as client:
            await WAYS[way](client)
            first = len(at.network[A].meant)
            for another in WAYS.values():
                await another(client)
            assert at.network[A].meant[0][1] == ""
            assert {meant for _, meant in at.network[A].meant[first:]} == {MINE}
            assert {method for method, _ in at.network[A].meant[first:]} >= {"Session", "Scan", "Watch"}

    run()


@every_way
def test_a_client_that_was_given_its_cluster_names_it_from_the_first_call(way: str) -> None:
    @virtual
    async def run() -> None:
        at = world()
        async with at.client(A, cluster_id=MINE) as client:
            await WAYS[way](client)
        assert {meant for _, meant in at.network[A].meant} == {MINE}
        assert at.network[A].calls["Status"] <= (way == "watch")  # which asks for the other members; nobody asks who this is

    run()


@virtual
async def test_a_write_leaves_only_once_it_is_known_which_cluster_would_run_it() -> None:
    """Two clusters, and a client that knows none: its reads and its writes end up in the same one."""
    for first in (A, B):
        at = world()
        async with at.client(*sorted((A, B), key=lambda address: address != first), exactly_once=False) as client:
            await asyncio.gather(client.get(b"k"), client.put(b"k", b"v"), client.get(b"k", consistency=Consistency.STALE))
            home = at.mine if client._store.connections.cluster_id == MINE else at.other  # type: ignore[attr-defined]
            away = at.other if home is at.mine else at.mine
            assert home.applied[b"v"] == 1
            assert not away.requests


SERVICES: dict[str, tuple[Callable[[Network], Any], Callable[[Any], Awaitable[Any]], str]] = {
    "change": (lambda n: ClusterClient([A], channel_factory=n), lambda c: c.leave([1]), "Leave"),
    "directory": (lambda n: AdminClient([A], channel_factory=n), lambda c: c.directory(), "Directory"),
    "rebalance": (lambda n: AdminClient([A], channel_factory=n), lambda c: anext(c.rebalance()), "Rebalance"),
    "slots": (lambda n: SlotsClient([A], channel_factory=n), lambda c: c.ownership(), "Ownership"),
    "slot pages": (lambda n: SlotsClient([A], channel_factory=n), lambda c: anext(c.read([1])), "ReadSlots"),
    "a step": (
        lambda n: SlotsClient([A], channel_factory=n),
        lambda c: c.change(slots_pb2.ChangeSlotsRequest(step=slots_pb2.EXPORT)),
        "ChangeSlots",
    ),
}


async def _one(message: Any) -> Any:
    yield message


def serve_all(daemon: Daemon) -> None:
    daemon.handlers |= {
        "Directory": lambda request: admin_pb2.DirectoryResponse(header=daemon.header),
        "SlotMap": lambda request: admin_pb2.SlotMapResponse(header=daemon.header),
        "Rebalance": lambda request: _one(admin_pb2.RebalanceResponse()),
        "Ownership": lambda request: slots_pb2.OwnershipResponse(header=daemon.header),
        "ReadSlots": lambda request: _one(slots_pb2.ReadSlotsResponse()),
        "ChangeSlots": lambda request: slots_pb2.ChangeSlotsResponse(header=daemon.header),
        "StoreStats": lambda request: inspect_pb2.StoreStatsResponse(header=daemon.header),
        "ReadLog": lambda request: _one(inspect_pb2.ReadLogResponse(header=daemon.header)),
        "WatchStatus": lambda request: _one(cluster_pb2.WatchStatusResponse()),
        "Get": lambda request: kv_pb2.GetResponse(header=daemon.header),
    }


@pytest.mark.parametrize("name", SERVICES)
def test_calls_that_follow_the_leader_name_the_cluster_of_the_first_answer(name: str) -> None:
    make, call, method = SERVICES[name]

    @virtual
    async def run() -> None:
        at = world()
        serve_all(at.network[A])
        async with make(at.network) as client:
            for _ in range(2):
                await call(client)
            assert at.network[A].meant[0][1] == ""
            assert [meant for called, meant in at.network[A].meant if called == method][-1] == MINE
            at.network[A].cluster_id = OTHER  # the daemon was replaced, and the channel is the same
            before = at.mine.left
            with pytest.raises(WrongServerError, match=f"a:1 belongs to cluster {OTHER}, and this client is for cluster {MINE}"):
                await call(client)
            assert at.mine.left == before

    run()


NAMED: dict[str, tuple[Callable[[Network, str], Any], Callable[[Any], Awaitable[Any]]]] = {
    "status": (lambda n, c: ClusterClient([A], channel_factory=n, cluster_id=c), lambda c: c.status(A)),
    "statuses": (lambda n, c: ClusterClient([A], channel_factory=n, cluster_id=c), lambda c: first_of(c.statuses())),
    "status stream": (lambda n, c: ClusterClient([A], channel_factory=n, cluster_id=c), lambda c: anext(c.watch_status(A))),
    "store": (lambda n, c: InspectClient([A], channel_factory=n, cluster_id=c), lambda c: c.store_stats(A)),
    "log": (lambda n, c: InspectClient([A], channel_factory=n, cluster_id=c), lambda c: anext(c.read_log(A))),
    "one replica": (
        lambda n, c: ReplicaReader(channel_factory=n, cluster_id=c),
        lambda c: c.get(A, b"k", Consistency.STALE),
    ),
}


async def first_of(found: Awaitable[dict[str, Any]]) -> Any:
    answer = next(iter((await found).values()))
    if isinstance(answer, RavelError):
        raise answer
    return answer


@pytest.mark.parametrize("name", NAMED)
def test_calls_to_a_named_daemon_name_the_cluster_that_was_given(name: str) -> None:
    """And no other: whoever names the daemon wants to know what is there."""
    make, call = NAMED[name]

    @virtual
    async def run() -> None:
        at = world()
        serve_all(at.network[A])
        async with make(at.network, "") as client:
            await call(client)
            at.network[A].cluster_id = OTHER
            await call(client)
        assert {meant for _, meant in at.network[A].meant} == {""}
        at.network[A].meant.clear()
        async with make(at.network, MINE) as client:
            with pytest.raises(WrongServerError, match=f"a:1 belongs to cluster {OTHER}, and this client is for cluster {MINE}"):
                await call(client)
        assert {meant for _, meant in at.network[A].meant} == {MINE}

    run()


# --- another cluster at an address


@every_way
@pytest.mark.parametrize("exactly_once", [True, False])
def test_a_daemon_that_was_replaced_is_refused_by_name_on_the_channel_that_outlived_it(way: str, exactly_once: bool) -> None:
    @virtual
    async def run() -> None:
        at = world()
        async with at.client(A, exactly_once=exactly_once) as client:
            await WAYS[way](client)
            at.network[A].cluster_id = OTHER
            if at.network[A].calls["Session"]:
                at.network.break_streams(A)
                await asyncio.sleep(0.1)  # until the client has noticed: nothing is sent on a stream that is dead
            began = asyncio.get_running_loop().time()
            with pytest.raises(WrongServerError) as told:
                await WAYS[way](client)
            assert told.value.message == f"a:1 belongs to cluster {OTHER}, and this client is for cluster {MINE}"
            assert told.value.reason is Reason.WRONG_CLUSTER_ID
            assert told.value.cluster_id == OTHER
            assert asyncio.get_running_loop().time() - began < 0.5  # nothing to wait for
            assert at.network.opened[A] == 1

    run()


@every_way
def test_the_other_addresses_are_asked_before_it_is_over(way: str) -> None:
    @virtual
    async def run() -> None:
        at = world(mine=(C,))
        async with at.client(cluster_id=MINE) as client:
            for _ in range(3):
                await WAYS[way](client)
        assert not at.other.requests
        assert not at.other.sessions

    run()


@every_way
def test_a_client_goes_on_with_its_own_cluster_and_never_with_another(way: str) -> None:
    """Its only member goes away: the addresses of the other cluster are no way out."""

    @virtual
    async def run() -> None:
        at = world()
        async with at.client(timeout_s=2.0) as client:
            await WAYS[way](client)
            home = client._store.connections.cluster_id  # type: ignore[attr-defined]
            mine = [address for address in (A, B, C) if at.network[address].cluster_id == home]
            foreign = [address for address in (A, B, C) if address not in mine]
            served = {address: len(at.network[address].meant) for address in foreign}
            for address in mine:
                at.network[address].reachable = False
                at.network.break_streams(address)
            await asyncio.sleep(1.0)
            with pytest.raises((WrongServerError, UnreachableError)) as told:
                await WAYS[way](client)
            if isinstance(told.value, WrongServerError):
                assert "belongs to cluster" in told.value.message
            for address in foreign:
                assert {meant for _, meant in at.network[address].meant[served[address] :]} <= {home}

    run()


@virtual
async def test_a_change_finds_the_leader_among_addresses_of_other_clusters() -> None:
    at = world(mine=(C,))
    async with at.operator(cluster_id=MINE) as client:
        await client.leave([1])
    assert (at.mine.left, at.other.left) == (1, 0)
    async with at.operator(A, B, cluster_id=MINE) as client:
        with pytest.raises(WrongServerError, match=r"[ab]:1 belongs to cluster b+, and this client is for cluster a+"):
            await client.leave([1])
    assert (at.mine.left, at.other.left) == (1, 0)


@virtual
async def test_a_survey_decides_the_cluster_of_the_change_that_follows() -> None:
    at = world()
    async with at.operator(A) as client:
        await client.statuses()
        at.network[A].cluster_id = OTHER
        with pytest.raises(WrongServerError):
            await client.leave([1])
    assert at.mine.left == 0


@virtual
async def test_a_daemon_beside_the_given_addresses_decides_nothing() -> None:
    """Such as one that is to join: it may belong to another cluster, or to none."""
    at = world()
    async with at.operator(A) as client:
        assert (await client.status(B)).header.cluster_id == OTHER
        await client.leave([1])
    assert at.mine.left == 1


@virtual
async def test_a_link_that_outlives_its_group_names_no_cluster() -> None:
    at = world()
    serve_all(at.network[A])
    async with AdminClient([A], channel_factory=at.network, pins_cluster=False) as client:
        await client.directory()
        at.network[A].cluster_id = OTHER
        await client.directory()
    assert {meant for _, meant in at.network[A].meant} == {""}


@virtual
async def test_an_admin_is_found_among_other_daemons() -> None:
    at = world()
    serve_all(at.network[C])
    async with AdminClient([A, B, C], channel_factory=at.network) as client:
        await client.directory()
        assert at.network[C].calls["Directory"] == 1
    async with AdminClient([A, B], channel_factory=at.network) as client:
        with pytest.raises(NotAdminError):
            await client.directory()


@virtual
async def test_a_blank_daemon_has_no_cluster_to_learn() -> None:
    at = world()
    at.network[A].cluster_id = ""
    async with at.operator(A) as client:
        await client.statuses()
        at.network[A].cluster_id = MINE
        await client.leave([1])
        assert at.network[A].meant[-1] == ("Leave", "")
        await client.leave([1])
        assert at.network[A].meant[-1] == ("Leave", MINE)


@virtual
async def test_an_unknown_write_stays_unknown_when_its_daemon_is_replaced() -> None:
    at = world()
    async with at.client(A) as client:
        await client.put(b"k", b"v")
        at.mine.silent = True
        sent = asyncio.create_task(client.put(b"k", b"w", timeout_s=60.0))
        await asyncio.sleep(0.1)
        at.network[A].cluster_id = OTHER
        at.network.break_streams(A)
        with pytest.raises(OutcomeUnknownError, match=r"a:1 belongs to cluster b+"):
            await sent
        assert asyncio.get_running_loop().time() < 5.0
