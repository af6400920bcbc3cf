"""What the core has to tell people. It does not log: the driver turns these values into log lines and counters.

No decision of the core rests on an event, and where nobody fetches them the later ones are lost. Two ask for an act:
SafetyEvent for an alarm, SnapshotOutdated for a newer snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass

from ravel_node.raft.types import ConfState, Index, MessageType, ReplicaId, Role, Term


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """The replica became follower, pre-candidate, candidate or leader."""

    role: Role
    term: Term
    last_index: Index


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """Another leader is known, or none any more."""

    leader: ReplicaId
    term: Term


@dataclass(frozen=True, slots=True)
class ElectionStarted:
    term: Term  # the one that is campaigned for
    pre_vote: bool
    transfer: bool  # started on behalf of the leader, without waiting for a timeout


@dataclass(frozen=True, slots=True)
class ElectionRefused:
    """An election was due here, and this replica may not campaign."""

    term: Term
    reason: str


@dataclass(frozen=True, slots=True)
class ElectionWon:
    term: Term
    pre_vote: bool
    granted: tuple[ReplicaId, ...]
    rejected: tuple[ReplicaId, ...]


@dataclass(frozen=True, slots=True)
class ElectionLost:
    term: Term
    pre_vote: bool
    granted: tuple[ReplicaId, ...]
    rejected: tuple[ReplicaId, ...]


@dataclass(frozen=True, slots=True)
class VoteCast:
    candidate: ReplicaId
    term: Term
    pre_vote: bool


@dataclass(frozen=True, slots=True)
class VoteRejected:
    candidate: ReplicaId
    term: Term
    pre_vote: bool
    reason: str


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """A leader gave up on its own."""

    term: Term
    reason: str


@dataclass(frozen=True, slots=True)
class TransferStarted:
    target: ReplicaId
    term: Term


@dataclass(frozen=True, slots=True)
class TransferAborted:
    target: ReplicaId
    term: Term
    reason: str


@dataclass(frozen=True, slots=True)
class TransferIgnored:
    target: ReplicaId
    term: Term
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotSent:
    to: ReplicaId
    index: Index
    term: Term


@dataclass(frozen=True, slots=True)
class SnapshotReported:
    """How a snapshot fared that was on its way."""

    to: ReplicaId
    delivered: bool


@dataclass(frozen=True, slots=True)
class SnapshotOutdated:
    """A peer needs a snapshot, and the newest one was made before it joined. A newer one must be made."""

    to: ReplicaId
    index: Index


@dataclass(frozen=True, slots=True)
class SnapshotRestored:
    """A leader's snapshot replaces the log here."""

    index: Index
    term: Term


@dataclass(frozen=True, slots=True)
class SnapshotIgnored:
    index: Index
    term: Term
    reason: str


@dataclass(frozen=True, slots=True)
class MembershipChanged:
    conf_state: ConfState


@dataclass(frozen=True, slots=True)
class ConfChangeIgnored:
    """A membership change took no effect: an empty entry stands in its place, or it was passed over when applied."""

    index: Index  # where it stands, or would have stood
    reason: str


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    peer: ReplicaId


@dataclass(frozen=True, slots=True)
class RequestDropped:
    """A read, a transfer or a forgetting of the leader went nowhere; who asked must ask again."""

    type: MessageType
    reason: str


@dataclass(frozen=True, slots=True)
class SafetyEvent:
    """Something that a correct cluster cannot produce. It was ignored; an operator must look. Raise the alarm."""

    type: MessageType
    sender: ReplicaId
    term: Term
    reason: str


RaftEvent = (
    RoleChanged
    | LeaderChanged
    | ElectionStarted
    | ElectionRefused
    | ElectionWon
    | ElectionLost
    | VoteCast
    | VoteRejected
    | SteppedDown
    | TransferStarted
    | TransferAborted
    | TransferIgnored
    | SnapshotSent
    | SnapshotOutdated
    | SnapshotReported
    | SnapshotRestored
    | SnapshotIgnored
    | MembershipChanged
    | ConfChangeIgnored
    | PeerUnreachable
    | RequestDropped
    | SafetyEvent
)
