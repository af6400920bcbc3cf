"""High-water marks of peers, as one replica sees, records and shares them.

A mark says what a peer's data directory must hold at the least (machine.high_water). This replica knows it from three sources:

- its own memory: the term of each message, and, while it leads, what each follower has acknowledged;
- its own disk: each start of a peer is recorded before anything of it is taken, the rest within a second;
- the log: the leader writes the marks of all members into it when one has started, and now and then under load.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ravel_node.machine.high_water import NO_MARK, HighWaterMark, Marks
from ravel_node.machine.kv import KVMachine
from ravel_node.raft import Index, Message, MessageType, RawNode, ReplicaId, Term
from ravel_node.storage.base import Store
from ravel_node.transport.base import Hello

RECORD_EVERY_S: Final = 1.0
"""How often marks that have risen are written to this replica's disk."""

SHARE_EVERY_S: Final = 30.0
"""How often the leader writes marks that have risen into the log. A new start goes in at once."""

_PRE_VOTES: Final = frozenset({MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE})
"""Messages that may name a term which their sender has not entered."""


class PeerMarks:
    """The marks that one replica knows. Owned by the replica; `received` is called by its driver for each message."""

    def __init__(self, store: Store, machine: KVMachine, raw: RawNode) -> None:
        self._store = store
        self._machine = machine
        self._raw = raw
        self._marks: dict[ReplicaId, HighWaterMark] = dict(store.peer_marks)
        self._terms: dict[ReplicaId, Term] = {}  # of messages, not yet in `_marks`
        self._settled: dict[ReplicaId, Index] = {}  # committed and acknowledged, not yet in `_marks`
        self._acked: dict[ReplicaId, Index] = {}  # acknowledged to this leader, committed or not
        self._acked_term = Term(0)  # in which all of `_acked` were
        self._shared_at = 0.0
        self._shared_index = Index(0)  # of the log when marks were last shared

    def received(self, message: Message) -> None:
        """Take note of what a message says of its sender's data directory."""
        peer, term = message.from_, message.term
        if term > self._terms.get(peer, 0) and message.type not in _PRE_VOTES:
            self._terms[peer] = term
        if message.type is not MessageType.APPEND_RESPONSE or message.reject:
            return
        raw = self._raw
        if not raw.is_leader or raw.term != term:
            return
        if self._acked_term != term:
            self._acked.clear()
            self._acked_term = term
        index = message.index
        if index > self._acked.get(peer, 0):
            self._acked[peer] = index
        # What is committed now and matches the peer's log stays in that log for good.
        settled = min(index, raw.commit)
        if settled > self._settled.get(peer, 0):
            self._settled[peer] = settled

    def of(self, peer: ReplicaId) -> HighWaterMark:
        """Return the mark of a peer, from all sources."""
        seen = HighWaterMark(term=self._terms.get(peer, Term(0)), index=self._settled.get(peer, Index(0)))
        return self._marks.get(peer, NO_MARK).merged(seen).merged(self._machine.marks.get(peer, NO_MARK))

    def objection(self, hello: Hello) -> str:
        """Return what shows that the sender's data directory is older than what it has acknowledged; empty: nothing does."""
        if not hello.boot_number:
            return ""  # of a version that says none of this
        mark, raw = self.of(hello.replica_id), self._raw
        if hello.boot_number < mark.boot_number:
            return f"it counts {hello.boot_number} starts, and replica {hello.replica_id} was started {mark.boot_number} times"
        if hello.boot_number == mark.boot_number and hello.boot_id != mark.boot_id:
            return f"two processes were started from it for the {_ordinal(hello.boot_number)} time"
        if hello.term < mark.term:
            return f"it holds term {hello.term}, and replica {hello.replica_id} has spoken in term {mark.term}"
        acked = mark.index
        if raw.is_leader and self._acked_term == raw.term and hello.term <= raw.term:
            acked = max(acked, self._acked.get(hello.replica_id, Index(0)))
        if hello.last_index < acked:
            return f"its log ends at entry {hello.last_index}, and replica {hello.replica_id} has acknowledged entry {acked}"
        return ""

    async def record_start(self, hello: Hello) -> None:
        """Make the start of a peer durable here, before anything of it is taken. Raises StoreFailedError."""
        peer = hello.replica_id
        before = self._marks.get(peer, NO_MARK)
        # The term, too: a directory that is put back is started more often than the copy was, until its count of starts passes.
        self._marks[peer] = before.merged(HighWaterMark(hello.boot_number, hello.boot_id, hello.term))
        if self._marks[peer] != before:
            await self._store.record_peer_marks(self._gathered())

    async def record(self) -> None:
        """Make durable what has risen since the last time. Raises StoreFailedError."""
        marks = self._gathered()
        if marks != self._store.peer_marks:
            await self._store.record_peer_marks(marks)

    def _gathered(self) -> dict[ReplicaId, HighWaterMark]:
        """Return all marks of members, and let go of those of replicas that were removed."""
        removed = self._machine.removed_ids
        for peer in (self._terms.keys() | self._settled.keys()) - removed:
            seen = HighWaterMark(term=self._terms.get(peer, Term(0)), index=self._settled.get(peer, Index(0)))
            self._marks[peer] = self._marks.get(peer, NO_MARK).merged(seen)
        for gone in self._marks.keys() & removed:
            del self._marks[gone]
        self._terms.clear()
        self._settled.clear()
        return dict(self._marks)

    def to_share(self, members: Iterable[ReplicaId], own: HighWaterMark, own_id: ReplicaId, now: float) -> Marks:
        """Return the marks that this leader should write into the log now; none if that can wait.

        Sharing makes the log longer, and so makes marks rise. So it waits until the log has grown by more than that.
        """
        known = self._machine.marks
        risen: dict[ReplicaId, HighWaterMark] = {}
        started = False
        for peer in members:
            before = known.get(peer, NO_MARK)
            after = before.merged(own if peer == own_id else self.of(peer))
            if after != before:
                risen[peer] = after
                started = started or after.boot_id != before.boot_id
        last = self._raw.last_index
        due = now - self._shared_at >= SHARE_EVERY_S and last > self._shared_index + 1
        if not risen or not (started or due):
            return {}
        self._shared_at, self._shared_index = now, last
        return risen


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
