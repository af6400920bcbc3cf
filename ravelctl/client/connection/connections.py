"""A channel for each endpoint, and what is known about who leads.

`Connections` is the one place that knows addresses: batches, scans and operators' calls of a client share it, so that what one of
them learns about the leader serves all. Used on one event loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import grpc
from grpc import aio

from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import Explanation, HandshakeError, TlsOptions, explain
from ravelctl.client.errors import (
    BlankError,
    BusyError,
    DeadlineError,
    InvalidArgumentError,
    NoLeaderError,
    NotLeaderError,
    RavelError,
    RemovedError,
    StoppedError,
    UnreachableError,
    WrongServerError,
)
from ravelpb.errors import Reason
from ravelpb.v1.cluster_pb2 import StatusRequest
from ravelpb.v1.cluster_pb2_grpc import ClusterStub

ChannelFactory = Callable[[str], aio.Channel]
"""Makes the channel to one endpoint ("host:port"): the place for credentials."""

ENDPOINTS_MAX: Final = 64
"""Endpoints that a client keeps, learned ones included."""

CHANNEL_OPTIONS: Final = (
    # An answer is as large as the values it holds, which the server bounds by what it lets be asked at once.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The client repeats calls by itself and must know for each whether it can have reached a server.
    ("grpc.enable_retries", 0),
    # A channel that was dropped because its server hung must not come back with the same connection.
    ("grpc.use_local_subchannel_pool", 1),
    # Back-off is the client's own (RetryPolicy); the second one also bounds an attempt to connect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A connection that died without a word (a host that lost its power) is found out even while nothing is asked of it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it gRPC waits a minute for the answer, whatever the line above says
    # Clusters are dialled directly: a proxy for web pages in the environment is not meant for them.
    ("grpc.enable_http_proxy", 0),
)


def plain_channel(endpoint: str) -> aio.Channel:
    """The channel that is made unless the client was given a factory: without TLS."""
    return aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)


def secure_channels(tls: TlsOptions) -> ChannelFactory:
    """Connections with TLS. Reads the files, once: raises InvalidArgumentError with everything that is wrong with them."""
    tls.check()
    ca, cert, key = (path.read_bytes() if path is not None else None for path in (tls.ca, tls.cert, tls.key))
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    return lambda endpoint: aio.secure_channel(endpoint, credentials, options=CHANNEL_OPTIONS)


MEMBERS_EVERY_S: Final = 5.0
"""A replica that does not lead, and cannot say who does, is asked no more often than this who else is in the cluster."""

MEMBERS_TIMEOUT_S: Final = 1.0

EXPLAINED_FOR_S: Final = 1.0
"""An endpoint that fails again and again is looked at by hand no more often than this."""

LED_ELSEWHERE: Final = (NotLeaderError, NoLeaderError, RemovedError)
"""Errors of a replica which is in no position to name the leader, while other members may know it."""

DOES_NOT_LEAD: Final = (NotLeaderError, NoLeaderError, BlankError, RemovedError, StoppedError, WrongServerError)
"""Errors after which the leader is to be looked for elsewhere."""


class HangingError(UnreachableError):
    """The endpoint is connected and takes requests, but answers nothing."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(f"{endpoint} is connected but does not answer", next_step="see `ravelctl status`")


def retry_after_s(error: RavelError) -> float:
    """How long the server asked to wait; 0 if it did not."""
    return error.retry_after_s if isinstance(error, BusyError) else 0.0


