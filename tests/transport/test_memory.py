"""The network in memory: faults happen as drawn, and the same seed draws the same."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random

import pytest

from ravel_node.raft.types import Index, Message, ReplicaId, Snapshot, Term
from ravel_node.storage.base import SnapshotRefusedError
from ravel_node.transport.base import (
    HashAt,
    Hello,
    MemberAddress,
    OutgoingSnapshot,
    PeerRefusedError,
    ProbeAnswer,
    ProbeFailedError,
    StateHashes,
)
from ravel_node.transport.memory import Faults, MemoryNetwork, MemoryTransport
from tests.server.fakes import CLUSTER, server_id
from tests.transport.support import HELLO, ONE, TWO, Listener, eventually, heartbeat, outgoing, snapshot_message

TURNS = 10


class Clock:
    """Virtual time: what is due runs when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        heappush(self._due, (self.now + delay_s, next(self._order), action))

    async def run(self) -> None:
        while self._due:
            self.now, _, action = heappop(self._due)
            action()
        for _ in range(TURNS):
            await asyncio.sleep(0)  # a handshake needs a few turns of the loop


class Staged:
    def __init__(self, message: Message) -> None:
        self.data = bytearray()
        self._message = message

    @property
    def received(self) -> int:
        return len(self.data)

    async def write(self, offset: int, data: bytes) -> None:
        if offset != len(self.data):
            raise SnapshotRefusedError(f"offset {offset} is not {len(self.data)}")
        self.data += data

    async def finish(self) -> Snapshot:
        assert self._message.snapshot is not None
        return self._message.snapshot

    async def discard(self) -> None:
        self.data.clear()


class Receiver:
    def __init__(self) -> None:
        self.stepped: list[Message] = []
        self.reason = ""
        self.staged: Staged | None = None

    async def admit(self, hello: Hello, to: ReplicaId) -> Hello:
        if self.reason:
            raise PeerRefusedError("no", self.reason)
        return replace(hello, replica_id=to, server_id=server_id(1), address="")

    def removed(self, peer: ReplicaId) -> bool:
        return False

    def member_address(self, replica_id: ReplicaId) -> MemberAddress | None:
        return MemberAddress(server_id(3), "three", False) if replica_id == ReplicaId(3) else None

    def step(self, messages: Sequence[Message]) -> None:
        self.stepped += messages

    async def receive_snapshot(self, message: Message, header: bytes, size_bytes: int, sha256: bytes) -> Staged:
        self.staged = self.staged or Staged(message)
        return self.staged

    def state_hashes(self) -> StateHashes:
        return HASHES


HASHES = StateHashes(Index(9), (HashAt(Index(7), Term(3), b"7" * 32), HashAt(Index(9), Term(3))))

ANSWER = ProbeAnswer(server_id(1), CLUSTER, ONE, "0.1.0", "b" * 16)


async def pair(network: MemoryNetwork) -> tuple[MemoryTransport, Receiver, Listener]:
    """Replica 2 at "two" and what it can send to, replica 1 at "one"."""
    receiver, listener = Receiver(), Listener()
    network.attach("one", receiver, ANSWER)
    transport = network.transport("two")
    await transport.start(lambda: HELLO, listener)
    transport.add_peer(ONE, "one", server_id(1))
    return transport, receiver, listener


async def delivered(seed: int, faults: Faults, total: int = 2000) -> list[int]:
    clock = Clock()
    transport, receiver, _ = await pair(MemoryNetwork(Random(seed), clock.call_later, faults))
    for number in range(total):
        transport.send([heartbeat(number)])
    await clock.run()
    return [message.commit for message in receiver.stepped]


async def test_a_good_network_delivers_everything_in_order() -> None:
    assert await delivered(1, Faults()) == list(range(2000))


async def test_faults_happen_about_as_often_as_told() -> None:
    lossy = await delivered(1, Faults(drop=0.3))
    assert 1250 < len(lossy) < 1550
    assert lossy == sorted(lossy)
    repeated = await delivered(1, Faults(repeat=0.2))
    assert 2300 < len(repeated) < 2500
    assert sorted(set(repeated)) == list(range(2000))
    reordered = await delivered(1, Faults(reorder=0.1))
    assert sorted(reordered) == list(range(2000))
    assert reordered != list(range(2000))


async def test_a_seed_tells_all() -> None:
    faults = Faults(drop=0.1, repeat=0.1, reorder=0.2)
    assert await delivered(5, faults) == await delivered(5, faults)
    assert await delivered(5, faults) != await delivered(6, faults)


