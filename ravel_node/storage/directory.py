"""The data directory: its lock, its format, the names in it.

    FORMAT      one line, `ravel FORMAT`; written last when a directory is made
    LOCK        held by the process that has the directory open; holds its process id
    raft/       log, hard state, identity, the number of the current state directory
    state-N/    the applied state
    snapshots/  snapshot files and their headers
    incoming/   snapshots that are being received
    old-N/      data that was set aside, and can be deleted (`ravelctl member replace`)
    events/     what happened here: a journal that may be lost (events_file.py)
    admins      the admins that the daemon was last started with, one address a line; not there without any

A directory is taken only if it is empty, or ours: a typing error in --data-dir must not mix our files with someone else's.
"""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path
from time import sleep
from typing import Final

from ravel_node.storage import files
from ravel_node.storage.base import DirectoryInUseError, FormatError, LaterFormatError, StoreError
from ravel_node.storage.keys import FORMAT

FORMAT_FILE: Final = "FORMAT"
LOCK_FILE: Final = "LOCK"
RAFT: Final = "raft"
SNAPSHOTS: Final = "snapshots"
INCOMING: Final = "incoming"
EVENTS: Final = "events"
ADMINS: Final = "admins"
LOG_FILE: Final = "data.mdb"
"""LMDB's name for the file of an environment; in raft/ it is the log."""

LOCK_TRIES: Final = 10
LOCK_RETRY_S: Final = 0.02
"""A starting daemon tries so often: whoever only looks whether the directory is open holds the lock for a moment."""

_FORMAT_LINE: Final = re.compile(r"ravel ([0-9]{1,9})\n\Z")
ASIDE: Final = "old-"
"""How the names of folders with data that was set aside begin; then comes a number."""

_ASIDE: Final = re.compile(r"old-([1-9][0-9]{0,8})\Z")
_STATE: Final = re.compile(r"state-([1-9][0-9]{0,17})\Z")
_FOREIGN_BUT_HARMLESS: Final = frozenset({"lost+found"})
_UNFINISHED: Final = frozenset({LOCK_FILE, RAFT, SNAPSHOTS, INCOMING, EVENTS, ADMINS, FORMAT_FILE + files.TEMPORARY})


