"""What a network does: it parts, in one direction or both, it slows, and it breaks connections."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from tests.e2e.cluster import CALL_S, until
from tests.faults.conftest import Trial
from tests.faults.ordeal import ELECTION_TIMEOUT_S, Ordeal

LONG_S = 3 * ELECTION_TIMEOUT_S
"""Longer than it takes to elect another leader."""


async def met(ordeal: Ordeal, *links: tuple[str, str]) -> None:
    """Wait until bytes were held on each of these links, which is how a cut shows, and count it."""
    before = dict(ordeal.network.held_chunks)

    async def held() -> bool:
        return all(ordeal.network.held_chunks[link] > before.get(link, 0) for link in links)

    await until(f"something is held on {links}", held, CALL_S)
    ordeal.happened()


@pytest.mark.e2e
async def test_the_leader_is_cut_off_while_clients_stay_connected(trial: Trial) -> None:
    async with trial("the leader cut off, its clients connected", proxied=True) as ordeal:
        for server in ordeal.cluster.servers.values():
            ordeal.workload.read_pinned(server.name, server.address)
        for _ in range(2):
            await ordeal.progress()
            leader, others = await ordeal.cluster.leader(), await ordeal.cluster.followers()
            at = monotonic()
            ordeal.network.isolate(leader.name, [other.name for other in others])
            await met(ordeal, *((leader.name, other.name) for other in others))
            await ordeal.recovered(at)
            assert await ordeal.cluster.leader() is not leader
            await asyncio.sleep(LONG_S)
            ordeal.network.heal()
            await ordeal.cluster.caught_up(leader)


async def test_a_follower_is_cut_off(trial: Trial) -> None:
    async with trial("a follower cut off", proxied=True) as ordeal:
        for turn in range(2):
            await ordeal.progress()
            leader, followers = await ordeal.cluster.leader(), await ordeal.cluster.followers()
            term = (await ordeal.cluster.status(leader)).header.term
            lost, other = followers[turn], followers[1 - turn]
            at = monotonic()
            ordeal.network.isolate(lost.name, [leader.name, other.name])
            await met(ordeal, (leader.name, lost.name))
            await asyncio.sleep(LONG_S)
            await ordeal.recovered(at)
            ordeal.network.heal()
            await ordeal.cluster.caught_up(lost)
            status = await ordeal.cluster.status(leader)
            assert status.header.term == term, "who comes back after a while asks first, and deposes nobody"


@pytest.mark.parametrize("how", ["cut", "mute"])
@pytest.mark.parametrize("way", ["from", "to"])
async def test_the_leader_is_cut_one_way(trial: Trial, way: str, how: str) -> None:
    what = "all bytes" if how == "cut" else "messages"
    async with trial(f"one-way cut: {what} {way} the leader", proxied=True) as ordeal:
        await ordeal.progress()
        leader, others = await ordeal.cluster.leader(), await ordeal.cluster.followers()
        links = [(leader.name, other.name) if way == "from" else (other.name, leader.name) for other in others]
        at = monotonic()
        for link in links:
            getattr(ordeal.network, how)(*link)
        await met(ordeal, *links)
        await ordeal.recovered(at + 2 * ELECTION_TIMEOUT_S)  # until then the old leader may still be believed
        assert await ordeal.cluster.leader() is not leader
        await asyncio.sleep(LONG_S)
        ordeal.network.heal()
        await ordeal.recovered(monotonic())
        await ordeal.cluster.caught_up(leader)


@pytest.mark.parametrize("who", ["the leader and a follower", "two followers"])
async def test_two_do_not_see_each_other_and_a_third_sees_both(trial: Trial, who: str) -> None:
    async with trial(f"{who} do not see each other, a third sees both", proxied=True) as ordeal:
        await ordeal.progress()
        leader, followers = await ordeal.cluster.leader(), await ordeal.cluster.followers()
        one, other = (leader, followers[0]) if who.startswith("the leader") else (followers[0], followers[1])
        term = (await ordeal.cluster.status(leader)).header.term
        at = monotonic()
        ordeal.network.part(one.name, other.name)
        await met(ordeal, (one.name, other.name))
        await ordeal.recovered(at)
        await asyncio.sleep(2 * LONG_S)
        await ordeal.progress()
        status = await ordeal.cluster.status(leader)
        assert status.header.term == term, "whom a majority hears stays leader"
        ordeal.network.heal()
        await ordeal.cluster.caught_up(other)


async def test_links_are_slow(trial: Trial) -> None:
    async with trial("links of the leader slow: 200 ms each way", proxied=True) as ordeal:
        await ordeal.progress()
        leader, others = await ordeal.cluster.leader(), await ordeal.cluster.followers()
        at = monotonic()
        for other in others:
            ordeal.network.slow(leader.name, other.name, 0.2)
            ordeal.network.slow(other.name, leader.name, 0.2)
        await ordeal.progress(100)
        await asyncio.sleep(LONG_S)
        await ordeal.recovered(at)
        assert all(ordeal.network.delayed_chunks[leader.name, other.name] > 0 for other in others)
        ordeal.happened(sum(ordeal.network.delayed_chunks.values()))
        assert await ordeal.cluster.leader() is leader, "a fifth of a second is below an election timeout"
        ordeal.network.heal()
        await ordeal.progress()


@pytest.mark.parametrize("whose", ["replicas", "clients"])
async def test_connections_are_reset_every_200_ms(trial: Trial, whose: str) -> None:
    async with trial(
        f"connections of {whose} reset every 200 ms", proxied=whose == "replicas", fronted=whose == "clients"
    ) as ordeal:
        await ordeal.progress()
        for _ in range(40):
            ordeal.happened(ordeal.network.reset())
            await asyncio.sleep(0.2)
        await ordeal.recovered(monotonic())
        await ordeal.progress()
