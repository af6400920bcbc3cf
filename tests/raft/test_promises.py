"""What a follower promises to a leader by answering it: that it elects nobody else for an election timeout."""

from __future__ import annotations

from typing import Any

import pytest

from ravel_node.raft import (
    NO_LIMIT,
    ChangeType,
    ConfChangeV2,
    ElectionRefused,
    Index,
    Message,
    MessageType,
    ReplicaId,
    Role,
    SingleChange,
    Term,
    Transition,
    VoteRejected,
)
from ravel_node.raft.election import TRANSFER_CONTEXT
from tests.raft.support import FOUR, ONE, THREE, TWO, Replica, acknowledge, elected, message, of_type, replica, settled_leader

TICKS = 10
HEARTBEAT_RESPONSE = MessageType.HEARTBEAT_RESPONSE


def follower(**config: Any) -> Replica:
    """Replica 1 of three, which has just heard from leader 3 in term 5."""
    one = replica(1, check_quorum=True, pre_vote=True, **config)
    one.step(message(MessageType.HEARTBEAT, from_=THREE, to=ONE, term=Term(5)))
    one.settle()
    assert one.raw.leader == THREE
    return one


def asked(kind: MessageType, term: int, context: bytes = b"") -> Message:
    return message(kind, from_=TWO, to=ONE, term=Term(term), index=Index(9), log_term=Term(9), context=context)


def grants(one: Replica, kind: MessageType, term: int, context: bytes = b"") -> bool:
    one.step(asked(kind, term, context))
    answers = [sent for sent in one.settle() if sent.type in (MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE)]
    return any(not answer.reject for answer in answers)


def test_a_refused_poll_of_a_later_term_does_not_end_the_promise() -> None:
    """The plot: F1 polls, F2's refusal names T+1 and is late, F1 hears the leader, the refusal arrives, F2 asks for a vote."""
    one = follower()
    one.tick(TICKS - 1)
    one.step(message(MessageType.PRE_VOTE_RESPONSE, from_=TWO, to=ONE, term=Term(6), reject=True))
    one.settle()
    assert one.raw.term == 6
    assert not grants(one, MessageType.PRE_VOTE, 7)
    assert not grants(one, MessageType.VOTE, 6), "in the term that it was moved to"
    assert not grants(one, MessageType.VOTE, 7)
    assert any(isinstance(event, VoteRejected) for event in one.events)
    one.tick()
    assert grants(one, MessageType.VOTE, 7)


@pytest.mark.parametrize("kind", [MessageType.APPEND_RESPONSE, MessageType.HEARTBEAT_RESPONSE, MessageType.VOTE_RESPONSE])
def test_no_message_of_a_later_term_ends_the_promise(kind: MessageType) -> None:
    one = follower()
    one.step(message(kind, from_=TWO, to=ONE, term=Term(6), reject=True))
    one.settle()
    assert one.raw.term == 6
    assert not grants(one, MessageType.VOTE, 6)
    assert not grants(one, MessageType.VOTE, 7)


def test_a_replica_does_not_stand_itself_while_it_keeps_a_promise() -> None:
    one = follower()
    one.raw.campaign()
    one.settle()
    assert one.raw.role is Role.FOLLOWER
    assert any(isinstance(event, ElectionRefused) for event in one.events)


def test_the_leader_of_a_later_term_is_promised_as_much() -> None:
    one = follower()
    one.tick(TICKS - 1)
    one.step(message(MessageType.HEARTBEAT, from_=TWO, to=ONE, term=Term(6)))
    one.tick(TICKS - 1)
    assert not grants(one, MessageType.VOTE, 7)
    one.tick()
    assert grants(one, MessageType.VOTE, 7)


@pytest.mark.parametrize("kind", [MessageType.PRE_VOTE, MessageType.VOTE])
def test_a_leader_elects_nobody_else(kind: MessageType) -> None:
    """It leads until a quorum is silent, however long it has heard no other leader."""
    leader = settled_leader(check_quorum=True, pre_vote=True)
    for _ in range(3 * TICKS):
        leader.tick()
        leader.step(message(HEARTBEAT_RESPONSE, from_=TWO, to=ONE, term=leader.raw.term))
        leader.settle()
    assert leader.raw.is_leader
    assert not grants(leader, kind, leader.raw.term + 1)
    assert leader.raw.is_leader


