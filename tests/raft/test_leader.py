"""What a leader does: proposals, flow control, snapshots, membership, reads, transfer, with property numbers."""

from __future__ import annotations

from typing import Any

import pytest

from ravel_node.raft import (
    NO_LIMIT,
    ChangeType,
    ConfChange,
    ConfChangeIgnored,
    ConfChangeV2,
    Entry,
    EntryType,
    HardState,
    Index,
    MessageType,
    ProgressState,
    ProgressStatus,
    ProposalDroppedError,
    ReadOnlyOption,
    ReplicaId,
    RequestDropped,
    Role,
    SafetyEvent,
    SingleChange,
    Snapshot,
    SnapshotOutdated,
    SnapshotTemporarilyUnavailableError,
    Term,
    Transition,
    entry_size,
)
from ravel_node.raft.confchange import encode_conf_change
from ravel_node.raft.limits import READS_PENDING_MAX
from tests.raft.support import (
    FOUR,
    ONE,
    THREE,
    TWO,
    Replica,
    acknowledge,
    conf,
    elected,
    entries,
    entry,
    message,
    of_type,
    replica,
    settled_leader,
)

APPEND, HEARTBEAT, SNAPSHOT = MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT


def add(replica_id: int) -> ConfChange:
    return ConfChange(ChangeType.ADD_VOTER, ReplicaId(replica_id))


def remove(replica_id: int) -> ConfChange:
    return ConfChange(ChangeType.REMOVE, ReplicaId(replica_id))


def learner(replica_id: int) -> ConfChange:
    return ConfChange(ChangeType.ADD_LEARNER, ReplicaId(replica_id))


def beat_answer(one: Replica, peer: int, **fields: Any) -> list[Any]:
    one.step(message(MessageType.HEARTBEAT_RESPONSE, from_=peer, term=one.raw.term, **fields))
    return one.settle()


def progress(one: Replica, peer: int) -> ProgressStatus:
    return one.status.progress[ReplicaId(peer)]


class TestProposals:
    def test_many_go_in_one_append(self) -> None:
        one = settled_leader()
        names = one.raw.propose_many([b"a", b"b", b"c"])
        assert names == [(1, 2), (1, 3), (1, 4)]
        sent = of_type(one.settle(), APPEND, to=TWO)
        assert [[new.data for new in append.entries] for append in sent] == [[b"a", b"b", b"c"]]

    def test_nothing_is_no_proposal(self) -> None:
        with pytest.raises(ProposalDroppedError):
            settled_leader().raw.propose_many([])

    def test_a_forwarded_one_is_taken(self) -> None:
        one = settled_leader()
        one.step(message(MessageType.PROPOSE, from_=TWO, entries=(entry(0, 0, b"x"),)))
        assert one.log[-1] == Entry(Term(1), Index(2), EntryType.NORMAL, b"x")

    def test_uncommitted_payload_is_bounded(self) -> None:
        """Property 49."""
        one = settled_leader(uncommitted_bytes_max=8)
        one.raw.propose(b"x" * 20)  # what comes first passes
        with pytest.raises(ProposalDroppedError):
            one.raw.propose(b"y")
        assert one.raw.uncommitted_bytes == 20
        one.raw.propose(b"")  # what takes no room passes
        acknowledge(one, 2)
        assert one.raw.uncommitted_bytes == 0
        one.raw.propose_many([b"1234", b"5678"])
        with pytest.raises(ProposalDroppedError):
            one.raw.propose_many([b"", b"9"])
        assert one.raw.last_index == 5, "all or none"

    def test_a_new_term_begins_with_a_free_quota(self) -> None:
        one = settled_leader(uncommitted_bytes_max=8)
        one.raw.propose(b"x" * 20)
        one.step(message(HEARTBEAT, from_=TWO, term=Term(2)))
        assert one.raw.uncommitted_bytes == 0


