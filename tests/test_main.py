"""The command line of the daemon, in processes of its own, as far as it goes without starting one."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from ravel_node import __version__
from ravel_node.__main__ import command
from ravel_node.config import ServerConfig
from ravel_node.settings import SETTINGS

ROOT = Path(__file__).resolve().parents[1]


def _run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos")])
    return subprocess.run(
        [sys.executable, "-m", "ravel_node", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version() -> None:
    result = _run("--version")
    assert (result.returncode, result.stdout) == (0, f"ravel_node {__version__}\n")


def test_help_names_every_setting() -> None:
    shown = {verb: _run(verb, "--help") for verb in ("start", "admin")}
    assert all(result.returncode == 0 for result in shown.values())
    told = shown["start"].stdout + shown["admin"].stdout
    assert all(setting.flag in told for setting in SETTINGS.values())
    assert "--http" not in shown["start"].stdout
    assert "--new-cluster" not in shown["admin"].stdout
    assert "section [timing] of the file" in told


def test_check_config_prints_everything_with_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "ravel.toml"
    file.write_text('name = "n1"\n[storage]\ndb_size_max = "1GiB"\n')
    result = _run(
        "start", "--check-config", "--config", str(file), "--data-dir", str(tmp_path / "data"), "--join", "a:1", "--join", "b:2",
        RAVEL_TICK_MS="20",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    tree = tomllib.loads(result.stdout)
    assert (tree["name"], tree["join"], tree["timing"]["tick_ms"]) == ("n1", ["a:1", "b:2"], 20)
    assert tree["storage"]["db_size_max"] == "1GiB"
    origins = {line.partition(" ")[0]: line.partition(" # ")[2] for line in result.stdout.splitlines() if " = " in line}
    assert (origins["name"], origins["tick_ms"], origins["join"]) == (f"file {file}", "variable RAVEL_TICK_MS", "flag --join")
    assert origins["heartbeat_ticks"] == "default"
    assert not (tmp_path / "data").exists(), "checking changes nothing"


@pytest.mark.parametrize("check", [[], ["--check-config"]])
def test_problems_are_told_at_once_and_exit_2(check: list[str]) -> None:
    result = _run("start", *check, "--listen", "here", "--tick-ms", "1", "--election-ticks", "3")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "ravel_node: 4 problems in the configuration:",
        "  listen: 'here' has no port; write it as host:port, for example 127.0.0.1:7400 (flag --listen)",
        "  data_dir is missing: say where this server keeps its data with --data-dir",
        "  tick_ms (1) must be 5 to 1000 (flag --tick-ms)",
        "  election_ticks (3) must be at least three times heartbeat_ticks (2), or one lost heartbeat starts an election "
        "(flag --election-ticks)",
    ]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["start", "--lisen", "x"], "--listen"),
        (["start", "extra"], "unexpected extra argument"),
        (["strat"], "ravel_node: no such command 'strat'. Did you mean 'start'?\nnext: see `ravel_node --help`"),
        (["start", "--config"], "requires an argument"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], why: str) -> None:
    result = _run(*arguments)
    assert result.returncode == 2
    assert why in result.stderr


@pytest.mark.parametrize("status", [0, 1])
def test_start_hands_the_configuration_to_the_daemon_and_exits_as_it_ends(
    status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[ServerConfig] = []

    def run(config: ServerConfig, *, admin: bool) -> int:
        assert not admin
        seen.append(config)
        return status

    monkeypatch.setattr("ravel_node.daemon.run", run)
    arguments = ["start", "--data-dir", str(tmp_path), "--listen", "0.0.0.0:7400", "--advertise", "h:7400", "--insecure"]
    result = CliRunner().invoke(command(), arguments, env={"RAVEL_LISTNE": "x"})
    assert result.exit_code == status
    assert (seen[0].data_dir, str(seen[0].peer_advertise), seen[0].insecure) == (tmp_path, "h:7401", True)
    assert "note: the variable RAVEL_LISTNE is not a setting; did you mean RAVEL_LISTEN?" in result.stderr


def test_a_flag_can_switch_off_what_a_variable_switched_on() -> None:
    result = _run("start", "--data-dir", "d", "--no-insecure", "--listen", "0.0.0.0:1", "--advertise", "h:1", RAVEL_INSECURE="1")
    assert result.returncode == 2
    assert "accept that with --insecure" in result.stderr


def test_admin_takes_the_settings_of_start_but_those_that_name_an_admin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[bool] = []

    def run(config: ServerConfig, *, admin: bool) -> int:
        seen.append(admin)
        return 0

    monkeypatch.setattr("ravel_node.daemon.run", run)
    runner = CliRunner()
    arguments = ["admin", "--data-dir", str(tmp_path), "--join", "127.0.0.1:7410"]
    assert runner.invoke(command(), arguments).exit_code == 0
    assert seen == [True]
    assert "--admin" not in runner.invoke(command(), ["admin", "--help"]).output
    refused = runner.invoke(command(), ["admin", "--data-dir", str(tmp_path)], env={"RAVEL_ADMIN": "127.0.0.1:7410"})
    assert refused.exit_code == 2
    assert "admin (variable RAVEL_ADMIN) is for replicas: an admin server has no admin" in refused.stderr
    assert seen == [True]


def test_leave_says_what_it_needs(tmp_path: Path) -> None:
    result = CliRunner().invoke(command(), ["leave", "--data-dir", str(tmp_path / "nothing")])
    assert result.exit_code == 1
    assert "nothing is not there" in result.stderr
    assert CliRunner().invoke(command(), ["leave"]).exit_code == 2
