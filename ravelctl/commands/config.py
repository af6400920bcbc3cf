"""`ravelctl config`: which settings hold, and why."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import RavelGroup, pass_app
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import ABSENT, Table, View, columns, count_text
from ravelctl.config.places import CONFIG_VARIABLE, context_path
from ravelctl.config.settings import CALL_TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

    from ravelctl.config.contexts import ContextFile

SHOWN: Final = {
    "context": "context",
    "endpoints": "endpoints",
    "cacert": "cacert",
    "cert": "tls_cert",
    "key": "tls_key",
    "cluster": "cluster_id",
    "timeout": "timeout_s",
    "output": "output",
    "consistency": "consistency",
    "color": "color",
    "dry-run": "dry_run",
    "yes": "yes",
    "quiet": "quiet",
    "verbose": "verbose",
}
"""Settings as people know them, and the fields of `Settings`."""


@click.group("config", cls=RavelGroup)
def command() -> None:
    """Show which settings hold, and check their file."""


@command.command("show")
@click.option("--show-origin", is_flag=True, help="Also tell where each value comes from.")
@pass_app
def show(app: App, show_origin: bool) -> View:
    """Show the settings that a command run like this would use."""
    settings = app.settings
    rows = [(name, _text(getattr(settings, field)), _origin(app, field)) for name, field in SHOWN.items()]
    titles = columns("SETTING", "VALUE", "ORIGIN" if show_origin else "+ORIGIN")
    notes = () if settings.timeout_s is not None else (f"without a timeout, one answer may take {CALL_TIMEOUT_S:g}s",)
    return View(
        kind="Config",
        data={
            "file": context_path(os.environ),
            "settings": [
                {"name": name, "value": _plain(getattr(settings, SHOWN[name])), "origin": origin} for name, _, origin in rows
            ],
        },
        body=Table(columns=titles, rows=tuple(rows)),
        names=tuple(SHOWN),
        notes=notes if settings.verbose else (),
    )


def _text(value: Any) -> str:
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}s" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    return list(value) if isinstance(value, tuple) else f"{value:g}s" if isinstance(value, float) else str(value)


def _origin(app: App, field: str) -> str:
    context = app.context
    if field in app.given:
        return app.origins.get(field, "flag")
    if field == "context" and context is not None:
        return f"current in {context_path(os.environ)}"
    if field == "color" and os.environ.get("NO_COLOR"):
        return "variable NO_COLOR"
    if context is not None and field in context.values and not (field == "cluster_id" and "endpoints" in app.given):
        return f"context {context.name}"
    return "default"


@command.command("check")
@pass_app
def check(app: App) -> View:
    """Tell all that is wrong with the file of contexts, at once. Exits 2 if anything is."""
    from pathlib import Path

    from ravelctl.config import contexts

    app.local = True
    path = Path(context_path(os.environ))
    file, found = contexts.read(path)
    problems = [problem.sentence(path) for problem in found] + _permissions(path) + _files(file)
    if problems:
        raise CommandError(
            f"{count_text(len(problems), 'problem')} in {path}:\n" + "\n".join(f"  {problem}" for problem in problems),
            code=ExitCode.USAGE,
            next_step="mend the file, then check it again",
            metadata={str(number): problem for number, problem in enumerate(problems, start=1)},
        )
    there = count_text(len(file.contexts), "context") if path.exists() else "there is no such file, and none is needed"
    by = f" (named by {CONFIG_VARIABLE})" if os.environ.get(CONFIG_VARIABLE) else ""
    return View(
        kind="ConfigCheck",
        data={"file": str(path), "contexts": list(file.contexts), "current": file.current},
        body=f"{path}{by}: {there}, nothing is wrong",
        names=(str(path),),
    )


def _permissions(path: Path) -> list[str]:
    from ravelctl.config.contexts import is_open

    return [f"{path} is open to others: `chmod 600 {path}`"] if is_open(path) else []


def _files(file: ContextFile) -> list[str]:
    """What certificates and keys that the contexts name cannot be read."""
    problems: list[str] = []
    for name, context in file.contexts.items():
        values = context.values
        for key, field in (("cacert", "cacert"), ("cert", "tls_cert"), ("key", "tls_key")):
            if field in values:
                try:
                    values[field].open("rb").close()
                except OSError as error:
                    problems.append(f"contexts.{name}.{key}: {values[field]} cannot be read: {(error.strerror or '').lower()}")
        if ("tls_cert" in values) != ("tls_key" in values):
            problems.append(f"contexts.{name}: cert and key belong together")
        elif "tls_cert" in values and "cacert" not in values:
            problems.append(f"contexts.{name}: a certificate is only shown with TLS, which needs cacert")
    return problems
