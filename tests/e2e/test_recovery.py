"""Backups and disasters with real daemons: what comes back is another cluster, with what was acknowledged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.cluster import START_S, Cluster, Server, running_cluster, until
from tests.e2e.test_cli import ravelctl

pytestmark = pytest.mark.e2e


async def started(cluster: Cluster, server: Server) -> None:
    server.start()
    await cluster.answering(server)
    await cluster.leader()


async def test_a_backup_becomes_a_cluster_that_others_join(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    async with running_cluster(tmp_path / "old", ["n1"]) as old:
        async with old.client() as client:
            for number in range(50):
                await client.put(b"orders/%d" % number, b"v%d" % number)
            changed = await client.put(b"orders/7", b"before")
        saved = await ravelctl(old, "snapshot", "save", "--file", str(tmp_path / "s.rvsnap"))
        assert saved.status == 0, saved.err
        async with old.client() as client:
            lost = await client.put(b"orders/7", b"after the backup")

        new = Cluster(tmp_path / "new")
        (tmp_path / "new").mkdir()
        try:
            first = new.add("a1")
            restored = await ravelctl(
                old,
                "snapshot",
                "restore",
                str(tmp_path / "s.rvsnap"),
                "--data-dir",
                str(first.data_dir),
                "--name",
                "a1",
                "-o",
                "json",
            )
            assert restored.status == 0, restored.err
            await started(new, first)
            second = new.add("a2")
            second.start()
            await new.answering(second)
            joined = await ravelctl(new, "join", second.address, "--via", first.address, "--yes")
            assert joined.status == 0, joined.err
            assert await new.voters() == {"a1", "a2"}
            async with new.client() as client:
                assert (await client.get(b"orders/49")) is not None
                swapped = await ravelctl(new, "kv", "cas", "orders/7", "x", "--revision", str(lost.revision))
                assert swapped.status == 1, "a revision of what came after the backup must not fit"
                written = await client.put(b"orders/8", b"new")
                assert written.revision > lost.revision + 1_000_000
                assert lost.revision > changed.revision
            status = (await ravelctl(new, "status", "-o", "json")).json()
            assert status["cluster_id"] == restored.json()["cluster"]
        finally:
            new.stop_all()


async def test_a_lost_quorum_is_recovered_and_the_old_members_stay_out(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        async with cluster.client() as client:
            for number in range(40):
                await client.put(b"k%d" % number, b"v")
        for server in cluster.servers.values():
            await cluster.caught_up(server)
        survivor, *dead = cluster.servers.values()
        for server in dead:
            server.kill()
        planned = await ravelctl(cluster, "recover", "plan", survivor.address, "-o", "json")
        assert (planned.status, planned.json()["has_quorum"]) == (0, False), planned.err
        old_id = planned.json()["cluster"]
        target = tmp_path / "recovered"
        confirm = ["--to", str(target), "--yes", "--confirm", old_id]
        running = await ravelctl(cluster, "recover", "apply", str(survivor.data_dir), *confirm)
        assert (running.status, "has" in running.err and "open" in running.err) == (5, True)
        survivor.kill()
        planned = await ravelctl(cluster, "recover", "plan", str(survivor.data_dir))
        assert planned.status == 0, planned.err
        applied = await ravelctl(cluster, "recover", "apply", str(survivor.data_dir), *confirm)
        assert applied.status == 0, applied.err

        new = Cluster(tmp_path)
        try:
            # On the old address, which the old members dial.
            survivor.data_dir.rename(tmp_path / "kept")
            target.rename(survivor.data_dir)
            new.servers[survivor.name] = survivor
            await started(new, survivor)
            async with new.client() as client:
                for number in range(40):
                    assert (await client.get(b"k%d" % number)) is not None
            dead[0].start()

            async def refused() -> bool:
                return "WRONG_CLUSTER_ID" in dead[0].log

            await until("the old member is told that this is another cluster", refused, START_S)
            status = await new.status(survivor)
            assert [member.server.name for member in status.members] == [survivor.name]
            assert status.header.cluster_id != old_id
            third = new.add("n9")
            third.start()
            await new.answering(third)
            joined = await ravelctl(new, "join", third.address, "--via", survivor.address, "--yes")
            assert joined.status == 0, joined.err
            assert await new.voters() == {survivor.name, "n9"}
        finally:
            new.stop_all()
