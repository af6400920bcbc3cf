"""Bugs that are planted into what makes registry and clusters agree after a disaster, to see that the simulator notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ravel_node.admin import reconcile
from ravel_node.machine import refounding
from ravel_node.machine.base import Database
from ravel_node.machine.ownership import read_ownership, write_ownership
from tests.simulation.bugs import Bug, Put

_Reconciliation = reconcile._Reconciliation


def _registry_knows_best(put: Put) -> None:
    """The registry's map is made true, whatever the clusters say."""

    def fate(self: Any, slot: int) -> Any:
        named = self._directory.slot_map.owners[slot]
        return reconcile._Fate(named, settled=slot not in self._left_alone and named in self._reports)

    put(_Reconciliation, "_fate", fate)


def _heirs_forgotten(put: Put) -> None:
    """A destination owns a slot once it was told so, and not before."""
    put(_Reconciliation, "_find_heirs", lambda self: {})


def _third_parties_keep_slots(put: Put) -> None:
    """Slots that are on the move are left alone, whoever else says that they are his."""
    put(reconcile, "_keeps", lambda fate, cluster: not fate.settled)


def _versions_forgotten(put: Put) -> None:
    """A restored cluster holds all its slots by the newest map that it knows."""
    real = refounding._keep_slots

    def keep_slots(reader: Any, txn: Any) -> None:
        real(reader, txn)
        after = read_ownership(txn)
        if after is not None:
            write_ownership(txn, replace(after, since=1 << 60, tenures={}, marks=b""))
            for slot in after.tenures:
                txn.delete(Database.OWNERSHIP, b"t" + slot.to_bytes(2, "big"))

    put(refounding, "_keep_slots", keep_slots)


DISASTER_BUGS: Final[Sequence[Bug]] = (
    Bug("registry-knows-best", "the newest version wins", _registry_knows_best, 60),
    Bug("heirs-forgotten", "a destination with all keys owns the slots", _heirs_forgotten, 300),
    Bug("third-parties-keep-slots", "only the two ends of a migration keep its slots", _third_parties_keep_slots, 300),
    Bug("versions-forgotten", "a restored cluster keeps the versions of its slots", _versions_forgotten, 60),
)
