"""`ravelctl help`."""

from __future__ import annotations

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import RavelCommand, pass_app
from ravelctl.cli.output import View


@click.command("help", cls=RavelCommand, local=True)
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
@pass_app
def command(app: App, ctx: click.Context, words: tuple[str, ...]) -> View:
    """Tell about ravelctl, or about one command."""
    root = ctx.find_root()
    found, at = root.command, root
    for word in words:
        if not isinstance(found, click.Group):
            raise click.UsageError(f"{at.command_path} has no commands of its own", ctx=at)
        name, named, _ = found.resolve_command(at, [word])
        if name is None or named is None:
            raise click.UsageError(f"{at.command_path} has no command {word!r}", ctx=at)
        at = type(at)(named, info_name=name, parent=at)
        found = named
    text = found.get_help(at)
    return View(kind="Help", data={"command": at.command_path, "text": text}, body=text, names=(at.command_path,))
