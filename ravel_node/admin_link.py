"""What a daemon does with its admin: ask for a cluster while it is blank, then say who it is and how it stands, while it runs.

The admin is told, never obeyed: with all admins away a cluster goes on as it is. Two refusals end a daemon all the same, since an
operator has decided so: its cluster was superseded (`ravelctl admin adopt`), or it is blank and was struck from the list.

Everything here is repeated until it is answered, and every step can be repeated: the admin gives one server one answer, founding
and joining are safe by themselves (see seat.py), and reports are fenced by term and membership, so that late or repeated ones
change nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from ravel_node.machine.members import all_replicas
from ravel_node.machine.ownership import founded
from ravel_node.machine.slots import ALL_SLOTS, NO_SLOTS
from ravel_node.replica.errors import AlreadyMemberError, MembershipError
from ravel_node.replica.replica import Replica
from ravel_node.seat import Seat
from ravel_node.server.errors import ForwardedError
from ravel_node.server.host import Host
from ravel_node.server.status import server_to_proto
from ravelctl.client import (
    AdminClient,
    InvalidArgumentError,
    NotFoundError,
    RavelError,
    Reason,
    RefusedError,
    TlsOptions,
    WrongServerError,
)
from ravelpb.v1 import admin_pb2
from ravelpb.v1.common_pb2 import ServerRef

REPORT_EVERY_S: Final = 2.0
"""Between two reports of a server of which nothing is new: five of them fit into the silence after which it counts as down."""

CALL_S: Final = 4.0
"""So long one call is repeated, at one admin after the other."""

RETRY_S: Final = 0.5
"""Between two times that a blank server asks: its cluster may be founded at any moment."""

RETRY_MAX_S: Final = 5.0
"""The longest wait while no admin answers."""

REFUSED_RETRY_S: Final = 30.0
"""After a refusal that only a person can do something about."""

log = structlog.get_logger("ravel_node")


class NoPlaceError(Exception):
    """The admin has no place for this server (any more), by what an operator decided. The message says what to do."""


class AdminLink:
    """The link of one daemon to its admin group. `turned_out` is told why this server must not go on."""

    def __init__(
        self,
        host: Host,
        seat: Seat,
        admins: Sequence[str],
        *,
        new_cluster: str,
        client_tls: TlsOptions | None,
        turned_out: Callable[[NoPlaceError], None],
    ) -> None:
        self._host = host
        self._seat = seat
        self._new_cluster = new_cluster
        # An admin group that was restored has another cluster id at the same addresses, and its reports are wanted all the same.
        self._client = AdminClient(admins, timeout_s=CALL_S, tls=client_tls, pins_cluster=False)
        self._turned_out = turned_out
        self._placed = False  # since this start, while blank
        self._away_since: float | None = None  # loop time; what was logged when no admin answered is not over
        self._registered = False  # since this start
        self._register_at = 0.0  # not before; loop time
        self._wait_s = RETRY_S  # after the next failure

    async def run(self) -> None:
        """Until cancelled, or until this server was taken out of its cluster and the admin knows."""
        async with self._client:
            while self._host.identity.blank:
                await self._ask_for_a_seat()
            while not self._host.identity.removed:
                standing = _standing(self._host.replica)
                wait_s = await self._say(self._host.replica)
                if _standing(self._host.replica) == standing or wait_s < REPORT_EVERY_S:
                    await self._host.replica.changed(wait_s)
            await self._tell_removed()

    # --- while blank

    async def _ask_for_a_seat(self) -> None:
        """One try to be given a cluster and to be in it."""
        try:
            server = server_to_proto(self._host.server)
            told = await self._client.register(server, new_cluster=self._new_cluster, again=self._placed)
            self._placed = True
            self._answered()
            self._wait_s = RETRY_S
            if told.found_it:
                owned = founded(ALL_SLOTS if told.owns_all_slots else NO_SLOTS, told.map_version)
                await self._seat.found(told.cluster.cluster_id, told.cluster.name, owned=owned)
            elif told.addresses:
                via, cluster_id = list(told.addresses), told.cluster.cluster_id
                await self._seat.join(via, promote=True, dry_run=False, cluster_id=cluster_id)
            else:
                self._in_the_way("unfounded", f"cluster {told.cluster.name} is not founded yet: waiting for its first server")
        except AlreadyMemberError:
            return  # somebody gave it an identity by hand
        except NotFoundError as error:
            self._turned_out(NoPlaceError(error.message))
        except RavelError as error:
            self._failed(error)
        except (ForwardedError, MembershipError) as error:
            self._in_the_way("join", str(error))
        if self._host.identity.blank:
            await asyncio.sleep(self._wait_s)

    # --- with a seat

    async def _say(self, replica: Replica) -> float:
        """Register, if that is still to be done, and report; how long to wait before the next time, in seconds."""
        loop = asyncio.get_running_loop()
        identity = self._host.identity
        server = server_to_proto(self._host.server)
        try:
            if not self._registered and loop.time() >= self._register_at:
                await self._register(server)
            answer = await self._client.report(
                server, cluster_id=identity.cluster_id, replica_id=identity.replica_id, leader=_leader_report(replica)
            )
        except NotFoundError as error:
            # It may have been taken out of its cluster and be about to learn it: then it must not come back into the list.
            self._in_the_way("unknown", error.message)
            self._registered, self._register_at = False, loop.time() + REPORT_EVERY_S
            return REPORT_EVERY_S
        except RavelError as error:
            if error.reason is not Reason.STALE_REPORT:  # another one leads, or leads and has applied more: nothing is wrong
                self._failed(error)
            return self._wait_s
        self._answered()
        self._wait_s = RETRY_S
        if answer.register:
            # Its address was another server's for a while, or an older admin's list is back. A refusal waits as before.
            self._registered = False
        if answer.leaving:
            self._in_the_way("leaving", "this server is marked as leaving: `ravel_node leave` completes it")
        return REPORT_EVERY_S

    async def _register(self, server: ServerRef) -> None:
        """Say who this is. A refusal is for a person to mend, and keeps no report back."""
        identity = self._host.identity
        try:
            told = await self._client.register(server, cluster_id=identity.cluster_id, replica_id=identity.replica_id)
        except (RefusedError, WrongServerError, InvalidArgumentError) as error:
            if error.reason is Reason.SUPERSEDED:
                self._turned_out(NoPlaceError(error.message))
            self._in_the_way("refused", str(error))
            self._register_at = asyncio.get_running_loop().time() + REFUSED_RETRY_S
            return
        self._registered = True
        log.info("daemon.registered", cluster=told.cluster.name, cluster_id=told.cluster.cluster_id)

    async def _tell_removed(self) -> None:
        """Have the admin strike this server, which no membership has any more, also where nobody told the admin before."""
        while True:
            try:
                await self._client.mark_leaving(self._host.identity.server_id)
            except (NotFoundError, RefusedError):
                return
            except RavelError as error:
                self._failed(error)
                await asyncio.sleep(self._wait_s)
            else:
                return

    # --- what is logged

    def _failed(self, error: RavelError) -> None:
        """No admin did what was asked; wait longer for the next time."""
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            self._in_the_way("away", str(error))
        self._wait_s = min(RETRY_MAX_S, 1.5 * self._wait_s)

    def _in_the_way(self, what: str, why: str) -> None:
        log.warning("daemon.admin_link", obstacle=what, why=why)

    def _answered(self) -> None:
        if self._away_since is not None:
            away_s, self._away_since = asyncio.get_running_loop().time() - self._away_since, None
            log.info("daemon.admin_answers", away_s=round(away_s, 1))


def _standing(replica: Replica) -> tuple[bool, int, int]:
    """What a report would tell that the admin cannot know yet."""
    leads = replica.is_leader
    return leads, replica.term if leads else 0, replica.machine.config_index if leads else 0


def _leader_report(replica: Replica) -> admin_pb2.LeaderReport | None:
    """Of the membership as applied here; None where this replica does not lead."""
    if not replica.is_leader:
        return None
    machine = replica.machine
    voters = {*machine.conf_state.voters, *machine.conf_state.voters_outgoing}
    return admin_pb2.LeaderReport(
        term=replica.term,
        config_index=machine.config_index,
        members=[
            admin_pb2.ReportedMember(
                server_id=machine.members[replica_id].server_id, replica_id=replica_id, learner=replica_id not in voters
            )
            for replica_id in sorted(all_replicas(machine.conf_state))
            if replica_id in machine.members
        ],
    )
