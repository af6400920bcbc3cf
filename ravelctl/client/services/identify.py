"""The clusters at some addresses, asked before a client is made for them.

Addresses may belong to one cluster, to an admin group, or by mistake to several clusters. A caller that takes addresses from a
person asks first: a write must not go to whichever cluster answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from grpc import aio

from ravelctl.client.connection.connections import Connections, no_endpoints
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import RavelError, UnreachableError
from ravelctl.client.services.unary import ask_leader
from ravelpb.v1.cluster_pb2 import StatusRequest
from ravelpb.v1.cluster_pb2_grpc import ClusterStub

GRACE_S: Final = 1.0
"""How long the other addresses may take after the first one has answered: one that hangs must not hold up every command."""


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
    all_connections = [
        Connections([endpoint], retry=retry, tls=tls, cluster_id=cluster_id) for endpoint in dict.fromkeys(endpoints)
    ]
    asking = [asyncio.ensure_future(_ask(connections, retry, timeout_s)) for connections in all_connections]
    try:
        deadline_s: float | None = None
        pending = set(asking)
        while pending:
            done, pending = await asyncio.wait(pending, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            if deadline_s is None and any(isinstance(task.result(), Identity) for task in done):
                deadline_s = GRACE_S
        found = {
            connections.endpoints[0]: task.result()
            for connections, task in zip(all_connections, asking, strict=True)
            if task.done()
        }
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await asyncio.gather(*(connections.close() for connections in all_connections))
    if not any(isinstance(answer, Identity) for answer in found.values()):
        raise _most_telling([error for error in found.values() if isinstance(error, RavelError)])
    return found


def _most_telling(errors: Sequence[RavelError]) -> RavelError:
    """Return the error of a daemon that answered, if one did."""
    return next((error for error in errors if not isinstance(error, UnreachableError)), errors[0])


async def _ask(connections: Connections, retry: RetryPolicy, timeout_s: float) -> Identity | RavelError:
    try:
        return await ask_leader(connections, retry, _identity, timeout_s=timeout_s, repeatable=True, any_replica=True)
    except RavelError as error:
        return error


async def _identity(channel: aio.Channel) -> Identity:
    status = await ClusterStub(channel).Status(StatusRequest())
    return Identity(status.header.cluster_id, status.cluster_name, status.header.admin_group)
