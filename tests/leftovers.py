"""Ends what a run of the tests leaves behind when it is killed: `python -S leftovers.py MARK`, its input a pipe from the run.

Daemons, and above all those of a playground, outlive by design who started them. Every process that a test starts inherits a mark
in its environment. When the pipe ends, the run is over however it went, and what still bears the mark is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

NAME = "TEST_RUN_MARK"


def marked(mark: str) -> list[int]:
    """Processes with this mark, this one not among them. Empty where the system does not tell (no /proc)."""
    wanted = f"{NAME}={mark}".encode()
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        if wanted in environment.split(b"\0") and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def end(mark: str) -> None:
    for pid in marked(mark):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
