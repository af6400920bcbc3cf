"""How long a new replica takes to get a large state from its leader, what both hold in memory, whether the cluster stays calm.

    python -m tests.benchmarks.bench_snapshot [--mib 1024]

A cluster of one holds that much; a second daemon joins it. Told: the time from `join` until the learner has applied what the
leader had, the time until it votes, the most anonymous memory (RssAnon) of either meanwhile, and the terms that have passed.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from time import perf_counter

from ravelctl.client import ClusterClient, RavelError
from tests.benchmarks.filling import fill, puts
from tests.benchmarks.processes import anonymous_bytes
from tests.e2e.cluster import Cluster, Server

VALUE_BYTES = 4_000  # with its header it fills one page
GIVE_UP_S = 600.0


async def measure(mib: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ravel-bench-") as path:
        cluster = Cluster(Path(path))
        leader, joiner = cluster.add("n1"), cluster.add("n2")
        try:
            leader.start()
            await cluster.bootstrap(leader)
            leader.terminate()
            await fill(leader.data_dir, puts((mib << 20) // VALUE_BYTES, b"v" * VALUE_BYTES, a_payload=200))
            leader.start()
            await cluster.leader()
            joiner.start()
            await cluster.answering(joiner)
            await _join(cluster, leader, joiner)
        finally:
            cluster.stop_all()


async def _join(cluster: Cluster, leader: Server, joiner: Server) -> None:
    before = await cluster.status(leader)
    peaks = {server.name: anonymous_bytes(server.pid) for server in (leader, joiner)}
    caught_up = 0.0
    began = perf_counter()
    async with ClusterClient([leader.address]) as client:
        await client.join(joiner.address, [leader.address], promote=True)
        while perf_counter() - began < GIVE_UP_S:
            for server in (leader, joiner):
                peaks[server.name] = max(peaks[server.name], anonymous_bytes(server.pid))
            try:
                status = await client.status(joiner.address)
            except RavelError:
                continue
            if not caught_up and status.applied_index >= before.commit_index:
                caught_up = perf_counter() - began
            if caught_up and len(await cluster.voters()) == 2:
                break
            await asyncio.sleep(0.05)
        else:
            raise SystemExit(f"not caught up and promoted within {GIVE_UP_S:.0f} s: {joiner.log[-2000:]}")
    promoted = perf_counter() - began
    after = await cluster.status(leader)
    print(f"state {before.db_used_bytes >> 20} MiB: caught up after {caught_up:.1f} s, a voter after {promoted:.1f} s")
    print(f"anonymous memory at most: leader {peaks[leader.name] >> 20} MiB, joiner {peaks[joiner.name] >> 20} MiB")
    print(f"elections meanwhile: {after.header.term - before.header.term}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1_024)
    asyncio.run(measure(parser.parse_args().mib))


if __name__ == "__main__":
    main()
