"""Calls that mean one cluster and reach another, with real daemons: refused by name, and nothing is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ravelctl.client import (
    ClusterClient,
    Consistency,
    OutcomeUnknownError,
    RavelClient,
    RavelError,
    SlotsClient,
    UnreachableError,
    WrongServerError,
)
from ravelpb.v1.slots_pb2 import EXPORT, ChangeSlotsRequest
from tests.e2e.cluster import CALL_S, START_S, Cluster, running_cluster, until
from tests.e2e.test_cli import ravelctl

pytestmark = pytest.mark.e2e


@asynccontextmanager
async def clusters(folder: Path, *names: str) -> AsyncIterator[list[Cluster]]:
    """So many clusters of one daemon each."""
    async with AsyncExitStack() as stack:
        found: list[Cluster] = []
        for name in names:
            (folder / name).mkdir()
            found.append(await stack.enter_async_context(running_cluster(folder / name, [name])))
        yield found


async def id_of(cluster: Cluster) -> str:
    (server,) = cluster.servers.values()
    return (await cluster.status(server)).header.cluster_id


async def keys_of(cluster: Cluster) -> list[bytes]:
    async with cluster.client() as client:
        return [item.key async for item in client.scan()]


async def scanned(client: RavelClient) -> list[bytes]:
    return [item.key async for item in client.scan()]


WAYS: dict[str, Callable[[RavelClient], Awaitable[Any]]] = {
    "put": lambda client: client.put(b"k", b"v"),
    "get": lambda client: client.get(b"k"),
    "stale get": lambda client: client.get(b"k", consistency=Consistency.STALE),
    "scan": scanned,
    "watch": lambda client: client.watch().started(),
}


async def test_a_command_at_three_clusters_refuses_before_it_writes(tmp_path: Path) -> None:
    async with clusters(tmp_path, "a", "b", "c") as (a, b, c):
        endpoints = ",".join(address for cluster in (a, b, c) for address in cluster.endpoints)
        for words in (
            ["kv", "put", "k", "v"],
            ["kv", "del", "k"],
            ["kv", "cas", "k", "v", "--revision", "0"],
            ["kv", "get", "k"],
        ):
            ran = await ravelctl(a, *words, "--endpoints", endpoints)
            assert (ran.status, ran.out) == (2, ""), ran.err
            assert "the endpoints belong to 3 clusters" in ran.err
            for cluster in (a, b, c):
                assert cluster.endpoints[0] in ran.err
                assert await id_of(cluster) in ran.err
        assert [await keys_of(cluster) for cluster in (a, b, c)] == [[], [], []]
        ran = await ravelctl(b, "kv", "put", "k", "v")
        assert ran.status == 0, ran.err
        assert [await keys_of(cluster) for cluster in (a, b, c)] == [[], [b"k"], []]


async def test_a_client_keeps_to_the_cluster_that_it_met_first(tmp_path: Path) -> None:
    """Its own daemon stops: the address of the other cluster is refused by name, and nothing is written there."""
    async with clusters(tmp_path, "mine", "other") as (mine, other):
        mine_id, other_id = await id_of(mine), await id_of(other)
        async with RavelClient([*mine.endpoints, *other.endpoints], timeout_s=CALL_S) as client:
            await client.put(b"k", b"v")
            home, away = (mine, other) if b"k" in await keys_of(mine) else (other, mine)
            assert await keys_of(away) == []
            (server,) = home.servers.values()
            server.terminate()
            with pytest.raises((WrongServerError, UnreachableError, OutcomeUnknownError)) as told:
                await client.put(b"k", b"w", timeout_s=3.0)
            if isinstance(told.value, WrongServerError):
                ids = (other_id, mine_id) if home is mine else (mine_id, other_id)
                assert f"{away.endpoints[0]} belongs to cluster {ids[0]}, and this client is for cluster {ids[1]}" in str(
                    told.value
                )
            assert await keys_of(away) == []
            server.start()
            await home.answering(server)
            await client.put(b"k", b"x")
        assert await keys_of(away) == []


@pytest.mark.parametrize("exactly_once", [True, False])
async def test_a_client_whose_daemon_was_replaced_writes_nothing_into_the_other_cluster(
    tmp_path: Path, exactly_once: bool
) -> None:
    """The port, and gRPC's channel to it, outlive the daemon. Every way of calling is refused by name."""
    async with clusters(tmp_path, "mine", "other") as (mine, other):
        mine_id, other_id = await id_of(mine), await id_of(other)
        (ours,), (theirs,) = mine.servers.values(), other.servers.values()
        client = RavelClient([ours.address], timeout_s=10.0, exactly_once=exactly_once)
        operator = ClusterClient([ours.address], timeout_s=10.0)
        mover = SlotsClient([ours.address], timeout_s=10.0, cluster_id=mine_id)
        async with client, operator, mover:
            for way in WAYS.values():
                await way(client)
            await operator.statuses()
            await mover.ownership()
            ours.terminate()
            theirs.terminate()
            theirs.address, ours.address = ours.address, theirs.address
            theirs.start()
            await other.answering(theirs)
            await other.leader()
            assert await id_of(other) == other_id

            async def refused(call: Callable[[], Awaitable[Any]]) -> str | None:
                """The refusal by name, once the client has noticed that its connections are gone."""
                try:
                    await call()
                except WrongServerError as error:
                    return f"{error.reason}: {error.message}"
                except (UnreachableError, OutcomeUnknownError):
                    return None
                raise AssertionError("the other cluster has answered")

            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                name: (lambda way=way: way(client))  # type: ignore[misc]
                for name, way in WAYS.items()
            }
            calls["leave"] = lambda: operator.leave([1])
            calls["step"] = lambda: mover.change(ChangeSlotsRequest(step=EXPORT, move=1, slots=[1], mover=1))
            for name, call in calls.items():
                told = await until(f"{name} is refused", lambda call=call: refused(call), START_S)  # type: ignore[misc]
                named = f"{theirs.address} belongs to cluster {other_id}, and this client is for cluster {mine_id}"
                assert told == f"WRONG_CLUSTER_ID: {named}"
        assert await keys_of(other) == []
        assert (await other.status(theirs)).members[0].server.name == "other"


