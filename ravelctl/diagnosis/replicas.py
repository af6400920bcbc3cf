"""Rules RV2xx and RV3xx: what the replicas' own alarms say, and what the leader's view shows before an alarm is raised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ravelctl.cli.output import age_text, size_text
from ravelctl.cluster.overview import heard
from ravelctl.diagnosis.finding import Finding, finding
from ravelctl.diagnosis.leaderless import last_contact
from ravelctl.diagnosis.seen import Picture, Reach
from ravelpb.alarms import Severity
from ravelpb.v1 import cluster_pb2 as pb

_SEVERITIES: Final = frozenset(map(int, Severity))
LAG_S: Final = 2.0
"""As the replicas' own alarm RV202."""

SLOW_COMMIT_US: Final = 250_000
COMMITS_MIN: Final = 20
"""Batches within ten seconds: of fewer, one alone would be the worst hundredth."""

SNAPSHOT_ROOM_BYTES: Final = 64 << 20
"""Beside a copy of the state."""


TOLD_OF_ALL: Final = frozenset({"RV401"})
"""Alarms that a replica raises about the whole cluster, of which a rule of ours tells more: they would be told twice."""


def alarms(p: Picture) -> Iterator[Finding]:
    """What replicas say of themselves. That of a former leader about others is not there any more."""
    for status in p.statuses:
        for alarm in status.alarms:
            if alarm.code in TOLD_OF_ALL:
                continue
            name = p.name(alarm.replica_id) if alarm.replica_id else status.server.name
            age = f", for {age_text(alarm.raised_ms / 1000)}" if alarm.raised_ms else ""
            seen = [f"{status.server.name} raises it{age}", *_latency(alarm.code, status), *_over(p, alarm)]
            severity = Severity(alarm.severity) if int(alarm.severity) in _SEVERITIES else None
            sentence = alarm.message if name in alarm.message else f"{name}: {alarm.message}"
            yield finding(alarm.code, name, sentence, seen, severity=severity)


def _over(p: Picture, alarm: pb.Alarm) -> Iterator[str]:
    """An alarm clears after ten seconds of calm: until then its cause may be gone already."""
    peer = p.progress.get(alarm.replica_id)
    if alarm.code == "RV201" and peer is not None and p.leader is not None and heard(p.leader, peer):
        yield f"{last_contact(peer)}: the alarm clears within seconds if that lasts"


def _latency(code: str, status: pb.StatusResponse) -> Iterator[str]:
    if code in ("RV303", "RV304") and status.fsync.count:
        f = status.fsync
        yield f"{f.count} saves in ten seconds: half within {f.p50_us / 1000:.1f}ms, the slowest {f.max_us / 1000:.1f}ms"


def not_heard(p: Picture) -> Iterator[Finding]:
    """A follower that the leader does not hear, or the other way round: if it answers us, a peer address is to blame."""
    leader = p.leader
    if leader is None or sum(map(p.heard, p.voters)) < p.quorum:
        return  # then more than a follower is missing
    for member in p.members:
        if member.replica_id == leader.header.replica_id:
            continue
        name, own, peer = member.server.name, p.own(member), p.progress.get(member.replica_id)
        lines = [last_contact(peer)] if peer is not None else []
        deaf = own is not None and _hears_no_leader(own)
        if own is not None and (deaf or not p.heard(member)) and _has_had_time(leader, own):
            lines.append(_hearing(name, own))
            lines.append(
                f"peer addresses: {leader.server.name} {leader.server.addresses.peer}, {name} {member.server.addresses.peer}"
            )
            yield finding(
                "RV206", name, f"{name} answers, and {leader.server.name}, the leader, and {name} do not hear each other", lines
            )
        elif own is None and not p.heard(member) and peer is not None and _unseen(p, member):
            yield finding("RV201", name, f"{name} does not answer the leader", lines)


def _hears_no_leader(own: pb.StatusResponse) -> bool:
    if not own.leader_id:
        return own.candidacy.since_ms > 2 * own.election_timeout_ms
    return own.role != pb.LEADER and own.contact_age_ms > 2 * own.election_timeout_ms


