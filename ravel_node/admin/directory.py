"""The machine of an admin group: a cluster like any other, with the directory beside its keys.

What commands do to the directory is told in decisions.py; here they are read, run and stored. Database.DIRECTORY holds a record
for each server, cluster and move, the slot map and the counters (see records.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from ravel_node.admin import records
from ravel_node.admin.answers import RefusedError, answered, refused
from ravel_node.admin.codec import check_known, decode
from ravel_node.admin.commands import CommandFormError
from ravel_node.admin.decisions import decide
from ravel_node.admin.model import Directory, MoveId
from ravel_node.machine import envelope
from ravel_node.machine.base import Database, Outcome, Reader, Start, Txn
from ravel_node.machine.envelope import Kind
from ravel_node.machine.kv import KVMachine
from ravel_node.machine.members import DIRECTORY, MACHINE, Getter
from ravel_node.machine.refounding import REVISION_JUMP, after
from ravel_node.raft.types import EntryId, Index
from ravelpb.errors import Reason


def machine_of(get: Getter) -> KVMachine:
    """The machine of a state that is read outside a daemon, not opened yet."""
    return DirectoryMachine() if get(Database.META, MACHINE) == DIRECTORY else KVMachine()


class DirectoryMachine(KVMachine):
    """The StateMachine of an admin group. `directory` is a copy of the state, loaded by `open`."""

    machine: ClassVar[bytes] = DIRECTORY

    def __init__(self) -> None:
        super().__init__()
        self._view = Directory()

    def open(self, reader: Reader) -> None:
        """See KVMachine. Raises DirectoryRecordError for records that no machine wrote."""
        super().open(reader)
        self._view = records.load(reader)

    @property
    def directory(self) -> Directory:
        """All of it, as of the last applied entry. Replaced, never changed, when something changes."""
        return self._view

    def apply(self, at: EntryId, payload: bytes, txn: Txn) -> Sequence[Outcome]:
        """See KVMachine. A directory command of a later version stops the replica before anything of its entry was applied."""
        for _, commands in envelope.decode(payload):
            for kind, _, body in commands:
                if kind == Kind.DIRECTORY:
                    check_known(body)
        return super().apply(at, payload, txn)

    def refounded(self, txn: Txn, start: Start) -> None:
        """See StateMachine: clusters take no move that is older than one that they ended, and no older map."""
        view, slot_map = self._view, self._view.slot_map
        changed = replace(
            view,
            last_move=MoveId(max(view.last_move, start.at.index << 16)),
            slot_map=replace(slot_map, version=after(slot_map.version, start.revision, REVISION_JUMP))
            if slot_map.version
            else slot_map,
        )
        records.write_changes(txn, view, changed)
        self._view = changed

    def _directory(self, stamp: int, body: bytes, txn: Txn) -> Outcome:
        try:
            decision = decide(self._view, decode(body), Index(stamp >> 16))
        except CommandFormError as error:
            return refused(Reason.INVALID_ARGUMENT, str(error))
        except RefusedError as error:
            return refused(error.reason, error.message)
        records.write_changes(txn, self._view, decision.directory)
        self._view = decision.directory
        return answered(decision.answer)
