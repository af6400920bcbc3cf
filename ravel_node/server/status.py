"""What a daemon says of itself, as messages: its record, its status, its events."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ravel_node.machine.base import MemberRecord
from ravel_node.replica.events import Event
from ravel_node.replica.histogram import LatencySummary
from ravel_node.replica.replica import Replica
from ravel_node.replica.status import Alarm, Counters, Member, PeerView, ReplicaStatus
from ravel_node.server.host import Host
from ravelpb.v1 import cluster_pb2, common_pb2


def header_of(host: Host, replica: Replica | None) -> common_pb2.ResponseHeader:
    """Who answers. Without a replica: a blank daemon, or what it was before it became one."""
    identity = host.identity
    header = common_pb2.ResponseHeader(cluster_id=identity.cluster_id, replica_id=identity.replica_id, admin_group=host.is_admin)
    if replica is not None:
        header.term, header.index = replica.term, replica.applied.index
    return header


def status_of(host: Host) -> cluster_pb2.StatusResponse:
    """How this daemon sees itself and, if it leads, the others, now. Raises ReplicaStoppedError where it stops."""
    connections, connections_max = host.client_connections
    response = cluster_pb2.StatusResponse(
        client_connections=connections,
        client_connections_max=connections_max,
        peer_tls=host.peer_tls,
        server=server_to_proto(host.server),
        boot_id=host.boot_id,
        uptime_ms=_ms(host.uptime_s),
        blank=host.identity.blank,
        wall_ms=time.time_ns() // 1_000_000,
        events_sequence=host.events.newest,
    )
    if host.identity.blank:
        response.header.CopyFrom(header_of(host, None))
        return response
    replica = host.replica
    response.header.CopyFrom(header_of(host, replica))
    response.MergeFrom(_status(replica.status()))
    return response


def events_to_proto(events: Iterable[Event]) -> list[cluster_pb2.Event]:
    return [
        cluster_pb2.Event(
            boot_id=event.boot_id,
            sequence=event.sequence,
            wall_ms=event.wall_ms,
            kind=cluster_pb2.EventKind.ValueType(event.kind),
            name=event.name,
            replica_id=event.replica_id,
            term=event.term,
            index=event.index,
            text=event.text,
            fields=event.fields,
        )
        for event in events
    ]


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
        lag_entries=peer.lag.entries,
        lag_bytes=peer.lag.bytes,
        lag_bytes_is_least=peer.lag.bytes_is_least,
        lag_ms=_ms(peer.lag.seconds),
        lag_ms_is_least=peer.lag.seconds_is_least,
        ack=_latency(peer.ack),
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
        alarms=map(_alarm, status.alarms),
        snapshot_index=status.snapshot_index,
        removed=status.removed,
        ready=status.ready,
        lease_remaining_ms=_ms(status.lease_remaining_s),
        transferee_id=status.transferee_id,
        election_timeout_ms=_ms(status.election_timeout_s),
        heartbeat_ms=_ms(status.heartbeat_s),
        vote_id=status.vote_id,
        candidacy=_candidacy(status),
        elections_1h=status.elections_1h,
        leader_changes_1h=status.leader_changes_1h,
        fsync=_latency(status.fsync),
        apply=_latency(status.apply),
        commit=_latency(status.commit),
        counters=_counters(status.counters),
        db_map_bytes=status.db_map_bytes,
    )


def _alarm(alarm: Alarm) -> cluster_pb2.Alarm:
    return cluster_pb2.Alarm(
        code=alarm.code,
        message=alarm.message,
        replica_id=alarm.replica_id,
        severity=cluster_pb2.AlarmSeverity.ValueType(alarm.severity),
        raised_ms=_ms(alarm.raised_s),
    )


def _latency(found: LatencySummary) -> cluster_pb2.LatencySummary:
    return cluster_pb2.LatencySummary(count=found.count, p50_us=found.p50_us, p99_us=found.p99_us, max_us=found.max_us)


def _counters(counters: Counters) -> cluster_pb2.Counters:
    return cluster_pb2.Counters(
        monotonic_ms=_ms(counters.monotonic_s),
        writes=counters.writes,
        reads=counters.reads,
        log_bytes=counters.log_bytes,
        elections=counters.elections,
    )


def _candidacy(status: ReplicaStatus) -> cluster_pb2.Candidacy | None:
    if status.leader_id:
        return None
    return cluster_pb2.Candidacy(
        since_ms=_ms(status.leader_age_s),
        granted_by=sorted(voter for voter, granted in status.votes.items() if granted),
        refused_by=sorted(voter for voter, granted in status.votes.items() if not granted),
    )


def _ms(seconds: float) -> int:
    return max(0, int(seconds * 1000))