def _has_had_time(leader: pb.StatusResponse, own: pb.StatusResponse) -> bool:
    """Whether both have been what they are for long enough to have heard each other."""
    return min(leader.leader_age_ms, own.uptime_ms or leader.leader_age_ms) > 2 * leader.election_timeout_ms


def _hearing(name: str, own: pb.StatusResponse) -> str:
    if not own.leader_id:
        return f"{name} knows no leader for {age_text(own.candidacy.since_ms / 1000)}, and is in term {own.header.term}"
    return f"{name} heard a leader {age_text(own.contact_age_ms / 1000)} ago, in term {own.header.term}"


def _unseen(p: Picture, member: pb.Member) -> bool:
    """Whether no other rule tells of this member: it neither refuses nor hangs."""
    door = p.door_of(member)
    return door is None or door.reach in (Reach.TLS, Reach.OTHER_CLUSTER, Reach.FAILS)


def behind(p: Picture) -> Iterator[Finding]:
    """What the leader's alarms will say at their second look."""
    if p.leader is None:
        return
    for peer in p.leader.progress:
        name = p.name(peer.replica_id)
        if peer.state == pb.SNAPSHOT and peer.snapshot_index:
            share = ""
            if peer.snapshot_size_bytes:
                share = f", {peer.snapshot_sent_bytes / peer.snapshot_size_bytes:.0%} of {size_text(peer.snapshot_size_bytes)}"
            yield finding("RV207", name, f"{name} is installing snapshot {peer.snapshot_index}{share}", [last_contact(peer)])
        elif peer.lag_ms >= LAG_S * 1000 and peer.contacted and peer.recent_active:
            least = "at least " if peer.lag_ms_is_least else ""
            sentence = (
                f"{name} is {least}{age_text(peer.lag_ms / 1000)} behind: {peer.lag_entries} entries, {size_text(peer.lag_bytes)}"
            )
            yield finding("RV202", name, sentence, [last_contact(peer)])


def sending_waits(p: Picture) -> Iterator[Finding]:
    """A full window at two looks; one alone is how a busy leader works."""
    before = Picture.of(p.seen.__class__(doors=p.seen.earlier, cluster_id=p.cluster_id))
    for peer in p.progress.values():
        earlier = before.progress.get(peer.replica_id)
        full = [one for one in (earlier, peer) if one is not None and one.paused and one.inflight >= one.inflight_max > 0]
        if len(full) == 2 and earlier is not None and earlier.match == peer.match:
            name = p.name(peer.replica_id)
            sentence = f"the leader waits for {name}: {peer.inflight} messages are unanswered, and none more is sent"
            yield finding("RV208", name, sentence, [f"its log stood at {peer.match} at both looks", last_contact(peer)])


def slow_writes(p: Picture) -> Iterator[Finding]:
    """What a write waits for, from the leader's own measurements."""
    leader = p.leader
    if leader is None or leader.commit.count < COMMITS_MIN or leader.commit.p99_us < SLOW_COMMIT_US:
        return
    waits = [("its own saves", leader.fsync), ("applying", leader.apply)]
    waits += [(f"acknowledgements of {p.name(peer.replica_id)}", peer.ack) for peer in leader.progress]
    lines = [f"{what}: {_span(found)}" for what, found in waits if found.count]
    yield finding("RV209", "", f"writes are slow on {leader.server.name}, the leader: {_span(leader.commit)}", lines)


def _span(found: pb.LatencySummary) -> str:
    return f"half within {found.p50_us / 1000:.1f}ms, the slowest hundredth {found.p99_us / 1000:.1f}ms or more"


def little_room(p: Picture) -> Iterator[Finding]:
    for directory in p.seen.directories:
        need = directory.state_bytes + SNAPSHOT_ROOM_BYTES
        if directory.state_bytes and directory.disk_free_bytes < need:
            free = size_text(directory.disk_free_bytes)
            sentence = f"{free} are free where {directory.path} lies, and a snapshot may need {size_text(need)}"
            yield finding("RV306", directory.path, sentence, [f"the state has {size_text(directory.state_bytes)} in use"])


RULES: Final = (alarms, not_heard, behind, sending_waits, slow_writes, little_room)
