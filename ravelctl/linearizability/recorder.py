"""Records what a client's callers asked and were answered, for the checker.

async with recording(client) as recorder:
    await recorder.client("a").put(b"k", b"1")
    ...
# here the history has been checked; a violation raised LinearizabilityError
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Any, Final, Protocol, TypeVar

from ravelctl.client.errors import (
    BlankError,
    BusyError,
    ClosedError,
    DeadlineError,
    InvalidArgumentError,
    NoLeaderError,
    NotLeaderError,
    QuotaExceededError,
    RemovedError,
    SessionExpiredError,
    UnreachableError,
    UnsupportedVersionError,
    WrongServerError,
)
from ravelctl.client.types import DeleteResult, KeyValue, PutResult, SwapResult
from ravelctl.linearizability.checker import Report, check
from ravelctl.linearizability.history import Kind, Operation, Outcome

NOTHING_DONE: Final = (
    BlankError,
    BusyError,
    ClosedError,
    DeadlineError,
    InvalidArgumentError,
    NoLeaderError,
    NotLeaderError,
    QuotaExceededError,
    RemovedError,
    SessionExpiredError,
    UnreachableError,
    UnsupportedVersionError,
    WrongServerError,
)
"""Errors whose class promises that the write had no effect. Whatever else is raised leaves the outcome unknown."""

Answer = TypeVar("Answer")


class LinearizabilityError(AssertionError):
    """The recorded history has no order; the message tells why in words."""


class Store(Protocol):
    """What is recorded of RavelClient's methods."""

    async def put(self, key: bytes, value: bytes, *, timeout_s: float | None = None) -> PutResult: ...
    async def get(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None: ...
    async def delete(self, key: bytes, *, timeout_s: float | None = None) -> DeleteResult: ...
    async def get_and_delete(self, key: bytes, *, timeout_s: float | None = None) -> KeyValue | None: ...
    async def compare_and_swap(
        self, key: bytes, value: bytes, *, expected_revision: int, timeout_s: float | None = None
    ) -> SwapResult: ...


class Recorder:
    """The history of all clients of one store, which held nothing when recording began."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = monotonic) -> None:
        """`clock` is one for all operations and never goes back; pass the loop's under virtual time."""
        self._store = store
        self._clock = clock
        self._done: list[Operation] = []
        self._pending: dict[int, Operation] = {}
        self.begun = 0
        """Operations so far, those under way too."""

    def client(self, name: str, store: Store | None = None) -> RecordedClient:
        """A caller with a name of its own, on the recorder's store or on another connection to the same cluster."""
        return RecordedClient(name, store or self._store, self)

    @property
    def history(self) -> list[Operation]:
        """All operations so far. Those under way count as of unknown outcome: what they wrote may be seen already."""
        return [*self._done, *self._pending.values()]

    def check(self, *, only_writers: bool = False) -> Report:
        """See checker.check. Raises LinearizabilityError where there is no order."""
        report = check(self.history, only_writers=only_writers)
        if report.violations:
            raise LinearizabilityError(str(report))
        return report

    async def record(
        self,
        asked: Callable[[float], Operation],
        call: Callable[[], Awaitable[Answer]],
        answered: Callable[[Answer], dict[str, Any]],
    ) -> Answer:
        """Make the call and note it, whatever comes of it. `asked` takes the time at which it starts, `answered` its answer."""
        number = self.begun
        self.begun += 1
        operation = self._pending[number] = asked(self._clock())
        told: dict[str, Any] = {"outcome": Outcome.UNKNOWN}
        try:
            answer = await call()
            told = answered(answer) | {"outcome": Outcome.DONE}
            return answer
        except NOTHING_DONE:
            told = {"outcome": Outcome.FAILED}
            raise
        finally:  # also when the caller is cancelled: then the outcome stays unknown
            del self._pending[number]
            self._done.append(replace(operation, completed_s=self._clock(), **told))


class RecordedClient:
    """RavelClient's calls, each recorded under this client's name."""

    def __init__(self, name: str, store: Store, recorder: Recorder) -> None:
        self._name = name
        self._store = store
        self._recorder = recorder

    def _asked(self, kind: Kind, key: bytes, **arguments: Any) -> Callable[[float], Operation]:
        # A call that does not end is an unknown outcome from the start.
        return lambda at: Operation(self._name, kind, key, at, outcome=Outcome.UNKNOWN, **arguments)

    async def put(self, key: bytes, value: bytes, **options: Any) -> PutResult:
        return await self._recorder.record(
            self._asked(Kind.PUT, key, value=value),
            lambda: self._store.put(key, value, **options),
            lambda answer: {"revision": answer.revision},
        )

    async def get(self, key: bytes, **options: Any) -> KeyValue | None:
        """Record only linearizable and quorum reads: a stale one may be answered with the past, and rightly so."""
        return await self._recorder.record(self._asked(Kind.GET, key), lambda: self._store.get(key, **options), _told_of)

    async def delete(self, key: bytes, **options: Any) -> DeleteResult:
        return await self._recorder.record(
            self._asked(Kind.DELETE, key),
            lambda: self._store.delete(key, **options),
            lambda answer: {"found": answer.found, "revision": answer.revision},
        )

    async def get_and_delete(self, key: bytes, **options: Any) -> KeyValue | None:
        return await self._recorder.record(
            self._asked(Kind.GET_AND_DELETE, key), lambda: self._store.get_and_delete(key, **options), _told_of
        )

    async def compare_and_swap(self, key: bytes, value: bytes, *, expected_revision: int, **options: Any) -> SwapResult:
        return await self._recorder.record(
            self._asked(Kind.COMPARE_AND_SWAP, key, value=value, expected_revision=expected_revision),
            lambda: self._store.compare_and_swap(key, value, expected_revision=expected_revision, **options),
            lambda answer: {"swapped": answer.swapped, "revision": answer.revision} | _actual(answer),
        )


@asynccontextmanager
async def recording(store: Store, *, only_writers: bool = False) -> AsyncIterator[Recorder]:
    """Record, and check when the block ends. A block that fails of itself is not checked: its own error is told."""
    recorder = Recorder(store)
    yield recorder
    recorder.check(only_writers=only_writers)


def _told_of(found: KeyValue | None) -> dict[str, Any]:
    return {"answer": found.value, "revision": found.revision} if found is not None else {}


def _actual(answer: SwapResult) -> dict[str, Any]:
    return {"answer": answer.actual.value} if answer.actual is not None else {}
