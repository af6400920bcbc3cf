"""The dashboard in front of real daemons: an election, and a replica that joins through a snapshot, as an operator sees them."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest

from ravelctl.client import RavelError
from ravelctl.tui.recording import Player, Recording
from ravelpb.v1 import cluster_pb2 as pb
from tests.e2e.cluster import Cluster, Server, running_cluster, until
from tests.ravelctl.tui.terminal import Terminal

pytestmark = pytest.mark.e2e

SEEN_WITHIN_S = 2.0
"""What operators are promised, from an election to its being on the screen."""
BUSY_S = 10.0
"""What the test grants on top, on a machine that does other things too."""
VALUE = b"x" * (256 << 10)
VALUES = 240


def top(cluster: Cluster, *words: str) -> Terminal:
    return Terminal(["top", "--endpoints", ",".join(cluster.endpoints), *words], columns=120, rows=36)


async def test_an_election_is_on_the_screen_at_once(tmp_path: Path) -> None:
    record = tmp_path / "election.rvtop"
    async with running_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        with top(cluster, "--record", str(record)) as terminal:
            await asyncio.to_thread(terminal.until, lambda text: f"leader {leader.name}@" in text and "quorum 3/3" in text)
            watching = asyncio.create_task(asyncio.to_thread(_new_leader, terminal, leader.name))
            leader.kill()
            heir = await cluster.leader()
            term = (await cluster.status(heir)).header.term
            elected_s = time.monotonic()
            shown_s = await watching
            await asyncio.to_thread(terminal.until, lambda text: f"leader {heir.name}@{term}" in text)
            await asyncio.to_thread(terminal.until, lambda text: re.search(rf"{heir.name} +election +won term {term}", text))
            await asyncio.to_thread(terminal.until, lambda text: re.search(rf"^x{leader.name} +\(down\)", text, re.M))
            assert shown_s - elected_s < SEEN_WITHIN_S + BUSY_S
            leader.start()
            await cluster.caught_up(leader)
            await asyncio.to_thread(terminal.until, lambda text: "quorum 3/3" in text and "(down)" not in text)
            terminal.send("q")
            assert await asyncio.to_thread(terminal.ended) == 0
    player = Player(Recording(record))
    player.seek(10**9)
    assert player.damage == ""
    assert player.picture.view.leader is not None
    assert player.picture.view.leader.name == heir.name


def _new_leader(terminal: Terminal, before: str) -> float:
    terminal.until(lambda text: re.search(rf"leader (?!{before}@)\w+@\d", text) and "won term" in text, 60)
    return time.monotonic()


async def test_a_learner_shows_its_snapshot_and_then_replicates(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1"], flags=["--log-retain-entries", "5"]) as cluster:
        await _fill(cluster)
        with top(cluster, "--interval", "200ms") as terminal:
            await asyncio.to_thread(terminal.until, lambda text: "quorum 1/1" in text)
            joins = cluster.add("n2")
            joins.start("--join", cluster.endpoints[0])
            await until("a snapshot is under way", lambda: _installing(cluster), 60.0, every_s=0.005)
            joins.pause()
            await asyncio.to_thread(terminal.until, lambda text: re.search(r"n2 .* snap-\d+%", text))
            joins.resume()
            await asyncio.to_thread(terminal.until, lambda text: re.search(r"n2 +(learner|follower) .* repl ", text), 60)
            await cluster.answering(joins)


async def _fill(cluster: Cluster) -> None:
    """So much that a snapshot takes a moment, and the log no longer reaches back to its beginning."""
    server = cluster.servers["n1"]
    async with cluster.client() as client:
        for first in range(0, VALUES, 8):
            await asyncio.gather(*(client.put(b"fill/%d" % (first + n), VALUE) for n in range(8)))

        async def compacted() -> bool:
            await client.put(b"one more", b"")
            return (await cluster.status(server)).first_index > 2

        await until("the log is compacted", compacted, 60.0)


async def _installing(cluster: Cluster) -> bool:
    first: Server = cluster.servers["n1"]
    try:
        status = await cluster.status(first)
    except RavelError:
        return False
    return any(peer.state == pb.SNAPSHOT and peer.snapshot_sent_bytes > 0 for peer in status.progress)
