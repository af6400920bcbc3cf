"""`bootstrap` and `join`: how blank daemons come into a cluster, step by step, each step repeatable.

Founding makes the first daemon a cluster of one voter in one durable write. The others join as learners, one after the other,
because a cluster makes one change of membership at a time; they become voters in one joint change, so that the cluster goes from
one voter to all of them without passing through sizes whose quorum is awkward. Everything a step needs to know it asks the
daemons, so that a run which was interrupted is finished by the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from ravelctl.cli import dial
from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import ABSENT, U64, Table, View, columns, count_text
from ravelctl.client.errors import RavelError
from ravelctl.cluster.membership import (
    caught_up,
    cluster_status,
    distance,
    member_data,
    member_table,
    newcomer_status,
    role_of,
    standing_of,
)
from ravelctl.cluster.overview import wrong_door_step
from ravelctl.cluster.preflight import refusal, show_refused, verdict_text, verdict_view
from ravelpb.errors import Reason
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient

T = TypeVar("T")

DEFAULT_NAME: Final = "ravel"
START_PATIENCE_S: Final = 10.0
"""How long daemons may take to start answering: whoever founds a cluster has often started them just before."""

START_THEM: Final = "start them with `ravel_node start`, then repeat the command"
_PASSING: Final = {
    Reason.CHANGE_IN_PROGRESS,
    Reason.NOT_CAUGHT_UP,
    Reason.UNREACHABLE_MEMBER,
    Reason.STALE_VIEW,
    Reason.NOT_LEADER,
}
"""Refusals that a cluster which is just being made gets over by itself."""

Daemons = Mapping[str, pb.StatusResponse]


async def found(app: App, addresses: Sequence[str], name: str | None) -> View:
    """Make a cluster of these daemons, or finish making it. Raises CommandError (5) where some are in another one."""
    async with dial.cluster(app, tuple(addresses)) as client:
        daemons = await _once_up(app, client, addresses)
        _check(daemons, name)
        first = addresses[0]
        name = name or daemons[first].cluster_name or DEFAULT_NAME
        cluster_id = daemons[first].header.cluster_id or uuid4().hex
        if app.settings.dry_run:
            return _plan(daemons, name)
        with app.progress(f"bootstrap {name}:") as progress:
            wait = dial.Wait(app.settings.wait_timeout_s(), progress)
            app.say(f"{first} founds cluster {name} ({cluster_id[:8]})")
            await client.bootstrap(first, cluster_id, name)
            status = await _with_learners(app, client, addresses, daemons, wait)
            status = await _all_voters(app, client, status, wait)
    return View(
        kind="Bootstrap",
        data={"cluster": cluster_id, "cluster_name": name, "members": [member_data(m) for m in status.members]},
        body=member_table(status.members, status.leader_id),
        names=tuple(m.server.name for m in status.members),
        notes=(f"cluster {name} has {len(status.members)} voters and is led by {_first_name(status)}",),
    )


def _first_name(status: pb.StatusResponse) -> str:
    return next((m.server.name for m in status.members if m.replica_id == status.leader_id), ABSENT)


async def _once_up(app: App, client: ClusterClient, addresses: Sequence[str]) -> Daemons:
    """As `_ask_all`, with patience for daemons that were started a moment ago."""
    deadline = time.monotonic() + min(START_PATIENCE_S, app.settings.wait_timeout_s())
    told = False
    while True:
        try:
            return await _ask_all(client, addresses)
        except CommandError as error:
            if error.code is not ExitCode.UNREACHABLE or error.next_step != START_THEM or time.monotonic() >= deadline:
                raise
        if not told:
            told = True
            app.say("waiting for the daemons to answer")
        await asyncio.sleep(dial.POLL_EVERY_S)


async def _ask_all(client: ClusterClient, addresses: Sequence[str]) -> Daemons:
    """All must answer. Raises CommandError (3) that names those that do not, (2) if one is named twice."""
    found = await asyncio.gather(*(client.status(address) for address in addresses), return_exceptions=True)
    daemons: dict[str, pb.StatusResponse] = {}
    silent: list[str] = []
    for address, answer in zip(addresses, found, strict=True):
        if isinstance(answer, RavelError):
            silent.append(answer.message)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            daemons[address] = answer
    if silent:
        raise CommandError(
            f"{len(silent)} of {len(addresses)} daemons do not answer: {'; '.join(silent)}",
            code=ExitCode.UNREACHABLE,
            next_step=wrong_door_step(found) or START_THEM,
            reason="UNREACHABLE",
        )
    if len(daemons) < len(addresses) or len({status.server.server_id for status in daemons.values()}) < len(addresses):
        raise usage_error(f"{' '.join(addresses)} names a daemon twice", "name each daemon once")
    return daemons


def _check(daemons: Daemons, name: str | None) -> None:
    """Nobody may be taken out of another cluster, and an old cluster is not extended under the name of a new one."""
    first, *others = daemons
    own = daemons[first].header.cluster_id
    for address in others:
        theirs = daemons[address].header.cluster_id
        if theirs and theirs != own:
            raise _refused(
                f"{address} is a member of cluster {daemons[address].cluster_name} ({theirs[:8]}) already",
                "leave it out, or name that cluster's founder first to finish its bootstrap",
            )
    if not own:
        return
    if daemons[first].removed:
        raise _refused(f"{first} was removed from its cluster for good", "start it with an empty data directory")
    if name and name != daemons[first].cluster_name:
        raise _refused(f"{first} founded cluster {daemons[first].cluster_name}, not {name}", "repeat the command without --name")
    given = {status.server.server_id for status in daemons.values()}
    absent = [m.server.name for m in daemons[first].members if m.server.server_id not in given]
    if absent:
        raise _refused(
            f"{first} is in cluster {daemons[first].cluster_name}, which has members not named here: {', '.join(absent)}",
            f"take blank daemons in with `ravelctl join ADDRESS --via {first}`",
        )


def _refused(message: str, next_step: str) -> CommandError:
    return CommandError(message, code=ExitCode.REFUSED, next_step=next_step, reason="ALREADY_MEMBER")


def _plan(daemons: Daemons, name: str) -> View:
    first = next(iter(daemons))
    rows = tuple(
        (
            status.server.name,
            address,
            "is a member" if not status.blank else "founds it" if address == first else "joins, then votes",
        )
        for address, status in daemons.items()
    )
    return View(
        kind="BootstrapPlan",
        data={"cluster_name": name, "daemons": [{"name": row[0], "address": row[1], "step": row[2]} for row in rows]},
        body=Table(columns=columns("NAME", "ADDRESS", "STEP"), rows=rows, above=(f"cluster {name}",)),
        notes=("dry run: nothing was changed",),
    )


async def _with_learners(
    app: App, client: ClusterClient, addresses: Sequence[str], daemons: Daemons, wait: dial.Wait
) -> pb.StatusResponse:
    """All daemons are members: those that are not yet join as learners, one after the other. Returns the leader's status."""
    first, *others = addresses
    status = await _leading(client, addresses, wait)
    members = {member.server.server_id for member in status.members}
    for address in others:
        # A member whose daemon is blank was taken in by a run that broke off too early: joining again is safe.
        if daemons[address].server.server_id in members and not daemons[address].blank:
            continue
        app.say(f"{address} joins as a learner")

        async def joined(address: str = address) -> pb.JoinResponse | str:
            return await _or_reason(client.join(address, [first], promote=False))

        await wait.until(joined, f"the join of {address}")
    return await _leading(client, addresses, wait)


