"""What registry and clusters agree on after a disaster: the plan, case by case. Whole histories are the simulator's affair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from ravel_node.admin.model import NOBODY, ClusterEntry, ClusterNumber, Directory, Move, MoveId, Phase, SlotMap
from ravel_node.admin.reconcile import Migration, Plan, Report, reconciliation
from ravel_node.machine.ownership import Side
from ravelpb.slots import SLOT_COUNT

ONE, TWO, THREE = (ClusterNumber(number) for number in (1, 2, 3))
MOVE = MoveId(50)
LOW, HIGH = range(2048), range(2048, SLOT_COUNT)
ALL = range(SLOT_COUNT)


def registry(halves: tuple[int, int] = (1, 2), *, version: int = 10, decided: int = 10, clusters: int = 2) -> Directory:
    """The first 2,048 slots are of one cluster, the others of another one."""
    owners = tuple(ClusterNumber(halves[slot in HIGH]) for slot in ALL)
    entries = {
        ClusterNumber(n): ClusterEntry(ClusterNumber(n), f"c{n}", f"{n:032x}", founded=True) for n in range(1, clusters + 1)
    }
    return Directory(
        SlotMap(version, owners, (decided,) * SLOT_COUNT), clusters=entries, last_cluster=ClusterNumber(clusters), last_move=MOVE
    )


def report(
    slots: Iterable[int] = (),
    version: int = 10,
    *,
    managed: bool = True,
    last_move: int = 0,
    migrations: Mapping[int, Migration] | None = None,
    held: Iterable[int] | None = None,
    map_version: int = 10,
) -> Report:
    owned = dict.fromkeys(slots, version)
    return Report(
        managed,
        owned,
        map_version=map_version,
        last_move=last_move,
        revision=100,
        migrations=migrations or {},
        held=frozenset(owned if held is None else held),
    )


def changes(plan: Plan) -> dict[int, tuple[int, int]]:
    """How many slots each cluster gains and loses."""
    return {change.cluster: (len(change.gained), len(change.lost)) for change in plan.changes}


def test_what_agrees_is_left_alone() -> None:
    plan = reconciliation(registry(), {ONE: report(LOW), TWO: report(HIGH)})
    assert (plan.empty, plan.losses) == (True, ())


def test_a_cluster_from_the_day_when_it_owned_all_loses_what_it_gave_away() -> None:
    plan = reconciliation(registry(), {ONE: report(ALL, 1), TWO: report(HIGH, 10)})
    assert (changes(plan), plan.losses) == ({ONE: (0, 2048)}, ())
    assert plan.owners == registry().slot_map.owners


def test_a_registry_from_before_a_rebalance_takes_over_what_the_clusters_say() -> None:
    plan = reconciliation(registry((1, 1), version=900, decided=1), {ONE: report(LOW, 1), TWO: report(HIGH, 5)})
    assert (changes(plan), plan.losses) == ({}, ())
    assert plan.owners == registry().slot_map.owners
    assert plan.registry_changes


def test_a_registry_that_knows_nothing_learns_all() -> None:
    empty = registry((NOBODY, NOBODY), version=0, decided=0)
    plan = reconciliation(empty, {ONE: report(LOW, 1), TWO: report(HIGH, 5)})
    assert plan.owners == registry().slot_map.owners
    assert (plan.losses, plan.map_version) == ((), 10)


def test_a_cluster_that_knows_of_no_map_is_told_what_it_owns() -> None:
    empty = registry((NOBODY, NOBODY), version=0, decided=0, clusters=1)
    plan = reconciliation(empty, {ONE: report(ALL, 0, managed=False, map_version=0)})
    assert changes(plan) == {ONE: (0, 0)}
    assert set(plan.owners) == {ONE}
    assert plan.losses == ()


def test_what_is_owned_by_nobody_opens_only_with_consent() -> None:
    reports = {ONE: report(LOW), TWO: report()}
    plan = reconciliation(registry(), reports)
    (loss,) = plan.losses
    assert (loss.cluster, loss.slots, loss.accepted) == (TWO, tuple(HIGH), False)
    assert plan.empty
    accepted = reconciliation(registry(), reports, HIGH)
    assert changes(accepted) == {TWO: (2048, 0)}
    assert accepted.losses[0].accepted


def test_what_is_older_than_the_registry_opens_only_with_consent_and_as_new() -> None:
    reports = {ONE: report(ALL, 1), TWO: report()}
    plan = reconciliation(registry(), reports)
    assert [(loss.cluster, len(loss.slots)) for loss in plan.losses] == [(ONE, 2048)]
    assert "what was written since is lost" in plan.losses[0].reason
    assert changes(plan) == {}
    (change,) = reconciliation(registry(), reports, HIGH).changes
    # It has them already, by a version that is older than what the lost ones had: they come back by a newer one.
    assert change.gained == change.lost == frozenset(HIGH)


def test_a_cluster_that_does_not_answer_keeps_its_slots_unless_they_are_given_up() -> None:
    plan = reconciliation(registry(), {ONE: report(LOW)})
    assert (plan.empty, plan.losses) == (True, ())
    given_up = reconciliation(registry(), {ONE: report(LOW)}, HIGH)
    assert changes(given_up) == {ONE: (2048, 0)}
    assert set(given_up.owners) == {ONE}


def test_slots_that_are_given_up_open_where_keys_of_them_were_copied() -> None:
    reports = {
        ONE: report(),
        TWO: report(LOW),
        THREE: report(held={3000}, migrations={60: Migration(Side.IMPORTING, (3000, 3001))}),
    }
    plan = reconciliation(registry((2, 4), clusters=4), reports, [3000, 3001])
    assert {slot: plan.owners[slot] for slot in (3000, 3001)} == {3000: THREE, 3001: ONE}


def test_slots_that_are_given_up_are_shared() -> None:
    plan = reconciliation(registry((1, 3), clusters=3), {ONE: report(LOW), TWO: report()}, HIGH)
    assert changes(plan) == {TWO: (2048, 0)}
    plan = reconciliation(registry((3, 3), clusters=3), {ONE: report(), TWO: report()}, ALL)
    assert changes(plan) == {ONE: (2048, 0), TWO: (2048, 0)}


def test_keys_that_no_map_gave_to_their_cluster_are_deleted_only_with_consent() -> None:
    reports = {ONE: report(LOW, held=()), TWO: report(ALL, 0, managed=False, held={5, 3000}, map_version=0)}
    plan = reconciliation(registry(), reports)
    (loss,) = plan.losses
    assert (loss.cluster, loss.slots) == (ONE, (5,))
    assert "no map gave them" in loss.reason
    assert changes(plan) == {TWO: (0, 2047)}
    assert changes(reconciliation(registry(), reports, [5]))[TWO] == (0, 2048)


def test_two_clusters_with_keys_that_no_map_speaks_of() -> None:
    empty = registry((NOBODY, NOBODY), version=0, decided=0)
    reports = {ONE: report(ALL, 0, managed=False, held={5, 6}), TWO: report(ALL, 0, managed=False, held={6, 7})}
    plan = reconciliation(empty, reports)
    assert [(loss.cluster, loss.slots) for loss in plan.losses] == [(ONE, (6,))]
    assert (plan.owners[5], plan.owners[6], plan.owners[7]) == (ONE, NOBODY, TWO)


def moving(phase: Phase) -> Directory:
    """Slots 0 to 9 move from cluster 1 to cluster 2."""
    directory = registry((1, 1), clusters=3)
    move = Move(MOVE, tuple(range(10)), ONE, TWO, phase)
    owners = list(directory.slot_map.owners)
    if phase is Phase.COMMITTED:
        owners[:10] = [TWO] * 10
    return replace(directory, moves={MOVE: move}, slot_map=replace(directory.slot_map, owners=tuple(owners)))


def side(side: Side, version: int = 0) -> dict[int, Migration]:
    return {MOVE: Migration(side, tuple(range(10)), (version,) * 10 if side is Side.RELEASED else ())}


REST = range(10, SLOT_COUNT)


@pytest.mark.parametrize(
    ("phase", "source", "destination"),
    [
        (Phase.PLANNED, report(ALL), report()),
        (Phase.COPYING, report(ALL, migrations=side(Side.FROZEN)), report(migrations=side(Side.IMPORTING))),
        (Phase.COMMITTED, report(ALL, migrations=side(Side.FROZEN)), report(migrations=side(Side.IMPORTING))),
        (Phase.COMMITTED, report(REST, migrations=side(Side.RELEASED)), report(migrations=side(Side.IMPORTING))),
        (Phase.COMMITTED, report(REST, migrations=side(Side.RELEASED)), report(range(10), last_move=MOVE)),
        (Phase.COMMITTED, report(REST, last_move=MOVE), report(range(10), last_move=MOVE)),
        (Phase.ABORTED, report(ALL, last_move=MOVE), report(migrations=side(Side.DROPPING))),
    ],
)
def test_a_migration_that_can_go_on_is_left_to_the_migrator(phase: Phase, source: Report, destination: Report) -> None:
    plan = reconciliation(moving(phase), {ONE: source, TWO: destination, THREE: report()})
    assert (plan.struck, changes(plan), plan.cleaning, plan.losses) == ((), {}, (), ())


@pytest.mark.parametrize(
    ("phase", "source", "destination", "owner"),
    [
        # The source was restored from before: the destination has all keys, as the commit says.
        (Phase.COMMITTED, report(ALL, 1), report(migrations=side(Side.IMPORTING)), TWO),
        # The destination was restored from the middle of the copy: the source still owns.
        (Phase.COPYING, report(ALL, migrations=side(Side.FROZEN)), report(migrations=side(Side.DROPPING)), ONE),
        # The source was restored to before its export, and has ended younger moves.
        (Phase.COPYING, report(ALL, last_move=MOVE + 1), report(migrations=side(Side.IMPORTING)), ONE),
    ],
)
def test_a_migration_that_cannot_go_on_is_struck(phase: Phase, source: Report, destination: Report, owner: int) -> None:
    plan = reconciliation(moving(phase), {ONE: source, TWO: destination, THREE: report()})
    assert (plan.struck, plan.losses) == ((MOVE,), ())
    assert {plan.owners[slot] for slot in range(10)} == {owner}
    assert all(MOVE in change.ended or change.cluster == ONE for change in plan.changes)


def test_a_migration_whose_destination_is_away_waits_only_where_its_source_owns_the_slots() -> None:
    directory = moving(Phase.PLANNED)
    waits = reconciliation(directory, {ONE: report(ALL), THREE: report(range(5), 1)})
    assert (waits.struck, changes(waits)) == ((), {THREE: (0, 5)})
    # A registry that was restored says that cluster 1 owns what cluster 3 has got since.
    older = reconciliation(directory, {ONE: report(REST), THREE: report(range(10), 20)})
    assert (older.struck, changes(older), older.losses) == ((MOVE,), {}, ())
    assert {older.owners[slot] for slot in range(10)} == {THREE}


def test_nobody_loses_slots_of_a_migration_whose_source_is_away() -> None:
    plan = reconciliation(moving(Phase.COPYING), {TWO: report(migrations=side(Side.IMPORTING)), THREE: report(range(10), 20)})
    assert (plan.struck, changes(plan), plan.losses) == ((), {}, ())


def test_a_migration_that_nobody_knows_is_presumed_aborted_unless_the_source_has_released() -> None:
    directory = registry((1, 1))
    aborted = reconciliation(
        directory, {ONE: report(ALL, migrations=side(Side.FROZEN)), TWO: report(migrations=side(Side.IMPORTING))}
    )
    assert {change.cluster: change.ended for change in aborted.changes} == {ONE: (MOVE,), TWO: (MOVE,)}
    assert set(aborted.owners) == {ONE}
    released = reconciliation(
        directory, {ONE: report(REST, 1, migrations=side(Side.RELEASED, 20)), TWO: report(migrations=side(Side.IMPORTING))}
    )
    assert changes(released) == {TWO: (10, 0)}
    assert (released.losses, released.owners[:11]) == ((), (TWO,) * 10 + (ONE,))


def test_a_registry_that_has_decided_other_slots_since_it_was_restored_still_learns_what_it_missed() -> None:
    directory = registry((1, 1), version=900, decided=1)
    decided = tuple(900 if slot < 10 else 1 for slot in ALL)
    directory = replace(directory, slot_map=replace(directory.slot_map, decided=decided))
    plan = reconciliation(directory, {ONE: report(LOW, 1), TWO: report(HIGH, 5)})
    assert (plan.losses, plan.owners) == ((), registry().slot_map.owners)


def test_what_was_let_go_is_newer_than_what_a_restored_cluster_has() -> None:
    """The destination was restored from before, and the source has not purged: with consent it opens what it still has."""
    reports = {
        ONE: report(ALL, 1),
        TWO: report(range(2058, SLOT_COUNT), 5, migrations={60: Migration(Side.RELEASED, tuple(range(2048, 2058)), (5,) * 10)}),
    }
    plan = reconciliation(registry((1, 2), version=900, decided=1), reports)
    assert [(loss.cluster, loss.slots) for loss in plan.losses] == [(TWO, tuple(range(2048, 2058)))]
    accepted = reconciliation(registry((1, 2), version=900, decided=1), reports, range(2048, 2058))
    assert changes(accepted) == {ONE: (0, 2048), TWO: (10, 0)}


def test_what_was_taken_from_a_restored_cluster_is_not_newer_than_what_its_owner_has() -> None:
    reports = {
        ONE: report(LOW, 10, migrations={60: Migration(Side.RELEASED, tuple(HIGH), (1,) * len(HIGH))}),
        TWO: report(HIGH, 5),
    }
    assert reconciliation(registry(), reports).losses == ()


def test_what_is_left_of_migrations_is_deleted_once_all_else_is_done() -> None:
    directory = registry()
    plan = reconciliation(directory, {ONE: report(LOW, migrations=side(Side.DROPPING)), TWO: report(HIGH)})
    assert [(one.cluster, one.move, one.side) for one in plan.cleaning] == [(ONE, MOVE, Side.DROPPING)]
    first = reconciliation(directory, {ONE: report(ALL, 1, migrations=side(Side.DROPPING)), TWO: report(HIGH)})
    assert (first.cleaning, len(first.changes)) == ((), 1)


def test_keys_of_a_released_migration_are_kept_while_its_new_owner_is_away() -> None:
    halves = {ONE: report(LOW, migrations={60: Migration(Side.RELEASED, tuple(HIGH), (10,) * len(HIGH))})}
    assert reconciliation(registry(), halves).cleaning == ()


def test_a_plan_has_a_name_of_its_own() -> None:
    one = reconciliation(registry(), {ONE: report(ALL, 1), TWO: report(HIGH)})
    again = reconciliation(registry(), {ONE: report(ALL, 1), TWO: report(HIGH)})
    other = reconciliation(registry(), {ONE: report(range(4000), 1), TWO: report(HIGH)})
    assert one.name == again.name != other.name


def test_a_hundred_clusters() -> None:
    count = 100
    owners = tuple(ClusterNumber(1 + slot % count) for slot in ALL)
    entries = {ClusterNumber(n): ClusterEntry(ClusterNumber(n), f"c{n}", f"{n:032x}", founded=True) for n in range(1, count + 1)}
    directory = Directory(SlotMap(10, owners, (10,) * SLOT_COUNT), clusters=entries)
    reports = {number: report([slot for slot in ALL if owners[slot] == number]) for number in entries}
    assert reconciliation(directory, reports).empty
    reports[ONE] = report(ALL, 1)
    assert changes(reconciliation(directory, reports)) == {ONE: (0, SLOT_COUNT - owners.count(ONE))}
