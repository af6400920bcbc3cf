"""A load that remembers what was acknowledged, so that a test can see whether any of it was lost or done twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ravelctl.client import Consistency, KeyValue, OutcomeUnknownError, RavelClient, RavelError


@dataclass(slots=True)
class Load:
    """Workers that each append to a key of their own, 1, 2, 3, ..., by compare-and-swap on the revision they know.

    A swap that was done twice, or one that was acknowledged and lost, leaves a value that the worker's record does not allow.
    """

    client: RavelClient
    workers: int
    acknowledged: dict[bytes, int] = field(default_factory=dict)  # the last number that was answered as done
    attempted: dict[bytes, int] = field(default_factory=dict)  # the last number that was sent
    done: int = 0
    unknown: int = 0
    refused: int = 0
    acknowledged_at: list[float] = field(default_factory=list)  # loop time of each acknowledgement
    wrong: list[str] = field(default_factory=list)

    async def work(self, worker: int) -> None:
        loop = asyncio.get_running_loop()
        key = f"load/{worker:04}".encode()
        number, revision = 0, 0
        while True:
            number += 1
            self.attempted[key] = number
            try:
                answer = await self.client.compare_and_swap(key, str(number).encode(), expected_revision=revision)
            except OutcomeUnknownError:
                self.unknown += 1
                number, revision = await self._look(key)
                continue
            except RavelError:
                self.refused += 1
                number -= 1
                await asyncio.sleep(0.02)
                continue
            if not answer.swapped:
                self.wrong.append(f"{key!r}: swap to {number} at revision {revision} met {answer.actual}")
                number, revision = await self._look(key)
                continue
            revision = answer.revision
            self.acknowledged[key] = number
            self.acknowledged_at.append(loop.time())
            self.done += 1

    async def _look(self, key: bytes) -> tuple[int, int]:
        """What is there after an unknown outcome, from where the worker goes on."""
        while True:
            try:
                found = await self.client.get(key)
            except RavelError:
                await asyncio.sleep(0.02)
                continue
            return (int(found.value), found.revision) if found else (0, 0)

    async def check(self) -> None:
        """Everything acknowledged is there, and nothing that was never sent."""
        assert not self.wrong, self.wrong[:5]
        for key, number in self.acknowledged.items():
            found = await self.client.get(key, timeout_s=20.0)
            assert found is not None, f"{key!r} was acknowledged at {number} and is gone"
            there = int(found.value)
            assert number <= there <= self.attempted[key], (
                f"{key!r}: {there} is there, {number} acknowledged, {self.attempted[key]} sent"
            )


@asynccontextmanager
async def under_load(client: RavelClient, workers: int = 16) -> AsyncIterator[Load]:
    """Run the load while the block runs, then stop it and check what it left."""
    load = Load(client, workers)
    tasks = [asyncio.create_task(load.work(worker)) for worker in range(workers)]
    try:
        yield load
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    await load.check()


async def same_on_all(clients: list[RavelClient]) -> list[KeyValue]:
    """What a scan of every replica's own state shows; they must agree once they have caught up."""
    scans = [[item async for item in client.scan(consistency=Consistency.STALE)] for client in clients]
    assert all(scan == scans[0] for scan in scans), "replicas hold different state"
    return scans[0]
