"""What a call of the client may raise: one tree, and the way from the wire into it.

This is the mirror of the server's own map: every `Reason` of ravelpb.errors leads to one class here (a test walks them). A
program matches classes, or `reason` where a class stands for several; it never parses `message`.

The module loads neither grpc nor protobuf, so that catching an error costs a program no start-up time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ravelpb.errors import DOMAIN, Field, Reason

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status
    from grpc.aio import AioRpcError

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailing metadata that carries google.rpc.Status."""


_TOO_LARGE: Final = re.compile(r"(Received|Sent) message larger than max \((\d+) vs\. (\d+)\)")
"""What gRPC says of a message that it does not read to its end, so that the server gets to say nothing."""


class LocalReason(StrEnum):
    """Reasons that only the client itself can have: no server says them."""

    UNREACHABLE = "UNREACHABLE"
    CLOSED = "CLOSED"


class RavelError(Exception):
    """A call that was refused or failed. `str()` is the message, with the next step after it if there is one.

    `message` is one lower-case sentence with the values that matter; `next_step` tells what to do instead, or is empty;
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


class NotLeaderError(RavelError):
    """The asked replica does not lead. Clients follow the leader by themselves: only calls to one endpoint raise it."""

    default_reason = Reason.NOT_LEADER

    @property
    def leader_id(self) -> int:
        """0: not known there."""
        return _number(self.metadata.get(Field.LEADER_ID))

    @property
    def leader_address(self) -> str:
        """Empty: not known there."""
        return self.metadata.get(Field.LEADER_ADDRESS, "")


class NoLeaderError(RavelError):
    """The cluster has no leader, or none that the asked replicas know. Nothing was done."""

    default_reason = Reason.NO_LEADER


class UnreachableError(RavelError):
    """A daemon, or all of them, cannot be reached or does not answer. Nothing was done; where that is not sure the error is
    OutcomeUnknownError instead."""

    default_reason = LocalReason.UNREACHABLE


class OutcomeUnknownError(RavelError):
    """The write may or may not have happened, or may still happen a little later: neither failure nor success.

    Read before writing again.
    """

    default_reason = Reason.OUTCOME_UNKNOWN


class SessionExpiredError(RavelError):
    """The cluster no longer knows the client's session; nothing was done.

    RavelClient registers anew, and raises OutcomeUnknownError with this as its cause for a write that was sent before.
    """

    default_reason = Reason.SESSION_EXPIRED


class BusyError(RavelError):
    """Too much waits already, at the server or in this client. Nothing was done."""

    default_reason = Reason.BUSY

    @property
    def retry_after_s(self) -> float:
        """How long the server asks to wait; 0: it did not say."""
        return _number(self.metadata.get(Field.RETRY_AFTER_MS)) / 1000


class QuotaExceededError(RavelError):
    """The store is as large as --db-size-max allows. Nothing was written; reads and deletes go on."""

    default_reason = Reason.QUOTA_EXCEEDED


class InvalidArgumentError(RavelError):
    """An argument that can never succeed: `reason` tells which bound, `metadata` the value and the limit."""

    default_reason = Reason.INVALID_ARGUMENT


class NotFoundError(RavelError):
    """The named thing (a snapshot file, ...) is not there. A key that is not there is no error."""

    default_reason = Reason.NOT_FOUND


class CompactedError(RavelError):
    """The log no longer reaches back that far: to an entry, or to a revision that a watch asked for."""

    default_reason = Reason.COMPACTED

    @property
    def first_index(self) -> int:
        """The first log index there is; 0: the server did not say."""
        return _number(self.metadata.get(Field.FIRST_INDEX))

    @property
    def first_revision(self) -> int:
        """The first revision that a watch may begin with; 0: the server did not say."""
        return _number(self.metadata.get(Field.FIRST_REVISION))


class RefusedError(RavelError):
    """A change of membership, leadership, slots or the admin's list that a check refused; nothing changed. `reason` tells
    which check."""

    default_reason = Reason.UNSAFE_CHANGE


class BlankError(RavelError):
    """The asked daemon belongs to no cluster yet."""

    default_reason = Reason.BLANK


class AlreadyMemberError(RavelError):
    """A daemon takes an identity once, and this one has its own."""

    default_reason = Reason.ALREADY_MEMBER

    @property
    def cluster_id(self) -> str:
        return self.metadata.get(Field.CLUSTER_ID, "")

    @property
    def replica_id(self) -> int:
        return _number(self.metadata.get(Field.REPLICA_ID))


class WrongServerError(RavelError):
    """The server at this address is of another cluster, or not the one that was meant."""

    default_reason = Reason.WRONG_IDENTITY


class RemovedError(RavelError):
    """The asked replica takes no part in its cluster any more: it was removed, or its data directory is old or a copy."""

    default_reason = Reason.REMOVED


class UnsupportedVersionError(RavelError):
    """A member, or the asked daemon, does not know this kind of command or call yet."""

    default_reason = Reason.UNSUPPORTED_VERSION


class DeadlineError(RavelError):
    """The time of a call ran out with nothing done: a read, or a write that was never sent."""

    default_reason = Reason.TIMEOUT


class StoppedError(RavelError):
    """The replica is shutting down, or stopped itself after a storage error or on damaged data; the message says why."""

    default_reason = Reason.STOPPED


class ClosedError(RavelError):
    """The client was closed before the call was sent. Nothing was done."""

    default_reason = LocalReason.CLOSED


class WrongClusterError(RavelError):
    """The key's slot belongs to another cluster. Nothing was done."""

    default_reason = Reason.WRONG_CLUSTER

    @property
    def map_version(self) -> int:
        """The version of the map of slots that says so, or a later one; 0: the server did not say."""
        return _number(self.metadata.get(Field.MAP_VERSION))


