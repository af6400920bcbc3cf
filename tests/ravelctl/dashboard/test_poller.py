"""The poller in front of servers that go, hang, come back, are old, or tell of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ravelctl.client import ClusterClient
from ravelctl.dashboard import poller as polling
from ravelctl.dashboard.observer import Heard, Lost, Report, Told, Watched
from ravelctl.dashboard.poller import Poller
from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.dashboard.scripted import Scripted

INTERVAL_S = 0.1


class Ears:
    """What a poller told, and a way to wait for it."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    async def until(self, condition: Callable[[], Any], within_s: float = 20.0) -> None:
        deadline = asyncio.get_running_loop().time() + within_s
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, self.reports[-5:]
            await asyncio.sleep(0.01)

    def heard(self, address: str) -> int:
        return sum(isinstance(report, Heard) and report.address == address for report in self.reports)

    def lost(self, address: str) -> list[str]:
        return [report.error for report in self.reports if isinstance(report, Lost) and report.address == address]

    def told(self) -> list[str]:
        return [event.text for report in self.reports if isinstance(report, Told) for event in report.events]

    @property
    def watched(self) -> tuple[str, ...]:
        return [report for report in self.reports if isinstance(report, Watched)][-1].addresses


@asynccontextmanager
async def polled(cluster: Scripted, *endpoints: str) -> AsyncIterator[Ears]:
    ears = Ears()
    async with ClusterClient(endpoints or cluster.addresses, timeout_s=2.0) as client:
        poller = Poller(client, endpoints or cluster.addresses, ears.reports.append, interval_s=INTERVAL_S)
        task = asyncio.create_task(poller.run())
        try:
            yield ears
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await cluster.stop()


async def test_members_are_found_from_one_endpoint_and_left_when_they_leave() -> None:
    cluster = await Scripted(3).start()
    first, second, third = cluster.addresses
    async with polled(cluster, first) as ears:
        await ears.until(lambda: ears.heard(second) and ears.heard(third))
        del cluster.roles[3]
        cluster.config_index += 1
        await ears.until(lambda: ears.watched == (first, second))


async def test_a_killed_server_is_lost_and_live_again_within_three_seconds() -> None:
    cluster = await Scripted(3).start()
    address = cluster.addresses[2]
    async with polled(cluster) as ears:
        await ears.until(lambda: ears.heard(address))
        await cluster.replicas[3].stop()
        await ears.until(lambda: ears.lost(address), 3.0)
        before = ears.heard(address)
        await cluster.replicas[3].start()
        await ears.until(lambda: ears.heard(address) > before, 3.0)


async def test_an_older_version_is_asked_with_status() -> None:
    cluster = Scripted(1)
    cluster.replicas[1].old = True
    await cluster.start()
    async with polled(cluster) as ears:
        await ears.until(lambda: ears.heard(cluster.addresses[0]) >= 3)
        assert not ears.lost(cluster.addresses[0])


async def test_a_server_that_hangs_is_given_up_and_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "SILENCE_MAX_S", 0.3)
    cluster = await Scripted(1).start()
    (address,) = cluster.addresses
    async with polled(cluster) as ears:
        await ears.until(lambda: ears.heard(address))
        cluster.replicas[1].hung = True
        await ears.until(lambda: ears.lost(address))
        assert "nothing" in ears.lost(address)[0]
        before = ears.heard(address)
        cluster.replicas[1].hung = False
        await ears.until(lambda: ears.heard(address) > before)


async def test_events_come_at_once_and_once_over_reconnects() -> None:
    cluster = Scripted(1)
    one = cluster.replicas[1]
    one.tell(pb.ELECTION, "before")
    await cluster.start()
    async with polled(cluster) as ears:
        await ears.until(lambda: ears.told() == ["before"])
        one.tell(pb.MEMBERSHIP, "while watched")
        await ears.until(lambda: "while watched" in ears.told())
        await one.stop()
        await ears.until(lambda: ears.lost(one.address))
        one.tell(pb.ELECTION, "while away")
        await one.start()
        await ears.until(lambda: "while away" in ears.told())
        assert ears.told() == ["before", "while watched", "while away"]


async def test_after_an_election_the_replica_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "INTERVAL_S", 30.0)
    cluster = await Scripted(2).start()
    async with polled(cluster) as ears:
        await ears.until(lambda: ears.heard(cluster.addresses[1]))
        cluster.lead(2, term=43)
        cluster.replicas[2].tell(pb.ELECTION, "won term 43")

        def knows() -> bool:
            return any(isinstance(report, Heard) and report.status.header.term == 43 for report in ears.reports)

        await ears.until(knows, 10.0)


async def test_one_daemon_under_two_addresses_is_asked_once() -> None:
    cluster = await Scripted(1).start()
    (address,) = cluster.addresses
    other = address.replace("127.0.0.1", "localhost")
    async with polled(cluster, other, address) as ears:
        await ears.until(lambda: ears.heard(other) or ears.heard(address))
        await ears.until(lambda: len(ears.watched) == 1)
