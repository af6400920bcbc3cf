"""Who was heard of, by a clock that stands where the test sets it."""

from __future__ import annotations

import pytest

from ravel_node.admin.liveness import DOWN_AFTER_S, Heard, Liveness


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_server_is_down_once_it_has_been_silent_for_too_long(clock: Clock) -> None:
    liveness = Liveness(clock)
    liveness.note(3, "a")
    clock.now += DOWN_AFTER_S
    assert liveness.look(3, "a") == Heard(True, DOWN_AFTER_S, False)
    clock.now += 0.5
    assert liveness.look(3, "a") == Heard(True, DOWN_AFTER_S + 0.5, True)
    liveness.note(3, "a")
    assert liveness.look(3, "a") == Heard(True, 0.0, False)


def test_not_heard_yet_is_not_down(clock: Clock) -> None:
    liveness = Liveness(clock)
    assert liveness.look(3, "a") == Heard(False, 0.0, False)
    clock.now += DOWN_AFTER_S + 1
    assert liveness.look(3, "a") == Heard(False, DOWN_AFTER_S + 1, True)


def test_a_new_leader_begins_anew(clock: Clock) -> None:
    liveness = Liveness(clock)
    liveness.note(3, "a")
    clock.now += 60
    assert liveness.look(3, "a").down
    assert liveness.look(5, "a") == Heard(False, 0.0, False)
    liveness.note(5, "b")
    assert liveness.look(5, "b").heard
    assert not liveness.look(5, "a").heard


def test_what_was_struck_is_forgotten(clock: Clock) -> None:
    liveness = Liveness(clock)
    liveness.note(3, "a")
    liveness.forget("a")
    assert not liveness.look(3, "a").heard
