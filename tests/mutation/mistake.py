"""A mistake that could be made in the source, and the room of tests that should notice it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class StaleMistakeError(Exception):
    """The source has changed and a mistake no longer applies to it."""


@dataclass(frozen=True)
class Mistake:
    """Replace `old`, which occurs exactly once in `file`, by `new`."""

    name: str
    file: str
    old: str
    new: str
    first: Sequence[str]
    """Test files that most likely notice, the quickest first. A run stops at the first test that fails."""
    survives: str = ""
    """Why no test can notice, for a mistake that is known to survive."""

    def applied(self, source: str) -> str:
        """Return the source with the mistake. Raise StaleMistakeError unless the old text occurs exactly once."""
        count = source.count(self.old)
        if count != 1:
            raise StaleMistakeError(
                f"mistake {self.name!r} does not apply: its old text occurs {count} times in {self.file}; "
                f"adapt the mistake to the source, or remove it: {self.old!r}"
            )
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Room:
    """The mistakes of one part of the source, and the tests of that part."""

    name: str
    tests: Sequence[str]
    """Folders and files under `tests`; a mistake survives if all of them pass."""
    mistakes: Sequence[Mistake]

    def test_files(self, first: Sequence[str] = ()) -> list[str]:
        """Return the room's test files as paths from the root, those of `first` before the others."""
        found = [f"tests/{name}" for name in first]
        for name in self.tests:
            path = ROOT / "tests" / name
            files = sorted(path.glob("**/test_*.py")) if path.is_dir() else [path]
            found += [file.relative_to(ROOT).as_posix() for file in files]
        return list(dict.fromkeys(found))
