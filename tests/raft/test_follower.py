"""What a follower does with appends, heartbeats, snapshots and requests. Property numbers in docstrings."""

from __future__ import annotations

import pytest

from ravel_node.raft import (
    NO_LIMIT,
    NO_REPLICA,
    ChangeType,
    ConfChange,
    ConfState,
    DivergedError,
    Entry,
    EntryType,
    HardState,
    Index,
    MessageType,
    ProposalDroppedError,
    ReadOnlyOption,
    RequestDropped,
    SafetyEvent,
    Snapshot,
    SnapshotIgnored,
    Term,
    encode_conf_change,
)
from tests.raft.support import ONE, THREE, TWO, Replica, conf, entries, entry, ids, message, replica

APPEND, HEARTBEAT, SNAPSHOT = MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT


def follower(*terms: int, commit: int = 0, **options: object) -> Replica:
    """Replica 1 with a log of these terms, following replica 2 in term 5."""
    one = replica(log=entries(*terms), hard_state=HardState(Term(5), commit=Index(commit)), **options)  # type: ignore[arg-type]
    one.step(message(HEARTBEAT, from_=TWO, term=Term(5)))
    one.settle()
    one.events.clear()
    return one


def alarms(one: Replica) -> list[SafetyEvent]:
    one.events += one.raw.take_events()
    return [event for event in one.events if isinstance(event, SafetyEvent)]


class TestAppend:
    def test_below_commit_is_answered_with_commit(self) -> None:
        """Property 25."""
        one = follower(1, 1, 1, commit=3)
        one.step(message(APPEND, from_=TWO, term=Term(5), index=Index(1), log_term=Term(1), entries=tuple(entries(1, first=2))))
        (answer,) = one.settle()
        assert (answer.reject, answer.index) == (False, 3)
        assert len(one.log) == 3

    @pytest.mark.parametrize(
        ("log_term", "new"),
        [
            (2, ()),  # the entry before them is another one
            (1, tuple(entries(2, first=2))),
            (1, tuple(entries(1, 3, first=2))),
            (1, tuple(entries(1, 4, 4, first=2))),  # some of them lie beyond the commit index
        ],
    )
    def test_a_leader_that_has_other_entries_where_this_log_is_committed_stops_the_replica(
        self, log_term: int, new: tuple[Entry, ...]
    ) -> None:
        one = follower(1, 1, 1, commit=3)
        with pytest.raises(DivergedError, match=r"committed here in term 1.*replica 2, which leads term 5"):
            one.step(message(APPEND, from_=TWO, term=Term(5), index=Index(1), log_term=Term(log_term), entries=new))
        assert len(one.log) == 3

    def test_what_is_compacted_cannot_be_compared(self) -> None:
        one = follower(1, 1, 1, commit=3)
        one.settle()
        one.snapshot_and_compact(Index(3))
        one.step(message(APPEND, from_=TWO, term=Term(5), index=Index(1), log_term=Term(9)))
        (answer,) = one.settle()
        assert (answer.reject, answer.index) == (False, 3)

    def test_entries_that_no_leader_can_send_are_reported_before_they_are_compared(self) -> None:
        one = follower(1, 1, 1, commit=3)
        one.step(message(APPEND, from_=TWO, term=Term(5), index=Index(1), log_term=Term(1), entries=tuple(entries(9, first=2))))
        assert one.settle() == []
        assert any(isinstance(event, SafetyEvent) for event in one.events)

    def test_a_refusal_names_the_last_possible_match(self) -> None:
        """Property 27: the follower skips its own terms above the one asked for."""
        one = follower(1, 1, 3, 3, 3)
        one.step(message(APPEND, from_=TWO, term=Term(5), index=Index(4), log_term=Term(2)))
        (answer,) = one.settle()
        assert (answer.reject, answer.index, answer.reject_hint, answer.log_term) == (True, 4, 2, 1)

    @pytest.mark.parametrize(
        "new",
        [
            (entry(1, 4),),  # a gap
            (entry(1, 2),),  # at a place that is committed
            (entry(1, 3), entry(1, 3)),
            (entry(0, 3),),  # a term that falls
            (entry(6, 3),),  # a term that has not begun
            (entry(1, NO_LIMIT),),
        ],
    )
    def test_impossible_entries_raise_the_alarm(self, new: tuple[Entry, ...]) -> None:
        """Property 29, from outside: a peer cannot make us replace what is committed, nor stop us by trying."""
        one = follower(1, 1, commit=2)
        one.step(message(APPEND, from_=TWO, term=Term(5), index=Index(2), log_term=Term(1), entries=new))
        assert one.settle() == []
        assert len(alarms(one)) == 1
        assert [found.term for found in one.log] == [1, 1]

    def test_a_second_leader_of_the_term_is_not_followed(self) -> None:
        one = follower(1)
        for kind in (APPEND, HEARTBEAT, SNAPSHOT):
            one.step(message(kind, from_=THREE, term=Term(5)))
        assert one.settle() == []
        assert len(alarms(one)) == 3
        assert one.raw.leader == TWO

    def test_nobody_leads_term_zero(self) -> None:
        one = replica()
        one.step(message(APPEND, from_=TWO, entries=tuple(entries(1))))
        assert one.settle() == []
        assert len(alarms(one)) == 1
        assert one.raw.leader == NO_REPLICA


