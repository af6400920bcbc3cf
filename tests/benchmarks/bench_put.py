"""The whole put path: three real daemons on loopback, and the same load on etcd where it is installed.

    python -m tests.benchmarks.bench_put [--seconds 3] [--rounds 3] [--no-etcd]

Rounds alternate between the two systems, so that a machine whose speed drifts is fair to both; medians are printed. etcd
(Debian's package etcd-server) is driven by the leanest asyncio client there can be: a bare grpc.aio channel.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc

from ravelctl.client import RavelClient
from ravelpb.v1 import kv_pb2, kv_pb2_grpc
from tests.e2e.cluster import free_ports, running_cluster, until

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


@asynccontextmanager
async def running_etcd(folder: Path) -> AsyncIterator[str]:
    """Three etcd members with their defaults; yields the leader's client address."""
    ports = free_ports(6)
    peers = [f"http://127.0.0.1:{port}" for port in ports[:3]]
    clients = [f"127.0.0.1:{port}" for port in ports[3:]]
    initial = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    processes: list[asyncio.subprocess.Process] = []
    with (folder / "etcd.log").open("ab") as log:
        for number, (peer, client) in enumerate(zip(peers, clients, strict=True)):
            command = ["etcd", "--name", f"m{number}", "--data-dir", str(folder / f"m{number}"), "--initial-cluster", initial]
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}"]
            processes.append(await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log))
    try:

        async def leader() -> str | None:
            for client in clients:
                async with grpc.aio.insecure_channel(client) as channel:
                    status: Any = channel.unary_unary("/etcdserverpb.Maintenance/Status")
                    try:
                        answer: bytes = await status(b"", timeout=1)
                    except grpc.aio.AioRpcError:
                        return None
                    fields = _varints(answer)
                    if fields.get(4) and fields[4] == _varints(_field(answer, 1)).get(2):
                        return client
            return None

        yield await until("etcd has a leader", leader, 30.0)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            await process.wait()


def _items(message: bytes) -> list[tuple[int, int | bytes]]:
    """Field number and value of each varint and each length-delimited field of a protobuf message."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            found.append((tag >> 3, value))
        else:
            size, at = _varint(message, at)
            found.append((tag >> 3, message[at : at + size]))
            at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _varints(message: bytes) -> dict[int, int]:
    return {number: value for number, value in _items(message) if isinstance(value, int)}


def _field(message: bytes, wanted: int) -> bytes:
    return next((value for number, value in _items(message) if number == wanted and isinstance(value, bytes)), b"")


async def measure(seconds: float, rounds: int, with_etcd: bool) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ravel-bench-")))
        (folder / "ravel").mkdir()
        cluster = await stack.enter_async_context(running_cluster(folder / "ravel"))
        leader = (await cluster.leader()).address
        client = await stack.enter_async_context(RavelClient(cluster.endpoints))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(leader))
        stub = kv_pb2_grpc.KVStub(channel)
        figures: dict[str, Callable[[], Awaitable[float]]] = {
            f"ravel client put, {callers} callers": _loop(lambda n: client.put(key(n), VALUE), callers, seconds)
            for callers in (1, 64, 256)
        }
        figures["ravel client get, 64 callers"] = _loop(lambda n: client.get(key(n)), 64, seconds)
        figures["ravel unary put, 64 callers"] = _loop(
            lambda n: stub.Put(kv_pb2.PutRequest(key=key(n), value=VALUE)), 64, seconds
        )
        figures["ravel Session put, 16 x 64"] = lambda: session_load(leader, seconds)
        if with_etcd:
            etcd = await stack.enter_async_context(running_etcd(folder))
            etcd_channel = await stack.enter_async_context(grpc.aio.insecure_channel(etcd))
            put: Any = etcd_channel.unary_unary("/etcdserverpb.KV/Put")
            get: Any = etcd_channel.unary_unary("/etcdserverpb.KV/Range")
            # Key and value have the same field numbers there.
            for callers in (1, 64, 256):
                figures[f"etcd put, {callers} callers"] = _loop(
                    lambda n: put(kv_pb2.PutRequest(key=key(n), value=VALUE).SerializeToString()), callers, seconds
                )
            figures["etcd get, 64 callers"] = _loop(lambda n: get(kv_pb2.GetRequest(key=key(n)).SerializeToString()), 64, seconds)
        results: dict[str, list[float]] = {name: [] for name in figures}
        for _ in range(rounds):
            for name, figure in figures.items():
                results[name].append(await figure())
    for name, found in results.items():
        print(f"{name:30} {statistics.median(found):9,.0f}/s   ({min(found):,.0f} to {max(found):,.0f})")
    if with_etcd:
        for what in ("put", "get"):
            ours, theirs = results[f"ravel client {what}, 64 callers"], results[f"etcd {what}, 64 callers"]
            ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
            print(f"{what}, 64 callers: {statistics.median(ratios):.2f} times etcd")


def _loop(op: Op, callers: int, seconds: float) -> Callable[[], Awaitable[float]]:
    return lambda: closed_loop(op, callers, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-etcd", action="store_true")
    arguments = parser.parse_args()
    with_etcd = not arguments.no_etcd and shutil.which("etcd") is not None
    asyncio.run(measure(arguments.seconds, arguments.rounds, with_etcd))


if __name__ == "__main__":
    main()
