"""Moves of slots, as the directory decides them."""

from __future__ import annotations

import pytest

from ravel_node.admin.codec import encode
from ravel_node.admin.commands import BeginMove, Command, DecideMove, FinishMove, PlanMoves, PlannedMove, SetCluster
from ravel_node.admin.model import MoveId, Phase
from ravelpb.errors import Reason
from tests.admin.helpers import Admin, hex_id, registering


@pytest.fixture
def admin() -> Admin:
    """Clusters 1, 2 and 3, of which 1 owns all slots."""
    admin = Admin()
    for number, name in enumerate("abc", 1):
        admin.found(name, number)
    return admin


def plan(*moves: PlannedMove, version: int = 1) -> PlanMoves:
    return PlanMoves(version, moves)


def phases(admin: Admin) -> list[Phase]:
    return [move.phase for move in admin.directory.moves.values()]


def test_a_move_from_plan_to_end(admin: Admin) -> None:
    (move_id,) = admin.run(plan(PlannedMove((3, 9), 1, 2)))["moves"]
    assert move_id >> 16 == admin.index
    assert admin.run(BeginMove(move_id)) == admin.run(BeginMove(move_id)) == {"map_version": 1}
    assert admin.directory.slots_of(admin.cluster("b").number) == ()
    assert admin.run(DecideMove(move_id, True)) == admin.run(DecideMove(move_id, True)) == {"map_version": 2}
    assert admin.directory.slots_of(admin.cluster("b").number) == (3, 9)
    assert phases(admin) == [Phase.COMMITTED]
    admin.refuses(DecideMove(move_id, False), Reason.MOVE_REFUSED, "committed")
    admin.refuses(BeginMove(move_id), Reason.MOVE_REFUSED, "committed")
    assert admin.run(FinishMove(move_id)) == admin.run(FinishMove(move_id)) == {}
    assert phases(admin) == []
    admin.refuses(BeginMove(move_id), Reason.NOT_FOUND, str(move_id))
    admin.refuses(DecideMove(move_id, True), Reason.NOT_FOUND, str(move_id))


def test_a_move_that_was_only_planned_is_called_off_at_once(admin: Admin) -> None:
    older = admin.plan(admin.cluster("a"), admin.cluster("b"), 2)
    move_id = admin.plan(admin.cluster("a"), admin.cluster("b"), 3)
    assert admin.run(DecideMove(move_id, False)) == {"map_version": 1}
    admin.refuses(DecideMove(move_id, False), Reason.NOT_FOUND, str(move_id))
    admin.refuses(BeginMove(move_id), Reason.NOT_FOUND, str(move_id))
    admin.run(BeginMove(older))
    assert set(admin.directory.slot_map.owners) == {1}
    assert admin.plan(admin.cluster("a"), admin.cluster("b"), 3) > move_id


def test_a_move_is_called_off(admin: Admin) -> None:
    move_id = admin.plan(admin.cluster("a"), admin.cluster("b"), 3)
    admin.run(BeginMove(move_id))
    assert admin.run(DecideMove(move_id, False)) == admin.run(DecideMove(move_id, False)) == {"map_version": 1}
    admin.refuses(DecideMove(move_id, True), Reason.MOVE_REFUSED, "aborted")
    admin.refuses(BeginMove(move_id), Reason.MOVE_REFUSED, "aborted")
    admin.run(FinishMove(move_id))
    assert set(admin.directory.slot_map.owners) == {1}
    assert admin.plan(admin.cluster("a"), admin.cluster("b"), 3) > move_id


def test_what_is_not_begun_is_not_committed_and_what_is_not_decided_not_finished(admin: Admin) -> None:
    move_id = admin.plan(admin.cluster("a"), admin.cluster("b"), 3)
    admin.refuses(DecideMove(move_id, True), Reason.MOVE_REFUSED, "planned")
    admin.refuses(FinishMove(move_id), Reason.MOVE_REFUSED, "planned")
    admin.run(BeginMove(move_id))
    admin.refuses(FinishMove(move_id), Reason.MOVE_REFUSED, "copying")


def test_one_move_at_a_time_for_a_cluster(admin: Admin) -> None:
    a, b, c = (admin.cluster(name) for name in "abc")
    first, second = admin.plan(a, b, 1), admin.plan(a, c, 2)
    admin.run(BeginMove(first))
    admin.refuses(BeginMove(second), Reason.MOVE_REFUSED, "cluster 1")
    admin.run(DecideMove(first, True))
    admin.refuses(BeginMove(second), Reason.MOVE_REFUSED, f"move {first}")
    admin.run(FinishMove(first))
    admin.run(BeginMove(second))


def test_moves_of_a_cluster_begin_in_the_order_of_their_ids(admin: Admin) -> None:
    a, b, c = (admin.cluster(name) for name in "abc")
    first, second = admin.plan(a, b, 1), admin.plan(a, c, 2)
    admin.refuses(BeginMove(second), Reason.MOVE_REFUSED, f"until move {first} has ended")
    admin.run(DecideMove(second, False))
    admin.run(BeginMove(first))  # a later one that is called off waits for its turn to be told, and is in nobody's way
    admin.abort(first)
    admin.run(FinishMove(second))


def test_plans_that_do_not_fit_are_refused_whole(admin: Admin) -> None:
    admin.run(registering(9, new_cluster="new"))
    good = PlannedMove((1,), 1, 2)
    for command, words in (
        (plan(good, PlannedMove((2,), 2, 1)), "slot 2 belongs to cluster 1"),
        (plan(good, PlannedMove((2,), 1, 4)), "new, which nobody has founded"),
        (plan(good, PlannedMove((2,), 9, 1)), "9 is not in the list"),
    ):
        admin.refuses(command, Reason.MOVE_REFUSED, words)
    admin.refuses(plan(good, version=2), Reason.STALE_VIEW, "version 2", "at 1 now")
    admin.run(plan(good))
    admin.refuses(plan(PlannedMove((1, 2), 1, 3)), Reason.MOVE_REFUSED, "slot 1")
    admin.run(SetCluster("c", hex_id(70), emptying=True))
    admin.refuses(plan(PlannedMove((5,), 1, 3)), Reason.MOVE_REFUSED, "being emptied")


def test_ids_ascend_within_an_entry_and_after_it(admin: Admin) -> None:
    one, two = plan(PlannedMove((1,), 1, 2), PlannedMove((2,), 1, 3)), plan(PlannedMove((3,), 1, 2))
    commands: list[Command] = [one, two]
    admin.entry(*map(encode, commands))
    first = admin.index << 16
    assert list(admin.directory.moves) == [MoveId(first), MoveId(first + 1), MoveId(first + 2)]
    admin.abort(first + 2)
    admin.reopen()
    assert admin.plan(admin.cluster("a"), admin.cluster("b"), 3) > first + 2
