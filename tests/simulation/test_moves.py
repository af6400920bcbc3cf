"""Slots on the move, each world from one seed; and the simulator sees the bugs that are planted into a move.

`make sim SEEDS=N` runs as many worlds as there is time for, `make sim-bugs` plants all bugs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.bugs import Bug
from tests.simulation.moves.bugs import MOVE_BUGS
from tests.simulation.moves.disaster_bugs import DISASTER_BUGS
from tests.simulation.run import find, run_disasters_seed, run_moves_seed

ROOT = Path(__file__).parents[2]
SEEDS = 6

QUICK = (
    "unfreeze-after-the-switch",
    "activate-before-release",
    "last-pass-left-out",
    "nothing-noted",
    "revisions-begin-anew",
)
QUICK_DISASTERS = ("registry-knows-best", "heirs-forgotten", "versions-forgotten")


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_holds(seed: int) -> None:
    result = run_moves_seed(seed)
    assert result.operations > 0
    assert result.moved + result.called_off > 0


@pytest.mark.parametrize("bug", [bug for bug in MOVE_BUGS if bug.name in QUICK], ids=lambda bug: bug.name)
def test_is_seen(bug: Bug) -> None:
    finding = find(bug)
    assert finding.seeds, f"{bug.rule}: left out, and {finding.shown}"


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_holds_with_disasters(seed: int) -> None:
    assert run_disasters_seed(seed).operations > 0


@pytest.mark.parametrize("bug", [bug for bug in DISASTER_BUGS if bug.name in QUICK_DISASTERS], ids=lambda bug: bug.name)
def test_is_seen_in_disasters(bug: Bug) -> None:
    finding = find(bug)
    assert finding.seeds, f"{bug.rule}: left out, and {finding.shown}"


def test_one_seed_is_one_run() -> None:
    """Also in another process, whose hashes of strings are others."""
    here = run_moves_seed(3)
    there = subprocess.run(
        [sys.executable, "-m", "tests.simulation.run", "--moves", "--seeds", "1", "--first", "3"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert here.digest in there.stdout
    assert run_moves_seed(4).digest != here.digest
