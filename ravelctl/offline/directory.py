"""A data directory for commands: what `ravel_node.storage` finds in it, and its refusals as a command's errors.

    facts = look(path)                  all that one look shows: identity, hard state, log, state, snapshots, sizes, problems
    for page in log_pages(path, ...)    entries, damaged ones in their places
    for step in check(path)             every record read and judged, with progress

Each call leaves nothing open, each step of an iterator is one short read transaction, and every failure is a CommandError: exit 2
where it is no data directory of ours, 5 for one of a later format, 8 where it is damaged, 9 where it may not be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ravel_node.admin.records import RULES
from ravel_node.raft.types import Index
from ravel_node.storage.base import CheckStep, DamagedError, FormatError, LaterFormatError, StoreError
from ravel_node.storage.checking import LogCheck, StateCheck
from ravel_node.storage.engine import DATA_FILE
from ravel_node.storage.log_pages import read_log_page
from ravel_node.storage.snapshots import check_snapshots
from ravel_node.storage.standing import Standing
from ravel_node.storage.standing import standing as members_of
from ravel_node.storage.survey import DirectoryReader
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from ravel_node.storage.base import LogPage
    from ravel_node.storage.survey import DirectoryFacts


@contextmanager
def told() -> Iterator[None]:
    """What storage raises, as a command's error."""
    try:
        yield
    except StoreError as error:
        raise _command_error(error) from error
    except PermissionError as error:
        raise CommandError(
            f"{error.filename} may not be read: {error.strerror}",
            code=ExitCode.NOT_ALLOWED,
            next_step="run the command as the daemon's user, or as root",
        ) from error


def _command_error(error: StoreError) -> CommandError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PermissionError):
            return CommandError(
                str(error), code=ExitCode.NOT_ALLOWED, next_step="run the command as the daemon's user, or as root"
            )
        cause = cause.__cause__
    match error:
        case DamagedError():
            return CommandError(str(error), code=ExitCode.DAMAGED, reason="DAMAGED")
        case LaterFormatError():
            return CommandError(str(error), code=ExitCode.REFUSED, reason="UNSUPPORTED_VERSION")
        case FormatError():
            return usage_error(said(error), "give --data-dir the directory that the daemon was started with")
    return CommandError(str(error))


def said(error: StoreError) -> str:
    """Without what it advises a daemon to do, which has other directories to choose from than whoever looks at one."""
    return str(error).partition("; give --data-dir")[0]


def reader(path: Path) -> DirectoryReader:
    """The way into a directory. Raises CommandError."""
    with told():
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13), str(path))
        if not path.is_dir():
            raise usage_error(f"{path} is {'no directory' if path.exists() else 'not there'}", "give --data-dir another one")
        return DirectoryReader(path)


def look(path: Path) -> DirectoryFacts:
    """All that one look shows. What is damaged inside is told among `problems`; raises CommandError where nothing can be read."""
    found = reader(path)
    with told():
        return found.look()


def commit_index(facts: DirectoryFacts) -> int:
    """The newest entry that this replica is known to have known as committed. A live one may be some entries further."""
    applied = facts.state.applied.index if facts.state is not None and facts.state.applied is not None else 0
    return max(applied, facts.log.hard_state.commit if facts.log.hard_state is not None else 0)


def standing(path: Path, facts: DirectoryFacts) -> Standing:
    """The newest membership that this directory knows to be committed, which may be newer than its state."""
    found = reader(path)
    with told():
        return members_of(found, facts)


def log_pages(path: Path, first: int = 0, end: int | None = None) -> Iterator[LogPage]:
    """The log from `first` (0: from its beginning) up to, not including, `end`, at least one page."""
    found = reader(path)
    at, until = first, 1 << 63 if end is None else end
    while True:
        with told():
            page = found.raft.read(lambda txn, at=at: read_log_page(txn, Index(at), Index(until)))  # type: ignore[misc]
        yield page
        at = page.next
        if at > page.last or at >= until:
            return


def check(path: Path, *, log_only: bool = False) -> Iterator[CheckStep]:
    """Read every record of log and state, and every snapshot, or of the log alone, and say what is wrong."""
    found = reader(path)
    log = LogCheck()
    while not log.finished:
        with told():
            step = found.raft.read(log.step)
        yield step
    if not log_only:
        yield from _check_state(found)
        with told():
            yield from check_snapshots(found.snapshots)


def _check_state(found: DirectoryReader) -> Iterator[CheckStep]:
    facts = found.look()
    positions = tuple(problem for problem in facts.problems if problem not in (*facts.log.problems, *_of_state(facts)))
    yield CheckStep("positions", 1, 1, positions)
    if facts.log.state is None:
        return
    environment, steps = found.state(facts.log.state), StateCheck(f"state-{facts.log.state}/{DATA_FILE}", RULES)
    while not steps.finished:
        with told():
            step = environment.read(steps.step)
        yield step


def _of_state(facts: DirectoryFacts) -> tuple[str, ...]:
    return facts.state.problems if facts.state is not None else ()
