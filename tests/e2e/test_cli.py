"""ravelctl against real daemons: what an operator types, what is printed, with which exit status."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import CALL_S, START_S, Cluster, running_cluster, until

pytestmark = pytest.mark.e2e


class Ran:
    """What one run of a command left."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    def json(self) -> Any:
        return json.loads(self.out)


async def ravelctl(cluster: Cluster, *arguments: str, stdin: str = "", **environment: str) -> Ran:
    command = [sys.executable, "-m", "ravelctl", *arguments]
    patience = {"RAVELCTL_TIMEOUT": f"{CALL_S:g}s"}
    env = {**os.environ, "RAVELCTL_ENDPOINTS": ",".join(cluster.endpoints), **patience, **environment}
    done = await asyncio.to_thread(
        subprocess.run, command, input=stdin, capture_output=True, text=True, timeout=START_S, env=env, check=False
    )
    return Ran(done)


async def carried_out(cluster: Cluster, *arguments: str) -> None:
    """A change that nothing is wrong with. It is refused for as long as a busy machine lets members look dead or far behind."""

    async def done() -> bool:
        ran = await ravelctl(cluster, *arguments)
        assert ran.status in (0, 5), ran.err
        return ran.status == 0

    await until(f"{arguments} is carried out", done, START_S)


