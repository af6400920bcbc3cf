"""The commands of many tasks, carried as batches on one Session stream.

Theory of operation. A command is one future and one tuple in a queue. One task owns the batcher: it finds the server that serves
this kind of command, opens a Session stream to it, and stays until the stream ends or the server refuses further work; then it
looks for a server again. While a stream is open, a sender packs the waiting commands into requests, a few of them in flight, and
the receiver settles futures as answers arrive. Nothing waits for company: a lone command leaves in the next turn of the loop, and
the commands that arrive while the requests in flight are at their bound become the next request.

Exactly once. A batcher of writes with a session numbers its commands (see sequence_window.py). A repeated command keeps its
number, and the cluster answers a number that it has seen with the stored result. So these rules hold:

- A command is sent again only under its number, unless every attempt so far is proved to have done nothing and its session is
  gone; then it is a new command.
- A command whose caller has its answer, or has given up, is never sent again: dropping it raises `acked_below`, and the cluster
  runs no late copy of a number below that.
- `uncertain` marks a batch of which an attempt ended without such a proof. From then on no refusal is reported as "nothing was
  done", except the refusal of a key whose slot belongs to another cluster or is moving: the cluster looks for a stored answer
  before it refuses a slot.

Without a session, commands that are not `uncertain` are sent again, and the others end in OutcomeUnknownError. Reads are
repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from grpc import aio

from ravelctl.client.connection.attempts import LAST_MOMENT_S, Attempts, no_time
from ravelctl.client.connection.connections import Connections
from ravelctl.client.connection.failures import ConnectionLostError, HangingError, channel_closed, hanging
from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.connection.rules import Next, nothing_unanswered_was_done, rule_of
from ravelctl.client.errors import (
    BusyError,
    ClosedError,
    InternalError,
    InvalidArgumentError,
    OutcomeUnknownError,
    RavelError,
    from_status,
    unknown_outcome,
)
from ravelctl.client.session.sequence_window import SequenceWindow
from ravelpb.errors import Field, Reason
from ravelpb.metadata import CLUSTER_ID
from ravelpb.v1.common_pb2 import Once
from ravelpb.v1.kv_pb2 import Command, RegisterSessionRequest, SessionRequest, SessionResponse
from ravelpb.v1.kv_pb2_grpc import KVStub

COMMANDS_MAX: Final = 256
"""Commands in one request: four full ones fill a session's window of 1,024."""

BATCH_BYTES_MAX: Final = 1 << 20
"""Bytes of commands after which no further one joins a request. A larger command travels alone."""

COMMAND_BYTES_MAX: Final = 64 << 20
"""Bytes of one command: the most that a server can be configured to take. A server reports its own limit, 4 MiB by default."""

IN_FLIGHT_MAX: Final = 4
"""Requests without an answer on a stream. Callers who act together fill one request at any bound (1 to 16 measured alike); for
scattered callers a larger bound would make more and smaller requests, and a request costs both ends far more than a command."""

WAITING_MAX: Final = 65_536
"""Commands that wait to be sent. One more gets BusyError."""

EXPIRY_GRAIN_S: Final = 0.02
"""The least time between two looks at the deadlines."""

BYTES_PER_S_MIN: Final = 1 << 20
"""The slowest network that is not taken for a hanging server: large requests get this much more time."""

REFUSED_FOR_SLOT: Final = frozenset({Reason.WRONG_CLUSTER, Reason.SLOT_MOVING})
"""Refusals that prove of a numbered command that no attempt has done anything."""


Answer = asyncio.Future[Any]
"""The future answer of one command: the answer message of its kind, or a RavelError."""


class WriteAnswer(Answer):
    """The future answer of a write."""

    __slots__ = ("deadline", "sent")

    deadline: float
    sent: bool
    """An attempt may have reached a server, and it is not proved that it did nothing. Unset before the first attempt."""

    @property
    def may_have_happened(self) -> bool:
        """Whether the write may take effect although its caller has stopped waiting."""
        return getattr(self, "sent", False)


Call = tuple[Answer, Command, int, float, float]
"""Answer, command, its size in bytes, deadline, and when its last moment begins; times are those of the loop's clock."""

Stream = aio.StreamStreamCall[SessionRequest, SessionResponse]


