"""States made outside a daemon: a state as of a later entry, a snapshot file of it, and the data directory of a new cluster.

All of them begin with a file of a state environment that nobody else has open, put where `Source` is told to put it, and go on
with entries of a log. What is made stands under a name of its own until it is whole and synced, and gets its real name in one
step: a crash, a full disk or Ctrl-C leaves nothing, or everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from time import time
from typing import Final

from ravel_node.machine.base import Database, Start, StateMachine
from ravel_node.machine.kv import read_revision
from ravel_node.machine.members import DIRECTORY, MACHINE, Getter, read_cluster_name, read_conf_state
from ravel_node.machine.refounding import FORGOTTEN, Founder, refound, start_above
from ravel_node.raft.confchange import decode_conf_change
from ravel_node.raft.types import Entry, EntryId, EntryType, HardState, ReplicaId
from ravel_node.storage import files
from ravel_node.storage.base import DamagedError, Identity, SnapshotHeader, StoreError
from ravel_node.storage.directory import Directory
from ravel_node.storage.engine import DATA_FILE, Environment, ReadTxn, WriteTxn
from ravel_node.storage.keys import RAFT_DATABASES, STATE_DATABASES, STATE_NAMES
from ravel_node.storage.lmdb_engine import LmdbEngine
from ravel_node.storage.lmdb_reader import EnvironmentReader
from ravel_node.storage.log_store import Birth, LogStore
from ravel_node.storage.snapshots import describe_copy
from ravel_node.storage.standing import changed
from ravel_node.storage.state_store import StateStore, write_segment
from ravel_node.storage.table import Table, written

SEGMENT_BYTES_MAX: Final = 4 << 20
MAP_BYTES: Final = 4 << 30
"""Address space to begin with; the map grows by itself."""

SUM_BYTES: Final = 4
"""Of the check sum in front of every record."""

Source = Callable[[Path], None]
"""Writes the file of a state environment to a path where there is none. Raises OSError, StoreError."""

MachineOf = Callable[[Getter], StateMachine]
"""The machine of a state, not opened yet."""

Tell = Callable[[str], None]
"""How far it is, in words."""


@dataclass(frozen=True, slots=True)
class Founded:
    """A data directory that was made, and what a daemon that is started in it will be."""

    identity: Identity
    upto: EntryId
    """The last entry of the old log whose effects are in it."""
    at: EntryId
    """Where its own log begins."""
    revision: int
    keys: int
    admin: bool
    """Whether it is an admin server's: `ravel_node admin` is what starts it."""


@dataclass(frozen=True, slots=True)
class NewCluster:
    """Who is founded."""

    cluster_id: str
    cluster_name: str  # empty: the old one
    founder: Founder
    now_us: int = field(default_factory=lambda: int(time() * 1_000_000))  # microseconds since 1970


async def found_directory(
    target: Path, source: Source, entries: Iterable[Entry], machine_of: MachineOf, new: NewCluster, tell: Tell
) -> Founded:
    """Make the data directory of a new cluster's first replica: the state in `source`, and what `entries` make of it.

    Raises StoreError where `target` is taken, DamagedError for what cannot be read, OSError; then there is no `target`.
    """
    _require_free(target)
    making = target.with_name(f".{target.name}.making")
    directory = Directory(making)
    directory.claim()
    try:
        for name in directory.state_numbers():
            files.remove_tree(directory.state(name))
        files.remove_tree(directory.raft)
        directory.make_folders()
        founded = await _fill(directory, source, entries, machine_of, new, tell)
        directory.seal()
        files.rename(making, target)
    except BaseException:
        files.remove_tree(making)
        raise
    finally:
        directory.release()
    return founded


def _require_free(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} is there already and is not empty: name a directory that is free")


async def _fill(
    directory: Directory, source: Source, entries: Iterable[Entry], machine_of: MachineOf, new: NewCluster, tell: Tell
) -> Founded:
    async with AsyncExitStack() as stack:
        engine, env, state = await stack.enter_async_context(_brought_on(directory.state(1), source, entries, machine_of, tell))
        applied = state.applied()
        start = start_above(applied, read_revision(state.get), new.now_us)
        replica_id = await _refound(env, state, start, machine_of, new)
        env_raft = await engine.open(directory.raft, RAFT_DATABASES, MAP_BYTES)
        stack.push_async_callback(env_raft.close)
        fresh = StateStore(env, directory.state(1).name)
        identity = Identity(new.founder.server_id, new.cluster_id, read_cluster_name(fresh.get), replica_id, new.founder.name)
        at = start.at
        await LogStore.create(env_raft, Birth(identity, at, HardState(at.term, ReplicaId(0), at.index), 1))
        return Founded(
            identity, applied, at, read_revision(fresh.get), fresh.keys(), fresh.get(Database.META, MACHINE) == DIRECTORY
        )


