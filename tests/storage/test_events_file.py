"""The journal of events: rotation, crashes in the middle of a write, damage, and a disk that is full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ravel_node.storage import events_file
from ravel_node.storage.events_file import CURRENT, DAMAGED, HEAD, PREVIOUS, EventsFile


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(events_file, "RECORDS_MAX", 10)
    return tmp_path / "events"


def payloads(first: int, end: int) -> list[bytes]:
    return [b"event %d" % number * 3 for number in range(first, end)]


def load(directory: Path) -> tuple[list[bytes], list[str]]:
    journal = EventsFile(directory)
    try:
        return journal.load()
    finally:
        journal.close()


def write(directory: Path, *batches: list[bytes]) -> None:
    journal = EventsFile(directory)
    journal.load()
    for batch in batches:
        journal.append(batch)
    journal.close()


def test_what_was_written_is_there(directory: Path) -> None:
    assert load(directory) == ([], [])
    write(directory, payloads(0, 2), payloads(2, 3))
    write(directory, payloads(3, 5))
    assert load(directory) == (payloads(0, 5), [])


@pytest.mark.parametrize("batch", [1, 3, 10, 27])
def test_the_newest_are_kept_and_the_files_stay_small(directory: Path, batch: int) -> None:
    everything = payloads(0, 60)
    write(directory, *(everything[at : at + batch] for at in range(0, 60, batch)))
    found, problems = load(directory)
    assert (found, problems) == (everything[-10:], [])
    most = len(HEAD) + 10 * (8 + max(map(len, everything)))
    assert all(path.stat().st_size <= most for path in directory.iterdir())
    assert sorted(path.name for path in directory.iterdir()) == [CURRENT, PREVIOUS]


def test_a_crash_at_every_byte_loses_what_was_being_written_only(directory: Path) -> None:
    write(directory, payloads(0, 3))
    current = directory / CURRENT
    whole = current.read_bytes()
    record = (len(whole) - len(HEAD)) // 3
    for size in range(len(whole)):
        current.write_bytes(whole[:size])
        kept = max(0, size - len(HEAD)) // record
        assert load(directory) == (payloads(0, kept), []), size
        write(directory, payloads(7, 8))
        assert load(directory) == (payloads(0, kept) + payloads(7, 8), []), size


def test_damage_is_set_aside_and_what_came_before_it_goes_on(directory: Path) -> None:
    write(directory, payloads(0, 4))
    current = directory / CURRENT
    data = bytearray(current.read_bytes())
    data[len(data) // 2] ^= 1
    current.write_bytes(data)
    found, (problem,) = load(directory)
    assert found == payloads(0, len(found))
    assert 0 < len(found) < 4
    assert str(current) in problem
    assert (directory / (CURRENT + DAMAGED)).read_bytes() == data
    assert load(directory) == (found, []), "it is told once"
    write(directory, payloads(8, 9))
    assert load(directory) == (found + payloads(8, 9), [])


@pytest.mark.parametrize("name", [CURRENT, PREVIOUS])
@pytest.mark.parametrize("content", [b"something else\n", b"\0" * 100, HEAD + b"\xff" * 100, HEAD + b"\0" * 9])
def test_a_file_that_is_none_of_ours(directory: Path, name: str, content: bytes) -> None:
    write(directory, payloads(0, 10), payloads(10, 11))
    (directory / name).write_bytes(content)
    found, problems = load(directory)
    assert len(problems) == 1
    assert found == (payloads(10, 11) if name == PREVIOUS else payloads(0, 10))
    assert (directory / (name + DAMAGED)).read_bytes() == content


def test_a_write_that_failed_leaves_nothing_behind(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = EventsFile(directory)
    journal.load()
    journal.append(payloads(0, 2))

    def half(data: Any) -> None:
        assert journal._file is not None
        journal._file.write(bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(journal, "_write", half)
        with pytest.raises(OSError, match="No space"):
            journal.append(payloads(2, 4))
    journal.append(payloads(4, 5))
    journal.close()
    assert load(directory) == (payloads(0, 2) + payloads(4, 5), [])
