"""What the check of a store says of records of the directory that no machine could have written."""

from __future__ import annotations

import struct

import pytest

from ravel_node.admin.model import ClusterNumber, MoveId
from ravel_node.admin.records import COUNTERS_KEY, MAP_KEY, RULES, cluster_key, decode, move_key, server_key
from ravel_node.machine.base import Database
from ravel_node.machine.members import MemberVersionError
from ravelpb.slots import SLOT_COUNT
from tests.admin.helpers import Admin, hex_id

NOWHERE = ClusterNumber(9)


@pytest.fixture
def admin() -> Admin:
    """Two clusters and a planned move from the first to the second."""
    admin = Admin()
    first, second = admin.found("a", 1), admin.found("b", 2)
    admin.plan(first, second, 3, 4)
    return admin


def problem(admin: Admin, key: bytes, record: bytes) -> str:
    return RULES.record(Database.DIRECTORY, key, record, admin.state.get)


def spoiled(admin: Admin, key: bytes, old: bytes, new: bytes) -> str:
    """What is said of the record under this key with a part of it replaced."""
    record = admin.rows()[key]
    assert problem(admin, key, record) == ""
    assert record.count(old) == 1, record
    return problem(admin, key, record.replace(old, new))


def test_a_server_of_a_cluster_that_is_not_there(admin: Admin) -> None:
    assert "names cluster 9" in spoiled(admin, server_key(hex_id(1)), b'"cluster":1', b'"cluster":9')


@pytest.mark.parametrize(("old", "new"), [(b'"source":1', b'"source":9'), (b'"destination":2', b'"destination":9')])
def test_a_move_of_a_cluster_that_is_not_there(admin: Admin, old: bytes, new: bytes) -> None:
    (move_id,) = admin.directory.moves
    assert "names cluster 9" in spoiled(admin, move_key(move_id), old, new)


def test_a_move_and_a_cluster_beyond_what_was_given_out(admin: Admin) -> None:
    (move_id,) = admin.directory.moves
    late = MoveId(move_id + 1)
    assert f"move {late}" in problem(admin, move_key(late), admin.rows()[move_key(move_id)])
    record = admin.rows()[cluster_key(ClusterNumber(1))]
    assert "cluster 3, and numbers were given out up to 2" in problem(admin, cluster_key(ClusterNumber(3)), record)


def test_a_slot_map_of_a_cluster_that_is_not_there(admin: Admin) -> None:
    owners = [1] * SLOT_COUNT
    good = struct.pack(f">BQ{SLOT_COUNT}H{SLOT_COUNT}Q", 1, 7, *owners, *[7] * SLOT_COUNT)
    owners[SLOT_COUNT - 1] = NOWHERE
    assert problem(admin, MAP_KEY, good) == ""
    assert "slot map names cluster 9" in problem(
        admin, MAP_KEY, struct.pack(f">BQ{SLOT_COUNT}H{SLOT_COUNT}Q", 1, 7, *owners, *[7] * SLOT_COUNT)
    )


def test_a_record_of_a_later_version_is_not_guessed_at(admin: Admin) -> None:
    for key, record in admin.rows().items():
        later = bytes((2,)) + record[1:]
        with pytest.raises(MemberVersionError, match="version 2"):
            decode(key, later)
        assert "version 2" in problem(admin, key, later)


def test_the_counters_survive_a_restart_when_what_they_counted_is_gone(admin: Admin) -> None:
    """Ids of moves and numbers of clusters are never given out twice."""
    (move_id,) = admin.directory.moves
    before = admin.rows()[COUNTERS_KEY]
    admin.abort(move_id)
    admin.reopen()
    assert admin.rows()[COUNTERS_KEY] == before
    assert admin.plan(admin.cluster("a"), admin.cluster("b"), 3) > move_id
    admin.reopen()
    assert admin.directory.last_move > move_id
