"""One test for each rule of the Raft paper (extended version), by section; "thesis" is Ongaro's dissertation.

A rule is tested as it stands in the text: on one replica, with messages written by hand.
"""

from __future__ import annotations

import pytest

from ravel_node.raft import (
    Entry,
    HardState,
    Index,
    MessageType,
    ProposalDroppedError,
    Role,
    Term,
)
from tests.raft.support import (
    FIVE,
    FOUR,
    ONE,
    THREE,
    TWO,
    Replica,
    acknowledge,
    elected,
    entries,
    log_of,
    message,
    of_type,
    replica,
    settled_leader,
)

APPEND, HEARTBEAT, VOTE = MessageType.APPEND, MessageType.HEARTBEAT, MessageType.VOTE
APPEND_RESPONSE, VOTE_RESPONSE = MessageType.APPEND_RESPONSE, MessageType.VOTE_RESPONSE


def in_role(role: Role, term: int = 3) -> Replica:
    """A replica of three in this role and term."""
    one = replica(hard_state=HardState(Term(term - (role in (Role.CANDIDATE, Role.LEADER)))))
    if role is Role.FOLLOWER:
        return one
    if role is Role.PRE_CANDIDATE:
        one = replica(hard_state=HardState(Term(term)), pre_vote=True)
    one.raw.campaign()
    one.settle()
    if role is Role.LEADER:
        one.step(message(VOTE_RESPONSE, from_=TWO, term=Term(term)))
        one.settle()
    assert (one.raw.role, one.raw.term) == (role, term)
    return one


def vote(one: Replica, candidate: int, term: int, index: int = 0, log_term: int = 0) -> bool:
    """Ask for a vote and return whether it was given."""
    one.step(message(VOTE, from_=candidate, term=Term(term), index=Index(index), log_term=Term(log_term)))
    (answer,) = of_type(one.settle(), VOTE_RESPONSE)
    return not answer.reject


def append(one: Replica, *new: Entry, after: tuple[int, int] = (0, 0), commit: int = 0, term: int = 0) -> list[object]:
    """Send an append from replica 2; returns (rejected, index) of each answer."""
    term = term or one.raw.term
    log_term, index = after
    one.step(
        message(
            APPEND,
            from_=TWO,
            term=Term(term),
            log_term=Term(log_term),
            index=Index(index),
            entries=new,
            commit=Index(commit),
        )
    )
    return [(answer.reject, answer.index) for answer in of_type(one.settle(), APPEND_RESPONSE)]


class TestTerms:
    """Section 5.1."""

    @pytest.mark.parametrize("role", Role)
    @pytest.mark.parametrize("kind", [APPEND, HEARTBEAT, VOTE, APPEND_RESPONSE, MessageType.TIMEOUT_NOW])
    def test_a_higher_term_makes_anybody_a_follower_of_it(self, role: Role, kind: MessageType) -> None:
        """5.1: "if one server's current term is smaller than the other's, then it updates its current term"."""
        one = in_role(role)
        one.step(message(kind, from_=TWO, term=Term(9), log_term=Term(9), index=Index(9), reject=True))
        standing = kind is MessageType.TIMEOUT_NOW  # it follows, and then stands for the next term at once
        assert (one.raw.role, one.raw.term) == ((Role.CANDIDATE, 10) if standing else (Role.FOLLOWER, 9))
        assert one.raw.leader == (TWO if kind in (APPEND, HEARTBEAT) else 0)

    @pytest.mark.parametrize("role", Role)
    @pytest.mark.parametrize("kind", [APPEND, HEARTBEAT, VOTE, VOTE_RESPONSE, APPEND_RESPONSE])
    def test_a_lower_term_is_not_acted_upon(self, role: Role, kind: MessageType) -> None:
        """5.1: "if a server receives a request with a stale term number, it rejects the request"."""
        one = in_role(role)
        before = one.status
        one.step(message(kind, from_=TWO, term=Term(2), index=Index(0), entries=(), commit=Index(0)))
        assert one.status == before

    def test_a_term_is_durable_before_it_is_told(self) -> None:
        """Figure 2: currentTerm and votedFor are "updated on stable storage before responding to RPCs"."""
        one = replica(async_storage_writes=True)
        one.step(message(VOTE, from_=TWO, term=Term(5)))
        assert one.work() == []
        one.save()
        (answer,) = one.outbox
        assert one.storage.initial_state()[0] == HardState(Term(5), TWO)
        assert (answer.type, answer.reject) == (VOTE_RESPONSE, False)


