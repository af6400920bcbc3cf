"""The copy of the map, and windows of merged pages: pure."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravelctl.client import InvalidArgumentError, UnreachableError
from ravelctl.client.errors import InternalError
from ravelctl.client.routing.merged_scan import Page, merge, shares_of
from ravelctl.client.routing.slot_map import ALL_SLOTS, SlotRoutes, slots_in
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1.admin_pb2 import RoutedCluster, SlotMapResponse
from ravelpb.v1.kv_pb2 import KeyValue

CLUSTERS = [RoutedCluster(number=n, name=f"c{n}", cluster_id=f"{n:032x}", addresses=[f"127.0.0.1:{7000 + n}"]) for n in (1, 2)]


def answer(version: int, owners: list[int] | None, clusters: list[RoutedCluster] = CLUSTERS) -> SlotMapResponse:
    packed = b"" if owners is None else b"".join(owner.to_bytes(2, "big") for owner in owners)
    return SlotMapResponse(version=version, owners=packed, clusters=clusters)


HALVES = [1 + slot % 2 for slot in range(SLOT_COUNT)]


def test_a_key_goes_to_the_owner_of_its_slot() -> None:
    routes = SlotRoutes.first(answer(1, HALVES))
    for key in (b"a", b"b", b"orders/17", b"\xff" * 480):
        assert routes.owner_of(key).number == 1 + slot_of(key) % 2
    assert routes.share(1) | routes.share(2) == ALL_SLOTS
    assert routes.share(1) & routes.share(2) == 0
    assert routes.share(1) & 1
    assert routes.owning == [1, 2]


def test_a_newer_map_replaces_ours_and_an_older_one_does_not() -> None:
    routes = SlotRoutes.first(answer(3, HALVES))
    newer = routes.updated(answer(4, [2] * SLOT_COUNT))
    assert (newer.version, newer.owner_of(b"a").number, newer.owning) == (4, 2, [2])
    assert newer.updated(answer(3, HALVES)) is newer


def test_the_same_version_brings_only_the_addresses() -> None:
    routes = SlotRoutes.first(answer(3, HALVES))
    moved = [RoutedCluster(number=n, name=f"c{n}", addresses=["127.0.0.1:9000"]) for n in (1, 2)]
    again = routes.updated(answer(3, None, moved))
    assert again.owners == routes.owners
    assert again.owner_of(b"a").addresses == ("127.0.0.1:9000",)


@pytest.mark.parametrize("owners", [b"", b"\0\1" * 4095, b"\0\1" * 4097])
def test_what_is_no_map_is_refused(owners: bytes) -> None:
    with pytest.raises(InternalError, match=f"a map of {len(owners)} bytes"):
        SlotRoutes.first(SlotMapResponse(version=1, owners=owners))


def test_a_key_of_nobody_and_a_cluster_without_addresses_are_told() -> None:
    with pytest.raises(UnreachableError, match="no cluster owns the slot of b'a' by version 1"):
        SlotRoutes.first(answer(1, [0] * SLOT_COUNT)).owner_of(b"a")
    with pytest.raises(UnreachableError, match="the admin knows no address"):
        SlotRoutes.first(answer(1, [7] * SLOT_COUNT)).owner_of(b"a")


def test_an_atomic_write_over_two_clusters_names_two_keys() -> None:
    routes = SlotRoutes.first(answer(1, HALVES))
    one, other = (next(key for i in range(99) if slot_of(key := b"k%d" % i) % 2 == half) for half in (0, 1))
    assert routes.owner_of_all([one, one]).number == 1
    with pytest.raises(InvalidArgumentError) as caught:
        routes.owner_of_all([one, one, other])
    assert f"{one!r} is in c1 while {other!r} is in c2" in caught.value.message
    with pytest.raises(InvalidArgumentError, match="without a key"):
        routes.owner_of_all([])


def test_slots_of_the_wire() -> None:
    assert slots_in(b"") == ALL_SLOTS
    assert slots_in(b"\x01" + b"\0" * 511) == 1
    assert slots_in(b"\0" * 511 + b"\x80") == 1 << 4095


# --- windows


def test_a_slot_that_nobody_shows_is_missing() -> None:
    odd = sum(1 << slot for slot in range(1, SLOT_COUNT, 2))
    pages = {1: Page(b"", b"", ALL_SLOTS & ~odd & ~1, ()), 2: Page(b"", b"", odd, ())}
    _, missing = shares_of(pages, lambda number: 0, lambda number: ALL_SLOTS)
    assert missing == 1


def test_a_slot_that_only_a_cluster_shows_which_may_not_is_missing() -> None:
    pages = {1: Page(b"", b"", ALL_SLOTS & ~2, ()), 2: Page(b"", b"", 3, ())}
    owned = {1: ALL_SLOTS & ~3, 2: 2}
    chosen, missing = shares_of(pages, lambda number: owned[number], lambda number: owned[number])
    assert missing == 1
    assert chosen == {1: ALL_SLOTS & ~3, 2: 2}
    ends = {1: owned[1] | 1, 2: owned[2]}
    chosen, missing = shares_of(pages, lambda number: owned[number], lambda number: ends[number])
    assert (chosen, missing) == ({1: ALL_SLOTS & ~2, 2: 2}, 0)


def test_both_ends_of_a_migration_may_show_its_slots() -> None:
    moved = answer(1, HALVES)
    moved.migrations.add(slots=[1, 3], source=1, destination=2)
    for routes in (SlotRoutes.first(moved), SlotRoutes.first(answer(1, HALVES)).updated(moved)):
        assert routes.may_show(1) == routes.share(1) | 0b1010
        assert routes.may_show(2) == routes.share(2) | 0b1010
        assert routes.may_show(3) == 0
        assert routes.updated(answer(1, HALVES)).may_show(1) == routes.share(1)


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.binary(min_size=1, max_size=3), max_size=40),
    doubled=st.sets(st.integers(0, SLOT_COUNT - 1), max_size=SLOT_COUNT),
    ends=st.tuples(st.binary(max_size=2), st.binary(max_size=2)),
    prefers=st.sampled_from([1, 2]),
)
def test_a_window_has_each_key_once_and_in_order(
    keys: list[bytes], doubled: set[int], ends: tuple[bytes, bytes], prefers: int
) -> None:
    """Two clusters with half of the slots each, and some slots shown by both."""
    both = sum(1 << slot for slot in doubled)
    halves = [sum(1 << slot for slot in range(half, SLOT_COUNT, 2)) for half in (0, 1)]
    pages = {}
    for number, (half, end) in enumerate(zip(halves, ends, strict=True), start=1):
        shown = [key for key in sorted(set(keys)) if (half | both) >> slot_of(key) & 1 and (not end or key < end)]
        pages[number] = Page(b"", end, half | both, tuple(KeyValue(key=key, revision=number) for key in shown))
    chosen, missing = shares_of(pages, lambda number: both if number == prefers else 0, lambda number: ALL_SLOTS)
    assert not missing
    assert chosen[1] & chosen[2] == 0
    items, end = merge(pages, chosen, b"")
    assert [item.key for item in items] == [key for key in sorted(set(keys)) if not end or key < end]
    assert all(item.revision == prefers for item in items if slot_of(item.key) in doubled)
    assert end == min((e for e in ends if e), default=b"")
