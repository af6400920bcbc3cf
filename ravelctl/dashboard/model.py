"""What the screens show of one cluster: frozen values, and the rules by which they are put together. Pure.

`Sight` is what one address last said and whether it still says anything; `cluster_view` makes one `ClusterView` of all sights.
The rules keep the picture true:

- What a replica says of itself (role, term, indexes, durations, store) is its own report. How far it is behind, its state, what
  is in flight and when it was last heard come only from the leader of the highest term.
- A leader counts only while no quorum of voters is in a higher term; another one that claims to lead is `leader?`.
- `None` is "not known": shown as `?`, never as zero. `Freshness` says whether a value is of now or only the last that was known.
- Ages are differences of one clock: of this host's monotonic one for frames, of the leader's own for lag. Clocks of two hosts are
  never compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import Final

from ravelctl.cluster.overview import heard
from ravelctl.dashboard.figures import span
from ravelpb.v1 import cluster_pb2 as pb

STALE_INTERVALS: Final = 3
"""A frame older than so many intervals is of the past: dim, marked, and with its age."""


class Freshness(StrEnum):
    LIVE = "live"
    STALE = "stale"  # connected, but no frame for `STALE_INTERVALS`
    DOWN = "down"  # cannot be reached
    NEVER = "never"  # nothing has been heard yet


class Role(StrEnum):
    LEADER = "LEADER"
    CLAIMS = "leader?"  # it says that it leads, in a term that is past
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    PRE_CANDIDATE = "pre-cand"
    LEARNER = "learner"
    LEAVING = "leaving"
    REMOVED = "removed"
    BLANK = "blank"
    DOWN = "(down)"
    UNKNOWN = "?"


class Severity(IntEnum):
    OK = 0
    WARN = 1
    CRIT = 2


@dataclass(frozen=True, slots=True)
class Sight:
    """What one address last said. Times are of this host's monotonic clock, in seconds."""

    address: str
    status: pb.StatusResponse | None = None
    before: pb.StatusResponse | None = None  # the frame before, of the same process: for rates
    heard_s: float = 0.0  # when `status` came
    error: str = ""  # why it cannot be reached now; empty while it can, or while nothing is known yet
    silent_since_s: float = 0.0  # since when, if `error`


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One row. `None` is not known; `match` and what follows up to `ack` are the leader's words."""

    key: str  # the server's id, or its address where no id is known: it never changes its row
    replica_id: int
    name: str
    address: str
    role: Role
    voter: bool
    freshness: Freshness
    age_s: float  # of what is shown, or of the silence
    error: str
    term: int | None = None
    last: int | None = None
    commit: int | None = None
    applied: int | None = None
    match: int | None = None
    next: int | None = None
    lag: int | None = None
    lag_bytes: int | None = None
    lag_bytes_is_least: bool = False
    lag_ms: int | None = None
    lag_ms_is_least: bool = False
    state: str = "?"
    inflight: int | None = None
    inflight_max: int = 0
    contact_ms: int | None = None  # since the leader heard it
    snapshot_sent: int = 0
    snapshot_size: int = 0
    ack: pb.LatencySummary | None = None
    fsync_p99_us: int | None = None
    apply_p99_us: int | None = None
    db_used: int | None = None
    db_max: int = 0
    writes_s: float | None = None
    reads_s: float | None = None
    severity: Severity = Severity.OK
    status: pb.StatusResponse | None = None  # its last whole report

    @property
    def fresh(self) -> bool:
        return self.freshness is Freshness.LIVE


