"""The addresses of one cluster, a channel for each, and what is known about its leader.

`Connections` is the one place that knows addresses. The batches, scans, watches and unary calls of a client share it, so that
what one of them learns about the leader serves all. It also knows which cluster the client belongs to: the one it was given, or
else the first one that answered. Every call names that cluster, and a daemon of another one refuses it. Used on one event loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

import grpc
from grpc import aio

from ravelctl.client.connection.channels import ChannelFactory, ClusterChannel, open_channel, plain_channel, secure_channels
from ravelctl.client.connection.failures import HangingError, from_rpc_error
from ravelctl.client.connection.owner import Owner
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.rules import Next, rule_of
from ravelctl.client.connection.tls import Explanation, HandshakeError, TlsOptions, explain
from ravelctl.client.errors import (
    BlankError,
    InvalidArgumentError,
    NoLeaderError,
    NotLeaderError,
    RavelError,
    RemovedError,
    StoppedError,
    UnreachableError,
    WrongServerError,
)
from ravelpb.errors import Field, Reason
from ravelpb.v1.cluster_pb2 import StatusRequest
from ravelpb.v1.cluster_pb2_grpc import ClusterStub

ENDPOINTS_MAX: Final = 64
"""Endpoints that a client keeps, learned ones included."""

MEMBERS_EVERY_S: Final = 5.0
"""The least time between two questions to a replica about the other members, while it cannot name the leader."""

MEMBERS_TIMEOUT_S: Final = 1.0

EXPLAINED_FOR_S: Final = 1.0
"""How long an explanation of a failed TLS connection counts before the endpoint is examined again."""

WRONG_FOR_S: Final = 5.0
"""How long an address of another cluster is asked only if there is no other."""

LED_ELSEWHERE: Final = (NotLeaderError, NoLeaderError, RemovedError)
"""Errors of a replica that cannot name the leader, while other members may know it."""

DOES_NOT_LEAD: Final = (NotLeaderError, NoLeaderError, BlankError, RemovedError, StoppedError, WrongServerError)
"""Errors after which the leader is looked for elsewhere."""


class Connections:
    """The endpoints of one cluster, their channels, the leader as last reported, and the endpoints that are suspected."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        retry: RetryPolicy,
        factory: ChannelFactory | None = None,
        tls: TlsOptions | None = None,
        cluster_id: str = "",
        pins: bool = True,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Without `factory` the channels use `tls`, or plain text if that is None. Every call is meant for `cluster_id`; empty:
        for the first cluster that answers, or with `pins` False for whichever answers. `on_lost` is called when no endpoint can
        be used, and may lead to new ones.

        Raises InvalidArgumentError for an endpoint that is not "host:port", and for files of `tls` that cannot be used.
        """
        for endpoint in endpoints:
            _check_endpoint(endpoint)
        self.leader: str | None = None
        self.owner = Owner()
        self._endpoints = list(dict.fromkeys(endpoints))
        self._given = len(self._endpoints)  # the first ones were given, and are never dropped
        self._retry = retry
        self._factory = factory or (plain_channel if tls is None else secure_channels(tls))
        self._tls = tls
        self._explains = factory is None  # a channel of a caller's factory cannot be examined by hand
        self._given_id = cluster_id
        self._cluster_id = cluster_id
        self._pins = pins
        self._on_lost = on_lost
        self._explained: dict[str, tuple[float, Explanation | None]] = {}
        self._channels: dict[str, aio.Channel] = {}
        self._suspect_until: dict[str, float] = {}
        self._wrong: set[str] = set()  # addresses of another cluster or service, as they answered last
        self._members_asked: dict[str, float] = {}
        self._turn = 0

    @property
    def endpoints(self) -> Sequence[str]:
        """The given endpoints and the learned ones, in the order in which they became known."""
        return tuple(self._endpoints)

    # --- the cluster that is meant

    @property
    def cluster_id(self) -> str:
        """The cluster that calls are meant for; empty while none is known."""
        return self._cluster_id

    def meet(self, endpoint: str, cluster_id: str) -> None:
        """Take in which cluster answered at an endpoint. A client that knew none belongs to it from now on.

        Raises WrongServerError if the client belongs to another cluster.
        """
        if not cluster_id or cluster_id == self._cluster_id or not self._pins:
            return
        if self._cluster_id:
            raise self._other_cluster(endpoint, cluster_id)
        self._cluster_id = cluster_id

    def error_of(self, endpoint: str, error: aio.AioRpcError) -> RavelError:
        """Return the error behind a failed RPC; the refusal of another cluster's daemon names the address and both clusters."""
        found = from_rpc_error(error, endpoint)
        if found.reason is Reason.WRONG_CLUSTER_ID and (cluster_id := found.metadata.get(Field.CLUSTER_ID)):
            return self._other_cluster(endpoint, cluster_id)
        return found

    def _other_cluster(self, endpoint: str, found: str) -> WrongServerError:
        return WrongServerError(
            f"{endpoint} belongs to cluster {found}, and this client is for cluster {self._cluster_id}",
            reason=Reason.WRONG_CLUSTER_ID,
            metadata={Field.CLUSTER_ID: found},
            next_step="check the addresses, and the cluster that is meant: all addresses of a client belong to one cluster",
        )

    # --- which endpoint is next

    def choose(self, avoid: Collection[str] = ()) -> str:
        """Return the endpoint to ask for what the leader answers: the leader if it is known and not suspected, else the next."""
        if self.leader is not None and not self._suspected(self.leader):
            return self.leader
        return self.choose_any(avoid)

    def choose_any(self, avoid: Collection[str] = ()) -> str:
        """Return the next endpoint in turn that is not suspected, if possible none of `avoid`.

        If all are suspected, return the one whose suspicion ends first. Raises InvalidArgumentError if there are none.
        """
        if not self._endpoints:
            raise no_endpoints()
        trusted = [endpoint for endpoint in self._in_turn() if not self._suspected(endpoint)]
        if not trusted:
            if self._on_lost is not None:
                self._on_lost()
            return min(self._endpoints, key=lambda endpoint: self._suspect_until.get(endpoint, 0.0))
        chosen = next((endpoint for endpoint in trusted if endpoint not in avoid), trusted[0])
        self._turn = self._endpoints.index(chosen) + 1
        return chosen

    def _in_turn(self) -> list[str]:
        at = self._turn % len(self._endpoints)
        return self._endpoints[at:] + self._endpoints[:at]

    def has_other(self, tried: Collection[str]) -> bool:
        """Return whether an endpoint is left that is neither suspected nor one of `tried`."""
        return any(endpoint not in tried and not self._suspected(endpoint) for endpoint in self._endpoints)

    @property
    def usable(self) -> set[str]:
        """The endpoints that have not answered as another cluster or service."""
        return set(self._endpoints) - self._wrong

    @property
    def hopeless(self) -> bool:
        """Whether every endpoint belongs to another cluster or service, and nobody can name a new one."""
        return not self.usable and self._on_lost is None

    def learn(self, endpoint: str) -> None:
        """Add the address of a member. If there are too many, drop the first learned one that has no connection."""
        if endpoint in self._endpoints:
            return
        if len(self._endpoints) >= ENDPOINTS_MAX:
            learned = self._endpoints[self._given :]
            gone = next((one for one in learned if one != self.leader and one not in self._channels), None)
            if gone is None:
                return
            self._forget(gone)
        self._endpoints.append(endpoint)

    def _forget(self, endpoint: str) -> None:
        self._endpoints.remove(endpoint)
        self._wrong.discard(endpoint)
        for known in (self._suspect_until, self._explained, self._members_asked):
            known.pop(endpoint, None)

    # --- what became of an attempt

    def served(self, endpoint: str, *, leads: bool = True) -> None:
        """Take in that this endpoint did what was asked. `leads`: only a leader can."""
        self._suspect_until.pop(endpoint, None)
        self._wrong.discard(endpoint)
        if leads:
            self.leader = endpoint

    async def failed(self, endpoint: str, error: RavelError, *, attempt: int, limit_s: float | None = None) -> bool:
        """Take in why this endpoint did not do what was asked; `attempt` counts failures in a row. Takes `limit_s` at most.

        Returns whether a better endpoint can be asked at once: a leader that was named, or another one in place of an endpoint
        that cannot be reached or belongs to another cluster.
        """
        if rule_of(error).next is Next.OTHER_ADDRESS:
            return self._failed_as_wrong(endpoint)
        self._wrong.discard(endpoint)
        if isinstance(error, HangingError):
            # Other calls on this connection would wait in vain too; it may even be dead without knowing.
            self._suspect(endpoint, self._retry.suspicion_s)
            await self._drop(endpoint)
        elif isinstance(error, UnreachableError) and attempt > 1:
            # A stream that broke once proves little: if the daemon is dead, the next dial fails.
            self._suspect(endpoint, self._retry.backoff_max_s)
        if isinstance(error, UnreachableError):
            # At once no more often than once in a suspicion: others must be there that are not suspected.
            return self._suspected(endpoint) and not all(map(self._suspected, self._endpoints))
        if self.leader == endpoint and isinstance(error, DOES_NOT_LEAD):
            self.leader = None
        if not isinstance(error, NotLeaderError) or error.leader_address in ("", endpoint):
            return isinstance(error, LED_ELSEWHERE) and await self._learn_members(endpoint, limit_s)
        with suppress(InvalidArgumentError):
            _check_endpoint(error.leader_address)
            self.learn(error.leader_address)
            if not self._suspected(error.leader_address):
                self.leader = error.leader_address
                return attempt <= self._retry.redirects_free
        return False

    def _failed_as_wrong(self, endpoint: str) -> bool:
        """Avoid an address of another cluster or service. A learned one is dropped: who named it can name it again."""
        if self.leader == endpoint:
            self.leader = None
        if endpoint in self._endpoints[self._given :]:
            self._forget(endpoint)
        elif endpoint in self._endpoints:
            self._wrong.add(endpoint)
            self._suspect(endpoint, WRONG_FOR_S)
        return not all(map(self._suspected, self._endpoints))

    async def _learn_members(self, endpoint: str, limit_s: float | None) -> bool:
        """Ask this replica, now and then, for the members of its cluster. Returns whether a new address came of it.

        A replica that was cut off or removed cannot name the leader, but still knows members that can.
        """
        now = asyncio.get_running_loop().time()
        channel = self._channels.get(endpoint)
        if channel is None or now - self._members_asked.get(endpoint, -MEMBERS_EVERY_S) < MEMBERS_EVERY_S:
            return False
        self._members_asked[endpoint] = now
        known = len(self._endpoints)
        timeout_s = MEMBERS_TIMEOUT_S if limit_s is None else min(limit_s, MEMBERS_TIMEOUT_S)
        with suppress(aio.AioRpcError, aio.UsageError):
            status = await ClusterStub(ClusterChannel(channel, self._meant)).Status(StatusRequest(), timeout=timeout_s)
            for member in status.members:
                if member.server.addresses.listen and member.server.server_id != status.server.server_id:
                    self.learn(member.server.addresses.listen)
        return len(self._endpoints) > known

    # --- channels

    async def ready(self, endpoint: str, timeout_s: float | None = None, *, named: bool = False) -> ClusterChannel:
        """Return the connected channel to an endpoint. Raises UnreachableError, with nothing sent; ClientMisusedError.

        Its calls name the cluster that the client belongs to. `named`: the caller chose this very daemon, and what others have
        answered does not matter: then only a cluster that the client was given is named.
        """
        self.owner.check()
        limit_s = self._retry.connect_timeout_s if timeout_s is None else min(timeout_s, self._retry.connect_timeout_s)
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = open_channel(self._factory, endpoint)
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
                    return ClusterChannel(channel, self._meant_by_hand if named else self._meant)
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

    def _meant(self) -> str:
        return self._cluster_id

    def _meant_by_hand(self) -> str:
        return self._given_id

    async def _explain(self, endpoint: str, deadline: float) -> Explanation | None:
        """Return why the connection failed, if TLS was the cause and there is time to find out."""
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
        """Close every channel; calls on them end. Does nothing in another process or loop, where they cannot be closed."""
        if self.owner.is_here:
            channels, self._channels = self._channels, {}
            await asyncio.gather(*(channel.close() for channel in channels.values()))

    async def _drop(self, endpoint: str, channel: aio.Channel | None = None) -> None:
        """Close the endpoint's channel; with `channel`, only if it still is that one."""
        if channel is None or self._channels.get(endpoint) is channel:
            channel = self._channels.pop(endpoint, None)
        if channel is not None:
            await channel.close()

    def _suspect(self, endpoint: str, for_s: float) -> None:
        self._suspect_until[endpoint] = asyncio.get_running_loop().time() + for_s

    def _suspected(self, endpoint: str) -> bool:
        until = self._suspect_until.get(endpoint)
        return until is not None and asyncio.get_running_loop().time() < until


async def _unresolved(endpoint: str, deadline: float) -> str:
    """Return why the endpoint's name has no address; empty: it has one, or nobody can say in time."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port)
    except socket.gaierror as error:
        return f"the name {host} does not resolve ({error.strerror})"
    except TimeoutError:
        pass
    return ""


def no_endpoints() -> InvalidArgumentError:
    return InvalidArgumentError("the client was given no endpoints", next_step='give at least one "host:port"')


def _check_endpoint(endpoint: str) -> None:
    host, _, port = endpoint.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidArgumentError(f'endpoint {endpoint!r} is not "host:port"', next_step="write it as 127.0.0.1:7400")
