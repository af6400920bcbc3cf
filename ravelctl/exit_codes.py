"""How every command ends: the one table of exit codes, and where each reason of the wire stands in it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ravelpb.errors import Reason


class ExitCode(IntEnum):
    """What a script may rely on. A number never changes its meaning."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NO_LEADER = 4  # or no quorum
    REFUSED = 5  # by a safety check; nothing was changed
    OUTCOME_UNKNOWN = 6  # the write may or may not have happened
    DEGRADED = 7  # status and health only
    DAMAGED = 8
    NOT_ALLOWED = 9
    TIMED_OUT = 124  # the --timeout of a wait ran out
    INTERRUPTED = 130


EXIT_OF: Final[dict[Reason, ExitCode]] = {
    Reason.NOT_LEADER: ExitCode.NO_LEADER,
    Reason.NO_LEADER: ExitCode.NO_LEADER,
    Reason.BLANK: ExitCode.NO_LEADER,
    Reason.ALREADY_MEMBER: ExitCode.REFUSED,
    Reason.WRONG_CLUSTER_ID: ExitCode.REFUSED,
    Reason.WRONG_IDENTITY: ExitCode.REFUSED,
    Reason.REMOVED: ExitCode.REFUSED,
    Reason.UNKNOWN_MEMBER: ExitCode.FAILED,
    Reason.NAME_TAKEN: ExitCode.REFUSED,
    Reason.OUTCOME_UNKNOWN: ExitCode.OUTCOME_UNKNOWN,
    # The cluster no longer knows whether an earlier attempt of this write took effect.
    Reason.SESSION_EXPIRED: ExitCode.OUTCOME_UNKNOWN,
    Reason.BUSY: ExitCode.FAILED,
    Reason.QUOTA_EXCEEDED: ExitCode.REFUSED,
    Reason.SHUTTING_DOWN: ExitCode.UNREACHABLE,
    Reason.UNSUPPORTED_VERSION: ExitCode.REFUSED,
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
