"""One peer: what waits for it, the stream that carries it there, and what to do when the stream breaks.

Two queues feed the stream. Heartbeats, votes and their answers are few, small and urgent: an election hangs on them, so they
leave first and never wait behind appends. Everything else is bulk. Both are bounded; what does not fit is dropped, newest first,
because what waits already is what the far end needs before it, and the core sends again what was lost.

A frame costs far more than a message, and under load every second append would be one without entries, which only tells how far
the leader has committed. Nobody waits for that on a follower, so such tidings wait a little for company, and what is overtaken
while it waits is not sent at all: tidings by the next append, an acknowledgement by a later one.

A `Peer` is always in one of three states: trying to connect, connected, or pausing after a failed attempt. A failed attempt
empties the queues (old messages are of no use to somebody who was away) and is told to the listener once.

An error in this code, or in the library below it, ends the attempt and not the peer: it is logged with its traceback and counted,
and the next attempt follows. If the listener fails or an invariant is broken nothing here can go on, and `on_broken` gets the
error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError

from ravel_node.raft.errors import InvariantError
from ravel_node.raft.types import Message, MessageType, ReplicaId
from ravel_node.transport.base import EXPELLED, Hello, PeerRefusedError, PeerStats, TransportListener
from ravel_node.transport.calls import (
    CONNECT_TIMEOUT_S,
    EXCHANGE,
    CallEndedError,
    ChannelFactory,
    Ended,
    close_quietly,
    ended,
    hello_from,
    hello_to,
)
from ravel_node.transport.handshakes import HANDSHAKE_FAILED
from ravel_node.transport.wire import WireError, fill_message, size_of
from ravelpb.errors import Reason
from ravelpb.v1 import raft_pb2

URGENT_MESSAGES_MAX: Final = 256
BULK_MESSAGES_MAX: Final = 4_096
BULK_BYTES_MAX: Final = 64 << 20
"""Bounds of what waits for one peer. A message that is larger than the bound by itself still goes when nothing else waits."""

FRAME_BYTES_MAX: Final = 1 << 20
"""A frame is closed with the message that reaches this: urgent messages wait at most for the frame under way."""

URGENT: Final = frozenset(
    {
        MessageType.HEARTBEAT,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.VOTE,
        MessageType.VOTE_RESPONSE,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.TIMEOUT_NOW,
    }
)

STEADY_S: Final = 2.0
"""A stream that lived this long was a good one: the next pause starts small again."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """How a peer is dialled and fed. Durations in seconds."""

    backoff_min_s: float = 0.05
    backoff_max_s: float = 2.0
    refused_backoff_s: float = 1.0  # after an answer that only an operator can change, and doubling from there
    tidings_linger_s: float = 0.01  # how long news of a commit may wait for entries that travel the same way
    bulk_messages_max: int = BULK_MESSAGES_MAX
    bulk_bytes_max: int = BULK_BYTES_MAX


class Peer:
    """The outgoing half of one pair of replicas. Everything runs on the loop; `start` before anything is sent, `close` at the
    end."""

    def __init__(
        self,
        peer_id: ReplicaId,
        address: str,
        server_id: str,
        *,
        hello: Callable[[], Hello],
        listener: TransportListener,
        channel_factory: ChannelFactory,
        options: PeerOptions,
        rng: Random,
        on_fault: Callable[[], None],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        """`on_fault` is called for each attempt that ended by an error in this program, to count them."""
        self.id = peer_id
        self.address = address
        self.server_id = server_id
        self.stats = PeerStats()
        self._hello = hello
        self._listener = listener
        self._channel_factory = channel_factory
        self._options = options
        self._rng = rng
        self._on_fault = on_fault
        self._on_broken = on_broken
        self._urgent: deque[Message] = deque()
        self._bulk: deque[tuple[int, Message]] = deque()
        self._bulk_bytes = 0  # invariant: the sum of the sizes in `_bulk`
        self._hurried = False  # invariant: while it is false, nothing waits but tidings
        self._lingering = False  # a timer runs for tidings
        self._wake = asyncio.Event()  # hurried, or the stream ended
        self._nudged = asyncio.Event()
        self._overflowed = False  # told to the listener once, until there is room again
        self._expelled_for: set[str] = set()  # reasons that were reported to the listener
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"peer-{self.id}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_broken(error)

    async def close(self) -> None:
        """End the stream and its task. Safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def nudge(self) -> None:
        """The peer was just heard of: end the pause, if there is one, and try now."""
        self._nudged.set()

    # --- queues

    def send(self, message: Message) -> None:
        """Queue one message, or drop and count it. Never blocks."""
        if message.type in URGENT:
            if len(self._urgent) >= URGENT_MESSAGES_MAX:
                self._drop()
                return
            self._urgent.append(message)
        else:
            size = size_of(message)
            options = self._options
            if self._bulk and (len(self._bulk) >= options.bulk_messages_max or self._bulk_bytes + size > options.bulk_bytes_max):
                self._drop()
                return
            if self._bulk and _overtakes(message, self._bulk[-1][1]):
                self._bulk_bytes -= self._bulk.pop()[0]
            self._bulk.append((size, message))
            self._bulk_bytes += size
            if _is_tidings(message):
                self._let_linger()
                return
        self._hurry()

    def _hurry(self) -> None:
        """What waits is to leave now."""
        self._hurried = True
        self._wake.set()

    def _let_linger(self) -> None:
        """Tidings find company within this time, or leave alone."""
        if not self._lingering:
            self._lingering = True
            asyncio.get_running_loop().call_later(self._options.tidings_linger_s, self._lingered)

    def _lingered(self) -> None:
        self._lingering = False
        if self._bulk:
            self._hurry()

    def _drop(self) -> None:
        self.stats.dropped_messages += 1
        if not self._overflowed:
            self._overflowed = True
            # The caller is in the middle of its own work; it hears of this after that.
            asyncio.get_running_loop().call_soon(self._listener.peer_unreachable, self.id)

    def _empty_queues(self) -> None:
        self.stats.dropped_messages += len(self._urgent) + len(self._bulk)
        self._urgent.clear()
        self._bulk.clear()
        self._bulk_bytes = 0
        self._hurried = self._overflowed = False

    def _next_frame(self) -> tuple[bytes, int]:
        """Everything urgent, then bulk up to the size of a frame: the frame's bytes and how many messages it holds."""
        frame = raft_pb2.PeerFrame()
        size = count = 0
        while size < FRAME_BYTES_MAX:
            if self._urgent:
                message = self._urgent.popleft()
                size += size_of(message)
            elif self._bulk:
                bulk_size, message = self._bulk.popleft()
                self._bulk_bytes -= bulk_size
                size += bulk_size
            else:
                break
            try:
                fill_message(frame.messages.add(), message)
            except WireError as error:
                del frame.messages[-1]
                self.stats.dropped_messages += 1
                self.stats.last_error = str(error)
                _log.error("transport.message_dropped", peer=self.id, why=str(error))
            else:
                count += 1
        if not self._bulk:
            self._overflowed = False
            self._hurried = bool(self._urgent)
        return frame.SerializeToString(), count

    # --- the stream

    async def _run(self) -> None:
        """Connect, feed the stream until it breaks, pause, and again, for as long as there is this peer."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            why = await self._stream()
            was_connected, self.stats.connected = self.stats.connected, False
            self.stats.last_error = why.why
            self._empty_queues()
            self._listener.peer_unreachable(self.id)
            if why.reason in EXPELLED and not why.ours and why.reason not in self._expelled_for:
                self._expelled_for.add(why.reason)
                self._listener.refused_by_peer(self.id, why.reason, why.why)
            if why.is_identity or why.reason == HANDSHAKE_FAILED:  # only an operator changes these
                _log.warning("transport.peer_refused", peer=self.id, address=self.address, reason=why.reason, why=why.why)
            if why.is_identity:
                failures += 1
            elif loop.time() - began >= STEADY_S:
                failures = 0
            else:
                # Whoever was reached a moment ago can most likely be reached again: a network that breaks connections must not
                # part replicas for longer than it takes to dial.
                failures = 1 if was_connected else failures + 1
            await self._pause(failures, why)
            self.stats.reconnects += 1

    async def _pause(self, failures: int, why: Ended) -> None:
        """Wait longer after each failure in a row, never as long as another peer that failed at the same time."""
        options = self._options
        shortest = options.refused_backoff_s if why.is_identity else options.backoff_min_s
        longest = max(options.backoff_max_s, shortest)
        delay = min(longest, shortest * 2.0 ** min(max(failures - 1, 0), 10)) * self._rng.uniform(1.0, 1.25)
        if why.is_identity:
            await asyncio.sleep(delay)
            return
        self._nudged.clear()
        try:
            async with asyncio.timeout(delay):
                await self._nudged.wait()
        except TimeoutError:
            return

    async def _stream(self) -> Ended:
        """One attempt: connect, shake hands, feed. Returns why it ended; raises InvariantError and cancellation only."""
        try:
            return await self._connect_and_feed()
        except InvariantError:
            raise
        except Exception as error:
            self._on_fault()
            _log.error("transport.peer_failed", peer=self.id, address=self.address, exc_info=error)
            return Ended(f"an error in this program ended the connection: {type(error).__name__}: {error}")

    async def _connect_and_feed(self) -> Ended:
        """Returns why the peer, or the way to it, ended the attempt."""
        channel = self._channel_factory(self.address)
        try:
            call: Any = channel.stream_stream(EXCHANGE)()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._shake_hands(call)
            self.stats.connected = True
            call.add_done_callback(lambda _: self._wake.set())
            await self._feed(call)
            return await ended(call)
        except TimeoutError:
            return Ended(f"{self.address} did not answer within {CONNECT_TIMEOUT_S:g} s")
        except CallEndedError as error:
            return error.ended
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return await ended(call)
        finally:
            await close_quietly(channel)

    async def _shake_hands(self, call: Any) -> None:
        """Both ends say who they are, and this one checks the answer. Raises CallEndedError."""
        own = self._hello()
        await call.write(raft_pb2.PeerFrame(hello=hello_to(own, self.id)).SerializeToString())
        raw = await call.read()
        if raw is grpc.aio.EOF:
            raise CallEndedError(await ended(call))
        try:
            theirs = raft_pb2.PeerFrame.FromString(raw).hello
        except DecodeError:
            raise CallEndedError(Ended(f"{self.address} answered with bytes that are no hello")) from None
        if theirs.cluster_id != own.cluster_id:
            raise CallEndedError(Ended(f"{self.address} belongs to cluster {theirs.cluster_id[:64]!r}", Reason.WRONG_CLUSTER_ID))
        if theirs.from_replica_id != self.id or (self.server_id and theirs.from_server_id != self.server_id):
            raise CallEndedError(
                Ended(
                    f"{self.address} is replica {theirs.from_replica_id} on server {theirs.from_server_id[:64]!r}, "
                    f"where replica {self.id} on server {self.server_id!r} was meant",
                    Reason.WRONG_IDENTITY,
                )
            )
        try:
            await self._listener.admit_answer(hello_from(theirs))
        except PeerRefusedError as error:
            raise CallEndedError(Ended(str(error), error.reason, ours=True)) from None

    async def _feed(self, call: Any) -> None:
        """Write frames until the call ends. What queues while one is written is the next one."""
        stats = self.stats
        while not call.done():
            if not self._hurried:
                self._wake.clear()
                await self._wake.wait()
                continue
            raw, count = self._next_frame()
            if count:
                await call.write(raw)
                stats.sent_messages += count
                stats.sent_bytes += len(raw)


def _is_tidings(message: Message) -> bool:
    """Whether it only tells how far the leader has committed."""
    return message.type is MessageType.APPEND and not message.entries


def _overtakes(newer: Message, older: Message) -> bool:
    """Whether whoever gets `newer` has no use for `older`, which waits right before it. To drop a message is always allowed."""
    if newer.type is not older.type or newer.term != older.term or newer.index < older.index:
        return False
    if newer.type is MessageType.APPEND:
        return not older.entries and newer.commit >= older.commit
    return newer.type is MessageType.APPEND_RESPONSE and not newer.reject and not older.reject
