"""A stopped daemon's log and state, copied without their free pages and put in place of the files they were copied from.

LMDB never gives pages back: a file stays as long as it ever was. A compact copy of the same transaction has the same records in
fewer pages, so nothing else has to change. Each file is copied beside, synced, read from end to end, compared in what it holds,
and renamed over the old one: a crash leaves, for each of the two, the old file or the new one, which say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ravel_node.storage import files
from ravel_node.storage.base import DamagedError
from ravel_node.storage.directory import Directory
from ravel_node.storage.engine import DATA_FILE, ReadTxn
from ravel_node.storage.keys import RAFT_DATABASES, STATE, STATE_DATABASES, decode_number
from ravel_node.storage.lmdb_reader import EnvironmentReader
from ravel_node.storage.log_store import read_meta


def rewrite_directory(path: Path, tell: Callable[[str], None]) -> dict[str, tuple[int, int]]:
    """Rewrite both environments; the bytes of each file before and after. Blocks; the directory is locked meanwhile.

    Raises DirectoryInUseError, DamagedError, OSError: then each file is the old one or the new one, and both are whole.
    """
    directory = Directory(path)
    directory.require_whole()
    directory.claim()
    try:
        raft = EnvironmentReader(directory.raft, RAFT_DATABASES, lambda: False)
        number = raft.read(lambda txn: read_meta(txn, STATE, decode_number))
        state = EnvironmentReader(directory.state(number), STATE_DATABASES, lambda: False)
        return {reader.path.name: _rewrite(reader, tell) for reader in (raft, state)}
    finally:
        directory.release()


def _rewrite(reader: EnvironmentReader, tell: Callable[[str], None]) -> tuple[int, int]:
    file = reader.path / DATA_FILE
    temporary = reader.path / f"{DATA_FILE}{files.TEMPORARY}"
    tell(f"copying {reader.path.name}")
    files.remove_file(temporary)
    before = file.stat().st_size
    try:
        reader.copy(temporary)
        tell(f"comparing {reader.path.name}")
        scratch = reader.path / f"rewritten{files.TEMPORARY}"
        files.remove_tree(scratch)
        files.make_directory(scratch)
        try:
            files.rename(temporary, scratch / DATA_FILE)
            copied = EnvironmentReader(scratch, reader.databases, reader.owned).read(lambda txn: _counts(txn, reader.databases))
            if copied != reader.read(lambda txn: _counts(txn, reader.databases)):
                raise DamagedError(f"the copy of {file} has other records than the file: it was thrown away")
            after = (scratch / DATA_FILE).stat().st_size
            files.rename(scratch / DATA_FILE, file)
        finally:
            files.remove_tree(scratch)
    finally:
        temporary.unlink(missing_ok=True)
    return before, after


def _counts(txn: ReadTxn, databases: Mapping[str, bool]) -> dict[str, tuple[int, int]]:
    """Of each database how many records and how many bytes it has: all of them are read."""
    found: dict[str, tuple[int, int]] = {}
    for name in databases:
        count = size = 0
        for key, value in txn.items(name):
            count += 1
            size += len(key) + len(value)
        found[name] = (count, size)
    return found
