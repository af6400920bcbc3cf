"""The kit of data files made by etcd-io/raft, where it is at hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT.parent / "shared" / "conformance" / "run"


@pytest.mark.skipif(not KIT.exists(), reason="the conformance kit is not beside this checkout")
def test_all_files_pass() -> None:
    done = subprocess.run([sys.executable, str(KIT), "--brief"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all files passed" in done.stdout
