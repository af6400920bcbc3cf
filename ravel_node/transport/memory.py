"""A network in memory that loses, delays, repeats, reorders and cuts, all drawn from one seed.

For tests and for the simulator: time comes from `call_later` alone, so it runs on a real event loop as well as on virtual time.
What arrives went through the wire's encoding, so it is what a real peer would have got. Addresses are any strings; a server that
is not attached refuses connections (its peers are told), one that is cut off is silent (nobody is told).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol

from ravel_node.raft.errors import invariant
from ravel_node.raft.types import Message, ReplicaId
from ravel_node.transport.base import (
    EXPELLED,
    Hello,
    MemberAddress,
    OutgoingSnapshot,
    PeerRefusedError,
    PeerStats,
    ProbeAnswer,
    ProbeFailedError,
    StateHashes,
    TransportListener,
)
from ravel_node.transport.snapshot_stream import SnapshotSink
from ravel_node.transport.wire import message_from_wire, message_to_wire, size_of
from ravelpb.errors import Reason

CHUNK_BYTES: Final = 64 << 10

CallLater = Callable[[float, Callable[[], None]], object]
"""`loop.call_later` or its like: run this after so many seconds."""


class Receiver(Protocol):
    """The incoming half of one server, as the servicer is in a real one."""

    async def admit(self, hello: Hello, to: ReplicaId) -> Hello:
        """Take the hello of a replica that dials, and return this one's. Raises PeerRefusedError."""
        ...

    def removed(self, peer: ReplicaId) -> bool:
        """Return whether a peer was removed while its stream was open."""
        ...

    def member_address(self, replica_id: ReplicaId) -> MemberAddress | None: ...

    def step(self, messages: Sequence[Message]) -> None: ...

    async def receive_snapshot(self, message: Message, header: bytes, size_bytes: int, sha256: bytes) -> SnapshotSink: ...

    def state_hashes(self) -> StateHashes: ...


@dataclass(slots=True)
class Faults:
    """How bad the network is; may be changed at any time. Chances are for each message, from 0 to 1."""

    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0  # leave the order of its link and take a delay of its own, up to `reorder_s` longer
    delay_min_s: float = 0.0002
    delay_max_s: float = 0.002
    reorder_s: float = 0.05


@dataclass(slots=True)
class Server:
    """What listens at an address."""

    receiver: Receiver
    answer: ProbeAnswer


@dataclass(slots=True)
class _Peer:
    address: str
    server_id: str
    stats: PeerStats = field(default_factory=PeerStats)
    expelled_for: set[str] = field(default_factory=set)  # reasons that were reported to the listener
    queue: deque[Message] = field(default_factory=deque)  # under way, in order
    connected_to: Receiver | None = None  # shook hands
    connecting_to: Receiver | None = None
    waiting: list[Message] = field(default_factory=list)  # have arrived before that