class TestElections:
    """Section 5.2."""

    def test_servers_start_as_followers(self) -> None:
        assert in_role(Role.FOLLOWER).raw.role is Role.FOLLOWER

    def test_a_leader_sends_heartbeats(self) -> None:
        """5.2: "leaders send periodic heartbeats to all followers"."""
        one = settled_leader()
        one.tick()
        assert [(beat.to, beat.commit) for beat in of_type(one.settle(), HEARTBEAT)] == [(TWO, 1), (THREE, 1)]

    @pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
    def test_silence_starts_an_election(self, role: Role) -> None:
        """5.2: it "increments its current term and transitions to candidate state", and asks the others."""
        one = in_role(role)
        one.tick(2 * 10 - 1)
        sent = one.settle()
        assert (one.raw.role, one.raw.term, one.status.vote) == (Role.CANDIDATE, 4, ONE)
        assert [(ask.to, ask.term) for ask in of_type(sent, VOTE)] == [(TWO, 4), (THREE, 4)]

    @pytest.mark.parametrize(
        ("size", "grants", "refusals", "role"),
        [
            (1, (), (), Role.LEADER),
            (3, (2,), (), Role.LEADER),
            (3, (2, 3), (), Role.LEADER),
            (5, (2, 3), (), Role.LEADER),
            (3, (), (), Role.CANDIDATE),
            (5, (2,), (), Role.CANDIDATE),
            (5, (2,), (3, 4), Role.CANDIDATE),
            (3, (), (2, 3), Role.FOLLOWER),
            (5, (2,), (3, 4, 5), Role.FOLLOWER),
            (4, (), (2, 3), Role.FOLLOWER),
        ],
    )
    def test_a_majority_decides(
        self,
        size: int,
        grants: tuple[int, ...],
        refusals: tuple[int, ...],
        role: Role,
    ) -> None:
        """5.2: "a candidate wins an election if it receives votes from a majority of the servers"."""
        one = replica(voters=range(1, size + 1))
        one.raw.campaign()
        one.settle()
        for voter in (*grants, *refusals):
            one.step(message(VOTE_RESPONSE, from_=voter, term=Term(1), reject=voter in refusals))
        assert one.raw.role is role

    @pytest.mark.parametrize("second", [True, False])
    def test_the_first_answer_of_a_voter_counts(self, second: bool) -> None:
        one = replica(voters=range(1, 6))
        one.raw.campaign()
        one.settle()
        for _ in range(4):
            one.step(message(VOTE_RESPONSE, from_=TWO, term=Term(1), reject=second))
            second = not second
        assert one.raw.role is Role.CANDIDATE

    def test_one_vote_a_term_first_come(self) -> None:
        """5.2: "each server will vote for at most one candidate in a given term"."""
        one = replica()
        assert vote(one, TWO, term=1)
        assert not vote(one, THREE, term=1)
        assert vote(one, TWO, term=1), "the same vote again: the first answer may be lost"
        assert vote(one, THREE, term=2)

    def test_the_vote_survives_a_crash(self) -> None:
        one = replica()
        assert vote(one, TWO, term=1)
        one.crash()
        assert not vote(one, THREE, term=1)
        assert vote(one, TWO, term=1)

    def test_a_candidate_votes_for_nobody_else(self) -> None:
        one = in_role(Role.CANDIDATE)
        assert not vote(one, TWO, term=3, index=99, log_term=2)

    def test_no_vote_where_a_leader_is_known(self) -> None:
        one = replica()
        one.step(message(HEARTBEAT, from_=TWO, term=Term(1)))
        assert not vote(one, THREE, term=1, index=9, log_term=1)

    @pytest.mark.parametrize("kind", [APPEND, HEARTBEAT])
    @pytest.mark.parametrize("role", [Role.CANDIDATE, Role.PRE_CANDIDATE])
    def test_a_candidate_gives_way_to_a_leader_of_its_term(self, role: Role, kind: MessageType) -> None:
        """5.2: "if the leader's term is at least as large as the candidate's, the candidate recognizes the leader"."""
        one = in_role(role)
        one.step(message(kind, from_=TWO, term=Term(3)))
        assert (one.raw.role, one.raw.leader) == (Role.FOLLOWER, TWO)

    def test_granting_a_vote_restarts_the_timer_and_refusing_does_not(self) -> None:
        """Figure 2, followers: an election starts if no time passed "granting vote to candidate"."""
        one = replica(hard_state=HardState(Term(1)))
        one.raw.set_randomized_election_timeout(10)
        one.tick(8)
        assert vote(one, TWO, term=1)
        assert one.raft.election_elapsed == 0
        one.tick(5)
        assert not vote(one, THREE, term=1)
        assert one.raft.election_elapsed == 5

    def test_timeouts_are_random(self) -> None:
        """5.2 and property 9: from [T, 2T - 1], drawn anew with each election, and each of them occurs."""
        one = replica()
        drawn = []
        for _ in range(200):
            one.raw.campaign()
            one.settle()
            drawn.append(one.raft.election_timeout)
        assert set(drawn) == set(range(10, 20))

    def test_several_followers_rarely_fire_together(self) -> None:
        """Property 9: of five followers the first is alone in most draws."""
        followers = [replica(id, range(1, 6), seed=77) for id in range(1, 6)]
        together = 0
        for _ in range(300):
            for one in followers:
                one.raft.become_follower(Term(one.raw.term + 1), ONE)
            timeouts = sorted(one.raft.election_timeout for one in followers)
            together += timeouts[0] == timeouts[1]
        assert together < 150

    def test_no_election_before_the_timeout_and_always_at_it(self) -> None:
        one = replica()
        for timeout in range(10, 20):
            one.raft.become_follower(one.raw.term, TWO)
            one.raw.set_randomized_election_timeout(timeout)
            one.tick(timeout - 1)
            before = one.raw.role
            one.tick()
            assert (before, one.raw.role) == (Role.FOLLOWER, Role.CANDIDATE)


