"""The Cluster service: how a cluster begins, who is in it, who leads it, how it does. Translates, and decides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ravel_node.machine.base import MemberRecord
from ravel_node.machine.members import is_name
from ravel_node.raft.types import ReplicaId
from ravel_node.replica.replica import Replica
from ravel_node.replica.status import Expectation, Member, MemberRole, PeerView, ReplicaStatus, Standing, Verdict
from ravel_node.server.host import Host
from ravel_node.server.limits import InputError
from ravelpb.v1 import cluster_pb2, common_pb2

REPLICAS_MAX: Final = 64
"""Replicas that one change may name, and addresses that one join may try."""

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")


class ClusterHandlers:
    """Handlers of `ravel.v1.Cluster`. Those that change membership or leadership are for the leader: others raise
    NotLeaderError."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _header(self, replica: Replica | None) -> common_pb2.ResponseHeader:
        identity = self._host.identity
        header = common_pb2.ResponseHeader(cluster_id=identity.cluster_id, replica_id=identity.replica_id)
        if replica is not None:
            header.term, header.index = replica.term, replica.applied.index
        return header

    # --- asked of a blank daemon

    async def bootstrap(self, request: cluster_pb2.BootstrapRequest) -> cluster_pb2.BootstrapResponse:
        if not _HEX_ID.fullmatch(request.cluster_id):
            raise InputError(
                f"cluster id {request.cluster_id[:64]!r} is not 32 lower-case hex digits",
                field="cluster_id",
                value=request.cluster_id,
            )
        if not is_name(request.cluster_name):
            raise InputError(
                f"cluster name {request.cluster_name[:80]!r} is not 1 to 63 characters of a-z, 0-9, '-', '_', '.'",
                field="cluster_name",
                value=request.cluster_name,
            )
        record = await self._host.bootstrap(request.cluster_id, request.cluster_name)
        return cluster_pb2.BootstrapResponse(header=self._header(self._host.replica), replica=replica_to_proto(record))

    async def join(self, request: cluster_pb2.JoinRequest) -> cluster_pb2.JoinResponse:
        if not 0 < len(request.via) <= REPLICAS_MAX:
            raise InputError(
                f"a join names {len(request.via)} addresses of the cluster, it must name 1 to {REPLICAS_MAX}",
                field="via",
                value=len(request.via),
                limit=REPLICAS_MAX,
            )
        joined = await self._host.join(list(request.via), promote=not request.no_promote, dry_run=request.dry_run)
        response = cluster_pb2.JoinResponse(header=self._header(None if request.dry_run else self._host.replica))
        if joined.member is not None:
            response.replica.CopyFrom(replica_to_proto(joined.member))
        if joined.verdict is not None:
            response.verdict.CopyFrom(verdict_to_proto(joined.verdict))
        return response

    # --- asked of the leader

    async def add_member(self, request: cluster_pb2.AddMemberRequest) -> cluster_pb2.AddMemberResponse:
        replica = self._host.replica
        record = _record(request.server, ReplicaId(0), auto_promote=request.auto_promote)
        added, verdict = await replica.add_member(record, dry_run=request.dry_run, expect=_expectation(request.expect))
        status = replica.status()
        response = cluster_pb2.AddMemberResponse(
            header=self._header(replica),
            cluster_name=status.cluster_name,
            members=map(member_to_proto, status.members),
            verdict=verdict_to_proto(verdict),
        )
        if added is not None:
            response.replica.CopyFrom(replica_to_proto(added))
        return response

    async def promote(self, request: cluster_pb2.PromoteRequest) -> cluster_pb2.ChangeResponse:
        replica = self._host.replica
        verdict = await replica.promote(_ids(request.replica_ids), dry_run=request.dry_run, expect=_expectation(request.expect))
        return self._changed(replica, verdict)

    async def leave(self, request: cluster_pb2.LeaveRequest) -> cluster_pb2.ChangeResponse:
        replica = self._host.replica
        verdict = await replica.remove(_ids(request.replica_ids), dry_run=request.dry_run, expect=_expectation(request.expect))
        return self._changed(replica, verdict)

    def _changed(self, replica: Replica, verdict: Verdict) -> cluster_pb2.ChangeResponse:
        return cluster_pb2.ChangeResponse(
            header=self._header(replica),
            verdict=verdict_to_proto(verdict),
            members=map(member_to_proto, replica.status().members),
        )

    async def update(self, request: cluster_pb2.UpdateRequest) -> cluster_pb2.UpdateResponse:
        replica = self._host.replica
        (replica_id,) = _ids([request.replica_id])
        known = self._host.machine.members.get(replica_id)
        record = _record(request.server, replica_id, auto_promote=known is not None and known.auto_promote)
        member = await replica.update_member(record, expect=_expectation(request.expect))
        return cluster_pb2.UpdateResponse(header=self._header(replica), member=member_to_proto(member))

    async def transfer_leader(self, request: cluster_pb2.TransferLeaderRequest) -> cluster_pb2.TransferLeaderResponse:
        replica = self._host.replica
        target = ReplicaId(request.replica_id)
        verdict = await replica.transfer_leader(target, dry_run=request.dry_run, expect=_expectation(request.expect))
        return cluster_pb2.TransferLeaderResponse(
            header=self._header(replica), leader_id=replica.leader_id, leader_term=replica.term, verdict=verdict_to_proto(verdict)
        )

    # --- asked of anybody

    async def status(self, request: cluster_pb2.StatusRequest) -> cluster_pb2.StatusResponse:
        host = self._host
        response = cluster_pb2.StatusResponse(
            server=server_to_proto(host.server),
            boot_id=host.boot_id,
            uptime_ms=int(host.uptime_s * 1000),
            blank=host.identity.blank,
        )
        if host.identity.blank:
            response.header.CopyFrom(self._header(None))
            return response
        replica = host.replica
        response.header.CopyFrom(self._header(replica))
        response.MergeFrom(_status(replica.status()))
        return response


