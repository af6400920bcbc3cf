"""Snapshot files and errors of the system: what says something against a file, and what says nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ravel_node.raft.types import Index
from ravel_node.storage import files, snapshots
from ravel_node.storage.base import SnapshotFile, SnapshotRefusedError, StoreError
from ravel_node.storage.memory import MemoryEngine
from ravel_node.storage.snapshots import check_snapshots
from ravel_node.storage.store import DiskStore, open_store
from tests.storage.support import NEVER, at, bootstrap, contents, install, join, transfer, until, write

NO_FILES = OSError(errno.EMFILE, "Too many open files")
BAD_DISK = OSError(errno.EIO, "Input/output error")
GONE = FileNotFoundError(errno.ENOENT, "No such file or directory")


class Disk:
    """A store with two snapshot files, of entries 2 and 3, and what it says of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = MemoryEngine()
        self.events: list[tuple[str, str]] = []
        self.store: DiskStore

    async def open(self) -> DiskStore:
        options = replace(NEVER, observe=lambda event, fields: self.events.append((event, str(fields.get("why", "")))))
        self.store = await open_store(self.path, options, self.engine)
        return self.store

    async def restart(self) -> DiskStore:
        await self.store.close()
        self.events.clear()
        await self.open()
        verifier = self.store._verifier
        await until(lambda: verifier is not None and verifier.done())
        return self.store

    @property
    def offered(self) -> list[int]:
        return [file.header.index for file in self.store.snapshots()]

    @property
    def names(self) -> set[str]:
        return {each.name for each in (self.path / "snapshots").iterdir()}


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    disk = Disk(tmp_path / "d")
    store = await disk.open()
    await bootstrap(store)
    for number in range(2):
        await write(store, [(b"key", b"%d" % number)])
        await store.build_snapshot()
    assert disk.offered == [3, 2]
    disk.events.clear()
    yield disk
    await disk.store.close()


def failing(error: OSError, at: Callable[[Path], bool]) -> Callable[..., str]:
    """`_sha256`, which fails for the files that `at` picks."""
    real = snapshots._sha256

    def sha256(path: Path, *more: Any) -> str:
        if at(path):
            raise error
        return real(path, *more)

    return sha256


def newest(path: Path) -> bool:
    return "00003-" in path.name