class TestReplication:
    """Section 5.3."""

    def test_a_proposal_is_appended_and_sent_to_all(self) -> None:
        """5.3: with "the index and term of the entry in its log that immediately precedes the new entries"."""
        one = settled_leader()
        name = one.raw.propose(b"x")
        sent = of_type(one.settle(), APPEND)
        assert name == (1, 2)
        assert [(to.to, to.log_term, to.index, to.commit, to.entries) for to in sent] == [
            (peer, 1, 1, 1, (Entry(Term(1), Index(2), data=b"x"),)) for peer in (TWO, THREE)
        ]

    def test_a_leader_waits_for_its_own_disk_too(self) -> None:
        """Thesis 10.2.1: the leader's copy counts like any other, once it is durable."""
        one = settled_leader(async_storage_writes=True)
        one.raw.propose(b"x")
        one.work()
        acknowledge_without_saving(one, 2)
        assert one.raw.commit == 1
        one.save()
        assert one.raw.commit == 2

    @pytest.mark.parametrize(
        ("size", "voters", "committed"),
        [(1, (), True), (3, (), False), (3, (2,), True), (5, (2,), False), (5, (2, 3), True), (5, (2, 3, 4, 5), True)],
    )
    def test_an_entry_is_committed_once_a_majority_has_it(
        self,
        size: int,
        voters: tuple[int, ...],
        committed: bool,
    ) -> None:
        """5.3."""
        one = settled_leader(1, range(1, size + 1))
        one.raw.propose(b"x")
        one.settle()
        acknowledge(one, *voters)
        assert (one.raw.commit == 2) is committed
        assert (one.machine.applied == 2) is committed

    def test_preceding_entries_are_committed_with_it(self) -> None:
        """5.3: "this also commits all preceding entries in the leader's log"."""
        one = elected(log=entries(1, 1, 2), hard_state=HardState(Term(2)))
        acknowledge(one, 2)
        assert [entry.term for entry in one.applied] == [1, 1, 2, 3]

    def test_followers_learn_what_is_committed_and_apply_it_in_order(self) -> None:
        """5.3: "once a follower learns that a log entry is committed, it applies the entry"."""
        one = replica(hard_state=HardState(Term(1)))
        append(one, *entries(1, 1, 1), commit=2)
        assert [entry.index for entry in one.applied] == [1, 2]
        append(one, after=(1, 3), commit=3)
        assert [entry.index for entry in one.applied] == [1, 2, 3]

    @pytest.mark.parametrize(
        ("after", "answer"),
        [((0, 0), (False, 1)), ((1, 1), (False, 2)), ((2, 2), (False, 3)), ((1, 2), (True, 2)), ((2, 9), (True, 9))],
    )
    def test_the_consistency_check(self, after: tuple[int, int], answer: tuple[bool, int]) -> None:
        """5.3: without "an entry in its log with the same index and term, then it refuses the new entries"."""
        one = replica(log=entries(1, 2), hard_state=HardState(Term(2)))
        new = entries(max(after[0], 1), first=after[1] + 1)
        assert append(one, *new, after=after) == [answer]

    @pytest.mark.parametrize(
        ("after", "new", "expected"),
        [
            ((2, 2), (3,), (1, 2, 3)),
            ((1, 1), (3, 4), (1, 3, 4)),
            ((0, 0), (1,), (1, 2)),  # an old message repeats what is there: nothing is cut off
            ((0, 0), (3,), (3,)),
            ((1, 1), (), (1, 2)),
        ],
    )
    def test_conflicts_are_removed_and_nothing_else(
        self,
        after: tuple[int, int],
        new: tuple[int, ...],
        expected: tuple[int, ...],
    ) -> None:
        """5.3: "if an existing entry conflicts with a new one, delete the existing entry and all that follow it"."""
        one = replica(log=entries(1, 2), hard_state=HardState(Term(4)))
        append(one, *entries(*new, first=after[1] + 1), after=after)
        assert tuple(entry.term for entry in log_of(one.raw)) == expected

    @pytest.mark.parametrize(
        ("commit", "new", "committed"),
        [(1, 2, 1), (3, 1, 1), (3, 3, 3), (9, 2, 2), (9, 0, 0)],
    )
    def test_a_follower_commits_up_to_the_last_new_entry(self, commit: int, new: int, committed: int) -> None:
        """Figure 2, AppendEntries 5: "commitIndex = min(leaderCommit, index of last new entry)", not its own last."""
        one = replica(log=entries(1, 1, 1), hard_state=HardState(Term(1)))
        append(one, *entries(*[1] * new), commit=commit)
        assert one.raw.commit == committed

    FIGURE_7 = (
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    )

    @pytest.mark.parametrize("follower", FIGURE_7)
    def test_a_leader_brings_every_log_of_figure_7_in_line(self, follower: tuple[int, ...]) -> None:
        """5.3: the leader finds "the latest log entry where the two logs agree", and a round a term finds it (27)."""
        leader_log = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
        lead = replica(1, log=entries(*leader_log), hard_state=HardState(Term(7)))
        follow = replica(2, log=entries(*follower), hard_state=HardState(Term(7)))
        lead.raw.campaign()
        lead.settle()
        lead.step(message(VOTE_RESPONSE, from_=THREE, term=Term(8)))
        rounds = 0
        sent = lead.settle()
        while to_follower := [one for one in sent if one.to == TWO]:
            rounds += 1
            for one in to_follower:
                follow.step(one)
            for answer in follow.settle():
                lead.step(answer)
            sent = lead.settle()
        assert [entry.term for entry in follow.log] == [*leader_log, 8]
        assert rounds <= 2 + len(set(follower) | set(leader_log))


