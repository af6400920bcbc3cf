"""Futures by term and index."""

from __future__ import annotations

import asyncio

import pytest

from ravel_node.machine.base import Outcome
from ravel_node.raft import EntryId, Index, Term
from ravel_node.replica.errors import LeadershipLostError, NotLeaderError
from ravel_node.replica.inbox import Proposal
from ravel_node.replica.waiters import ChangeApplied, Waiters


def at(term: int, index: int) -> EntryId:
    return EntryId(Term(term), Index(index))


def overwritten() -> NotLeaderError:
    return NotLeaderError(2, "127.0.0.1:1")  # type: ignore[arg-type]


def proposal(count: int) -> Proposal:
    return Proposal(b"", count, asyncio.get_running_loop().create_future())


def outcomes(count: int) -> list[Outcome]:
    return [Outcome(revision=number) for number in range(1, count + 1)]


async def test_each_proposal_of_an_entry_gets_its_own_outcomes() -> None:
    waiters = Waiters()
    one, two = proposal(2), proposal(3)
    waiters.add(at(1, 7), [one, two], now=5.0)
    assert waiters.applied(at(1, 7), outcomes(5), overwritten) == 5.0
    assert [o.revision for o in one.future.result()] == [1, 2]
    assert [o.revision for o in two.future.result()] == [3, 4, 5]
    assert len(waiters) == 0


async def test_another_terms_entry_means_that_nothing_was_done() -> None:
    waiters = Waiters()
    mine = proposal(1)
    waiters.add(at(1, 7), [mine], now=0.0)
    assert waiters.applied(at(2, 7), outcomes(1), overwritten) is None
    with pytest.raises(NotLeaderError):
        mine.future.result()


async def test_lost_leadership_leaves_the_outcome_unknown() -> None:
    waiters = Waiters()
    mine = proposal(1)
    change: asyncio.Future[ChangeApplied] = asyncio.get_running_loop().create_future()
    waiters.add(at(1, 7), [mine], now=0.0)
    waiters.add_change(at(1, 8), change)
    waiters.fail_all(LeadershipLostError())
    for future in (mine.future, change):
        with pytest.raises(LeadershipLostError):
            future.result()
    waiters.applied(at(1, 7), outcomes(1), overwritten)


async def test_a_caller_that_gave_up_is_skipped() -> None:
    waiters = Waiters()
    gone, other = proposal(1), proposal(1)
    waiters.add(at(1, 7), [gone, other], now=0.0)
    gone.future.cancel()
    waiters.applied(at(1, 7), outcomes(2), overwritten)
    assert other.future.result()[0].revision == 2


async def test_a_membership_entry_that_was_emptied_is_told_as_such() -> None:
    waiters = Waiters()
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[ChangeApplied] = loop.create_future()
    refused: asyncio.Future[ChangeApplied] = loop.create_future()
    lost: asyncio.Future[ChangeApplied] = loop.create_future()
    waiters.add_change(at(1, 7), taken)
    waiters.add_change(at(1, 8), refused)
    waiters.add_change(at(1, 9), lost)
    waiters.change_applied(at(1, 7), overwritten)
    waiters.applied(at(1, 8), [], overwritten)
    waiters.applied(at(2, 9), [], overwritten)
    assert taken.result().effective
    assert not refused.result().effective
    with pytest.raises(NotLeaderError):
        lost.result()
