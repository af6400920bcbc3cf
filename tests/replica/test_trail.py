"""The trail of a log against a record of every entry."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.raft import Index
from ravel_node.replica.trail import NO_LAG, RUN_S, RUNS_MAX, LogTrail


@dataclass
class Record:
    """What the trail stands for: of each entry when it came and its bytes."""

    last: int
    entries: dict[int, tuple[float, int]] = field(default_factory=dict)

    def append(self, first: int, count: int, each: int, now: float) -> None:
        for index in [index for index in self.entries if index >= first]:
            del self.entries[index]
        for index in range(first, first + count):
            self.entries[index] = (now, each)
        self.last = first + count - 1


appends = st.lists(
    st.tuples(
        st.integers(min_value=1, max_value=5),  # entries
        st.integers(min_value=0, max_value=1_000),  # bytes of each
        st.sampled_from([0.0, 0.001, 0.01, 0.5, 30.0]),  # seconds since the one before
        st.integers(min_value=0, max_value=3),  # of the newest, how many it replaces
    ),
    max_size=60,
)


@given(appends, st.integers(min_value=0, max_value=300))
def test_lags_are_what_the_log_says(steps: list[tuple[int, int, float, int]], behind: int) -> None:
    now, born = 100.0, 7
    trail, record = LogTrail(Index(born), now), Record(born)
    for count, each, pause, replaced in steps:
        now += pause
        first = max(born + 1, record.last + 1 - replaced)
        record.append(first, count, each, now)
        trail.appended(Index(first), Index(first + count - 1), count * each, now)
    now += 1.0
    match = max(0, record.last - behind)
    lag = trail.lag(Index(match), now)
    lacking = {index: entry for index, entry in record.entries.items() if index > match}
    assert lag.entries == record.last - match
    if not lag.entries:
        assert lag == NO_LAG
        return
    known = min(lacking, default=record.last + 1) == match + 1
    assert lag.bytes_is_least is lag.seconds_is_least is (not known)
    if known:
        assert lag.seconds == pytest.approx(now - lacking[match + 1][0])
        assert lag.bytes == pytest.approx(sum(each for _, each in lacking.values()), abs=len(steps))
    else:
        assert lag.seconds == pytest.approx(now - 100.0)


def test_an_idle_cluster_never_grows_a_lag() -> None:
    trail = LogTrail(Index(5), 0.0)
    trail.appended(Index(6), Index(6), 10, 1.0)
    assert trail.lag(Index(6), 1e6) == NO_LAG
    assert trail.lag(Index(9), 1e6) == NO_LAG, "a match beyond our log is no lag below zero"


def test_a_snapshot_takes_the_place_of_the_log() -> None:
    trail = LogTrail(Index(5), 0.0)
    trail.appended(Index(6), Index(9), 400, 1.0)
    trail.restart(Index(100), 50.0)
    assert trail.lag(Index(100), 60.0) == NO_LAG
    lag = trail.lag(Index(90), 60.0)
    assert (lag.entries, lag.seconds, lag.seconds_is_least) == (10, 10.0, True)
    trail.appended(Index(101), Index(102), 64, 61.0)
    assert trail.lag(Index(100), 63.0).seconds == pytest.approx(2.0)
    assert trail.lag(Index(101), 63.0).bytes == 32


def test_a_day_of_writes_is_remembered_to_three_percent() -> None:
    trail, step = LogTrail(Index(0), 0.0), 0.25
    count = int(86_400 / step)
    for index in range(1, count + 1):
        trail.appended(Index(index), Index(index), 100, index * step)
    now = count * step
    assert len(trail._runs) <= RUNS_MAX
    for match in (0, 1, count // 3, count - 5_000, count - 100, count - 1):
        lag = trail.lag(Index(match), now)
        assert lag.seconds == pytest.approx(now - (match + 1) * step, rel=1 / 16, abs=step + RUN_S)
        assert lag.bytes == pytest.approx((count - match) * 100, rel=1 / 16, abs=200)
        assert not lag.seconds_is_least


def test_memory_is_bounded_when_nothing_can_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ravel_node.replica.trail.RUNS_MAX", 8)
    trail = LogTrail(Index(0), 0.0)
    for index in range(1, 21):
        now = 1_000.0 * (1 - 0.8**index)  # each gap is a fifth of its age
        trail.appended(Index(index), Index(index), 1, now)
    assert len(trail._runs) <= 8
    lag = trail.lag(Index(0), now)
    assert (lag.entries, lag.seconds_is_least, lag.bytes_is_least) == (20, True, True)
    assert 0 < lag.seconds < now
    assert lag.bytes < 20
    assert not trail.lag(Index(18), now).seconds_is_least
