"""Whole clusters, each from one seed: nothing that must never be, is. `make sim SEEDS=N` runs as many as there is time for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.run import run_seed
from tests.simulation.world import World

ROOT = Path(__file__).parents[2]
SEEDS = 16
"""About half a minute on one core."""


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_holds(seed: int, tmp_path: Path) -> None:
    result = World(seed, tmp_path).run()
    assert result.operations > 0
    assert result.entries > 0


def test_one_seed_is_one_run() -> None:
    """Also in another process, whose hashes of strings are others."""
    seed = 5
    here = run_seed(seed)
    there = subprocess.run(
        [sys.executable, "-m", "tests.simulation.run", "--seeds", "1", "--first", str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert here.digest in there.stdout
    assert run_seed(seed) == here
    assert run_seed(seed + 1).digest != here.digest
