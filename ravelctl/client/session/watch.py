"""A watch that survives its server: the changes of a range in the order of revisions, none twice, none left out.

A server's messages hold whole revisions and say up to which one they are complete. So when a stream ends, however it ends,
the next one is asked for from that revision plus one, at whatever replica answers. Any of them may have compacted that
revision away or have lost touch with the cluster: then the others are tried.

A key whose slot moves is refused by its old cluster, after it has told everything up to the revision at which it let the slot go.
The watch goes on at the new one from the revision after that: the revisions of a key only ever grow, also over a move.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from grpc import aio

from ravelctl.client.connection.connections import Connections, HangingError, Obstacles, retry_after_s
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import (
    RETRYABLE,
    ClosedError,
    CompactedError,
    InvalidArgumentError,
    RavelError,
    UnreachableError,
    WrongClusterError,
    WrongServerError,
    from_rpc_error,
)
from ravelctl.client.services.unary import channel_closed
from ravelctl.client.session.scan import range_of_prefix
from ravelctl.client.types import WatchEvent
from ravelpb.errors import Field, Reason
from ravelpb.v1.cluster_pb2 import StatusRequest
from ravelpb.v1.cluster_pb2_grpc import ClusterStub
from ravelpb.v1.kv_pb2 import KeyEvent, WatchRequest, WatchResponse
from ravelpb.v1.kv_pb2_grpc import KVStub

PROGRESS_MS: Final = 1_000
"""How often a server is asked to say how far it is."""

SILENCE_S: Final = 5.0
"""A server that says nothing for so long hangs."""

MEMBERS_TIMEOUT_S: Final = 1.0
"""How long the other members may take to become known, once: they are where a watch goes on when its server is lost."""

Find = Callable[[WrongClusterError | None], Awaitable[Connections]]
"""Where to watch: at first, or after this refusal, which is raised again where there is no other cluster."""


def watch_request(
    *, key: bytes | None, prefix: bytes | None, start: bytes, end: bytes | None, from_revision: int | None
) -> WatchRequest:
    """Raises InvalidArgumentError for a key, a prefix and a range that exclude each other, and for a revision below 1."""
    if (key is not None) + (prefix is not None) + (bool(start) or end is not None) > 1:
        raise InvalidArgumentError("a watch is for a key, for a prefix or for a range", next_step="give one of them")
    if from_revision is not None and from_revision < 1:
        raise InvalidArgumentError(f"from_revision is {from_revision}, and the first revision is 1")
    if key is not None and not key:
        raise InvalidArgumentError("the key is empty", reason=Reason.KEY_EMPTY, next_step="leave it out to watch all keys")
    if prefix is not None:
        start, end = range_of_prefix(prefix)
    return WatchRequest(key=key or b"", start=start, end=end or b"", from_revision=from_revision or 0, progress_ms=PROGRESS_MS)


class Watch:
    """Changes as they come: an async iterator of `WatchEvent` without end, and a context that ends the watch.

    `RavelClient.watch` makes one. Used by one task.
    """

    def __init__(
        self, request: WatchRequest, find: Find, retry: RetryPolicy, timeout_s: float, outage_max_s: float | None
    ) -> None:
        self._request = request
        self._find = find
        self._found: Connections | None = None  # None: not looked for yet
        self._retry = retry
        self._timeout_s = timeout_s
        self._outage_max_s = outage_max_s
        self._stream: aio.UnaryStreamCall[WatchRequest, WatchResponse] | None = None
        self._endpoint = ""
        self._fresh = True  # the stream has not sent a message yet
        self._begun = False  # some server has answered
        self._cluster_id = ""  # empty: no server of the present cluster has answered yet
        self._knows_members = False
        self._events: deque[WatchEvent] = deque()
        self._received = 0  # every revision up to this one is in _events, or was handed out
        self._handed = 0  # of the newest event that was handed out
        self._done = 0
        self._closed = False
        self._obstacles = Obstacles()
        self._behind: dict[str, CompactedError] = {}  # who has compacted what comes next
        self._tried: set[str] = set()  # since the last progress
        self._attempt = 0
        self._outage_since: float | None = None

    @property
    def revision(self) -> int:
        """All changes up to this revision were handed out, and the next one was asked for: another watch goes on at it + 1.

        It moves on while nothing happens in the range, too. 0 before the watch has begun.
        """
        return self._done

    async def started(self) -> int:
        """Begin, unless it has begun; the revision after which every change will be told. Raises what iterating raises."""
        while not self._begun:
            await self._fetch()
        return self._done

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        """The next change.

        Raises CompactedError when no replica has it any more, and other RavelErrors when no replica could be asked in time.
        """
        while not self._events:
            self._done = max(self._done, self._received)
            await self._fetch()
        event = self._events.popleft()
        if event.revision > self._handed:
            self._done, self._handed = max(self._done, self._handed), event.revision
        return event

    async def __aenter__(self) -> Self:
        await self.started()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the watch. Who waits for the next change gets ClosedError."""
        self._closed = True
        self._leave()

    @property
    def _channels(self) -> Connections:
        """To be used once they were found."""
        if self._found is None:
            raise ClosedError("the watch has not begun")
        return self._found

    # --- messages

    async def _fetch(self) -> None:
        """Take one more message, from wherever it can be had."""
        while True:
            if self._closed:
                raise ClosedError("the watch was closed")
            if self._found is None:
                self._found = await self._find(None)
            answer = await self._try_message()
            if isinstance(answer, WatchResponse):
                await self._take(answer)
                return
            self._leave()
            if isinstance(answer, WrongClusterError):
                await self._follow(answer)
            elif not self._closed:
                await self._recover(answer)

    async def _try_message(self) -> WatchResponse | RavelError:
        """The next message of the present stream, or of a new one if there is none."""
        try:
            if self._stream is None:
                self._endpoint = self._choose()
                channel = await self._channels.ready(self._endpoint)
                self._stream, self._fresh = KVStub(channel).Watch(self._request), True
            async with asyncio.timeout(2 * self._retry.progress_timeout_s if self._fresh else SILENCE_S):
                message = await self._stream.read()
        except TimeoutError:
            return HangingError(self._endpoint)
        except aio.AioRpcError as error:
            return from_rpc_error(error, self._endpoint)
        except RavelError as error:
            return error
        except (aio.UsageError, asyncio.CancelledError):
            return channel_closed(self._endpoint)
        return message if isinstance(message, WatchResponse) else UnreachableError(f"{self._endpoint} ended the watch")

    async def _take(self, message: WatchResponse) -> None:
        cluster_id = message.header.cluster_id
        if self._cluster_id and cluster_id != self._cluster_id:
            self.close()
            raise WrongServerError(
                f"{self._endpoint} belongs to cluster {cluster_id}, and the watch began in cluster {self._cluster_id}",
                reason=Reason.WRONG_CLUSTER_ID,
                next_step="begin again: revisions of one cluster mean nothing in another",
            )
        first = not self._begun
        self._begun = True
        self._cluster_id = cluster_id
        if first:
            self._done = self._received = message.revision
        events = [event for event in message.events if event.revision > self._received]
        follow = [*(event.revision for event in events[1:]), 0]
        self._events += [
            WatchEvent(
                event.key, event.value if event.kind == KeyEvent.PUT else None, event.revision, more=event.revision == following
            )
            for event, following in zip(events, follow, strict=False)
        ]
        self._received = max(self._received, message.revision)
        self._request.from_revision = self._received + 1
        if message.events or not self._fresh:
            self._progressed()
        self._fresh = False
        if not self._knows_members:
            await self._learn_members()

    def _progressed(self) -> None:
        """This server does what it should: past failures count no more."""
        self._channels.served(self._endpoint, leads=False)
        self._obstacles.clear()
        self._behind.clear()
        self._tried.clear()
        self._attempt = 0
        self._outage_since = None

    async def _learn_members(self) -> None:
        with suppress(RavelError, aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(MEMBERS_TIMEOUT_S):
                channel = await self._channels.ready(self._endpoint)
                status = await ClusterStub(channel).Status(StatusRequest())
            self._knows_members = True
            for member in status.members:
                if address := member.server.addresses.listen:
                    self._channels.learn(address)

    # --- obstacles

    def _choose(self) -> str:
        """One that was not tried since the last progress, else the next in turn."""
        endpoint = self._channels.choose_any()
        for _ in self._channels.endpoints:
            if endpoint not in self._tried:
                break
            endpoint = self._channels.choose_any()
        return endpoint

    async def _recover(self, error: RavelError) -> None:
        """Take in why a stream ended, and wait a moment. Raises if the watch cannot go on."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._outage_since is None:
            self._outage_since = now
        if isinstance(error, CompactedError):
            self._behind[self._endpoint] = error
            if not self._knows_members:
                await self._learn_members()
        elif error.reason not in RETRYABLE:
            raise error
        self._tried.add(self._endpoint)
        self._obstacles.note(self._endpoint, error)
        lasted_s = now - self._outage_since
        if self._behind and self._all_behind(lasted_s):
            raise self._compacted()
        limit_s = self._outage_max_s if self._begun else self._timeout_s
        if limit_s is not None and lasted_s >= limit_s:
            raise self._obstacles.deadline_error(limit_s)
        self._attempt += 1
        await self._channels.failed(self._endpoint, error, attempt=self._attempt)
        untried = len(self._tried) < len(self._channels.endpoints)
        if not untried or self._attempt > len(self._channels.endpoints):
            await asyncio.sleep(self._retry.delay_s(self._attempt, random.random, at_least_s=retry_after_s(error)))

    async def _follow(self, refused: WrongClusterError) -> None:
        """The slot is elsewhere, or on its way there: go on where it is, a moment later."""
        now = asyncio.get_running_loop().time()
        if self._outage_since is None:
            self._outage_since = now
        limit_s = self._outage_max_s if self._begun else self._timeout_s
        if limit_s is not None and now - self._outage_since >= limit_s:
            raise refused
        self._found = await self._find(refused)
        self._cluster_id = ""
        self._knows_members = False
        self._obstacles.clear()
        self._behind.clear()
        self._tried.clear()
        self._attempt += 1
        await asyncio.sleep(self._retry.delay_s(self._attempt, random.random))

    def _all_behind(self, lasted_s: float) -> bool:
        """No replica can go on, as far as can be known: those that do not answer had their time."""
        endpoints = set(self._channels.endpoints)
        return endpoints <= self._behind.keys() or (lasted_s >= self._timeout_s and endpoints <= self._tried)

    def _compacted(self) -> CompactedError:
        wanted = self._request.from_revision
        first = min(error.first_revision for error in self._behind.values())
        return CompactedError(
            f"the change of revision {wanted} was compacted away on every replica that answers: "
            f"the first that is left is that of revision {first}",
            metadata={Field.FIRST_REVISION: str(first)},
            next_step="read the keys anew, and watch from the revision after what was read",
        )

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
