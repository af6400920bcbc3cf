"""How a daemon gets its identity, and keeps its cluster's record of it right.

An identity is taken once: by `found` (the first voter of a new cluster) or by `join` (a leader takes the server in as a learner).
Both can be repeated after a crash at any step: founding is one durable write, and a leader gives the same replica id to the same
server id however often it asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, Protocol

import structlog

from ravel_node.machine import members
from ravel_node.machine.base import MemberRecord, Txn
from ravel_node.machine.ownership import Ownership, write_ownership
from ravel_node.raft import ConfState, HardState, Index, ReplicaId, Snapshot, Term
from ravel_node.replica.errors import AlreadyMemberError, MembershipError, ReplicaError
from ravel_node.replica.events import EventKind
from ravel_node.replica.replica import Replica
from ravel_node.replica.status import Expectation
from ravel_node.server.cluster import member_from_proto, record_from_proto, verdict_from_proto
from ravel_node.server.errors import ForwardedError
from ravel_node.server.host import Host, Joined
from ravel_node.server.status import server_to_proto
from ravelctl.client import ClusterClient, RavelError, TlsOptions

BIRTH: Final = Snapshot(Index(1), Term(1), ConfState(voters=(ReplicaId(1),)))
"""Where every cluster's log begins: its first member, at index 1 of term 1."""

RETRY_S: Final = 1.0
LOOK_S: Final = 0.2

log = structlog.get_logger("ravel_node")


class Tell(Protocol):
    """Records an event of this server."""

    def __call__(self, kind: EventKind, name: str, text: str, fields: Mapping[str, object], /) -> None: ...


class Seat:
    """The place of one daemon in a cluster: blank until it is taken."""

    def __init__(
        self, host: Host, *, start_replica: Callable[[], Awaitable[None]], tell: Tell, client_tls: TlsOptions | None
    ) -> None:
        self._host = host
        self._start_replica = start_replica
        self._tell = tell
        self._client_tls = client_tls
        self._taking = False

    async def found(self, cluster_id: str, cluster_name: str, *, owned: Ownership | None = None) -> MemberRecord:
        """Become the first voter of a new cluster; repeated with the same id it is the same answer. Raises AlreadyMemberError.

        `owned` is what a cluster of an admin group begins with; None: the cluster has none, and owns all slots.
        """
        identity = self._host.identity
        first = replace(self._host.server, replica_id=BIRTH.conf_state.voters[0])
        if not identity.blank:
            if identity.cluster_id == cluster_id and identity.replica_id == first.replica_id:
                return self._host.server
            raise AlreadyMemberError(identity.cluster_id, identity.replica_id)

        def write_state(txn: Txn) -> None:
            members.bootstrap_state(
                txn,
                cluster_name=cluster_name,
                member=first,
                conf_state=BIRTH.conf_state,
                config_index=BIRTH.index,
                machine=self._host.machine.machine,
            )
            if owned is not None:
                write_ownership(txn, owned)

        wanted = replace(identity, cluster_id=cluster_id, cluster_name=cluster_name, replica_id=first.replica_id, name=first.name)
        with self._taker():
            await self._host.store.bootstrap(wanted, BIRTH, HardState(BIRTH.term, ReplicaId(0), BIRTH.index), write_state)
            await self._start_replica()
        text = f"became the first voter of cluster {cluster_name}"
        self._tell(EventKind.SERVER, "cluster-founded", text, {"cluster_id": cluster_id, "cluster_name": cluster_name})
        log.info("daemon.bootstrapped", cluster_id=cluster_id, cluster_name=cluster_name)
        return first

    async def join(self, via: Sequence[str], *, promote: bool, dry_run: bool, cluster_id: str = "") -> Joined:
        """Ask the cluster behind these addresses to take this daemon in. With `cluster_id` no other cluster is asked.

        Raises AlreadyMemberError, MembershipError, ForwardedError with what the leader, or the way to it, refused.
        """
        identity = self._host.identity
        if not identity.blank:
            raise AlreadyMemberError(identity.cluster_id, identity.replica_id)
        with self._taker():
            try:
                async with ClusterClient(list(via), tls=self._client_tls, cluster_id=cluster_id) as client:
                    answer = await client.add_member(
                        server_to_proto(self._host.server),
                        machine=self._host.machine.machine.decode(),
                        auto_promote=promote,
                        dry_run=dry_run,
                    )
            except RavelError as error:
                raise ForwardedError(error.message, error.reason, error.metadata) from None
            verdict = verdict_from_proto(answer.verdict)
            if dry_run:
                return Joined(None, (), verdict)
            member = record_from_proto(answer.replica)
            await self._host.store.set_identity(
                replace(
                    identity,
                    cluster_id=answer.header.cluster_id,
                    cluster_name=answer.cluster_name,
                    replica_id=member.replica_id,
                    name=member.name,
                )
            )
            await self._start_replica()
        identity = self._host.identity
        text = f"joined cluster {identity.cluster_name} as replica {member.replica_id}"
        self._tell(EventKind.SERVER, "cluster-joined", text, {"cluster_id": identity.cluster_id})
        log.info("daemon.joined", cluster_id=identity.cluster_id, replica_id=member.replica_id)
        return Joined(member, tuple(member_from_proto(known) for known in answer.members), verdict)

    async def join_until_taken(self, via: Sequence[str]) -> None:
        """Ask again and again, until this daemon has an identity, by whatever way."""
        while self._host.identity.blank:
            try:
                await self.join(via, promote=True, dry_run=False)
            except AlreadyMemberError:
                return
            except (ForwardedError, MembershipError) as error:
                log.warning("daemon.join_failed", via=",".join(via), why=str(error))
                await asyncio.sleep(RETRY_S)

    @contextmanager
    def _taker(self) -> Iterator[None]:
        """While it is entered, no other request gives this daemon an identity."""
        if self._taking:
            raise MembershipError("this daemon is taking an identity already; one request at a time", "try again in a moment")
        self._taking = True
        try:
            yield
        finally:
            self._taking = False

    async def tell_new_addresses(self, replica: Replica) -> None:
        """If this server was started with other addresses, another name or version than its cluster knows, tell the leader."""
        while True:
            await asyncio.sleep(LOOK_S)
            known = self._host.machine.members.get(replica.id)
            if known is None:
                continue
            wanted = replace(self._host.server, auto_promote=known.auto_promote)
            if known == wanted or known.removed:
                return
            try:
                if replica.is_leader:
                    await replica.update_member(wanted, expect=Expectation())
                else:
                    # A leader that still dials the old address is not heard here: any member is asked who leads.
                    others = [member.record.listen for member in replica.members() if member.record.replica_id != replica.id]
                    async with ClusterClient(others, tls=self._client_tls) as client:
                        await client.update_member(replica.id, server_to_proto(wanted))
                log.info("daemon.member_updated", listen=wanted.listen, peer=wanted.peer, version=wanted.version)
            except (RavelError, ReplicaError) as error:
                log.warning("daemon.member_update_failed", why=str(error))
                await asyncio.sleep(RETRY_S)
