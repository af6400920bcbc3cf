"""Daemons that pretend: real gRPC servers on free ports around one cluster in memory, whose numbers never change by themselves.

What they know of Raft is only what commands can see: who is a member, who leads, how far each one is. Everything a test wants to
be true is a field that it sets. The servers answer in threads, so that a command may run its own event loop in the test's thread.
"""

# ruff: noqa: N802 - the names of the calls are those of the proto files

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from ravelpb.errors import DOMAIN, Reason
from ravelpb.v1 import cluster_pb2 as pb
from ravelpb.v1 import inspect_pb2 as ins
from ravelpb.v1 import kv_pb2 as kv
from ravelpb.v1.cluster_pb2_grpc import ClusterServicer, add_ClusterServicer_to_server
from ravelpb.v1.common_pb2 import Addresses, ReplicaRef, ResponseHeader, ServerRef
from ravelpb.v1.inspect_pb2_grpc import InspectServicer, add_InspectServicer_to_server
from ravelpb.v1.kv_pb2_grpc import KVServicer, add_KVServicer_to_server
from tests.ravelctl.fake_check import ClusterCheck

MIB = 1 << 20
CHUNK_BYTES = 64


def refuse(context: grpc.ServicerContext, reason: Reason, message: str, **metadata: str) -> None:
    """End the call as the daemons do."""
    status = error_status(reason, message, **metadata)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)


def refuse_other(context: grpc.ServicerContext, own: str) -> None:
    """End a call that is meant for another cluster than `own`."""
    refuse(context, Reason.WRONG_CLUSTER_ID, "this daemon belongs to another cluster", cluster_id=own)


