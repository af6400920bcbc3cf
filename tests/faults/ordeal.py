"""A cluster under a recorded load while one kind of fault happens to it, and the one verdict that all faults are judged by."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

from ravelctl.client import InspectClient, KeyValue, RavelClient, RavelError
from ravelctl.linearizability.history import Operation, Outcome
from ravelctl.linearizability.stale import broken_promises
from ravelpb.v1.inspect_pb2 import StateHashResponse
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, until
from tests.e2e.load import same_on_all
from tests.faults.proxy import Network
from tests.faults.shim import Disk, build
from tests.faults.workload import Workload

ELECTION_TIMEOUT_S: Final = 0.8
"""The shortest, with default settings: 16 ticks of 50 ms."""

RECOVERY_TIMEOUTS: Final = 4
"""After so many election timeouts a healed cluster must have acknowledged a write."""

BUSY_ALLOWANCE_S: Final = 20.0
"""What a busy machine may add to that, besides the time for which this very process was kept waiting."""

LATENESS_EVERY_S: Final = 0.02
QUIET_S: Final = 120.0
"""How long replicas may take to hold the same once nobody writes any more."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """From the moment at which a majority could work again to the first acknowledged write that began after it."""

    seconds: float
    allowance_s: float

    @property
    def in_time(self) -> bool:
        return self.seconds <= RECOVERY_TIMEOUTS * ELECTION_TIMEOUT_S + self.allowance_s


@dataclass(slots=True)
class Row:
    """What the summary at the end tells of one fault."""

    fault: str
    times: int = 0
    operations: int = 0
    unknown: int = 0
    recoveries_s: list[float] = field(default_factory=list)

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def decode(text: str) -> Row:
        return Row(**json.loads(text))


class Ordeal:
    """See the module. `running` makes one; inside, a test does the fault and says how often it happened."""

    def __init__(self, fault: str, cluster: Cluster, network: Network, workload: Workload) -> None:
        self.cluster = cluster
        self.network = network
        self.workload = workload
        self.row = Row(fault)
        self.disks: dict[str, Disk] = {}  # of servers by name, if it was asked for
        self.recoveries: list[Recovery] = []
        self._lateness: list[tuple[float, float]] = []  # when, and how much later than asked this process ran
        self._meter: asyncio.Task[None] | None = None

    # --- what tests do

    def happened(self, times: int = 1) -> None:
        """The fault was seen to have happened."""
        self.row.times += times

    def kill(self, *servers: Server) -> float:
        """SIGKILL; returns the time just before."""
        at = monotonic()
        for server in servers:
            os.kill(server.pid, signal.SIGKILL)
        for server in servers:
            assert server.wait() == -signal.SIGKILL
        self.happened()
        return at

    async def restart(self, *servers: Server) -> float:
        """Start them again; returns the time when all of them answer."""
        for server in servers:
            server.start()
        for server in servers:
            await self.cluster.answering(server)
        return monotonic()

    async def progress(self, operations: int = 200, within_s: float = START_S) -> None:
        """Wait until so many more operations have been answered."""
        target = len(self._answered()) + operations

        async def reached() -> bool:
            return len(self._answered()) >= target

        await until(f"{operations} more operations are answered", reached, within_s)

    def _answered(self) -> list[Operation]:
        return [operation for operation in self.workload.recorder.history if operation.outcome is Outcome.DONE]

    async def acknowledged(self, since: float, within_s: float = START_S) -> float:
        """The time at which the first write was acknowledged that began after `since`; waits for it."""

        async def first() -> float | None:
            ends = [
                operation.completed_s
                for operation in self.workload.recorder.history
                if operation.value is not None and operation.outcome is Outcome.DONE and operation.invoked_s >= since
            ]
            return min((end for end in ends if end is not None), default=None)

        return await until("a write is acknowledged", first, within_s)

    async def any_acknowledged(self, for_s: float) -> bool:
        """Whether a write that begins from now on is acknowledged within this time."""
        since = monotonic()
        await asyncio.sleep(for_s)
        return any(
            operation.value is not None and operation.outcome is Outcome.DONE and operation.invoked_s >= since
            for operation in self.workload.recorder.history
        )

    async def recovered(self, since: float) -> None:
        """Wait for the first acknowledged write after `since`, from when on a majority could work, and note how long it took."""
        end = await self.acknowledged(since)
        kept_waiting_s = sum(late_s for at, late_s in self._lateness if since <= at <= end)
        self.recoveries.append(Recovery(end - since, BUSY_ALLOWANCE_S + kept_waiting_s))

    async def _measure_lateness(self) -> None:
        while True:
            asked = monotonic() + LATENESS_EVERY_S
            await asyncio.sleep(LATENESS_EVERY_S)
            self._lateness.append((monotonic(), max(0.0, monotonic() - asked)))

    # --- the verdict

    async def begin(self) -> None:
        self._meter = asyncio.create_task(self._measure_lateness())
        self.workload.start()
        for name, server in self.cluster.servers.items():
            self.workload.read_stale(name, server.address)

    async def end(self) -> None:
        if self._meter is not None:
            self._meter.cancel()
        await self.workload.close()

    async def judge(self) -> Row:
        """Everything that must hold however the fault went. Raises AssertionError with the first thing that does not."""
        await self.workload.stop()
        self.network.heal()
        await self.cluster.settled(QUIET_S)
        held = await self._same_everywhere()
        await self._same_hashes()
        await self._read_everything(held)
        workload = self.workload
        history = workload.recorder.history
        report = workload.recorder.check(only_writers=True)
        self.row.operations, self.row.unknown = report.done, report.unknown
        self.row.recoveries_s = [recovery.seconds for recovery in self.recoveries]
        broken = list(broken_promises(workload.stale, history))
        assert not broken, broken[:5]
        check_leaders(self.cluster.servers.values())
        assert report.done >= 100, f"only {report.done} operations were answered: that proves nothing"
        assert workload.stale, "no stale read was answered: that proves nothing"
        assert self.row.times > 0, "the fault did not happen"
        slow = [recovery for recovery in self.recoveries if not recovery.in_time]
        assert not slow, f"recovery took longer than {RECOVERY_TIMEOUTS} election timeouts and the allowance: {slow}"
        return self.row

    async def _same_everywhere(self) -> list[KeyValue]:
        clients = [RavelClient([server.address], timeout_s=CALL_S) for server in self.cluster.servers.values()]
        try:
            return await same_on_all(clients)
        finally:
            await asyncio.gather(*(client.close() for client in clients))

    async def _same_hashes(self) -> None:
        """Sessions, members and all else that a scan does not show: every replica hashes its state at one entry."""

        async def hashed() -> StateHashResponse | None:
            leader = await self.cluster.leader()
            async with InspectClient(timeout_s=CALL_S) as client:
                try:
                    found = await client.state_hash(leader.address, timeout_s=20.0)
                except RavelError:
                    return None
            return None if any(replica.problem for replica in found.replicas) else found

        found = await until("every replica hashes its state", hashed, QUIET_S, every_s=0.5)
        assert len(found.replicas) == len(self.cluster.servers), found
        assert len({replica.sha256 for replica in found.replicas}) == 1, f"the states differ at entry {found.index}: {found}"

    async def _read_everything(self, held: list[KeyValue]) -> None:
        """Read every key that was ever written, so that the checker sees what of the acknowledged is there in the end."""
        reader = self.workload.recorder.client("at the end")
        found = [await reader.get(key) for key in sorted({operation.key for operation in self.workload.recorder.history})]
        assert [item for item in found if item is not None] == held, "the leader answers other than what the replicas hold"


def events(server: Server, event: str) -> Iterator[dict[str, Any]]:
    """These events of a server's log, over all its lives, oldest first."""
    for line in server.log.splitlines():
        if line.startswith("{") and line.endswith("}"):
            told = json.loads(line)
            if told["event"] == event:
                yield told


