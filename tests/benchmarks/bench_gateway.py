"""What HTTP costs: puts and gets through the gateway beside those of RavelClient, in turns, and where the gateway's time goes.

    python -m tests.benchmarks.bench_gateway [--seconds 4] [--rounds 3] [--callers 64] [--profile]

One admin, one cluster of three replicas, one gateway, all on this machine. HTTP is spoken by a bare asyncio client over as many
kept connections as there are callers: a client library would cost more than the gateway. --profile needs py-spy.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from ravelctl.client import RavelClient
from tests.benchmarks.bench_put import VALUE, closed_loop, key
from tests.benchmarks.processes import cpu_seconds
from tests.benchmarks.profile_put import report
from tests.e2e.admins import running_system
from tests.e2e.http_door import running_gateway

SAMPLES_A_SECOND: Final = 200


class Connection:
    """One kept connection, used by one caller at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, method: bytes, path: bytes, body: bytes) -> bytes:
        """The body of the answer, which must be a 200."""
        head = b"%b %b HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % (method, path, len(body))
        self._writer.write(head + body)
        told = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert told.startswith(b"http/1.1 200"), told
        length = int(told.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


class Pool:
    """As many connections as callers: each call takes one that is free."""

    def __init__(self) -> None:
        self._free: asyncio.Queue[Connection] = asyncio.Queue()

    async def fill(self, port: int, count: int) -> None:
        for _ in range(count):
            self._free.put_nowait(Connection(*await asyncio.open_connection("127.0.0.1", port)))

    async def ask(self, method: bytes, path: bytes, body: bytes = b"") -> bytes:
        connection = await self._free.get()
        try:
            return await connection.ask(method, path, body)
        finally:
            self._free.put_nowait(connection)


async def measure(seconds: float, rounds: int, callers: int, profile: bool) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ravel-gateway-")))
        system = await stack.enter_async_context(running_system(folder))
        for name in ("n1", "n2", "n3"):
            system.start(name)
        await system.seated("default", "n1", "n2", "n3", within_s=120)
        gateway = await stack.enter_async_context(running_gateway(folder, system.admins.endpoints))
        client = await stack.enter_async_context(RavelClient(admin=system.admins.endpoints, timeout_s=30))
        pool = Pool()
        await pool.fill(gateway.port, callers)
        json_value = b'"' + VALUE.hex()[: len(VALUE) - 2].encode() + b'"'
        loads: dict[str, Callable[[int], Awaitable[object]]] = {
            "put, RavelClient": lambda n: client.put(key(n), json_value),
            "PUT /v1/kv/KEY": lambda n: pool.ask(b"PUT", b"/v1/kv/" + key(n), json_value),
            "POST /put": lambda n: pool.ask(b"POST", b"/put", b'{"key": "%b", "val": %b}' % (key(n), json_value)),
            "get, RavelClient": lambda n: client.get(key(n)),
            "GET /v1/kv/KEY": lambda n: pool.ask(b"GET", b"/v1/kv/" + key(n)),
            "POST /get": lambda n: pool.ask(b"POST", b"/get", b'{"key": "%b"}' % key(n)),
        }
        for n in range(5_000):  # every key is there, and is JSON
            if n % 250 == 0:
                await asyncio.gather(*(client.put(key(i), json_value) for i in range(n, n + 250)))
        await rounds_of(loads, seconds, rounds, callers, gateway.pid)
        if profile:
            for name in ("PUT /v1/kv/KEY", "GET /v1/kv/KEY"):
                await profiled(name, loads[name], seconds, callers, gateway.pid, folder)


async def rounds_of(
    loads: dict[str, Callable[[int], Awaitable[object]]], seconds: float, rounds: int, callers: int, pid: int
) -> None:
    """All loads in turns; medians, and the gateway's processor time for a request."""
    rates: dict[str, list[float]] = {name: [] for name in loads}
    costs: dict[str, list[float]] = {name: [] for name in loads}
    for _ in range(rounds):
        for name, one in loads.items():
            before = cpu_seconds(pid)
            rate = await closed_loop(lambda n, one=one: one(n % 5_000), callers, seconds)  # type: ignore[misc]
            rates[name].append(rate)
            costs[name].append((cpu_seconds(pid) - before) / (rate * seconds) * 1e6)
    print(f"{callers} callers, medians of {rounds} rounds of {seconds:g} s:")
    for name in loads:
        used = statistics.median(costs[name])
        print(f"  {name:20} {statistics.median(rates[name]):8,.0f}/s" + (f"   {used:4.0f} us of the gateway" if used > 5 else ""))


async def profiled(
    name: str, one: Callable[[int], Awaitable[object]], seconds: float, callers: int, pid: int, folder: Path
) -> None:
    command = ["py-spy", "record", "--format", "raw", "--threads", "--rate", str(SAMPLES_A_SECOND), "--duration"]
    command += [str(int(seconds)), "--output", str(folder / "raw"), "--pid", str(pid)]
    spy = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rate = await closed_loop(lambda n: one(n % 5_000), callers, seconds + 1.0)
    await spy.wait()
    print(f"\n{name}, {rate:,.0f}/s while being looked at; the gateway:")
    report((folder / "raw").read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    asyncio.run(measure(chosen.seconds, chosen.rounds, chosen.callers, chosen.profile))


if __name__ == "__main__":
    main()
