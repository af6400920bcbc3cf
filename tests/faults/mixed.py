"""All kinds of faults mixed at random, for as long as wanted: `make faults-long MINUTES=30`.

Each history has a cluster of three daemons of its own, a recorded load, and a few faults one after the other, drawn from one
seed: processes that are killed, alone or together, with their last write torn; processes that stand still; connections that are
cut; clocks that jump; data directories that are put back from a copy taken while the daemon was down or suspended; copies that
are started elsewhere. After each fault the cluster is made whole by the commands that an operator would use. At the end of each
history `ordeal` gives its verdict: what was acknowledged is there, once, and was seen in one order.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from ravelctl.client import RavelError
from tests.e2e.cluster import START_S, Server, until
from tests.faults.ordeal import Ordeal, running

FAULTS: Final = 5
"""In one history."""

HOURS_MS: Final = 3_600_000


class Mixed:
    """One history."""

    def __init__(self, ordeal: Ordeal, folder: Path, seed: int) -> None:
        self.happened: Counter[str] = Counter()
        self._ordeal = ordeal
        self._cluster = ordeal.cluster
        self._folder = folder
        self._rng = Random(seed)
        self._copies = 0

    async def run(self) -> None:
        kinds: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("killed", self._killed),
            ("killed in the middle of a write", self._torn),
            ("all killed at once", self._power),
            ("stopped and resumed", self._stopped),
            ("cut off", self._cut),
            ("clock changed", self._clock),
            ("directory restored", self._restored),
            ("directory restored", self._restored),
            ("copy started elsewhere", self._copied),
        ]
        for name, fault in self._rng.choices(kinds, k=FAULTS):
            await self._ordeal.progress(100)
            began = time.monotonic()
            await fault()
            await self._ordeal.acknowledged(time.monotonic())
            self.happened[name] += 1
            self._ordeal.happened()
            print(f"    {name}: {time.monotonic() - began:.1f} s", flush=True)
        await self._ordeal.progress(100)

    def _victim(self) -> Server:
        return self._rng.choice(list(self._cluster.servers.values()))

    async def _up(self, *servers: Server) -> None:
        for server in servers:
            server.start()
        for server in servers:
            await self._cluster.answering(server)
            await self._cluster.caught_up(server)

    async def _killed(self) -> None:
        server = self._victim()
        server.kill()
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        await self._up(server)

    async def _torn(self) -> None:
        """It dies at some step of its disk, half of a write done."""
        server = self._victim()
        disk = self._ordeal.disks[server.name]
        disk.arm(kill_at=self._rng.randint(1, 200), torn=True)

        async def dead() -> bool:
            return not server.running

        await until(f"{server.name} dies", dead, START_S)
        disk.arm(kill_at=0)
        server.wait()
        await self._up(server)

    async def _power(self) -> None:
        servers = list(self._cluster.servers.values())
        for server in servers:
            os.kill(server.pid, signal.SIGKILL)
        for server in servers:
            server.wait()
        await self._up(*servers)

    async def _stopped(self) -> None:
        server = self._victim()
        server.pause()
        await asyncio.sleep(self._rng.uniform(0.2, 4.0))
        server.resume()
        await self._cluster.caught_up(server)

    async def _cut(self) -> None:
        server = self._victim()
        self._ordeal.network.isolate(server.name, [other for other in self._cluster.servers if other != server.name])
        await asyncio.sleep(self._rng.uniform(0.2, 4.0))
        self._ordeal.network.heal()
        await self._cluster.caught_up(server)

    async def _clock(self) -> None:
        """Forward, back, and to and fro, on one server or on all."""
        servers = self._rng.choice([[self._victim()], list(self._cluster.servers.values())])
        for _ in range(self._rng.randint(1, 4)):
            for server in servers:
                self._ordeal.disks[server.name].clock_ms = self._rng.randint(-48 * HOURS_MS, 48 * HOURS_MS)
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
        if self._rng.random() < 0.5:  # a start reads the clock, too
            server = self._rng.choice(servers)
            server.kill()
            await self._up(server)

    async def _restored(self) -> None:
        """A data directory is put back from a copy. It lacks nothing that counts, or the server is kept out, and replaced."""
        server = self._victim()
        backup = self._folder / f"backup-{self._copies}"
        self._copies += 1
        if self._rng.random() < 0.5:
            server.terminate()
            shutil.copytree(server.data_dir, backup)
            await self._up(server)
        else:
            server.pause()
            shutil.copytree(server.data_dir, backup)
            server.resume()
            await self._cluster.caught_up(server)
        await self._ordeal.progress(self._rng.randint(1, 200))
        server.kill()
        shutil.rmtree(server.data_dir)
        shutil.move(backup, server.data_dir)
        before = len(server.log)  # of its earlier lives
        server.start()

        async def settled() -> str:
            if "daemon.expelled" in server.log[before:]:
                return "kept out"
            with suppress(RavelError):
                status = await self._cluster.status(server, 5.0)
                if status.ready and not any(alarm.code == "RV614" for alarm in status.alarms):
                    return "taken"
                return "kept out" if any(alarm.code == "RV614" for alarm in status.alarms) else ""
            return ""

        how = await until(f"{server.name}, put back, is taken or kept out", settled, START_S)
        if how == "kept out":
            await self._ctl("member", "replace", server.name, "--yes")
        await self._cluster.caught_up(server)
        self.happened[f"directory restored: {how}"] += 1

    async def _copied(self) -> None:
        """A copy of a running server's directory is started elsewhere: it must not take that one's seat."""
        server = self._victim()
        copy = Server(self._folder, f"copy-{self._copies}")
        self._copies += 1
        server.pause()
        shutil.copytree(server.data_dir, copy.data_dir)
        server.resume()
        copy.start()
        try:
            await asyncio.sleep(self._rng.uniform(1.0, 4.0))
        finally:
            copy.kill()
            shutil.rmtree(copy.data_dir)
        await self._cluster.caught_up(server)

    async def _ctl(self, *words: str) -> None:
        endpoints = ",".join(self._cluster.endpoints)
        command = [sys.executable, "-m", "ravelctl", *words, "--endpoints", endpoints]
        environment = {**os.environ, "RAVELCTL_CONFIG": os.devnull}

        deadline = time.monotonic() + START_S
        while True:
            ran = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=120, check=False, env=environment
            )
            if ran.returncode == 0:
                return
            assert time.monotonic() < deadline, f"ravelctl {' '.join(words)}: {ran.stdout}{ran.stderr}"
            await asyncio.sleep(1.0)


async def _history(seed: int) -> tuple[Counter[str], int, int]:
    with TemporaryDirectory(prefix="ravel-mixed-") as path:
        async with running(Path(path), "mixed", proxied=True, failing_disks=True) as ordeal:
            mixed = Mixed(ordeal, Path(path), seed)
            await mixed.run()
        return mixed.happened, ordeal.row.operations, ordeal.row.unknown


def main() -> int:
    parser = argparse.ArgumentParser(description="faults of all kinds, mixed at random, on real daemons")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    arguments = parser.parse_args()
    ends = time.monotonic() + 60 * arguments.minutes
    happened: Counter[str] = Counter()
    seed, operations, unknown = arguments.first, 0, 0
    while time.monotonic() < ends:
        print(f"history {seed}", flush=True)
        faults, done, unsure = asyncio.run(_history(seed))
        happened += faults
        operations, unknown, seed = operations + done, unknown + unsure, seed + 1
    print(f"{seed - arguments.first} histories, {operations} operations answered, {unknown} of unknown outcome: nothing was lost")
    for name, times in sorted(happened.items()):
        print(f"  {name:40}{times:6}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
