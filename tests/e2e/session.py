"""Records the session that the pictures of docs/top.md are made from: a real cluster under load, an election, a newcomer.

python -m tests.e2e.session FILE       # about a minute; then `make pictures`
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from ravelctl.cli.app import App
from ravelctl.client import ClusterClient, InspectClient, RavelClient, RavelError
from ravelctl.dashboard.headless import record
from ravelctl.dashboard.session import Options, Target
from tests.e2e.cluster import Cluster

FLAGS = ("--log-retain-entries", "200")
CALM_S = 20.0
DOWN_S = 10.0
AFTER_S = 12.0
WRITERS = 6


async def _write(client: RavelClient, number: int) -> None:
    """One caller, now quick, now slow, until it is cancelled."""
    chance = random.Random(number)
    while True:
        pace_s = chance.choice((0.0, 0.002, 0.01, 0.05))
        for _ in range(200):
            with suppress(RavelError):
                await client.put(b"orders/%06d" % chance.randrange(50_000), b"x" * chance.randrange(100, 4_000))
                await client.get(b"orders/%06d" % chance.randrange(50_000))
            await asyncio.sleep(pace_s)


async def _play(cluster: Cluster) -> None:
    """What happens: writes, a killed leader that comes back, a fourth replica."""
    async with cluster.client() as client:
        writers = [asyncio.create_task(_write(client, number)) for number in range(WRITERS)]
        await asyncio.sleep(CALM_S)
        leader = await cluster.leader()
        leader.kill()
        await asyncio.sleep(DOWN_S)
        leader.start()
        await cluster.answering(leader)
        await asyncio.sleep(AFTER_S)
        newcomer = cluster.add("n4")
        newcomer.start("--join", cluster.endpoints[1])
        await cluster.answering(newcomer)
        await asyncio.sleep(AFTER_S)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)


async def main(file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), FLAGS)
        servers = [cluster.add(name) for name in ("n1", "n2", "n3")]
        try:
            for server in servers:
                server.start()
            await cluster.bootstrap(*servers, name="orders")
            target = Target(tuple(cluster.endpoints), lambda endpoints: ClusterClient(tuple(endpoints)), InspectClient)
            recording = asyncio.create_task(record(App(), Options(target), file, CALM_S + DOWN_S + 2 * AFTER_S + 5))
            await _play(cluster)
            print((await recording).body)
        finally:
            cluster.stop_all()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
