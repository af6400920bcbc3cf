"""Snapshot files: made here, and received from others.

A snapshot is a compact copy of the state environment at one point in time, and a header file beside it that says what it is. The
header is written last and removed first, so a data file without one is a remnant and is deleted at start.

The file of a leader travels as it is. What comes in is staged under its check sum, survives a restart, and is installed only
after size, check sum, cluster, format and content were found to be what the header says.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

from ravel_node.machine.kv import read_revision
from ravel_node.machine.members import MemberVersionError, read_cluster_name, read_conf_state
from ravel_node.raft.types import ConfState, EntryId, Index, ReplicaId, Snapshot, Term
from ravel_node.storage import files
from ravel_node.storage.base import (
    CheckStep,
    DamagedError,
    Identity,
    SnapshotFile,
    SnapshotHeader,
    SnapshotRefusedError,
    StoreError,
)
from ravel_node.storage.engine import DATA_FILE, Engine, Environment, Observe, ReadTxn
from ravel_node.storage.keys import FORMAT, STATE_DATABASES
from ravel_node.storage.state_store import StateReader

HEADER_BYTES_MAX: Final = 1 << 20
NUMBER_END: Final = 1 << 63
TEXT_CHARS_MAX: Final = 256
"""Of one field of a header."""

HASH_BYTES: Final = 1 << 20
STAGED_MAX: Final = 2
"""Transfers kept for going on with; the oldest goes when another begins."""

DATA_SUFFIX: Final = ".mdb"
HEADER_SUFFIX: Final = ".json"
DAMAGED_SUFFIX: Final = ".damaged"
"""Added to both names of a file that is not what its header says; it is left for a person to look at."""

_UNREADABLE: Final = (errno.ENOENT, errno.EIO)
"""Errors of reading that say something about the file. Others, such as too many open files, say nothing against it."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


# --- headers


def encode_header(header: SnapshotHeader) -> bytes:
    """The header file: a JSON object with the fields of `SnapshotHeader`, one a line."""
    return json.dumps(asdict(header), indent=1).encode() + b"\n"


def decode_header(data: bytes) -> SnapshotHeader:
    """Raises SnapshotRefusedError for what is no header of a format that this version reads."""
    try:
        values = json.loads(data) if len(data) <= HEADER_BYTES_MAX else None
    except (ValueError, RecursionError):  # the second one for brackets in brackets
        values = None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise SnapshotRefusedError(f"a snapshot header of {len(data)} bytes that cannot be read")
    if values["format"] != FORMAT:
        raise SnapshotRefusedError(f"a snapshot of format {values['format']}, where this version reads {FORMAT}")
    wanted = {field.name: str(field.type) for field in fields(SnapshotHeader)}
    if values.keys() != wanted.keys() or not all(_fits(values[name], kind) for name, kind in wanted.items()):
        raise SnapshotRefusedError("a snapshot header whose fields are not those of its format")
    if not _SHA256.match(values["sha256"]):
        raise SnapshotRefusedError(f"a snapshot header with the sha256 {values['sha256']!r}: it must be 64 lower-case hex digits")
    typed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return SnapshotHeader(**typed)


def _fits(value: Any, kind: str) -> bool:
    """Whether a value of JSON, which knows no bounds, is one that this program could have written."""
    if kind.startswith("tuple"):
        return isinstance(value, list) and all(type(item) is int and 0 < item < NUMBER_END for item in value)
    if kind == "int":
        return type(value) is int and 0 <= value < NUMBER_END
    if kind == "str":
        return isinstance(value, str) and len(value) <= TEXT_CHARS_MAX and value.isprintable()
    return type(value).__name__ == kind


def conf_state_of(header: SnapshotHeader) -> ConfState:
    def ids(numbers: tuple[int, ...]) -> tuple[ReplicaId, ...]:
        return tuple(ReplicaId(number) for number in numbers)

    return ConfState(
        ids(header.voters), ids(header.learners), ids(header.voters_outgoing), ids(header.learners_next), header.auto_leave
    )


def snapshot_of(header: SnapshotHeader) -> Snapshot:
    return Snapshot(Index(header.index), Term(header.term), conf_state_of(header))


# --- what a data file holds


@dataclass(frozen=True, slots=True)
class _Content:
    applied: EntryId
    conf_state: ConfState
    revision: int
    cluster_name: str
    keys: int


