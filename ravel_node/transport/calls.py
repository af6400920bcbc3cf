"""How replicas call each other: methods, channels that fit Raft's timing, and why a call ended.

gRPC's own reconnecting is built for clients that can wait: it backs off for minutes and tells nobody. Here a `Peer` reconnects,
on a new channel each time, and gRPC is told to keep out of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from ravel_node.raft.types import Index, ReplicaId, Term
from ravel_node.transport.base import Hello
from ravel_node.transport.handshakes import HANDSHAKE_FAILED, handshake_failure
from ravelpb.errors import DOMAIN, Reason
from ravelpb.v1 import raft_pb2

EXCHANGE: Final = "/ravel.v1.RaftTransport/Exchange"
INSTALL_SNAPSHOT: Final = "/ravel.v1.RaftTransport/InstallSnapshot"
PROBE: Final = "/ravel.v1.RaftTransport/Probe"
STATE_HASHES: Final = "/ravel.v1.RaftTransport/StateHashes"
MEMBER: Final = "/ravel.v1.RaftTransport/Member"

CONNECT_TIMEOUT_S: Final = 2.0
"""Time for a connection and the answer to a hello. A host that drops packets would else hold an attempt for minutes."""

CHANNEL_ARGUMENTS: Final[tuple[tuple[str, int], ...]] = (
    # A connection that died without a word (power, a pulled cable) is noticed within about two seconds: gRPC sends at most one
    # ping a second, and waits a minute for its answer unless the third is set too.
    ("grpc.keepalive_time_ms", 500),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Each channel has a connection of its own, so that a snapshot never shares one with heartbeats, and its own backoff.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # this is also the time that one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 1 << 20),  # answers are small
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)

_SHUT_AT_ONCE: Final = re.compile(r"failed to connect to all addresses.*Socket closed")
"""All that gRPC tells of a far end that did not like how, or with what certificate, it was dialled."""

ChannelFactory = Callable[[str], grpc.aio.Channel]
"""From a peer's address to a new channel: where credentials come in."""


def insecure_channel(address: str) -> grpc.aio.Channel:
    """A channel in plain text."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_ARGUMENTS)


def secure_channel_factory(credentials: grpc.ChannelCredentials, name: str | None = None) -> ChannelFactory:
    """Channels that use these credentials. The far end's certificate must hold `name`; None: the host that is dialled."""
    arguments: list[tuple[str, int | str]] = [*CHANNEL_ARGUMENTS]
    if name is not None:
        arguments.append(("grpc.ssl_target_name_override", name))
    return lambda address: grpc.aio.secure_channel(address, credentials, options=arguments)


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a call ended. `reason` is one of ravelpb.errors.Reason, HANDSHAKE_FAILED, or empty where the far end gave none."""

    why: str
    reason: str = ""
    ours: bool = False  # this side ended it: the far end does not know the reason

    @property
    def is_identity(self) -> bool:
        """The far end answered and will not have us: only an operator changes that, so nobody need hurry."""
        return self.reason in _IDENTITY_REASONS


_IDENTITY_REASONS: Final = frozenset(
    {Reason.REMOVED, Reason.WRONG_CLUSTER_ID, Reason.WRONG_IDENTITY, Reason.DIRECTORY_OUTDATED, Reason.DIRECTORY_COPIED}
)


class CallEndedError(Exception):
    """A call to a peer ended before it should."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.why)
        self.ended = ended


async def ended(call: Any) -> Ended:
    """Why this call, whose status is there or about to be, ended."""
    code = await call.code()
    metadata = await call.trailing_metadata()
    return _ended(code, await call.details(), metadata)


def ended_by(error: grpc.aio.AioRpcError) -> Ended:
    """The same from the library's exception."""
    return _ended(error.code(), error.details(), error.trailing_metadata())


def _ended(code: grpc.StatusCode, details: str | None, metadata: Any) -> Ended:
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            return Ended(details or code.name, _reason(value))
    if code is grpc.StatusCode.OK:
        return Ended("the peer ended the stream")
    if why := handshake_failure(details or ""):
        return Ended(f"no TLS connection comes about: {why}", HANDSHAKE_FAILED)
    if _SHUT_AT_ONCE.search(details or ""):
        return Ended(
            "it ended the connection at once: it may ask for TLS, or refuse this server's certificate, and its log says so"
        )
    return Ended(f"{code.name.lower()}: {details}" if details else code.name.lower())


def _reason(details: bytes) -> str:
    """Our reason out of a google.rpc.Status; empty for anything else."""
    try:
        status = status_pb2.Status.FromString(details)
        info = error_details_pb2.ErrorInfo()
        for detail in status.details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                return str(info.reason)
    except DecodeError:
        return ""
    return ""


def hello_to(hello: Hello, peer: int) -> raft_pb2.PeerHello:
    """Return what this replica says of itself to that peer."""
    return raft_pb2.PeerHello(
        cluster_id=hello.cluster_id,
        from_replica_id=hello.replica_id,
        to_replica_id=peer,
        from_server_id=hello.server_id,
        boot_id=hello.boot_id,
        version=hello.version,
        from_address=hello.address,
        boot_number=hello.boot_number,
        term=hello.term,
        last_index=hello.last_index,
    )


def hello_from(wire: raft_pb2.PeerHello) -> Hello:
    """Return what a peer says of itself."""
    return Hello(
        cluster_id=wire.cluster_id,
        replica_id=ReplicaId(wire.from_replica_id),
        server_id=wire.from_server_id,
        boot_id=wire.boot_id,
        version=wire.version,
        address=wire.from_address,
        boot_number=wire.boot_number,
        term=Term(wire.term),
        last_index=Index(wire.last_index),
    )


async def close_quietly(channel: grpc.aio.Channel) -> None:
    """Close a channel even while the task that owns it is being cancelled."""
    await asyncio.shield(channel.close())
