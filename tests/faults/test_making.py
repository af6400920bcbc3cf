"""`snapshot restore` and `recover apply` die (SIGKILL) at one step after another of making a data directory.

The directory is made beside its place and moved there when it is whole: so there is none, or all of it. What lies beside is
refused by name, and the same command, given again, begins anew.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.e2e.cluster import Server
from tests.faults.conftest import PROPERTY
from tests.faults.ordeal import Row
from tests.faults.shim import Disk, build
from tests.faults.test_steps import chosen
from tests.ravelctl.offline.support import CLUSTER, make, puts
from tests.ravelctl.offline.test_snapshots import saved

KEYS = 40
STEPS_MAX = 7


class _Maker:
    """Runs commands whose files lie in one folder, on a disk at which they can be killed."""

    def __init__(self, folder: Path, library: Path) -> None:
        folder.mkdir()
        self.name, self.data_dir = "maker", folder
        self.environment: dict[str, str] = {}
        self.disk = Disk(cast(Server, self), library)

    def run(self, *words: object, kill_at: int | None = None) -> subprocess.CompletedProcess[str]:
        """`kill_at` None: on a disk that works; 0: only count the steps."""
        if kill_at is not None:
            self.disk.arm(kill_at=kill_at, torn=kill_at % 2 == 0)
        kept = os.environ | (self.environment if kill_at is not None else {})
        command = [sys.executable, "-m", "ravelctl", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=kept, check=False, timeout=100)


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("how", ["restore", "apply"])
def test_the_making_of_a_directory_is_killed_at_its_steps(
    tmp_path: Path, how: str, record_property: Callable[[str, object], None]
) -> None:
    maker = _Maker(tmp_path / "work", build(tmp_path))
    old = make(tmp_path / "n1", puts(1, KEYS), snapshot_at=KEYS + 1)
    file = saved(old, tmp_path / "s.rvsnap")

    def words(target: Path) -> list[object]:
        if how == "restore":
            return ["snapshot", "restore", file, "--data-dir", target]
        return ["recover", "apply", old, "--to", target, "--yes", "--confirm", CLUSTER]

    row = Row(f"killed at a step of {'snapshot restore' if how == 'restore' else 'recover apply'}")
    whole = maker.data_dir / "whole"
    ran = maker.run(*words(whole), kill_at=0)
    assert ran.returncode == 0, ran.stderr
    total = maker.disk.steps
    assert total > 10, "so few steps mean that they are not seen"
    half_made = 0
    for step in chosen(total, STEPS_MAX):
        target = maker.data_dir / f"new{step}"
        ran = maker.run(*words(target), kill_at=step)
        if ran.returncode == 0:
            continue  # it had done its work before it came to its last steps
        assert ran.returncode == 128 + signal.SIGKILL, ran.stderr
        row.times += 1
        beside = target.with_name(f".{target.name}.making")
        if beside.is_dir() and any(beside.iterdir()) and not target.exists():
            half_made += 1
            looked = maker.run("store", "check", "--data-dir", beside)
            assert looked.returncode in (2, 8), looked.stdout + looked.stderr
            assert str(beside) in looked.stderr + looked.stdout
        if not target.exists():
            again = maker.run(*words(target))
            assert again.returncode == 0, again.stderr
            assert not beside.exists()
        checked: dict[str, Any] = json.loads(maker.run("store", "check", "--data-dir", target, "-o", "json").stdout)
        assert checked["ok"], checked
    assert half_made >= 2
    record_property(PROPERTY, row.encode())