def check_leaders(servers: Iterable[Server]) -> None:
    """No two servers led in one term, by their own logs."""
    led: dict[int, set[str]] = defaultdict(set)
    for server in servers:
        for told in events(server, "raft.role_changed"):
            if told["role"] == "leader":
                led[told["term"]].add(server.name)
    assert led, "nobody tells of having led"
    assert all(len(names) == 1 for names in led.values()), f"two leaders in one term: {dict(led)}"


@asynccontextmanager
async def running(
    folder: Path,
    fault: str,
    *,
    names: Iterable[str] = ("n1", "n2", "n3"),
    flags: Iterable[str] = (),
    proxied: bool = False,
    fronted: bool = False,
    failing_disks: bool = False,
    data_dirs: Mapping[str, Path] | None = None,
    value_bytes: int = 0,
) -> AsyncIterator[Ordeal]:
    """A cluster under load; when the block has ended without an error the verdict is given. With a network to cut between
    replicas (`proxied`), and between them and clients (`fronted`); with disks that do what they are told (`failing_disks`).
    """
    library = build(folder) if failing_disks else None
    disks: dict[str, Disk] = {}
    cluster = Cluster(folder, flags)
    network = Network(lambda: {name: server.pid for name, server in cluster.servers.items() if server.running})
    try:
        servers = [cluster.add(name) for name in names]
        for server in servers:
            server.data_dir = (data_dirs or {}).get(server.name, server.data_dir)
            if proxied:
                server.flags += ["--peer-advertise", await network.front(server.name, server.peer_address)]
            if fronted:
                server.advertised = await network.front(server.name, server.address)
                server.flags += ["--advertise", server.advertised]
            if library is not None:
                disks[server.name] = Disk(server, library)
            server.start()
        await cluster.bootstrap(*servers)
        ordeal = Ordeal(fault, cluster, network, Workload([server.advertised for server in servers], value_bytes=value_bytes))
        ordeal.disks = disks
        assert all(disk.loaded for disk in disks.values()), "the shim was not loaded"
        try:
            await ordeal.begin()
            yield ordeal
            await ordeal.judge()
        finally:
            await ordeal.end()
    finally:
        cluster.stop_all()
        await network.close()
