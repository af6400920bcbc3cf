"""Linearizable reads: ReadIndex rounds, and the leader's lease that saves most of them.

A round asks a majority whether this replica still leads (thesis 6.4). All reads that wait in one turn share a round.

The lease belongs to the driver, above a core in safe mode. Why it is safe:

1. The leader reads its clock at time t, *before* it asks for a round. Every follower that answers the round has therefore
   received a heartbeat of this leader after t.
2. Each answer says for how long its sender votes for nobody else (`promise_us`). The sender keeps this promise whatever
   happens: it counts ticks since it last heard from *any* leader, across terms and roles, and refuses votes and pre-votes, and
   does not stand itself, until `election_ticks` of them have passed (`Raft.promises`). A new term is no exception: a refused
   pre-vote or a late answer may carry one while the old leader's lease runs. A restart is no exception either: the promise is
   on disk (`Store.boot`), and a replica that starts counts as if it had heard a leader at that moment. The only exception is a
   transfer of leadership, which the leader itself begins.
3. `ReadState.promise_us` is the longest time that some majority has promised. Every majority that could elect another leader
   shares a member with that one, so nobody is elected before t + promise_us. A member that promises nothing (an older version)
   counts as 0, and without a majority that promises there is no lease. Members may have different timings: each speaks for
   itself.
4. The leader serves reads until 0.9 of that time has passed. The last tenth allows for clocks whose rates differ.
5. A read is served only when everything the leader knows to be committed is applied. A follower may have shown an entry to a
   watcher as soon as the leader told it that the entry is committed, so the state at the round's own index could be older than
   that.

A lease ends with a change of role, term or configuration, and with the start of a transfer; after a transfer has begun there is
no lease for the rest of the term, because the chosen follower stands without waiting for anybody's timeout. The clock goes on
while a machine sleeps (CLOCK_BOOTTIME), and is read for each read after that read was taken from its queue. It does not go on
while a virtual machine is paused or migrated: see docs/operations.md, "Paused and migrated machines", and the setting `leases`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import Final, NamedTuple

from ravel_node.raft import Index, ReadState, Term
from ravel_node.replica.errors import ReplicaError

LEASE_SHARE: Final = 0.9
"""Share of the promised time for which a lease lasts: room for clock rates that differ by a tenth."""


def vote_promise_us(election_ticks: int, tick_s: float) -> int:
    """Return for how long, in microseconds, a replica keeps from electing another leader after each heartbeat.

    One tick less than the shortest election timeout: the heartbeat may arrive just before a tick.
    """
    return int((election_ticks - 1) * tick_s * 1e6)


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

    def __init__(self, *, clock: Callable[[], float], lease_max_us: int, rounds_max: int = 64) -> None:
        """`lease_max_us` bounds a lease on which nobody's promise bears: that of a cluster with one voter."""
        self._clock = clock
        self._lease_max_us = lease_max_us
        self._rounds_max = rounds_max
        self._rounds: dict[bytes, _Round] = {}
        self._counter = 0
        self._waiting: list[asyncio.Future[None]] = []  # for the next round
        self._confirmed: list[tuple[Index, list[asyncio.Future[None]]]] = []  # for the state to catch up
        self._lease_until = 0.0
        self._lease_barred_term: Term | None = None  # a transfer began in this term
        self._allowed = True  # the cluster's setting `leases`

    def lease_holds(self, applied: Index, commit: Index) -> bool:
        """Return whether a read may be served now, from a state that has applied `applied`. Reads the clock."""
        return applied >= commit and self._clock() < self._lease_until

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

    def wait_applied(self, commit: Index) -> asyncio.Future[None]:
        """Return a future that is done once `commit` is applied: for a read that is asked under a lease, ahead of the state."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._confirmed.append((commit, [future]))
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
            if answered.term == term and self._lease_barred_term != term and self._allowed:
                lease_s = LEASE_SHARE * min(state.promise_us, self._lease_max_us) / 1e6
                self._lease_until = max(self._lease_until, answered.asked_at + lease_s)
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

    def allow_leases(self, allowed: bool) -> None:
        """Follow the cluster's setting `leases`: without leases every linearizable read waits for a round."""
        self._allowed = allowed
        if not allowed:
            self.end_lease()

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
