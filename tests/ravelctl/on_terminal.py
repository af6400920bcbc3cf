"""Programs that have a terminal of their own: descriptor 0 is the controlling terminal of their session.

A process of its own sets this up. `subprocess` could do it between fork and exec, but then it forks this process, and where gRPC
runs in it the child may die before it becomes another program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

SETUP = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def on_terminal(command: Sequence[str]) -> list[str]:
    """The command, to be started in a session of its own with a terminal for its stdin."""
    return [sys.executable, "-I", "-S", "-c", SETUP, *command]