class Connections:
    """Endpoints, their channels, the leader as last heard, and who is suspected to be dead or to hang."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        retry: RetryPolicy,
        factory: ChannelFactory | None = None,
        tls: TlsOptions | None = None,
        cluster_id: str = "",
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Without `factory` the channels use `tls`, or plain text if that is None. With `cluster_id` nothing is asked of a daemon
        of another cluster; blank ones are no cluster's. `on_lost` is called when none of them seems to be there.

        Raises InvalidArgumentError for an endpoint that is not "host:port", and for files of `tls` that cannot be used.
        """
        for endpoint in endpoints:
            _check_endpoint(endpoint)
        self.leader: str | None = None
        self._endpoints = list(dict.fromkeys(endpoints))
        self._given = len(self._endpoints)  # the first so many are never given up
        self._retry = retry
        self._factory = factory or (plain_channel if tls is None else secure_channels(tls))
        self._tls = tls
        self._explains = factory is None  # what a factory of others does cannot be looked at by hand
        self._cluster_id = cluster_id
        self._on_lost = on_lost
        self._of_cluster: set[aio.Channel] = set()  # those at whose end is a daemon of `cluster_id`
        self._explained: dict[str, tuple[float, Explanation | None]] = {}
        self._channels: dict[str, aio.Channel] = {}
        self._suspect_until: dict[str, float] = {}
        self._members_asked: dict[str, float] = {}
        self._turn = 0

    @property
    def endpoints(self) -> Sequence[str]:
        """The given ones and the learned ones, in the order in which they became known."""
        return tuple(self._endpoints)

    def choose(self) -> str:
        """Whom to ask what the leader answers: the leader if it is known and not suspected, else one after the other."""
        if self.leader is not None and not self._suspected(self.leader):
            return self.leader
        return self.choose_any()

    def choose_any(self) -> str:
        """The next endpoint in turn that is not suspected; if all are, the one whose suspicion ends first."""
        if not self._endpoints:
            raise no_endpoints()
        for _ in self._endpoints:
            endpoint = self._endpoints[self._turn % len(self._endpoints)]
            self._turn += 1
            if not self._suspected(endpoint):
                return endpoint
        if self._on_lost is not None:
            self._on_lost()
        return min(self._endpoints, key=lambda endpoint: self._suspect_until.get(endpoint, 0.0))

    def learn(self, endpoint: str) -> None:
        """One more address of a member. Where there are too many, the first learned one goes that nothing is connected to."""
        if endpoint in self._endpoints:
            return
        if len(self._endpoints) >= ENDPOINTS_MAX:
            learned = self._endpoints[self._given :]
            gone = next((one for one in learned if one != self.leader and one not in self._channels), None)
            if gone is None:
                return
            self._endpoints.remove(gone)
            for known in (self._suspect_until, self._explained, self._members_asked):
                known.pop(gone, None)
        self._endpoints.append(endpoint)

    def served(self, endpoint: str, *, leads: bool = True) -> None:
        """This endpoint did what was asked; `leads`: and only a leader can."""
        self._suspect_until.pop(endpoint, None)
        if leads:
            self.leader = endpoint

    async def failed(self, endpoint: str, error: RavelError, *, attempt: int) -> bool:
        """Take in why this endpoint did not do it; `attempt` counts failures in a row.

        True: there is a better one to ask at once, a leader that was named, or any other where this one could not be reached.
        """
        if isinstance(error, HangingError):
            # Whatever else waits on this connection would wait in vain; it may even be dead without knowing.
            self._suspect(endpoint, self._retry.suspicion_s)
            await self._drop(endpoint)
        elif isinstance(error, UnreachableError) and attempt > 1:
            # A stream that broke once tells little: if the daemon is dead, dialling it will tell.
            self._suspect(endpoint, self._retry.backoff_max_s)
        if isinstance(error, UnreachableError):
            # No more often than once in a suspicion: others must be there that are not suspected.
            return self._suspected(endpoint) and not all(map(self._suspected, self._endpoints))
        if self.leader == endpoint and isinstance(error, DOES_NOT_LEAD):
            self.leader = None
        if not isinstance(error, NotLeaderError) or error.leader_address in ("", endpoint):
            return isinstance(error, LED_ELSEWHERE) and await self._learn_members(endpoint)
        with suppress(InvalidArgumentError):
            _check_endpoint(error.leader_address)
            self.learn(error.leader_address)
            if not self._suspected(error.leader_address):
                self.leader = error.leader_address
                return attempt <= self._retry.redirects_free
        return False

    async def _learn_members(self, endpoint: str) -> bool:
        """Ask this replica, now and then, who else is in its cluster. True: somebody whom nobody has asked yet.

        One that was cut off or taken out cannot name the leader, but still knows those who can.
        """
        now = asyncio.get_running_loop().time()
        channel = self._channels.get(endpoint)
        if channel is None or now - self._members_asked.get(endpoint, -MEMBERS_EVERY_S) < MEMBERS_EVERY_S:
            return False
        self._members_asked[endpoint] = now
        known = len(self._endpoints)
        with suppress(aio.AioRpcError, aio.UsageError):
            status = await ClusterStub(channel).Status(StatusRequest(), timeout=MEMBERS_TIMEOUT_S)
            for member in status.members:
                if member.server.addresses.listen and member.server.server_id != status.server.server_id:
                    self.learn(member.server.addresses.listen)
        return len(self._endpoints) > known

    async def ready(self, endpoint: str, timeout_s: float | None = None) -> aio.Channel:
        """The connected channel to an endpoint. Raises UnreachableError or WrongServerError; then nothing was sent."""
        limit_s = self._retry.connect_timeout_s if timeout_s is None else min(timeout_s, self._retry.connect_timeout_s)
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = self._factory(endpoint)
        why = f"no connection within {limit_s:.3g} s"
        deadline = asyncio.get_running_loop().time() + limit_s
        failed = False
        try:
            async with asyncio.timeout_at(deadline):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                        why = "the connection was refused or failed"
                        failed = True
                        break
                    await channel.wait_for_state_change(state)
                else:
                    await self._check_cluster(endpoint, channel)
                    return channel
        except (TimeoutError, aio.UsageError):
            pass
        # The next attempt starts with a fresh channel instead of in gRPC's own back-off.
        await self._drop(endpoint, channel)
        self._suspect(endpoint, self._retry.backoff_max_s)
        if failed and (told := await self._explain(endpoint, deadline)) is not None:
            raise HandshakeError(told.why, next_step=told.next_step)
        if failed and (unknown := await _unresolved(endpoint, deadline)):
            raise UnreachableError(f"{endpoint} cannot be reached: {unknown}", next_step="check the name, or give an IP address")
        raise UnreachableError(f"{endpoint} cannot be reached: {why}", next_step="check the address, and that its daemon runs")

    async def _check_cluster(self, endpoint: str, channel: aio.Channel) -> None:
        """Raises WrongServerError if the daemon there is of another cluster than the one that is meant."""
        if not self._cluster_id or channel in self._of_cluster:
            return
        try:
            status = await ClusterStub(channel).Status(StatusRequest())
        except aio.AioRpcError:
            return  # what is asked next will tell what is wrong; it is checked again then
        found = status.header.cluster_id
        if found and found != self._cluster_id:
            raise WrongServerError(
                f"the daemon at {endpoint} is of cluster {status.cluster_name} ({found[:8]}), not of {self._cluster_id[:8]}",
                reason=Reason.WRONG_CLUSTER_ID,
                next_step="check the address, or the context's cluster",
            )
        if found:
            self._of_cluster.add(channel)

    async def _explain(self, endpoint: str, deadline: float) -> Explanation | None:
        """Why the connection failed, if TLS was the cause and there is time to find out."""
        loop = asyncio.get_running_loop()
        asked, told = self._explained.get(endpoint, (-EXPLAINED_FOR_S, None))
        if not self._explains or loop.time() - asked < EXPLAINED_FOR_S:
            return told
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                told = await asyncio.to_thread(explain, endpoint, self._tls)
                self._explained[endpoint] = (loop.time(), told)
                return told
        return None

    async def close(self) -> None:
        """Close every channel; calls on them end."""
        channels, self._channels = self._channels, {}
        await asyncio.gather(*(channel.close() for channel in channels.values()))

    async def _drop(self, endpoint: str, channel: aio.Channel | None = None) -> None:
        """Close the endpoint's channel; with `channel`, only if it still is that one."""
        if channel is None or self._channels.get(endpoint) is channel:
            channel = self._channels.pop(endpoint, None)
        if channel is not None:
            self._of_cluster.discard(channel)
            await channel.close()

    def _suspect(self, endpoint: str, for_s: float) -> None:
        self._suspect_until[endpoint] = asyncio.get_running_loop().time() + for_s

    def _suspected(self, endpoint: str) -> bool:
        until = self._suspect_until.get(endpoint)
        return until is not None and asyncio.get_running_loop().time() < until


