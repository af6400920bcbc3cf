"""The Transport over gRPC: the set of peers, the snapshots on their way, and the question who is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from random import Random, SystemRandom
from typing import Any, Final, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Wire

from ravel_node.raft.errors import InvariantError, invariant
from ravel_node.raft.types import Index, Message, ReplicaId, Term
from ravel_node.transport.base import (
    HashAt,
    Hello,
    MemberAddress,
    OutgoingSnapshot,
    PeerStats,
    ProbeAnswer,
    ProbeFailedError,
    StateHashes,
    TransportListener,
)
from ravel_node.transport.calls import (
    MEMBER,
    PROBE,
    STATE_HASHES,
    ChannelFactory,
    close_quietly,
    ended_by,
    hello_to,
    insecure_channel,
)
from ravel_node.transport.peer import Peer, PeerOptions
from ravel_node.transport.snapshot_stream import SnapshotSender, TransferFailedError
from ravel_node.transport.wire import WireError
from ravelpb.v1 import raft_pb2

CLOSE_TIMEOUT_S: Final = 0.8

Answer = TypeVar("Answer", bound=Wire)

_log = structlog.get_logger(__name__)


class GrpcTransport:
    """See `Transport`. `channel_factory` makes the channels to peers: the place for credentials.

    `on_fault` is called for each attempt to reach a peer, by stream or with a snapshot, that ended by an error in this program.
    `on_broken` gets an error after which the replica must not go on; by default the event loop's handler gets it.
    """

    def __init__(
        self,
        *,
        channel_factory: ChannelFactory = insecure_channel,
        options: PeerOptions | None = None,
        rng: Random | None = None,
        on_fault: Callable[[], None] = lambda: None,
        on_broken: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._channel_factory = channel_factory
        self._options = options or PeerOptions()
        self._rng = rng or SystemRandom()
        self._on_fault = on_fault
        self._on_broken = on_broken or _leave_to_the_loop
        self._peers: dict[ReplicaId, Peer] = {}
        self._snapshots: dict[ReplicaId, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._hello: Callable[[], Hello] | None = None
        self._listener: TransportListener | None = None
        self._closed = False

    async def start(self, hello: Callable[[], Hello], listener: TransportListener) -> None:
        self._hello, self._listener = hello, listener

    async def close(self) -> None:
        """See Transport. Safe to call twice; a closed transport drops everything."""
        self._closed = True
        for peer_id in list(self._peers):
            self.remove_peer(peer_id)
        if self._ending or self._snapshots:
            await asyncio.wait([*self._ending, *self._snapshots.values()], timeout=CLOSE_TIMEOUT_S)

    # --- peers

    def add_peer(self, peer: ReplicaId, address: str, server_id: str) -> None:
        """See Transport. Only after `start`."""
        hello, listener = self._hello, self._listener
        invariant(hello is not None and listener is not None, f"peer {peer} was added to a transport that is not started")
        if hello is None or listener is None or self._closed:
            return
        known = self._peers.get(peer)
        if known is not None:
            if (known.address, known.server_id) == (address, server_id):
                return
            self._end(known.close())
        new = Peer(
            peer,
            address,
            server_id,
            hello=hello,
            listener=listener,
            channel_factory=self._channel_factory,
            options=self._options,
            rng=self._rng,
            on_fault=self._on_fault,
            on_broken=self._on_broken,
        )
        if known is not None:
            new.stats = known.stats
            new.stats.connected = False
        self._peers[peer] = new
        new.start()

    def remove_peer(self, peer: ReplicaId) -> None:
        """See Transport. A snapshot on its way there ends as not delivered."""
        known = self._peers.pop(peer, None)
        if known is not None:
            self._end(known.close())
        if (task := self._snapshots.get(peer)) is not None:
            task.cancel()

    def _end(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(closing)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def nudge(self, peer: ReplicaId) -> None:
        """That replica has just dialled this one, so it can be reached again: do not wait for the next attempt."""
        if (known := self._peers.get(peer)) is not None:
            known.nudge()

    def stats(self, peer: ReplicaId) -> PeerStats:
        """See Transport. Empty for an unknown peer."""
        known = self._peers.get(peer)
        return PeerStats() if known is None else known.stats

    # --- messages

    def send(self, messages: Sequence[Message]) -> None:
        peers = self._peers
        for message in messages:
            if (peer := peers.get(message.to)) is not None:
                peer.send(message)

    def send_snapshot(self, message: Message, file: OutgoingSnapshot) -> None:
        peer, hello, listener = self._peers.get(message.to), self._hello, self._listener
        invariant(hello is not None and listener is not None, "a snapshot was given to a transport that is not started")
        if hello is None or listener is None:
            return
        if peer is None or message.to in self._snapshots or self._closed:
            asyncio.get_running_loop().call_soon(listener.snapshot_sent, message.to, False)
            return
        task = asyncio.get_running_loop().create_task(self._carry(peer, hello(), message, file), name=f"snapshot-to-{message.to}")
        self._snapshots[message.to] = task
        task.add_done_callback(lambda done: self._carried(message.to, listener, done))

    async def _carry(self, peer: Peer, hello: Hello, message: Message, file: OutgoingSnapshot) -> None:
        stats = peer.stats
        stats.snapshot_index = message.snapshot.index if message.snapshot else 0
        stats.snapshot_sent_bytes, stats.snapshot_size_bytes = 0, file.size_bytes
        try:
            await SnapshotSender(
                address=peer.address,
                hello=hello_to(hello, peer.id),
                message=message,
                file=file,
                stats=stats,
                channel_factory=self._channel_factory,
                rng=self._rng,
            ).run()
        except (TransferFailedError, WireError) as error:
            stats.last_error = str(error)
            _log.warning("transport.snapshot_failed", peer=peer.id, index=stats.snapshot_index, why=str(error))
            raise
        finally:
            stats.snapshot_index = stats.snapshot_sent_bytes = stats.snapshot_size_bytes = 0

    def _carried(self, peer: ReplicaId, listener: TransportListener, task: asyncio.Task[None]) -> None:
        del self._snapshots[peer]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, InvariantError):
            self._on_broken(error)
        elif error is not None and not isinstance(error, TransferFailedError | WireError):
            self._on_fault()
            _log.error("transport.snapshot_failed", peer=peer, why=f"an error in this program: {error!r}", exc_info=error)
        listener.snapshot_sent(peer, not task.cancelled() and error is None)

    # --- questions

    async def probe(self, address: str, timeout_s: float) -> ProbeAnswer:
        """See Transport. May be asked before `start`."""
        answer = await self._ask(address, PROBE, raft_pb2.ProbeRequest(), raft_pb2.ProbeResponse, timeout_s)
        return ProbeAnswer(
            server_id=answer.server_id,
            cluster_id=answer.cluster_id,
            replica_id=ReplicaId(answer.replica_id),
            version=answer.version,
            boot_id=answer.boot_id,
            boot_number=answer.boot_number,
            term=Term(answer.term),
            last_index=Index(answer.last_index),
        )

    async def state_hashes(self, peer: ReplicaId, timeout_s: float) -> StateHashes:
        known, hello = self._known(peer)
        request = raft_pb2.StateHashesRequest(hello=hello_to(hello, peer))
        answer = await self._ask(known.address, STATE_HASHES, request, raft_pb2.StateHashesResponse, timeout_s)
        _require_answer_of(peer, known.address, hello, answer.hello)
        return StateHashes(
            Index(answer.applied_index),
            tuple(HashAt(Index(one.index), Term(one.term), one.sha256, one.problem) for one in answer.hashes),
        )

    async def member(self, peer: ReplicaId, replica_id: ReplicaId, timeout_s: float) -> MemberAddress | None:
        known, hello = self._known(peer)
        request = raft_pb2.MemberRequest(hello=hello_to(hello, peer), replica_id=replica_id)
        answer = await self._ask(known.address, MEMBER, request, raft_pb2.MemberResponse, timeout_s)
        _require_answer_of(peer, known.address, hello, answer.hello)
        return MemberAddress(answer.server_id, answer.address, answer.removed) if answer.known else None

    def _known(self, peer: ReplicaId) -> tuple[Peer, Hello]:
        known, hello = self._peers.get(peer), self._hello
        if known is None or hello is None:
            raise ProbeFailedError(f"replica {peer} is no peer of this one")
        return known, hello()

    async def _ask(self, address: str, method: str, request: Wire, answer: type[Answer], timeout_s: float) -> Answer:
        """One question on a connection of its own. Raises ProbeFailedError."""
        channel = self._channel_factory(address)
        try:
            ask: Any = channel.unary_unary(method)
            return answer.FromString(await ask(request.SerializeToString(), timeout=timeout_s))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise ProbeFailedError(f"the replica at {address} is of a version that does not answer this") from error
            raise ProbeFailedError(f"no replica answers at {address}: {ended_by(error).why}") from error
        except DecodeError as error:
            raise ProbeFailedError(f"what answers at {address} is no replica of ravel: {error}") from error
        finally:
            await close_quietly(channel)


def _require_answer_of(peer: ReplicaId, address: str, hello: Hello, theirs: raft_pb2.PeerHello) -> None:
    """Raise ProbeFailedError unless the answer is that of the peer that was asked."""
    if (theirs.cluster_id, theirs.from_replica_id) != (hello.cluster_id, peer):
        raise ProbeFailedError(f"at {address} answers replica {theirs.from_replica_id}, where replica {peer} was meant")


def _leave_to_the_loop(error: BaseException) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "the transport is broken", "exception": error})
