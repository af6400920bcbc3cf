"""What a replica says of itself: frozen copies for people, metrics and the verdict on a change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from ravel_node.machine.base import MemberRecord
from ravel_node.raft import Index, ReplicaId, Role, Term
from ravel_node.replica.histogram import NOTHING, LatencySummary
from ravel_node.replica.trail import NO_LAG, Lag
from ravel_node.storage.base import StateHash
from ravelpb.alarms import Severity


class MemberRole(IntEnum):
    """A member's part in the configuration. Numbers as in cluster.proto."""

    VOTER = 1
    LEARNER = 2
    LEAVING = 3  # a voter of the outgoing half only


@dataclass(frozen=True, slots=True)
class Member:
    record: MemberRecord
    role: MemberRole


@dataclass(frozen=True, slots=True)
class PeerView:
    """The leader's view of one other replica."""

    replica_id: ReplicaId
    state: int  # ProgressState: 0 probe, 1 replicate, 2 snapshot
    match: Index
    next: Index
    paused: bool
    recent_active: bool
    inflight: int
    inflight_max: int
    contact_age_s: float | None  # None: it has not answered since this leader began
    snapshot_index: Index
    snapshot_sent_bytes: int  # that the peer holds
    snapshot_size_bytes: int
    lag: Lag = NO_LAG
    ack: LatencySummary = NOTHING  # from an append to its answer


@dataclass(frozen=True, slots=True)
class Alarm:
    code: str  # RVnnn: ravelpb.alarms
    message: str
    replica_id: ReplicaId  # whom it is about
    severity: Severity
    raised_s: float  # for how long it has been raised


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the start of the process: rates are differences over `monotonic_s`."""

    monotonic_s: float
    writes: int
    reads: int
    log_bytes: int
    elections: int


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Durations in seconds, sizes in bytes."""

    cluster_id: str
    cluster_name: str
    replica_id: ReplicaId
    role: Role
    term: Term
    leader_id: ReplicaId  # 0: none known
    leader_address: str
    first_index: Index
    last_index: Index
    commit_index: Index
    applied_index: Index
    flushed_index: Index
    revision: int
    config_index: Index
    members: tuple[Member, ...]
    progress: tuple[PeerView, ...]
    leader_age_s: float
    contact_age_s: float
    db_used_bytes: int
    db_map_bytes: int
    db_size_max_bytes: int
    log_used_bytes: int
    uptime_s: float
    boot_id: str
    snapshot_index: Index
    ready: bool
    removed: bool
    lease_remaining_s: float
    transferee_id: ReplicaId
    election_timeout_s: float
    vote_id: ReplicaId  # whom it voted for in this term; 0: nobody
    heartbeat_s: float
    votes: Mapping[ReplicaId, bool]  # answers to its candidacy, or poll, so far
    elections_1h: int  # seen in the last hour
    fsync: LatencySummary  # making a batch of saves durable
    apply: LatencySummary  # one turn of applying
    commit: LatencySummary  # from the append of a batch on this leader to its application
    saving_s: float  # for how long the save that is under way has been; 0: none is
    counters: Counters
    alarms: tuple[Alarm, ...] = field(default=())
    leader_changes_1h: int = 0  # as elections_1h
    checksum: StateHash | None = None  # the newest hash of its state that it made since it started


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an operator saw when deciding; 0: not checked."""

    term: int = 0
    config_index: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """A membership and what it bears."""

    voters: tuple[ReplicaId, ...]
    learners: tuple[ReplicaId, ...]
    quorum: int
    live: int
    caught_up: int
    tolerates: int  # negative: there is no quorum now


@dataclass(frozen=True, slots=True)
class Verdict:
    """The leader's judgement of a change before it is made."""

    before: Standing
    after: Standing
    seen: Expectation
    reason: str = ""  # empty: allowed
    next_step: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return not self.reason
