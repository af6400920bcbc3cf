"""Slots owned and moved: each step, out of order and in it, against a plain model, and beside writes, sessions and watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.machine import envelope, history
from ravel_node.machine import kv as machine_kv
from ravel_node.machine.base import Database, Outcome, Start, Status
from ravel_node.machine.envelope import STEP_NEWEST, Once, UnknownCommandError
from ravel_node.machine.kv import KeyValue, get
from ravel_node.machine.limits import MOVES_MAX
from ravel_node.machine.ownership import (
    CHUNKS_IN_FLIGHT_MAX,
    Mark,
    Side,
    SlotMove,
    Tenure,
    founded,
    notes,
    read_ownership,
    refused_slot,
    write_ownership,
)
from ravel_node.machine.records import KV_RULES
from ravel_node.machine.refounding import Founder, refound
from ravel_node.machine.slots import ALL_SLOTS, NO_SLOTS, MovedKey, SlotsCommand, Step, bitmap, encode_step, read_step, slots_of
from ravel_node.machine.summary import described
from ravel_node.raft.types import EntryId, Index, Term
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1 import slots_pb2
from tests.machine.helpers import Cluster, server_id


def key_in(slot: int, number: int = 0) -> bytes:
    """The key of this number in a slot."""
    return next(key for at in range(1_000_000) if slot_of(key := b"%d-%d" % (number, at)) == slot)


A, B, C = (key_in(slot) for slot in (7, 8, 900))
EVERY = tuple(range(SLOT_COUNT))
DEFAULTS = {"slots": (7, 8), "map_version": 3, "revision": 0}


def step(kind: Step, move: int = 5, **fields: object) -> bytes:
    return envelope.slots(encode_step(SlotsCommand(kind, move, **fields)))  # type: ignore[arg-type]


def managed(owned: bytes = ALL_SLOTS) -> Cluster:
    cluster = Cluster()
    write_ownership(cluster.state, founded(owned, 1))
    cluster.reopen()
    return cluster


def take(cluster: Cluster, kind: Step, move: int = 5, **fields: object) -> Outcome:
    (outcome,) = cluster.run(step(kind, move, **fields))
    return outcome


def ok(cluster: Cluster, kind: Step, move: int = 5, **fields: object) -> Outcome:
    outcome = take(cluster, kind, move, **fields)
    assert outcome.status is Status.OK, outcome.value
    return outcome


def refused(cluster: Cluster, kind: Step, move: int = 5, **fields: object) -> str:
    before = cluster.content()
    outcome = take(cluster, kind, move, **fields)
    assert outcome.status is Status.REFUSED
    assert cluster.content() == before
    return outcome.value.decode()


def named(*keys: bytes) -> tuple[MovedKey, ...]:
    return tuple(MovedKey(key, b"", 0) for key in keys)


# --- what is on the wire and in the log


def test_numbers_are_those_of_the_wire() -> None:
    assert {step.name: int(step) for step in Step} == {k: v for k, v in slots_pb2.SlotsStep.items() if v}
    assert {side.name: int(side) for side in Side} == {k: v for k, v in slots_pb2.MoveSide.items() if v}
    assert max(Step) == STEP_NEWEST


def _with_the_number_of_its_step(command: SlotsCommand) -> SlotsCommand:
    """A step has that of a chunk, or of a mover, or how many migrations it ends: never two of them."""
    if command.step is Step.OWN:
        return command._replace(chunk=0, mover=0)
    command = command._replace(expected=0, ended=())
    return command._replace(chunk=0) if command.step in (Step.EXPORT, Step.FREEZE) else command._replace(mover=0)


@given(
    st.builds(
        SlotsCommand,
        st.sampled_from(Step),
        st.integers(0, 2**64 - 1),
        st.sets(st.integers(0, SLOT_COUNT - 1), max_size=70).map(lambda slots: tuple(sorted(slots))),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.lists(
            st.builds(MovedKey, st.binary(min_size=1, max_size=480), st.binary(max_size=9), st.integers(0, 2**64 - 1)), max_size=4
        ).map(tuple),
        st.integers(0, 2**64 - 1),
        st.booleans(),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.sets(st.integers(0, 2**64 - 1), max_size=MOVES_MAX).map(lambda ids: tuple(sorted(ids))),
    ).map(_with_the_number_of_its_step)
)
def test_a_step_is_read_as_it_was_written_and_no_part_of_it_is(command: SlotsCommand) -> None:
    body = encode_step(command)
    assert read_step(body) == command
    for wrong in (body[:-1], body + b"\0", body[:20]):
        with pytest.raises(ValueError, match="step"):
            read_step(wrong)


@given(st.sets(st.integers(0, SLOT_COUNT - 1)))
def test_a_set_of_slots_is_a_bitmap(slots: set[int]) -> None:
    assert slots_of(bitmap(slots)) == tuple(sorted(slots))


def test_what_breaks_a_bound_is_refused_by_every_replica_alike() -> None:
    cluster = managed()
    for body in (
        b"",
        encode_step(SlotsCommand(Step.EXPORT, 5, (8, 7))),
        encode_step(SlotsCommand(Step.EXPORT, 5, (7, 7))),
        encode_step(SlotsCommand(Step.EXPORT, 5, (SLOT_COUNT,))),
        encode_step(SlotsCommand(Step.EXPORT, 0, (7,))),
        encode_step(SlotsCommand(Step.EXPORT, 1 << 63, (7,))),
        encode_step(SlotsCommand(Step.EXPORT, 5)),
        encode_step(SlotsCommand(Step.IMPORT_CHUNK, 5, keys=tuple(MovedKey(A, bytes(600_000), 1) for _ in range(2)))),
    ):
        before = cluster.content()
        (outcome,) = cluster.run(envelope.slots(body))
        assert outcome.status is Status.REFUSED
        assert cluster.content() == before
    with pytest.raises(UnknownCommandError):
        cluster.run(envelope.slots(bytes((STEP_NEWEST + 1,))))
    client = cluster.register()
    (outcome,) = cluster.run(step(Step.EXPORT, slots=(7,)), once=Once(client, 1, 1))
    assert outcome.status is Status.REFUSED


def test_steps_in_words() -> None:
    def line(kind: Step, **fields: Any) -> str:
        return described(envelope.payload([envelope.group([step(kind, **fields)])]))[0].line

    assert line(Step.EXPORT, slots=(1, 2, 3, 9)) == "export, of move 5, slots 1-3,9"
    assert line(Step.IMPORT_CHUNK, chunk=2, keys=named(A, B)) == "import chunk, of move 5, number 2, 2 keys"
    assert line(Step.RELEASE, map_version=4) == "release, of move 5, map 4"
    assert line(Step.EXPORT, slots=tuple(range(0, 20, 2))) == "export, of move 5, slots 0,2,4,6 and 6 more"


# --- writes


WRITES: dict[str, Callable[[bytes], bytes]] = {
    "put": lambda key: envelope.put(key, b"w"),
    "delete": envelope.delete,
    "get_and_delete": envelope.get_and_delete,
    "compare_and_swap": lambda key: envelope.compare_and_swap(key, 1, b"w"),
    "write": lambda key: envelope.write([], [(C, b"c"), (key, b"w")]),
    "condition": lambda key: envelope.write([(key, 1)], [(C, b"c")]),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_refused_where_one_of_its_slots_is_foreign_or_frozen(name: str) -> None:
    cluster = managed()
    cluster.run(envelope.put(A, b"a"))
    ok(cluster, Step.EXPORT, slots=(7, 8))
    ok(cluster, Step.FREEZE)
    before = cluster.content()
    (outcome,) = cluster.run(WRITES[name](A))
    assert (outcome.status, outcome.revision, refused_slot(outcome)) == (Status.SLOT_MOVING, 1, 7)
    ok(cluster, Step.RELEASE, map_version=9)
    assert cluster.rows(Database.KV) == {A: before["KV"][0][1]}
    (outcome,) = cluster.run(WRITES[name](A))
    assert (outcome.status, outcome.revision, refused_slot(outcome)) == (Status.WRONG_CLUSTER, 9, 7)
    assert cluster.rows(Database.KV) == {A: before["KV"][0][1]}
    assert (
        history.changes(
            envelope.payload([envelope.group([WRITES[name](A)])]), history.read_idle(cluster.state.get, cluster.index)
        )
        == []
    )


def test_an_unmanaged_cluster_takes_every_write_and_no_step() -> None:
    cluster = Cluster()
    assert cluster.machine.ownership is None
    cluster.run(*(envelope.put(key, b"v") for key in (A, B, C)))
    assert "reconcile" in refused(cluster, Step.EXPORT, slots=(7,))
    for nothing_to_take_back in (Step.UNFREEZE, Step.DROP):
        ok(cluster, nothing_to_take_back)
        assert cluster.machine.ownership is None
    ok(cluster, Step.OWN, slots=EVERY, map_version=2)
    assert [outcome.status for outcome in cluster.run(envelope.put(A, b"v"))] == [Status.OK]
    assert cluster.machine.ownership is not None


def value(cluster: Cluster, key: bytes) -> bytes | None:
    """What lies there, be it visible or not."""
    record = cluster.state.get(Database.KV, key)
    return record[8:] if record is not None else None


def owned(cluster: Cluster) -> tuple[int, ...]:
    assert cluster.machine.ownership is not None
    return slots_of(cluster.machine.ownership.owned)


def test_what_is_lost_is_lost_within_the_entry_and_what_is_gained_after_it() -> None:
    cluster = managed(bitmap((7, 8)))
    put = envelope.put(A, b"v")
    lost = step(Step.OWN, slots=(8,), map_version=2, expected=0)
    assert [outcome.status for outcome in cluster.run(lost, put)] == [Status.OK, Status.WRONG_CLUSTER]
    gained = step(Step.OWN, slots=(7, 8), map_version=3, expected=1, ended=(5,), revision=70)
    outcomes = cluster.run(gained, gained, envelope.put(A, b"v"))
    assert [outcome.status for outcome in outcomes] == [Status.OK, Status.REFUSED, Status.WRONG_CLUSTER]
    assert cluster.run(gained, envelope.put(A, b"v"))[1].revision == 71


def test_lost_slots_are_a_released_migration_until_their_keys_are_purged() -> None:
    cluster = managed(bitmap((7, 8, 900)))
    cluster.run(*(envelope.put(key, b"v") for key in (A, B, C)))
    assert ok(cluster, Step.OWN, 9, slots=(8,), map_version=4, expected=0).found
    assert ok(cluster, Step.OWN, 9, slots=(8,), map_version=4, expected=0).found, "it may be said again"
    cluster.reopen()
    own = cluster.machine.ownership
    assert own is not None
    assert own.moves == {9: SlotMove(9, Side.RELEASED, (7, 900))}
    assert (own.tenure(A), own.tenure(B)) == (Tenure(0, 3, 1), Tenure())
    assert cluster.run(envelope.put(A, b"w"))[0].status is Status.WRONG_CLUSTER
    ok(cluster, Step.PURGE, 9, keys=named(A, C), last=True)
    assert not ok(cluster, Step.OWN, 9, slots=(8,), map_version=4, expected=0).found
    assert (value(cluster, A), value(cluster, B)) == (None, b"v")
    assert cluster.machine.ownership is not None
    assert (cluster.machine.ownership.moves, cluster.machine.ownership.last_move) == ({}, 9)


def test_a_slot_has_the_version_of_the_map_by_which_it_came() -> None:
    cluster = managed(bitmap((7, 8)))
    ok(cluster, Step.OWN, slots=(7, 8, 9), map_version=4, expected=0)
    cluster.reopen()
    own = cluster.machine.ownership
    assert own is not None
    assert [own.came_by(slot) for slot in (7, 8, 9)] == [1, 1, 4]


def test_what_was_worked_out_from_an_older_answer_is_refused() -> None:
    cluster = managed(bitmap((7, 8)))
    ok(cluster, Step.EXPORT, slots=(8,))
    ok(cluster, Step.FREEZE)
    assert "under way" in refused(cluster, Step.OWN, 9, slots=(7,), map_version=6, expected=0)
    ok(cluster, Step.RELEASE, map_version=4)
    assert "changed" in refused(cluster, Step.OWN, 9, slots=(7, 8), map_version=6, expected=0)
    assert "not newer" in refused(cluster, Step.OWN, 9, slots=(7, 9), map_version=4, expected=1)
    assert "two steps" in refused(cluster, Step.OWN, 9, slots=(10,), map_version=6, expected=1)
    ok(cluster, Step.PURGE, last=True)
    assert "not above" in refused(cluster, Step.OWN, 5, slots=(), map_version=6, expected=1)


def test_a_migration_that_ends_leaves_what_its_side_has() -> None:
    source, destination = managed(bitmap((7, 8))), managed(bitmap((10,)))
    source.run(envelope.put(A, b"1"), envelope.put(B, b"2"))
    for cluster, first in ((source, Step.EXPORT), (destination, Step.IMPORT)):
        ok(cluster, first, slots=(7, 8))
    ok(destination, Step.IMPORT_CHUNK, chunk=1, keys=(MovedKey(A, b"1", 1), MovedKey(B, b"2", 2)), revision=2)
    ok(source, Step.FREEZE)
    ok(source, Step.OWN, 9, slots=(7, 8), map_version=6, expected=0, ended=(5,))
    assert source.run(envelope.put(A, b"3"))[0].status is Status.OK, "it is frozen no more"
    # Of the destination's slots one becomes its own, and keeps its key; the other waits to be dropped.
    ok(destination, Step.OWN, 9, slots=(7, 10), map_version=6, expected=0, ended=(5,))
    own = destination.machine.ownership
    assert own is not None
    assert own.moves == {5: SlotMove(5, Side.DROPPING, (8,), 2)}
    assert (value(destination, A), value(destination, B)) == (b"1", b"2")
    ok(destination, Step.DROP, keys=named(B), last=True)
    assert owned(destination) == (7, 10)
    assert "too late" in refused(destination, Step.IMPORT, slots=(8,))


def test_a_released_migration_takes_back_what_is_owned_again() -> None:
    cluster = managed(bitmap((7, 8)))
    cluster.run(envelope.put(A, b"1"))
    ok(cluster, Step.EXPORT, slots=(7, 8))
    ok(cluster, Step.FREEZE)
    ok(cluster, Step.RELEASE, map_version=4)
    ok(cluster, Step.OWN, 9, slots=(7,), map_version=6, expected=1, ended=(5,))
    own = cluster.machine.ownership
    assert own is not None
    assert own.moves == {5: SlotMove(5, Side.RELEASED, (8,))}
    assert (value(cluster, A), own.tenure(A).came) == (b"1", 1)


def test_an_import_takes_slots_from_earlier_imports_that_never_ended() -> None:
    cluster = managed(bitmap((900,)))
    ok(cluster, Step.IMPORT, 5, slots=(7, 8))
    ok(cluster, Step.IMPORT_CHUNK, 5, chunk=1, keys=(MovedKey(A, b"old", 1), MovedKey(B, b"old", 1)), revision=1)
    ok(cluster, Step.IMPORT, 6, slots=(7, 9))
    own = cluster.machine.ownership
    assert own is not None
    assert {move.move: (move.side, move.slots) for move in own.moves.values()} == {
        5: (Side.DROPPING, (8,)),
        6: (Side.IMPORTING, (7, 9)),
    }
    assert "DROPPING" in refused(cluster, Step.IMPORT_CHUNK, 5, chunk=2, keys=(MovedKey(A, b"x", 1),), revision=1)
    ok(cluster, Step.IMPORT, 7, slots=(7, 8, 9))
    cluster.reopen()
    own = cluster.machine.ownership
    assert own is not None
    assert (list(own.moves), own.last_move) == ([7], 6)
    assert value(cluster, A) == b"old", "what is left is compared by the first pass"


def test_a_later_import_takes_nothing_from_one_that_was_released_or_owned() -> None:
    cluster = managed(bitmap((7, 8)))
    ok(cluster, Step.OWN, 5, slots=(8,), map_version=4, expected=0)
    assert "in another move" in refused(cluster, Step.IMPORT, 6, slots=(7,))
    assert "already" in refused(cluster, Step.IMPORT, 6, slots=(8,))


def test_a_repeated_activate_lets_the_other_steps_of_its_entry_pass() -> None:
    cluster = managed(bitmap((7,)))
    ok(cluster, Step.IMPORT, slots=(8,))
    ok(cluster, Step.ACTIVATE, map_version=2, revision=5)
    again, export = step(Step.ACTIVATE, map_version=2, revision=5), step(Step.EXPORT, 6, slots=(7,))
    assert [outcome.status for outcome in cluster.run(again, export)] == [Status.OK, Status.OK]


def test_a_stored_answer_comes_first_wherever_the_slot_is_by_now() -> None:
    cluster = managed()
    client = cluster.register()
    put = envelope.put(A, b"v")
    (first,) = cluster.run(put, once=Once(client, 1, 1))
    ok(cluster, Step.EXPORT, slots=(7, 8))
    ok(cluster, Step.FREEZE)
    (moving,) = cluster.run(envelope.put(A, b"x"), once=Once(client, 2, 1))
    ok(cluster, Step.RELEASE, map_version=9)
    assert cluster.run(put, once=Once(client, 1, 1)) == [first]
    # What was refused stays refused under its number, or a copy of it that comes late would be done after all.
    cluster.reopen()
    assert cluster.run(envelope.put(A, b"x"), once=Once(client, 2, 1)) == [moving]
    assert moving.status is Status.SLOT_MOVING
    (fresh,) = cluster.run(envelope.put(A, b"x"), once=Once(client, 3, 1))
    assert fresh.status is Status.WRONG_CLUSTER


def test_written_keys_of_exported_slots_are_noted_and_no_others() -> None:
    cluster = managed()
    cluster.run(envelope.put(A, b"1"), envelope.put(B, b"1"))
    ok(cluster, Step.EXPORT, slots=(7, 8))
    cluster.run(
        envelope.put(C, b"2"),
        envelope.put(A, b"2"),
        envelope.delete(b"nothing"),
        envelope.compare_and_swap(B, 77, b"2"),
        envelope.delete(B),
    )
    assert [tuple(note) for note in notes(cluster.state, 5)] == sorted([(A, 4), (B, 5)])
    cluster.reopen()
    cluster.run(envelope.put(A, b"3"))
    assert dict(notes(cluster.state, 5)) == {A: 6, B: 5}
    ok(cluster, Step.SETTLE, revision=5, keys=named(A, B))
    assert dict(notes(cluster.state, 5)) == {A: 6}
    ok(cluster, Step.UNFREEZE)
    cluster.run(envelope.put(A, b"4"))
    assert dict(notes(cluster.state, 5)) == {A: 6}
    ok(cluster, Step.SETTLE, keys=named(A))
    assert dict(notes(cluster.state, 5)) == {}


# --- moves


def test_a_move_from_end_to_end() -> None:
    source, destination = managed(), managed(NO_SLOTS)
    source.run(*[envelope.put(key, b"v") for key in (A, B, C)])
    ok(source, Step.EXPORT, slots=(7, 8))
    assert ok(destination, Step.IMPORT, slots=(7, 8), revision=source.machine.revision).value == (1).to_bytes(8, "big")
    copied = tuple(MovedKey(*(found.key, found.value, found.revision)) for key in (A, B) if (found := get(source.state, key)))
    outcome = ok(destination, Step.IMPORT_CHUNK, chunk=1, keys=copied, revision=3)
    assert (outcome.revision, outcome.value) == (3, (2).to_bytes(8, "big"))
    own = destination.machine.ownership
    assert own is not None
    assert not own.readable(A)
    source.run(envelope.put(A, b"later"), envelope.delete(B))
    ok(source, Step.FREEZE)
    ok(destination, Step.IMPORT_CHUNK, chunk=2, keys=(MovedKey(A, b"later", 4), MovedKey(B, b"", 0)), revision=5)
    ok(source, Step.RELEASE, map_version=7)
    ok(destination, Step.ACTIVATE, map_version=7)
    found = get(destination.state, A)
    assert found is not None
    assert (found.value, found.revision) == (b"later", 4)
    assert destination.run(envelope.compare_and_swap(A, 4, b"mine")) == [Outcome(Status.OK, 6)]
    assert ok(source, Step.PURGE, keys=named(A)).found
    assert not ok(source, Step.PURGE, keys=named(B), last=True).found
    assert set(source.rows(Database.KV)) == {C}
    for cluster in (source, destination):
        own = cluster.machine.ownership
        assert own is not None
        assert (own.last_move, own.map_version, dict(own.moves)) == (5, 7, {})


def test_only_the_newest_mover_freezes() -> None:
    source = managed()
    ok(source, Step.EXPORT, slots=(7, 8), mover=3)
    ok(source, Step.EXPORT, slots=(7, 8), mover=5)
    before = source.content()
    assert "term 4 was replaced in move 5 by that of 5" in refused(source, Step.FREEZE, mover=4)
    assert "term 4 was replaced in move 5 by that of 5" in refused(source, Step.EXPORT, slots=(7, 8), mover=4)
    assert source.content()["OWNERSHIP"] == before["OWNERSHIP"]
    ok(source, Step.FREEZE, mover=5)
    ok(source, Step.EXPORT, slots=(7, 8), mover=6)
    assert "comes too late" in refused(source, Step.FREEZE, mover=5)
    source.reopen()
    assert source.machine.ownership is not None
    assert source.machine.ownership.moves[5] == SlotMove(5, Side.FROZEN, (7, 8), mover=6)


def test_what_was_done_already_is_ok_and_what_goes_back_is_not() -> None:
    source = managed()
    ok(source, Step.EXPORT, slots=(7, 8))
    ok(source, Step.EXPORT, slots=(7, 8))
    assert "slots of its own" in refused(source, Step.EXPORT, slots=(7,))
    assert "another move" in refused(source, Step.EXPORT, 6, slots=(8, 9))
    assert "FROZEN" in refused(source, Step.RELEASE, map_version=2)
    for _ in range(2):
        ok(source, Step.FREEZE)
    ok(source, Step.EXPORT, slots=(7, 8))
    assert source.machine.ownership is not None
    assert source.machine.ownership.moves[5].side is Side.FROZEN
    refused(source, Step.PURGE, last=True)
    for _ in range(2):
        ok(source, Step.RELEASE, map_version=2)
    ok(source, Step.FREEZE)
    refused(source, Step.UNFREEZE)
    refused(source, Step.DROP)
    assert source.machine.ownership.marks[7] == Mark.FOREIGN
    assert "another move" in refused(source, Step.IMPORT, 6, slots=(7,))
    for _ in range(2):
        ok(source, Step.PURGE, last=True)
    ok(source, Step.RELEASE, map_version=2)
    ok(source, Step.UNFREEZE)  # there is nothing left to take back
    assert source.machine.ownership.marks[7] == Mark.FOREIGN
    assert "too late" in refused(source, Step.EXPORT, slots=(7,))
    assert "too late" in refused(source, Step.EXPORT, 4, slots=(9,))
    assert "knows no move" in refused(source, Step.FREEZE, 6)


def test_an_import_takes_each_chunk_once_and_in_order() -> None:
    destination = managed(NO_SLOTS)
    assert ok(destination, Step.IMPORT, slots=(7, 8), revision=9) == Outcome(Status.OK, 9, False, (1).to_bytes(8, "big"))
    first = (MovedKey(A, b"1", 2),)
    assert ok(destination, Step.IMPORT_CHUNK, chunk=1, keys=first, revision=9) == Outcome(
        Status.OK, 9, True, (2).to_bytes(8, "big")
    )
    before = destination.rows(Database.KV), destination.machine.ownership
    for chunk in (1, 3):
        other = (MovedKey(A, b"other", 3),)
        outcome = ok(destination, Step.IMPORT_CHUNK, chunk=chunk, keys=other, revision=20)
        assert outcome == Outcome(Status.OK, 9, False, (2).to_bytes(8, "big"))
    assert (destination.rows(Database.KV), destination.machine.ownership) == before
    assert "slot 900" in refused(destination, Step.IMPORT_CHUNK, chunk=2, keys=(MovedKey(C, b"1", 2),), revision=9)
    assert "newer" in refused(destination, Step.IMPORT_CHUNK, chunk=2, keys=(MovedKey(A, b"1", 20),), revision=19)

    assert "names no keys" in refused(destination, Step.DROP, keys=named(A))
    assert ok(destination, Step.DROP).found
    assert "DROPPING" in refused(destination, Step.IMPORT_CHUNK, chunk=2, keys=first, revision=9)
    refused(destination, Step.IMPORT, slots=(7, 8))
    refused(destination, Step.ACTIVATE, map_version=2)
    assert not ok(destination, Step.DROP, keys=named(A), last=True).found
    assert destination.rows(Database.KV) == {}
    ok(destination, Step.DROP)
    assert "too late" in refused(destination, Step.IMPORT, slots=(7, 8))


def test_after_an_import_no_chunk_is_taken_that_an_earlier_mover_has_in_flight() -> None:
    """Its next chunk would fit behind the first one of the mover that has begun, which has read newer values."""
    destination = managed(NO_SLOTS)
    ok(destination, Step.IMPORT, slots=(7, 8), revision=9)
    ok(destination, Step.IMPORT_CHUNK, chunk=1, keys=(MovedKey(B, b"1", 1),), revision=9)
    mine = int.from_bytes(ok(destination, Step.IMPORT, slots=(7, 8), revision=9).value, "big")
    assert ok(destination, Step.IMPORT_CHUNK, chunk=mine, keys=(MovedKey(A, b"new", 8),), revision=9).found
    for late in range(2, 2 + CHUNKS_IN_FLIGHT_MAX):
        assert not ok(destination, Step.IMPORT_CHUNK, chunk=late, keys=(MovedKey(A, b"old", 3),), revision=9).found
    destination.reopen()
    assert get(destination.state, A) == KeyValue(A, b"new", 8)
    assert ok(destination, Step.IMPORT_CHUNK, chunk=mine + 1, keys=(MovedKey(A, b"newer", 9),), revision=9).found


def test_a_chunk_deletes_what_is_gone_at_the_source() -> None:
    destination = managed(NO_SLOTS)
    ok(destination, Step.IMPORT, slots=(7, 8), revision=9)
    ok(destination, Step.IMPORT_CHUNK, chunk=1, keys=(MovedKey(A, b"1", 2), MovedKey(B, b"2", 3)), revision=9)
    ok(destination, Step.IMPORT_CHUNK, chunk=2, keys=(MovedKey(A, b"", 0),), revision=11)
    found = get(destination.state, B)
    assert set(destination.rows(Database.KV)) == {B}
    assert found is not None
    assert (found.value, found.revision) == (b"2", 3), "a key keeps the revision that it has at its source"
    assert destination.machine.revision == 11


def test_a_restart_in_the_middle_of_an_import_goes_on_at_the_same_chunk() -> None:
    destination = managed(NO_SLOTS)
    ok(destination, Step.IMPORT, slots=(7, 8), revision=9)
    for number in (1, 2):
        ok(destination, Step.IMPORT_CHUNK, chunk=number, keys=(MovedKey(A, b"1", number),), revision=9)
    destination.reopen()
    assert not ok(destination, Step.IMPORT_CHUNK, chunk=1, keys=(MovedKey(A, b"1", 1),), revision=9).found
    assert ok(destination, Step.IMPORT_CHUNK, chunk=3, keys=(MovedKey(A, b"1", 3),), revision=9).found
    skipped = 4 + CHUNKS_IN_FLIGHT_MAX
    assert ok(destination, Step.IMPORT, slots=(7, 8)).value == skipped.to_bytes(8, "big")


def test_so_many_moves_are_under_way_at_once_and_again_once_one_has_ended() -> None:
    source = managed()
    for number in range(1, MOVES_MAX + 1):
        ok(source, Step.EXPORT, number, slots=(number,), mover=1)
    one_more = MOVES_MAX + 1
    assert "which is the most" in refused(source, Step.EXPORT, one_more, slots=(one_more,), mover=1)
    ok(source, Step.EXPORT, 3, slots=(3,), mover=1)  # one of those that are under way may be asked for again
    ok(source, Step.UNFREEZE, 1)
    ok(source, Step.EXPORT, one_more, slots=(one_more,), mover=1)
    assert "which is the most" in refused(source, Step.EXPORT, one_more + 1, slots=(one_more + 1,), mover=1)


@pytest.mark.parametrize("keys", [(A, C), (C, A)])
def test_a_write_of_a_moving_and_a_foreign_slot_is_sent_elsewhere(keys: tuple[bytes, bytes]) -> None:
    """It cannot succeed here even once the move has ended, whichever of its keys comes first."""
    cluster = managed(bitmap(range(100)))
    ok(cluster, Step.EXPORT, slots=(7,), mover=1)
    ok(cluster, Step.FREEZE, mover=1)
    (outcome,) = cluster.run(envelope.write([], [(key, b"v") for key in keys]))
    assert (outcome.status, refused_slot(outcome)) == (Status.WRONG_CLUSTER, 900)
    assert outcome.revision == 1, "the version of the map by which it is refused"


@pytest.mark.parametrize("restart", [False, True])
def test_the_first_export_already_names_its_mover(restart: bool) -> None:
    source = managed()
    ok(source, Step.EXPORT, slots=(7,), mover=4)
    if restart:
        source.reopen()
    assert "replaced" in refused(source, Step.FREEZE, mover=3)
    assert "replaced" in refused(source, Step.EXPORT, slots=(7,), mover=3)
    ok(source, Step.FREEZE, mover=4)


def test_a_page_passes_over_so_many_hidden_keys_and_goes_on_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_kv, "HIDDEN_KEYS_MAX", 3)
    cluster = managed()
    names = [b"key-%02d" % number for number in range(40)]
    cluster.run(*(envelope.put(name, b"v") for name in names))
    shown = names[20]
    write_ownership(cluster.state, founded(bitmap([slot_of(shown)]), 1))
    cluster.reopen()
    mine = [name for name in names if slot_of(name) == slot_of(shown)]
    found, pages, start, more = [], 0, b"", True
    while more:
        page = machine_kv.scan(cluster.state, start, None, 100, ownership=cluster.machine.ownership)
        found += [item.key for item in page.items]
        start, more, pages = page.next, page.more, pages + 1
    assert found == mine
    assert pages >= len(names) // 4, "each page ends after a few keys that it does not show"


def test_slots_are_open_only_after_the_entry_that_activated_them() -> None:
    """Or what it writes to them would have revisions below the source's."""
    destination = managed(NO_SLOTS)
    ok(destination, Step.IMPORT, slots=(7, 8))
    chunk = step(Step.IMPORT_CHUNK, chunk=1, keys=(MovedKey(A, b"1", 50),), revision=60)
    activate = step(Step.ACTIVATE, map_version=2, revision=70)
    outcomes = destination.run(chunk, activate, envelope.put(A, b"x"), activate)
    assert [outcome.status for outcome in outcomes] == [Status.OK, Status.OK, Status.WRONG_CLUSTER, Status.REFUSED]
    ok(destination, Step.ACTIVATE, map_version=2, revision=70)
    assert destination.run(envelope.put(A, b"x")) == [Outcome(Status.OK, 71)]


