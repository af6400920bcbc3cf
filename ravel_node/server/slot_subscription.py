"""The slots that one watch follows in this cluster: which of them are here, from which revision on, and when they leave.

A slot is in a cluster for a time (`Tenure`): from the revision after which it came to the one at which it left. Its former owner
let go of it at the revision after which it came, so what both send about its keys is everything that happened to them, once. A
watch therefore names the time that it means by `came`. It is refused a slot that has been elsewhere since (*missed*: only another
cluster knows what happened there), and a slot that is not here, or of which this replica does not know yet that it is (*absent*).

The revisions of two clusters have nothing in common but that of a key never falls. A destination may have been far beyond the
revision at which the source let go, so `came` says nothing about where its log tells of the slot: that is the *arrival*, the
revision after the entry that activated the slot. Nothing happened to the slot in between, so the watch begins after the arrival.

What is owned changes with a step of a migration only, so looking costs the comparison of a few references. When it has changed,
the difference is computed once for all watchers that have seen the same before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ravel_node.machine.ownership import FROM_THE_BEGINNING, Ownership, Tenure
from ravel_node.machine.slots import ALL_SLOTS, BITMAP_BYTES
from ravel_node.replica.errors import WrongSlotError


class View(NamedTuple):
    """The part of an `Ownership` that matters to a watch."""

    owned: int  # a set of bits: bit 0 is slot 0
    tenures: Mapping[int, Tenure]
    map_version: int

    def tenure(self, slot: int) -> Tenure:
        return self.tenures.get(slot, FROM_THE_BEGINNING)


UNMANAGED: Final = View(int.from_bytes(ALL_SLOTS, "little"), {}, 0)
"""A cluster without an ownership record: it owns all slots."""


class Views:
    """The newest view of what a replica owns, and the differences between views. One for all watchers."""

    def __init__(self) -> None:
        self._newest = UNMANAGED
        self._owned = ALL_SLOTS
        self._compared = (UNMANAGED, UNMANAGED)
        self._changed = 0

    def of(self, ownership: Ownership | None) -> View:
        """Return the view of this ownership: the same object as before unless slots have come or left."""
        if ownership is None:
            return UNMANAGED
        newest = self._newest
        if (
            ownership.tenures is not newest.tenures
            or ownership.map_version != newest.map_version
            or ownership.owned != self._owned
        ):
            self._owned = ownership.owned
            self._newest = View(int.from_bytes(ownership.owned, "little"), ownership.tenures, ownership.map_version)
        return self._newest

    def changed(self, before: View, now: View) -> int:
        """Return the slots that have left or come."""
        if before is not self._compared[0] or now is not self._compared[1]:
            turned = (slot for slot, tenure in now.tenures.items() if tenure[:2] != before.tenure(slot)[:2])
            self._compared = before, now
            self._changed = (before.owned ^ now.owned) | sum(1 << slot for slot in turned)
        return self._changed


class Wanted(NamedTuple):
    """Slots of a request, as SlotsFrom has them. `came` None: the time at which they are here now."""

    slots: Sequence[int]
    from_revision: int
    came: int | None


class Began(NamedTuple):
    """Slots that are watched from this revision on. They came after revision `came`."""

    slots: Sequence[int]
    from_revision: int
    came: int


class Left(NamedTuple):
    """Slots that left at this revision."""

    slots: Sequence[int]
    revision: int


class SlotSubscription:
    """The slots of one watcher."""

    def __init__(self, wanted: Iterable[Wanted], view: View, head: int, arrival: Callable[[int], int]) -> None:
        """`head` is the cluster's revision, `arrival` returns the revision after the entry that brought a slot here, or 0."""
        self.slots = 0  # the slots that are watched, as a set of bits; none: the watch is over
        self.absent: list[int] = []
        self.missed: Sequence[Began] = ()  # from where on they could be watched
        self._view = view
        self._leaving: dict[int, int] = {}  # slots that have left, and at which revision: reported once all before was sent
        missed: list[int] = []
        began: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for slots, from_revision, came in wanted:
            for slot in slots:
                tenure = view.tenure(slot)
                later = tenure.came > came if came is not None else 0 < from_revision <= tenure.came
                if later:
                    missed.append(slot)
                elif self._begin(slot, tenure, from_revision, came):
                    first = from_revision or head + 1
                    if tenure.came and from_revision:
                        first = max(first, arrival(slot) + 1)
                    began[first, tenure.came].append(slot)
        self.missed = self._missed(missed)
        self.began: Sequence[Began] = _grouped(began)
        self.first = self.began[0].from_revision if self.began else head + 1
        self.begins_later = {
            slot: later.from_revision for later in self.began if later.from_revision > self.first for slot in later.slots
        }

    def forget_beginning(self) -> None:
        """Drop what only the first message says: thousands of watchers are served at once."""
        self.absent, self.missed, self.began, self.begins_later = [], (), (), {}

    def _begin(self, slot: int, tenure: Tenure, from_revision: int, came: int | None) -> bool:
        """Return whether this slot can be watched."""
        known = came is None or tenure.came == came
        if not known or not self._view.owned >> slot & 1:
            # A slot that has left can be watched up to where it left.
            has_left = known and slot in self._view.tenures and 0 < from_revision <= tenure.left + 1
            if not has_left:
                self.absent.append(slot)
                return False
            self._leaving[slot] = tenure.left
        self.slots |= 1 << slot
        return True

    def _missed(self, slots: Iterable[int]) -> Sequence[Began]:
        found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for slot in slots:
            came = self._view.tenure(slot).came
            found[came + 1, came].append(slot)
        return _grouped(found)

    def look(self, view: View, views: Views, seen: int) -> Sequence[Began]:
        """Take in what is owned now, where everything up to revision `seen` was sent. Return the slots that are missed."""
        if view is self._view:
            return ()
        missed: list[int] = []
        for slot in _slots_of(views.changed(self._view, view) & self.slots):
            tenure = view.tenure(slot)
            if tenure.came != self._view.tenure(slot).came:
                missed.append(slot)
                self.slots &= ~(1 << slot)
                self._leaving.pop(slot, None)
            elif view.owned >> slot & 1:
                self._leaving.pop(slot, None)
            else:
                self._leaving[slot] = tenure.left or seen
        self._view = view
        return self._missed(missed)

    def leave(self, seen: int) -> Sequence[Left]:
        """Drop the slots that left up to this revision, and return them in the order of the revisions."""
        if not self._leaving:
            return ()
        left: defaultdict[int, list[int]] = defaultdict(list)
        for slot, revision in sorted(self._leaving.items()):
            if revision <= seen:
                left[revision].append(slot)
                self.slots &= ~(1 << slot)
        for slots in left.values():
            for slot in slots:
                del self._leaving[slot]
        return [Left(slots, revision) for revision, slots in sorted(left.items())]

    @property
    def bitmap(self) -> bytes:
        """The slots that are watched, as 512 bytes."""
        return self.slots.to_bytes(BITMAP_BYTES, "little")

    def refusal(self, slot: int) -> WrongSlotError:
        """Return the error of a watch of a key of this slot, which is elsewhere."""
        return WrongSlotError(slot, self._view.map_version)


def _grouped(found: Mapping[tuple[int, int], Sequence[int]]) -> Sequence[Began]:
    return [Began(slots, first, came) for (first, came), slots in sorted(found.items())]


def _slots_of(slots: int) -> Iterator[int]:
    """Yield the slots of a set in ascending order."""
    while slots:
        lowest = slots & -slots
        yield lowest.bit_length() - 1
        slots ^= lowest