def acknowledge_without_saving(leader: Replica, peer: int) -> None:
    leader.step(message(APPEND_RESPONSE, from_=peer, term=leader.raw.term, index=leader.raw.last_index))


class TestSafety:
    """Section 5.4."""

    @pytest.mark.parametrize(
        ("log", "last", "granted"),
        [
            ((1,), (1, 1), True),
            ((1,), (1, 2), True),
            ((1, 1), (1, 1), False),
            ((1,), (2, 1), True),
            ((1, 1), (2, 1), True),
            ((2,), (1, 1), False),
            ((2,), (1, 9), False),
        ],
    )
    def test_votes_go_to_logs_at_least_as_new(self, log: tuple[int, ...], last: tuple[int, int], granted: bool) -> None:
        """5.4.1: the later last term wins; with equal ones the longer log."""
        one = replica(log=entries(*log), hard_state=HardState(Term(2)))
        assert vote(one, TWO, term=3, log_term=last[0], index=last[1]) is granted

    def test_only_entries_of_the_current_term_are_committed_by_counting(self) -> None:
        """5.4.2 and figure 8."""
        one = elected(log=entries(1, 2), hard_state=HardState(Term(2)))
        acknowledge(one, 2, 3, index=2)
        assert one.raw.commit == 0
        acknowledge(one, 2, index=3)
        assert one.raw.commit == 3

    def test_a_new_leader_begins_with_an_empty_entry(self) -> None:
        """Section 8: "each leader commit[s] a blank no-op entry into the log at the start of its term"."""
        one = elected(log=entries(1, 2), hard_state=HardState(Term(2)))
        assert log_of(one.raw)[-1] == Entry(Term(3), Index(3))

    def test_a_leader_never_changes_its_own_log(self) -> None:
        """5.3, leader append-only."""
        one = settled_leader()
        before = log_of(one.raw)
        append(one, *entries(1, 1, 1), term=1)
        one.raw.propose(b"x")
        assert log_of(one.raw)[: len(before)] == before

    def test_a_crash_loses_nothing_that_was_acknowledged(self) -> None:
        """5.5: followers and candidates may crash at any time."""
        one = replica(async_storage_writes=True, hard_state=HardState(Term(1)))
        one.step(message(APPEND, from_=TWO, term=Term(1), entries=tuple(entries(1, 1))))
        assert one.work() == [], "nothing is acknowledged before it is saved"
        one.crash()
        assert one.raw.last_index == 0
        one.step(message(APPEND, from_=TWO, term=Term(1), entries=tuple(entries(1, 1))))
        assert [answer.index for answer in of_type(one.settle(), APPEND_RESPONSE)] == [2]
        one.crash()
        assert one.raw.last_index == 2