def test_the_destination_counts_on_from_what_the_source_had_come_to_when_it_let_go() -> None:
    """Also of keys that are not there: somebody was told at which revision they were found missing."""
    source, destination = managed(), managed(NO_SLOTS)
    ok(source, Step.EXPORT, slots=(7, 8))
    ok(destination, Step.IMPORT, slots=(7, 8))
    source.run(*[envelope.put(C, b"elsewhere")] * 30)
    ok(source, Step.FREEZE)
    released = ok(source, Step.RELEASE, map_version=2)
    assert released.revision == 30
    source.run(envelope.put(C, b"elsewhere"))
    assert ok(source, Step.RELEASE, map_version=2).revision == 30  # however often it is asked
    ok(destination, Step.ACTIVATE, map_version=2, revision=released.revision)
    assert destination.run(envelope.delete(A)) == [Outcome(Status.OK, 30)]
    assert destination.run(envelope.put(A, b"1")) == [Outcome(Status.OK, 31)]


def test_a_slot_has_its_tenure() -> None:
    one, other = managed(bitmap((7, 900))), managed(NO_SLOTS)
    one.run(*[envelope.put(A, b"v")] * 4)

    def tenures(key: bytes) -> list[tuple[int, int]]:
        return [own.tenure(key)[:2] for cluster in (one, other) if (own := cluster.machine.ownership) is not None]

    def move(source: Cluster, destination: Cluster, number: int) -> None:
        ok(source, Step.EXPORT, number, slots=(7,))
        ok(destination, Step.IMPORT, number, slots=(7,))
        ok(source, Step.FREEZE, number)
        left = ok(source, Step.RELEASE, number, map_version=number).revision
        ok(destination, Step.ACTIVATE, number, map_version=number, revision=left)
        ok(source, Step.PURGE, number, last=True)

    move(one, other, 5)
    assert tenures(A) == [(0, 4), (4, 0)]
    other.run(*[envelope.put(A, b"v")] * 2)
    move(other, one, 6)
    assert tenures(A) == [(6, 0), (4, 6)]
    assert tenures(C) == [(0, 0), (0, 0)]
    one.reopen()
    assert tenures(A) == [(6, 0), (4, 6)]


