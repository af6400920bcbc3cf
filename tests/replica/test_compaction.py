"""How far the log may be dropped."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ravel_node.raft import Index
from ravel_node.replica.compaction import compact_to


def plan(
    *, first: int = 1, last: int = 1000, flushed: int = 900, matches: Sequence[int] = (), log_bytes: int = 0, retain: int = 100
) -> int | None:
    return compact_to(
        first=Index(first),
        last=Index(last),
        flushed=Index(flushed),
        matches=[Index(match) for match in matches],
        log_bytes=log_bytes,
        retain_entries=retain,
        retain_bytes_max=1_000_000,
    )


def test_entries_are_kept_for_followers_that_were_away() -> None:
    assert plan() == 900
    assert plan(retain=300) == 700


def test_nothing_beyond_what_is_flushed() -> None:
    assert plan(flushed=500) == 500


def test_a_follower_that_answers_keeps_what_it_needs_until_the_log_is_too_large() -> None:
    assert plan(matches=[950, 400]) == 400
    assert plan(matches=[950, 400], log_bytes=2_000_000) == 900


def test_a_log_of_large_entries_keeps_only_as_many_as_fit() -> None:
    assert plan(retain=300, log_bytes=1_000_000) == 700
    assert plan(retain=300, log_bytes=4_000_000) == 750
    assert plan(retain=300, log_bytes=20_000_000) == 900  # as far as it is flushed
    assert plan(retain=300, flushed=1000, log_bytes=20_000_000) == 950


def test_small_gains_are_left_for_later() -> None:
    assert plan(first=850) is None
    assert plan(first=800) == 900


@given(
    first=st.integers(1, 5000),
    length=st.integers(0, 5000),
    flushed=st.integers(0, 10_000),
    matches=st.lists(st.integers(0, 10_000), max_size=5),
    log_bytes=st.integers(0, 2_000_000),
    retain=st.integers(0, 2000),
)
def test_never_too_far(first: int, length: int, flushed: int, matches: list[int], log_bytes: int, retain: int) -> None:
    last = first + length
    to = plan(first=first, last=last, flushed=flushed, matches=matches, log_bytes=log_bytes, retain=retain)
    if to is not None:
        assert first < to <= flushed
        assert to <= last - (retain if log_bytes <= 1_000_000 else min(retain, length * 1_000_000 // log_bytes))
        assert log_bytes >= 1_000_000 or all(to <= match for match in matches)
