"""How long writes stand still when a slot of 10,000 keys moves to another cluster: to its keys, and to keys of other slots.

    python -m tests.benchmarks.bench_move [--keys 10000] [--value 256] [--writers 4] [--replicas 1]

Real daemons on loopback: one admin server and two clusters. Writers write keys of the one slot, others keys of slots that stay
where they are, each one call after the other. A call's time is from its start to its answer, over every retry of the client.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

from ravelctl.client import RavelClient
from ravelpb.slots import slot_of
from ravelpb.v1 import admin_pb2
from tests.e2e.admins import System, running_system

SLOT = 4090
AT_ONCE = 64


def keys_of(slot: int, count: int) -> list[bytes]:
    """So many keys of one slot. What the last four characters of a key do to its slot does not depend on what is before them."""
    endings = {slot_of(b"%04x" % ending) ^ slot_of(b"0000"): b"%04x" % ending for ending in range(1 << 16)}
    stems = [b"key/%08d/" % number for number in range(count)]
    return [stem + endings[slot_of(stem + b"0000") ^ slot] for stem in stems]


@dataclass
class Calls:
    """What writers of one kind of key were told."""

    done: list[tuple[float, float]] = field(default_factory=list)  # when each began, and how long it took

    async def write(self, client: RavelClient, keys: list[bytes], seed: int) -> None:
        rng = random.Random(seed)
        while True:
            began = perf_counter()
            await client.put(rng.choice(keys), b"w" * 256, timeout_s=30.0)
            self.done.append((began, perf_counter() - began))

    def told(self, since: float, until: float) -> str:
        during = [took for began, took in self.done if began + took >= since and began <= until]
        before = [took for began, took in self.done if began + took < since]
        ms = 1000
        return (
            f"longest {max(during) * ms:6.0f} ms, median {median(during) * ms:5.1f} ms of {len(during)} during the move; "
            f"before it longest {max(before) * ms:5.0f} ms, median {median(before) * ms:5.1f} ms"
        )


@asynccontextmanager
async def two_clusters(folder: Path, replicas: int) -> AsyncIterator[System]:
    async with running_system(folder) as system:
        for cluster, letter in (("default", "n"), ("other", "m")):
            names = [f"{letter}{number}" for number in range(1, replicas + 1)]
            for name in names:
                system.start(name, "--new-cluster", cluster)
                await system.told(f"{name} is known", lambda directory, name=name: name in _servers(directory) or None)  # type: ignore[misc]
            await system.seated(cluster, *names)
        yield system


def _servers(directory: admin_pb2.DirectoryResponse) -> list[str]:
    return [server.server.name for server in directory.servers]


async def fill(client: RavelClient, keys: list[bytes], value_bytes: int) -> None:
    waiting = list(reversed(keys))

    async def work() -> None:
        while waiting:
            await client.put(waiting.pop(), b"v" * value_bytes, timeout_s=30.0)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def moved(system: System) -> tuple[float, float, int]:
    """Empty the first cluster until the slot has gone: when its move began, when it had ended, and the keys copied."""
    began = 0.0
    keys = 0
    async with system.client(timeout_s=20.0) as admin, aclosing(admin.rebalance(["default"])) as messages:
        async for message in messages:
            moving = any(SLOT in move.slots and move.phase != admin_pb2.PLANNED for move in message.moves)
            waiting = any(SLOT in move.slots for move in message.moves)
            began = began or (perf_counter() if moving else 0.0)
            keys = max(keys, message.keys_moved)
            if not waiting:
                ended = perf_counter()
                await admin.stop_rebalance()
                return began, ended, keys
    return began, perf_counter(), keys


async def measure(keys: int, value_bytes: int, writers: int, replicas: int) -> None:
    here, elsewhere = keys_of(SLOT, keys), keys_of(5, 100)
    with tempfile.TemporaryDirectory(prefix="ravel-bench-") as folder:
        async with (
            two_clusters(Path(folder), replicas) as system,
            RavelClient(admin=system.admins.endpoints) as client,
            RavelClient(admin=system.admins.endpoints) as another,
        ):
            await fill(client, here + elsewhere, value_bytes)
            moving, others = Calls(), Calls()
            tasks = [asyncio.create_task(moving.write(client, here, number)) for number in range(writers)]
            tasks += [asyncio.create_task(others.write(another, elsewhere, 100 + number)) for number in range(writers)]
            await asyncio.sleep(2.0)
            since = perf_counter()
            began, ended, copied = await moved(system)
            await asyncio.sleep(1.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            print(f"{keys} keys of {value_bytes} bytes, {replicas} replicas a cluster, {writers} writers on each kind of key")
            print(f"the move took {ended - (began or since):.1f} s as an operator sees it, {copied} keys copied")
            print(f"keys of the slot:    {moving.told(since, ended)}")
            print(f"keys that stay:      {others.told(since, ended)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="how long a slot's writes stand still when it moves")
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value", type=int, default=256, help="bytes of a value")
    parser.add_argument("--writers", type=int, default=4, help="of keys that move, and of keys that stay")
    parser.add_argument("--replicas", type=int, default=1, help="of each cluster")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.keys, arguments.value, arguments.writers, arguments.replicas))


if __name__ == "__main__":
    main()
