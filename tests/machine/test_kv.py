"""The key-value machine against a plain dictionary, and every rule that the dictionary does not know."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.machine import envelope, kv
from ravel_node.machine.base import Database, Outcome, Status
from ravel_node.machine.envelope import Kind, Once
from ravel_node.machine.kv import KeyValue, KVMachine
from ravel_node.machine.limits import ENTRY_COMMANDS_MAX
from ravel_node.raft.errors import InvariantError
from tests.machine.helpers import Cluster, bad_commands
from tests.machine.model import Model, Step, encode, steps


def check(cluster: Cluster, model: Model) -> None:
    """Everything that can be read of the machine is what the model says."""
    expected = [KeyValue(key, value, revision) for key, (revision, value) in sorted(model.pairs.items())]
    assert kv.scan(cluster.state, b"", None, 1_000)[:3] == (expected, False, model.revision)
    assert cluster.machine.revision == kv.read_revision(cluster.state.get) == model.revision
    for pair in expected:
        assert kv.get(cluster.state, pair.key) == pair


@given(st.lists(st.lists(st.lists(steps(), max_size=4), max_size=3), max_size=8))
def test_it_does_what_a_dictionary_does(entries: list[list[list[Step]]]) -> None:
    cluster, model = Cluster(), Model()
    for groups in entries:
        outcomes = cluster.apply(*(envelope.group([encode(step) for step in group]) for group in groups))
        assert outcomes == [model.run(step) for group in groups for step in group]
        check(cluster, model)


@given(
    st.lists(st.tuples(st.lists(steps(), min_size=1, max_size=4), st.integers(1, 3)), max_size=6),
    st.randoms(use_true_random=False),
)
def test_a_repeated_group_happens_once(groups: list[tuple[list[Step], int]], random: object) -> None:
    """Groups come again, late and in any order; the model sees each at its first coming."""
    cluster, model = Cluster(), Model()
    client = cluster.register()
    deliveries = [at for at, (_, times) in enumerate(groups) for _ in range(times)]
    random.shuffle(deliveries)  # type: ignore[attr-defined]
    answers: dict[int, list[Outcome]] = {}
    for at in deliveries:
        group = groups[at][0]
        outcomes = cluster.run(*map(encode, group), once=Once(client, 1 + 10 * at, 1))
        if at not in answers:
            answers[at] = [model.run(step) for step in group]
        assert outcomes == answers[at]
        check(cluster, model)


@given(st.lists(steps() | bad_commands, min_size=1, max_size=8))
def test_a_bad_command_is_refused_and_the_rest_applies(mixed: list[Step | bytes]) -> None:
    cluster, model = Cluster(), Model()
    outcomes = cluster.run(*(step if isinstance(step, bytes) else encode(step) for step in mixed))
    for step, outcome in zip(mixed, outcomes, strict=True):
        if isinstance(step, bytes):
            assert outcome.status is Status.REFUSED
            assert outcome.value.decode()
        else:
            assert outcome == model.run(step)
    check(cluster, model)


def test_the_revision_moves_once_for_what_changed_something() -> None:
    cluster = Cluster()
    outcomes = cluster.run(
        envelope.put(b"a", b"1"),  # 1
        envelope.delete(b"missing"),
        envelope.compare_and_swap(b"a", 7, b"2"),
        envelope.get_and_delete(b"missing"),
        envelope.write([], [(b"b", b"1"), (b"c", b"1"), (b"a", None)]),  # 2
        envelope.write([(b"b", 1)], [(b"b", b"2")]),
        envelope.write([], [(b"missing", None)]),
        envelope.write([], []),
        envelope.compare_and_swap(b"b", 2, b"2"),  # 3
        envelope.delete(b"c"),  # 4
    )
    assert [outcome.revision for outcome in outcomes] == [1, 1, 1, 0, 2, 2, 2, 2, 3, 4]
    assert cluster.machine.revision == 4
    assert kv.scan(cluster.state, b"", None, 10).items == [KeyValue(b"b", b"2", 3)]


def test_a_failed_swap_tells_what_is_there() -> None:
    cluster = Cluster()
    cluster.run(envelope.put(b"k", b"actual"))
    assert cluster.run(envelope.compare_and_swap(b"k", 0, b"new")) == [Outcome(Status.CONDITION_FAILED, 1, True, b"actual")]
    assert cluster.run(envelope.compare_and_swap(b"x", 5, b"new")) == [Outcome(Status.CONDITION_FAILED, 0, False, b"")]
    assert cluster.run(envelope.compare_and_swap(b"x", 0, b"new")) == [Outcome(Status.OK, 2)]


def test_a_write_is_all_or_nothing() -> None:
    cluster = Cluster()
    cluster.run(envelope.put(b"k", b"actual"), envelope.put(b"other", b""))
    before = cluster.content()
    (outcome,) = cluster.run(envelope.write([(b"k", 1), (b"other", 1), (b"none", 9)], [(b"k", b"new"), (b"other", None)]))
    assert outcome[:3] == (Status.CONDITION_FAILED, 2, True)
    assert envelope.split_failed_condition(outcome.value) == (b"other", b"")
    assert cluster.content() == before
    (outcome,) = cluster.run(envelope.write([(b"k", 1), (b"none", 0)], [(b"k", b"new"), (b"other", None), (b"none", b"n")]))
    assert outcome == Outcome(Status.OK, 3)
    assert kv.scan(cluster.state, b"", None, 10).items == [KeyValue(b"k", b"new", 3), KeyValue(b"none", b"n", 3)]


def test_the_revision_is_written_once_an_entry_and_only_if_it_moved() -> None:
    cluster = Cluster()
    cluster.run(envelope.delete(b"missing"))
    assert kv.REVISION not in cluster.rows(Database.META)
    cluster.apply(envelope.group([envelope.put(b"a", b"")] * 3), envelope.group([envelope.put(b"b", b"")]))
    assert cluster.rows(Database.META)[kv.REVISION] == (4).to_bytes(8, "big")


def test_an_empty_payload_does_nothing() -> None:
    cluster = Cluster()
    before = cluster.content()
    assert list(cluster.machine.apply(cluster.next(), b"", cluster.state)) == []
    assert cluster.content() == before


def test_records_are_the_revision_and_the_value() -> None:
    cluster = Cluster()
    cluster.run(envelope.put(b"k", b"value"))
    assert cluster.rows(Database.KV) == {b"k": bytes(7) + b"\x01value"}
    assert not cluster.rows(Database.SLOTS)  # the storage layer's


def test_the_state_survives_a_restart() -> None:
    cluster = Cluster()
    cluster.run(envelope.put(b"k", b"value"))
    cluster.reopen()
    assert cluster.machine.revision == 1
    assert cluster.run(envelope.put(b"l", b"")) == [Outcome(Status.OK, 2)]


def test_pages_of_a_scan() -> None:
    cluster = Cluster()
    cluster.run(*(envelope.put(b"%03d" % number, b"v" * 10) for number in range(10)))
    page = kv.scan(cluster.state, b"002", b"008", 4)
    assert ([item.key for item in page.items], page.more, page.revision) == ([b"002", b"003", b"004", b"005"], True, 10)
    page = kv.scan(cluster.state, page.items[-1].key + b"\0", b"008", 4)
    assert ([item.key for item in page.items], page.more) == ([b"006", b"007"], False)
    assert not kv.scan(cluster.state, b"002", b"006", 4).more  # full, and there is no more
    assert len(kv.scan(cluster.state, b"", None, 10, bytes_max=39).items) == 3  # ends once it holds as much
    assert len(kv.scan(cluster.state, b"", None, 10, bytes_max=1).items) == 1
    page = kv.scan(cluster.state, b"009", None, 10, keys_only=True)
    assert page.items == [KeyValue(b"009", b"", 10)]
    assert kv.scan(cluster.state, b"x", None, 10)[:3] == ([], False, 10)
    assert kv.get(cluster.state, b"x") is None


@pytest.mark.parametrize("limit", [0, kv.PAGE_KEYS_MAX + 1])
def test_a_page_is_bounded(limit: int) -> None:
    with pytest.raises(InvariantError, match=f"a page of {limit} keys"):
        kv.scan(Cluster().state, b"", None, limit)


def test_a_page_of_keys_alone_is_bounded_by_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are read though they are not returned."""
    monkeypatch.setattr(kv, "PAGE_READ_BYTES_MAX", 1_000)
    cluster = Cluster()
    cluster.run(*(envelope.put(b"%03d" % number, bytes(200)) for number in range(12)))
    found, pages, start, more = [], 0, b"", True
    while more:
        page = kv.scan(cluster.state, start, None, 100, keys_only=True)
        assert {item.value for item in page.items} == {b""}
        found += [item.key for item in page.items]
        start, more, pages = page.next, page.more, pages + 1
    assert found == [b"%03d" % number for number in range(12)]
    assert pages == 3, "five keys with their values pass 1,000 bytes"


