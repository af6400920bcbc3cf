"""Read-only steps into an LMDB environment that this process does not own: of a daemon that runs, hangs or is dead.

Each step opens the environment, runs one job in one read transaction, and closes it again. So nothing is held between two
steps: no pages, no slot, no lock, and a daemon may start, stop or replace the file at any time.

**While a daemon has the directory** the step takes a slot of the environment's reader table, as any LMDB reader must, or the
daemon would write over the pages that are being read. That slot, in `lock.mdb`, is the only thing that is touched. If this
process is killed within a step, the daemon frees the slot before its next commit (`LmdbEnvironment`).

**While nobody has it** nothing is touched: no lock file is made, opened or reset, so that a read-only file system or another
user's directory will do. Should a daemon start in the middle of a step it cannot harm it: LMDB writes over a page only two
commits after the one that freed it, and a daemon that starts commits later than any step lasts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from ravel_node.raft.errors import InvariantError
from ravel_node.storage.base import DamagedError, EnvironmentStats, StoreError
from ravel_node.storage.engine import DATA_FILE, WAY_OUT, ReadTxn
from ravel_node.storage.lmdb_engine import LmdbReadTxn, environment_stats, unreadable

T = TypeVar("T")

LOCK_TABLE: Final = "lock.mdb"
TRIES: Final = 5
"""A step is begun again so often where a live daemon has grown its map between the opening and the transaction."""


@dataclass(frozen=True, slots=True)
class EnvironmentReader:
    """The environment in a directory. `owned()` tells whether a daemon has it open now."""

    path: Path
    databases: Mapping[str, bool]
    owned: Callable[[], bool]

    def read(self, job: Callable[[ReadTxn], T]) -> T:
        """Run `job` in one read transaction, which should take milliseconds. Blocks.

        Raises DamagedError where the file is not what LMDB wrote, StoreError where it cannot be read; what `job` raises passes.
        """
        for left in range(TRIES - 1, -1, -1):
            try:
                with self._open() as (env, handles), self._transaction(env, handles) as txn:
                    return job(txn)
            except lmdb.MapResizedError as error:
                if not left:
                    raise unreadable(self.path.name, error) from error
        raise InvariantError("the last try neither returned nor raised")

    def stats(self) -> EnvironmentStats:
        with self._open() as (env, handles):
            return environment_stats(self.path.name, env, handles)

    def copy(self, target: Path) -> None:
        """Write a compact copy of the last commit to a new file, and sync it. Raises OSError besides.

        The one step that takes long: a daemon that runs cannot reuse pages meanwhile, and its file may grow.
        """
        with self._open() as (env, _):
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                env.copyfd(descriptor, compact=True)
                os.fsync(descriptor)
            except lmdb.Error as error:
                if error.code > 0:  # not one of LMDB's own
                    raise OSError(error.code, os.strerror(error.code)) from error
                raise unreadable(self.path.name, error) from error
            finally:
                os.close(descriptor)

    @contextmanager
    def _transaction(self, env: lmdb.Environment, handles: Mapping[str, Any]) -> Iterator[ReadTxn]:
        try:
            txn = LmdbReadTxn(self.path.name, env.begin(), handles)
        except lmdb.MapResizedError:
            raise
        except lmdb.Error as error:
            raise unreadable(self.path.name, error) from error
        try:
            yield txn
        finally:
            txn.close()

    @contextmanager
    def _open(self) -> Iterator[tuple[lmdb.Environment, dict[str, Any]]]:
        file = self.path / DATA_FILE
        if not file.is_file():
            raise DamagedError(f"{file} is missing; {WAY_OUT}")
        if not file.stat().st_size:
            raise DamagedError(f"{file} is empty; {WAY_OUT}")
        owned = self.owned()
        if owned and not os.access(self.path / LOCK_TABLE, os.R_OK | os.W_OK):
            raise StoreError(
                f"a daemon has {self.path} open, and a reader beside it must be able to write {self.path / LOCK_TABLE}: "
                "read it where it is mounted for writing and as the daemon's user, or ask the daemon itself"
            )
        with _padded(file, owned) as (path, subdir), self._env(path, subdir, owned) as env:
            yield env, self._handles(env)

    @contextmanager
    def _env(self, path: Path, subdir: bool, owned: bool) -> Iterator[lmdb.Environment]:
        try:
            env = _read_only(path, subdir=subdir, lock=owned, databases=len(self.databases))
        except (lmdb.Error, OSError) as error:
            raise _unopened(self.path, error) from error
        try:
            yield env
        finally:
            env.close()

    def _handles(self, env: lmdb.Environment) -> dict[str, Any]:
        try:
            return {name: env.open_db(name.encode(), create=False) for name in self.databases}
        except lmdb.MapResizedError:
            raise
        except lmdb.NotFoundError as error:
            raise DamagedError(f"{self.path / DATA_FILE} lacks one of its databases: {error}; {WAY_OUT}") from error
        except lmdb.Error as error:
            raise unreadable(self.path.name, error) from error


def _read_only(path: Path, *, subdir: bool, lock: bool, databases: int) -> lmdb.Environment:
    """Open with the map that the file was written with or, where the system refuses so much address space, one for its pages."""
    try:
        return lmdb.open(str(path), map_size=0, subdir=subdir, readonly=True, lock=lock, create=False, max_dbs=databases)
    except lmdb.MemoryError:
        size = (path / DATA_FILE if subdir else path).stat().st_size
        return lmdb.open(str(path), map_size=size, subdir=subdir, readonly=True, lock=lock, create=False, max_dbs=databases)


def _unopened(path: Path, error: lmdb.Error | OSError) -> StoreError:
    if isinstance(error, lmdb.Error):
        return unreadable(path.name, error)
    return StoreError(f"{path / DATA_FILE} cannot be read: {error.strerror or error}")


@contextmanager
def _padded(file: Path, owned: bool) -> Iterator[tuple[Path, bool]]:
    """What to open in place of a file that is shorter than its pages: a copy, filled up with zeros.

    To touch a mapped page behind the end of a file kills the process. A whole file may lack its last pages where these were freed
    by the transaction that made them, and a damaged one may lack any; a page of zeros is none that LMDB takes for one of its own.
    A file that a daemon has open is as long as it must be, because the daemon saw to it.
    """
    missing = 0 if owned else _missing_bytes(file)
    if missing <= 0:
        yield file.parent, True
        return
    with tempfile.TemporaryDirectory(prefix="ravel-") as folder:
        copy = Path(folder) / DATA_FILE
        try:
            shutil.copyfile(file, copy)
            os.truncate(copy, file.stat().st_size + missing)
        except OSError as error:
            raise StoreError(f"{file} is {missing} bytes short and cannot be copied to {folder}: {error.strerror}") from error
        yield copy, False


def _missing_bytes(file: Path) -> int:
    """How many bytes the file would need to hold all pages that its head speaks of. Raises StoreError."""
    try:
        with _read_only(file, subdir=False, lock=False, databases=0) as env:
            needed: int = env.stat()["psize"] * (env.info()["last_pgno"] + 1)
            return needed - file.stat().st_size
    except (lmdb.Error, OSError) as error:
        raise _unopened(file.parent, error) from error