async def test_a_watch_that_ran_ends_by_name(tmp_path: Path) -> None:
    async with clusters(tmp_path, "mine", "other") as (mine, other):
        (ours,), (theirs,) = mine.servers.values(), other.servers.values()
        async with mine.client() as client, client.watch(outage_max_s=START_S) as watch:
            waiting = asyncio.ensure_future(anext(watch))
            ours.terminate()
            theirs.terminate()
            theirs.address = ours.address
            theirs.start()
            await other.answering(theirs)
            with pytest.raises(WrongServerError, match=f"{theirs.address} belongs to cluster"):
                await waiting


async def test_a_shutdown_between_two_puts_loses_none_and_makes_none_unknown(tmp_path: Path) -> None:
    """Clients without a session, as `ravelctl kv` is one: a daemon that stops in order says what it has not done."""
    async with running_cluster(tmp_path) as cluster, cluster.client(exactly_once=False) as client:
        done = 0
        unknown: list[RavelError] = []
        stopping = asyncio.Event()

        async def write(number: int) -> None:
            nonlocal done
            while not stopping.is_set():
                try:
                    await client.put(b"k%d" % number, b"v")
                except OutcomeUnknownError as error:
                    unknown.append(error)
                else:
                    done += 1

        writers = [asyncio.create_task(write(number)) for number in range(16)]
        for _ in range(2):
            leader = await cluster.leader()
            await asyncio.sleep(1.0)
            await asyncio.to_thread(leader.terminate)
            leader.start()
            await cluster.answering(leader)
        stopping.set()
        await asyncio.gather(*writers)
        assert done > 100
        assert [error.message for error in unknown if "shutting down" in error.message] == []
