"""The steps by which a registered server leaves its cluster: marked in the registry, removed from the membership, deregistered.

Every step can be repeated, so a caller that was interrupted begins again and gets the same result. A refusal is found before
anything is changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ravelctl.client.connection.rules import RETRYABLE
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import (
    DeadlineError,
    NoLeaderError,
    NotFoundError,
    OutcomeUnknownError,
    RavelError,
    RefusedError,
)
from ravelctl.client.services.admin import AdminClient
from ravelctl.client.services.cluster import ClusterClient
from ravelpb.errors import Reason
from ravelpb.v1 import cluster_pb2
from ravelpb.v1.admin_pb2 import DirectoryCluster, MarkLeavingResponse

LOOK_S: Final = 0.2
"""The pause between two looks at the registry: the record goes with the next report of the cluster's leader."""


NO_QUORUM_S: Final = 5.0
"""How long the cluster may lack a quorum, for example while one of two servers restarts, before the caller gives up."""


class NoQuorumError(NoLeaderError):
    """Too few of the cluster's voters answer to elect a leader, so no server can leave it. Nothing was done."""


@dataclass(frozen=True, slots=True)
class Left:
    """The server that has left."""

    server_id: str
    name: str
    cluster: str
    replica_id: int  # 0: it was not a member yet
    last: bool  # it was the only replica of a cluster without slots, which is gone from the registry too


async def leave_through_admin(admin: AdminClient, server: str, *, tls: TlsOptions | None = None, timeout_s: float = 60.0) -> Left:
    """Remove the server of this id, name or cluster/name from its cluster, and wait until it is deregistered.

    Raises RefusedError if the admin group (LAST_REPLICA) or the cluster's leader (UNSAFE_CHANGE, for example) refuses; then
    nothing was changed, unless the cluster changed meanwhile. NotFoundError: it is not in the registry (any more). DeadlineError:
    it is not done yet; repeat the call.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    found = await admin.mark_leaving(server, dry_run=True)
    replica_id = found.server.replica_id
    if not found.last and found.addresses and not found.server.leaving:
        await _until(deadline, found, dry_run=True, tls=tls)
    server_id = found.server.server.server_id
    try:
        marked = await admin.mark_leaving(server_id)
        while await _listed(admin, server_id) and not marked.last:
            await _until(deadline, marked, dry_run=False, tls=tls)
            _check_time(deadline, found, None)
            await asyncio.sleep(LOOK_S)
    except NotFoundError:
        marked = found  # another caller has completed it meanwhile
    return Left(server_id, found.server.server.name, found.cluster.name, replica_id, marked.last)


async def _listed(admin: AdminClient, server_id: str) -> bool:
    return any(entry.server.server_id == server_id for entry in (await admin.directory()).servers)


async def _until(deadline: float, marked: MarkLeavingResponse, *, dry_run: bool, tls: TlsOptions | None) -> None:
    """Have the leader remove the server, once there is a leader; `dry_run`: only ask whether it would. Raises NoQuorumError."""
    loop = asyncio.get_running_loop()
    without_quorum: float | None = None  # since when
    while True:
        try:
            await _take_out(marked.server.server.server_id, marked.cluster, marked.addresses, dry_run=dry_run, tls=tls)
            return
        except OutcomeUnknownError:
            pass  # the next look at the registry shows it
        except NoQuorumError as error:
            without_quorum = loop.time() if without_quorum is None else without_quorum
            if loop.time() - without_quorum >= NO_QUORUM_S:
                raise
            _check_time(deadline, marked, error)
        except RavelError as error:
            without_quorum = None
            passing = error.reason in RETRYABLE or error.reason in (Reason.CHANGE_IN_PROGRESS, Reason.STALE_VIEW)
            if not passing or (isinstance(error, RefusedError) and error.reason is Reason.TRANSFER_FAILED):
                raise
            _check_time(deadline, marked, error)
        await asyncio.sleep(LOOK_S)


async def _take_out(
    server_id: str, cluster: DirectoryCluster, addresses: Sequence[str], *, dry_run: bool, tls: TlsOptions | None
) -> None:
    if not addresses:
        return  # no member was ever reported: there is no membership to leave
    async with ClusterClient(addresses, tls=tls, cluster_id=cluster.cluster_id) as client:
        replica_id = await _replica_id(client, server_id)
        if not replica_id:
            return
        answer = await client.leave([replica_id], dry_run=dry_run)
    if not answer.verdict.allowed and dry_run:
        raise RefusedError(answer.verdict.reason, reason=Reason.UNSAFE_CHANGE, next_step=answer.verdict.next_step)


async def _replica_id(client: ClusterClient, server_id: str) -> int:
    """Return the replica id of this server; 0: the leader does not list it. Raises NoLeaderError, NoQuorumError."""
    statuses = [status for status in (await client.statuses()).values() if isinstance(status, cluster_pb2.StatusResponse)]
    leaders = [status for status in statuses if status.role == cluster_pb2.LEADER]
    if not leaders:
        _check_quorum(statuses)
        raise NoLeaderError("the cluster of the server that is to leave has no leader", next_step="see `ravelctl status`")
    members = max(leaders, key=lambda status: status.header.term).members
    return next((int(member.replica_id) for member in members if member.server.server_id == server_id), 0)


def _check_quorum(statuses: Sequence[cluster_pb2.StatusResponse]) -> None:
    """Raise NoQuorumError if fewer voters answer than elect a leader, by the newest membership that any of them knows."""
    members = max(statuses, key=lambda status: status.config_index).members if statuses else ()
    voters = {member.server.server_id: member.server.name for member in members if member.role == cluster_pb2.VOTER}
    up = {status.server.server_id for status in statuses} & voters.keys()
    if statuses and 2 * len(up) > len(voters):
        return
    names = ", ".join(sorted(voters.values()))
    told = f"of the voters {names} only {len(up)} of {len(voters)} answer" if voters else "none of its servers answers"
    raise NoQuorumError(
        f"the cluster of the server that is to leave has no quorum: {told}, so no server can leave it",
        next_step="start its servers again, then repeat the command; if they are gone for good, see `ravelctl recover`",
    )


def _check_time(deadline: float, marked: MarkLeavingResponse, error: RavelError | None) -> None:
    if asyncio.get_running_loop().time() < deadline:
        return
    why = f": {error.message}" if error is not None else ", though its cluster may have let it go already"
    raise DeadlineError(
        f"server {marked.server.server.name} of cluster {marked.cluster.name} has not left yet{why}",
        next_step="repeat the command: it continues where it stopped",
    )
