"""`ravelctl top`: the live dashboard. Nothing of it is loaded before it is asked for."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import DURATION, RavelCommand, Whole, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import View

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient
    from ravelctl.dashboard.session import Options, Target

THEMES: Final = ("dark", "light", "ansi")
_file = click.Path(dir_okay=False, path_type=Path)


def check_interval(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """What daemons take."""
    if value is not None and not 0.1 <= value <= 60:
        raise click.BadParameter(f"{value:g}s is not between 100ms and 60s", ctx=ctx, param=param)
    return value


@click.command("top", cls=RavelCommand)
@click.option("--interval", type=DURATION, callback=check_interval, help="How often replicas report, 100ms to 60s. [default: 1s]")
@click.option("--read-only", is_flag=True, help="Switch off whatever changes the cluster.")
@click.option("--record", "record", metavar="FILE", type=_file, help="Record what is shown.")
@click.option("--replay", "replay", metavar="FILE", type=_file, help="Play a recording; no cluster is asked.")
@click.option("--theme", type=click.Choice(THEMES), help="How it looks. [default: what fits the terminal]")
@click.option("--bell", is_flag=True, help="Ring the terminal's bell when an alarm is critical.")
@click.option("--web", is_flag=True, help="Serve it to browsers on this machine, read-only.")
@click.option("--port", type=Whole(1, 65535), help="For --web. [default: 8000]")
@pass_app
def command(
    app: App,
    interval: float | None,
    read_only: bool,
    record: Path | None,
    replay: Path | None,
    theme: str | None,
    bell: bool,
    web: bool,
    port: int | None,
) -> View:
    """Show terms, leaders and how far each replica is, live.

    Pointed at an admin server it begins with all clusters that the admin lists; m leads back there.

    Press ? for the keys. Without a terminal one plain frame is printed.
    """
    if record is not None and replay is not None:
        raise usage_error("what is played cannot be recorded", "give --record or --replay")
    if port is not None and not web:
        raise usage_error("--port is for --web", "give --web too, or leave it out")
    if web:
        from ravelctl.dashboard.web import serve

        serve(_words_for_web(app, replay, interval, theme), port or 8000)
        return View("Top", {})
    options = _options(app, interval, read_only, record, replay, theme, bell)
    if not has_terminal():
        return _plain(app, options)
    # Nothing that is loaded for the first picture is ever garbage, and looking for some takes a fifth of the time until then.
    gc.disable()
    from ravelctl.dashboard.app import run

    run(options)
    return View("Top", {})


def has_terminal() -> bool:
    """Textual draws on stderr and never asks whether it is a terminal; in a browser its driver has its own way."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return True
    return all(s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)) and os.environ.get("TERM", "dumb") != "dumb"


def _options(
    app: App, interval: float | None, read_only: bool, record: Path | None, replay: Path | None, theme: str | None, bell: bool
) -> Options:
    from ravelctl.cli import dial
    from ravelctl.commands.version import own_version
    from ravelctl.dashboard.session import INTERVAL_S, Options
    from ravelctl.dashboard.themes import NAMES, fitting

    return Options(
        target=target_of(app),
        interval_s=INTERVAL_S if interval is None else interval,
        read_only=read_only,
        record=record,
        replay=replay,
        theme=NAMES[theme] if theme and not os.environ.get("NO_COLOR") else fitting(os.environ),
        bell=bell,
        version=own_version,
        clusters=_contexts(app),
        admin=lambda: dial.admin(app),
        member=lambda endpoints, cluster_id: _member(app, endpoints, cluster_id),
    )


def _member(app: App, endpoints: tuple[str, ...], cluster_id: str) -> Target:
    """A cluster that an admin lists. A context's id is the admin group's and not its own."""
    from ravelctl.cli import dial
    from ravelctl.dashboard.session import Target

    return Target(
        endpoints,
        lambda addresses: dial.cluster(app, tuple(addresses), cluster_id=cluster_id),
        lambda: dial.inspect(app, cluster_id=cluster_id),
    )


def target_of(app: App) -> Target:
    """The cluster that this run's settings mean. Raises CommandError for options of TLS that do not go together."""
    from ravelctl.cli import dial
    from ravelctl.dashboard.session import Target

    dial.tls(app)
    return Target(app.settings.endpoints, lambda endpoints: dial.cluster(app, tuple(endpoints)), lambda: dial.inspect(app))


def _contexts(app: App) -> dict[str, Target]:
    """Every context of the configuration. One whose options are wrong is shown as unreachable, with the reason."""
    from ravelctl.cli import dial
    from ravelctl.config import contexts
    from ravelctl.config.places import context_path
    from ravelctl.dashboard.session import Target

    path = Path(context_path(os.environ))
    if app.local or not path.exists():
        return {}
    given = {name: value for name, value in app.given.items() if name not in ("endpoints", "context")}

    def target(name: str) -> Target:
        own = App(given={**given, "context": name})

        def connect(endpoints: Sequence[str]) -> ClusterClient:
            return dial.cluster(own, tuple(endpoints))

        return Target(own.settings.endpoints, connect, lambda: dial.inspect(own))

    return {name: target(name) for name in contexts.load(path).contexts}


def _plain(app: App, options: Options) -> View:
    from ravelctl.cli import dial
    from ravelctl.dashboard.plain import one_frame, replayed_frame

    if options.replay is not None:
        return replayed_frame(options.replay)
    return dial.run(app, one_frame(options))


def _words_for_web(app: App, replay: Path | None, interval: float | None, theme: str | None) -> list[str]:
    """The command line of the dashboard that a browser is shown."""
    settings = app.settings
    where = ["--context", settings.context] if settings.context else ["--endpoints", ",".join(settings.endpoints)]
    words = ["top", "--read-only", *where]
    files = {"--cacert": settings.cacert, "--cert": settings.tls_cert, "--key": settings.tls_key, "--replay": replay}
    for flag, path in files.items():
        if path is not None:
            words += [flag, str(path.absolute())]
    if interval is not None:
        words += ["--interval", f"{interval:g}s"]
    return words + (["--theme", theme] if theme else [])
