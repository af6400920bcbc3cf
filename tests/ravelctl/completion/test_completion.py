"""Tab. The scripts in `completions/` are current, and bash, where it is there, inserts the right word."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from ravelctl.cli.command import GlobalOption
from ravelctl.cli.root import COMMANDS, root
from ravelctl.completion.scripts import SCRIPTS, script
from ravelctl.completion.tab import SHELLS, complete
from tests.ravelctl.completion.tab_table import made
from tests.ravelctl.conftest import Ctl

ROOT = Path(__file__).parents[3]
FILES = {"bash": "ravelctl.bash", "zsh": "_ravelctl", "fish": "ravelctl.fish"}


Offers = Callable[..., list[str]]


@pytest.fixture
def offers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Offers:
    """What is offered at the end of a line. Nothing was met before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("RAVELCTL_ENDPOINTS", "RAVELCTL_CONTEXT", "RAVELCTL_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def ask(line: str, shell: str = "fish") -> list[str]:
        assert complete(f"{shell}_complete", line) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return [offer.split("\t")[1] for offer in told.out.splitlines()]

    return ask


@pytest.mark.parametrize("shell", SHELLS)
def test_the_scripts_that_are_kept_are_current(ctl: Ctl, shell: str) -> None:
    kept = (ROOT / "completions" / FILES[shell]).read_text()
    assert kept == script(shell) == ctl("completion", shell).out


def test_there_is_a_script_for_every_shell_that_is_answered() -> None:
    assert tuple(SCRIPTS) == SHELLS


def test_the_table_that_is_kept_is_current() -> None:
    assert (ROOT / "ravelctl" / "completion" / "tab_table.py").read_text() == made(), "make completions"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ravelctl sta", ["status"]),
        ("ravelctl kv g", ["get"]),
        ("ravelctl status --out", ["--output"]),
        ("ravelctl status --output js", ["json"]),
        ("ravelctl status --output=js", ["--output=json"]),
        ("ravelctl status -qo js", ["json"]),
        ("ravelctl --output=y", ["--output=yaml"]),
        ("ravelctl -o json lea", ["leave", "leader"]),
        ("ravelctl -ojson lea", ["leave", "leader"]),
        ("ravelctl --timeout 2s lea", ["leave", "leader"]),
        ("ravelctl status --watch --outp", ["--output"]),
        ("ravelctl status --output json --outp", []),  # it was said already
        ("ravelctl status -- --outp", []),
        ("ravelctl completion ", ["bash", "zsh", "fish"]),
        ("ravelctl completion bash ", []),
        ("ravelctl bench --mix=", ["--mix=put", "--mix=get", "--mix=mixed"]),
        ("ravelctl doctor rv602", ["RV602"]),
        ("ravelctl doctor --explain=RV601", ["--explain=RV601"]),
        ("ravelctl --endpoints 10.0.0.1:", []),
        ("ravelctl --endpoints=:: leave ", []),
        ("ravelctl nope ", []),
        ("ravelctl kv nope --out", []),
        ("ravelctl kv get 'un", []),
        ("ravelctl kv put 'a word' --fi", ["--file"]),
        ("ravelctl snapshot inspect /et", ["/et"]),
        ("ravelctl playground kill ", []),
        ("ravelctl ", list(COMMANDS)),
        ("ravelctl", list(COMMANDS)),
        ("", list(COMMANDS)),
    ],
)
def test_what_is_offered(offers: Offers, shell: str, line: str, expected: list[str]) -> None:
    assert offers(line, shell) == expected


def _paths(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                verb = command.get_command(ctx, name)
                assert verb is not None
                yield from _paths(verb, (*path, name))


def test_the_same_is_offered_as_by_click(offers: Offers) -> None:
    """Click walks the commands themselves. Names that commands have met are ours alone: here are none."""
    click_says = ShellComplete(root, {}, "ravelctl", "")
    asked = 0
    for path, command in _paths(root):
        every = [p for p in command.params if isinstance(p, click.Option)]
        own = [p for p in every if not isinstance(p, GlobalOption) or not path]
        options = [name for p in own if p.name != "watch" for name in p.opts]
        taking = [p.opts[-1] for p in own if not p.is_flag][:3]
        for words in ([], *([name] for name in options), *([name, "1"] for name in taking), ["-o"], ["a", "b"]):
            if words == ["a", "b"] and isinstance(command, click.Group):
                continue
            for incomplete in ("", "--", "--ti", "s"):
                line = " ".join(("ravelctl", *path, *words, incomplete))
                found = click_says.get_completions([*path, *words], incomplete)
                codes = "doctor" in path and not incomplete.startswith("-")
                assert codes or offers(line) == [item.value for item in found if item.value or item.type != "plain"], line
                asked += 1
    assert asked > 500


def test_what_commands_have_met_is_offered(offers: Offers, tmp_path: Path) -> None:
    cache = tmp_path / "ravelctl" / "members"
    cache.parent.mkdir()
    cache.write_text("endpoints 10.0.0.1:7400\ta1 a2\t10.0.0.1:7400 10.0.0.2:7400\ncontext prod\tp1 p2\t10.1.0.1:7400\n")
    (cache.parent / "servers").write_text("context prod\ts1 c1/n1\n")
    (cache.parent / "config.toml").write_text('[contexts.prod]\nendpoints = ["10.1.0.1"]\n[ contexts . "dev" ]\n[other.x]\n')
    assert offers("ravelctl leave ") == ["a1", "a2", "p1", "p2"]
    assert offers("ravelctl --context prod leave ") == ["p1", "p2"]
    assert offers("ravelctl leave -e 10.0.0.1 ") == ["a1", "a2"]
    assert offers("ravelctl member promote a1 --replica=") == []
    assert offers("ravelctl log show --replica=p") == ["--replica=p1", "--replica=p2"]
    assert offers("ravelctl -e x,10.1") == ["x,10.1.0.1:7400"]
    assert offers("ravelctl admin leave ") == offers("ravelctl admin forget ") == ["s1", "c1/n1"]
    assert offers("ravelctl --context ") == offers("ravelctl context use ") == ["prod", "dev"]


def test_an_instruction_of_another_shell_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert complete("tcsh_complete", "ravelctl ") == 2
    assert complete("bash_source", "ravelctl ") == 2
    assert capsys.readouterr() == ("", "")


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
        timeout=120,
        check=True,
        env=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
    )
    assert out.stderr == ""
    assert [text for text in out.stdout.splitlines() if text] == [reply.replace("PATH", str(tmp_path)) for reply in replies]
