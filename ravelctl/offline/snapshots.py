"""Snapshot files as states: what they hold, whether they are whole, and what is made of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from ravel_node import __version__
from ravel_node.admin.directory import machine_of
from ravel_node.admin.records import RULES
from ravel_node.machine.base import Database
from ravel_node.machine.envelope import FORMAT, read_time
from ravel_node.machine.members import MemberRecordError, decode_member
from ravel_node.machine.refounding import Founder
from ravel_node.raft.types import Entry, EntryType
from ravel_node.storage.base import DamagedError, Identity, StoreError
from ravel_node.storage.checking import StateCheck
from ravel_node.storage.engine import ReadTxn
from ravel_node.storage.founding import (
    Founded,
    NewCluster,
    Source,
    first_difference,
    found_directory,
    snapshot_at,
    state_at,
)
from ravel_node.storage.keys import STATE_DATABASES
from ravel_node.storage.lmdb_engine import LmdbEngine
from ravel_node.storage.snapshots import DATA_SUFFIX, encode_header
from ravel_node.storage.state_store import StateReader
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.offline import directory
from ravelctl.store.snapshot_file import SnapshotDamagedError, SnapshotHeader, check, read_header, write_snapshot

if TYPE_CHECKING:
    from ravel_node.storage.base import SnapshotHeader as StateHeader
    from ravel_node.storage.survey import DirectoryFacts
    from ravelctl.cli.app import App, Progress

T = TypeVar("T")
COPY_BYTES: Final = 1 << 20
PREFIXES_MAX: Final = 100_000
"""Prefixes that are counted apart; keys of further ones are counted together."""

OTHERS: Final = "(others)"
NO_PREFIX: Final = "(none)"


@dataclass(frozen=True, slots=True)
class PrefixRow:
    """Keys that begin alike; bytes of keys and values."""

    prefix: str
    keys: int
    bytes: int


@contextmanager
def _disk(what: str, next_step: str) -> Iterator[None]:
    """Failures of the file system, and of storage, as a command's."""
    try:
        with directory.told():
            yield
    except OSError as error:
        raise CommandError(f"{what}: {error.strerror or error}", next_step=next_step) from error
    except MemberRecordError as error:
        raise usage_error(str(error)) from error


# --- what a file holds


def extract(file: Path, target: Path) -> SnapshotHeader:
    """Write the data of a snapshot file to a new file, verified against its header. Raises SnapshotDamagedError, OSError."""
    checked = check(file)
    if checked.problem:
        raise SnapshotDamagedError(file, checked.problem)
    with file.open("rb") as source, target.open("xb") as sink:
        header = read_header(source, file)
        shutil.copyfileobj(source, sink, COPY_BYTES)
        sink.flush()
        os.fsync(sink.fileno())
    target.chmod(0o600)
    return header


