"""`ravelctl context`: clusters by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import CONTEXT, Effect, RavelGroup, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import ABSENT, Table, View, columns, count_text
from ravelctl.config.places import context_path

if TYPE_CHECKING:
    from ravelctl.config.contexts import Context, ContextFile

FOUND_TIMEOUT_S: Final = 2.0
"""How long `add` looks for the cluster, whose id it then keeps."""


@click.group("context", cls=RavelGroup)
@pass_app
def command(app: App) -> None:
    """Keep clusters under names, and choose among them."""
    app.local = True  # what these commands change must not decide how they run


@command.command("add", effect=Effect.PLANS)
@click.argument("name")
@click.option("--cluster", metavar="ID", help="The cluster's id, all 32 digits. [default: what the daemons say]")
@click.option("--use/--no-use", "use", default=None, help="Make it the current one. [default: if there is none yet]")
@click.option("--replace", is_flag=True, help="Replace a context of that name.")
@pass_app
def add(app: App, name: str, cluster: str | None, use: bool | None, replace: bool) -> Work:
    """Keep where a cluster is reached, and how, under NAME.

    Takes --endpoints, --cacert, --cert, --key, --timeout, -o, --consistency and --color as they are given with it. One endpoint
    is enough to find the members; name two or three, so that the cluster is found while one of them is down.
    """
    from pathlib import Path

    from ravelctl.config import contexts

    file = contexts.load(Path(context_path(os.environ)))
    if name in file.contexts and not replace:
        raise usage_error(f"there is a context {name!r} in {file.path} already", "say --replace, or take another name")
    if "endpoints" not in app.given:
        raise usage_error("a context needs to know where its cluster is", "name some of its daemons with --endpoints")
    return _add(app, file, name, cluster, not file.current if use is None else use)


async def _add(app: App, file: ContextFile, name: str, cluster: str | None, use: bool) -> View:
    from ravelctl.config import contexts

    values = _values(app)
    found, note = (cluster, "") if cluster else await _asked(app)
    if found:
        values["cluster"] = found
    text = contexts.add(file, name, values, use=use)
    dry = app.settings.dry_run
    if not dry:
        contexts.save(file.path, text)
    said = f"context {name}: {', '.join(values['endpoints'])}" + (f", cluster {found[:8]}" if found else "")
    return View(
        kind="ContextAdd",
        data={"name": name, "file": str(file.path), "current": use or file.current == name, "changed": not dry, **values},
        body=said,
        names=(name,),
        notes=tuple(
            line
            for line in (note, f"{name} is the current context now" if use and not dry else "", _dry_note(dry))
            if line
        ),
    )  # fmt: skip


def _values(app: App) -> dict[str, Any]:
    """What was given, by the keys of the file. Paths become absolute: the file is used from everywhere."""
    from pathlib import Path

    from ravelctl.config.contexts import FIELDS

    values: dict[str, Any] = {}
    for key, (field, _) in FIELDS.items():
        if field in app.given:
            value = app.given[field]
            if isinstance(value, tuple):
                values[key] = list(value)
            elif isinstance(value, Path):
                values[key] = str(value.absolute())
            else:
                values[key] = f"{value:g}s" if isinstance(value, float) else str(value)
    return values


async def _asked(app: App) -> tuple[str, str]:
    """The id of the cluster behind the endpoints, and, where there is none to be had, a word on that."""
    from ravelctl.cli import dial
    from ravelctl.client.errors import RavelError
    from ravelctl.cluster.overview import chief, replies, survey

    timeout_s = min(FOUND_TIMEOUT_S, app.settings.call_timeout_s)
    try:
        async with dial.cluster(app) as client:
            answers = await survey(client, app.settings.endpoints, timeout_s=timeout_s)
    except RavelError as error:
        raise dial.command_error(error, app) from error
    status = chief(answers) if replies(answers) else None
    if status is None:
        return "", "no member answered, so the cluster's id is not known: `--cluster ID` adds it, or `--replace` later"
    return status.header.cluster_id, ""


def _dry_note(dry: bool) -> str:
    return "dry run: nothing was changed" if dry else ""


@command.command("use", effect=Effect.PLANS)
@click.argument("name", type=CONTEXT)
@pass_app
def use_context(app: App, name: str) -> View:
    """Make NAME the current context: the one that is meant where nothing else is said."""
    from pathlib import Path

    from ravelctl.config import contexts

    file = contexts.load(Path(context_path(os.environ)))
    text = contexts.use(file, name)
    if not (dry := app.settings.dry_run):
        contexts.save(file.path, text)
    endpoints = ", ".join(file.contexts[name].values["endpoints"])
    return View(
        kind="ContextUse",
        data={"name": name, "before": file.current, "changed": not dry},
        body=f"{name} is the current context: {endpoints}",
        names=(name,),
        notes=(_dry_note(dry),) if dry else (),
    )


@command.command("remove", effect=Effect.PLANS)
@click.argument("name", type=CONTEXT)
@pass_app
def remove_context(app: App, name: str) -> View:
    """Forget NAME. The cluster is not touched."""
    from pathlib import Path

    from ravelctl.config import contexts

    file = contexts.load(Path(context_path(os.environ)))
    text = contexts.remove(file, name)
    if not (dry := app.settings.dry_run):
        contexts.save(file.path, text)
    was = file.current == name
    return View(
        kind="ContextRemove",
        data={"name": name, "was_current": was, "changed": not dry},
        body=f"removed {name}",
        names=(name,),
        notes=tuple(line for line in ("there is no current context now" if was and not dry else "", _dry_note(dry)) if line),
    )


@command.command("list")
@pass_app
def list_contexts(app: App) -> View:
    """List the contexts; the current one is marked."""
    from pathlib import Path

    from ravelctl.config import contexts

    file = contexts.load(Path(context_path(os.environ)))
    rows = [_row(context, file.current) for context in file.contexts.values()]
    return View(
        kind="ContextList",
        data={
            "file": str(file.path),
            "current": file.current,
            "contexts": [{"name": c.name, "current": c.name == file.current, **_shown(c)} for c in file.contexts.values()],
        },
        body=Table(
            columns=columns("", "NAME", "CLUSTER", "ENDPOINTS", "TLS"),
            rows=tuple(rows),
            below=() if rows else (f"{count_text(0, 'context')} in {file.path}: `ravelctl context add` makes one",),
        ),
        names=tuple(file.contexts),
    )


def _row(context: Context, current: str) -> tuple[str, ...]:
    values = context.values
    secure = "mutual" if "tls_cert" in values else "yes" if "cacert" in values else "no"
    mark = "*" if context.name == current else ""
    return (mark, context.name, values.get("cluster_id", ABSENT)[:8], ",".join(values["endpoints"]), secure)


def _shown(context: Context) -> dict[str, Any]:
    """The values by the keys of the file, paths and durations as texts."""
    from ravelctl.config.contexts import FIELDS

    keys = {field: key for key, (field, _) in FIELDS.items()}
    found = {keys[field]: value for field, value in context.values.items()}
    return {key: list(v) if isinstance(v, tuple) else f"{v:g}s" if isinstance(v, float) else str(v) for key, v in found.items()}


@command.command("show")
@click.argument("name", type=CONTEXT, required=False)
@pass_app
def show(app: App, name: str | None) -> View:
    """Show what NAME, or the current context, says."""
    from pathlib import Path

    from ravelctl.config import contexts

    file = contexts.load(Path(context_path(os.environ)))
    chosen = name or str(app.given.get("context", "")) or file.current
    if not chosen:
        raise usage_error(f"{file.path} has no current context", "name one, or choose one with `ravelctl context use`")
    values = _shown(file.find(chosen))
    rows = tuple((key, ",".join(value) if isinstance(value, list) else value) for key, value in values.items())
    return View(
        kind="Context",
        data={"name": chosen, "current": chosen == file.current, "file": str(file.path), **values},
        body=Table(columns=columns("SETTING", "VALUE"), rows=rows, above=(f"context {chosen}",)),
        names=(chosen,),
    )
