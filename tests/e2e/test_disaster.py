"""docs/disaster-recovery.md, walk by walk, with real daemons: what is lost, what comes back, and by which commands.

Each walk begins with two clusters of one replica that share the slots, and 40 keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ravelctl.client import RavelClient, RavelError
from tests.e2e.admins import System, running_system
from tests.e2e.cluster import CALL_S, LOOK_S, START_S, Server, until
from tests.e2e.test_cli import Ran, ravelctl

pytestmark = pytest.mark.e2e

KEYS = [b"k%d" % number for number in range(40)]
REFUSED = 5


@dataclass(slots=True)
class Walk:
    """A system in which something is lost and restored."""

    folder: Path
    system: System
    snapshots: dict[str, Path] = field(default_factory=dict)

    async def admin(self, *words: str, status: int = 0) -> Ran:
        """`ravelctl admin ...`, which must end with this exit status."""
        ran = await ravelctl(self.system.admins, "admin", *words)
        assert ran.status == status, ran.out + ran.err
        return ran

    async def reconciled(self, *words: str) -> dict[str, object]:
        ran = await self.admin("reconcile", "--yes", "-o", "json", *words)
        return dict(ran.json())

    async def in_doubt(self) -> str:
        """The slots that `reconcile` opens only with consent, as it names them."""
        ran = await self.admin("reconcile", "--yes", status=REFUSED)
        return ran.err.rpartition("--accept-loss ")[2].split()[0]

    async def save(self, name: str, server: Server) -> None:
        file = self.snapshots[name] = self.folder / f"{name}.snapshot"
        ran = await ravelctl(self.system.servers, "snapshot", "save", "--file", str(file), "-e", server.address)
        assert ran.status == 0, ran.err

    async def restore(self, name: str, as_name: str) -> Server:
        """A server that is started, with what a snapshot holds as a cluster of its own."""
        server = self.system.servers.add(as_name)
        await self._restored(name, server)
        self.system.start(as_name)
        await self.system.servers.answering(server)
        return server

    async def _restored(self, name: str, server: Server) -> None:
        words = ("--data-dir", str(server.data_dir), "--name", server.name)
        ran = await ravelctl(self.system.servers, "snapshot", "restore", str(self.snapshots[name]), *words)
        assert ran.status == 0, ran.err

    async def adopt(self, cluster: str, server: Server, old_id: str) -> None:
        await self.admin("adopt", cluster, server.address, "--yes", "--confirm", old_id)
        await self.system.seated(cluster, server.name)

    async def cluster_id(self, server: Server) -> str:
        return (await self.system.servers.status(server)).header.cluster_id

    async def restored_admins(self, name: str) -> None:
        """The admin group's only server is lost, and comes back at its address from a snapshot."""
        (old,) = list(self.system.admins.servers.values())
        address, peer = old.address, old.peer_address
        old.kill()
        server = self.system.add_admin(f"{old.name}-restored")
        server.address, server.peer_address = address, peer
        del self.system.admins.servers[old.name]
        await self._restored(name, server)
        server.start()
        await self.system.admins.answering(server)

    async def down(self, name: str) -> None:
        """Wait until the admin calls this server down."""
        await self.system.told(
            f"{name} is down", lambda told: any(entry.server.name == name and entry.down for entry in told.servers)
        )

    async def write(self, client: RavelClient, value: bytes) -> None:
        for key in KEYS:
            await client.put(key, value)

    async def values(self, client: RavelClient) -> set[bytes]:
        """What all keys have: b"" for none. Waits until every key is served."""
        await until("every key is served", lambda: _all_answer(client), START_S)
        found = [await client.get(key) for key in KEYS]
        return {pair.value if pair is not None else b"" for pair in found}

    async def scanned(self, client: RavelClient) -> int:
        return len([pair async for pair in client.scan()])

    def client(self) -> RavelClient:
        return RavelClient(admin=self.system.admins.endpoints, timeout_s=CALL_S)

    async def agree(self) -> None:
        """Nothing is left to do, and slots can move again."""
        answer = await self.reconciled()
        assert (answer["done"], answer["changed"], answer["losses"], answer["away"]) == (True, False, [], []), answer

    async def rebalance(self, *words: str) -> None:
        """Repeated while a slow machine lets migrations be called off."""

        async def balanced() -> bool:
            ran = await ravelctl(self.system.admins, "admin", "rebalance", "--apply", "--yes", *words)
            assert ran.status == 0 or "stayed where they were" in ran.err, ran.out + ran.err
            return ran.status == 0

        await until("the slots are where they should be", balanced, START_S)


