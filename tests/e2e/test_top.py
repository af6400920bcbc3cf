"""The dashboard in front of real daemons: an election, and a replica that joins through a snapshot, as an operator sees them."""

from __future__ import annotations

import asyncio
import functools
import re
from pathlib import Path

import pytest

from ravelctl.dashboard.recording import Player, Recording
from tests.e2e.cluster import START_S, Cluster, running_cluster, until
from tests.faults.proxy import Network
from tests.ravelctl.dashboard.terminal import Terminal

pytestmark = pytest.mark.e2e

INTERVAL_S = 60.0
"""The longest between two reports of a replica. What operators have to see at once does not wait for the next one."""
AT_ONCE_S = 50.0
"""Long enough for a busy machine, and too short for the next report."""
VALUE = b"x" * (256 << 10)
VALUES = 240


def top(cluster: Cluster, *words: str) -> Terminal:
    return Terminal(["top", "--endpoints", ",".join(cluster.endpoints), *words], columns=120, rows=36)


async def test_an_election_is_on_the_screen_at_once(tmp_path: Path) -> None:
    record = tmp_path / "election.rvtop"
    async with running_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        with top(cluster, "--interval", f"{INTERVAL_S:g}s") as terminal:
            await asyncio.to_thread(terminal.until, lambda text: f"leader {leader.name}@" in text and "quorum 3/3" in text)
            leader.kill()
            await cluster.leader()
            for seen in (  # whoever it is: a busy machine may need more than one election
                rf"leader (?!{leader.name}@)n\d@\d",
                r"n\d +election +won term \d",
                rf"(?m)^x{leader.name} +\(down\)",
            ):
                await asyncio.to_thread(terminal.until, functools.partial(re.search, seen), AT_ONCE_S)
        with top(cluster, "--record", str(record)) as terminal:
            await asyncio.to_thread(terminal.until, lambda text: "(down)" in text)
            leader.start()
            await cluster.caught_up(leader)
            shown = await asyncio.to_thread(terminal.until, lambda text: "quorum 3/3" in text and "(down)" not in text)
            terminal.send("q")
            assert await asyncio.to_thread(terminal.ended) == 0
    player = Player(Recording(record))
    player.seek(10**9)
    assert player.damage == ""
    assert player.picture.view.leader is not None
    assert f"leader {player.picture.view.leader.name}@" in shown


async def test_a_learner_shows_its_snapshot_and_then_replicates(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1"], flags=["--log-retain-entries", "5"]) as cluster:
        await _fill(cluster)
        network = Network(lambda: {name: server.pid for name, server in cluster.servers.items() if server.running})
        try:
            with top(cluster, "--interval", "200ms") as terminal:
                await asyncio.to_thread(terminal.until, lambda text: "quorum 1/1" in text)
                joins = cluster.add("n2")
                joins.flags += ["--peer-advertise", await network.front("n2", joins.peer_address)]
                network.allow("n1", "n2", len(VALUE) * VALUES // 3)
                joins.start("--join", cluster.endpoints[0])
                await asyncio.to_thread(terminal.until, lambda text: re.search(r"n2 .* snap-[1-9]\d*%", text))
                network.heal()
                await asyncio.to_thread(terminal.until, lambda text: re.search(r"n2 +(learner|follower) .* repl ", text))
                await cluster.answering(joins)
        finally:
            await network.close()


async def _fill(cluster: Cluster) -> None:
    """So much that a snapshot is seen on its way, and the log no longer reaches back to its beginning."""
    server = cluster.servers["n1"]
    async with cluster.client() as client:
        for first in range(0, VALUES, 8):
            await asyncio.gather(*(client.put(b"fill/%d" % (first + n), VALUE) for n in range(8)))

        async def compacted() -> bool:
            await client.put(b"one more", b"")
            return (await cluster.status(server)).first_index > 2

        await until("the log is compacted", compacted, START_S)
