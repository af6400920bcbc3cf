"""Positions of watches: what is written is read again, and nothing else is."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravelctl.client import InvalidArgumentError
from ravelctl.client.session.position import alone, read_position, write_position
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1.kv_pb2 import ClusterPosition, SlotsFrom, SlotsLeft, WatchPosition


@given(
    seed=st.integers(0, 1000),
    revisions=st.lists(st.integers(1, (1 << 64) - 1), min_size=4, max_size=4),
)
def test_what_is_written_is_read_again(seed: int, revisions: list[int]) -> None:
    owners = Random(seed).choices(range(4), k=SLOT_COUNT)
    position = WatchPosition()
    for number in range(3):
        slots = [slot for slot, owner in enumerate(owners) if owner == number]
        position.clusters.add(
            cluster_id=f"{number:032x}", slots=[SlotsFrom(slots=slots, from_revision=revisions[number], came=number)]
        )
    gone = [slot for slot, owner in enumerate(owners) if owner == 3]
    position.clusters[0].left.append(SlotsLeft(slots=gone, revision=revisions[3]))
    text = write_position(position)
    assert read_position(text) == position
    assert alone(position) is None


def test_a_position_of_clusters_with_ranges_of_slots_is_short() -> None:
    position = WatchPosition()
    for number in range(3):
        slots = [slot for slot in range(SLOT_COUNT) if slot // 64 % 3 == number]
        position.clusters.add(cluster_id=f"{number:032x}", slots=[SlotsFrom(slots=slots, from_revision=10**9, came=7)])
    assert len(write_position(position)) < 400


def test_a_position_of_one_cluster() -> None:
    place = ClusterPosition(cluster_id="c" * 32, revision=7, map_version=3)
    text = write_position(WatchPosition(clusters=[place]))
    assert alone(read_position(text)) == place
    for at in range(len(text)):
        try:
            read_position(text[:at])
        except InvalidArgumentError:
            continue
        pytest.fail(f"{text[:at]!r} was taken")