class SlotMovingError(RavelError):
    """The key's slot is about to change its cluster. Nothing was done; in a moment a cluster takes it."""

    default_reason = Reason.SLOT_MOVING


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

NOTHING_DONE: Final = frozenset(
    {
        Reason.NOT_LEADER,
        Reason.NO_LEADER,
        Reason.BLANK,
        Reason.ALREADY_MEMBER,
        Reason.NOT_FOUND,
        Reason.REMOVED,
        Reason.DIRECTORY_OUTDATED,
        Reason.DIRECTORY_COPIED,
        Reason.SESSION_EXPIRED,
        Reason.BUSY,
        Reason.QUOTA_EXCEEDED,
        Reason.UNSUPPORTED_VERSION,
        Reason.WRONG_CLUSTER,
        Reason.SLOT_MOVING,
        Reason.NOT_ADMIN,
        *(reason for reason, kind in CLASS_OF.items() if kind in (InvalidArgumentError, RefusedError, WrongServerError)),
    }
    - {Reason.TRANSFER_FAILED}
)
"""Reasons which prove that this attempt of a write did nothing. Not SHUTTING_DOWN and STOPPED: it may be in the log."""

RETRYABLE: Final = frozenset(
    {
        Reason.NOT_LEADER,
        Reason.NO_LEADER,
        Reason.BLANK,
        Reason.REMOVED,
        Reason.DIRECTORY_OUTDATED,
        Reason.DIRECTORY_COPIED,
        Reason.BUSY,
        Reason.OUTCOME_UNKNOWN,
        Reason.SHUTTING_DOWN,
        Reason.STOPPED,
        Reason.TIMEOUT,
        LocalReason.UNREACHABLE,
    }
)
"""Reasons that another replica, or the same one a little later, may not have."""


def from_status(status: Status) -> RavelError:
    """The error that a google.rpc.Status describes. Without our ErrorInfo, or with a reason of a later version: InternalError."""
    # Loaded here: whoever holds a Status has paid for protobuf already, and this module must stay cheap to import.
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


def from_rpc_error(error: AioRpcError, endpoint: str = "") -> RavelError:
    """The error behind a failed RPC: its google.rpc.Status if it carries one, else what its status code says."""
    from google.rpc.status_pb2 import Status

    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return from_status(Status.FromString(value))
    return _from_code(error.code().name, error.details() or "", endpoint)


def _from_code(code: str, details: str, endpoint: str) -> RavelError:
    """What gRPC itself reports about a server that did not get to say anything."""
    where = endpoint or "the server"
    if code in ("UNAVAILABLE", "CANCELLED"):
        return UnreachableError(f"{where} cannot be reached: {_last_clause(details)}", next_step="check that its daemon runs")
    if code == "DEADLINE_EXCEEDED":
        return DeadlineError(f"{where} did not answer in time")
    if code == "UNIMPLEMENTED":
        return UnsupportedVersionError(
            f"{where} does not offer this call: it is a port where only replicas talk, or its daemon is older",
            next_step="give a client address (--listen); the peer port is the one after it, unless --peer-listen says another",
        )
    if code == "RESOURCE_EXHAUSTED" and (sizes := _TOO_LARGE.search(details)):
        what, size, limit = sizes.groups()
        return InvalidArgumentError(
            f"the request has {size} bytes, and {where} reads at most {limit}"
            if what == "Received"
            else f"the answer of {where} has {size} bytes, and it sends at most {limit}",
            reason=Reason.REQUEST_TOO_LARGE,
            metadata={Field.VALUE: size, Field.LIMIT: limit},
            next_step="send less at once, or raise --request-bytes-max on every replica"
            if what == "Received"
            else "ask for less",
        )
    if code == "RESOURCE_EXHAUSTED":
        return BusyError(f"{where} takes no more calls now: {_last_clause(details)}")
    return InternalError(f"{where} failed: {details or 'no details'} ({code.lower()})")


_WENT_AWAY: Final = ("goaway", "cancelling all calls")


def _last_clause(details: str) -> str:
    """gRPC's details are a chain of causes with colons between; the last one is the cause that people look for.

    That of a server which goes away is gRPC's own word for it, with its debugging behind.
    """
    if any(word in details.lower() for word in _WENT_AWAY):
        return "it closed the connection"
    return details.rsplit(": ", 1)[-1].strip().rstrip(".").lower() or "no details"


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0
