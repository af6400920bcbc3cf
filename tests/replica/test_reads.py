"""Rounds and leases, on a clock of our own."""

from __future__ import annotations

import pytest

from ravel_node.raft import Index, ReadState, Term
from ravel_node.replica.errors import ReadTimeoutError
from ravel_node.replica.reads import Reads


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


LEASE_S = 0.9 * 15 * 0.05


def setup() -> tuple[Reads, Clock]:
    clock = Clock()
    return Reads(clock=clock, election_ticks=16, tick_s=0.05), clock


def answer(reads: Reads, context: bytes | None, index: int, term: int = 1, applied: int = 10) -> None:
    assert context is not None
    reads.confirmed([ReadState(Index(index), context)], Term(term), Index(applied))


async def test_a_read_waits_for_its_round_and_for_the_state() -> None:
    reads, _ = setup()
    early, late = reads.wait(), reads.wait()
    context = reads.begin_round(Term(1))
    after = reads.wait()
    assert not early.done()
    answer(reads, context, index=12)
    assert not early.done(), "the state is at 10, the round's index is 12"
    reads.release(Index(12))
    assert early.done()
    assert late.done()
    assert not after.done(), "it came after the round was asked"


async def test_the_lease_counts_from_before_the_round_was_asked() -> None:
    reads, clock = setup()
    context = reads.begin_round(Term(1))
    clock.now += 0.5
    answer(reads, context, index=5)
    assert reads.lease_holds(Index(10))
    clock.now = 100.0 + LEASE_S + 0.001
    assert not reads.lease_holds(Index(10))


async def test_a_lease_needs_the_state_to_reach_the_rounds_index() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=12)
    assert not reads.lease_holds(Index(11))
    assert reads.lease_holds(Index(12))


async def test_another_term_or_role_or_configuration_ends_it_and_rounds_under_way_grant_none() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=5)
    under_way = reads.begin_round(Term(1))
    waiting = reads.wait()
    reads.end_lease()
    assert not reads.lease_holds(Index(10))
    answer(reads, under_way, index=6)
    assert not reads.lease_holds(Index(10)), "it was asked before the change"
    answer(reads, reads.begin_round(Term(1)), index=6)
    assert waiting.done()
    assert reads.lease_holds(Index(10))


async def test_a_round_of_an_older_term_grants_none() -> None:
    reads, _ = setup()
    context = reads.begin_round(Term(1))
    answer(reads, context, index=5, term=2)
    assert not reads.lease_holds(Index(10))


async def test_no_lease_for_the_rest_of_the_term_once_a_transfer_began() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=5)
    reads.bar_lease(Term(1))
    assert not reads.lease_holds(Index(10))
    answer(reads, reads.begin_round(Term(1)), index=6)
    assert not reads.lease_holds(Index(10))
    answer(reads, reads.begin_round(Term(3)), index=6, term=3)
    assert reads.lease_holds(Index(10))


async def test_rounds_that_nobody_answers_fail_their_reads_in_time() -> None:
    reads, clock = setup()
    waiting = reads.wait()
    reads.begin_round(Term(1))
    clock.now += 1.0
    reads.expire(2.0, ReadTimeoutError("late"))
    assert not waiting.done()
    clock.now += 1.1
    reads.expire(2.0, ReadTimeoutError("late"))
    with pytest.raises(ReadTimeoutError):
        waiting.result()


async def test_rounds_are_bounded() -> None:
    reads, _ = setup()
    contexts = [reads.begin_round(Term(1)) for _ in range(64)]
    assert None not in contexts
    waiting = reads.wait()
    assert reads.begin_round(Term(1)) is None
    answer(reads, contexts[0], index=5)
    answer(reads, reads.begin_round(Term(1)), index=5)
    assert waiting.done()