class TestFlowControl:
    def test_a_probe_sends_one_append(self) -> None:
        """Property 40."""
        one = elected()
        one.raw.propose(b"x")
        assert one.settle() == []
        assert progress(one, 2).paused
        assert [append.index for append in of_type(beat_answer(one, 2), APPEND, to=TWO)] == [0]
        assert beat_answer(one, 3)
        assert progress(one, 2).paused

    def test_a_full_window_lets_one_empty_append_through(self) -> None:
        """Property 43."""
        one = settled_leader(inflight_messages_max=2)
        for data in (b"a", b"b", b"c"):
            one.raw.propose(data)
        assert len(of_type(one.settle(), APPEND, to=TWO)) == 2
        assert progress(one, 2).inflight_full
        (append,) = of_type(beat_answer(one, 2), APPEND)
        assert append.entries == ()
        sent = of_type(acknowledge(one, 2, index=2), APPEND, to=TWO)
        assert [[new.data for new in append.entries] for append in sent if append.entries] == [[b"c"]]

    def test_the_window_counts_bytes(self) -> None:
        """Property 43."""
        one = settled_leader(message_bytes_max=0, inflight_bytes_max=10)
        for _ in range(4):
            one.raw.propose(b"x" * 6)
        assert len(of_type(one.settle(), APPEND, to=TWO)) == 2
        assert (progress(one, 2).inflight_bytes, progress(one, 2).inflight_full) == (12, True)

    def test_an_append_is_limited_in_bytes(self) -> None:
        """Property 48."""
        size = entry_size(entry(1, 1, b"xxxx"))
        one = settled_leader(message_bytes_max=2 * size)
        one.raw.report_unreachable(TWO)
        for _ in range(5):
            one.raw.propose(b"xxxx")
        one.settle()
        lengths: list[int] = []
        while sent := [append for append in of_type(acknowledge_next(one, lengths), APPEND, to=TWO) if append.entries]:
            lengths += [len(append.entries) for append in sent]
        assert max(lengths) == 2

    def test_an_unreachable_peer_is_probed_again(self) -> None:
        """Property 45."""
        one = settled_leader()
        one.raw.propose(b"x")
        one.settle()
        assert progress(one, 2).next == 3
        one.raw.report_unreachable(TWO)
        assert (progress(one, 2).state, progress(one, 2).next) == (ProgressState.PROBE, 2)

    def test_a_heartbeat_answer_of_a_peer_that_has_everything_sends_nothing(self) -> None:
        """Property 46."""
        one = settled_leader()
        assert beat_answer(one, 2) == []

    def test_answers_in_any_order_do_no_harm(self) -> None:
        """Property 28."""
        one = settled_leader()
        one.raw.propose_many([b"a", b"b"])
        one.settle()
        for index in (3, 2, 3, 2, 1, 0):
            acknowledge(one, 2, index=index)
        refusal = message(MessageType.APPEND_RESPONSE, from_=TWO, term=Term(1), index=Index(2), reject=True)
        one.step(refusal)
        assert (progress(one, 2).match, progress(one, 2).state, one.raw.commit) == (3, ProgressState.REPLICATE, 3)

    @pytest.mark.parametrize("index", [2, NO_LIMIT])
    def test_nobody_acknowledges_what_was_never_sent(self, index: int) -> None:
        one = settled_leader()
        acknowledge(one, 2, 3, index=index)
        one.events += one.raw.take_events()
        assert len([event for event in one.events if isinstance(event, SafetyEvent)]) == 2
        assert (progress(one, 2).match, one.raw.commit) == (1, 1)


def acknowledge_next(one: Replica, lengths: list[int]) -> list[Any]:
    if not lengths:
        return beat_answer(one, 2)
    return acknowledge(one, 2, index=1 + sum(lengths))


class TestLostLogs:
    def test_what_a_lost_log_had_acknowledged_does_not_count(self) -> None:
        one = settled_leader()
        one.raw.propose(b"x")
        one.settle()
        acknowledge(one, 2, index=1)
        one.raw.report_lost_log(TWO)
        assert progress(one, 2).match == 0
        one.raw.propose_conf_change(remove(3))
        acknowledge(one, 3)
        assert one.raw.commit == 3, "replicas 1 and 3 are a quorum of three"
        one.raw.propose(b"y")
        one.settle()
        assert one.raw.commit == 3, "replica 2, without its log, is not one of the two that are left"
        acknowledge(one, 2)
        assert one.raw.commit == 4

    def test_nobody_loses_the_leaders_own_log(self) -> None:
        one = settled_leader()
        one.raw.report_lost_log(ONE)
        one.raw.report_lost_log(ReplicaId(9))
        assert progress(one, 1).match == 1


