"""The verdict on a change, against an oracle that counts by hand; and rounds of catching up."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from ravel_node.raft import ConfState, Index, ReplicaId
from ravel_node.replica.membership import CatchUp, Health, judge
from ravel_node.replica.status import Expectation, Verdict

SEEN = Expectation(term=3, config_index=9)


def ids(*numbers: int) -> tuple[ReplicaId, ...]:
    return tuple(ReplicaId(number) for number in numbers)


def health(
    voters: tuple[ReplicaId, ...], learners: tuple[ReplicaId, ...], live: set[ReplicaId], caught_up: set[ReplicaId]
) -> Health:
    return Health(ConfState(voters=voters, learners=learners), frozenset(live), frozenset(caught_up))


def subsets(of: tuple[ReplicaId, ...]) -> list[set[ReplicaId]]:
    return [set(each) for each in chain.from_iterable(combinations(of, size) for size in range(len(of) + 1))]


def can_lose_and_commit(voters: set[ReplicaId], live: set[ReplicaId], failures: int) -> bool:
    """Whether any `failures` of the live voters may fail with a majority of the voters left."""
    alive = voters & live
    return failures <= len(alive) and all(
        2 * len(alive - set(lost)) > len(voters) for lost in combinations(sorted(alive), failures)
    )


def tolerated(voters: set[ReplicaId], live: set[ReplicaId]) -> int:
    """The most failures that leave a majority; -1 or less when there is none now."""
    if not can_lose_and_commit(voters, live, 0):
        return -1
    return max(count for count in range(len(voters) + 1) if can_lose_and_commit(voters, live, count))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_removal_from_every_cluster_of_up_to_five(size: int) -> None:
    voters = ids(*range(1, size + 1))
    for live in subsets(voters):
        for removed in subsets(voters):
            if not removed:
                continue
            verdict = judge(health(voters, (), live, live), remove=sorted(removed), seen=SEEN)
            left = set(voters) - removed
            assert verdict.allowed == (bool(left) and can_lose_and_commit(left, live, 0)), (live, removed)
            check_standing(verdict, set(voters), left, live)


def check_standing(verdict: Verdict, before: set[ReplicaId], after: set[ReplicaId], live: set[ReplicaId]) -> None:
    for standing, voters in ((verdict.before, before), (verdict.after, after)):
        assert set(standing.voters) == voters
        assert standing.live == len(voters & live)
        if voters:
            assert standing.quorum == len(voters) // 2 + 1
            assert max(standing.tolerates, -1) == tolerated(voters, live)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_promotion(size: int) -> None:
    voters, learner = ids(*range(1, size + 1)), ReplicaId(9)
    for live in subsets((*voters, learner)):
        for caught_up in (live, live - {learner}):
            verdict = judge(health(voters, (learner,), live, caught_up), promote=[learner], seen=SEEN)
            expected = can_lose_and_commit({*voters, learner}, live, 0) and learner in caught_up
            assert verdict.allowed == expected, (live, caught_up)


def test_tolerates_counts_only_voters_that_have_caught_up() -> None:
    verdict = judge(health(ids(1, 2, 3), (), set(ids(1, 2, 3)), set(ids(1, 2))), seen=SEEN)
    assert (verdict.before.live, verdict.before.caught_up, verdict.before.tolerates) == (3, 2, 0)


def test_the_last_voter_and_the_next_step() -> None:
    verdict = judge(health(ids(1), (), set(ids(1)), set(ids(1))), remove=ids(1), seen=SEEN)
    assert "last voter" in verdict.reason
    assert verdict.next_step


def test_an_even_number_of_voters_is_warned_of() -> None:
    everyone = set(ids(1, 2, 3, 4))
    verdict = judge(health(ids(1, 2, 3), ids(4), everyone, everyone), promote=ids(4), seen=SEEN)
    assert verdict.allowed
    assert "4 voters tolerate no more failures than 3" in verdict.warnings


class TestCatchUp:
    def test_a_round_ends_when_its_target_is_held(self) -> None:
        rounds = CatchUp()
        peer = ReplicaId(4)
        rounds.observe({peer: Index(0)}, Index(1000), now=0.0)
        assert not rounds.caught_up(peer, 0.0, within_s=0.8)
        rounds.observe({peer: Index(500)}, Index(1100), now=2.0)
        rounds.observe({peer: Index(1000)}, Index(1200), now=3.0)
        assert not rounds.caught_up(peer, 3.0, within_s=0.8), "the first round took 3 s"
        rounds.observe({peer: Index(1200)}, Index(1210), now=3.5)
        assert rounds.caught_up(peer, 3.5, within_s=0.8)

    def test_one_that_stops_is_no_longer_caught_up(self) -> None:
        rounds = CatchUp()
        peer = ReplicaId(4)
        rounds.observe({peer: Index(10)}, Index(10), now=0.0)
        rounds.observe({peer: Index(10)}, Index(20), now=0.1)
        assert rounds.caught_up(peer, 0.1, within_s=0.8)
        rounds.observe({peer: Index(10)}, Index(30), now=1.5)
        assert not rounds.caught_up(peer, 1.5, within_s=0.8)

    def test_those_who_left_are_forgotten(self) -> None:
        rounds = CatchUp()
        rounds.observe({ReplicaId(4): Index(10)}, Index(10), now=0.0)
        rounds.observe({}, Index(10), now=0.1)
        assert not rounds.caught_up(ReplicaId(4), 0.1, within_s=0.8)
