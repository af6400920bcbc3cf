"""What the key-value machine must do, said a second time and as plainly as can be: a dictionary and a counter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from ravel_node.machine import envelope
from ravel_node.machine.base import Outcome, Status
from tests.machine.helpers import keys, operations, revisions, values

Step = tuple[str, tuple[Any, ...]]
"""A kind and its arguments, as the encoding function of that name takes them."""


def steps() -> st.SearchStrategy[Step]:
    conditions = st.lists(st.tuples(keys, revisions), max_size=2)
    return st.one_of(
        st.tuples(st.just("put"), st.tuples(keys, values)),
        st.tuples(st.just("delete"), st.tuples(keys)),
        st.tuples(st.just("get_and_delete"), st.tuples(keys)),
        st.tuples(st.just("compare_and_swap"), st.tuples(keys, revisions, values)),
        st.tuples(st.just("write"), st.tuples(conditions, operations())),
    )


def encode(step: Step) -> bytes:
    kind, arguments = step
    command: bytes = getattr(envelope, kind)(*arguments)
    return command


@dataclass
class Model:
    pairs: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    revision: int = 0

    def run(self, step: Step) -> Outcome:
        kind, arguments = step
        outcome: Outcome = getattr(self, kind)(*arguments)
        return outcome

    def put(self, key: bytes, value: bytes) -> Outcome:
        self.revision += 1
        self.pairs[key] = (self.revision, value)
        return Outcome(Status.OK, self.revision)

    def delete(self, key: bytes) -> Outcome:
        found = key in self.pairs
        if found:
            del self.pairs[key]
            self.revision += 1
        return Outcome(Status.OK, self.revision, found)

    def get_and_delete(self, key: bytes) -> Outcome:
        if key not in self.pairs:
            return Outcome(Status.OK, 0, False, b"")
        revision, value = self.pairs.pop(key)
        self.revision += 1
        return Outcome(Status.OK, revision, True, value)

    def compare_and_swap(self, key: bytes, expected: int, value: bytes) -> Outcome:
        revision, actual = self.pairs.get(key, (0, b""))
        if revision != expected:
            return Outcome(Status.CONDITION_FAILED, revision, key in self.pairs, actual)
        return self.put(key, value)

    def write(self, conditions: list[tuple[bytes, int]], operations: list[tuple[bytes, bytes | None]]) -> Outcome:
        for key, expected in conditions:
            revision, actual = self.pairs.get(key, (0, b""))
            if revision != expected:
                value = len(key).to_bytes(2, "big") + key + actual
                return Outcome(Status.CONDITION_FAILED, revision, key in self.pairs, value)
        changes = [(key, value) for key, value in operations if value is not None or key in self.pairs]
        self.revision += bool(changes)
        for key, new in changes:
            if new is None:
                del self.pairs[key]
            else:
                self.pairs[key] = (self.revision, new)
        return Outcome(Status.OK, self.revision)
