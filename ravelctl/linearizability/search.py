"""The search for an order of one key's operations that gives the answers which were received.

Theory of operation. The search of Wing & Gong ("Testing and verifying concurrent objects", 1993) with the memory and the
just-in-time order of Lowe ("Testing for linearizability", 2017), breadth first: it goes through the history once, and carries all
configurations that are possible so far. A configuration is the set of pending steps that have taken effect (a mask of bits, which
are used again once a step has ended) and the state of the key. Nothing takes effect before it must: only when a step ends, every
configuration in which it has not taken effect is replaced by all that come from letting pending steps take effect, that step
last. If none is left, there is no order.

What keeps the configurations few, none of which loses an order:

- Reads of a state take effect when it is left; they change nothing.
- Pending steps that do the same are interchangeable: the one that ends first goes first. Unknown outcomes end never and go last.
- Of two configurations that differ only in unknown outcomes used up, the one that used fewer does all that the other can. So an
  unknown outcome takes effect only where a pending step needs what it leaves and would not have it otherwise.
- A state is not left while an answer that only it can give is still to come: later answers are known here.
- Known revisions of writes fix their order.

Unknown outcomes of values that somebody saw have become known ones before (see steps.py), so what stays open for ever is little.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from heapq import heappop, heappush
from typing import Final

from ravelctl.linearizability.steps import ABSENT, NEVER, UNKNOWN, UNSEEN, Need, Step, Steps

CONFIGURATIONS_MAX: Final = 500_000
"""Configurations that the search of one key looks at before it gives up. Histories as in checker.py need up to 60,000."""

State = tuple[int, int, int]
"""Value, its revision (0: absent, UNKNOWN: not told yet), and the lowest revision that the last change can have had."""

Configuration = tuple[int, State]

Class = tuple[Need, int, int, int, int]


class TooHardError(Exception):
    """The history has too many possible orders to look at: no verdict."""


def search(steps: Steps, configurations_max: int = CONFIGURATIONS_MAX) -> Step | None:
    """None: an order exists. Else the step at whose end no order of what had begun was left. Raises TooHardError."""
    return _Search(steps, configurations_max).run()


class _Search:
    def __init__(self, steps: Steps, configurations_max: int) -> None:
        self._steps = steps.steps
        self._counts = steps.has_revisions
        self._left = configurations_max
        self._now = 0
        self._configurations: list[Configuration] = [(0, (ABSENT, 0, 0))]
        self._optional = 0  # bits of pending optional steps
        self._free_bits: list[int] = []
        self._bits_used = 0
        self._writes: dict[Class, list[Step]] = {}  # pending, those that end first in front
        self._reads: dict[int, dict[int, int]] = defaultdict(dict)  # value -> revision -> bits of pending reads
        # What only one state can answer: by revision always, by value where it has one writer.
        self._waiting_for_revision: dict[int, int] = defaultdict(int)  # bits of pending steps
        self._waiting_for_value: dict[int, int] = defaultdict(int)
        self._last_for_revision: dict[int, int] = {}  # the last rank at which such a step begins
        self._last_for_value: dict[int, int] = {}
        # Bits of pending writes by what they need, but not of those that need a revision which a write is known to have.
        self._needing_absent = self._needing_present = 0
        self._needing_value: dict[int, int] = defaultdict(int)
        self._needing_revision: dict[int, int] = {}
        self._expiring: list[tuple[int, int, Step]] = []  # a heap of optional steps by the revision that they need
        for step in self._steps:
            if step.optional:
                continue
            if step.need_revision > 0:
                self._last_for_revision[step.need_revision] = max(step.begin, self._last_for_revision.get(step.need_revision, 0))
            if step.need is Need.VALUE and step.need_value in steps.lone:
                self._last_for_value[step.need_value] = max(step.begin, self._last_for_value.get(step.need_value, 0))
        # A delete that need not have found anything need not have changed anything at its revision.
        sure = [step for step in self._steps if not step.optional and step.need is not Need.EITHER]
        self._known = sorted({step.revision for step in sure if step.revision > 0})
        self._known_set = frozenset(self._known)

    def run(self) -> Step | None:
        events = [(step.begin, 0, number) for number, step in enumerate(self._steps)]
        events += [(step.end, 1, number) for number, step in enumerate(self._steps) if step.end != NEVER]
        events.sort()
        for self._now, is_end, number in events:
            step = self._steps[number]
            if not is_end:
                self._begin(step)
                continue
            self._configurations = self._force(step)
            if not self._configurations:
                return step
            self._end([step])
            self._forget_used_up()
            self._forget_expired()
        return None

    # --- what is pending

    def _begin(self, step: Step) -> None:
        if self._free_bits:
            step.bit = self._free_bits.pop()
        else:
            step.bit = 1 << self._bits_used
            self._bits_used += 1
        if step.optional:
            self._optional |= step.bit
        elif step.need_revision > 0:
            self._waiting_for_revision[step.need_revision] |= step.bit
        if not step.optional and step.need is Need.VALUE and step.need_value in self._last_for_value:
            self._waiting_for_value[step.need_value] |= step.bit
        if step.need is Need.IMPOSSIBLE:
            return
        if step.reads:
            readers = self._reads[step.need_value]
            readers[step.need_revision] = readers.get(step.need_revision, 0) | step.bit
        else:
            insort(self._writes.setdefault(_class_of(step), []), step, key=lambda each: each.end)
            self._note_need(step)

    def _note_need(self, step: Step) -> None:
        match step.need:
            case Need.REVISION if step.need_revision == 0:
                # That it makes the key present again is of no use where it was present before.
                if not step.optional or step.value != UNSEEN:
                    self._needing_absent |= step.bit
            case Need.REVISION:
                if step.need_revision not in self._known_set:
                    self._needing_revision[step.need_revision] = self._needing_revision.get(step.need_revision, 0) | step.bit
                if step.optional:
                    heappush(self._expiring, (step.need_revision, step.index, step))
            case Need.VALUE:
                if step.need_revision not in self._known_set:
                    self._needing_value[step.need_value] |= step.bit
            case Need.PRESENT if not step.optional:
                self._needing_present |= step.bit

    def _end(self, steps: list[Step]) -> None:
        """Forget steps that have taken effect in every configuration, or can in none."""
        gone = 0
        for step in steps:
            gone |= step.bit
            self._free_bits.append(step.bit)
            if not step.optional and step.need_revision > 0:
                self._waiting_for_revision[step.need_revision] &= ~step.bit
            if step.need is Need.VALUE and step.need_value in self._last_for_value:
                self._waiting_for_value[step.need_value] &= ~step.bit
            if step.reads:
                readers = self._reads[step.need_value]
                readers[step.need_revision] &= ~step.bit
                if not readers[step.need_revision]:
                    del readers[step.need_revision]
            else:
                alike = self._writes[_class_of(step)]
                alike.remove(step)
                if not alike:
                    del self._writes[_class_of(step)]
                if step.need is Need.VALUE:
                    self._needing_value[step.need_value] &= ~step.bit
                if step.need_revision in self._needing_revision:
                    self._needing_revision[step.need_revision] &= ~step.bit
                    if not self._needing_revision[step.need_revision]:
                        del self._needing_revision[step.need_revision]
        self._optional &= ~gone
        self._needing_absent &= ~gone
        self._needing_present &= ~gone
        self._configurations = [(mask & ~gone, state) for mask, state in self._configurations]

    def _forget_used_up(self) -> None:
        """An unknown outcome that took effect in every configuration is one no longer."""
        common = self._optional
        for mask, _ in self._configurations:
            common &= mask
            if not common:
                return
        self._end([step for alike in self._writes.values() for step in alike if step.bit & common])

    def _forget_expired(self) -> None:
        """An unknown swap that needs a revision which has passed in every configuration did nothing."""
        if not self._expiring:
            return
        passed = min(lowest for _, (_, _, lowest) in self._configurations)
        expired: dict[int, Step] = {}
        while self._expiring and self._expiring[0][0] < passed:
            step = heappop(self._expiring)[2]
            expired[step.bit] = step
        if expired:
            pending = [step for alike in self._writes.values() for step in alike if expired.get(step.bit) is step]
            self._end(pending)

    # --- taking effect

    def _force(self, step: Step) -> list[Configuration]:
        """All configurations that come from those there are by letting pending steps take effect, `step` last if not before."""
        done = _Frontier(self._optional)
        todo: list[Configuration] = []
        seen = _Frontier(self._optional)
        bit = step.bit
        for mask, state in self._configurations:
            if mask & bit:
                done.add(mask, state)
            elif step.reads and self._readers(state) & bit:
                done.add(mask | bit, state)
            else:
                seen.add(mask, state)
                todo.append((mask, state))
        while todo:
            for mask, state in self._next(*todo.pop()):
                self._left -= 1
                if step.reads and self._readers(state) & bit:
                    mask |= bit
                if mask & bit:
                    done.add(mask, state)
                elif seen.add(mask, state):
                    todo.append((mask, state))
            if self._left < 0:
                raise TooHardError("the operations on one key have too many possible orders: use fewer clients for a key")
        return done.configurations()

    def _readers(self, state: State) -> int:
        """Bits of the pending reads that this state answers as it is."""
        readers = self._reads.get(state[0])
        if not readers:
            return 0
        revision = state[1]
        return readers.get(UNKNOWN, 0) | (readers.get(revision, 0) if revision > 0 else 0)

    def _next(self, mask: int, state: State) -> list[Configuration]:
        """What one more step makes of a configuration."""
        found: list[Configuration] = []
        value, revision, lowest = state
        if revision == UNKNOWN:
            for told, bits in self._reads.get(value, {}).items():
                if bits & ~mask and self._can_be(told, lowest):
                    found.append((mask, (value, told, told)))
        mask |= self._readers(state)
        for alike in self._writes.values():
            for step in alike:
                if not step.bit & mask:
                    if step.optional and not self._is_of_use(step, mask, state):
                        break
                    if (after := self._take(step, mask, state)) is not None:
                        found.append(after)
                    break
        return found

    def _is_of_use(self, step: Step, mask: int, state: State) -> bool:
        """Whether a pending step may need the state that this unknown outcome leaves, and does not have it in this one."""
        value, revision, lowest = state
        if any(told > lowest and told != revision and bits & ~mask for told, bits in self._needing_revision.items()):
            return True
        wanting = self._needing_value.get(step.value, 0)
        for told, bits in self._reads.get(step.value, {}).items():
            if told not in self._known_set:
                wanting |= bits
        if step.value == ABSENT:
            wanting |= self._needing_absent
        elif value == ABSENT:
            wanting |= self._needing_present
        return bool(wanting & ~mask & ~step.bit)

    def _take(self, step: Step, mask: int, state: State) -> Configuration | None:
        value, revision, lowest = state
        told = UNKNOWN  # the state's revision, if the step tells it
        match step.need:
            case Need.PRESENT:
                if value == ABSENT:
                    return None
            case Need.EITHER:
                if value == ABSENT:
                    return mask | step.bit, state
            case Need.VALUE:
                if value != step.need_value:
                    return None
                told = step.need_revision
            case Need.REVISION:
                if (value == ABSENT) != (step.need_revision == 0):
                    return None
                told = step.need_revision or UNKNOWN
        if told not in (UNKNOWN, revision):
            if revision != UNKNOWN or not self._can_be(told, lowest):
                return None
            state = value, told, told
            _, revision, lowest = state
            mask |= self._readers(state)
        mask |= step.bit
        if self._is_missed(mask, value, revision):
            return None
        return self._changed(step, mask, lowest)

    def _changed(self, step: Step, mask: int, lowest: int) -> Configuration | None:
        """The step's own state after one whose last change had `lowest` at least as its revision."""
        if step.revision > 0:
            if step.revision <= lowest or self._known_before(step.revision) > lowest:
                return None
            lowest = step.revision
        elif self._counts:
            lowest += 1
        return mask, (step.value, 0 if step.value == ABSENT else step.revision, lowest)

    def _can_be(self, revision: int, lowest: int) -> bool:
        """Whether a change of untold revision can be the one with this revision."""
        return revision >= lowest and revision not in self._known_set and self._known_before(revision) <= lowest

    def _known_before(self, revision: int) -> int:
        """The highest revision of a write below this one: that write must have taken effect."""
        place = bisect_left(self._known, revision)
        return self._known[place - 1] if place else 0

    def _is_missed(self, mask: int, value: int, revision: int) -> bool:
        """Whether leaving this state makes an answer impossible that has not been given yet."""
        if revision > 0 and (
            self._last_for_revision.get(revision, 0) > self._now or self._waiting_for_revision.get(revision, 0) & ~mask
        ):
            return True
        return self._last_for_value.get(value, 0) > self._now or bool(self._waiting_for_value.get(value, 0) & ~mask)


class _Frontier:
    """Configurations, without those that another one makes superfluous."""

    def __init__(self, optional: int) -> None:
        self._optional = optional
        self._kept: dict[tuple[int, int, int], list[tuple[int, int]]] = {}

    def add(self, mask: int, state: State) -> bool:
        """False: another configuration can do all that this one can."""
        value, revision, lowest = state
        used = mask & self._optional
        key = (mask & ~self._optional, value, revision)
        rivals = self._kept.get(key)
        if rivals is None:
            self._kept[key] = [(used, lowest)]
            return True
        for other, low in rivals:
            if low <= lowest and other & ~used == 0:
                return False
        rivals[:] = [(other, low) for other, low in rivals if low < lowest or used & ~other]
        rivals.append((used, lowest))
        return True

    def configurations(self) -> list[Configuration]:
        return [
            (mask | used, (value, revision, lowest))
            for (mask, value, revision), rivals in self._kept.items()
            for used, lowest in rivals
        ]


def _class_of(step: Step) -> Class:
    """Steps of one class can stand for each other."""
    return step.need, step.need_value, step.need_revision, step.value, step.revision