@pytest.mark.parametrize("end", [Step.UNFREEZE, Step.DROP])
def test_an_abort_of_what_never_began_keeps_it_from_beginning(end: Step) -> None:
    cluster = managed(bitmap((7,)))
    ok(cluster, end, 5)
    ok(cluster, end, 5)
    assert "too late" in refused(cluster, Step.EXPORT, 5, slots=(7,))
    assert "too late" in refused(cluster, Step.IMPORT, 5, slots=(8,))
    assert cluster.machine.ownership is not None
    assert cluster.machine.ownership.last_move == 5


# --- what a watch sees


def test_imports_and_purges_are_no_events_and_revisions_are_still_counted() -> None:
    cluster = managed(bitmap((7,)))
    cluster.run(envelope.put(A, b"1"))
    ok(cluster, Step.IMPORT, slots=(8,), revision=40)
    chunk = step(Step.IMPORT_CHUNK, chunk=1, keys=(MovedKey(B, b"b", 90),), revision=100)
    group = envelope.group([envelope.put(A, b"2"), chunk, envelope.put(A, b"3")])
    assert [outcome.revision for outcome in cluster.apply(group)] == [41, 100, 42]
    index = cluster.index
    assert history.changes(envelope.payload([group]), history.read_idle(cluster.state.get, index)) == [[(A, b"2")], [(A, b"3")]]
    assert history.read_raise(cluster.state.get, index) == 58
    assert cluster.machine.revision == 100
    assert cluster.run(envelope.put(A, b"4"))[0].revision == 101
    cluster.reopen()
    assert cluster.machine.revision == 101


