"""Which status every error has, and how it is told: one table, one form.

    {"error": {"reason": "NO_LEADER", "message": "...", "next_step": "...", "outcome": "nothing done"}}

`reason` is one of `ravelpb.errors.Reason` (or HTTP's own: NOT_FOUND, METHOD_NOT_ALLOWED, ...). `outcome` is "unknown" for a write
that may have happened or may still happen, and "nothing done" for every other error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.responses import JSONResponse

from ravelctl.client import LocalReason, RavelError
from ravelpb.errors import Reason

RETRY_AFTER_S: Final = 1

AWAY: Final = 503
STATUS_OF: Final[Mapping[Reason | LocalReason, int]] = {
    # the request can never succeed
    Reason.INVALID_ARGUMENT: 400,
    Reason.KEY_EMPTY: 400,
    Reason.KEY_TOO_LARGE: 400,
    Reason.VALUE_TOO_LARGE: 413,
    Reason.REQUEST_TOO_LARGE: 413,
    Reason.NOT_FOUND: 404,
    Reason.COMPACTED: 410,
    # the cluster is away for now; nothing was done
    LocalReason.UNREACHABLE: AWAY,
    LocalReason.CLOSED: AWAY,
    Reason.NOT_LEADER: AWAY,
    Reason.NO_LEADER: AWAY,
    Reason.BLANK: AWAY,
    Reason.REMOVED: AWAY,
    Reason.BUSY: AWAY,
    Reason.SHUTTING_DOWN: AWAY,
    Reason.STOPPED: AWAY,
    Reason.DIRECTORY_OUTDATED: AWAY,
    Reason.DIRECTORY_COPIED: AWAY,
    Reason.SESSION_EXPIRED: AWAY,
    Reason.WRONG_CLUSTER: AWAY,
    Reason.SLOT_MOVING: AWAY,
    Reason.QUOTA_EXCEEDED: 507,
    # the time ran out: with nothing done, or nobody knows
    Reason.TIMEOUT: 504,
    Reason.OUTCOME_UNKNOWN: 504,
    # what stands behind the gateway is not what it should be
    Reason.WRONG_CLUSTER_ID: 502,
    Reason.WRONG_IDENTITY: 502,
    Reason.NOT_ADMIN: 502,
    Reason.ADMIN_GROUP: 502,
    Reason.UNSUPPORTED_VERSION: 501,
}
"""Reasons that are not here are faults: 500."""

MAY_HAVE_HAPPENED: Final = frozenset({Reason.OUTCOME_UNKNOWN, Reason.INTERNAL})


class HttpError(Exception):
    """A refusal of the gateway itself."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        next_step: str = "",
        headers: Mapping[str, str] | None = None,
        outcome_known: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = str(reason)
        self.message = message
        self.next_step = next_step
        self.headers = dict(headers or {})
        self.outcome_known = outcome_known

    def response(self) -> JSONResponse:
        told = {
            "reason": self.reason,
            "message": self.message,
            "next_step": self.next_step,
            "outcome": "nothing done" if self.outcome_known else "unknown",
        }
        headers = {**self.headers, **({"Retry-After": str(RETRY_AFTER_S)} if self.status == AWAY else {})}
        return JSONResponse({"error": {name: word for name, word in told.items() if word}}, self.status, headers)


def from_client(error: RavelError) -> HttpError:
    """What a caller is told of an error of the client library."""
    return HttpError(
        STATUS_OF.get(error.reason, 500),
        error.reason,
        error.message,
        next_step=error.next_step,
        outcome_known=error.reason not in MAY_HAVE_HAPPENED,
    )
