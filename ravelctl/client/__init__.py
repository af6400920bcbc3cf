"""The client library of ravel.

    async with RavelClient(["127.0.0.1:7400", "127.0.0.1:7410"]) as client:
        await client.put(b"k", b"v")

Programs without an event loop use the same calls without `await`:

    with connect("127.0.0.1:7400,127.0.0.1:7410") as store:
        store.put(b"k", b"v")

Names load when they are first used, so that a program that only catches errors never loads grpc.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import HandshakeError, TlsOptions
from ravelctl.client.errors import (
    AdminGroupError,
    AlreadyMemberError,
    BlankError,
    BusyError,
    ClientMisusedError,
    ClosedError,
    CompactedError,
    DeadlineError,
    InternalError,
    InvalidArgumentError,
    LocalReason,
    NoLeaderError,
    NotAdminError,
    NotFoundError,
    NotLeaderError,
    NotSentError,
    OutcomeUnknownError,
    QuotaExceededError,
    RavelError,
    RefusedError,
    RemovedError,
    SessionExpiredError,
    SlotMovingError,
    StoppedError,
    UnreachableError,
    UnsupportedVersionError,
    WrongClusterError,
    WrongServerError,
)
from ravelctl.client.types import (
    Condition,
    Consistency,
    Delete,
    DeleteResult,
    KeyValue,
    Operation,
    Put,
    PutResult,
    SwapResult,
    WatchEvent,
    WriteResult,
)
from ravelpb.errors import Reason

# Read when grpc loads. With its own handlers for fork() a child crashes, where the client raises ClientMisusedError without them.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

if TYPE_CHECKING:
    from ravelctl.client.blocking import BlockingClient, BlockingWatch, connect
    from ravelctl.client.client import RavelClient
    from ravelctl.client.services.admin import AdminClient
    from ravelctl.client.services.cluster import ClusterClient
    from ravelctl.client.services.inspect import InspectClient
    from ravelctl.client.services.slots import SlotsClient
    from ravelctl.client.session.watch import Watch

__all__ = [
    "AdminClient",
    "AdminGroupError",
    "AlreadyMemberError",
    "BlankError",
    "BlockingClient",
    "BlockingWatch",
    "BusyError",
    "ClientMisusedError",
    "ClosedError",
    "ClusterClient",
    "CompactedError",
    "Condition",
    "Consistency",
    "DeadlineError",
    "Delete",
    "DeleteResult",
    "HandshakeError",
    "InspectClient",
    "InternalError",
    "InvalidArgumentError",
    "KeyValue",
    "LocalReason",
    "NoLeaderError",
    "NotAdminError",
    "NotFoundError",
    "NotLeaderError",
    "NotSentError",
    "Operation",
    "OutcomeUnknownError",
    "Put",
    "PutResult",
    "QuotaExceededError",
    "RavelClient",
    "RavelError",
    "Reason",
    "RefusedError",
    "RemovedError",
    "RetryPolicy",
    "SessionExpiredError",
    "SlotMovingError",
    "SlotsClient",
    "StoppedError",
    "SwapResult",
    "TlsOptions",
    "UnreachableError",
    "UnsupportedVersionError",
    "Watch",
    "WatchEvent",
    "WriteResult",
    "WrongClusterError",
    "WrongServerError",
    "connect",
]

_LOADED_ON_USE: Final = {
    "AdminClient": "ravelctl.client.services.admin",
    "RavelClient": "ravelctl.client.client",
    "BlockingClient": "ravelctl.client.blocking",
    "BlockingWatch": "ravelctl.client.blocking",
    "connect": "ravelctl.client.blocking",
    "ClusterClient": "ravelctl.client.services.cluster",
    "InspectClient": "ravelctl.client.services.inspect",
    "SlotsClient": "ravelctl.client.services.slots",
    "Watch": "ravelctl.client.session.watch",
}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LOADED_ON_USE[name]), name)
