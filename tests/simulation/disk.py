"""A disk whose commits take time, fail, stall, or vanish in a crash: the fake under the real store.

`Disk` is what survives: for each environment the records of its committed transactions, and beside them small real files in a
directory. `SimEngine` is one process's way to it. A crash makes the engine dead: what was not committed is gone, and nothing that
the dead process still wants to write has any effect. Jobs that a real engine gives to threads run here between two turns of the
loop, after a drawn delay, so they overlap with everything else as they do on a machine.

Every step is a place to crash at: before a commit, after it but before anybody hears of it, between two steps of a file job.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar
from unittest.mock import patch

from ravel_node.machine.high_water import Marks, decode_marks
from ravel_node.storage import files
from ravel_node.storage.base import StoreError, StoreFailedError
from ravel_node.storage.directory import RAFT
from ravel_node.storage.engine import DATA_FILE, Environment, ReadTxn, View, WriteTxn
from ravel_node.storage.keys import BOOT, META, PEERS, decode_boot
from ravel_node.storage.memory import MemoryEngine, MemoryEnvironment, MemoryTxn, Records

SEAL_BYTES = 4
"""Of the check sum in front of every record."""

T = TypeVar("T")
Databases = dict[str, Records]


class CrashedError(BaseException):
    """Ends whatever a crashed process was about to do with its disk."""


@dataclass(slots=True)
class DiskFaults:
    """How bad a disk is; may be changed at any time. Chances are for each step, from 0 to 1."""

    commit_min_s: float = 0.0002
    commit_max_s: float = 0.003
    flush_max_s: float = 0.0  # how much longer a commit of the applied state takes
    stall: float = 0.0  # a commit takes up to `stall_s`
    stall_s: float = 2.0
    fail: float = 0.0  # a commit fails, and nobody knows what of it reached the disk
    file_error: float = 0.0  # a step of a file job finds no room
    crash: float = 0.0  # the process dies at this step


class Host(Protocol):
    """The process that uses the disk."""

    def after(self, delay_s: float, action: Callable[[], None]) -> None: ...

    def crash(self, where: str) -> None:
        """The process dies now."""
        ...

    def committed(self, environment: SimEnvironment, txn: SimTxn) -> None:
        """A transaction has become durable."""
        ...

    def tell(self, what: str) -> None: ...


class DiskBackup:
    """What a disk held at one moment."""

    def __init__(self) -> None:
        self.environments: dict[Path, Databases] = {}
        self.folders: list[Path] = []
        self.files: dict[Path, bytes] = {}

    def boot_number(self) -> int:
        """Return how often the replica had been started."""
        raft = next((databases for path, databases in self.environments.items() if path.name == RAFT), None)
        record = None if raft is None else raft[META].get(BOOT)
        return 0 if record is None else decode_boot(record[SEAL_BYTES:]).number


class Disk:
    """What one server's process leaves behind when it dies."""

    def __init__(self, path: Path, rng: Random) -> None:
        self.path = path
        self.rng = rng
        self.faults = DiskFaults()
        self.environments: dict[Path, Databases] = {}

    def raft(self) -> Databases | None:
        """The committed records of raft/."""
        return self.environments.get(self.path / RAFT)

    def peer_marks(self) -> Marks:
        """The high-water marks of peers that are recorded here."""
        raft = self.raft()
        record = None if raft is None else raft[META].get(PEERS)
        return {} if record is None else decode_marks(record[SEAL_BYTES:])

    def backup(self) -> DiskBackup:
        """Return a copy of everything that is on the disk now, as a backup of its files would hold it."""
        backup = DiskBackup()
        backup.environments = {path: _copied(databases) for path, databases in self.environments.items()}
        for path in self.path.rglob("*"):
            if path.is_dir():
                backup.folders.append(path)
            elif path.is_file():
                backup.files[path] = path.read_bytes()
        return backup

    def restore(self, backup: DiskBackup) -> None:
        """Put a backup back in the place of everything that is there. No process may use the disk."""
        shutil.rmtree(self.path)
        self.path.mkdir()
        for folder in backup.folders:
            folder.mkdir(parents=True, exist_ok=True)
        for path, data in backup.files.items():
            path.write_bytes(data)
        self.environments = {path: _copied(databases) for path, databases in backup.environments.items()}