class Directory:
    """A data directory that this process has locked. Every method blocks: call it on a file thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def claim(self) -> bool:
        """Make the directory if it is not there, lock it, check its format; whether it is still to be filled.

        Raises DirectoryInUseError, FormatError, or StoreError where it cannot be made or entered. On an error nothing stays
        locked.
        """
        try:
            if not self.path.exists():
                self.path.mkdir(mode=files.DIRECTORY_MODE, parents=True)
                files.sync_directory(self.path.parent)
            if not self.path.is_dir():
                raise StoreError(f"{self.path} is not a directory: give --data-dir one, or a name that is free")
            format_ = self._format()
            self.path.chmod(files.DIRECTORY_MODE)
            self._take_lock()
        except OSError as error:
            raise StoreError(f"{self.path} cannot be used as a data directory: {error.strerror or error}") from error
        return format_ is None

    def _format(self) -> int | None:
        """The format of a whole directory; None for an empty one, and for one whose making was interrupted."""
        try:
            line = (self.path / FORMAT_FILE).read_text("ascii", errors="replace")
        except FileNotFoundError:
            self._require_ours_or_empty()
            return None
        match = _FORMAT_LINE.match(line)
        if match is None:
            raise FormatError(
                f"{self.path / FORMAT_FILE} says {line[:40]!r}, not `ravel {FORMAT}`: this is no data directory of ravel"
            )
        if int(match[1]) > FORMAT:
            raise LaterFormatError(
                f"{self.path} has format {match[1]}, and this version reads up to {FORMAT}: "
                "start the version that wrote it, or a later one"
            )
        if int(match[1]) < FORMAT:
            raise FormatError(
                f"{self.path} has format {match[1]}, and this version reads {FORMAT}, in which keys with braces have other "
                "slots: start the version that wrote it, and copy its keys into a new cluster"
            )
        return int(match[1])

    def _require_ours_or_empty(self) -> None:
        names = {entry.name for entry in self.path.iterdir()} - _FOREIGN_BUT_HARMLESS
        foreign = sorted(name for name in names - _UNFINISHED if not (_STATE.match(name) or _ASIDE.match(name)))
        if foreign:
            raise FormatError(
                f"{self.path} has no {FORMAT_FILE} file but holds {foreign[0]!r}: "
                "it is no data directory of ravel; give --data-dir an empty one"
            )

    def _take_lock(self) -> None:
        descriptor = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.FILE_MODE)
        for patience in range(LOCK_TRIES, -1, -1):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if patience:
                    sleep(LOCK_RETRY_S)
                    continue
                owner = _holder(descriptor)
                os.close(descriptor)
                raise DirectoryInUseError(
                    f"{self.path} is open in process {owner} already: stop that one first, or give another --data-dir"
                ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)  # for people: a part of it on a full disk does no harm
        self._lock = descriptor

    def owner(self) -> str:
        """The process that has the directory open now, "unknown" if it does not say; empty: none has. Raises StoreError.

        Looking takes the lock, shared and for a moment, which a daemon that starts waits for.
        """
        try:
            descriptor = os.open(self.path / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StoreError(f"{self.path / LOCK_FILE} cannot be read: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(descriptor)
        finally:
            os.close(descriptor)
        return ""

    def require_whole(self) -> int:
        """The format of a directory that is looked at. Raises FormatError, or StoreError where there is none to look at."""
        try:
            if not self.path.is_dir():
                raise StoreError(f"{self.path} is {'not a directory' if self.path.exists() else 'not there'}")
            format_ = self._format()
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if format_ is None:
            raise FormatError(f"{self.path} has no {FORMAT_FILE} file: it is empty, or its making was interrupted")
        return format_

    def seal(self) -> None:
        """The directory is whole: say so durably."""
        files.write_file(self.path / FORMAT_FILE, f"ravel {FORMAT}\n".encode())

    def release(self) -> None:
        """Give the directory free. Safe to call twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- names

    @property
    def raft(self) -> Path:
        return self.path / RAFT

    @property
    def snapshots(self) -> Path:
        return self.path / SNAPSHOTS

    @property
    def incoming(self) -> Path:
        return self.path / INCOMING

    def state(self, number: int) -> Path:
        return self.path / f"state-{number}"

    def state_numbers(self) -> list[int]:
        """The numbers of the state directories that are there, ascending."""
        return sorted(int(match[1]) for entry in self.path.iterdir() if (match := _STATE.match(entry.name)))

    def make_folders(self) -> None:
        for path in (self.raft, self.snapshots, self.incoming):
            files.make_directory(path)


def next_folder(path: Path) -> str:
    """Return the name of the folder that `set_aside` would move the data of this directory to. Blocks."""
    taken = [int(match[1]) for entry in path.iterdir() if (match := _ASIDE.match(entry.name))]
    return f"{ASIDE}{max(taken, default=0) + 1}"


def set_aside(path: Path, folder: str) -> None:
    """Move the data of a closed directory into a folder inside of it: what is left is empty and can be filled again. Blocks.

    The events stay. A crash leaves the old data in its place, or moved: the log goes first and alone decides. Raises StoreError
    where the directory is open.
    """
    directory = Directory(path)
    directory.claim()
    try:
        target = path / folder
        files.make_directory(target)
        files.remove_file(path / FORMAT_FILE)
        for source in (directory.raft, *map(directory.state, directory.state_numbers()), directory.snapshots, directory.incoming):
            if source.exists():
                files.rename(source, target / source.name)
    finally:
        directory.release()


class Presence:
    """Whether an open data directory still is where it was. Every method blocks: call it on a file thread.

    A file that has lost its name can be written and synced as before, and is gone when its last user is: what is acknowledged
    from then on is not durable, and no write ever fails because of it.
    """

    def __init__(self, path: Path) -> None:
        """`path` is a whole directory that this process has opened. Raises OSError."""
        self._files = {name: _identity(name) for name in (path / LOCK_FILE, path / RAFT / LOG_FILE)}

    def missing(self) -> Path | None:
        """The first file that is not there, or is another one under its name; None: all are there, or nobody can tell."""
        for name, identity in self._files.items():
            try:
                if _identity(name) != identity:
                    return name
            except (FileNotFoundError, NotADirectoryError):
                return name
            except OSError:
                continue
        return None


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _holder(lock: int) -> str:
    """The process id that stands in an open LOCK file."""
    return os.pread(lock, 20, 0).decode("ascii", errors="replace").strip() or "unknown"
