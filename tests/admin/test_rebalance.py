"""Plans: within bounds, as few slots as can be, the same each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravel_node.admin import rebalance
from ravel_node.admin.codec import MOVE_SLOTS_MAX, encode
from ravel_node.admin.commands import BeginMove, DecideMove, FinishMove, PlanMoves, PlannedMove
from ravel_node.admin.model import ClusterEntry, ClusterNumber, Directory, Move, MoveId, Phase, SlotMap
from ravelpb.slots import SLOT_COUNT
from tests.admin.helpers import Admin, hex_id


def directory(loads: Sequence[int], *, shuffled: int | None = None, unfounded: Sequence[int] = ()) -> Directory:
    """Clusters 1, 2, ... with so many slots each; what is left belongs to nobody."""
    numbers = [ClusterNumber(number) for number in range(1, len(loads) + 1)]
    owners = [number for number, load in zip(numbers, loads, strict=True) for _ in range(load)]
    owners += [ClusterNumber(0)] * (SLOT_COUNT - len(owners))
    if shuffled is not None:
        Random(shuffled).shuffle(owners)
    clusters = {number: ClusterEntry(number, f"c{number}", hex_id(number), founded=number not in unfounded) for number in numbers}
    return Directory(SlotMap(1, tuple(owners)), clusters=clusters)


def after(before: Directory, moves: Sequence[PlannedMove]) -> list[int]:
    """The loads once these moves are done; every slot is given by whoever owns it, once."""
    owners = list(before.slot_map.owners)
    seen: set[int] = set()
    for move in moves:
        assert move.slots
        for slot in move.slots:
            assert owners[slot] == move.source
            assert slot not in seen
            seen.add(slot)
            owners[slot] = ClusterNumber(move.destination)
    counts = Counter(owners)
    return [counts[number] for number in sorted(before.clusters)]


def moved(moves: Sequence[PlannedMove]) -> int:
    return sum(len(move.slots) for move in moves)


def split(total: int, cuts: Sequence[float]) -> list[int]:
    """`total` in parts that are to each other as these numbers."""
    marks = [0]
    for cut in cuts:
        marks.append(marks[-1] + round(cut * 1_000))
    scale = [total * mark // max(marks[-1], 1) for mark in marks]
    scale[-1] = total
    return [high - low for low, high in pairwise(scale)]


all_loads = st.lists(st.floats(0, 1), min_size=1, max_size=9).map(lambda cuts: split(SLOT_COUNT, cuts))


def least(loads: Sequence[int], homeless: int) -> int:
    """The fewest slots that have to move until all of these clusters have their share, rounded down or up: whoever has too many
    must give, and whoever has too few must get."""
    share, more = divmod(sum(loads) + homeless, len(loads))
    most = share + (1 if more else 0)
    return max(sum(max(0, load - most) for load in loads) + homeless, sum(max(0, share - load) for load in loads))


@settings(max_examples=40)
@given(all_loads, st.integers(0, 1_000), st.data())
def test_a_plan_reaches_what_it_should_with_as_few_moves_as_can_be(loads: list[int], seed: int, data: st.DataObject) -> None:
    before = directory(loads, shuffled=seed)
    leaving = data.draw(st.sets(st.sampled_from(sorted(before.clusters)), max_size=len(loads) - 1))
    moves = rebalance.plan(before, leaving)
    assert moves == rebalance.plan(before, leaving)
    assert all(len(move.slots) <= MOVE_SLOTS_MAX for move in moves)
    staying = [load for number, load in enumerate(loads, 1) if number not in leaving]
    homeless = SLOT_COUNT - sum(staying)
    result = after(before, moves)
    assert all(result[number - 1] == 0 for number in leaving)
    final = [load for number, load in enumerate(result, 1) if number not in leaving]
    low, high = rebalance.bounds(SLOT_COUNT, len(staying))
    assert all(low <= load <= high for load in final)
    assert moved(moves) in (homeless, least(staying, homeless))
    if moved(moves) > homeless:
        assert max(final) - min(final) <= 1
    assert [share.after for share in rebalance.shares(before, moves)] == result
    if moves:
        encode(PlanMoves(1, tuple(moves)))


@settings(max_examples=40)
@given(all_loads)
def test_who_is_within_bounds_is_left_alone(loads: list[int]) -> None:
    low, high = rebalance.bounds(SLOT_COUNT, len(loads))
    moves = rebalance.plan(directory(loads))
    assert (not moves) == all(low <= load <= high for load in loads)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_a_cluster_that_is_added_gets_a_share_of_each_and_nothing_else_moves(count: int) -> None:
    share, more = divmod(SLOT_COUNT, count)
    before = directory([share + (number < more) for number in range(count)] + [0])
    moves = rebalance.plan(before)
    assert moved(moves) == SLOT_COUNT // (count + 1)
    assert {move.destination for move in moves} == {count + 1}
    assert max(after(before, moves)) - min(after(before, moves)) <= 1


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_a_cluster_that_is_emptied_gives_its_slots_and_nothing_else_moves(count: int) -> None:
    share, more = divmod(SLOT_COUNT, count)
    before = directory([share + (number < more) for number in range(count)])
    moves = rebalance.plan(before, {ClusterNumber(1)})
    assert moved(moves) == before.slot_map.owners.count(ClusterNumber(1))
    assert {move.source for move in moves} == {1}
    marked = replace(
        before, clusters={**before.clusters, ClusterNumber(1): replace(before.clusters[ClusterNumber(1)], emptying=True)}
    )
    assert rebalance.plan(marked) == moves


def test_bounds_are_a_quarter_of_the_fair_share() -> None:
    assert rebalance.bounds(4_096, 4) == (768, 1_280)
    assert rebalance.bounds(4_096, 3) == (1_024, 1_707)
    assert rebalance.plan(directory([1_280, 768, 1_024, 1_024])) == []
    assert moved(rebalance.plan(directory([1_281, 767, 1_024, 1_024]))) == 257


def test_nobody_to_take_them() -> None:
    assert rebalance.plan(Directory()) == []
    assert rebalance.plan(directory([4_096]), {ClusterNumber(1)}) == []
    assert rebalance.plan(directory([4_096, 0], unfounded=[2])) == []


def test_slots_of_a_cluster_that_nobody_founded_are_left_where_they_are() -> None:
    before = directory([2_000, 0, 2_096], unfounded=[3])
    assert after(before, rebalance.plan(before)) == [1_000, 1_000, 2_096]


def test_moves_that_have_not_ended_count_as_if_they_had() -> None:
    before = directory([4_096, 0])
    moves = rebalance.plan(before)
    assert moved(moves) == 2_048
    pending = {
        MoveId(number): Move(MoveId(number), move.slots, ClusterNumber(move.source), ClusterNumber(move.destination), phase)
        for number, (move, phase) in enumerate(zip(moves, [Phase.COPYING] + [Phase.PLANNED] * 99, strict=False), 1)
    }
    assert rebalance.plan(replace(before, moves=pending)) == []
    assert [share[1:] for share in rebalance.shares(replace(before, moves=pending), [])] == [(4_096, 2_048), (0, 2_048)]
    stopped = {number: replace(move, phase=Phase.ABORTED) for number, move in list(pending.items())[:1]}
    again = rebalance.plan(replace(before, moves=stopped))
    assert moved(again) == 2_048
    assert not {slot for move in again for slot in move.slots} & set(moves[0].slots), "those are still being given back"


def test_a_plan_is_carried_out() -> None:
    admin = Admin()
    for number, name in enumerate("abc", 1):
        admin.found(name, number)
    moves = rebalance.plan(admin.directory)
    ids = admin.run(PlanMoves(admin.directory.slot_map.version, tuple(moves)))["moves"]
    assert rebalance.plan(admin.directory) == []
    for move_id in ids:
        admin.run(BeginMove(move_id))
        admin.run(DecideMove(move_id, True))
        admin.run(FinishMove(move_id))
    assert sorted(len(admin.directory.slots_of(number)) for number in admin.directory.clusters) == [1_365, 1_365, 1_366]
    assert rebalance.plan(admin.directory) == []
    assert not admin.directory.moves
