"""How every command ends: the one table of exit codes. Where each reason of the wire stands in it: `ravelctl.cli.reasons`."""

from __future__ import annotations

from enum import IntEnum


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
