"""The three streams of the process, where whoever started it has closed some of them, or where output goes nowhere."""

from __future__ import annotations

import os
import sys


def stand_in() -> None:
    """Open what was closed, so that no file of ours gets the number of a stream.

    Reading such a stdin and writing such a stdout fail as any bad descriptor does; what is said on such a stderr is lost.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(_opened(0, os.O_WRONLY), "r")
    if sys.stdout is None:
        sys.stdout = os.fdopen(_opened(1, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(_opened(2, os.O_WRONLY), "w")


def _opened(number: int, way: int) -> int:
    descriptor = os.open(os.devnull, way)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    return number


def leave_stdout() -> None:
    """Nobody takes the output any more: whatever Python still wants to flush at exit goes nowhere, and says nothing."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