class TestSnapshots:
    def compacted(self, **options: Any) -> Replica:
        """A leader whose peer 3 lacks what is compacted."""
        one = settled_leader(**options)
        one.raw.report_unreachable(THREE)
        one.raw.propose_many([b"a", b"b"])
        acknowledge(one, 2)
        one.snapshot_and_compact(Index(3))
        one.settle()
        return one

    def test_a_peer_whose_next_entry_is_gone_gets_one(self) -> None:
        """Property 50."""
        one = self.compacted()
        (sent,) = of_type(beat_answer(one, 3), SNAPSHOT)
        assert sent.snapshot == one.storage.snapshot()
        assert (progress(one, 3).state, progress(one, 3).pending_snapshot) == (ProgressState.SNAPSHOT, 3)
        one.raw.propose(b"c")
        assert of_type(one.settle(), APPEND, to=THREE) == [], "property 42"

    def test_a_silent_peer_gets_none(self) -> None:
        """Property 50."""
        one = self.compacted()
        one.raft.tracker.progress[THREE].recent_active = False
        one.raft.tracker.progress[THREE].resume()
        one.raw.propose(b"c")
        assert of_type(one.settle(), SNAPSHOT) == []

    @pytest.mark.parametrize(("delivered", "following"), [(True, 4), (False, 2)])
    def test_reports_end_the_wait_at_the_next_sign_of_life(self, delivered: bool, following: int) -> None:
        """Property 51."""
        one = self.compacted()
        beat_answer(one, 3)
        one.raw.report_snapshot(THREE, delivered)
        assert one.settle() == []
        state = progress(one, 3)
        assert (state.state, state.next, state.paused) == (ProgressState.PROBE, following, True)
        assert {sent.type for sent in beat_answer(one, 3)} == {APPEND if delivered else SNAPSHOT}

    def test_any_answer_that_reaches_the_log_ends_it(self) -> None:
        """Property 52."""
        one = self.compacted()
        beat_answer(one, 3)
        assert of_type(acknowledge(one, 3, index=2), SNAPSHOT) == [], "the one that is under way is waited for"
        assert progress(one, 3).state is ProgressState.SNAPSHOT
        acknowledge(one, 3, index=3)
        assert progress(one, 3).state is ProgressState.REPLICATE

    def test_none_ready_yet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = self.compacted()

        def unavailable() -> Snapshot:
            raise SnapshotTemporarilyUnavailableError

        monkeypatch.setattr(one.storage, "snapshot", unavailable)
        assert beat_answer(one, 3) == []
        monkeypatch.undo()
        assert of_type(beat_answer(one, 3), SNAPSHOT)

    def test_one_from_before_the_peer_joined_is_not_sent(self) -> None:
        """The peer would refuse it (property 54), be probed, and be sent it again, for ever."""
        one = settled_leader()
        one.snapshot_and_compact(Index(1))
        one.raw.propose_conf_change(add(4))
        acknowledge(one, 2, 3)
        refusal = message(MessageType.APPEND_RESPONSE, from_=FOUR, term=Term(1), index=Index(1), reject=True)
        one.step(refusal)
        assert of_type(one.settle(), SNAPSHOT) == []
        assert SnapshotOutdated(FOUR, Index(1)) in one.events
        one.snapshot_and_compact(Index(0))
        assert len(of_type(beat_answer(one, 4), SNAPSHOT)) == 1


