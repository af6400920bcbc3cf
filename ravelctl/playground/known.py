"""Which playground is meant where no --dir says it: the one in the default folder, or else the only other one there is.

Where those in other folders are is kept beside the default folder, a line each. It is a help and no more: a file that is missing
or cannot be written keeps nobody from playing, and a folder that holds no playground any more is passed over.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from ravelctl.cli.errors import usage_error
from ravelctl.playground import processes

KNOWN_FILE: Final = "playgrounds"
KNOWN_MAX: Final = 64
"""Of folders that are kept; the oldest are forgotten."""


def remember(folder: Path) -> None:
    """Keep that a playground is in this folder."""
    if folder == processes.default_folder():
        return
    path = _path()
    kept = [*(one for one in known() if one != folder), folder][-KNOWN_MAX:]
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text("".join(f"{one}\n" for one in kept if "\n" not in str(one)), errors="surrogateescape")
        beside.replace(path)


def known() -> tuple[Path, ...]:
    """Folders that were told with --dir and hold a playground, the oldest first."""
    try:
        lines = _path().read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ()
    return tuple(folder for line in lines if line and (folder := Path(line)) and _is_there(folder))


def folder_meant(word: str | None) -> Path:
    """The folder of --dir; of no --dir, the one that is meant. Raises CommandError (2) where it could be one of several."""
    folder = processes.folder_named(word)
    if word or _is_there(folder) or not (others := known()):
        return folder
    if len(others) > 1:
        raise usage_error(
            f"there is no playground in {folder}, and there are several elsewhere: {', '.join(map(str, others))}",
            "name one of them with --dir",
        )
    return others[0]


def _path() -> Path:
    return processes.default_folder().parent / KNOWN_FILE


def _is_there(folder: Path) -> bool:
    try:
        return (folder / processes.STATE_FILE).exists()
    except OSError:
        return False
