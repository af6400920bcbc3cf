"""Membership changes, by themselves: the arithmetic, and the form in the log."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.raft import (
    Changer,
    ChangeType,
    ConfChange,
    ConfChangeError,
    ConfChangeV2,
    ConfState,
    EntryType,
    Index,
    Membership,
    ReplicaId,
    SingleChange,
    Transition,
    decode_conf_change,
    encode_conf_change,
)
from ravel_node.raft.tracker import ProgressTracker
from tests.raft.support import entry, ids

V, L, R, U = ChangeType.ADD_VOTER, ChangeType.ADD_LEARNER, ChangeType.REMOVE, ChangeType.UPDATE

single_changes = st.builds(SingleChange, st.sampled_from(ChangeType), st.integers(0, 6).map(ReplicaId))
change_lists = st.lists(single_changes, max_size=6)

kinds, transitions, contexts = st.sampled_from(ChangeType), st.sampled_from(Transition), st.binary(max_size=9)
any_ids = st.integers(0, (1 << 64) - 1).map(ReplicaId)
any_changes = st.lists(st.builds(SingleChange, kinds, any_ids)).map(tuple)


def change(kind: ChangeType, replica: int) -> SingleChange:
    return SingleChange(kind, ReplicaId(replica))


def membership(*voters: int, learners: tuple[int, ...] = ()) -> Membership:
    return Membership(frozenset(ids(*voters)), learners=frozenset(ids(*learners)))


class TestSimple:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ([change(V, 4)], "(1 2 3 4)"),
            ([change(R, 3)], "(1 2)"),
            ([change(L, 3)], "(1 2) learners=(3)"),
            ([change(L, 4), change(L, 5)], "(1 2 3) learners=(4 5)"),
            ([change(U, 9), change(V, 0), change(R, 7)], "(1 2 3)"),
            ([change(V, 3), change(V, 3)], "(1 2 3)"),
            ([change(R, 3), change(V, 3)], "(1 2 3)"),
        ],
    )
    def test_at_most_one_voter(self, changes: list[SingleChange], expected: str) -> None:
        """Properties 58 and 61."""
        assert str(Changer(membership(1, 2, 3)).simple(changes).membership) == expected

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ([change(V, 4), change(V, 5)], "more than one voter"),
            ([change(R, 1), change(V, 4)], "more than one voter"),
            ([change(R, 1), change(R, 2), change(R, 3)], "removed all voters"),
            ([change(V, (1 << 64) - 1)], "reserved"),
        ],
    )
    def test_refusals(self, changes: list[SingleChange], problem: str) -> None:
        with pytest.raises(ConfChangeError, match=problem):
            Changer(membership(1, 2, 3)).simple(changes)

    def test_a_learner_is_promoted_and_keeps_its_progress(self) -> None:
        tracker = ProgressTracker(4, 100)
        tracker.adopt(membership(1, learners=(2,)), (), Index(5))
        before = tracker.progress[ReplicaId(2)]
        outcome = Changer(tracker.membership).simple([change(V, 2)])
        tracker.adopt(outcome.membership, outcome.forgotten, Index(9))
        assert tracker.progress[ReplicaId(2)] is before
        assert not before.is_learner

    def test_who_leaves_and_returns_starts_anew(self) -> None:
        tracker = ProgressTracker(4, 100)
        tracker.adopt(membership(1, 2), (), Index(5))
        outcome = Changer(tracker.membership).simple([change(R, 2), change(V, 2)])
        tracker.adopt(outcome.membership, outcome.forgotten, Index(9))
        assert (tracker.progress[ReplicaId(1)].next, tracker.progress[ReplicaId(2)].next) == (5, 9)


class TestJoint:
    def test_in_and_out(self) -> None:
        """Property 58."""
        inside = Changer(membership(1, 2, 3)).enter_joint([change(R, 1), change(V, 4), change(L, 2)], auto_leave=True)
        assert str(inside.membership) == "(3 4)&&(1 2 3) learners_next=(2) auto_leave"
        outside = Changer(inside.membership).leave_joint()
        assert str(outside.membership) == "(3 4) learners=(2)"

    def test_not_twice(self) -> None:
        joint = Changer(membership(1)).enter_joint([change(V, 2)], auto_leave=False).membership
        with pytest.raises(ConfChangeError, match="already joint"):
            Changer(joint).enter_joint([], auto_leave=False)
        with pytest.raises(ConfChangeError, match="in joint config"):
            Changer(joint).simple([change(V, 3)])
        with pytest.raises(ConfChangeError, match="non-joint"):
            Changer(membership(1)).leave_joint()
        with pytest.raises(ConfChangeError, match="zero-voter"):
            Changer(Membership()).enter_joint([], auto_leave=False)

    @pytest.mark.parametrize(
        ("conf_change", "expected"),
        [
            (ConfChange(V, ReplicaId(2)), "(1 2)"),
            (ConfChangeV2((change(V, 2),)), "(1 2)"),
            (ConfChangeV2((change(V, 2), change(V, 3))), "(1 2 3)&&(1) auto_leave"),
            (ConfChangeV2((change(V, 2),), Transition.JOINT_IMPLICIT), "(1 2)&&(1) auto_leave"),
            (ConfChangeV2((change(V, 2),), Transition.JOINT_EXPLICIT), "(1 2)&&(1)"),
        ],
    )
    def test_the_transition_asked_for(self, conf_change: ConfChange | ConfChangeV2, expected: str) -> None:
        assert str(Changer(membership(1)).change(conf_change).membership) == expected

    @given(change_lists, change_lists, st.booleans())
    def test_joint_changes_equal_the_same_one_by_one(
        self,
        setup: list[SingleChange],
        changes: list[SingleChange],
        auto_leave: bool,
    ) -> None:
        """Property 64: whatever a joint change does at once, single changes do too, where they may."""
        start = membership(1)
        for one in setup:
            start = one_by_one(start, one)
        try:
            joint = Changer(start).enter_joint(changes, auto_leave=auto_leave).membership
        except ConfChangeError:
            return
        at_once = Changer(joint).leave_joint().membership
        # A voter beside all others keeps intermediate steps from losing the last voter.
        guard = ReplicaId(100)
        step = one_by_one(start, SingleChange(V, guard))
        for one in changes:
            step = one_by_one(step, one)
        assert at_once == one_by_one(step, SingleChange(R, guard))

    @given(change_lists, change_lists, st.booleans())
    def test_reading_a_membership_back_gives_it_again(
        self,
        first: list[SingleChange],
        second: list[SingleChange],
        joint: bool,
    ) -> None:
        """Property 64: `from_conf_state` is the inverse of `conf_state`, joint or not."""
        try:
            current = Changer(membership(1)).enter_joint(first, auto_leave=True).membership
            current = Changer(current).leave_joint().membership
            if joint:
                current = Changer(current).enter_joint(second, auto_leave=False).membership
        except ConfChangeError:
            return
        assert Membership.from_conf_state(current.conf_state()) == current
        current.checked()

    @given(change_lists, change_lists)
    def test_every_change_leaves_two_majorities_that_meet(
        self,
        setup: list[SingleChange],
        changes: list[SingleChange],
    ) -> None:
        """Thesis 4.1: after a simple change no two majorities, of before and after, are strangers."""
        start = membership(1, 2, 3)
        for one in setup:
            start = one_by_one(start, one)
        try:
            after = Changer(start).simple(changes).membership
        except ConfChangeError:
            return
        assert len(start.voters ^ after.voters) <= 1


def one_by_one(current: Membership, one: SingleChange) -> Membership:
    try:
        return Changer(current).simple([one]).membership
    except ConfChangeError:
        return current


class TestMembership:
    @pytest.mark.parametrize(
        "impossible",
        [
            ConfState(voters=ids(1), learners=ids(1)),
            ConfState(voters=ids(1), voters_outgoing=ids(2), learners=ids(2)),
            ConfState(voters=ids(1), learners_next=ids(2)),
            ConfState(voters=ids(1), voters_outgoing=ids(1), learners_next=ids(1)),
            ConfState(voters=ids(1), auto_leave=True),
            ConfState(learners=ids(1)),
            ConfState(voters=ids(0)),
        ],
    )
    def test_impossible_ones_are_refused(self, impossible: ConfState) -> None:
        with pytest.raises(ConfChangeError):
            Membership.from_conf_state(impossible)

    def test_members_are_visited_in_order(self) -> None:
        tracker = ProgressTracker(4, 100)
        tracker.adopt(membership(3, 1, 2, learners=(9, 4)), (), Index(1))
        assert tracker.ids == (1, 2, 3, 4, 9)
        assert list(tracker.progress) == list(tracker.ids)


class TestForm:
    @given(
        st.builds(ConfChange, kinds, any_ids, contexts) | st.builds(ConfChangeV2, any_changes, transitions, contexts),
    )
    def test_what_is_written_is_read(self, written: ConfChange | ConfChangeV2) -> None:
        kind, data = encode_conf_change(written)
        assert decode_conf_change(entry(1, 1, data, kind)) == written

    def test_the_bytes_are_fixed(self) -> None:
        """They are in logs on disk."""
        assert encode_conf_change(ConfChange(R, ReplicaId(300))) == (EntryType.CONF_CHANGE, bytes.fromhex("100118ac02"))
        changed = ConfChangeV2((change(V, 1), change(L, 2)), Transition.JOINT_EXPLICIT, b"c")
        expected = bytes.fromhex("0802 1204 0800 1001 1204 0803 1002 1a01 63")
        assert encode_conf_change(changed) == (EntryType.CONF_CHANGE_V2, expected)

    def test_nothing_leaves_a_joint_configuration(self) -> None:
        assert decode_conf_change(entry(1, 1, b"", EntryType.CONF_CHANGE_V2)) == ConfChangeV2()

    @given(st.sampled_from(EntryType), st.binary(max_size=40))
    def test_garbage_is_refused(self, kind: EntryType, data: bytes) -> None:
        """Whatever a peer proposes, reading it ends in a change or in a refusal."""
        try:
            decoded = decode_conf_change(entry(1, 1, data, kind))
        except ConfChangeError:
            return
        assert replace(decoded) == decoded
