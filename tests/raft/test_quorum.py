"""Committed indexes and votes, against a count by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.raft import NO_LIMIT, Index, JointConfig, MajorityConfig, ReplicaId, VoteResult

replica_ids = st.integers(1, 9).map(ReplicaId)
voter_sets = st.frozensets(replica_ids, max_size=7)
matches = st.dictionaries(replica_ids, st.integers(1, 20).map(Index))
answers = st.dictionaries(replica_ids, st.booleans())


def majority(*voters: int) -> MajorityConfig:
    return MajorityConfig(frozenset(map(ReplicaId, voters)))


def indexes(**matched: int) -> dict[ReplicaId, Index]:
    return {ReplicaId(int(name[1:])): Index(index) for name, index in matched.items()}


@pytest.mark.parametrize(
    ("matched", "committed"),
    [
        (indexes(), 0),
        (indexes(r1=5), 0),
        (indexes(r1=5, r2=3), 3),
        (indexes(r1=5, r2=3, r3=4), 4),
        (indexes(r1=5, r2=5, r3=5), 5),
        (indexes(r1=5, r7=9, r8=9), 0),
    ],
)
def test_majority_of_three_commits_the_middle_one(matched: dict[ReplicaId, Index], committed: int) -> None:
    assert majority(1, 2, 3).committed_index(matched) == committed


def test_four_voters_need_three() -> None:
    assert majority(1, 2, 3, 4).committed_index(indexes(r1=9, r2=9)) == 0
    assert majority(1, 2, 3, 4).committed_index(indexes(r1=9, r2=9, r3=2)) == 2


def test_nobody_agrees_with_anything() -> None:
    assert majority().committed_index({}) == NO_LIMIT
    assert majority().vote_result({}) is VoteResult.WON
    assert JointConfig().committed_index({}) == NO_LIMIT


def test_votes_of_three() -> None:
    three = majority(1, 2, 3)
    yes, no = {ReplicaId(1): True}, {ReplicaId(1): False}
    assert three.vote_result({}) is VoteResult.PENDING
    assert three.vote_result(yes) is VoteResult.PENDING
    assert three.vote_result(yes | {ReplicaId(2): True}) is VoteResult.WON
    assert three.vote_result(yes | {ReplicaId(2): False}) is VoteResult.PENDING
    assert three.vote_result(no | {ReplicaId(2): False}) is VoteResult.LOST


def test_half_of_an_even_number_is_lost_when_it_refuses() -> None:
    votes = {ReplicaId(1): True, ReplicaId(2): True, ReplicaId(3): False, ReplicaId(4): False}
    assert majority(1, 2, 3, 4).vote_result(votes) is VoteResult.LOST


def test_both_halves_decide() -> None:
    joint = JointConfig(majority(1, 2, 3), majority(3, 4, 5))
    assert joint.committed_index(indexes(r1=9, r2=9, r3=9)) == 0
    assert joint.committed_index(indexes(r1=9, r2=9, r3=9, r4=4)) == 4
    won_first = {ReplicaId(1): True, ReplicaId(2): True}
    assert joint.vote_result(won_first) is VoteResult.PENDING
    lost_second = won_first | {ReplicaId(4): False, ReplicaId(5): False}
    assert joint.vote_result(lost_second) is VoteResult.LOST
    assert joint.vote_result(won_first | {ReplicaId(3): True, ReplicaId(5): True}) is VoteResult.WON


@given(voter_sets, matches)
def test_committed_index_is_the_highest_that_a_majority_has(
    voters: frozenset[ReplicaId],
    matched: dict[ReplicaId, Index],
) -> None:
    candidates = [index for voter, index in matched.items() if voter in voters]
    by_hand = max(
        (index for index in candidates if 2 * sum(matched.get(voter, 0) >= index for voter in voters) > len(voters)),
        default=NO_LIMIT if not voters else 0,
    )
    assert MajorityConfig(voters).committed_index(matched) == by_hand


@given(voter_sets, voter_sets, matches)
def test_the_order_of_the_halves_does_not_matter(
    first: frozenset[ReplicaId],
    second: frozenset[ReplicaId],
    matched: dict[ReplicaId, Index],
) -> None:
    one = JointConfig(MajorityConfig(first), MajorityConfig(second))
    other = JointConfig(MajorityConfig(second), MajorityConfig(first))
    assert one.committed_index(matched) == other.committed_index(matched)
    alone = JointConfig(MajorityConfig(first))
    assert alone.committed_index(matched) == MajorityConfig(first).committed_index(matched)


@given(voter_sets, answers, replica_ids, st.booleans())
def test_a_decision_stands(
    voters: frozenset[ReplicaId],
    votes: dict[ReplicaId, bool],
    late: ReplicaId,
    answer: bool,
) -> None:
    config = MajorityConfig(voters)
    before = config.vote_result(votes)
    after = config.vote_result({late: answer} | votes)
    assert before is VoteResult.PENDING or before is after
