"""RetryPolicy: bounds and jitter."""

from __future__ import annotations

import pytest

from ravelctl.client import RetryPolicy


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_waits_grow_within_their_bounds(chance: float) -> None:
    policy = RetryPolicy(backoff_min_s=0.02, backoff_max_s=0.5, backoff_growth=2.0)
    waits = [policy.delay_s(attempt, lambda: chance) for attempt in range(1, 12)]
    assert waits[0] == pytest.approx(0.02 * (0.5 + chance / 2))
    assert waits[1] == pytest.approx(2 * waits[0])
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(0.5 * (0.5 + chance / 2))


def test_a_client_that_waits_for_days_computes_no_astronomic_powers() -> None:
    assert RetryPolicy().delay_s(10**9, lambda: 0.999) <= 0.5


def test_the_end_of_an_outage_is_noticed_after_a_seventh_of_its_length() -> None:
    policy = RetryPolicy(backoff_max_s=1e9)
    waited = 0.0
    for attempt in range(1, 60):
        wait = policy.delay_s(attempt, lambda: 1.0)
        assert wait <= 0.15 * waited + policy.backoff_min_s * 1.01
        waited += wait
    assert wait / waited == pytest.approx(0.13, abs=0.01)


def test_what_the_server_asks_for_is_a_floor() -> None:
    policy = RetryPolicy()
    assert policy.delay_s(1, lambda: 0.0, at_least_s=3.0) == 3.0
    assert policy.delay_s(99, lambda: 0.5, at_least_s=0.001) > 0.3


def test_bad_settings_are_told_whole() -> None:
    with pytest.raises(ValueError, match=r"connect_timeout_s \(0\).*backoff_min_s \(2\) must not exceed backoff_max_s \(1\)"):
        RetryPolicy(backoff_min_s=2, backoff_max_s=1, connect_timeout_s=0)
    with pytest.raises(ValueError, match=r"backoff_growth \(1.0\) must be above 1"):
        RetryPolicy(backoff_growth=1.0)
    with pytest.raises(ValueError, match=r"redirects_free \(-1\).*suspicion_s \(-2\)"):
        RetryPolicy(redirects_free=-1, suspicion_s=-2)
