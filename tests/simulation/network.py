"""The network between servers and clients: it loses, delays, repeats, reorders and cuts, all drawn from the seed.

What travels is an action that is carried out at the other end when it arrives, or never. Raft messages of a link arrive in order,
as on one stream, unless they were drawn to be reordered. A server whose process is dead refuses the connection; one that is
paused takes everything in and does nothing with it; one that is cut off is silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ravel_node.raft import Message, MessageType, ReplicaId
from ravel_node.replica.errors import ReplicaError
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
from ravel_node.transport.wire import message_from_wire, message_to_wire
from ravelpb.errors import Reason
from tests.simulation.timeline import Process, Timeline

if TYPE_CHECKING:
    from tests.simulation.server import Running

T = TypeVar("T")

CHUNK_BYTES: Final = 2 << 10
CALL_TIMEOUT_S: Final = 2.0
THROUGH_THE_WIRE: Final = 8
"""One of so many messages is encoded and decoded on its way; the wire has tests of its own."""


@dataclass(slots=True)
class NetworkFaults:
    """How bad the network is; may be changed at any time. Chances are for each message, from 0 to 1."""

    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0  # leave the order of the link and take up to `reorder_s` longer
    delay_min_s: float = 0.0002
    delay_max_s: float = 0.003
    reorder_s: float = 0.1


class Network:
    """Everything between the addresses of one world."""

    def __init__(self, timeline: Timeline, rng: Random, tell: Callable[[str], None]) -> None:
        self.faults = NetworkFaults()
        self.rng = rng
        self.tell = tell
        self.timeline = timeline
        self.listening: dict[str, Running] = {}  # by address
        self.cuts: set[tuple[str, str]] = set()
        self._held: dict[tuple[str, str], list[Callable[[], None]]] = {}  # links whose messages wait, and those messages
        self.watch: Callable[[str, Message], None] | None = None  # is shown every message that a replica sends, once set
        self._arrivals: dict[tuple[str, str], float] = {}  # when the newest message in order arrives on each link

    def happens(self, chance: float) -> bool:
        return chance > 0.0 and self.rng.random() < chance

    def carry(self, source: str, target: str, what: str, arrive: Callable[[], None], *, once: bool = False) -> None:
        """Carry out `arrive` at the other end, once, several times, or never. `what` names it in the trace.

        With `once` it is part of a call, which no network repeats: only who calls again does.
        """
        faults = self.faults
        for _ in range(2 if not once and self.happens(faults.repeat) else 1):
            if self.happens(faults.drop):
                self.tell(f"{source} -> {target}: {what}: lost")
                continue
            now = self.timeline.now
            delay = self.rng.uniform(faults.delay_min_s, faults.delay_max_s)
            if self.happens(faults.reorder):
                delay += self.rng.uniform(0.0, faults.reorder_s)
            else:
                arrival = max(now + delay, self._arrivals.get((source, target), 0.0) + 1e-9)
                self._arrivals[source, target] = arrival
                delay = arrival - now
            self.timeline.after(delay, lambda: self._arrived(source, target, what, arrive))

    def _arrived(self, source: str, target: str, what: str, arrive: Callable[[], None]) -> None:
        if (source, target) in self.cuts:
            self.tell(f"{source} -> {target}: {what}: cut off")
            return
        if (held := self._held.get((source, target))) is not None:
            self.tell(f"{source} -> {target}: {what}: held back")
            held.append(lambda: self._arrived(source, target, what, arrive))
            return
        self.tell(f"{source} -> {target}: {what}")
        arrive()

    def hold(self, link: tuple[str, str]) -> None:
        """From now on messages on a link wait until `let_go`: a network may be as slow as that."""
        self._held.setdefault(link, [])

    def let_go(self, link: tuple[str, str]) -> int:
        """Deliver what was held back on a link; return how many messages there were."""
        held = self._held.pop(link, [])
        for arrive in held:
            arrive()
        return len(held)

    def heal(self) -> None:
        """End every fault: nothing is cut off, held back, lost or slow."""
        self.cuts.clear()
        self.faults = NetworkFaults()
        for link in list(self._held):
            self.let_go(link)

    async def call(
        self,
        caller: Process,
        source: str,
        target: str,
        what: str,
        ask: Callable[[Running], Awaitable[T]],
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> T:
        """Run `ask` at the process that listens at `target`, on its loop, and bring back what it returns or raises.

        Raises ConnectionError where no answer comes.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def back(result: Any, error: BaseException | None) -> None:
            words = f"answer to {what}" if error is None else f"{what} raised {type(error).__name__}"
            self.carry(target, source, words, lambda: caller.after(0.0, lambda: settle(result, error)), once=True)

        def arrive() -> None:
            running = self.listening.get(target)
            if running is None:
                back(None, ConnectionRefusedError(f"{target} refuses the connection"))
            else:
                running.process.after(0.0, lambda: running.serve(lambda: ask(running), back))

        self.carry(source, target, what, arrive, once=True)
        lost = ConnectionError(f"no answer from {target} in time")
        self.timeline.after(timeout_s, lambda: caller.after(0.0, lambda: settle(None, lost)))
        return await future


