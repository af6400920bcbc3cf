"""`ravelctl status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import RavelCommand, pass_app
from ravelctl.cli.output import ABSENT, Table, View, age_text, columns, count_text, size_text

if TYPE_CHECKING:
    from ravelctl.cluster.overview import Overview, ReplicaRow


@click.command("status", cls=RavelCommand, watchable=True)
@pass_app
async def command(app: App) -> View:
    """Show how the cluster does, at one look.

    All members are asked, found from any endpoint. Exits 0 when healthy, 7 when degraded, 4 without a leader or a quorum,
    3 when nobody answers.
    """
    from ravelctl.cli import dial
    from ravelctl.cluster.overview import overview, survey
    from ravelctl.completion.names import remember

    async with dial.cluster(app) as client:
        answers = await survey(client, app.settings.endpoints, timeout_s=app.settings.timeout_s)
    remember(app, answers.values())
    return status_view(overview(answers))


def status_view(found: Overview) -> View:
    from dataclasses import asdict

    from ravelctl.cluster.overview import EXIT_OF_HEALTH, alarm_lines

    return View(
        kind="Status",
        data=asdict(found),
        body=Table(
            columns=columns("NAME", "ROLE", "STATE", "MATCH", "LAG", "CONTACT", "DB/MAX", "+ID", "+ADDRESS", "+VERSION"),
            rows=tuple(map(_row, found.replicas)),
            above=(_headline(found),),
            below=(*alarm_lines(found.alarms), *found.notes),
        ),
        names=tuple(row.name for row in found.replicas),
        code=EXIT_OF_HEALTH[found.health],
    )


def _headline(found: Overview) -> str:
    if not found.cluster_id:
        return "no cluster"
    parts = [f"cluster {found.cluster_name} {found.cluster_id[:8]}", found.health.value, f"term {found.term}"]
    if found.leader:
        age = "" if found.leader_age_s is None else f" ({age_text(found.leader_age_s)})"
        parts.append(f"leader {found.leader}{age}")
    parts.append(f"commit {found.commit_index}")
    if found.tolerates is not None:
        parts.append(f"tolerates {count_text(found.tolerates, 'failure')}" if found.tolerates >= 0 else "has no quorum")
    return "  ".join(parts)


def _row(row: ReplicaRow) -> tuple[str, ...]:
    return (
        row.name,
        row.role,
        row.state or ABSENT,
        ABSENT if row.match is None else str(row.match),
        ABSENT if row.lag is None else str(row.lag),
        ABSENT if row.contact_s is None else age_text(row.contact_s),
        _store(row),
        str(row.replica_id) if row.replica_id else ABSENT,
        row.address or ABSENT,
        row.version or ABSENT,
    )


def _store(row: ReplicaRow) -> str:
    if row.db_used_bytes is None or row.db_size_max_bytes is None:
        return ABSENT
    return f"{size_text(row.db_used_bytes)}/{size_text(row.db_size_max_bytes)}"
