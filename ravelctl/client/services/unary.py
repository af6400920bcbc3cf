"""Unary calls and server streams: to the leader, which is found and followed, or to one named endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, TypeVar

from grpc import aio

from ravelctl.client.connection.attempts import Attempts, no_time
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.failures import HangingError, SlowError, channel_closed, timed_out
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.rules import rule_of
from ravelctl.client.errors import DeadlineError, RavelError, UnreachableError, unknown_outcome

T = TypeVar("T")

LOOK_FIRST: Final = "look with `ravelctl status` before repeating it"


async def ask_leader(
    connections: Connections,
    retry: RetryPolicy,
    call: Callable[[aio.Channel], Awaitable[T]],
    *,
    timeout_s: float,
    repeatable: bool,
    any_replica: bool = False,
) -> T:
    """Make a unary call to the leader, which is looked for and followed for `timeout_s`. `any_replica`: not only to the leader.

    `repeatable`: the call may be made twice. If not, OutcomeUnknownError is raised as soon as an attempt may have done something.
    """
    attempts = Attempts(connections, retry, timeout_s=timeout_s, any_replica=any_replica)
    while True:
        endpoint = attempts.choose()
        answer = await _attempt(connections, retry, endpoint, call, attempts.limit_s(alone=not repeatable))
        if not isinstance(answer, RavelError):
            attempts.served(endpoint)
            return answer
        if not repeatable and not rule_of(answer).nothing_done:
            raise unknown_outcome("the change", answer, next_step=LOOK_FIRST)
        await attempts.failed(endpoint, answer)


async def ask_one(
    connections: Connections,
    retry: RetryPolicy,
    endpoint: str,
    call: Callable[[aio.Channel], Awaitable[T]],
    *,
    timeout_s: float,
    changes: bool = False,
) -> T:
    """Make a unary call to this endpoint, once. `changes`: a lost answer is OutcomeUnknownError.

    Raises UnreachableError if the daemon cannot be reached, DeadlineError if it is reached but does not answer in time.
    """
    if not timeout_s > 0:
        raise no_time(timeout_s)
    answer = await _attempt(connections, retry, endpoint, call, timeout_s, named=True)
    if not isinstance(answer, RavelError):
        return answer
    if changes and not rule_of(answer).nothing_done:
        raise unknown_outcome("the change", answer, next_step=LOOK_FIRST)
    if isinstance(answer, HangingError):
        await connections.failed(endpoint, answer, attempt=1)
    if isinstance(answer, HangingError | SlowError):
        raise _late(f"{endpoint} did not answer within {timeout_s:.3g} s")
    raise answer


async def stream_from(
    connections: Connections,
    retry: RetryPolicy,
    endpoint: str,
    call: Callable[[aio.Channel], Any],
    *,
    timeout_s: float,
    endless: bool = False,
    named: bool = True,
) -> AsyncGenerator[Any, None]:
    """Yield the messages of the server stream that `call` opens; each may take `timeout_s`. Raises what `ask_one` raises.

    `endless`: only the first message is due in time; the stream may be silent after it. A dead connection is noticed all the
    same. `named`: the caller chose the endpoint; False: it is the leader's, and the call is meant for the client's own cluster.
    """
    if not timeout_s > 0:
        raise no_time(timeout_s)
    loop = asyncio.get_running_loop()
    began = loop.time()
    stream = call(await connections.ready(endpoint, timeout_s, named=named))
    limit_s: float | None = timeout_s - (loop.time() - began)
    try:
        while True:
            connections.owner.check()
            message = await _within(connections, retry, endpoint, stream.read(), limit_s)
            if message is aio.EOF:
                return
            if isinstance(message, HangingError | SlowError):
                raise _late(f"{endpoint} sent nothing for {timeout_s:.3g} s")
            if isinstance(message, RavelError):
                raise message
            yield message
            limit_s = None if endless else timeout_s
    finally:
        stream.cancel()


def _late(message: str) -> DeadlineError:
    return DeadlineError(message, next_step="the daemon may hang or be very busy: see its log, or allow more time")


async def _attempt(
    connections: Connections,
    retry: RetryPolicy,
    endpoint: str,
    call: Callable[[aio.Channel], Awaitable[T]],
    limit_s: float | None,
    *,
    named: bool = False,
) -> T | RavelError:
    """Return the answer of this endpoint, or why there is none within `limit_s`. A first answer tells the client its cluster."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        channel = await connections.ready(endpoint, limit_s, named=named)
    except UnreachableError as error:
        return error
    left_s = None if limit_s is None else limit_s - (loop.time() - began)
    answer = await _within(connections, retry, endpoint, call(channel), left_s)
    if (
        not connections.cluster_id
        and endpoint in connections.endpoints
        and (header := getattr(answer, "header", None)) is not None
    ):
        connections.meet(endpoint, header.cluster_id)
    return answer


async def _within(
    connections: Connections, retry: RetryPolicy, endpoint: str, answer: Awaitable[T], limit_s: float | None
) -> T | RavelError:
    """Return an answer that comes within `limit_s`, or the error in its place."""
    try:
        async with asyncio.timeout(limit_s):
            return await answer
    except TimeoutError:
        return timed_out(endpoint, limit_s, retry.progress_timeout_s)
    except aio.AioRpcError as error:
        return connections.error_of(endpoint, error)
    except RavelError as error:
        return error
    except (aio.UsageError, asyncio.CancelledError):
        return channel_closed(endpoint)
