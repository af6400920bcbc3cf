"""What bad input gets: the exit code of the table, one sentence with the values, the next step, and no half-written file."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster
from tests.ravelctl.on_terminal import on_terminal
from tests.security.certificates import Authority

ROOT = Path(__file__).parents[3]
DEADLINE_S = 60.0
DIALLING = [
    ["status"],
    ["health"],
    ["member", "list"],
    ["leader", "show"],
    ["leader", "transfer"],
    ["leader", "stepdown", "-y"],
    ["member", "promote", "n2"],
    ["member", "demote", "n2"],
    ["leave", "n2", "-y"],
    ["member", "update", "n2", "--name", "x"],
    ["kv", "get", "k"],
    ["kv", "put", "k", "v"],
    ["kv", "list"],
    ["log", "show"],
    ["snapshot", "list"],
]


def told(ctl: Ctl, *words: object) -> dict[str, object]:
    """The error, as a program reads it: one JSON object on stderr and nothing else anywhere."""
    ran = ctl(*words, "-o", "json")
    assert ran.out == "", words
    error: dict[str, object] = ran.error
    assert error["exit_code"] == ran.code, words
    assert error["message"], words
    assert "\n" not in str(error["message"]), words
    assert error["next_step"], words
    return error


@pytest.mark.parametrize("words", DIALLING, ids=" ".join)
def test_nobody_at_the_address(ctl: Ctl, words: list[str]) -> None:
    error = told(ctl, *words, "-e", "127.0.0.1:1", "--timeout", "3s")
    assert error["exit_code"] == 3
    assert "127.0.0.1:1" in str(error["message"])


@pytest.mark.parametrize("words", [["status"], ["kv", "get", "k"]], ids=" ".join)
def test_a_name_that_nobody_has(ctl: Ctl, words: list[str]) -> None:
    error = told(ctl, *words, "-e", "no-such-host.invalid:7400", "--timeout", "2s")
    assert error["exit_code"] == 3
    assert "no-such-host.invalid:7400" in str(error["message"])


@pytest.fixture
def hanging() -> Iterator[str]:
    """Takes connections as the kernel of a stopped process does, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("words", DIALLING[::3], ids=" ".join)
def test_a_daemon_that_hangs_holds_up_nobody(ctl: Ctl, hanging: str, words: list[str]) -> None:
    began = time.monotonic()
    error = told(ctl, *words, "-e", hanging, "--timeout", "3s")
    assert error["exit_code"] in {3, 124}
    assert hanging in str(error["message"])
    assert time.monotonic() - began < 30


def test_one_that_hangs_is_no_obstacle_where_others_answer(ctl: Ctl, hanging: str, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    assert ctl("status", "-e", f"{hanging},{first}", "-o", "json").json["health"] == "HEALTHY"
    cluster.data[b"k"] = (b"v", 1)
    assert ctl("kv", "get", "k", "-e", f"{hanging},{first}", "--timeout", "20s").out == "v\n"


@pytest.mark.parametrize("words", [["status"], ["kv", "get", "k"], ["member", "list"]], ids=" ".join)
def test_tls_to_a_daemon_without_it(cluster: FakeCluster, tmp_path: Path, words: list[str]) -> None:
    first, *_ = cluster.found(1)
    line = command(*words, "-e", first, "--cacert", str(Authority(tmp_path, "ours").cert), "--timeout", "5s", "-o", "json")
    ran = subprocess.run(line, capture_output=True, text=True, env=environment(tmp_path), timeout=DEADLINE_S, check=False)
    error = json.loads(ran.stderr)  # nothing of gRPC's own words
    assert (ran.returncode, ran.stdout, error["exit_code"]) == (3, "", 3)
    assert first in error["message"]
    assert "without TLS" in error["next_step"]


@pytest.mark.parametrize(
    "words",
    [["leave", "n2"], ["member", "remove", "n2", "n3"], ["leader", "stepdown"], ["member", "replace", "n2", "--with", "NEW"]],
    ids=" ".join,
)
def test_without_a_terminal_nobody_can_be_asked(ctl: Ctl, cluster: FakeCluster, words: list[str]) -> None:
    first, *_ = cluster.found(3)
    (new,) = cluster.grow(1)
    ran = ctl(*(new if word == "NEW" else word for word in words), "-e", first)
    assert (ran.code, ran.out, cluster.asked) == (2, "", [])
    assert ran.err.endswith("next: repeat the command with --yes\n")


# --- Ctrl-C


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "ravelctl", *words]


