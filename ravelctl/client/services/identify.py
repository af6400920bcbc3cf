"""The clusters at some addresses, asked before a client is made for them.

Addresses may belong to one cluster, to an admin group, or by mistake to several clusters. A caller that takes addresses from a
person asks first: a write must not go to whichever cluster answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from grpc import aio

from ravelctl.client.connection.connections import Connections, no_endpoints
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import RavelError, UnreachableError
from ravelctl.client.services.unary import ask_leader
from ravelpb.v1.cluster_pb2 import StatusRequest
from ravelpb.v1.cluster_pb2_grpc import ClusterStub

GRACE_S: Final = 1.0
"""How long the other addresses may take after the first one has answered: one that hangs must not hold up every command. One
that refuses connections holds up none."""


class Identity(NamedTuple):
    """The daemon at an address."""

    cluster_id: str  # empty: it belongs to no cluster yet
    cluster_name: str
    is_admin: bool  # it is a server of an admin group


async def identify(
    endpoints: Sequence[str], *, timeout_s: float, tls: TlsOptions | None = None, cluster_id: str = ""
) -> dict[str, Identity | RavelError]:
    """Return what each address says of itself, or why it says nothing; those that are late are left out.

    All are asked at the same time, again and again until the time is up. The call returns when all have answered, or a moment
    after the first answer. With `cluster_id` a daemon of another cluster answers with WrongServerError. Raises the most telling
    error if no address answers, InvalidArgumentError for addresses and files that cannot be used.
    """
    if not endpoints:
        raise no_endpoints()
    retry = RetryPolicy()
    asked = [
        _Asked(Connections([endpoint], retry=retry, tls=tls, cluster_id=cluster_id), retry, timeout_s)
        for endpoint in dict.fromkeys(endpoints)
    ]
    try:
        await _first_answer(asked)
        await _others(asked)
        found = {one.endpoint: one.answer.result() for one in asked if one.answer.done()}
    finally:
        for one in asked:
            await one.close()
    if not any(isinstance(answer, Identity) for answer in found.values()):
        raise _most_telling([error for error in found.values() if isinstance(error, RavelError)])
    return found


def _most_telling(errors: Sequence[RavelError]) -> RavelError:
    """Return the error of a daemon that answered, if one did."""
    return next((error for error in errors if not isinstance(error, UnreachableError)), errors[0])


class _Asked:
    """An address that is asked until it answers or the time is up."""

    def __init__(self, connections: Connections, retry: RetryPolicy, timeout_s: float) -> None:
        self.endpoint = connections.endpoints[0]
        self.answer = asyncio.ensure_future(_ask(connections, retry, timeout_s))
        self._reached = asyncio.ensure_future(_reaches(connections))
        self._connections = connections

    @property
    def has_identity(self) -> bool:
        return self.answer.done() and isinstance(self.answer.result(), Identity)

    @property
    def next_news(self) -> asyncio.Future[Any] | None:
        """What may come soon. None: it has answered, or could not be reached the first time: only patience helps."""
        if self.answer.done():
            return None
        if not self._reached.done():
            return self._reached
        return self.answer if self._reached.result() else None

    async def close(self) -> None:
        self.answer.cancel()
        self._reached.cancel()
        await asyncio.gather(self.answer, self._reached, return_exceptions=True)
        await self._connections.close()


async def _first_answer(asked: Sequence[_Asked]) -> None:
    """Return when one has said who it is, or all have given up."""
    while (pending := [one.answer for one in asked if not one.answer.done()]) and not any(one.has_identity for one in asked):
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)


async def _others(asked: Sequence[_Asked]) -> None:
    """Give those that may answer soon a moment."""
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            while awaited := [news for one in asked if (news := one.next_news) is not None]:
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)


async def _reaches(connections: Connections) -> bool:
    try:
        await connections.ready(connections.endpoints[0])
    except UnreachableError:
        return False
    return True


async def _ask(connections: Connections, retry: RetryPolicy, timeout_s: float) -> Identity | RavelError:
    try:
        return await ask_leader(connections, retry, _identity, timeout_s=timeout_s, repeatable=True, any_replica=True)
    except RavelError as error:
        return error


async def _identity(channel: aio.Channel) -> Identity:
    status = await ClusterStub(channel).Status(StatusRequest())
    return Identity(status.header.cluster_id, status.cluster_name, status.header.admin_group)
