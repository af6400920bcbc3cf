"""`ravelctl log`: what a replica's log holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ravelctl.app import App
from ravelctl.command import RavelGroup, Work, pass_app
from ravelctl.errors import usage_error
from ravelctl.output import ABSENT, U64, Table, View, columns, printable

if TYPE_CHECKING:
    from ravelpb.v1.inspect_pb2 import LogEntry, ReadLogResponse

LIMIT: Final = 100
LIMIT_MAX: Final = 100_000


@click.group("log", cls=RavelGroup)
def command() -> None:
    """Show a replica's log."""


@command.command("show")
@click.option("--from", "from_index", type=click.IntRange(min=1), help="First index. [default: the first there is]")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=LIMIT, help="So many entries at most.", show_default=True)
@click.option("--tail", is_flag=True, help="The last entries instead of the first.")
@click.option("--replica", help="Whose log: a name or an id. [default: the first endpoint's that answers]")
@pass_app
def show(app: App, from_index: int | None, limit: int, tail: bool, replica: str | None) -> Work:
    """Show log entries, a line a command; the last line tells where the log begins and ends.

    Any replica answers from its own disk, leader or not.
    """
    if tail and from_index is not None:
        raise usage_error("--tail and --from exclude each other", "give one of them")
    return _show(app, from_index or 0, limit, tail, replica)


async def _show(app: App, from_index: int, limit: int, tail: bool, replica: str | None) -> View:
    from ravelctl import dial
    from ravelctl.sources import source

    chosen = await source(app, replica)
    async with dial.inspect(app) as client:
        pages = client.read_log(chosen.address, from_index=from_index, limit=limit, tail=tail)
        found = [page async for page in pages]
    return _view(chosen.name, found)


def _view(source: str, pages: list[ReadLogResponse]) -> View:
    entries = [entry for page in pages for entry in page.entries]
    ends = pages[-1] if pages else None
    position = {
        "first_index": U64(ends.first_index if ends else 0),
        "last_index": U64(ends.last_index if ends else 0),
        "commit_index": U64(ends.commit_index if ends else 0),
        "snapshot_index": U64(ends.snapshot_index if ends else 0),
        "snapshot_term": U64(ends.snapshot_term if ends else 0),
    }
    snapshot = f"{position['snapshot_index']}@{position['snapshot_term']}" if position["snapshot_index"] else ABSENT
    foot = (
        f"first {position['first_index']}  snapshot {snapshot}  commit {position['commit_index']}"
        f"  last {position['last_index']}  source {source}"
    )
    return View(
        kind="Log",
        data={
            "source": source,
            "entries": [
                {"index": U64(e.index), "term": U64(e.term), "type": e.type, "bytes": e.bytes, "commands": list(e.summary)}
                for e in entries
            ],
            **position,
        },
        body=Table(
            columns=columns("INDEX", "TERM", "TYPE", "BYTES", "SUMMARY"),
            rows=tuple(row for entry in entries for row in _rows(entry)),
            below=(foot,),
        ),
        names=tuple(str(entry.index) for entry in entries),
    )


def _rows(entry: LogEntry) -> list[tuple[str, ...]]:
    """A line a command. The size stands on an entry's first line only, so that a sum over the column is right."""
    lines = [printable(line.encode()) for line in entry.summary] or [ABSENT]
    head = (str(entry.index), str(entry.term), entry.type)
    return [(*head, str(entry.bytes) if number == 0 else ABSENT, line) for number, line in enumerate(lines)]
