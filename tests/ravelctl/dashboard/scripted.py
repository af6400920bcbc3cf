"""A cluster that pretends, with every number under the test's control: one gRPC server a replica, which streams `WatchStatus`.

    cluster = Scripted(5)
    await cluster.start()
    cluster.lead(2, term=42)
    cluster.peer(4).lag(9_204, bytes=1_300_000, ms=3_800)

As a program (`python -m tests.ravelctl.dashboard.scripted SCENE [REPLICAS]`) it is the other process of tests and benchmarks in a
real terminal: it prints its addresses and goes on until its input ends.
"""

# ruff: noqa: N802 - the names of the calls are those of the proto files

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from ravelpb.errors import Reason
from ravelpb.v1 import cluster_pb2 as pb
from ravelpb.v1 import inspect_pb2 as ins
from ravelpb.v1.cluster_pb2_grpc import ClusterServicer, add_ClusterServicer_to_server
from ravelpb.v1.common_pb2 import Addresses, ResponseHeader, ServerRef
from ravelpb.v1.inspect_pb2_grpc import InspectServicer, add_InspectServicer_to_server
from tests.ravelctl.fake import error_status

CLUSTER_ID = "3f9c21aa" + "0" * 24
WALL_MS = 1_772_460_207_000  # 2026-03-02T14:03:27Z
LAST = 918_442_110
GIB = 1 << 30