def test_an_entry_holds_as_many_commands_as_it_has_places() -> None:
    cluster = Cluster()
    full = envelope.group([envelope.delete(b"x")] * (ENTRY_COMMANDS_MAX // 2))
    outcomes = cluster.apply(full, full, envelope.group([envelope.put(b"k", b"")], Once(1, 1, 1)))
    assert [outcome.status for outcome in outcomes[-2:]] == [Status.OK, Status.REFUSED]
    assert cluster.machine.revision == 0


def test_a_garbage_cluster_command_is_refused() -> None:
    cluster = Cluster()
    some = [bytes((kind, 0, 0, 0, 0, 0, 3)) + b"\x01\xff\x00" for kind in (6, 7, 8)]
    before = cluster.content()
    assert [outcome.status for outcome in cluster.run(*some)] == [Status.REFUSED] * 3
    assert cluster.content() == before


def test_a_checksum_changes_nothing_and_says_where_it_stands() -> None:
    cluster = Cluster()
    cluster.apply(envelope.group([envelope.put(b"k", b"v")]))
    before, revision = cluster.state.content(), cluster.machine.revision
    assert cluster.machine.checksum_index == 0
    (outcome,) = cluster.apply(envelope.group([envelope.checksum()]))
    assert (outcome.status, outcome.revision) == (Status.OK, cluster.index)
    assert cluster.machine.checksum_index == cluster.index
    assert cluster.machine.revision == revision
    assert cluster.state.content() == before


def test_a_checksum_with_a_body_or_in_a_session_is_refused() -> None:
    cluster = Cluster()
    client = cluster.register()
    command = struct.pack(">BHI", Kind.CHECKSUM, 0, 1) + b"x"
    (outcome,) = cluster.apply(envelope.group([command]))
    assert outcome.status is Status.REFUSED
    (outcome,) = cluster.apply(envelope.group([envelope.checksum()], Once(client, 1, 1)))
    assert outcome.status is Status.REFUSED
    assert b"session" in outcome.value
    assert cluster.machine.checksum_index == 0


def test_it_tells_which_keys_an_entry_reads() -> None:
    commands = [
        envelope.put(b"put", b"v"),
        envelope.delete(b"deleted"),
        envelope.get_and_delete(b"taken"),
        envelope.compare_and_swap(b"swapped", 3, b"v"),
        envelope.write([(b"condition", 1)], [(b"written", b"v"), (b"gone", None)]),
        envelope.register_session(7),
        bytes([*envelope.delete(b"k")[:3], *bytes(4)]),  # its body is cut off: refused, when it is applied
    ]
    payload = envelope.payload([envelope.group(commands[:3]), envelope.group(commands[3:])])
    assert KVMachine().keys_read(payload) == [b"deleted", b"taken", b"swapped", b"condition", b"written", b"gone"]
    assert KVMachine().keys_read(b"") == []
