"""The errors that a call of the client may raise: one tree, and the conversion from the wire.

The map mirrors the server's: every `Reason` of ravelpb.errors leads to one class (a test walks them). Programs match classes, or
`reason` where a class stands for several; they never parse `message`. `connection/rules.py` says what the client itself does
about each reason.

The module loads neither grpc nor protobuf, so that catching an error costs a program no start-up time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ravelpb.errors import DOMAIN, Field, Reason

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status


class LocalReason(StrEnum):
    """Reasons that the client finds itself: no server sends them."""

    UNREACHABLE = "UNREACHABLE"
    CLOSED = "CLOSED"
    NOT_SENT = "NOT_SENT"
    MISUSED = "MISUSED"


class RavelError(Exception):
    """A call that was refused or failed. `str()` is the message, followed by the next step if there is one.

    `message` is one lower-case sentence with the values that matter; `next_step` says what to do instead, or is empty;
    `metadata` holds the values by the names of `ravelpb.errors.Field`.
    """

    default_reason: Reason | LocalReason = Reason.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | LocalReason | None = None,
        metadata: Mapping[str, str] | None = None,
        next_step: str = "",
    ) -> None:
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.next_step = next_step or self.metadata.get(Field.NEXT_STEP, "")
        super().__init__(f"{message}: {self.next_step}" if self.next_step else message)

    def reworded(self, message: str) -> RavelError:
        """Return the same error with another message."""
        return type(self)(message, reason=self.reason, metadata=self.metadata, next_step=self.next_step)


class NotLeaderError(RavelError):
    """The asked replica does not lead. Clients follow the leader by themselves: only calls to one endpoint raise it."""

    default_reason = Reason.NOT_LEADER

    @property
    def leader_id(self) -> int:
        """0: the replica does not know the leader."""
        return _number(self.metadata.get(Field.LEADER_ID))

    @property
    def leader_address(self) -> str:
        """Empty: the replica does not know the leader."""
        return self.metadata.get(Field.LEADER_ADDRESS, "")


class NoLeaderError(RavelError):
    """The cluster has no leader, or none that the asked replicas know. Nothing was done."""

    default_reason = Reason.NO_LEADER


class UnreachableError(RavelError):
    """No daemon could be reached, or none answered. Nothing was done; a write that may have been done raises OutcomeUnknownError
    instead."""

    default_reason = LocalReason.UNREACHABLE


class OutcomeUnknownError(RavelError):
    """The write may or may not have happened, or may still happen a little later: neither failure nor success.

    Read before you write again.
    """

    default_reason = Reason.OUTCOME_UNKNOWN


class SessionExpiredError(RavelError):
    """The cluster no longer knows the client's session; nothing was done.

    RavelClient registers a new one, and raises OutcomeUnknownError with this error as its cause for a write that was sent before.
    """

    default_reason = Reason.SESSION_EXPIRED


class BusyError(RavelError):
    """Too much waits already, at the server or in this client. Nothing was done."""

    default_reason = Reason.BUSY

    @property
    def retry_after_s(self) -> float:
        """How long the server asks to wait; 0: the server did not say."""
        return _number(self.metadata.get(Field.RETRY_AFTER_MS)) / 1000


class QuotaExceededError(RavelError):
    """The store is as large as --db-size-max allows. Nothing was written; reads and deletes still work."""

    default_reason = Reason.QUOTA_EXCEEDED


class InvalidArgumentError(RavelError):
    """An argument that can never succeed: `reason` names the bound, `metadata` the value and the limit."""

    default_reason = Reason.INVALID_ARGUMENT


class NotFoundError(RavelError):
    """The named thing (a snapshot file, ...) does not exist. A key that does not exist is no error."""

    default_reason = Reason.NOT_FOUND


class CompactedError(RavelError):
    """The log no longer reaches back that far: to an entry, or to a revision that a watch asked for."""

    default_reason = Reason.COMPACTED

    @property
    def first_index(self) -> int:
        """The first index of the log; 0: the server did not say."""
        return _number(self.metadata.get(Field.FIRST_INDEX))

    @property
    def first_revision(self) -> int:
        """The first revision that a watch may begin with; 0: the server did not say."""
        return _number(self.metadata.get(Field.FIRST_REVISION))


class RefusedError(RavelError):
    """A check refused a change of membership, leadership, slots or the registry; nothing changed. `reason` names the check."""

    default_reason = Reason.UNSAFE_CHANGE


class BlankError(RavelError):
    """The asked daemon belongs to no cluster yet."""

    default_reason = Reason.BLANK


class AlreadyMemberError(RavelError):
    """The daemon has an identity already, and a daemon takes only one."""

    default_reason = Reason.ALREADY_MEMBER

    @property
    def cluster_id(self) -> str:
        return self.metadata.get(Field.CLUSTER_ID, "")

    @property
    def replica_id(self) -> int:
        return _number(self.metadata.get(Field.REPLICA_ID))


class WrongServerError(RavelError):
    """The server at this address belongs to another cluster, or is not the one that was meant. Nothing was done.

    With the reason WRONG_CLUSTER_ID the message names the address, the cluster found there and the cluster that was meant.
    """

    default_reason = Reason.WRONG_IDENTITY

    @property
    def cluster_id(self) -> str:
        """The cluster found at the address; empty: the server did not say."""
        return self.metadata.get(Field.CLUSTER_ID, "")


class RemovedError(RavelError):
    """The asked replica takes no part in its cluster any more: it was removed, or its data directory is old or a copy."""

    default_reason = Reason.REMOVED


class UnsupportedVersionError(RavelError):
    """A member, or the asked daemon, does not know this kind of command or call yet."""

    default_reason = Reason.UNSUPPORTED_VERSION


class DeadlineError(RavelError):
    """The time of a call ran out and nothing was done: a read, or a write that was never sent."""

    default_reason = Reason.TIMEOUT


class StoppedError(RavelError):
    """The replica is shutting down, or stopped itself after a storage error or on damaged data; the message says why."""

    default_reason = Reason.STOPPED


class ClosedError(RavelError):
    """The client was closed before the call was sent. Nothing was done."""

    default_reason = LocalReason.CLOSED


class NotSentError(RavelError):
    """The write was cancelled before it was sent. Nothing was done.

    It is the `__cause__` of the CancelledError or KeyboardInterrupt; a write that was sent has OutcomeUnknownError there.
    """

    default_reason = LocalReason.NOT_SENT


class ClientMisusedError(RavelError):
    """The client was used in another process or event loop than its own, where a call would never end. Nothing was done."""

    default_reason = LocalReason.MISUSED


class WrongClusterError(RavelError):
    """The key's slot belongs to another cluster. Nothing was done."""

    default_reason = Reason.WRONG_CLUSTER

    @property
    def map_version(self) -> int:
        """The version of the slot map that says so, or a later one; 0: the server did not say."""
        return _number(self.metadata.get(Field.MAP_VERSION))


