"""Linearizable reads: ReadIndex rounds, and the leader's lease that spares most of them.

A round asks a majority whether this replica still leads (thesis 6.4). All reads that wait in a turn share one. The lease is the
driver's own, over a core in safe mode: time t is taken *before* a round is asked; every follower that answers it has heard this
leader after t and, check-quorum being on, will not vote for another before its shortest election timeout has passed. So no other
leader can have committed anything before t + timeout, and until 0.9 of (timeout less one tick) has passed since t the leader may
answer from its own state. 0.9 allows for clocks that run apart, the tick for a follower's timer that was about to move.

What ends a lease: another role, another term, another configuration, and the start of a leadership transfer, after which there is
none for the rest of the term, because the chosen follower campaigns without waiting for anybody's timeout. The clock is one that
counts on while a machine sleeps (CLOCK_BOOTTIME), and is read for each read after that read was taken from its queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

from ravel_node.raft import Index, ReadState, Term
from ravel_node.replica.errors import ReplicaError

LEASE_SHARE: Final = 0.9
"""Share of the shortest election timeout (less one tick) for which a lease lasts: room for clock rates that differ by a tenth."""


class ReadMode(IntEnum):
    """What a read may show. Numbers as in kv.proto."""

    LINEARIZABLE = 0
    QUORUM = 1
    STALE = 2


class _Round(NamedTuple):
    asked_at: float  # before the core was asked
    term: Term
    futures: list[asyncio.Future[None]]


class Reads:
    """Waiting reads and the lease of one replica. Owned by the driver's task; `lease_holds` is asked by handlers on the loop."""

    def __init__(self, *, clock: Callable[[], float], election_ticks: int, tick_s: float, rounds_max: int = 64) -> None:
        self._clock = clock
        self._lease_s = LEASE_SHARE * (election_ticks - 1) * tick_s
        self._rounds_max = rounds_max
        self._rounds: dict[bytes, _Round] = {}
        self._counter = 0
        self._waiting: list[asyncio.Future[None]] = []  # for the next round
        self._confirmed: list[tuple[Index, list[asyncio.Future[None]]]] = []  # for the state to catch up
        self._lease_until = 0.0
        self._lease_index = Index(0)
        self._lease_barred_term: Term | None = None  # a transfer began in this term

    def lease_holds(self, applied: Index) -> bool:
        """Whether a read may be served now, from a state that has applied `applied`. Reads the clock."""
        return applied >= self._lease_index and self._clock() < self._lease_until

    @property
    def lease_remaining_s(self) -> float:
        return max(0.0, self._lease_until - self._clock())

    @property
    def wanted(self) -> bool:
        """Whether reads wait for a round."""
        return bool(self._waiting)

    def wait(self) -> asyncio.Future[None]:
        """A future that is done when a majority has confirmed this leader and the state has caught up with that."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def begin_round(self, term: Term) -> bytes | None:
        """The context of a new round for everybody who waits; None while too many rounds are unanswered."""
        if len(self._rounds) >= self._rounds_max:
            return None
        self._counter += 1
        context = self._counter.to_bytes(8, "big")
        self._rounds[context] = _Round(self._clock(), term, self._waiting)
        self._waiting = []
        return context

    def confirmed(self, states: list[ReadState], term: Term, applied: Index) -> None:
        """Rounds that the core reports as answered by a majority."""
        for state in states:
            if (answered := self._rounds.pop(state.context, None)) is None:
                continue
            if answered.futures:
                self._confirmed.append((state.index, answered.futures))
            if answered.term == term and self._lease_barred_term != term:
                until = answered.asked_at + self._lease_s
                if until > self._lease_until:
                    self._lease_until, self._lease_index = until, state.index
        self.release(applied)

    def release(self, applied: Index) -> None:
        """Serve the reads whose index the state has reached."""
        if not self._confirmed:
            return
        still: list[tuple[Index, list[asyncio.Future[None]]]] = []
        for index, futures in self._confirmed:
            if index > applied:
                still.append((index, futures))
                continue
            for future in futures:
                if not future.done():
                    future.set_result(None)
        self._confirmed = still

    def end_lease(self) -> None:
        """Role, term or configuration changed; rounds under way still answer their reads, but grant no lease."""
        self._lease_until = 0.0
        self._rounds = {context: asked._replace(term=Term(0)) for context, asked in self._rounds.items()}

    def bar_lease(self, term: Term) -> None:
        """A transfer of leadership begins: there is no lease for the rest of this term."""
        self._lease_barred_term = term
        self.end_lease()

    def fail_all(self, error: ReplicaError) -> None:
        """This replica no longer leads, or stops."""
        self.end_lease()
        waiting = [self._waiting, *(asked.futures for asked in self._rounds.values()), *(f for _, f in self._confirmed)]
        self._waiting, self._rounds, self._confirmed = [], {}, []
        for futures in waiting:
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def expire(self, older_than_s: float, error: ReplicaError) -> None:
        """Fail rounds that no majority has answered in time."""
        limit = self._clock() - older_than_s
        for context in [context for context, asked in self._rounds.items() if asked.asked_at < limit]:
            for future in self._rounds.pop(context).futures:
                if not future.done():
                    future.set_exception(error)
