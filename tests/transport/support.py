"""What the transport's tests share: messages, a listener that remembers, waiting."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from ravel_node.raft.types import ConfState, Entry, Index, Message, MessageType, ReplicaId, Snapshot, Term
from ravel_node.transport.base import Hello, OutgoingSnapshot, PeerRefusedError
from ravelpb.errors import Reason
from tests.server.fakes import CLUSTER, server_id

ONE, TWO = ReplicaId(1), ReplicaId(2)
HELLO = Hello(CLUSTER, TWO, server_id(2), "2" * 16, "0.1.0", "127.0.0.1:8002", 3, Term(5), Index(70))
"""Replica 2 dials the host of tests.server.fakes, which is replica 1."""


def heartbeat(commit: int = 0) -> Message:
    return Message(MessageType.HEARTBEAT, ONE, TWO, Term(3), commit=Index(commit))


def append(index: int, data: bytes = b"data") -> Message:
    return Message(MessageType.APPEND, ONE, TWO, Term(3), Term(3), Index(index - 1), (Entry(Term(3), Index(index), data=data),))


def tidings(index: int, *, commit: int) -> Message:
    """An append without entries: the log is as it was at `index`, and so much is committed."""
    return Message(MessageType.APPEND, ONE, TWO, Term(3), Term(3), Index(index), commit=Index(commit))


def acknowledgement(index: int) -> Message:
    return Message(MessageType.APPEND_RESPONSE, ONE, TWO, Term(3), index=Index(index))


def snapshot_message(index: int = 100) -> Message:
    snapshot = Snapshot(Index(index), Term(3), ConfState(voters=(ONE, TWO)))
    return Message(MessageType.SNAPSHOT, ONE, TWO, Term(3), snapshot=snapshot)


def outgoing(path: Path, size: int) -> OutgoingSnapshot:
    """A file of `size` bytes that differ everywhere."""
    data = bytearray()
    block = 0
    while len(data) < size:
        data += hashlib.sha256(block.to_bytes(8, "big")).digest() * 1024
        block += 1
    path.write_bytes(data[:size])
    return OutgoingSnapshot(path, b'{"format": 1}', size, hashlib.sha256(data[:size]).digest())


class Listener:
    def __init__(self) -> None:
        self.unreachable: list[ReplicaId] = []
        self.snapshots: list[tuple[ReplicaId, bool]] = []
        self.removed: list[ReplicaId] = []
        self.refused: list[tuple[ReplicaId, str]] = []
        self.answers: list[Hello] = []
        self.objection: PeerRefusedError | None = None  # to whatever is dialled

    def peer_unreachable(self, peer: ReplicaId) -> None:
        self.unreachable.append(peer)

    def snapshot_sent(self, peer: ReplicaId, delivered: bool) -> None:
        self.snapshots.append((peer, delivered))

    def refused_by_peer(self, peer: ReplicaId, reason: str, why: str) -> None:
        self.refused.append((peer, reason))
        if reason == Reason.REMOVED:
            self.removed.append(peer)

    async def admit_answer(self, hello: Hello) -> None:
        self.answers.append(hello)
        if self.objection is not None:
            raise self.objection


async def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)
