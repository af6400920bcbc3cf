"""`ravelctl` as a process of its own: what it loads, how fast it is, what pipes and signals do to it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ravelctl.fake import FakeCluster

ROOT = Path(__file__).parents[3]
HEAVY = frozenset({"grpc", "google.protobuf", "rich", "textual", "yaml", "asyncio", "lmdb", "ravel_node", "uvloop", "structlog"})
DEADLINE_S = 60.0


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "ravelctl", *words]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAVELCTL_", "_RAVELCTL", "NO_COLOR"))}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos")])} | more


def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), capture_output=True, text=True, env=environment(**more), timeout=DEADLINE_S, check=False
    )


def loaded(*words: str, among: frozenset[str] = HEAVY, **more: str) -> set[str]:
    """Which of the heavy packages a fresh process has loaded when this command line is done."""
    code = (
        f"import sys; from ravelctl.__main__ import main; sys.argv[1:] = {list(words)!r}; main(); print('LOADED', *sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(**more), timeout=DEADLINE_S, check=True
    ).stdout
    return set(out.rpartition("LOADED")[2].split()) & among


@pytest.mark.parametrize(
    "words",
    [["--help"], ["kv", "get", "--help"], ["status", "--help"], ["statsu"], ["kv", "put", "k"], ["join", "a:1"], ["version"]],
)
def test_help_and_errors_load_nothing_heavy(words: list[str]) -> None:
    assert loaded(*words) == set()


@pytest.mark.parametrize(
    "line",
    [
        "ravelctl st",
        "ravelctl kv ",
        "ravelctl member list --output=",
        "ravelctl playground up --",
        "ravelctl leave ",
        "ravelctl --context=",
        "ravelctl --endpoints 10.0.0.1:",
        "ravelctl admin leave --context prod ",
    ],
)
def test_tab_loads_nothing_heavy_and_dials_nobody(line: str) -> None:
    among = HEAVY | {"socket", "tomllib", "pathlib", "click", "typing", "re", "collections", "enum", "dataclasses", "json"}
    assert loaded(among=among, _RAVELCTL_COMPLETE="bash_complete", _RAVELCTL_LINE=line) == set()


def test_a_command_that_dials_loads_what_it_needs_and_no_more(cluster: FakeCluster) -> None:
    (address,) = cluster.found(1)
    cluster.data[b"k"] = (b"v", 1)
    assert loaded("kv", "get", "k", "-e", address) == {"grpc", "google.protobuf", "asyncio"}
    assert loaded("status", "-e", address, "-o", "json") == {"grpc", "google.protobuf", "asyncio"}


def _milliseconds(arguments: list[str], **more: str) -> float:
    begun = time.perf_counter()
    subprocess.run(arguments, capture_output=True, env=environment(**more), timeout=DEADLINE_S, check=False)
    return (time.perf_counter() - begun) * 1000


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["--help"], {}),
        ([], {"_RAVELCTL_COMPLETE": "bash_complete", "_RAVELCTL_LINE": "ravelctl kv "}),
    ],
    ids=["help", "tab"],
)
def test_the_prompt_is_quick(words: list[str], more: dict[str, str]) -> None:
    """60 ms over bare Python on a quiet machine, as bench_prompt.py measures. In turns, so that a loaded one slows both."""
    pairs = [(_milliseconds([sys.executable, "-c", ""]), _milliseconds(command(*words), **more)) for _ in range(4)]
    bare = statistics.median(pair[0] for pair in pairs)
    # Bare Python tells how slow the machine is at this moment: 12 ms is what it takes here when nothing else runs.
    allowed = 60 * max(1.0, bare / 12) * 2
    assert min(ours - bare for _, ours in pairs) < allowed


def test_piped_output_is_the_same_each_time_and_plain(cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    one = run("status", "-e", first, COLUMNS="20", TERM="xterm-256color")
    other = run("status", "-e", first, COLUMNS="200", TERM="dumb", FORCE_COLOR="1")
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout == other.stdout
    assert "\x1b" not in one.stdout
    assert max(map(len, one.stdout.splitlines())) > 60


def test_a_reader_that_goes_away_is_no_error(cluster: FakeCluster) -> None:
    (address,) = cluster.found(1)
    cluster.data.update({b"%06d" % n: (b"v" * 100, n + 1) for n in range(2000)})
    with subprocess.Popen(
        command("kv", "list", "-e", address), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith(b"KEY")
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(DEADLINE_S) == 0


def test_output_that_cannot_be_written_is_one_sentence(cluster: FakeCluster) -> None:
    (address,) = cluster.found(1)
    with open("/dev/full", "w", encoding="utf-8") as full:
        ran = subprocess.run(
            command("status", "-e", address),
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    first, second = ran.stderr.splitlines()
    assert (ran.returncode, first) == (1, "error: cannot write the output: no space left on device")
    assert second.startswith("next: ")


@pytest.mark.parametrize(
    ("words", "closed", "code", "said"),
    [
        (("status",), "1", 1, "error: cannot write the output: bad file descriptor"),
        (("status",), "2", 0, ""),
        (("kv", "put", "k", "-"), "0", 2, "error: cannot read stdin: Bad file descriptor"),
        (("leave", "n1"), "0", 2, "error: this needs a yes, and there is no terminal to ask on"),
        (("kv", "get", "nothing"), "2", 1, ""),
    ],
)
def test_streams_that_are_closed(cluster: FakeCluster, words: tuple[str, ...], closed: str, code: int, said: str) -> None:
    addresses = cluster.found(3)
    line = shlex.join(command(*words, "-e", addresses[0])) + f" {closed}{'<' if closed == '0' else '>'}&-"
    ran = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment(), timeout=DEADLINE_S, check=False)
    assert (ran.returncode, said in ran.stderr, "Traceback" in ran.stderr) == (code, True, False)


@pytest.mark.parametrize("name", ["status", "health"])
def test_ctrl_c_exits_130_without_a_traceback(cluster: FakeCluster, name: str) -> None:
    (address,) = cluster.found(1)
    with subprocess.Popen(
        command(name, "--watch=100ms", "-e", address, "-o", "json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        looks = [json.loads(child.stdout.readline()) for _ in range(2)]
        assert [look["health"] for look in looks] == ["HEALTHY", "HEALTHY"]
        child.send_signal(signal.SIGINT)
        assert child.wait(DEADLINE_S) == 130
        told = json.loads(child.stderr.read())
        assert (told["kind"], told["message"], told["exit_code"]) == ("Error", "interrupted", 130)


def test_a_watch_goes_on_when_a_look_fails(cluster: FakeCluster) -> None:
    (address,) = cluster.found(1)
    with subprocess.Popen(
        command("leader", "show", "--watch=100ms", "-e", address),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith("n1 ")
        cluster.leader = 0
        assert child.stderr.readline() == "error: cluster orders has no leader\n"
        cluster.leader = 1
        while not child.stdout.readline().startswith("n1 "):
            pass
        child.send_signal(signal.SIGINT)
        assert child.wait(DEADLINE_S) == 130
