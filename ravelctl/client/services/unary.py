"""Calls by themselves: to the leader, wherever it is, or to one endpoint."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, TypeVar

from grpc import aio

from ravelctl.client.connection.connections import Connections, HangingError, Obstacles, retry_after_s
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import (
    NOTHING_DONE,
    RETRYABLE,
    DeadlineError,
    OutcomeUnknownError,
    RavelError,
    UnreachableError,
    WrongServerError,
    from_rpc_error,
)

T = TypeVar("T")

ATTEMPT_SHARE: Final = 0.5
"""The share of the time left that one attempt may take, if there can be another."""

LAST_SHARE: Final = 0.2
"""The share of the time, at its end, in which no repetition is begun: it would only turn "no leader" into "unknown"."""


async def ask_leader(
    channels: Connections,
    retry: RetryPolicy,
    call: Callable[[aio.Channel], Awaitable[T]],
    *,
    timeout_s: float,
    repeatable: bool,
) -> T:
    """Make a unary call to the leader, following it, for `timeout_s`.

    `repeatable`: the call may be made twice. If not, OutcomeUnknownError is raised as soon as an attempt may have done something.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    obstacles = Obstacles()
    attempt = waits = 0
    while (left_s := deadline - asyncio.get_running_loop().time()) > (LAST_SHARE * timeout_s if attempt else 0.0):
        endpoint = channels.choose()
        limit_s = max(left_s * ATTEMPT_SHARE, min(left_s, retry.progress_timeout_s)) if repeatable else left_s
        try:
            channel = await channels.ready(endpoint, left_s)
        except (UnreachableError, WrongServerError) as refused:
            error: RavelError = refused
        else:
            answer = await _attempt(call, channel, endpoint, limit_s)
            if not isinstance(answer, RavelError):
                channels.served(endpoint)
                return answer
            error = answer
            if not repeatable and error.reason not in NOTHING_DONE:
                raise _unknown(error)
        if error.reason not in RETRYABLE:
            if isinstance(error, WrongServerError):
                await channels.failed(endpoint, error, attempt=1)  # the next call asks elsewhere
            raise error
        obstacles.note(endpoint, error)
        attempt += 1
        if not await channels.failed(endpoint, error, attempt=attempt):
            waits += 1
            await _sleep_until(deadline, retry.delay_s(waits, random.random, at_least_s=retry_after_s(error)))
    raise obstacles.deadline_error(timeout_s)


async def _attempt(
    call: Callable[[aio.Channel], Awaitable[T]], channel: aio.Channel, endpoint: str, limit_s: float | None
) -> T | RavelError:
    try:
        async with asyncio.timeout(limit_s):
            return await call(channel)
    except TimeoutError:
        return HangingError(endpoint)
    except aio.AioRpcError as error:
        return from_rpc_error(error, endpoint)
    except (aio.UsageError, asyncio.CancelledError):
        return channel_closed(endpoint)


async def ask_one(
    channels: Connections, endpoint: str, call: Callable[[aio.Channel], Awaitable[T]], *, timeout_s: float, changes: bool = False
) -> T:
    """Make a unary call to this endpoint, once. `changes`: a lost answer is OutcomeUnknownError.

    Raises UnreachableError if the daemon cannot be reached, DeadlineError if it is reached but does not answer in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    channel = await channels.ready(endpoint, timeout_s)
    answer = await _attempt(call, channel, endpoint, deadline - loop.time())
    if not isinstance(answer, RavelError):
        return answer
    if changes and answer.reason not in NOTHING_DONE:
        raise _unknown(answer)
    if isinstance(answer, HangingError):
        await channels.failed(endpoint, answer, attempt=1)
        raise DeadlineError(
            f"{endpoint} did not answer within {timeout_s:.3g} s",
            next_step="it may hang or be very busy: see its log, or allow more time",
        )
    raise answer


async def stream_from(
    channels: Connections, endpoint: str, call: Callable[[aio.Channel], Any], *, timeout_s: float, endless: bool = False
) -> AsyncGenerator[Any, None]:
    """The messages of a server stream that `call` opens; each may take `timeout_s` to come. Raises what `ask_one` raises.

    `endless`: only the first one may; the stream may be silent after it. A dead connection is noticed all the same.
    """
    channel = await channels.ready(endpoint, timeout_s)
    stream = call(channel)
    limit_s: float | None = timeout_s
    try:
        while (message := await _attempt(lambda _: stream.read(), channel, endpoint, limit_s)) is not aio.EOF:
            if isinstance(message, HangingError):
                raise DeadlineError(f"{endpoint} sent nothing for {timeout_s:.3g} s")
            if isinstance(message, RavelError):
                raise message
            yield message
            limit_s = None if endless else timeout_s
    finally:
        stream.cancel()


def channel_closed(endpoint: str) -> UnreachableError:
    """gRPC cancels the calls of a channel that is closed. Passes on the cancellation if it is our own task that is cancelled.

    To be called while handling the CancelledError.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise asyncio.CancelledError
    return UnreachableError(f"the connection to {endpoint} was closed because it was found hanging")


async def _sleep_until(deadline: float, delay_s: float) -> None:
    await asyncio.sleep(max(0.0, min(delay_s, deadline - asyncio.get_running_loop().time())))


def _unknown(cause: RavelError) -> RavelError:
    error = OutcomeUnknownError(
        f"the change may or may not have happened: {cause.message}", next_step="look with `ravelctl status` before repeating it"
    )
    error.__cause__ = cause
    return error
