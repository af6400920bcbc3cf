"""Nothing durable is lost, and nothing is half done, wherever a process is killed (see crash_server.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS_MIN = {"create": 30, "save": 6, "flush": 6, "compact": 9, "snapshot": 30, "install": 25}
"""Fewer steps than these would mean that the steps are no longer seen."""


@pytest.mark.parametrize("scenario", STEPS_MIN)
def test_a_kill_at_any_step_loses_nothing(tmp_path: Path, scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.storage.crash_server", str(tmp_path), scenario],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "protos"), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= STEPS_MIN[scenario]