class TestHeartbeat:
    def test_it_commits_and_its_context_comes_back(self) -> None:
        """Property 37."""
        one = follower(1, 1, 1)
        one.step(message(HEARTBEAT, from_=TWO, term=Term(5), commit=Index(2), context=b"c"))
        (answer,) = one.settle()
        assert (answer.type, answer.context, one.raw.commit) == (MessageType.HEARTBEAT_RESPONSE, b"c", 2)
        one.step(message(HEARTBEAT, from_=TWO, term=Term(5), commit=Index(1)))
        assert one.raw.commit == 2

    def test_a_commit_beyond_the_log_raises_the_alarm(self) -> None:
        """The leader tells of what we acknowledged: part of our log was lost, and we must not claim to have it."""
        one = follower(1, 1)
        one.step(message(HEARTBEAT, from_=TWO, term=Term(5), commit=Index(3)))
        assert one.settle() == []
        assert len(alarms(one)) == 1
        assert one.raw.commit == 0


class TestSnapshot:
    def send(self, one: Replica, snapshot: Snapshot | None) -> list[tuple[MessageType, int]]:
        one.step(message(SNAPSHOT, from_=TWO, term=Term(5), snapshot=snapshot))
        return [(answer.type, answer.index) for answer in one.settle()]

    def test_it_replaces_log_and_membership(self) -> None:
        """Property 53."""
        one = follower(1, 1)
        acknowledged = self.send(one, Snapshot(Index(9), Term(4), conf(1, 2, learners=[3]), b"state"))
        assert acknowledged == [(MessageType.APPEND_RESPONSE, 9)]
        assert (one.log, one.raw.commit, one.raw.applied, one.raw.last_index) == ([], 9, 9, 9)
        assert one.status.membership == conf(1, 2, learners=[3])
        assert (one.machine.state, one.storage.last_index()) == (b"state", 9)

    @pytest.mark.parametrize("index", [1, 2])
    def test_an_old_one_is_answered_with_commit(self, index: int) -> None:
        """Property 53."""
        one = follower(1, 1, 1, commit=2)
        assert self.send(one, Snapshot(Index(index), Term(1), conf(1, 2))) == [(MessageType.APPEND_RESPONSE, 2)]
        assert len(one.log) == 3

    def test_one_that_the_log_holds_only_commits(self) -> None:
        """Property 53."""
        one = follower(1, 1, 1)
        assert self.send(one, Snapshot(Index(2), Term(1), conf(1, 2))) == [(MessageType.APPEND_RESPONSE, 2)]
        assert (len(one.log), one.raw.commit, one.status.membership) == (3, 2, conf(1, 2, 3))

    @pytest.mark.parametrize("members", [conf(2, 3), conf(2, learners=[3])])
    def test_one_that_does_not_know_us_is_refused(self, members: ConfState) -> None:
        """Property 54: a replica outside of the snapshot's membership does not take it."""
        one = follower(1)
        assert self.send(one, Snapshot(Index(9), Term(4), members)) == [(MessageType.APPEND_RESPONSE, 0)]
        assert len(one.log) == 1
        assert any(isinstance(event, SnapshotIgnored) for event in one.events)

    @pytest.mark.parametrize(
        ("membership", "is_learner"),
        [
            (ConfState(voters=ids(1, 2)), False),
            (ConfState(voters=ids(2), learners=ids(1)), True),  # a voter becomes a learner
            (ConfState(voters=ids(2, 3), voters_outgoing=ids(1, 2)), False),  # an outgoing voter
            (ConfState(voters=ids(2, 3), voters_outgoing=ids(1, 2), learners_next=ids(1)), False),
            (ConfState(voters=ids(2, 3), voters_outgoing=ids(2), learners=ids(1), auto_leave=True), True),
        ],
    )
    def test_every_kind_of_seat(self, membership: ConfState, is_learner: bool) -> None:
        """Property 54."""
        one = follower(1)
        self.send(one, Snapshot(Index(9), Term(4), membership))
        assert one.status.membership == membership
        assert one.raft.is_learner is is_learner
        assert one.raft.promotable is not is_learner

    def test_a_learner_is_promoted_by_a_snapshot(self) -> None:
        """Property 54."""
        one = replica(1, (2, 3), learners=(1,), hard_state=HardState(Term(5)))
        assert not one.raft.promotable
        self.send(one, Snapshot(Index(9), Term(4), conf(1, 2, 3)))
        assert one.raft.promotable

    @pytest.mark.parametrize(
        "snapshot",
        [
            None,
            Snapshot(),
            Snapshot(Index(9), Term(6), conf(1)),
            Snapshot(Index(9), Term(0), conf(1)),
            Snapshot(Index(NO_LIMIT), Term(4), conf(1)),
            Snapshot(Index(9), Term(4), conf(1, learners=[1])),
            Snapshot(Index(9), Term(4), ConfState(voters=ids(1), auto_leave=True)),
        ],
    )
    def test_impossible_ones_raise_the_alarm(self, snapshot: Snapshot | None) -> None:
        one = follower(1)
        assert self.send(one, snapshot) == []
        assert len(alarms(one)) == 1
        assert len(one.log) == 1

    def test_no_election_before_it_is_saved(self) -> None:
        """Property 17."""
        one = follower(1, async_storage_writes=True)
        one.step(message(SNAPSHOT, from_=TWO, term=Term(5), snapshot=Snapshot(Index(9), Term(4), conf(1, 2, 3))))
        one.work()
        one.raw.campaign()
        assert one.raw.term == 5
        one.settle()
        one.raw.campaign()
        assert one.raw.term == 6

    def test_a_change_that_was_on_its_way_to_the_machine_does_not_undo_it(self) -> None:
        """The snapshot's membership includes every change below its index."""
        one = follower(1, async_storage_writes=True)
        _, data = encode_conf_change(ConfChange(ChangeType.REMOVE, THREE))
        new = (entry(5, 2, data, EntryType.CONF_CHANGE),)
        fields = {"from_": TWO, "term": Term(5), "index": Index(1), "log_term": Term(1), "commit": Index(2)}
        one.step(message(APPEND, entries=new, **fields))
        one.work()
        one.save()
        one.work()  # the change is handed out
        one.step(message(SNAPSHOT, from_=TWO, term=Term(5), snapshot=Snapshot(Index(9), Term(5), conf(1, 2, 3))))
        while one.apply():
            assert one.raft.log.unstable.snapshot is not None
        assert one.status.membership == conf(1, 2, 3)
        one.settle()
        assert one.status.membership == conf(1, 2, 3)


