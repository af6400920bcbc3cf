"""A cluster that does what a test says: real gRPC servers around one dictionary, with faults.

`FakeCluster` is the replicated state: data, sessions with the semantics of the real machine (a sequence runs once, those below
`acked_below` never), and a count of how often each value was really written. `FakeReplica` is one server of it. The leader is
whom the test says. Faults come from `cluster.script`: it is asked for each Session request that a leader gets.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio

from ravelpb.errors import DOMAIN, Field, Reason
from ravelpb.metadata import CLUSTER_ID
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1 import admin_pb2, cluster_pb2, common_pb2, inspect_pb2, kv_pb2

ALL_SLOTS = (1 << SLOT_COUNT) - 1

WINDOW_MAX = 1024
"""What the design lets a session have out at once."""


class Fault(Enum):
    """What happens to one Session request."""

    NONE = "answer"
    LOSE_ANSWER = "apply, then break the stream"
    BREAK = "break the stream without applying"
    APPLY_LATER = "break the stream, apply a little later"
    HANG = "apply nothing, answer nothing, and nothing after it"
    APPLY_AND_HANG = "apply, answer nothing, and nothing after it"
    BUSY = "refuse for now"
    UNKNOWN_DONE = "apply, then say that nobody knows"
    UNKNOWN_LOST = "do not apply, say that nobody knows"
    SWAP = "answer after the next one"
    NONSENSE = "apply, answer with a result too few"
    SLOW = "apply, answer after a while"
    QUOTA = "refuse for good"
    END = "apply, answer, end the stream in order"
    SHUTTING_DOWN = "refuse because of a shutdown"


class ExpiredError(Exception):
    """The session is not known."""


class ForgottenError(Exception):
    """The sequence lies below what was acknowledged."""


class FakeSession:
    def __init__(self) -> None:
        self.results: dict[int, kv_pb2.Result] = {}
        self.acked_below = 0


class FakeCluster:
    """State, and who leads. `applied` counts how often each value was written by a put, a swap or a write."""

    def __init__(self) -> None:
        self.data: dict[bytes, tuple[bytes, int]] = {}
        self.revision = 0
        self.sessions: dict[int, FakeSession] = {}
        self.sessions_made = 0
        self.applied: Counter[bytes] = Counter()
        self.violations: list[str] = []
        self.leader: FakeReplica | None = None
        self.replicas: list[FakeReplica] = []
        self.script: Callable[[kv_pb2.SessionRequest], Fault] = lambda request: Fault.NONE
        self.requests: list[kv_pb2.SessionRequest] = []  # that a leader got, in order
        self.late_s = 0.05
        self.history: list[list[kv_pb2.KeyEvent]] = []  # what each revision changed, from the first on
        self.hint = True  # followers tell the leader's address
        self.owned = ALL_SLOTS  # as a set of bits
        self.frozen = 0  # of those it owns
        self.map_version = 0  # of the newest map that changed what it owns
        self.tenures: dict[
            int, tuple[int, int]
        ] = {}  # of slots that ever moved: after which revision they came, at which they left
        self.arrivals: dict[int, int] = {}  # of slots that came: the revision after they did
        self.before_page: Callable[[], None] = lambda: None

    def expire_sessions(self) -> None:
        self.sessions.clear()

    def register(self) -> int:
        self.sessions_made += 1
        self.sessions[self.sessions_made << 16] = FakeSession()
        return self.sessions_made << 16

    def run(self, request: kv_pb2.SessionRequest) -> list[kv_pb2.Result]:
        """Apply the commands of a request as the log would."""
        return [self._run_one(request, i, command) for i, command in enumerate(request.commands)]

    def _run_one(self, request: kv_pb2.SessionRequest, i: int, command: kv_pb2.Command) -> kv_pb2.Result:
        if not request.HasField("once") or command.HasField("get"):
            return self._apply(command)
        try:
            return self._apply_once(request.once, request.once.sequence + i, command)
        except ExpiredError:
            return error_result(Reason.SESSION_EXPIRED, "the session is not known")
        except ForgottenError:
            return error_result(Reason.OUTCOME_UNKNOWN, "its answer is gone")

    def _apply_once(self, once: common_pb2.Once, sequence: int, command: kv_pb2.Command) -> kv_pb2.Result:
        session = self.sessions.get(once.client_id)
        if session is None:
            raise ExpiredError
        if once.acked_below > session.acked_below:
            session.acked_below = once.acked_below
            session.results = {s: r for s, r in session.results.items() if s >= once.acked_below}
        if sequence < session.acked_below:
            raise ForgottenError
        if sequence not in session.results:
            if (refusal := self._foreign(command)) is not None:
                return refusal  # nothing was done, and nothing is kept
            session.results[sequence] = self._apply(command)
        if len(session.results) > WINDOW_MAX or sequence - session.acked_below >= WINDOW_MAX:
            self.violations.append(f"sequence {sequence} with acked_below {session.acked_below} exceeds the window")
        return session.results[sequence]

    def _apply(self, command: kv_pb2.Command) -> kv_pb2.Result:
        kind = command.WhichOneof("op")
        assert kind is not None
        if (refusal := self._foreign(command)) is not None:
            return refusal
        result = kv_pb2.Result()
        getattr(result, kind).CopyFrom(getattr(self, f"_{kind}")(getattr(command, kind)))
        return result

    def _foreign(self, command: kv_pb2.Command) -> kv_pb2.Result | None:
        """The refusal of a command whose keys are not all served here."""
        reads = command.HasField("get")
        if command.HasField("write"):
            parts = [getattr(part, part.WhichOneof("op") or "") for part in command.write.operations]
            keys = [part.key for part in (*command.write.conditions, *parts)]
        else:
            keys = [getattr(command, command.WhichOneof("op") or "").key]
        for slot in map(slot_of, keys):
            if not self.owned >> slot & 1:
                fields = {Field.MAP_VERSION: str(self.map_version), Field.SLOT: str(slot)}
                return kv_pb2.Result(error=make_status(Reason.WRONG_CLUSTER, f"slot {slot} is not of this cluster", fields))
            if self.frozen >> slot & 1 and not reads:
                return kv_pb2.Result(error=make_status(Reason.SLOT_MOVING, f"slot {slot} is moving", {Field.SLOT: str(slot)}))
        return None

    def _set(self, key: bytes, value: bytes) -> int:
        self.revision += 1
        self.data[key] = (value, self.revision)
        self.applied[value] += 1
        self.history.append([kv_pb2.KeyEvent(key=key, value=value, revision=self.revision)])
        return self.revision

    def _deleted(self, key: bytes) -> kv_pb2.KeyEvent:
        return kv_pb2.KeyEvent(kind=kv_pb2.KeyEvent.DELETE, key=key, revision=self.revision)

    def _put(self, request: kv_pb2.PutRequest) -> kv_pb2.PutResponse:
        return kv_pb2.PutResponse(revision=self._set(request.key, request.value))

    def _get(self, request: kv_pb2.GetRequest) -> kv_pb2.GetResponse:
        if request.key not in self.data:
            return kv_pb2.GetResponse()
        value, revision = self.data[request.key]
        return kv_pb2.GetResponse(revision=revision, value=value, found=True)

    def _delete(self, request: kv_pb2.DeleteRequest) -> kv_pb2.DeleteResponse:
        found = self.data.pop(request.key, None) is not None
        self.revision += found
        if found:
            self.history.append([self._deleted(request.key)])
        return kv_pb2.DeleteResponse(revision=self.revision, found=found)

    def _get_and_delete(self, request: kv_pb2.GetAndDeleteRequest) -> kv_pb2.GetAndDeleteResponse:
        if request.key not in self.data:
            return kv_pb2.GetAndDeleteResponse()
        self.revision += 1
        value, revision = self.data.pop(request.key)
        self.history.append([self._deleted(request.key)])
        return kv_pb2.GetAndDeleteResponse(revision=revision, value=value, found=True)

    def _compare_and_swap(self, request: kv_pb2.CompareAndSwapRequest) -> kv_pb2.CompareAndSwapResponse:
        value, revision = self.data.get(request.key, (b"", 0))
        if revision != request.expected_revision:
            return kv_pb2.CompareAndSwapResponse(revision=revision, value=value, found=revision > 0)
        return kv_pb2.CompareAndSwapResponse(swapped=True, revision=self._set(request.key, request.value))

    def _write(self, request: kv_pb2.WriteRequest) -> kv_pb2.WriteResponse:
        for condition in request.conditions:
            value, revision = self.data.get(condition.key, (b"", 0))
            if revision != condition.revision:
                return kv_pb2.WriteResponse(revision=revision, failed_key=condition.key, value=value, found=revision > 0)
        self.revision += 1
        events: list[kv_pb2.KeyEvent] = []
        for operation in request.operations:
            if operation.HasField("put"):
                key, value = operation.put.key, operation.put.value
                self.data[key] = (value, self.revision)
                self.applied[value] += 1
                events.append(kv_pb2.KeyEvent(key=key, value=value, revision=self.revision))
            elif self.data.pop(operation.delete.key, None) is not None:
                events.append(self._deleted(operation.delete.key))
        self.history.append(events)
        return kv_pb2.WriteResponse(done=True, revision=self.revision)


class FakeReplica:
    """One server. `cluster_calls` and `inspect_calls` are answered by functions that a test sets, by method name."""

    def __init__(self, cluster: FakeCluster, replica_id: int) -> None:
        self.cluster = cluster
        self.replica_id = replica_id
        self.server_id = f"{replica_id:032x}"
        self.address = ""
        self.is_admin = False  # as of the next start
        self.hangs = False
        self.refusal: status_pb2.Status | None = None  # ends every Session stream, refuses every other call
        self.scans_break_after: deque[int] = deque()  # pages after which the next scans break
        self.first_revision = 1  # what a watch may begin with here
        self.cluster_id = "c" * 32
        self.meant: list[str] = []  # the cluster that each call named, in order; empty: none
        self.watches_break_after: deque[int] = deque()  # messages after which the next watches break
        self.serves: dict[int, int] = {}  # the slots of the newest watch that names some, and their `came`
        self.watches_fall_silent = False  # after their first message
        self.calls: Counter[str] = Counter()
        self.answers: dict[str, Callable[[Any], Any]] = {"Status": lambda request: cluster_pb2.StatusResponse()}
        self._server: aio.Server | None = None

    async def start(self, port: int = 0) -> None:
        server = aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 4 << 20),
                ("grpc.max_send_message_length", -1),
            ]
        )
        admin = (self._admin(),) if self.is_admin else ()
        server.add_generic_rpc_handlers((self._kv(), self._cluster(), self._inspect(), *admin))
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    @property
    def leads(self) -> bool:
        return self.cluster.leader is self

    def not_leader(self) -> status_pb2.Status:
        leader = self.cluster.leader
        if leader is None:
            return make_status(Reason.NO_LEADER, "no leader is known here")
        fields = {Field.LEADER_ID: str(leader.replica_id), Field.LEADER_ADDRESS: leader.address if self.cluster.hint else ""}
        return make_status(Reason.NOT_LEADER, "another replica leads", fields)

    # KV

    def _kv(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            "ravel.v1.KV",
            {
                "Session": grpc.stream_stream_rpc_method_handler(
                    self._session, kv_pb2.SessionRequest.FromString, kv_pb2.SessionResponse.SerializeToString
                ),
                "RegisterSession": grpc.unary_unary_rpc_method_handler(
                    self._register_session,
                    kv_pb2.RegisterSessionRequest.FromString,
                    kv_pb2.RegisterSessionResponse.SerializeToString,
                ),
                "Scan": grpc.unary_stream_rpc_method_handler(
                    self._scan, kv_pb2.ScanRequest.FromString, kv_pb2.ScanResponse.SerializeToString
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    self._watch, kv_pb2.WatchRequest.FromString, kv_pb2.WatchResponse.SerializeToString
                ),
            },
        )

    @property
    def header(self) -> common_pb2.ResponseHeader:
        return common_pb2.ResponseHeader(cluster_id=self.cluster_id, replica_id=self.replica_id, admin_group=self.is_admin)

    async def _admit(self, context: Any, *, leader_only: bool = True, streams: bool = False) -> None:
        """What a real server does before a handler runs, and what the test wants of this one."""
        meant = dict(context.invocation_metadata()).get(CLUSTER_ID, "")
        self.meant.append(meant)
        if self.hangs:
            await asyncio.Event().wait()
        if meant and meant != self.cluster_id:
            fields = {Field.CLUSTER_ID: self.cluster_id}
            await refuse(context, make_status(Reason.WRONG_CLUSTER_ID, "meant for another cluster", fields))
        if streams and not meant:
            await context.send_initial_metadata(((CLUSTER_ID, self.cluster_id),))
        if self.refusal is not None:
            await refuse(context, self.refusal)
        if leader_only and not self.leads:
            await refuse(context, self.not_leader())

    async def _register_session(self, request: kv_pb2.RegisterSessionRequest, context: Any) -> kv_pb2.RegisterSessionResponse:
        self.calls["RegisterSession"] += 1
        await self._admit(context)
        return kv_pb2.RegisterSessionResponse(client_id=self.cluster.register(), header=self.header)

    async def _session(self, requests: AsyncIterator[kv_pb2.SessionRequest], context: Any) -> None:
        self.calls["Session"] += 1
        await self._admit(context, leader_only=False, streams=True)
        queue: asyncio.Queue[kv_pb2.SessionRequest | None] = asyncio.Queue()
        reader = asyncio.create_task(_pour(requests, queue))
        held: kv_pb2.SessionResponse | None = None
        try:
            while True:
                try:
                    async with asyncio.timeout(0.05 if held else None):
                        request = await queue.get()
                except TimeoutError:
                    assert held is not None
                    await context.write(held)
                    held = None
                    continue
                if request is None:
                    return
                if self.hangs:
                    await asyncio.Event().wait()
                if self.refusal is not None:
                    await refuse(context, self.refusal)
                answer, fault = await self._serve(request, context)
                if fault is Fault.SWAP and held is None:
                    held = answer
                    continue
                await context.write(answer)
                if held is not None:
                    await context.write(held)
                    held = None
                if fault is Fault.END:
                    return
        finally:
            reader.cancel()

    async def _serve(self, request: kv_pb2.SessionRequest, context: Any) -> tuple[kv_pb2.SessionResponse, Fault]:
        cluster = self.cluster
        reads_stale = all(command.get.consistency == kv_pb2.STALE for command in request.commands)
        if not self.leads and not reads_stale:
            refused = kv_pb2.Result(error=self.not_leader())
            return kv_pb2.SessionResponse(
                id=request.id, header=self.header, results=[refused] * len(request.commands)
            ), Fault.NONE
        cluster.requests.append(request)
        fault = cluster.script(request)
        reason = {
            Fault.BUSY: Reason.BUSY,
            Fault.UNKNOWN_LOST: Reason.OUTCOME_UNKNOWN,
            Fault.QUOTA: Reason.QUOTA_EXCEEDED,
            Fault.SHUTTING_DOWN: Reason.SHUTTING_DOWN,
        }.get(fault)
        if reason is not None:
            refused = error_result(reason, fault.value)
            return kv_pb2.SessionResponse(id=request.id, header=self.header, results=[refused] * len(request.commands)), fault
        match fault:
            case Fault.BREAK:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            case Fault.APPLY_LATER:
                asyncio.get_running_loop().call_later(cluster.late_s, cluster.run, request)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            case Fault.HANG:
                await asyncio.Event().wait()
        results = cluster.run(request)
        match fault:
            case Fault.LOSE_ANSWER:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            case Fault.APPLY_AND_HANG:
                await asyncio.Event().wait()
            case Fault.UNKNOWN_DONE:
                results = [error_result(Reason.OUTCOME_UNKNOWN, fault.value)] * len(results)
            case Fault.NONSENSE:
                results = results[:-1]
            case Fault.SLOW:
                await asyncio.sleep(0.05)
        return kv_pb2.SessionResponse(id=request.id, header=self.header, results=results), fault

    async def _scan(self, request: kv_pb2.ScanRequest, context: Any) -> None:
        self.calls["Scan"] += 1
        await self._admit(context, leader_only=request.consistency != kv_pb2.STALE, streams=True)
        pages_left = self.scans_break_after.popleft() if self.scans_break_after else -1
        start, left = request.start, request.limit or sys.maxsize
        more = True
        while more:
            if pages_left == 0:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            pages_left -= 1
            page, more = self._page(request, start, left)
            await context.write(page)
            if page.items:
                start, left = page.items[-1].key + b"\0", left - len(page.items)

    def _page(self, request: kv_pb2.ScanRequest, start: bytes, left: int) -> tuple[kv_pb2.ScanResponse, bool]:
        """One page of the keys as they are now, and whether another one follows."""
        cluster = self.cluster
        cluster.before_page()
        data = cluster.data
        keys = [key for key in data if start <= key and (not request.end or key < request.end)]
        keys = sorted(key for key in keys if cluster.owned >> slot_of(key) & 1)
        size = min(request.page_keys_max or 1000, left)
        more = size < min(left, len(keys))
        page = kv_pb2.ScanResponse(revision=cluster.revision, more=more, header=self.header)
        if cluster.owned != ALL_SLOTS:
            page.slots = cluster.owned.to_bytes(SLOT_COUNT // 8, "little")
        for key in keys[:size]:
            page.items.add(key=key, value=b"" if request.keys_only else data[key][0], revision=data[key][1])
        return page, more

    # Cluster and Inspect

    async def _watch(self, request: kv_pb2.WatchRequest, context: Any) -> None:
        """One revision a message."""
        self.calls["Watch"] += 1
        await self._admit(context, leader_only=False, streams=True)
        if request.slots:
            await self._watch_slots(request, context)
            return
        cluster, history = self.cluster, self.cluster.history
        told = request.from_revision - 1 if request.from_revision else len(history)
        slot = slot_of(request.key) if request.key else None
        came, left = cluster.tenures.get(slot, (0, 0)) if slot is not None else (0, 0)
        if not request.from_revision or told >= left:
            await self._check_owned(slot, context)
        first = max(self.first_revision, came + 1)
        if told + 1 < first:
            fields = {Field.FIRST_REVISION: str(first)}
            await refuse(context, make_status(Reason.COMPACTED, "compacted away", fields))
        start = request.key or request.start
        end = request.key + b"\0" if request.key else request.end
        header = self.header
        messages_left = self.watches_break_after.popleft() if self.watches_break_after else -1
        version = cluster.map_version
        await context.write(kv_pb2.WatchResponse(revision=told, header=header, map_version=version))
        while True:
            if self.refusal is not None:
                await refuse(context, self.refusal)
            if slot is not None and 0 < cluster.tenures.get(slot, (0, 0))[1] <= told:
                await context.write(kv_pb2.WatchResponse(revision=cluster.tenures[slot][1], header=header))
                await self._check_owned(slot, context)
            if messages_left == 0:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            if self.watches_fall_silent or (told >= len(history) and version == cluster.map_version):
                await asyncio.sleep(0.01)
                continue
            events = []
            if told < len(history):
                events = [event for event in history[told] if start <= event.key and (not end or event.key < end)]
                told += 1
            else:
                version = cluster.map_version
            messages_left -= 1
            await context.write(kv_pb2.WatchResponse(events=events, revision=told, header=header, map_version=version))

    async def _watch_slots(self, request: kv_pb2.WatchRequest, context: Any) -> None:
        cluster, history = self.cluster, self.cluster.history
        answer = kv_pb2.WatchResponse(header=self.header, map_version=cluster.map_version)
        first: dict[int, int] = {}  # of each slot that is watched
        came: dict[int, int] = {}
        for part in request.slots:
            for slot in part.slots:
                here, left = cluster.tenures.get(slot, (0, 0))
                if here > part.came if part.HasField("came") else 0 < part.from_revision <= here:
                    answer.missed.add(slots=[slot], from_revision=here + 1, came=here)
                elif (part.HasField("came") and here != part.came) or not (
                    cluster.owned >> slot & 1 or (slot in cluster.tenures and 0 < part.from_revision <= left + 1)
                ):
                    answer.absent.append(slot)
                else:
                    first[slot] = max(part.from_revision or len(history) + 1, cluster.arrivals.get(slot, 0) + 1)
                    came[slot] = here
        groups: dict[tuple[int, int], list[int]] = {}
        for slot, revision in first.items():
            groups.setdefault((revision, came[slot]), []).append(slot)
        for (revision, here), slots in groups.items():
            answer.began.add(slots=slots, from_revision=revision, came=here)
        told = min(first.values(), default=1) - 1
        if told + 1 < self.first_revision:
            fields = {Field.FIRST_REVISION: str(self.first_revision)}
            await refuse(context, make_status(Reason.COMPACTED, "compacted away", fields))
        messages_left = self.watches_break_after.popleft() if self.watches_break_after else -1
        answer.revision = told
        while True:
            gone: dict[int, list[int]] = {}
            for slot in list(first):
                here, left = cluster.tenures.get(slot, (0, 0))
                if here != came[slot]:
                    answer.missed.add(slots=[slot], from_revision=here + 1, came=here)
                elif not cluster.owned >> slot & 1 and left <= told:
                    gone.setdefault(left, []).append(slot)
                else:
                    continue
                del first[slot]
            for revision, slots in sorted(gone.items()):
                answer.left.add(slots=slots, revision=revision)
            answer.map_version = cluster.map_version
            if answer.events or answer.left or answer.missed or answer.began or answer.absent or told != answer.revision:
                answer.revision = told
                await context.write(answer)
                messages_left -= 1
            self.serves = {slot: came[slot] for slot in first}
            if not first:
                return
            answer = kv_pb2.WatchResponse(header=self.header, revision=told)
            if self.refusal is not None:
                await refuse(context, self.refusal)
            if messages_left == 0:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            if told >= len(history) or self.watches_fall_silent:
                await asyncio.sleep(0.01)
                continue
            told += 1
            for event in history[told - 1]:
                inside = request.start <= event.key and (not request.end or event.key < request.end)
                if inside and slot_of(event.key) in first and first[slot_of(event.key)] <= told:
                    answer.events.append(event)

    async def _check_owned(self, slot: int | None, context: Any) -> None:
        if slot is not None and not self.cluster.owned >> slot & 1:
            fields = {Field.MAP_VERSION: str(self.cluster.map_version)}
            await refuse(context, make_status(Reason.WRONG_CLUSTER, "the key is not of this cluster", fields))

    def _cluster(self) -> grpc.GenericRpcHandler:
        names = ("Bootstrap", "Join", "AddMember", "Promote", "Leave", "Update", "TransferLeader", "Status")
        methods = cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].methods_by_name
        leader_only = {"AddMember", "Promote", "Leave", "Update", "TransferLeader"}
        handlers = {name: self._unary(cluster_pb2, methods[name], leader_only=name in leader_only) for name in names}
        handlers |= {name: self._streaming(cluster_pb2, methods[name]) for name in ("WatchStatus", "Events")}
        return grpc.method_handlers_generic_handler("ravel.v1.Cluster", handlers)

    def _inspect(self) -> grpc.GenericRpcHandler:
        methods = inspect_pb2.DESCRIPTOR.services_by_name["Inspect"].methods_by_name
        handlers = {name: self._unary(inspect_pb2, methods[name]) for name in ("ListSnapshots", "SaveSnapshot", "StoreStats")}
        handlers |= {name: self._streaming(inspect_pb2, methods[name]) for name in ("ReadLog", "FetchSnapshot")}
        return grpc.method_handlers_generic_handler("ravel.v1.Inspect", handlers)

    def _admin(self) -> grpc.GenericRpcHandler:
        methods = admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods
        handlers = {
            method.name: self._streaming(admin_pb2, method)
            if method.server_streaming
            else self._unary(admin_pb2, method, leader_only=True)
            for method in methods
        }
        return grpc.method_handlers_generic_handler("ravel.v1.Admin", handlers)

    def _unary(self, module: Any, method: Any, *, leader_only: bool = False) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(request: Any, context: Any) -> Any:
            self.calls[method.name] += 1
            await self._admit(context, leader_only=leader_only)
            answer = self.answers[method.name](request)
            if isinstance(answer, status_pb2.Status):
                await refuse(context, answer)
            if not answer.HasField("header"):
                answer.header.CopyFrom(self.header)
            return answer

        request_class, response_class = getattr(module, method.input_type.name), getattr(module, method.output_type.name)
        return grpc.unary_unary_rpc_method_handler(handle, request_class.FromString, response_class.SerializeToString)

    def _streaming(self, module: Any, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        async def handle(request: Any, context: Any) -> None:
            await self._admit(context, leader_only=False, streams=True)
            for answer in self.answers[method.name](request):
                if isinstance(answer, status_pb2.Status):
                    await refuse(context, answer)
                await context.write(answer)

        request_class, response_class = getattr(module, method.input_type.name), getattr(module, method.output_type.name)
        return grpc.unary_stream_rpc_method_handler(handle, request_class.FromString, response_class.SerializeToString)


def make_status(reason: Reason | str, message: str, fields: dict[Field, str] | None = None) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        reason=reason, domain=DOMAIN, metadata={str(key): value for key, value in (fields or {}).items()}
    )
    packed = any_pb2.Any()
    packed.Pack(info)
    return status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message=message, details=[packed])


def error_result(reason: Reason, message: str) -> kv_pb2.Result:
    return kv_pb2.Result(error=make_status(reason, message))


async def refuse(context: Any, status: status_pb2.Status) -> None:
    """End the call as ravel's servers do."""
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, status.message, metadata)


async def _pour(requests: AsyncIterator[kv_pb2.SessionRequest], queue: asyncio.Queue[kv_pb2.SessionRequest | None]) -> None:
    async for request in requests:
        queue.put_nowait(request)
    queue.put_nowait(None)


@asynccontextmanager
async def fake_cluster(replicas: int = 1, *, admin: bool = False) -> AsyncIterator[FakeCluster]:
    """A running cluster whose first replica leads; with `admin` all of them serve Admin too."""
    cluster = FakeCluster()
    cluster.replicas = [FakeReplica(cluster, i + 1) for i in range(replicas)]
    for replica in cluster.replicas:
        replica.is_admin = admin
        await replica.start()
    cluster.leader = cluster.replicas[0]
    try:
        yield cluster
    finally:
        for replica in cluster.replicas:
            await replica.stop()


def scripted(faults: Iterable[Fault]) -> Callable[[kv_pb2.SessionRequest], Fault]:
    """These faults for the next requests, then none."""
    left = deque(faults)
    return lambda request: left.popleft() if left else Fault.NONE
