"""`ravelctl events`."""

from __future__ import annotations

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import MOMENT, REPLICA, RavelCommand, Whole, Work, pass_app
from ravelctl.cli.output import View

KINDS = ("server", "election", "leadership", "membership", "snapshots", "alarm", "action")
SHOWN = 100
SHOWN_BEFORE = 10
"""Events that are shown before those that come, where --limit says nothing."""


@click.command("events", cls=RavelCommand)
@click.option(
    "--since", "since_ms", type=MOMENT, help="Only those of so long ago or later, such as 10m, or 2026-03-02T10:04:11Z."
)
@click.option("--follow", "-f", is_flag=True, help="Then go on with those that come, until interrupted.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only of this kind; may be repeated.")
@click.option("--limit", type=Whole(1, 100_000), help=f"The newest so many. [default: {SHOWN}, with --follow {SHOWN_BEFORE}]")
@click.option("--replica", type=REPLICA, help="Only what this replica tells: a name or an id. [default: all]")
@pass_app
def command(app: App, since_ms: int | None, follow: bool, kinds: tuple[str, ...], limit: int | None, replica: str | None) -> Work:
    """Show what has happened: elections, leadership, membership, snapshots, alarms.

    Each replica keeps the newest thousand of its own, across restarts; they are put into one order by the clocks of their hosts.
    With -o json it is one object a line.
    """
    return _events(app, since_ms or 0, follow, kinds, limit or (SHOWN_BEFORE if follow else SHOWN), replica)


async def _events(app: App, since_ms: int, follow: bool, kinds: tuple[str, ...], limit: int, replica: str | None) -> View:
    from ravelctl.cluster import events

    query = events.Query(replica, since_ms, limit, events.kinds_of(kinds))
    printer = events.Printer(app)
    if follow:
        await events.follow(app, query, printer)
    else:
        told, silent = await events.kept(app, query)
        printer.events(told)
        for line in silent:
            printer.note(line)
    return View(kind="Events", data={}, silent=True)
