"""Where each reason of the wire stands in the table of exit codes. Loaded by what dials: the prompt does not need it."""

from __future__ import annotations

from typing import Final

from ravelctl.cli.exit_codes import ExitCode
from ravelpb.errors import Reason

EXIT_OF: Final[dict[Reason, ExitCode]] = {
    Reason.NOT_LEADER: ExitCode.NO_LEADER,
    Reason.NO_LEADER: ExitCode.NO_LEADER,
    Reason.BLANK: ExitCode.NO_LEADER,
    Reason.ALREADY_MEMBER: ExitCode.REFUSED,
    Reason.WRONG_CLUSTER_ID: ExitCode.REFUSED,
    Reason.WRONG_IDENTITY: ExitCode.REFUSED,
    Reason.REMOVED: ExitCode.REFUSED,
    Reason.DIRECTORY_OUTDATED: ExitCode.REFUSED,
    Reason.DIRECTORY_COPIED: ExitCode.REFUSED,
    Reason.UNKNOWN_MEMBER: ExitCode.FAILED,
    Reason.NAME_TAKEN: ExitCode.REFUSED,
    Reason.OUTCOME_UNKNOWN: ExitCode.OUTCOME_UNKNOWN,
    # The cluster no longer knows whether an earlier attempt of this write took effect.
    Reason.SESSION_EXPIRED: ExitCode.OUTCOME_UNKNOWN,
    Reason.BUSY: ExitCode.FAILED,
    Reason.QUOTA_EXCEEDED: ExitCode.REFUSED,
    Reason.SHUTTING_DOWN: ExitCode.UNREACHABLE,
    Reason.UNSUPPORTED_VERSION: ExitCode.REFUSED,
    # The cluster or daemon at this address is not the one that was meant.
    Reason.WRONG_CLUSTER: ExitCode.REFUSED,
    Reason.SLOT_MOVING: ExitCode.FAILED,
    Reason.NOT_ADMIN: ExitCode.REFUSED,
    Reason.ADMIN_GROUP: ExitCode.REFUSED,
    Reason.ADDRESS_TAKEN: ExitCode.REFUSED,
    Reason.SUPERSEDED: ExitCode.REFUSED,
    Reason.STALE_REPORT: ExitCode.REFUSED,
    Reason.LAST_REPLICA: ExitCode.REFUSED,
    Reason.CLUSTER_IN_USE: ExitCode.REFUSED,
    Reason.MOVE_REFUSED: ExitCode.REFUSED,
    Reason.INVALID_ARGUMENT: ExitCode.USAGE,
    Reason.KEY_EMPTY: ExitCode.USAGE,
    Reason.KEY_TOO_LARGE: ExitCode.USAGE,
    Reason.VALUE_TOO_LARGE: ExitCode.USAGE,
    Reason.REQUEST_TOO_LARGE: ExitCode.USAGE,
    Reason.NOT_FOUND: ExitCode.FAILED,
    Reason.COMPACTED: ExitCode.FAILED,
    Reason.UNSAFE_CHANGE: ExitCode.REFUSED,
    Reason.STALE_VIEW: ExitCode.REFUSED,
    Reason.CHANGE_IN_PROGRESS: ExitCode.REFUSED,
    Reason.UNREACHABLE_MEMBER: ExitCode.REFUSED,
    Reason.NOT_CAUGHT_UP: ExitCode.REFUSED,
    Reason.TRANSFER_FAILED: ExitCode.FAILED,
    Reason.TIMEOUT: ExitCode.TIMED_OUT,
    Reason.STOPPED: ExitCode.DAMAGED,
    Reason.INTERNAL: ExitCode.FAILED,
}
