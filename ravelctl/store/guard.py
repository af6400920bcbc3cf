"""Files that may be damaged are read in a child process.

LMDB maps a file into memory and trusts its pages: a page that was overwritten can make it touch memory that is not there, and
that kills the process without a word. So a command that reads such files runs in a child, and what killed the child is told by
its parent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final

DEADLY: Final = frozenset({"SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"})
"""What ends a process that reads a file whose structure is damaged."""

_OFFLINE: Final[tuple[frozenset[str], ...]] = (
    frozenset({"snapshot", "inspect"}),
    frozenset({"snapshot", "verify"}),
    frozenset({"snapshot", "restore"}),
    frozenset({"snapshot", "at"}),
    frozenset({"recover"}),
    frozenset({"log", "diff"}),
)


def reads_files(words: Sequence[str]) -> bool:
    """Whether a command line is one that reads LMDB files, and ends by itself."""
    given = set(words)
    by_option = any(word == "--data-dir" or word.startswith("--data-dir=") for word in words)
    return (by_option and "follow" not in given) or any(command <= given for command in _OFFLINE)


def guarded(work: Callable[[], int], killed: Callable[[str], int]) -> int:
    """Run `work` in a child and return its exit code; what `killed` returns, given the signal's name, where it crashed.

    To be called before anything else is loaded or started. Ctrl-C is the child's affair; SIGTERM and SIGHUP are passed on to it.
    """
    import signal  # most command lines need none

    sys.stdout.flush()
    sys.stderr.flush()
    passed_on = {signal.SIGTERM, signal.SIGHUP}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)  # until there is somebody to pass them on to, and to do it
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
        return work()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in passed_on:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    if name := {getattr(signal, name): name for name in DEADLY}.get(-code):
        return killed(name)
    return 128 - code
