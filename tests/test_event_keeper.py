"""Events that outlive their process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from ravel_node import event_keeper
from ravel_node.event_keeper import EventKeeper, decode, encode
from ravel_node.replica.events import EVENTS_KEPT, Event, EventKind, EventLog


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that ends waits half a second for its disk; that of a busy machine takes longer."""
    monkeypatch.setattr(event_keeper, "CLOSE_S", 60.0)


class Boot:
    """One process's events on a directory."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        self.said: list[tuple[str, Mapping[str, object]]] = []
        self.boot_id = boot_id
        self.keeper = EventKeeper(directory, lambda event, fields: self.said.append((event, fields)))

    async def __aenter__(self) -> Boot:
        self.events = EventLog(self.boot_id, lambda: 7.5, kept=await self.keeper.open())
        self.keeper.follow(self.events)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.keeper.close()

    def happen(self, count: int) -> None:
        for _ in range(count):
            self.events.record(EventKind.ALARM, "it", "it happened, völlig", {"a": "1"}, term=3, index=4)


async def test_a_restart_goes_on(tmp_path: Path) -> None:
    async with Boot(tmp_path / "events", "a") as first:
        first.happen(3)
        told = list(first.events.since(0))
    async with Boot(tmp_path / "events", "b") as second:
        assert list(second.events.since(0)) == told
        second.happen(1)
        assert [event.position for event in second.events.since(2)] == [("a", 3), ("b", 4)]
    assert (first.said, second.said) == ([], [])


async def test_what_a_killed_process_had_told_is_there(tmp_path: Path) -> None:
    directory = tmp_path / "events"
    killed = Boot(directory, "a")
    await killed.__aenter__()
    killed.happen(2)
    async with asyncio.timeout(20):
        while not (directory / "current").exists() or b'"sequence":2' not in (directory / "current").read_bytes():
            await asyncio.sleep(0.01)
    async with Boot(directory, "b") as second:
        assert second.events.newest == 2
    await killed.keeper.close()


async def test_the_newest_thousand_are_kept(tmp_path: Path) -> None:
    async with Boot(tmp_path, "a") as first:
        for _ in range(5):
            first.happen(EVENTS_KEPT // 2)
            await asyncio.sleep(0.01)
    async with Boot(tmp_path, "b") as second:
        assert [event.sequence for event in second.events.since(0)] == list(range(1_501, 2_501))


async def test_what_waits_for_the_disk_at_the_end_is_kept(tmp_path: Path) -> None:
    async with Boot(tmp_path, "a") as first:
        hangs = threading.Event()
        first.keeper._thread.submit(hangs.wait, 60.0)
        first.happen(2)
        while first.keeper._handed_over < 2:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, hangs.set)
    async with Boot(tmp_path, "b") as second:
        assert second.events.newest == 2


async def test_damage_stops_nobody_and_is_said(tmp_path: Path) -> None:
    async with Boot(tmp_path, "a") as first:
        first.happen(3)
    (tmp_path / "current").write_bytes(b"what is this")
    async with Boot(tmp_path, "b") as second:
        second.happen(1)
        assert second.events.newest == 1
    ((event, fields),) = second.said
    assert (event, "is damaged" in str(fields["why"])) == ("events.damaged", True)


async def test_a_directory_that_cannot_be_used_is_said_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file")
    async with Boot(tmp_path / "events", "a") as boot:
        boot.happen(2)
        async with asyncio.timeout(60):
            while len(boot.said) < 2:
                await asyncio.sleep(0.01)
        boot.happen(2)
        assert boot.events.newest == 4
    assert boot.said[0][0] == "events.damaged"
    assert {event for event, _ in boot.said[1:]} == {"events.write_failed"}


def test_an_event_comes_back() -> None:
    event = Event("b" * 16, 5, 6, EventKind.SNAPSHOTS, "snapshot-built", 1, 7, 8, "it was ☃ built", {"k": "v"})
    assert decode(encode(event)) == event


def test_what_is_no_event_is_passed_over() -> None:
    assert [decode(payload) for payload in (b"", b"[]", b"{}", b"\xff", b'{"kind": 99}', b"3")] == [None] * 6
