"""Contexts: how they fill gaps, what a file may say, and that changing one loses nothing of the rest."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravelctl.cli.errors import CommandError
from ravelctl.config import contexts
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster

ID = "1e2597d6" * 4


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config" / "ravelctl" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return path


@pytest.fixture
def other() -> Iterator[FakeCluster]:
    made = FakeCluster()
    made.term = 9
    yield made
    made.stop()


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_context_is_added_used_shown_and_removed(ctl: Ctl, file: Path, cluster: FakeCluster) -> None:
    one, two, _ = cluster.found(3)
    added = ctl("context", "add", "prod", "-e", f"{one},{two}", "--timeout", "9s")
    assert (added.code, added.err) == (0, "prod is the current context now\n")
    assert file.stat().st_mode & 0o777 == 0o600
    raw = tomllib.loads(file.read_text())
    assert raw == {
        "current": "prod",
        "contexts": {"prod": {"endpoints": [one, two], "cluster": cluster.cluster_id, "timeout": "9s"}},
    }
    assert ctl("status").out.startswith("cluster orders ")
    assert ctl("context", "add", "dev", "-e", "127.0.0.1:1", "-q").code == 0
    assert ctl("context", "list", "-o", "name").out == "prod\ndev\n"
    assert [line[0] for line in ctl("context", "list").out.splitlines()[1:]] == ["*", " "]
    assert ctl("context", "use", "dev").code == 0
    assert ctl("status").code == 3
    assert ctl("status", "--context", "prod").code == 0
    assert ctl("context", "show", "-o", "json").json["endpoints"] == ["127.0.0.1:1"]
    assert ctl("context", "remove", "dev").err == "there is no current context now\n"
    assert "current" not in tomllib.loads(file.read_text())
    assert ctl("context", "list", "-o", "json").json["contexts"][0]["cluster"] == cluster.cluster_id


def test_a_name_that_is_taken_is_replaced_only_when_told_to(ctl: Ctl, file: Path) -> None:
    assert ctl("context", "add", "a", "-e", "127.0.0.1:1").code == 0
    before = file.read_text()
    assert ctl("context", "add", "a", "-e", "127.0.0.1:2").code == 2
    assert ctl("context", "add", "b", "-e", "127.0.0.1:2", "--dry-run").err.endswith("dry run: nothing was changed\n")
    assert file.read_text() == before
    assert ctl("context", "add", "a", "-e", "127.0.0.1:2", "--replace").code == 0
    assert tomllib.loads(file.read_text())["contexts"] == {"a": {"endpoints": ["127.0.0.1:2"]}}


def test_flags_beat_variables_and_those_the_context(ctl: Ctl, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        file,
        'current = "a"\n[contexts.a]\nendpoints = ["a:1"]\ntimeout = "7s"\noutput = "name"\n[contexts.b]\nendpoints = ["b:1"]\n',
    )

    def shown(*words: str) -> dict[str, tuple[object, str]]:
        found = ctl("config", "show", "--show-origin", "-o", "json", *words).json
        return {setting["name"]: (setting["value"], setting["origin"]) for setting in found["settings"]}

    first = shown()
    assert first["endpoints"] == (["a:1"], "context a")
    assert first["timeout"] == ("7s", "context a")
    assert first["context"] == ("a", f"current in {file}")
    assert first["output"] == ("json", "flag --output")
    assert first["consistency"] == ("linearizable", "default")
    monkeypatch.setenv("RAVELCTL_CONTEXT", "b")
    assert shown()["endpoints"] == (["b:1"], "context b")
    assert shown("--context", "a")["endpoints"] == (["a:1"], "context a")
    monkeypatch.setenv("RAVELCTL_ENDPOINTS", "v:1")
    assert shown()["endpoints"] == (["v:1"], "variable RAVELCTL_ENDPOINTS")
    assert shown("-e", "f:1")["endpoints"] == (["f:1"], "flag --endpoints")
    assert shown("-e", "f:1", "--context", "a")["timeout"] == ("7s", "context a")


def test_daemons_that_are_named_otherwise_leave_the_current_context(ctl: Ctl, file: Path, cluster: FakeCluster) -> None:
    """Else its certificates would be shown to daemons of another cluster, and its id would refuse them."""
    first, *_ = cluster.found(1)
    written(file, f'current = "a"\n[contexts.a]\nendpoints = ["a:1"]\ncacert = "/nowhere.pem"\ncluster = "{ID}"\n')
    assert ctl("status", "-e", first).code == 0
    blank = cluster.grow(1)
    assert ctl("join", blank[0], "--via", first, "--no-wait").code == 0
    assert "nowhere.pem cannot be read" in ctl("status", "-e", first, "--context", "a").err


def test_a_daemon_of_another_cluster_is_not_listened_to(ctl: Ctl, file: Path, cluster: FakeCluster, other: FakeCluster) -> None:
    mine, *_ = cluster.found(1)
    theirs, *_ = other.found(1, name="billing")
    written(file, f'[contexts.prod]\nendpoints = ["{theirs}"]\ncluster = "{ID}"\n')
    for words in (
        ["status"],
        ["member", "list"],
        ["kv", "put", "k", "v"],
        ["kv", "get", "k"],
        ["log", "show"],
        ["leave", "n1", "-y"],
    ):
        ran = ctl(*words, "--context", "prod", "--timeout", "10s")
        assert (ran.code, ran.out) == (5, ""), words
        assert f"{theirs} belongs to cluster {other.cluster_id}, and this client is for cluster {ID}" in ran.err
    assert not other.data
    assert not other.asked
    assert ctl("status", "--context", "prod", "-e", mine).code == 0  # whoever names the address means what is there


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[contexts.a]\nendpoints = ["h:1"\n', 2, "unclosed array"),
        ('[contexts.a]\nendpoints = ["h:1"]\ntimeuot = "5s"\n', 3, "contexts.a.timeuot: is not known; a context has endpoints, "),
        ('# b\n\n[contexts.a]\nendpoints = ["h:1:2"]\n', 4, "contexts.a.endpoints: 'h:1:2' is not an address"),
        ('[contexts.a]\nendpoints = ["h:1"]\ntimeout = 5\n', 3, "contexts.a.timeout: 5 is not a text"),
        ('[contexts.a]\nendpoints = ["h:1"]\ncacert = "ca.pem"\n', 3, "contexts.a.cacert: 'ca.pem' is not an absolute path"),
        ('# mine\n[contexts.a]\ncacert = "/ca.pem"\n', 2, "contexts.a: has no endpoints"),
        ('current = "b"\n[contexts.a]\nendpoints = ["h:1"]\n', 1, "current: there is no context 'b'"),
        ('endpoints = ["h:1"]\n', 1, "endpoints: is not known here"),
        ('contexts = 5\n', 1, "contexts: is not a table"),
    ],
)  # fmt: skip
def test_a_broken_file_is_told_by_line_and_key(ctl: Ctl, file: Path, text: str, line: int, words: str) -> None:
    written(file, text)
    for command in (["status"], ["config", "show"], ["context", "add", "new", "-e", "127.0.0.1:1"]):
        ran = ctl(*command)
        assert (ran.code, ran.out) == (2, "")
        assert f"{file}, line {line}: " in ran.err
        assert words in ran.err
    checked = ctl("config", "check")
    assert checked.code == 2
    assert words in checked.err
    assert file.read_text() == text
    assert ctl("version").code == 0  # what never dials does not need it


def test_config_check_tells_everything_at_once(ctl: Ctl, file: Path) -> None:
    written(file, '[contexts.a]\nendpoints = []\ncacert = "/nowhere/ca.pem"\ncert = "/nowhere/c.pem"\nx = 1\n').chmod(0o644)
    told = ctl("config", "check", "-o", "json").error
    assert told["exit_code"] == 2
    problems = " ".join(told["metadata"].values())
    for part in ("endpoints: [] is not", ".x: is not known", "chmod 600", "/nowhere/ca.pem cannot be read", "belong together"):
        assert part in problems


def test_a_file_that_others_can_write_is_refused_and_one_they_can_read_is_warned_of(ctl: Ctl, file: Path) -> None:
    written(file, '[contexts.a]\nendpoints = ["127.0.0.1:1"]\n')
    for mode in (0o620, 0o602, 0o666):
        file.chmod(mode)
        for words in (["status"], ["context", "list"]):
            ran = ctl(*words)
            assert (ran.code, ran.out) == (9, "")
            assert f"chmod 600 {file}" in ran.err
    file.chmod(0o644)
    assert ctl("config", "show", "--context", "a").err == f"warning: {file} can be read by others; `chmod 600 {file}` ends that\n"
    assert ctl("config", "show", "--context", "a", "-q").err == ""


def test_an_unknown_context_gets_a_suggestion(ctl: Ctl, file: Path) -> None:
    assert "next: make it with `ravelctl context add prod" in ctl("status", "--context", "prod").err
    written(file, '[contexts.prod]\nendpoints = ["h:1"]\n')
    assert "next: did you mean 'prod'?" in ctl("status", "--context", "prd").err
    assert "next: see `ravelctl context list`" in ctl("context", "use", "zzz").err


BY_HAND = """\
# What we run.
current = 'eu'  # not us!

