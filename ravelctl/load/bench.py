"""Load on a live cluster: a closed loop, in which each caller waits for its answer before it asks again.

With a pipeline of 1 the callers are tasks that share one `RavelClient`, as those of a program do. With a longer one each caller
sends messages of that many commands on a raw Session stream: what the server can do where the client costs little. Latency is
that of a call or message.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Final

from ravelctl.cli import dial
from ravelctl.cli.app import App, Progress
from ravelctl.client.connection.failures import from_rpc_error
from ravelctl.client.errors import LocalReason, RavelError, UnreachableError, from_status
from ravelctl.cluster.membership import cluster_status
from ravelpb.errors import Reason

if TYPE_CHECKING:
    from grpc.aio import Channel

    from ravelctl.client import RavelClient
    from ravelpb.v1 import cluster_pb2 as pb
    from ravelpb.v1 import kv_pb2 as kv

STREAMS_MAX: Final = 8
STREAM_REQUESTS_MAX: Final = 64
"""Messages under way on one stream: --session-requests-max of the daemons."""
CLIENTS_MAX: Final = STREAMS_MAX * STREAM_REQUESTS_MAX
_PRELOAD_TASKS: Final = 64
_PAUSE_AFTER_ERROR_S: Final = 0.02  # a refusal comes back at once: without a pause the loop would only measure refusals
_STEPS_PER_OCTAVE: Final = 32  # of the histogram: neighbouring buckets differ by 2.2 %


class Mix(StrEnum):
    PUT = "put"
    GET = "get"
    MIXED = "mixed"  # half and half


@dataclass(frozen=True, slots=True)
class Load:
    clients: int
    pipeline: int  # commands a message
    value_bytes: int
    seconds: float
    mix: Mix
    keys: int
    prefix: bytes


class Latencies:
    """Counts by logarithmic bucket: bounded, whatever the number of samples, and right to 2.2 %."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        self._counts[max(0, int(math.log2(max(seconds * 1e6, 1.0)) * _STEPS_PER_OCTAVE))] += 1
        self.max_s = max(self.max_s, seconds)

    @property
    def count(self) -> int:
        return self._counts.total()

    def quantile_s(self, share: float) -> float:
        """The smallest bucket's upper bound that at least `share` of the samples do not exceed; 0 without samples."""
        wanted = share * self.count
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(self.max_s, math.exp2((bucket + 1) / _STEPS_PER_OCTAVE) / 1e6)
        return 0.0

    def octaves(self) -> list[tuple[float, float, int]]:
        """Lower bound, upper bound (seconds) and count of each doubling from the first sample to the last."""
        by_octave: Counter[int] = Counter()
        for bucket, count in self._counts.items():
            by_octave[bucket // _STEPS_PER_OCTAVE] += count
        if not by_octave:
            return []
        return [(2.0**o / 1e6, 2.0 ** (o + 1) / 1e6, by_octave[o]) for o in range(min(by_octave), max(by_octave) + 1)]


@dataclass(slots=True)
class Tally:
    """What came of it. An unknown outcome is neither done nor failed, and is counted for itself."""

    done: int = 0  # commands
    unknown: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)

    def failed(self, error: RavelError, commands: int = 1) -> None:
        if error.reason is Reason.OUTCOME_UNKNOWN:
            self.unknown += commands
        else:
            self.errors[str(error.reason)] += commands


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds, and commands a second."""

    load: Load
    elapsed_s: float
    tally: Tally

    @property
    def per_second(self) -> float:
        return self.tally.done / self.elapsed_s if self.elapsed_s else 0.0


async def measure(app: App, load: Load) -> Figures:
    """Put the load on. Raises CommandError: 3 nobody answers, 4 no leader at the start; what fails later is counted."""
    async with dial.cluster(app) as client:
        leader = await cluster_status(app, client, need_leader=True)
    tally = Tally()
    with app.progress("bench:") as progress:
        if load.mix is not Mix.PUT:
            await _preload(app, load, progress, leader.header.cluster_id)
        started = time.monotonic()
        ticker = asyncio.create_task(_tell(tally, load, progress, started))
        try:
            work = _call if load.pipeline == 1 else _stream
            await work(app, load, leader, tally, started + load.seconds)
        finally:
            ticker.cancel()
        return Figures(load, time.monotonic() - started, tally)


async def _tell(tally: Tally, load: Load, progress: Progress, started: float) -> None:
    last = 0
    while True:
        await asyncio.sleep(1.0)
        progress.amount(int(time.monotonic() - started), math.ceil(load.seconds), f"{tally.done - last:,} commands/s")
        last = tally.done


def _key(load: Load, number: int) -> bytes:
    return load.prefix + b"%08d" % number


def _value(load: Load) -> bytes:
    return Random(load.value_bytes).randbytes(load.value_bytes)


async def _preload(app: App, load: Load, progress: Progress, cluster_id: str) -> None:
    """Reads shall find something: every key is written once, before the clock starts."""
    numbers = iter(range(load.keys))
    value = _value(load)
    async with _library(app, cluster_id) as client:

        async def writer() -> None:
            for number in numbers:
                await client.put(_key(load, number), value)
                if number % 100 == 0:
                    progress.amount(number, load.keys, "writing keys")

        await asyncio.gather(*(writer() for _ in range(_PRELOAD_TASKS)))


def _library(app: App, cluster_id: str) -> RavelClient:
    """Return the client as programs use it, with a session: one for the whole run."""
    from ravelctl.client import RavelClient

    settings = app.settings
    return RavelClient(settings.endpoints, timeout_s=settings.call_timeout_s, tls=dial.tls(app), cluster_id=cluster_id)


# --- callers that share one client


async def _call(app: App, load: Load, leader: pb.StatusResponse, tally: Tally, deadline: float) -> None:
    value = _value(load)
    async with _library(app, leader.header.cluster_id) as client:

        async def caller(seed: int) -> None:
            chance = Random(seed)
            while (begun := time.monotonic()) < deadline:
                key = _key(load, chance.randrange(load.keys))
                try:
                    if load.mix is Mix.PUT or (load.mix is Mix.MIXED and chance.random() < 0.5):
                        await client.put(key, value)
                    else:
                        await client.get(key)
                except RavelError as error:
                    tally.failed(error)
                    await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
                else:
                    tally.done += 1
                    tally.latencies.add(time.monotonic() - begun)

        await asyncio.gather(*(caller(seed) for seed in range(load.clients)))


# --- raw streams of batched commands


async def _stream(app: App, load: Load, leader: pb.StatusResponse, tally: Tally, deadline: float) -> None:
    import grpc.aio

    from ravelctl.client.connection.channels import ClusterChannel

    cluster_id = leader.header.cluster_id
    streams = min(load.clients, STREAMS_MAX)
    windows = [load.clients // streams + (number < load.clients % streams) for number in range(streams)]

    async def keep_going(number: int, address: str) -> None:
        while time.monotonic() < deadline:
            try:
                async with ClusterChannel(grpc.aio.insecure_channel(address), lambda: cluster_id) as channel:
                    await _lane(channel, load, windows[number], number, tally, deadline)
            except RavelError as error:
                tally.errors[str(error.reason)] += 1
            if time.monotonic() < deadline:
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
                address = await _leader_again(app) or address

    await asyncio.gather(*(keep_going(number, leader.server.addresses.listen) for number in range(streams)))


async def _leader_again(app: App) -> str:
    """Where the leader is now; empty: not known."""
    async with dial.cluster(app) as client:
        for answer in (await client.statuses(timeout_s=1.0)).values():
            if not isinstance(answer, RavelError):
                for member in answer.members:
                    if member.replica_id == answer.leader_id:
                        return member.server.addresses.listen
    return ""


async def _lane(channel: Channel, load: Load, window: int, seed: int, tally: Tally, deadline: float) -> None:
    """One stream with `window` messages under way, until the time is up or the server no longer leads. Raises RavelError.

    Answers come in the order of the messages: the oldest is answered next.
    """
    import grpc.aio

    from ravelpb.v1 import kv_pb2 as kv
    from ravelpb.v1.kv_pb2_grpc import KVStub

    chance, value, number = Random(seed), _value(load), 0
    sent: deque[float] = deque()
    stream = KVStub(channel).Session()
    try:
        while True:
            while len(sent) < window and time.monotonic() < deadline:
                number += 1
                await stream.write(_message(number, load, chance, value))
                sent.append(time.monotonic())
            if not sent:
                return
            answer = await stream.read()
            if not isinstance(answer, kv.SessionResponse):
                raise UnreachableError("the server has ended the stream")
            took_s = time.monotonic() - sent.popleft()
            refused = _count(answer, tally)
            if not refused:
                tally.latencies.add(took_s)
            elif refused <= {Reason.NOT_LEADER, Reason.NO_LEADER}:
                return
            else:
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    finally:
        # What was sent and never answered may have happened; of a read nobody asks.
        tally.unknown += 0 if load.mix is Mix.GET else len(sent) * load.pipeline
        stream.cancel()


def _message(number: int, load: Load, chance: Random, value: bytes) -> kv.SessionRequest:
    from ravelpb.v1 import kv_pb2 as kv

    def one() -> kv.Command:
        key = _key(load, chance.randrange(load.keys))
        if load.mix is Mix.PUT or (load.mix is Mix.MIXED and chance.random() < 0.5):
            return kv.Command(put=kv.PutRequest(key=key, value=value))
        return kv.Command(get=kv.GetRequest(key=key))

    return kv.SessionRequest(id=number, commands=[one() for _ in range(load.pipeline)])


def _count(answer: kv.SessionResponse, tally: Tally) -> set[Reason | LocalReason]:
    """The reasons for which some of its commands were refused."""
    errors = [from_status(result.error) for result in answer.results if result.WhichOneof("result") == "error"]
    tally.done += len(answer.results) - len(errors)
    for error in errors:
        tally.failed(error)
    return {error.reason for error in errors}