@dataclass(frozen=True, slots=True)
class ClusterView:
    """One cluster at one moment."""

    name: str
    cluster_id: str
    interval_s: float
    replicas: tuple[ReplicaView, ...]
    leader: ReplicaView | None  # of the highest term; not one that merely claims to be
    leader_named: str  # whom the others name while it cannot be asked from here
    term: int | None  # the highest that is known
    config_index: int
    voters: int
    learners: int
    acknowledging: int | None  # voters that the leader hears, itself included; None without a leader
    answering: int  # voters that answer here
    leaderless_s: float | None  # for how long no leader has been known; None: there is one
    candidates: tuple[str, ...]  # who stands, with the votes that it has
    writes_s: float | None
    reads_s: float | None
    commit_p99_us: int | None
    elections_1h: int | None
    leader_changes_1h: int | None
    rivals: tuple[tuple[int, tuple[str, ...]], ...]  # terms with more than one leader: a broken promise

    @property
    def quorum(self) -> int:
        return self.voters // 2 + 1

    @property
    def silent(self) -> bool:
        """Whether nobody answers."""
        return all(row.freshness in (Freshness.NEVER, Freshness.DOWN) for row in self.replicas)

    def replica(self, key: str) -> ReplicaView | None:
        return next((row for row in self.replicas if row.key == key), None)

    @property
    def top(self) -> int | None:
        """What indexes are shown as a difference to: the leader's last, or without a leader the highest that is known."""
        if self.leader is not None:
            return self.leader.last
        return max((row.last for row in self.replicas if row.last is not None), default=None)

    @property
    def max_lag(self) -> ReplicaView | None:
        """The replica that is furthest behind, of those whose lag is known."""
        known = [row for row in self.replicas if row.lag is not None]
        return max(known, key=lambda row: (row.lag_ms or 0, row.lag or 0), default=None)


# --- who is where


def freshness(sight: Sight, now_s: float, interval_s: float) -> tuple[Freshness, float]:
    """How much what was heard can be trusted, and the age of it or of the silence, in seconds."""
    if sight.error:
        return Freshness.DOWN, max(0.0, now_s - sight.silent_since_s)
    if sight.status is None:
        return Freshness.NEVER, max(0.0, now_s - sight.heard_s)
    age_s = max(0.0, now_s - sight.heard_s)
    return (Freshness.STALE if age_s > STALE_INTERVALS * interval_s else Freshness.LIVE), age_s


def _seated(sight: Sight) -> bool:
    return sight.status is not None and not sight.status.blank and not sight.status.removed


def informed(sights: Sequence[Sight]) -> pb.StatusResponse | None:
    """The report whose membership counts: the newest configuration of the highest term."""
    seated = [sight.status for sight in sights if sight.status is not None and _seated(sight)]
    return max(seated, key=lambda s: (s.config_index, s.header.term, s.role == pb.LEADER, s.last_index), default=None)


def ruling(sights: Sequence[Sight], now_s: float, interval_s: float, members: Sequence[pb.Member]) -> Sight | None:
    """The leader of the highest term, unless a quorum of voters is in a higher one already: then nobody leads."""
    live = [s for s in sights if _seated(s) and freshness(s, now_s, interval_s)[0] is not Freshness.DOWN]
    leaders = [s for s in live if s.status is not None and s.status.role == pb.LEADER]
    if not leaders:
        return None
    best = max(leaders, key=lambda s: (_term(s), s.heard_s))
    voters = {m.replica_id for m in members if m.role == pb.VOTER}
    beyond = {s.status.header.replica_id for s in live if s.status is not None and _term(s) > _term(best)} & voters
    return None if len(beyond) > len(voters) // 2 else best


def _term(sight: Sight) -> int:
    return sight.status.header.term if sight.status is not None else 0


# --- rates


def rate(now: int, before: int, seconds: float) -> float | None:
    """Per second; None where a counter went back or no time has passed."""
    return (now - before) / seconds if seconds > 0 and now >= before else None


