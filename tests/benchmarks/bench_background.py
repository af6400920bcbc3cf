"""What flushes, compactions and snapshot builds cost those who put meanwhile: the p99 with them, beside the p99 without.

    python -m tests.benchmarks.bench_background [--seconds 5] [--rounds 3] [--mib 256]

Three daemons, each with a state of some size. 64 callers put through one client. In quiet rounds nothing else runs (but the
flush that each second brings); in busy ones the log is kept short, so that compactions run all the time, segments are a quarter
of their size, and the leader builds one snapshot after the other. The two clusters are up at once and take turns, so that the
machine's moods are fair to both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter

from ravelctl.client import InspectClient, RavelClient, RavelError
from tests.benchmarks.bench_put import VALUE, key
from tests.e2e.cluster import Cluster, running_cluster

CALLERS = 64
BUSY = ("--segment-bytes-max", "1MiB", "--log-retain-entries", "100")


async def latencies(client: RavelClient, seconds: float) -> list[float]:
    """Of every put of a closed loop, in seconds, ascending."""
    found: list[float] = []
    end = perf_counter() + seconds

    async def caller(number: int) -> None:
        while (began := perf_counter()) < end:
            await client.put(key(number), VALUE)
            found.append(perf_counter() - began)
            number += CALLERS

    await asyncio.gather(*map(caller, range(CALLERS)))
    return sorted(found)


async def build_snapshots(address: str) -> int:
    """One after the other until cancelled."""
    built = 0
    async with InspectClient() as client:
        try:
            while True:
                await client.save_snapshot(address, timeout_s=60.0)
                built += 1
        except (asyncio.CancelledError, RavelError):
            return built


async def busy(cluster: Cluster, client: RavelClient, seconds: float) -> tuple[list[float], int]:
    builder = asyncio.create_task(build_snapshots((await cluster.leader()).address))
    try:
        found = await latencies(client, seconds)
    finally:
        builder.cancel()
    return found, await builder


async def grow(client: RavelClient, mib: int) -> None:
    value = b"v" * 65_536
    for first in range(0, mib * 16, 64):
        await asyncio.gather(*(client.put(f"fill/{number}".encode(), value) for number in range(first, first + 64)))


async def measure(seconds: float, rounds: int, mib: int) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ravel-bench-")))
        (folder / "quiet").mkdir()
        (folder / "busy").mkdir()
        still = await stack.enter_async_context(running_cluster(folder / "quiet"))
        driven = await stack.enter_async_context(running_cluster(folder / "busy", flags=BUSY))
        ours = [await stack.enter_async_context(RavelClient(each.endpoints, timeout_s=30.0)) for each in (still, driven)]
        for client in ours:
            await grow(client, mib)
        pairs = []
        built = 0
        for _ in range(rounds):
            calm = await latencies(ours[0], seconds)
            hard, more = await busy(driven, ours[1], seconds)
            built += more
            pairs.append((_p99(calm), _p99(hard)))
            print(f"quiet: {_told(calm)}   busy: {_told(hard)}")
    ratio = statistics.median(hard / calm for calm, hard in pairs)
    print(f"p99 under flushes, compactions and {built} snapshot builds: {ratio:.2f} times the p99 without")


def _p99(found: Sequence[float]) -> float:
    return found[len(found) * 99 // 100]


def _told(found: Sequence[float]) -> str:
    return f"{len(found):6,} puts, p50 {found[len(found) // 2] * 1e3:6.1f} ms, p99 {_p99(found) * 1e3:6.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=256)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.seconds, arguments.rounds, arguments.mib))


if __name__ == "__main__":
    main()
