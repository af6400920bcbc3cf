"""Processes that are killed without a word (SIGKILL), and come back with what they had."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Trial


@pytest.mark.e2e
async def test_the_leader_is_killed(trial: Trial) -> None:
    async with trial("kill -9 of the leader") as ordeal:
        for _ in range(3):
            await ordeal.progress()
            leader = await ordeal.cluster.leader()
            at = ordeal.kill(leader)
            await ordeal.recovered(at)
            await ordeal.progress()
            await ordeal.restart(leader)
            await ordeal.cluster.caught_up(leader)


async def test_a_follower_is_killed(trial: Trial) -> None:
    async with trial("kill -9 of a follower") as ordeal:
        for turn in range(3):
            await ordeal.progress()
            leader = await ordeal.cluster.leader()
            follower = (await ordeal.cluster.followers())[turn % 2]
            at = ordeal.kill(follower)
            await ordeal.recovered(at)
            await ordeal.progress()
            assert await ordeal.cluster.leader() is leader, "a follower that dies must not cost the leader its office"
            await ordeal.restart(follower)
            await ordeal.cluster.caught_up(follower)


@pytest.mark.parametrize("spared", ["leader", "follower"])
async def test_a_majority_is_killed(trial: Trial, spared: str) -> None:
    async with trial(f"kill -9 of a majority, the {spared} spared") as ordeal:
        for _ in range(2):
            await ordeal.progress()
            leader, followers = await ordeal.cluster.leader(), await ordeal.cluster.followers()
            victims = followers if spared == "leader" else [leader, followers[0]]
            ordeal.kill(*victims)
            assert not await ordeal.any_acknowledged(for_s=2.0), "a minority acknowledged a write"
            await ordeal.recovered(await ordeal.restart(*victims))


async def test_all_are_killed_at_once(trial: Trial) -> None:
    async with trial("kill -9 of all at once") as ordeal:
        for _ in range(3):
            await ordeal.progress()
            servers = list(ordeal.cluster.servers.values())
            ordeal.kill(*servers)
            await ordeal.recovered(await ordeal.restart(*servers))