[contexts.eu]
endpoints = [
    "10.0.0.1:7400",  # the old rack
    "10.0.0.2:7400",
]

# The one across the sea.
[contexts.us]   # careful
endpoints = "us.example.org:7400"
output = "wide"
"""


def test_what_people_wrote_stays(ctl: Ctl, file: Path) -> None:
    written(file, BY_HAND)
    assert ctl("context", "add", "lab", "-e", "127.0.0.1:1").code == 0
    assert (
        file.read_text()
        == BY_HAND.replace("current = 'eu'  # not us!", 'current = "eu"') + '\n[contexts.lab]\nendpoints = ["127.0.0.1:1"]\n'
    )
    assert ctl("context", "remove", "eu").code == 0
    left = file.read_text()
    assert "# The one across the sea.\n[contexts.us]   # careful\n" in left
    assert "# What we run." in left
    assert "rack" not in left
    assert set(tomllib.loads(left)["contexts"]) == {"us", "lab"}


def test_a_form_that_cannot_be_changed_line_by_line_is_left_alone(ctl: Ctl, file: Path) -> None:
    text = 'contexts.a = { endpoints = ["127.0.0.1:1"] }\n'
    written(file, text)
    assert ctl("status", "--context", "a", "--timeout", "3s").code == 3
    for words in (["remove", "a"], ["add", "a", "-e", "127.0.0.1:2", "--replace"]):
        ran = ctl("context", *words)
        assert (ran.code, file.read_text()) == (2, text), words
        assert "change it by hand" in ran.err


def test_a_file_that_cannot_be_written_stays_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CommandError, match=r"cannot write .*: no space left on device") as failed:
        contexts.save(file, "new")
    assert failed.value.code == 1
    assert [path.name for path in file.parent.iterdir()] == ["config.toml"]
    assert file.read_text() == "old"


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    kept = written(tmp_path / "dotfiles" / "ravelctl.toml", "")
    file.parent.mkdir(parents=True)
    file.symlink_to(kept)
    contexts.save(file, "x = 1\n")
    assert file.is_symlink()
    assert kept.read_text() == "x = 1\n"


_NAMES = st.sampled_from(["a", "b", "a-b", "A_1", "contexts", "current"])
_VALUES = st.fixed_dictionaries(
    {"endpoints": st.sampled_from([["a:1"], ["a:1", "[::1]:3"]])},
    optional={
        "cacert": st.sampled_from(["/ca.pem", '/with "quotes"\\', "/[contexts.a]", "/line\nbreak", "/\x7f\u00e9 # no comment"])
    },
)


@settings(max_examples=60)
@given(steps=st.lists(st.tuples(st.sampled_from(["add", "add, use", "use", "remove"]), _NAMES, _VALUES), max_size=12))
def test_any_row_of_changes_leaves_what_a_dictionary_would_hold(steps: list[tuple[str, str, dict[str, object]]]) -> None:
    text, current = "", ""
    model: dict[str, dict[str, object]] = {}
    for step, name, values in steps:
        tables = {other: contexts.Context(other, {}) for other in model}
        file = contexts.ContextFile(Path("f"), text, tomllib.loads(text), current, tables)
        if step.startswith("add"):
            text = contexts.add(file, name, values, use="use" in step)
            model[name] = values
            current = name if "use" in step else current
        elif name in model and step == "use":
            text, current = contexts.use(file, name), name
        elif name in model:
            text = contexts.remove(file, name)
            del model[name]
            current = "" if current == name else current
        found = tomllib.loads(text)
        assert found.get("contexts", {}) == model
        assert found.get("current", "") == current


def test_what_commands_met_is_kept_for_tab(
    ctl: Ctl, tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = cluster.found(2)
    assert ctl("member", "list", "-e", first).code == 0
    cache = tmp_path / "ravelctl" / "members"
    assert cache.read_text() == f"endpoints {first}\tn1 n2\t{first} {second}\n"
    before = cache.stat().st_mtime_ns
    assert json.loads(ctl("status", "-e", first, "-o", "json").out)["health"]
    assert cache.stat().st_mtime_ns == before
    cache.write_bytes(b"\xff\t\nnonsense")
    assert ctl("status", "-e", first).code == 0
    assert cache.read_text().startswith("endpoints ")
    cache.unlink()
    cache.mkdir()  # it cannot be written
    assert ctl("status", "-e", first).code == 0
