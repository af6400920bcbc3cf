"""Dashboards without a terminal, in front of scripted clusters, on a clock that stands still."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual.pilot import Pilot

from ravelctl.client import ClusterClient, InspectClient
from ravelctl.dashboard.app import TopApp
from ravelctl.dashboard.session import Clock, Options, Target
from tests.ravelctl.dashboard.scripted import WALL_MS, Scripted

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
WAIT_S = 20.0


class StillClock(Clock):
    """Goes on only when told."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now_s(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return WALL_MS + round((self.seconds - 1_000.0) * 1000)


class StillApp(TopApp):
    """Makes a picture only when the test asks for one."""

    def begin_ticking(self) -> None:
        pass


class Desk:
    """A dashboard, the hands on it, and the cluster that it shows."""

    def __init__(self, app: TopApp, pilot: Pilot[None], cluster: Scripted, clock: StillClock) -> None:
        self.app, self.pilot, self.cluster, self.clock = app, pilot, cluster, clock

    async def until(self, condition: Callable[[], Any], what: str = "") -> None:
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, f"{what or condition}\n{self.text()}"
            await asyncio.sleep(0.01)

    async def passes(self, seconds: float = 1.0, *, writes_s: int = 0, reads_s: int = 0) -> None:
        """Time goes on: whoever runs has reported, and the picture is a new one."""
        self.cluster.passes(seconds, writes_s=writes_s, reads_s=reads_s)
        await self.heard()
        self.clock.seconds += seconds
        self.app.tick()
        await self.pilot.pause()

    async def heard(self) -> None:
        """Whoever runs and is not hung has told its newest, and whoever does not is known to be lost."""
        live = self.app.live
        assert live is not None
        now_ms = self.cluster.monotonic_ms()

        def settled() -> bool:
            sights = {sight.address: sight for sight in live.observer.sights}
            for replica in self.cluster.replicas.values():
                sight = sights.get(replica.address)
                if replica.number not in self.cluster.roles and sight is None:
                    continue
                if sight is None or replica.hung:
                    return sight is not None and sight.status is not None
                if (replica.server is None) != bool(sight.error):
                    return False
                told = sight.status.counters.monotonic_ms if sight.status is not None else 0
                if replica.server is not None and not replica.old and told != now_ms:
                    return False
                if replica.server is not None and replica.old and sight.status is None:
                    return False
            return True

        await self.until(settled, "not all have been heard")

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    def text(self) -> str:
        """The screen as lines of text."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    def lines(self, word: str) -> list[str]:
        return [line for line in self.text().splitlines() if word in line]

    async def resize(self, columns: int, rows: int) -> None:
        await self.pilot.resize_terminal(columns, rows)
        await self.pilot.pause()


def options_for(cluster: Scripted, clock: Clock, **rest: Any) -> Options:
    endpoints = rest.pop("endpoints", None)
    return Options(target_for(cluster, endpoints), clock=clock, version=lambda: "0.4.1", **rest)


def target_for(cluster: Scripted, endpoints: tuple[int, ...] | None = None) -> Target:
    """At these replicas, or at all of them."""
    return Target(
        cluster.addresses if endpoints is None else tuple(cluster.replicas[number].address for number in endpoints),
        connect=lambda endpoints: ClusterClient(tuple(endpoints), timeout_s=5.0),
        inspect=lambda: InspectClient(timeout_s=5.0),
    )


Open = Callable[..., Any]


@pytest.fixture
def desk() -> Open:
    """`async with desk(cluster, size=(120, 36), ...)`: the cluster is started (and stopped again unless `up`)."""

    @asynccontextmanager
    async def opened(
        cluster: Scripted, *, size: tuple[int, int] = (120, 36), up: bool = True, **rest: Any
    ) -> AsyncIterator[Desk]:
        clock = StillClock()
        if all(replica.server is None for replica in cluster.replicas.values()):
            await cluster.start()
        if not up:
            await cluster.stop()
        app = StillApp(options_for(cluster, clock, **rest))
        try:
            async with app.run_test(size=size, notifications=True) as pilot:
                found = Desk(app, pilot, cluster, clock)
                await found.heard()
                app.tick()
                await pilot.pause()
                yield found
        finally:
            await cluster.stop()

    return opened