def test_a_transfer_needs_no_waiting() -> None:
    one = follower()
    assert grants(one, MessageType.VOTE, 6, TRANSFER_CONTEXT)


def test_forgetting_the_leader_ends_the_promise() -> None:
    one = follower()
    one.raw.forget_leader()
    assert grants(one, MessageType.VOTE, 6)


def test_a_replica_starts_with_the_promise_that_it_is_given() -> None:
    one = replica(1, check_quorum=True, pre_vote=True, silent_ticks=-3)
    one.tick(TICKS + 2)
    assert not grants(one, MessageType.VOTE, 6)
    one.tick()
    assert grants(one, MessageType.VOTE, 6)


def test_as_etcd_only_a_known_leader_holds_back_votes() -> None:
    one = follower(as_etcd=True)
    assert not grants(one, MessageType.VOTE, 6)
    one.step(message(MessageType.PRE_VOTE_RESPONSE, from_=TWO, to=ONE, term=Term(6), reject=True))
    one.settle()
    assert grants(one, MessageType.VOTE, 7)


def test_heartbeats_are_answered_with_the_length_of_the_promise() -> None:
    one = replica(1, check_quorum=True, vote_promise_us=450_000)
    one.step(message(MessageType.HEARTBEAT, from_=THREE, to=ONE, term=Term(5)))
    (answer,) = of_type(one.settle(), HEARTBEAT_RESPONSE)
    assert answer.promise_us == 450_000


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (((2, 300), (3, 500)), 300),  # of five voters: with the leader itself, two more make a majority
        (((2, 0), (3, 900)), 0),  # one of them says nothing
        (((6, 1), (2, 300), (3, 500)), 300),  # replica 6 is a learner: what it promises is nobody's concern
    ],
)
def test_a_read_tells_what_the_majority_that_proves_it_promises(answers: tuple[tuple[int, int], ...], told: int) -> None:
    leader = settled_leader(1, (1, 2, 3, 4, 5), learners=(6,))
    leader.raw.read_index(b"r")
    beats = {sent.to: sent.context for sent in of_type(leader.settle(), MessageType.HEARTBEAT)}
    for peer, promise_us in answers:
        context = beats[ReplicaId(peer)]
        answer = message(
            HEARTBEAT_RESPONSE, from_=ReplicaId(peer), to=ONE, term=leader.raw.term, context=context, promise_us=promise_us
        )
        leader.step(answer)
    leader.settle()
    assert [read.promise_us for read in leader.reads] == [told]


def test_an_older_answer_does_not_bring_back_its_promise() -> None:
    leader = settled_leader(1, (1, 2, 3))
    contexts = []
    for name in (b"a", b"b"):
        leader.raw.read_index(name)
        contexts.append(of_type(leader.settle(), MessageType.HEARTBEAT, to=2)[0].context)
    for context, promise_us in ((contexts[1], 100), (contexts[0], 900)):
        leader.step(message(HEARTBEAT_RESPONSE, from_=TWO, to=ONE, term=leader.raw.term, context=context, promise_us=promise_us))
        leader.settle()
    assert [(read.context, read.promise_us) for read in leader.reads] == [(b"a", 100), (b"b", 100)]


def test_a_voter_alone_needs_nobodys_promise() -> None:
    leader = elected(1, (1,))
    leader.settle()
    leader.raw.read_index(b"r")
    leader.settle()
    assert [read.promise_us for read in leader.reads] == [NO_LIMIT]


def test_a_joint_configuration_is_left_when_a_transfer_that_was_in_the_way_fails() -> None:
    leader = settled_leader(1, (1, 2, 3))
    change = ConfChangeV2((SingleChange(ChangeType.ADD_VOTER, FOUR), SingleChange(ChangeType.REMOVE, THREE)), Transition.AUTO)
    leader.raw.propose_conf_change(change)
    leader.settle()
    leader.raw.transfer_leader(TWO)  # before the change is applied, so that leaving it is refused
    acknowledge(leader, 3)
    assert leader.status.membership.voters_outgoing, "the change is applied and joint"
    last = leader.raw.last_index
    leader.tick(TICKS)
    leader.settle()
    assert not leader.raw.in_transfer
    assert leader.raw.last_index == last + 1, "the end of the joint configuration was proposed"
    acknowledge(leader, 2, 3, 4)
    assert not leader.status.membership.voters_outgoing
