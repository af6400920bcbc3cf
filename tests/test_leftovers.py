"""What a killed run of the tests leaves behind is ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leftovers

SLEEPING = "import time; print('sleeps', flush=True); time.sleep(300)"


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system does not tell the environment of a process")
def test_what_bears_the_mark_ends_with_the_run() -> None:
    mark = os.urandom(8).hex()
    command = [sys.executable, "-S", "-c", SLEEPING]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, env={leftovers.NAME: mark}, start_new_session=True) as ours,
        subprocess.Popen(command, stdout=subprocess.PIPE, env={leftovers.NAME: "another"}) as other,
        subprocess.Popen([sys.executable, "-S", leftovers.__file__, mark], stdin=subprocess.PIPE) as watching,
    ):
        try:
            for child in (ours, other):
                assert child.stdout is not None
                assert child.stdout.readline() == b"sleeps\n"
            assert watching.stdin is not None
            assert ours.poll() is None
            watching.stdin.close()
            assert watching.wait(60) == 0
            assert ours.wait(60) == -9
            assert other.poll() is None
        finally:
            for process in (ours, other, watching):
                process.kill()
