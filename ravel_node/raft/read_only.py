"""Reads that wait for proof that their leader still leads (thesis 6.4, "ReadIndex").

A read asked at commit index c may be served once c is applied, if the leader was still leader when it was asked. Proof
is a majority of answers to heartbeats that left after the request. Every request gets a position, counted up within a
term; a heartbeat carries the position of the newest request, and its answer echoes it: so an answer proves all requests
up to that position at once, however many there are, and equal requests never mix. The position that a quorum has echoed
is found as the committed index is found from `match`.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from ravel_node.raft.limits import READS_PENDING_MAX
from ravel_node.raft.quorum import JointConfig
from ravel_node.raft.types import NO_LIMIT, Index, Message, ReplicaId

POSITION_BYTES: Final = 8


class PendingRead(NamedTuple):
    """A request, and the commit index that it was asked at."""

    position: int
    index: Index  # type: ignore[assignment]  # a tuple has a method of that name, which nobody needs here
    request: Message


class ReadOnly:
    """The reads of one leader in one term."""

    def __init__(self) -> None:
        self._pending: deque[PendingRead] = deque()  # positions ascend
        self._newest = 0
        self._echoed: dict[ReplicaId, Index] = {}  # the highest position that each replica answered
        self._promised_us: dict[ReplicaId, int] = {}  # with that answer: for how long it elects nobody else

    @property
    def context(self) -> bytes:
        """What heartbeats carry: the newest position, nothing while no read waits."""
        return self._newest.to_bytes(POSITION_BYTES, "big") if self._pending else b""

    @property
    def pending(self) -> int:
        return len(self._pending)

    def add(self, index: Index, request: Message, self_id: ReplicaId) -> bool:
        """Let `request` wait; the leader itself answers at once. False if too many wait already."""
        if len(self._pending) >= READS_PENDING_MAX:
            return False
        self._newest += 1
        self._pending.append(PendingRead(self._newest, index, request))
        self._echoed[self_id] = Index(self._newest)
        self._promised_us[self_id] = NO_LIMIT  # it elects nobody else before it has stopped leading
        return True

    def echo(self, replica: ReplicaId, context: bytes, promise_us: int) -> bool:
        """Take the answer of `replica`. Return False if it answers nothing that was ever asked here."""
        position = int.from_bytes(context, "big") if len(context) == POSITION_BYTES else 0
        if not 0 < position <= self._newest:
            return False
        if position >= self._echoed.get(replica, 0):
            self._echoed[replica] = Index(position)
            self._promised_us[replica] = promise_us
        return True

    def release(self, quorum: JointConfig) -> list[tuple[PendingRead, int]]:
        """Take out, in order, every read that a quorum has proved.

        Beside each stands the longest time, in microseconds, for which some quorum that has proved it promises to elect
        nobody else: found as the committed index is, with promises in the place of `match`.
        """
        proved = quorum.committed_index(self._echoed)
        released: list[tuple[PendingRead, int]] = []
        while self._pending and self._pending[0].position <= proved:
            read = self._pending.popleft()
            promised = {
                replica: Index(self._promised_us[replica])
                for replica, position in self._echoed.items()
                if position >= read.position
            }
            released.append((read, quorum.committed_index(promised)))
        return released
