"""How long followers take to answer: what is timed, what is not, and that nothing piles up."""

from __future__ import annotations

from ravel_node.raft import Entry, Index, Message, MessageType, ReplicaId, Term
from ravel_node.replica.acks import WAITING_MAX, AckTimers

ONE, TWO = ReplicaId(1), ReplicaId(2)


def append(last: int) -> Message:
    return Message(MessageType.APPEND, to=TWO, from_=ONE, entries=(Entry(Term(1), Index(last)),))


def answer(index: int, *, reject: bool = False) -> Message:
    return Message(MessageType.APPEND_RESPONSE, to=ONE, from_=TWO, index=Index(index), reject=reject)


def test_an_answer_is_timed_by_the_newest_append_that_it_covers() -> None:
    timers = AckTimers()
    for index, now in ((5, 10.0), (6, 10.1), (7, 10.2)):
        timers.sent(append(index), now)
    timers.answered(answer(6), 10.15)
    found = timers.summary(TWO, 10.2)
    assert found.count == 1
    assert 40_000 <= found.max_us <= 60_000, "50 ms after the second of them"


def test_what_was_sent_before_a_refusal_is_not_timed() -> None:
    """It is sent once more, later: a time from the first sending would say that the follower is slow."""
    timers = AckTimers()
    timers.sent(append(5), 10.0)
    timers.answered(answer(5, reject=True), 10.1)
    timers.answered(answer(5), 19.0)
    assert timers.summary(TWO, 19.0).count == 0
    timers.sent(append(5), 20.0)
    timers.answered(answer(5), 20.1)
    assert timers.summary(TWO, 20.1).count == 1


def test_what_waits_is_bounded_and_there_is_room_again() -> None:
    timers = AckTimers()
    for number in range(3):
        first = number * 1_000
        for index in range(first, first + WAITING_MAX + 50):
            timers.sent(append(index), 10.0 + number)
        assert len(timers._waiting[TWO]) == WAITING_MAX
        timers.answered(answer(first + WAITING_MAX + 50), 10.5 + number)
        assert not timers._waiting[TWO]
        assert timers.summary(TWO, 10.5 + number).count == number + 1


def test_nothing_is_left_of_an_earlier_leadership() -> None:
    timers = AckTimers()
    timers.sent(append(5), 10.0)
    timers.sent(append(6), 10.0)
    timers.answered(answer(5), 10.1)
    timers.forget()
    timers.answered(answer(6), 10.2)
    assert timers.summary(TWO, 10.2).count == 0
