"""What the commands that change membership share: finding whom they mean, and waiting until a learner is where it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ravelctl import dial
from ravelctl.app import App
from ravelctl.errors import CommandError
from ravelctl.exit_codes import ExitCode
from ravelctl.names import remember
from ravelctl.output import U64, Table, View, columns
from ravelctl.overview import chief, find_member, heard, require_answer, survey
from ravelctl.preflight import preflight
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient

CHANGE_TIMEOUT_S: Final = 30.0
"""For a change that the leader answers only once it is in effect."""


async def cluster_status(
    app: App, client: ClusterClient, endpoints: Sequence[str] = (), *, need_leader: bool = False
) -> pb.StatusResponse:
    """What the leader says, or the best informed replica, of the cluster at `endpoints` (by default those of the settings).

    Raises CommandError: 3 nobody answers, 4 no cluster or no leader.
    """
    answers = await survey(client, endpoints or app.settings.endpoints, timeout_s=app.settings.timeout_s)
    require_answer(answers)
    remember(app, answers.values())
    status = chief(answers)
    if status is None:
        raise CommandError(
            f"the daemons at {', '.join(answers)} belong to no cluster yet",
            code=ExitCode.NO_LEADER,
            next_step="make one with `ravelctl bootstrap`",
            reason="BLANK",
        )
    if need_leader and status.role != pb.LEADER:
        raise CommandError(
            f"cluster {status.cluster_name} has no leader",
            code=ExitCode.NO_LEADER,
            next_step="look with `ravelctl status`: a majority of the voters must be up",
            reason="NO_LEADER",
        )
    return status


async def remove(app: App, words: Sequence[str]) -> View:
    """Take replicas out for good, in one change, after a yes."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        leaving = [find_member(status.members, word) for word in dict.fromkeys(words)]
        ids = [member.replica_id for member in leaving]
        title = f"remove {_listed(leaving)} from cluster {status.cluster_name}"

        async def judge() -> pb.Verdict:
            return (await client.leave(ids, dry_run=True)).verdict

        verdict, dry = await preflight(app, title, judge, status.members, question=f"{title}? An id is never used twice.")
        if dry:
            return dry
        done = await client.leave(ids, expect=verdict.seen, timeout_s=_change_timeout_s(app))
    return _changed(f"removed {_listed(leaving)}", done, leaving)


async def promote(app: App, words: Sequence[str]) -> View:
    """Make learners voters, in one change."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        rising = [find_member(status.members, word) for word in dict.fromkeys(words)]
        ids = [member.replica_id for member in rising]

        async def judge() -> pb.Verdict:
            return (await client.promote(ids, dry_run=True)).verdict

        verdict, dry = await preflight(app, f"promote {_listed(rising)}", judge, status.members)
        if dry:
            return dry
        done = await client.promote(ids, expect=verdict.seen, timeout_s=_change_timeout_s(app))
    return _changed(f"promoted {_listed(rising)}", done, rising)


def _listed(members: Sequence[pb.Member]) -> str:
    return ", ".join(f"{member.server.name} ({member.replica_id})" for member in members)


def _changed(sentence: str, done: pb.ChangeResponse, touched: Sequence[pb.Member]) -> View:
    return View(
        kind="Change",
        data={
            "replicas": [{"name": m.server.name, "id": U64(m.replica_id)} for m in touched],
            "members": [member_data(m) for m in done.members],
            "tolerates": done.verdict.after.tolerates,
        },
        body=sentence,
        names=tuple(m.server.name for m in touched),
    )


def _change_timeout_s(app: App) -> float:
    return app.settings.wait_timeout_s(CHANGE_TIMEOUT_S)


# --- members as they are shown


def role_of(member: pb.Member) -> str:
    return pb.MemberRole.Name(member.role).lower()


def member_data(member: pb.Member) -> dict[str, Any]:
    addresses = member.server.addresses
    return {
        "id": U64(member.replica_id),
        "name": member.server.name,
        "role": role_of(member),
        "auto_promote": member.auto_promote,
        "listen": addresses.listen,
        "peer": addresses.peer,
        "version": member.server.version,
        "server_id": member.server.server_id,
    }


def member_table(members: Sequence[pb.Member], leader_id: int) -> Table:
    def row(m: pb.Member) -> tuple[str, ...]:
        role = "leader" if m.replica_id == leader_id else role_of(m)
        place = (m.server.addresses.listen, m.server.addresses.peer)
        return (str(m.replica_id), m.server.name, role, *place, m.server.version or "-", m.server.server_id)

    return Table(
        columns=columns("ID", "NAME", "ROLE", "CLIENTS", "PEERS", "VERSION", "+SERVER-ID"),
        rows=tuple(map(row, members)),
    )


# --- waiting for a learner


def standing_of(status: pb.StatusResponse, replica_id: int) -> str | pb.Member:
    """The member once it is a voter, else how far it is, in words."""
    member = next((m for m in status.members if m.replica_id == replica_id), None)
    if member is None:
        return "it is no member yet"
    if member.role == pb.VOTER and not any(m.role == pb.LEAVING for m in status.members):
        return member
    return f"{member.server.name} is a learner, {distance(status, replica_id)}"


def distance(status: pb.StatusResponse, replica_id: int) -> str:
    """How far a replica is behind, in words."""
    peer = next((p for p in status.progress if p.replica_id == replica_id), None)
    if peer is None or not peer.contacted:
        return "not heard by the leader yet"
    if peer.state == pb.SNAPSHOT:
        share = peer.snapshot_sent_bytes / peer.snapshot_size_bytes if peer.snapshot_size_bytes else 0.0
        return f"installing snapshot {peer.snapshot_index} ({share:.0%})"
    behind = max(0, status.last_index - peer.match)
    return f"{behind} entries behind" if behind else "caught up"


def caught_up(status: pb.StatusResponse, replica_id: int) -> bool:
    """Whether the leader replicates to it, and it holds all that is committed."""
    peer = next((p for p in status.progress if p.replica_id == replica_id), None)
    return peer is not None and heard(status, peer) and peer.state == pb.REPLICATE and peer.match >= status.commit_index
