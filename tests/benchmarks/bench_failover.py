"""How long writes stand still when the leader dies: from its kill -9 to the next acknowledged put, beside etcd where installed.

    python -m tests.benchmarks.bench_failover [--rounds 10] [--no-etcd]

Default timeouts on both. One client keeps putting, one call after the other; the killed member is started again before the next
round. Rounds alternate between the two systems.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc

from ravelctl.client import RavelClient
from ravelpb.v1 import kv_pb2
from tests.benchmarks import etcd
from tests.e2e.cluster import Cluster, running_cluster


async def of_ravel(cluster: Cluster) -> float:
    leader = await cluster.leader()
    async with RavelClient(cluster.endpoints, timeout_s=20.0) as client:
        await client.put(b"before", b"")
        killed_at = perf_counter()
        leader.kill()
        await client.put(b"after", b"")
        took = perf_counter() - killed_at
    leader.start()
    await cluster.answering(leader)
    await cluster.caught_up(leader)
    return took


async def of_etcd(members: etcd.Etcd) -> float:
    number = await members.leader()
    request = kv_pb2.PutRequest(key=b"key", value=b"").SerializeToString()
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(client))
            for at, client in enumerate(members.clients)
            if at != number
        ]
        puts: list[Any] = [channel.unary_unary(etcd.PUT) for channel in channels]
        for put in puts:
            await put(request, timeout=5.0)
        killed_at = perf_counter()
        os.kill(members.processes[number].pid, signal.SIGKILL)
        await _first_put(puts, request)
        took = perf_counter() - killed_at
    await members.restart(number)
    return took


async def _first_put(puts: list[Any], request: bytes) -> None:
    """Any member takes a put and hands it on: ask in turn, each for as long as it takes to answer or refuse."""
    while True:
        for put in puts:
            try:
                await put(request, timeout=1.0)
            except grpc.aio.AioRpcError:
                continue
            return


async def measure(rounds: int, with_etcd: bool) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ravel-bench-")))
        (folder / "ravel").mkdir()
        cluster = await stack.enter_async_context(running_cluster(folder / "ravel"))
        systems: dict[str, Callable[[], Awaitable[float]]] = {"ravel": lambda: of_ravel(cluster)}
        if with_etcd:
            members = await stack.enter_async_context(etcd.running_etcd(folder))
            systems["etcd"] = lambda: of_etcd(members)
        results: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(rounds):
            for name, once in systems.items():
                results[name].append(await once())
    for name, times in results.items():
        print(f"{name:6} kill -9 to the next put: median {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-etcd", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds, not arguments.no_etcd and etcd.is_installed()))


if __name__ == "__main__":
    main()