async def _or_reason(change: Awaitable[T]) -> T | str:
    """The answer to a change, or why it has to be tried again in a moment. Raises RavelError for what time does not cure."""
    try:
        return await change
    except RavelError as error:
        if error.reason not in _PASSING:
            raise
        return error.message


async def _leading(client: ClusterClient, addresses: Sequence[str], wait: dial.Wait) -> pb.StatusResponse:
    """The status of whichever of them leads, once one does."""

    async def look() -> pb.StatusResponse | str:
        found = await asyncio.gather(*(client.status(address) for address in addresses), return_exceptions=True)
        leading = [s for s in found if isinstance(s, pb.StatusResponse) and s.role == pb.LEADER and not s.blank]
        return max(leading, key=lambda s: s.header.term) if leading else "waiting for a leader"

    return await wait.until(look, "a leader")


async def _all_voters(app: App, client: ClusterClient, status: pb.StatusResponse, wait: dial.Wait) -> pb.StatusResponse:
    """Learners catch up, then become voters in one change. Returns the leader's status once all are."""
    addresses = [member.server.addresses.listen for member in status.members]
    learners = [member.replica_id for member in status.members if member.role == pb.LEARNER]

    async def ready() -> pb.StatusResponse | str:
        now = await _leading(client, addresses, wait)
        behind = [m for m in now.members if m.replica_id in learners and not caught_up(now, m.replica_id)]
        return "; ".join(f"{m.server.name} is {distance(now, m.replica_id)}" for m in behind) or now

    async def promoted() -> pb.StatusResponse | str:
        now = await _leading(client, addresses, wait)
        if waiting := [m.replica_id for m in now.members if m.role == pb.LEARNER]:
            if isinstance(refused := await _or_reason(client.promote(waiting)), str):
                return refused
            now = await _leading(client, addresses, wait)
        pending = [m.server.name for m in now.members if m.role != pb.VOTER]
        return f"{', '.join(pending)} not promoted yet" if pending else now

    if learners:
        await wait.until(ready, "catching up")
        app.say(f"{count_text(len(learners), 'learner')} caught up: they become voters")
    return await wait.until(promoted, "the promotion")


