"""What a replica refuses. Each is mapped to a status and a reason at the edge (server/errors.py)."""

from __future__ import annotations

from ravel_node.raft.types import ReplicaId


class ReplicaError(Exception):
    """A refusal, or an outcome that is not known. The message is one lower-case sentence with the values that matter."""


class NotLeaderError(ReplicaError):
    """This replica does not lead. `leader_id` is 0 and `leader_address` empty where no leader is known."""

    def __init__(self, leader_id: ReplicaId, leader_address: str) -> None:
        where = f"replica {leader_id} at {leader_address} leads" if leader_id else "no leader is known here"
        super().__init__(f"this replica does not lead the cluster; {where}")
        self.leader_id = leader_id
        self.leader_address = leader_address


class OutcomeUnknownError(ReplicaError):
    """The command was handed to the log, but whether it will take effect cannot be said."""


class LeadershipLostError(OutcomeUnknownError):
    """Leadership ended between the append of a command and its answer."""

    def __init__(self) -> None:
        super().__init__("leadership was lost before the answer: the command may or may not take effect")


class ReplicaBusyError(ReplicaError):
    """Too much waits already; nothing was done."""


class QuotaExceededError(ReplicaError):
    """The store is as large as --db-size-max allows; reads and deletes go on."""


class RevisionCompactedError(ReplicaError):
    """The log here no longer reaches back to a change that was asked for. `first_revision` is the first that it can tell."""

    def __init__(self, revision: int, first_revision: int) -> None:
        super().__init__(
            f"the change of revision {revision} cannot be told here: this replica knows changes from revision {first_revision} on"
        )
        self.first_revision = first_revision


class OutOfTouchError(ReplicaError):
    """This replica has not heard of a leader for a while: what it would show falls behind."""

    def __init__(self, silence_s: float) -> None:
        super().__init__(f"this replica has heard of no leader for {silence_s:.1f} s: another one may know more")


class ReadTimeoutError(ReplicaError):
    """A read waited longer than an election for a majority to confirm this leader."""


class ReplicaStoppedError(ReplicaError):
    """The replica is shutting down, or stopped itself; the message says why."""

    def __init__(self, why: str = "the replica is shutting down", *, failed: bool = False) -> None:
        super().__init__(why)
        self.failed = failed


class RemovedError(ReplicaError):
    """This replica, or the one that dials, was removed from the cluster for good."""


class BlankError(ReplicaError):
    """This daemon belongs to no cluster yet."""

    def __init__(self) -> None:
        super().__init__(
            "this daemon belongs to no cluster yet: make one with `ravelctl bootstrap`, or take it into one with `ravelctl join`"
        )


class AlreadyMemberError(ReplicaError):
    """A daemon takes an identity once. `cluster_id` and `replica_id` are the ones it has."""

    def __init__(self, cluster_id: str, replica_id: ReplicaId) -> None:
        super().__init__(f"this daemon is replica {replica_id} of cluster {cluster_id} already, and an identity is taken once")
        self.cluster_id = cluster_id
        self.replica_id = replica_id


class WrongClusterError(ReplicaError):
    """A peer of another cluster, or one that means another replica than this."""


class WrongIdentityError(ReplicaError):
    """The server behind a replica id is not the one that the cluster took in under it: a wiped disk, or a wrong address."""


class OutdatedDirectoryError(ReplicaError):
    """The data directory of a replica is older than what the replica has acknowledged: it takes no part any more."""


class CopiedDirectoryError(ReplicaError):
    """The data directory of a replica was copied, and its owner still runs."""


class MembershipError(ReplicaError):
    """A change of membership or leadership that was refused; nothing was changed. `next_step` tells what to do instead."""

    def __init__(self, why: str, next_step: str = "") -> None:
        super().__init__(why)
        self.next_step = next_step


class UnsafeChangeError(MembershipError):
    """The change would leave the cluster without a quorum."""


class StaleViewError(MembershipError):
    """Term or configuration have moved since the operator looked."""


class ChangeInProgressError(MembershipError):
    """Another membership change, or a transfer of leadership, is under way."""


class UnknownMemberError(MembershipError):
    """No member has that id."""


class NameTakenError(MembershipError):
    """Another member has that name."""


class UnreachableMemberError(MembershipError):
    """The leader cannot reach the joining server, or finds another one at its address."""


class NotCaughtUpError(MembershipError):
    """A learner is too far behind to become a voter."""


class TransferFailedError(MembershipError):
    """Leadership did not move to the chosen replica in time."""


class MoveRefusedError(ReplicaError):
    """A step of a move of slots that does not fit what this cluster knows of it; nothing was changed."""


class WrongSlotError(ReplicaError):
    """The slot of a key belongs to another cluster, as of this version of the map or a later one. Nothing was done."""

    def __init__(self, slot: int, map_version: int) -> None:
        super().__init__(f"slot {slot} of this key belongs to another cluster, as this one knows since map version {map_version}")
        self.slot = slot
        self.map_version = map_version


class SlotMovingError(ReplicaError):
    """The slot of a key is about to change its cluster: reads go on, writes wait. Nothing was done."""

    def __init__(self, slot: int, map_version: int) -> None:
        super().__init__(
            f"slot {slot} of this key is moving to another cluster and takes no writes for a moment; nothing was done"
        )
        self.slot = slot
        self.map_version = map_version


class UnsupportedVersionError(ReplicaError):
    """A member does not yet know this kind of command; upgrade it first."""
