"""The common part of the clients of single services."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ravelctl.client.connection.channels import ChannelFactory
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions


class ServiceClient:
    """Connections to the daemons of one cluster, and the time that a call may take.

    Used in the process and on the event loop of its first call: elsewhere calls raise ClientMisusedError.
    """

    def __init__(
        self,
        endpoints: Sequence[str] = (),
        *,
        timeout_s: float = 5.0,
        retry: RetryPolicy | None = None,
        tls: TlsOptions | None = None,
        cluster_id: str = "",
        pins_cluster: bool = True,
        channel_factory: ChannelFactory | None = None,
    ) -> None:
        """`endpoints` are client addresses ("host:port") of some members; the others are learned. Nothing is dialled yet.

        `timeout_s` is for calls that name no other. `tls` is used to dial; None: plain text. A `channel_factory` takes its place.
        Calls that find the leader are meant for `cluster_id`; empty: for the first cluster that answers, or with `pins_cluster`
        False for whichever answers. Calls to a named endpoint are meant for `cluster_id` alone. A daemon of another cluster
        refuses a call before it does anything: WrongServerError.
        """
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._connections = Connections(
            endpoints, retry=self._retry, factory=channel_factory, tls=tls, cluster_id=cluster_id, pins=pins_cluster
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; open calls end in UnreachableError, changes in OutcomeUnknownError."""
        await self._connections.close()

    def check_owner(self) -> None:
        """Raise ClientMisusedError in another process or event loop than those of the first call."""
        self._connections.owner.check()

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s
