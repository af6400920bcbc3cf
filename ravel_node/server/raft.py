"""The RaftTransport service: what other replicas send. Served on the peer port only.

A stream begins with a hello that the replica checks; from then on every message must come from that replica and be meant for this
one. Bytes that are no Raft message end the stream they came on, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import Final, TypeVar

from ravel_node.raft.errors import RaftError
from ravel_node.raft.types import Message, MessageType, ReplicaId
from ravel_node.replica.errors import RemovedError, ReplicaStoppedError, WrongIdentityError
from ravel_node.server.binding import CallInfo
from ravel_node.server.host import Host
from ravel_node.server.interrupts import Interrupts
from ravel_node.server.limits import InputError
from ravel_node.server.peer_certificates import PeerCertificates
from ravel_node.transport.calls import hello_from, hello_to
from ravel_node.transport.snapshot_stream import receive_snapshot
from ravel_node.transport.wire import WireError, message_from_wire
from ravelpb.v1 import raft_pb2

HELLO_TIMEOUT_S: Final = 5.0
"""How long a caller may take to say who it is."""

OnPeer = Callable[[ReplicaId], None]
"""Called with the id of a replica that has dialled and is who it should be."""

_F = TypeVar("_F", raft_pb2.PeerFrame, raft_pb2.SnapshotChunk)


class RaftTransportHandlers:
    """Handlers of `ravel.v1.RaftTransport`. `on_peer` is told of each replica that has dialled and is who it should be.

    With `certificates` a replica must also show a certificate for the host that the cluster knows it at.
    """

    def __init__(self, host: Host, on_peer: OnPeer | None = None, certificates: PeerCertificates | None = None) -> None:
        self._host = host
        self._on_peer = on_peer
        self._certificates = certificates
        self._streams = Interrupts()
        self._install: Interrupts | None = None  # of the snapshot that comes in now
        self._installed = asyncio.Event()  # it has let go of its file

    def close(self) -> None:
        """End every stream: none of them has an end of its own."""
        self._streams.interrupt(ReplicaStoppedError())
        if self._install is not None:
            self._install.interrupt(ReplicaStoppedError())

    async def probe(self, request: raft_pb2.ProbeRequest) -> raft_pb2.ProbeResponse:
        """Who is here. Answered by a blank daemon too, with no cluster and replica 0."""
        identity = self._host.identity
        response = raft_pb2.ProbeResponse(
            server_id=identity.server_id,
            cluster_id=identity.cluster_id,
            replica_id=identity.replica_id,
            version=self._host.version,
            boot_id=self._host.boot_id,
        )
        if not identity.blank:
            hello = self._host.replica.hello()
            response.boot_number, response.term, response.last_index = hello.boot_number, hello.term, hello.last_index
        return response

    async def member(self, request: raft_pb2.MemberRequest, info: CallInfo | None = None) -> raft_pb2.MemberResponse:
        """What the log here says of a member, for a replica that has been away. Raises as `state_hashes`."""
        await self._welcome(request.hello, info)
        response = raft_pb2.MemberResponse(hello=self._own_hello(request.hello))
        found = self._host.replica.member_address(ReplicaId(request.replica_id))
        if found is not None:
            response.known, response.server_id = True, found.server_id
            response.address, response.removed = found.address, found.removed
        return response

    async def state_hashes(
        self, request: raft_pb2.StateHashesRequest, info: CallInfo | None = None
    ) -> raft_pb2.StateHashesResponse:
        """What this replica hashed of late. Raises what `exchange` does for a caller that is not who it should be."""
        await self._welcome(request.hello, info)
        found = self._host.replica.state_hashes()
        return raft_pb2.StateHashesResponse(
            hello=self._own_hello(request.hello),
            applied_index=found.applied_index,
            hashes=[
                raft_pb2.StateHashAt(index=one.index, term=one.term, sha256=one.sha256, problem=one.problem)
                for one in found.hashes
            ],
        )

    async def exchange(
        self, frames: AsyncIterator[raft_pb2.PeerFrame], info: CallInfo | None = None
    ) -> AsyncIterator[raft_pb2.PeerFrame]:
        """The caller's hello, ours, then its messages until it ends the stream. Raises BlankError, RemovedError and their kin."""
        frame = await _first(self._streams, frames)
        hello = frame.hello
        peer = await self._welcome(hello, info)
        yield raft_pb2.PeerFrame(hello=self._own_hello(hello))
        while True:
            if (record := self._host.machine.members.get(peer)) is not None and record.removed:
                # It was taken out while this stream was open. It may never hear that its removal was committed, but from this.
                raise RemovedError(f"replica {peer} was removed from cluster {hello.cluster_id} for good")
            if messages := [_checked(wire, hello) for wire in frame.messages]:
                if any(message.type is MessageType.SNAPSHOT for message in messages):
                    raise InputError("a snapshot came without its file: it has a stream of its own", field="messages")
                self._host.replica.step(messages)
            try:
                frame = await self._streams.guard(anext(frames))
            except StopAsyncIteration:
                return
            if frame.HasField("hello"):
                raise InputError(f"replica {peer} says hello twice on one stream", field="hello")

    async def _welcome(self, wire: raft_pb2.PeerHello, info: CallInfo | None) -> ReplicaId:
        replica, hello = self._host.replica, hello_from(wire)
        replica.admission.check(hello, ReplicaId(wire.to_replica_id))
        if self._certificates is not None:
            self._certificates.check(hello.replica_id, replica.admission.address_of(hello), info)
        await replica.admit_peer(hello, ReplicaId(wire.to_replica_id))
        if self._certificates is not None:
            # Members may have vouched for a replica that was not known before.
            self._certificates.check(hello.replica_id, replica.admission.address_of(hello), info)
        if self._on_peer is not None:
            self._on_peer(hello.replica_id)
        return hello.replica_id

    def _own_hello(self, theirs: raft_pb2.PeerHello) -> raft_pb2.PeerHello:
        """The answer to a hello. Without an address: the caller has dialled one."""
        return hello_to(replace(self._host.replica.hello(), address=""), theirs.from_replica_id)

    async def install_snapshot(
        self, chunks: AsyncIterator[raft_pb2.SnapshotChunk], info: CallInfo | None = None
    ) -> AsyncGenerator[raft_pb2.SnapshotProgress, None]:
        """One snapshot, from where an earlier transfer of the same file stopped. Once it is verified its message goes to the
        replica.

        Snapshots are taken one at a time: a newer stream ends an older one, which is likely a dead connection, and waits until
        the older has let go of the file.
        """
        first = await _first(self._streams, chunks)
        opened = first.open
        await self._welcome(opened.hello, info)
        message = _checked(opened.message, opened.hello)
        if message.type is not MessageType.SNAPSHOT or message.snapshot is None:
            raise InputError(f"a snapshot is announced by a message of type {message.type.name}", field="open.message")
        while self._install is not None:
            self._install.interrupt(RaftError("a newer transfer of a snapshot has taken the place of this one"))
            self._installed.clear()
            await self._streams.guard(self._installed.wait())
        own = self._install = Interrupts()
        try:
            replica = self._host.replica
            staged = await replica.receive_snapshot(message, opened.header, opened.size_bytes, opened.sha256)
            async for received in receive_snapshot(staged, message.snapshot, opened.size_bytes, chunks, own.guard):
                yield raft_pb2.SnapshotProgress(received_bytes=received)
            replica.step([message])
            yield raft_pb2.SnapshotProgress(received_bytes=opened.size_bytes, done=True)
        finally:
            self._install = None
            self._installed.set()


async def _first(streams: Interrupts, frames: AsyncIterator[_F]) -> _F:
    """The frame or chunk that opens a stream. Raises InputError for a caller that does not say who it is, or not in time."""
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            return await streams.guard(anext(frames))
    except TimeoutError:
        raise InputError(f"no hello came within {HELLO_TIMEOUT_S:g} s", field="hello") from None
    except StopAsyncIteration:
        raise InputError("the stream ended before a hello", field="hello") from None


def _checked(wire: raft_pb2.Message, hello: raft_pb2.PeerHello) -> Message:
    """The message, if it is one and comes from and goes to those who said hello. Raises InputError, WrongIdentityError."""
    try:
        message = message_from_wire(wire)
    except WireError as error:
        raise InputError(f"a message of replica {hello.from_replica_id} cannot be taken: {error}", field="messages") from error
    if message.from_ != hello.from_replica_id or message.to != hello.to_replica_id:
        raise WrongIdentityError(
            f"a message from replica {message.from_} to {message.to} came on the stream from replica {hello.from_replica_id} "
            f"to {hello.to_replica_id}: each pair of replicas has a stream of its own"
        )
    return message