class CommandKind(Enum):
    """The commands that a batcher carries."""

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
    """Carries the commands of one kind (see the module). Every method runs on one event loop; `submit` never waits."""

    def __init__(self, kind: CommandKind, connections: Connections, retry: RetryPolicy) -> None:
        self._kind = kind
        self._writes = kind.writes
        self._connections = connections
        self._check_owner = connections.owner.check
        self._retry = retry
        self._window = SequenceWindow()
        any_replica = kind is CommandKind.STALE_READS
        self._attempts = Attempts(connections, retry, any_replica=any_replica, carries_many=True)
        self._waiting: deque[Call] = deque()  # without a number yet
        self._again: deque[Batch] = deque()  # numbered, to be sent again
        self._in_flight: dict[int, Batch] = {}  # by request id, in the order sent, on the present stream
        self._bytes_in_flight = 0
        self._batch_bytes = BATCH_BYTES_MAX  # less for a server that refused a larger batch
        self._request_id = 0
        self._done = 0  # answers that did something: a server that only refuses makes no progress
        self._sent_away: RavelError | None = None  # the present server takes no more: drain its stream and leave
        self._wake = asyncio.Event()  # something changed that the sender or the owner may wait for
        self._progress: asyncio.Timeout | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # --- for callers

    def submit(self, command: Command, size_bytes: int, timeout_s: float) -> Any:
        """Queue a command and return its Answer; of a write, its WriteAnswer.

        Raises BusyError, InvalidArgumentError, ClientMisusedError, ClosedError, and DeadlineError for a call without time.
        """
        loop = self._check_owner()
        if self._closed:
            raise ClosedError("this client is closed")
        if size_bytes > COMMAND_BYTES_MAX:
            raise InvalidArgumentError(
                f"the command has {size_bytes} bytes, and no server takes more than {COMMAND_BYTES_MAX}",
                reason=Reason.REQUEST_TOO_LARGE,
                metadata={Field.VALUE: str(size_bytes), Field.LIMIT: str(COMMAND_BYTES_MAX)},
                next_step="split it over several keys",
            )
        if not timeout_s > 0:
            raise no_time(timeout_s)
        if len(self._waiting) >= WAITING_MAX and not self._drop_settled():
            raise BusyError(f"{WAITING_MAX} calls of this client wait already", next_step="await some before making more")
        deadline = loop.time() + timeout_s
        answer: Answer
        if self._writes:
            answer = WriteAnswer(loop=loop)
            answer.deadline = deadline
        else:
            answer = loop.create_future()
        self._waiting.append((answer, command, size_bytes, deadline, deadline - min(LAST_MOMENT_S, timeout_s / 4)))
        if deadline < self._alarm_at:
            self._set_alarm(deadline)
        if not self._wake.is_set():
            self._wake.set()
        if self._task is None:
            self._task = loop.create_task(self._run(), name=f"ravel client: {self._kind.value}")
        return answer

    def _drop_settled(self) -> bool:
        """Drop waiting commands whose callers have given up. Returns whether there is room now."""
        self._waiting = deque(call for call in self._waiting if not call[0].done())
        return len(self._waiting) < WAITING_MAX

    async def close(self) -> None:
        """End the batcher. Waiting calls get ClosedError, or OutcomeUnknownError if they may have happened."""
        if not self._connections.owner.is_here:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail(ClosedError("the client was closed before this call was done"))
        if self._alarm is not None:
            self._alarm.cancel()

    # --- the owner: from server to server

    async def _run(self) -> None:
        attempts = self._attempts
        try:
            while True:
                await self._until_wanted()
                done = self._done
                endpoint = attempts.choose()
                error = await self._visit(endpoint)
                self._reclaim(error)
                if self._done != done:
                    attempts.progressed()
                if error is None:
                    continue
                try:
                    await attempts.failed(endpoint, error)
                except RavelError as hopeless:
                    self._fail(hopeless)
        except Exception as error:
            # A fault of this library must not leave callers waiting, nor pass for a failure of the cluster.
            self._closed = True
            self._fail(InternalError(f"the client failed: {error!r}"))
            raise

    async def _until_wanted(self) -> None:
        while not (self._again or self._waiting):
            self._wake.clear()
            await self._wake.wait()

    async def _visit(self, endpoint: str) -> RavelError | None:
        """Serve commands from this endpoint as long as possible. Returns why it ended; None: the stream ended while idle."""
        stream = await self._open(endpoint)
        return stream if isinstance(stream, RavelError) else await self._converse(endpoint, stream)

    async def _open(self, endpoint: str) -> Stream | RavelError:
        """Return a Session stream to this endpoint, or why there is none. Writes have a registered session then."""
        stream: Stream | None = None
        failure: RavelError
        try:
            stub = KVStub(await self._connections.ready(endpoint))
            async with asyncio.timeout(self._retry.progress_timeout_s):
                if self._kind is CommandKind.WRITES_ONCE and self._window.client_id == 0:
                    answer = await stub.RegisterSession(RegisterSessionRequest())
                    self._connections.meet(endpoint, answer.header.cluster_id)
                    self._window.begin(answer.client_id)
                stream = stub.Session()
                if not self._connections.cluster_id:
                    # No command leaves before it is known which cluster would run it.
                    self._meet(endpoint, await stream.initial_metadata())
                return stream
        except TimeoutError:
            failure = hanging(endpoint)
        except aio.AioRpcError as error:
            failure = self._connections.error_of(endpoint, error)
        except RavelError as error:
            failure = error
        except (aio.UsageError, asyncio.CancelledError):
            failure = channel_closed(endpoint)
        if stream is not None:
            stream.cancel()
        return failure

    def _meet(self, endpoint: str, metadata: Iterable[tuple[str, Any]]) -> None:
        for key, value in metadata:
            if key == CLUSTER_ID:
                self._connections.meet(endpoint, str(value))

    async def _converse(self, endpoint: str, stream: Stream) -> RavelError | None:
        """Send and receive until the stream ends or hangs, or the server has refused further work and answered the rest."""
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
                        self._connections.served(endpoint, leads=self._kind is not CommandKind.STALE_READS)
                    if self._sent_away is not None and not self._in_flight:
                        return self._sent_away
                error = ConnectionLostError(f"{endpoint} ended the stream")
        except TimeoutError:
            error = hanging(endpoint)
        except aio.AioRpcError as rpc_error:
            error = self._connections.error_of(endpoint, rpc_error)
        except InternalError as nonsense:
            error = nonsense
        except asyncio.CancelledError:
            error = channel_closed(endpoint)
        finally:
            self._progress = None
        if self._sent_away is not None and not isinstance(error, HangingError):
            return self._sent_away
        # A stream that did its work and ended while it was idle proves nothing about the server.
        return error if self._in_flight or self._done == done else None

    async def _send(self, stream: Stream) -> None:
        """Write requests while there are any and the bounds allow. Ends only with the stream: _receive finds out why."""
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
        """Return the next request: first what was out before, then what waits, up to the bounds of a request and of the
        session."""
        latest = asyncio.get_running_loop().time() if self._attempts.obstacles else 0.0
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
        """Return the message of a batch, which may have reached the server from here on."""
        self._request_id += 1
        request = SessionRequest(id=self._request_id, commands=[call[1] for call in batch.calls])
        if batch.client_id:
            # In the window of another session only the numbers themselves mean something.
            acked_below = self._window.acked_below if batch.client_id == self._window.client_id else batch.first
            request.once.CopyFrom(Once(client_id=batch.client_id, sequence=batch.first, acked_below=acked_below))
        if batch.size_bytes > BATCH_BYTES_MAX:
            batch.message_bytes = request.ByteSize()
        if self._writes:
            _mark_sent(batch, True)
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

    # --- answers

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
            answer = call[0]
            kind = result.WhichOneof("result")
            if kind is None or kind == "error":
                refusals += self._take_refusal(batch, answer, from_status(result.error))
            elif not answer.done():
                answer.set_result(getattr(result, kind))
        if refusals:
            self._sort_again(batch, refusals)
        else:
            self._window.settle(batch.client_id, batch.first)
        if len(refusals) < len(results):
            self._done += 1
            self._attempts.obstacles.clear()
        self._wake.set()
        self._expect_progress()

    def _take_refusal(self, batch: Batch, answer: Answer, error: RavelError) -> tuple[RavelError, ...]:
        """Give the caller its error, or return it: then the command is to be sent again, or the server is to be left."""
        # A cluster looks for the stored answer first: its refusal of the key proves for every attempt under this number, this one
        # and the earlier ones, that it did nothing.
        rule = rule_of(error)
        whole = bool(batch.client_id) and error.reason in REFUSED_FOR_SLOT
        proved = whole or (rule.nothing_done and not batch.uncertain)
        if error.reason == Reason.REQUEST_TOO_LARGE and len(batch.calls) > 1:
            again = True  # too large together with others: a command that is too large by itself comes back alone
        elif rule.next is Next.NEW_SESSION:
            again = proved
        else:
            again = rule.next in (Next.ELSEWHERE, Next.LATER) and (proved or self._kind is not CommandKind.WRITES)
        if not again and not answer.done():
            answer.set_exception(error if proved or not self._writes else _unknown(error))
        return (error,) if again or rule.next is Next.NEW_SESSION else ()

    def _sort_again(self, batch: Batch, refusals: list[RavelError]) -> None:
        """Put the rest of a batch where it is sent from next, and leave this server for the last reason that it gave."""
        proved = all(rule_of(error).nothing_done for error in refusals)
        expired = any(rule_of(error).next is Next.NEW_SESSION for error in refusals)
        if batch.client_id and (batch.uncertain or not expired or not proved):
            batch.uncertain |= not proved
            _mark_sent(batch, batch.uncertain)
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
        """Sort what is in flight, which nobody will answer any more, into what is sent again and what is unknown."""
        batches = [batch for batch in self._in_flight.values() if not self._take_oversized(batch, error)]
        proved = error is not None and error is not self._sent_away and nothing_unanswered_was_done(error)
        self._in_flight.clear()
        self._bytes_in_flight = 0
        if self._kind is CommandKind.WRITES_ONCE:
            for batch in batches:
                batch.uncertain |= not proved
                _mark_sent(batch, batch.uncertain)
            self._again.extendleft(reversed(batches))
        elif self._kind is CommandKind.WRITES and not proved:
            for batch in batches:
                for answer, *_ in batch.calls:
                    if not answer.done():
                        answer.set_exception(_unknown(error))
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
        for answer, *_ in batch.calls:
            if not answer.done():
                answer.set_exception(_unknown(error) if batch.uncertain and self._writes else error)
        self._window.settle(batch.client_id, batch.first)
        return True

    def _wait_again(self, batch: Batch) -> None:
        """Make the commands that are still wanted new ones, ahead of those that wait: no attempt did anything."""
        if self._writes:
            _mark_sent(batch, False)
        self._waiting.extendleft(call for call in reversed(batch.calls) if not call[0].done())

    def _live_runs(self, batch: Batch) -> list[Batch]:
        """Return the part of a batch that is still wanted, as runs of consecutive commands under their numbers."""
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

    # --- deadlines: one timer for all calls, set to the earliest one

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
                call[0].set_exception(_unknown() if uncertain else self._attempts.obstacles.deadline_error())
        self._wake.set()  # commands beside one in its last moment may leave now
        self._drop_settled()
        self._set_alarm(max(soonest, now + EXPIRY_GRAIN_S))

    def _unsettled(self) -> Iterator[tuple[Call, bool]]:
        """Yield every call without an answer, and whether it may have happened."""
        yield from ((call, False) for call in self._waiting if not call[0].done())
        for batch in self._again:
            yield from ((call, batch.uncertain) for call in batch.calls if not call[0].done())
        for batch in self._in_flight.values():
            yield from ((call, self._writes) for call in batch.calls if not call[0].done())

    def _fail(self, error: RavelError) -> None:
        """End every call with this error, or as unknown if it may have happened."""
        for call, uncertain in self._unsettled():
            call[0].set_exception(_unknown(error) if uncertain else copy(error))
        self._waiting.clear()
        for batch in self._again:
            self._window.settle(batch.client_id, batch.first)
        self._again.clear()


def _mark_sent(batch: Batch, sent: bool) -> None:
    """Note of a batch of writes whether it may have reached a server."""
    for call in batch.calls:
        call[0].sent = sent  # type: ignore[attr-defined]


def _unknown(cause: RavelError | None = None) -> OutcomeUnknownError:
    """Return the error of a write that was sent and whose outcome nobody can say; `cause` is the last error of its attempts."""
    return unknown_outcome("the write", cause, next_step="read before writing again")
