"""A process that dies (SIGKILL) at one step after another of what it does to its disk: of its first start, of a later one, of a
flush and of a snapshot's receipt. A step is a call that changes a file, a name or a length, or syncs; every second death leaves
half of its last write behind.

Where there are more steps than time, some are chosen, the first and the last among them.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from ravelctl.client import ClusterClient, RavelClient, RavelError
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, until
from tests.faults.conftest import PROPERTY, Trial
from tests.faults.ordeal import Ordeal, Row
from tests.faults.shim import Disk, build

CLUSTER_ID: Final = "00112233445566778899aabbccddeeff"
FIRST_STARTS_MAX: Final = 16
RESTARTS_MAX: Final = 6
FLUSHES_MAX: Final = 6
RECEIPTS_MAX: Final = 5


def chosen(total: int, most: int) -> list[int]:
    """At most so many of the steps 1 to `total`, evenly spread, with the first and the last."""
    if total <= most:
        return list(range(1, total + 1))
    return sorted({1 + round(each * (total - 1) / (most - 1)) for each in range(most)})


def was_killed(server: Server) -> bool:
    """Whether it has ended; then it must have been by the hand of the shim."""
    if server.running:
        return False
    assert server.wait() == -signal.SIGKILL, server.log[-2000:]
    return True


# --- the first start, and becoming a cluster


async def born(cluster: Cluster, server: Server) -> bool:
    """Start a blank server and make a cluster of it; False if it dies on the way."""
    server.start()

    async def answers() -> bool:
        if was_killed(server):
            return True
        try:
            await cluster.status(server)
        except RavelError:
            return False
        return True

    await until(f"{server.name} answers or dies", answers, START_S)
    if not server.running:
        return False
    async with ClusterClient([server.address], timeout_s=CALL_S) as client:
        try:
            await client.bootstrap(server.address, CLUSTER_ID, "test")
        except RavelError:
            await asyncio.to_thread(server.wait)
            assert was_killed(server)
            return False
    return True


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_a_first_start_is_killed_at_every_step(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    library = build(tmp_path)
    row = Row("killed at a step of the first start and bootstrap")
    cluster = Cluster(tmp_path)
    try:
        whole = cluster.add("whole")
        disk = Disk(whole, library)
        assert await born(cluster, whole)
        total = disk.steps
        assert total > 40, "so few steps mean that they are not seen"
        whole.kill()
        for step in chosen(total, FIRST_STARTS_MAX):
            server = cluster.add(f"n{step}")
            Disk(server, library).arm(kill_at=step, torn=step % 2 == 0)
            told = await born(cluster, server)
            if told:
                server.kill()  # it had answered before it came to its last steps
            else:
                row.times += 1
            server.environment.clear()
            server.start()
            status = await cluster.answering(server)
            assert not (told and status.blank), "an acknowledged bootstrap was lost"
            async with ClusterClient([server.address], timeout_s=CALL_S) as client:
                await client.bootstrap(server.address, CLUSTER_ID, "test")
            async with RavelClient([server.address], timeout_s=20.0) as client:
                await client.put(b"k", b"%d" % step)
                found = await client.get(b"k")
                assert found is not None
                assert found.value == b"%d" % step
                row.operations += 2
            assert server.terminate() == 0, server.log[-2000:]
        assert row.times >= FIRST_STARTS_MAX - 3
    finally:
        cluster.stop_all()
    record_property(PROPERTY, row.encode())


# --- a replica of a cluster that works


async def killed(ordeal: Ordeal, server: Server, *, or_caught_up: bool = False) -> bool:
    """Wait until it was killed at its step. With `or_caught_up` False may come: it has caught up, and that step never came."""
    # Nobody is asked unless it matters: the leader may be the one that is about to die.
    target = (await ordeal.cluster.status(await ordeal.cluster.leader())).commit_index if or_caught_up else 0

    async def ended() -> str | None:
        if was_killed(server):
            return "killed"
        try:
            if or_caught_up and (await ordeal.cluster.status(server)).applied_index >= target:
                return "caught up"
        except RavelError:
            pass
        return None

    if await until(f"{server.name} comes to its step", ended, START_S) != "killed":
        return False
    ordeal.happened()
    return True


async def back(ordeal: Ordeal, server: Server) -> None:
    """Start it with a disk that does its work, and wait until it has what the others have."""
    ordeal.disks[server.name].arm(kill_at=0)
    if not server.running:
        await ordeal.restart(server)
    await ordeal.cluster.caught_up(server, START_S)


async def test_a_restart_is_killed_at_every_step(trial: Trial) -> None:
    async with trial("killed at a step of a restart", failing_disks=True) as ordeal:
        await ordeal.progress()
        follower = (await ordeal.cluster.followers())[0]
        disk = ordeal.disks[follower.name]
        follower.kill()
        await back(ordeal, follower)
        for step in chosen(disk.steps, RESTARTS_MAX):
            follower.kill()
            disk.arm(kill_at=step, torn=step % 2 == 0)
            follower.start()
            await killed(ordeal, follower)
            await back(ordeal, follower)
            await ordeal.progress(20)


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_flush_is_killed_at_every_step(trial: Trial, role: str) -> None:
    async with trial(f"killed at a step of a flush, on the {role}", failing_disks=True) as ordeal:
        for step in range(1, FLUSHES_MAX + 1):
            await ordeal.progress(50)
            server = await ordeal.cluster.leader() if role == "leader" else (await ordeal.cluster.followers())[0]
            at = monotonic()
            ordeal.disks[server.name].arm(kill_at=step, torn=step % 2 == 0, only="/state-")
            await killed(ordeal, server)
            await ordeal.acknowledged(at)
            await back(ordeal, server)


async def fall_behind(ordeal: Ordeal, server: Server) -> int:
    """Kill it, and wait until the leader's log begins after what it holds. Returns its last index."""
    last = (await ordeal.cluster.status(server)).last_index
    server.kill()

    async def compacted() -> bool:
        return (await ordeal.cluster.status(await ordeal.cluster.leader())).first_index > last + 100

    await until("the log begins after what the follower holds", compacted, START_S)
    return last


@pytest.mark.parametrize("part", ["incoming", "state-", "raft"])
async def test_a_snapshots_receipt_is_killed_at_every_step(trial: Trial, part: str) -> None:
    name = f"killed at a step in {part.rstrip('-')} of a snapshot's receipt"
    async with trial(name, failing_disks=True, flags=["--log-retain-entries", "20"]) as ordeal:
        client = ordeal.workload.recorder.client("filler")
        for number in range(60):  # so that a snapshot travels in several chunks
            await client.put(b"fill-%d" % number, ordeal.workload.value().ljust(20_000, b"."))
        follower = (await ordeal.cluster.followers())[0]
        disk = ordeal.disks[follower.name]
        held = await fall_behind(ordeal, follower)
        disk.arm(kill_at=0, only=f"/{part}")
        await ordeal.restart(follower)
        await ordeal.cluster.caught_up(follower, START_S)
        assert (await ordeal.cluster.status(follower)).first_index > held + 1, "it came by a snapshot, not by the log"
        for step in chosen(disk.steps, RECEIPTS_MAX):
            await fall_behind(ordeal, follower)
            disk.arm(kill_at=step, torn=step % 2 == 0, only=f"/{part}")
            follower.start()
            await killed(ordeal, follower, or_caught_up=part == "incoming")
            await back(ordeal, follower)
        assert ordeal.row.times >= RECEIPTS_MAX - 1, "the steps were seen"