class TestRequests:
    def test_proposals_go_to_the_leader_without_a_term(self) -> None:
        """Property 31."""
        one = follower(1)
        assert one.raw.propose(b"x") is None
        (sent,) = one.settle()
        assert (sent.type, sent.to, sent.from_, sent.term) == (MessageType.PROPOSE, TWO, ONE, 0)
        assert [proposal.data for proposal in sent.entries] == [b"x"]

    def test_what_is_forwarded_is_not_changed(self) -> None:
        one = follower(1)
        asked = message(MessageType.PROPOSE, to=ONE, from_=THREE, entries=(entry(0, 0, b"x"),))
        one.step(asked)
        (sent,) = one.settle()
        assert (sent.to, sent.from_, asked.to) == (TWO, THREE, ONE)

    def test_without_a_leader_or_forwarding_they_are_refused(self) -> None:
        """Property 31."""
        with pytest.raises(ProposalDroppedError):
            replica().raw.propose(b"x")
        with pytest.raises(ProposalDroppedError):
            follower(1, proposal_forwarding=False).raw.propose(b"x")
        with pytest.raises(ProposalDroppedError):
            follower(1).raw.propose_many([b"x"])

    def test_reads_go_to_the_leader_and_come_back(self) -> None:
        """Property 73."""
        one = follower(1)
        one.raw.read_index(b"r")
        (sent,) = one.settle()
        assert (sent.type, sent.to, sent.term) == (MessageType.READ_INDEX, TWO, 0)
        answer = message(MessageType.READ_INDEX_RESPONSE, from_=TWO, term=Term(5), index=Index(4), entries=sent.entries)
        one.step(answer)
        one.settle()
        assert [read[:2] for read in one.reads] == [(4, b"r")]

    def test_reads_and_transfers_without_a_leader_are_dropped(self) -> None:
        """Property 73."""
        one = replica()
        one.raw.read_index(b"r")
        one.raw.transfer_leader(TWO)
        assert one.settle() == []
        assert [type(event) for event in one.events] == [RequestDropped, RequestDropped]

    def test_forgetting_the_leader_gives_the_vote_free(self) -> None:
        one = follower(check_quorum=True)
        one.step(message(MessageType.VOTE, from_=THREE, term=Term(6)))
        assert one.raw.term == 5
        one.raw.forget_leader()
        assert one.raw.leader == NO_REPLICA
        one.step(message(MessageType.VOTE, from_=THREE, term=Term(6)))
        assert (one.raw.term, one.status.vote) == (6, THREE)

    def test_with_leases_no_leader_is_forgotten(self) -> None:
        """Property 72."""
        one = follower(check_quorum=True, read_only=ReadOnlyOption.LEASE_BASED)
        one.raw.forget_leader()
        assert one.raw.leader == TWO