class SlotMovingError(RavelError):
    """The key's slot is moving to another cluster. Nothing was done; a cluster accepts the key in a moment."""

    default_reason = Reason.SLOT_MOVING


class AdminGroupError(RavelError):
    """The asked daemon is an admin server, whose group holds no keys. Nothing was done. Give its address as `admin`."""

    default_reason = Reason.ADMIN_GROUP


class NotAdminError(RavelError):
    """The asked daemon is no admin server. Nothing was done."""

    default_reason = Reason.NOT_ADMIN


class InternalError(RavelError):
    """A fault of the server, or an answer that this client does not understand."""

    default_reason = Reason.INTERNAL


CLASS_OF: Final[Mapping[Reason, type[RavelError]]] = {
    Reason.NOT_LEADER: NotLeaderError,
    Reason.NO_LEADER: NoLeaderError,
    Reason.BLANK: BlankError,
    Reason.ALREADY_MEMBER: AlreadyMemberError,
    Reason.WRONG_CLUSTER_ID: WrongServerError,
    Reason.WRONG_IDENTITY: WrongServerError,
    Reason.REMOVED: RemovedError,
    Reason.DIRECTORY_OUTDATED: RemovedError,
    Reason.DIRECTORY_COPIED: RemovedError,
    Reason.UNKNOWN_MEMBER: RefusedError,
    Reason.NAME_TAKEN: RefusedError,
    Reason.OUTCOME_UNKNOWN: OutcomeUnknownError,
    Reason.SESSION_EXPIRED: SessionExpiredError,
    Reason.BUSY: BusyError,
    Reason.QUOTA_EXCEEDED: QuotaExceededError,
    Reason.SHUTTING_DOWN: StoppedError,
    Reason.UNSUPPORTED_VERSION: UnsupportedVersionError,
    Reason.WRONG_CLUSTER: WrongClusterError,
    Reason.SLOT_MOVING: SlotMovingError,
    Reason.NOT_ADMIN: NotAdminError,
    Reason.ADMIN_GROUP: AdminGroupError,
    Reason.ADDRESS_TAKEN: RefusedError,
    Reason.SUPERSEDED: RefusedError,
    Reason.STALE_REPORT: RefusedError,
    Reason.LAST_REPLICA: RefusedError,
    Reason.CLUSTER_IN_USE: RefusedError,
    Reason.MOVE_REFUSED: RefusedError,
    Reason.INVALID_ARGUMENT: InvalidArgumentError,
    Reason.KEY_EMPTY: InvalidArgumentError,
    Reason.KEY_TOO_LARGE: InvalidArgumentError,
    Reason.VALUE_TOO_LARGE: InvalidArgumentError,
    Reason.REQUEST_TOO_LARGE: InvalidArgumentError,
    Reason.NOT_FOUND: NotFoundError,
    Reason.COMPACTED: CompactedError,
    Reason.UNSAFE_CHANGE: RefusedError,
    Reason.STALE_VIEW: RefusedError,
    Reason.CHANGE_IN_PROGRESS: RefusedError,
    Reason.UNREACHABLE_MEMBER: RefusedError,
    Reason.NOT_CAUGHT_UP: RefusedError,
    Reason.TRANSFER_FAILED: RefusedError,
    Reason.TIMEOUT: DeadlineError,
    Reason.STOPPED: StoppedError,
    Reason.INTERNAL: InternalError,
}


def unknown_outcome(what: str, cause: RavelError | None = None, *, next_step: str) -> OutcomeUnknownError:
    """Return the error of a write that was sent and whose outcome nobody can say; `cause` is the last error of its attempts."""
    why = "no answer came in time" if cause is None else cause.message
    error = OutcomeUnknownError(f"{what} may or may not have happened: {why}", next_step=next_step)
    error.__cause__ = cause
    return error


def from_status(status: Status) -> RavelError:
    """Return the error that a google.rpc.Status describes: InternalError without our ErrorInfo, or for a reason of a later
    version."""
    # Loaded here: a caller that holds a Status has loaded protobuf already, and this module must stay cheap to import.
    from google.rpc.error_details_pb2 import ErrorInfo

    for detail in status.details:
        info = ErrorInfo()
        if not detail.Unpack(info) or info.domain != DOMAIN:
            continue
        try:
            reason = Reason(info.reason)
        except ValueError:
            break
        return CLASS_OF[reason](status.message, reason=reason, metadata=info.metadata)
    return InternalError(f"the server sent an error that this client does not know: {status.message} (code {status.code})")


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0