@asynccontextmanager
async def _brought_on(
    path: Path, source: Source, entries: Iterable[Entry], machine_of: MachineOf, tell: Tell
) -> AsyncIterator[tuple[LmdbEngine, Environment, StateStore]]:
    """The state in `source`, copied to `path`, with `entries` applied: open, until the caller is done with it."""
    files.make_directory(path)
    tell("copying the state")
    source(path / DATA_FILE)
    async with AsyncExitStack() as stack:
        engine = LmdbEngine(_ignore)
        stack.push_async_callback(engine.close)
        env = await engine.open(path, STATE_DATABASES, MAP_BYTES)
        stack.push_async_callback(env.close)
        state = StateStore(env, path.name)
        await _replay(state, entries, machine_of, tell)
        yield engine, env, state


async def _refound(env: Environment, state: StateStore, start: Start, machine_of: MachineOf, new: NewCluster) -> ReplicaId:
    replica_ids: list[ReplicaId] = []

    def refound_into(table: Table) -> None:
        machine = machine_of(table.get)
        machine.open(table)
        machine.refounded(table, start)
        replica_ids.append(refound(table, table, new.founder, new.cluster_name, start))

    segment = written(state, start.at, refound_into)

    def write(txn: WriteTxn) -> None:
        for database in FORGOTTEN:
            txn.clear(STATE_NAMES[database])
        write_segment(txn, segment, start.at, state.file)

    await env.write(write)
    return replica_ids[0]


async def snapshot_at(
    folder: Path, source: Source, entries: Iterable[Entry], machine_of: MachineOf, identity: Identity, tell: Tell
) -> tuple[Path, SnapshotHeader]:
    """Make a snapshot of the state that `entries` make of the one in `source`: its data file, in `folder`, and its header."""
    target = folder / "snapshot.mdb"
    async with _brought_on(folder / "state", source, entries, machine_of, tell) as (engine, env, _):
        tell("writing the snapshot")
        await env.copy(target)
        header = await engine.run(lambda: describe_copy(engine, target, identity, int(time() * 1_000)))
    return target, header


async def state_at(
    folder: Path, source: Source, entries: Iterable[Entry], machine_of: MachineOf, tell: Tell
) -> EnvironmentReader:
    """Make, in `folder`, the state that `entries` make of the one in `source`."""
    path = folder / "state"
    async with _brought_on(path, source, entries, machine_of, tell):
        pass
    return EnvironmentReader(path, STATE_DATABASES, lambda: False)


def first_difference(a: EnvironmentReader, b: EnvironmentReader) -> tuple[str, bytes] | None:
    """The first database, and the first key in it, in which two states differ, check sums left aside; None: they are the same.

    The slots say what the keys say, and are not compared.
    """
    names = [name for database, name in STATE_NAMES.items() if database is not Database.SLOTS]
    return a.read(lambda one: b.read(lambda other: next(_differences(one, other, names), None)))


def _differences(one: ReadTxn, other: ReadTxn, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        for left, right in zip_longest(one.items(name), other.items(name)):
            if left is None or right is None or left[0] != right[0] or left[1][SUM_BYTES:] != right[1][SUM_BYTES:]:
                yield name, min(pair[0] for pair in (left, right) if pair is not None)


async def _replay(state: StateStore, entries: Iterable[Entry], machine_of: MachineOf, tell: Tell) -> None:
    """Apply entries, which must follow the state, as the driver of a replica does."""
    table = Table(state, state.applied(), segment_bytes_max=SEGMENT_BYTES_MAX)
    machine = machine_of(table.get)
    machine.open(table)
    for entry in entries:
        if entry.index != table.applied.index + 1:
            raise DamagedError(f"entry {entry.index} of the log cannot follow entry {table.applied.index} of the state")
        if entry.type is EntryType.NORMAL:
            machine.apply(entry.id, entry.data, table)
        else:
            change = decode_conf_change(entry)
            machine.apply_membership(entry.id, changed(read_conf_state(table.get), entry), change.context, table)
        if table.applied_to(entry.id):
            tell(f"applied entry {entry.index}")
            await _flush(state, table)
    await _flush(state, table)


async def _flush(state: StateStore, table: Table) -> None:
    table.seal()
    while (segment := table.oldest) is not None:
        await state.flush(segment)
        table.drop_oldest(segment)
        await asyncio.sleep(0)  # Ctrl-C is heard here


def _ignore(event: str, fields: Mapping[str, object]) -> None:
    """The observer of stores that nobody watches."""
