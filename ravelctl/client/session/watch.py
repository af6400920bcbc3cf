"""A watch that survives its server: the changes of a range in the order of revisions, none twice, none left out.

A server's messages hold whole revisions and say up to which revision they are complete. When a stream ends, however it ends, the
next one is asked for from that revision plus one, at any replica that answers. A replica may have compacted that revision away,
or have lost touch with the cluster: then the others are tried.

A key whose slot moves is refused by its old cluster, after that cluster has sent everything up to the revision at which it gave
the slot away. The watch continues at the new cluster from the revision after that: the revisions of a key only ever grow, also
over a move.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from grpc import aio

from ravelctl.client.connection.attempts import Attempts, Backoff, no_time
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.failures import ConnectionLostError, channel_closed, timed_out
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.rules import Next, Rule
from ravelctl.client.errors import ClosedError, CompactedError, InvalidArgumentError, RavelError, WrongClusterError
from ravelctl.client.session.scan import range_of_prefix
from ravelctl.client.types import WatchEvent
from ravelpb.errors import Field, Reason
from ravelpb.v1.cluster_pb2 import StatusRequest
from ravelpb.v1.cluster_pb2_grpc import ClusterStub
from ravelpb.v1.kv_pb2 import KeyEvent, WatchRequest, WatchResponse
from ravelpb.v1.kv_pb2_grpc import KVStub

PROGRESS_MS: Final = 1_000
"""How often a server is asked to report how far its stream is complete."""

SILENCE_S: Final = 5.0
"""A server that sends nothing for so long hangs."""

MEMBERS_TIMEOUT_S: Final = 1.0
"""How long the question for the other members may take, which is asked once: a watch continues there when its server is lost."""

TRY_THE_OTHERS: Final = Rule(Next.ELSEWHERE, nothing_done=True)
"""The rule of a watch for COMPACTED: another replica's log may reach further back."""

Find = Callable[[WrongClusterError | None], Awaitable[Connections]]
"""Returns where to watch: at first, or after this refusal, which is raised again if there is no other cluster."""


