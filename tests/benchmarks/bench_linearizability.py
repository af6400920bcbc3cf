"""How much processor time the linearizability checker takes, by what a history holds. A simulated store makes the histories.

python tests/benchmarks/bench_linearizability.py --operations 100000 --clients 64 --keys 16
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from time import process_time

sys.path.insert(0, str(Path(__file__).parents[2]))

from ravelctl.linearizability.checker import check
from ravelctl.linearizability.history import Kind, Operation, Outcome
from ravelctl.linearizability.search import TooHardError
from tests.linearizability.generate import WRITES_AND_READS, Shape, generate


def spoiled(history: list[Operation]) -> list[Operation]:
    """With one stale read, late in the history: the last read of a key sees what its first read saw."""
    reads = sorted(
        (each for each in history if each.kind is Kind.GET and each.outcome is Outcome.DONE and each.answer is not None),
        key=lambda each: each.invoked_s,
    )
    last = reads[-1]
    first = next(each for each in reads if each.key == last.key)
    stale = replace(last, answer=first.answer, revision=first.revision)
    return [stale if each is last else each for each in history]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--keys", type=int, default=16)
    parser.add_argument("--unknown", type=float, default=0.02, help="share of operations whose outcome is not known")
    arguments = parser.parse_args()
    full = Shape(clients=arguments.clients, keys=arguments.keys, operations=arguments.operations, unknown=arguments.unknown)
    cases = {
        "all kinds, revisions told": full,
        "all kinds, no revisions told": replace(full, revisions=False),
        "all kinds, values used again, revisions told": replace(full, values=1_000),
        "put and get, no revisions told": replace(full, revisions=False, kinds=WRITES_AND_READS),
        "all kinds, all known": replace(full, unknown=0.0),
    }
    size = f"{arguments.operations:,} operations, {arguments.clients} clients, {arguments.keys} keys"
    print(f"{size}, {arguments.unknown:.0%} unknown")
    for name, shape in cases.items():
        history = generate(Random(1), shape)
        began = process_time()
        try:
            report = check(history)
        except TooHardError:
            print(f"{name:46} gave up after {process_time() - began:.2f} s: too many possible orders")
            continue
        took = process_time() - began
        if report.violations:
            raise SystemExit(f"{name}: {report}")
        print(f"{name:46} {took:7.2f} s   {len(history) / took:10,.0f}/s")
    history = spoiled(generate(Random(1), full))
    began = process_time()
    report = check(history)
    print(f"{'the first with one stale read, explained':46} {process_time() - began:7.2f} s")
    print(report)


if __name__ == "__main__":
    main()
