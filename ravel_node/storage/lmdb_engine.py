"""The engine that keeps a store's bytes in LMDB (http://www.lmdb.tech/doc/). See `engine.py` for what it promises.

**Writing.** LMDB has one writer at a time, but its binding takes a write from any thread without a word. So each environment has
one writer thread, and nothing else begins a write transaction.

**Maps.** A map is address space: the file is only as long as its last page. So an environment is opened with a map for all that
it may ever hold, and where the system refuses so much, with half of it, and so on. A map that fills up all the same grows, which
it may only while no transaction uses it. Read transactions of the loop are ended and begun again around it: they see the same
state, because the only writer is the one that waits. Copies and inspections on other threads are waited for, which takes as long
as the copy of a snapshot does.

**Failing.** After a failed commit nothing is known: the pages may be on disk or not, and LMDB's next commit would succeed as if
nothing had been lost. So the first failure ends the environment for good.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any, Final, TypeVar

import lmdb

from ravel_node.raft.errors import InvariantError
from ravel_node.storage import files
from ravel_node.storage.base import DamagedError, DatabaseStats, EnvironmentStats, HashStoppedError, StoreError, StoreFailedError
from ravel_node.storage.engine import DATA_FILE, WAY_OUT, Environment, Observe, ReadTxn, View, WriteTxn

T = TypeVar("T")

FILE_NICENESS: Final = 10
"""Of the threads that copy, hash and check files (nice(2))."""

GROWTH_BYTES_MAX: Final = 1 << 30
"""A map doubles, but grows by no more than this at once."""

GROWTH_BYTES_MIN: Final = 1 << 20
"""A map grows by less than it should where the system gives no more address space, but by no less than this."""

MAP_BYTES_MIN: Final = 64 << 20
"""Where the system refuses the map that an environment should have, it is opened with no smaller one than this."""

FULL_BYTES: Final = 1 << 20
"""A disk on which a write failed, and that has less room than this, is called full."""

FILE_THREADS: Final = 2
"""One for a copy or a check sum that takes long, one for what must not wait for it."""

DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.BadTxnError,  # what every later call says of a transaction that met a bad page
)
"""Errors that, where something is read, say the file is not what LMDB wrote."""

META_PAGES: Final = 2
"""Pages at the head of each file that belong to no database."""

PAUSE_S: Final = 100e-6
"""LMDB's binding keeps the interpreter's lock for every record; a job of many records gives it up for this long now and then."""


class LmdbReadTxn:
    """One LMDB read transaction, or through `LmdbWriteTxn` the reading half of a write transaction."""

    __slots__ = ("_handles", "_name", "_txn")

    def __init__(self, name: str, txn: lmdb.Transaction[bytes], handles: Mapping[str, Any]) -> None:
        self._name = name
        self._txn = txn
        self._handles = handles

    def get(self, database: str, key: bytes) -> bytes | None:
        try:
            return self._txn.get(key, None, self._handles[database])
        except lmdb.Error as error:
            raise unreadable(self._name, error) from error

    def has(self, database: str, key: bytes) -> bool:
        try:
            return self._txn.cursor(self._handles[database]).set_key(key)
        except lmdb.Error as error:
            raise unreadable(self._name, error) from error

    def keys(self, database: str) -> Iterator[bytes]:
        try:
            cursor = self._txn.cursor(self._handles[database])
            if cursor.first():
                yield from cursor.iternext_nodup(keys=True, values=False)
        except lmdb.Error as error:
            raise unreadable(self._name, error) from error

    def items(self, database: str, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        try:
            cursor = self._txn.cursor(self._handles[database])
            if cursor.set_range(start) if start else cursor.first():
                yield from cursor.iternext()
        except lmdb.Error as error:
            raise unreadable(self._name, error) from error

    def has_value(self, database: str, key: bytes, value: bytes) -> bool:
        try:
            return self._txn.cursor(self._handles[database]).set_key_dup(key, value)
        except lmdb.Error as error:
            raise unreadable(self._name, error) from error

    def values(self, database: str, key: bytes, start: bytes) -> Iterator[bytes]:
        try:
            cursor = self._txn.cursor(self._handles[database])
            # LMDB takes no empty value to begin with, where a key has more values than fit into one page.
            if cursor.set_range_dup(key, start) if start else cursor.set_key(key):
                yield from cursor.iternext_dup()
        except lmdb.Error as error:
            raise unreadable(self._name, error) from error

    def last(self, database: str) -> tuple[bytes, bytes] | None:
        try:
            cursor = self._txn.cursor(self._handles[database])
            return cursor.item() if cursor.last() else None
        except lmdb.Error as error:
            raise unreadable(self._name, error) from error

    def entries(self, database: str) -> int:
        return self._txn.stat(self._handles[database])["entries"]

    def pause(self) -> None:
        sleep(PAUSE_S)

    def close(self) -> None:
        self._txn.abort()


class LmdbWriteTxn(LmdbReadTxn):
    """The transaction of a job. lmdb.Error passes through: the environment decides what it means.

    The binding reports an entry that it did not write by returning False: no such result is dropped here. Flags go to it by their
    positions (dupdata, overwrite, append, db), which costs half as much as by name.
    """

    __slots__ = ()

    def put(self, database: str, key: bytes, value: bytes) -> None:
        if not self._txn.put(key, value, True, True, False, self._handles[database]):
            raise InvariantError(f"{self._name}: a record of database {database} was not written")

    def append(self, database: str, key: bytes, value: bytes) -> None:
        if not self._txn.put(key, value, True, True, True, self._handles[database]):
            raise InvariantError(f"{self._name}: key {key.hex()} was appended to database {database} below its last key")

    def insert(self, database: str, key: bytes, value: bytes) -> bool:
        return self._txn.put(key, value, True, False, False, self._handles[database])

    def delete(self, database: str, key: bytes) -> bool:
        return self._txn.delete(key, b"", self._handles[database])

    def delete_from(self, database: str, start: bytes) -> None:
        with self._txn.cursor(self._handles[database]) as cursor:
            found = cursor.set_range(start)
            while found:
                found = cursor.delete()  # moves to the next record; False after the last one

    def clear(self, database: str) -> None:
        self._txn.drop(self._handles[database], delete=False)

    def add_value(self, database: str, key: bytes, value: bytes) -> bool:
        return self._txn.put(key, value, False, True, False, self._handles[database])

    def remove_value(self, database: str, key: bytes, value: bytes) -> bool:
        return self._txn.delete(key, value, self._handles[database])


class LmdbView(LmdbReadTxn):
    """A read transaction of the loop. The environment ends it to grow its map, and begins it again."""

    __slots__ = ("_env", "_views")

    def __init__(self, name: str, env: lmdb.Environment, handles: Mapping[str, Any], views: set[LmdbView]) -> None:
        super().__init__(name, env.begin(), handles)
        self._env = env
        self._views = views
        views.add(self)

    def renew(self) -> None:
        self._txn.abort()
        self._txn = self._env.begin()

    def close(self) -> None:
        self._views.discard(self)
        super().close()


def _full_disk(path: str) -> str:
    """That its disk is full, where it is: LMDB says of a write that came short no more than "input/output error"."""
    try:
        space = os.statvfs(path)
    except OSError:
        return ""
    free = space.f_bavail * space.f_frsize
    return f": the disk is full ({free} bytes are free)" if free < FULL_BYTES else ""


class LmdbEnvironment:
    """One LMDB environment and its one writer thread. Used on the loop."""

    def __init__(
        self, name: str, env: lmdb.Environment, handles: Mapping[str, Any], files: ThreadPoolExecutor, observe: Observe
    ) -> None:
        self._name = name
        self._env = env
        self._handles = handles
        self._files = files
        self._observe = observe
        self._writer = ThreadPoolExecutor(1, f"ravel-{name}")
        self._jobs: deque[tuple[Callable[[WriteTxn], Any], asyncio.Future[Any]]] = deque()
        self._running = False  # invariant: a job is on the writer thread, or waits for a copy to end so that the map may grow
        self._full = False
        self._elsewhere = 0  # copies and inspections on file threads: the map stays where it is
        self._nothing_elsewhere = asyncio.Event()
        self._nothing_elsewhere.set()
        self._copies: set[int] = set()
        self._views: set[LmdbView] = set()
        self._failure: StoreFailedError | None = None
        self._closed = False

    # --- writing

    async def write(self, job: Callable[[WriteTxn], T]) -> T:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StoreError(f"{self._name}/ is closed")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append((job, done))
        if not self._running:
            self._start()
        return await done

    def _start(self) -> None:
        self._running = True
        running = asyncio.get_running_loop().run_in_executor(self._writer, self._commit, self._jobs[0][0])
        running.add_done_callback(self._committed)

    def _commit(self, job: Callable[[WriteTxn], T]) -> T:
        """On the writer thread."""
        self._env.reader_check()  # frees the pages that a killed reader of another process pins; how many it had does not matter
        txn = self._env.begin(write=True)
        try:
            result = job(LmdbWriteTxn(self._name, txn, self._handles))
        except BaseException:
            txn.abort()
            raise
        txn.commit()
        return result

    def _committed(self, running: asyncio.Future[Any]) -> None:
        error = running.exception()
        if isinstance(error, lmdb.MapFullError):
            self._full = True
            self._grow_if_free()
            return
        _, done = self._jobs.popleft()
        self._running = False
        if isinstance(error, lmdb.Error):
            self._fail(done, error)
        elif not done.done():
            if error is None:
                done.set_result(running.result())
            else:
                done.set_exception(error)
        if self._jobs:
            self._start()

    def _grow_if_free(self) -> None:
        """Grow the map and run the waiting job again, once nothing on another thread reads through the map."""
        if not self._full or self._elsewhere:
            return
        self._full = False
        size = self._env.info()["map_size"]
        growth = _growth(size)
        if not growth:  # LMDB gives the old map up before it asks for the new one: it must not be refused
            self._running = False
            self._fail(self._jobs.popleft()[1], lmdb.MemoryError("the map is full, and the system gives no more address space"))
            return
        size += growth
        for view in self._views:
            LmdbReadTxn.close(view)
        try:
            self._env.set_mapsize(size)
        except lmdb.Error as error:
            self._running = False
            self._fail(self._jobs.popleft()[1], error)
            return
        for view in self._views:
            view.renew()
        self._observe("store.map_grown", {"environment": self._name, "map_size": size})
        self._start()

    def _fail(self, done: asyncio.Future[Any], error: lmdb.Error) -> None:
        self._failure = StoreFailedError(
            f"{self._name}/{DATA_FILE} failed a write: {error}{_full_disk(self._env.path())}; "
            "what the disk holds is unknown: mend its cause, then start this replica anew"
        )
        waiting = [done, *(future for _, future in self._jobs)]
        self._jobs.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(self._failure)

    # --- reading

    def view(self) -> View:
        return LmdbView(self._name, self._env, self._handles, self._views)

    async def inspect(self, job: Callable[[ReadTxn], T]) -> T:
        def run() -> T:
            txn = self._begin()
            try:
                return job(txn)
            finally:
                txn.close()

        return await self._on_file_thread(run)

    def _begin(self) -> LmdbReadTxn:
        """Begin a read transaction, which may move to another thread: the binding says NOTLS. Raises StoreError."""
        try:
            return LmdbReadTxn(self._name, self._env.begin(), self._handles)
        except lmdb.Error as error:
            raise unreadable(self._name, error) from error

    def inspect_from_here(self, job: Callable[[ReadTxn, Callable[[], None]], T]) -> asyncio.Future[T]:
        if self._closed:
            raise StoreError(f"{self._name}/ is closed")
        txn = self._begin()

        def stand_aside() -> None:
            if self._full or self._closed:
                raise HashStoppedError(f"{self._name}/ is needed for a write, or closes")
            sleep(PAUSE_S)

        def run() -> T:
            try:
                return job(txn, stand_aside)
            finally:
                txn.close()

        return self._begin_on_file_thread(run)

    async def copy(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, files.FILE_MODE)
        self._copies.add(descriptor)
        try:
            await self._on_file_thread(lambda: self._copy(descriptor))
        finally:
            self._copies.discard(descriptor)
            os.close(descriptor)

    def _copy(self, descriptor: int) -> None:
        try:
            self._env.copyfd(descriptor, compact=True)
        except lmdb.Error as error:
            raise OSError(error.code, f"copying {self._name}/ failed: {error}") from error
        os.fsync(descriptor)

    async def _on_file_thread(self, job: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError(f"{self._name}/ is closed")
        return await asyncio.shield(self._begin_on_file_thread(job))

    def _begin_on_file_thread(self, job: Callable[[], T]) -> asyncio.Future[T]:
        self._elsewhere += 1
        self._nothing_elsewhere.clear()
        running = asyncio.get_running_loop().run_in_executor(self._files, job)
        running.add_done_callback(self._back_from_elsewhere)
        return running

    def _back_from_elsewhere(self, running: asyncio.Future[Any]) -> None:
        running.cancelled() or running.exception()  # whoever awaits it was told; nobody may have stayed to be
        self._elsewhere -= 1
        if not self._elsewhere:
            self._nothing_elsewhere.set()
            self._grow_if_free()

    # --- the rest

    def stats(self) -> EnvironmentStats:
        return environment_stats(self._name, self._env, self._handles)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for descriptor in self._copies:
            _stop_copy(descriptor)
        await self._nothing_elsewhere.wait()
        waiting: list[Awaitable[Any]] = [done for _, done in self._jobs]
        await asyncio.gather(*waiting, return_exceptions=True)
        for view in list(self._views):
            view.close()
        await asyncio.get_running_loop().run_in_executor(self._writer, self._env.close)
        self._writer.shutdown(wait=False)


def environment_stats(name: str, env: lmdb.Environment, handles: Mapping[str, Any]) -> EnvironmentStats:
    """Sizes of an open environment, and who reads it."""
    info = env.info()
    with env.begin() as txn:
        main = txn.stat()
        found = {name: txn.stat(handle) for name, handle in handles.items()}
    page = main["psize"]
    databases = tuple(DatabaseStats(name, stat["entries"], _pages(stat)) for name, stat in found.items())
    used = page * (META_PAGES + _pages(main) + sum(database.pages for database in databases))
    readers = max(0, len(env.readers().splitlines()) - 1)
    return EnvironmentStats(
        name=name,
        map_size=info["map_size"],
        used=used,
        free=max(0, page * (info["last_pgno"] + 1) - used),
        readers=readers,
        databases=databases,
    )


def _pages(stat: Any) -> int:
    """Pages that one database uses.

    Summed over all they are the pages in use: what is left are free ones and the list of these.
    """
    return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])


def unreadable(name: str, error: lmdb.Error) -> StoreError:
    """What an error of LMDB means where something is read."""
    if isinstance(error, DAMAGE):
        return DamagedError(f"{name}/{DATA_FILE} cannot be read: {error}; {WAY_OUT}")
    return StoreError(f"{name}/{DATA_FILE} cannot be read: {error}")


def _stop_copy(descriptor: int) -> None:
    """End a copy at its next write: the descriptor becomes one that cannot be written to. LMDB has no other way to stop it."""
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        os.dup2(null, descriptor)
    finally:
        os.close(null)


def _stand_back() -> None:
    """Let this thread, and those that LMDB starts for it, run when others leave the processor free: work on files is long and
    can wait, a put cannot. Linux alone has priorities for threads.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), FILE_NICENESS)


