"""The messages of one watch at one cluster, from whichever replica answers.

A server's messages hold whole revisions and say up to which revision they are complete. When a stream ends, however it ends, the
next one is asked for from that revision plus one, at any replica that answers. A replica may have compacted that revision away,
or have lost touch with the cluster: then the others are tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from grpc import aio

from ravelctl.client.connection.attempts import Attempts, Backoff, no_time
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.failures import ConnectionLostError, channel_closed, timed_out
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.rules import Next, Rule
from ravelctl.client.errors import ClosedError, CompactedError, RavelError, WrongClusterError
from ravelpb.errors import Field
from ravelpb.v1.cluster_pb2 import StatusRequest
from ravelpb.v1.cluster_pb2_grpc import ClusterStub
from ravelpb.v1.kv_pb2 import SlotsFrom, WatchRequest, WatchResponse
from ravelpb.v1.kv_pb2_grpc import KVStub

SILENCE_S: Final = 5.0
"""A server that sends nothing for so long hangs."""

MEMBERS_TIMEOUT_S: Final = 1.0
"""How long the question for the other members may take, which is asked once: a watch continues there when its server is lost."""

TRY_THE_OTHERS: Final = Rule(Next.ELSEWHERE, nothing_done=True)
"""The rule of a watch for COMPACTED: another replica's log may reach further back."""


class Start(NamedTuple):
    """From where on a slot is watched at a cluster, as SlotsFrom has it. `came` None: the time at which it is here now."""

    from_revision: int
    came: int | None


def starts_of(parts: Iterable[SlotsFrom]) -> dict[int, Start]:
    """Return these slots one by one."""
    starts = {}
    for part in parts:
        start = Start(part.from_revision, part.came if part.HasField("came") else None)
        starts.update(dict.fromkeys(part.slots, start))
    return starts


def parts_of(starts: Mapping[int, Start]) -> list[SlotsFrom]:
    """Return these slots grouped by where they start."""
    groups: dict[Start, list[int]] = {}
    for slot in sorted(starts):
        groups.setdefault(starts[slot], []).append(slot)
    return [SlotsFrom(slots=slots, from_revision=start.from_revision, came=start.came) for start, slots in groups.items()]


