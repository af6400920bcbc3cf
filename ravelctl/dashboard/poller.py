"""Asks the daemons of one cluster, each on a stream of its own, and hands on what they say as reports.

Nothing here knows of screens. All runs on one event loop, the caller's: gRPC's asyncio channels belong to the loop that they were
made on. A stream that breaks is opened again after a jittered wait of 0.2 to 5 s; a daemon that does not know `WatchStatus` is
asked with `Status` instead. Members that the daemons tell of are asked too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Final

from ravelctl.client.connection.retry import RetryPolicy
from ravelctl.client.errors import RavelError, UnsupportedVersionError
from ravelctl.dashboard.model import Sight, informed
from ravelctl.dashboard.observer import Heard, Lost, Report, Told, Watched
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient

BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
SILENCE_MAX_S: Final = 5.0
"""Beyond its interval: a stream that brings nothing for so long is given up and dialled again."""
ADDRESSES_MAX: Final = 256
"""Of one cluster: what daemons name beyond these is not asked."""
FROM_THE_START: Final = pb.EventPosition()
"""Before the oldest event that is kept."""
TURNING: Final = frozenset({pb.ELECTION, pb.LEADERSHIP, pb.MEMBERSHIP})
"""Kinds of events after which the frame before is no longer true: the replica is asked at once."""

Sink = Callable[[Report], None]


class Poller:
    """One cluster. `run` goes on until it is cancelled; `sink` is called on its loop and must not block."""

    def __init__(
        self, client: ClusterClient, endpoints: Sequence[str], sink: Sink, *, interval_s: float, events: bool = True
    ) -> None:
        self._client = client
        self._endpoints = tuple(dict.fromkeys(endpoints))
        self._sink = sink
        self._interval_s = interval_s
        self._events = events
        self._retry = RetryPolicy(backoff_min_s=BACKOFF_MIN_S, backoff_max_s=BACKOFF_MAX_S)
        self._random = random.Random()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._last: dict[str, pb.StatusResponse] = {}
        self._silent: set[str] = set()
        self._positions: dict[str, pb.EventPosition] = {}
        self._asking: set[str] = set()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                self._watch(self._endpoints)
        finally:
            self._group = None
            self._tasks.clear()

    # --- whom to ask

    def _watch(self, addresses: Sequence[str]) -> None:
        """Ask these, and no others."""
        wanted = tuple(dict.fromkeys(addresses))[:ADDRESSES_MAX]
        if self._group is None or set(wanted) == self._tasks.keys():
            return
        self._sink(Watched(wanted))
        for gone in self._tasks.keys() - set(wanted):
            self._tasks.pop(gone).cancel()
            self._last.pop(gone, None)
            self._silent.discard(gone)
        for address in wanted:
            if address not in self._tasks:
                self._tasks[address] = self._group.create_task(self._follow(address))

    def _discover(self) -> None:
        """The given endpoints and all members, each daemon under one address only."""
        report = informed([Sight(address, status) for address, status in self._last.items()])
        members = list(report.members) if report is not None else []
        reached = {s.server.server_id: a for a, s in self._last.items() if a not in self._silent and s.server.server_id}
        wanted = [a for a in self._endpoints if not self._is_double(a, reached)]
        for member in members:
            address = member.server.addresses.listen
            if address and reached.get(member.server.server_id, address) == address:
                wanted.append(address)
        self._watch(wanted)

    def _is_double(self, address: str, reached: dict[str, str]) -> bool:
        """Whether this address leads to a daemon that is asked at another one."""
        status = self._last.get(address)
        return status is not None and reached.get(status.server.server_id, address) != address

    # --- one daemon

    async def _follow(self, address: str) -> None:
        failures = 0
        while True:
            heard = False
            try:
                async for message in self._messages(address):
                    failures, heard = 0, True
                    self._take(address, message)
                error = f"{address} ended the stream: it is shutting down"
            except UnsupportedVersionError:
                await self._ask_again_and_again(address)
                continue
            except RavelError as failed:
                error = failed.message
            except TimeoutError:
                error = f"{address} sent nothing for {self._patience_s:.3g} s"
            self._lose(address, error)
            failures = 1 if heard else failures + 1
            await asyncio.sleep(self._retry.delay_s(failures, self._random.random))

    @property
    def _patience_s(self) -> float:
        return self._interval_s + SILENCE_MAX_S

    async def _messages(self, address: str) -> AsyncGenerator[pb.WatchStatusResponse, None]:
        after = self._positions.get(address, FROM_THE_START) if self._events else None
        async with aclosing(self._client.watch_status(address, interval_s=self._interval_s, after=after)) as messages:
            while True:
                async with asyncio.timeout(self._patience_s):
                    try:
                        message = await anext(messages)
                    except StopAsyncIteration:
                        return
                yield message

    async def _ask_again_and_again(self, address: str) -> None:
        """Without a stream: a daemon of an older version. Returns when it is gone: the next one may know more."""
        while True:
            try:
                self._hear(address, await self._client.status(address, timeout_s=SILENCE_MAX_S))
            except RavelError as error:
                self._lose(address, error.message)
                await asyncio.sleep(self._retry.delay_s(1, self._random.random))
                return
            await asyncio.sleep(self._interval_s)

    async def _ask_now(self, address: str) -> None:
        self._asking.add(address)
        with suppress(RavelError):
            self._hear(address, await self._client.status(address, timeout_s=self._interval_s))
        self._asking.discard(address)

    # --- what they say

    def _take(self, address: str, message: pb.WatchStatusResponse) -> None:
        if message.HasField("status"):
            self._hear(address, message.status)
        if message.events:
            newest = message.events[-1]
            self._positions[address] = pb.EventPosition(boot_id=newest.boot_id, sequence=newest.sequence)
            self._sink(Told(address, tuple(message.events)))
            turning = not message.HasField("status") and any(event.kind in TURNING for event in message.events)
            if turning and self._group is not None and address not in self._asking:
                self._group.create_task(self._ask_now(address))

    def _hear(self, address: str, status: pb.StatusResponse) -> None:
        before = self._last.get(address)
        was_silent = address in self._silent
        self._last[address] = status
        self._silent.discard(address)
        self._sink(Heard(address, status))
        if before is None or was_silent or _seat(before) != _seat(status):
            self._discover()

    def _lose(self, address: str, error: str) -> None:
        self._silent.add(address)
        self._sink(Lost(address, error))


def _seat(status: pb.StatusResponse) -> tuple[str, int, int]:
    """What decides whom to ask: who answers, and which membership it knows."""
    return status.server.server_id, status.config_index, len(status.members)
