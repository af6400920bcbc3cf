"""What the clients of single services have in common."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from ravelctl.client.connection.connections import ChannelFactory, Connections
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions


class ServiceClient:
    """Connections to the daemons of one cluster, and the time that a call may take. Made on, and used by, one loop."""

    def __init__(
        self,
        endpoints: Sequence[str] = (),
        *,
        timeout_s: float = 5.0,
        retry: RetryPolicy | None = None,
        tls: TlsOptions | None = None,
        cluster_id: str = "",
        channel_factory: ChannelFactory | None = None,
    ) -> None:
        """`endpoints` are client addresses ("host:port") of some members; the others are learned. Nothing is dialled yet.

        `timeout_s` is for a call that names no other. `tls` is how they are dialled; None: in plain text. A `channel_factory`
        takes its place. With `cluster_id` nothing is asked of a daemon of another cluster: WrongServerError.
        """
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._channels = Connections(endpoints, retry=self._retry, factory=channel_factory, tls=tls, cluster_id=cluster_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; calls under way end in UnreachableError, changes in OutcomeUnknownError."""
        await self._channels.close()

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s
