"""The verdict on a change, against an oracle that counts by hand; and rounds of catching up."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from ravel_node.raft import ConfState, Index, ReplicaId
from ravel_node.replica.membership import CatchUp
from ravel_node.replica.status import Expectation, Verdict
from ravel_node.replica.verdict import Health, Plan, judge

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


def subsets_of_at_least_one(of: tuple[ReplicaId, ...]) -> list[set[ReplicaId]]:
    return [each for each in subsets(of) if each]


def possible(before: set[ReplicaId], after: set[ReplicaId], live: set[ReplicaId]) -> bool:
    """By hand: the voters that there are can commit the change, and those that will be can commit what comes after it."""
    return bool(after) and can_lose_and_commit(before, live, 0) and can_lose_and_commit(after, live, 0)


def check_standing(verdict: Verdict, before: set[ReplicaId], after: set[ReplicaId], live: set[ReplicaId]) -> None:
    for standing, voters in ((verdict.before, before), (verdict.after, after)):
        assert set(standing.voters) == voters
        assert standing.live == len(voters & live)
        if voters:
            assert standing.quorum == len(voters) // 2 + 1
            assert max(standing.tolerates, -1) == tolerated(voters, live)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_removal_and_every_demotion_in_every_cluster_of_up_to_five(size: int) -> None:
    voters = ids(*range(1, size + 1))
    for live in subsets(voters):
        for leaving in subsets_of_at_least_one(voters):
            for staying in subsets(tuple(sorted(leaving))):
                plan = Plan(demote=tuple(sorted(staying)), remove=tuple(sorted(leaving - staying)))
                verdict = judge(health(voters, (), live, live), plan, SEEN)
                left = set(voters) - leaving
                assert verdict.allowed == possible(set(voters), left, live), (live, plan)
                assert set(verdict.after.learners) == staying
                assert bool(verdict.next_step) != verdict.allowed
                check_standing(verdict, set(voters), left, live)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_promotion_and_every_replacement_of_one_or_two(size: int) -> None:
    voters, learners = ids(*range(1, size + 1)), ids(8, 9)
    for live in subsets((*voters, *learners)):
        for caught_up in subsets(tuple(sorted(live & set(learners)))):
            known = health(voters, learners, live, (live & set(voters)) | caught_up)
            for rising in subsets_of_at_least_one(learners):
                for leaving in [each for each in subsets(voters) if len(each) <= 2]:
                    plan = Plan(promote=tuple(sorted(rising)), remove=tuple(sorted(leaving)))
                    after = (set(voters) | rising) - leaving
                    verdict = judge(known, plan, SEEN)
                    assert verdict.allowed == (possible(set(voters), after, live) and rising <= caught_up), (live, plan)
                    assert set(verdict.after.voters) == after
                    assert set(verdict.after.learners) == set(learners) - rising


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_a_joiner_is_a_learner_and_changes_no_quorum(size: int) -> None:
    voters = ids(*range(1, size + 1))
    for live in subsets(voters):
        verdict = judge(health(voters, (), live, live), Plan(add_learners=ids(9)), SEEN)
        assert verdict.allowed == can_lose_and_commit(set(voters), live, 0)
        assert verdict.after.quorum == verdict.before.quorum


def test_tolerates_counts_only_voters_that_have_caught_up() -> None:
    voters = ids(1, 2, 3, 4, 5)
    for live in subsets(voters):
        for caught_up in subsets(tuple(sorted(live))):
            found = judge(health(voters, (), live, caught_up), Plan(), SEEN).before
            expected = max(tolerated(set(voters), caught_up), 0) if can_lose_and_commit(set(voters), live, 0) else -1
            assert max(found.tolerates, -1) == expected
            assert found.caught_up == len(caught_up)


def test_the_last_voter_and_the_next_step() -> None:
    one = health(ids(1), (), set(ids(1)), set(ids(1)))
    removal = judge(one, Plan(remove=ids(1)), SEEN)
    assert "last voter" in removal.reason
    assert "stop the daemon instead" in removal.next_step
    demotion = judge(one, Plan(demote=ids(1)), SEEN)
    assert "no voter" in demotion.reason


def test_without_a_quorum_nothing_can_be_changed() -> None:
    verdict = judge(health(ids(1, 2, 3), (), set(ids(1)), set(ids(1))), Plan(remove=ids(2, 3)), SEEN)
    assert verdict.reason == "1 of 3 voters are live, and a quorum needs 2, so no change can be committed"


def test_warnings() -> None:
    everyone = set(ids(1, 2, 3, 4))
    verdict = judge(health(ids(1, 2, 3), ids(4), everyone, everyone), Plan(promote=ids(4)), SEEN)
    assert verdict.warnings == ("4 voters tolerate no more failures than 3",)
    verdict = judge(health(ids(1, 2, 3), (), everyone, everyone), Plan(demote=ids(3)), SEEN)
    assert verdict.warnings == ("afterwards the cluster tolerates 0 failures", "2 voters tolerate no more failures than 1")


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
