"""How long a rebalance takes under load: all keys of one cluster move to another one while a client puts at a steady rate.

    python -m tests.benchmarks.bench_rebalance [--keys 1000000] [--value 100] [--puts 200] [--replicas 1]

Real daemons on loopback: one admin server and two clusters. The first cluster owns every slot and is emptied, so every key moves.
Puts start on a fixed schedule, whether earlier ones have been answered or not, and a put's time begins with its place in the
schedule: a stall counts for every put that it delays.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from ravelctl.client import Put, RavelClient
from tests.benchmarks.bench_move import two_clusters
from tests.benchmarks.processes import cpu_seconds
from tests.e2e.admins import System

WRITE_KEYS = 512
WRITES_AT_ONCE = 4
SETTLE_S = 3.0
"""How long the load runs before the rebalance begins and after it has ended."""


async def fill(client: RavelClient, keys: Sequence[bytes], value: bytes) -> None:
    waiting = [keys[first : first + WRITE_KEYS] for first in range(0, len(keys), WRITE_KEYS)]

    async def work() -> None:
        while waiting:
            for group in client.groups(waiting.pop()):
                await client.write([Put(key, value) for key in group], timeout_s=60.0)

    await asyncio.gather(*(work() for _ in range(WRITES_AT_ONCE)))


class Load:
    """Puts on a fixed schedule."""

    def __init__(self, client: RavelClient, keys: Sequence[bytes], value: bytes, rate: float) -> None:
        self._client, self._keys, self._value, self._rate = client, keys, value, rate
        self.done: list[tuple[float, float]] = []  # when each put was due, and how long it took from then

    async def run(self) -> None:
        rng = random.Random(1)
        due = perf_counter()
        async with asyncio.TaskGroup() as puts:
            while True:
                puts.create_task(self._put(rng.choice(self._keys), due))
                due += 1 / self._rate
                await asyncio.sleep(max(0.0, due - perf_counter()))

    async def _put(self, key: bytes, due: float) -> None:
        await self._client.put(key, self._value, timeout_s=30.0)
        self.done.append((due, perf_counter() - due))

    def report(self, since: float, until: float) -> str:
        took = [took for due, took in self.done if since <= due <= until]
        if len(took) < 2:
            return "no puts"
        p99, p999 = quantiles(took, n=1000)[989], quantiles(took, n=1000)[998]
        slow = sum(one > 0.2 for one in took)
        numbers = (median(took), p99, p999, max(took))
        shown = ", ".join(
            f"{name} {one * 1000:.1f} ms" for name, one in zip(("median", "p99", "p99.9", "longest"), numbers, strict=True)
        )
        return f"{len(took)} puts, {shown}, {slow} above 200 ms"


async def rebalance(system: System) -> tuple[float, int]:
    """Empty the first cluster. Return how many seconds that took, and how many keys were copied."""
    began, keys = perf_counter(), 0
    async with system.client(timeout_s=60.0) as admin, aclosing(admin.rebalance(["default"])) as messages:
        async for message in messages:
            keys = max(keys, message.keys_moved)
    return perf_counter() - began, keys


def pids(system: System) -> dict[str, int]:
    return {
        "admin": system.admins.servers["a1"].pid,
        "source": system.servers.servers["n1"].pid,
        "destination": system.servers.servers["m1"].pid,
        "client": os.getpid(),
    }


async def measure(keys: int, value_bytes: int, rate: float, replicas: int, announce: bool) -> None:
    names = [b"user/%09d" % number for number in range(keys)]
    value = b"v" * value_bytes
    with tempfile.TemporaryDirectory(prefix="ravel-bench-") as folder:
        async with two_clusters(Path(folder), replicas) as system, RavelClient(admin=system.admins.endpoints) as client:
            began = perf_counter()
            await fill(client, names, value)
            print(f"filled in {perf_counter() - began:.1f} s; load average {os.getloadavg()[0]:.1f}", flush=True)
            if announce:
                print("pids", pids(system), flush=True)
            load = Load(client, names, value, rate)
            putting = asyncio.create_task(load.run()) if rate else None
            await asyncio.sleep(SETTLE_S)
            since, used = perf_counter(), {name: cpu_seconds(pid) for name, pid in pids(system).items()}
            took, copied = await rebalance(system)
            until = perf_counter()
            spent = {name: cpu_seconds(pid) - used[name] for name, pid in pids(system).items()}
            await asyncio.sleep(SETTLE_S)
            if putting is not None:
                putting.cancel()
                await asyncio.gather(putting, return_exceptions=True)
            print(f"{keys} keys of {value_bytes} bytes, {replicas} replicas a cluster, {rate:g} puts/s")
            print(
                f"rebalance: {took:.1f} s, {copied} keys copied, {keys / took:.0f} keys/s; load average {os.getloadavg()[0]:.1f}"
            )
            print("processor seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items()))
            print(f"before it: {load.report(0.0, since)}")
            print(f"during it: {load.report(since, until)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="how long a rebalance of many keys takes under load")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value", type=int, default=100, help="bytes of a value")
    parser.add_argument("--puts", type=float, default=200.0, help="puts per second meanwhile")
    parser.add_argument("--replicas", type=int, default=1, help="of each cluster")
    parser.add_argument("--pids", action="store_true", help="print the process ids, for a profiler")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.keys, arguments.value, arguments.puts, arguments.replicas, arguments.pids))


if __name__ == "__main__":
    main()
