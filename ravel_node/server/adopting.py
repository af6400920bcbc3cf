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
from ravel_node.machine.slots import bitmap, difference, slots_of, union
from ravel_node.raft.types import Index
from ravel_node.replica.replica import Replica
from ravel_node.server.desk import DirectoryDesk
from ravel_node.server.limits import InputError
from ravelctl.client import ClusterClient, RavelError, TlsOptions
from ravelctl.client.services.slots import SlotsClient
from ravelpb.errors import Reason
from ravelpb.v1.cluster_pb2 import StatusResponse
from ravelpb.v1.common_pb2 import ServerRef
from ravelpb.v1.slots_pb2 import CLAIM, ChangeSlotsRequest

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
    missing: Sequence[int]  # slots that the map gives it and it does not own
    extra: Sequence[int]  # slots that it owns and the map gives to others
    keys_extra: int  # in those
    claimable: Sequence[int]  # of `missing`, those that nobody else owns; looked for where it was asked to
    owned: bytes  # the set of slots that it owns
    map_version: int  # before anybody was asked


class Adopting:
    """What the Admin service does for Adopt. All raise what DirectoryDesk raises."""

    def __init__(self, desk: DirectoryDesk, client_tls: TlsOptions | None) -> None:
        self._desk = desk
        self._tls = client_tls

    async def look(self, directory: Directory, name: str, addresses: Sequence[str], cluster_id: str, *, claim: bool) -> Found:
        """Who answers at these addresses; with `claim` also what others own of the slots that it lacks.

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
                told = await client.ownership()
                given = bitmap(directory.slots_of(cluster.number))
                missing, extra = slots_of(difference(given, told.owned)), slots_of(difference(told.owned, given))
                keys = await count_keys(client, extra)
            except RavelError as error:
                raise RefusedError(
                    Reason.UNREACHABLE_MEMBER, f"cluster {found_id[:8]} does not tell which slots it owns: {error.message}"
                ) from None
        if claim and missing and told.moves:
            # One of them may end with a slot less before the claim comes, and the claim would bring it back.
            raise RefusedError(
                Reason.MOVE_REFUSED,
                f"cluster {cluster.name} has slots under way, and claims none before that has ended: see `ravelctl admin slots`",
            )
        held = await self._held_elsewhere(directory, cluster) if claim and missing else frozenset()
        return Found(
            cluster=cluster,
            done=done,
            cluster_id=found_id,
            cluster_name=status.cluster_name,
            members=[member.server for member in status.members],
            revision=told.revision,
            moves_called_off=0 if done else _called_off(directory, cluster),
            missing=missing,
            extra=extra,
            keys_extra=keys,
            claimable=[slot for slot in missing if slot not in held],
            owned=told.owned,
            map_version=directory.slot_map.version,
        )

    async def adopt(self, found: Found) -> Replica:
        """Put it into the log."""
        if found.done:
            return (await self._desk.read())[0]
        replica, _ = await self._desk.ask(AdoptCluster(found.cluster.name, found.cluster.cluster_id, found.cluster_id))
        return replica

    async def claim(self, found: Found) -> None:
        """Let it own, besides what it owns, the slots of `claimable`, which hold no keys then. Repeated, the same.

        The map gives them to it, and each other cluster was asked: so nobody else serves them, nor will. The claim names the map
        of before, since the cluster refuses one that is older than what it has given away meanwhile. Raises RefusedError where it
        does not take the step: while it has slots under way.
        """
        if not found.claimable:
            return
        slots = slots_of(union(found.owned, bitmap(found.claimable)))
        own = [server.addresses.listen for server in found.members if server.addresses.listen]
        async with SlotsClient(own, timeout_s=ASK_S, tls=self._tls, cluster_id=found.cluster_id) as client:
            try:
                await client.change(ChangeSlotsRequest(step=CLAIM, slots=slots, map_version=found.map_version))
            except RavelError as error:
                raise RefusedError(
                    Reason.MOVE_REFUSED, f"cluster {found.cluster.name} does not claim its slots: {error.message}"
                ) from None

    async def _held_elsewhere(self, directory: Directory, cluster: ClusterEntry) -> frozenset[int]:
        """The slots that any other cluster owns, or has under way. Raises RefusedError where one does not answer."""
        held: set[int] = {slot for move in directory.moves.values() for slot in move.slots}
        for other in directory.clusters.values():
            if other.number == cluster.number or not other.founded:
                continue
            addresses = directory.addresses_of(other.number)
            try:
                async with SlotsClient(addresses, timeout_s=ASK_S, tls=self._tls, cluster_id=other.cluster_id) as client:
                    told = await client.ownership()
            except RavelError as error:
                raise RefusedError(
                    Reason.UNREACHABLE_MEMBER,
                    f"cluster {other.name} does not tell which slots it owns, and some of those that are to be claimed may be "
                    f"among them: {error.message}",
                ) from None
            held.update(slots_of(told.owned))
            held.update(slot for move in told.moves for slot in move.slots)
        return frozenset(held)

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


async def count_keys(client: SlotsClient, slots: Sequence[int]) -> int:
    """The keys of these slots."""
    if not slots:
        return 0
    return sum([len(page.keys) async for page in client.read(slots, keys_only=True)])
