"""The whole put path: three real daemons on loopback, and the same load on etcd where it is installed.

    python -m tests.benchmarks.bench_put [--seconds 3] [--rounds 3] [--no-etcd]

Rounds alternate between the two systems, so that a machine whose speed drifts is fair to both; medians are printed. etcd
(Debian's package etcd-server) is driven by the leanest asyncio client there can be: a bare grpc.aio channel. Where g++ and
Debian's libgrpc++-dev are installed, a client in C++ loads both the same way.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import grpc

from ravelctl.client import RavelClient
from ravelpb.v1 import kv_pb2, kv_pb2_grpc
from tests.benchmarks import etcd, native
from tests.e2e.cluster import running_cluster

VALUE = b"v" * 256
KEYS = 10_000

Op = Callable[[int], Awaitable[object]]


def key(number: int) -> bytes:
    return f"key/{number % KEYS:012}".encode()


async def closed_loop(op: Op, callers: int, seconds: float) -> float:
    """Operations a second of so many callers, each of which waits for its answer before it asks again."""
    done = 0
    end = perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal done
        while perf_counter() < end:
            await op(number)
            number += callers
            done += 1

    began = perf_counter()
    await asyncio.gather(*(caller(number) for number in range(callers)))
    return done / (perf_counter() - began)


async def session_load(address: str, seconds: float, in_flight: int = 16, commands: int = 64) -> float:
    """Puts a second through one Session stream with `in_flight` requests of `commands` puts under way."""
    batch = [kv_pb2.Command(put=kv_pb2.PutRequest(key=key(number), value=VALUE)) for number in range(commands)]
    async with grpc.aio.insecure_channel(address) as channel:
        call = kv_pb2_grpc.KVStub(channel).Session()
        window = asyncio.Semaphore(in_flight)
        sent = answered = 0
        end = perf_counter() + seconds

        async def send() -> None:
            nonlocal sent
            while perf_counter() < end:
                await window.acquire()
                sent += 1
                await call.write(kv_pb2.SessionRequest(id=sent, commands=batch))
            await call.done_writing()

        began = perf_counter()
        sender = asyncio.create_task(send())
        async for response in call:
            if response.results[0].WhichOneof("result") != "put":
                raise RuntimeError(f"a put failed: {response.results[0]}")
            answered += len(response.results)
            window.release()
        await sender
        return answered / (perf_counter() - began)


Figures = dict[str, Callable[[], Awaitable[float]]]


async def measure(seconds: float, rounds: int, with_etcd: bool) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ravel-bench-")))
        program = native.build(folder)
        figures = await _of_ravel(stack, folder, program, seconds)
        if with_etcd:
            figures |= await _of_etcd(stack, folder, program, seconds)
        results: dict[str, list[float]] = {name: [] for name in figures}
        for _ in range(rounds):
            for name, figure in figures.items():
                results[name].append(await figure())
    for name, found in results.items():
        print(f"{name:36} {statistics.median(found):9,.0f}/s   ({min(found):,.0f} to {max(found):,.0f})")
    for ours, theirs in _PAIRS:
        if ours in results and theirs in results:
            ratios = [our / their for our, their in zip(results[ours], results[theirs], strict=True)]
            print(f"{ours}: {statistics.median(ratios):.2f} times {theirs}")


_PAIRS: Final = (
    ("ravel client put, 64 callers", "etcd put, 64 callers"),
    ("ravel client get, 64 callers", "etcd get, 64 callers"),
    ("ravel Session put, 16 x 64", "etcd put, C++, 64 callers"),
    ("ravel unary put, C++, 64 callers", "etcd put, C++, 64 callers"),
)


async def _of_ravel(stack: AsyncExitStack, folder: Path, program: Path | None, seconds: float) -> Figures:
    (folder / "ravel").mkdir()
    cluster = await stack.enter_async_context(running_cluster(folder / "ravel"))
    leader = (await cluster.leader()).address
    client = await stack.enter_async_context(RavelClient(cluster.endpoints))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(leader))
    stub = kv_pb2_grpc.KVStub(channel)
    figures: Figures = {
        f"ravel client put, {callers} callers": _loop(lambda n: client.put(key(n), VALUE), callers, seconds)
        for callers in (1, 64, 256)
    }
    figures["ravel client get, 64 callers"] = _loop(lambda n: client.get(key(n)), 64, seconds)
    figures["ravel unary put, 64 callers"] = _loop(lambda n: stub.Put(kv_pb2.PutRequest(key=key(n), value=VALUE)), 64, seconds)
    figures["ravel Session put, 16 x 64"] = lambda: session_load(leader, seconds)
    if program is not None:
        figures["ravel unary put, C++, 64 callers"] = _native(program, leader, "/ravel.v1.KV/Put", seconds)
    return figures


async def _of_etcd(stack: AsyncExitStack, folder: Path, program: Path | None, seconds: float) -> Figures:
    """Key and value have the same field numbers there."""
    members = await stack.enter_async_context(etcd.running_etcd(folder))
    leader = members.clients[await members.leader()]
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(leader))
    put: Any = channel.unary_unary(etcd.PUT)
    get: Any = channel.unary_unary(etcd.GET)
    figures: Figures = {
        f"etcd put, {callers} callers": _loop(
            lambda n: put(kv_pb2.PutRequest(key=key(n), value=VALUE).SerializeToString()), callers, seconds
        )
        for callers in (1, 64, 256)
    }
    figures["etcd get, 64 callers"] = _loop(lambda n: get(kv_pb2.GetRequest(key=key(n)).SerializeToString()), 64, seconds)
    if program is not None:
        figures["etcd put, C++, 64 callers"] = _native(program, leader, etcd.PUT, seconds)
    return figures


def _loop(op: Op, callers: int, seconds: float) -> Callable[[], Awaitable[float]]:
    return lambda: closed_loop(op, callers, seconds)


def _native(program: Path, address: str, method: str, seconds: float) -> Callable[[], Awaitable[float]]:
    async def run() -> float:
        return (await native.run(program, address, method, 64, seconds)).rate

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-etcd", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.seconds, arguments.rounds, not arguments.no_etcd and etcd.is_installed()))


if __name__ == "__main__":
    main()
