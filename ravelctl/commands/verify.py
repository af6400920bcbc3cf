"""`ravelctl verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import DURATION, Effect, RavelCommand, Whole, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import Table, View, columns, count_text

if TYPE_CHECKING:
    from ravelctl.load.verify import Figures

SECONDS_MAX: Final = 600.0
CLIENTS_MAX: Final = 64
KEYS_MAX: Final = 1_000
CLIENTS_A_KEY_MAX: Final = 4
"""With more of them on one key there are too many possible orders to look at."""

BROKEN_SHOWN: Final = 3
"""Stale reads that are told; the others are counted."""


@click.command("verify", cls=RavelCommand, effect=Effect.PLANS)
@click.option("--seconds", type=DURATION, default=10.0, show_default=True, help="How long; it also ends after 30,000 operations.")
@click.option("--clients", type=Whole(1, CLIENTS_MAX), default=6, show_default=True, help="Callers at once.")
@click.option("--keys", type=Whole(1, KEYS_MAX), default=6, show_default=True, help="Different keys.")
@pass_app
def command(app: App, seconds: float, clients: int, keys: int) -> Work | View:
    """Test whether a live cluster is linearizable.

    Clients at every replica write, swap, delete and read a few keys under a scratch prefix, and all that they are told is judged:
    reads must never be stale, unless asked for, and nothing may be lost or done twice. The prefix is deleted at the end. Exits 8
    if there is no order that gives those answers, with the few operations that show it.
    """
    if seconds > SECONDS_MAX:
        raise usage_error(f"--seconds {seconds:g} is more than {SECONDS_MAX:g}", "repeat the command instead")
    if clients > CLIENTS_A_KEY_MAX * keys:
        raise usage_error(f"{clients} clients on {count_text(keys, 'key')} are too many to judge", "give more --keys")
    from ravelctl.load.verify import Plan, drawn_prefix

    plan = Plan(seconds, clients, keys, drawn_prefix())
    if app.settings.dry_run:
        prefix = plan.prefix.decode()
        body = f"would have {count_text(clients, 'client')} use {count_text(keys, 'key')} under {prefix} for {seconds:g}s"
        data = {"clients": clients, "keys": keys, "prefix": prefix, "seconds": seconds, "dry_run": True}
        return View(kind="Verify", data=data, body=body, notes=("dry run: nothing was changed",))
    return _verified(app, plan)


async def _verified(app: App, plan: Any) -> View:
    from ravelctl.load.verify import verify

    return _view(await verify(app, plan))


def _view(figures: Figures) -> View:
    from ravelctl.linearizability.history import Outcome

    plan, report = figures.plan, figures.report
    wrong = bool(report.violations or figures.broken)
    verdict = "not linearizable" if report.violations else "broken promises" if wrong else "linearizable"
    kinds = sorted({kind for kind, _ in figures.operations})
    counts = {
        kind: {outcome.value: figures.operations[kind, outcome] for outcome in Outcome if figures.operations[kind, outcome]}
        for kind in kinds
    }
    served = {replica.name: figures.answered[replica.name] for replica in figures.replicas}
    return View(
        kind="Verify",
        data={
            "verdict": verdict,
            "linearizable": not wrong,
            "seconds": round(figures.elapsed_s, 3),
            "clients": plan.clients,
            "keys": plan.keys,
            "prefix": plan.prefix.decode(),
            "operations": {**counts, **({"stale_get": {"done": figures.stale}} if figures.stale else {})},
            "answered_reads": served,
            "violations": [str(violation) for violation in report.violations],
            "violations_unexplained": report.unexplained,
            "stale_violations": list(figures.broken),
            "cleaned_up": not figures.left,
        },
        body=Table(
            columns=columns("OPERATION", "DONE", "UNKNOWN", "FAILED"),
            rows=(
                *((kind, *(str(counts[kind].get(outcome.value, 0)) for outcome in Outcome)) for kind in kinds),
                *((("stale get", str(figures.stale), "0", "0"),) if figures.stale else ()),
            ),
            below=(*_told(figures, served), f"verdict: {verdict}"),
        ),
        names=(verdict.replace(" ", "-"),),
        code=ExitCode.DAMAGED if wrong else ExitCode.DONE,
    )


def _told(figures: Figures, served: dict[str, int]) -> list[str]:
    plan, report = figures.plan, figures.report
    who = ", ".join(f"{name} {count:,}" for name, count in served.items())
    lines = [
        f"{count_text(plan.clients, 'client')} on {count_text(plan.keys, 'key')} for {figures.elapsed_s:.1f}s; "
        f"reads answered by the replica they were asked of: {who}"
    ]
    for violation in report.violations:
        lines += str(violation).splitlines()
    if report.unexplained:
        lines.append(f"and {count_text(report.unexplained, 'more violation')}")
    lines += figures.broken[:BROKEN_SHOWN]
    if len(figures.broken) > BROKEN_SHOWN:
        lines.append(f"and {count_text(len(figures.broken) - BROKEN_SHOWN, 'more stale read')} that broke their promises")
    return lines
