"""Is there an order of all operations that honours real time and gives every client the answers it received?

A history is linearizable if each of its keys is (Herlihy & Wing, "Linearizability", 1990: the property is local), so each key is
searched by itself: search.py in general, zones.py in O(n log n) where a key was only put and read. Revisions take part: a write's
is higher than that of the change before it, a read's names the write that it saw; revisions.py checks what they tell across keys.

    report = check(history)
    assert not report.violations, str(report)

Processor time for 100,000 operations of 64 clients on 16 keys, 2 % of unknown outcome, on a busy virtual machine with 2 cores
(tests/benchmarks/bench_linearizability.py): 6.3 s with revisions, 6.9 s without them (but for swaps), 9.2 s where values are
written again, 1.5 s for puts and gets alone without revisions, 4.9 s if nothing is unknown; 11.3 s to find and explain one
stale read.

What costs is unknown outcomes, deletes above all, together with many clients on one key: with 64 clients on a single key and 2 %
unknown the search gives up within 2,000 operations (all known: 20,000 take 1.2 s). Four clients or so for each key are well.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ravelctl.linearizability import zones
from ravelctl.linearizability.explain import core, sources
from ravelctl.linearizability.history import Operation, Outcome
from ravelctl.linearizability.revisions import Clash, clashes
from ravelctl.linearizability.search import CONFIGURATIONS_MAX, search
from ravelctl.linearizability.steps import steps_of

EXPLAINED_MAX = 3
"""Violations that a report explains; it counts the others."""

SHOWN_MAX = 40
"""Operations of one violation that its text shows."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Operations that cannot be put in an order; `str()` tells them in words."""

    sentence: str
    operations: tuple[Operation, ...]  # a smallest set, by time
    sources: tuple[Operation, ...] = ()  # the writes of the values in their answers, where these are not among them
    zero_s: float = 0.0  # the time that is told as 0

    def __str__(self) -> str:
        lines = [self.sentence]
        for title, operations in (("", self.operations), ("  the values in these answers were written by", self.sources)):
            if title and operations:
                lines.append(title)
            lines += [f"    {operation.describe(self.zero_s)}" for operation in operations[:SHOWN_MAX]]
            if len(operations) > SHOWN_MAX:
                lines.append(f"    ... and {len(operations) - SHOWN_MAX} more")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked, and what was found. A test should also look at the counts: an empty history has no violations."""

    done: int
    unknown: int
    failed: int
    keys: int
    violations: tuple[Violation, ...]
    unexplained: int = 0  # violations beyond those

    def __str__(self) -> str:
        counts = (
            f"{self.done} operations done, {self.unknown} of unknown outcome, {self.failed} without effect, on {self.keys} keys"
        )
        if not self.violations:
            return f"{counts}: linearizable"
        more = [f"... and {self.unexplained} more violations"] if self.unexplained else []
        return "\n".join([f"{counts}: not linearizable", *map(str, self.violations), *more])


def check(history: Iterable[Operation], *, only_writers: bool = False, configurations_max: int = CONFIGURATIONS_MAX) -> Report:
    """Look for an order of the history, which starts with an empty store. The operations may come in any order.

    `only_writers` says that nobody else wrote to the store since its revision was 0: then a revision that belongs to no operation
    is a write that was done twice. Raises ValueError if an operation is not one (Operation.problems), and TooHardError if a key
    has too many possible orders: more than `configurations_max` configurations.
    """
    operations = list(history)
    for operation in operations:
        for problem in operation.problems():
            raise ValueError(f"{problem}: {operation}")
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    zero_s = min((operation.invoked_s for operation in operations), default=0.0)
    violations: list[Violation] = []
    unexplained = 0
    for key, of_key in sorted(by_key.items()):
        suspects = _suspects(of_key, configurations_max)
        if suspects and len(violations) < EXPLAINED_MAX:
            violations.append(_explained(key, of_key, suspects, zero_s))
        elif suspects:
            unexplained += 1
    for clash in clashes(operations, only_writers=only_writers):
        if len(violations) < EXPLAINED_MAX:
            violations.append(_told(clash, zero_s))
        else:
            unexplained += 1
    counts = Counter(operation.outcome for operation in operations)
    return Report(
        done=counts[Outcome.DONE],
        unknown=counts[Outcome.UNKNOWN],
        failed=counts[Outcome.FAILED],
        keys=len(by_key),
        violations=tuple(violations),
        unexplained=unexplained,
    )


def _suspects(operations: Sequence[Operation], configurations_max: int) -> Sequence[int]:
    """The indexes of operations of one key among which a contradiction is; empty: there is an order."""
    steps = steps_of(operations)
    if zones.applies(steps):
        return sorted({step.index for step in zones.conflict(steps)})
    if search(steps, configurations_max) is None:
        return ()
    return [step.index for step in steps.steps if operations[step.index].outcome is Outcome.DONE]


def _explained(key: bytes, operations: Sequence[Operation], suspects: Sequence[int], zero_s: float) -> Violation:
    shown = core(operations, suspects)
    answers = "this answer" if len(shown) == 1 else f"these {len(shown)} answers"
    sentence = f"key {key!r}: no order of the operations on it gives {answers}"
    writes = tuple(operations[i] for i in sources(operations, shown))
    return Violation(sentence, tuple(operations[i] for i in shown), writes, zero_s)


def _told(clash: Clash, zero_s: float) -> Violation:
    keys = ", ".join(repr(key) for key in dict.fromkeys(operation.key for operation in clash.operations))
    where = f"key {keys}: " if keys else "all keys: "
    return Violation(where + clash.sentence, clash.operations, zero_s=zero_s)
