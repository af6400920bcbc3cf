"""Clusters and admin groups that come back out of a backup, and are made to agree with each other again by commands alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravelctl.client import RavelClient, RavelError
from ravelpb.v1 import admin_pb2
from tests.e2e.admins import System, running_system
from tests.e2e.cluster import CALL_S, LOOK_S, START_S, Server, until
from tests.e2e.test_cli import Ran, ravelctl

pytestmark = pytest.mark.e2e


async def admin(system: System, *words: str) -> Ran:
    return await ravelctl(system.admins, "admin", *words)


async def restored(system: System, snapshot: Path, name: str) -> Server:
    """A server that is not started yet, with what a snapshot holds as a cluster of its own."""
    server = system.servers.add(name)
    ran = await ravelctl(system.servers, "snapshot", "restore", str(snapshot), "--data-dir", str(server.data_dir), "--name", name)
    assert ran.status == 0, ran.err
    return server


async def answers(client: RavelClient, key: bytes) -> bool:
    try:
        await client.get(key, timeout_s=LOOK_S)
    except RavelError:
        return False
    return True


async def test_a_cluster_out_of_a_backup_takes_its_old_place(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        old = system.start("d1")
        await system.seated("default", "d1")
        system.start("o1", "--new-cluster", "orders")
        await system.seated("orders", "o1")
        async with RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client:
            for number in range(40):
                await client.put(b"k%d" % number, b"before")
            saved = await ravelctl(system.servers, "snapshot", "save", "--file", str(tmp_path / "s"), "-e", old.address)
            assert saved.status == 0, saved.err
            moved = await admin(system, "rebalance", "--apply", "--yes")
            assert moved.status == 0, moved.err
            for number in range(40):
                await client.put(b"k%d" % number, b"after")
            old_id = (await system.servers.status(old)).header.cluster_id
            new = await restored(system, tmp_path / "s", "d2")
            system.start("d2")
            await system.servers.answering(new)
            adopt = ("adopt", "default", new.address, "--yes", "--confirm", old_id)

            alive = await admin(system, *adopt)
            assert (alive.status, old.address in alive.err) == (5, True), alive.err
            old.kill()
            dry = await admin(system, "adopt", "default", new.address, "--dry-run", "-o", "json")
            assert (dry.status, dry.json()["changed"]) == (0, False), dry.err
            wrong = await admin(system, "adopt", "default", new.address, "--yes", "--confirm", "f" * 8)
            assert wrong.status == 5
            done = await admin(system, *adopt)
            assert done.status == 0, done.err
            assert "ravelctl admin reconcile" in done.out + done.err
            await system.seated("default", "d2")
            again = await admin(system, *adopt)
            assert (again.status, "already" in again.out) == (0, True)

            await until("a client that was there before finds the new one", lambda: _all_answer(client), START_S)
            found = [await client.get(b"k%d" % number) for number in range(40)]
            values = {pair.value if pair is not None else b"" for pair in found}
            assert values == {b"after", b"before"}, "of each slot its own cluster's"
        old.start("--admin", ",".join(system.admins.endpoints))

        async def ended() -> bool:
            return not old.running

        await until("the old member stops itself", ended, START_S)
        assert "is cluster default now" in old.log
        await _no_other_members(system, "default", "d2")


async def _all_answer(client: RavelClient) -> bool:
    return all([await answers(client, b"k%d" % number) for number in range(40)])


async def _no_other_members(system: System, cluster: str, *names: str) -> None:
    def ask(directory: admin_pb2.DirectoryResponse) -> bool:
        numbers = {entry.number for entry in directory.clusters if entry.name == cluster}
        return {entry.server.name for entry in directory.servers if entry.cluster in numbers} == set(names)

    await system.told(f"{', '.join(names)} are all of {cluster}", ask)
