"""Descriptors 0, 1 and 2 of a daemon: each of them is open, and a write to stderr never waits for its reader."""

from __future__ import annotations

import os
import stat
import sys
from typing import Final

_MODES: Final = {"stdin": "r", "stdout": "w", "stderr": "w"}  # in the order of their descriptors


def open_missing() -> None:
    """Open /dev/null in place of each standard descriptor that is closed. Call this before anything else opens a file.

    Otherwise the next file that the daemon opens gets that number, and whatever is printed lands in the daemon's own data.
    """
    for descriptor, (name, mode) in enumerate(_MODES.items()):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `descriptor`
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False))


def take_stderr() -> int:
    """Return a descriptor of the stderr that this process was given, and leave one at 2 that no write waits for.

    Libraries in C print their last words to descriptor 2. If that is a pipe which nobody reads, the process would hang instead of
    ending. The pipe is opened once more for this, because O_NONBLOCK would apply to every process that shares the first opening.
    Terminals and files stay as they are, and so do sockets, which cannot be opened again.
    """
    given = os.dup(2)
    if stat.S_ISFIFO(os.fstat(given).st_mode):
        try:
            own = os.open(f"/proc/self/fd/{given}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # a system without /proc, or a pipe of another user
            return given
        os.dup2(own, 2)
        os.close(own)
    return given