# --- our values to messages


def replica_to_proto(record: MemberRecord) -> common_pb2.ReplicaRef:
    return common_pb2.ReplicaRef(replica_id=record.replica_id, server=server_to_proto(record))


def server_to_proto(record: MemberRecord) -> common_pb2.ServerRef:
    return common_pb2.ServerRef(
        server_id=record.server_id,
        name=record.name,
        version=record.version,
        addresses=common_pb2.Addresses(
            listen=record.listen, peer=record.peer, listen_bind=record.listen_bind, peer_bind=record.peer_bind
        ),
        format=record.format,
    )


def member_to_proto(member: Member) -> cluster_pb2.Member:
    record = member.record
    return cluster_pb2.Member(
        replica_id=record.replica_id,
        server=server_to_proto(record),
        role=cluster_pb2.MemberRole.ValueType(member.role),
        auto_promote=record.auto_promote,
    )


def _standing(standing: Standing) -> cluster_pb2.Standing:
    return cluster_pb2.Standing(
        voters=standing.voters,
        learners=standing.learners,
        quorum=standing.quorum,
        live=standing.live,
        caught_up=standing.caught_up,
        tolerates=standing.tolerates,
    )


def verdict_to_proto(verdict: Verdict) -> cluster_pb2.Verdict:
    return cluster_pb2.Verdict(
        allowed=verdict.allowed,
        before=_standing(verdict.before),
        after=_standing(verdict.after),
        reason=verdict.reason,
        next_step=verdict.next_step,
        warnings=verdict.warnings,
        seen=cluster_pb2.Expectation(term=verdict.seen.term, config_index=verdict.seen.config_index),
    )


def _progress(peer: PeerView) -> cluster_pb2.PeerProgress:
    return cluster_pb2.PeerProgress(
        replica_id=peer.replica_id,
        state=cluster_pb2.ProgressState.ValueType(peer.state),
        match=peer.match,
        next=peer.next,
        paused=peer.paused,
        recent_active=peer.recent_active,
        inflight=peer.inflight,
        inflight_max=peer.inflight_max,
        contact_age_ms=_ms(peer.contact_age_s or 0.0),
        contacted=peer.contact_age_s is not None,
        snapshot_index=peer.snapshot_index,
        snapshot_sent_bytes=peer.snapshot_sent_bytes,
        snapshot_size_bytes=peer.snapshot_size_bytes,
    )