async def _all_answer(client: RavelClient) -> bool:
    try:
        for key in KEYS:
            await client.get(key, timeout_s=LOOK_S)
    except RavelError:
        return False
    return True


@asynccontextmanager
async def walking(folder: Path) -> AsyncIterator[tuple[Walk, RavelClient, Server, Server]]:
    """Clusters `default` and `orders` on the list, the latter without slots; keys, all of them "before"; snapshots of each.

    Then half of the slots move, and all keys are written again: "after".
    """
    async with running_system(folder) as system:
        walk = Walk(folder, system)
        one = system.start("d1")
        await system.seated("default", "d1")
        two = system.start("o1", "--new-cluster", "orders")
        await system.seated("orders", "o1")
        async with RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client:
            await walk.write(client, b"before")
            await walk.save("default", one)
            await walk.save("orders", two)
            await walk.save("admins", next(iter(system.admins.servers.values())))
            await walk.rebalance()
            await walk.write(client, b"after")
            yield walk, client, one, two


async def test_a_cluster_is_lost(tmp_path: Path) -> None:
    async with walking(tmp_path) as (walk, client, _, two):
        two.kill()
        dry = await walk.admin("reconcile", "--dry-run")
        assert "cluster orders does not tell what it owns" in dry.out + dry.err
        told = re.search(r"--accept-loss ([0-9,-]+)`", dry.out + dry.err)
        assert told, dry.out + dry.err
        # While its servers were heard a moment ago it may only hang, and serve who has an older map.
        refused = await walk.admin("reconcile", "--yes", "--accept-loss", told[1], status=REFUSED)
        assert "o1 reported a moment ago" in refused.err
        await walk.down("o1")
        opened = await walk.reconciled("--accept-loss", told[1])
        assert (opened["done"], opened["slots_decided"]) == (True, 2048), opened
        assert await walk.values(client) == {b"after", b""}, "what orders held is lost"
        await walk.write(client, b"again")
        assert await walk.scanned(client) == len(KEYS)
        # It comes back after all: what it holds is older, and goes.
        walk.system.start("o1")
        await walk.system.servers.answering(two)
        dry_json = await walk.admin("reconcile", "--dry-run", "-o", "json")
        (change,) = dry_json.json()["changes"]
        assert (change["cluster"], change["lost"], bool(change["lost_with_keys"])) == ("orders", told[1], True)
        done = await walk.reconciled()
        assert int(str(done["keys_deleted"])) > 0
        assert await walk.values(client) == {b"again"}
        await walk.agree()
        await walk.rebalance()
        assert await walk.values(client) == {b"again"}


async def test_a_cluster_is_restored_from_the_day_when_it_owned_all_slots(tmp_path: Path) -> None:
    async with walking(tmp_path) as (walk, client, one, _):
        old_id = await walk.cluster_id(one)
        one.kill()
        back = await walk.restore("default", "d2")
        await walk.adopt("default", back, old_id)
        dry = await walk.admin("reconcile", "--dry-run", "-o", "json")
        (change,) = dry.json()["changes"]
        assert (change["cluster"], change["lost"], change["gained"]) == ("default", "2048-4095", "")
        await walk.reconciled()
        assert await walk.values(client) == {b"after", b"before"}, "of each slot its own cluster's"
        assert await walk.scanned(client) == len(KEYS)
        await walk.agree()
        await walk.rebalance("--empty", "default")  # it takes part in migrations again
        assert await walk.values(client) == {b"after", b"before"}


