"""File steps that survive a crash: what has returned from here is on the disk, names included.

A new name is durable once its directory was synced (fsync(2)), so every creation, renaming and removal here ends with that.
Everything blocks: it is called on the engine's file threads, through `Engine.run`. OSError passes through; the caller knows what
it means.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
TEMPORARY: Final = ".tmp"
"""Suffix of a file that is still being written. Whoever finds one at start may delete it."""


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable."""
    _sync(path, os.O_RDONLY)


def make_directory(path: Path) -> None:
    """Make a directory that only this user may enter; one that is there already is no error."""
    path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    sync_directory(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Put `data` under a name in one step: the name shows the old bytes or the new ones, never a part."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    rename(temporary, path)


def rename(source: Path, target: Path) -> None:
    """Give a file its new name, in both directories durably. What had that name is replaced."""
    source.rename(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def remove_file(path: Path) -> None:
    """Remove a file; one that is not there is no error."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and what is in it; one that is not there is no error."""
    if path.exists():
        shutil.rmtree(path)
        sync_directory(path.parent)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: OSError) -> str:
    """What went wrong, in the system's words, and the way out where there is one."""
    said = error.strerror or str(error)
    return f"{said}; free some disk space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else said