class LmdbEngine:
    """LMDB, with a few threads for file work."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe
        self._files = ThreadPoolExecutor(FILE_THREADS, "ravel-files", initializer=_stand_back)

    async def open(self, path: Path, databases: Mapping[str, bool], map_size: int, *, read_ahead: bool = True) -> Environment:
        env, handles, stale = await self.run(lambda: _open(path, databases, map_size, read_ahead=read_ahead))
        if stale:
            self._observe("store.stale_readers", {"environment": path.name, "cleared": stale})
        if (opened := env.info()["map_size"]) < map_size:
            self._observe(
                "store.map_smaller",
                {
                    "environment": path.name,
                    "wanted": map_size,
                    "map_size": opened,
                    "next_step": "allow this process more address space (ulimit -v, or LimitAS= of systemd); until then writes "
                    "may wait while a snapshot is copied",
                },
            )
        return LmdbEnvironment(path.name, env, handles, self._files, self._observe)

    def examine(self, path: Path, databases: Mapping[str, bool], job: Callable[[ReadTxn], T]) -> T:
        try:
            with lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=len(databases)) as env:
                if env.stat()["psize"] * (env.info()["last_pgno"] + 1) > path.stat().st_size:
                    raise DamagedError(f"{path.name} is not a whole copy of a state: it ends early")
                handles = {name: env.open_db(name.encode(), create=False) for name in databases}
                txn = LmdbReadTxn(path.name, env.begin(), handles)
                try:
                    return job(txn)
                finally:
                    txn.close()
        except lmdb.Error as error:
            raise DamagedError(f"{path.name} is not a whole copy of a state: {error}") from error

    def remove(self, path: Path) -> None:
        files.remove_tree(path)

    async def run(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._files, job)

    async def close(self) -> None:
        self._files.shutdown(wait=False)


def _open(
    path: Path, databases: Mapping[str, bool], map_size: int, *, read_ahead: bool
) -> tuple[lmdb.Environment, dict[str, Any], int]:
    """The open environment, its databases, and how many stale readers were cleared from its reader table."""
    try:
        env = _mapped(path, len(databases), map_size, read_ahead=read_ahead)
    except lmdb.Error as error:
        raise unreadable(path.name, error) from error
    try:
        stale = env.reader_check()
        missing = _mend_length(env, path / DATA_FILE)
        with env.begin(write=True) as txn:
            handles = {name: env.open_db(name.encode(), txn=txn, dupsort=many) for name, many in databases.items()}
        if missing > 0:
            _require_whole(env, handles, path / DATA_FILE, missing)
        files.sync_directory(path)
    except lmdb.Error as error:
        env.close()
        raise unreadable(path.name, error) from error
    except BaseException:
        env.close()
        raise
    return env, handles, stale


def _mapped(path: Path, databases: int, map_size: int, *, read_ahead: bool) -> lmdb.Environment:
    """Open a file with a map of this size or, where the system refuses so much address space, of half of it, and so on."""
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=map_size,
                max_dbs=databases,
                mode=files.FILE_MODE,
                max_spare_txns=4,
                readahead=read_ahead,
            )
        except (lmdb.MemoryError, OverflowError):  # OverflowError: a size that does not fit into a machine word
            if map_size <= MAP_BYTES_MIN:
                raise
            map_size = max(map_size // 2, MAP_BYTES_MIN)


def _growth(size: int) -> int:
    """Return by how much a map of this size may grow now; 0: the system gives no address space."""
    growth = min(size, GROWTH_BYTES_MAX)
    least = min(growth, GROWTH_BYTES_MIN)
    while growth >= least:
        try:
            mmap.mmap(-1, growth, flags=mmap.MAP_PRIVATE, prot=0).close()
        except (OSError, OverflowError):
            growth //= 2
        else:
            return growth
    return 0


def _mend_length(env: lmdb.Environment, path: Path) -> int:
    """The missing bytes of a data file, which are put there as zeros: to touch a mapped page behind the end would kill the
    process.

    A whole file lacks its last pages where these were freed by the transaction that made them. What else lacks them was cut; a
    page of zeros is none that LMDB takes for one of its own, so it is found when it is read.
    """
    needed = env.stat()["psize"] * (env.info()["last_pgno"] + 1)
    missing = needed - path.stat().st_size
    if missing > 0:
        os.truncate(path, needed)
    return missing


def _require_whole(env: lmdb.Environment, handles: Mapping[str, Any], path: Path, missing: int) -> None:
    """Refuse a file that is shorter than the pages in use."""
    with env.begin() as txn:
        used = META_PAGES + _pages(txn.stat()) + sum(_pages(txn.stat(handle)) for handle in handles.values())
    if env.stat()["psize"] * used > path.stat().st_size - missing:
        raise DamagedError(f"{path} ends {missing} bytes early; {WAY_OUT}")