# --- at random, against a model


@dataclass
class Model:
    """One cluster's slots, said a second time: a set, and a word and a set for each move."""

    owned: set[int]
    last: tuple[int, str] = (0, "")
    moves: dict[int, tuple[str, tuple[int, ...], int]] = field(default_factory=dict)
    version: int = 1

    def take(self, kind: str, move: int, slots: tuple[int, ...], version: int, chunk: int, last: bool) -> bool:
        side, held, following = self.moves.get(move, ("", (), 1))
        over = not side and move <= self.last[0]
        busy = {slot for _, taken, _ in self.moves.values() for slot in taken}
        if over:
            ended = {"PURGE": ("RELEASE", "PURGE"), "ACTIVATE": ("ACTIVATE",)}
            return kind in ("SETTLE", "UNFREEZE", "DROP") or (move == self.last[0] and kind in ended.get(self.last[1], ()))
        match kind, side:
            case "EXPORT", "":
                fits = bool(slots) and set(slots) <= self.owned - busy
                if fits:
                    self.moves[move] = ("EXPORTING", slots, 1)
                return fits
            case "EXPORT", "EXPORTING" | "FROZEN" | "RELEASED":
                return held == slots
            case "FREEZE", "EXPORTING" | "FROZEN" | "RELEASED":
                self.moves[move] = (side if side == "RELEASED" else "FROZEN", held, following)
            case "UNFREEZE", "" | "EXPORTING" | "FROZEN":
                self._end(move, kind)
            case "RELEASE", "FROZEN":
                self.version = max(self.version, version)
                self.owned -= set(held)
                self.moves[move] = ("RELEASED", held, following)
            case "RELEASE", "RELEASED":
                pass
            case ("PURGE", "RELEASED") | ("DROP", "DROPPING"):
                if last:
                    self._end(move, kind)
            case "IMPORT", "":
                strays = {
                    number for number, (at, _, _) in self.moves.items() if at in ("IMPORTING", "DROPPING") and number < move
                }
                kept = {slot for number, (_, taken, _) in self.moves.items() if number not in strays for slot in taken}
                fits = bool(slots) and not set(slots) & (self.owned | kept)
                if fits:
                    self._take_from(strays, set(slots))
                    self.moves[move] = ("IMPORTING", slots, 1)
                return fits
            case "IMPORT", "IMPORTING":
                if held != slots:
                    return False
                self.moves[move] = (side, held, following + 64)
            case "IMPORT_CHUNK", "IMPORTING":
                if chunk == following:
                    self.moves[move] = (side, held, following + 1)
            case "ACTIVATE", "IMPORTING":
                self.version = max(self.version, version)
                self.owned |= set(held)
                self._end(move, kind)
            case "DROP", "IMPORTING":
                if last:
                    return False
                self.moves[move] = ("DROPPING", held, following)
            case "DROP", "":
                self._end(move, kind)
            case "SETTLE", "EXPORTING" | "FROZEN" | "RELEASED":
                pass
            case _:
                return False
        return True

    def _take_from(self, strays: set[int], slots: set[int]) -> None:
        for number in sorted(strays):
            _, taken, following = self.moves[number]
            if left := tuple(slot for slot in taken if slot not in slots):
                if left != taken:
                    self.moves[number] = ("DROPPING", left, following)
            else:
                self._end(number, "DROP")

    def _end(self, move: int, kind: str) -> None:
        self.moves.pop(move, None)
        if move >= self.last[0]:
            self.last = (move, kind)