async def _unresolved(endpoint: str, deadline: float) -> str:
    """Why the endpoint's name stands for no address; empty: it does, or nobody can say in time."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port)
    except socket.gaierror as error:
        return f"the name {host} does not resolve ({error.strerror})"
    except TimeoutError:
        pass
    return ""


class Obstacles:
    """Why each endpoint did not do it: what a call tells when its time has run out."""

    def __init__(self) -> None:
        self._by_endpoint: dict[str, RavelError] = {}

    def note(self, endpoint: str, error: RavelError) -> None:
        self._by_endpoint.pop(endpoint, None)  # so that the newest stands last
        self._by_endpoint[endpoint] = error

    def __bool__(self) -> bool:
        return bool(self._by_endpoint)

    def clear(self) -> None:
        self._by_endpoint.clear()

    def deadline_error(self, timeout_s: float | None = None) -> RavelError:
        """The error of a call that did nothing until its time ran out.

        A server that answered tells more than one that cannot be reached, so the newest answer wins.
        """
        within = "in time" if timeout_s is None else f"within {timeout_s:.3g} s"
        found = list(self._by_endpoint.items())
        answers = [error for _, error in found if not isinstance(error, UnreachableError)]
        if not found:
            return DeadlineError(f"the cluster did not answer {within}", next_step="see `ravelctl status`, or allow more time")
        if not answers:
            listed = ", ".join(endpoint for endpoint, _ in found)
            word = "endpoint" if len(found) == 1 else "endpoints"
            # A daemon with which TLS does not come about is there: that tells more than one that is not.
            tells = next((error for _, error in reversed(found) if isinstance(error, HandshakeError)), None)
            return UnreachableError(
                f"no daemon answered {within} ({word} {listed}): {(tells or found[-1][1]).message}",
                next_step=tells.next_step if tells is not None else "check the addresses, and that the daemons run",
            )
        last = answers[-1]
        if isinstance(last, (NotLeaderError, NoLeaderError)):
            return NoLeaderError(
                f"no leader was found {within}: {last.message}", metadata=last.metadata, next_step="see `ravelctl status`"
            )
        message = f"gave up {within}: {last.message}"
        return type(last)(message, reason=last.reason, metadata=last.metadata, next_step=last.next_step)


def no_endpoints() -> InvalidArgumentError:
    return InvalidArgumentError("the client was given no endpoints", next_step='give at least one "host:port"')


def _check_endpoint(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidArgumentError(f'endpoint {endpoint!r} is not "host:port"', next_step="write it as 127.0.0.1:7400")
