"""Which slots move so that every cluster bears its share. Pure.

The fair share of a cluster is what all slots that can move are, divided by the clusters that may own some. A load is within
bounds between 0.75 and 1.25 of it (rounded outwards). The rule, in two steps:

1. Slots of emptying clusters go to whoever has the fewest. If every load is within bounds then, that is all: who is within bounds
   is left alone, since a move costs more than a few slots too many.
2. Else all loads become the fair share, rounded down or up, and those that have more already are the ones that get it rounded up.

Both move as little as can be for what they reach: emptying one of several even clusters moves its slots and no other, and a
cluster that is added to n even ones gets a share of each, 1/(n+1) of all slots together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import heapify, heapreplace
from itertools import islice
from typing import Final, NamedTuple

from ravel_node.admin.codec import MOVE_SLOTS_MAX
from ravel_node.admin.commands import PlannedMove
from ravel_node.admin.model import ClusterNumber, Directory, Phase

LOW: Final = (3, 4)
HIGH: Final = (5, 4)
"""Bounds of a load, as parts of the fair share."""


class Share(NamedTuple):
    """How many slots a cluster owns by the map, and will own once all moves have ended."""

    number: ClusterNumber
    before: int
    after: int


def plan(directory: Directory, emptying: Collection[ClusterNumber] = ()) -> list[PlannedMove]:
    """The moves that are wanting, of at most MOVE_SLOTS_MAX slots each; none where every load is within bounds.

    `emptying` are taken as such, beside those that are marked so. Moves that have not ended count as if they had, and their slots
    are left to them. A cluster that nobody has founded neither gives nor takes. The same directory gives the same plan.
    """
    owners = _owners_to_be(directory)
    busy = {slot for move in directory.moves.values() for slot in move.slots}
    founded = sorted(cluster.number for cluster in directory.clusters.values() if cluster.founded)
    leaving = [number for number in founded if number in emptying or directory.clusters[number].emptying]
    staying = [number for number in founded if number not in leaving]
    counts = Counter(owners)
    if not staying:
        return []
    targets = _targets({number: counts[number] for number in staying}, sum(counts[number] for number in leaving))
    surplus = {number: counts[number] - targets.get(number, 0) for number in founded}
    spare = [(number, list(_spare(owners, busy, number, surplus[number]))) for number in founded if surplus[number] > 0]
    return list(_moves(spare, {number: -surplus[number] for number in founded if surplus[number] < 0}))


def shares(directory: Directory, moves: Sequence[PlannedMove]) -> list[Share]:
    """What every cluster owns now, and when these moves and those that have not ended are done. By number."""
    after = Counter(_owners_to_be(directory))
    for move in moves:
        after[ClusterNumber(move.source)] -= len(move.slots)
        after[ClusterNumber(move.destination)] += len(move.slots)
    before = Counter(directory.slot_map.owners)
    return [Share(number, before[number], after[number]) for number in sorted(directory.clusters)]


def bounds(slots: int, clusters: int) -> tuple[int, int]:
    """The least and the most that one of so many clusters may own of so many slots."""
    return slots * LOW[0] // (clusters * LOW[1]), -(-slots * HIGH[0] // (clusters * HIGH[1]))


def _owners_to_be(directory: Directory) -> list[ClusterNumber]:
    """Who owns each slot once the moves that are planned or being copied are done."""
    owners = list(directory.slot_map.owners)
    for move in directory.moves.values():
        if move.phase in (Phase.PLANNED, Phase.COPYING):
            for slot in move.slots:
                owners[slot] = move.destination
    return owners


def _targets(loads: Mapping[ClusterNumber, int], homeless: int) -> dict[ClusterNumber, int]:
    """How many slots each cluster is to own, of those that all of them own and `homeless` more."""
    filled = _filled(loads, homeless)
    total = sum(filled.values())
    low, high = bounds(total, len(filled))
    if all(low <= load <= high for load in filled.values()):
        return filled
    share, more = divmod(total, len(loads))
    rounded_up = set(sorted(loads, key=lambda number: (-loads[number], number))[:more])
    return {number: share + (number in rounded_up) for number in loads}


def _filled(loads: Mapping[ClusterNumber, int], homeless: int) -> dict[ClusterNumber, int]:
    """The loads after each further slot went to whoever had the fewest, of equal ones to the lowest number."""
    heap = [(load, number) for number, load in loads.items()]
    heapify(heap)
    for _ in range(homeless):
        load, number = heap[0]
        heapreplace(heap, (load + 1, number))
    return {number: load for load, number in sorted(heap, key=lambda pair: pair[1])}


def _spare(owners: Sequence[ClusterNumber], busy: Collection[int], number: ClusterNumber, count: int) -> Iterator[int]:
    """The slots that a cluster gives away: its last ones, so that what stays is one run as long as it can be."""
    last_first = (slot for slot in range(len(owners) - 1, -1, -1) if owners[slot] == number and slot not in busy)
    return islice(last_first, count)


def _moves(spare: Sequence[tuple[ClusterNumber, list[int]]], wanted: Mapping[ClusterNumber, int]) -> Iterator[PlannedMove]:
    """Slots that are to spare, handed in order to those who want some."""
    givers = [(source, list(slots)) for source, slots in spare]
    for destination, count in wanted.items():
        while count and givers:
            source, slots = givers[0]
            given, slots[:] = slots[: min(count, MOVE_SLOTS_MAX)], slots[min(count, MOVE_SLOTS_MAX) :]
            if not slots:
                givers.pop(0)
            if given:
                count -= len(given)
                yield PlannedMove(tuple(sorted(given)), source, destination)
