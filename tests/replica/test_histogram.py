"""Sliding histograms: what they say of durations, and how they forget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ravel_node.replica.histogram import NOTHING, WINDOW_S, SlidingHistogram

durations = st.lists(st.floats(min_value=0.0, max_value=1e4), min_size=1, max_size=200)


def test_nothing_was_observed() -> None:
    assert SlidingHistogram().summary(5.0) == NOTHING


@given(durations)
def test_quantiles_are_off_by_half_a_bucket_at_most(seconds: list[float]) -> None:
    histogram = SlidingHistogram()
    for duration in seconds:
        histogram.observe(100.0, duration)
    found = histogram.summary(100.5)
    exact = sorted(int(duration * 1e6) for duration in seconds)
    assert found.count == len(exact)
    assert found.max_us == exact[-1]
    for share, value in ((0.5, found.p50_us), (0.99, found.p99_us)):
        true = exact[max(0, -int(-share * len(exact) // 1) - 1)]
        assert abs(value - true) <= true / 32 + 1


def test_what_is_older_than_the_window_is_forgotten() -> None:
    histogram = SlidingHistogram()
    histogram.observe(3.9, 1.0)
    histogram.observe(8.0, 0.001)
    assert histogram.summary(3.9 + WINDOW_S).count == 2
    assert histogram.summary(14.0).count == 1
    assert histogram.summary(14.0).max_us == 1_000
    assert histogram.summary(8.0 + 2 * WINDOW_S) == NOTHING


def test_a_slot_is_used_again() -> None:
    histogram = SlidingHistogram()
    for second in range(1_000):
        histogram.observe(float(second), 0.001)
    assert histogram.summary(999.0).count == WINDOW_S + 1


def test_a_clock_that_stood_still_or_went_back_harms_nothing() -> None:
    histogram = SlidingHistogram()
    histogram.observe(5.0, -1.0)
    assert histogram.summary(5.0).max_us == 0
