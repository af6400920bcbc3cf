"""A data directory as it is found, by a process that does not own it: of a daemon that runs, hangs or is dead.

Nothing is written, nothing is dialled, and no step is longer than one short read transaction (`lmdb_reader.py`). What cannot be
read is told as a problem beside what can, because whoever looks at a broken directory wants to know what is left of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from ravel_node.machine.base import Database, MemberRecord
from ravel_node.machine.kv import read_revision
from ravel_node.machine.members import (
    MemberRecordError,
    MemberVersionError,
    read_cluster_name,
    read_conf_state,
    read_config_index,
)
from ravel_node.machine.members import decode_member as decode_member_record
from ravel_node.raft.types import ConfState, EntryId, HardState, Index
from ravel_node.storage.base import DamagedError, EnvironmentStats, Identity, SnapshotHeader, SnapshotRefusedError, StoreError
from ravel_node.storage.directory import Directory
from ravel_node.storage.engine import WAY_OUT, ReadTxn
from ravel_node.storage.identity import decode_identity
from ravel_node.storage.keys import (
    BASE,
    HARD_STATE,
    IDENTITY,
    LOG,
    RAFT_DATABASES,
    STATE,
    STATE_DATABASES,
    decode_entry,
    decode_entry_id,
    decode_hard_state,
    decode_number,
)
from ravel_node.storage.lmdb_reader import EnvironmentReader
from ravel_node.storage.log_pages import log_ends
from ravel_node.storage.log_store import damaged_record, read_meta
from ravel_node.storage.snapshots import DAMAGED_SUFFIX, DATA_SUFFIX, HEADER_SUFFIX, decode_header
from ravel_node.storage.state_store import StateReader

T = TypeVar("T")

TRIES: Final = 3
"""Looks at a directory whose daemon replaces its state meanwhile."""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What raft/ says. None stands for a record that cannot be read; `problems` says why."""

    identity: Identity | None
    hard_state: HardState | None
    base: EntryId | None  # the entry before the first one
    state: int | None  # the number of the current state directory
    first_index: Index  # last_index + 1 in an empty log
    last_index: Index
    last: EntryId | None
    entries: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StateFacts:
    """What state-N/ says of itself."""

    name: str
    applied: EntryId | None
    cluster_name: str
    conf_state: ConfState
    config_index: Index
    revision: int
    members: tuple[MemberRecord, ...]  # removed ones too
    keys: int
    sessions: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """A file of snapshots/ or incoming/. Its bytes were not read: `problem` is what name, size and header tell."""

    path: Path
    size_bytes: int
    header: SnapshotHeader | None
    problem: str


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """All that one look shows."""

    path: Path
    format: int
    owner: str  # the process that has it open; empty: none
    log: LogFacts
    state: StateFacts | None
    snapshots: tuple[SnapshotFacts, ...]  # newest first
    incoming: tuple[SnapshotFacts, ...]
    environments: tuple[EnvironmentStats, ...]
    file_bytes: int  # of all files
    disk_free_bytes: int
    problems: tuple[str, ...]  # all of them, those of log and state too

    @property
    def last_term(self) -> int:
        return self.log.last.term if self.log.last is not None else 0