@contextmanager
def _extracted(file: Path) -> Iterator[tuple[Path, SnapshotHeader]]:
    """LMDB reads only files that begin with its own pages: the data, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="ravel-") as folder:
        path = Path(folder) / "snapshot.mdb"
        with _disk(f"cannot copy the data of {file} to {folder}", "free some space there, or set TMPDIR to another folder"):
            header = extract(file, path)
        yield path, header


def _read(path: Path, job: Callable[[ReadTxn], T]) -> T:
    with directory.told():
        return LmdbEngine(lambda event, fields: None).examine(path, STATE_DATABASES, job)


def inspect(file: Path, separator: str) -> tuple[list[PrefixRow], dict[int, str]]:
    """Keys and bytes by prefix, the largest first, and the names of the replicas that the state knows. Reads every key."""
    counts: dict[bytes, list[int]] = {}

    def count(txn: ReadTxn) -> dict[int, str]:
        reader = StateReader(txn, file.name)
        for key, value in reader.scan(Database.KV, b"", None):
            head, found, _ = key.partition(separator.encode())
            prefix = head + found if found else b""
            if prefix not in counts and len(counts) >= PREFIXES_MAX:
                prefix = OTHERS.encode()
            row = counts.setdefault(prefix, [0, 0])
            row[0] += 1
            row[1] += len(key) + len(value) - 8  # without the revision
        records = (decode_member(record) for _, record in reader.scan(Database.MEMBERS, b"", None))
        return {record.replica_id: record.name for record in records}

    with _extracted(file) as (path, _):
        names = _read(path, count)
    rows = [
        PrefixRow(prefix.decode(errors="backslashreplace") or NO_PREFIX, keys, size) for prefix, (keys, size) in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row.bytes, row.prefix)), names


def verify(file: Path, progress: Progress) -> tuple[int, list[str]]:
    """Read everything: size and sha256, every record, and that the header says what the state says. Records read, problems."""
    problems: list[str] = []
    with _extracted(file) as (path, header):
        try:
            done = _verify_records(path, file, problems, progress)
            facts = _read(path, lambda txn: StateReader(txn, file.name).applied())
        except CommandError as error:
            return 0, [error.message]
        said = (header.fields["term"], header.fields["index"])
        if facts != said:
            holds = f"it holds the state of entry {facts.index} of term {facts.term}"
            problems.append(f"{file.name}: {holds}, and its header says {said[1]} of term {said[0]}")
    return done, problems


def _verify_records(path: Path, file: Path, problems: list[str], progress: Progress) -> int:
    steps = StateCheck(file.name, RULES)
    while not steps.finished:
        step = _read(path, steps.step)
        problems += step.problems
        progress.amount(step.done, step.total, "records")
    return step.done


# --- what is made of states


def new_cluster(name: str, cluster_name: str) -> NewCluster:
    """Fresh ids for a cluster of one."""
    return NewCluster(uuid4().hex, cluster_name, Founder(uuid4().hex, name, __version__, FORMAT))


def restore(app: App, file: Path, target: Path, name: str, cluster_name: str) -> Founded:
    """Make the data directory of a new cluster out of a snapshot file."""
    with app.progress(f"restoring {target}:") as progress:
        return found(target, _data_of(file), (), new_cluster(name, cluster_name), progress)


def found(target: Path, source: Source, entries: Iterable[Entry], new: NewCluster, progress: Progress) -> Founded:
    """Make a data directory. Raises CommandError; then there is none."""
    with _disk(f"cannot make {target}", "free some space, or name another directory"):
        if not target.absolute().parent.is_dir():
            raise usage_error(f"there is no folder {target.absolute().parent}", "make it, or name another directory")
        try:
            return asyncio.run(found_directory(target, source, entries, machine_of, new, progress.update))
        except StoreError as error:
            if target.exists() and not isinstance(error, DamagedError):
                raise CommandError(str(error), code=ExitCode.REFUSED) from error
            raise


def entries_of(path: Path, after: int, to: int) -> Iterator[Entry]:
    """The entries (after, to] of the log in a data directory. Raises CommandError (8) at one that is damaged or missing."""
    expected = after + 1
    for page in directory.log_pages(path, after + 1, to + 1):
        for index, entry, problem in page.records:
            if entry is None or index != expected:
                why = problem or f"it is missing, the next one is {index}"
                raise CommandError(
                    f"entry {expected} of the log in {path} is damaged: {why}",
                    code=ExitCode.DAMAGED,
                    next_step=f"what comes before it can be had with --index {expected - 1}",
                    reason="DAMAGED",
                )
            yield entry
            expected = index + 1
    if expected <= to:
        raise CommandError(f"the log in {path} ends at entry {expected - 1}, and entry {to} was asked for")


@dataclass(frozen=True, slots=True)
class Start:
    """A state that a later one can be made of."""

    what: str
    index: int
    source: Source


def start_for(path: Path, facts: DirectoryFacts, index: int, file: Path | None) -> Start:
    """The newest state in the directory, or the one in `file`, from which its log leads to `index`. Raises CommandError."""
    found = [start for start in _starts(path, facts, file) if facts.log.first_index - 1 <= start.index <= index]
    if not found:
        there = ", ".join(f"{start.what} at {start.index}" for start in _starts(path, facts, file)) or "none"
        has = f"the log has {facts.log.first_index} to {facts.log.last_index}, and of states there are: {there}"
        raise CommandError(
            f"nothing leads to entry {index}: {has}",
            next_step="give an older snapshot with --from, or another index",
        )
    return max(found, key=lambda start: start.index)


def _starts(path: Path, facts: DirectoryFacts, file: Path | None) -> Iterator[Start]:
    if file is not None:
        checked = check(file)
        theirs, ours = checked.header.fields["cluster_id"], facts.log.identity.cluster_id if facts.log.identity else ""
        if theirs != ours:
            raise CommandError(f"{file} is of cluster {theirs[:8]}, and {path} of {ours[:8]}", code=ExitCode.REFUSED)
        yield Start(str(file), int(checked.header.fields["index"]), _data_of(file))
        return
    for snapshot in facts.snapshots:
        if snapshot.header is not None and not snapshot.problem and snapshot.path.suffix == DATA_SUFFIX:
            yield Start(snapshot.path.name, snapshot.header.index, _copy_of(snapshot.path))
    if facts.state is not None and facts.state.applied is not None and facts.log.state is not None:
        environment = directory.reader(path).state(facts.log.state)
        yield Start(facts.state.name, facts.state.applied.index, environment.copy)


def _data_of(file: Path) -> Source:
    def source(target: Path) -> None:
        extract(file, target)

    return source


def _copy_of(path: Path) -> Source:
    def source(target: Path) -> None:
        shutil.copyfile(path, target)

    return source


@dataclass(frozen=True, slots=True)
class StatesCompared:
    """Two states at one entry. `database` is empty where they are the same."""

    index: int
    database: str
    key: bytes


def compare_states(app: App, a: Path, b: Path) -> StatesCompared:
    """Bring the states of two directories to the same entry, each with its own log, and find the first record that differs.

    Both are copied to a temporary folder. Raises CommandError where one of the logs does not lead there.
    """
    looks = [directory.look(path) for path in (a, b)]
    applied = [facts.state.applied.index if facts.state and facts.state.applied else 0 for facts in looks]
    index = max(applied)
    with (
        app.progress("comparing states:") as progress,
        tempfile.TemporaryDirectory(prefix="ravel-") as scratch,
        _disk(f"cannot copy the states to {scratch}", "free some space there, or set TMPDIR to another folder"),
    ):
        readers = []
        for number, (path, facts) in enumerate(zip((a, b), looks, strict=True)):
            start = next((one for one in _starts(path, facts, None) if facts.state and one.what == facts.state.name), None)
            if start is None:
                raise CommandError(f"{path} has no state that can be read", code=ExitCode.DAMAGED)
            folder = Path(scratch) / str(number)
            folder.mkdir()
            entries = entries_of(path, start.index, index) if start.index < index else iter(())
            readers.append(asyncio.run(state_at(folder, start.source, entries, machine_of, progress.update)))
        found = first_difference(readers[0], readers[1])
    return StatesCompared(index, found[0] if found else "", found[1] if found else b"")


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot of an earlier state."""

    header: StateHeader
    source: str  # what it was made of
    committed: bool  # as far as the directory knows
    time_ms: int  # of its last entry, since 1970; 0: that carries none


def at(app: App, data_dir: Path, index: int, file: Path | None, target: Path) -> Made:
    """Write the state as of an entry as a snapshot file."""
    facts = directory.look(data_dir)
    identity = facts.log.identity or Identity("")
    start = start_for(data_dir, facts, index, file)
    folder = target.absolute().parent
    if not folder.is_dir():
        raise usage_error(f"there is no folder {folder}", "make it, or name another file")
    with (
        app.progress(f"state at {index}:") as progress,
        _disk(f"cannot write {target}", "free some space, or name another file"),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=folder) as scratch,
    ):
        entries = entries_of(data_dir, start.index, index)
        made = snapshot_at(Path(scratch), start.source, entries, machine_of, identity, progress.update)
        path, header = asyncio.run(made)
        write_snapshot(target, encode_header(header), path)
    return Made(header, start.what, index <= directory.commit_index(facts), time_of(data_dir, index))


def time_of(path: Path, index: int) -> int:
    """The time of an entry of the log in a data directory, in milliseconds since 1970; 0: it carries none, or is not there."""
    records = next(directory.log_pages(path, index, index + 1)).records
    entry = records[0].entry if records and records[0].index == index else None
    return read_time(entry.data) if entry is not None and entry.type is EntryType.NORMAL else 0