async def test_a_cut_is_silent_and_one_way() -> None:
    clock = Clock()
    network = MemoryNetwork(Random(1), clock.call_later)
    transport, receiver, listener = await pair(network)
    network.cut("one", "two")
    transport.send([heartbeat(1)])
    await clock.run()
    assert len(receiver.stepped) == 1
    network.partition(["one", "three"], ["two"])
    transport.send([heartbeat(2)])
    await clock.run()
    assert len(receiver.stepped) == 1
    assert listener.unreachable == []
    network.heal()
    transport.send([heartbeat(3)])
    await clock.run()
    assert [message.commit for message in receiver.stepped] == [1, 3]


async def test_a_dead_process_refuses_and_is_told_once() -> None:
    clock = Clock()
    network = MemoryNetwork(Random(1), clock.call_later)
    transport, receiver, listener = await pair(network)
    for _ in range(2):
        network.detach("one")
        transport.send([heartbeat()] * 3)
        await clock.run()
        network.attach("one", receiver, ANSWER)
        transport.send([heartbeat()])
        await clock.run()
        assert transport.stats(ONE).connected
    assert listener.unreachable == [ONE, ONE]
    assert len(receiver.stepped) == 2


async def test_refusals_and_removal() -> None:
    clock = Clock()
    transport, receiver, listener = await pair(MemoryNetwork(Random(1), clock.call_later))
    receiver.reason = "REMOVED"
    transport.send([heartbeat()] * 2)
    await clock.run()
    assert (receiver.stepped, listener.removed) == ([], [ONE])
    receiver.reason = ""
    transport.add_peer(ONE, "one", server_id(9))
    transport.send([heartbeat()])
    await clock.run()
    assert receiver.stepped == []
    transport.remove_peer(ONE)
    transport.send([heartbeat()])
    await clock.run()
    assert receiver.stepped == []


async def test_snapshots_travel_resume_and_fail(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    network = MemoryNetwork(Random(1), loop.call_later, Faults(delay_min_s=0.005, delay_max_s=0.01))
    transport, receiver, listener = await pair(network)
    file = outgoing(tmp_path / "s", 1_000_000)
    transport.send_snapshot(snapshot_message(), file)
    transport.send_snapshot(snapshot_message(), file)
    await eventually(lambda: receiver.staged is not None and receiver.staged.received > 100_000)
    network.cut("one", "two")
    await eventually(lambda: listener.snapshots == [(ONE, False), (ONE, False)])
    assert receiver.staged is not None
    held = receiver.staged.received
    assert held < 1_000_000
    network.heal()
    transport.send_snapshot(snapshot_message(), file)
    await eventually(lambda: listener.snapshots[2:] == [(ONE, True)])
    assert bytes(receiver.staged.data) == file.path.read_bytes()
    assert receiver.stepped == [snapshot_message()]
    await transport.close()


async def test_files_may_be_virtual() -> None:
    loop = asyncio.get_running_loop()
    network = MemoryNetwork(Random(1), loop.call_later, read_file=lambda path: b"virtual")
    transport, receiver, listener = await pair(network)
    file = OutgoingSnapshot(Path("/nowhere"), b"{}", 7, hashlib.sha256(b"virtual").digest())
    transport.send_snapshot(snapshot_message(), file)
    await eventually(lambda: listener.snapshots == [(ONE, True)])
    assert receiver.staged is not None
    assert receiver.staged.data == b"virtual"


async def test_probing_and_closing() -> None:
    network = MemoryNetwork(Random(1), asyncio.get_running_loop().call_later)
    transport, _, listener = await pair(network)
    assert await transport.probe("one", 1.0) == ANSWER
    with pytest.raises(ProbeFailedError, match="three"):
        await transport.probe("three", 1.0)
    network.cut("one", "two")
    with pytest.raises(ProbeFailedError):
        await transport.probe("one", 1.0)
    transport.send([heartbeat()])
    await transport.close()
    await asyncio.sleep(0.02)
    assert listener.unreachable == []
    assert transport.stats(TWO).sent_messages == 0


async def test_hashes_are_asked_for_and_refused_as_messages_are() -> None:
    network = MemoryNetwork(Random(1), asyncio.get_running_loop().call_later)
    transport, receiver, _ = await pair(network)
    assert await transport.state_hashes(ONE, 1.0) == HASHES
    assert await transport.member(ONE, ReplicaId(3), 1.0) == MemberAddress(server_id(3), "three", False)
    assert await transport.member(ONE, ReplicaId(4), 1.0) is None
    receiver.reason = "REMOVED"
    with pytest.raises(ProbeFailedError, match="refuses this replica"):
        await transport.state_hashes(ONE, 1.0)
    network.detach("one")
    with pytest.raises(ProbeFailedError, match="no replica answers at one"):
        await transport.state_hashes(ONE, 1.0)
    with pytest.raises(ProbeFailedError, match="no peer"):
        await transport.state_hashes(TWO, 1.0)
    await transport.close()
