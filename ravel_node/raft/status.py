"""A copy of a replica's state for people, metrics and decisions outside the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from ravel_node.raft.progress import Progress, ProgressState
from ravel_node.raft.types import ConfState, Index, ReplicaId, Role, Term

if TYPE_CHECKING:
    from ravel_node.raft.core import Raft


@dataclass(frozen=True, slots=True)
class ProgressStatus:
    """How far a peer has come, as its leader knows."""

    match: Index
    next: Index
    state: ProgressState
    is_learner: bool
    paused: bool
    pending_snapshot: Index
    recent_active: bool
    inflight_count: int
    inflight_bytes: int
    inflight_full: bool

    @classmethod
    def of(cls, progress: Progress) -> ProgressStatus:
        return cls(
            match=progress.match,
            next=progress.next,
            state=progress.state,
            is_learner=progress.is_learner,
            paused=progress.paused,
            pending_snapshot=progress.pending_snapshot,
            recent_active=progress.recent_active,
            inflight_count=progress.inflights.count,
            inflight_bytes=progress.inflights.bytes,
            inflight_full=progress.inflights.full,
        )


@dataclass(frozen=True, slots=True)
class Status:
    """One replica at one moment. `progress` is empty unless it leads."""

    id: ReplicaId
    role: Role
    term: Term
    vote: ReplicaId
    leader: ReplicaId
    commit: Index
    applied: Index
    applying: Index  # handed to the state machine
    first_index: Index
    last_index: Index
    membership: ConfState
    progress: Mapping[ReplicaId, ProgressStatus]
    votes: Mapping[ReplicaId, bool]  # answers to this replica's candidacy, or poll, so far; empty in other roles
    transferee: ReplicaId
    pending_conf_index: Index  # a leader appends no membership change until this is applied
    committed_in_term: bool  # at a leader: reads and the commit index are current
    uncommitted_bytes: int
    pending_reads: int
    election_elapsed: int
    election_timeout: int
    heartbeat_elapsed: int

    @classmethod
    def of(cls, raft: Raft) -> Status:
        progress = raft.tracker.progress if raft.role is Role.LEADER else {}
        votes = raft.tracker.votes if raft.role in (Role.PRE_CANDIDATE, Role.CANDIDATE) else {}
        return cls(
            id=raft.id,
            role=raft.role,
            term=raft.term,
            vote=raft.vote,
            leader=raft.leader,
            commit=raft.log.committed,
            applied=raft.log.applied,
            applying=raft.log.applying,
            first_index=raft.log.first_index,
            last_index=raft.log.last_index,
            membership=raft.tracker.membership.conf_state(),
            progress=MappingProxyType({replica: ProgressStatus.of(one) for replica, one in progress.items()}),
            votes=MappingProxyType(dict(votes)),
            transferee=raft.transferee,
            pending_conf_index=raft.pending_conf_index,
            committed_in_term=raft.committed_in_term,
            uncommitted_bytes=raft.uncommitted_bytes,
            pending_reads=raft.reads.pending + len(raft.early_reads),
            election_elapsed=raft.election_elapsed,
            election_timeout=raft.election_timeout,
            heartbeat_elapsed=raft.heartbeat_elapsed,
        )
