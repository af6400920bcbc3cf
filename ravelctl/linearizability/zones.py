"""A check in O(n log n) for keys that are only put and read, each value put once, and whose revisions are not told.

After Gibbons & Korach, "Testing shared memories" (1997). A value and its reads form a cluster. Between the first end and the last
begin of its steps, if they come in that order, the key holds that value all the time: a forward zone. Otherwise there is a moment
at which all of them overlap, and the whole cluster can take effect there: a backward zone, from the last begin to the first end.
An order exists if and only if no value is read before it is put, no two forward zones overlap, and no backward zone lies within a
forward one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

from ravelctl.linearizability.steps import ABSENT, UNSEEN, Need, Step, Steps

BEFORE_ALL = -1
"""The rank at which a key that is not there began to be so."""


class Zone(NamedTuple):
    first_end: int
    last_begin: int
    steps: tuple[Step, ...]  # those that make it so: the writer, the first to end, the last to begin

    @property
    def is_forward(self) -> bool:
        return self.first_end < self.last_begin


def applies(steps: Steps) -> bool:
    """Whether the steps are of the kind that `conflict` can judge."""
    if steps.has_revisions:
        return False
    writes = [step for step in steps.steps if not step.reads]
    return (
        all(step.need is Need.ANYTHING and step.value != ABSENT for step in writes)
        and all(step.need is Need.VALUE for step in steps.steps if step.reads)
        and len(steps.lone) == sum(step.value > UNSEEN for step in writes)
    )


def conflict(steps: Steps) -> tuple[Step, ...]:
    """Steps that no order can hold; empty: there is an order."""
    zones, stray = _zones(steps)
    if stray:
        return stray
    forward = sorted((zone for zone in zones if zone.is_forward), key=lambda zone: zone.first_end)
    for earlier, later in pairwise(forward):
        if later.first_end < earlier.last_begin:
            return earlier.steps + later.steps
    starts = [zone.first_end for zone in forward]
    for zone in zones:
        if zone.is_forward:
            continue
        place = bisect_left(starts, zone.last_begin) - 1
        if place >= 0 and zone.first_end < forward[place].last_begin:
            return forward[place].steps + zone.steps
    return ()


def _zones(steps: Steps) -> tuple[list[Zone], tuple[Step, ...]]:
    """All zones; or steps that already contradict each other: reads of a value that nobody had put yet."""
    clusters: dict[int, list[Step]] = defaultdict(list)
    zones: list[Zone] = []
    for step in steps.steps:
        if step.reads:
            clusters[step.need_value].append(step)
        elif step.value == UNSEEN and not step.optional:
            zones.append(Zone(step.end, step.begin, (step,)))
    for value, reads in clusters.items():
        first, last = min(reads, key=lambda step: step.end), max(reads, key=lambda step: step.begin)
        if value == ABSENT:
            zones.append(Zone(BEFORE_ALL, last.begin, (last,)))
            continue
        writer = steps.lone.get(value)
        if writer is None:
            return [], (first,)
        if first.end < writer.begin:
            return [], (writer, first)
        end, begin = min(first.end, writer.end), max(last.begin, writer.begin)
        zones.append(Zone(end, begin, (writer, first, last)))
    return zones, ()
