"""Recordings: what was seen is seen again; a file that was cut off, or damaged, plays as far as it is good."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.dashboard.app import TopApp
from ravelctl.dashboard.observer import Heard, Lost, Noted, Observer, Picture, Told, Watched
from ravelctl.dashboard.panels import plain_frame
from ravelctl.dashboard.recording import Player, Recorder, Recording
from ravelctl.dashboard.session import Clock
from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.dashboard.conftest import Open, options_for
from tests.ravelctl.dashboard.scripted import WALL_MS, Scripted
from tests.ravelctl.dashboard.terminal import ROOT
from tests.ravelctl.dashboard.test_model import made
from tests.ravelctl.dashboard.test_terminal import Scene

SECONDS = 400


def record(path: Path, *, seconds: int = SECONDS, count: int = 3) -> list[Picture]:
    """A cluster whose leader changes each 50 s and of which one is down for a while; the pictures of its observer."""
    cluster = made(count)
    observer = Observer(1.0)
    recorder = Recorder(path, interval_s=1.0, cluster="prod-eu", version="0.4.1", wall_ms=WALL_MS)
    pictures = []

    def take(report: Heard | Told | Lost | Watched | Noted, at_s: float) -> None:
        observer.take(report, at_s, WALL_MS + round(at_s * 1000))
        recorder.write(report, at_s, WALL_MS + round(at_s * 1000))

    take(Watched(cluster_addresses(cluster)), 0.0)
    for second in range(seconds):
        cluster.passed_ms += 1_000
        if second % 50 == 10:
            cluster.lead(second // 50 % count + 1, term=42 + second // 50)
            cluster.leader.tell(pb.ELECTION, f"won term {cluster.leader.term}", wall_ms=WALL_MS + second * 1000)
        cluster.leader.writes += 100 + second
        for replica in cluster.replicas.values():
            replica.last += 100
            if replica.number == 3 and 120 <= second < 180:
                take(Lost(replica.address, "the connection was refused"), float(second))
                continue
            take(Heard(replica.address, replica.status()), second + 0.3)
            if replica.events:
                take(Told(replica.address, tuple(replica.events)), second + 0.3)
        if second == 200:
            take(Noted("action", "leadership went from n1 to n2"), second + 0.4)
        pictures.append(observer.tick(second + 0.9, WALL_MS + second * 1000 + 900))
        recorder.tick(observer, second + 0.9, WALL_MS + second * 1000 + 900)
    recorder.close()
    return pictures


def cluster_addresses(cluster: Scripted) -> tuple[str, ...]:
    return tuple(replica.address for replica in cluster.replicas.values())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Picture]]:
    path = tmp_path_factory.mktemp("recorded") / "one.rvtop"
    return path, record(path)


def test_what_is_played_is_what_was_seen(recorded: tuple[Path, list[Picture]]) -> None:
    path, pictures = recorded
    player = Player(Recording(path))
    played = [player.picture]
    for _ in pictures[1:]:
        player.step(1)
        played.append(player.picture)
    assert played == pictures


@pytest.mark.parametrize("second", [0, 59, 60, 61, 150, 333, SECONDS - 1])
def test_going_to_a_moment_shows_it_as_it_was(recorded: tuple[Path, list[Picture]], second: int) -> None:
    path, pictures = recorded
    player = Player(Recording(path))
    player.seek(second * 1000)
    assert player.picture.view == pictures[second].view
    assert plain_frame(player.picture) == plain_frame(pictures[second])
    assert [a.breach for a in player.picture.alarms] == [a.breach for a in pictures[second].alarms]
    assert player.picture.trend("lag")[-60:] == pictures[second].trend("lag")[-60:]


def test_steps_jumps_speed_and_times(recorded: tuple[Path, list[Picture]]) -> None:
    path, pictures = recorded
    player = Player(Recording(path))
    player.goto("14:05:00")
    assert player.picture.wall_ms == pictures[93].wall_ms - 900 + 900
    player.step(-1)
    assert player.picture.view == pictures[player.at_ms // 1000].view
    before = player.at_ms
    player.jump(1)
    assert player.at_ms > before
    assert player.picture.events[-1].at_ms > pictures[before // 1000].events[-1].at_ms
    player.jump(-1)
    assert player.at_ms <= before
    player.playing, player.speed = True, 1
    for _ in range(6):
        player.faster(1)
    assert player.speed == 60
    at = player.at_ms
    player.advance(1.0)
    assert player.at_ms == at + 60_000
    with pytest.raises(ValueError, match="not in this recording"):
        player.goto("03:00")
    with pytest.raises(ValueError, match="not a time"):
        player.goto("99:99")


def test_at_its_end_a_recording_holds(recorded: tuple[Path, list[Picture]]) -> None:
    player = Player(Recording(recorded[0]))
    player.speed = 60
    for _ in range(20):
        player.advance(1.0)
    assert not player.playing
    assert player.picture.view == recorded[1][-1].view


def test_a_file_that_was_cut_off_plays_up_to_there(recorded: tuple[Path, list[Picture]], tmp_path: Path) -> None:
    raw = recorded[0].read_bytes()
    path = tmp_path / "cut.rvtop"
    lengths = []
    for share in (0.2, 0.5, 0.9, 0.999):
        path.write_bytes(raw[: int(len(raw) * share)])
        player = Player(Recording(path))
        player.seek(10**9)
        assert player.damage
        assert player.picture.view == recorded[1][player.at_ms // 1000].view
        lengths.append(player.at_ms)
    assert lengths == sorted(lengths)
    assert lengths[-1] >= (SECONDS - 3) * 1000


def test_a_byte_that_changed_ends_what_is_good(recorded: tuple[Path, list[Picture]], tmp_path: Path) -> None:
    raw = bytearray(recorded[0].read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path = tmp_path / "bad.rvtop"
    path.write_bytes(raw)
    recording = Recording(path)
    assert recording.damage
    assert 0 < recording.length_ms < SECONDS * 1000


def _nothing(raw: bytes) -> bytes:
    return b""


def _other(raw: bytes) -> bytes:
    return b"\x89PNG" + raw


def _header(raw: bytes) -> bytes:
    return raw[:22] + b"x" * 40 + raw[62:]


def _newer(raw: bytes) -> bytes:
    return raw[:16] + b"\x00\x09" + raw[18:]


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (_nothing, ExitCode.DAMAGED, "does not begin as one"),
        (_other, ExitCode.DAMAGED, "does not begin as one"),
        (_header, ExitCode.DAMAGED, "header"),
        (_newer, ExitCode.REFUSED, "version 9"),
    ],
)
def test_what_is_no_recording_is_told(
    recorded: tuple[Path, list[Picture]], tmp_path: Path, damage: Callable[[bytes], bytes], code: ExitCode, says: str
) -> None:
    path = tmp_path / "x.rvtop"
    path.write_bytes(damage(recorded[0].read_bytes()))
    with pytest.raises(CommandError, match=says) as caught:
        Recording(path)
    assert caught.value.code is code
    assert caught.value.next_step


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "there.rvtop"
    path.write_text("mine")
    with pytest.raises(CommandError, match="is there already"):
        Recorder(path, interval_s=1.0, cluster="c", version="0", wall_ms=WALL_MS)
    assert path.read_text() == "mine"


def test_the_plain_frame_of_a_recording(recorded: tuple[Path, list[Picture]], ctl: Ctl) -> None:
    ran = ctl("top", "--replay", recorded[0])
    assert ran.code == 0
    assert ran.out == plain_frame(recorded[1][-1])


async def test_the_screen_says_how_far_a_damaged_recording_is_good(recorded: tuple[Path, list[Picture]], tmp_path: Path) -> None:
    raw = recorded[0].read_bytes()
    path = tmp_path / "cut.rvtop"
    path.write_bytes(raw[: len(raw) // 2])
    app = TopApp(options_for(made(1), Clock(), replay=path))
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        await pilot.pause(0.2)
        strips = app.screen._compositor.render_strips()
        text = " ".join("".join(segment.text for segment in strip) for strip in strips)
        assert "It plays up to" in text
        assert "DAMAGED" in text


async def test_the_screen_plays_a_recording(recorded: tuple[Path, list[Picture]], desk: Open) -> None:
    app = TopApp(options_for(made(1), Clock(), replay=recorded[0]))
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("space")
        await pilot.pause(0.2)
        player = app.source.player  # type: ignore[attr-defined]
        assert not player.playing
        at = player.at_ms // 1000 * 1000
        await pilot.press("right_square_bracket", "right_square_bracket")
        assert player.at_ms == at + 2_000
        await pilot.press("left_square_bracket")
        assert player.at_ms == at + 1_000
        await pilot.press("right_curly_bracket")
        assert player.at_ms > at + 1_000
        await pilot.press("g", *"14:05", "enter")
        await pilot.pause()
        assert player.at_ms == 93_000
        await pilot.press("T")
        assert len(app.screen_stack) == 1
        await pilot.press("plus", "plus", "space")
        async with asyncio.timeout(60.0):
            while player.at_ms <= 93_000:
                await pilot.pause(0.05)


def test_record_without_a_screen(tmp_path: Path) -> None:
    """`ravelctl record` writes until it is told to stop, and says how to play it."""
    scene = Scene("healthy", 3)
    path = tmp_path / "out.rvtop"
    try:
        command = [sys.executable, "-m", "ravelctl", "record", str(path), "--endpoints", scene.addresses, "--interval", "100ms"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 90
            while (not path.exists() or path.stat().st_size < 2_000) and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=90)
            assert process.returncode == 0, err
    finally:
        scene.close()
    assert out.startswith(str(path))
    assert f"ravelctl top --replay {path}" in err
    recording = Recording(path)
    assert recording.damage == ""
    assert recording.cluster == "prod-eu"


def test_the_session_behind_the_pictures_still_plays() -> None:
    recording = Recording(ROOT / "docs" / "pictures" / "session.rvtop")
    assert recording.damage == ""
    player = Player(recording)
    player.seek(10**9)
    assert player.picture.view.name == "orders"
    assert player.picture.view.leader is not None
