"""A lane: the calls of many tasks, carried as Session batches on one stream.

Theory of operation. A call is one future and one tuple in a queue. One task owns the lane: it finds the server that serves this
kind of call, opens a Session stream to it, and stays until the stream ends or the server sends it away; then it goes looking
again. While a stream is open a sender packs what waits into requests, a few of them in flight, and the receiver settles futures
as answers arrive. Nothing lingers: a lonely call leaves in the next turn of the loop, and what gathers while the requests in
flight are at their bound becomes the next request.

Exactly once. A lane of writes with a session numbers its commands (see window.py). A command that is repeated keeps its number,
and the cluster answers a number it has seen with the stored result. So the rules are:

- A command is sent again only under the number it had, unless every attempt so far is proved to have done nothing and its
  session is gone; then it is a new command.
- A command whose caller has its answer, or has given up, is never sent again: dropping it raises `acked_below`, and a late copy
  of a number below that runs nowhere.
- `uncertain` marks a batch of which an attempt ended without such a proof. From then on no refusal is told as "nothing was done",
  but for that of a key whose slot is elsewhere or on its way: it comes only after the session was looked at.

Without a session, commands that are not `uncertain` are sent again, the others end in OutcomeUnknownError. Reads are sent again.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from grpc import aio

from ravelctl.client.connection.connections import Connections, HangingError, Obstacles, retry_after_s
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import (
    NOTHING_DONE,
    RETRYABLE,
    BlankError,
    BusyError,
    ClosedError,
    InternalError,
    InvalidArgumentError,
    OutcomeUnknownError,
    RavelError,
    SessionExpiredError,
    UnreachableError,
    from_rpc_error,
    from_status,
)
from ravelctl.client.services.unary import channel_closed
from ravelctl.client.session.sequence_window import SequenceWindow
from ravelpb.errors import Field, Reason
from ravelpb.v1.common_pb2 import Once
from ravelpb.v1.kv_pb2 import Command, RegisterSessionRequest, SessionRequest, SessionResponse
from ravelpb.v1.kv_pb2_grpc import KVStub

COMMANDS_MAX: Final = 256
"""Commands in one request: four full ones fill a session's window of 1,024."""

BATCH_BYTES_MAX: Final = 1 << 20
"""Bytes of commands after which no further one joins a request. A larger command travels alone."""

COMMAND_BYTES_MAX: Final = 64 << 20
"""Bytes of one command: as much as a server can be told to take. What it does take, 4 MiB by default, it says itself."""

IN_FLIGHT_MAX: Final = 4
"""Requests without an answer on a stream. Callers who act together fill one request whatever this is (1 to 16 measured alike); of
scattered ones a larger bound would make more and smaller requests, and a request costs both ends far more than a command."""

WAITING_MAX: Final = 65_536
"""Calls that wait to be sent. One more gets BusyError."""

EXPIRY_GRAIN_S: Final = 0.02
"""Deadlines are looked at no more often than this."""

BYTES_PER_S_MIN: Final = 1 << 20
"""The slowest network that is not taken for a hanging server: large requests get this much more time."""

LAST_MOMENT_S: Final = 0.1
"""While something is in the way, a call is not sent any more so shortly before its deadline (or in the last quarter of its time,
if that is shorter): a write that can hardly be answered would only turn "no leader" into "unknown"."""

REFUSED_FOR_SLOT: Final = frozenset({Reason.WRONG_CLUSTER, Reason.SLOT_MOVING})
"""Refusals which prove of a numbered command that no attempt has done anything."""

Call = tuple["asyncio.Future[Any]", Command, int, float, float]
"""Future of the answer message, command, its size in bytes, deadline, when its last moment begins; times on the loop's clock."""

Stream = aio.StreamStreamCall[SessionRequest, SessionResponse]


class CommandKind(Enum):
    """What a lane carries."""

    READS = "reads"  # to the leader
    STALE_READS = "stale reads"  # to any replica
    WRITES = "writes"  # to the leader, repeated only while they cannot have happened
    WRITES_ONCE = "writes once"  # to the leader, under a registered session

    @property
    def writes(self) -> bool:
        return self in (CommandKind.WRITES, CommandKind.WRITES_ONCE)


