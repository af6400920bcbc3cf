"""The frame: how options are taken, how errors are told, what happens to the output."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from ravelctl.cli.command import RavelCommand, RavelGroup
from ravelctl.cli.page import SECTIONS
from ravelctl.cli.root import COMMANDS, root
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster


def _all_paths() -> list[tuple[str, ...]]:
    paths: list[tuple[str, ...]] = []
    for name, (module, _) in COMMANDS.items():
        command = import_module(module).command
        paths.append((name,))
        if isinstance(command, RavelGroup):
            paths += [(name, verb) for verb in command.commands]
    return paths


def test_the_tree_is_what_the_issue_asks_for() -> None:
    leaves = {" ".join(path) for path in _all_paths()}
    assert leaves == {
        "bootstrap", "join", "leave", "status", "version", "bench", "completion", "help", "health", "doctor", "events",
        "top", "record", "verify",
        "member", "member list", "member promote", "member demote", "member remove", "member update", "member replace",
        "leader", "leader show", "leader transfer", "leader stepdown",
        "settings", "settings list", "settings set", "log", "log show", "log follow", "log diff", "log verify",
        "store", "store stats", "store check", "store compact", "store hash",
        "snapshot", "snapshot save", "snapshot list", "snapshot inspect",
        "snapshot verify", "snapshot restore", "snapshot at", "recover", "recover plan", "recover apply",
        "kv", "kv get", "kv put", "kv del", "kv cas", "kv list", "kv watch",
        "context", "context add", "context use", "context remove", "context list", "context show",
        "config", "config show", "config check",
        "admin", "admin clusters", "admin servers", "admin slots", "admin rebalance", "admin leave", "admin forget",
        "admin add-cluster", "admin remove-cluster", "admin adopt", "admin reconcile",
        "playground", "playground up", "playground kill", "playground start", "playground down",
        "playground pause", "playground partition", "playground heal", "playground status",
    }  # fmt: skip


@pytest.mark.parametrize("path", _all_paths(), ids=" ".join)
def test_every_command_has_help_that_says_what_it_does(ctl: Ctl, path: tuple[str, ...]) -> None:
    ran = ctl(*path, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: ravelctl {' '.join(path)} ")
    assert ctl(*path, "-h").out == ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_short_helps_are_those_of_the_modules(name: str) -> None:
    """They are written down twice so that --help need not load the modules."""
    module, short = COMMANDS[name]
    command = import_module(module).command
    assert isinstance(command, RavelCommand | RavelGroup)
    assert command.name == name
    assert len(short) <= 60
    assert short.endswith(".")


@pytest.mark.parametrize(
    "name", [name for name, (module, _) in COMMANDS.items() if isinstance(import_module(module).command, RavelGroup)]
)
def test_no_verb_is_described_with_half_a_sentence(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = ctl(name, "--help").out.partition("Commands:")[2].partition("Options:")[0]
    assert commands.strip()
    assert "..." not in commands


def test_the_version_is_where_everybody_looks_for_it(ctl: Ctl) -> None:
    ran = ctl("--version")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.split() == ctl("version").out.split()[:2]


def test_root_help_lists_every_command_once(ctl: Ctl) -> None:
    out = ctl("--help").out
    for name in COMMANDS:
        assert len(re.findall(rf"^  {name}  ", out, flags=re.M)) == 1


def test_every_command_has_its_place_on_the_page() -> None:
    placed = [name for names in SECTIONS.values() for name in names]
    assert len(placed) == len(set(placed))
    assert set(COMMANDS) <= set(placed)


@pytest.mark.parametrize("words", [(), ("status",), ("kv", "put")], ids=["root", "command", "verb"])
def test_help_is_a_command_too(ctl: Ctl, words: tuple[str, ...]) -> None:
    assert ctl("help", *words).out == ctl(*words, "--help").out


def test_without_a_command_help_goes_to_stderr(ctl: Ctl) -> None:
    ran = ctl()
    assert (ran.code, ran.out, ran.err.startswith("Usage: ravelctl")) == (2, "", True)


@pytest.mark.parametrize(
    ("words", "next_step"),
    [
        (["statsu"], "did you mean `ravelctl status`?"),
        (["kv", "gte"], "did you mean `ravelctl kv get`?"),
        (["zzz"], "see `ravelctl --help`"),
        (["kv", "get"], "see `ravelctl kv get --help`"),
        (["status", "--foo"], "see `ravelctl status --help`"),
        (["status", "--endpoint", "a"], "did you mean `ravelctl status --endpoints`?"),
        (["help", "kv", "gte"], "did you mean `ravelctl kv get`?"),
        (["help", "status", "now"], "see `ravelctl status --help`"),
        (["--timeout", "soon", "status"], "see `ravelctl --help`"),
        (["-e", "http://x", "status"], "see `ravelctl --help`"),
        (["status", "-o", "xml"], "see `ravelctl status --help`"),
        (["kv", "cas", "k", "v", "--revision", "-1"], "see `ravelctl kv cas --help`"),
        (["kv", "cas", "k", "v", "--revision", "18446744073709551616"], "see `ravelctl kv cas --help`"),
        (["kv", "list", "--limit", "99999999999999999999"], "see `ravelctl kv list --help`"),
        (["log", "show", "--limit", "ten"], "see `ravelctl log show --help`"),
        (["log", "show", "--from", "5", "--to", "4"], "exchange --from and --to"),
        (["completion"], "see `ravelctl completion --help`"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_to_do(ctl: Ctl, words: list[str], next_step: str) -> None:
    ran = ctl(*words)
    assert (ran.code, ran.out) == (2, "")
    first, second = ran.err.splitlines()
    assert re.match(r"error: [^A-Z]", first)
    assert second == f"next: {next_step}"


@pytest.mark.parametrize("words", [["-o", "json", "nope"], ["nope", "--output=json"], ["status", "-ojson", "--foo"]])
def test_errors_are_json_where_json_is_asked_for(ctl: Ctl, words: list[str]) -> None:
    ran = ctl(*words)
    assert (ran.code, ran.out) == (2, "")
    told = ran.error
    assert (told["apiVersion"], told["kind"], told["exit_code"], told["reason"]) == ("ravel/v1", "Error", 2, "USAGE")
    assert told["message"]
    assert told["next_step"]


def test_options_hold_before_and_after_the_command_and_the_later_wins(ctl: Ctl, cluster: FakeCluster) -> None:
    (address,) = cluster.found(1)
    plain = ctl("member", "list", "-e", address, "-o", "name").out
    assert plain == "n1\n"
    assert ctl("-e", address, "-o", "name", "member", "list").out == plain
    assert ctl("-e", address, "member", "-o", "name", "list").out == plain
    assert ctl("-e", "127.0.0.1:1", "-o", "json", "member", "list", "-e", address, "-o", "name").out == plain


def test_a_variable_fills_what_no_flag_says(ctl: Ctl, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    (address,) = cluster.found(1)
    monkeypatch.setenv("RAVELCTL_ENDPOINTS", f"127.0.0.1:1,{address}")
    monkeypatch.setenv("RAVELCTL_OUTPUT", "name")
    assert ctl("member", "list").out == "n1\n"
    assert ctl("member", "list", "-o", "json").json["kind"] == "MemberList"
    monkeypatch.setenv("RAVELCTL_TIMEOUT", "soon")
    assert ctl("member", "list").code == 2


def test_verbose_tells_the_reason_and_its_values(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3, leader=0)
    ran = ctl("leave", "n1", "--yes", "-v", "-e", first)
    assert (ran.code, ran.err.splitlines()[-1]) == (4, "reason: NO_LEADER")


def test_quiet_leaves_errors_and_data(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    ran = ctl("leave", "n3", "--yes", "-q", "-e", first)
    assert (ran.code, ran.out, ran.err) == (0, "removed n3 (3)\n", "")
    assert ctl("leave", "n9", "--yes", "-q", "-e", first).err.startswith("error: ")


def test_version(ctl: Ctl) -> None:
    assert re.fullmatch(r"ravelctl \S+ \(python 3\.\d+\.\d+, protocol ravel\.v1\)\n", ctl("version").out)
    assert ctl("version", "-o", "json").json["protocol"] == "ravel.v1"
    assert ctl("version", "-o", "yaml").out.startswith("---\napiVersion: ravel/v1\nkind: Version\n")


def test_the_root_knows_no_command_it_cannot_load() -> None:
    assert all(import_module(module).command is root.get_command(None, name) for name, (module, _) in COMMANDS.items())  # type: ignore[arg-type]
