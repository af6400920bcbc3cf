"""High-water marks, settings, drawn session ids, and where a cluster begins that is made from the state of another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.machine import envelope
from ravel_node.machine.base import Database, Start, Status
from ravel_node.machine.high_water import MARKS_MAX, HighWaterMark, decode_marks, encode_marks, read_marks
from ravel_node.machine.refounding import INDEX_JUMP, REVISION_JUMP, TERM_JUMP, Founder, refound, start_above
from ravel_node.machine.settings import LEASES, SETTINGS, value_of
from ravel_node.machine.summary import describe
from ravel_node.raft.types import EntryId, Index, ReplicaId, Term
from tests.machine.helpers import Cluster, server_id

ONE, TWO = ReplicaId(1), ReplicaId(2)
numbers = st.integers(0, (1 << 64) - 1)
boot_ids = st.binary(min_size=8, max_size=8).map(bytes.hex)
marks = st.one_of(
    st.builds(HighWaterMark, st.integers(1, 9), boot_ids, numbers.map(Term), numbers.map(Index)),
    st.builds(HighWaterMark, st.just(0), st.just(""), numbers.map(Term), numbers.map(Index)),
)


@given(st.dictionaries(st.integers(1, 99).map(ReplicaId), marks, max_size=5))
def test_marks_come_back(some: dict[ReplicaId, HighWaterMark]) -> None:
    assert decode_marks(encode_marks(some)) == some


@pytest.mark.parametrize("data", [b"x", bytes(41), bytes(40), encode_marks({ONE: HighWaterMark()}) * (MARKS_MAX + 1)])
def test_bytes_that_are_no_marks_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="high-water mark"):
        decode_marks(data)
    (outcome,) = Cluster().run(envelope.high_water(data))
    assert outcome.status is Status.REFUSED


@given(marks, marks)
def test_a_merged_mark_is_no_lower_than_either(a: HighWaterMark, b: HighWaterMark) -> None:
    both = a.merged(b)
    for each in (a, b):
        assert (both.boot_number, both.term, both.index) >= (each.boot_number, 0, 0)
        assert both.term >= each.term
        assert both.index >= each.index
    assert (both.boot_number, both.boot_id) in {(a.boot_number, a.boot_id), (b.boot_number, b.boot_id)}


def test_of_two_starts_with_one_number_the_first_stays_known() -> None:
    assert HighWaterMark(3, "aa").merged(HighWaterMark(3, "bb")).boot_id == "aa"


def test_marks_only_rise_and_are_there_after_a_restart() -> None:
    cluster = Cluster()
    high = HighWaterMark(4, "11" * 8, Term(7), Index(90))
    cluster.run(envelope.high_water(encode_marks({ONE: high})))
    cluster.run(envelope.high_water(encode_marks({ONE: HighWaterMark(3, "22" * 8, Term(8), Index(50)), TWO: high})))
    expected = {ONE: high._replace(term=Term(8)), TWO: high}
    assert cluster.machine.marks == expected
    cluster.reopen()
    assert cluster.machine.marks == expected


def test_a_setting_is_kept_until_it_is_put_back_to_its_default() -> None:
    cluster = Cluster()
    assert value_of(LEASES, cluster.machine.settings) == "on"
    cluster.run(envelope.setting("leases", "off"), envelope.setting("of.a.later-version", "x"))
    cluster.reopen()
    assert cluster.machine.settings == {"leases": "off", "of.a.later-version": "x"}
    assert value_of(LEASES, cluster.machine.settings) == "off"
    cluster.run(envelope.setting("leases", ""))
    assert cluster.machine.settings == {"of.a.later-version": "x"}
    cluster.reopen()
    assert cluster.machine.settings == {"of.a.later-version": "x"}


def test_a_value_that_this_version_does_not_know_is_the_default() -> None:
    assert value_of(LEASES, {"leases": "sometimes"}) == "on"
    assert all(name == setting.name and len(setting.values) > 1 for name, setting in SETTINGS.items())


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x05ab", b"\x03A B", b"\x02ok" + b"v" * 257, b"\x02ok\xff"])
def test_a_setting_that_breaks_a_bound_is_refused(body: bytes) -> None:
    cluster = Cluster()
    (outcome,) = cluster.run(envelope._command(envelope.Kind.SETTING, body))
    assert outcome.status is Status.REFUSED
    assert not cluster.machine.settings


def test_a_session_has_the_id_that_the_leader_drew() -> None:
    cluster = Cluster()
    drawn = (1 << 62) + 5
    (outcome,) = cluster.run(envelope.register_session(drawn))
    assert (outcome.status, outcome.revision) == (Status.OK, drawn)
    (again,) = cluster.run(envelope.register_session(drawn))
    assert again.status is Status.REFUSED
    once = envelope.Once(drawn, 1, 1)
    (first,) = cluster.run(envelope.put(b"k", b"1"), once=once)
    (repeated,) = cluster.run(envelope.put(b"k", b"2"), once=once)
    assert first == repeated
    cluster.reopen()
    (repeated,) = cluster.run(envelope.put(b"k", b"3"), once=once)
    assert first == repeated


@pytest.mark.parametrize("body", [b"x", bytes(8), b"\xff" * 8, bytes(9)])
def test_a_session_id_that_cannot_be_is_refused(body: bytes) -> None:
    (outcome,) = Cluster().run(envelope._command(envelope.Kind.REGISTER_SESSION, body))
    assert outcome.status is Status.REFUSED


def test_the_new_kinds_are_told_in_words() -> None:
    mark = HighWaterMark(3, "aa" * 8, Term(1), Index(9))
    commands = [envelope.high_water(encode_marks({TWO: mark})), envelope.setting("leases", "off")]
    assert describe(envelope.payload([envelope.group(commands)])) == [
        ("marks", "replica 2 start 3 index 9"),
        ("setting", "leases = off"),
    ]


# --- where a cluster begins that is made from another one's state

YEAR_US = 365 * 24 * 3600 * 1_000_000
NOW_US = 57 * YEAR_US


def test_a_restored_cluster_begins_above_what_the_old_one_reported_since_the_backup() -> None:
    start = start_above(EntryId(Term(5), Index(1_000)), 500, NOW_US)
    assert start.revision == NOW_US
    assert start.at == EntryId(Term(NOW_US // 1_000_000), Index(NOW_US // 100))
    assert start.at.index << 16 < 1 << 64, "stamps of sessions hold the index and 16 bits more"


def test_restoring_twice_from_one_backup_does_not_give_a_number_out_twice() -> None:
    """A fixed jump would: the first restored cluster has written, the second begins at the same revision."""
    backup = EntryId(Term(5), Index(1_000))
    first = start_above(backup, 500, NOW_US)
    written = first.revision + 3_600 * 100_000  # an hour of 100,000 writes a second
    second = start_above(backup, 500, NOW_US + 3_600 * 1_000_000)
    assert second.revision > written
    assert second.at.term > first.at.term
    assert second.at.index > first.at.index + 3_600 * 5_000


def test_restores_in_quick_succession_do_not_get_ahead_of_the_clock() -> None:
    """Else a later one, from the first backup, would begin below what the second has reported."""
    backup = EntryId(Term(5), Index(1_000))
    first = start_above(backup, 500, NOW_US)
    second = start_above(first.at, first.revision, NOW_US + 2_000_000)
    third = start_above(backup, 500, NOW_US + 4_000_000)
    assert first.revision < second.revision < third.revision
    assert first.at.index < second.at.index < third.at.index
    assert first.at.term < second.at.term < third.at.term


def test_a_clock_in_the_past_still_leaves_a_jump() -> None:
    start = start_above(EntryId(Term(5), Index(1_000)), 500, 0)
    assert start == Start(EntryId(Term(5 + TERM_JUMP), Index(1_000 + INDEX_JUMP)), 500 + REVISION_JUMP)


def test_a_new_cluster_has_no_marks_of_the_old_one_and_begins_where_it_is_told() -> None:
    cluster = Cluster()
    cluster.run(envelope.put(b"k", b"v"))
    cluster.run(envelope.high_water(encode_marks({ONE: HighWaterMark(4, "11" * 8, Term(7), Index(90))})))
    cluster.state.applied = cluster.next()
    start = Start(EntryId(Term(60), Index(6_000)), 1 << 50)
    replica_id = refound(cluster.state, cluster.state, Founder(server_id(9), "n9", "0.1.0", 5), "anew", start)
    assert replica_id == 2
    assert read_marks(cluster.state) == {}
    cluster.reopen()
    assert (cluster.machine.revision, cluster.machine.config_index) == (1 << 50, 6_000)
    assert cluster.rows(Database.KV)
