"""The part of the log that is not durable yet."""

from __future__ import annotations

import pytest

from ravel_node.raft import Index, InvariantError, Snapshot, Term
from ravel_node.raft.unstable import Unstable
from tests.raft.support import conf, entries


def unstable(*terms: int, offset: int = 5, accepted: bool = False) -> Unstable:
    one = Unstable(Index(offset))
    if terms:
        one.append(entries(*terms, first=offset))
    if accepted:
        one.accept()
    return one


def shape(one: Unstable) -> tuple[int, list[tuple[int, int]], int]:
    return one.offset, [(entry.term, entry.index) for entry in one.entries], one.writing


@pytest.mark.parametrize(
    ("first", "terms", "expected"),
    [
        (7, (2,), (5, [(1, 5), (1, 6), (2, 7)], 7)),  # behind the end
        (6, (2, 2), (5, [(1, 5), (2, 6), (2, 7)], 6)),  # in the middle: what was being written counts no more
        (5, (2,), (5, [(2, 5)], 5)),  # all of it
        (4, (2, 2), (4, [(2, 4), (2, 5)], 4)),  # and what was durable before it
    ],
)
def test_append_replaces_from_its_first_index(first: int, terms: tuple[int, ...], expected: object) -> None:
    one = unstable(1, 1, accepted=True)
    one.append(entries(*terms, first=first))
    assert shape(one) == expected


def test_append_leaves_no_gap() -> None:
    with pytest.raises(InvariantError):
        unstable(1, 1).append(entries(1, first=8))


def test_a_list_that_was_handed_out_stays() -> None:
    one = unstable(1, 1)
    handed_out = one.next_entries()
    one.append(entries(2, first=5))
    assert [entry.term for entry in handed_out] == [1, 1]


def test_entries_are_handed_out_once() -> None:
    one = unstable(1, 1)
    assert one.has_next_entries
    assert len(one.next_entries()) == 2
    one.accept()
    assert not one.has_next_entries
    assert one.next_entries() == []
    one.append(entries(1, first=7))
    assert [entry.index for entry in one.next_entries()] == [7]


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [
        (5, 1, (6, [(2, 6)], 7)),
        (6, 2, (7, [], 7)),
        (6, 1, (5, [(1, 5), (2, 6)], 7)),  # replaced since: another term
        (4, 1, (5, [(1, 5), (2, 6)], 7)),  # durable before
        (7, 2, (5, [(1, 5), (2, 6)], 7)),  # gone since
    ],
)
def test_stable_frees_only_what_it_names(index: int, term: int, expected: object) -> None:
    """Property 77: answers about entries that were replaced free nothing."""
    one = unstable(1, 2, accepted=True)
    one.stable_to(Index(index), Term(term))
    assert shape(one) == expected


def test_terms() -> None:
    one = unstable(1, 2)
    assert [one.term(Index(index)) for index in (4, 5, 6, 7)] == [None, 1, 2, None]
    one.restore(Snapshot(Index(9), Term(3), conf(1)))
    assert [one.term(Index(index)) for index in (5, 9, 10)] == [None, 3, None]


def test_a_snapshot_replaces_everything_and_is_handed_out_once() -> None:
    one = unstable(1, 2, accepted=True)
    snapshot = Snapshot(Index(9), Term(3), conf(1))
    one.restore(snapshot)
    assert shape(one) == (10, [], 10)
    assert one.next_snapshot() is snapshot
    one.accept()
    assert one.next_snapshot() is None
    one.stable_snapshot_to(Index(8))
    assert one.snapshot is snapshot
    one.stable_snapshot_to(Index(9))
    assert one.snapshot is None