def rates(sight: Sight) -> tuple[float | None, float | None]:
    """Writes and reads a second. A restart in between blanks them: `before` is of the same process, or absent."""
    after, before = sight.status, sight.before
    if after is None or before is None or after.boot_id != before.boot_id or not after.HasField("counters"):
        return None, None
    seconds = (after.counters.monotonic_ms - before.counters.monotonic_ms) / 1000
    return (
        rate(after.counters.writes, before.counters.writes, seconds),
        rate(after.counters.reads, before.counters.reads, seconds),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


# --- one row


def _p99(status: pb.StatusResponse, field: str) -> int | None:
    """Of the last ten seconds; -1: nothing happened in them; None: a replica of an older version does not say."""
    if not status.HasField(field):  # type: ignore[arg-type]  # the name of a field
        return None
    summary: pb.LatencySummary = getattr(status, field)
    return summary.p99_us if summary.count else -1


_ROLES: Final[Mapping[int, Role]] = {
    pb.FOLLOWER: Role.FOLLOWER,
    pb.PRE_CANDIDATE: Role.PRE_CANDIDATE,
    pb.CANDIDATE: Role.CANDIDATE,
    pb.LEADER: Role.CLAIMS,
}


def _role(member: pb.Member | None, status: pb.StatusResponse | None, fresh: Freshness, *, rules: bool) -> Role:
    if fresh is Freshness.DOWN:
        return Role.DOWN
    if status is None:
        return Role.UNKNOWN
    if status.blank:
        return Role.BLANK
    if status.removed:
        return Role.REMOVED
    if rules:
        return Role.LEADER
    if member is not None and member.role == pb.LEARNER and status.role == pb.FOLLOWER:
        return Role.LEARNER
    if member is not None and member.role == pb.LEAVING and status.role == pb.FOLLOWER:
        return Role.LEAVING
    return _ROLES.get(status.role, Role.UNKNOWN)


def _state(
    role: Role, fresh: Freshness, age: str, peer: pb.PeerProgress | None, leader: pb.StatusResponse | None, *, is_heard: bool
) -> str:
    """The column STATE: the leader's word where there is one."""
    if role is Role.LEADER:
        return "-" if fresh is Freshness.LIVE else f"STALE-{age}"
    if role is Role.CLAIMS:
        return "STALE-VIEW"
    if role in (Role.BLANK, Role.REMOVED):
        return "-"
    if fresh is Freshness.DOWN and not is_heard:
        return f"DOWN-{age}"
    if peer is None or leader is None:
        return f"STALE-{age}" if fresh is Freshness.STALE else "?"
    if not is_heard:
        return "LOST" if peer.contacted else "never-met"
    if peer.state == pb.SNAPSHOT:
        if not peer.snapshot_size_bytes:
            return "snap"
        share = round(peer.snapshot_sent_bytes * 100 / peer.snapshot_size_bytes)
        whole = peer.snapshot_sent_bytes >= peer.snapshot_size_bytes
        return f"snap-{100 if whole else min(99, share)}%"
    word = "repl" if peer.state == pb.REPLICATE else "probe"
    full = peer.inflight_max > 0 and peer.inflight >= peer.inflight_max
    return f"{word}-PAUSED" if peer.state == pb.REPLICATE and (peer.paused or full) else word


def _row(
    sight: Sight,
    member: pb.Member | None,
    leader: Sight | None,
    peers: Mapping[int, pb.PeerProgress],
    now_s: float,
    interval_s: float,
) -> ReplicaView:
    status = sight.status
    fresh, age_s = freshness(sight, now_s, interval_s)
    rules = leader is not None and leader is sight
    role = _role(member, status, fresh, rules=rules)
    chief = leader.status if leader is not None else None
    chief_fresh = leader is not None and freshness(leader, now_s, interval_s)[0] is Freshness.LIVE
    server = member.server if member is not None else status.server if status is not None else None
    replica_id = member.replica_id if member is not None else status.header.replica_id if status is not None else 0
    peer = peers.get(replica_id) if not rules else None
    is_heard = chief is not None and peer is not None and chief_fresh and heard(chief, peer)
    known = peer if is_heard and role is not Role.CLAIMS else None
    says = peer is not None and chief is not None and chief.HasField("counters")  # an older leader counts no bytes and no time
    writes_s, reads_s = rates(sight)
    told = status if status is not None and not status.blank else None
    return ReplicaView(
        key=server.server_id if server is not None and server.server_id else sight.address,
        replica_id=replica_id,
        name=(server.name if server is not None else "") or sight.address,
        address=(server.addresses.listen if server is not None else "") or sight.address,
        role=role,
        voter=member is not None and member.role == pb.VOTER,
        freshness=fresh,
        age_s=age_s,
        error=sight.error,
        term=told.header.term if told is not None else None,
        last=told.last_index if told is not None else None,
        commit=told.commit_index if told is not None else None,
        applied=told.applied_index if told is not None else None,
        match=peer.match if peer is not None else None,
        next=peer.next if peer is not None else None,
        lag=max(0, chief.last_index - known.match) if known is not None and chief is not None else None,
        lag_bytes=known.lag_bytes if known is not None and says else None,
        lag_bytes_is_least=known.lag_bytes_is_least if known is not None else False,
        lag_ms=known.lag_ms if known is not None and says else None,
        lag_ms_is_least=known.lag_ms_is_least if known is not None else False,
        state=_state(role, fresh, span(age_s), peer if chief_fresh else None, chief, is_heard=is_heard),
        inflight=known.inflight if known is not None and known.state != pb.SNAPSHOT else None,
        inflight_max=peer.inflight_max if peer is not None else 0,
        contact_ms=_contact_ms(peer, leader, now_s),
        snapshot_sent=known.snapshot_sent_bytes if known is not None else 0,
        snapshot_size=known.snapshot_size_bytes if known is not None else 0,
        ack=peer.ack if peer is not None and peer.HasField("ack") else None,
        fsync_p99_us=_p99(told, "fsync") if told is not None else None,
        apply_p99_us=_p99(told, "apply") if told is not None else None,
        db_used=told.db_used_bytes if told is not None else None,
        db_max=told.db_size_max_bytes if told is not None else 0,
        writes_s=writes_s if fresh is Freshness.LIVE else None,
        reads_s=reads_s if fresh is Freshness.LIVE else None,
        status=status,
    )


def _contact_ms(peer: pb.PeerProgress | None, leader: Sight | None, now_s: float) -> int | None:
    """Since the leader heard it. A frame that is not of now has grown older since, by our own clock."""
    if peer is None or leader is None or not peer.contacted:
        return None
    since_ms = round(max(0.0, now_s - leader.heard_s) * 1000)
    return peer.contact_age_ms + (since_ms if since_ms > 5_000 else 0)


# --- the whole


def cluster_view(sights: Sequence[Sight], now_s: float, interval_s: float) -> ClusterView:
    """One value of all sights. Replicas stand in the order of their names, those that are no members last."""
    report = informed(sights)
    members = list(report.members) if report is not None else []
    leader = ruling(sights, now_s, interval_s, members)
    rows = tuple(_rows(sights, members, leader, now_s, interval_s))
    chief = leader.status if leader is not None else None
    lead = next((row for row in rows if row.role is Role.LEADER), None)
    voters = {m.replica_id for m in members if m.role == pb.VOTER}
    live = [s.status for s in sights if s.status is not None and _seated(s) and freshness(s, now_s, interval_s)[0] is _LIVE]
    acknowledging = None
    if chief is not None:
        hears = {p.replica_id for p in chief.progress if heard(chief, p)} | {chief.header.replica_id}
        acknowledging = len(hears & voters)
    return ClusterView(
        name=report.cluster_name if report is not None else "",
        cluster_id=report.header.cluster_id if report is not None else "",
        interval_s=interval_s,
        replicas=rows,
        leader=lead,
        leader_named=_named(live, members) if lead is None else "",
        term=max((s.status.header.term for s in sights if s.status is not None and _seated(s)), default=None),
        config_index=chief.config_index if chief is not None else report.config_index if report is not None else 0,
        voters=len(voters),
        learners=sum(m.role == pb.LEARNER for m in members),
        acknowledging=acknowledging,
        answering=sum(row.voter and row.freshness is _LIVE for row in rows),
        leaderless_s=None if lead is not None else _leaderless_s(live),
        candidates=tuple(_candidates(live, members)),
        writes_s=_sum([row.writes_s for row in rows]),
        reads_s=_sum([row.reads_s for row in rows]),
        commit_p99_us=_p99(chief, "commit") if chief is not None else None,
        elections_1h=max((s.elections_1h for s in live if s.HasField("counters")), default=None),
        leader_changes_1h=max((s.leader_changes_1h for s in live if s.HasField("leader_changes_1h")), default=None),
        rivals=_rivals(live, members),
    )


_LIVE: Final = Freshness.LIVE


def _rows(
    sights: Sequence[Sight], members: Sequence[pb.Member], leader: Sight | None, now_s: float, interval_s: float
) -> list[ReplicaView]:
    """Members by name, voters before learners; then daemons that are none. A member that no sight is of gets an empty one."""
    by_server: dict[str, Sight] = {}
    for sight in sights:
        if sight.status is not None:
            rival = by_server.get(sight.status.server.server_id)
            if rival is None or (bool(rival.error), -rival.heard_s) > (bool(sight.error), -sight.heard_s):
                by_server[sight.status.server.server_id] = sight
    by_address = {sight.address: sight for sight in sights if sight.status is None}
    rows, taken = [], set()
    peers = {p.replica_id: p for p in leader.status.progress} if leader is not None and leader.status is not None else {}
    for member in sorted(members, key=lambda m: (m.role == pb.LEARNER, natural(m.server.name))):
        address = member.server.addresses.listen
        taken |= {member.server.server_id, address}
        sight = by_server.get(member.server.server_id) or by_address.get(address) or Sight(address, heard_s=now_s)
        rows.append(_row(sight, member, leader, peers, now_s, interval_s))
    taken |= {row.address for row in rows}
    strangers = [s for key, s in by_server.items() if key not in taken] + [s for a, s in by_address.items() if a not in taken]
    rows += [_row(sight, None, leader, peers, now_s, interval_s) for sight in strangers]
    return rows


@lru_cache(maxsize=1024)
def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """The order that people expect: n2 before n10."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for char in name + "\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        if char != "\0":
            parts.append((1, 0, char))
    return tuple(parts)


def member_name(members: Sequence[pb.Member], replica_id: int) -> str:
    return next((m.server.name for m in members if m.replica_id == replica_id), f"replica {replica_id}")


def _named(live: Sequence[pb.StatusResponse], members: Sequence[pb.Member]) -> str:
    """The leader that most of those who answer name, in their highest term; empty: none."""
    naming = [s for s in live if s.leader_id and s.role != pb.LEADER]
    if not naming:
        return ""
    newest = max(naming, key=lambda s: s.header.term)
    return f"{member_name(members, newest.leader_id)}@{newest.header.term}"


def _leaderless_s(live: Sequence[pb.StatusResponse]) -> float | None:
    """The shortest time that any who answers has known no leader: the one that heard from it last."""
    waits = [s.candidacy.since_ms for s in live if s.HasField("candidacy")]
    return min(waits) / 1000 if waits else None


def _candidates(live: Sequence[pb.StatusResponse], members: Sequence[pb.Member]) -> list[str]:
    found = []
    for status in sorted(live, key=lambda s: natural(s.server.name)):
        if status.role in (pb.CANDIDATE, pb.PRE_CANDIDATE):
            votes = " ".join(member_name(members, voter) for voter in status.candidacy.granted_by) or "?"
            word = "asks" if status.role == pb.PRE_CANDIDATE else "stands in"
            found.append(f"{status.server.name} {word} term {status.header.term}, votes {votes}")
    return found


def _rivals(live: Sequence[pb.StatusResponse], members: Sequence[pb.Member]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    by_term: dict[int, set[str]] = {}
    for status in live:
        if status.role == pb.LEADER:
            by_term.setdefault(status.header.term, set()).add(status.server.name)
    return tuple((term, tuple(sorted(names))) for term, names in sorted(by_term.items()) if len(names) > 1)
