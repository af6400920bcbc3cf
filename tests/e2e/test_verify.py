"""`ravelctl verify` on real clusters: a healthy one, one with a replica that answers stale, and one where it is interrupted."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from ravelctl.client import ClusterClient
from tests.e2e.cluster import CALL_S, START_S, STEADY, Cluster, running_cluster, until
from tests.faults.proxy import Network

STALE = Path(__file__).with_name("stale_daemon.py")
LATE_S = 1.0
"""So much later the stale replica hears of everything: whoever reads there after a write finds what was before it, also on a
machine that is too busy to read soon."""


async def verify(cluster: Cluster, *words: str, interrupt: bool = False) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "ravelctl", "verify", "-e", ",".join(cluster.endpoints), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    if interrupt:
        await until("it has begun to write", lambda: scratch(cluster), START_S)
        process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 180)
    return process.returncode or 0, out.decode(), err.decode()


async def scratch(cluster: Cluster) -> list[bytes]:
    """What there is of any run."""
    async with cluster.client() as client:
        return [item.key async for item in client.scan(prefix=b".ravelctl-verify/")]


async def test_a_healthy_cluster_passes_and_is_left_as_it_was(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        async with cluster.client() as client:
            await client.put(b"mine", b"kept")
        code, out, err = await verify(cluster, "--seconds", "5s", "-o", "json")
        assert code == 0, (out, err)
        told = json.loads(out)
        assert told["verdict"] == "linearizable"
        assert told["cleaned_up"]
        assert {"put", "get", "compare_and_swap", "delete", "stale_get"} <= told["operations"].keys()
        assert all(told["operations"][kind]["done"] for kind in ("put", "get", "compare_and_swap", "delete", "stale_get"))
        assert told["answered_reads"].keys() == {"n1", "n2", "n3"}
        assert all(told["answered_reads"].values())  # followers answered stale reads at least
        assert not await scratch(cluster)
        async with cluster.client() as client:
            assert (await client.get(b"mine")).value == b"kept"  # type: ignore[union-attr]

        code, out, err = await verify(cluster, "--seconds", "60s", interrupt=True)
        assert code == 130, (out, err)
        assert "interrupted" in err
        assert not await scratch(cluster)


async def test_a_replica_that_answers_stale_fails_it(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, STEADY)
    network = Network(lambda: {name: server.pid for name, server in cluster.servers.items() if server.running})
    try:
        servers = [cluster.add(name) for name in ("n1", "n2", "n3")]
        servers[2].program = [str(STALE)]
        servers[2].flags += ["--peer-advertise", await network.front("n3", servers[2].peer_address)]
        for server in servers:
            server.start()
        await cluster.bootstrap(*servers)
        if await cluster.leader() is servers[2]:
            async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as client:
                await client.transfer_leader((await cluster.status(servers[0])).header.replica_id)
        for other in ("n1", "n2"):
            network.slow(other, "n3", LATE_S)
        code, out, err = await verify(cluster, "--seconds", "4s", "--keys", "3", "--clients", "6")
        assert code == 8, (out, err)
        assert "verdict: not linearizable" in out
        assert "no order of the operations on it gives" in out
        assert "at n3" in out  # whose answers show it
        assert not await scratch(cluster)
    finally:
        cluster.stop_all()
        await network.close()
