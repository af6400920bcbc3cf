"""Member records, the membership at rest, replica ids, and what a membership change leaves in the state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravel_node.machine import envelope, members
from ravel_node.machine.base import Database, MemberRecord, Outcome, Status
from ravel_node.machine.envelope import UnknownCommandError
from ravel_node.machine.limits import ADDRESS_BYTES_MAX, CONTEXT_RECORDS_MAX
from ravel_node.machine.members import MemberRecordError, MemberVersionError
from ravel_node.raft.types import ConfState, Index, ReplicaId
from tests.machine.helpers import Cluster, member, server_id, voters
from tests.machine.memory_txn import MemoryState

ids = st.integers(1, (1 << 63) - 1).map(ReplicaId)
id_tuples = st.lists(ids, max_size=4, unique=True).map(lambda some: tuple(sorted(some)))
conf_states = st.builds(ConfState, id_tuples, id_tuples, id_tuples, id_tuples, st.booleans())
addresses = st.text("az09.:-ü", max_size=12)
records = st.builds(
    MemberRecord,
    replica_id=ids,
    server_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    name=st.text("abz09._-", min_size=1, max_size=63),
    version=st.text(max_size=4),
    format=st.integers(1, 65_535),
    listen=addresses,
    peer=addresses,
    listen_bind=addresses,
    peer_bind=addresses,
    auto_promote=st.booleans(),
    removed=st.booleans(),
)


@given(records)
def test_a_record_comes_back(record: MemberRecord) -> None:
    assert members.decode_member(members.encode_member(record)) == record


@given(st.lists(records, max_size=4))
def test_a_context_comes_back(some: list[MemberRecord]) -> None:
    assert members.decode_context(members.encode_context(some)) == some


@given(conf_states)
def test_a_membership_comes_back(conf_state: ConfState) -> None:
    assert members.decode_conf_state(members.encode_conf_state(conf_state)) == conf_state


def test_bytes_are_fixed() -> None:
    """The format on disk and in the log: these bytes may never change their meaning."""
    record = replace(member(3, auto_promote=True), version="1", listen="a:1", peer="b:2", listen_bind="c:3", peer_bind="")
    raw = members.encode_member(record)
    assert raw.hex(" ") == (
        "01 01 00 00 00 00 00 00 00 03 00 01 00 20 " + (b"0" * 31 + b"3").hex(" ") + " 00 02 6e 33 00 01 31 "
        "00 03 61 3a 31 00 03 62 3a 32 00 03 63 3a 33 00 00"
    )
    assert members.encode_context([record]) == b"\x01\x00\x01" + len(raw).to_bytes(2, "big") + raw
    assert members.encode_conf_state(voters(1, 2, learners=[3])).hex() == (
        "01000002000100000000000000000000000100000000000000020000000000000003"
    )


@given(st.binary(max_size=120))
def test_garbage_is_a_named_error(garbage: bytes) -> None:
    readers: list[Any] = [members.decode_member, members.decode_context, members.decode_conf_state]
    for read in readers:
        for data in (garbage, b"\x01" + garbage, b"\x01\x00\x00" + garbage):
            try:
                read(data)
            except (MemberRecordError, MemberVersionError) as error:
                assert str(error)  # noqa: PT017


def test_a_cut_record_is_refused_at_every_length() -> None:
    raw = members.encode_member(member(1))
    for size in range(len(raw)):
        with pytest.raises(MemberRecordError):
            members.decode_member(raw[:size])
    with pytest.raises(MemberRecordError):
        members.decode_member(raw + b"x")
    context = members.encode_context([member(1), member(2)])
    for size in range(1, len(context)):
        with pytest.raises(MemberRecordError):
            members.decode_context(context[:size])


def test_a_later_version_is_not_guessed_at() -> None:
    for read in (members.decode_member, members.decode_context, members.decode_conf_state):
        with pytest.raises(MemberVersionError, match="version 2, where this build knows 1: upgrade"):
            read(b"\x02")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("replica_id", 0),
        ("replica_id", 1 << 63),
        ("format", 0),
        ("format", 65_536),
        ("server_id", "A" * 32),
        ("server_id", "a" * 31),
        ("server_id", "a" * 32 + "\n"),
        ("name", ""),
        ("name", "Upper"),
        ("name", "a" * 64),
        ("name", "n1\n"),
        ("version", "v" * 65),
        ("listen", "a" * (ADDRESS_BYTES_MAX + 1)),
        ("peer_bind", "ü" * ADDRESS_BYTES_MAX),
    ],
)
def test_fields_are_bounded(field: str, value: object) -> None:
    with pytest.raises(MemberRecordError):
        members.encode_member(replace(member(1), **{field: value}))  # type: ignore[arg-type]


def test_a_change_has_a_bounded_number_of_records() -> None:
    some = [member(number) for number in range(1, CONTEXT_RECORDS_MAX + 2)]
    assert len(members.decode_context(members.encode_context(some[:-1]))) == CONTEXT_RECORDS_MAX
    with pytest.raises(MemberRecordError, match="65 records, at most 64"):
        members.encode_context(some)


# --- the state


def test_an_empty_state_has_no_members() -> None:
    state = MemoryState()
    assert members.read_members(state) == {}
    assert members.read_conf_state(state.get) == ConfState()
    assert members.read_config_index(state.get) == 0
    assert members.read_cluster_name(state.get) == ""


def test_a_cluster_begins_with_its_name_and_first_member() -> None:
    cluster = Cluster()
    machine = cluster.machine
    assert machine.cluster_name == "orders"
    assert machine.conf_state == voters(1)
    assert machine.config_index == 1
    assert machine.members == {1: member(1)}
    assert machine.member_by_server(server_id(1)) == member(1)
    assert machine.member_by_server(server_id(2)) is None
    assert not machine.is_removed(ReplicaId(1))


def test_a_bad_cluster_name_is_refused() -> None:
    state = MemoryState()
    with pytest.raises(MemberRecordError, match="cluster name 'Not this'"):
        members.bootstrap_state(state, cluster_name="Not this", member=member(1), conf_state=voters(1), config_index=Index(1))
    assert not any(state.content().values())


def test_replica_ids_are_keyed_by_server() -> None:
    cluster = Cluster()
    some = [envelope.allocate_replica(server_id(number)) for number in (7, 8, 7, 1)]
    assert cluster.run(*some) == [Outcome(Status.OK, replica_id) for replica_id in (2, 3, 2, 1)]
    cluster.reopen()
    assert cluster.run(envelope.allocate_replica(server_id(8)), envelope.allocate_replica(server_id(9))) == [
        Outcome(Status.OK, 3),
        Outcome(Status.OK, 4),
    ]
    assert cluster.machine.members == {1: member(1)}  # an id alone makes no member


def test_a_change_adds_and_removes_members() -> None:
    cluster = Cluster()
    cluster.change(voters(1, learners=[2]), member(2, auto_promote=True))
    cluster.change(voters(1, 2))
    assert cluster.machine.members == {1: member(1), 2: member(2, auto_promote=True)}
    cluster.change(voters(2, 3, outgoing=[1, 2]), member(3))
    assert cluster.machine.removed_ids == frozenset()  # replica 1 is in the outgoing half still
    cluster.change(voters(2, 3))
    for _ in range(2):
        machine = cluster.machine
        assert machine.conf_state == voters(2, 3)
        assert machine.config_index == cluster.index
        assert machine.removed_ids == {1}
        assert machine.is_removed(ReplicaId(1))
        assert list(machine.members) == [1, 2, 3]
        assert machine.members[ReplicaId(1)] == member(1, removed=True)
        assert members.read_conf_state(cluster.state.get) == machine.conf_state
        assert members.read_config_index(cluster.state.get) == machine.config_index
        cluster.reopen()


def test_a_removed_server_gets_no_id_and_its_record_stays_removed() -> None:
    cluster = Cluster()
    assert cluster.run(envelope.allocate_replica(server_id(2)))[0].revision == 2
    cluster.change(voters(1, 2), member(2))
    cluster.change(voters(1))
    (outcome,) = cluster.run(envelope.allocate_replica(server_id(2)))
    assert outcome.status is Status.REFUSED
    assert b"cannot come back under its old identity, wipe its data directory" in outcome.value
    assert cluster.run(envelope.allocate_replica(server_id(12)))[0].revision == 3
    cluster.change(voters(1, learners=[2]), member(2))
    assert cluster.machine.is_removed(ReplicaId(2))


def test_an_unreadable_context_adds_no_record_and_stops_nobody() -> None:
    cluster = Cluster()
    cluster.change(voters(1, 2), context=b"\x01\x00\x01\x00\x03\x01ab")
    assert cluster.machine.conf_state == voters(1, 2)
    assert list(cluster.machine.members) == [1]
    with pytest.raises(UnknownCommandError, match=r"a membership change of version 2, .* upgrade"):
        cluster.change(voters(1), context=b"\x02")


def test_a_members_record_is_replaced() -> None:
    cluster = Cluster()
    new = replace(member(1, name="other"), listen="10.9.9.9:7400", format=2)
    assert cluster.run(envelope.set_member(replace(new, removed=True))) == [Outcome()]
    assert cluster.machine.members == {1: new}
    assert cluster.machine.config_index == 1
    cluster.reopen()
    assert cluster.machine.members == {1: new}


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (member(9), "replica 9 is not a member"),
        (member(3), "replica 3 is removed"),
        (member(1, server=5), "keeps its identity"),
        (member(1, name="n2"), "replica 2 is named n2 already"),
    ],
)
def test_a_record_that_may_not_be_set_is_refused(record: MemberRecord, why: str) -> None:
    cluster = Cluster()
    cluster.change(voters(1, 2, 3), member(2), member(3))
    cluster.change(voters(1, 2))
    before = cluster.rows(Database.MEMBERS)
    (outcome,) = cluster.run(envelope.set_member(record))
    assert outcome.status is Status.REFUSED
    assert why in outcome.value.decode()
    assert cluster.rows(Database.MEMBERS) == before
    assert cluster.run(envelope.set_member(member(1, name="n3"))) == [Outcome()]  # a removed member's name is free
