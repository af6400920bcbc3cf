"""Flow control to one peer. Numbers in docstrings are those of the list of properties that the core is held to."""

from __future__ import annotations

import pytest

from ravel_node.raft import Index, InvariantError, ProgressState
from ravel_node.raft.progress import Inflights, Progress


def progress(*, match: int = 0, next_index: int = 1, messages_max: int = 4, bytes_max: int = 1 << 64) -> Progress:
    one = Progress(Index(next_index), Inflights(messages_max, bytes_max))
    one.match = Index(match)
    return one


class TestInflights:
    def test_full_by_messages(self) -> None:
        window = Inflights(2)
        window.add(Index(1), 10)
        assert not window.full
        window.add(Index(2), 10)
        assert window.full
        assert (window.count, window.bytes) == (2, 20)

    def test_full_by_bytes_once_the_line_is_crossed(self) -> None:
        window = Inflights(10, 15)
        window.add(Index(1), 10)
        assert not window.full
        window.add(Index(2), 10)
        assert window.full

    def test_a_full_window_takes_nothing(self) -> None:
        window = Inflights(1)
        window.add(Index(1), 0)
        with pytest.raises(InvariantError):
            window.add(Index(2), 0)

    def test_frees_exactly_what_is_covered(self) -> None:
        """Property 44."""
        window = Inflights(4)
        for last in (3, 5, 9):
            window.add(Index(last), last)
        window.free_to(Index(2))
        assert window.count == 3
        window.free_to(Index(8))
        assert (window.count, window.bytes) == (1, 9)
        window.free_to(Index(5))
        assert window.count == 1
        window.clear()
        assert (window.count, window.bytes) == (0, 0)


class TestStates:
    def test_probe_begins_behind_match(self) -> None:
        one = progress(match=4, next_index=9)
        one.become_replicate()
        one.sent_entries(2, 0)
        one.become_probe()
        assert (one.state, one.next, one.inflights.count) == (ProgressState.PROBE, 5, 0)

    def test_probe_begins_behind_a_delivered_snapshot(self) -> None:
        one = progress(match=4, next_index=9)
        one.become_snapshot(Index(20))
        assert one.paused
        one.snapshot_reported(delivered=True)
        assert (one.state, one.next, one.paused) == (ProgressState.PROBE, 21, True)

    def test_probe_begins_behind_match_where_the_snapshot_failed(self) -> None:
        """Property 51."""
        one = progress(match=4, next_index=9)
        one.become_snapshot(Index(20))
        one.snapshot_reported(delivered=False)
        assert (one.state, one.next, one.paused) == (ProgressState.PROBE, 5, True)

    def test_a_snapshot_must_be_ahead(self) -> None:
        with pytest.raises(InvariantError):
            progress(match=4, next_index=5).become_snapshot(Index(3))

    def test_nothing_is_sent_beside_a_snapshot(self) -> None:
        one = progress()
        one.become_snapshot(Index(3))
        with pytest.raises(InvariantError):
            one.sent_entries(1, 0)


class TestSending:
    def test_a_probe_waits_for_its_answer(self) -> None:
        """Property 40."""
        one = progress(next_index=5)
        one.sent_entries(0, 0)
        assert not one.paused
        one.sent_entries(3, 30)
        assert (one.paused, one.next) == (True, 5)
        one.resume()
        assert not one.paused

    def test_replicate_runs_ahead(self) -> None:
        """Property 41."""
        one = progress(match=4, next_index=5, messages_max=2)
        one.become_replicate()
        one.sent_entries(3, 30)
        assert (one.next, one.paused) == (8, False)
        one.sent_entries(1, 10)
        assert (one.next, one.paused, one.inflights.full) == (9, True, True)


class TestAnswers:
    @pytest.mark.parametrize(
        ("index", "news", "match", "following"),
        [(3, False, 4, 9), (4, False, 4, 9), (6, True, 6, 9)],
    )
    def test_acknowledge(self, index: int, news: bool, match: int, following: int) -> None:
        one = progress(match=4, next_index=9)
        assert one.acknowledge(Index(index)) is news
        assert (one.match, one.next) == (match, following)

    def test_acknowledge_beyond_next(self) -> None:
        one = progress(match=4, next_index=6)
        assert one.acknowledge(Index(8))
        assert (one.match, one.next) == (8, 9)

    @pytest.mark.parametrize(
        ("replicating", "rejected", "hint", "taken", "following"),
        [
            (True, 4, 2, False, 10),  # at or below match: stale
            (True, 3, 2, False, 10),
            (True, 8, 2, True, 5),  # fall back to match + 1
            (False, 8, 2, False, 10),  # not where the probe stands: stale
            (False, 9, 6, True, 7),
            (False, 9, 2, True, 5),  # never back into what matches
            (False, 9, 99, True, 9),
        ],
    )
    def test_refuse(self, replicating: bool, rejected: int, hint: int, taken: bool, following: int) -> None:
        """Property 47."""
        one = progress(match=4, next_index=10)
        if replicating:
            one.become_replicate()
            one.next = Index(10)
        assert one.refuse(Index(rejected), Index(hint)) is taken
        assert one.next == following


class TestCommit:
    def test_told_only_once(self) -> None:
        one = progress(match=4, next_index=9)
        assert one.may_lack_commit(Index(6))
        one.sent_commit_index(Index(6))
        assert not one.may_lack_commit(Index(6))
        assert one.may_lack_commit(Index(7))

    def test_what_the_peer_does_not_hold_it_cannot_commit(self) -> None:
        one = progress(match=4, next_index=5)
        one.sent_commit_index(Index(4))
        assert not one.may_lack_commit(Index(9))

    def test_falling_back_forgets_what_was_told(self) -> None:
        one = progress(match=4, next_index=10)
        one.sent_commit_index(Index(8))
        one.become_probe()
        assert one.sent_commit == 4
