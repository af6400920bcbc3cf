"""An engine in memory whose writes wait until the test lets them go: two things at once, in the order that the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ravel_node.storage.base import StoreError
from ravel_node.storage.engine import Environment, WriteTxn
from ravel_node.storage.memory import MemoryEngine, MemoryEnvironment, Records

T = TypeVar("T")


class HeldEnvironment(MemoryEnvironment):
    """One write at a time, in the order in which they came, as with a writer thread. `close` waits for them."""

    def __init__(self, name: str, databases: dict[str, Records], map_size: int) -> None:
        super().__init__(name, databases, map_size)
        self._turn = asyncio.Lock()
        self._go = asyncio.Event()
        self._go.set()
        self._left: int | None = None  # writes that may begin before the others are held again
        self._ending = False
        self.waiting = 0  # writes that were handed over and have not ended

    def hold(self) -> None:
        """From now on no write begins."""
        self._go.clear()

    def let_go(self, writes: int | None = None) -> None:
        """Let all writes begin, or so many of them."""
        self._left = writes
        self._go.set()

    async def write(self, job: Callable[[WriteTxn], T]) -> T:
        if self._ending:
            raise StoreError(f"{self.name}/ is closed")
        self.waiting += 1
        try:
            async with self._turn:
                await self._go.wait()
                if self._left is not None:
                    self._left -= 1
                    if not self._left:
                        self.hold()
                return await super().write(job)
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        self._ending = True
        async with self._turn:
            await super().close()


class HeldEngine(MemoryEngine):
    """Opens HeldEnvironments."""

    async def open(self, path: Path, databases: Mapping[str, bool], map_size: int, *, read_ahead: bool = True) -> Environment:
        await super().open(path, databases, map_size)
        self.environments[path] = HeldEnvironment(path.name, self.disk[path], map_size)
        return self.environments[path]

    def held(self, path: Path) -> HeldEnvironment:
        environment = self.environments[path]
        assert isinstance(environment, HeldEnvironment)
        return environment