class TestMembership:
    """Section 6 and thesis 4."""

    def test_a_leader_that_hears_nobody_steps_down(self) -> None:
        """Thesis 6.2."""
        one = settled_leader(check_quorum=True)
        one.tick(10)
        first = one.raw.role
        one.tick(10)
        assert (first, one.raw.role) == (Role.LEADER, Role.FOLLOWER)
        with pytest.raises(ProposalDroppedError):
            one.raw.propose(b"x")

    def test_a_leader_that_hears_a_majority_stays(self) -> None:
        one = settled_leader(check_quorum=True)
        for _ in range(5):
            one.tick(10)
            one.step(message(MessageType.HEARTBEAT_RESPONSE, from_=THREE, term=one.raw.term))
        assert one.raw.role is Role.LEADER

    @pytest.mark.parametrize("elapsed", [0, 9, 10])
    def test_votes_are_withheld_while_a_leader_is_alive(self, elapsed: int) -> None:
        """6: "if a server receives a RequestVote RPC within the minimum election timeout of hearing from a current
        leader, it does not update its term or grant its vote"."""
        one = replica(check_quorum=True)
        one.step(message(HEARTBEAT, from_=TWO, term=Term(1)))
        one.settle()
        one.raw.set_randomized_election_timeout(19)
        one.tick(elapsed)
        one.step(message(VOTE, from_=THREE, term=Term(2)))
        assert one.raw.term == (1 if elapsed < 10 else 2)

    def test_learners_do_not_stand_and_answer_like_voters(self) -> None:
        """Thesis 4.2.1."""
        one = replica(4, learners=(4,))
        one.tick(50)
        one.raw.campaign()
        assert (one.raw.role, one.raw.term) == (Role.FOLLOWER, 0)
        assert vote(one, TWO, term=1)


class TestReads:
    """Section 8 and thesis 6.4."""

    def test_a_read_waits_for_a_majority(self) -> None:
        one = settled_leader(1, range(1, 6))
        one.raw.read_index(b"r")
        beats = of_type(one.settle(), HEARTBEAT)
        assert len(beats) == 4
        for peer, released in ((TWO, False), (TWO, False), (THREE, True)):
            one.step(message(MessageType.HEARTBEAT_RESPONSE, from_=peer, term=Term(1), context=beats[0].context))
            one.settle()
            assert bool(one.reads) is released
        assert [read[:2] for read in one.reads] == [(1, b"r")]

    def test_an_answer_to_an_earlier_heartbeat_proves_nothing(self) -> None:
        """Property 69: the heartbeat must have left after the request."""
        one = settled_leader()
        one.tick()
        early = of_type(one.settle(), HEARTBEAT)[0]
        one.raw.read_index(b"r")
        one.step(message(MessageType.HEARTBEAT_RESPONSE, from_=TWO, term=Term(1), context=early.context))
        one.settle()
        assert one.reads == []

    @pytest.mark.parametrize("voters", [(1,), (1, 2, 3)])
    def test_a_new_leader_holds_reads_until_it_committed_something(self, voters: tuple[int, ...]) -> None:
        """8: "a leader must have the latest information on which entries are committed". So must one that is alone: its
        commit index may have been lost in a crash."""
        one = replica(1, voters, log=entries(1, 1), hard_state=HardState(Term(1)), async_storage_writes=True)
        one.raw.campaign()
        settle_votes(one, voters)
        one.raw.read_index(b"r")
        one.work()
        assert one.reads == []
        one.settle()
        for peer in voters[1:]:
            for sent in acknowledge(one, peer):
                if sent.type is HEARTBEAT:
                    answer = message(
                        MessageType.HEARTBEAT_RESPONSE,
                        from_=sent.to,
                        term=one.raw.term,
                        context=sent.context,
                    )
                    one.step(answer)
        one.settle()
        assert [read[:2] for read in one.reads] == [(3, b"r")]


