"""Where a replica's time goes while puts come in: samples of the leader by room, and the costliest functions.

    python -m tests.benchmarks.profile_put [--seconds 10] [--load client|session|unary] [--follower]

Needs py-spy (`pip install py-spy`), which looks at the daemon from outside. Samples of threads that wait are left out. A sample
counts for the innermost frame that is ravel's or gRPC's, so that a room bears what the standard library does for it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grpc

from ravelctl.client import RavelClient
from ravelpb.v1 import kv_pb2, kv_pb2_grpc
from tests.benchmarks.bench_put import VALUE, closed_loop, key, session_load
from tests.e2e.cluster import Cluster, running_cluster

SAMPLES_A_SECOND: Final = 200
CALLERS: Final = 64
SHOWN: Final = 25

_FRAME: Final = re.compile(r"(?P<name>\S+) \((?P<file>[^:()]*):\d+\)$")
_WAITING: Final = (
    "Runner.run",  # the loop has nothing to do, or does what has no Python frame: callbacks of its own
    "_worker",
    "Thread.run",
    "_poll_wrapper",
)


async def load(kind: str, cluster: Cluster, address: str, seconds: float) -> float:
    if kind == "session":
        return await session_load(address, seconds)
    if kind == "unary":
        async with grpc.aio.insecure_channel(address) as channel:
            stub = kv_pb2_grpc.KVStub(channel)
            return await closed_loop(lambda n: stub.Put(kv_pb2.PutRequest(key=key(n), value=VALUE)), CALLERS, seconds)
    async with RavelClient(cluster.endpoints) as client:
        return await closed_loop(lambda n: client.put(key(n), VALUE), CALLERS, seconds)


async def measure(seconds: float, kind: str, of_follower: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="ravel-profile-") as path:
        folder = Path(path)
        async with running_cluster(folder) as cluster:
            leader = await cluster.leader()
            server = (await cluster.followers())[0] if of_follower else leader
            await load(kind, cluster, leader.address, 1.0)
            command = ["py-spy", "record", "--format", "raw", "--threads", "--rate", str(SAMPLES_A_SECOND), "--duration"]
            command += [str(int(seconds)), "--output", str(folder / "raw"), "--pid", str(server.pid)]
            spy = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            rate = await load(kind, cluster, leader.address, seconds + 1.0)
            await spy.wait()
        print(f"{kind} load, {rate:,.0f} puts/s while being looked at; the {'follower' if of_follower else 'leader'}:")
        report((folder / "raw").read_text().splitlines())


def report(lines: Iterable[str]) -> None:
    rooms: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for line in lines:
        stack, count = line.rsplit(" ", 1)
        frames = [match for part in stack.split(";") if (match := _FRAME.search(part))]
        if not frames or frames[-1]["name"] in _WAITING:
            continue
        own = next((f for f in reversed(frames) if _room(f["file"])), frames[-1])
        rooms[_room(own["file"]) or "the rest of Python"] += int(count)
        functions[f"{own['name']} ({own['file'].removeprefix('ravel_node/')})"] += int(count)
    total = sum(rooms.values())
    for title, found in (("by room", rooms), ("by function", functions)):
        print(f"\n{title}, {total:,} samples")
        for name, samples in found.most_common(SHOWN):
            print(f"{samples / total:6.1%}  {name}")


def _room(file: str) -> str:
    """`storage`, `raft` and so on; the client, grpc, what serves HTTP; empty for what is none of them."""
    if "ravel_node/" in file:
        return file.rsplit("ravel_node/", 1)[1].split("/")[0]
    return next((room for room in ("ravelctl", "grpc", "starlette", "uvicorn") if f"{room}/" in file), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--load", choices=("client", "session", "unary"), default="client")
    parser.add_argument("--follower", action="store_true")
    arguments = parser.parse_args()
    if shutil.which("py-spy") is None:
        raise SystemExit("py-spy is not installed: `pip install py-spy`, then run this again")
    asyncio.run(measure(arguments.seconds, arguments.load, arguments.follower))


if __name__ == "__main__":
    main()