class MessageStream:
    """A watch at one cluster: `next` returns a message, and `take` moves on behind it. Used by one task at a time."""

    def __init__(
        self,
        request: WatchRequest,
        connections: Connections,
        retry: RetryPolicy,
        timeout_s: float,
        outage_max_s: float | None,
        *,
        has_begun: bool = False,
    ) -> None:
        """`timeout_s` is the time for the first message, `outage_max_s` that for any later one, and for all if `has_begun`."""
        self.received = 0  # every revision up to this one was sent, except of slots that start above it
        self.begun = has_begun
        self._request = request
        self._starts = starts_of(request.slots)
        self._retry = retry
        self._timeout_s = timeout_s
        self._outage_max_s = outage_max_s
        self._backoff = Backoff(retry)  # its deadline is that of the first answer, later that of an outage
        self._attempts = Attempts(connections, retry, backoff=self._backoff, any_replica=True)
        self._message: WatchResponse | None = None  # the next one, until it is taken
        self._ended = False
        self._stream: aio.UnaryStreamCall[WatchRequest, WatchResponse] | None = None
        self._endpoint = ""
        self._fresh = True  # the stream has not sent a message yet
        self._knows_members = False
        self._behind: dict[str, CompactedError] = {}  # the replicas that have compacted what comes next
        self._trouble_since: float | None = None  # the first attempt, or the first failure since the last progress

    @property
    def connections(self) -> Connections:
        return self._attempts.connections

    @property
    def trouble_s(self) -> float:
        """For how long no replica has continued the watch; 0: one does."""
        if self._trouble_since is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._trouble_since

    @property
    def slots(self) -> Iterable[int]:
        """The slots that are watched here; none: the watch names no slots, or is over."""
        return self._starts.keys()

    def starts(self, received: int | None = None) -> dict[int, Start]:
        """Return from where on each slot is watched next, where everything up to `received` was handed out."""
        sent = self.received if received is None else received
        return {
            slot: start if not start.from_revision or start.from_revision > sent else start._replace(from_revision=sent + 1)
            for slot, start in self._starts.items()
        }

    def add(self, starts: Mapping[int, Start]) -> None:
        """Watch more slots, by a new call. No call of `next` may wait meanwhile."""
        self._starts = {**self.starts(), **starts}
        self.received = 0
        self.close()

    # --- messages

    async def next(self) -> WatchResponse:
        """Return the next message, from any replica that has it. Until `take` is called it returns the same one again.

        Raises ClosedError after `end`, CompactedError if no replica has the next change, WrongClusterError if the slot of a key
        has left, and other RavelErrors if no replica could be asked in time.
        """
        if not self.begun:
            self._begin_trouble(self._timeout_s)
        try:
            while self._message is None:
                if self._ended:
                    raise ClosedError("the watch was closed")
                answer = await self._try_message()
                if isinstance(answer, WatchResponse):
                    self._message = answer
                    if answer.events or not self._fresh or not self.begun:
                        self._end_trouble()
                    self._fresh = False
                else:
                    self.close()
                    if not self._ended:
                        await self._recover(answer)
            message = self._message
            if not self._knows_members:
                await self._learn_members()
            return message
        except RavelError:
            self._trouble_since = None  # a caller that tries again gets all of the time again
            raise

    async def _try_message(self) -> WatchResponse | RavelError:
        """Return the next message of the present stream, or of a new one if there is none; else why there is no message."""
        connections = self.connections
        connections.owner.check()
        if self._stream is None:
            self._endpoint, self._fresh = self._attempts.choose(), True
        limit_s = 2 * self._retry.progress_timeout_s if self._fresh else SILENCE_S
        if (left_s := self._backoff.left_s) is not None:
            limit_s = min(limit_s, left_s)
        try:
            async with asyncio.timeout(limit_s):
                if self._stream is None:
                    self._prepare()
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

    def _prepare(self) -> None:
        """Let the request ask for what comes next."""
        if self._starts:
            self._starts = self.starts()
            del self._request.slots[:]
            self._request.slots.extend(parts_of(self._starts))
        elif self.begun:
            self._request.from_revision = self.received + 1

    def take(self, message: WatchResponse) -> None:
        """Move on behind a message that `next` returned."""
        self._message = None
        if message.began:
            self._starts.update(starts_of(message.began))
        gone = [*message.absent]
        for missed in message.missed:
            gone += missed.slots
        for left in message.left:
            gone += left.slots
        for slot in gone:
            self._starts.pop(slot, None)
        self.received = max(self.received, message.revision)
        self.begun = True

    async def _learn_members(self) -> None:
        with suppress(RavelError, aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(MEMBERS_TIMEOUT_S):
                channel = await self.connections.ready(self._endpoint)
                status = await ClusterStub(channel).Status(StatusRequest())
            self._knows_members = True
            for member in status.members:
                if address := member.server.addresses.listen:
                    self.connections.learn(address)

    def close(self) -> None:
        """End the call to the server. The next `next` makes another one, which continues behind the last message taken."""
        self._message = None
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    def end(self) -> None:
        """End the watch: `next` raises ClosedError."""
        self._ended = True
        self.close()

    # --- troubles

    def _begin_trouble(self, limit_s: float | None) -> None:
        """Start the time in which the next message must come, unless it runs already."""
        if self._trouble_since is not None:
            return
        if limit_s is not None and not limit_s > 0:
            raise no_time(limit_s)
        self._trouble_since = asyncio.get_running_loop().time()
        self._backoff.restart(limit_s)

    def _end_trouble(self) -> None:
        """Forget past failures: this server does what it should."""
        self._trouble_since = None
        self._backoff.restart(None)
        self._behind.clear()
        self._attempts.served(self._endpoint)

    async def _recover(self, error: RavelError) -> None:
        """Take in why a stream ended, and wait for the next attempt. Raises if the watch cannot continue."""
        if isinstance(error, WrongClusterError) or (self._outage_max_s is not None and self._outage_max_s <= 0 and self.begun):
            raise error
        self._begin_trouble(self._outage_max_s)
        rule: Rule | None = None
        if isinstance(error, CompactedError):
            rule = TRY_THE_OTHERS
            self._behind[self._endpoint] = error
            if not self._knows_members:
                await self._learn_members()
        if self._behind and self._all_behind():
            raise self._compacted()
        try:
            await self._attempts.failed(self._endpoint, error, rule=rule)
        except RavelError:
            if self._behind and self.connections.usable <= self._attempts.tried:
                raise self._compacted() from None  # the others had their time, and did not answer
            raise

    def _all_behind(self) -> bool:
        """Return whether no replica can continue: all have compacted the revision, or the others did not answer in their time."""
        endpoints = self.connections.usable
        return endpoints <= self._behind.keys() or (
            self.trouble_s >= self._timeout_s and endpoints <= self._attempts.tried | {self._endpoint}
        )

    def _compacted(self) -> CompactedError:
        wanted = min((start.from_revision for start in self._starts.values()), default=self._request.from_revision)
        first = min(error.first_revision for error in self._behind.values())
        return CompactedError(
            f"the change of revision {wanted} was compacted away on every replica that answers: "
            f"the first that is left is that of revision {first}",
            metadata={Field.FIRST_REVISION: str(first)},
            next_step="read the keys again, and watch from the revision after what was read",
        )