steps = st.tuples(
    st.sampled_from([kind for kind in Step if kind is not Step.OWN]),
    st.integers(1, 4),
    st.sampled_from([(1,), (1, 2), (2, 3), (9,), (9, 10), ()]),
    st.integers(0, 4),
    st.sampled_from((0, 1, 2, 65, 66, 129)),
    st.booleans(),
)


@settings(max_examples=100)
@given(st.lists(steps, max_size=40), st.booleans())
def test_any_steps_in_any_order_are_judged_as_by_the_model(
    log: list[tuple[Step, int, tuple[int, ...], int, int, bool]], reopen: bool
) -> None:
    cluster, model = managed(bitmap((1, 2, 3))), Model({1, 2, 3})
    for kind, move, slots, version, chunk, last in log:
        outcome = take(cluster, kind, move, slots=slots, map_version=version, chunk=chunk, last=last)
        assert (outcome.status is Status.OK) == model.take(kind.name, move, slots, version, chunk, last), (kind, outcome)
        if reopen:
            cluster.reopen()
        own = cluster.machine.ownership
        assert own is not None
        assert own == read_ownership(cluster.state)
        assert own.owned == bitmap(model.owned)
        assert (own.last_move, own.map_version) == (model.last[0], model.version)
        assert {m.move: (m.side.name, m.slots, m.next_chunk) for m in own.moves.values()} == model.moves
        frozen = {slot for side, held, _ in model.moves.values() for slot in held if side == "FROZEN"}
        assert {slot for slot in range(12) if own.marks[slot] == Mark.FROZEN} == frozen
        assert {slot for slot in range(12) if own.marks[slot] != Mark.FOREIGN} == model.owned
    get_of = cluster.state.get
    for database in (Database.OWNERSHIP, Database.KV):
        for key, payload in cluster.rows(database).items():
            assert KV_RULES.record(database, key, payload, get_of) == ""


