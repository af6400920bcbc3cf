"""Ctrl-C for children of the tests."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """`preexec_fn` of a child that is to be interrupted, as on a terminal: a job that a shell started in the background ignores
    SIGINT, and so would its children.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
