"""`ravelctl kv` at addresses of several clusters: it refuses before it writes, and knows an admin group among them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ravelctl.client import services
from ravelctl.client.services.identify import Identity, identify
from tests.ravelctl.client.fake_admin import fake_world
from tests.ravelctl.client.fake_server import FakeCluster, FakeReplica, fake_cluster
from tests.ravelctl.conftest import Ctl, Ran

IDS = [f"{number:x}" * 32 for number in (1, 2, 3)]


@pytest.fixture
async def clusters() -> AsyncIterator[list[FakeCluster]]:
    """Three clusters of two daemons."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(fake_cluster(2)) for _ in IDS]
        for cluster, cluster_id in zip(found, IDS, strict=True):
            for replica in cluster.replicas:
                replica.cluster_id = cluster_id
        yield found


@pytest.fixture
def nowhere() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there, nobody else can take it
        yield f"127.0.0.1:{taken.getsockname()[1]}"


async def kv(ctl: Ctl, replicas: list[FakeReplica], *words: str, more: str = "") -> Ran:
    endpoints = ",".join([*(replica.address for replica in replicas), *filter(None, [more])])
    return await asyncio.to_thread(ctl, "kv", *words, "--endpoints", endpoints, "--timeout", "20s")


WRITES = (["put", "k", "v"], ["del", "k"], ["cas", "k", "v", "--revision", "0"], ["del", "--prefix", "k", "--yes"])
READS = (["get", "k"], ["list"], ["watch"])


@pytest.mark.parametrize("words", [*WRITES, *READS], ids=" ".join)
async def test_addresses_of_three_clusters_are_refused_by_name(clusters: list[FakeCluster], ctl: Ctl, words: list[str]) -> None:
    replicas = [cluster.replicas[0] for cluster in clusters]
    ran = await kv(ctl, replicas, *words)
    assert (ran.code, ran.out) == (2, "")
    assert "the endpoints belong to 3 clusters" in ran.err
    for replica in replicas:
        assert f"{replica.address} is in" in ran.err
        assert replica.cluster_id in ran.err
    assert "next: name those of one cluster, or servers of an admin group" in ran.err
    assert not any(cluster.requests or cluster.data for cluster in clusters)


@pytest.mark.parametrize("first", [0, 1])
async def test_two_clusters_are_enough_whichever_comes_first(clusters: list[FakeCluster], ctl: Ctl, first: int) -> None:
    replicas = [clusters[first].replicas[0], clusters[first].replicas[1], clusters[1 - first].replicas[0]]
    ran = await kv(ctl, replicas, "put", "k", "v")
    assert ran.code == 2
    assert "the endpoints belong to 2 clusters" in ran.err
    assert not any(cluster.requests for cluster in clusters)


async def test_addresses_of_one_cluster_work_and_every_call_names_it(clusters: list[FakeCluster], ctl: Ctl, nowhere: str) -> None:
    cluster = clusters[1]
    ran = await kv(ctl, cluster.replicas, "put", "k", "v", more=nowhere)
    assert (ran.code, ran.err) == (0, "")
    assert cluster.data[b"k"][0] == b"v"
    assert [meant for replica in cluster.replicas for meant in replica.meant if meant]  # the Session, which wrote
    assert {meant for replica in cluster.replicas for meant in replica.meant} <= {"", IDS[1]}
    assert {replica.calls["Session"] for replica in cluster.replicas} == {0, 1}


async def test_one_that_hangs_does_not_hide_that_the_others_differ(clusters: list[FakeCluster], ctl: Ctl) -> None:
    clusters[0].replicas[0].hangs = True
    ran = await kv(ctl, [cluster.replicas[0] for cluster in clusters], "put", "k", "v")
    assert ran.code == 2
    assert "the endpoints belong to 2 clusters" in ran.err
    assert not any(cluster.requests for cluster in clusters)


