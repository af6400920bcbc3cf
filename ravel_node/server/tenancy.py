"""Which slots a watch is told of, and how it learns that some have left.

A watch of one key, or one that names slots, is told all that happened to their keys here: what was before a slot came is
COMPACTED, and what is after it has left is told by its new owner. In between nothing is missed, since the two share the revision
at which the slot changed hands. A slot that left and came back before the watch was told so has a hole that nobody here can
fill: COMPACTED too.

What is owned changes with a step of a move only, so looking costs the comparison of two references. When it has changed, what
differs is worked out once for all watchers that have seen the same before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ravel_node.machine.ownership import FROM_THE_BEGINNING, Ownership, Tenure
from ravel_node.machine.slots import ALL_SLOTS, BITMAP_BYTES
from ravel_node.replica.errors import RevisionCompactedError, WrongSlotError


class View(NamedTuple):
    """What a watch needs to know of an `Ownership`."""

    owned: int  # a set of bits: bit 0 is slot 0
    tenures: Mapping[int, Tenure]
    map_version: int

    def tenure(self, slot: int) -> Tenure:
        return self.tenures.get(slot, FROM_THE_BEGINNING)


UNMANAGED: Final = View(int.from_bytes(ALL_SLOTS, "little"), {}, 0)
"""A cluster that was never told which slots it owns."""


class Views:
    """The newest view of what a replica owns, and what has changed from one to another. One for all watchers."""

    def __init__(self) -> None:
        self._newest = UNMANAGED
        self._compared = (UNMANAGED, UNMANAGED)
        self._changed = 0

    def of(self, ownership: Ownership | None) -> View:
        """The same object as before unless slots have come or left."""
        if ownership is None:
            return UNMANAGED
        if ownership.tenures is not self._newest.tenures:
            self._newest = View(int.from_bytes(ownership.owned, "little"), ownership.tenures, ownership.map_version)
        return self._newest

    def changed(self, before: View, now: View) -> int:
        """The slots that have left or come."""
        if before is not self._compared[0] or now is not self._compared[1]:
            turned = (slot for slot, tenure in now.tenures.items() if tenure != before.tenure(slot))
            self._compared = before, now
            self._changed = (before.owned ^ now.owned) | sum(1 << slot for slot in turned)
        return self._changed


class Left(NamedTuple):
    """Slots, as the wire has them, that left at this revision."""

    slots: bytes
    revision: int


class Tenancy:
    """The slots of one watcher."""

    def __init__(self, slots: int, from_revision: int, views: Views, view: View) -> None:
        """A watch that begins now, with the changes of `from_revision`, or with those to come if that is 0.

        Raises WrongSlotError for slots that are not here, and of which not even the end is wanted; RevisionCompactedError for
        those that came later.
        """
        self.slots = slots  # that are told of; none: the watch is over
        self._views = views
        self._view = view
        self._leaving: dict[int, int] = {}  # slots that are gone, and at which revision: told once all before it was
        came = max((tenure.came for slot, tenure in view.tenures.items() if slots >> slot & 1), default=0)
        if 0 < from_revision <= came:
            raise RevisionCompactedError(from_revision, came + 1)
        for slot in _slots_of(slots & ~view.owned):
            left = view.tenure(slot).left
            if not left or not 0 < from_revision <= left + 1:
                raise WrongSlotError(slot, view.map_version)
            self._leaving[slot] = left

    def look(self, view: View, seen: int) -> None:
        """Take in what is owned now; all up to revision `seen` was told. Raises RevisionCompactedError."""
        if view is self._view:
            return
        changed = self._views.changed(self._view, view) & self.slots
        for slot in _slots_of(changed):
            tenure = view.tenure(slot)
            if tenure.came != self._view.tenure(slot).came:
                raise RevisionCompactedError(seen + 1, tenure.came + 1)
            if view.owned >> slot & 1:
                self._leaving.pop(slot, None)  # it came back, and nothing had been written elsewhere
            else:
                self._leaving[slot] = tenure.left or seen
        self._view = view

    def leave(self, seen: int) -> Sequence[Left]:
        """The slots that left up to this revision, by the revision, and are told of no more."""
        if not self._leaving:
            return ()
        left: dict[int, int] = {}
        for slot, revision in self._leaving.items():
            if revision <= seen:
                left[revision] = left.get(revision, 0) | 1 << slot
        for slots in left.values():
            self.slots &= ~slots
            for slot in _slots_of(slots):
                del self._leaving[slot]
        return [Left(slots.to_bytes(BITMAP_BYTES, "little"), revision) for revision, slots in sorted(left.items())]

    @property
    def bitmap(self) -> bytes:
        """The slots that are told of, as the wire has them."""
        return self.slots.to_bytes(BITMAP_BYTES, "little")

    def refusal(self, left: Left) -> WrongSlotError:
        """What a watch ends with when these were the last ones."""
        return WrongSlotError(next(_slots_of(int.from_bytes(left.slots, "little"))), self._view.map_version)


def _slots_of(slots: int) -> Iterator[int]:
    """Ascending."""
    while slots:
        lowest = slots & -slots
        yield lowest.bit_length() - 1
        slots ^= lowest
