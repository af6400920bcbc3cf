"""What `snapshot restore` and `snapshot at` would do: looked up, and nothing written."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ravel_node.machine.base import Start
from ravel_node.machine.refounding import start_above
from ravel_node.raft.types import EntryId, Index, Term
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.offline import directory
from ravelctl.offline.snapshots import entries_of, start_for, time_of
from ravelctl.store.snapshot_file import SnapshotDamagedError, SnapshotHeader, check


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """A directory that could be made of a snapshot file."""

    header: SnapshotHeader
    size_bytes: int  # of the state that would be copied
    free_bytes: int  # where it would go
    start: Start  # of the new cluster, if it is made now


def plan_restore(file: Path, target: Path) -> RestorePlan:
    """Reads the whole file. Raises CommandError where the file is damaged or the directory could not be made."""
    parent = target.absolute().parent
    if not parent.is_dir():
        raise usage_error(f"there is no folder {parent}", "make it, or name another directory")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CommandError(f"{target} is there already and is not empty: name a directory that is free", code=ExitCode.REFUSED)
    _require_writable(parent, "name another directory")
    checked = check(file)
    if checked.problem:
        raise SnapshotDamagedError(file, checked.problem)
    fields = checked.header.fields
    at = EntryId(Term(int(fields.get("term", 0))), Index(int(fields.get("index", 0))))
    start = start_above(at, int(fields.get("revision", 0)), int(time.time() * 1_000_000))
    return RestorePlan(checked.header, checked.data_bytes, shutil.disk_usage(parent).free, start)


@dataclass(frozen=True, slots=True)
class AtPlan:
    """A snapshot file that could be made of an older state and the log after it."""

    source: str  # the older state
    source_index: int
    entries: int  # that would be applied to it
    entry_bytes: int
    committed: bool  # whether the last one is, as far as the directory knows
    time_ms: int  # of the last one; 0: it carries none


def plan_at(data_dir: Path, index: int, start: Path | None, target: Path) -> AtPlan:
    """Reads the entries that would be applied. Raises CommandError as the real run would for them."""
    facts = directory.look(data_dir)
    found = start_for(data_dir, facts, index, start)
    _require_writable(target.absolute().parent, "name another file")
    entries = size = 0
    if found.index < index:
        for entry in entries_of(data_dir, found.index, index):
            entries += 1
            size += len(entry.data)
    committed = index <= directory.commit_index(facts)
    return AtPlan(found.what, found.index, entries, size, committed, time_of(data_dir, index))


def _require_writable(folder: Path, next_step: str) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommandError(f"cannot write to {folder}: it is not allowed", code=ExitCode.NOT_ALLOWED, next_step=next_step)
