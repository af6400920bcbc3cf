"""Builds the two servers of a daemon: one for clients, one for the other replicas.

They listen apart so that peers can have a certificate authority of their own and no client can post Raft messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, runtime_checkable

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from ravel_node.admin.liveness import Liveness
from ravel_node.machine.limits import REQUEST_BYTES_CEILING
from ravel_node.server.admin import AdminHandlers
from ravel_node.server.adopting import Adopting
from ravel_node.server.binding import BoundServer, ClusterIdentity, OnFatal, Service
from ravel_node.server.cluster import ClusterHandlers
from ravel_node.server.cluster_check import ClusterCheck
from ravel_node.server.clusters import Clusters
from ravel_node.server.desk import DirectoryDesk
from ravel_node.server.errors import AdminGroupError
from ravel_node.server.health import HealthHandlers, is_ready
from ravel_node.server.host import Host
from ravel_node.server.inspect import InspectHandlers
from ravel_node.server.kv import KVHandlers
from ravel_node.server.limits import Limits
from ravel_node.server.peer_certificates import PeerCertificates
from ravel_node.server.raft import OnPeer, RaftTransportHandlers
from ravel_node.server.rebalancing import MoverView, Rebalancing
from ravel_node.server.reconciling import Reconciling
from ravel_node.server.slots import SlotsHandlers
from ravelctl.client import TlsOptions
from ravelpb.v1 import admin_pb2, cluster_pb2, inspect_pb2, kv_pb2, raft_pb2, slots_pb2

REQUEST_SLACK_BYTES: Final = 1 << 20
"""Beyond request_bytes_max: what is somewhat too large still arrives and gets an error of ours that names the bound."""

ANSWER_BYTES_MAX: Final = REQUEST_BYTES_CEILING + (4 << 20)
"""A batch of gets may be answered with more than was asked; past this the call fails instead of filling memory. The events of the
largest request that any member takes are one message of a watch."""

PEER_MESSAGE_BYTES_MAX: Final = REQUEST_BYTES_CEILING + (4 << 20)
"""Of the largest frame that a replica may send: less than 1 MiB of other messages, and one that carries an entry of one client's
request. How large that is follows from the setting of the leader, not from that of this replica: so no setting counts here."""


PEER_KEEPALIVE_MIN_S: Final = 0.1
"""Replicas ask each other often (transport.calls), so that a half-open connection is noticed before an election is due."""


PEER_ARGUMENTS: Final = (("grpc.http2.max_ping_strikes", 0),)
"""Peers ask every second whether the connection lives, and a follower has nothing to send on the leader's: that is no abuse."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What one server is told. Durations in seconds, sizes in bytes."""

    listen: str  # "host:port"; port 0 lets the system choose
    limits: Limits = field(default_factory=Limits)
    credentials: grpc.ServerCredentials | None = None  # None: plain text
    calls_max: int = 4_096  # at once; further ones get RESOURCE_EXHAUSTED
    connections_max: int = 4_096  # at once; further ones are closed as they come
    streams_max: int = 1_024  # at once on one connection; further ones wait at the caller
    keepalive_time_s: float = 30.0  # a connection that was silent for so long is asked whether it lives
    keepalive_timeout_s: float = 10.0
    keepalive_min_s: float = 5.0  # callers that ask more often are sent away


@runtime_checkable
class _Closes(Protocol):
    """A handler with streams that do not end by themselves."""

    def close(self) -> None: ...


class RpcServer:
    """One server of the daemon: not listening, listening, stopped."""

    def __init__(
        self,
        services: Sequence[Service],
        options: ServerOptions,
        on_fatal: OnFatal,
        message_bytes_max: int,
        more_arguments: Sequence[tuple[str, int]] = (),
        identity: ClusterIdentity | None = None,
    ) -> None:
        self._services = services
        self._options = options
        arguments = [*_channel_arguments(options, message_bytes_max), *more_arguments]
        self._bound = BoundServer(services, on_fatal=on_fatal, options=arguments, calls_max=options.calls_max, identity=identity)
        self.port = 0
        """The port it listens on, once started."""

    async def start(self) -> None:
        """Listen and serve. Raises ListenError (AddressInUseError) with the address and the way out."""
        self.port = self._bound.listen(self._options.listen, self._options.credentials)
        await self._bound.start()

    async def stop(self, grace_s: float) -> None:
        """End the streams that have no end of their own, let calls under way finish for `grace_s`, cancel the rest."""
        for service in self._services:
            if isinstance(service.handler, _Closes):
                service.handler.close()
        await self._bound.stop(grace_s)


