"""Data directories that are put back from a copy, or started twice: the others notice, name them, and lose nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ravelctl.client import RavelError
from ravelpb.v1 import cluster_pb2
from tests.e2e.cluster import START_S, Cluster, Server, running_cluster, until

pytestmark = pytest.mark.e2e


def ravelctl(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ravelctl", *words, "--endpoints", ",".join(cluster.endpoints)]
    environment = {**os.environ, "RAVELCTL_CONFIG": os.devnull}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


async def put(cluster: Cluster, first: int, count: int) -> None:
    async with cluster.client() as client:
        for number in range(first, first + count):
            await client.put(b"key/%d" % number, b"value of %d" % number)


async def all_there(cluster: Cluster, count: int) -> None:
    async with cluster.client() as client:
        for number in range(count):
            found = await client.get(b"key/%d" % number)
            assert found is not None, f"key/{number} was acknowledged and is gone"
            assert found.value == b"value of %d" % number


async def a_follower(cluster: Cluster) -> Server:
    return (await cluster.followers())[0]


async def alarmed(cluster: Cluster, code: str, about: str) -> str:
    """Wait until somebody raises this alarm about that member; return what it says."""

    async def look() -> str | None:
        for server in cluster.servers.values():
            if not server.running:
                continue
            try:
                status = await cluster.status(server, 5.0)
            except RavelError:
                continue
            for alarm in status.alarms:
                if alarm.code == code and about in alarm.message:
                    return str(alarm.message)
        return None

    return await until(f"{code} is raised about {about}", look, START_S)


def put_back(server: Server, backup: Path) -> None:
    server.kill()
    shutil.rmtree(server.data_dir)
    shutil.copytree(backup, server.data_dir)
    server.log_path.unlink()
    server.start()


async def stays_out(cluster: Cluster, server: Server) -> None:
    """Wait until the restored replica says itself that it takes no part, and serves nothing."""

    async def said() -> bool:
        return "daemon.expelled" in server.log

    await until(f"{server.name} reports that it is kept out", said, START_S)
    async with cluster.client() as client:
        client_status = await cluster.status(server)
        assert client_status.role != cluster_pb2.LEADER
        assert any(alarm.code == "RV614" for alarm in client_status.alarms)
        del client


async def test_a_directory_from_before_the_last_start_is_refused_and_the_server_comes_back_with_one_command(
    tmp_path: Path,
) -> None:
    async with running_cluster(tmp_path) as cluster:
        await put(cluster, 0, 20)
        restored = await a_follower(cluster)
        await cluster.caught_up(restored)
        restored.terminate()
        backup = tmp_path / "backup"
        shutil.copytree(restored.data_dir, backup)
        restored.start()
        await cluster.answering(restored)
        await put(cluster, 20, 20)
        await cluster.caught_up(restored)
        put_back(restored, backup)
        said = await alarmed(cluster, "RV614", restored.name)
        assert f"`ravelctl member replace {restored.name}`" in said
        await stays_out(cluster, restored)
        await all_there(cluster, 40)

        # It can neither be elected, nor help another one: the old leader is needed, and is back with everything.
        leader = await cluster.leader()
        leader.kill()
        leader.start()
        await cluster.leader()
        await all_there(cluster, 40)

        dry = ravelctl(cluster, "member", "replace", restored.name, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        ran = ravelctl(cluster, "member", "replace", restored.name, "--yes")
        assert ran.returncode == 0, ran.stderr
        assert await cluster.voters() == {"n1", "n2", "n3"}
        await cluster.caught_up(restored)
        assert (restored.data_dir / "old-1" / "raft").is_dir()
        await all_there(cluster, 40)
        healthy = ravelctl(cluster, "status", "-o", "json")
        assert not [alarm for alarm in json.loads(healthy.stdout)["alarms"] if alarm["code"] == "RV614"]


@pytest.mark.skipif(sys.platform != "linux", reason="a process is frozen with SIGSTOP to copy its files")
async def test_a_directory_from_the_same_start_is_refused_for_what_it_had_acknowledged(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await put(cluster, 0, 20)
        restored = await a_follower(cluster)
        await cluster.caught_up(restored)
        restored.pause()
        backup = tmp_path / "backup"
        shutil.copytree(restored.data_dir, backup)
        restored.resume()
        await put(cluster, 20, 20)
        await cluster.caught_up(restored)
        put_back(restored, backup)
        said = await alarmed(cluster, "RV614", restored.name)
        assert "has acknowledged entry" in said
        await stays_out(cluster, restored)
        await all_there(cluster, 40)


async def test_a_replica_that_takes_part_is_not_emptied(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await put(cluster, 0, 3)
        ran = ravelctl(cluster, "member", "replace", "n2", "--yes")
        assert ran.returncode == 5
        assert "takes part in cluster test" in ran.stderr
        assert await cluster.voters() == {"n1", "n2", "n3"}
        await all_there(cluster, 3)


async def test_a_copy_of_a_running_servers_directory_does_not_take_its_seat(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await put(cluster, 0, 10)
        original = await a_follower(cluster)
        await cluster.caught_up(original)
        original.terminate()
        copy = Server(tmp_path, f"{original.name}-copy")
        shutil.copytree(original.data_dir, copy.data_dir)
        original.start()
        await cluster.answering(original)
        await put(cluster, 10, 10)
        copy.flags = []
        copy.start("--name", original.name)
        try:
            said = await alarmed(cluster, "RV410", original.name)
            assert copy.peer_address in said

            async def kept_out() -> bool:
                return "daemon.expelled" in copy.log

            await until("the copy reports that it is kept out", kept_out, START_S)
            status = await cluster.status(await cluster.leader())
            addresses = {member.server.name: member.server.addresses.peer for member in status.members}
            assert addresses[original.name] == original.peer_address
            await put(cluster, 20, 10)
            await cluster.caught_up(original)
            await all_there(cluster, 30)
            assert copy.log.count("\n") < 60, "the copy floods its log"
        finally:
            copy.kill()


async def test_a_server_that_has_moved_is_no_copy(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await put(cluster, 0, 10)
        moved = await a_follower(cluster)
        old = moved.peer_address
        moved.terminate()
        elsewhere = Server(tmp_path, "elsewhere")
        moved.address, moved.peer_address = elsewhere.address, elsewhere.peer_address
        moved.start()

        async def recorded() -> bool:
            status = await cluster.status(await cluster.leader())
            addresses = {member.server.name: member.server.addresses.peer for member in status.members}
            return addresses[moved.name] == moved.peer_address != old

        await until("the new address is recorded", recorded, START_S)
        await put(cluster, 10, 10)
        await cluster.caught_up(moved)
        await all_there(cluster, 20)


async def test_leases_are_turned_off_for_the_whole_cluster(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await put(cluster, 0, 3)

        async def lease_ms() -> int:
            return (await cluster.status(await cluster.leader())).lease_remaining_ms

        async def leased() -> bool:
            return await lease_ms() > 0

        await until("the leader holds a lease", leased, START_S)
        ran = ravelctl(cluster, "settings", "set", "leases", "off")
        assert ran.returncode == 0, ran.stderr
        assert await lease_ms() == 0
        await all_there(cluster, 3)
        (await cluster.leader()).kill()
        assert await lease_ms() == 0, "a new leader follows the setting too"
        await all_there(cluster, 3)
        refused = ravelctl(cluster, "settings", "set", "leases", "maybe")
        assert refused.returncode == 2
        assert "one of on, off" in refused.stderr
        assert "leases" in ravelctl(cluster, "settings", "list").stdout
