"""Histories of a simulated store that is linearizable, and ways to make it one that is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from ravelctl.linearizability.history import Kind, Operation, Outcome

WRITES_AND_READS: Final = (Kind.PUT, Kind.GET)
ALL_KINDS: Final = (Kind.PUT, Kind.PUT, Kind.GET, Kind.GET, Kind.GET, Kind.DELETE, Kind.GET_AND_DELETE, Kind.COMPARE_AND_SWAP)

NOT_TOLD: Final = {"revision": None}


@dataclass(frozen=True, slots=True)
class Shape:
    """What kind of history to make."""

    clients: int = 3
    keys: int = 1
    operations: int = 6
    kinds: Sequence[Kind] = ALL_KINDS
    values: int = 0  # how many different ones there are; 0: each write has its own
    unknown: float = 0.0  # the share of operations whose client gives up
    revisions: bool = True  # whether the store tells them
    lost: float = 0.0  # the share of writes that are answered but not done
    doubled: float = 0.0  # the share of writes that are done a second time, later


@dataclass(slots=True)
class Call:
    operation: Operation
    at_s: float  # when it takes effect
    happens: bool = True
    again: bool = False


def generate(rng: Random, shape: Shape) -> list[Operation]:
    """The operations as their clients saw them, in no particular order."""
    calls = _calls(rng, shape)
    calls += [
        Call(call.operation, call.at_s + rng.expovariate(0.5), again=True) for call in calls if rng.random() < shape.doubled
    ]
    calls.sort(key=lambda call: call.at_s)
    store = Store(rng, shape)
    history = []
    for call in calls:
        done = store.run(call.operation, dry=not call.happens)
        if not call.again:
            history.append(done if done.outcome is Outcome.DONE else call.operation)
    return history


def _calls(rng: Random, shape: Shape) -> list[Call]:
    calls = []
    free_s = [rng.random() for _ in range(shape.clients)]
    for number in range(shape.operations):
        client = min(range(shape.clients), key=free_s.__getitem__) if shape.clients > 8 else rng.randrange(shape.clients)
        kind = rng.choice(shape.kinds)
        key = b"k%d" % rng.randrange(shape.keys)
        began = free_s[client] + 0.1 * rng.random()
        at = began + rng.random()
        ended = at + rng.random()
        value = None
        if kind in (Kind.PUT, Kind.COMPARE_AND_SWAP):
            value = b"v%d" % (rng.randrange(shape.values) if shape.values else number)
        operation = Operation(f"c{client}", kind, key, began, ended, value=value)
        happens = rng.random() >= shape.lost
        if rng.random() < shape.unknown:
            operation = replace(operation, outcome=Outcome.UNKNOWN)
            happens = rng.random() < 0.5
            at += rng.expovariate(0.3)
        free_s[client] = ended
        calls.append(Call(operation, at, happens))
    return calls


class Store:
    """A dictionary and a counter."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self._rng = rng
        self._shape = shape
        self._pairs: dict[bytes, tuple[bytes, int]] = {}
        self._revision = 0

    def run(self, operation: Operation, *, dry: bool) -> Operation:
        """The operation with its answer; with `dry` nothing is changed, but the answer is as if."""
        value, revision = self._pairs.get(operation.key, (None, 0))
        match operation.kind:
            case Kind.GET:
                return self._with(operation, answer=value, revision=revision)
            case Kind.PUT:
                return self._with(operation, revision=self._set(operation, dry))
            case Kind.DELETE:
                if value is None:
                    return self._with(operation, found=False, revision=self._revision)
                return self._with(operation, found=True, revision=self._unset(operation, dry))
            case Kind.GET_AND_DELETE:
                if value is not None:
                    self._unset(operation, dry)
                return self._with(operation, answer=value, revision=revision)
            case Kind.COMPARE_AND_SWAP:
                guess = self._rng.choice((revision, revision, revision, max(0, revision - 1), 0, self._revision))
                # What the client expects is drawn here, where it has a chance of being right.
                expected = guess if operation.expected_revision is None else operation.expected_revision
                object.__setattr__(operation, "expected_revision", expected)
                if expected == revision:
                    return self._with(operation, swapped=True, revision=self._set(operation, dry))
                return self._with(operation, swapped=False, answer=value, revision=revision)

    def _with(self, operation: Operation, *, revision: int, **answers: object) -> Operation:
        met = operation.kind is Kind.COMPARE_AND_SWAP and answers.get("swapped") is False
        told = revision if self._shape.revisions or met else None
        return replace(operation, revision=told, **answers)  # type: ignore[arg-type]

    def _set(self, operation: Operation, dry: bool) -> int:
        if not dry:
            self._revision += 1
            self._pairs[operation.key] = (operation.value or b"", self._revision)
        return self._revision + dry

    def _unset(self, operation: Operation, dry: bool) -> int:
        if not dry:
            self._revision += 1
            del self._pairs[operation.key]
        return self._revision + dry


def spoil(rng: Random, history: Sequence[Operation]) -> list[Operation]:
    """The history with one answer, or the times of two operations, changed; it may still be linearizable."""
    spoiled = list(history)
    place = rng.randrange(len(spoiled))
    operation = spoiled[place]
    answers = [each for each in spoiled if each.key == operation.key and each.outcome is Outcome.DONE]
    if operation.outcome is not Outcome.DONE:
        return spoiled
    other = rng.choice(answers)
    match rng.randrange(3):
        case 0:
            first, second = (operation.invoked_s, operation.completed_s), (other.invoked_s, other.completed_s)
            moved = replace(other, invoked_s=first[0], completed_s=first[1])
            spoiled[spoiled.index(other)] = moved
            if other is not operation:
                spoiled[place] = replace(operation, invoked_s=second[0], completed_s=second[1])
        case 1 if operation.kind is Kind.COMPARE_AND_SWAP:
            if operation.swapped:
                spoiled[place] = replace(operation, swapped=False, answer=None, revision=None)
            else:
                spoiled[place] = replace(operation, swapped=True, answer=None, revision=None)
        case 1 if operation.kind is Kind.DELETE:
            spoiled[place] = replace(operation, found=not operation.found, revision=None)
        case _:
            spoiled[place] = _stale(rng, operation, answers)
    return spoiled


def _stale(rng: Random, operation: Operation, answers: Sequence[Operation]) -> Operation:
    """The read with what some other operation read or wrote; a write with another revision."""
    other = rng.choice(answers)
    if operation.kind in (Kind.GET, Kind.GET_AND_DELETE):
        seen = other.answer if other.answer is not None else other.value
        return replace(operation, answer=seen, revision=other.revision if seen is not None else None)
    if operation.revision is not None and operation.swapped is not False:
        return replace(operation, revision=max(1, operation.revision + rng.choice((-2, -1, 1, 2))))
    return operation