def _content(engine: Engine, path: Path) -> _Content:
    """Blocks. Raises DamagedError."""

    def read(txn: ReadTxn) -> _Content:
        reader = StateReader(txn, path.name)
        get = reader.get
        return _Content(reader.applied(), read_conf_state(get), read_revision(get), read_cluster_name(get), reader.keys())

    try:
        return engine.examine(path, STATE_DATABASES, read)
    except (ValueError, MemberVersionError) as error:
        raise DamagedError(f"{path.name} holds a membership or a name that cannot be read: {error}") from error


def _mismatch(header: SnapshotHeader, content: _Content) -> str:
    """Why a header does not tell what is in its file; empty if it does. The header itself has no check sum."""
    wanted = snapshot_of(header)
    if content.applied != wanted.id or content.conf_state != wanted.conf_state:
        return f"it holds the state of {content.applied} with {content.conf_state}, and its header says {wanted}"
    found = (content.revision, content.keys, content.cluster_name)
    if found != (header.revision, header.keys, header.cluster_name):
        told = (header.revision, header.keys, header.cluster_name)
        return f"revision, keys and cluster name in it are {found}, and its header says {told}"
    return ""


class _Stop:
    """Tells long jobs on file threads that the store closes."""

    set = False


def _sha256(path: Path, stop: _Stop) -> str:
    """Blocks. Raises StoreError when the store closes meanwhile."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_BYTES):
            if stop.set:
                raise StoreError(f"{path.name} was not verified: the store closes")
            digest.update(chunk)
    return digest.hexdigest()


def describe_copy(engine: Engine, path: Path, identity: Identity, now_ms: int, stop: _Stop | None = None) -> SnapshotHeader:
    """The header of a copy of a state environment. Blocks: the whole file is read. Raises DamagedError."""
    content = _content(engine, path)
    conf_state = content.conf_state
    return SnapshotHeader(
        format=FORMAT,
        cluster_id=identity.cluster_id,
        cluster_name=content.cluster_name,
        index=content.applied.index,
        term=content.applied.term,
        voters=conf_state.voters,
        learners=conf_state.learners,
        voters_outgoing=conf_state.voters_outgoing,
        learners_next=conf_state.learners_next,
        auto_leave=conf_state.auto_leave,
        revision=content.revision,
        keys=content.keys,
        size_bytes=path.stat().st_size,
        sha256=_sha256(path, stop or _Stop()),
        taken_at_ms=now_ms,
        taken_by=identity.name,
    )


# --- those that were made here


class Shelf:
    """The folder snapshots/. Used on the loop."""

    def __init__(self, engine: Engine, path: Path, *, kept: int, now_ms: Callable[[], int], observe: Observe) -> None:
        self._engine = engine
        self._path = path
        self._kept = kept
        self._now_ms = now_ms
        self._observe = observe
        self._stop = _Stop()
        self.files: list[SnapshotFile] = []  # verified, newest first

    async def load(self) -> Sequence[SnapshotFile]:
        """Clear remnants away; the files that have yet to be verified, newest first. Before anything is built."""
        found, problems = await self._engine.run(self._found)
        for path, why in problems:
            self._observe("store.snapshot_damaged", {"file": str(path), "why": why})
        return found

    async def verify(self, found: Sequence[SnapshotFile], cluster_id: str) -> None:
        """Take in the files that are what their headers say, one after the other; a damaged one is put aside and reported.

        One that cannot be judged now stays where it is, for the next start. Raises StoreError once the store closes.
        """
        for file in found:
            try:
                why = await self._judge(file, cluster_id)
            except OSError as error:
                self._observe("store.snapshots_unreadable", {"file": str(file.path), "why": files.reason(error)})
                continue
            if not why:
                self._add(file)
            else:
                await self._condemn(file, why)

    async def doubt(self, at: Index, cluster_id: str) -> None:
        """Verify the file of this index again, which a peer did not take: one that is damaged or gone is offered no more."""
        for file in [file for file in self.files if file.header.index == at]:
            try:
                why = await self._judge(file, cluster_id)
            except OSError:
                continue
            if why and file in self.files:
                self.files.remove(file)
                await self._condemn(file, why)

    async def _judge(self, file: SnapshotFile, cluster_id: str) -> str:
        """Return why a file must not be sent to anybody; empty if it may. Raises OSError where nothing is known of it."""
        try:
            return await self._engine.run(partial(self._problem, file, cluster_id))
        except OSError as error:
            if error.errno in _UNREADABLE:
                return files.reason(error)
            raise

    async def _condemn(self, file: SnapshotFile, why: str) -> None:
        try:
            await self._engine.run(partial(_put_aside, file))
        except FileNotFoundError:
            pass  # so much the less is there to be put aside
        except OSError as error:  # it is not offered; the next start judges it again
            why = f"{why}; it could not be put aside: {files.reason(error)}"
        self._observe("store.snapshot_damaged", {"file": str(file.path), "why": why})

    def _problem(self, file: SnapshotFile, cluster_id: str) -> str:
        """Blocks. Why a file must not be sent to anybody; empty if it may."""
        header = file.header
        digest = _sha256(file.path, self._stop)
        if digest != header.sha256:
            return f"its sha256 is {digest}, and its header says {header.sha256}"
        if header.cluster_id != cluster_id:
            return f"its header says cluster {header.cluster_id!r}, and this replica is in {cluster_id!r}"
        try:
            return _mismatch(header, _content(self._engine, file.path))
        except DamagedError as error:
            return str(error)

    def _add(self, file: SnapshotFile) -> None:
        others = [other for other in self.files if other.name != file.name]
        self.files = sorted([file, *others], key=lambda each: (each.header.index, each.header.term), reverse=True)

    def _found(self) -> tuple[list[SnapshotFile], list[tuple[Path, str]]]:
        """Blocks. Files whose header is whole and whose size is right, newest first; and why the others are not taken."""
        found: list[SnapshotFile] = []
        problems: list[tuple[Path, str]] = []
        for path, data in reversed(_pairs(self._path)):
            try:
                header = decode_header(data)
            except SnapshotRefusedError as error:  # a later version's, or damaged: left for a person to look at
                problems.append((path.with_suffix(HEADER_SUFFIX), str(error)))
                continue
            file = SnapshotFile(path.stem, path, header, data)
            size = path.stat().st_size
            if size == header.size_bytes:
                found.append(file)
            else:
                _put_aside(file)
                problems.append((path, f"it has {size} bytes, and its header says {header.size_bytes}"))
        return found, problems

    async def build(self, env: Environment, identity: Identity) -> SnapshotFile:
        """Copy the environment as it was last committed, and take the copy in. Raises StoreError, and then leaves no file."""
        temporary = self._path / f"building{DATA_SUFFIX}{files.TEMPORARY}"
        try:
            await self._engine.run(lambda: files.remove_file(temporary))
            await env.copy(temporary)
            file = await self._engine.run(lambda: self._take_in(temporary, identity))
        except OSError as error:
            raise StoreError(f"a snapshot could not be made in {self._path}: {files.reason(error)}") from error
        except DamagedError as error:
            raise StoreError(f"a snapshot could not be made: {error}") from error
        finally:
            await self._engine.run(lambda: temporary.unlink(missing_ok=True))
        self._add(file)
        return file

    def _take_in(self, temporary: Path, identity: Identity) -> SnapshotFile:
        header = describe_copy(self._engine, temporary, identity, self._now_ms(), self._stop)
        name = f"snapshot-{header.index:020d}-{header.term}"
        data = encode_header(header)
        path = self._path / (name + DATA_SUFFIX)
        files.rename(temporary, path)
        try:
            files.write_file(path.with_suffix(HEADER_SUFFIX), data)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return SnapshotFile(name, path, header, data)

    async def prune(self, held: Callable[[SnapshotFile], bool]) -> None:
        """Delete all but the newest few and those that are held."""
        for file in self.files[self._kept :]:
            if not held(file):
                self.files.remove(file)
                await self._engine.run(partial(_delete, file.path))

    async def checking(self) -> AsyncGenerator[CheckStep, None]:
        """Read every file, and name those that are damaged."""
        listed = tuple(self.files)
        total, done = sum(file.header.size_bytes for file in listed), 0
        for file in listed:
            problem = ""
            try:
                digest = await self._engine.run(partial(_sha256, file.path, self._stop))
            except OSError as error:
                if file in self.files:  # else it was pruned meanwhile
                    problem = f"it cannot be read: {files.reason(error)}"
            else:
                if digest != file.header.sha256:
                    problem = f"sha256 is {digest}, and its header says {file.header.sha256}"
            done += file.header.size_bytes
            yield CheckStep("snapshots", done, total, (f"snapshots/{file.path.name}: {problem}",) if problem else ())

    def stop(self) -> None:
        """End long jobs soon."""
        self._stop.set = True


def _put_aside(file: SnapshotFile) -> None:
    """Blocks."""
    for path in (file.path.with_suffix(HEADER_SUFFIX), file.path):
        files.rename(path, path.with_name(path.name + DAMAGED_SUFFIX))


def _delete(path: Path) -> None:
    """Blocks. The header first: what it leaves behind is a remnant."""
    files.remove_file(path.with_suffix(HEADER_SUFFIX))
    files.remove_file(path)


def check_snapshots(folder: Path) -> Iterator[CheckStep]:
    """Read every whole file of a folder that another process may own, and compare it with its header. Blocks."""
    stop, done = _Stop(), 0
    names = sorted(folder.glob(f"*{HEADER_SUFFIX}"))
    sizes = {name: name.with_suffix(DATA_SUFFIX).stat().st_size for name in names if name.with_suffix(DATA_SUFFIX).exists()}
    for name in names:
        problem = ""
        try:
            header = decode_header(name.read_bytes())
            digest = _sha256(name.with_suffix(DATA_SUFFIX), stop)
            if digest != header.sha256:
                problem = f"sha256 is {digest}, and its header says {header.sha256}"
        except FileNotFoundError:
            continue  # a daemon has deleted it meanwhile
        except OSError as error:
            problem = f"it cannot be read: {files.reason(error)}"
        except SnapshotRefusedError as error:
            problem = str(error)
        done += sizes.get(name, 0)
        told = (f"snapshots/{name.with_suffix(DATA_SUFFIX).name}: {problem}",) if problem else ()
        yield CheckStep("snapshots", done, max(done, sum(sizes.values())), told)


# --- those that come in


class Staged:
    """One snapshot on its way in (`StagedSnapshot`). Used on the loop; one transfer at a time."""

    def __init__(self, incoming: Incoming, path: Path, header: SnapshotHeader, received: int) -> None:
        self._incoming = incoming
        self._busy = False
        self.path = path
        self.header = header
        self.received = received
        self.finished = False
        self.gone = False

    async def write(self, offset: int, data: bytes) -> None:
        self._require_turn()
        if offset != self.received or offset + len(data) > self.header.size_bytes:
            raise SnapshotRefusedError(
                f"{len(data)} bytes at {offset} of a snapshot of {self.header.size_bytes} bytes, and {self.received} are here"
            )
        self._busy = True
        try:
            await self._incoming.engine.run(lambda: _write_at(self.path, offset, data))
        except OSError as error:
            await self._incoming.forget(self)
            raise StoreError(f"a snapshot could not be received: {files.reason(error)}") from error
        finally:
            self._busy = False
        self.received = offset + len(data)

    async def finish(self) -> Snapshot:
        self._require_turn()
        if not self.finished:
            self._busy = True
            try:
                problem = await self._incoming.engine.run(self._problem)
            except OSError as error:
                raise StoreError(f"a received snapshot could not be read: {error.strerror or error}") from error
            finally:
                self._busy = False
            if problem:
                await self._incoming.forget(self)
                raise SnapshotRefusedError(f"the snapshot of entry {self.header.index} was refused: {problem}")
            self.finished = True
        return snapshot_of(self.header)

    def _problem(self) -> str:
        """Blocks. Why the file is not what its header says; empty if it is."""
        if self.received != self.header.size_bytes:
            return f"{self.received} of {self.header.size_bytes} bytes came"
        digest = _sha256(self.path, self._incoming.stopping)
        if digest != self.header.sha256:
            return f"its sha256 is {digest}, and its header says {self.header.sha256}"
        try:
            content = _content(self._incoming.engine, self.path)
        except DamagedError as error:
            return str(error)
        return _mismatch(self.header, content)

    def _require_turn(self) -> None:
        if self.gone:
            raise SnapshotRefusedError(f"the transfer of the snapshot of entry {self.header.index} was given up")
        if self._busy:
            raise SnapshotRefusedError(f"another transfer of the snapshot of entry {self.header.index} is under way")

    async def discard(self) -> None:
        if not self.finished:
            await self._incoming.forget(self)


class Incoming:
    """The folder incoming/. Used on the loop."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self.stopping = _Stop()
        self._path = path
        self._staged: dict[str, Staged] = {}  # by sha256; insertion order is age

    async def load(self, applied: Index) -> None:
        """Find what a restart interrupted; delete what is of no use any more."""
        for path, header, size in await self.engine.run(lambda: self._found(applied)):
            self._staged[header.sha256] = Staged(self, path, header, size)

    def _found(self, applied: Index) -> list[tuple[Path, SnapshotHeader, int]]:
        """Blocks."""
        found: list[tuple[Path, SnapshotHeader, int]] = []
        for path, data in _pairs(self._path):
            size = path.stat().st_size
            try:
                header = decode_header(data)
                useful = header.index > applied and size <= header.size_bytes
            except SnapshotRefusedError:
                useful = False
            if useful:
                found.append((path, header, size))
            else:
                _delete(path)
        return found

    async def begin(self, identity: Identity, applied: Index, header: bytes, size_bytes: int, sha256: bytes) -> Staged:
        """See `Store.receive`."""
        wanted = decode_header(header)
        if wanted.cluster_id != identity.cluster_id:
            raise SnapshotRefusedError(
                f"a snapshot of cluster {wanted.cluster_id[:40]!r}, and this replica is in {identity.cluster_id!r}"
            )
        if size_bytes != wanted.size_bytes or sha256.hex() != wanted.sha256:
            raise SnapshotRefusedError("a snapshot whose announced size or sha256 is not its header's")
        if wanted.index <= applied:
            raise SnapshotRefusedError(f"a snapshot of entry {wanted.index}, and this replica has applied {applied}")
        known = self._staged.get(wanted.sha256)
        if known is not None:
            return known
        await self._make_room(applied)
        path = self._path / (wanted.sha256 + DATA_SUFFIX)
        staged = Staged(self, path, wanted, 0)
        self._staged[wanted.sha256] = staged
        try:
            await self.engine.run(lambda: _begin(path, header, size_bytes))
        except OSError as error:
            await self.forget(staged)
            raise StoreError(f"a snapshot of {size_bytes} bytes could not be received: {error.strerror or error}") from error
        return staged

    async def _make_room(self, applied: Index) -> None:
        """Give up what is of no use, and the oldest unfinished transfers beyond the bound."""
        for staged in [each for each in self._staged.values() if each.header.index <= applied]:
            await self.forget(staged)
        unfinished = [each for each in self._staged.values() if not each.finished]
        for staged in unfinished[: max(0, len(unfinished) + 1 - STAGED_MAX)]:
            await self.forget(staged)

    def finished(self, at: EntryId) -> Path | None:
        """The verified file of the state at this entry."""
        for staged in self._staged.values():
            if staged.finished and (staged.header.term, staged.header.index) == at:
                return staged.path
        return None

    async def forget(self, staged: Staged) -> None:
        """Delete a transfer; whoever still writes to it is refused."""
        staged.gone = True
        if self._staged.get(staged.header.sha256) is staged:
            del self._staged[staged.header.sha256]
            await self.engine.run(lambda: _delete(staged.path))

    async def clear(self, applied: Index) -> None:
        """Delete what the state has caught up with."""
        for staged in [each for each in self._staged.values() if each.header.index <= applied]:
            await self.forget(staged)


