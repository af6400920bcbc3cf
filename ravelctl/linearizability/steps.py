"""The operations on one key as steps of a small automaton: what each needs of the state and what it leaves behind.

The state of a key is its value and the revision of its last change. What a history lets us conclude without any search is
concluded here:

- A value that no answer ever names is just "some value": UNSEEN. Writes of such values become interchangeable.
- A value with one writer and at least one answer that names it was certainly written, and before the first such answer came. So
  an unknown outcome becomes a known one, and every such write gets an earlier end; answers that tell its revision give it to it.
- An answer that tells the revision of a known write saw that one. To an unknown outcome a value is unseen if all answers that
  name it saw known writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from ravelctl.linearizability.history import Kind, Operation, Outcome

ABSENT: Final = 0
"""The symbol of a key that is not there."""

UNSEEN: Final = 1
"""The symbol of every value that no answer names. Values that are named have higher ones."""

UNKNOWN: Final = -1
"""A revision that is not told."""

NEVER: Final = 1 << 62
"""The rank of an end that does not come."""


class Need(IntEnum):
    """What a step asks of the state before it."""

    ANYTHING = 0
    PRESENT = 1
    VALUE = 2  # this value, at this revision if one is told
    REVISION = 3  # this revision; 0: absent
    EITHER = 4  # nothing, but where the key is absent the step changes nothing
    IMPOSSIBLE = 5  # the answer contradicts itself


@dataclass(slots=True, eq=False)
class Step:
    """Ranks number the moments of a key's history; a step takes effect between `begin` and `end`."""

    index: int  # of its operation
    begin: int
    end: int
    need: Need
    need_value: int = ABSENT  # for VALUE
    need_revision: int = UNKNOWN  # for VALUE and REVISION
    reads: bool = False  # it leaves the state as it is
    value: int = ABSENT  # what it leaves
    revision: int = UNKNOWN  # of the change that it makes
    optional: bool = False  # it may also never take effect
    bit: int = 0  # its place in the masks of the search, while it is pending


@dataclass(slots=True)
class Steps:
    """All that matters of one key's history."""

    steps: list[Step]
    lone: dict[int, Step] = field(default_factory=dict)  # value -> its writer, for values with one
    has_revisions: bool = False


def steps_of(operations: Sequence[Operation], relaxed: Collection[int] = ()) -> Steps:
    """The steps of one key's operations.

    Of the operations whose indexes are in `relaxed`, those that changed nothing are left out, and writes are taken to have had no
    answer: whatever can be ordered still can be.
    """
    kept = [i for i, operation in enumerate(operations) if _matters(operation, i in relaxed)]
    symbols = _symbols(operations[i] for i in kept if i not in relaxed)
    begins, ends = _ranks(operations, kept)
    steps = []
    for i in kept:
        step = Step(i, begins[i], ends[i], Need.ANYTHING)
        if i in relaxed or operations[i].outcome is Outcome.UNKNOWN:
            step.end, step.optional = NEVER, True
            _ask(step, operations[i], symbols)
        else:
            _answer(step, operations[i], symbols)
        steps.append(step)
    found = Steps(steps, _lone_writers(steps))
    _conclude(found)
    _forget_sourced(steps)
    found.has_revisions = any(step.revision > 0 or step.need_revision > 0 for step in steps)
    return found


def _matters(operation: Operation, relaxed: bool) -> bool:
    if operation.outcome is Outcome.FAILED:
        return False
    if operation.outcome is Outcome.DONE and not relaxed:
        return True
    return operation.kind is not Kind.GET and not (operation.outcome is Outcome.DONE and _only_read(operation))


def _only_read(operation: Operation) -> bool:
    match operation.kind:
        case Kind.GET:
            return True
        case Kind.DELETE:
            return operation.found is False
        case Kind.GET_AND_DELETE:
            return operation.answer is None
        case Kind.COMPARE_AND_SWAP:
            return operation.swapped is False
        case Kind.PUT:
            return False


