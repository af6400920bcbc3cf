"""Commands that read files which may be damaged run in a child, whose death is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ravelctl.store.guard import reads_files

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import os, signal, sys, time
from ravelctl.store.guard import guarded

def work():
    print("working", flush=True)
    WORK

sys.exit(guarded(work, lambda name: print("killed by", name) or 8))
"""


def run(work: str, first: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}
    program = first + PROGRAM.replace("WORK", work)
    return subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("words", ["log show --data-dir d", "store check --data-dir=d", "snapshot verify f", "recover plan d"])
def test_what_reads_files_is_known(words: str) -> None:
    assert reads_files(words.split())


@pytest.mark.parametrize("words", ["log show", "log follow --data-dir d", "snapshot save -f f", "kv get snapshot", "status"])
def test_what_does_not_is_left_alone(words: str) -> None:
    assert not reads_files(words.split())


@pytest.mark.parametrize(("work", "code"), [("return 0", 0), ("return 5", 5), ("sys.exit(3)", 3)])
def test_the_childs_exit_code_is_the_commands(work: str, code: int) -> None:
    with run(work) as process:
        assert process.communicate(timeout=120)[0] == "working\n"
    assert process.returncode == code


@pytest.mark.parametrize("name", ["SIGBUS", "SIGSEGV", "SIGABRT"])
def test_a_crash_is_told_as_damage(name: str) -> None:
    with run(f"os.kill(os.getpid(), signal.{name}); time.sleep(60)") as process:
        assert process.communicate(timeout=120)[0] == f"working\nkilled by {name}\n"
    assert process.returncode == 8


def test_sigterm_ends_the_child_too() -> None:
    with run("print(os.getpid(), flush=True); time.sleep(60)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sigterm_that_comes_with_the_fork_is_passed_on() -> None:
    """Before the parent could know of whom it is."""
    first = "import os, signal\nos.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
    with run("time.sleep(60)", first) as process:
        process.wait(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, "by the end of its child, and not by the signal itself"
