"""What the commands about members share: whom the cluster has, how they are shown, and how far a learner is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ravelctl.cli.app import App
from ravelctl.cli.dial import POLL_EVERY_S
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import U64, Table, columns
from ravelctl.client.errors import UnreachableError
from ravelctl.cluster.overview import chief, heard, require_answer, survey, why_silent
from ravelctl.completion.names import remember
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient

STARTING_S: Final = 5.0
"""How long a daemon may take from its start to its first answer."""


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


async def newcomer_status(app: App, client: ClusterClient, address: str) -> pb.StatusResponse:
    """What the daemon that is to be taken in says of itself. One that was started a moment ago is waited for.

    Raises RavelError.
    """
    patience_s = STARTING_S if app.settings.timeout_s is None else min(STARTING_S, app.settings.timeout_s)
    deadline = time.monotonic() + patience_s
    with app.progress(f"waiting for a daemon at {address}:") as progress:
        while True:
            try:
                return await client.status(address)
            except UnreachableError as error:
                if time.monotonic() > deadline:
                    raise
                progress.update(why_silent(address, error))
            await asyncio.sleep(POLL_EVERY_S)


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
