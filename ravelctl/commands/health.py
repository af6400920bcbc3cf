"""`ravelctl health`: one word for probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import RavelCommand, Work, pass_app, watched
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import View, count_text
from ravelctl.config.settings import Output

if TYPE_CHECKING:
    from ravelctl.cluster.overview import Overview

FORMATS: Final = ("text", "nagios")
_NAGIOS_WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_NAGIOS_CODES: Final = {
    ExitCode.DONE: 0,
    ExitCode.DEGRADED: 1,
    ExitCode.NO_LEADER: 2,
    ExitCode.UNREACHABLE: 2,
}
"""All else is unknown: the check itself did not come about."""


@click.command("health", cls=RavelCommand, watchable=True)
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Also the exit codes.")
@pass_app
def command(app: App, form: str) -> Work:
    """Say in one line whether the cluster is healthy.

    Exits 0 when healthy, 7 when degraded, 4 without a leader or a quorum, 3 when nobody answers. With --format nagios the codes
    are those of monitoring plugins: 0 healthy, 1 degraded, 2 no leader, no quorum or nobody answers, 3 the check failed.
    """
    nagios = form == "nagios"
    if nagios and watched():
        raise usage_error("--format nagios answers one check", "leave out --watch or --format")
    if nagios and app.settings.output not in {Output.TABLE, Output.WIDE}:
        raise usage_error("--format nagios is one line of text", "leave out --output or --format")
    return _checked(app, nagios)


async def _checked(app: App, nagios: bool) -> View:
    from ravelctl.cli import dial
    from ravelctl.client.errors import RavelError
    from ravelctl.cluster.overview import overview, survey
    from ravelctl.completion.names import remember

    try:
        async with dial.cluster(app) as client:
            answers = await survey(client, app.settings.endpoints, timeout_s=app.settings.timeout_s)
        remember(app, answers.values())
        return _view(overview(answers), nagios)
    except (CommandError, RavelError) as caught:
        error = caught if isinstance(caught, CommandError) else dial.command_error(caught, app)
        if not nagios:
            raise error from caught
        return _nagios(error.code, error.message, {})


def _view(found: Overview, nagios: bool) -> View:
    from ravelctl.cluster.overview import EXIT_OF_HEALTH, alarm_lines

    code = EXIT_OF_HEALTH[found.health]
    worries = [*alarm_lines(found.alarms), *found.notes]
    if nagios:
        return _nagios(code, "; ".join((_sentence(found), *worries)), _perf_data(found))
    return View(
        kind="Health",
        data={
            "health": found.health.value,
            "cluster": found.cluster_id,
            "leader": found.leader,
            "voters": sum(row.role in {"leader", "voter"} for row in found.replicas),
            "live": found.live,
            "quorum": found.quorum,
            "tolerates": found.tolerates,
            "worries": worries,
        },
        body="\n".join((_sentence(found), *worries)) if code is not ExitCode.DONE else _sentence(found),
        names=(found.health.value,),
        code=code,
    )


def _sentence(found: Overview) -> str:
    if not found.cluster_id:
        return found.health.value
    parts = [f"{found.health.value} cluster {found.cluster_name}"]
    parts.append(f"leader {found.leader}" if found.leader else "no leader")
    if found.tolerates is not None:
        parts.append(f"tolerates {count_text(found.tolerates, 'failure')}" if found.tolerates >= 0 else "has no quorum")
    return ", ".join(parts)


def _perf_data(found: Overview) -> dict[str, Any]:
    lags = [int(row.lag) for row in found.replicas if row.lag is not None]
    return {
        "live": found.live,
        "quorum": found.quorum,
        "tolerates": max(found.tolerates or 0, 0),
        "lag": max(lags, default=0),
    }


def _nagios(code: ExitCode, text: str, perf: dict[str, Any]) -> View:
    """One line, with figures behind a bar: the interface of monitoring plugins."""
    status = _NAGIOS_CODES.get(code, 3)
    figures = " ".join(f"{name}={value}" for name, value in perf.items())
    line = f"RAVEL {_NAGIOS_WORDS[status]} - {text}".replace("|", "/").replace("\n", " ")
    return View(kind="Health", data={}, body=f"{line} | {figures}" if figures else line, code=status)
