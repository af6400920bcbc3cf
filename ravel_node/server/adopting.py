"""A cluster that came back under another id, looked at before it takes its old place in the list (see ravel_node.admin.adoption).

The admin's leader asks it itself: what it cannot reach it could not use either. And it asks the old members: while one of them
answers, what it acknowledges would be lost, and whoever dials it by hand would be served; so all of them must be stopped first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ravel_node.admin.answers import RefusedError
from ravel_node.admin.commands import AdoptCluster, RegisterServer, VacateAddress
from ravel_node.admin.decisions import decide, holder_of
from ravel_node.admin.model import ClusterEntry, Directory, Phase
from ravel_node.raft.types import Index
from ravel_node.replica.replica import Replica
from ravel_node.server.desk import DirectoryDesk
from ravel_node.server.limits import InputError
from ravelctl.client import ClusterClient, RavelError, TlsOptions
from ravelctl.client.services.slots import SlotsClient
from ravelpb.errors import Reason
from ravelpb.v1.cluster_pb2 import StatusResponse
from ravelpb.v1.common_pb2 import ServerRef

ASK_S: Final = 3.0
"""How long one daemon may take to say who it is, and a leader to tell one page."""

ADDRESSES_MAX: Final = 16
"""Named at once."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came back, beside what the list has."""

    cluster: ClusterEntry  # of the list
    done: bool  # the list has it already
    cluster_id: str
    cluster_name: str  # as it names itself
    members: Sequence[ServerRef]
    revision: int
    moves_called_off: int


class Adopting:
    """What the Admin service does for Adopt. All raise what DirectoryDesk raises."""

    def __init__(self, desk: DirectoryDesk, client_tls: TlsOptions | None) -> None:
        self._desk = desk
        self._tls = client_tls

    async def look(self, directory: Directory, name: str, addresses: Sequence[str], cluster_id: str) -> Found:
        """Who answers at these addresses.

        Raises RefusedError where it cannot take the place of the cluster of this name.
        """
        cluster = directory.cluster_named(name)
        if cluster is None:
            raise RefusedError(
                Reason.NOT_FOUND,
                f"there is no cluster {name[:80]} in the list: put it there first (ravelctl admin add-cluster NAME)",
            )
        if not 1 <= len(addresses) <= ADDRESSES_MAX:
            raise InputError(
                f"{len(addresses)} addresses: name 1 to {ADDRESSES_MAX} members of what came back",
                field="addresses",
                value=len(addresses),
            )
        status = await self._status(addresses)
        found_id = status.header.cluster_id
        if cluster_id not in ("", found_id):
            raise RefusedError(
                Reason.STALE_VIEW, f"cluster {found_id[:8]} answers at {addresses[0]}, and {cluster_id[:8]} was meant: look again"
            )
        done = found_id == cluster.cluster_id
        if not done:
            decide(directory, AdoptCluster(name, cluster.cluster_id, found_id), Index(0))
            await self._check_gone(directory, cluster)
        own = [member.server.addresses.listen for member in status.members if member.server.addresses.listen]
        async with SlotsClient(own or list(addresses), timeout_s=ASK_S, tls=self._tls, cluster_id=found_id) as client:
            try:
                revision = (await client.ownership()).revision
            except RavelError as error:
                raise RefusedError(
                    Reason.UNREACHABLE_MEMBER, f"cluster {found_id[:8]} does not answer: {error.message}"
                ) from None
        return Found(
            cluster=cluster,
            done=done,
            cluster_id=found_id,
            cluster_name=status.cluster_name,
            members=[member.server for member in status.members],
            revision=revision,
            moves_called_off=0 if done else _called_off(directory, cluster),
        )

    async def adopt(self, found: Found) -> Replica:
        """Put it into the log."""
        if found.done:
            return (await self._desk.read())[0]
        replica, _ = await self._desk.ask(AdoptCluster(found.cluster.name, found.cluster.cluster_id, found.cluster_id))
        return replica

    async def vacated(self, command: RegisterServer) -> bool:
        """Whether an address that another server of the list has is this server's now, and the list has been told.

        It is where this one, and not the other, answers there: so two servers that have exchanged their addresses both find a
        place, and one that was given an address by mistake gets nobody's.
        """
        _, directory = await self._desk.read()
        holder = holder_of(directory, command.server_id, {command.listen, command.peer})
        if holder is None:
            return True
        if command.listen not in (holder.listen, holder.peer):
            return False  # nobody can be asked who he is at an address for replicas
        answer = await self._ask(command.listen)
        if not isinstance(answer, StatusResponse) or answer.server.server_id != command.server_id:
            return False
        await self._desk.ask(VacateAddress(holder.server_id, holder.listen, holder.peer))
        return True

    async def _status(self, addresses: Sequence[str]) -> StatusResponse:
        """Of whoever answers there. Raises RefusedError."""
        answers = await self._ask_all(addresses)
        found = [answer for answer in answers if isinstance(answer, StatusResponse)]
        if not found:
            why = "; ".join(str(answer) for answer in answers if isinstance(answer, RavelError))
            raise RefusedError(
                Reason.UNREACHABLE_MEMBER, f"nobody answers the admin at {', '.join(addresses)}: {why}; start it, with --admin"
            )
        seated = [answer for answer in found if answer.header.cluster_id]
        if not seated or len({answer.header.cluster_id for answer in seated}) > 1:
            what = "servers of several clusters" if seated else "a server that belongs to no cluster yet"
            raise RefusedError(
                Reason.INVALID_ARGUMENT, f"at {', '.join(addresses)} answers {what}: name members of the cluster that came back"
            )
        return seated[0]

    async def _check_gone(self, directory: Directory, cluster: ClusterEntry) -> None:
        """Raises RefusedError while members of the old cluster answer at the addresses that the list has."""
        addresses = [server.listen for server in directory.servers_of(cluster.number) if server.listen]
        answers = zip(addresses, await self._ask_all(addresses), strict=True)
        alive = [
            address
            for address, answer in answers
            if isinstance(answer, StatusResponse) and answer.header.cluster_id == cluster.cluster_id
        ]
        if alive:
            raise RefusedError(
                Reason.UNSAFE_CHANGE,
                f"of the cluster {cluster.name} ({cluster.cluster_id[:8]}) that the list has, {', '.join(sorted(alive))} "
                f"still {'answers' if len(alive) == 1 else 'answer'}: what it holds and takes would be lost; stop its servers, "
                "or, if they are what is to go on, stop what came back",
            )

    async def _ask_all(self, addresses: Iterable[str]) -> list[StatusResponse | RavelError]:
        return list(await asyncio.gather(*map(self._ask, addresses)))

    async def _ask(self, address: str) -> StatusResponse | RavelError:
        try:
            async with ClusterClient([address], tls=self._tls, timeout_s=ASK_S) as client:
                return await client.status(address)
        except RavelError as error:
            return error


def _called_off(directory: Directory, cluster: ClusterEntry) -> int:
    return sum(move.phase in (Phase.PLANNED, Phase.COPYING) for move in directory.moves_of(cluster.number))