async def test_an_operators_day(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        servers = [cluster.add(name) for name in ("n1", "n2", "n3")]
        for server in servers:
            server.start()
        for server in servers:
            await cluster.answering(server)

        blank = await ravelctl(cluster, "kv", "get", "k", "--timeout", "3s")
        assert blank.status != 0
        assert "bootstrap" in blank.err

        founded = await ravelctl(cluster, "bootstrap", *cluster.endpoints, "--name", "orders", "--yes")
        assert founded.status == 0, founded.err
        again = await ravelctl(cluster, "bootstrap", *cluster.endpoints, "--name", "orders", "--yes")
        assert again.status == 0, again.err

        status = await ravelctl(cluster, "status", "-o", "json")
        assert status.status == 0
        assert status.json()["cluster_name"] == "orders"
        assert [replica["name"] for replica in status.json()["replicas"]] == ["n1", "n2", "n3"]

        assert (await ravelctl(cluster, "kv", "put", "orders/17", "shipped")).status == 0
        assert (await ravelctl(cluster, "kv", "get", "orders/17")).out == "shipped\n"
        assert (await ravelctl(cluster, "kv", "put", "orders/18", "-", stdin="from stdin")).status == 0
        got = (await ravelctl(cluster, "kv", "get", "orders/18", "-o", "json")).json()
        assert got["value"] == "from stdin"
        swapped = await ravelctl(cluster, "kv", "cas", "orders/18", "new", "--revision", got["revision"])
        assert swapped.status == 0, swapped.err
        stale = await ravelctl(cluster, "kv", "cas", "orders/18", "newer", "--revision", got["revision"])
        assert stale.status == 1
        listed = (await ravelctl(cluster, "kv", "list", "orders/", "-o", "json")).json()
        assert [(item["key"], item["value"]) for item in listed["items"]] == [("orders/17", "shipped"), ("orders/18", "new")]
        assert (await ravelctl(cluster, "kv", "del", "orders/17")).status == 0
        assert (await ravelctl(cluster, "kv", "get", "orders/17")).status == 1

        log = await ravelctl(cluster, "log", "show", "--tail", "--limit", "4", "-o", "json")
        assert "orders/17" in json.dumps(log.json())

        saved = await ravelctl(cluster, "snapshot", "save", "--file", str(tmp_path / "s.rvsnap"))
        assert saved.status == 0, saved.err
        inspected = await ravelctl(cluster, "snapshot", "inspect", str(tmp_path / "s.rvsnap"))
        assert inspected.status == 0
        assert "orders" in inspected.out
        damaged = bytearray((tmp_path / "s.rvsnap").read_bytes())
        damaged[-100] ^= 1
        (tmp_path / "bad.rvsnap").write_bytes(damaged)
        assert (await ravelctl(cluster, "snapshot", "inspect", str(tmp_path / "bad.rvsnap"))).status == 8

        target = (await cluster.followers())[0]
        before = (await cluster.status(target)).header.term
        await carried_out(cluster, "leader", "transfer", target.name, "--yes")
        assert (await cluster.status(target)).header.term > before, "it has led since, if another one does not lead by now"

        fourth = cluster.add("n4")
        fourth.start()
        await cluster.answering(fourth)
        joined = await ravelctl(cluster, "join", fourth.address, "--via", cluster.endpoints[0], "--yes")
        assert joined.status == 0, joined.err
        assert "n4" in await cluster.voters()

        asked = await ravelctl(cluster, "leave", "n4")
        assert asked.status == 2, "no terminal and no --yes"
        assert "--yes" in asked.err
        await carried_out(cluster, "leave", "n4", "--yes")
        assert "n4" not in await cluster.voters()
        fourth.terminate()
        del cluster.servers["n4"]

        (await cluster.followers())[0].kill()
        await cluster.unheard()

        async def degraded() -> bool:
            return (await ravelctl(cluster, "status")).status == 7

        await until("status says that one is missing", degraded, START_S)
        refused = await ravelctl(cluster, "leave", (await cluster.followers())[0].name, "--yes")
        assert refused.status == 5
        assert "quorum" in refused.err
    finally:
        cluster.stop_all()


async def test_a_voter_is_replaced_and_a_leader_leaves(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        fourth = cluster.add("n4")
        fourth.start()
        await cluster.answering(fourth)
        old = (await cluster.followers())[0].name
        await carried_out(cluster, "member", "replace", old, "--with", fourth.address, "--yes")
        assert await cluster.voters() == {"n1", "n2", "n3", "n4"} - {old}
        cluster.servers.pop(old).terminate()

        demoted = next(server.name for server in await cluster.followers() if server.name != old)
        await carried_out(cluster, "member", "demote", demoted)
        assert demoted not in await cluster.voters()
        await carried_out(cluster, "member", "promote", demoted)
        assert demoted in await cluster.voters()

        await carried_out(cluster, "leader", "stepdown", "--yes")
        leader = (await cluster.leader()).name
        await carried_out(cluster, "leave", leader, "--yes")
        assert leader not in await cluster.voters()


async def test_nobody_there_and_no_quorum(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        for follower in await cluster.followers():
            follower.kill()

        async def no_quorum() -> bool:
            return (await ravelctl(cluster, "status")).status == 4

        await until("status says that there is no quorum", no_quorum, START_S)
        written = await ravelctl(cluster, "kv", "put", "k", "v", "--timeout", "2s")
        assert written.status in (4, 6), written.err
        for server in cluster.servers.values():
            server.kill()
        assert (await ravelctl(cluster, "status")).status == 3
        assert (await ravelctl(cluster, "kv", "get", "k", "--timeout", "1s")).status == 3


async def test_the_playground(tmp_path: Path) -> None:
    nobody = Cluster(tmp_path)
    folder = str(tmp_path / "playground")
    try:
        up = await ravelctl(nobody, "playground", "up", "--dir", folder)
        assert up.status == 0, up.err
        assert "the current context is playground now" in up.out
        assert (await ravelctl(nobody, "kv", "put", "k", "v")).status == 0
        killed = await ravelctl(nobody, "playground", "kill", "leader", "--dir", folder)
        assert killed.status == 0, killed.err

        async def led_again() -> bool:
            return (await ravelctl(nobody, "kv", "get", "k")).out == "v\n"

        await until("the others lead and hold the key", led_again, START_S)
        name = killed.out.split()[1]
        assert (await ravelctl(nobody, "playground", "start", name, "--dir", folder)).status == 0
    finally:
        down = await ravelctl(nobody, "playground", "down", "--purge", "--dir", folder)
    assert down.status == 0, down.err
    assert "the context playground is gone" in down.err
    assert not (tmp_path / "playground").exists()