@dataclass
class Replica:
    """One daemon, and what it says. `port` is kept over stop and start."""

    cluster: Scripted
    number: int
    role: int = pb.FOLLOWER
    term: int = 42
    leader: int = 0
    last: int = LAST
    commit: int = LAST - 3
    applied: int = LAST - 3
    fsync_us: int = 2_000
    apply_us: int = 500
    db_used: int = int(1.2 * GIB)
    boot: int = 1
    writes: int = 0
    reads: int = 0
    elections_1h: int = 1
    leaderless_ms: int | None = None
    granted: tuple[int, ...] = ()
    alarms: list[pb.Alarm] = field(default_factory=list)
    events: list[pb.Event] = field(default_factory=list)
    hung: bool = False  # it sends nothing more
    old: bool = False  # a version without WatchStatus, and without what came with it
    wall_offset_ms: int = 0
    port: int = 0
    frames: int = 0
    server: aio.Server | None = None

    @property
    def name(self) -> str:
        return self.cluster.names.get(self.number, f"n{self.number}")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ref(self) -> ServerRef:
        addresses = Addresses(listen=self.address, peer=f"10.0.3.{self.number}:7401")
        return ServerRef(server_id=f"{self.number:032x}", name=self.name, version="0.4.1", addresses=addresses)

    async def start(self) -> None:
        self.server = aio.server(options=(("grpc.so_reuseport", 0),))
        servicer = _Servicer(self)  # type: ignore[abstract]  # what is asked is there
        add_ClusterServicer_to_server(servicer, self.server)
        add_InspectServicer_to_server(servicer, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            await server.stop(None)

    def tell(self, kind: int, text: str, *, name: str = "it-happened", wall_ms: int | None = None) -> None:
        """An event happens here."""
        self.events.append(
            pb.Event(
                boot_id=f"{self.boot:016x}",
                sequence=len(self.events) + 1,
                wall_ms=(self.cluster.wall_ms() if wall_ms is None else wall_ms) + self.wall_offset_ms,
                kind=kind,  # type: ignore[arg-type]
                name=name,
                text=text,
                replica_id=self.number,
            )
        )
        self.cluster.stir()

    def status(self) -> pb.StatusResponse:
        found = self.cluster
        leads = self.role == pb.LEADER
        status = pb.StatusResponse(
            header=ResponseHeader(cluster_id=CLUSTER_ID, replica_id=self.number, term=self.term, index=self.applied),
            server=self.ref,
            cluster_name=found.name,
            role=self.role,  # type: ignore[arg-type]
            leader_id=self.leader,
            first_index=LAST // 2,
            last_index=self.last,
            commit_index=self.commit,
            applied_index=self.applied,
            config_index=found.config_index,
            members=found.members(),
            progress=[p for n, p in found.progress.items() if n != self.number and n in found.roles] if leads else [],
            leader_age_ms=18 * 60_000,
            contact_age_ms=0 if leads else 41,
            db_used_bytes=self.db_used,
            db_size_max_bytes=8 * GIB,
            uptime_ms=6 * 86_400_000,
            boot_id=f"{self.boot:016x}",
            election_timeout_ms=800,
            heartbeat_ms=100,
            vote_id=self.leader,
            alarms=self.alarms,
            lease_remaining_ms=700 if leads else 0,
            ready=True,
        )
        if not self.old:
            status.fsync.CopyFrom(_summary(self.fsync_us))
            status.apply.CopyFrom(_summary(self.apply_us))
            status.commit.CopyFrom(_summary(4_200 if leads else 0))
            status.counters.CopyFrom(pb.Counters(monotonic_ms=found.monotonic_ms(), writes=self.writes, reads=self.reads))
            status.elections_1h = status.leader_changes_1h = self.elections_1h
            status.wall_ms = found.wall_ms() + self.wall_offset_ms
            status.events_sequence = len(self.events)
            if self.leaderless_ms is not None:
                status.candidacy.CopyFrom(pb.Candidacy(since_ms=self.leaderless_ms, granted_by=self.granted))
        return status


def _summary(p99_us: int) -> pb.LatencySummary:
    return pb.LatencySummary(count=10 if p99_us else 0, p50_us=p99_us // 3, p99_us=p99_us, max_us=p99_us * 2)


class Peer:
    """The leader's view of one replica."""

    def __init__(self, progress: pb.PeerProgress) -> None:
        self.progress = progress

    def lag(self, entries: int, *, bytes: int = 0, ms: int = 0) -> Peer:
        self.progress.match = LAST - entries
        self.progress.next = LAST - entries + 65
        self.progress.lag_entries, self.progress.lag_bytes, self.progress.lag_ms = entries, bytes, ms
        return self

    def paused(self) -> Peer:
        self.progress.paused, self.progress.inflight = True, self.progress.inflight_max
        return self

    def contact(self, ms: int, *, active: bool = True) -> Peer:
        self.progress.contact_age_ms, self.progress.recent_active = ms, active
        return self

    def snapshot(self, sent: int, size: int) -> Peer:
        self.progress.state = pb.SNAPSHOT
        self.progress.snapshot_index, self.progress.snapshot_sent_bytes, self.progress.snapshot_size_bytes = LAST // 2, sent, size
        return self


class Scripted:
    """`count` replicas of one cluster, all of them voters that follow number 1 until told otherwise."""

    def __init__(self, count: int, *, name: str = "prod-eu") -> None:
        self.name = name
        self.names: dict[int, str] = {}
        self.config_index = 40
        self.roles: dict[int, int] = {}
        self.progress: dict[int, pb.PeerProgress] = {}
        self.replicas: dict[int, Replica] = {}
        self.asked: list[Any] = []  # every change that was made
        self.unsafe = ""  # why the leader would refuse
        self.frozen = True
        self.passed_ms = 0
        self.pushed = 0
        self._changed = asyncio.Event()
        for _ in range(count):
            self.add()
        self.lead(1, term=42)

    # --- clocks: frozen, or those of this machine

    def wall_ms(self) -> int:
        return WALL_MS + self.passed_ms if self.frozen else time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        return 1_000_000 + self.passed_ms if self.frozen else time.monotonic_ns() // 1_000_000

    def passes(self, seconds: float, *, writes_s: int = 0, reads_s: int = 0) -> None:
        """Frozen time goes on, the leader has answered so much, and all report at once."""
        self.passed_ms += round(seconds * 1000)
        for replica in self.replicas.values():
            if replica.role == pb.LEADER and replica is self.leader:
                replica.writes += round(writes_s * seconds)
                replica.reads += round(reads_s * seconds)
        self.pushed += 1
        self.stir()

    # --- the script

    def add(self, role: int = pb.VOTER) -> Replica:
        number = max(self.replicas, default=0) + 1
        self.replicas[number] = Replica(self, number)
        self.roles[number] = role
        self.progress[number] = pb.PeerProgress(
            replica_id=number,
            state=pb.REPLICATE,
            match=LAST,
            next=LAST + 1,
            recent_active=True,
            contacted=True,
            contact_age_ms=12,
            inflight=2,
            inflight_max=64,
            ack=pb.LatencySummary(count=9, p50_us=9_000, p99_us=61_000, max_us=99_000),
        )
        return self.replicas[number]

    def lead(self, number: int, *, term: int) -> None:
        """All agree on this leader."""
        for replica in self.replicas.values():
            replica.role = pb.LEADER if replica.number == number else pb.FOLLOWER
            replica.term, replica.leader, replica.leaderless_ms = term, number, None
        self.stir()

    def no_leader(self, *, term: int, since_ms: int) -> None:
        for replica in self.replicas.values():
            replica.role, replica.term, replica.leader, replica.leaderless_ms = pb.FOLLOWER, term, 0, since_ms
        self.stir()

    def peer(self, number: int) -> Peer:
        return Peer(self.progress[number])

    def members(self) -> list[pb.Member]:
        roles = self.roles.items()
        return [pb.Member(replica_id=n, server=self.replicas[n].ref, role=role) for n, role in roles]  # type: ignore[arg-type]

    def stir(self) -> None:
        """Wake the streams: there is something to tell."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def changed(self) -> asyncio.Event:
        return self._changed

    @property
    def leader(self) -> Replica:
        return max((r for r in self.replicas.values() if r.role == pb.LEADER), key=lambda r: r.term)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(replica.address for replica in self.replicas.values())

    def verdict(self, after: dict[int, int]) -> pb.Verdict:
        leader = self.leader
        return pb.Verdict(
            allowed=not self.unsafe,
            before=_standing(self.roles),
            after=_standing(after),
            reason=self.unsafe,
            seen=pb.Expectation(term=leader.term, config_index=self.config_index),
        )

    async def start(self) -> Scripted:
        for replica in self.replicas.values():
            await replica.start()
        return self

    async def stop(self) -> None:
        await asyncio.gather(*(replica.stop() for replica in self.replicas.values()))


def _standing(roles: dict[int, int]) -> pb.Standing:
    voters = [n for n, role in roles.items() if role == pb.VOTER]
    quorum, learners = len(voters) // 2 + 1, [n for n, role in roles.items() if role == pb.LEARNER]
    tolerates = len(voters) - quorum
    return pb.Standing(
        voters=voters, learners=learners, quorum=quorum, live=len(voters), caught_up=len(voters), tolerates=tolerates
    )


Context = aio.ServicerContext[Any, Any]


class _Servicer(ClusterServicer, InspectServicer):
    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._cluster = replica.cluster

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        return self._replica.status()

    async def WatchStatus(self, request: pb.WatchStatusRequest, context: Context) -> AsyncIterator[pb.WatchStatusResponse]:
        replica = self._replica
        if replica.old:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "method not found")
        sent = request.after.sequence if request.HasField("after") else len(replica.events)
        interval_s = (request.interval_ms or 1_000) / 1_000
        due = asyncio.get_running_loop().time()
        pushed = self._cluster.pushed
        while True:
            now = asyncio.get_running_loop().time()
            if pushed != self._cluster.pushed:
                pushed, due = self._cluster.pushed, now
            fresh = replica.events[sent:]
            sent += len(fresh)
            if not replica.hung:
                if now >= due:
                    due = max(due + interval_s, now)
                    replica.frames += 1
                    yield pb.WatchStatusResponse(status=replica.status(), events=fresh)
                elif fresh:
                    yield pb.WatchStatusResponse(events=fresh)
            changed = self._cluster.changed
            try:
                await asyncio.wait_for(changed.wait(), max(0.001, due - asyncio.get_running_loop().time()))
            except TimeoutError:
                continue

    async def _refuse(self, context: Context, reason: Reason, message: str) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", error_status(reason, message).SerializeToString()),))
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)

    async def _fence(self, request: Any, context: Context) -> None:
        if self._replica.role != pb.LEADER:
            await self._refuse(context, Reason.NOT_LEADER, "this replica does not lead")
        expect, here = request.expect, self._cluster
        if not request.dry_run and (expect.term, expect.config_index) != (self._replica.term, here.config_index):
            await self._refuse(context, Reason.STALE_VIEW, f"the term is {self._replica.term}, not {expect.term}")

    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.ChangeResponse:
        await self._fence(request, context)
        return self._change(request, {**self._cluster.roles, **{n: int(pb.VOTER) for n in request.replica_ids}})

    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.ChangeResponse:
        await self._fence(request, context)
        return self._change(request, {n: r for n, r in self._cluster.roles.items() if n not in request.replica_ids})

    def _change(self, request: pb.PromoteRequest | pb.LeaveRequest, after: dict[int, int]) -> pb.ChangeResponse:
        verdict = self._cluster.verdict(after)
        if not request.dry_run:
            self._cluster.asked.append(request)
            self._cluster.roles = after
            self._cluster.config_index += 1
            self._cluster.stir()
        return pb.ChangeResponse(verdict=verdict, members=self._cluster.members())

    async def TransferLeader(self, request: pb.TransferLeaderRequest, context: Context) -> pb.TransferLeaderResponse:
        await self._fence(request, context)
        verdict = self._cluster.verdict(dict(self._cluster.roles))
        if not request.dry_run:
            self._cluster.asked.append(request)
            self._cluster.lead(request.replica_id, term=self._replica.term + 1)
        return pb.TransferLeaderResponse(verdict=verdict, leader_id=request.replica_id, leader_term=self._replica.term)

    async def SaveSnapshot(self, request: ins.SaveSnapshotRequest, context: Context) -> ins.SaveSnapshotResponse:
        self._cluster.asked.append(request)
        return ins.SaveSnapshotResponse(snapshot=ins.SnapshotInfo(name="s", index=self._replica.applied, size_bytes=1 << 20))


# --- scenes, by name


def healthy(cluster: Scripted) -> None:
    cluster.lead(2, term=42)


def no_leader(cluster: Scripted) -> None:
    cluster.no_leader(term=43, since_ms=14_000)
    one = cluster.replicas[1]
    one.role, one.granted = pb.CANDIDATE, (1, 4)


def split_view(cluster: Scripted) -> None:
    """The mock of the design: one lags, one claims an old term, one is down (stopped by the test)."""
    cluster.lead(2, term=42)
    cluster.peer(4).lag(9_204, bytes=1_363_149, ms=3_800).paused().contact(41)
    slow = cluster.replicas[4]
    slow.last, slow.commit, slow.applied, slow.fsync_us, slow.apply_us = LAST - 9_204, LAST - 9_207, LAST - 9_230, 19_000, 6_000
    lost = cluster.replicas[5]
    lost.role, lost.term, lost.leader, lost.last, lost.commit = pb.LEADER, 41, 5, LAST - 88_120, LAST - 91_004
    lost.applied = lost.commit
    cluster.peer(5).contact(9_200, active=False)
    cluster.peer(3).contact(12_000, active=False)


def snapshot_43(cluster: Scripted) -> None:
    cluster.lead(2, term=42)
    number = max(cluster.replicas)
    cluster.roles[number] = pb.LEARNER
    joins = cluster.replicas[number]
    joins.last = joins.commit = joins.applied = LAST - 412_993
    joins.db_used = 540 << 20
    cluster.peer(number).lag(412_993, bytes=61_027_123, ms=61_000).snapshot(int(0.43 * GIB), GIB)


SCENES: dict[str, Callable[[Scripted], None]] = {
    "healthy": healthy,
    "no-leader": no_leader,
    "split-view": split_view,
    "snapshot-43": snapshot_43,
}


async def _serve(scene: str, count: int) -> None:
    cluster = Scripted(count)
    cluster.frozen = False
    SCENES[scene](cluster)
    await cluster.start()
    print(",".join(cluster.addresses), flush=True)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    work = asyncio.create_task(_work(cluster))
    while line := (await reader.readline()).decode().split():
        match line:
            case ["lead", number]:
                cluster.lead(int(number), term=cluster.leader.term + 1)
                cluster.replicas[int(number)].tell(pb.ELECTION, f"won term {cluster.leader.term}")
            case ["stop", number]:
                await cluster.replicas[int(number)].stop()
            case ["start", number]:
                await cluster.replicas[int(number)].start()
    work.cancel()
    await cluster.stop()


async def _work(cluster: Scripted) -> None:
    """Writes go on."""
    while True:
        leader = cluster.leader if any(r.role == pb.LEADER for r in cluster.replicas.values()) else None
        if leader is not None:
            leader.writes += 810
            leader.reads += 4_100
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5))
