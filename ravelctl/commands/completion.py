"""`ravelctl completion`."""

from __future__ import annotations

from typing import Final

import click

from ravelctl.app import App
from ravelctl.command import RavelCommand, pass_app
from ravelctl.output import View

SHELLS: Final = ("bash", "zsh", "fish")


@click.command("completion", cls=RavelCommand, local=True)
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@pass_app
def command(app: App, shell: str) -> View:
    """Print the completion script of SHELL: bash, zsh or fish.

    bash: `source <(ravelctl completion bash)`. zsh: save it as `_ravelctl` in a folder of $fpath. fish: save it as
    ~/.config/fish/completions/ravelctl.fish.
    """
    from ravelctl.cli import root
    from ravelctl.completion import script

    text = script(root, shell)
    return View(kind="Completion", data={"shell": shell, "script": text}, body=text, names=(shell,))
