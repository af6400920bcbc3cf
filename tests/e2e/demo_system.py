"""The second half of `make demo`: clusters, the admin group that lists them, slots on the move under writers, and HTTP.

All of it is done by commands that an operator has; only the writers are of the client library.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ravelctl.client import RavelClient

WRITERS = 8
PAUSE_S = 0.01
HTTP_TIMEOUT_S = 20.0


class Operator:
    """Runs `ravelctl` on a playground of its own, with contexts of its own, and shows what it prints."""

    def __init__(self, folder: Path) -> None:
        self._where = str(folder / "system")
        self._environment = {**os.environ, "RAVELCTL_CONFIG": str(folder / "config.toml")}
        for name in ("RAVELCTL_ENDPOINTS", "RAVELCTL_CONTEXT", "RAVELCTL_OUTPUT"):
            self._environment.pop(name, None)

    def run(self, *words: str, shown: bool = True) -> str:
        """Raises RuntimeError where the command fails."""
        if shown:
            print(f"$ ravelctl {' '.join(words)}", flush=True)
        own = ("--dir", self._where) if words[0] == "playground" else ()
        command = [sys.executable, "-m", "ravelctl", *words, *own]
        done = subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, text=True, check=False)
        if shown:
            print(done.stdout, end="", flush=True)
        if done.returncode:
            raise RuntimeError(f"ravelctl {' '.join(words)} ended with {done.returncode}")
        return done.stdout

    async def run_meanwhile(self, *words: str) -> str:
        return await asyncio.to_thread(self.run, *words)


class Writers:
    """Put keys without pause, each once, and remember what was acknowledged."""

    def __init__(self, client: RavelClient) -> None:
        self._client = client
        self._tasks: list[asyncio.Task[None]] = []
        self.acknowledged: dict[bytes, bytes] = {}
        self.slowest_s = 0.0

    def begin(self) -> None:
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _write(self, number: int) -> None:
        count = 0
        while True:
            key, value = f"system/{number:02}/{count:06}".encode(), f"{number * count}".encode()
            began = time.perf_counter()
            await self._client.put(key, value)
            self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
            self.acknowledged[key] = value
            count += 1
            await asyncio.sleep(PAUSE_S)

    async def missing(self) -> int:
        there = {item.key: item.value async for item in self._client.scan(prefix=b"system/")}
        return sum(there.get(key) != value for key, value in self.acknowledged.items())


async def demo(folder: Path, say: Callable[[str], None]) -> int:
    """Returns how many acknowledged puts are missing at the end. Raises RuntimeError where a command fails."""
    operator = Operator(folder)
    try:
        say("two clusters, and the admin group that lists them, in one command")
        operator.run("playground", "up", "--clusters", "2", "--replicas", "1", "--admins", "3", "--http")
        ground = json.loads(operator.run("playground", "up", "-o", "json", "-q", shown=False))
        operator.run("admin", "clusters")
        async with RavelClient(admin=ground["endpoints"], timeout_s=30.0) as client:
            say(f"{WRITERS} writers without pause, while a third cluster is added and gets its share of the slots")
            writers = Writers(client)
            writers.begin()
            await asyncio.sleep(1.0)
            await operator.run_meanwhile("playground", "up", "--clusters", "3", "--replicas", "1")
            await asyncio.sleep(1.0)
            await writers.end()
            await operator.run_meanwhile("admin", "clusters")
            missing = await writers.missing()
            of = len(writers.acknowledged)
            print(f"{missing} of {of} acknowledged puts are missing; the slowest took {writers.slowest_s:.2f} s")

            say("HTTP in, HTTP out")
            base = f"http://{ground['http']}"
            value = {"state": "shipped", "items": [1, 2, 3]}
            await asyncio.to_thread(curl, "POST", f"{base}/put", {"key": "orders/17", "val": value})
            back = await asyncio.to_thread(curl, "POST", f"{base}/get", {"key": "orders/17"})
            missing += int(back["val"] != value)
            await operator.run_meanwhile("kv", "get", "orders/17")
            await operator.run_meanwhile("admin", "slots", "orders/17")
        return missing
    finally:
        operator.run("playground", "down", "--purge")


def curl(method: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """A request as one would make it by hand, and its JSON answer."""
    text = json.dumps(body)
    print(f"$ curl -X {method} {url} -d '{text}'", flush=True)
    request = urllib.request.Request(url, text.encode(), {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as response:
        answer: dict[str, Any] = json.loads(response.read() or b"{}")
    print(json.dumps(answer), flush=True)
    return answer
