"""What clients asked of a key-value store and what it answered: the input of the checker.

These are value types of their own: a history can come from real daemons, from the simulator, or from any other store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    PUT = "put"
    GET = "get"
    DELETE = "delete"
    GET_AND_DELETE = "get_and_delete"
    COMPARE_AND_SWAP = "compare_and_swap"


class Outcome(Enum):
    DONE = "done"  # it was answered: it took effect at one moment between its start and its answer
    UNKNOWN = "unknown"  # it may take effect at any time after its start, also long after the client gave up, or never
    FAILED = "failed"  # it certainly had no effect


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client. Times are seconds of one clock that all clients of the history share, virtual or real.

    `revision` is what the store said, by kind: put: of the new value; get: of `answer`; delete: the store's after it, which is
    its own if `found`; get_and_delete: of the removed value; compare_and_swap: of the new value, or, if not swapped, of the
    actual one. None: the store said none. Where nothing was there, 0 and None mean the same.
    """

    client: str
    kind: Kind
    key: bytes
    invoked_s: float
    completed_s: float | None = None  # when the answer came; with UNKNOWN and FAILED it is only shown to people
    outcome: Outcome = Outcome.DONE
    value: bytes | None = None  # asked: what put and compare_and_swap write
    expected_revision: int | None = None  # asked: compare_and_swap; 0: nothing must be there
    found: bool | None = None  # answered by delete; None: not told, as for the deletes of an atomic batch
    swapped: bool | None = None  # answered by compare_and_swap
    answer: bytes | None = None  # the value read, removed, or met by a failed swap; None: nothing was there
    revision: int | None = None
    batch: int | None = None  # operations of one atomic write carry one number; they may share a revision

    def problems(self) -> Iterator[str]:
        """Why this is no operation that can be judged: a fault of whoever made the history, not of the store."""
        if self.outcome is Outcome.DONE:
            if self.completed_s is None:
                yield "it is done, but has no time of completion"
            elif self.completed_s < self.invoked_s:
                yield f"it was completed at {self.completed_s}, before it was invoked at {self.invoked_s}"
        if self.kind in (Kind.PUT, Kind.COMPARE_AND_SWAP) and self.value is None:
            yield "it writes, but has no value"
        if self.kind is Kind.COMPARE_AND_SWAP:
            if self.expected_revision is None:
                yield "it has no expected revision"
            if self.outcome is Outcome.DONE and self.swapped is None:
                yield "it is done, but does not tell whether it swapped"
            if self.swapped is False and self.answer is not None and not self.revision:
                yield "it met another value, but not at a revision"

    def asked(self) -> str:
        match self.kind:
            case Kind.PUT:
                return f"put {_short(self.value)}"
            case Kind.COMPARE_AND_SWAP:
                return f"compare_and_swap {_short(self.value)} at revision {self.expected_revision}"
            case _:
                return str(self.kind.value)

    def answered(self) -> str:
        if self.outcome is not Outcome.DONE:
            return "outcome unknown" if self.outcome is Outcome.UNKNOWN else "failed, nothing was done"
        at = f" at revision {self.revision}" if self.revision is not None else ""
        match self.kind:
            case Kind.PUT:
                return f"done{at}"
            case Kind.DELETE:
                told = "done" if self.found is None else "deleted" if self.found else "nothing was there"
                return told + at
            case Kind.COMPARE_AND_SWAP if self.swapped:
                return f"swapped{at}"
            case Kind.COMPARE_AND_SWAP:
                return "not swapped: " + (f"met {_short(self.answer)}{at}" if self.answer is not None else "nothing was there")
            case _:
                return f"{_short(self.answer)}{at}" if self.answer is not None else "nothing was there"

    def describe(self, zero_s: float = 0.0) -> str:
        """One line for people: client, times since `zero_s`, what was asked and what was answered."""
        end = f"{self.completed_s - zero_s:.6f} s" if self.completed_s is not None else "no answer"
        span = f"{self.invoked_s - zero_s:.6f} to {end}"
        return f"client {self.client}, {span}: {self.asked()} -> {self.answered()}"


SHOWN_BYTES_MAX = 40
"""Bytes of a value that a description shows."""


def _short(value: bytes | None) -> str:
    if value is None or len(value) <= SHOWN_BYTES_MAX:
        return repr(value)
    return f"{value[:SHOWN_BYTES_MAX]!r}... ({len(value)} bytes)"
