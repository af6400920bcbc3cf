"""What the simulator is made of: time that nobody waits for, and a disk that keeps what was committed and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from ravel_node.storage.base import StoreFailedError
from ravel_node.storage.engine import Environment
from tests.simulation.disk import CrashedError, Disk, SimEngine, SimEnvironment, SimTxn
from tests.simulation.timeline import Clock, Process, Timeline

T = TypeVar("T")

DATABASES = {"a": False}


def timeline() -> Timeline:
    return Timeline(Random(1))


class Server:
    """A process and its disk."""

    def __init__(self, path: Path) -> None:
        line = timeline()
        self.process = Process(line, "one", Clock(line))
        line.add(self.process)
        self.disk = Disk(path, Random(2))
        self.engine = SimEngine(self.disk, self)

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self.process.after(delay_s, action)

    def crash(self, where: str) -> None:
        self.engine.dead = True

    def committed(self, environment: SimEnvironment, txn: SimTxn) -> None: ...

    def tell(self, what: str) -> None: ...

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        task = self.process.loop.create_task(work)
        while not task.done():
            self.process.timeline.step()
        return task.result()


def test_each_clock_has_its_own_rate() -> None:
    line = timeline()
    slept: dict[float, float] = {}

    async def sleep(rate: float) -> None:
        await asyncio.sleep(10.0)
        slept[rate] = line.now

    for rate in (0.5, 1.0, 2.0):
        process = Process(line, str(rate), Clock(line, rate, offset_s=77.0))
        line.add(process)
        process.loop.create_task(sleep(rate))
    while len(slept) < 3:
        line.step()
    for rate, woke in slept.items():
        assert woke == pytest.approx(10.0 / rate, abs=0.001)


def test_a_paused_process_does_everything_at_once_later() -> None:
    line = timeline()
    process = Process(line, "one", Clock(line))
    line.add(process)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)
            ticks.append(line.now)

    def pause() -> None:
        process.paused = True

    ticking = process.loop.create_task(tick())
    arrived: list[float] = []
    line.after(0.5, pause)
    process.after(2.0, lambda: arrived.append(line.now))
    line.after(5.0, process.resume)
    line.after(7.5, lambda: None)
    while line.now < 7.5:
        line.step()
    assert arrived == [5.0]
    assert [round(at) for at in ticks] == [5, 6, 7]
    ticking.cancel()
    process.loop.turn()


def test_time_stands_still_when_nothing_is_due() -> None:
    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        timeline().step()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def opened(server: Server, engine: SimEngine) -> Environment:
    return server.finish(engine.open(server.disk.path / "raft", DATABASES, 1 << 20))


def test_a_view_shows_one_commit_until_it_is_renewed(server: Server) -> None:
    environment = opened(server, server.engine)
    server.finish(environment.write(lambda txn: txn.put("a", b"k", b"1")))
    view = environment.view()
    server.finish(environment.write(lambda txn: txn.put("a", b"k", b"2")))
    assert view.get("a", b"k") == b"1"
    view.renew()
    assert view.get("a", b"k") == b"2"


def test_a_crash_keeps_what_was_committed(server: Server) -> None:
    environment = opened(server, server.engine)
    server.finish(environment.write(lambda txn: txn.put("a", b"k", b"1")))
    lost = server.process.loop.create_task(environment.write(lambda txn: txn.put("a", b"k", b"2")))
    server.process.loop.turn()
    server.engine.dead = True
    server.process.timeline.after(10.0, lambda: None)
    while server.process.timeline.now < 10.0:
        server.process.timeline.step()
    assert not lost.done()
    with pytest.raises(CrashedError):
        server.finish(environment.write(lambda txn: txn.put("a", b"k", b"3")))
    after = opened(server, SimEngine(server.disk, server))
    assert after.view().get("a", b"k") == b"1"
    lost.cancel()
    server.process.loop.turn()


@pytest.mark.parametrize("seed", range(6))
def test_after_a_failed_commit_every_write_fails(server: Server, seed: int) -> None:
    environment = opened(server, server.engine)
    server.disk.rng = Random(seed)
    server.disk.faults.fail = 1.0
    with pytest.raises(StoreFailedError):
        server.finish(environment.write(lambda txn: txn.put("a", b"k", b"1")))
    server.disk.faults.fail = 0.0
    with pytest.raises(StoreFailedError):
        server.finish(environment.write(lambda txn: txn.put("a", b"k", b"2")))
    after = opened(server, SimEngine(server.disk, server))
    assert after.view().get("a", b"k") in (None, b"1")
