"""What lies between clients, movers, the directory and the clusters: calls are lost, answered too late, and carried out twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar, cast

T = TypeVar("T")


class ViolationError(AssertionError):
    """Something that must never be."""


class LostError(Exception):
    """There was no answer in time: what was asked for may have been done, or may be done later."""


@dataclass(slots=True)
class Faults:
    """Chances are for each call, from 0 to 1."""

    lost: float = 0.03  # the request, or the answer
    again: float = 0.05  # the request arrives once more, up to `late_s` later
    late: float = 0.03  # it takes up to `late_s`
    held: float = 0.0  # a chunk arrives once its number comes next, however long its mover has given it up
    delay_s: float = 0.004
    late_s: float = 4.0


class Network:
    """Everything that is asked of anybody goes through `call`."""

    def __init__(self, rng: Random, faults: Faults) -> None:
        self.faults = faults
        self.violation: ViolationError | None = None  # kept, since whoever asked may swallow it
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, action: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """What `action` gives, or raises, where it is carried out. Raises LostError.

        It goes on when nobody waits any more.
        """
        rng, faults = self._rng, self.faults
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        if rng.random() >= faults.lost:
            loop.call_later(self._delay(), self._arrive, action, answer)
        if rng.random() < faults.again:
            loop.call_later(rng.uniform(0.0, faults.late_s), self._arrive, action, None)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise LostError("there was no answer in time") from None

    def _delay(self) -> float:
        rng, faults = self._rng, self.faults
        return rng.uniform(0.0, faults.late_s if rng.random() < faults.late else faults.delay_s)

    def _arrive(self, action: Callable[[], Awaitable[T]], answer: asyncio.Future[T] | None) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(action, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, action: Callable[[], Awaitable[T]], answer: asyncio.Future[T] | None) -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = await action()
        except Exception as error:
            failure = error
        if isinstance(failure, ViolationError):
            self.violation = self.violation or failure
        if answer is None or self._rng.random() < self.faults.lost:
            return
        await asyncio.sleep(self._delay())
        if not answer.done():
            if failure is not None:
                answer.set_exception(failure)
            else:
                answer.set_result(cast(T, result))