class TestMembership:
    def test_one_change_at_a_time(self) -> None:
        """Property 56: a later one becomes an empty entry until the first is applied."""
        one = settled_leader()
        one.raw.propose_conf_change(add(4))
        one.raw.propose_conf_change(add(5))
        one.settle()
        assert [new.type for new in one.log[1:]] == [EntryType.CONF_CHANGE, EntryType.NORMAL]
        assert any(isinstance(event, ConfChangeIgnored) and event.index == 3 for event in one.events)
        acknowledge(one, 2, 3)
        assert one.raw.conf_change_refusal(add(5)) == ""
        one.raw.propose_conf_change(add(5))
        assert one.log[-1].type is EntryType.CONF_CHANGE

    def test_of_two_changes_in_one_proposal_the_second_is_not_appended(self) -> None:
        one = settled_leader()
        kind, data = encode_conf_change(add(4))
        _, other = encode_conf_change(add(5))
        two = (entry(0, 0, data, kind), entry(0, 0, other, kind))
        one.step(message(MessageType.PROPOSE, from_=TWO, entries=two))
        one.settle()
        assert [(found.type, found.data) for found in one.log[-2:]] == [(kind, data), (EntryType.NORMAL, b"")]
        assert [event.index for event in one.events if isinstance(event, ConfChangeIgnored)] == [one.log[-1].index]

    def test_after_an_election_everything_inherited_may_hold_one(self) -> None:
        """Property 56."""
        one = elected(log=entries(1, 1), hard_state=HardState(Term(1), commit=Index(0)))
        assert one.raw.conf_change_refusal(add(4))
        acknowledge(one, 2)
        assert one.raw.conf_change_refusal(add(4)) == ""

    def test_it_takes_effect_when_applied(self) -> None:
        """Property 57."""
        one = settled_leader()
        one.raw.propose_conf_change(add(4))
        one.settle()
        assert one.status.membership == conf(1, 2, 3)
        acknowledge(one, 2)
        assert one.status.membership == conf(1, 2, 3, 4)
        assert one.machine.conf_state == conf(1, 2, 3, 4)

    def test_removing_a_peer_can_commit_what_waits(self) -> None:
        """Property 39."""
        one = settled_leader(1, (1, 2))
        one.raw.propose_conf_change(remove(2))
        one.raw.propose(b"x")
        one.settle()
        acknowledge(one, 2, index=2)
        assert (one.raw.commit, one.machine.applied) == (3, 3)
        assert one.status.membership == conf(1)

    def test_a_read_that_nobody_is_left_to_prove_is_released(self) -> None:
        one = settled_leader(1, (1, 2))
        one.raw.propose_conf_change(remove(2))
        one.settle()
        one.raw.read_index(b"r")
        acknowledge(one, 2, index=2)
        assert [read[:2] for read in one.reads] == [(1, b"r")]

    @pytest.mark.parametrize(
        "impossible",
        [
            ConfChangeV2(tuple(SingleChange(ChangeType.REMOVE, ReplicaId(each)) for each in (1, 2, 3))),
            ConfChangeV2(),
            ConfChange(ChangeType.ADD_VOTER, ReplicaId(NO_LIMIT)),
        ],
    )
    def test_what_cannot_be_is_not_appended(self, impossible: ConfChange | ConfChangeV2) -> None:
        """Property 61: the last voter cannot be removed. Were it in the log, no replica could apply it, ever."""
        one = settled_leader()
        one.raw.propose_conf_change(impossible)
        assert one.log[-1] == Entry(Term(1), Index(2))

    def test_garbage_that_a_peer_forwards_is_not_appended(self) -> None:
        one = settled_leader()
        garbage = (entry(0, 0, b"\xff", EntryType.CONF_CHANGE), entry(0, 0, b"\xff", EntryType.CONF_CHANGE_V2))
        one.step(message(MessageType.PROPOSE, from_=TWO, entries=garbage))
        assert one.log[-2:] == [Entry(Term(1), Index(2)), Entry(Term(1), Index(3))]

    def test_without_validation_what_cannot_be_is_passed_over_when_applied(self) -> None:
        one = settled_leader(1, (1,), conf_change_validation=False)
        one.raw.propose_conf_change(remove(1))
        one.settle()
        assert (one.machine.applied, one.status.membership) == (2, conf(1))
        assert any(isinstance(event, ConfChangeIgnored) for event in one.events)

    def test_auto_leave_happens_once(self) -> None:
        """Property 59."""
        one = settled_leader()
        changes = (SingleChange(ChangeType.ADD_LEARNER, THREE),)
        one.raw.propose_conf_change(ConfChangeV2(changes, Transition.JOINT_IMPLICIT))
        acknowledge(one, 2)
        assert one.status.membership.auto_leave
        assert [new.type for new in one.log[1:]] == [EntryType.CONF_CHANGE_V2] * 2
        one.raw.propose(b"x")
        one.settle()
        acknowledge(one, 2)
        assert one.status.membership == conf(1, 2, learners=[3])
        assert [new.type for new in one.log[1:]].count(EntryType.CONF_CHANGE_V2) == 2

    def test_auto_leave_waits_for_a_transfer_to_end(self) -> None:
        """Property 59."""
        one = settled_leader()
        changes = (SingleChange(ChangeType.ADD_LEARNER, THREE),)
        one.raw.propose_conf_change(ConfChangeV2(changes, Transition.JOINT_IMPLICIT))
        one.raw.propose(b"x")
        one.settle()
        one.raw.transfer_leader(THREE)
        acknowledge(one, 2, index=2)
        assert (one.status.membership.auto_leave, one.raw.last_index) == (True, 3)
        one.tick(10)
        acknowledge(one, 2)
        assert (one.log[-1].type, one.raw.last_index) == (EntryType.CONF_CHANGE_V2, 4)

    def test_a_new_peer_does_not_cost_the_quorum(self) -> None:
        """Property 60."""
        one = settled_leader(1, (1,), check_quorum=True)
        one.raw.propose_conf_change(add(2))
        one.settle()
        one.tick(10)
        assert one.raw.is_leader

    @pytest.mark.parametrize("gone", [remove(1), learner(1)])
    @pytest.mark.parametrize("step_down", [True, False])
    def test_a_leader_that_is_no_voter_any_more(self, gone: ConfChange, step_down: bool) -> None:
        """Property 62."""
        one = settled_leader(step_down_on_removal=step_down)
        one.raw.propose_conf_change(gone)
        acknowledge(one, 2, 3)
        assert one.raw.role is (Role.FOLLOWER if step_down else Role.LEADER)
        if gone.type is ChangeType.REMOVE:
            with pytest.raises(ProposalDroppedError):
                one.raw.propose(b"x")

    def test_no_campaign_with_a_change_to_apply(self) -> None:
        """Property 17."""
        change = Entry(Term(1), Index(2), EntryType.CONF_CHANGE, b"\x10\x00\x18\x04")
        one = replica(
            log=[*entries(1), change],
            hard_state=HardState(Term(1), commit=Index(2)),
            async_storage_writes=True,
        )
        one.raw.campaign()
        assert one.raw.term == 1
        one.settle()
        one.raw.campaign()
        assert one.raw.term == 2


