"""Tab. The scripts in `completions/` are current, and bash, where it is there, inserts the right word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ravelctl.cli import COMMANDS, root
from ravelctl.completion import SHELLS, script
from tests.ravelctl.conftest import Ctl

ROOT = Path(__file__).parents[2]
FILES = {"bash": "ravelctl.bash", "zsh": "_ravelctl", "fish": "ravelctl.fish"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_that_are_kept_are_current(ctl: Ctl, shell: str) -> None:
    kept = (ROOT / "completions" / FILES[shell]).read_text()
    assert kept == script(root, shell) == ctl("completion", shell).out


def offers(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, line: str, shell: str = "fish") -> list[str]:
    monkeypatch.setenv("_RAVELCTL_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("_RAVELCTL_LINE", line)
    ran = ctl()
    assert (ran.code, ran.err) == (0, "")
    return [offer.split("\t")[1] for offer in ran.out.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ravelctl sta", ["status"]),
        ("ravelctl kv g", ["get"]),
        ("ravelctl status --out", ["--output"]),
        ("ravelctl status --output js", ["json"]),
        ("ravelctl status --output=js", ["--output=json"]),
        ("ravelctl --output=y", ["--output=yaml"]),
        ("ravelctl -o json lea", ["leave", "leader"]),
        ("ravelctl completion ", ["bash", "zsh", "fish"]),
        ("ravelctl bench --mix=", ["--mix=put", "--mix=get", "--mix=mixed"]),
        ("ravelctl --endpoints 10.0.0.1:", []),
        ("ravelctl nope ", []),
        ("ravelctl kv get 'un", []),
        ("ravelctl snapshot inspect /et", ["/et"]),
    ],
)
def test_what_is_offered(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, shell: str, line: str, expected: list[str]) -> None:
    assert offers(ctl, monkeypatch, line, shell) == expected


def test_all_commands_are_offered(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offers(ctl, monkeypatch, "ravelctl ") == list(COMMANDS)


def test_an_instruction_of_another_shell_says_nothing(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_RAVELCTL_COMPLETE", "tcsh_complete")
    ran = ctl()
    assert (ran.code, ran.out, ran.err) == (2, "", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("ravelctl sta", ["status"]),
        ("ravelctl status --output=j", ["json"]),  # readline has broken the word at the =
        ("ravelctl kv put k --file PATH/va", ["PATH/value", "PATH/value 2"]),
        ("ravelctl kv put k --file=PATH/value", ["PATH/value", "PATH/value 2"]),
        ("ravelctl --endpoints 10.0.0.1:", []),
    ],
)
def test_bash_inserts_what_is_missing(tmp_path: Path, line: str, replies: list[str]) -> None:
    """COMPREPLY holds what replaces the word that readline sees, which begins after the last = or colon."""
    (tmp_path / "value").touch()
    (tmp_path / "value 2").touch()
    program = tmp_path / "bin" / "ravelctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ravelctl "$@"\n')
    program.chmod(0o755)
    ask = """
        compopt() { :; }
        source "$1"
        COMP_LINE=$2 COMP_POINT=${#2}
        _ravelctl ravelctl
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    out = subprocess.run(
        ["bash", "--norc", "-c", ask, "bash", str(ROOT / "completions" / "ravelctl.bash"), line.replace("PATH", str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
    )
    assert out.stderr == ""
    assert [text for text in out.stdout.splitlines() if text] == [reply.replace("PATH", str(tmp_path)) for reply in replies]