def move_in(source: Path, directory: Path) -> None:
    """Blocks. Make a verified file the data file of a new state directory, durably."""
    files.make_directory(directory)
    files.rename(source, directory / DATA_FILE)


def _begin(path: Path, header: bytes, size_bytes: int) -> None:
    """Blocks. Raises OSError where the disk has no room for the whole file."""
    room = os.statvfs(path.parent)
    if room.f_bavail * room.f_frsize < size_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, files.FILE_MODE), "wb"):
        files.sync_directory(path.parent)
    files.write_file(path.with_suffix(HEADER_SUFFIX), header)


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Blocks. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pairs(folder: Path) -> list[tuple[Path, bytes]]:
    """Blocks. Each data file with the bytes of its header; a file that lacks its other half is a remnant and is deleted."""
    pairs: list[tuple[Path, bytes]] = []
    for path in sorted(folder.iterdir()):
        data, header = path.with_suffix(DATA_SUFFIX), path.with_suffix(HEADER_SUFFIX)
        if path.suffix == DAMAGED_SUFFIX:
            continue
        if path.suffix not in (DATA_SUFFIX, HEADER_SUFFIX) or not (data.exists() and header.exists()):
            files.remove_file(path)
        elif path.suffix == HEADER_SUFFIX:
            with header.open("rb") as file:
                pairs.append((data, file.read(HEADER_BYTES_MAX + 1)))
    return pairs