def test_a_record_that_no_machine_wrote_is_told() -> None:
    cluster = managed()
    ok(cluster, Step.EXPORT, slots=(7, 8))
    cluster.run(envelope.put(A, b"1"))
    get_of = cluster.state.get
    rows = cluster.rows(Database.OWNERSHIP)
    assert len(rows) == 3
    for key, payload in rows.items():
        assert KV_RULES.record(Database.OWNERSHIP, key, payload, get_of) == ""
        assert KV_RULES.record(Database.OWNERSHIP, key, payload[:-1], get_of)
        assert KV_RULES.record(Database.OWNERSHIP, key[1:] + b"x", payload, get_of)
    note = next(key for key in rows if key.startswith(b"n"))
    assert "revision" in KV_RULES.record(Database.OWNERSHIP, note, (99).to_bytes(8, "big"), get_of)
    later = b"\x02" + rows[b"o"][1:]
    assert "upgrade" in KV_RULES.record(Database.OWNERSHIP, b"o", later, get_of)
    tenure = (1).to_bytes(8, "big") + bytes(8) + (1 << 50).to_bytes(8, "big")
    assert KV_RULES.record(Database.OWNERSHIP, b"t\0\7", tenure, get_of) == ""
    for key, payload in ((b"t\xff\7", tenure), (b"t\0\7", tenure[:-1]), (b"t\0", tenure), (b"t\0\7", b"\xff" + tenure[1:])):
        assert KV_RULES.record(Database.OWNERSHIP, key, payload, get_of)


