"""Clients that do what the real client does about sessions, and write down what they were told.

A write has a number under a registered session. After an outcome that nobody knows it is sent again unchanged, to whoever may
lead by now; once one attempt was uncertain, no refusal of a later one is told as "nothing was done". A call that was given up is
never sent again: the next one acknowledges it. Every value is written once in a run, so a value says which call wrote it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeVar

from ravel_node.machine import envelope, kv
from ravel_node.machine.base import Outcome, Status
from ravel_node.replica.errors import (
    NotLeaderError,
    ReplicaBusyError,
    ReplicaError,
)
from ravel_node.replica.reads import ReadMode
from ravel_node.storage.base import StoreError
from ravelctl.linearizability import history
from ravelctl.linearizability.history import Kind, Operation
from tests.simulation.checkers import Checker
from tests.simulation.network import Network
from tests.simulation.server import Running
from tests.simulation.timeline import Process

T = TypeVar("T")

PATIENCE_S: Final = 8.0
"""How long a client tries before it gives a call up."""

PADDING_BYTES_MAX: Final = 120
REFUSALS: Final = (NotLeaderError, ReplicaBusyError)
"""Nothing was done."""

FAILURES: Final = (ReplicaError, StoreError, ConnectionError)
"""What an attempt may end in."""


@dataclass(slots=True)
class Habits:
    """What clients do."""

    keys: Sequence[bytes]
    modes: Sequence[ReadMode]
    pause_max_s: float
    reads: float  # share of reads among the calls
    restless: float  # share of attempts at any server, whoever is known to lead


class GivenUpError(Exception):
    """No attempt was answered in time. `uncertain`: one of them may have done something."""

    def __init__(self, uncertain: bool) -> None:
        super().__init__("no answer in time")
        self.uncertain = uncertain


class Client:
    """One application."""

    def __init__(
        self,
        number: int,
        process: Process,
        network: Network,
        checker: Checker,
        addresses: Callable[[], list[str]],
        habits: Habits,
        rng: Random,
    ) -> None:
        self.name = f"c{number}"
        self.history: list[Operation] = []
        self._process = process
        self._network = network
        self._checker = checker
        self._addresses = addresses
        self._habits = habits
        self._rng = rng
        self._target = ""
        self._client_id = 0
        self._sequence = 0
        self._values = 0
        self.resting_until = 0.0  # world time until which it asks for nothing
        self.stopping = False

    @property
    def only_reads(self) -> bool:
        return self._habits.reads >= 1.0

    async def run(self) -> None:
        """Call after call, until told to stop."""
        while not self.stopping:
            while self._process.timeline.now < self.resting_until and not self.stopping:
                self._target = ""
                await asyncio.sleep(0.02)
            await self.call_once()
            await asyncio.sleep(self._rng.uniform(0.0, self._habits.pause_max_s))

    async def call_once(self) -> None:
        rng = self._rng
        key = rng.choice(self._habits.keys)
        if rng.random() < self._habits.reads:
            await self.get(key)
            return
        kind = rng.choice((Kind.PUT, Kind.PUT, Kind.DELETE, Kind.GET_AND_DELETE, Kind.COMPARE_AND_SWAP, Kind.COMPARE_AND_SWAP))
        if kind is Kind.COMPARE_AND_SWAP:
            seen = await self.get(key)
            if seen is not None:
                await self.write(kind, key, self._next_value(), seen.revision or 0)
        else:
            await self.write(kind, key, self._next_value() if kind is Kind.PUT else None)

    def _next_value(self) -> bytes:
        self._values += 1
        return f"{self.name}.{self._values}".encode() + b"." * self._rng.randrange(PADDING_BYTES_MAX)

    # --- reads

    async def get(self, key: bytes) -> Operation | None:
        """The operation if it was answered."""
        asked = Operation(self.name, Kind.GET, key, self._process.timeline.now)
        mode = self._rng.choice(self._habits.modes)
        committed = self._checker.committed_index

        async def read(running: Running) -> kv.KeyValue | None:
            replica = running.replica
            leased = replica.barrier_free(mode)
            self._checker.require(not leased or mode is ReadMode.LINEARIZABLE, f"{self.name}'s quorum read takes no round")
            if not leased:
                await replica.read_barrier(mode)
            found = kv.get(replica.reader(), key)
            # Whatever was committed before the read was asked: a follower may have shown it to a watcher.
            self._checker.read(running.server, committed, leased)
            return found

        try:
            found = await self._try(f"{self.name} gets {key.decode()}, {mode.name.lower()}", read)
        except GivenUpError:
            self.history.append(self._ended(asked, history.Outcome.FAILED))
            return None
        answered = replace(
            self._ended(asked, history.Outcome.DONE),
            answer=None if found is None else found.value,
            revision=0 if found is None else found.revision,
        )
        self.history.append(answered)
        return answered

    def _ended(self, asked: Operation, outcome: history.Outcome) -> Operation:
        return replace(asked, completed_s=self._process.timeline.now, outcome=outcome)

    # --- writes

    async def write(self, kind: Kind, key: bytes, value: bytes | None, expected: int | None = None) -> Operation:
        asked = Operation(self.name, kind, key, self._process.timeline.now, value=value, expected_revision=expected)
        try:
            if not self._client_id:
                await self._register()
        except GivenUpError:
            asked = self._ended(asked, history.Outcome.FAILED)
            self.history.append(asked)
            return asked
        self._sequence += 1
        once = envelope.Once(self._client_id, self._sequence, self._sequence)
        group = envelope.group([_command(asked)], once)
        what = f"{self.name} #{self._sequence}: {kind.value} {key.decode()}"
        try:
            outcome = await self._try(what, lambda running: self._propose(running, group))
        except GivenUpError as error:
            ended = self._ended(asked, history.Outcome.UNKNOWN if error.uncertain else history.Outcome.FAILED)
        else:
            self._checker.require(
                outcome.status in (Status.OK, Status.CONDITION_FAILED),
                f"exactly once: {what} is answered {outcome.status.name} {outcome.value!r}, and its session was kept in use",
            )
            ended = _answered(self._ended(asked, history.Outcome.DONE), outcome)
        self.history.append(ended)
        return ended

    async def _register(self) -> None:
        group = envelope.group([envelope.register_session()])
        outcome = await self._try(f"{self.name} registers", lambda running: self._propose(running, group))
        self._client_id, self._sequence = outcome.revision, 0

    async def _propose(self, running: Running, group: bytes) -> Outcome:
        replica = running.replica
        (outcome,) = await replica.propose(group, 1, grows=True)
        return outcome

    # --- attempts

    async def _try(self, what: str, ask: Callable[[Running], Awaitable[T]]) -> T:
        """Ask one server after the other. Raises GivenUpError."""
        deadline = self._process.timeline.now + PATIENCE_S
        uncertain = False
        while self._process.timeline.now < deadline:
            restless = self._rng.random() < self._habits.restless
            target = self._rng.choice(self._addresses()) if restless or not self._target else self._target
            self._target = ""
            timeout_s = self._rng.uniform(0.03, 0.4)
            try:
                answer = await self._network.call(self._process, self.name, target, what, ask, timeout_s)
            except FAILURES as error:
                uncertain = uncertain or not isinstance(error, REFUSALS)
                if isinstance(error, NotLeaderError):
                    self._target = error.leader_address
                await asyncio.sleep(self._rng.uniform(0.0, 0.1))
            else:
                self._target = target
                return answer
        raise GivenUpError(uncertain)


def _command(asked: Operation) -> bytes:
    match asked.kind:
        case Kind.PUT:
            return envelope.put(asked.key, asked.value or b"")
        case Kind.DELETE:
            return envelope.delete(asked.key)
        case Kind.GET_AND_DELETE:
            return envelope.get_and_delete(asked.key)
        case _:
            return envelope.compare_and_swap(asked.key, asked.expected_revision or 0, asked.value or b"")


def _answered(asked: Operation, outcome: Outcome) -> Operation:
    match asked.kind:
        case Kind.PUT:
            return replace(asked, revision=outcome.revision)
        case Kind.DELETE:
            return replace(asked, revision=outcome.revision, found=outcome.found)
        case Kind.GET_AND_DELETE:
            return replace(asked, revision=outcome.revision, answer=outcome.value if outcome.found else None)
        case _:
            swapped = outcome.status is Status.OK
            met = outcome.value if outcome.found and not swapped else None
            return replace(asked, revision=outcome.revision, swapped=swapped, answer=met)