@dataclass(slots=True, eq=False)
class Batch:
    """The commands of one request. With a session, command i has the sequence `first + i` of `client_id`."""

    calls: list[Call]
    size_bytes: int
    client_id: int = 0
    first: int = 0
    uncertain: bool = False  # an earlier attempt may have done something
    message_bytes: int = 0  # of the request that was sent, counted only for a large command, which travels alone


class CommandBatcher:
    """See the module. Every method is called on one event loop; `submit` never waits."""

    def __init__(self, kind: CommandKind, channels: Connections, retry: RetryPolicy) -> None:
        self._kind = kind
        self._channels = channels
        self._retry = retry
        self._window = SequenceWindow()
        self._obstacles = Obstacles()
        self._waiting: deque[Call] = deque()  # without a number yet
        self._again: deque[Batch] = deque()  # numbered, to be sent again
        self._in_flight: dict[int, Batch] = {}  # by request id, in the order sent, on the present stream
        self._bytes_in_flight = 0
        self._batch_bytes = BATCH_BYTES_MAX  # less for a server that refused a larger batch
        self._request_id = 0
        self._done = 0  # answers that did something: what tells progress from being sent around
        self._sent_away: RavelError | None = None  # the present server does not want more: drain its stream and leave
        self._wake = asyncio.Event()  # something changed that the sender or the owner may wait for
        self._progress: asyncio.Timeout | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # The callers' side.

    def submit(self, command: Command, size_bytes: int, timeout_s: float) -> asyncio.Future[Any]:
        """Queue a command. The future gets the answer message of its kind, or a RavelError."""
        if self._closed:
            raise ClosedError("this client is closed")
        if size_bytes > COMMAND_BYTES_MAX:
            raise InvalidArgumentError(
                f"the command has {size_bytes} bytes, and no server takes more than {COMMAND_BYTES_MAX}",
                reason=Reason.REQUEST_TOO_LARGE,
                metadata={Field.VALUE: str(size_bytes), Field.LIMIT: str(COMMAND_BYTES_MAX)},
                next_step="split it over several keys",
            )
        if len(self._waiting) >= WAITING_MAX:
            raise BusyError(f"{WAITING_MAX} calls of this client wait already", next_step="await some before making more")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        deadline = loop.time() + timeout_s
        self._waiting.append((future, command, size_bytes, deadline, deadline - min(LAST_MOMENT_S, timeout_s / 4)))
        if deadline < self._alarm_at:
            self._set_alarm(deadline)
        if not self._wake.is_set():
            self._wake.set()
        if self._task is None:
            self._task = loop.create_task(self._run(), name=f"ravel client: {self._kind.value}")
        return future

    async def close(self) -> None:
        """End the lane. Calls that wait get ClosedError, or OutcomeUnknownError if they may have happened."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_all(ClosedError("the client was closed before this call was done"))

    # The owner's side: from server to server.

    async def _run(self) -> None:
        attempt = waits = 0
        try:
            while True:
                await self._until_wanted()
                done = self._done
                endpoint = self._choose()
                error = await self._visit(endpoint)
                self._reclaim(error)
                if self._done != done:
                    attempt = waits = 0
                if error is None:
                    continue
                attempt += 1
                self._obstacles.note(endpoint, error)
                at_once = await self._channels.failed(endpoint, error, attempt=attempt)
                if not at_once and not (isinstance(error, SessionExpiredError) and attempt <= self._retry.redirects_free):
                    waits += 1
                    await asyncio.sleep(self._retry.delay_s(waits, random.random, at_least_s=retry_after_s(error)))
        except Exception as error:
            # A fault of this library must not leave callers waiting, nor pass for a failure of the cluster.
            self._closed = True
            self._fail_all(InternalError(f"the client failed: {error!r}"))
            raise

    def _choose(self) -> str:
        return self._channels.choose_any() if self._kind is CommandKind.STALE_READS else self._channels.choose()

    async def _until_wanted(self) -> None:
        while not (self._again or self._waiting):
            self._wake.clear()
            await self._wake.wait()

    async def _visit(self, endpoint: str) -> RavelError | None:
        """Serve the lane from this endpoint for as long as it goes. Returns why it ended; None: the stream ended while idle."""
        try:
            stub = KVStub(await self._channels.ready(endpoint))
            if self._kind is CommandKind.WRITES_ONCE and self._window.client_id == 0:
                async with asyncio.timeout(self._retry.progress_timeout_s):
                    answer = await stub.RegisterSession(RegisterSessionRequest())
                self._window.begin(answer.client_id)
            stream = stub.Session()
        except TimeoutError:
            return HangingError(endpoint)
        except aio.AioRpcError as error:
            return from_rpc_error(error, endpoint)
        except RavelError as error:
            return error
        except (aio.UsageError, asyncio.CancelledError):
            return channel_closed(endpoint)
        return await self._converse(endpoint, stream)

    async def _converse(self, endpoint: str, stream: Stream) -> RavelError | None:
        """Send and receive until the stream ends, hangs, or the server has sent us away and answered what it was asked."""
        self._sent_away = None
        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(self._send(stream))
            try:
                return await self._receive(endpoint, stream)
            finally:
                sender.cancel()
                stream.cancel()

    async def _receive(self, endpoint: str, stream: Stream) -> RavelError | None:
        done = self._done
        error: RavelError
        try:
            async with asyncio.timeout(None) as self._progress:
                while isinstance(response := await stream.read(), SessionResponse):
                    self._take_answer(response)
                    if self._done != done:
                        self._channels.served(endpoint, leads=self._kind is not CommandKind.STALE_READS)
                    if self._sent_away is not None and not self._in_flight:
                        return self._sent_away
                error = UnreachableError(f"{endpoint} ended the stream")
        except TimeoutError:
            error = HangingError(endpoint)
        except aio.AioRpcError as rpc_error:
            error = from_rpc_error(rpc_error, endpoint)
        except InternalError as nonsense:
            error = nonsense
        except asyncio.CancelledError:
            error = channel_closed(endpoint)
        finally:
            self._progress = None
        if self._sent_away is not None and not isinstance(error, HangingError):
            return self._sent_away
        # A stream that did its work and ended while nothing was asked of it says nothing about the server.
        return error if self._in_flight or self._done == done else None

    async def _send(self, stream: Stream) -> None:
        """Write requests while there are any and the bounds allow. Ends by itself only with the stream: _receive sees why."""
        while True:
            batch = self._next_batch() if self._sent_away is None and len(self._in_flight) < IN_FLIGHT_MAX else None
            if batch is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                await stream.write(self._hand_over(batch))
            except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError):
                return

    def _next_batch(self) -> Batch | None:
        """What goes out next: first what was out before, then what waits, up to the bounds of a request and of the session."""
        latest = asyncio.get_running_loop().time() if self._obstacles else 0.0
        for _ in range(len(self._again)):
            batch = self._again.popleft()
            if not batch.uncertain and any(call[4] < latest for call in batch.calls if not call[0].done()):
                self._again.append(batch)
            elif runs := self._live_runs(batch):
                self._again.extendleft(reversed(runs[1:]))
                return runs[0]
        once = self._kind is CommandKind.WRITES_ONCE
        room = min(COMMANDS_MAX, self._window.room) if once else COMMANDS_MAX
        calls: list[Call] = []
        too_late: list[Call] = []
        size_bytes = 0
        while self._waiting and len(calls) < room:
            call = self._waiting[0]
            if calls and size_bytes + call[2] > self._batch_bytes:
                break
            self._waiting.popleft()
            if call[0].done():
                continue
            if call[4] < latest:
                too_late.append(call)
                continue
            calls.append(call)
            size_bytes += call[2]
        self._waiting.extendleft(reversed(too_late))
        if not calls:
            return None
        if not once:
            return Batch(calls, size_bytes)
        return Batch(calls, size_bytes, self._window.client_id, self._window.take(len(calls)))

    def _hand_over(self, batch: Batch) -> SessionRequest:
        """From here on the batch may have reached the server."""
        self._request_id += 1
        request = SessionRequest(id=self._request_id, commands=[call[1] for call in batch.calls])
        if batch.client_id:
            # Of another session only the numbers themselves mean something.
            acked_below = self._window.acked_below if batch.client_id == self._window.client_id else batch.first
            request.once.CopyFrom(Once(client_id=batch.client_id, sequence=batch.first, acked_below=acked_below))
        if batch.size_bytes > BATCH_BYTES_MAX:
            batch.message_bytes = request.ByteSize()
        self._in_flight[self._request_id] = batch
        self._bytes_in_flight += batch.size_bytes
        if len(self._in_flight) == 1:
            self._expect_progress()
        return request

    def _expect_progress(self) -> None:
        """Start the time in which the next answer must come; without requests in flight none is due."""
        if self._progress is None:
            return
        allowed_s = self._retry.progress_timeout_s + self._bytes_in_flight / BYTES_PER_S_MIN
        self._progress.reschedule(asyncio.get_running_loop().time() + allowed_s if self._in_flight else None)

    # Answers.

    def _take_answer(self, response: SessionResponse) -> None:
        """Settle the futures of one request. Raises InternalError for an answer that fits no request."""
        batch = self._in_flight.get(response.id)
        results = response.results
        if batch is None or len(results) != len(batch.calls):
            raise InternalError(f"the server sent {len(results)} results for request {response.id}, which does not fit")
        del self._in_flight[response.id]
        self._bytes_in_flight -= batch.size_bytes
        refusals: list[RavelError] = []
        for call, result in zip(batch.calls, results, strict=True):
            future = call[0]
            kind = result.WhichOneof("result")
            if kind is None or kind == "error":
                refusals += self._take_refusal(batch, future, from_status(result.error))
            elif not future.done():
                future.set_result(getattr(result, kind))
        if refusals:
            self._sort_again(batch, refusals)
        else:
            self._window.settle(batch.client_id, batch.first)
        if len(refusals) < len(results):
            self._done += 1
            self._obstacles.clear()
        self._wake.set()
        self._expect_progress()

    def _take_refusal(self, batch: Batch, future: asyncio.Future[Any], error: RavelError) -> tuple[RavelError, ...]:
        """Give the caller its error, or return it: then the command is to be sent again, or the server is to be left."""
        # A cluster looks for the stored answer first: that it refuses the key says of every attempt under this number, of this
        # and of the earlier ones, that it did nothing.
        whole = bool(batch.client_id) and error.reason in REFUSED_FOR_SLOT
        proved = whole or (error.reason in NOTHING_DONE and not batch.uncertain)
        if error.reason == Reason.REQUEST_TOO_LARGE and len(batch.calls) > 1:
            again = True  # too large for the company it is in: what was too large by itself comes back alone
        elif error.reason == Reason.SESSION_EXPIRED:
            again = proved
        elif self._kind is CommandKind.WRITES:
            again = proved and error.reason in RETRYABLE
        else:
            again = error.reason in RETRYABLE
        if not again and not future.done():
            future.set_exception(error if proved or not self._kind.writes else _unknown(error))
        return (error,) if again or error.reason == Reason.SESSION_EXPIRED else ()

    def _sort_again(self, batch: Batch, refusals: list[RavelError]) -> None:
        """Put what is left of a batch where it is sent from next, and leave this server for the last reason it gave."""
        proved = all(error.reason in NOTHING_DONE for error in refusals)
        expired = any(error.reason == Reason.SESSION_EXPIRED for error in refusals)
        if batch.client_id and (batch.uncertain or not expired or not proved):
            batch.uncertain |= not proved
            self._again.append(batch)
        else:
            self._window.settle(batch.client_id, batch.first)
            self._wait_again(batch)
        if expired:
            self._window.end(batch.client_id)
        if any(error.reason == Reason.REQUEST_TOO_LARGE for error in refusals):
            self._batch_bytes = max(1, batch.size_bytes // 2)
        else:
            self._sent_away = refusals[-1]

    def _reclaim(self, error: RavelError | None) -> None:
        """Nobody will answer what is in flight any more: sort it into what is sent again and what is not known."""
        batches = [batch for batch in self._in_flight.values() if not self._take_oversized(batch, error)]
        # A blank daemon has no log, and a stream that is refused for their number is refused before it is read.
        proved = isinstance(error, (BlankError, BusyError)) and error is not self._sent_away
        self._in_flight.clear()
        self._bytes_in_flight = 0
        if self._kind is CommandKind.WRITES_ONCE:
            for batch in batches:
                batch.uncertain |= not proved
            self._again.extendleft(reversed(batches))
        elif self._kind is CommandKind.WRITES and not proved:
            for batch in batches:
                for future, *_ in batch.calls:
                    if not future.done():
                        future.set_exception(_unknown(error))
        else:
            for batch in reversed(batches):
                self._wait_again(batch)

    def _take_oversized(self, batch: Batch, error: RavelError | None) -> bool:
        """Give its caller the error of a stream that ended because this very request was too large to be read."""
        if error is None or error.reason != Reason.REQUEST_TOO_LARGE:
            return False
        limit = error.metadata.get(Field.LIMIT, "")
        if not limit.isdecimal() or batch.message_bytes <= int(limit):
            return False
        for future, *_ in batch.calls:
            if not future.done():
                future.set_exception(_unknown(error) if batch.uncertain and self._kind.writes else error)
        self._window.settle(batch.client_id, batch.first)
        return True

    def _wait_again(self, batch: Batch) -> None:
        """Its commands that are still wanted become new ones, ahead of those that wait."""
        self._waiting.extendleft(call for call in reversed(batch.calls) if not call[0].done())

    def _live_runs(self, batch: Batch) -> list[Batch]:
        """What is still wanted of a batch, as runs of consecutive commands under the numbers they had."""
        self._window.settle(batch.client_id, batch.first)
        runs: list[Batch] = []
        following = -1
        for i, call in enumerate(batch.calls):
            if call[0].done():
                continue
            if i != following or runs[-1].size_bytes + call[2] > self._batch_bytes:
                runs.append(Batch([], 0, batch.client_id, batch.first + i, batch.uncertain))
                self._window.keep(batch.client_id, batch.first + i)
            runs[-1].calls.append(call)
            runs[-1].size_bytes += call[2]
            following = i + 1
        return runs

    # Deadlines: one timer for all calls, set to the earliest one.

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = asyncio.get_running_loop().call_at(at, self._expire) if at < float("inf") else None

    def _expire(self) -> None:
        """End the calls whose time is up. Those in flight still count until their answer comes or the stream ends."""
        now = asyncio.get_running_loop().time()
        soonest = float("inf")
        for call, uncertain in self._unsettled():
            if call[3] > now:
                soonest = min(soonest, call[3])
            else:
                call[0].set_exception(_unknown() if uncertain else self._obstacles.deadline_error())
        self._wake.set()  # what stood beside a call in its last moment may go now
        # Also those that were given up by their callers must not count against the bound.
        self._waiting = deque(call for call in self._waiting if not call[0].done())
        self._set_alarm(max(soonest, now + EXPIRY_GRAIN_S))

    def _unsettled(self) -> Iterator[tuple[Call, bool]]:
        """Every call without an answer, and whether it may have happened."""
        yield from ((call, False) for call in self._waiting if not call[0].done())
        for batch in self._again:
            yield from ((call, batch.uncertain) for call in batch.calls if not call[0].done())
        for batch in self._in_flight.values():
            yield from ((call, self._kind.writes) for call in batch.calls if not call[0].done())

    def _fail_all(self, error: RavelError) -> None:
        for call, uncertain in self._unsettled():
            call[0].set_exception(_unknown(error) if uncertain else copy(error))
        if self._alarm is not None:
            self._alarm.cancel()


def _unknown(cause: RavelError | None = None) -> OutcomeUnknownError:
    """The write was sent, and whether it happened cannot be said; `cause` is what was heard last."""
    why = "no answer came in time" if cause is None else cause.message
    error = OutcomeUnknownError(f"the write may or may not have happened: {why}", next_step="read before writing again")
    error.__cause__ = cause
    return error