def _status(status: ReplicaStatus) -> cluster_pb2.StatusResponse:
    return cluster_pb2.StatusResponse(
        cluster_name=status.cluster_name,
        role=cluster_pb2.RaftRole.ValueType(status.role),
        leader_id=status.leader_id,
        first_index=status.first_index,
        last_index=status.last_index,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        flushed_index=status.flushed_index,
        revision=status.revision,
        config_index=status.config_index,
        members=map(member_to_proto, status.members),
        progress=map(_progress, status.progress),
        leader_age_ms=_ms(status.leader_age_s),
        contact_age_ms=_ms(status.contact_age_s),
        db_used_bytes=status.db_used_bytes,
        db_size_max_bytes=status.db_size_max_bytes,
        log_used_bytes=status.log_used_bytes,
        alarms=[
            cluster_pb2.Alarm(code=alarm.code, message=alarm.message, replica_id=alarm.replica_id) for alarm in status.alarms
        ],
        snapshot_index=status.snapshot_index,
        removed=status.removed,
        ready=status.ready,
        lease_remaining_ms=_ms(status.lease_remaining_s),
        transferee_id=status.transferee_id,
        election_timeout_ms=_ms(status.election_timeout_s),
    )


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))


# --- messages to our values


def record_from_proto(message: common_pb2.ReplicaRef) -> MemberRecord:
    """Raises InputError for a record that no server has."""
    return _record(message.server, ReplicaId(message.replica_id), auto_promote=False)


def member_from_proto(message: cluster_pb2.Member) -> Member:
    """Raises InputError for a record that no server has, or a role of a later version."""
    try:
        role = MemberRole(message.role)
    except ValueError:
        raise InputError(
            f"member {message.replica_id} has the unknown role {message.role}", field="role", value=message.role
        ) from None
    return Member(_record(message.server, ReplicaId(message.replica_id), auto_promote=message.auto_promote), role)


def verdict_from_proto(message: cluster_pb2.Verdict) -> Verdict:
    """A refusal without a reason is given one: `Verdict.allowed` rests on it."""
    return Verdict(
        before=_standing_from_proto(message.before),
        after=_standing_from_proto(message.after),
        seen=_expectation(message.seen),
        reason=message.reason or ("" if message.allowed else "the leader refuses it and does not say why"),
        next_step=message.next_step,
        warnings=tuple(message.warnings),
    )


def _standing_from_proto(message: cluster_pb2.Standing) -> Standing:
    return Standing(
        voters=tuple(map(ReplicaId, message.voters)),
        learners=tuple(map(ReplicaId, message.learners)),
        quorum=message.quorum,
        live=message.live,
        caught_up=message.caught_up,
        tolerates=message.tolerates,
    )


def _expectation(message: cluster_pb2.Expectation) -> Expectation:
    return Expectation(term=message.term, config_index=message.config_index)


def _ids(ids: Iterable[int]) -> Sequence[ReplicaId]:
    """Distinct replica ids. Raises InputError for none, too many, one twice or 0."""
    found = [ReplicaId(replica_id) for replica_id in ids]
    if not 0 < len(found) <= REPLICAS_MAX:
        raise InputError(
            f"a change names {len(found)} replicas, it must name 1 to {REPLICAS_MAX}",
            field="replica_ids",
            value=len(found),
            limit=REPLICAS_MAX,
        )
    if 0 in found or len(set(found)) < len(found):
        raise InputError(
            f"replica ids {found} must be distinct and start at 1", field="replica_ids", value=",".join(map(str, found))
        )
    return found


def _record(server: common_pb2.ServerRef, replica_id: ReplicaId, *, auto_promote: bool) -> MemberRecord:
    """A member's record from what the wire says. Bounds of the texts are checked where a record is encoded."""
    if not _HEX_ID.fullmatch(server.server_id):
        raise InputError(
            f"server id {server.server_id[:64]!r} is not 32 lower-case hex digits",
            field="server.server_id",
            value=server.server_id,
        )
    addresses = server.addresses
    if not addresses.listen or not addresses.peer:
        raise InputError("a server's record needs the addresses for clients and for peers", field="server.addresses")
    return MemberRecord(
        replica_id=replica_id,
        server_id=server.server_id,
        name=server.name,
        version=server.version,
        format=server.format,
        listen=addresses.listen,
        peer=addresses.peer,
        listen_bind=addresses.listen_bind,
        peer_bind=addresses.peer_bind,
        auto_promote=auto_promote,
    )