def _symbols(answered: Iterable[Operation]) -> dict[bytes, int]:
    symbols: dict[bytes, int] = {}
    for operation in answered:
        if operation.outcome is Outcome.DONE and operation.answer is not None:
            symbols.setdefault(operation.answer, UNSEEN + 1 + len(symbols))
    return symbols


def _ranks(operations: Sequence[Operation], kept: list[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Begin and end of each as even numbers. What ends at the moment at which another begins is concurrent with it."""
    moments = []
    for i in kept:
        operation = operations[i]
        moments.append((operation.invoked_s, 0, i))
        if operation.completed_s is not None:
            moments.append((operation.completed_s, 1, i))
    moments.sort()
    begins: dict[int, int] = {}
    ends = dict.fromkeys(kept, NEVER)
    for rank, (_, is_end, i) in enumerate(moments):
        (ends if is_end else begins)[i] = 2 * rank
    return begins, ends


def _ask(step: Step, operation: Operation, symbols: dict[bytes, int]) -> None:
    """Make it the step of a write of which no answer is known. Where it would change nothing it need not be taken at all."""
    if operation.kind in (Kind.DELETE, Kind.GET_AND_DELETE):
        step.need = Need.PRESENT
        return
    step.value = symbols.get(operation.value or b"", UNSEEN)
    if operation.kind is Kind.COMPARE_AND_SWAP:
        step.need, step.need_revision = Need.REVISION, operation.expected_revision or 0


def _answer(step: Step, operation: Operation, symbols: dict[bytes, int]) -> None:
    told = operation.revision or UNKNOWN
    if _only_read(operation):
        step.reads = True
        step.need = Need.VALUE
        if operation.answer is not None:
            step.need_value, step.need_revision = symbols[operation.answer], told
        if operation.kind is Kind.COMPARE_AND_SWAP and (operation.revision or 0) == operation.expected_revision:
            step.need = Need.IMPOSSIBLE
        return
    match operation.kind:
        case Kind.DELETE:
            step.need, step.revision = (Need.PRESENT if operation.found else Need.EITHER), told
        case Kind.GET_AND_DELETE:
            step.need, step.need_value, step.need_revision = Need.VALUE, symbols[operation.answer or b""], told
        case _:
            _ask(step, operation, symbols)
            step.revision = told


def _lone_writers(steps: list[Step]) -> dict[int, Step]:
    writers: dict[int, list[Step]] = defaultdict(list)
    for step in steps:
        if not step.reads and step.value > UNSEEN:
            writers[step.value].append(step)
    return {value: found[0] for value, found in writers.items() if len(found) == 1}


def _conclude(found: Steps) -> None:
    """Pass on to lone writers what the answers that name their values tell."""
    first_end: dict[int, int] = {}
    revisions: dict[int, set[int]] = defaultdict(set)
    for step in found.steps:
        if step.need is Need.VALUE and not step.optional and step.need_value in found.lone:
            first_end[step.need_value] = min(step.end, first_end.get(step.need_value, NEVER))
            if step.need_revision != UNKNOWN:
                revisions[step.need_value].add(step.need_revision)
    for value, end in first_end.items():
        writer = found.lone[value]
        if writer.begin > end:
            continue  # an answer came before its value was written: the search will find it impossible
        # The odd rank is just before that answer.
        writer.optional, writer.end = False, min(writer.end, end - 1)
        told = revisions[value]
        if writer.revision == UNKNOWN and len(told) == 1:
            writer.revision = next(iter(told))


def _forget_sourced(steps: list[Step]) -> None:
    """Make values unseen in unknown outcomes that nobody can have seen."""
    known = {step.revision for step in steps if not step.optional and step.need is not Need.EITHER}
    known.discard(UNKNOWN)
    sought = {step.need_value for step in steps if step.need is Need.VALUE and step.need_revision not in known}
    for step in steps:
        if step.optional and step.value > UNSEEN and step.value not in sought:
            step.value = UNSEEN
