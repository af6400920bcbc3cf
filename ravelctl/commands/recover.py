"""`ravelctl recover`: a new cluster out of what is left when a quorum is gone for good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import Effect, RavelGroup, Whole, Work, pass_app
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import ABSENT, U64, Table, View, columns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ravelctl.cluster.recovery import Plan, Survivor
    from ravelpb.v1.cluster_pb2 import Member


@click.group("recover", cls=RavelGroup)
def command() -> None:
    """Make a new cluster out of what is left when a quorum is gone for good.

    While a majority of the voters can be started again, do that instead: nothing is lost then. `plan` tells which it is.
    """


# --- plan


@command.command("plan")
@click.argument("sources", nargs=-1, required=True, metavar="DIR|ADDR...")
@pass_app
def plan(app: App, sources: tuple[str, ...]) -> Work:
    """Rank what is left: data directories (with a slash) or addresses of daemons. Says what may be lost, and changes nothing.

    The one whose last entry has the highest term, and then the highest index, knows most, as in an election.
    """
    return _plan(app, sources)


async def _plan(app: App, sources: tuple[str, ...]) -> View:
    from ravelctl.cluster.recovery import plan as ranked
    from ravelctl.store.log_source import is_directory

    found: list[Survivor] = []
    failed: list[str] = []
    for word in sources:
        try:
            found.append(_directory(word) if is_directory(word) else await _daemon(app, word))
        except CommandError as error:
            if error.code is ExitCode.USAGE and not is_directory(word):
                raise
            failed.append(f"{word}: {error.message}")
    if not found:
        raise CommandError("; ".join(failed), code=ExitCode.FAILED)
    return _plan_view(ranked(found), failed)


def _directory(word: str) -> Survivor:
    from ravelctl.offline.recovery import survivor

    return survivor(Path(word))


async def _daemon(app: App, word: str) -> Survivor:
    from ravelctl.cli import dial
    from ravelctl.client.errors import RavelError
    from ravelctl.cluster.recovery import Survivor
    from ravelctl.config.settings import endpoint
    from ravelctl.store.log_entries import LogQuery
    from ravelctl.store.log_source import LiveLog

    try:
        address = endpoint(word)
    except ValueError as error:
        raise usage_error(f"{error}; a data directory is named with a slash") from error
    try:
        async with dial.cluster(app, (address,)) as client:
            status = await client.status(address)
        async with dial.inspect(app) as inspect:
            last = await anext(LiveLog(word, address, inspect).parts(LogQuery(tail=True, limit=1)))
    except RavelError as error:
        raise dial.command_error(error, app) from error
    return Survivor(
        source=word,
        name=status.server.name,
        cluster_id=status.header.cluster_id,
        cluster_name=status.cluster_name,
        replica_id=status.header.replica_id,
        last_term=last.entries[-1].term if last.entries else status.header.term,
        last_index=status.last_index,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        halves=_halves(status.members),
        config_index=status.config_index,
        names={member.replica_id: member.server.name for member in status.members},
        running=True,
        problems=("the cluster has removed it",) if status.removed else (),
    )


def _halves(members: Iterable[Member]) -> tuple[tuple[int, ...], ...]:
    """The voters, and while a change is under way those of before as far as a status tells them."""
    from ravelpb.v1.cluster_pb2 import LEAVING, VOTER

    voters = tuple(member.replica_id for member in members if member.role == VOTER)
    leaving = tuple(member.replica_id for member in members if member.role == LEAVING)
    return (voters, (*voters, *leaving)) if leaving else (voters,)


def _plan_view(found: Plan, failed: list[str]) -> View:
    best = found.best
    advice: list[str] = []
    if not found.has_quorum and not best.problems:
        place = best.source if "/" in best.source else f"the data directory of {best.source}, once its daemon is stopped"
        advice = [f"next: ravelctl recover apply {place} --to NEW_DIRECTORY --name {best.name}"]
    return View(
        kind="RecoverPlan",
        data={
            "cluster": best.cluster_id,
            "cluster_name": best.cluster_name,
            "quorum": found.quorum,
            "has_quorum": found.has_quorum,
            "voters": [U64(voter) for voter in found.voters],
            "missing": [U64(voter) for voter in found.missing],
            "survivors": [_survivor_data(survivor) for survivor in found.survivors],
            "unreadable": failed,
            "conclusions": list(found.sentences),
        },
        body=Table(
            columns=columns("SOURCE", "NAME", "ID", "LAST-TERM", "LAST", "COMMIT", "APPLIED", "STATE"),
            rows=tuple(map(_survivor_row, found.survivors)),
            above=(f"cluster {best.cluster_name} {best.cluster_id}",),
            below=(*failed, *found.sentences, *advice),
        ),
        names=tuple(survivor.source for survivor in found.survivors),
        code=ExitCode.DAMAGED if best.problems else ExitCode.DONE,
    )


def _survivor_data(survivor: Survivor) -> dict[str, Any]:
    numbers = ("replica_id", "last_term", "last_index", "commit_index", "applied_index", "config_index")
    return {
        "source": survivor.source,
        "name": survivor.name,
        **{name: U64(getattr(survivor, name)) for name in numbers},
        "running": survivor.running,
        "problems": list(survivor.problems),
    }


def _survivor_row(survivor: Survivor) -> tuple[str, ...]:
    state = "damaged" if survivor.problems else "running" if survivor.running else "stopped"
    numbers = (survivor.replica_id, survivor.last_term, survivor.last_index, survivor.commit_index, survivor.applied_index)
    return (survivor.source, survivor.name or ABSENT, *map(str, numbers), state)


# --- apply


@command.command("apply", effect=Effect.PLANS, local=True)
@click.argument("directory", type=click.Path())
@click.option("--to", "target", required=True, type=click.Path(), help="The data directory to make; it must be free.")
@click.option("--name", help="Name of the new cluster's first replica. [default: the old one's]")
@click.option("--cluster-name", default="", help="Name of the new cluster. [default: the old one's]")
@click.option("--index", type=Whole(1), help="Take the log only up to this entry. [default: all of it]")
@click.option("--confirm", metavar="CLUSTER_ID", help="The old cluster's id, in place of typing it.")
@pass_app
def apply(
    app: App, directory: str, target: str, name: str | None, cluster_name: str, index: int | None, confirm: str | None
) -> View:
    """Make a new cluster of one out of the data directory of a stopped member.

    It has a new cluster id, so that no member of the old one can ever talk to it; its revisions jump, and sessions end. All of
    the log is taken over, as a leader that was elected with it would. The old directory is only read.
    """
    from ravelctl.cli.confirmation import typed_id
    from ravelctl.cluster.founded import founded_view
    from ravelctl.offline.recovery import facts_to_recover, recover

    facts = facts_to_recover(Path(directory))
    identity = facts.log.identity
    old, last = (identity.cluster_id, identity.name) if identity is not None else ("", "")
    wanted = index or facts.log.last_index
    told = f"cluster {identity.cluster_name if identity else ''} {old} as of entry {wanted}"
    app.say(f"{directory} becomes a new cluster of one in {target}: {told}")
    app.say("the other members of the old cluster must stay down for good: what they know besides is lost")
    if app.settings.dry_run:
        return View(kind="RecoverApply", data={"dry_run": True, "index": U64(wanted)}, body="nothing was made (--dry-run)")
    typed_id(app, old, confirm, look="ravelctl recover plan")
    made = recover(app, facts, Path(target), wanted, name or last, cluster_name)
    return founded_view(
        "RecoverApply",
        target,
        made.identity,
        made.upto.index,
        made.at.term,
        made.at.index,
        made.revision,
        made.keys,
        admin=made.admin,
    )
