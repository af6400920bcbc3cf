"""The same question answered as plainly as can be: every order of every subset is tried. For a few operations on one key."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from ravelctl.linearizability.history import Kind, Operation, Outcome

Told = tuple[tuple[int | None, ...], ...]
"""For each change so far, oldest first, all that was told of its revision."""


def is_linearizable(history: Sequence[Operation]) -> bool:
    """One key's history, starting with nothing there."""
    done = [operation for operation in history if operation.outcome is Outcome.DONE]
    unknown = [operation for operation in history if operation.outcome is Outcome.UNKNOWN]
    return any(
        _can_go_on([*done, *happened], None, ((0,),))
        for count in range(len(unknown) + 1)
        for happened in combinations(unknown, count)
    )


def _can_go_on(left: list[Operation], value: bytes | None, told: Told) -> bool:
    """Whether the operations that are left can all follow, each at once, in some order."""
    if not left:
        return _numbers_exist(told)
    for place, operation in enumerate(left):
        rest = left[:place] + left[place + 1 :]
        if any(_is_before(other, operation) for other in rest):
            continue
        for after, changes in _effects(operation, value, told):
            if _can_go_on(rest, after, changes):
                return True
    return False


def _is_before(first: Operation, second: Operation) -> bool:
    return first.outcome is Outcome.DONE and first.completed_s is not None and first.completed_s < second.invoked_s


def _numbers_exist(told: Told) -> bool:
    """Whether the changes can be given whole numbers that rise and are what was told of them."""
    lowest = 0
    for names in told:
        known = {name for name in names if name is not None}
        if len(known) > 1:
            return False
        number = known.pop() if known else lowest
        if number < lowest:
            return False
        lowest = number + 1
    return True


def _effects(operation: Operation, value: bytes | None, told: Told) -> list[tuple[bytes | None, Told]]:
    """States that may follow; none: the answer cannot be given here."""
    known = operation.outcome is Outcome.DONE
    revision = (operation.revision or None) if known else None
    named = (*told[:-1], (*told[-1], revision))  # the answer told the revision of the last change
    match operation.kind:
        case Kind.GET:
            if not known:
                return [(value, told)]
            if operation.answer != value:
                return []
            return [(value, named if value is not None else told)]
        case Kind.PUT:
            return [(operation.value, (*told, (revision,)))]
        case Kind.DELETE:
            if value is None:
                return [] if known and operation.found else [(None, told)]
            return [] if known and operation.found is False else [(None, (*told, (revision,)))]
        case Kind.GET_AND_DELETE:
            if known and operation.answer != value:
                return []
            return [(None, (*named, (None,)) if value is not None else told)]
        case Kind.COMPARE_AND_SWAP:
            return _swap_effects(operation, value, told, revision)


def _swap_effects(operation: Operation, value: bytes | None, told: Told, revision: int | None) -> list[tuple[bytes | None, Told]]:
    expected = operation.expected_revision
    unchanged = [(value, told)]
    matched: list[tuple[bytes | None, Told]] = []
    if expected == 0 and value is None:
        matched = [(operation.value, (*told, (revision,)))]
    elif expected != 0 and value is not None:
        matched = [(operation.value, (*told[:-1], (*told[-1], expected), (revision,)))]
    if operation.outcome is not Outcome.DONE:
        return matched + unchanged
    if operation.swapped:
        return matched
    if operation.answer != value or (operation.revision or 0) == expected:
        return []
    return [(value, (*told[:-1], (*told[-1], revision)))] if value is not None else unchanged
