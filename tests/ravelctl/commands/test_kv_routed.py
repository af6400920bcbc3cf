"""`ravelctl kv` where the endpoints are those of an admin group: every key in its cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.ravelctl.client.fake_admin import FakeWorld, fake_world
from tests.ravelctl.conftest import Ctl, Ran


@pytest.fixture
async def world() -> AsyncIterator[FakeWorld]:
    async with fake_world(2, admins=2) as world:
        yield world


async def kv(ctl: Ctl, world: FakeWorld, *words: str) -> Ran:
    return await asyncio.to_thread(ctl, "--endpoints", world.addresses()[1], "kv", *words)


async def test_keys_go_to_their_clusters_and_lists_merge(world: FakeWorld, ctl: Ctl) -> None:
    keys = [f"k{i}" for i in range(6)]
    for key in keys:
        assert (await kv(ctl, world, "put", key, "v")).code == 0
    assert all(len(cluster.data) for cluster in world.clusters)
    assert not world.admin.data
    listed = await kv(ctl, world, "list", "-o", "name")
    assert listed.out.split() == keys
    assert (await kv(ctl, world, "get", "k3")).out == "v\n"
    assert (await kv(ctl, world, "get", "none")).code == 1


async def test_a_prefix_is_deleted_in_every_cluster(world: FakeWorld, ctl: Ctl) -> None:
    for i in range(9):
        await kv(ctl, world, "put", f"k{i}", "v")
    world.clusters[0].revision += 1_000  # revisions of clusters have nothing to do with each other
    await kv(ctl, world, "put", "other", "v")
    done = await kv(ctl, world, "del", "--prefix", "k", "--yes")
    assert done.code == 0, done.err
    assert "deleted 9 keys" in done.out
    assert [key for cluster in world.clusters for key in cluster.data] == [b"other"]


async def test_an_admin_group_without_a_leader_is_told(world: FakeWorld, ctl: Ctl) -> None:
    world.admin.leader = None
    done = await kv(ctl, world, "put", "k", "v", "--timeout", "3s")
    assert done.code == 4
    assert "the map of slots is not known" in done.err