def watch_request(
    *, key: bytes | None, prefix: bytes | None, start: bytes, end: bytes | None, from_revision: int | None
) -> WatchRequest:
    """Return the request of a watch.

    Raises InvalidArgumentError for a key, a prefix and a range that exclude each other, and for a revision below 1.
    """
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
    """Changes as they happen: an async iterator of `WatchEvent` without end, and a context that ends the watch.

    `RavelClient.watch` makes one. Used by one task.
    """

    def __init__(
        self, request: WatchRequest, find: Find, retry: RetryPolicy, timeout_s: float, outage_max_s: float | None
    ) -> None:
        self._request = request
        self._find = find
        self._retry = retry
        self._timeout_s = timeout_s
        self._outage_max_s = outage_max_s
        self._backoff = Backoff(retry)  # its deadline is that of the first answer, later that of an outage
        self._attempts: Attempts | None = None  # None: where to watch is not known yet
        self._stream: aio.UnaryStreamCall[WatchRequest, WatchResponse] | None = None
        self._endpoint = ""
        self._fresh = True  # the stream has not sent a message yet
        self._begun = False  # some server has answered
        self._knows_members = False
        self._events: deque[WatchEvent] = deque()
        self._received = 0  # every revision up to this one is in _events, or was handed out
        self._handed = 0  # the newest event that was handed out
        self._done = 0
        self._closed = False
        self._behind: dict[str, CompactedError] = {}  # the replicas that have compacted what comes next
        self._trouble_since: float | None = None  # the first attempt, or the first failure since the last progress

    @property
    def revision(self) -> int:
        """All changes up to this revision were handed out, and the next one was asked for: another watch continues at it + 1.

        It grows while nothing happens in the range, too. 0 before the watch has begun.
        """
        return self._done

    async def started(self) -> int:
        """Begin, unless it has begun, and return the revision after which every change will be sent. Raises what iterating
        does."""
        while not self._begun:
            await self._fetch()
        return self._done

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        """Return the next change.

        Raises CompactedError if no replica has it any more, and other RavelErrors if no replica could be asked in time.
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
        """End the watch. A task that waits for the next change gets ClosedError."""
        self._closed = True
        self._leave()

    # --- messages

    async def _fetch(self) -> None:
        """Take one more message, from any replica that has it."""
        if not self._begun:
            self._begin_trouble(self._timeout_s)
        try:
            await self._fetch_somewhere()
        except RavelError:
            self._trouble_since = None  # a caller that tries again gets all of the time again
            raise

    async def _fetch_somewhere(self) -> None:
        while True:
            if self._closed:
                raise ClosedError("the watch was closed")
            if self._attempts is None:
                self._attempts = self._attempts_at(await self._find(None))
            answer = await self._try_message(self._attempts)
            if isinstance(answer, WatchResponse):
                await self._take(self._attempts, answer)
                return
            self._leave()
            if isinstance(answer, WrongClusterError):
                await self._follow(answer)
            elif not self._closed:
                await self._recover(self._attempts, answer)

    def _attempts_at(self, connections: Connections) -> Attempts:
        return Attempts(connections, self._retry, backoff=self._backoff, any_replica=True)

    async def _try_message(self, attempts: Attempts) -> WatchResponse | RavelError:
        """Return the next message of the present stream, or of a new one if there is none; else why there is no message."""
        connections = attempts.connections
        connections.owner.check()
        if self._stream is None:
            self._endpoint, self._fresh = attempts.choose(), True
        limit_s = 2 * self._retry.progress_timeout_s if self._fresh else SILENCE_S
        if (left_s := self._backoff.left_s) is not None:
            limit_s = min(limit_s, left_s)
        try:
            async with asyncio.timeout(limit_s):
                if self._stream is None:
                    self._stream = KVStub(await connections.ready(self._endpoint, limit_s)).Watch(self._request)
                message = await self._stream.read()
            if isinstance(message, WatchResponse):
                connections.meet(self._endpoint, message.header.cluster_id)
                return message
        except TimeoutError:
            return timed_out(self._endpoint, limit_s, self._retry.progress_timeout_s)
        except aio.AioRpcError as error:
            return connections.error_of(self._endpoint, error)
        except RavelError as error:
            return error
        except (aio.UsageError, asyncio.CancelledError):
            return channel_closed(self._endpoint)
        return ConnectionLostError(f"{self._endpoint} ended the watch")

    async def _take(self, attempts: Attempts, message: WatchResponse) -> None:
        if not self._begun:
            self._done = self._received = message.revision
            self._end_trouble(attempts)
        self._begun = True
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
            self._end_trouble(attempts)
        self._fresh = False
        if not self._knows_members:
            await self._learn_members(attempts.connections)

    async def _learn_members(self, connections: Connections) -> None:
        with suppress(RavelError, aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(MEMBERS_TIMEOUT_S):
                channel = await connections.ready(self._endpoint)
                status = await ClusterStub(channel).Status(StatusRequest())
            self._knows_members = True
            for member in status.members:
                if address := member.server.addresses.listen:
                    connections.learn(address)

    # --- troubles

    def _begin_trouble(self, limit_s: float | None) -> None:
        """Start the time in which the next message must come, unless it runs already."""
        if self._trouble_since is not None:
            return
        if limit_s is not None and not limit_s > 0:
            raise no_time(limit_s)
        self._trouble_since = asyncio.get_running_loop().time()
        self._backoff.restart(limit_s)

    def _end_trouble(self, attempts: Attempts) -> None:
        """Forget past failures: this server does what it should."""
        self._trouble_since = None
        self._backoff.restart(None)
        self._behind.clear()
        attempts.served(self._endpoint)

    async def _recover(self, attempts: Attempts, error: RavelError) -> None:
        """Take in why a stream ended, and wait for the next attempt. Raises if the watch cannot continue."""
        if self._outage_max_s is not None and self._outage_max_s <= 0 and self._begun:
            raise error
        self._begin_trouble(self._outage_max_s)
        rule: Rule | None = None
        if isinstance(error, CompactedError):
            rule = TRY_THE_OTHERS
            self._behind[self._endpoint] = error
            if not self._knows_members:
                await self._learn_members(attempts.connections)
        if self._behind and self._all_behind(attempts):
            raise self._compacted()
        try:
            await attempts.failed(self._endpoint, error, rule=rule)
        except RavelError:
            if self._behind and attempts.connections.usable <= attempts.tried:
                raise self._compacted() from None  # the others had their time, and did not answer
            raise

    async def _follow(self, refused: WrongClusterError) -> None:
        """Continue at the new cluster of a slot that has moved or is moving, after a wait."""
        if self._outage_max_s is not None and self._outage_max_s <= 0 and self._begun:
            raise refused
        self._begin_trouble(self._outage_max_s)
        if self._backoff.is_over:
            raise refused
        self._attempts = self._attempts_at(await self._find(refused))
        self._knows_members = False
        self._behind.clear()
        await self._backoff.wait()

    def _all_behind(self, attempts: Attempts) -> bool:
        """Return whether no replica can continue: all have compacted the revision, or the others did not answer in their time."""
        endpoints = attempts.connections.usable
        lasted_s = asyncio.get_running_loop().time() - (self._trouble_since or 0.0)
        return endpoints <= self._behind.keys() or (
            lasted_s >= self._timeout_s and endpoints <= attempts.tried | {self._endpoint}
        )

    def _compacted(self) -> CompactedError:
        wanted = self._request.from_revision
        first = min(error.first_revision for error in self._behind.values())
        return CompactedError(
            f"the change of revision {wanted} was compacted away on every replica that answers: "
            f"the first that is left is that of revision {first}",
            metadata={Field.FIRST_REVISION: str(first)},
            next_step="read the keys again, and watch from the revision after what was read",
        )

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
