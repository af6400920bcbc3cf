"""A full disk: on a small tmpfs, where this process may mount one."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ravel_node.raft.errors import SnapshotTemporarilyUnavailableError
from ravel_node.raft.types import NO_LIMIT, Index
from ravel_node.storage import files
from ravel_node.storage.base import Save, SnapshotFile, StoreError, StoreFailedError
from ravel_node.storage.store import DiskStore, open_store
from tests.storage.support import NEVER, append, apply, bootstrap, contents, entry, join, until, write

DISK_BYTES = 6 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for DISK_BYTES."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system could be mounted here, so a full disk was NOT tested: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take up the disk but for `leave` bytes."""
    room = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - leave))
    return ballast


async def with_state(path: Path, megabytes: int) -> DiskStore:
    store = await open_store(path, NEVER)
    await bootstrap(store)
    await append(store, 2, megabytes + 1)
    for index in range(2, megabytes + 2):
        apply(store, index, {b"%d" % index: b"v" * (1 << 20)})
    await store.flush()
    return store


async def test_a_snapshot_that_finds_no_room_leaves_nothing_and_harms_nothing(small_disk: Path) -> None:
    store = await with_state(small_disk / "d", 2)
    ballast = fill(small_disk, leave=1 << 20)
    with pytest.raises(StoreError, match="free some disk space") as caught:
        await store.build_snapshot()
    assert not isinstance(caught.value, StoreFailedError)
    assert list((small_disk / "d" / "snapshots").iterdir()) == []
    assert len(contents(store)) == 2
    await write(store, [(b"small", b"write")])  # the replica goes on
    with pytest.raises(SnapshotTemporarilyUnavailableError):
        store.snapshot()
    assert store._build is None  # and does not try again at once
    ballast.unlink()
    assert (await store.build_snapshot()).header.keys == 3
    await store.close()


async def test_a_save_on_a_full_disk_stops_the_store_and_loses_nothing(small_disk: Path) -> None:
    store = await with_state(small_disk / "d", 1)
    await write(store, [(b"kept", b"1")])
    ballast = fill(small_disk, leave=256 << 10)
    with pytest.raises(StoreFailedError, match=r"raft/data\.mdb"):
        await store.save([Save([entry(4, data=b"x" * (1 << 20))])])
    for attempt in (lambda: store.reader(), lambda: store.txn()):
        with pytest.raises(StoreFailedError):
            attempt()
    with pytest.raises(StoreFailedError):
        await append(store, 4, 4)
    await store.close()
    ballast.unlink()
    store = await open_store(small_disk / "d", NEVER)
    assert store.last_index() == 3
    assert list(store.entries(Index(2), Index(4), NO_LIMIT)) == [entry(2), entry(3)]
    assert await store.check() == []
    await store.close()


async def test_a_flush_on_a_full_disk_stops_the_store_and_keeps_the_prefix(small_disk: Path) -> None:
    store = await with_state(small_disk / "d", 1)
    await append(store, 3, 4)
    ballast = fill(small_disk, leave=256 << 10)
    apply(store, 3, {b"big": b"x" * (1 << 20)})
    with pytest.raises(StoreFailedError, match=r"state-2/data\.mdb failed a write: .*: the disk is full"):
        await store.flush()
    with pytest.raises(StoreFailedError):
        await append(store, 5, 5)
    await store.close()
    ballast.unlink()
    store = await open_store(small_disk / "d", NEVER)
    assert store.applied.index == 2
    assert await store.check() == []
    await store.close()


async def received(store: DiskStore, file: SnapshotFile) -> None:
    header = file.header
    staged = await store.receive(file.header_bytes, header.size_bytes, bytes.fromhex(header.sha256))
    data = file.path.read_bytes()
    for offset in range(0, len(data), 1 << 19):
        await staged.write(offset, data[offset : offset + (1 << 19)])


async def test_a_snapshot_that_finds_no_room_is_not_received(small_disk: Path, tmp_path: Path) -> None:
    source = await with_state(tmp_path / "source", 3)
    file = await source.build_snapshot()
    store = await open_store(small_disk / "d", NEVER)
    await join(store)
    ballast = fill(small_disk, leave=1 << 20)
    with pytest.raises(StoreError, match="No space left") as caught:
        await received(store, file)
    assert not isinstance(caught.value, StoreFailedError)
    assert list((small_disk / "d" / "incoming").iterdir()) == []
    ballast.unlink()
    await received(store, file)
    await store.close()
    await source.close()


async def test_a_transfer_that_fills_the_disk_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where the room went while the bytes came in; needs no small disk."""
    source = await with_state(tmp_path / "source", 1)
    file = await source.build_snapshot()
    store = await open_store(tmp_path / "d", NEVER)
    await join(store)
    staged = await store.receive(file.header_bytes, file.header.size_bytes, bytes.fromhex(file.header.sha256))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="free some disk space"):
            await staged.write(0, b"x" * 1_000)
    assert list((tmp_path / "d" / "incoming").iterdir()) == []
    await received(store, file)
    await store.close()
    await source.close()


async def test_a_header_that_finds_no_room_takes_its_data_file_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    store = await open_store(tmp_path / "d", replace(NEVER, observe=lambda event, fields: events.append(event)))
    await bootstrap(store)
    await write(store, [(b"a", b"1")])

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", full)
        with pytest.raises(SnapshotTemporarilyUnavailableError):
            store.snapshot()
        await until(lambda: events == ["store.snapshot_failed"])
    assert list((tmp_path / "d" / "snapshots").iterdir()) == []
    await store.build_snapshot()
    await store.close()
