"""Processes that are stopped (SIGSTOP) and go on as if no time had passed. Nobody reads what is no longer true from them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic

import pytest

from ravelctl.linearizability.history import Outcome
from tests.e2e.cluster import Server
from tests.faults.conftest import Trial
from tests.faults.ordeal import ELECTION_TIMEOUT_S, Ordeal


def is_stopped(server: Server) -> bool:
    """Whether the kernel says so: the state stands after the name, which is in parentheses."""
    return Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def stop_for(ordeal: Ordeal, server: Server, seconds: float) -> float:
    """Stop it, let it go on after so long, and return the time at which it was stopped."""
    at = monotonic()
    server.pause()
    await asyncio.sleep(seconds)
    assert is_stopped(server)
    server.resume()
    ordeal.happened()
    return at


@pytest.mark.parametrize(
    ("timeouts", "times"), [(0.5, 4), pytest.param(1.5, 2, marks=pytest.mark.e2e), (10.0, 2)], ids=["0.5", "1.5", "10"]
)
async def test_the_leader_is_stopped_for_a_number_of_election_timeouts(trial: Trial, timeouts: float, times: int) -> None:
    async with trial(f"SIGSTOP of the leader for {timeouts:g} election timeouts") as ordeal:
        for server in ordeal.cluster.servers.values():
            # They stay connected to the one that is stopped, and what they ask meanwhile is the first thing that it sees.
            ordeal.workload.read_pinned(server.name, server.address)
        for _ in range(times):
            await ordeal.progress()
            leader = await ordeal.cluster.leader()
            at = await stop_for(ordeal, leader, timeouts * ELECTION_TIMEOUT_S)
            await ordeal.recovered(at)
            await ordeal.progress()
            await ordeal.cluster.caught_up(leader)
            if timeouts >= 10.0:
                assert await ordeal.cluster.leader() is not leader, "it was away for longer than any election takes"
        answered = [
            operation
            for operation in ordeal.workload.recorder.history
            if operation.client.startswith("pinned") and operation.outcome is Outcome.DONE
        ]
        assert {operation.client.split(" ", 3)[3] for operation in answered} == {
            f"{way} {mode}" for way in ("unary", "session") for mode in ("linearizable", "quorum")
        }, "every way to read was answered at times"


async def test_the_leader_wakes_where_nobody_reaches_it(trial: Trial) -> None:
    """Nothing but its own clock tells it that others may lead by now: its clients ask, and hear nothing old."""
    async with trial("SIGSTOP of the leader, which wakes cut off from the others", proxied=True) as ordeal:
        for server in ordeal.cluster.servers.values():
            ordeal.workload.read_pinned(server.name, server.address)
        for _ in range(2):
            await ordeal.progress()
            leader, others = await ordeal.cluster.leader(), await ordeal.cluster.followers()
            ordeal.network.isolate(leader.name, [other.name for other in others])
            at = await stop_for(ordeal, leader, 5 * ELECTION_TIMEOUT_S)
            await asyncio.sleep(2 * ELECTION_TIMEOUT_S)
            await ordeal.recovered(at)
            ordeal.network.heal()
            await ordeal.cluster.caught_up(leader)
            assert await ordeal.cluster.leader() is not leader


async def test_a_follower_is_stopped(trial: Trial) -> None:
    async with trial("SIGSTOP of a follower for 4 election timeouts") as ordeal:
        for turn in range(3):
            await ordeal.progress()
            leader = await ordeal.cluster.leader()
            follower = (await ordeal.cluster.followers())[turn % 2]
            at = await stop_for(ordeal, follower, 4 * ELECTION_TIMEOUT_S)
            await ordeal.recovered(at)
            await ordeal.cluster.caught_up(follower)
            assert await ordeal.cluster.leader() is leader, "a follower that comes back must not cost the leader its office"