def environment(home: Path) -> dict[str, str]:
    places = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "CACHE", "STATE")}
    return {**os.environ, **places, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos")])}


def interrupted(words: list[str], home: Path, when_said: str) -> subprocess.CompletedProcess[str]:
    """Run it, and press Ctrl-C once it has said this on stderr."""
    with subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home),
    ) as child:  # fmt: skip
        assert child.stderr is not None
        said = ""
        while when_said not in said:
            line = child.stderr.readline()
            assert line, f"it ended: {said}"
            said += line
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=DEADLINE_S)
    return subprocess.CompletedProcess(words, child.returncode, out, said + err)


def test_ctrl_c_while_a_join_is_waited_for(cluster: FakeCluster, tmp_path: Path) -> None:
    first, *_ = cluster.found(3)
    (new,) = cluster.grow(1)
    cluster.seat(cluster.daemons[3], pb.LEARNER)
    cluster.progress[4].match = 10  # it never gets further
    ran = interrupted(["join", new, "--via", first], tmp_path, "n4 is a member of cluster orders already")
    assert (ran.returncode, ran.stdout) == (130, "")
    assert "Traceback" not in ran.stderr
    assert ran.stderr.endswith("error: interrupted\n")


def test_ctrl_c_while_a_context_is_added_leaves_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with subprocess.Popen(
            command("context", "add", "prod", "-e", address, "--timeout", "30s"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path),
        ) as child:  # fmt: skip
            listening.settimeout(DEADLINE_S)
            connection, _ = listening.accept()  # so it is under way
            with connection:
                child.send_signal(signal.SIGINT)
                out, err = child.communicate(timeout=DEADLINE_S)
    assert (child.returncode, out, err) == (130, "", "error: interrupted\n")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 2), (b"\n", 2), (b"y\n", 0), (b"\x03", 130), (b"\x04", 2)])
def test_a_question_on_a_terminal(cluster: FakeCluster, tmp_path: Path, answer: bytes, code: int) -> None:
    first, *_ = cluster.found(3)
    master, slave = pty.openpty()
    child = subprocess.Popen(
        on_terminal(command("leave", "n3", "-e", first)), stdin=slave, stdout=slave, stderr=slave, env=environment(tmp_path),
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    screen = b""
    try:
        screen = read_until(master, b"[y/N] ")
        os.write(master, answer)
        assert child.wait(DEADLINE_S) == code, screen
    finally:
        child.kill()
        child.wait()
        os.close(master)
    assert bool(cluster.asked) == (code == 0)


def read_until(master: int, wanted: bytes) -> bytes:
    deadline = time.monotonic() + DEADLINE_S
    screen = b""
    while wanted not in screen:
        assert time.monotonic() < deadline, screen
        if select.select([master], [], [], 0.1)[0]:
            screen += os.read(master, 65536)
    return screen


def test_an_error_of_a_watch_is_one_line_of_json_a_look(cluster: FakeCluster, tmp_path: Path) -> None:
    (first,) = cluster.found(1)
    cluster.leader = 0
    with subprocess.Popen(
        command("leader", "show", "--watch=100ms", "-e", first, "-o", "json"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path),
    ) as child:  # fmt: skip
        assert child.stderr is not None
        errors = [json.loads(child.stderr.readline()) for _ in range(2)]
        assert [error["exit_code"] for error in errors] == [4, 4]
        child.send_signal(signal.SIGINT)
        assert child.wait(DEADLINE_S) == 130
