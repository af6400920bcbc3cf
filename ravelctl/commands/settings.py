"""`ravelctl settings`: settings that stand in the cluster's replicated state and hold on all members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import RavelGroup, pass_app
from ravelctl.cli.output import Table, View, columns

if TYPE_CHECKING:
    from ravelpb.v1.cluster_pb2 import SettingsResponse


@click.group("settings", cls=RavelGroup)
def command() -> None:
    """Show and change the settings of the whole cluster.

    Settings of single daemons are in their configuration: see `ravel_node start --help`.
    """


@command.command("list", watchable=True)
@pass_app
async def list_settings(app: App) -> View:
    """List the settings of the cluster with their values and defaults."""
    from ravelctl.cli import dial

    async with dial.cluster(app) as client:
        return _view(await client.settings())


@command.command("set")
@click.argument("name")
@click.argument("value")
@pass_app
async def set_setting(app: App, name: str, value: str) -> View:
    """Set the setting NAME to VALUE on all members. VALUE "default" puts it back to its default."""
    from ravelctl.cli import dial

    async with dial.cluster(app) as client:
        return _view(await client.set_setting(name, "" if value == "default" else value))


def _view(response: SettingsResponse) -> View:
    settings = response.settings
    return View(
        kind="SettingList",
        data={
            "cluster_id": response.header.cluster_id,
            "settings": [
                {"name": s.name, "value": s.value, "default": s.default, "values": list(s.values), "help": s.help}
                for s in settings
            ],
        },
        body=Table(
            columns=columns("NAME", "VALUE", "DEFAULT", "VALUES"),
            rows=tuple((s.name, s.value, s.default, ",".join(s.values)) for s in settings),
            below=tuple(f"{s.name}: {s.help}" for s in settings),
        ),
        names=tuple(s.name for s in settings),
    )
