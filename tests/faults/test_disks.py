"""Disks that fail a sync, that take long for one, and that are full."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from tests.e2e.cluster import Server, until
from tests.faults.conftest import Trial
from tests.faults.ordeal import ELECTION_TIMEOUT_S, Ordeal, events

STOP_S: Final = 60.0
"""How long a daemon may take to end itself on a busy machine."""

DISK_BYTES: Final = 48 << 20


async def stopped_itself(server: Server) -> str:
    """Wait until the daemon has ended by itself, with the status of a failure; what it said of the cause."""

    async def ended() -> bool:
        return not server.running

    await until(f"{server.name} stops itself", ended, STOP_S)
    assert server.wait() == 1, server.log[-2000:]
    why: str = list(events(server, "daemon.stopped_itself"))[-1]["why"]
    return why


async def one_of(ordeal: Ordeal, role: str) -> Server:
    return await ordeal.cluster.leader() if role == "leader" else (await ordeal.cluster.followers())[0]


@pytest.mark.parametrize(
    ("role", "what"),
    [pytest.param("leader", "raft", marks=pytest.mark.e2e), ("leader", "state"), ("follower", "raft"), ("follower", "state")],
)
async def test_a_sync_fails(trial: Trial, role: str, what: str) -> None:
    async with trial(f"a sync of {what}/ fails on the {role}", failing_disks=True) as ordeal:
        for _ in range(2):
            await ordeal.progress()
            server = await one_of(ordeal, role)
            disk = ordeal.disks[server.name]
            failed = disk.failed
            disk.only(f"/{what}")
            at = monotonic()
            disk.fail_syncs = 1
            why = await stopped_itself(server)
            assert f"{what}" in why, why
            assert "/data.mdb failed a write" in why, why
            assert disk.failed == failed + 1
            ordeal.happened()
            await ordeal.recovered(at)
            await ordeal.restart(server)
            await ordeal.cluster.caught_up(server)


async def test_syncs_take_two_seconds_on_the_leader(trial: Trial) -> None:
    async with trial("a sync takes 2 s on the leader", failing_disks=True) as ordeal:
        for _ in range(2):
            await ordeal.progress()
            leader = await ordeal.cluster.leader()
            disk = ordeal.disks[leader.name]
            slowed, at = disk.slowed, monotonic()
            disk.only("/raft")
            disk.sync_delay_ms = 2000
            await ordeal.recovered(at)

            async def another_leads(old: Server = leader) -> bool:
                return await ordeal.cluster.leader() is not old

            await until("another one leads", another_leads, STOP_S)
            await asyncio.sleep(2.0)
            assert leader.running, "slow is not broken"
            assert disk.slowed > slowed
            ordeal.happened(disk.slowed - slowed)
            disk.sync_delay_ms = 0
            await ordeal.cluster.caught_up(leader)


async def test_syncs_take_two_seconds_on_a_follower(trial: Trial) -> None:
    async with trial("a sync takes 2 s on a follower", failing_disks=True) as ordeal:
        await ordeal.progress()
        leader, follower = await ordeal.cluster.leader(), (await ordeal.cluster.followers())[0]
        disk, at = ordeal.disks[follower.name], monotonic()
        slowed = disk.slowed
        disk.sync_delay_ms = 2000
        await asyncio.sleep(8 * ELECTION_TIMEOUT_S)
        await ordeal.recovered(at)
        assert await ordeal.cluster.leader() is leader
        assert disk.slowed > slowed
        ordeal.happened(disk.slowed - slowed)
        disk.sync_delay_ms = 0
        await ordeal.cluster.caught_up(follower)


# --- full disks


@pytest.fixture
def small_disks(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A file system of DISK_BYTES for each server."""
    mounted: dict[str, Path] = {}
    try:
        for name in ("n1", "n2", "n3"):
            path = tmp_path / f"disk-{name}"
            path.mkdir()
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"no small file system could be mounted here, so a full disk was NOT tested: {done.stderr.strip()}")
            mounted[name] = path
        yield mounted
    finally:
        for path in mounted.values():
            subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take up all that is free, and what others free meanwhile."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            continue
    assert os.statvfs(disk).f_bavail == 0
    return ballast


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_disk_is_full(trial: Trial, small_disks: dict[str, Path], role: str) -> None:
    folders = {name: path / "data" for name, path in small_disks.items()}
    async with trial(f"a full disk on the {role}", data_dirs=folders, value_bytes=2000) as ordeal:
        for _ in range(2):
            await ordeal.progress()
            server = await one_of(ordeal, role)
            at = monotonic()
            ballast = fill(small_disks[server.name])
            why = await stopped_itself(server)
            assert "No space left on device" in why, why
            ordeal.happened()
            await ordeal.recovered(at)
            await ordeal.progress()
            ballast.unlink()
            await ordeal.restart(server)
            await ordeal.cluster.caught_up(server)