def refounded_from(cluster: Cluster) -> Cluster:
    refounded = Cluster()
    refounded.state.databases[Database.KV].update(cluster.rows(Database.KV))
    cluster.state.applied = cluster.next()
    start = Start(EntryId(Term(9), Index(99)), 1_000)
    refound(cluster.state, refounded.state, Founder(server_id(9), "n9", "0.1.0", 3), "anew", start)
    refounded.reopen()
    return refounded


@pytest.mark.parametrize("held", [ALL_SLOTS, bitmap((7, 900))])
def test_a_new_cluster_of_an_old_state_stays_managed_and_owns_what_that_owned(held: bytes) -> None:
    cluster = managed(held)
    cluster.run(envelope.put(A, b"1"), envelope.put(C, b"1"))
    ok(cluster, Step.EXPORT, 5, slots=(7,))
    cluster.run(envelope.put(A, b"2"))
    own = refounded_from(cluster).machine.ownership
    assert own is not None
    assert (own.owned, own.map_version, dict(own.moves), own.last_move) == (held, 1, {}, 5)
    assert not own.exported


def test_a_new_cluster_of_an_old_state_knows_by_which_map_its_slots_came_and_what_it_let_go() -> None:
    cluster = managed(bitmap((7, 8)))
    cluster.run(envelope.put(A, b"1"), envelope.put(B, b"1"))
    ok(cluster, Step.OWN, slots=(7, 8, 900), map_version=4, expected=0)
    ok(cluster, Step.IMPORT, 6, slots=(10,))
    ok(cluster, Step.EXPORT, 7, slots=(8,))
    ok(cluster, Step.FREEZE, 7)
    left = ok(cluster, Step.RELEASE, 7, map_version=9).revision
    refounded = refounded_from(cluster)
    own = refounded.machine.ownership
    assert own is not None
    assert (slots_of(own.owned), own.map_version) == ((7, 900), 9)
    assert (own.came_by(7), own.came_by(900)) == (1, 4)
    # What came in may be a part of it: it is never activated. What was let go waits for its PURGE.
    assert {move.move: move.side for move in own.moves.values()} == {6: Side.DROPPING, 7: Side.RELEASED}
    assert "DROPPING" in refused(refounded, Step.ACTIVATE, 6, map_version=10)
    assert ok(refounded, Step.RELEASE, 7, map_version=9).revision == left


