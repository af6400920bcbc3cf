"""The log as the core sees it, over durable and unstable parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.raft import (
    NO_LIMIT,
    CompactedError,
    Entry,
    EntryType,
    HardState,
    Index,
    InvariantError,
    MemoryStorage,
    Snapshot,
    SnapshotOutOfDateError,
    Term,
    UnavailableError,
    entry_size,
)
from ravel_node.raft.log import RaftLog
from tests.raft.support import conf, entries, entry


def log(*durable: int, unstable: tuple[int, ...] = (), start: int = 0, limit: int = NO_LIMIT) -> RaftLog:
    """A log behind a snapshot at `start` of term 1, with entries of the given terms."""
    snapshot = Snapshot(Index(start), Term(1 if start else 0), conf(1))
    storage = MemoryStorage.restore(HardState(), snapshot, entries(*durable, first=start + 1))
    one = RaftLog(storage, limit)
    if unstable:
        one.append(entries(*unstable, first=start + len(durable) + 1))
    return one


def terms(one: RaftLog) -> list[int]:
    return [found.term for found in one.entries(one.first_index, NO_LIMIT)]


def save(one: RaftLog) -> None:
    """Let everything become durable, as a driver does."""
    storage = one._storage
    assert isinstance(storage, MemoryStorage)
    storage.append(one.unstable.next_entries())
    one.unstable.accept()
    one.stable_to(one.last_index, one.last_term)


class TestTerms:
    def test_below_is_compacted_and_above_unavailable(self) -> None:
        """Property 32."""
        one = log(2, 2, unstable=(3,), start=5)
        with pytest.raises(CompactedError):
            one.term(Index(4))
        assert [one.term(Index(index)) for index in range(5, 9)] == [1, 2, 2, 3]
        with pytest.raises(UnavailableError):
            one.term(Index(9))
        assert not one.matches(Index(4), Term(1))
        assert not one.matches(Index(9), Term(3))

    def test_compaction_leaves_the_rest_intact(self) -> None:
        """Property 32: terms, slices and appends go on after entries went away beneath them."""
        one = log(1, 1, 2, 2, 3)
        storage = one._storage
        assert isinstance(storage, MemoryStorage)
        storage.compact(Index(3))
        with pytest.raises(CompactedError):
            one.term(Index(2))
        assert [one.term(Index(index)) for index in (3, 4, 5)] == [2, 2, 3]
        assert terms(one) == [2, 3]
        with pytest.raises(CompactedError):
            one.slice(Index(3), Index(5), NO_LIMIT)
        one.append(entries(3, first=6))
        assert terms(one) == [2, 3, 3]
        storage.compact(Index(5))
        assert one.term(Index(5)) == 3
        assert terms(one) == [3]

    def test_a_restored_log_begins_behind_its_snapshot(self) -> None:
        one = log(1, 1)
        one.restore(Snapshot(Index(9), Term(4), conf(1)))
        assert (one.first_index, one.last_index, one.committed, one.term(Index(9))) == (10, 9, 9, 4)
        with pytest.raises(CompactedError):
            one.term(Index(2))
        one.append(entries(4, 5, first=10))
        assert terms(one) == [4, 5]

    @given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.data())
    def test_the_shortcut_for_terms_agrees_with_the_entries(self, steps: list[int], data: st.DataObject) -> None:
        rising = [sum(steps[: count + 1]) + 1 for count in range(len(steps))]
        split = data.draw(st.integers(0, len(rising)))
        one = log(*rising[:split], unstable=tuple(rising[split:]))
        if data.draw(st.booleans()):
            cut = data.draw(st.integers(1, len(rising)))
            replacement = rising[-1] + 1
            one.append(entries(replacement, replacement + 1, first=cut))
            rising = [*rising[: cut - 1], replacement, replacement + 1]
        if data.draw(st.booleans()):
            save(one)
        assert [one.term(Index(index)) for index in range(1, len(rising) + 1)] == rising
        assert one.last_term == rising[-1]


class TestUpToDate:
    @pytest.mark.parametrize(
        ("index", "term", "expected"),
        [(1, 4, True), (9, 2, False), (3, 3, True), (4, 3, True), (2, 3, False)],
    )
    def test_term_first_then_length(self, index: int, term: int, expected: bool) -> None:
        assert log(1, 2, 3).is_up_to_date(Index(index), Term(term)) is expected


class TestAppend:
    def test_replaces_the_conflicting_tail(self) -> None:
        one = log(1, 2, unstable=(2, 2))
        one.append(entries(3, first=3))
        assert terms(one) == [1, 2, 3]
        one.append(entries(4, 4, first=2))
        assert terms(one) == [1, 4, 4]
        assert one.unstable.offset == 2

    def test_what_is_committed_stays(self) -> None:
        """Property 29: an attempt to replace a committed entry stops the replica."""
        one = log(1, 1, 1)
        one.commit_to(Index(2))
        with pytest.raises(InvariantError):
            one.append(entries(2, first=2))
        assert terms(one) == [1, 1, 1]

    def test_leaves_no_gap(self) -> None:
        with pytest.raises(InvariantError):
            log(1).append(entries(1, first=3))

    @pytest.mark.parametrize(
        ("first", "given_terms", "conflict"),
        [(1, (1, 2), 0), (1, (1, 2, 3), 0), (2, (2, 3, 3), 4), (2, (3,), 2), (4, (3,), 4), (1, (), 0)],
    )
    def test_find_conflict(self, first: int, given_terms: tuple[int, ...], conflict: int) -> None:
        assert log(1, 2, 3).find_conflict(entries(*given_terms, first=first)) == conflict


class TestFindMatch:
    @given(
        st.lists(st.integers(0, 2), min_size=1, max_size=15),
        st.integers(0, 6),
        st.integers(0, 20),
        st.integers(0, 12),
    )
    def test_it_finds_what_a_walk_finds(self, steps: list[int], start: int, index: int, term: int) -> None:
        """Property 27, and a hint of any size costs a few steps only."""
        rising = [sum(steps[: count + 1]) + 1 for count in range(len(steps))]
        one = log(*rising, start=start)

        def walk() -> tuple[int, int]:
            at = index
            while at > 0:
                try:
                    found = one.term(Index(at))
                except (CompactedError, UnavailableError):
                    return 0, at
                if found <= term:
                    return found, at
                at -= 1
            return 0, 0

        assert one.find_match(Index(index), Term(term)) == walk()

    def test_a_monstrous_hint(self) -> None:
        assert log(1, 2).find_match(Index(NO_LIMIT), Term(NO_LIMIT)) == (0, NO_LIMIT)


class TestSlices:
    @given(st.integers(0, 5), st.integers(0, 5), st.data())
    def test_limit(self, durable: int, unstable: int, data: st.DataObject) -> None:
        """Property 48: within the limit, at least one, wherever durable and unstable part meet."""
        total = durable + unstable
        if not total:
            return
        one = log(*[1] * durable, unstable=(1,) * unstable)
        first = data.draw(st.integers(1, total))
        end = data.draw(st.integers(first + 1, total + 1))
        limit = data.draw(st.integers(0, 200))
        found = one.slice(Index(first), Index(end), limit)
        assert [entry.index for entry in found] == list(range(first, first + len(found)))
        assert 1 <= len(found) <= end - first
        size = sum(map(entry_size, found))
        assert size <= limit or len(found) == 1
        if len(found) < end - first:
            following = one.slice(Index(first + len(found)), Index(end), 0)[0]
            assert size + entry_size(following) > limit

    def test_beyond_the_end(self) -> None:
        with pytest.raises(InvariantError):
            log(1).slice(Index(1), Index(3), NO_LIMIT)
        assert log(1).entries(Index(2), NO_LIMIT) == ()


class TestCommit:
    def test_never_back_and_never_beyond(self) -> None:
        one = log(1, 1)
        one.commit_to(Index(2))
        one.commit_to(Index(1))
        assert one.committed == 2
        with pytest.raises(InvariantError):
            one.commit_to(Index(3))

    def test_only_of_the_term_asked_for(self) -> None:
        one = log(1, 2)
        assert not one.commit_if_term(Index(1), Term(2))
        assert one.commit_if_term(Index(2), Term(2))
        assert not one.commit_if_term(Index(2), Term(2))


class TestApplying:
    def hand_out(self, one: RaftLog, *, unstable: bool = True) -> list[int]:
        found = one.next_committed(allow_unstable=unstable)
        if found:
            one.accept_applying(found, allow_unstable=unstable)
        return [entry.index for entry in found]

    def test_once_each(self) -> None:
        one = log(1, 1, 1)
        one.commit_to(Index(2))
        assert self.hand_out(one) == [1, 2]
        assert self.hand_out(one) == []
        one.commit_to(Index(3))
        assert self.hand_out(one) == [3]

    def test_only_what_is_durable_if_so_asked(self) -> None:
        """Property 77."""
        one = log(1, unstable=(1, 1))
        one.commit_to(Index(3))
        assert self.hand_out(one, unstable=False) == [1]
        save(one)
        assert self.hand_out(one, unstable=False) == [2, 3]

    def test_the_limit_holds_across_batches(self) -> None:
        """Property 78."""
        size = entry_size(entries(1)[0])
        one = log(1, 1, 1, 1, limit=2 * size)
        one.commit_to(Index(4))
        assert self.hand_out(one) == [1, 2]
        assert self.hand_out(one) == []
        one.applied_to(Index(1), size)
        assert self.hand_out(one) == [3]
        one.applied_to(Index(3), 2 * size)
        assert self.hand_out(one) == [4]

    def test_nothing_while_a_snapshot_is_pending(self) -> None:
        """Property 55."""
        one = log(1, 1)
        one.commit_to(Index(2))
        one.restore(Snapshot(Index(5), Term(1), conf(1)))
        one.append(entries(1, first=6))
        one.commit_to(Index(6))
        assert self.hand_out(one) == []
        one.stable_snapshot_to(Index(5))
        one.applied_to(Index(5), 0)
        assert self.hand_out(one) == [6]

    @pytest.mark.parametrize("index", [0, 3])
    def test_applied_stays_within_bounds(self, index: int) -> None:
        """Property 80."""
        one = log(1, 1, 1)
        one.commit_to(Index(2))
        one.applied_to(Index(1), 0)
        with pytest.raises(InvariantError):
            one.applied_to(Index(index), 0)

    def test_a_snapshot_never_undoes_a_commit(self) -> None:
        one = log(1, 1)
        one.commit_to(Index(2))
        with pytest.raises(InvariantError):
            one.restore(Snapshot(Index(2), Term(1), conf(1)))


class TestUnappliedConfChange:
    def one(self) -> RaftLog:
        storage = MemoryStorage()
        storage.append([*entries(1, 1, 1), entry(1, 4, b"x", EntryType.CONF_CHANGE), *entries(1, 1, first=5)])
        return RaftLog(storage, NO_LIMIT)

    def test_is_found_among_what_is_committed_page_by_page(self) -> None:
        one = self.one()
        one.commit_to(Index(3))
        assert not one.has_unapplied_conf_change(1)
        one.commit_to(Index(5))
        assert one.has_unapplied_conf_change(1)
        one.applied_to(Index(4), 0)
        assert not one.has_unapplied_conf_change(1)

    def test_is_looked_for_once_in_each_entry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one = self.one()
        read: list[Index] = []
        real = RaftLog.slice

        def counted(self: RaftLog, first: Index, end: Index, bytes_max: int) -> tuple[Entry, ...]:
            found = real(self, first, end, bytes_max)
            read.extend(each.index for each in found)
            return found

        monkeypatch.setattr(RaftLog, "slice", counted)
        one.commit_to(Index(3))
        for _ in range(3):
            assert not one.has_unapplied_conf_change(1)
        one.commit_to(Index(6))
        for _ in range(3):
            assert one.has_unapplied_conf_change(1)
        assert read == [1, 2, 3, 4]


class TestMemoryStorage:
    def test_append_replaces_and_skips_what_is_compacted(self) -> None:
        storage = MemoryStorage()
        storage.append(entries(1, 1, 1, 1))
        storage.compact(Index(2))
        storage.append(entries(2, 2, 2, first=1))
        assert [found.term for found in storage.entries(Index(3), Index(4), NO_LIMIT)] == [2]
        assert storage.last_index() == 3
        storage.append(entries(1, first=1))
        assert storage.last_index() == 3

    def test_no_gap(self) -> None:
        with pytest.raises(InvariantError):
            MemoryStorage().append(entries(1, first=2))

    def test_bounds(self) -> None:
        """Property 32."""
        storage = MemoryStorage()
        storage.append(entries(1, 1, 2))
        storage.compact(Index(2))
        with pytest.raises(CompactedError):
            storage.compact(Index(2))
        with pytest.raises(UnavailableError):
            storage.compact(Index(4))
        with pytest.raises(CompactedError):
            storage.entries(Index(2), Index(3), NO_LIMIT)
        with pytest.raises(UnavailableError):
            storage.entries(Index(3), Index(5), NO_LIMIT)
        with pytest.raises(CompactedError):
            storage.term(Index(1))
        with pytest.raises(UnavailableError):
            storage.term(Index(4))
        assert (storage.term(Index(2)), storage.term(Index(3))) == (1, 2)

    def test_snapshots(self) -> None:
        storage = MemoryStorage(conf(1))
        storage.append(entries(1, 1, 2))
        made = storage.create_snapshot(Index(2), conf(1), b"state")
        assert (made.id, storage.snapshot(), storage.last_index()) == ((1, 2), made, 3)
        with pytest.raises(SnapshotOutOfDateError):
            storage.create_snapshot(Index(2), conf(1), b"again")
        with pytest.raises(SnapshotOutOfDateError):
            storage.apply_snapshot(Snapshot(Index(1), Term(1), conf(1)))
        storage.apply_snapshot(Snapshot(Index(9), Term(3), conf(1, 2)))
        assert (storage.first_index(), storage.last_index(), storage.term(Index(9))) == (10, 9, 3)
        assert storage.initial_state()[1] == conf(1, 2)
