"""`ravelctl join`."""

from __future__ import annotations

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import ENDPOINT, ENDPOINTS, Effect, RavelCommand, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import View


@click.command("join", cls=RavelCommand, effect=Effect.PLANS)
@click.argument("address", type=ENDPOINT)
@click.option("--via", type=ENDPOINTS, help="Members of the cluster. [default: --endpoints]")
@click.option("--no-promote", is_flag=True, help="Stay a learner until promoted with `member promote`.")
@click.option("--wait/--no-wait", default=True, help="Wait until it has caught up and votes.", show_default=True)
@click.option("--reset", is_flag=True, help="First set aside the data of a daemon that was removed, or whose data is old.")
@pass_app
def command(app: App, address: str, via: tuple[str, ...] | None, no_promote: bool, wait: bool, reset: bool) -> Work:
    """Add the blank daemon at ADDRESS to a cluster.

    The daemon joins as a learner. The leader makes it a voter once it has caught up.
    """
    app.apart = via is not None
    if via is None and not app.settings.endpoints_given:
        raise usage_error("join needs to know the cluster", "name one of its members with --via, or a context")
    return _join(app, address, via or app.settings.endpoints, not no_promote, wait, reset)


async def _join(app: App, address: str, via: tuple[str, ...], promote: bool, wait: bool, resets: bool) -> View:
    from ravelctl.cluster.founding import join

    if resets:
        from ravelctl.cluster.replacement import reset_first

        await reset_first(app, address, via)
    return await join(app, address, via, promote=promote, wait=wait)