# --- replayed


SMALL = [key_in(slot, number) for slot in (1, 2, 3) for number in (0, 1)]
any_key = st.sampled_from(SMALL)
writes = st.one_of(
    st.builds(envelope.put, any_key, st.binary(max_size=2)),
    st.builds(envelope.delete, any_key),
    st.builds(envelope.compare_and_swap, any_key, st.integers(0, 9), st.just(b"c")),
    st.lists(st.tuples(any_key, st.none() | st.just(b"w")), max_size=3, unique_by=lambda pair: pair[0]).map(
        lambda operations: envelope.write([], operations)
    ),
)
chunks = st.builds(
    lambda move, chunk, key, revision: step(
        Step.IMPORT_CHUNK, move, chunk=chunk, keys=(MovedKey(key, b"i", revision),), revision=revision + 5
    ),
    st.integers(1, 3),
    st.integers(1, 2),
    any_key,
    st.integers(0, 60),
)
some_steps = st.builds(
    lambda kind, move, slots, keys, last: step(kind, move, slots=slots, map_version=move, chunk=1, keys=named(*keys), last=last),
    st.sampled_from([kind for kind in Step if kind is not Step.IMPORT_CHUNK]),
    st.integers(1, 3),
    st.sampled_from([(1,), (2,), (1, 2), (3,)]),
    st.lists(any_key, max_size=2),
    st.booleans(),
)
moves = st.sampled_from([Step.EXPORT, Step.FREEZE, Step.RELEASE, Step.PURGE, Step.IMPORT, Step.ACTIVATE]).map(
    lambda kind: step(kind, 1, slots=(1, 2) if kind is Step.EXPORT else (3,), map_version=2, last=kind is Step.PURGE)
)
entries = st.lists(st.lists(writes | chunks | some_steps | moves, max_size=4), max_size=25)


def replay(log: list[list[bytes]], *, reopen: bool) -> tuple[Cluster, list[list[Outcome]]]:
    cluster = managed(bitmap((1, 2)))
    client = cluster.register()
    answers = []
    for number, commands in enumerate(log):
        slotless = all(command[0] <= envelope.Kind.WRITE for command in commands)
        once = Once(client, number * 10 + 1, max(1, number * 10 - 40)) if slotless and number % 2 and commands else None
        answers.append(cluster.run(*commands, once=once))
        if reopen:
            cluster.reopen()
    return cluster, answers


@settings(max_examples=80)
@given(entries)
def test_restarts_change_nothing_and_what_is_told_of_changes_makes_the_state(log: list[list[bytes]]) -> None:
    steady, answers = replay(log, reopen=False)
    restarted, again = replay(log, reopen=True)
    assert steady.state.content() == restarted.state.content()
    assert answers == again
    assert steady.machine.ownership == restarted.machine.ownership
    # The revision is what changes and raises make of it, and every key that was not imported or deleted by a step is told.
    cluster = managed(bitmap((1, 2)))
    cluster.register()
    revision, shadow = 0, dict[bytes, bytes]()
    touched: set[bytes] = set()
    for commands in log:
        cluster.run(*commands)
        payload = envelope.payload([envelope.group(commands)])
        for changed in history.changes(payload, history.read_idle(cluster.state.get, cluster.index)):
            revision += 1
            for key, value in changed:
                if value is None:
                    shadow.pop(key, None)
                else:
                    shadow[key] = revision.to_bytes(8, "big") + value
        for command in commands:
            if command[0] == envelope.Kind.SLOTS:
                touched |= {key for key, _, _ in read_step(command[7:]).keys}
        revision += history.read_raise(cluster.state.get, cluster.index)
        assert revision == cluster.machine.revision
        rows = cluster.rows(Database.KV)
        assert {key: rows[key] for key in rows if key not in touched} == {
            key: shadow[key] for key in shadow if key not in touched
        }
        assert all(int.from_bytes(record[:8], "big") <= revision for record in rows.values())
