"""The port between the driver and the network that carries Raft messages.

Raft needs little of a network: it may drop, delay, repeat and reorder. So sending never blocks and never fails; what a peer's
bounded queue cannot take is dropped and counted, and the core sends it again. Everything runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ravel_node.raft.types import Index, Message, ReplicaId, Term


@dataclass(frozen=True, slots=True)
class LocalHello:
    """What this replica says of itself when it dials or answers a peer."""

    cluster_id: str
    replica_id: ReplicaId
    server_id: str
    boot_id: str  # 16 hex digits, drawn at each start
    version: str
    address: str  # where peers dial it


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """Who answers at a peer address. `cluster_id` is empty and `replica_id` 0 for a blank daemon."""

    server_id: str
    cluster_id: str
    replica_id: ReplicaId
    version: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class OutgoingSnapshot:
    """A verified snapshot file to be streamed."""

    path: Path  # of the data file; it is not changed, and stays until the transfer was reported
    header: bytes  # the header file, as it is on disk
    size_bytes: int
    sha256: bytes  # 32 bytes, of the data file


@dataclass(frozen=True, slots=True)
class HashAt:
    """What became of one checksum entry on one replica. `sha256` is empty while it is made, and where `problem` is set."""

    index: Index
    term: Term
    sha256: bytes = b""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StateHashes:
    """The last checksum entries that a replica has applied, oldest first, and how far it has applied its log."""

    applied_index: Index
    hashes: tuple[HashAt, ...]


class ProbeFailedError(Exception):
    """Nobody of ours answered at that address in time; the message tells address and cause."""


@dataclass(slots=True)
class PeerStats:
    """Counters of one peer since it was added. `connected` is the outgoing stream's state now."""

    connected: bool = False
    sent_messages: int = 0
    sent_bytes: int = 0
    dropped_messages: int = 0
    reconnects: int = 0
    last_error: str = ""
    snapshot_index: int = 0  # of the snapshot under way; 0: none
    snapshot_sent_bytes: int = 0
    snapshot_size_bytes: int = 0


class TransportListener(Protocol):
    """What the transport tells the replica. Called on the loop; must not block or raise."""

    def peer_unreachable(self, peer: ReplicaId) -> None:
        """A message to this peer was dropped or its stream broke. At most once for each failed attempt to connect."""
        ...

    def snapshot_sent(self, peer: ReplicaId, delivered: bool) -> None:
        """A snapshot transfer ended: the peer has verified and taken it (or it failed, or was refused)."""
        ...

    def removed_by_peer(self, peer: ReplicaId) -> None:
        """A member answered that this replica was removed from the cluster for good."""
        ...


class Transport(Protocol):
    """The outgoing half. The incoming half is a servicer that hands messages to the replica."""

    def send(self, messages: Sequence[Message]) -> None:
        """Queue messages for their peers; those for unknown peers are dropped. SNAPSHOT messages go through `send_snapshot`."""
        ...

    def send_snapshot(self, message: Message, file: OutgoingSnapshot) -> None:
        """Stream this file to `message.to`; ends in `snapshot_sent`. One a peer at a time: a second one is reported as failed."""
        ...

    def add_peer(self, peer: ReplicaId, address: str, server_id: str) -> None:
        """Start talking to a peer; a known one is given its new address. `server_id` is what it must answer."""
        ...

    def remove_peer(self, peer: ReplicaId) -> None: ...

    async def probe(self, address: str, timeout_s: float) -> ProbeAnswer:
        """Who is there? Raises ProbeFailedError."""
        ...

    async def state_hashes(self, peer: ReplicaId, timeout_s: float) -> StateHashes:
        """Ask a peer what it hashed. Raises ProbeFailedError, also for a peer of a version that cannot be asked."""
        ...

    def stats(self, peer: ReplicaId) -> PeerStats: ...

    async def start(self, hello: LocalHello, listener: TransportListener) -> None: ...

    async def close(self) -> None:
        """End every stream and task; returns within a second."""
        ...
