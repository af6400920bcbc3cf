"""The conversion of a failed RPC into an error, with the classes that only the client itself tells apart."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from google.rpc.status_pb2 import Status

from ravelctl.client.errors import (
    BusyError,
    DeadlineError,
    InternalError,
    InvalidArgumentError,
    RavelError,
    UnreachableError,
    UnsupportedVersionError,
    from_status,
)
from ravelpb.errors import Field, Reason

if TYPE_CHECKING:
    from grpc.aio import AioRpcError

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailing metadata that carries google.rpc.Status."""

_TOO_LARGE: Final = re.compile(r"(Received|Sent) message larger than max \((\d+) vs\. (\d+)\)")
"""gRPC's own report of a message that it does not read to its end: the server cannot say anything about such a message."""


class ConnectionLostError(UnreachableError):
    """The connection broke after the request was handed to it: the server may have done what was asked."""


class HangingError(ConnectionLostError):
    """The endpoint is connected and takes requests, but answers nothing."""


class SlowError(ConnectionLostError):
    """The endpoint did not answer in the time that the caller allowed, which is too short to call it hanging."""


def timed_out(endpoint: str, limit_s: float | None, progress_timeout_s: float) -> ConnectionLostError:
    """Return the error of an attempt that got no answer within `limit_s`.

    A hanging endpoint loses its connection, with all other calls on it: a short timeout of one caller must not cause that.
    """
    if limit_s is None or limit_s >= progress_timeout_s:
        return hanging(endpoint)
    return SlowError(f"{endpoint} did not answer within {limit_s:.3g} s", next_step="allow more time, or see `ravelctl status`")


def hanging(endpoint: str) -> HangingError:
    """Return the error of an endpoint that was given its full time and answered nothing."""
    return HangingError(f"{endpoint} is connected but does not answer", next_step="see `ravelctl status`")


class NotOfferedError(UnsupportedVersionError):
    """The port at this address does not serve the call: replicas talk there, or the daemon is older. Nothing was done."""


def from_rpc_error(error: AioRpcError, endpoint: str = "") -> RavelError:
    """Return the error behind a failed RPC: its google.rpc.Status if it carries one, else the meaning of its status code."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return from_status(Status.FromString(value))
    return _from_code(error.code().name, error.details() or "", endpoint)


def _from_code(code: str, details: str, endpoint: str) -> RavelError:
    """Return the error that gRPC itself reports for a server that could not answer."""
    where = endpoint or "the server"
    if code in ("UNAVAILABLE", "CANCELLED"):
        return ConnectionLostError(f"{where} cannot be reached: {_last_clause(details)}", next_step="check that its daemon runs")
    if code == "DEADLINE_EXCEEDED":
        return DeadlineError(f"{where} did not answer in time")
    if code == "UNIMPLEMENTED":
        return NotOfferedError(
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


def channel_closed(endpoint: str) -> ConnectionLostError:
    """Return the error of a call that ended because its channel was closed: gRPC cancels such a call.

    Call it while handling the CancelledError. Raises CancelledError if the task itself is being cancelled.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise asyncio.CancelledError
    return ConnectionLostError(f"the connection to {endpoint} was closed because it did not answer")


_WENT_AWAY: Final = ("goaway", "cancelling all calls")


def _last_clause(details: str) -> str:
    """Return the cause that people look for: the last clause of gRPC's details, which are a chain of causes with colons between.

    gRPC reports a server that goes away with its own word and debugging text, which is replaced.
    """
    if any(word in details.lower() for word in _WENT_AWAY):
        return "it closed the connection"
    return details.rsplit(": ", 1)[-1].strip().rstrip(".").lower() or "no details"
