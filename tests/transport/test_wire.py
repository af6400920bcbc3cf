"""Raft messages to protobuf and back: nothing is lost, and nothing that is no message gets through or crashes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.raft.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    ConfState,
    Entry,
    EntryType,
    Index,
    Message,
    MessageType,
    ReplicaId,
    Snapshot,
    Term,
)
from ravel_node.transport.wire import (
    LOCAL_TYPES,
    WireError,
    message_from_wire,
    message_to_wire,
    parse_message,
    size_of,
)
from ravelpb.v1 import raft_pb2

U64_MAX = (1 << 64) - 1
numbers = st.integers(0, U64_MAX)
ids = st.integers(1, LOCAL_APPLY - 1).map(ReplicaId)
id_tuples = st.sets(ids, max_size=5).map(sorted).map(tuple)
conf_states = st.builds(
    ConfState,
    voters=id_tuples,
    learners=id_tuples,
    voters_outgoing=id_tuples,
    learners_next=id_tuples,
    auto_leave=st.booleans(),
)
snapshots = st.builds(
    Snapshot,
    index=st.integers(1, U64_MAX).map(Index),
    term=numbers.map(Term),
    conf_state=conf_states,
    data=st.binary(max_size=20),
)
entries = st.builds(
    Entry, term=numbers.map(Term), index=numbers.map(Index), type=st.sampled_from(EntryType), data=st.binary(max_size=50)
)
remote_types = sorted(set(MessageType) - LOCAL_TYPES)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(remote_types))
    message = Message(
        type=kind,
        to=draw(ids),
        from_=draw(ids),
        term=Term(draw(numbers)),
        log_term=Term(draw(numbers)),
        index=Index(draw(numbers)),
        entries=tuple(draw(st.lists(entries, max_size=3))),
        commit=Index(draw(numbers)),
        snapshot=draw(snapshots if kind is MessageType.SNAPSHOT else st.none() | snapshots),
        reject=draw(st.booleans()),
        reject_hint=Index(draw(numbers)),
        context=draw(st.binary(max_size=20)),
        promise_us=draw(numbers),
    )
    if kind is not MessageType.APPEND:
        return message
    terms = sorted(draw(st.lists(numbers, min_size=5, max_size=5)))
    index = draw(st.integers(0, U64_MAX - 3))
    follow = [entry._replace(term=Term(terms[1 + i]), index=Index(index + 1 + i)) for i, entry in enumerate(message.entries)]
    return replace(message, term=Term(terms[4]), log_term=Term(terms[0]), index=Index(index), entries=tuple(follow))


@given(messages())
def test_every_message_survives_the_wire(message: Message) -> None:
    wire = message_to_wire(message)
    assert parse_message(wire.SerializeToString()) == message
    if message.snapshot is None:
        assert wire.ByteSize() <= size_of(message) + 64  # ten-byte numbers in all fields; `size_of` is meant for real ones


def test_no_field_of_a_message_is_left_out_on_the_wire() -> None:
    """A field that is new in the core is new here, too: with a value of its own it must come back."""
    snapshot = Snapshot(Index(3), Term(2), ConfState(voters=(ReplicaId(1),)), b"data")
    message = Message(
        MessageType.SNAPSHOT, ReplicaId(1), ReplicaId(2), Term(3), Term(4), Index(5), (Entry(Term(2), Index(6)),), Index(7),
        snapshot=snapshot, reject=True, reject_hint=Index(8), context=b"c", promise_us=9,
    )  # fmt: skip
    empty = Message(MessageType.SNAPSHOT)
    left_out = {field.name for field in fields(message) if getattr(message, field.name) == getattr(empty, field.name)}
    assert left_out == {"type", "vote", "responses"}, "the last two never leave the process"
    assert message_from_wire(message_to_wire(message)) == message


@given(st.binary(max_size=200))
def test_garbage_is_a_wire_error_and_never_a_crash(data: bytes) -> None:
    try:
        message = parse_message(data)
    except WireError:
        return
    assert message.type not in LOCAL_TYPES


@st.composite
def wild_messages(draw: st.DrawFn) -> raft_pb2.Message:
    """Well-formed protobuf with any numbers in it."""
    small = st.integers(0, 4) | numbers
    fields: dict[str, Any] = {name: draw(small) for name in ("to", "from", "term", "log_term", "index", "commit")}
    wire = raft_pb2.Message(type=draw(st.integers(0, 30) | st.integers(0, (1 << 32) - 1)), **fields)
    for _ in range(draw(st.integers(0, 3))):
        wire.entries.add(term=draw(small), index=draw(small), type=draw(st.integers(0, 5)), data=draw(st.binary(max_size=5)))
    if draw(st.booleans()):
        wire.snapshot.index = draw(small)
        wire.snapshot.conf_state.voters.extend(draw(st.lists(small, max_size=4)))
    return wire


@given(wild_messages())
def test_whatever_is_decoded_can_be_sent_on(wire: raft_pb2.Message) -> None:
    try:
        message = message_from_wire(wire)
    except WireError:
        return
    assert message_from_wire(message_to_wire(message)) == message
    index = message.index
    if message.type is MessageType.APPEND:
        assert [entry.index for entry in message.entries] == list(range(index + 1, index + 1 + len(message.entries)))


APPEND = Message(
    MessageType.APPEND,
    ReplicaId(2),
    ReplicaId(1),
    Term(5),
    Term(4),
    Index(10),
    (Entry(Term(4), Index(11), data=b"a"), Entry(Term(5), Index(12), data=b"b")),
    Index(9),
)


@pytest.mark.parametrize("kind", sorted(LOCAL_TYPES))
def test_local_types_are_neither_sent_nor_taken(kind: MessageType) -> None:
    with pytest.raises(WireError, match="local"):
        message_to_wire(replace(APPEND, type=kind))
    wire = message_to_wire(APPEND)
    wire.type = kind
    with pytest.raises(WireError, match="local"):
        message_from_wire(wire)


@pytest.mark.parametrize(
    "change",
    [
        {"to": 0},
        {"from_": 0},
        {"to": LOCAL_APPEND},
        {"from_": LOCAL_APPLY},
        {"term": -1},
        {"index": 1 << 64},
        {"responses": (APPEND,)},
        {"vote": 3},
    ],
)
def test_what_may_not_travel_is_not_sent(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        message_to_wire(replace(APPEND, **change))


@pytest.mark.parametrize(
    ("field", "value"),
    [("type", 99), ("type", (1 << 32) - 1), ("to", 0), ("from", 0), ("to", LOCAL_APPEND), ("from", LOCAL_APPLY)],
)
def test_numbers_out_of_range_are_refused(field: str, value: int) -> None:
    wire = message_to_wire(APPEND)
    setattr(wire, field, value)
    with pytest.raises(WireError, match=str(value)):
        message_from_wire(wire)


@pytest.mark.parametrize(
    ("at", "field", "value"),
    [
        (0, "index", 12),  # a gap
        (1, "index", 11),  # twice
        (1, "term", 3),  # back in time
        (0, "term", 3),  # before the entry that it follows
        (1, "term", 6),  # later than its sender
        (0, "type", 3),
    ],
)
def test_entries_that_no_leader_would_send_are_refused(at: int, field: str, value: int) -> None:
    wire = message_to_wire(APPEND)
    setattr(wire.entries[at], field, value)
    with pytest.raises(WireError):
        message_from_wire(wire)


@pytest.mark.parametrize("voters", [[0], [2, 1], [1, 1], [LOCAL_APPEND], list(range(1, 1026))])
def test_a_membership_that_names_nobody_or_somebody_twice_is_refused(voters: list[int]) -> None:
    snapshot = Snapshot(Index(3), Term(2), ConfState(voters=(ReplicaId(1),)))
    wire = message_to_wire(replace(APPEND, type=MessageType.SNAPSHOT, entries=(), snapshot=snapshot))
    assert message_from_wire(wire).snapshot == snapshot
    wire.snapshot.conf_state.voters[:] = voters
    with pytest.raises(WireError):
        message_from_wire(wire)


def test_a_snapshot_message_names_a_snapshot() -> None:
    wire = message_to_wire(replace(APPEND, type=MessageType.SNAPSHOT, entries=()))
    with pytest.raises(WireError):
        message_from_wire(wire)
    wire.snapshot.term = 3
    with pytest.raises(WireError):
        message_from_wire(wire)
