"""The reasons that every error of the wire carries, so that programs never parse sentences.

An error travels as `google.rpc.Status` in the trailing metadata `grpc-status-details-bin`, with one
`google.rpc.ErrorInfo`: `reason` is one of `Reason`, `domain` is `DOMAIN`, `metadata` holds the values by the names below.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

DOMAIN: Final = "ravel"


class Reason(StrEnum):
    """Why a call was refused or failed. A reason never changes its meaning."""

    # who and where
    NOT_LEADER = "NOT_LEADER"  # LEADER_ID, LEADER_ADDRESS if known
    NO_LEADER = "NO_LEADER"  # there is none, or none is known here
    BLANK = "BLANK"  # the daemon belongs to no cluster yet
    ALREADY_MEMBER = "ALREADY_MEMBER"  # the daemon has an identity: CLUSTER_ID, REPLICA_ID
    WRONG_CLUSTER_ID = (
        "WRONG_CLUSTER_ID"  # the call is meant for another cluster than this daemon's: CLUSTER_ID; nothing was done
    )
    WRONG_IDENTITY = "WRONG_IDENTITY"  # the server at this address is not the one that was meant
    REMOVED = "REMOVED"  # this replica was taken out of the cluster for good
    DIRECTORY_OUTDATED = "DIRECTORY_OUTDATED"  # the data directory of this replica is older than what it has acknowledged
    DIRECTORY_COPIED = "DIRECTORY_COPIED"  # the server whose data directory this is a copy of runs elsewhere
    UNKNOWN_MEMBER = "UNKNOWN_MEMBER"
    NAME_TAKEN = "NAME_TAKEN"

    # writes
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"  # it may or may not have happened
    SESSION_EXPIRED = "SESSION_EXPIRED"  # the cluster no longer knows the client: nothing was done now
    BUSY = "BUSY"  # too much waits already; nothing was done
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"  # --db-size-max; reads and deletes go on
    SHUTTING_DOWN = "SHUTTING_DOWN"
    UNSUPPORTED_VERSION = "UNSUPPORTED_VERSION"  # not every member knows this kind of command yet

    # slots and the admin
    WRONG_CLUSTER = "WRONG_CLUSTER"  # the key's slot belongs to another cluster: MAP_VERSION at least; nothing was done
    SLOT_MOVING = "SLOT_MOVING"  # the key's slot is about to change its cluster; nothing was done, ask again in a moment
    NOT_ADMIN = "NOT_ADMIN"  # this daemon is no admin server
    ADMIN_GROUP = "ADMIN_GROUP"  # this daemon is an admin server: its group holds no keys; nothing was done
    ADDRESS_TAKEN = "ADDRESS_TAKEN"  # another server of the list has this address
    STALE_REPORT = "STALE_REPORT"  # the list knows a later term or membership
    SUPERSEDED = (
        "SUPERSEDED"  # the list has another cluster in the place of this server's: it is never routed to again; NEXT_STEP
    )
    LAST_REPLICA = "LAST_REPLICA"  # it is the last one of a cluster that owns slots; NEXT_STEP
    CLUSTER_IN_USE = "CLUSTER_IN_USE"  # a cluster with servers or slots cannot be struck from the list; NEXT_STEP
    MOVE_REFUSED = "MOVE_REFUSED"  # a step of a move that does not fit what the cluster or the directory knows of it

    # input
    INVALID_ARGUMENT = "INVALID_ARGUMENT"  # FIELD, VALUE
    KEY_EMPTY = "KEY_EMPTY"
    KEY_TOO_LARGE = "KEY_TOO_LARGE"  # VALUE, LIMIT: bytes
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    NOT_FOUND = "NOT_FOUND"
    COMPACTED = "COMPACTED"  # FIRST_INDEX of the log, or FIRST_REVISION that a watch may begin with

    # membership
    UNSAFE_CHANGE = "UNSAFE_CHANGE"  # it would lose quorum; NEXT_STEP
    STALE_VIEW = "STALE_VIEW"  # term or configuration have moved since the operator looked
    CHANGE_IN_PROGRESS = "CHANGE_IN_PROGRESS"  # one membership change at a time
    UNREACHABLE_MEMBER = "UNREACHABLE_MEMBER"  # the leader cannot reach the joining server
    NOT_CAUGHT_UP = "NOT_CAUGHT_UP"
    TRANSFER_FAILED = "TRANSFER_FAILED"

    # the replica itself
    TIMEOUT = "TIMEOUT"  # a read waited too long; writes get OUTCOME_UNKNOWN
    STOPPED = "STOPPED"  # the replica stopped itself (storage error, damaged data)
    INTERNAL = "INTERNAL"


class Field(StrEnum):
    """Keys of ErrorInfo.metadata."""

    LEADER_ID = "leader_id"
    LEADER_ADDRESS = "leader_address"
    CLUSTER_ID = "cluster_id"
    REPLICA_ID = "replica_id"
    FIELD = "field"
    VALUE = "value"
    LIMIT = "limit"
    FIRST_INDEX = "first_index"
    FIRST_REVISION = "first_revision"
    NEXT_STEP = "next_step"
    RETRY_AFTER_MS = "retry_after_ms"
    MAP_VERSION = "map_version"
    SLOT = "slot"