def error_status(reason: Reason, message: str, **metadata: str) -> Status:
    """A google.rpc.Status with one ErrorInfo."""
    info = AnyMessage()
    info.Pack(ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return Status(code=grpc.StatusCode.FAILED_PRECONDITION.value[0], message=message, details=[info])


@dataclass
class FakeCluster:
    """The truth that all daemons tell. Daemons are numbered from 1; so are replicas."""

    daemons: list[FakeDaemon] = field(default_factory=list)
    cluster_id: str = ""
    name: str = ""
    term: int = 7
    commit: int = 48210
    config_index: int = 40
    leader: int = 0
    members: dict[int, pb.Member] = field(default_factory=dict)
    progress: dict[int, pb.PeerProgress] = field(default_factory=dict)
    alarms: list[pb.Alarm] = field(default_factory=list)
    data: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    revision: int = 0
    asked: list[Any] = field(default_factory=list)  # every change that was not a dry run
    unsafe: str = ""  # why the leader would refuse a change
    kv_refusal: tuple[Reason, str] | None = None
    batches: list[int] = field(default_factory=list)  # sizes of the atomic writes
    before_write: Callable[[], None] | None = None
    changes: list[kv.KeyEvent] = field(default_factory=list)  # what a watch is told
    watched: list[kv.WatchRequest] = field(default_factory=list)
    snapshot: bytes = b"x" * 1000
    snapshot_damage: Callable[[bytes], bytes] = bytes  # on the way
    break_after: int = 0  # bytes of a download after which the connection breaks, once
    log: list[ins.LogEntry] = field(default_factory=list)
    state_hash: ins.StateHashResponse | None = None  # None: some member is too old
    events: dict[int, list[pb.Event]] = field(default_factory=dict)  # of each daemon, oldest first

    def grow(self, count: int) -> list[str]:
        """Start blank daemons; returns their addresses."""
        new = [_daemon(self, len(self.daemons) + 1 + n) for n in range(count)]
        self.daemons += new
        return [daemon.address for daemon in new]

    def found(self, voters: int, *, name: str = "orders", leader: int = 1) -> list[str]:
        """A healthy cluster of so many daemons."""
        addresses = self.grow(voters)
        self.cluster_id, self.name, self.leader = "3f9c21aa" + "0" * 24, name, leader
        for daemon in self.daemons:
            self.seat(daemon, pb.VOTER)
        return addresses

    def seat(self, daemon: FakeDaemon, role: pb.MemberRole.ValueType) -> int:
        daemon.replica_id = daemon.number
        self.members[daemon.number] = pb.Member(replica_id=daemon.number, server=daemon.server_ref, role=role)
        self.progress[daemon.number] = pb.PeerProgress(
            replica_id=daemon.number,
            state=pb.REPLICATE,
            match=self.commit,
            next=self.commit + 1,
            recent_active=True,
            contacted=True,
            contact_age_ms=41,
        )
        return daemon.number

    def stop(self) -> None:
        for daemon in self.daemons:
            daemon.stop()

    def verdict(self, after: dict[int, int]) -> pb.Verdict:
        """`after`: replica id -> role."""
        before = {number: int(member.role) for number, member in self.members.items()}
        return pb.Verdict(
            allowed=not self.unsafe,
            before=_standing(before),
            after=_standing(after),
            reason=self.unsafe,
            next_step="start n3 first" if self.unsafe else "",
            seen=pb.Expectation(term=self.term, config_index=self.config_index),
        )


def _standing(roles: dict[int, int]) -> pb.Standing:
    voters = [number for number, role in roles.items() if role == pb.VOTER]
    quorum = len(voters) // 2 + 1
    return pb.Standing(
        voters=voters,
        learners=[number for number, role in roles.items() if role == pb.LEARNER],
        quorum=quorum,
        live=len(voters),
        caught_up=len(voters),
        tolerates=len(voters) - quorum,
    )


def _daemon(cluster: FakeCluster, number: int) -> FakeDaemon:
    # The generated base calls every method abstract; commands call those that are here.
    return FakeDaemon(cluster, number)  # type: ignore[abstract]


class FakeDaemon(ClusterServicer, InspectServicer, KVServicer):
    """One server. `number` becomes its replica id."""

    def __init__(self, cluster: FakeCluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.replica_id = 0
        self.removed = False
        self.version = "0.1.0"
        check = ClusterCheck(lambda: self.header.cluster_id, refuse_other)
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), interceptors=[check])
        add_ClusterServicer_to_server(self, self.server)
        add_InspectServicer_to_server(self, self.server)
        add_KVServicer_to_server(self, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def stop(self) -> None:
        self.server.stop(None).wait()

    @property
    def server_ref(self) -> ServerRef:
        addresses = Addresses(listen=self.address, peer=f"10.0.0.{self.number}:7401")
        return ServerRef(server_id=f"{self.number:032x}", name=f"n{self.number}", version=self.version, addresses=addresses)

    @property
    def header(self) -> ResponseHeader:
        c = self.cluster
        return ResponseHeader(cluster_id=c.cluster_id, replica_id=self.replica_id, term=c.term, index=c.commit)

    def _must_lead(self, context: grpc.ServicerContext) -> None:
        if self.cluster.leader != self.number:
            reason, message = self._no_leader()
            refuse(context, reason, message, **self._known_leader)

    def _no_leader(self) -> tuple[Reason, str]:
        return Reason.NOT_LEADER if self._known_leader else Reason.NO_LEADER, "this replica does not lead the cluster"

    @property
    def _known_leader(self) -> dict[str, str]:
        leader = next((d for d in self.cluster.daemons if d.number == self.cluster.leader), None)
        return {"leader_id": str(leader.number), "leader_address": leader.address} if leader else {}

    # --- Cluster

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusResponse:
        c = self.cluster
        if not self.replica_id:
            return pb.StatusResponse(server=self.server_ref, blank=True)
        leads = c.leader == self.number
        return pb.StatusResponse(
            header=self.header,
            server=self.server_ref,
            cluster_name=c.name,
            role=pb.LEADER if leads else pb.FOLLOWER,
            leader_id=c.leader,
            first_index=46001,
            last_index=c.commit,
            commit_index=c.commit,
            applied_index=c.commit - self.number,
            revision=c.revision,
            config_index=c.config_index,
            members=c.members.values(),
            progress=[p for n, p in c.progress.items() if n != self.number] if leads else [],
            election_timeout_ms=800,
            leader_age_ms=(3 * 60 + 12) * 60_000,
            db_used_bytes=212 * MIB,
            db_size_max_bytes=4096 * MIB,
            lease_remaining_ms=700,
            alarms=c.alarms if leads else [],
            removed=self.removed,
            ready=True,
        )

    def Events(self, request: pb.EventsRequest, context: grpc.ServicerContext) -> Iterator[pb.EventsResponse]:
        """Without `follow` only; it is real daemons that go on."""
        found = [
            event
            for event in self.cluster.events.get(self.number, [])
            if event.wall_ms >= request.since_ms and (not request.kinds or event.kind in request.kinds)
        ]
        yield pb.EventsResponse(header=self.header, events=found[-(request.limit or 1_000) :])

    def Bootstrap(self, request: pb.BootstrapRequest, context: grpc.ServicerContext) -> pb.BootstrapResponse:
        c = self.cluster
        if c.cluster_id and c.cluster_id != request.cluster_id:
            refuse(context, Reason.ALREADY_MEMBER, "this daemon is a member already", cluster_id=c.cluster_id)
        if not c.cluster_id:
            c.cluster_id, c.name, c.leader = request.cluster_id, request.cluster_name, self.number
            c.seat(self, pb.VOTER)
        c.asked.append(request)
        return pb.BootstrapResponse(header=self.header, replica=ReplicaRef(replica_id=self.replica_id, server=self.server_ref))

    def Join(self, request: pb.JoinRequest, context: grpc.ServicerContext) -> pb.JoinResponse:
        c = self.cluster
        roles = {number: int(member.role) for number, member in c.members.items()}
        verdict = c.verdict({**roles, 0: int(pb.LEARNER)})  # it has no id yet
        replica = ReplicaRef(replica_id=self.number, server=self.server_ref)
        if not request.dry_run:
            c.asked.append(request)
            c.seat(self, pb.LEARNER if request.no_promote else pb.VOTER)
        return pb.JoinResponse(header=self.header, replica=replica, verdict=verdict)

    def Promote(self, request: pb.PromoteRequest, context: grpc.ServicerContext) -> pb.ChangeResponse:
        self._must_lead(context)
        roles = {number: int(member.role) for number, member in self.cluster.members.items()}
        return self._change(request, {**roles, **{number: int(pb.VOTER) for number in request.replica_ids}})

    def Change(self, request: pb.ChangeRequest, context: grpc.ServicerContext) -> pb.ChangeResponse:
        self._must_lead(context)
        roles = {number: int(member.role) for number, member in self.cluster.members.items() if number not in request.remove}
        roles |= dict.fromkeys(request.promote, int(pb.VOTER)) | dict.fromkeys(request.demote, int(pb.LEARNER))
        self._hand_over_without(request.demote, request.dry_run, context)
        return self._change(request, roles)

    def Leave(self, request: pb.LeaveRequest, context: grpc.ServicerContext) -> pb.ChangeResponse:
        self._must_lead(context)
        left = {n: int(m.role) for n, m in self.cluster.members.items() if n not in request.replica_ids}
        self._hand_over_without(request.replica_ids, request.dry_run, context)
        return self._change(request, left)

    def _hand_over_without(self, losing: Sequence[int], dry_run: bool, context: grpc.ServicerContext) -> None:
        """A leader that loses its vote hands over; the new one finds that the change was decided in an older term."""
        c = self.cluster
        if not dry_run and c.leader in losing:
            c.leader = next(n for n, member in c.members.items() if n not in losing and member.role == pb.VOTER)
            c.term += 1
            refuse(context, Reason.STALE_VIEW, f"the change was decided in term {c.term - 1}, and now it is term {c.term}")

    def _change(
        self, request: pb.PromoteRequest | pb.LeaveRequest | pb.ChangeRequest, after: dict[int, int]
    ) -> pb.ChangeResponse:
        c = self.cluster
        verdict = c.verdict(after)
        if not request.dry_run:
            c.asked.append(request)
            for number in [number for number in c.members if number not in after]:
                del c.members[number]
            for number, role in after.items():
                c.members[number].role = role  # type: ignore[assignment]
        return pb.ChangeResponse(header=self.header, verdict=verdict, members=c.members.values())

    def Update(self, request: pb.UpdateRequest, context: grpc.ServicerContext) -> pb.UpdateResponse:
        self._must_lead(context)
        if request.dry_run:
            return pb.UpdateResponse(header=self.header, member=pb.Member(replica_id=request.replica_id, server=request.server))
        self.cluster.asked.append(request)
        member = self.cluster.members[request.replica_id]
        member.server.CopyFrom(request.server)
        return pb.UpdateResponse(header=self.header, member=member)

    def TransferLeader(self, request: pb.TransferLeaderRequest, context: grpc.ServicerContext) -> pb.TransferLeaderResponse:
        self._must_lead(context)
        c = self.cluster
        if request.dry_run:
            return pb.TransferLeaderResponse(
                header=self.header, verdict=c.verdict({n: int(m.role) for n, m in c.members.items()})
            )
        c.asked.append(request)
        c.leader = request.replica_id or 2
        c.term += 1
        return pb.TransferLeaderResponse(header=self.header, leader_id=c.leader, leader_term=c.term)

    # --- KV

    def Session(self, requests: Iterator[kv.SessionRequest], context: grpc.ServicerContext) -> Iterator[kv.SessionResponse]:
        for request in requests:
            results = [self._execute(command) for command in request.commands]
            yield kv.SessionResponse(id=request.id, results=results, header=self.header)

    def RegisterSession(self, request: kv.RegisterSessionRequest, context: grpc.ServicerContext) -> kv.RegisterSessionResponse:
        self._must_lead(context)
        return kv.RegisterSessionResponse(client_id=1, header=self.header)

    def _execute(self, command: kv.Command) -> kv.Result:
        c = self.cluster
        if c.leader != self.number:
            reason, message = self._no_leader()
            return kv.Result(error=error_status(reason, message, **self._known_leader))
        if c.kv_refusal:
            return kv.Result(error=error_status(*c.kv_refusal))
        match command.WhichOneof("op"):
            case "put":
                c.revision += 1
                c.data[command.put.key] = (command.put.value, c.revision)
                return kv.Result(put=kv.PutResponse(revision=c.revision))
            case "get":
                value, revision = c.data.get(command.get.key, (b"", 0))
                return kv.Result(get=kv.GetResponse(revision=revision, value=value, found=revision > 0))
            case "delete":
                found = c.data.pop(command.delete.key, None) is not None
                c.revision += found
                return kv.Result(delete=kv.DeleteResponse(revision=c.revision, found=found))
            case "write":
                return kv.Result(write=self._write(command.write))
            case _:
                return kv.Result(compare_and_swap=self._swap(command.compare_and_swap))

    def _swap(self, swap: kv.CompareAndSwapRequest) -> kv.CompareAndSwapResponse:
        c = self.cluster
        value, revision = c.data.get(swap.key, (b"", 0))
        if revision != swap.expected_revision:
            return kv.CompareAndSwapResponse(swapped=False, revision=revision, value=value, found=revision > 0)
        c.revision += 1
        c.data[swap.key] = (swap.value, c.revision)
        return kv.CompareAndSwapResponse(swapped=True, revision=c.revision)

    def _write(self, write: kv.WriteRequest) -> kv.WriteResponse:
        c = self.cluster
        c.batches.append(len(write.operations))
        if c.before_write is not None:
            c.before_write()
        for condition in write.conditions:
            value, revision = c.data.get(condition.key, (b"", 0))
            if revision != condition.revision:
                return kv.WriteResponse(revision=revision, failed_key=condition.key, value=value, found=revision > 0)
        c.revision += 1
        for operation in write.operations:
            del c.data[operation.delete.key]
        return kv.WriteResponse(done=True, revision=c.revision)

    def Watch(self, request: kv.WatchRequest, context: grpc.ServicerContext) -> Iterator[kv.WatchResponse]:
        c = self.cluster
        self.cluster.watched.append(request)
        told = request.from_revision - 1 if request.from_revision else c.revision
        yield kv.WatchResponse(revision=told, header=self.header)
        events = [event for event in c.changes if event.revision > told]
        yield kv.WatchResponse(events=events, revision=max([told, *(event.revision for event in events)]), header=self.header)
        while context.is_active():
            time.sleep(0.02)

    def Scan(self, request: kv.ScanRequest, context: grpc.ServicerContext) -> Iterator[kv.ScanResponse]:
        self._must_lead(context)
        found = sorted(k for k in self.cluster.data if k >= request.start and (not request.end or k < request.end))
        if request.limit:
            found = found[: request.limit]
        items = [
            kv.KeyValue(key=k, value=b"" if request.keys_only else self.cluster.data[k][0], revision=self.cluster.data[k][1])
            for k in found
        ]
        yield kv.ScanResponse(revision=self.cluster.revision, items=items, header=self.header)

    # --- Inspect

    def ReadLog(self, request: ins.ReadLogRequest, context: grpc.ServicerContext) -> Iterator[ins.ReadLogResponse]:
        entries = [e for e in self.cluster.log if e.index >= request.from_index]
        entries = entries[-request.limit :] if request.tail else entries[: request.limit]
        yield ins.ReadLogResponse(
            header=self.header,
            entries=entries,
            first_index=46001,
            last_index=self.cluster.commit,
            commit_index=self.cluster.commit,
            snapshot_index=48000,
            snapshot_term=7,
            next_index=self.cluster.commit + 1,
        )

    @property
    def snapshot_header(self) -> bytes:
        fields = {
            "format": 1,
            "cluster_id": self.cluster.cluster_id,
            "cluster_name": self.cluster.name,
            "index": 48000,
            "term": 7,
            "voters": [1, 2, 3],
            "learners": [],
            "revision": 47000,
            "keys": 184220,
            "size_bytes": len(self.cluster.snapshot),
            "sha256": hashlib.sha256(self.cluster.snapshot).hexdigest(),
            "taken_at_ms": 1772445851000,
            "taken_by": "n1",
        }
        return json.dumps(fields).encode()

    @property
    def snapshot_info(self) -> ins.SnapshotInfo:
        return ins.SnapshotInfo(
            name="snapshot-48000",
            cluster_id=self.cluster.cluster_id,
            cluster_name=self.cluster.name,
            index=48000,
            term=7,
            voters=[1, 2, 3],
            keys=184220,
            size_bytes=len(self.cluster.snapshot),
            sha256=hashlib.sha256(self.cluster.snapshot).digest(),
            taken_at_ms=1772445851000,
            taken_by="n1",
            revision=47000,
            format=1,
        )

    def StateHash(self, request: ins.StateHashRequest, context: grpc.ServicerContext) -> ins.StateHashResponse:
        self._must_lead(context)
        if self.cluster.state_hash is None:
            refuse(context, Reason.UNSUPPORTED_VERSION, "checksum entries need format 2, which is not known to n3")
        return self.cluster.state_hash or ins.StateHashResponse()

    def StoreStats(self, request: ins.StoreStatsRequest, context: grpc.ServicerContext) -> ins.StoreStatsResponse:
        environments = [ins.EnvironmentStats(name=name, used_bytes=MIB) for name in ("raft", "state-1")]
        return ins.StoreStatsResponse(header=self.header, environments=environments)

    def Compact(self, request: ins.CompactRequest, context: grpc.ServicerContext) -> ins.CompactResponse:
        if not request.dry_run:
            self.cluster.asked.append(request)
        return ins.CompactResponse(
            header=self.header, first_index_before=46001, first_index=46011, last_index=self.cluster.commit,
            log_used_bytes_before=MIB, log_used_bytes=MIB if request.dry_run else MIB // 2,
        )  # fmt: skip

    def ListSnapshots(self, request: ins.ListSnapshotsRequest, context: grpc.ServicerContext) -> ins.ListSnapshotsResponse:
        return ins.ListSnapshotsResponse(header=self.header, snapshots=[self.snapshot_info])

    def SaveSnapshot(self, request: ins.SaveSnapshotRequest, context: grpc.ServicerContext) -> ins.SaveSnapshotResponse:
        return ins.SaveSnapshotResponse(header=self.header, snapshot=self.snapshot_info)

    def FetchSnapshot(
        self, request: ins.FetchSnapshotRequest, context: grpc.ServicerContext
    ) -> Iterator[ins.FetchSnapshotResponse]:
        c = self.cluster
        c.asked.append(request)
        first = True
        for offset in range(request.offset, len(c.snapshot), CHUNK_BYTES):
            if c.break_after and offset >= c.break_after:
                c.break_after = 0
                context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
            yield ins.FetchSnapshotResponse(
                header=self.snapshot_header if first else b"",
                size_bytes=len(c.snapshot) if first else 0,
                offset=offset,
                data=c.snapshot_damage(c.snapshot[offset : offset + CHUNK_BYTES]),
            )
            first = False
