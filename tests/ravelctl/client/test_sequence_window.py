"""SequenceWindow: sequences, against a model that remembers everything."""

from __future__ import annotations

import random

import pytest

from ravelctl.client.session.sequence_window import WINDOW_MAX, SequenceWindow


def test_without_a_session_there_is_no_room() -> None:
    window = SequenceWindow()
    assert window.room == 0
    window.begin(7)
    assert (window.client_id, window.room, window.acked_below) == (7, WINDOW_MAX, 1)


def test_the_lowest_unanswered_run_holds_the_window() -> None:
    window = SequenceWindow()
    window.begin(7)
    assert [window.take(500), window.take(500)] == [1, 501]
    assert window.room == 24
    window.settle(7, 501)
    assert (window.acked_below, window.room) == (1, 24)
    window.settle(7, 1)
    assert (window.acked_below, window.room) == (1001, WINDOW_MAX)


def test_an_earlier_session_means_nothing() -> None:
    window = SequenceWindow()
    window.begin(7)
    window.take(10)
    window.end(7)
    assert (window.client_id, window.room) == (0, 0)
    window.begin(8)
    window.take(5)
    window.settle(7, 1)
    window.keep(7, 3)
    window.end(7)
    assert (window.client_id, window.acked_below) == (8, 1)
    window.settle(8, 1)
    assert window.acked_below == 6


@pytest.mark.parametrize("seed", range(20))
def test_what_is_asked_for_again_is_never_acknowledged(seed: int) -> None:
    rng = random.Random(seed)
    window = SequenceWindow()
    window.begin(1)
    wanted: dict[int, list[int]] = {}  # first of a run -> its sequences
    for _ in range(500):
        if window.room and rng.random() < 0.6:
            count = rng.randint(1, min(window.room, 300))
            first = window.take(count)
            wanted[first] = list(range(first, first + count))
        elif wanted:
            run = wanted.pop(first := rng.choice(list(wanted)))
            window.settle(1, first)
            for rest in [run[i:] for i in range(len(run)) if rng.random() < 0.01]:
                window.keep(1, rest[0])
                wanted[rest[0]] = rest[:1]
        lowest = min((sequence for run in wanted.values() for sequence in run), default=None)
        if lowest is not None:
            assert window.acked_below == lowest
            assert max(run[-1] for run in wanted.values()) - window.acked_below < WINDOW_MAX
        assert 0 <= window.room <= WINDOW_MAX
