"""The dashboard in a real pseudo-terminal, in front of a cluster in another process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ravelctl.dashboard.terminal import ROOT, Terminal

TRUECOLOUR = re.compile(rb"\x1b\[[\d;]*[34]8[;:]2[;:]")
ALTERNATE_OFF, CURSOR_ON = b"\x1b[?1049l", b"\x1b[?25h"


class Scene:
    """A scripted cluster in another process; lines on its input change it."""

    def __init__(self, name: str, replicas: int) -> None:
        environ = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "protos")]), GRPC_VERBOSITY="NONE")
        command = [sys.executable, "-m", "tests.ravelctl.dashboard.scripted", name, str(replicas)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        self.addresses = self._process.stdout.readline().strip()

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    made = Scene("split-view", 5)
    yield made
    made.close()


def top(scene: Scene, *words: str, columns: int = 120, rows: int = 36, **environ: str) -> Terminal:
    return Terminal(["top", "--endpoints", scene.addresses, *words], columns=columns, rows=rows, **environ)


def test_rows_sizes_and_the_way_out(scene: Scene) -> None:
    """What is rendered, at 120 columns, at 80, and back; `q` restores the terminal."""
    with top(scene) as terminal:
        wide = r"^!n4 +follower +42 +-9,204 +-9,207 +-9,230 +9,204 +1\.3M +3\.8 repl-PAUSED +64/64 +41ms +19ms"
        screen = terminal.until(lambda text: re.search(wide, text, re.M))
        assert re.search(r"^.n2 +LEADER +42 918,442,110 ", screen, re.M)
        assert terminal.cursor_hidden
        terminal.resize(80, 24)
        narrow = r"^!n4 +follower +42 +9,204 +1\.3M +3\.8 repl-PAUSED +41ms +19ms +1\.2G"
        terminal.until(lambda text: re.search(narrow, text, re.M))
        terminal.resize(70, 20)
        terminal.until(lambda text: "ravel top needs 80x16" in text)
        terminal.resize(120, 36)
        terminal.until(lambda text: "COMMIT" in text and "repl-PAUSED" in text)
        terminal.send("q")
        assert terminal.ended() == 0
        assert ALTERNATE_OFF in terminal.raw
        assert terminal.raw.rindex(CURSOR_ON) > terminal.raw.index(b"\x1b[?25l")
        assert not terminal.cursor_hidden


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(scene: Scene, number: signal.Signals) -> None:
    with top(scene) as terminal:
        terminal.until(lambda text: "LEADER" in text)
        terminal.signal(number)
        terminal.ended()
        assert ALTERNATE_OFF in terminal.raw
        assert not terminal.cursor_hidden


CRASHING = """
import sys
from ravelctl.dashboard.screens.cluster import ClusterScreen
paint = ClusterScreen.paint
def crash(self):
    paint(self)
    if self.top.source.picture.view.leader is not None:
        raise RuntimeError("the disk of the painter is full")
ClusterScreen.paint = crash
from ravelctl.cli.root import main
sys.exit(main())
"""


def test_a_crash_restores_the_terminal_and_prints_the_error(scene: Scene, tmp_path: Path) -> None:
    program = tmp_path / "crashing.py"
    program.write_text(CRASHING)
    words = ["top", "--endpoints", scene.addresses]
    with Terminal(words, columns=120, rows=36, program=[sys.executable, str(program)]) as terminal:
        assert terminal.ended() == 1
        assert ALTERNATE_OFF in terminal.raw
        after = terminal.raw[terminal.raw.rindex(ALTERNATE_OFF) :]
        assert b"the disk of the painter is full" in after
        assert b"ravel top failed" in after


def test_no_color_emits_no_truecolour(scene: Scene) -> None:
    with top(scene, NO_COLOR="1") as terminal:
        terminal.until(lambda text: "repl-PAUSED" in text)
        terminal.send("?")
        terminal.until(lambda text: "MARKS" in text)
        terminal.send("q")
        terminal.until(lambda text: "repl-PAUSED" in text)
        terminal.send("q")
        terminal.ended()
        assert not TRUECOLOUR.search(terminal.raw)


def test_the_themes_have_colours(scene: Scene) -> None:
    with top(scene, "--theme", "light") as terminal:
        terminal.until(lambda text: "repl-PAUSED" in text)
        assert TRUECOLOUR.search(terminal.raw)


def piped(scene: Scene, *, stdin: int | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    return subprocess.run(
        [sys.executable, "-m", "ravelctl", "top", "--endpoints", scene.addresses],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=paths, RAVELCTL_CONFIG=str(ROOT / "no-such-file"), **environ),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_terminal_it_is_one_plain_frame(scene: Scene) -> None:
    ran = piped(scene, stdin=subprocess.DEVNULL)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert "\x1b" not in ran.stdout
    assert re.search(r"^.n2 +LEADER +42 918,442,110 ", ran.stdout, re.M)
    assert "CRIT" in ran.stdout
    assert ran.stdout.count("NODE") == 1


def test_piped_from_a_terminal_it_is_one_plain_frame(scene: Scene) -> None:
    """stdin and stderr are the terminal, stdout is not."""
    line = f"{sys.executable} -m ravelctl top --endpoints {scene.addresses} | cat; echo ended"
    with Terminal(["-c", line], columns=140, rows=30, program=["/bin/sh"]) as terminal:
        terminal.until(lambda text: "ended" in text)
        assert "LEADER" in terminal.text
        assert ALTERNATE_OFF not in terminal.raw
        assert TRUECOLOUR.search(terminal.raw) is None


def test_a_dumb_terminal_gets_one_plain_frame(scene: Scene) -> None:
    with top(scene, TERM="dumb") as terminal:
        assert terminal.ended() == 0
        assert b"LEADER" in terminal.raw
        assert b"\x1b" not in terminal.raw


def test_nobody_answers_a_pipe() -> None:
    nowhere = type("Nowhere", (), {"addresses": "127.0.0.1:1"})()
    ran = piped(nowhere, stdin=subprocess.DEVNULL)
    assert ran.returncode == 3
    assert "no daemon answers at 127.0.0.1:1: the connection" in ran.stderr
    assert ran.stdout == ""