async def test_only_one_that_may_answer_soon_is_waited_for(
    clusters: list[FakeCluster], nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for one whose port is closed, and for one that hangs only a moment."""
    loop = asyncio.get_running_loop()
    (here, hanging), other = clusters[0].replicas, clusters[1].replicas[0]
    hanging.hangs = True
    monkeypatch.setattr(services.identify, "GRACE_S", 1000.0)
    found = await identify([nowhere, here.address, other.address], timeout_s=10_000.0)
    assert {address: answer.cluster_id for address, answer in found.items() if isinstance(answer, Identity)} == {
        here.address: here.cluster_id,
        other.address: other.cluster_id,
    }
    assert len(found) == 2
    monkeypatch.setattr(services.identify, "GRACE_S", 0.5)
    began = loop.time()
    assert list(await identify([hanging.address, here.address], timeout_s=10_000.0)) == [here.address]
    assert loop.time() - began >= 0.5


async def test_one_that_wakes_up_later_is_not_written_to(clusters: list[FakeCluster], ctl: Ctl) -> None:
    """It said nothing when it was asked, so it was not known; the call that reaches it names the cluster that is meant."""
    late, answering = clusters[0].replicas[0], clusters[1]
    late.hangs = True
    answering.leader = None
    putting = asyncio.create_task(kv(ctl, [late, answering.replicas[0]], "put", "k", "v"))
    while not answering.replicas[0].calls["Session"]:
        await asyncio.sleep(0.01)
    late.hangs = False
    await asyncio.sleep(0.3)
    answering.leader = answering.replicas[0]
    ran = await putting
    assert ran.code in (0, 6), ran.err  # unknown, if it was sent to the one that hangs while there was no other to ask
    assert (b"k" in answering.data) or ran.code == 6
    assert not clusters[0].requests


async def test_an_admin_group_among_the_addresses_leads_to_all_clusters(ctl: Ctl) -> None:
    async with fake_world(2) as world:
        replicas = [world.clusters[0].replicas[0], world.admin.replicas[0], world.clusters[1].replicas[0]]
        for number in range(6):
            ran = await kv(ctl, replicas, "put", f"k{number}", "v")
            assert ran.code == 0, ran.err
        assert all(cluster.data for cluster in world.clusters)
        assert not world.admin.requests


async def test_an_admin_group_is_known_by_any_of_its_servers(ctl: Ctl, nowhere: str) -> None:
    """Also where the first one hangs: a key must not end up among the admin group's own."""
    async with fake_world(1, admins=3) as world:
        world.admin.replicas[1].hangs = True
        world.admin.leader = world.admin.replicas[2]
        replicas = [world.admin.replicas[1], world.admin.replicas[2]]
        ran = await kv(ctl, replicas, "put", "k", "v", more=nowhere)
        assert ran.code == 0, ran.err
        assert world.clusters[0].data[b"k"][0] == b"v"
        world.admin.leader = None  # those that do not lead are admin servers too
        ran = await asyncio.to_thread(ctl, "kv", "put", "k", "w", "-e", world.admin.replicas[0].address, "--timeout", "3s")
        assert ran.code == 4
        assert not world.admin.requests
        assert world.clusters[0].data[b"k"][0] == b"v"


async def test_two_admin_groups_are_refused(ctl: Ctl) -> None:
    async with fake_world(1) as one, fake_world(1) as two:
        two.admin.replicas[0].cluster_id = "f" * 32
        ran = await kv(ctl, [one.admin.replicas[0], two.admin.replicas[0]], "put", "k", "v")
        assert ran.code == 2
        assert "the endpoints belong to 2 admin groups" in ran.err


async def test_a_context_s_cluster_decides_and_an_address_of_another_is_named(
    clusters: list[FakeCluster], ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    mine, other = clusters[1].replicas[0], clusters[2].replicas[0]
    added = await asyncio.to_thread(ctl, "context", "add", "mine", "-e", f"{mine.address},{other.address}", "--cluster", IDS[1])
    assert added.code == 0, added.err
    ran = await asyncio.to_thread(ctl, "kv", "put", "k", "v", "--context", "mine", "--timeout", "20s")
    assert ran.code == 0, ran.err
    assert f"warning: {other.address} belongs to cluster {IDS[2]}, and this client is for cluster {IDS[1]}" in ran.err
    assert clusters[1].data[b"k"][0] == b"v"
    assert not clusters[2].requests
    assert {meant for meant in mine.meant if meant} == {IDS[1]}


async def test_nobody_there_is_told_when_the_time_is_up(ctl: Ctl, nowhere: str) -> None:
    ran = await asyncio.to_thread(ctl, "kv", "put", "k", "v", "-e", nowhere, "--timeout", "3s")
    assert ran.code == 3
    assert f"no daemon answered within 3 s (endpoint {nowhere})" in ran.err


async def test_the_world_is_asked_once_for_a_command_with_many_calls(ctl: Ctl) -> None:
    async with fake_world(2) as world:
        for number in range(30):
            await kv(ctl, world.admin.replicas, "put", f"k{number}", "v")
        before = len(world.asked)
        ran = await kv(ctl, world.admin.replicas, "del", "--prefix", "k", "--yes")
        assert ran.code == 0, ran.err
        assert not any(cluster.data for cluster in world.clusters)
        assert len(world.asked) - before == 1  # for the map
