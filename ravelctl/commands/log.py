"""`ravelctl log`: what a replica's log holds, of a daemon that is asked or of a data directory that is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import MOMENT, REPLICA, RavelGroup, Whole, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import ABSENT, U64, Table, View, columns, count_text, printable
from ravelctl.store.log_entries import TITLES, LogQuery, entry_data, entry_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from ravelctl.store.log_diff import Compared
    from ravelctl.store.log_entries import LogPart
    from ravelctl.store.log_source import LogSource

LIMIT: Final = 100
LIMIT_MAX: Final = 100_000
COMMANDS: Final = ("put", "delete", "getdel", "cas", "write", "session", "allocate", "config")
TYPES: Final = (*COMMANDS, "noop", "batch", "unknown", "unreadable", "damaged")
"""What an entry or a command may be; `batch` is an entry of several commands, of which each has its own type."""


@click.group("log", cls=RavelGroup)
def command() -> None:
    """Show, follow, compare and verify the logs of replicas.

    Each replica answers from its own disk, leader or not. With --data-dir nobody is asked: the directory is read, whether its
    daemon runs, hangs or is dead.
    """


_replica_option = click.option(
    "--replica", type=REPLICA, help="Whose log: a name or an id. [default: the first endpoint's that answers]"
)
_data_dir_option = click.option("--data-dir", type=click.Path(), help="Read this directory instead of asking a daemon.")
_index = Whole(1)


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--prefix", "key_prefix", help="Commands that name a key beginning with this."),
        click.option("--type", "types", type=click.Choice(TYPES), multiple=True, help="Only these; may be repeated."),
        click.option("--term", type=_index, help="Only entries of this term."),
    ):
        function = option(function)
    return function


_since_option = click.option(
    "--since", "since_ms", type=MOMENT, help="Of so long ago or later, such as 10m, or 2026-03-02T10:04:11Z."
)
_until_option = click.option("--until", "until_ms", type=MOMENT, help="Of so long ago or earlier, or of this time or earlier.")


def _exclusive(data_dir: str | None, replica: str | None) -> None:
    if data_dir is not None and replica is not None:
        raise usage_error("--data-dir and --replica exclude each other", "give one of them")


def _ordered(from_index: int | None, to_index: int | None) -> None:
    if from_index is not None and to_index is not None and from_index > to_index:
        raise usage_error(f"there is nothing from {from_index} to {to_index}", "exchange --from and --to")


# --- show


@command.command("show")
@click.option("--from", "from_index", type=_index, help="First index. [default: the first there is]")
@click.option("--to", "to_index", type=_index, help="Last index.")
@click.option("--limit", type=Whole(1, LIMIT_MAX), default=LIMIT, help="So many entries at most.", show_default=True)
@click.option("--tail", is_flag=True, help="The last entries instead of the first.")
@_since_option
@_until_option
@_filters
@_replica_option
@_data_dir_option
@pass_app
def show(
    app: App,
    from_index: int | None,
    to_index: int | None,
    limit: int,
    tail: bool,
    since_ms: int | None,
    until_ms: int | None,
    term: int | None,
    types: tuple[str, ...],
    key_prefix: str | None,
    replica: str | None,
    data_dir: str | None,
) -> Work:
    """Show log entries, a line a command; the last line tells where the log begins and ends.

    Times (-o wide) are those of the leader's clock as it wrote an entry. A new leader's first entry and membership changes
    carry none.
    """
    if tail and from_index is not None:
        raise usage_error("--tail and --from exclude each other", "give one of them")
    _exclusive(data_dir, replica)
    _ordered(from_index, to_index)
    prefix = (key_prefix or "").encode()
    query = LogQuery(from_index or 0, to_index or 0, limit, tail, term or 0, types, prefix, since_ms or 0, until_ms or 0)
    return _show(app, query, replica, data_dir)


async def _show(app: App, query: LogQuery, replica: str | None, data_dir: str | None) -> View:
    from ravelctl.store.log_source import directory_log

    if data_dir is not None:
        return await _shown(directory_log(data_dir), query)
    from ravelctl.cli import dial
    from ravelctl.store.log_source import live_log

    async with dial.inspect(app) as client:
        return await _shown(await live_log(app, client, replica), query)


async def _shown(source: LogSource, query: LogQuery) -> View:
    parts = [part async for part in source.parts(query)]
    entries = [entry for part in parts for entry in part.entries]
    untimed = sum(part.untimed for part in parts)
    carry = "carries no time and is" if untimed == 1 else "carry no time and are"
    return View(
        kind="Log",
        data={"source": source.name, "entries": list(map(entry_data, entries)), "untimed": U64(untimed), **_position(parts[-1])},
        body=Table(
            columns=columns(*TITLES),
            rows=tuple(row for entry in entries for row in entry_rows(entry)),
            below=(_foot(parts[-1], source.name),),
        ),
        names=tuple(str(entry.index) for entry in entries),
        notes=(f"{count_text(untimed, 'entry', 'entries')} {carry} left out",) if untimed else (),
        code=ExitCode.DAMAGED if any(entry.type == "damaged" for entry in entries) else ExitCode.DONE,
    )


def _position(part: LogPart) -> dict[str, U64]:
    return {
        "first_index": U64(part.first_index),
        "last_index": U64(part.last_index),
        "commit_index": U64(part.commit_index),
        "snapshot_index": U64(part.snapshot_index),
        "snapshot_term": U64(part.snapshot_term),
    }


def _foot(part: LogPart, source: str) -> str:
    snapshot = f"{part.snapshot_index}@{part.snapshot_term}" if part.snapshot_index else ABSENT
    ends = f"first {part.first_index}  snapshot {snapshot}  commit {part.commit_index}  last {part.last_index}"
    return f"{ends}  source {source}"


# --- follow


@command.command("follow")
@click.option("--from", "from_index", type=_index, help="First index. [default: the last ten, then what comes]")
@click.option("--limit", type=_index, help="End after so many entries.")
@_since_option
@_filters
@_replica_option
@_data_dir_option
@pass_app
def follow(
    app: App,
    from_index: int | None,
    limit: int | None,
    since_ms: int | None,
    term: int | None,
    types: tuple[str, ...],
    key_prefix: str | None,
    replica: str | None,
    data_dir: str | None,
) -> Work:
    """Print entries as they are committed, through restarts of the daemon, until it is interrupted.

    A directory does not tell at once what is committed: from it entries are printed as they are written, and a note says so
    where a new leader has replaced some. With --since it begins at the first entry that carries such a time.
    """
    _exclusive(data_dir, replica)
    prefix = (key_prefix or "").encode()
    query = LogQuery(from_index or 0, term=term or 0, types=types, key_prefix=prefix, since_ms=since_ms or 0)
    return _follow(app, query, limit or 1 << 62, replica, data_dir)


async def _follow(app: App, query: LogQuery, limit: int, replica: str | None, data_dir: str | None) -> View:
    from ravelctl.store.log_follow import Printer, follow_directory, follow_replica
    from ravelctl.store.log_source import directory_log

    printer = Printer(app, limit)
    if data_dir is not None:
        await follow_directory(directory_log(data_dir), query, printer)
        return View(kind="Log", data={}, silent=True)
    from ravelctl.cli import dial
    from ravelctl.store.log_source import live_log

    async with dial.inspect(app) as client:
        await follow_replica(await live_log(app, client, replica), query, printer)
    return View(kind="Log", data={}, silent=True)


# --- diff


@command.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--from", "from_index", type=_index, help="First index. [default: the first that both have]")
@click.option("--to", "to_index", type=_index, help="Last index. [default: the last that both have]")
@click.option(
    "--state/--no-state",
    default=None,
    help="Compare what was applied too, where the entries are the same. Of two directories that copies both to TMPDIR; of two "
    "replicas their leader has all hash their states. [default: of two replicas]",
)
@pass_app
def diff(app: App, a: str, b: str, from_index: int | None, to_index: int | None, state: bool | None) -> View | Work:
    """Find where two logs, or what was made of them, first differ. A and B are replicas, addresses or directories (with a slash).

    Exits 8 where the difference is damage, 1 where it is an entry that was not committed and that a leader will replace.
    """
    from ravelctl.store.log_source import is_directory

    directories = is_directory(a) + is_directory(b)
    if not state or not directories:
        return _diff(app, a, b, from_index or 0, to_index or 0, state)
    if directories == 1:
        raise usage_error(
            "the state of a directory is not compared with that of a daemon", "name two directories, or two replicas"
        )
    return _diff_directories(app, a, b, from_index or 0, to_index or 0)


def _diff_directories(app: App, a: str, b: str, from_index: int, to_index: int) -> View:
    import asyncio
    from dataclasses import replace
    from pathlib import Path

    from ravelctl.offline.snapshots import compare_states

    view = asyncio.run(_diff(app, a, b, from_index, to_index, False))
    if view.code != ExitCode.DONE or not isinstance(view.body, str):
        return view
    found = compare_states(app, Path(a), Path(b))
    told = f"the states at entry {found.index} are the same"
    if found.database:
        told = f"the states at entry {found.index} differ first in database {found.database}, record {printable(found.key)}"
    record = {"index": U64(found.index), "same": not found.database, "database": found.database, "key": found.key}
    return replace(
        view,
        data={**view.data, "same": not found.database, "state": record},
        body=f"{view.body}\n{told}",
        names=(str(found.index),) if found.database else (),
        code=ExitCode.DAMAGED if found.database else ExitCode.DONE,
    )


async def _diff(app: App, a: str, b: str, from_index: int, to_index: int, state: bool | None) -> View:
    """`state` None: of live replicas the states are compared too, if that can be done."""
    from contextlib import AsyncExitStack

    from ravelctl.store.log_diff import compare
    from ravelctl.store.log_source import directory_log, is_directory, log_side

    if is_directory(a) and is_directory(b):
        sides = directory_log(a), directory_log(b)
        return _compared(await compare(*sides, from_index, to_index), sides)
    async with AsyncExitStack() as stack:
        from ravelctl.cli import dial

        client = await stack.enter_async_context(dial.inspect(app))
        sides = await log_side(app, client, a), await log_side(app, client, b)
        view = _compared(await compare(*sides, from_index, to_index), sides)
    if state is False or view.code != ExitCode.DONE:
        return view
    return await _with_states(app, view, sides, required=bool(state))


async def _with_states(app: App, view: View, sides: tuple[LogSource, LogSource], *, required: bool) -> View:
    from dataclasses import replace

    from ravelctl.store.log_source import LiveLog
    from ravelctl.store.log_states import live_states

    a, b = sides
    if not (isinstance(a, LiveLog) and isinstance(b, LiveLog) and isinstance(view.body, str)) or a.replica_id == b.replica_id:
        return view
    found = await live_states(app, a, b, required=required)
    differ = bool(found.index) and not found.same
    code = ExitCode.FAILED if required and not found.index else ExitCode.DONE
    return replace(
        view,
        data={**view.data, "same": not differ, "state": found.data},
        body=f"{view.body}\n{found.told((a.name, b.name))}",
        names=(str(found.differed_index),) if differ else (),
        code=ExitCode.DAMAGED if differ else code,
    )


def _compared(found: Compared, sides: tuple[LogSource, LogSource]) -> View:
    difference = found.difference
    names = [side.name for side in sides]
    data: dict[str, Any] = {
        "a": names[0],
        "b": names[1],
        "from_index": U64(found.from_index),
        "to_index": U64(found.to_index),
        "same": difference is None,
    }
    if difference is None:
        count = max(0, found.to_index - found.from_index + 1)
        span = f"{count_text(count, 'entry', 'entries')} from {found.from_index} to {found.to_index}"
        same = f"{span} are the same on {' and '.join(names)}"
        none = f"{names[0]} and {names[1]} have no entry in common: " + "; ".join(
            f"{name} has {end.first_index} to {end.last_index}" for name, end in zip(names, found.ends, strict=True)
        )
        return View(kind="LogDiff", data=data, body=same if count else none, code=ExitCode.DONE if count else ExitCode.FAILED)
    data |= {
        "index": U64(difference.index),
        "damage": difference.damage,
        "why": difference.why,
        "entries": [None if entry is None else entry_data(entry) for entry in difference.entries],
    }
    rows: list[tuple[str, ...]] = []
    for name, entry in zip(names, difference.entries, strict=True):
        rows += [(name, *row) for row in entry_rows(entry)] if entry is not None else [(name, *[ABSENT] * len(TITLES))]
    return View(
        kind="LogDiff",
        data=data,
        body=Table(
            columns=columns("SOURCE", *TITLES),
            rows=tuple(rows),
            above=(f"entry {difference.index} is the first that differs",),
            below=(difference.why,),
        ),
        names=(str(difference.index),),
        code=ExitCode.DAMAGED if difference.damage else ExitCode.FAILED,
    )


# --- verify


@command.command("verify")
@_replica_option
@_data_dir_option
@pass_app
def verify(app: App, replica: str | None, data_dir: str | None) -> View | Work:
    """Read every record of a log: check sums, no gaps, terms that never fall, a hard state that goes with it. Exits 8 if not."""
    _exclusive(data_dir, replica)
    from ravelctl.store.checking import check_directory, check_replica

    if data_dir is not None:
        return check_directory(app, data_dir, log_only=True)
    return check_replica(app, replica, log_only=True)
