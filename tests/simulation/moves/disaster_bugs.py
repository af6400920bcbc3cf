"""Bugs that are planted into what makes registry and clusters agree after a disaster, to see that the simulator notices."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ravel_node.admin import reconcile
from ravel_node.admin.model import ClusterNumber
from ravel_node.machine import ownership as ownership_module
from ravel_node.machine import refounding
from ravel_node.machine.base import Database
from ravel_node.machine.ownership import Ownership, Side, Taken, read_ownership, write_ownership
from ravel_node.machine.slots import SlotsCommand
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


def _consent_not_remembered(put: Put) -> None:
    """A slot that opens with consent keeps the version by which its cluster has it."""
    source = textwrap.dedent(inspect.getsource(_Reconciliation._changes))
    changed = source.replace("if fates[slot].loss is not None)", "if False)")
    assert changed != source
    names: dict[str, Any] = {}
    exec(compile(changed, "<planted>", "exec", dont_inherit=False), vars(reconcile), names)  # the project's own text
    put(_Reconciliation, "_changes", names["_changes"])


def _third_parties_keep_slots(put: Put) -> None:
    """Slots that are on the move are left alone, whoever else says that they are his."""
    put(reconcile, "_keeps", lambda fate, cluster: not fate.settled)


def _own_by_an_older_answer(put: Put) -> None:
    """OWN is taken whatever has changed since the cluster was asked."""
    real = ownership_module._own

    def own(before: Ownership | None, command: SlotsCommand, revision: int) -> Taken:
        return real(before, command._replace(expected=before.changes if before is not None else 0), revision)

    put(ownership_module, "_own", own)


def _half_a_copy_goes_on(put: Put) -> None:
    """What was restored in the middle of an import goes on with it."""
    real = refounding._keep_slots

    def keep_slots(reader: Any, txn: Any) -> None:
        before = read_ownership(reader)
        real(reader, txn)
        after = read_ownership(txn)
        if before is None or after is None:
            return
        imports = {move_id: move for move_id, move in before.moves.items() if move.side is Side.IMPORTING}
        write_ownership(txn, replace(after, moves=dict(sorted({**after.moves, **imports}.items())), marks=b""))

    put(refounding, "_keep_slots", keep_slots)


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


def _purged_while_on_the_move(put: Put) -> None:
    """A released migration is cleaned up whoever is to own its slots."""

    def cleaning(self: Any, _fates: Sequence[Any]) -> Any:
        for number, report in self._reports.items():
            for move_id, known in report.migrations.items():
                if known.side in (Side.RELEASED, Side.DROPPING):
                    yield reconcile.Cleaning(ClusterNumber(number), move_id, known.side)

    put(_Reconciliation, "_cleaning", cleaning)


DISASTER_BUGS: Final[Sequence[Bug]] = (
    Bug("registry-knows-best", "the newest version wins", _registry_knows_best, 60),
    Bug("heirs-forgotten", "a destination with all keys owns the slots", _heirs_forgotten, 300),
    Bug("consent-not-remembered", "what is given up does not come back as the newest", _consent_not_remembered, 200),
    Bug("third-parties-keep-slots", "only the two ends of a migration keep its slots", _third_parties_keep_slots, 100),
    Bug("own-by-an-older-answer", "OWN names the version that it was worked out from", _own_by_an_older_answer, 400),
    Bug("half-a-copy-goes-on", "an import that was restored is never activated", _half_a_copy_goes_on, 400),
    Bug("versions-forgotten", "a restored cluster keeps the versions of its slots", _versions_forgotten, 60),
    Bug("purged-while-on-the-move", "only what is owned elsewhere is purged", _purged_while_on_the_move, 300),
)
