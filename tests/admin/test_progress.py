"""What was copied, how fast, and what is left."""

from __future__ import annotations

import pytest

from ravel_node.admin.progress import RATE_S, Amount, Counter, bytes_expected, seconds_left


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.5

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    counter = Counter(clock)
    assert counter.rate.per_s() == Amount()
    counter.compared(300)
    counter.copied(200, 2_000)
    clock.now += 2
    assert counter.rate.per_s() == Amount(150, 100, 1_000), "since it began"
    for _ in range(5 * RATE_S):
        counter.compared(70)
        clock.now += 1
    assert counter.rate.per_s().done == pytest.approx(70)
    clock.now += RATE_S + 1
    assert counter.rate.per_s() == Amount(), "nothing is copied any more"


def test_a_total_counts_what_its_parts_count() -> None:
    clock = Clock()
    total = Counter(clock)
    one, other = Counter(clock, total), Counter(clock, total)
    one.compared(3)
    one.copied(2, 20)
    other.compared(5)
    one.restart()
    one.compared(4)
    assert (one.amount, other.amount, total.amount) == (Amount(4, 2, 20), Amount(5), Amount(9, 2, 20))


def test_what_nobody_knows_is_not_estimated() -> None:
    assert (bytes_expected(Amount(), None), seconds_left(0, 0, None)) == (None, None)
    assert (bytes_expected(Amount(), 10), seconds_left(0, 0, 10)) == (None, None)
    assert (bytes_expected(Amount(), 0), seconds_left(0, 0, 0)) == (0, 0)
    assert (bytes_expected(Amount(keys=4, bytes=200), 10), seconds_left(4, 2, 10)) == (500, 3)
    assert seconds_left(12, 2, 10) == 0, "more keys came than there were"
