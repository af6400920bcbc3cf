"""What a refusal looks like on the wire: one map from our exceptions to a status code and a reason.

An error is a `google.rpc.Status` with one `google.rpc.ErrorInfo`; the reasons and the keys of its metadata are `ravelpb.errors`.
The nearest class of an exception's ancestry that stands in `STATUS_OF` decides. What is not there is a fault of ours: it becomes
INTERNAL with an id under which the log has the rest, and tells nothing of the inside.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ravel_node.admin.answers import RefusedError
from ravel_node.machine import members
from ravel_node.raft import errors as raft
from ravel_node.replica import errors as replica
from ravel_node.server import limits
from ravel_node.storage import base as storage
from ravel_node.transport.snapshot_stream import SnapshotStreamError
from ravelpb.errors import DOMAIN, Field, Reason

MESSAGE_BYTES_MAX: Final = 1_024
VALUE_BYTES_MAX: Final = 256
"""An error travels in HTTP/2 headers, of which a client takes 8 KiB, and where a byte beyond ASCII takes three: what does not
fit would be lost whole."""

BUSY_RETRY_AFTER_MS: Final = 50


class SessionExpiredError(Exception):
    """The cluster does not know the client (any more); nothing was done now."""

    def __init__(self, client_id: int) -> None:
        super().__init__(
            f"session {client_id} is not known to the cluster (any more), nothing was done now: register a new one; "
            "what was sent before without an answer has an unknown outcome"
        )
        self.client_id = client_id


class ResultForgottenError(Exception):
    """The write was done once, but the client said it held the answer, so the cluster let go of it.

    Told as OUTCOME_UNKNOWN: INVALID_ARGUMENT would say that nothing was done, and a client would report a failure that was none.
    """

    def __init__(self, sequence: int) -> None:
        super().__init__(
            f"sequence {sequence} lies below what the client acknowledged: the write was taken before and its answer is gone; "
            "read the key to see, and let acked_below pass a sequence only once its answer is held"
        )
        self.sequence = sequence


class OtherClusterError(Exception):
    """The call names another cluster than this daemon's; nothing was done. `cluster_id` is this daemon's."""

    def __init__(self, cluster_id: str, meant: str) -> None:
        super().__init__(f"this daemon belongs to cluster {cluster_id}, and the call is meant for cluster {meant[:64]}")
        self.cluster_id = cluster_id


class AdminGroupError(Exception):
    """A call for keys reached a server of an admin group, which holds none; nothing was done."""

    def __init__(self) -> None:
        super().__init__(
            "this daemon is of an admin group, which holds no keys itself: ask it for the slot map, and the clusters for keys"
        )


class ForwardedError(Exception):
    """What another server answered when this one asked it on a caller's behalf; the caller gets the same reason."""

    def __init__(self, message: str, reason: str, fields: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reason = Reason(reason) if reason in Reason.__members__ else Reason.NO_LEADER
        self.fields = {Field(key): value for key, value in fields.items() if key in Field.__members__.values()}


class NoSuchThingError(Exception):
    """What was asked for by name or number is not here. `what` names the field, `value` what was asked for."""

    def __init__(self, why: str, *, what: str, value: object) -> None:
        super().__init__(why)
        self.what = what
        self.value = str(value)


class LogCompactedError(Exception):
    """The log no longer holds the entries that were asked for."""

    def __init__(self, index: int, first_index: int) -> None:
        super().__init__(f"entry {index} was compacted away: the log begins at {first_index}")
        self.first_index = first_index


STATUS_OF: Final[dict[type[Exception], tuple[int, Reason]]] = {
    # the replica: who leads, who belongs here
    replica.ReplicaError: (code_pb2.FAILED_PRECONDITION, Reason.INVALID_ARGUMENT),
    replica.NotLeaderError: (code_pb2.FAILED_PRECONDITION, Reason.NOT_LEADER),
    replica.OutcomeUnknownError: (code_pb2.ABORTED, Reason.OUTCOME_UNKNOWN),
    replica.LeadershipLostError: (code_pb2.ABORTED, Reason.OUTCOME_UNKNOWN),
    replica.ReplicaBusyError: (code_pb2.RESOURCE_EXHAUSTED, Reason.BUSY),
    replica.QuotaExceededError: (code_pb2.RESOURCE_EXHAUSTED, Reason.QUOTA_EXCEEDED),
    replica.RevisionCompactedError: (code_pb2.OUT_OF_RANGE, Reason.COMPACTED),
    replica.OutOfTouchError: (code_pb2.UNAVAILABLE, Reason.NO_LEADER),
    replica.ReadTimeoutError: (code_pb2.DEADLINE_EXCEEDED, Reason.TIMEOUT),
    replica.ReplicaStoppedError: (code_pb2.UNAVAILABLE, Reason.SHUTTING_DOWN),
    replica.RemovedError: (code_pb2.FAILED_PRECONDITION, Reason.REMOVED),
    replica.BlankError: (code_pb2.FAILED_PRECONDITION, Reason.BLANK),
    replica.AlreadyMemberError: (code_pb2.ALREADY_EXISTS, Reason.ALREADY_MEMBER),
    replica.WrongClusterError: (code_pb2.FAILED_PRECONDITION, Reason.WRONG_CLUSTER_ID),
    replica.WrongIdentityError: (code_pb2.FAILED_PRECONDITION, Reason.WRONG_IDENTITY),
    replica.OutdatedDirectoryError: (code_pb2.FAILED_PRECONDITION, Reason.DIRECTORY_OUTDATED),
    replica.CopiedDirectoryError: (code_pb2.FAILED_PRECONDITION, Reason.DIRECTORY_COPIED),
    replica.WrongSlotError: (code_pb2.FAILED_PRECONDITION, Reason.WRONG_CLUSTER),
    replica.SlotMovingError: (code_pb2.UNAVAILABLE, Reason.SLOT_MOVING),
    replica.MoveRefusedError: (code_pb2.FAILED_PRECONDITION, Reason.MOVE_REFUSED),
    replica.UnsupportedVersionError: (code_pb2.FAILED_PRECONDITION, Reason.UNSUPPORTED_VERSION),
    # changes of membership and leadership
    replica.MembershipError: (code_pb2.FAILED_PRECONDITION, Reason.INVALID_ARGUMENT),
    replica.UnsafeChangeError: (code_pb2.FAILED_PRECONDITION, Reason.UNSAFE_CHANGE),
    replica.StaleViewError: (code_pb2.ABORTED, Reason.STALE_VIEW),
    replica.ChangeInProgressError: (code_pb2.ABORTED, Reason.CHANGE_IN_PROGRESS),
    replica.UnknownMemberError: (code_pb2.NOT_FOUND, Reason.UNKNOWN_MEMBER),
    replica.NameTakenError: (code_pb2.ALREADY_EXISTS, Reason.NAME_TAKEN),
    replica.UnreachableMemberError: (code_pb2.FAILED_PRECONDITION, Reason.UNREACHABLE_MEMBER),
    replica.NotCaughtUpError: (code_pb2.FAILED_PRECONDITION, Reason.NOT_CAUGHT_UP),
    replica.TransferFailedError: (code_pb2.ABORTED, Reason.TRANSFER_FAILED),
    # what the core refuses
    raft.RaftError: (code_pb2.FAILED_PRECONDITION, Reason.INVALID_ARGUMENT),
    raft.ProposalDroppedError: (code_pb2.UNAVAILABLE, Reason.NO_LEADER),
    raft.PeerNotFoundError: (code_pb2.FAILED_PRECONDITION, Reason.UNKNOWN_MEMBER),
    raft.LocalMessageError: (code_pb2.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT),
    raft.ConfChangeError: (code_pb2.FAILED_PRECONDITION, Reason.UNSAFE_CHANGE),
    raft.StorageError: (code_pb2.UNAVAILABLE, Reason.BUSY),
    raft.CompactedError: (code_pb2.OUT_OF_RANGE, Reason.COMPACTED),
    raft.UnavailableError: (code_pb2.OUT_OF_RANGE, Reason.NOT_FOUND),
    raft.SnapshotOutOfDateError: (code_pb2.UNAVAILABLE, Reason.BUSY),
    raft.SnapshotTemporarilyUnavailableError: (code_pb2.UNAVAILABLE, Reason.BUSY),
    # durable state
    storage.StoreError: (code_pb2.UNAVAILABLE, Reason.INTERNAL),
    storage.StoreFailedError: (code_pb2.UNAVAILABLE, Reason.STOPPED),
    storage.HalfAppliedError: (code_pb2.UNAVAILABLE, Reason.STOPPED),
    storage.DamagedError: (code_pb2.DATA_LOSS, Reason.STOPPED),
    storage.FormatError: (code_pb2.FAILED_PRECONDITION, Reason.UNSUPPORTED_VERSION),
    storage.LaterFormatError: (code_pb2.FAILED_PRECONDITION, Reason.UNSUPPORTED_VERSION),
    storage.DirectoryInUseError: (code_pb2.FAILED_PRECONDITION, Reason.STOPPED),
    storage.HashStoppedError: (code_pb2.UNAVAILABLE, Reason.BUSY),
    storage.SnapshotRefusedError: (code_pb2.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT),
    SnapshotStreamError: (code_pb2.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT),
    # what a client sent
    limits.InputError: (code_pb2.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT),
    limits.KeyEmptyError: (code_pb2.INVALID_ARGUMENT, Reason.KEY_EMPTY),
    limits.KeyTooLargeError: (code_pb2.INVALID_ARGUMENT, Reason.KEY_TOO_LARGE),
    limits.ValueTooLargeError: (code_pb2.INVALID_ARGUMENT, Reason.VALUE_TOO_LARGE),
    limits.RequestTooLargeError: (code_pb2.RESOURCE_EXHAUSTED, Reason.REQUEST_TOO_LARGE),
    limits.AnswerTooLargeError: (code_pb2.RESOURCE_EXHAUSTED, Reason.REQUEST_TOO_LARGE),
    members.MemberRecordError: (code_pb2.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT),
    SessionExpiredError: (code_pb2.FAILED_PRECONDITION, Reason.SESSION_EXPIRED),
    ResultForgottenError: (code_pb2.ABORTED, Reason.OUTCOME_UNKNOWN),
    OtherClusterError: (code_pb2.FAILED_PRECONDITION, Reason.WRONG_CLUSTER_ID),
    AdminGroupError: (code_pb2.FAILED_PRECONDITION, Reason.ADMIN_GROUP),
    ForwardedError: (code_pb2.FAILED_PRECONDITION, Reason.INVALID_ARGUMENT),
    RefusedError: (code_pb2.FAILED_PRECONDITION, Reason.INVALID_ARGUMENT),  # with the directory's own reason
    NoSuchThingError: (code_pb2.NOT_FOUND, Reason.NOT_FOUND),
    LogCompactedError: (code_pb2.OUT_OF_RANGE, Reason.COMPACTED),
}

_REFUSED_WITH: Final = {
    Reason.NOT_FOUND: code_pb2.NOT_FOUND,
    Reason.NAME_TAKEN: code_pb2.ALREADY_EXISTS,
    Reason.ADDRESS_TAKEN: code_pb2.ALREADY_EXISTS,
    Reason.SUPERSEDED: code_pb2.FAILED_PRECONDITION,
    Reason.STALE_REPORT: code_pb2.ABORTED,
    Reason.STALE_VIEW: code_pb2.ABORTED,
    Reason.INVALID_ARGUMENT: code_pb2.INVALID_ARGUMENT,
}
"""Codes of what the directory refuses, where FAILED_PRECONDITION says too little."""

FATAL: Final = (raft.InvariantError, storage.StoreFailedError, storage.DamagedError)
"""After one of these nothing that the replica says can be trusted: whoever built the server is told, and stops it. A damaged
record is met where it is read, also by a client's get; a leader that went on would fail that key for ever."""


def is_refusal(error: BaseException) -> bool:
    """Whether this is an expected answer; anything else is a fault of ours and belongs in the log."""
    return any(ancestor in STATUS_OF for ancestor in type(error).__mro__)


def status_and_reason(error: Exception) -> tuple[int, Reason]:
    """The `google.rpc.Code` and the reason of an exception; INTERNAL for what `STATUS_OF` does not know."""
    match error:
        case replica.NotLeaderError(leader_id=0):
            return code_pb2.UNAVAILABLE, Reason.NO_LEADER
        case ForwardedError():
            return code_pb2.FAILED_PRECONDITION, error.reason
        case RefusedError():
            return _REFUSED_WITH.get(error.reason, code_pb2.FAILED_PRECONDITION), error.reason
        case replica.ReplicaStoppedError(failed=True):
            return code_pb2.UNAVAILABLE, Reason.STOPPED
    for ancestor in type(error).__mro__:
        if found := STATUS_OF.get(ancestor):
            return found
    return code_pb2.INTERNAL, Reason.INTERNAL


def fields_of(error: Exception) -> dict[Field, str]:
    """The values that a program needs of an exception, by the names of `ravelpb.errors`."""
    match error:
        case replica.NotLeaderError() if error.leader_id:
            return {Field.LEADER_ID: str(error.leader_id), Field.LEADER_ADDRESS: error.leader_address}
        case ForwardedError():
            return error.fields
        case OtherClusterError():
            return {Field.CLUSTER_ID: error.cluster_id}
        case replica.AlreadyMemberError():
            return {Field.CLUSTER_ID: error.cluster_id, Field.REPLICA_ID: str(error.replica_id)}
        case replica.MembershipError() if error.next_step:
            return {Field.NEXT_STEP: error.next_step}
        case replica.ReplicaBusyError() | raft.SnapshotTemporarilyUnavailableError():
            return {Field.RETRY_AFTER_MS: str(BUSY_RETRY_AFTER_MS)}
        case replica.WrongSlotError() | replica.SlotMovingError():
            return {Field.MAP_VERSION: str(error.map_version), Field.SLOT: str(error.slot)}
        case limits.InputError():
            return {key: value for key, value in _input_fields(error).items() if value}
        case ResultForgottenError():
            return {Field.FIELD: "once.sequence", Field.VALUE: str(error.sequence)}
        case SessionExpiredError():
            return {Field.FIELD: "once.client_id", Field.VALUE: str(error.client_id)}
        case NoSuchThingError():
            return {Field.FIELD: error.what, Field.VALUE: error.value}
        case replica.RevisionCompactedError():
            return {Field.FIRST_REVISION: str(error.first_revision)}
        case LogCompactedError():
            return {Field.FIRST_INDEX: str(error.first_index)}
    return {}


def _input_fields(error: limits.InputError) -> dict[Field, str]:
    return {Field.FIELD: error.field, Field.VALUE: error.value, Field.LIMIT: error.limit}


def to_rpc_status(error: Exception) -> status_pb2.Status:
    """The refusal as it travels, in trailing metadata or in a Session's result. Never raises.

    For what is no refusal the message holds an id only: log the exception beside its `fault_id`.
    """
    code, reason = status_and_reason(error)
    if is_refusal(error):
        return make_status(code, reason, str(error), fields_of(error))
    fault = secrets.token_hex(6)
    return make_status(code, reason, f"internal error {fault}: the server's log tells it under this id", {Field.VALUE: fault})


def fault_id(status: status_pb2.Status) -> str:
    """The id that `to_rpc_status` drew for a fault of ours; empty for a refusal."""
    info = error_details_pb2.ErrorInfo()
    if status.code != code_pb2.INTERNAL or not status.details[0].Unpack(info):
        return ""
    return str(info.metadata[Field.VALUE])


def make_status(code: int, reason: Reason, message: str, fields: Mapping[Field, str]) -> status_pb2.Status:
    """A status with its one ErrorInfo, every text cut to what headers can carry."""
    info = error_details_pb2.ErrorInfo(
        reason=reason,
        domain=DOMAIN,
        metadata={str(key): _cut(value, VALUE_BYTES_MAX) for key, value in fields.items()},
    )
    packed = any_pb2.Any()
    packed.Pack(info)
    return status_pb2.Status(code=code, message=_cut(message, MESSAGE_BYTES_MAX) or reason.value, details=[packed])


def _cut(text: str, size: int) -> str:
    """As much of the beginning as takes `size` bytes; what is no character stands as a question mark."""
    return text.encode(errors="replace")[:size].decode(errors="ignore")
