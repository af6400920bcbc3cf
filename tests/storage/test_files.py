"""File steps: what is synced, and in which order. No kill of a process shows it, only a loss of power does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ravel_node.storage import files


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every sync by the name of what was synced, and every change of a name, as they come."""
    found: list[str] = []
    sync, rename = os.fsync, Path.rename

    def noted_sync(descriptor: int) -> None:
        found.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(tmp_path.resolve())}")
        sync(descriptor)

    def noted_rename(source: Path, target: Path) -> Path:
        found.append(f"{source.name} becomes {target.name}")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    return found


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


CASES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a file is written": (
        lambda path: files.write_file(path / "f", b"data"),
        ["sync f.tmp", "f.tmp becomes f", "sync ."],
    ),
    "a file gets another name": (
        lambda path: files.rename(touched(path / "a"), path / "b"),
        ["a becomes b", "sync ."],
    ),
    "a file gets into another directory": (
        lambda path: files.rename(touched(path / "a"), touched(path / "d" / "b")),
        ["a becomes b", "sync d", "sync ."],
    ),
    "a directory is made": (lambda path: files.make_directory(path / "d"), ["sync ."]),
    "a file is removed": (lambda path: files.remove_file(touched(path / "a")), ["sync ."]),
    "a tree is removed": (lambda path: files.remove_tree(touched(path / "d" / "e" / "f").parents[1]), ["sync ."]),
    "a file is synced": (lambda path: files.sync_file(touched(path / "a")), ["sync a"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_has_returned_is_on_the_disk_names_included(tmp_path: Path, steps: list[str], case: str) -> None:
    work, wanted = CASES[case]
    work(tmp_path)
    assert steps == wanted


def test_a_file_is_old_or_new_and_its_rest_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_file(tmp_path / "f", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_file(tmp_path / "f", b"new")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"f": b"old"}
