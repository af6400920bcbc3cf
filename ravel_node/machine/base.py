"""The port between the driver and a replicated state machine, and the read and write views of its state.

A machine is a function of its log: it has no clock, no chance and no state outside the transaction it is given, so that replaying
a log prefix, or copying the store at that prefix, gives the same bytes on every replica (Raft paper, section 2; the machine of
ravel_node.machine.kv is the first, the admin's directory another).

State lives in named databases of byte keys and byte values. `Reader` shows them at one point in time; `Txn` reads what it has
itself written and collects the effects of one contiguous range of log indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from ravel_node.raft.types import ConfState, EntryId, Index, ReplicaId


class Database(IntEnum):
    """The databases of the applied state. The numbers order them in files and hashes; names are in storage.keys."""

    META = 0  # revision, counters, membership at rest, cluster name
    KV = 1  # user keys
    SLOTS = 2  # slot (2 bytes, big-endian) -> user keys of that slot (a set of values for each key: dupsort)
    SESSIONS = 3  # client id -> when it was last used, what it has acknowledged
    RESULTS = 4  # client id, sequence -> the stored answer of that write
    MEMBERS = 5  # replica id -> member record (also of removed ones)
    OWNERSHIP = 6  # slots this cluster owns, imports, exports; empty: it owns all
    HISTORY = 7  # which commands of recent entries changed nothing, and revisions to count from (see machine.history)
    DIRECTORY = 8  # of an admin group: servers, clusters, moves, the map of slots (see admin.directory)


class Reader(Protocol):
    """The state at one point in time: exactly what one log prefix left. Used on the loop; calls may touch a mapped page."""

    @property
    def applied(self) -> EntryId:
        """The last entry whose effects this reader shows."""
        ...

    def get(self, database: Database, key: bytes) -> bytes | None: ...

    def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in byte order. Valid until the next await of the caller; not for SLOTS."""
        ...

    def slot_keys(self, slot: int, after: bytes = b"") -> Iterator[bytes]:
        """The user keys of a slot that lie above `after`, in byte order. Valid until the next await of the caller."""
        ...


class Txn(Protocol):
    """The open segment: reads see everything applied so far, writes join the segment. Used on the loop only."""

    def get(self, database: Database, key: bytes) -> bytes | None: ...

    def put(self, database: Database, key: bytes, value: bytes) -> None: ...

    def delete(self, database: Database, key: bytes) -> None:
        """A key that is not there is no error."""
        ...

    def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]: ...


class Status(IntEnum):
    """How a command ended. The numbers are in stored session results."""

    OK = 0
    CONDITION_FAILED = 1  # nothing was done; revision, found and value tell what is there
    SESSION_EXPIRED = 2  # the client is not registered (any more); nothing was done
    RESULT_FORGOTTEN = 3  # the sequence lies below what the client acknowledged: it was done, its answer is gone
    REFUSED = 4  # `value` holds a sentence: a command that can never succeed (a bug or a hostile client), or a step out of order
    WRONG_CLUSTER = 5  # a slot of its keys belongs to another cluster; nothing was done
    SLOT_MOVING = 6  # a slot of its keys is frozen, since it is about to change its cluster; nothing was done


class Outcome(NamedTuple):
    """The answer to one applied command. What the fields mean is told with each kind in envelope.py."""

    status: Status = Status.OK
    revision: int = 0
    found: bool = False
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """What the cluster knows of one replica, from its own log. Written with the membership change that adds it."""

    replica_id: ReplicaId
    server_id: str  # 32 lower-case hex digits
    name: str
    version: str
    format: int  # the newest kind of command that this replica can apply
    listen: str  # what clients dial
    peer: str  # what replicas dial
    listen_bind: str
    peer_bind: str
    auto_promote: bool = False
    removed: bool = False


class Start(NamedTuple):
    """Where a cluster that is made from the state of another one begins."""

    at: EntryId
    revision: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What must hold of a machine's records beyond their check sums, for whoever checks a whole state. Both tell why not."""

    record: Callable[[Database, bytes, bytes, Callable[[Database, bytes], bytes | None]], str]
    """Database, key, payload, and what reads the same state; empty for a record that the machine can have written."""

    state: Callable[[Callable[[Database, bytes], bytes | None], Index], list[str]]
    """What reads the state, and the index that it was applied to."""


class StateMachine(Protocol):
    """What the driver needs of a machine. Every method runs on the driver's task and must not block."""

    def open(self, reader: Reader) -> None:
        """Load what is kept in memory beside the state: at start, and again after a snapshot was installed."""
        ...

    def apply(self, at: EntryId, payload: bytes, txn: Txn) -> Sequence[Outcome]:
        """Apply one normal entry and return one outcome for each command in it, in order.

        Deterministic. An empty payload (a new leader's entry) does nothing. Raises UnknownCommandError for a kind that this
        version does not know, EnvelopeError for bytes that are not a payload: either stops the replica.
        """
        ...

    def keys_read(self, payload: bytes) -> Sequence[bytes]:
        """Return the user keys whose records `apply` may read for this entry. Raises as `apply` does."""
        ...

    def apply_membership(self, at: EntryId, conf_state: ConfState, context: bytes, txn: Txn) -> None:
        """Store a membership that took effect; `context` is the change's own (see machine.members)."""
        ...

    def refounded(self, txn: Txn, start: Start) -> None:
        """Prepare the opened state to become that of another cluster, whose log begins at `start` (see machine.refounding).

        Every number that it reports from now on must lie above all that the old cluster may have reported after this state.
        """
        ...

    def summarize(self, payload: bytes) -> list[str]:
        """One line for each command, for people. Never raises: what cannot be read is said so."""
        ...
