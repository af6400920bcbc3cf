"""Before a change of membership or leadership: the leader's verdict, shown; then a yes, where one is needed.

The verdict is the leader's, never ours. What it looked at goes back with the change as its expectation, so that a cluster that
has moved on meanwhile refuses the change instead of making another one than the operator saw.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import U64, Table, View, columns, count_text, plain_text
from ravelctl.cluster.overview import name_of
from ravelctl.config.settings import Output
from ravelpb.v1 import cluster_pb2 as pb

Judge = Callable[[], Awaitable[pb.Verdict]]


async def preflight(
    app: App, title: str, judge: Judge, members: Sequence[pb.Member], *, question: str = ""
) -> tuple[pb.Verdict, View | None]:
    """Ask for the verdict and show it; a `question` is asked before the change.

    Returns the verdict and, with --dry-run, the view that the command ends with. Raises CommandError: 5 if the leader would
    refuse, 2 if nobody can be asked or the answer is no.
    """
    verdict = await judge()
    if not verdict.allowed:
        show_refused(app, verdict, members)
        raise refusal(title, verdict)
    if app.settings.dry_run:
        return verdict, verdict_view(title, verdict, members)
    app.say(f"{title}\n{verdict_text(verdict, members)}")
    if question:
        app.confirm(question)
    return verdict, None


def show_refused(app: App, verdict: pb.Verdict, members: Sequence[pb.Member]) -> None:
    """The verdict before the error that tells of it, for people: a program finds its figures in the error."""
    if app.settings.output is not Output.JSON:
        app.say(verdict_text(verdict, members))


def refusal(title: str, verdict: pb.Verdict) -> CommandError:
    return CommandError(
        f"refused to {title}: {verdict.reason}",
        code=ExitCode.REFUSED,
        next_step=verdict.next_step or "look with `ravelctl status`",
        reason="UNSAFE_CHANGE",
        metadata={**_figures("before", verdict.before), **_figures("after", verdict.after)},
    )


def _figures(when: str, standing: pb.Standing) -> dict[str, str]:
    values = {
        "voters": " ".join(map(str, standing.voters)),
        "quorum": standing.quorum,
        "live": standing.live,
        "caught_up": standing.caught_up,
        "tolerates": standing.tolerates,
    }
    return {f"{name}_{when}": str(value) for name, value in values.items()}


def verdict_text(verdict: pb.Verdict, members: Sequence[pb.Member]) -> str:
    """Before and after, one under the other, then the warnings. No newline at the end."""
    return plain_text(_table(verdict, members)).rstrip("\n")


def verdict_view(title: str, verdict: pb.Verdict, members: Sequence[pb.Member]) -> View:
    data = {
        "change": title,
        "allowed": verdict.allowed,
        "before": _standing(verdict.before),
        "after": _standing(verdict.after),
        "reason": verdict.reason,
        "next_step": verdict.next_step,
        "warnings": list(verdict.warnings),
        "term": U64(verdict.seen.term),
        "config_index": U64(verdict.seen.config_index),
    }
    return View(kind="Verdict", data=data, body=_table(verdict, members), notes=(f"dry run: would {title}; nothing was changed",))


def _table(verdict: pb.Verdict, members: Sequence[pb.Member]) -> Table:
    return Table(
        columns=columns("", "VOTERS", "LEARNERS", "QUORUM", "LIVE", "CAUGHT-UP", "TOLERATES"),
        rows=(_row("before", verdict.before, members), _row("after", verdict.after, members)),
        below=tuple(f"warning: {warning}" for warning in verdict.warnings),
    )


def _row(label: str, standing: pb.Standing, members: Sequence[pb.Member]) -> tuple[str, ...]:
    def names(ids: Sequence[int]) -> str:
        return ",".join(name_of(members, replica_id) for replica_id in ids) or "-"

    tolerates = count_text(standing.tolerates, "failure") if standing.tolerates >= 0 else "no quorum"
    counts = (str(standing.quorum), str(standing.live), str(standing.caught_up))
    return (label, names(standing.voters), names(standing.learners), *counts, tolerates)


def _standing(standing: pb.Standing) -> Mapping[str, Any]:
    return {
        "voters": [U64(v) for v in standing.voters],
        "learners": [U64(v) for v in standing.learners],
        "quorum": standing.quorum,
        "live": standing.live,
        "caught_up": standing.caught_up,
        "tolerates": standing.tolerates,
    }