class SimTxn(MemoryTxn):
    """A write transaction that notes which log records it appends."""

    def __init__(self, databases: Mapping[str, Records]) -> None:
        super().__init__(databases)
        self.appended: list[tuple[bytes, bytes]] = []

    def append(self, database: str, key: bytes, value: bytes) -> None:
        self.appended.append((key, value))
        super().append(database, key, value)


class _View(MemoryTxn):
    """A read transaction of the loop: it shows one commit until it is renewed."""

    def __init__(self, environment: SimEnvironment) -> None:
        super().__init__(environment.databases)
        self._environment = environment
        environment.views.append(self)

    def detach(self) -> None:
        """Keep what there is: the next commit is about to change it."""
        self._databases = _copied(self._databases)
        self._environment.views.remove(self)

    def renew(self) -> None:
        self._databases = self._environment.databases
        if self not in self._environment.views:
            self._environment.views.append(self)

    def close(self) -> None:
        if self in self._environment.views:
            self._environment.views.remove(self)


def _copied(databases: Mapping[str, Records]) -> Databases:
    copies = {}
    for name, records in databases.items():
        copies[name] = copy(records)
        copies[name]._order, copies[name]._values = records._order[:], records._values.copy()
    return copies


class SimEnvironment(MemoryEnvironment):
    """Named databases with one writer, whose commits come late, or not at all."""

    def __init__(self, name: str, databases: Databases, map_size: int, engine: SimEngine) -> None:
        super().__init__(name, databases, map_size)
        self.views: list[_View] = []
        self._engine = engine
        self._queue: deque[tuple[Callable[[WriteTxn], Any], asyncio.Future[Any]]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    async def write(self, job: Callable[[WriteTxn], T]) -> T:
        self._engine.require_alive()
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StoreError(f"{self.name}/ is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((job, future))
        self._idle.clear()
        if len(self._queue) == 1:
            self._engine.later(self._engine.commit_delay(self.name), self._commit)
        return await future

    def _commit(self) -> None:
        engine = self._engine
        if engine.crashes(f"before a commit of {self.name}/"):
            return
        job, future = self._queue[0]
        txn = SimTxn(self.databases)
        for view in self.views[:]:
            view.detach()
        try:
            result = job(txn)
        except BaseException as error:
            txn.undo()
            self._answer(future, None, error)
            return
        if engine.happens(engine.disk.faults.fail):
            self._break(txn)
            return
        engine.host.committed(self, txn)
        if not engine.crashes(f"after a commit of {self.name}/, before it was heard of"):
            engine.later(engine.answer_delay(), lambda: self._answer(future, result, None))

    def _break(self, txn: SimTxn) -> None:
        """A failed sync: the kernel may have written all of it, or nothing."""
        if self._engine.happens(0.5):
            txn.undo()
            self._engine.host.tell(f"a commit of {self.name}/ fails, and is lost")
        else:
            self._engine.host.tell(f"a commit of {self.name}/ fails, though it reached the disk")
            self._engine.host.committed(self, txn)
        self.fail("the disk failed a sync")
        waiting, self._queue = self._queue, deque()
        self._idle.set()
        for _, future in waiting:
            if not future.done():
                future.set_exception(self.failure)

    @property
    def failure(self) -> StoreFailedError:
        return self._failure or StoreFailedError(f"{self.name}/ failed a write")

    def forgive(self) -> None:
        """The next commit succeeds, as LMDB's does after a failed sync. For a planted bug."""
        self._failure = None

    def _answer(self, future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
        self._queue.popleft()
        if self._queue:
            self._engine.later(self._engine.commit_delay(self.name), self._commit)
        else:
            self._idle.set()
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def view(self) -> View:
        self._engine.require_alive()
        return _View(self)

    async def inspect(self, job: Callable[[ReadTxn], T]) -> T:
        return await self._engine.run(lambda: job(MemoryTxn(self.databases)))

    def inspect_from_here(self, job: Callable[[ReadTxn, Callable[[], None]], T]) -> asyncio.Future[T]:
        pinned = MemoryTxn(_copied(self.databases))
        return asyncio.ensure_future(self._engine.run(lambda: job(pinned, lambda: None)))

    async def copy(self, path: Path) -> None:
        def begin() -> None:
            path.write_bytes(b"part of a copy")

        await self._engine.run(begin)  # a crash after this leaves a part behind
        await self._engine.run(path.unlink)
        await super().copy(path)

    async def close(self) -> None:
        self._closed = True
        if not self._engine.dead:
            await self._idle.wait()


class SimEngine(MemoryEngine):
    """One process's way to its disk."""

    def __init__(self, disk: Disk, host: Host) -> None:
        super().__init__()
        self.disk: Disk = disk  # type: ignore[assignment]  # it takes the place of the dictionary of the same name
        self.host = host
        self.dead = False

    # --- what the environments use

    def require_alive(self) -> None:
        if self.dead:
            raise CrashedError

    def happens(self, chance: float) -> bool:
        return chance > 0.0 and self.disk.rng.random() < chance

    def crashes(self, where: str) -> bool:
        """Whether the process dies here."""
        if self.happens(self.disk.faults.crash):
            self.host.crash(where)
        return self.dead

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.host.after(delay_s, lambda: None if self.dead else action())

    def commit_delay(self, environment: str) -> float:
        faults, rng = self.disk.faults, self.disk.rng
        if self.happens(faults.stall):
            self.host.tell("the disk stalls")
            return rng.uniform(0.0, faults.stall_s)
        longer = 0.0 if environment == RAFT else rng.uniform(0.0, faults.flush_max_s)
        return rng.uniform(faults.commit_min_s, faults.commit_max_s) + longer

    def answer_delay(self) -> float:
        return self.disk.rng.uniform(0.0, self.disk.faults.commit_min_s)

    def file_step(self) -> None:
        """A file job has come to its next step."""
        if self.crashes("between two steps of a file job"):
            raise CrashedError
        if self.happens(self.disk.faults.file_error):
            self.host.tell("a file job finds no room on the disk")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # --- Engine

    async def open(self, path: Path, databases: Mapping[str, bool], map_size: int, *, read_ahead: bool = True) -> Environment:
        await self.run(lambda: None)
        environments = self.disk.environments
        if path not in environments:
            data = path / DATA_FILE
            environments[path] = self._decoded(data, databases) if data.exists() else {}
        for name, many in databases.items():
            environments[path].setdefault(name, Records(many))
        return SimEnvironment(path.name, environments[path], map_size, self)

    def _decoded(self, data: Path, databases: Mapping[str, bool]) -> Databases:
        found: list[Databases] = []
        self.examine(data, databases, lambda txn: found.append(txn._databases))  # type: ignore[attr-defined]
        return found[0]

    def remove(self, path: Path) -> None:
        self.disk.environments.pop(path, None)
        files.remove_tree(path)

    async def run(self, job: Callable[[], T]) -> T:
        self.require_alive()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def work() -> None:
            if self.crashes("before a file job"):
                return
            try:
                with _at_work(self):
                    result = job()
            except CrashedError:
                return
            except Exception as error:
                failed = error
                self.later(self.answer_delay(), lambda: None if future.done() else future.set_exception(failed))
                return
            if not self.crashes("after a file job"):
                self.later(self.answer_delay(), lambda: None if future.done() else future.set_result(result))

        self.later(self.disk.rng.uniform(0.0, self.disk.faults.commit_max_s), work)
        return await future


_working: list[SimEngine] = []  # whose file job runs at this moment


@contextmanager
def _at_work(engine: SimEngine) -> Iterator[None]:
    _working.append(engine)
    try:
        yield
    finally:
        _working.pop()


@contextmanager
def files_in_memory() -> Iterator[None]:
    """Within this, a sync of a file costs nothing and is a step of whoever's file job runs."""

    def step(*_: object) -> None:
        if _working:
            _working[-1].file_step()

    with patch.object(os, "fsync", step), patch.object(files, "_sync", step):
        yield