def build_client_server(host: Host, options: ServerOptions, on_fatal: OnFatal, *, more: Sequence[Service] = ()) -> RpcServer:
    """KV, Cluster, Inspect, Slots and `more` with health and reflection, for clients. Call on the loop that will serve.

    A server of an admin group refuses KV and Slots: a key that a client wrote there by mistake would be found by nobody.
    """
    refusal = AdminGroupError() if host.is_admin else None
    services = [
        Service(kv_pb2.DESCRIPTOR.services_by_name["KV"], KVHandlers(host, options.limits), refusal),
        Service(cluster_pb2.DESCRIPTOR.services_by_name["Cluster"], ClusterHandlers(host)),
        Service(inspect_pb2.DESCRIPTOR.services_by_name["Inspect"], InspectHandlers(host)),
        Service(slots_pb2.DESCRIPTOR.services_by_name["Slots"], SlotsHandlers(host), refusal),
        *more,
    ]
    names = [service.name for service in services]
    health = Service(health_pb2.DESCRIPTOR.services_by_name["Health"], HealthHandlers(names, lambda: is_ready(host)))
    reflection_descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    names += [health.name, reflection_descriptor.full_name]
    reflection = Service(reflection_descriptor, _ReflectionHandlers(names))
    return RpcServer(
        [*services, health, reflection],
        options,
        on_fatal,
        options.limits.request_bytes_max + REQUEST_SLACK_BYTES,
        identity=ClusterCheck(host),
    )


def admin_service(
    host: Host,
    desk: DirectoryDesk,
    liveness: Liveness,
    mover: MoverView,
    clusters: Clusters,
    client_tls: TlsOptions | None = None,
) -> Service:
    """What the client port of an admin server serves besides; `client_tls` is how it dials the clusters."""
    handlers = AdminHandlers(
        host, desk, liveness, Rebalancing(desk, mover), Adopting(desk, client_tls), Reconciling(desk, clusters)
    )
    return Service(admin_pb2.DESCRIPTOR.services_by_name["Admin"], handlers)


def build_peer_server(
    host: Host,
    options: ServerOptions,
    on_fatal: OnFatal,
    *,
    on_peer: OnPeer | None = None,
    certificates: PeerCertificates | None = None,
) -> RpcServer:
    """RaftTransport alone, for the other replicas. `on_peer` is told of each replica that has dialled and is who it should be;
    `certificates` judges what they show, None where the port speaks plain text."""
    options = replace(options, keepalive_min_s=PEER_KEEPALIVE_MIN_S)
    handlers = RaftTransportHandlers(host, on_peer, certificates)
    service = Service(raft_pb2.DESCRIPTOR.services_by_name["RaftTransport"], handlers)
    return RpcServer([service], options, on_fatal, PEER_MESSAGE_BYTES_MAX, PEER_ARGUMENTS)


class _ReflectionHandlers:
    """The library's own answers, bound like any other handler."""

    def __init__(self, names: Sequence[str]) -> None:
        self._servicer = ReflectionServicer(names)

    def server_reflection_info(self, requests: object) -> object:
        return self._servicer.ServerReflectionInfo(requests, None)


def _channel_arguments(options: ServerOptions, message_bytes_max: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", ANSWER_BYTES_MAX),
        ("grpc.max_concurrent_streams", options.streams_max),
        ("grpc.max_allowed_incoming_connections", options.connections_max),
        ("grpc.keepalive_time_ms", int(options.keepalive_time_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1000)),
        ("grpc.http2.ping_timeout_ms", int(options.keepalive_timeout_s * 1000)),  # without it an answer is awaited for a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(options.keepalive_min_s * 1000)),
    ]
