"""Tab in the shells themselves, on a terminal: what stands on the line after the key was pressed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import subprocess
import sys
import termios
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravelctl.completion.tab import SHELLS
from tests.ravelctl.on_terminal import on_terminal

ROOT = Path(__file__).parents[3]
DEADLINE_S = 60.0

SETUP = {
    "bash": r"""
        bind 'set bell-style none'
        bind 'set enable-bracketed-paste off'
        bind -x '"\C-x\C-p": printf "%%s\n" "$READLINE_LINE" >> %(out)s'
        source %(root)s/completions/ravelctl.bash
        echo ready >> %(out)s
    """,
    "zsh": r"""
        unsetopt zle_bracketed_paste 2>/dev/null; unset zle_bracketed_paste
        autoload -Uz compinit; compinit -D -u
        tell() { print -r -- "$BUFFER" >> %(out)s; }; zle -N tell; bindkey '^X^P' tell
        source %(root)s/completions/_ravelctl
        echo ready >> %(out)s
    """,
}
START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
KILL_LINE, TELL = b"\x01\x0b", b"\x18\x10"  # to the start and kill what follows; the key bound above

CASES = [
    ("stat", "status"),
    ("member dem", "member demote"),
    ("status --consist", "status --consistency"),
    ("status --output js", "status --output json"),
    ("status --output=js", "status --output=json"),
    ("--context=pr", "--context=prod"),
    ("status --context pr", "status --context prod"),
    ("context use pr", "context use prod"),
    ("--endpoints 10.0.0.1:", "--endpoints 10.0.0.1:7400"),
    ("--endpoints=10.0.0.1:", "--endpoints=10.0.0.1:7400"),
    ("-e 10.0.0.1:7400,10.0.0.2", "-e 10.0.0.1:7400,10.0.0.2:7400"),
    ("leave al", "leave alpha"),
    ("member promote beta al", "member promote beta alpha"),
    ("kv put k --file PATH/va", "kv put k --file PATH/value"),
    ("kv put k --file=PATH/va", "kv put k --file=PATH/value"),
    ("nonsense st", "nonsense st"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With `ravelctl` in the path, a context, and a cache of what commands have met. The cluster itself is down."""
    program = tmp_path / "bin" / "ravelctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ravelctl "$@"\n')
    program.chmod(0o755)
    (tmp_path / "value").touch()
    for folder in ("config", "cache"):
        (tmp_path / folder / "ravelctl").mkdir(parents=True)
    file = tmp_path / "config" / "ravelctl" / "config.toml"
    file.write_text('current = "prod"\n\n[contexts.prod]\nendpoints = ["10.0.0.1:7400"]\n')
    file.chmod(0o600)
    (tmp_path / "cache" / "ravelctl" / "members").write_text("\talpha beta\t10.0.0.1:7400 10.0.0.2:7400\n")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'protos'}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    return tmp_path


class Terminal:
    """A shell on a terminal of its own. What it shows is read and thrown away; what it tells, it writes into a file."""

    def __init__(self, shell: str, home: Path) -> None:
        self.out = home / "told"
        self.out.touch()
        self._screen = b""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x32\x00\xc8\x00\x00\x00\x00\x00")  # 50 lines of 200 columns
        self._child = subprocess.Popen(
            on_terminal(START[shell]), stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=home
        )
        os.close(slave)
        setup = home / "setup"
        setup.write_text(SETUP[shell] % {"out": self.out, "root": ROOT})
        self.type(f"source {setup}\n".encode())
        assert self.told(1) == ["ready"]

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def told(self, count: int) -> list[str]:
        """The first `count` lines of what was told, once they are there."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            if select.select([self._master], [], [], 0.02)[0]:
                self._screen += os.read(self._master, 65536)
            lines = self.out.read_text().splitlines()
            if len(lines) >= count:
                return lines[:count]
            assert time.monotonic() < deadline, f"{lines}\n{self._screen[-2000:].decode(errors='replace')}"

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._master)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, home: Path) -> Iterator[Terminal]:
    need(request.param)
    made = Terminal(request.param, home)
    yield made
    made.close()


def need(shell: str) -> None:
    if shutil.which(shell) is None:
        why = f"{shell.upper()} IS NOT INSTALLED: its completion is NOT tested (apt-get install {shell})"
        warnings.warn(why, stacklevel=2)
        pytest.skip(why)


@pytest.mark.parametrize("terminal", ["bash", "zsh"], indirect=True)
def test_tab_completes_the_word(terminal: Terminal, home: Path) -> None:
    told: list[str] = []
    for typed, _ in CASES:
        terminal.type(KILL_LINE + f"ravelctl {typed}".replace("PATH", str(home)).encode() + b"\t" + TELL)
        told = terminal.told(len(told) + 2)[1:]
    expected = [f"ravelctl {line}".replace("PATH", str(home)) for _, line in CASES]
    assert [line.rstrip() for line in told] == expected


def test_fish_offers_the_word(home: Path) -> None:
    need("fish")
    for typed, line in CASES:
        words = f"ravelctl {typed}".replace("PATH", str(home))
        expected = line.rpartition(" ")[2].replace("PATH", str(home))
        ask = f"source {ROOT}/completions/ravelctl.fish; complete -C '{words}'"
        out = subprocess.run(
            ["fish", "--no-config", "-c", ask], capture_output=True, text=True, timeout=DEADLINE_S, check=True, cwd=home
        )
        assert out.stderr == ""
        offers = [offer.split("\t")[0] for offer in out.stdout.splitlines()]
        assert offers == ([] if typed == line else [expected]), typed


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_understood_by_its_shell(home: Path, shell: str) -> None:
    need(shell)
    script = {"bash": "ravelctl.bash", "zsh": "_ravelctl", "fish": "ravelctl.fish"}[shell]
    subprocess.run([shell, "-n", str(ROOT / "completions" / script)], check=True, timeout=DEADLINE_S)
