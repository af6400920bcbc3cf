"""A stopped daemon's files without their free pages."""

from __future__ import annotations

import errno
from pathlib import Path

import lmdb
import pytest

from ravel_node.storage.base import DamagedError, DirectoryInUseError
from ravel_node.storage.directory import Directory
from ravel_node.storage.lmdb_reader import EnvironmentReader
from ravel_node.storage.rewriting import rewrite_directory
from ravel_node.storage.store import open_store
from tests.storage.support import NEVER, append, apply, bootstrap, contents


async def bloated(path: Path) -> list[tuple[bytes, bytes]]:
    """A directory whose state has many free pages; what it holds."""
    store = await open_store(path, NEVER)
    await bootstrap(store)
    await append(store, 2, 3)
    apply(store, 2, {b"key %d" % number: bytes(3000) for number in range(500)})
    await store.flush()
    apply(store, 3, {b"key %d" % number: None for number in range(490)})
    await store.flush()
    kept = contents(store)
    await store.close()
    return kept


async def test_free_pages_are_given_back_and_nothing_else_changes(tmp_path: Path) -> None:
    kept = await bloated(tmp_path / "d")
    sizes = rewrite_directory(tmp_path / "d", lambda what: None)
    before, after = sizes["state-2"]
    assert after * 4 < before
    assert set(sizes) == {"raft", "state-2"}
    assert not list((tmp_path / "d").rglob("*.tmp"))
    store = await open_store(tmp_path / "d", NEVER)
    assert contents(store) == kept
    assert (store.last_index(), await store.check()) == (3, [])
    await append(store, 4, 5)
    await store.close()


async def test_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = await bloated(tmp_path / "d")
    real = EnvironmentReader.copy

    def full(reader: EnvironmentReader, target: Path) -> None:
        if reader.path.name == "raft":
            return real(reader, target)
        target.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EnvironmentReader, "copy", full)
    with pytest.raises(OSError, match="No space left"):
        rewrite_directory(tmp_path / "d", lambda what: None)
    assert not list((tmp_path / "d").rglob("*.tmp"))
    store = await open_store(tmp_path / "d", NEVER)
    assert contents(store) == kept
    await store.close()


async def test_a_copy_that_lacks_a_record_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = await bloated(tmp_path / "d")
    real = EnvironmentReader.copy

    def short(reader: EnvironmentReader, target: Path) -> None:
        real(reader, target)
        with lmdb.open(str(target), subdir=False, lock=False, max_dbs=16, map_size=1 << 30) as env:
            database = env.open_db(b"log" if reader.path.name == "raft" else b"kv")
            with env.begin(write=True) as txn, txn.cursor(database) as cursor:
                assert cursor.last()
                cursor.delete()

    monkeypatch.setattr(EnvironmentReader, "copy", short)
    with pytest.raises(DamagedError, match="other records"):
        rewrite_directory(tmp_path / "d", lambda what: None)
    store = await open_store(tmp_path / "d", NEVER)
    assert (contents(store), store.last_index()) == (kept, 3)
    await store.close()


async def test_files_in_use_are_not_replaced(tmp_path: Path) -> None:
    await bloated(tmp_path / "d")
    daemon = Directory(tmp_path / "d")
    daemon.claim()
    with pytest.raises(DirectoryInUseError):
        rewrite_directory(tmp_path / "d", lambda what: None)
    daemon.release()
