"""From an entry and its note follow exactly the changes that it made, whatever state it met."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.machine import envelope, history
from ravel_node.machine.base import Database
from ravel_node.machine.envelope import Once
from ravel_node.machine.history import ANCHOR_ENTRIES
from ravel_node.machine.slots import SlotsCommand, encode_step
from ravel_node.machine.slots import Step as SlotsStep
from ravelpb.slots import slot_of
from tests.machine.helpers import Cluster, commands, voters
from tests.machine.model import Model, Step, encode, steps


def changes_of(cluster: Cluster, *groups: bytes) -> list[list[history.Change]]:
    cluster.apply(*groups)
    return history.changes(envelope.payload(groups), history.read_idle(cluster.state.get, cluster.index))


@settings(max_examples=80)
@given(st.lists(st.lists(steps(), max_size=6), max_size=8))
def test_what_an_entry_changed_is_what_the_model_changed(log: list[list[Step]]) -> None:
    cluster, model = Cluster(), Model()
    for entry in log:
        expected = []
        for step in entry:
            before = dict(model.pairs)
            revision = model.revision
            model.run(step)
            if model.revision != revision:
                keys = [arguments[0] for arguments in step[1][1]] if step[0] == "write" else [step[1][0]]
                # An operation may write what is there already: that counts, so it is told by the revision, not by the value.
                expected.append(
                    [
                        (key, model.pairs[key][1] if key in model.pairs else None)
                        for key in keys
                        if model.pairs.get(key) != before.get(key)
                    ]
                )
        assert changes_of(cluster, envelope.group([encode(step) for step in entry])) == expected


groups = st.builds(
    lambda some, sequence, client: envelope.group(some, Once(client, sequence, 1)) if client else envelope.group(some),
    st.lists(commands(), max_size=5),
    st.integers(1, 8),
    st.sampled_from([0, 2 << 16, (2 << 16) + 1, 99]),
)


@settings(max_examples=80)
@given(st.lists(st.lists(groups, max_size=3), max_size=10), st.booleans())
def test_the_changes_make_the_state_also_where_writes_are_repeated(log: list[list[bytes]], reopen: bool) -> None:
    cluster = Cluster()
    cluster.run(*[envelope.register_session()] * 2)
    shadow: dict[bytes, bytes] = {}
    revision = 0
    for entry in log:
        for changed in changes_of(cluster, *entry):
            revision += 1
            for key, value in changed:
                if value is None:
                    del shadow[key]  # a key that was not there must not be told as deleted
                else:
                    shadow[key] = revision.to_bytes(8, "big") + value
        assert shadow == cluster.rows(Database.KV)
        assert revision == cluster.machine.revision
        if reopen:
            cluster.reopen()


def test_an_anchor_has_the_revision_before_its_entry_whatever_type_that_is() -> None:
    cluster = Cluster()
    while cluster.index < 2 * ANCHOR_ENTRIES + 1:
        if cluster.index + 1 == ANCHOR_ENTRIES:
            cluster.change(voters(1))
        else:
            cluster.run(envelope.put(b"k", b"v"), envelope.delete(b"missing"))
    get = cluster.state.get
    assert history.read_since(get) == 2
    assert history.read_anchor(get, ANCHOR_ENTRIES) == ANCHOR_ENTRIES - 2
    assert history.read_anchor(get, 2 * ANCHOR_ENTRIES) == 2 * ANCHOR_ENTRIES - 3
    assert history.read_anchor(get, 3 * ANCHOR_ENTRIES) is None


def test_puts_alone_leave_nothing_behind_but_anchors() -> None:
    cluster = Cluster()
    for _ in range(2 * ANCHOR_ENTRIES):
        cluster.run(*[envelope.put(b"k", b"v")] * 10)
    assert len(cluster.rows(Database.HISTORY)) == 1 + 2


def test_what_is_too_old_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "HISTORY_ENTRIES_MAX", 2 * ANCHOR_ENTRIES)
    cluster = Cluster()
    for _ in range(6 * ANCHOR_ENTRIES):
        cluster.run(envelope.delete(b"missing"))
        if cluster.index % 100 == 0:
            cluster.reopen()
    get = cluster.state.get
    newest = cluster.index // ANCHOR_ENTRIES * ANCHOR_ENTRIES
    since = history.read_since(get)
    assert since == newest - 2 * ANCHOR_ENTRIES
    assert not history.read_idle(get, since - 1)
    assert history.read_anchor(get, since - ANCHOR_ENTRIES) is None
    assert history.read_idle(get, since) == {0: frozenset()}
    assert history.read_anchor(get, since) == 0
    assert len(cluster.rows(Database.HISTORY)) <= 3 * ANCHOR_ENTRIES + 5


def test_a_write_of_which_a_part_did_nothing() -> None:
    cluster = Cluster()
    operations = [(b"a", b"1"), (b"x", None), (b"b", b"2"), (b"y", None)]
    assert changes_of(cluster, envelope.group([envelope.write([], operations)])) == [[(b"a", b"1"), (b"b", b"2")]]
    deletes = [(b"a", None), (b"x", None)]
    assert changes_of(cluster, envelope.group([envelope.write([], deletes)] * 2)) == [[(b"a", None)]]


def test_a_slot_that_was_activated_has_the_revision_after_its_entry() -> None:
    cluster = Cluster()
    for command in (
        SlotsCommand(SlotsStep.OWN, 1, slots=(1,), map_version=1),
        SlotsCommand(SlotsStep.PURGE, 1, last=True),
        SlotsCommand(SlotsStep.IMPORT, 5, slots=(7, 8), revision=3),
        SlotsCommand(SlotsStep.ACTIVATE, 5, map_version=2, revision=3),
    ):
        cluster.run(envelope.slots(encode_step(command)), *[envelope.put(key_in(1), b"v")] * 10)
    assert cluster.machine.revision == 40
    get = cluster.state.get
    assert [history.read_arrival(get, slot) for slot in (1, 7, 8)] == [0, 40, 40]
    rows = cluster.rows(Database.HISTORY)
    assert {history.record_problem(key, payload, 40) for key, payload in rows.items()} == {""}
    assert history.record_problem(b"c\0\7", (41).to_bytes(8, "big"), 40)
    assert history.record_problem(b"c\x10\0", (40).to_bytes(8, "big"), 40)


def key_in(slot: int) -> bytes:
    return next(key for number in range(1 << 20) if slot_of(key := b"%d" % number) == slot)


def test_a_record_that_no_machine_wrote_is_told_from_one_that_it_did() -> None:
    cluster = Cluster()
    while cluster.index < 2 * ANCHOR_ENTRIES:
        cluster.run(envelope.put(b"k", b"v"), envelope.delete(b"missing"), envelope.write([], [(b"k", b""), (b"x", None)]))
    revision = cluster.machine.revision
    rows = cluster.rows(Database.HISTORY)
    assert len(rows) > 100
    assert {history.record_problem(key, payload, revision) for key, payload in rows.items()} == {""}
    anchor, idle = b"a" + (64).to_bytes(8, "big"), b"i" + (64).to_bytes(8, "big")
    for key, payload in [
        (b"s", b""),
        (anchor, (revision + 1).to_bytes(8, "big")),
        (anchor, rows[anchor] + b"\0"),
        (idle, rows[idle][:-1]),
        (idle, b""),
        (b"i", rows[idle]),
        (b"x", b""),
    ]:
        assert history.record_problem(key, payload, revision)