class DirectoryReader:
    """The way into one data directory. Raises FormatError or StoreError where it is none that can be read; blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._directory = Directory(path)
        self.format = self._directory.require_whole()

    @property
    def owner(self) -> str:
        """The process that has it open now; empty: none has."""
        return self._directory.owner()

    def identity(self) -> Identity:
        """Who it is. Raises DamagedError, StoreError."""
        return self.raft.read(lambda txn: read_meta(txn, IDENTITY, decode_identity))

    @property
    def raft(self) -> EnvironmentReader:
        return EnvironmentReader(self._directory.raft, RAFT_DATABASES, self._owned)

    def state(self, number: int) -> EnvironmentReader:
        return EnvironmentReader(self._directory.state(number), STATE_DATABASES, self._owned)

    def current_state(self) -> EnvironmentReader:
        """The state that raft/ names. Raises DamagedError."""
        return self.state(self.raft.read(lambda txn: read_meta(txn, STATE, decode_number)))

    def _owned(self) -> bool:
        return bool(self.owner)

    @property
    def snapshots(self) -> Path:
        return self._directory.snapshots

    # --- one look at everything

    def look(self) -> DirectoryFacts:
        """Read what there is to know without reading it all. Raises StoreError where raft/ cannot be opened."""
        owner = self.owner
        problems: list[str] = []
        log, state = self._log_and_state(problems)
        snapshots = _snapshot_files(self._directory.snapshots, whole=True)
        problems += log.problems
        if state is not None:
            problems += state.problems
            problems += _misfits(log, state)
        problems += [f"snapshots/{file.path.name}: {file.problem}" for file in snapshots if file.problem]
        space = os.statvfs(self.path)
        return DirectoryFacts(
            path=self.path,
            format=self.format,
            owner=owner,
            log=log,
            state=state,
            snapshots=snapshots,
            incoming=_snapshot_files(self._directory.incoming, whole=False),
            environments=tuple(self._stats(log.state)),
            file_bytes=sum(file.stat().st_size for file in _files(self.path)),
            disk_free_bytes=space.f_bavail * space.f_frsize,
            problems=tuple(problems),
        )

    def _log_and_state(self, problems: list[str]) -> tuple[LogFacts, StateFacts | None]:
        """Both, of one time as far as it matters: a live daemon may go on between the two, or go over to another state."""
        for left in range(TRIES - 1, -1, -1):
            log = self.raft.read(_log_facts)
            if log.state is None:
                break
            try:
                state = self.state(log.state).read(partial(_state_facts, name=f"state-{log.state}"))
            except StoreError as error:
                if not left:
                    problems.append(str(error))
                continue
            if not left or state.applied is None or state.applied.index <= log.last_index:
                return log, state
        return log, None

    def _stats(self, number: int | None) -> Iterator[EnvironmentStats]:
        yield self.raft.stats()
        if number is not None:
            try:
                yield self.state(number).stats()
            except StoreError:
                return  # told with the state


def _log_facts(txn: ReadTxn) -> LogFacts:
    problems: list[str] = []

    def meta(key: bytes, decode: Callable[[bytes], T]) -> T | None:
        try:
            return read_meta(txn, key, decode)
        except DamagedError as error:
            problems.append(str(error))
            return None

    base = meta(BASE, decode_entry_id)
    ends = log_ends(txn)
    last = base
    if (found := txn.last(LOG)) is not None:
        try:
            last = decode_entry(*found).id
        except ValueError as error:
            problems.append(str(damaged_record(f"entry {ends.last}", str(error))))
            last = None
    count = txn.entries(LOG)
    if count != ends.last - ends.base:
        problems.append(str(damaged_record("the log", f"it has {count} entries from {ends.base + 1} to {ends.last}")))
    return LogFacts(
        identity=meta(IDENTITY, decode_identity),
        hard_state=meta(HARD_STATE, decode_hard_state),
        base=base,
        state=meta(STATE, decode_number),
        first_index=Index(ends.base + 1),
        last_index=ends.last,
        last=last,
        entries=count,
        problems=tuple(problems),
    )


def _state_facts(txn: ReadTxn, name: str) -> StateFacts:
    reader = StateReader(txn, f"{name}/data.mdb")
    problems: list[str] = []

    def part(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (DamagedError, MemberRecordError, MemberVersionError) as error:
            problems.append(str(error))
            return otherwise

    def members() -> tuple[MemberRecord, ...]:
        return tuple(decode_member_record(record) for _, record in reader.scan(Database.MEMBERS, b"", None))

    def applied() -> EntryId | None:
        return reader.applied()

    return StateFacts(
        name=name,
        applied=part(applied, None),
        cluster_name=part(lambda: read_cluster_name(reader.get), ""),
        conf_state=part(lambda: read_conf_state(reader.get), ConfState()),
        config_index=part(lambda: read_config_index(reader.get), Index(0)),
        revision=part(lambda: read_revision(reader.get), 0),
        members=part(members, ()),
        keys=reader.keys(),
        sessions=txn.entries("sessions"),
        problems=tuple(problems),
    )


def _misfits(log: LogFacts, state: StateFacts) -> Iterator[str]:
    """What forbids a daemon to start with this log and this state."""
    applied, base = state.applied, log.base
    if applied is None or base is None:
        return
    if applied.index > log.last_index:
        yield f"{state.name} holds entry {applied.index}, and the log in raft ends at {log.last_index}; {WAY_OUT}"
    elif applied.index < base.index:
        yield f"{state.name} ends at entry {applied.index}, and the log in raft begins after {base.index}; {WAY_OUT}"
    if log.hard_state is not None and log.hard_state.commit > log.last_index:
        commit = log.hard_state.commit
        yield f"the log in raft ends at entry {log.last_index}, and {commit} was committed; {WAY_OUT}"


def _files(path: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(path):
        yield from (Path(folder) / name for name in names if (Path(folder) / name).is_file())


def _snapshot_files(folder: Path, *, whole: bool) -> tuple[SnapshotFacts, ...]:
    """Those of one folder, newest first. `whole`: their size must be the header's."""
    try:
        names = sorted(folder.iterdir(), reverse=True)
    except OSError:
        return ()
    return tuple(_snapshot_facts(path, whole) for path in names if path.name.removesuffix(DAMAGED_SUFFIX).endswith(DATA_SUFFIX))


def _snapshot_facts(path: Path, whole: bool) -> SnapshotFacts:
    put_aside = path.name.endswith(DAMAGED_SUFFIX)
    stem = path.with_name(path.name.removesuffix(DAMAGED_SUFFIX))
    beside = stem.with_suffix(HEADER_SUFFIX)
    try:
        size = path.stat().st_size
        header = decode_header(beside.with_name(beside.name + DAMAGED_SUFFIX if put_aside else beside.name).read_bytes())
    except (OSError, SnapshotRefusedError) as error:
        return SnapshotFacts(path, 0, None, f"it has no header that can be read: {error}")
    if put_aside:
        return SnapshotFacts(path, size, header, "its daemon found it damaged and put it aside")
    if whole and size != header.size_bytes:
        return SnapshotFacts(path, size, header, f"it has {size} bytes, and its header says {header.size_bytes}")
    return SnapshotFacts(path, size, header, "")
