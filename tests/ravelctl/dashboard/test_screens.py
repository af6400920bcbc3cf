"""The screens as they are painted: five situations at both sizes, against pictures that were looked at.

`SNAPSHOTS=write pytest tests/ravelctl/dashboard/test_screens.py` makes the pictures again; look at them before they are kept.
"""

from __future__ import annotations

import os
import re
from html import unescape
from pathlib import Path

import pytest

from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.dashboard import scripted
from tests.ravelctl.dashboard.conftest import Desk, Open
from tests.ravelctl.dashboard.scripted import Scripted

PORTS = re.compile(r"127\.0\.0\.1:\d+ *")
FOLDER = Path(__file__).parent / "snapshots"
SIZES = [(120, 36), (80, 24)]


def lines_of(svg: str) -> list[str]:
    """The text of a picture, line by line, each part with its class of colour."""
    body = PORTS.sub("127.0.0.1:PORT ", re.sub(r"terminal-\d+-", "terminal-", svg).replace("&#160;", " "))
    found = re.findall(r'<text class="terminal-(r\d+)"[^>]*?x="([\d.]+)"[^>]*?y="([\d.]+)"[^>]*?>(.*?)</text>', body)
    return [f"{y} {x} {kind} {unescape(text)}" for kind, x, y, text in found]


def colours_of(svg: str) -> list[str]:
    return re.findall(r"\.terminal-\d+-(r\d+ \{[^}]*\})", svg)


def compare(desk: Desk, name: str) -> None:
    columns, rows = desk.app.size
    path = FOLDER / f"{name}-{columns}x{rows}.svg"
    svg = desk.app.export_screenshot(title=f"ravel top: {name}")
    if os.environ.get("SNAPSHOTS") == "write":
        path.write_text(svg)
    kept = path.read_text()
    assert lines_of(kept), "the picture has no text: its form has changed"
    assert lines_of(svg) == lines_of(kept), desk.text()
    assert colours_of(svg) == colours_of(kept)


async def some_time(desk: Desk) -> None:
    """Trends and alarms have a past."""
    for writes in (2_000, 4_100, 6_000, 8_100):
        await desk.passes(writes_s=writes, reads_s=41_000)


@pytest.mark.parametrize("size", SIZES)
async def test_healthy(desk: Open, size: tuple[int, int]) -> None:
    cluster = Scripted(5)
    scripted.healthy(cluster)
    cluster.replicas[2].tell(pb.ELECTION, "won term 42, votes n1 n2 n4 (pre-vote 12ms)", wall_ms=scripted.WALL_MS - 9_000)
    async with desk(cluster, size=size) as found:
        await some_time(found)
        compare(found, "healthy")


@pytest.mark.parametrize("size", SIZES)
async def test_no_leader(desk: Open, size: tuple[int, int]) -> None:
    cluster = Scripted(5)
    scripted.no_leader(cluster)
    async with desk(cluster, size=size) as found:
        await some_time(found)
        compare(found, "no-leader")
        assert re.search("NO LEADER (for )?14s", found.text())
        assert {row.lag for row in found.app.source.picture.view.replicas} == {None}


@pytest.mark.parametrize("size", SIZES)
async def test_split_view(desk: Open, size: tuple[int, int]) -> None:
    cluster = Scripted(5)
    scripted.split_view(cluster)
    async with desk(cluster, size=size) as found:
        await found.passes(writes_s=8_100, reads_s=41_000)
        await cluster.replicas[3].stop()
        await some_time(found)
        compare(found, "split-view")


@pytest.mark.parametrize("size", SIZES)
async def test_snapshot_at_43_percent(desk: Open, size: tuple[int, int]) -> None:
    cluster = Scripted(6)
    scripted.snapshot_43(cluster)
    async with desk(cluster, size=size) as found:
        await some_time(found)
        compare(found, "snapshot-43")
        assert found.lines("snap-43%")


@pytest.mark.parametrize("size", SIZES)
async def test_all_down(desk: Open, size: tuple[int, int]) -> None:
    cluster = Scripted(5)
    scripted.healthy(cluster)
    async with desk(cluster, size=size) as found:
        await some_time(found)
        await cluster.stop()
        live = found.app.live
        assert live is not None
        await found.until(lambda: all("refused" in sight.error for sight in live.observer.sights))
        await some_time(found)
        compare(found, "all-down")
        assert len(found.lines("(down)")) == 5


