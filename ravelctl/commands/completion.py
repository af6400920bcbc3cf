"""`ravelctl completion`."""

from __future__ import annotations

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import RavelCommand, pass_app
from ravelctl.cli.output import View
from ravelctl.completion.scripts import SCRIPTS, script


@click.command("completion", cls=RavelCommand, local=True)
@click.argument("shell", type=click.Choice(tuple(SCRIPTS)), metavar="SHELL")
@pass_app
def command(app: App, shell: str) -> View:
    """Print the completion script of SHELL: bash, zsh or fish.

    bash: `source <(ravelctl completion bash)`. zsh: save it as `_ravelctl` in a folder of $fpath. fish: save it as
    ~/.config/fish/completions/ravelctl.fish.
    """
    text = script(shell)
    return View(kind="Completion", data={"shell": shell, "script": text}, body=text, names=(shell,))
