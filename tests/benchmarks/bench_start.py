"""How long a replica takes from its start until it is ready, with a million keys and a log of 100,000 entries; and what it holds.

    python -m tests.benchmarks.bench_start [--keys 1000000] [--entries 100000] [--rounds 5]

It is alone in its cluster: ready means that it has opened and checked its directory and elected itself. The times are of the
process, from fork to the first answer, and to the first that says ready. It is killed each time, so that it never ends in order.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from itertools import chain
from pathlib import Path
from time import perf_counter

from ravelctl.client import ClusterClient, RavelError
from tests.benchmarks.filling import fill, puts
from tests.benchmarks.processes import anonymous_bytes
from tests.e2e.cluster import Cluster, Server

VALUE = b"v" * 100


async def first_answer(server: Server, *, ready: bool) -> float:
    async with ClusterClient([server.address]) as client:
        while True:
            try:
                status = await client.status(server.address, timeout_s=1.0)
                if status.ready or not ready:
                    return perf_counter()
            except RavelError:
                pass
            await asyncio.sleep(0.01)


async def measure(keys: int, entries: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ravel-bench-") as path:
        cluster = Cluster(Path(path), ["--log-retain-entries", str(2 * entries)])
        server = cluster.add("n1")
        try:
            server.start()
            await cluster.bootstrap(server)
            idle = anonymous_bytes(server.pid)
            server.terminate()
            began = perf_counter()
            many = max(keys - entries, 0)
            await fill(server.data_dir, chain(puts(many, VALUE, a_payload=1_000), puts(entries, VALUE, a_payload=1, first=many)))
            print(f"filled with {keys:,} keys in {perf_counter() - began:.0f} s")
            answered, ready = [], []
            for _ in range(rounds):
                began = perf_counter()
                server.start()
                answered.append(await first_answer(server, ready=False) - began)
                ready.append(await first_answer(server, ready=True) - began)
                status = await cluster.status(server)
                held = anonymous_bytes(server.pid)
                server.kill()
        finally:
            cluster.stop_all()
    log = status.last_index - status.first_index + 1
    print(f"log of {log:,} entries, revision {status.revision:,}, state {status.db_used_bytes >> 20} MiB")
    print(f"answers after {_told(answered)}; ready, its own election included, after {_told(ready)}")
    print(f"anonymous memory: idle and empty {idle >> 20} MiB, started with all of it {held >> 20} MiB")


def _told(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.keys, arguments.entries, arguments.rounds))


if __name__ == "__main__":
    main()
