"""`ravel_node start | admin | leave | gateway`: read the command line, load the configuration, run what was named.

click, because `ravelctl` needs it anyway and it starts faster than argparse. Options are made from the settings, one each, and
handed on as they were written: `settings.load` reads them, so that everything wrong with them is told at once.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any, Final, NoReturn

import click

from ravel_node import __version__
from ravel_node.config import ConfigError
from ravel_node.forms import ADDRESSES, BOOLEAN
from ravel_node.gateway.options import GATEWAY_SETTINGS, load_gateway
from ravel_node.log_output import stderr_output
from ravel_node.settings import SETTINGS, Loaded, Setting, load
from ravel_node.signals import ignore_harmless
from ravel_node.standard_streams import open_missing

USAGE_EXIT: Final = 2
INTERRUPTED_EXIT: Final = 130


OF_REPLICAS: Final = frozenset({"admin", "new_cluster"})
"""Settings of a server that has an admin, and so none of an admin's own."""

OF_ADMINS: Final = frozenset({"http"})
"""Settings of an admin server alone."""

LEAVE_SETTINGS: Final = ("data_dir", "admin", "tls_cert", "tls_key", "tls_client_ca", "tls_ca")


class _StartCommand(click.Command):
    """Shows its many options under the headings of the configuration file's sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                setting = SETTINGS.get(param.name or "")
                heading = f"Options, section [{setting.section}] of the file" if setting and setting.section else "Options"
                rows.setdefault(heading, []).append(record)
        for heading, records in rows.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=34)


def _option(setting: Setting) -> click.Option:
    if setting.form is BOOLEAN:
        return click.Option([f"{setting.flag}/--no-{setting.flag[2:]}"], default=None, help=setting.help)
    default = "" if setting.default in (MISSING, None, ()) else f" [{setting.form.show(setting.default)}]"
    return click.Option(
        [setting.flag],
        metavar="|".join(setting.words) or setting.form.metavar,
        multiple=setting.form is ADDRESSES,
        help=setting.help + default,
    )


def _start(check_config: bool, **flags: Any) -> None:
    """Run one server of a cluster.

    Without an identity, --join and --admin it waits, blank, for `ravelctl bootstrap` or `ravelctl join`. Each option can also be
    set by a variable (--tick-ms: RAVEL_TICK_MS) and in the file that --config names; options are strongest, the file is weakest.
    """
    loaded = _load(flags)
    _refuse_given(loaded, OF_ADMINS, "is for admin servers: give it to `ravel_node admin`, or run `ravel_node gateway`")
    _run(loaded, check_config, admin=False)


def _admin(check_config: bool, **flags: Any) -> None:
    """Run one admin server: one, three or five of them keep the list of all servers and clusters.

    They are made a group as any cluster is: `ravelctl bootstrap` the first ones, `ravelctl join` or --join further ones. Options,
    variables and the file are those of `start`.
    """
    loaded = _load(flags)
    _refuse_given(loaded, OF_REPLICAS, "is for replicas: an admin server has no admin")
    _run(loaded, check_config, admin=True)


def _leave(**flags: Any) -> None:
    """Take the server with this data directory out of its cluster, by way of its admin; its daemon may run or not.

    What was interrupted is completed by repeating it. Then stop the daemon, if it runs, and delete the directory.
    """
    config = _load(flags).config
    from ravel_node.leaving import PROBLEMS, leave

    try:
        click.echo(leave(config))
    except PROBLEMS as error:
        click.echo(f"ravel_node: {error}", err=True)
        sys.exit(1)


def _gateway(check_config: bool, **flags: Any) -> None:
    """Serve all clusters of an admin group by HTTP: JSON with POST /put, /get, /delete, and keys as resources under /v1/kv/.

    It keeps nothing: any number may run, behind any load balancer. Each option can also be set by a variable
    (--timeout-ms: RAVEL_TIMEOUT_MS) and in the file that --config names; options are strongest, the file is weakest.
    """
    try:
        loaded = load_gateway(flags, os.environ)
    except ConfigError as error:
        _refuse(error.problems)
    if check_config:
        click.echo(loaded.describe(), nl=False)
        return
    ignore_harmless()
    from ravel_node.gateway.serve import run

    sys.exit(run(loaded.config))


def _refuse_given(loaded: Loaded, names: frozenset[str], why: str) -> None:
    """End if one of these settings, which others have, was given."""
    if given := [name for name in sorted(names) if getattr(loaded.config, name)]:
        places = ", ".join(f"{name} ({loaded.origins[name]})" for name in given)
        _refuse([f"{places} {why}"])


def _run(loaded: Loaded, check_config: bool, *, admin: bool) -> None:
    if check_config:
        click.echo(loaded.describe(), nl=False)
        return
    ignore_harmless()
    for note in loaded.notes:
        click.echo(f"ravel_node: note: {note}", err=True)
    # The wire and the store take half a second to import; --help needs neither.
    from ravel_node.server.handshakes import make_library_talk

    make_library_talk(os.environ, tls=loaded.config.tls.on or loaded.config.peer_tls.on)  # before the library is loaded
    from ravel_node.daemon import run

    sys.exit(run(loaded.config, admin=admin))


def _load(flags: dict[str, Any]) -> Loaded:
    try:
        return load(flags, os.environ, hostname=socket.gethostname())
    except ConfigError as error:
        _refuse(error.problems)


def _refuse(problems: Sequence[str]) -> NoReturn:
    heading = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    click.echo(f"ravel_node: {heading} in the configuration:", err=True)
    for problem in problems:
        click.echo(f"  {problem}", err=True)
    sys.exit(USAGE_EXIT)


def command() -> click.Group:
    """The command line of the daemon."""
    file = click.Option(["--config"], metavar="FILE", help="a TOML file with settings (variable RAVEL_CONFIG)")
    check = click.Option(["--check-config"], is_flag=True, help="print the configuration with the origin of each value, and end")
    options = {name: _option(setting) for name, setting in SETTINGS.items()}
    commands: list[click.Command] = [
        _StartCommand(
            "start",
            callback=_start,
            params=[file, check, *(option for name, option in options.items() if name not in OF_ADMINS)],
            help=_start.__doc__,
        ),
        _StartCommand(
            "admin",
            callback=_admin,
            params=[file, check, *(option for name, option in options.items() if name not in OF_REPLICAS)],
            help=_admin.__doc__,
            short_help="Run one admin server.",
        ),
        _StartCommand(
            "leave",
            callback=_leave,
            params=[file, *(options[name] for name in LEAVE_SETTINGS)],
            help=_leave.__doc__,
            short_help="Take a server out of its cluster, for good.",
        ),
    ]
    gateway = [_option(setting) for setting in GATEWAY_SETTINGS.values()]
    text = "Serve all clusters of an admin group by HTTP."
    serve = click.Command("gateway", callback=_gateway, params=[file, check, *gateway], help=_gateway.__doc__, short_help=text)
    commands.append(serve)
    group = click.Group("ravel_node", commands=commands, help="The daemon of ravel, a replicated key-value store.")
    return click.version_option(__version__, prog_name="ravel_node", message="%(prog)s %(version)s")(group)


def main() -> None:
    """The command `ravel_node`. Exits 0 after an orderly end, 1 if the daemon stopped itself, 2 for wrong usage."""
    open_missing()  # before anything else can get these descriptors
    stderr_output()
    try:
        sys.exit(command().main(prog_name="ravel_node", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
    except click.UsageError as error:
        _tell_usage(error)
    except click.Abort:
        sys.exit(INTERRUPTED_EXIT)
    sys.exit(USAGE_EXIT)


def _tell_usage(error: click.UsageError) -> None:
    path = error.ctx.command_path if error.ctx is not None else "ravel_node"
    sentence = error.format_message().strip()
    click.echo(f"ravel_node: {sentence[:1].lower()}{sentence[1:]}", err=True)
    click.echo(f"next: see `{path} --help`", err=True)


if __name__ == "__main__":
    main()
