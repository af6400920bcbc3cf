"""Servers that are killed (SIGKILL) at some steps of what they do to their disk while they found or join a cluster, as an admin
tells them, and started again: each ends up in one seat, and no membership has anybody else."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

import pytest

from ravelctl.client import RavelClient, RavelError
from ravelpb.v1 import admin_pb2
from tests.e2e.admins import System, running_system
from tests.e2e.cluster import START_S, Server, until
from tests.faults.shim import Disk, build

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

FOUNDERS: Final = 4
JOINERS: Final = 4


def chosen(total: int, most: int) -> list[int]:
    """So many of the steps 1 to `total`, evenly spread, the last one left out."""
    return sorted({1 + round(each * (total - 1) / most) for each in range(1, most + 1)})


def voters_of(directory: admin_pb2.DirectoryResponse, cluster: str) -> dict[str, int]:
    """Replica ids by name."""
    (number,) = [entry.number for entry in directory.clusters if entry.name == cluster]
    return {
        entry.server.name: int(entry.replica_id)
        for entry in directory.servers
        if entry.cluster == number and entry.seat == admin_pb2.SEAT_VOTER
    }


async def killed_and_started_again(system: System, name: str, disk: Disk, step: int, *flags: str) -> bool:
    """Whether it died at that step; if it never came to it, it is killed by hand."""
    server = system.servers.servers[name]
    disk.arm(kill_at=step, torn=step % 2 == 0)
    server.start("--admin", ",".join(system.admins.endpoints), *flags)

    async def ended_or_seated() -> bool:
        if not server.running:
            return True
        try:
            return any(
                entry.server.name == name and entry.seat == admin_pb2.SEAT_VOTER for entry in (await system.directory()).servers
            )
        except RavelError:
            return False

    await until(f"{name} ends or has its seat", ended_or_seated, START_S)
    died = not server.running
    if died:
        assert await asyncio.to_thread(server.wait) == -signal.SIGKILL, server.log[-2000:]
    server.kill()
    server.environment.clear()
    server.start("--admin", ",".join(system.admins.endpoints), *flags)
    return died


def with_disk(system: System, name: str, library: Path) -> tuple[Server, Disk]:
    server = system.servers.add(name)
    return server, Disk(server, library)


async def test_founders_and_joiners_are_killed_at_some_of_their_steps(tmp_path: Path) -> None:
    library = build(tmp_path)
    async with running_system(tmp_path) as system:
        _, disk = with_disk(system, "n0", library)
        system.start("n0")
        await system.seated("default", "n0")
        founding = disk.steps
        _, disk = with_disk(system, "n1", library)
        system.start("n1", "--new-cluster", "default")
        await system.seated("default", "n0", "n1")
        joining = disk.steps

        died = 0
        for step in chosen(founding, FOUNDERS):
            name, cluster = f"f{step}", f"c{step}"
            server, disk = with_disk(system, name, library)
            died += await killed_and_started_again(system, name, disk, step, "--new-cluster", cluster)
            await system.servers.answering(server)
            await system.seated(cluster, name)
            assert await system.members(server) == {(name, 1)}
        assert died >= FOUNDERS - 1

        joiners = [(f"j{step}", step) for step in chosen(joining, JOINERS)]
        died = 0
        for name, step in joiners:
            _, disk = with_disk(system, name, library)
            died += await killed_and_started_again(system, name, disk, step, "--new-cluster", "default")
        assert died >= JOINERS - 1
        names = ["n0", "n1", *(name for name, _ in joiners)]
        await system.seated("default", *names)
        listed = voters_of(await system.directory(), "default")
        assert len(set(listed.values())) == len(names)
        for name in names:
            await system.servers.answering(system.servers.servers[name])

        async def all_agree() -> bool:
            found = [await system.members(system.servers.servers[name]) for name in names]
            return all(members == set(listed.items()) for members in found)

        await until("all members name the same members", all_agree, START_S)
        async with RavelClient([system.servers.servers["n0"].address], timeout_s=20.0) as client:
            await client.put(b"k", b"v")