@pytest.mark.parametrize("error", [BAD_DISK, GONE])
async def test_a_start_puts_a_file_aside_that_cannot_be_read(disk: Disk, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    monkeypatch.setattr(snapshots, "_sha256", failing(error, newest))
    await disk.restart()
    assert disk.offered == [2], "and goes on with the others"
    assert disk.events == [("store.snapshot_damaged", error.strerror)]
    assert (
        {name for name in disk.names if name.endswith(".damaged")} == {name for name in disk.names if "00003-" in name} != set()
    )


async def test_a_start_that_cannot_judge_a_file_leaves_it_to_the_next(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = disk.names
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "_sha256", failing(NO_FILES, newest))
        await disk.restart()
    assert (disk.offered, disk.names) == ([2], before), "it says nothing against the file, nor against the others"
    assert disk.events == [("store.snapshots_unreadable", NO_FILES.strerror)]
    await disk.restart()
    assert (disk.offered, disk.events) == ([3, 2], [])


@pytest.mark.parametrize(("error", "offered"), [(BAD_DISK, [2]), (GONE, [2]), (NO_FILES, [3, 2])])
async def test_a_doubt_condemns_only_what_it_could_judge(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, error: OSError, offered: list[int]
) -> None:
    monkeypatch.setattr(snapshots, "_sha256", failing(error, newest))
    await disk.store.doubt_snapshot(Index(3))
    assert disk.offered == offered
    assert bool(disk.events) == (offered == [2])
    await disk.store.doubt_snapshot(Index(99))  # of a file that is not there any more
    assert disk.offered == offered


async def test_a_damaged_file_that_cannot_be_put_aside_is_offered_no_more(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(snapshots, "_sha256", failing(BAD_DISK, newest))
    monkeypatch.setattr(files, "rename", refused)
    await disk.store.doubt_snapshot(Index(3))
    assert disk.offered == [2]
    ((event, why),) = disk.events
    assert event == "store.snapshot_damaged"
    assert "Input/output error; it could not be put aside: Read-only file system" in why


@pytest.mark.parametrize(("error", "problems"), [(BAD_DISK, 1), (NO_FILES, 1), (None, 0)])
async def test_a_check_reports_what_it_cannot_read_and_goes_on(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, error: OSError | None, problems: int
) -> None:
    if error is not None:
        monkeypatch.setattr(snapshots, "_sha256", failing(error, newest))
    found = await disk.store.check()
    assert len(found) == problems
    assert all(problem.startswith("snapshots/snapshot-") and "cannot be read" in problem for problem in found)
    offline = [problem for step in check_snapshots(disk.path / "snapshots") for problem in step.problems]
    assert len(offline) == problems


async def test_a_file_that_is_pruned_while_it_is_checked_is_no_problem(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def pruned(path: Path) -> bool:
        if newest(path):
            disk.store._shelf.files = [file for file in disk.store._shelf.files if not newest(file.path)]
            return True
        return False

    monkeypatch.setattr(snapshots, "_sha256", failing(GONE, pruned))
    assert await disk.store.check() == []


# --- files that come in


async def staged_in(disk: Disk, path: Path) -> tuple[DiskStore, SnapshotFile, Any]:
    file = disk.store.snapshots()[0]
    other = await open_store(path, NEVER, MemoryEngine())
    await join(other)
    staged = await other.receive(file.header_bytes, file.header.size_bytes, bytes.fromhex(file.header.sha256))
    return other, file, staged


async def test_bytes_are_written_whole_however_little_the_system_takes_at_once(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, file, staged = await staged_in(disk, tmp_path / "other")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, bytes(data)[:7], offset))
    data = file.path.read_bytes()
    await staged.write(0, data[:100])
    await staged.write(100, data[100:])
    assert staged.path.read_bytes() == data
    await install(other, await staged.finish())
    assert contents(other) == contents(disk.store)
    await other.close()


async def test_a_file_that_cannot_be_verified_now_is_verified_at_the_next_try(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, file, staged = await staged_in(disk, tmp_path / "other")
    await staged.write(0, file.path.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "_sha256", failing(NO_FILES, lambda _: True))
        with pytest.raises(StoreError, match="Too many open files") as caught:
            await staged.finish()
        assert not isinstance(caught.value, SnapshotRefusedError)
        assert staged.path.exists()
    assert (await staged.finish()).id == at(3)
    assert (await staged.finish()).id == at(3), "asked again it is the same"
    await other.close()


async def test_what_lies_behind_the_state_is_given_up_when_another_comes(disk: Disk, tmp_path: Path) -> None:
    """Of unfinished transfers the newest is kept; one that the state has overtaken goes, finished or not."""
    other = await open_store(tmp_path / "other", NEVER, MemoryEngine())
    await join(other)
    old, new = disk.store.snapshots()[1], disk.store.snapshots()[0]
    await transfer(old, other)
    overtaken = await other.receive(old.header_bytes, old.header.size_bytes, bytes.fromhex(old.header.sha256))
    await install(other, await transfer(new, other))
    assert list((tmp_path / "other" / "incoming").iterdir()) == []
    with pytest.raises(SnapshotRefusedError, match="given up"):
        await overtaken.finish()
    with pytest.raises(SnapshotRefusedError, match="has applied 3"):
        await transfer(old, other)
    await other.close()


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_part_that_is_longer_than_the_whole_is_received_again(disk: Disk, tmp_path: Path, more: int) -> None:
    """A loss of power may leave any length; a file that is too long was never verified, and no byte of it is trusted."""
    engine = MemoryEngine()
    other = await open_store(tmp_path / "other", NEVER, engine)
    await join(other)
    file = disk.store.snapshots()[0]
    wanted = (file.header_bytes, file.header.size_bytes, bytes.fromhex(file.header.sha256))
    staged: Any = await other.receive(*wanted)
    await staged.write(0, file.path.read_bytes()[:100])
    await other.close()
    os.truncate(staged.path, file.header.size_bytes + more)
    other = await open_store(tmp_path / "other", NEVER, engine)
    staged = await other.receive(*wanted)
    assert staged.received == (0 if more > 0 else file.header.size_bytes + more)
    await other.close()
