"""What clients do while faults happen, all of it recorded: writes, reads in every mode, and reads of one server alone.

Values are unique, so that each read tells which write it saw. Half of the writers use sessions (a retried write happens once);
those of the others give outcomes that are unknown.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import Any, Final, NoReturn

from grpc import aio

from ravelctl.client import ClosedError, Consistency, KeyValue, OutcomeUnknownError, RavelClient, RavelError
from ravelctl.linearizability.history import Operation
from ravelctl.linearizability.recorder import RecordedClient, Recorder
from ravelctl.linearizability.stale import StaleRead
from ravelpb.v1 import kv_pb2
from ravelpb.v1.kv_pb2_grpc import KVStub

KEYS: Final = tuple(b"key-%d" % number for number in range(8))

THINK_S: Final = 0.01
"""Between two calls of one client: the load is to meet the fault, not to be one."""

PINNED_EVERY_S: Final = 0.05
PINNED_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


@dataclass
class Workload:
    """Clients of one cluster. `recorder` holds the history that the checker judges, `stale` what has rules of its own."""

    endpoints: list[str]
    seed: int = 0
    value_bytes: int = 0  # values are at least so long
    stale: list[StaleRead] = field(default_factory=list)
    refused: int = 0
    pinned_sent: int = 0

    def __post_init__(self) -> None:
        self.client = RavelClient(self.endpoints, timeout_s=20.0)
        self.recorder = Recorder(self.client)
        self._clients = [self.client]
        self._writers: list[asyncio.Task[None]] = []
        self._readers: list[asyncio.Task[None]] = []
        self._numbers = count()
        self._stopping = False

    def start(self, clients: int = 6) -> None:
        """The writers and readers that follow the leader."""
        for number in range(clients):
            once = number % 2 == 0
            client = RavelClient(self.endpoints, exactly_once=once)
            self._clients.append(client)
            recorded = self.recorder.client(f"c{number}", client)
            self._writers.append(asyncio.create_task(self._work(recorded, random.Random(self.seed * 100 + number), once)))

    def read_stale(self, name: str, address: str) -> None:
        """Keep reading what this server has applied, whatever its role."""
        self._readers.append(asyncio.create_task(self._read_stale(name, address)))

    def read_pinned(self, name: str, address: str) -> None:
        """Keep asking this server for linearizable and quorum reads, in unary calls and on Session streams, on connections that
        are kept whatever it does; no call waits for the answer of the one before."""
        for consistency in (Consistency.LINEARIZABLE, Consistency.QUORUM):
            self._readers.append(asyncio.create_task(self._pin(f"{name} unary", _PinnedUnary(address), consistency)))
            self._readers.append(asyncio.create_task(self._pin(f"{name} session", _PinnedSession(address), consistency)))

    def value(self) -> bytes:
        """One that nobody else writes."""
        return (b"value %d " % next(self._numbers)).ljust(self.value_bytes, b".")

    @property
    def done(self) -> int:
        """Operations that have ended."""
        return sum(operation.completed_s is not None for operation in self.recorder.history)

    async def stop(self, within_s: float = 10.0) -> None:
        """Let the writers finish what they have under way, and end the readers. Raises what ended one of them before."""
        self._stopping = True
        if self._writers:
            await asyncio.wait(self._writers, timeout=within_s)
        tasks, self._writers, self._readers = [*self._writers, *self._readers], [], []
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def close(self) -> None:
        await self.stop(within_s=0.0)
        await asyncio.gather(*(client.close() for client in self._clients))

    # --- writers

    async def _work(self, client: RecordedClient, rng: random.Random, once: bool) -> None:
        known: dict[bytes, int] = {}
        while not self._stopping:
            key = rng.choice(KEYS)
            try:
                await self._one(client, key, rng.random(), known, removes=once)
            except OutcomeUnknownError:
                known.pop(key, None)
            except RavelError:
                self.refused += 1
                await asyncio.sleep(0.02)
            await asyncio.sleep(THINK_S * rng.uniform(0.5, 1.5))

    async def _one(self, client: RecordedClient, key: bytes, chance: float, known: dict[bytes, int], *, removes: bool) -> None:
        """`removes`: also deletes. Of unknown outcome they make a history hard to judge: only clients with a session do them."""
        if chance < 0.40:
            known[key] = (await client.put(key, self.value())).revision
        elif chance < 0.60:
            found = await client.get(key)
            known[key] = found.revision if found is not None else 0
        elif chance < 0.75:
            await client.get(key, consistency=Consistency.QUORUM)
        elif chance < 0.90 or not removes:
            known[key] = (await client.compare_and_swap(key, self.value(), expected_revision=known.get(key, 0))).revision
        elif chance < 0.95:
            await client.delete(key)
        else:
            await client.get_and_delete(key)

    # --- readers of one server

    async def _read_stale(self, name: str, address: str) -> None:
        rng = random.Random(name)
        async with aio.insecure_channel(address, options=PINNED_OPTIONS) as channel:
            while True:
                key, invoked_s = rng.choice(KEYS), monotonic()
                try:
                    answer = await KVStub(channel).Get(kv_pb2.GetRequest(key=key, consistency=kv_pb2.STALE), timeout=2.0)
                except aio.AioRpcError:
                    await asyncio.sleep(0.05)
                    continue
                found = KeyValue(key, answer.value, answer.revision) if answer.found else None
                self.stale.append(StaleRead(name, key, answer.header.index, found, invoked_s, monotonic()))
                await asyncio.sleep(0.03)

    async def _pin(self, name: str, store: _Pinned, consistency: Consistency) -> None:
        client = self.recorder.client(f"pinned to {name} {consistency.name.lower()}", store)  # type: ignore[arg-type]
        rng = random.Random(name)
        async with asyncio.TaskGroup() as calls:
            try:
                while True:
                    calls.create_task(_tolerant(client.get(rng.choice(KEYS), consistency=consistency)))
                    self.pinned_sent += 1
                    await asyncio.sleep(PINNED_EVERY_S)
            finally:
                await store.close()


async def _tolerant(call: Coroutine[Any, Any, object]) -> None:
    """A read that was refused saw nothing: it is no matter for the checker."""
    try:
        await call
    except RavelError:
        return


class _Pinned:
    """Gets from one server over one connection, with no retry: an error is told as ClosedError, nothing was seen."""

    def __init__(self, address: str) -> None:
        self._channel = aio.insecure_channel(address, options=PINNED_OPTIONS)

    async def get(self, key: bytes, *, consistency: Consistency) -> KeyValue | None:
        raise NotImplementedError

    async def close(self) -> None:
        await self._channel.close()


class _PinnedUnary(_Pinned):
    async def get(self, key: bytes, *, consistency: Consistency) -> KeyValue | None:
        request = kv_pb2.GetRequest(key=key, consistency=kv_pb2.Consistency.ValueType(consistency))
        try:
            answer = await KVStub(self._channel).Get(request, timeout=20.0)
        except (aio.AioRpcError, aio.UsageError) as error:
            _refused(error)
        return KeyValue(key, answer.value, answer.revision) if answer.found else None


class _PinnedSession(_Pinned):
    """One Session stream; another one when it ended."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._stream: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[kv_pb2.Result]] = {}
        self._ids = count(1)

    async def get(self, key: bytes, *, consistency: Consistency) -> KeyValue | None:
        if self._reader is None or self._reader.done():
            self._stream = KVStub(self._channel).Session()
            self._reader = asyncio.create_task(self._read(self._stream))
        command = kv_pb2.Command(get=kv_pb2.GetRequest(key=key, consistency=kv_pb2.Consistency.ValueType(consistency)))
        number = next(self._ids)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            await self._stream.write(kv_pb2.SessionRequest(id=number, commands=[command]))
            result = await future
        except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError) as error:
            _refused(error)
        finally:
            self._waiting.pop(number, None)
        if result.HasField("error"):
            _refused(result.error.message)
        return KeyValue(key, result.get.value, result.get.revision) if result.get.found else None

    async def _read(self, stream: Any) -> None:
        try:
            while isinstance(response := await stream.read(), kv_pb2.SessionResponse):
                if (future := self._waiting.get(response.id)) is not None and not future.done():
                    future.set_result(response.results[0])
        except aio.AioRpcError:
            pass  # refused or broken: the next call begins another stream
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(asyncio.InvalidStateError("the stream ended"))

    async def close(self) -> None:
        await super().close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)


def _refused(why: object) -> NoReturn:
    raise ClosedError(f"not read: {why}")


def of_writes(history: list[Operation]) -> list[Operation]:
    """Operations that write a value."""
    return [operation for operation in history if operation.value is not None]
