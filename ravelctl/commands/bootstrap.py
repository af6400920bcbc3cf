"""`ravelctl bootstrap`."""

from __future__ import annotations

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import ENDPOINT, Effect, RavelCommand, pass_app
from ravelctl.cli.output import View


@click.command("bootstrap", cls=RavelCommand, effect=Effect.PLANS)
@click.argument("address", nargs=-1, required=True, type=ENDPOINT, metavar="ADDRESS...")
@click.option("--name", help="The cluster's name. [default: ravel]")
@pass_app
async def command(app: App, address: tuple[str, ...], name: str | None) -> View:
    """Turn the blank daemons at these addresses into a new cluster.

    The first becomes a cluster of one; the others join it and become voters together once they have caught up. After an
    interruption the same command goes on where it stood.
    """
    from ravelctl.cluster.founding import found

    app.apart = True
    return await found(app, address, name)
