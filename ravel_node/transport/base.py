"""The port between the driver and the network that carries Raft messages.

Raft needs little of a network: it may drop, delay, repeat and reorder. So sending never blocks and never fails; what a peer's
bounded queue cannot take is dropped and counted, and the core sends it again. Everything runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ravel_node.raft.types import Index, Message, ReplicaId, Term
from ravelpb.errors import Reason

EXPELLED: Final = frozenset({Reason.REMOVED, Reason.DIRECTORY_OUTDATED, Reason.DIRECTORY_COPIED})
"""Reasons of a refusal after which a replica has no place in its cluster any more."""

NO_TERM: Final = Term(0)
NO_INDEX: Final = Index(0)
"""Of a replica without a log."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a replica says of itself when it dials or answers a peer."""

    cluster_id: str
    replica_id: ReplicaId
    server_id: str
    boot_id: str  # 16 hex digits, drawn at each start
    version: str
    address: str  # where peers dial it; empty in an answer
    boot_number: int = 0  # starts of this replica from its data directory, this one included
    term: Term = NO_TERM  # on its disk at this moment
    last_index: Index = NO_INDEX  # of the log on its disk at this moment


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """Who answers at a peer address. `cluster_id` is empty and `replica_id` 0 for a blank daemon."""

    server_id: str
    cluster_id: str
    replica_id: ReplicaId
    version: str
    boot_id: str
    boot_number: int = 0  # as in Hello
    term: Term = NO_TERM
    last_index: Index = NO_INDEX


@dataclass(frozen=True, slots=True)
class MemberAddress:
    """What a member knows of another one."""

    server_id: str
    address: str  # where peers dial it
    removed: bool


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


class PeerRefusedError(Exception):
    """The replica that answered must not be talked to. `reason` is one of ravelpb.errors.Reason."""

    def __init__(self, why: str, reason: str) -> None:
        super().__init__(why)
        self.reason = reason


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

    def refused_by_peer(self, peer: ReplicaId, reason: str, why: str) -> None:
        """A member answered that it does not talk to this replica, for a reason that only a person changes. Once a reason."""
        ...

    async def admit_answer(self, hello: Hello) -> None:
        """Check what a replica that was dialled says of itself. Raises PeerRefusedError; may wait for the disk."""
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

    async def member(self, peer: ReplicaId, replica_id: ReplicaId, timeout_s: float) -> MemberAddress | None:
        """Ask a peer what its cluster knows of a replica; None: nothing. Raises ProbeFailedError as `state_hashes`."""
        ...

    def stats(self, peer: ReplicaId) -> PeerStats: ...

    async def start(self, hello: Callable[[], Hello], listener: TransportListener) -> None:
        """Begin. `hello` is called for each connection: what the disk holds changes."""
        ...

    async def close(self) -> None:
        """End every stream and task; returns within a second."""
        ...
