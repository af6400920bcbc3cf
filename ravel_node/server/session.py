"""The Session stream: batches of commands, pipelined, answered in the order of their requests.

Requests are read ahead and served side by side, each by a task; since tasks begin in the order in which they are made, so do the
writes of successive requests. Within a request a run of writes is one group (one proposal), a run of reads one barrier; a run
begins when the one before it has ended. What was read and not yet answered is bounded in number and bytes: past that nothing is
read, so a caller who does not take answers stops itself.

A command that fails gets its own error and the others go on, as if they had been sent by themselves. Only what makes the replica
untrustworthy (see binding.FATAL) ends the stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from ravel_node.machine import envelope, kv
from ravel_node.machine.envelope import Once
from ravel_node.replica.errors import QuotaExceededError, SlotMovingError, WrongSlotError
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.replica import Replica
from ravel_node.server.commands import WRITES, check_outcome, check_owned, mode_of, once_of
from ravel_node.server.errors import FATAL, ResultForgottenError, SessionExpiredError, is_refusal, to_rpc_status
from ravel_node.server.host import Host
from ravel_node.server.interrupts import Interrupts
from ravel_node.server.limits import BATCH_COMMANDS_MAX, AnswerTooLargeError, InputError, Limits
from ravelpb.v1 import common_pb2, kv_pb2


class _Write(NamedTuple):
    """One write of a request, ready to be proposed."""

    position: int  # among the request's commands: also its offset in the sequence
    kind: str
    command: bytes
    grows: bool


class _Waiting:
    """A request that was read and whose answer has not left."""

    __slots__ = ("answer_bytes", "held_bytes", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[kv_pb2.SessionResponse]
        self.held_bytes = 0  # of the request and of the values read for it
        self.answer_bytes = 0  # of those values


class SessionStream:
    """One stream. `answers` is iterated once, by the task of the call."""

    def __init__(
        self,
        host: Host,
        limits: Limits,
        requests: AsyncIterator[kv_pb2.SessionRequest],
        interrupts: Interrupts,
        header: Callable[[Replica], common_pb2.ResponseHeader],
    ) -> None:
        self._host = host
        self._limits = limits
        self._requests = requests
        self._interrupts = interrupts
        self._header = header
        self._waiting: deque[_Waiting] = deque()  # in the order of the requests
        self._held_bytes = 0
        self._changed = asyncio.Event()

    async def answers(self) -> AsyncGenerator[kv_pb2.SessionResponse, None]:
        """Every answer, then the end of the stream: the caller's own, or the error that ended its requests."""
        reader = asyncio.create_task(self._read(), name="session-reader")
        reader.add_done_callback(lambda _: self._changed.set())
        try:
            while self._waiting or not reader.done():
                if not self._waiting:
                    await self._change()
                    continue
                response = await self._waiting[0].task
                yield response
                self._held_bytes -= self._waiting.popleft().held_bytes
                self._changed.set()
            reader.result()
        finally:
            tasks = [reader, *(waiting.task for waiting in self._waiting)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _read(self) -> None:
        """Start a task for each request that comes, while there is room for one."""
        limits = self._limits
        while True:
            while len(self._waiting) >= limits.session_requests_max or (self._waiting and self._crowded()):
                await self._change()
            try:
                request = await self._interrupts.guard(anext(self._requests))
            except StopAsyncIteration:
                return
            waiting = _Waiting()
            self._hold(waiting, request.ByteSize())
            waiting.task = asyncio.create_task(self._serve(request, waiting), name="session-request")
            self._waiting.append(waiting)
            self._changed.set()

    def _crowded(self) -> bool:
        return self._held_bytes >= self._limits.session_bytes_max

    def _hold(self, waiting: _Waiting, size: int) -> None:
        waiting.held_bytes += size
        self._held_bytes += size

    # --- one request

    async def _serve(self, request: kv_pb2.SessionRequest, waiting: _Waiting) -> kv_pb2.SessionResponse:
        response = kv_pb2.SessionResponse(id=request.id)
        replica = self._host.replica
        try:
            once = self._check(request)
        except InputError as error:
            # One error for each command, but not for the millions that a request of empty ones can hold.
            count = len(request.commands)
            _fail([response.results.add() for _ in range(count if 0 < count <= BATCH_COMMANDS_MAX else 1)], error)
        else:
            results = [response.results.add() for _ in request.commands]
            for reads, run in groupby(enumerate(request.commands), key=_is_read):
                if reads:
                    await self._run_reads(replica, run, results, waiting)
                else:
                    await self._run_writes(replica, run, results, once)
        response.header.CopyFrom(self._header(replica))
        return response

    def _check(self, request: kv_pb2.SessionRequest) -> Once | None:
        """What holds for the request as a whole. Raises InputError."""
        self._limits.request(request.ByteSize())
        self._limits.batch(len(request.commands), "commands")
        return once_of(request.once) if request.HasField("once") else None

    async def _run_reads(
        self, replica: Replica, run: Iterable[tuple[int, kv_pb2.Command]], results: Sequence[kv_pb2.Result], waiting: _Waiting
    ) -> None:
        """Successive reads of one consistency pass one barrier and are one point in time."""
        for consistency, gets in groupby(run, key=lambda item: item[1].get.consistency):
            requests = [(results[position], command.get) for position, command in gets]
            try:
                await self._may_read(replica, mode_of(consistency), requests, waiting)
                self._read_all(replica, requests, waiting)
            except Exception as error:
                if not is_refusal(error) or isinstance(error, FATAL):
                    raise
                _fail([result for result, _ in requests], error)

    async def _may_read(
        self,
        replica: Replica,
        mode: ReadMode,
        requests: Sequence[tuple[kv_pb2.Result, kv_pb2.GetRequest]],
        waiting: _Waiting,
    ) -> None:
        """Return when these reads may be answered, without an await after the last look at what must hold then.

        That is room for their values, of which others may have taken some during each await, and the barrier: a lease holds only
        now, while a barrier that was passed counts for good, since the state only grows newer.
        """
        passed = paged_in = False
        while True:
            if self._crowded() and self._waiting[0] is not waiting:
                await self._change()
            elif replica.cold and not paged_in:
                await replica.page_in([request.key for _, request in requests])
                paged_in = True
            elif not passed and not replica.barrier_free(mode):
                await replica.read_barrier(mode)
                passed = True
            else:
                return

    def _read_all(self, replica: Replica, requests: Sequence[tuple[kv_pb2.Result, kv_pb2.GetRequest]], waiting: _Waiting) -> None:
        """Answer gets from the state as it is now; does not await."""
        reader, ownership = replica.reader(), replica.machine.ownership
        replica.vitals.reads += len(requests)
        most = self._limits.answer_bytes_max
        for result, request in requests:
            try:
                self._limits.key(request.key)
                if ownership is not None:
                    check_owned(ownership, request.key)
                found = kv.get(reader, request.key)
                if found is not None and 0 < waiting.answer_bytes > most - len(found.value):
                    raise AnswerTooLargeError(len(found.value), most)
            except (InputError, WrongSlotError) as error:
                _fail([result], error)
                continue
            if found is None:
                result.get.SetInParent()
                continue
            waiting.answer_bytes += len(found.value)
            self._hold(waiting, len(found.value))
            answer = result.get
            answer.revision, answer.value, answer.found = found.revision, found.value, True

    async def _run_writes(
        self,
        replica: Replica,
        run: Iterable[tuple[int, kv_pb2.Command]],
        results: Sequence[kv_pb2.Result],
        once: Once | None,
    ) -> None:
        """Propose successive writes as one group; those that break a bound are answered and left out."""
        writes: list[_Write] = []
        for position, command in run:
            try:
                writes.append(_encode(position, command, self._limits))
            except InputError as error:
                _fail([results[position]], error)
        try:
            await self._propose(replica, writes, results, once)
        except QuotaExceededError as error:
            # What makes the store smaller is the way out of a full one, and must not fail for the company it is in.
            _fail([results[write.position] for write in writes if write.grows], error)
            shrinking = [write for write in writes if not write.grows]
            await self._propose(replica, shrinking, results, once)

    async def _propose(
        self, replica: Replica, writes: Sequence[_Write], results: Sequence[kv_pb2.Result], once: Once | None
    ) -> None:
        """One proposal; its outcomes, or its refusal, become the results. Raises QuotaExceededError, and what is no refusal."""
        if not writes:
            return
        group = envelope.group([write.command for write in writes], once, [write.position for write in writes])
        try:
            outcomes = await replica.propose(group, len(writes), grows=any(write.grows for write in writes))
        except QuotaExceededError:
            raise
        except Exception as error:
            if not is_refusal(error) or isinstance(error, FATAL):
                raise
            _fail([results[write.position] for write in writes], error)
            return
        for write, outcome in zip(writes, outcomes, strict=True):
            try:
                check_outcome(outcome, once, write.position)
            except (InputError, SessionExpiredError, ResultForgottenError, WrongSlotError, SlotMovingError) as error:
                _fail([results[write.position]], error)
            else:
                answer = getattr(results[write.position], write.kind)
                answer.SetInParent()  # also one of nothing but zeros is an answer
                WRITES[write.kind].answer(answer, outcome)


def _is_read(item: tuple[int, kv_pb2.Command]) -> bool:
    return item[1].WhichOneof("op") == "get"


def _encode(position: int, command: kv_pb2.Command, limits: Limits) -> _Write:
    kind = command.WhichOneof("op")
    if kind is None:
        raise InputError(
            f"command {position} holds no operation that this server knows: its client is newer, or wrong", field="commands.op"
        )
    request = getattr(command, kind)
    if request.HasField("once"):
        raise InputError(
            f"command {position} carries `once` of its own: in a Session the request's holds for all of its writes",
            field="commands.once",
        )
    encoded, grows = WRITES[kind].encode(request, limits)
    return _Write(position, kind, encoded, grows)


def _fail(results: Iterable[kv_pb2.Result], error: Exception) -> None:
    status = to_rpc_status(error)
    for result in results:
        result.error.CopyFrom(status)
