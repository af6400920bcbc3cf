"""`ravelctl leave`."""

from __future__ import annotations

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import REPLICA, Effect, RavelCommand, pass_app
from ravelctl.cli.output import View


@click.command("leave", cls=RavelCommand, effect=Effect.PLANS)
@click.argument("replica", type=REPLICA)
@pass_app
async def command(app: App, replica: str) -> View:
    """Take REPLICA, a name or an id, out of the cluster for good.

    Its data directory stays as it is, but never takes part again.
    """
    from ravelctl.cluster.changes import remove

    return await remove(app, [replica])