async def test_a_cluster_is_restored_from_before_its_slots_came(tmp_path: Path) -> None:
    async with walking(tmp_path) as (walk, client, _, two):
        old_id = await walk.cluster_id(two)
        two.kill()
        back = await walk.restore("orders", "o2")
        await walk.adopt("orders", back, old_id)
        slots = await walk.in_doubt()
        await walk.reconciled("--accept-loss", slots)
        assert await walk.values(client) == {b"after", b""}, "what orders held is lost"
        await walk.write(client, b"again")
        await walk.agree()
        await walk.rebalance("--empty", "orders")
        assert await walk.values(client) == {b"again"}


async def test_the_admin_group_is_restored_from_before_a_rebalance(tmp_path: Path) -> None:
    async with walking(tmp_path) as (walk, before, _, _):
        (group,) = list(walk.system.admins.servers.values())
        term = (await walk.system.admins.status(group)).header.term
        await walk.restored_admins("admins")
        (group,) = list(walk.system.admins.servers.values())
        # Migrators have the number of their term: one of the old group that is late is refused as one that was replaced.
        assert (await walk.system.admins.status(group)).header.term > term + 1_000_000
        await walk.system.seated("orders", "o1")
        answer = await walk.reconciled()
        assert (answer["done"], answer["slots_decided"], answer["losses"]) == (True, 2048, []), answer
        async with walk.client() as client:
            assert await walk.values(client) == {b"after"}, "nothing is lost"
            assert await walk.scanned(client) == len(KEYS)
            await walk.agree()
            await walk.rebalance("--empty", "default")
            assert await walk.values(client) == {b"after"}
        with pytest.raises(RavelError, match="cluster"):  # it means the group that was there before
            await before.put(b"new", b"", timeout_s=LOOK_S)


async def test_the_admin_group_is_lost_without_a_backup(tmp_path: Path) -> None:
    async with walking(tmp_path) as (walk, _, one, two):
        (gone,) = list(walk.system.admins.servers.values())
        gone.kill()
        one.terminate()
        two.terminate()
        del walk.system.admins.servers[gone.name]
        await walk.system.start_admins("a2")
        for name, server in (("default", one), ("orders", two)):
            walk.system.start(server.name)
            await walk.system.servers.answering(server)
            await walk.admin("add-cluster", name)
            listed = json.loads((await walk.admin("clusters", "-o", "json")).out)
            (entry,) = [cluster for cluster in listed["clusters"] if cluster["name"] == name]
            await walk.adopt(name, server, entry["cluster_id"])
        # A cluster that is new owns nothing of what is somebody's.
        walk.system.start("p1", "--new-cluster", "parts")
        await walk.system.seated("parts", "p1")
        answer = await walk.reconciled()
        assert (answer["done"], answer["slots_decided"], answer["losses"]) == (True, 4096, []), answer
        async with walk.client() as client:
            assert await walk.values(client) == {b"after"}, "nothing is lost"
            await walk.agree()
            await walk.rebalance()
            assert await walk.values(client) == {b"after"}
            assert await walk.scanned(client) == len(KEYS)


async def test_a_cluster_and_the_admin_group_are_restored_from_different_days(tmp_path: Path) -> None:
    async with walking(tmp_path) as (walk, client, one, two):
        await walk.save("later", next(iter(walk.system.admins.servers.values())))
        await walk.rebalance("--empty", "default")
        await walk.write(client, b"newest")
        old_id = await walk.cluster_id(one)
        one.kill()
        await walk.restored_admins("later")  # it gives default half of the slots, which it gave away since
        back = await walk.restore("default", "d2")  # from the day when it owned all
        await walk.adopt("default", back, old_id)
        await walk.system.seated("orders", two.name)
        answer = await walk.reconciled()
        assert (answer["done"], answer["losses"]) == (True, []), answer
        async with walk.client() as fresh:
            assert await walk.values(fresh) == {b"newest"}, "nothing is lost"
            await walk.agree()
            await walk.rebalance()
            assert await walk.values(fresh) == {b"newest"}