@dataclass(slots=True)
class _Peer:
    address: str
    server_id: str
    stats: PeerStats = field(default_factory=PeerStats)
    told_unreachable: bool = False
    connected_to: Running | None = None  # shook hands
    connecting_to: Running | None = None
    waiting: list[Message] = field(default_factory=list)  # have arrived before that
    expelled_for: set[str] = field(default_factory=set)  # reasons that were reported to the replica


class SimTransport:
    """The outgoing half of one process. See `Transport`."""

    def __init__(self, network: Network, running: Running, sent: Callable[[Message], None]) -> None:
        self._network = network
        self._running = running
        self._address = running.server.address
        self._sent = sent
        self._peers: dict[ReplicaId, _Peer] = {}
        self._snapshots: dict[ReplicaId, asyncio.Task[None]] = {}
        self._hello: Callable[[], Hello] | None = None
        self._listener: TransportListener | None = None

    async def start(self, hello: Callable[[], Hello], listener: TransportListener) -> None:
        self._hello, self._listener = hello, listener

    async def close(self) -> None:
        self._hello = self._listener = None
        self._peers.clear()
        for task in self._snapshots.values():
            task.cancel()

    def add_peer(self, peer: ReplicaId, address: str, server_id: str) -> None:
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
        if self._running.dead:
            return
        for message in messages:
            self._sent(message)
            if self._network.watch is not None:
                self._network.watch(self._address, message)
            if (peer := self._peers.get(message.to)) is not None:
                if not self._network.rng.randrange(THROUGH_THE_WIRE):
                    message = message_from_wire(message_to_wire(message))
                self._send(peer, message)

    def _send(self, peer: _Peer, message: Message) -> None:
        self._network.carry(self._address, peer.address, told(message), lambda: self._arrive(peer, message))

    def _arrive(self, peer: _Peer, message: Message) -> None:
        hello, running = self._hello, self._network.listening.get(peer.address)
        if hello is None:
            return
        if running is None or running.server.server_id != peer.server_id:
            if not peer.told_unreachable:
                peer.told_unreachable = True
                self._tell(lambda listener: listener.peer_unreachable(message.to))
            return
        peer.told_unreachable = False
        running.process.after(0.0, lambda: self._hand_over(peer, running, hello(), message))

    def _hand_over(self, peer: _Peer, running: Running, hello: Hello, message: Message) -> None:
        """On the loop of the process at the other end."""
        if running.dead or running.maybe_replica is None:
            return
        if peer.connected_to is running:
            if running.take(hello, message):
                self._expelled(peer, message.to, Reason.REMOVED, "it was removed")
            return
        peer.waiting.append(message)
        if peer.connecting_to is not running:
            peer.connecting_to = running
            running.spawn(self._greet(peer, running, hello, message.to))

    async def _greet(self, peer: _Peer, running: Running, hello: Hello, to: ReplicaId) -> None:
        """The handshake, first the half at the other end."""
        try:
            theirs = await running.admit(hello, to)
        except PeerRefusedError as error:
            peer.waiting.clear()
            peer.connecting_to = None
            self._network.tell(f"{peer.address} refuses {self._address}: {error.reason}")
            self._expelled(peer, to, error.reason, str(error))
            return

        async def check() -> None:
            if self._listener is None:
                return
            try:
                await self._listener.admit_answer(theirs)
            except PeerRefusedError as error:
                peer.waiting.clear()
                peer.connecting_to = None
                self._network.tell(f"{self._address} refuses {peer.address}: {error.reason}")
                return
            peer.connected_to, peer.connecting_to = running, None
            waiting, peer.waiting = peer.waiting, []
            for message in waiting:
                running.process.after(0.0, lambda message=message: self._hand_over(peer, running, hello, message))  # type: ignore[misc]

        self._running.process.after(0.0, lambda: None if self._running.dead else self._spawn(check()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._running.spawn(work)

    def _expelled(self, peer: _Peer, peer_id: ReplicaId, reason: str, why: str) -> None:
        if reason in EXPELLED and reason not in peer.expelled_for:
            peer.expelled_for.add(reason)
            self._tell(lambda listener: listener.refused_by_peer(peer_id, reason, why))

    def _tell(self, what: Callable[[TransportListener], None]) -> None:
        """Tell the replica at this end, unless its process is dead or closed."""

        def tell() -> None:
            if self._listener is not None and not self._running.dead:
                what(self._listener)

        self._running.process.after(0.0, tell)

    # --- snapshots

    def send_snapshot(self, message: Message, file: OutgoingSnapshot) -> None:
        peer = self._peers.get(message.to)
        if self._running.dead:
            return
        if peer is None or message.to in self._snapshots:
            self._tell(lambda listener: listener.snapshot_sent(message.to, False))
            return
        task = asyncio.get_running_loop().create_task(self._carry(peer, message, file))
        self._snapshots[message.to] = task
        task.add_done_callback(lambda done: self._carried(message.to, done))

    def _carried(self, peer: ReplicaId, task: asyncio.Task[None]) -> None:
        del self._snapshots[peer]
        delivered = not task.cancelled() and task.exception() is None
        if self._listener is not None and not self._running.dead:
            words = "arrived" if delivered else "failed"
            self._network.tell(f"{self._running.server.name}'s snapshot for replica {peer} {words}")
            self._listener.snapshot_sent(peer, delivered)

    async def _carry(self, peer: _Peer, message: Message, file: OutgoingSnapshot) -> None:
        """Raises whatever keeps the file from arriving."""
        data, hello = file.path.read_bytes(), self._hello
        what = f"snapshot at {message.snapshot.index if message.snapshot else 0}"
        network, process, address = self._network, self._running.process, peer.address
        first: list[Running] = []

        async def ask(words: str, action: Callable[[Running], Awaitable[T]]) -> T:
            def same(running: Running) -> Awaitable[T]:
                if first and first[0] is not running:
                    raise ConnectionError(f"{address} was restarted")
                return action(running)

            return await network.call(process, self._address, address, f"{what}, {words}", same)

        def begin(running: Running) -> Awaitable[Any]:
            first.append(running)
            if hello is not None:
                running.replica.admission.check(hello(), message.to)
            return running.replica.receive_snapshot(message, file.header, file.size_bytes, file.sha256)

        staged = await ask("begin", begin)
        while staged.received < file.size_bytes:
            at = staged.received
            await ask(f"bytes from {at}", lambda _, at=at: staged.write(at, data[at : at + CHUNK_BYTES]))  # type: ignore[misc]
        await ask("finish", lambda _: staged.finish())
        await ask("install", lambda running: running.step_later(message))

    async def probe(self, address: str, timeout_s: float) -> ProbeAnswer:
        try:
            return await self._network.call(self._running.process, self._address, address, "probe", lambda other: other.probed())
        except ConnectionError as error:
            raise ProbeFailedError(f"no replica answers at {address}: {error}") from None

    async def state_hashes(self, peer: ReplicaId, timeout_s: float) -> StateHashes:
        return await self._ask(peer, "state hashes", lambda other: other.replica.state_hashes())

    async def member(self, peer: ReplicaId, replica_id: ReplicaId, timeout_s: float) -> MemberAddress | None:
        return await self._ask(peer, f"who is replica {replica_id}", lambda other: other.replica.member_address(replica_id))

    async def _ask(self, peer: ReplicaId, what: str, question: Callable[[Running], T]) -> T:
        known, hello = self._peers.get(peer), self._hello
        if known is None or hello is None:
            raise ProbeFailedError(f"replica {peer} is no peer of this one")
        address, own = known.address, hello()

        async def answer(other: Running) -> T:
            await other.admit(own, peer)
            return question(other)

        try:
            return await self._network.call(self._running.process, self._address, address, what, answer)
        except (ConnectionError, ReplicaError, PeerRefusedError) as error:
            raise ProbeFailedError(f"no replica answers at {address}: {error}") from None


def told(message: Message) -> str:
    """A message in words."""
    kind = message.type
    words = f"{kind.name.lower()} t{message.term}"
    if kind is MessageType.APPEND:
        words += f" {len(message.entries)} after {message.log_term}/{message.index}, commit {message.commit}"
    elif kind in (MessageType.APPEND_RESPONSE, MessageType.VOTE, MessageType.PRE_VOTE):
        words += f" {message.log_term}/{message.index}"
    elif kind is MessageType.HEARTBEAT:
        words += f" commit {message.commit}"
    if message.context:
        words += f" #{int.from_bytes(message.context[:8], 'big')}" if len(message.context) == 8 else " for a transfer"
    return words + (" refused" if message.reject else "")
