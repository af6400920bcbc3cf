"""`ravelctl version`."""

from __future__ import annotations

import platform
from typing import Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import RavelCommand, pass_app
from ravelctl.cli.output import API_VERSION, View

DISTRIBUTION: Final = "ravel-kv"


@click.command("version", cls=RavelCommand, local=True)
@pass_app
def command(app: App) -> View:
    """Print the version of ravelctl, and of what it runs on."""
    from importlib.metadata import version

    own = own_version()
    python = platform.python_version()
    data = {"ravelctl": own, "python": python, "click": version("click"), "protocol": "ravel.v1", "output": API_VERSION}
    return View(kind="Version", data=data, body=f"ravelctl {own} (python {python}, protocol ravel.v1)", names=(own,))


def own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"  # a tree that was never installed
