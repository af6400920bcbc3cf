"""The simulator from the command line: `make sim SEEDS=1000`, `make sim SEEDS=1 FIRST=7`, `make sim-bugs`.

With --moves the worlds are those of tests/simulation/moves: slots that move between clusters. With --disasters clusters and the
admin group are restored or lost in between, and reconciled.

It prints how each failure came about, and exits 1 if there was one. The digest of a run is over every step of it: the same seed
has the same digest every time, on every machine that runs the same code.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from tests.simulation.bugs import BUGS, Bug, planted
from tests.simulation.moves import world as moves
from tests.simulation.moves.bugs import MOVE_BUGS
from tests.simulation.moves.disaster_bugs import DISASTER_BUGS
from tests.simulation.moves.disasters import DisasterWorld
from tests.simulation.world import Result, SimulationError, World

A = TypeVar("A")
B = TypeVar("B")

JOBS = 2
ALL_BUGS = (*BUGS, *MOVE_BUGS, *DISASTER_BUGS)
STUCK_S = 60
"""Seconds of processor time after which a world, which takes about one, is given up."""


class StuckError(Exception):
    """A turn of some loop does not end: raised in the middle of it."""


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise StuckError in the main thread if this takes too long."""

    def give_up(*_: object) -> None:
        raise StuckError(f"the world has not ended after {STUCK_S} s of processor time")

    signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, STUCK_S, STUCK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def run_seed(seed: int) -> Result:
    """One world. Raises SimulationError, also for one that does not end."""
    with TemporaryDirectory(prefix="ravel-sim-") as path, _bounded():
        return World(seed, Path(path)).run()


def run_moves_seed(seed: int) -> moves.Result:
    """One world of moving slots. Raises SimulationError of its own."""
    with _bounded():
        return moves.World(seed).run()


def run_disasters_seed(seed: int) -> moves.Result:
    """One world of moving slots with disasters in it. Raises SimulationError of its own."""
    with _bounded():
        return DisasterWorld(seed).run()


def try_seed(seed: int) -> Result | str:
    """One world, with a failure told as text, which can leave its process."""
    try:
        return run_seed(seed)
    except SimulationError as error:
        return str(error)


def try_moves_seed(seed: int) -> moves.Result | str:
    """The same for moving slots."""
    try:
        return run_moves_seed(seed)
    except moves.SimulationError as error:
        return str(error)


def try_disasters_seed(seed: int) -> moves.Result | str:
    """The same with disasters."""
    try:
        return run_disasters_seed(seed)
    except moves.SimulationError as error:
        return str(error)


@dataclass(frozen=True, slots=True)
class Finding:
    """How one planted bug was seen."""

    bug: str
    seeds: int  # that it took; 0: it was not seen
    shown: str
    seconds: float


def find(bug: Bug) -> Finding:
    """Plant a bug and run seeds until one fails, up to the bug's bound."""
    began = time.monotonic()
    run = run_moves_seed if bug in MOVE_BUGS else run_disasters_seed if bug in DISASTER_BUGS else run_seed
    with planted(bug):
        for seed in range(1, bug.seeds_max + 1):
            try:
                run(seed)
            except (SimulationError, moves.SimulationError) as error:
                return Finding(bug.name, seed, str(error.why).partition("\n")[0], time.monotonic() - began)
    return Finding(bug.name, 0, f"{bug.seeds_max} seeds do not show it", time.monotonic() - began)


def find_named(name: str) -> Finding:
    """The same, by name: a bug cannot be sent to another process."""
    return find(next(bug for bug in ALL_BUGS if bug.name == name))


def main() -> int:
    parser = argparse.ArgumentParser(description="whole clusters, each from one seed")
    parser.add_argument("--seeds", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--first", type=int, default=1, help="the first one (default 1)")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"processes (default {JOBS})")
    parser.add_argument("--moves", action="store_true", help="worlds of slots that move between clusters")
    parser.add_argument("--disasters", action="store_true", help="the same, with clusters restored and lost in between")
    parser.add_argument("--bugs", nargs="?", const="", metavar="NAME", help="plant bugs, all or one, and look for each")
    arguments = parser.parse_args()
    if arguments.bugs is not None:
        bugs = MOVE_BUGS if arguments.moves else DISASTER_BUGS if arguments.disasters else ALL_BUGS
        return _find_bugs([bug.name for bug in bugs if arguments.bugs in ("", bug.name)], arguments.jobs)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    work = try_moves_seed if arguments.moves else try_disasters_seed if arguments.disasters else try_seed
    return _run_seeds(work, seeds, arguments.jobs)


def _run_seeds(work: Callable[[int], Result | moves.Result | str], seeds: range, jobs: int) -> int:
    began = time.monotonic()
    failed = operations = 0
    for seed, result in zip(seeds, _each(work, seeds, jobs), strict=True):
        if isinstance(result, str):
            failed += 1
            print(f"seed {seed} fails: {result}\n", flush=True)
        else:
            operations += result.operations
            if len(seeds) == 1:
                print(result)
    seconds = time.monotonic() - began
    rate = len(seeds) / seconds
    print(f"{len(seeds)} seeds, {operations} operations in {seconds:.0f} s, {rate:.2f} seeds a second: {failed} failed")
    return 1 if failed else 0


def _each(work: Callable[[A], B], items: Sequence[A], jobs: int) -> Iterator[B]:
    """The results in order, each as soon as it and those before it are there."""
    if jobs == 1 or len(items) == 1:
        yield from map(work, items)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, items)


def _find_bugs(names: Sequence[str], jobs: int) -> int:
    missed = 0
    for finding in _each(find_named, names, jobs):
        missed += not finding.seeds
        print(f"{finding.bug:30} {finding.seeds or 'none':>4} {finding.seconds:6.1f} s  {finding.shown[:160]}", flush=True)
    print(f"{len(names)} bugs were planted, {missed} were not seen")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