class MemoryNetwork:
    """Everything between the replicas of one test."""

    def __init__(
        self,
        rng: Random,
        call_later: CallLater,
        faults: Faults | None = None,
        read_file: Callable[[Path], bytes] = Path.read_bytes,
    ) -> None:
        self.faults = faults or Faults()
        self._rng = rng
        self._call_later = call_later
        self._read_file = read_file
        self._servers: dict[str, Server] = {}
        self._cuts: set[tuple[str, str]] = set()

    def transport(self, address: str) -> MemoryTransport:
        """The outgoing half of the server at this address."""
        return MemoryTransport(self, address)

    def attach(self, address: str, receiver: Receiver, answer: ProbeAnswer) -> None:
        """From now on something listens there; replaces what did before."""
        self._servers[address] = Server(receiver, answer)

    def detach(self, address: str) -> None:
        """The process there has died: connections are refused."""
        self._servers.pop(address, None)

    def cut(self, source: str, target: str) -> None:
        """Lose everything from `source` to `target`, in this direction only."""
        self._cuts.add((source, target))

    def partition(self, *sides: Sequence[str]) -> None:
        """Cut every pair of addresses that are on different sides, both ways."""
        for side in sides:
            for other in sides:
                if side is not other:
                    self._cuts.update((source, target) for source in side for target in other)

    def heal(self) -> None:
        self._cuts.clear()

    # --- what transports use

    def is_cut(self, source: str, target: str) -> bool:
        return (source, target) in self._cuts

    def server(self, address: str) -> Server | None:
        return self._servers.get(address)

    def later(self, action: Callable[[], None], extra_s: float = 0.0) -> None:
        """Run `action` after a delay of this network, plus at most `extra_s`."""
        faults = self.faults
        delay = self._rng.uniform(faults.delay_min_s, faults.delay_max_s) + self._rng.uniform(0.0, extra_s)
        self._call_later(delay, action)

    def happens(self, chance: float) -> bool:
        return chance > 0.0 and self._rng.random() < chance

    async def pause(self) -> None:
        """Return after one delay of this network."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.later(lambda: None if done.done() else done.set_result(None))
        await done

    def read(self, path: Path) -> bytes:
        return self._read_file(path)


class MemoryTransport:
    """See `Transport`."""

    def __init__(self, network: MemoryNetwork, address: str) -> None:
        self.address = address
        self._network = network
        self._peers: dict[ReplicaId, _Peer] = {}
        self._snapshots: dict[ReplicaId, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._hello: Callable[[], Hello] | None = None
        self._listener: TransportListener | None = None

    async def start(self, hello: Callable[[], Hello], listener: TransportListener) -> None:
        self._hello, self._listener = hello, listener

    async def close(self) -> None:
        self._hello = self._listener = None
        self._peers.clear()
        tasks = [*self._snapshots.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add_peer(self, peer: ReplicaId, address: str, server_id: str) -> None:
        invariant(self._hello is not None, f"peer {peer} was added to a transport that is not started")
        known = self._peers.get(peer)
        if known is None:
            self._peers[peer] = _Peer(address, server_id)
        else:
            known.address, known.server_id = address, server_id

    def remove_peer(self, peer: ReplicaId) -> None:
        self._peers.pop(peer, None)
        if (task := self._snapshots.get(peer)) is not None:
            task.cancel()

    def stats(self, peer: ReplicaId) -> PeerStats:
        known = self._peers.get(peer)
        return PeerStats() if known is None else known.stats

    # --- messages

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if (peer := self._peers.get(message.to)) is not None:
                self._send(peer, message)

    def _send(self, peer: _Peer, message: Message) -> None:
        network, faults = self._network, self._network.faults
        peer.stats.sent_messages += 1
        peer.stats.sent_bytes += size_of(message)
        for _ in range(2 if network.happens(faults.repeat) else 1):
            if network.happens(faults.drop):
                peer.stats.dropped_messages += 1
            elif network.happens(faults.reorder):
                network.later(lambda: self._arrive(peer, message), faults.reorder_s)
            else:
                # A link delivers in order whatever the delays: each arrival takes the oldest that is under way.
                peer.queue.append(message)
                network.later(lambda: self._arrive(peer, peer.queue.popleft()))

    def _arrive(self, peer: _Peer, message: Message) -> None:
        hello, listener, network = self._hello, self._listener, self._network
        if hello is None or listener is None or self._peers.get(message.to) is not peer:
            return
        if network.is_cut(self.address, peer.address):
            peer.stats.dropped_messages += 1
            return
        server = network.server(peer.address)
        if server is None or (peer.server_id and server.answer.server_id != peer.server_id):
            self._lost(peer, message.to, listener, f"{peer.address} refuses connections, or another server answers there")
        elif peer.connected_to is server.receiver and server.receiver.removed(hello().replica_id):
            self._refused(peer, message.to, listener, PeerRefusedError("it was removed", Reason.REMOVED))
        elif peer.connected_to is server.receiver:
            server.receiver.step([message_from_wire(message_to_wire(message))])
        else:
            peer.waiting.append(message)
            if peer.connecting_to is not server.receiver:
                peer.connecting_to = server.receiver
                self._start(self._connect(peer, server.receiver, message.to, hello(), listener))

    async def _connect(
        self, peer: _Peer, receiver: Receiver, peer_id: ReplicaId, hello: Hello, listener: TransportListener
    ) -> None:
        """Shake hands, then deliver what has arrived meanwhile."""
        try:
            try:
                await listener.admit_answer(await receiver.admit(hello, peer_id))
            except PeerRefusedError as error:
                self._refused(peer, peer_id, listener, error)
                return
            peer.connected_to = receiver
            peer.stats.connected = True
            waiting, peer.waiting = peer.waiting, []
            for message in waiting:
                receiver.step([message_from_wire(message_to_wire(message))])
        finally:
            if peer.connecting_to is receiver:
                peer.connecting_to = None

    def _refused(self, peer: _Peer, peer_id: ReplicaId, listener: TransportListener, error: PeerRefusedError) -> None:
        peer.waiting.clear()
        self._lost(peer, peer_id, listener, str(error))
        if error.reason in EXPELLED and error.reason not in peer.expelled_for:
            peer.expelled_for.add(error.reason)
            listener.refused_by_peer(peer_id, error.reason, str(error))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lost(self, peer: _Peer, peer_id: ReplicaId, listener: TransportListener, why: str) -> None:
        """A message could not be delivered, and this end knows it: told once until one gets through again."""
        peer.stats.dropped_messages += 1
        if peer.stats.connected or not peer.stats.last_error:
            listener.peer_unreachable(peer_id)
        peer.stats.connected = False
        peer.connected_to = None
        peer.stats.last_error = why

    # --- snapshots

    def send_snapshot(self, message: Message, file: OutgoingSnapshot) -> None:
        listener, peer = self._listener, self._peers.get(message.to)
        if listener is None:
            return
        if peer is None or message.to in self._snapshots:
            self._network.later(lambda: listener.snapshot_sent(message.to, False))
            return
        task = asyncio.get_running_loop().create_task(self._carry(peer, message, file))
        self._snapshots[message.to] = task
        task.add_done_callback(lambda done: self._carried(message.to, listener, done))

    def _carried(self, peer: ReplicaId, listener: TransportListener, task: asyncio.Task[None]) -> None:
        del self._snapshots[peer]
        if self._listener is listener:
            listener.snapshot_sent(peer, not task.cancelled() and task.exception() is None)

    async def _carry(self, peer: _Peer, message: Message, file: OutgoingSnapshot) -> None:
        """Raises whatever keeps the file from arriving."""
        network = self._network
        stats = peer.stats
        data = network.read(file.path)
        stats.snapshot_index = message.snapshot.index if message.snapshot else 0
        stats.snapshot_size_bytes = file.size_bytes
        try:
            await network.pause()
            receiver = self._reach(peer)
            staged = await receiver.receive_snapshot(message, file.header, file.size_bytes, file.sha256)
            while staged.received < file.size_bytes:
                await network.pause()
                self._reach(peer, receiver)
                await staged.write(staged.received, data[staged.received : staged.received + CHUNK_BYTES])
                stats.snapshot_sent_bytes = staged.received
            await staged.finish()
            self._reach(peer, receiver).step([message_from_wire(message_to_wire(message))])
        except Exception as error:
            stats.last_error = f"the snapshot did not arrive: {error}"
            raise
        finally:
            stats.snapshot_index = stats.snapshot_sent_bytes = stats.snapshot_size_bytes = 0

    def _reach(self, peer: _Peer, receiver: Receiver | None = None) -> Receiver:
        """The receiver at the peer's address, the same as before where one is given. Raises ConnectionError."""
        network = self._network
        server = network.server(peer.address)
        gone = server is None or (receiver is not None and server.receiver is not receiver)
        if server is None or gone or network.is_cut(self.address, peer.address) or network.is_cut(peer.address, self.address):
            raise ConnectionError(f"the connection to {peer.address} is lost")
        return server.receiver

    async def probe(self, address: str, timeout_s: float) -> ProbeAnswer:
        await self._network.pause()
        server = self._network.server(address)
        if server is None or self._network.is_cut(self.address, address) or self._network.is_cut(address, self.address):
            raise ProbeFailedError(f"no replica answers at {address} within {timeout_s:g} s")
        return server.answer

    async def state_hashes(self, peer: ReplicaId, timeout_s: float) -> StateHashes:
        return (await self._ask(peer, timeout_s)).state_hashes()

    async def member(self, peer: ReplicaId, replica_id: ReplicaId, timeout_s: float) -> MemberAddress | None:
        return (await self._ask(peer, timeout_s)).member_address(replica_id)

    async def _ask(self, peer: ReplicaId, timeout_s: float) -> Receiver:
        await self._network.pause()
        known, hello = self._peers.get(peer), self._hello
        if known is None or hello is None:
            raise ProbeFailedError(f"replica {peer} is no peer of this one")
        try:
            receiver = self._reach(known)
        except ConnectionError as error:
            raise ProbeFailedError(f"no replica answers at {known.address} within {timeout_s:g} s") from error
        try:
            await receiver.admit(hello(), peer)
        except PeerRefusedError as error:
            raise ProbeFailedError(f"{known.address} refuses this replica: {error}") from None
        return receiver
