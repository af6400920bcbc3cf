"""Rounds and leases, on a clock of our own."""

from __future__ import annotations

import pytest

from ravel_node.raft import Index, ReadState, Term
from ravel_node.replica.errors import ReadTimeoutError
from ravel_node.replica.reads import Reads, vote_promise_us


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


PROMISE_US = 750_000
LEASE_S = 0.9 * 0.75
AT = Index(10)


def setup() -> tuple[Reads, Clock]:
    clock = Clock()
    return Reads(clock=clock, lease_max_us=PROMISE_US), clock


def answer(
    reads: Reads, context: bytes | None, index: int, term: int = 1, applied: int = 10, promise_us: int = PROMISE_US
) -> None:
    assert context is not None
    reads.confirmed([ReadState(Index(index), context, promise_us)], Term(term), Index(applied))


def test_a_replica_promises_one_tick_less_than_its_election_timeout() -> None:
    assert vote_promise_us(16, 0.05) == 750_000


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
    assert reads.lease_holds(AT, AT)
    clock.now = 100.0 + LEASE_S + 0.001
    assert not reads.lease_holds(AT, AT)


async def test_a_lease_needs_the_state_to_reach_the_commit_index() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=12)
    assert not reads.lease_holds(applied=Index(12), commit=Index(13)), "a follower may have shown entry 13 already"
    assert reads.lease_holds(applied=Index(13), commit=Index(13))


async def test_a_read_under_a_lease_waits_for_the_state_and_for_no_round() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=12)
    waiting = reads.wait_applied(Index(13))
    assert not reads.wanted
    reads.release(Index(12))
    assert not waiting.done()
    reads.release(Index(13))
    assert waiting.done()


@pytest.mark.parametrize(
    ("promise_us", "lasts_s"), [(100_000, 0.09), (PROMISE_US, LEASE_S), (10 * PROMISE_US, LEASE_S), (0, 0.0)]
)
async def test_the_lease_lasts_nine_tenths_of_what_was_promised(promise_us: int, lasts_s: float) -> None:
    reads, clock = setup()
    answer(reads, reads.begin_round(Term(1)), index=5, promise_us=promise_us)
    assert reads.lease_remaining_s == pytest.approx(lasts_s)
    clock.now += lasts_s + 0.001
    assert not reads.lease_holds(AT, AT)


async def test_a_shorter_promise_does_not_shorten_the_lease_that_there_is() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=5)
    answer(reads, reads.begin_round(Term(1)), index=6, promise_us=1_000)
    assert reads.lease_remaining_s == pytest.approx(LEASE_S)


async def test_no_round_grants_a_lease_where_the_cluster_allows_none() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=5)
    reads.allow_leases(False)
    assert not reads.lease_holds(AT, AT)
    waiting = reads.wait()
    answer(reads, reads.begin_round(Term(1)), index=5)
    assert waiting.done()
    assert not reads.lease_holds(AT, AT)


async def test_another_term_or_role_or_configuration_ends_it_and_rounds_under_way_grant_none() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=5)
    under_way = reads.begin_round(Term(1))
    waiting = reads.wait()
    reads.end_lease()
    assert not reads.lease_holds(AT, AT)
    answer(reads, under_way, index=6)
    assert not reads.lease_holds(AT, AT), "it was asked before the change"
    answer(reads, reads.begin_round(Term(1)), index=6)
    assert waiting.done()
    assert reads.lease_holds(AT, AT)


async def test_a_round_of_an_older_term_grants_none() -> None:
    reads, _ = setup()
    context = reads.begin_round(Term(1))
    answer(reads, context, index=5, term=2)
    assert not reads.lease_holds(AT, AT)


async def test_no_lease_for_the_rest_of_the_term_once_a_transfer_began() -> None:
    reads, _ = setup()
    answer(reads, reads.begin_round(Term(1)), index=5)
    reads.bar_lease(Term(1))
    assert not reads.lease_holds(AT, AT)
    answer(reads, reads.begin_round(Term(1)), index=6)
    assert not reads.lease_holds(AT, AT)
    answer(reads, reads.begin_round(Term(3)), index=6, term=3)
    assert reads.lease_holds(AT, AT)


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


async def test_whoever_waits_is_told_when_leadership_ends() -> None:
    """Before a round, in one, and behind one that was confirmed: nobody waits for a state that may never come."""
    reads, _ = setup()
    confirmed, asked_later = reads.wait(), reads.wait_applied(Index(50))
    answer(reads, reads.begin_round(Term(1)), index=40)
    in_round = reads.wait()
    reads.begin_round(Term(1))
    waiting = reads.wait()
    reads.fail_all(ReadTimeoutError("it leads no more"))
    for future in (confirmed, asked_later, in_round, waiting):
        with pytest.raises(ReadTimeoutError, match="no more"):
            future.result()
    reads.release(Index(60))
    assert not reads.wanted
    assert not reads.lease_holds(AT, AT)