class TestReads:
    def test_lease_reads_are_answered_at_once(self) -> None:
        """Property 72."""
        one = settled_leader(check_quorum=True, read_only=ReadOnlyOption.LEASE_BASED)
        one.raw.read_index(b"r")
        assert one.settle() == []
        assert [read[:2] for read in one.reads] == [(1, b"r")]

    def test_a_followers_read_is_answered_to_it(self) -> None:
        """Property 73."""
        one = settled_leader()
        request = (entry(0, 0, b"r"),)
        one.step(message(MessageType.READ_INDEX, from_=THREE, entries=request))
        beat = of_type(one.settle(), HEARTBEAT)[0]
        (answer,) = beat_answer(one, 2, context=beat.context)
        assert (answer.type, answer.to, answer.index, answer.entries) == (
            MessageType.READ_INDEX_RESPONSE,
            THREE,
            1,
            request,
        )

    def test_every_heartbeat_asks_again(self) -> None:
        one = settled_leader()
        one.raw.read_index(b"r")
        one.settle()
        one.tick()
        beat = of_type(one.settle(), HEARTBEAT)[0]
        beat_answer(one, 2, context=beat.context)
        assert [read[:2] for read in one.reads] == [(1, b"r")]

    def test_reads_end_with_the_term(self) -> None:
        """Property 71."""
        one = settled_leader()
        one.raw.read_index(b"r")
        beat = of_type(one.settle(), HEARTBEAT)[0]
        one.step(message(HEARTBEAT, from_=TWO, term=Term(2)))
        one.step(message(MessageType.HEARTBEAT_RESPONSE, from_=TWO, term=Term(1), context=beat.context))
        one.settle()
        assert (one.reads, one.status.pending_reads) == ([], 0)

    def test_early_reads_end_with_the_term_too(self) -> None:
        """Nobody waits any more for a read that was asked before the leader lost its term."""
        one = elected()
        one.raw.read_index(b"early")
        one.step(message(HEARTBEAT, from_=TWO, term=Term(2)))
        one.settle()
        one.raw.campaign()
        one.settle()
        one.step(message(MessageType.VOTE_RESPONSE, from_=TWO, term=one.raw.term))
        assert one.raw.is_leader
        acknowledge(one, 2)
        assert one.raw.committed_in_term
        assert (one.reads, one.status.pending_reads) == ([], 0)

    def test_the_early_reads_that_wait_are_bounded(self) -> None:
        one = elected()
        for number in range(READS_PENDING_MAX + 2):
            one.raw.read_index(b"%d" % number)
        one.settle()
        dropped = [event for event in one.events if isinstance(event, RequestDropped)]
        assert len(dropped) == 2
        assert len(one.raft.early_reads) == READS_PENDING_MAX

    @pytest.mark.parametrize("count", [0, 2])
    def test_a_request_holds_one_read(self, count: int) -> None:
        one = settled_leader()
        one.step(message(MessageType.READ_INDEX, from_=TWO, entries=(entry(0, 0, b"r"),) * count))
        assert one.settle() == []


