"""The KV service: limits, encoding, one await on the replica, the answer. What is decided is decided by the replica and the
machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from random import SystemRandom
from typing import Any, Final

from ravel_node.machine import envelope, kv
from ravel_node.machine.base import Outcome
from ravel_node.replica.errors import ReplicaStoppedError
from ravel_node.replica.formats import draw_client_id
from ravel_node.replica.replica import Replica
from ravel_node.server.commands import WRITES, answer_put, check_outcome, check_owned, encode_put, mode_of, once_of
from ravel_node.server.host import Host
from ravel_node.server.interrupts import Interrupts
from ravel_node.server.limits import Limits
from ravel_node.server.session import SessionStream
from ravel_node.server.slot_subscription import Wanted
from ravel_node.server.watch import EncodedResponse, Range, Watches
from ravelpb.v1 import common_pb2, kv_pb2

_NO_SESSION: Final = None
_RANDOM: Final = SystemRandom()


class KVHandlers:
    """Handlers of `ravel.v1.KV` for the replica of one host."""

    def __init__(self, host: Host, limits: Limits) -> None:
        self._host = host
        self._limits = limits
        self._streams = Interrupts()
        self._watches: Watches | None = None  # of the host's replica, once there is one

    def close(self) -> None:
        """Let Session streams answer what they have read, and end; end Watch streams."""
        self._streams.interrupt(ReplicaStoppedError())

    def _header(self, replica: Replica) -> common_pb2.ResponseHeader:
        identity = self._host.identity
        return common_pb2.ResponseHeader(
            cluster_id=identity.cluster_id, replica_id=identity.replica_id, term=replica.term, index=replica.applied.index
        )

    # --- writes

    async def put(self, request: kv_pb2.PutRequest) -> kv_pb2.PutResponse:
        command, grows = encode_put(request, self._limits)
        replica = self._host.replica
        once = once_of(request.once) if request.HasField("once") else _NO_SESSION
        (outcome,) = await replica.propose(envelope.group((command,), once), 1, grows=grows)
        check_outcome(outcome, once)
        response = kv_pb2.PutResponse()
        answer_put(response, outcome)
        response.header.CopyFrom(self._header(replica))
        return response

    async def delete(self, request: kv_pb2.DeleteRequest) -> kv_pb2.DeleteResponse:
        response: kv_pb2.DeleteResponse = await self._write("delete", request)
        return response

    async def get_and_delete(self, request: kv_pb2.GetAndDeleteRequest) -> kv_pb2.GetAndDeleteResponse:
        response: kv_pb2.GetAndDeleteResponse = await self._write("get_and_delete", request)
        return response

    async def compare_and_swap(self, request: kv_pb2.CompareAndSwapRequest) -> kv_pb2.CompareAndSwapResponse:
        response: kv_pb2.CompareAndSwapResponse = await self._write("compare_and_swap", request)
        return response

    async def write(self, request: kv_pb2.WriteRequest) -> kv_pb2.WriteResponse:
        response: kv_pb2.WriteResponse = await self._write("write", request)
        return response

    async def register_session(self, request: kv_pb2.RegisterSessionRequest) -> kv_pb2.RegisterSessionResponse:
        replica = self._host.replica
        client_id = draw_client_id(replica.machine.members.values(), _RANDOM)
        (outcome,) = await replica.propose(envelope.group((envelope.register_session(client_id),)), 1, grows=False)
        check_outcome(outcome, _NO_SESSION)
        return kv_pb2.RegisterSessionResponse(client_id=outcome.revision, header=self._header(replica))

    async def _write(self, kind: str, request: Any) -> Any:
        write = WRITES[kind]
        command, grows = write.encode(request, self._limits)
        replica = self._host.replica
        once = once_of(request.once) if request.HasField("once") else _NO_SESSION
        outcome: Outcome
        (outcome,) = await replica.propose(envelope.group((command,), once), 1, grows=grows)
        check_outcome(outcome, once)
        response = write.response()
        write.answer(response, outcome)
        response.header.CopyFrom(self._header(replica))
        return response

    # --- reads

    async def get(self, request: kv_pb2.GetRequest) -> kv_pb2.GetResponse:
        key = request.key
        self._limits.key(key)
        mode = mode_of(request.consistency)
        replica = self._host.replica
        if replica.cold:
            await replica.page_in((key,))
        if not replica.barrier_free(mode):
            await replica.read_barrier(mode)
        if (ownership := replica.machine.ownership) is not None:
            check_owned(ownership, key)
        found = kv.get(replica.reader(), key)
        replica.vitals.reads += 1
        header = self._header(replica)
        if found is None:
            return kv_pb2.GetResponse(header=header)
        return kv_pb2.GetResponse(revision=found.revision, value=found.value, found=True, header=header)

    async def scan(self, request: kv_pb2.ScanRequest) -> AsyncIterator[kv_pb2.ScanResponse]:
        """Pages until `limit` or the end; each passes the read barrier anew, so it is as fresh as its own moment."""
        page_keys = self._limits.scan(request.start, request.end, request.page_keys_max)
        mode = mode_of(request.consistency)
        start, end = request.start, request.end or None
        left = request.limit or None
        while True:
            replica = self._host.replica
            count = page_keys if left is None else min(page_keys, left)
            if replica.cold:
                await replica.page_in_range(start, end, count + 1, kv.PAGE_READ_BYTES_MAX)
            if not replica.barrier_free(mode):
                await replica.read_barrier(mode)
            ownership = replica.machine.ownership
            page = kv.scan(replica.reader(), start, end, count, keys_only=request.keys_only, ownership=ownership)
            replica.vitals.reads += 1
            if left is not None:
                left -= len(page.items)
            more = page.more and left != 0
            yield kv_pb2.ScanResponse(
                revision=page.revision,
                items=[kv_pb2.KeyValue(key=item.key, value=item.value, revision=item.revision) for item in page.items],
                more=more,
                header=self._header(replica),
                slots=b"" if ownership is None else ownership.owned,
            )
            if not more:
                return
            start = page.next

    async def watch(self, request: kv_pb2.WatchRequest) -> AsyncIterator[EncodedResponse]:
        """The changes of a range, from a revision on, for ever."""
        wanted = Range(*self._limits.watch(request))
        slots = [Wanted(part.slots, part.from_revision, part.came if part.HasField("came") else None) for part in request.slots]
        progress_s = self._limits.progress_s(request.progress_ms)
        replica = self._host.replica
        if self._watches is None or self._watches.replica is not replica:
            self._watches = Watches(replica, self._streams, self._limits.watches_max, lambda: self._header(replica))
        async with aclosing(self._watches.watch(wanted, request.from_revision, progress_s, slots)) as responses:
            async for response in responses:
                yield response

    async def session(self, requests: AsyncIterator[kv_pb2.SessionRequest]) -> AsyncIterator[kv_pb2.SessionResponse]:
        _ = (
            self._host.replica
        )  # a daemon without one refuses the stream before it reads: its refusal proves that nothing was done
        stream = SessionStream(self._host, self._limits, requests, self._streams, self._header)
        async with aclosing(stream.answers()) as answers:
            async for answer in answers:
                yield answer
