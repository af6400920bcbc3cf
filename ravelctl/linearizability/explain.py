"""From a history that has no order to the few operations that show why."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ravelctl.linearizability.history import Operation, Outcome
from ravelctl.linearizability.search import TooHardError, search
from ravelctl.linearizability.steps import steps_of

EXPLAINING_CONFIGURATIONS_MAX = 200_000
"""Configurations that one try of leaving operations out may look at; with more the operations stay in."""


def core(operations: Sequence[Operation], suspects: Sequence[int]) -> list[int]:
    """The indexes, in order of time, of a smallest set of operations of one key whose answers no order gives.

    Smallest: with any one of them left out there is an order. Left out means here that a read is forgotten and a write may happen
    at any time after it began, or never, so whatever is told about the core holds for the whole history. `suspects` are
    operations that have no order even with all others left out; the earliest contradiction is told, by its latest operations.
    Where a try looks at too many configurations, some that could be left out stay in.
    """
    suspects = sorted(suspects, key=lambda i: _end_s(operations[i]))

    def fails(kept: Sequence[int]) -> bool:
        relaxed = frozenset(range(len(operations))) - frozenset(kept)
        try:
            return search(steps_of(operations, relaxed), EXPLAINING_CONFIGURATIONS_MAX) is not None
        except TooHardError:
            return False

    if not fails(suspects):  # too hard with so few of them fixed, or what was told to fail does not
        return suspects
    needed = [suspects[_fewest(suspects, [], fails) - 1]]
    left = suspects[: suspects.index(needed[0])][::-1]
    while left and not fails(needed):
        place = _fewest(left, needed, fails)
        needed.append(left[place - 1])
        left = left[: place - 1]
    return sorted(needed, key=lambda i: (operations[i].invoked_s, _end_s(operations[i])))


def _fewest(candidates: Sequence[int], fixed: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> int:
    """How many candidates, from the first one on, are needed to fail together with the fixed ones. All of them do."""
    too_few, enough = 0, len(candidates)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if fails([*fixed, *candidates[:middle]]):
            enough = middle
        else:
            too_few = middle
    return enough


def sources(operations: Sequence[Operation], shown: Sequence[int]) -> list[int]:
    """The writes that are not among the shown operations, but of values that those were answered with."""
    named = {operations[i].answer for i in shown if operations[i].answer is not None}
    return [
        i
        for i, operation in enumerate(operations)
        if i not in shown and operation.value in named and operation.outcome is not Outcome.FAILED
    ]


def _end_s(operation: Operation) -> float:
    unanswered = operation.completed_s is None or operation.outcome is not Outcome.DONE
    return float("inf") if unanswered else operation.completed_s or 0.0