class TestTransfer:
    @pytest.mark.parametrize(
        ("target", "reason"),
        [(ONE, "leads already"), (FOUR, "learner"), (ReplicaId(9), "no member")],
    )
    def test_some_cannot_lead(self, target: ReplicaId, reason: str) -> None:
        """Property 67."""
        one = settled_leader(learners=(4,))
        one.raw.transfer_leader(target)
        one.settle()
        assert not one.raw.in_transfer
        assert reason in str(one.events[-1])

    def test_a_slow_target_catches_up_first(self) -> None:
        """Property 65."""
        one = settled_leader()
        one.raw.propose(b"x")
        one.settle()
        one.raw.transfer_leader(TWO)
        assert of_type(one.settle(), MessageType.TIMEOUT_NOW) == []
        assert len(of_type(acknowledge(one, 2), MessageType.TIMEOUT_NOW, to=TWO)) == 1

    def test_a_second_request(self) -> None:
        """Property 66: the same target gains no time, another one takes its place."""
        one = settled_leader()
        one.raw.propose(b"x")
        one.settle()
        one.raw.transfer_leader(TWO)
        one.tick(6)
        one.raw.transfer_leader(TWO)
        one.tick(4)
        assert not one.raw.in_transfer
        one.raw.transfer_leader(TWO)
        one.raw.transfer_leader(THREE)
        assert one.status.transferee == THREE

    def test_it_has_an_election_timeout_from_its_own_beginning(self) -> None:
        """Property 66."""
        one = settled_leader()
        one.tick(9)
        one.raw.transfer_leader(TWO)
        one.tick(9)
        assert one.raw.in_transfer
        one.tick()
        assert not one.raw.in_transfer

    @pytest.mark.parametrize("gone", [remove(3), learner(3)])
    def test_it_ends_when_the_target_is_no_voter_any_more(self, gone: ConfChange) -> None:
        """Property 67."""
        one = settled_leader()
        one.raw.propose_conf_change(gone)
        one.settle()
        one.raw.transfer_leader(THREE)
        acknowledge(one, 2)
        assert not one.raw.in_transfer