class TestLowerTerms:
    @pytest.mark.parametrize("kind", [APPEND, HEARTBEAT])
    @pytest.mark.parametrize(
        ("options", "answered"),
        [({"check_quorum": True}, True), ({"pre_vote": True}, True), ({}, False)],
    )
    def test_a_leader_of_a_lower_term_learns_of_ours(self, kind: MessageType, options: dict[str, bool], answered: bool) -> None:
        """Its heartbeats would hold back every vote for us, and it never steps down unless it hears of our term."""
        one = follower(1, 1, **options)
        one.step(message(kind, from_=THREE, term=Term(4), index=Index(2), log_term=Term(1)))
        sent = one.settle()
        assert [(answer.type, answer.to, answer.term) for answer in sent] == [
            (MessageType.APPEND_RESPONSE, THREE, 5)
        ] * answered  # fmt: skip
        assert one.raw.leader == TWO

    def test_a_poll_of_a_lower_term_is_refused_aloud(self) -> None:
        one = follower(1, 1, check_quorum=True, pre_vote=True)
        one.step(message(MessageType.PRE_VOTE, from_=THREE, term=Term(4), index=Index(2), log_term=Term(1)))
        (answer,) = one.settle()
        assert (answer.type, answer.to, answer.term, answer.reject) == (MessageType.PRE_VOTE_RESPONSE, THREE, 5, True)