# --- join


async def join(app: App, address: str, via: Sequence[str], *, promote: bool, wait: bool) -> View:
    """Take the daemon at `address` into the cluster behind `via`. Raises CommandError: 5 where the leader refuses."""
    async with dial.cluster(app, tuple(via)) as client:
        status = await cluster_status(app, client, via, need_leader=True)
        newcomer = await newcomer_status(app, client, address)
        members = [*status.members, pb.Member(server=newcomer.server)]  # it has no id yet
        name, title = newcomer.server.name, f"join {newcomer.server.name} to cluster {status.cluster_name}"
        if newcomer.blank:
            verdict = (await client.join(address, via, promote=promote, dry_run=True)).verdict
            if not verdict.allowed:
                show_refused(app, verdict, members)
                raise refusal(title, verdict)
            if app.settings.dry_run:
                return verdict_view(title, verdict, members)
            app.say(f"{title}\n{verdict_text(verdict, members)}")
            replica_id = (await client.join(address, via, promote=promote)).replica.replica_id
        elif newcomer.header.cluster_id != status.header.cluster_id:
            raise _refused(
                f"{name} at {address} is a member of cluster {newcomer.cluster_name} ({newcomer.header.cluster_id[:8]}) already",
                "an identity is taken once: start the daemon with an empty data directory",
            )
        elif newcomer.removed:
            raise _refused(
                f"{name} at {address} was removed from cluster {status.cluster_name} for good",
                f"`ravelctl join {address} --via {via[0]} --reset` empties its data directory and takes it in under a new id",
            )
        else:
            replica_id = newcomer.header.replica_id
            app.say(f"{name} is a member of cluster {status.cluster_name} already")
            if app.settings.dry_run:
                return _joined(status, name, replica_id, standing_of(status, replica_id))
        standing: pb.Member | str = "it catches up"
        if wait:
            with app.progress(f"join {name}:") as progress:
                standing = await _settled(
                    app, client, via, replica_id, promote, dial.Wait(app.settings.wait_timeout_s(), progress)
                )
    return _joined(status, name, replica_id, standing)


def _joined(status: pb.StatusResponse, name: str, replica_id: int, standing: pb.Member | str) -> View:
    role = role_of(standing) if isinstance(standing, pb.Member) else "learner"
    how = "" if isinstance(standing, pb.Member) else f": {standing}"
    return View(
        kind="Join",
        data={
            "cluster": status.header.cluster_id,
            "cluster_name": status.cluster_name,
            "id": U64(replica_id),
            "name": name,
            "role": role,
        },
        body=f"{name} is replica {replica_id} of cluster {status.cluster_name}, a {role}{how}",
        names=(name,),
    )


async def _settled(
    app: App, client: ClusterClient, via: Sequence[str], replica_id: int, promote: bool, patience: dial.Wait
) -> pb.Member:
    """Return the newcomer once it is a voter, or, if it is to stay a learner, has caught up."""

    async def look() -> pb.Member | str:
        status = await cluster_status(app, client, via, need_leader=True)
        standing = standing_of(status, replica_id)
        if promote or isinstance(standing, pb.Member) or not caught_up(status, replica_id):
            return standing
        return next(m for m in status.members if m.replica_id == replica_id)

    return await patience.until(look, "catching up")
