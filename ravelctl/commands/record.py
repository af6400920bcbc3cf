"""`ravelctl record`: a recorder without a screen."""

from __future__ import annotations

from pathlib import Path

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import DURATION, RavelCommand, pass_app
from ravelctl.cli.output import View
from ravelctl.commands.top import check_interval, target_of


@click.command("record", cls=RavelCommand)
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--for", "for_s", type=DURATION, help="How long. [default: until interrupted]")
@click.option("--interval", type=DURATION, callback=check_interval, help="How often replicas report, 100ms to 60s. [default: 1s]")
@pass_app
async def command(app: App, file: Path | None, for_s: float | None, interval: float | None) -> View:
    """Record a cluster into FILE, for `ravelctl top --replay FILE`.

    Without FILE the name says the cluster and the time. What is recorded up to an interruption, or a crash, can be played.
    """
    from ravelctl.commands.version import own_version
    from ravelctl.dashboard.headless import record
    from ravelctl.dashboard.session import INTERVAL_S, Options

    options = Options(
        target=target_of(app),
        interval_s=INTERVAL_S if interval is None else interval,
        version=own_version,
    )
    return await record(app, options, file, for_s)
