"""The mistakes of the mutation study still fit the source: a change that moves a line must move its mistake, too."""

from __future__ import annotations

import pytest

from tests.mutation.mistake import ROOT, Mistake, Room, StaleMistakeError
from tests.mutation.mistakes import ROOMS

ALL = [mistake for room in ROOMS for mistake in room.mistakes]


@pytest.mark.parametrize("room", ROOMS, ids=[room.name for room in ROOMS])
def test_every_mistake_applies_once_and_leaves_a_program(room: Room) -> None:
    problems: list[str] = []
    for mistake in room.mistakes:
        source = (ROOT / mistake.file).read_text()
        try:
            compile(mistake.applied(source), mistake.file, "exec")
        except (StaleMistakeError, SyntaxError) as error:
            problems.append(str(error))
    assert problems == []


@pytest.mark.parametrize("room", ROOMS, ids=[room.name for room in ROOMS])
def test_the_tests_that_should_notice_are_tests_of_the_room(room: Room) -> None:
    files = set(room.test_files())
    assert files
    for mistake in room.mistakes:
        assert mistake.first, mistake.name
        for name in mistake.first:
            assert (ROOT / "tests" / name).is_file(), f"{mistake.name}: {name}"


def test_each_mistake_is_one_of_its_own() -> None:
    assert len({mistake.name for mistake in ALL}) == len(ALL) >= 150
    assert len({(mistake.file, mistake.old, mistake.new) for mistake in ALL}) == len(ALL)


def test_at_most_a_tenth_is_known_to_survive() -> None:
    assert sum(bool(mistake.survives) for mistake in ALL) * 10 <= len(ALL)


def test_a_mistake_whose_text_is_not_there_once_is_not_made() -> None:
    mistake = Mistake("a name", "file.py", "a = 1\n", "a = 2\n", first=())
    assert mistake.applied("b = 1\na = 1\n") == "b = 1\na = 2\n"
    for source in ("", "a = 1\nb = 1\na = 1\n"):
        with pytest.raises(StaleMistakeError, match=r"occurs [02] times in file\.py"):
            mistake.applied(source)
