"""`make demo`: three real daemons, real data, a leader killed, a fourth replica; then clusters with an admin group, a third one
added under writers, HTTP. Exits 0 only if nothing was lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ravelctl.client import RavelClient
from tests.e2e import demo_system
from tests.e2e.cluster import Cluster, until

WORKERS = 32
PUTS_EACH = 40


def say(text: str) -> None:
    print(f"\n── {text}", flush=True)


def ravelctl(cluster: Cluster, *arguments: str) -> None:
    """Run a command as an operator would, and show what it prints."""
    print(f"$ ravelctl {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "ravelctl", "--endpoints", ",".join(cluster.endpoints), *arguments], check=False)


async def write(client: RavelClient, round_name: str) -> dict[bytes, bytes]:
    """Concurrent puts; returns what was acknowledged."""
    acknowledged: dict[bytes, bytes] = {}

    async def worker(number: int) -> None:
        for count in range(PUTS_EACH):
            key, value = f"{round_name}/{number:02}/{count:03}".encode(), f"{number * count}".encode()
            await client.put(key, value)
            acknowledged[key] = value

    began = time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(WORKERS)))
    took = time.perf_counter() - began
    print(f"{len(acknowledged)} puts acknowledged in {took:.2f} s ({len(acknowledged) / took:,.0f}/s)")
    return acknowledged


async def lost(client: RavelClient, acknowledged: dict[bytes, bytes]) -> int:
    there = {item.key: item.value async for item in client.scan()}
    return sum(there.get(key) != value for key, value in acknowledged.items())


async def demo(folder: Path) -> int:
    cluster = Cluster(folder)
    try:
        say("three daemons, one cluster")
        servers = [cluster.add(name) for name in ("n1", "n2", "n3")]
        for server in servers:
            server.start()
        for server in servers:
            await cluster.answering(server)
        ravelctl(cluster, "bootstrap", *(server.address for server in servers), "--name", "demo", "--yes")
        async with cluster.client(timeout_s=15.0) as client:
            say("writing and reading")
            acknowledged = await write(client, "before")
            print(f"{await lost(client, acknowledged)} of them are missing")

            leader = await cluster.leader()
            say(f"killing the leader, {leader.name}, with SIGKILL while writing")
            writing = asyncio.create_task(write(client, "during"))
            await asyncio.sleep(0.1)
            killed_at = time.perf_counter()
            leader.kill()
            after = await cluster.leader()
            print(f"{after.name} leads after {time.perf_counter() - killed_at:.2f} s")
            acknowledged |= await writing
            missing = await lost(client, acknowledged)
            print(f"{missing} of {len(acknowledged)} acknowledged puts are missing")

            say(f"{leader.name} comes back, and a fourth replica joins")
            leader.start()
            fourth = cluster.add("n4")
            fourth.start("--join", after.address)

            async def four_voters() -> bool:
                return len(await cluster.voters()) == 4

            await until("the fourth replica is a voter", four_voters, 20.0)
            await cluster.caught_up(leader)
            await cluster.caught_up(fourth)
            ravelctl(cluster, "status")
            missing += await lost(client, acknowledged)
        say("stopping them")
        statuses = [await asyncio.to_thread(server.terminate) for server in cluster.servers.values()]
        print(f"exit statuses {statuses}")
    finally:
        cluster.stop_all()
    missing += await demo_system.demo(folder, say)
    print(f"{missing} acknowledged puts lost")
    return 0 if missing == 0 and not any(statuses) else 1


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ravel-demo-") as folder:
        return asyncio.run(demo(Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