async def test_nobody_has_ever_answered(desk: Open) -> None:
    """The screen says so, with addresses, since when and the reason of each, and goes on trying."""
    cluster = Scripted(3)
    async with desk(cluster, up=False) as found:
        await found.passes(12.0)
        assert found.lines("NOBODY ANSWERS")
        live = found.app.live
        assert live is not None
        await found.until(lambda: found.app.tick() or all("refused" in sight.error for sight in live.observer.sights))
        for replica in cluster.replicas.values():
            (line,) = found.lines(f" {replica.address}  ")
            assert "refused" in line
            assert " 12s " in line
        await cluster.start()
        await found.passes()
        assert found.lines("quorum 3/3")
        assert not found.lines("NOBODY")


async def test_every_size_between_and_beyond(desk: Open) -> None:
    cluster = Scripted(6)
    scripted.snapshot_43(cluster)
    async with desk(cluster) as found:
        await some_time(found)
        for columns, rows in ((119, 35), (100, 30), (99, 29), (81, 24), (80, 16), (160, 50), (220, 60), (120, 36)):
            await found.resize(columns, rows)
            lines = found.text().splitlines()
            assert all(len(line) <= columns for line in lines)
            assert found.lines("snap-43%"), (columns, rows)
            assert lines[-1].startswith(" ?help"), (columns, rows)


async def test_too_small_a_terminal_says_what_is_needed(desk: Open) -> None:
    async with desk(Scripted(3), size=(60, 12)) as found:
        assert found.lines("This terminal is 60x12.")
        assert found.lines("needs 80x16")
        await found.resize(80, 24)
        assert found.lines("LEADER")


async def test_the_screen_of_one_replica(desk: Open) -> None:
    cluster = Scripted(5)
    scripted.split_view(cluster)
    async with desk(cluster) as found:
        await some_time(found)
        await found.press("down", "down", "down", "enter")
        assert found.lines("prod-eu › n4")
        assert found.lines("match 918,432,906  next 918,432,971")
        assert found.lines("lag 9,204 / 1.3M / 3.8s")
        assert found.lines("ack RTT p50 9.0ms p99 61ms")
        assert found.lines("DIFFERS FROM THE OTHERS: fsync p99 19ms (median 2.0ms)")
        await found.press("right")
        assert found.lines("prod-eu › n5")
        await found.press("escape")
        assert found.lines("EVENTS [all]")


async def test_help_and_palette_know_the_same_commands(desk: Open) -> None:
    async with desk(Scripted(3), size=(120, 50)) as found:
        await found.press("question_mark")
        assert found.lines("Hand leadership to the chosen replica")
        assert found.lines("not known")
        await found.press("escape")
        names = {command.title.split()[0] for command in found.app.get_system_commands(found.app.screen)}
        assert {"transfer", "promote", "remove", "snapshot", "record", "pause", "sort", "filter", "help"} <= names


async def test_the_palette_runs_a_command(desk: Open) -> None:
    async with desk(Scripted(3)) as found:
        await found.press("colon")
        await found.pilot.press(*"pause")
        await found.until(lambda: found.lines("Hold the picture still"))
        await found.pilot.press("enter")
        await found.until(lambda: found.app.paused)


async def test_filter_and_sort(desk: Open) -> None:
    cluster = Scripted(5)
    scripted.split_view(cluster)
    async with desk(cluster) as found:
        await some_time(found)
        await found.press("slash", *"n4", "enter")
        assert found.lines("repl-PAUSED")
        assert not found.lines(" n1   follower")
        await found.press("escape")
        assert found.lines(" n1   follower")
        await found.press("s")
        assert found.lines("NODE▾")


@pytest.mark.parametrize("theme", ["ravel-dark", "ravel-light", "ravel-ansi"])
async def test_every_theme_shows_the_same(desk: Open, theme: str) -> None:
    cluster = Scripted(5)
    scripted.split_view(cluster)
    async with desk(cluster, theme=theme) as found:
        assert found.lines("repl-PAUSED")
        await found.press("T")
        await found.until(lambda: found.lines("leads already"))