def settle_votes(one: Replica, voters: tuple[int, ...]) -> None:
    """Let `one` win, and nothing more."""
    one.work()
    one.save()
    for voter in voters[1:]:
        one.step(message(VOTE_RESPONSE, from_=voter, term=one.raw.term))
    assert one.raw.is_leader


class TestTransfer:
    """Thesis 3.10."""

    def test_the_target_stands_at_once(self) -> None:
        one = settled_leader(check_quorum=True, pre_vote=True)
        one.raw.transfer_leader(TWO)
        assert [sent.to for sent in of_type(one.settle(), MessageType.TIMEOUT_NOW)] == [TWO]
        target = replica(2, check_quorum=True, pre_vote=True)
        target.step(message(HEARTBEAT, from_=ONE, term=Term(1)))
        target.step(message(MessageType.TIMEOUT_NOW, from_=ONE, term=Term(1)))
        asked = of_type(target.settle(), VOTE)
        assert [ask.to for ask in asked] == [ONE, THREE]
        voter = replica(3, check_quorum=True, pre_vote=True)
        voter.step(message(HEARTBEAT, from_=ONE, term=Term(1)))
        voter.settle()
        voter.step(asked[1])
        assert [answer.reject for answer in of_type(voter.settle(), VOTE_RESPONSE)] == [False]

    def test_proposals_wait_and_the_transfer_ends_in_time(self) -> None:
        one = settled_leader()
        one.raw.propose(b"x")
        one.settle()
        one.raw.transfer_leader(TWO)
        assert one.raw.in_transfer
        with pytest.raises(ProposalDroppedError):
            one.raw.propose(b"y")
        one.tick(10)
        assert not one.raw.in_transfer
        assert one.raw.propose(b"z") is not None


class TestPreVote:
    """Thesis 9.6."""

    def test_a_poll_changes_nothing_anywhere(self) -> None:
        one = replica(pre_vote=True)
        one.raw.campaign()
        (ask, _) = of_type(one.settle(), MessageType.PRE_VOTE)
        assert (one.raw.role, one.raw.term, one.status.vote, ask.term) == (Role.PRE_CANDIDATE, 0, 0, 1)
        voter = replica(2, pre_vote=True)
        before = voter.status
        voter.step(ask)
        (answer,) = voter.settle()
        assert (answer.reject, answer.term) == (False, 1)
        assert voter.status == before

    def test_a_majority_of_grants_starts_the_election(self) -> None:
        one = replica(pre_vote=True)
        one.raw.campaign()
        one.settle()
        one.step(message(MessageType.PRE_VOTE_RESPONSE, from_=TWO, term=Term(1)))
        one.settle()
        assert (one.raw.role, one.raw.term) == (Role.CANDIDATE, 1)
        one.step(message(MessageType.PRE_VOTE_RESPONSE, from_=THREE, term=Term(1)))
        assert one.raw.role is Role.CANDIDATE, "an answer to the poll is no vote"

    def test_an_older_log_wins_no_poll(self) -> None:
        voter = replica(2, log=entries(1), hard_state=HardState(Term(1)), pre_vote=True)
        voter.step(message(MessageType.PRE_VOTE, from_=FOUR, term=Term(2)))
        assert [answer.reject for answer in voter.settle()] == [True]

    def test_a_poll_of_an_older_term_is_refused_with_ours(self) -> None:
        """Property 13: so that the one that asks catches up, and nobody waits for ever."""
        voter = replica(2, hard_state=HardState(Term(7)), pre_vote=True)
        voter.step(message(MessageType.PRE_VOTE, from_=FIVE, term=Term(3)))
        assert [(answer.reject, answer.term) for answer in voter.settle()] == [(True, 7)]
