"""The port between the driver and durable state.

A `Store` holds two things. The *log* with the hard state is what Raft promises rest on: a save is durable before it is reported.
The *state* is what was applied: its effects first live in a table in memory, as a chain of segments, and reach the disk later,
whole segments at a time, because the log can repeat them. So what the disk holds of the state is always exactly one log prefix.

Everything here is called on the event loop. What touches the disk for long is awaited and runs on that environment's one writer
thread. After a failed save nothing can be known about the disk: the store raises `StoreFailedError` from then on, for everything,
and the replica stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from ravel_node.machine.base import Reader, Rules, Txn
from ravel_node.machine.high_water import Marks
from ravel_node.raft.storage import Storage
from ravel_node.raft.types import NO_REPLICA, Entry, EntryId, HardState, Index, ReplicaId, Snapshot

WriteState = Callable[[Txn], None]
"""What puts the first content into the state of a new cluster."""


class StoreError(Exception):
    """A refusal or failure of durable state."""


class StoreFailedError(StoreError):
    """The disk failed a write or a sync. What it holds beyond the last durable save is unknown: the replica must stop."""


class HalfAppliedError(StoreFailedError):
    """An entry was applied in part and failed. The state in memory is that of no entry: the replica must stop.

    The disk holds complete entries only; the rest is applied again from the log after a restart.
    """


class DamagedError(StoreError):
    """A stored byte is not what was written, or parts do not fit together. The message names file and record.

    Any read may raise it. The replica must stop: what it would go on with is not what its log left.
    """


class FormatError(StoreError):
    """The data directory was written by a later version, or is not one of ours."""


class LaterFormatError(FormatError):
    """The data directory was written by a later version."""


class DirectoryInUseError(StoreError):
    """Another process has this data directory open."""


class SnapshotRefusedError(StoreError):
    """A received snapshot is damaged, of another cluster or of an unknown format. Nothing was changed."""


class HashStoppedError(StoreError):
    """A hash of the state was given up: something that must not wait needed the state, or the store closes. Nothing is wrong."""


@dataclass(slots=True)
class Save:
    """One durable step of the log, as the core asks for it. Either entries or a snapshot, never both."""

    entries: Sequence[Entry] = ()  # replace everything from the first one's index on
    hard_state: HardState | None = None
    snapshot: Snapshot | None = None  # staged by `receive`; becomes the state, and the start of the log


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this data directory is. Drawn or assigned once, never changed but for `removed`."""

    server_id: str  # 32 lower-case hex digits
    cluster_id: str = ""  # empty: blank, belongs to no cluster yet
    cluster_name: str = ""
    replica_id: ReplicaId = NO_REPLICA
    name: str = ""
    removed: bool = False  # the cluster took this replica out; it stays out

    @property
    def blank(self) -> bool:
        return not self.cluster_id


class Boot(NamedTuple):
    """The newest start of a replica from this data directory. Written durably before the replica sends its first message."""

    number: int = 0  # starts so far; 0: none since the directory has had such a record
    boot_id: str = ""  # 16 hex digits, drawn for that start
    promise_us: int = 0  # the longest time for which the process of that start may have promised not to elect another leader


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """The header file beside a snapshot's data file (JSON; docs/on-disk.md). Shapes: ids are integers, sizes bytes."""

    format: int
    cluster_id: str
    cluster_name: str
    index: int
    term: int
    voters: tuple[int, ...]
    learners: tuple[int, ...]
    voters_outgoing: tuple[int, ...]
    learners_next: tuple[int, ...]
    auto_leave: bool
    revision: int
    keys: int
    size_bytes: int
    sha256: str  # 64 hex digits, of the data file
    taken_at_ms: int  # wall clock, for people only
    taken_by: str


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A verified snapshot on disk."""

    name: str
    path: Path  # of the data file: a compact copy of a state environment
    header: SnapshotHeader
    header_bytes: bytes


@dataclass(frozen=True, slots=True)
class DatabaseStats:
    name: str
    entries: int
    pages: int


@dataclass(frozen=True, slots=True)
class EnvironmentStats:
    """Sizes in bytes."""

    name: str
    map_size: int
    used: int  # pages in use, less the free ones among them
    free: int
    readers: int
    databases: tuple[DatabaseStats, ...]


class LogRecord(NamedTuple):
    """One place in the log as it lies on the disk: the entry, or why there is none."""

    index: Index  # type: ignore[assignment]  # a tuple has a method of that name, which nobody needs here
    entry: Entry | None
    problem: str  # empty where there is an entry; of a run of missing ones only the first is told


class LogPage(NamedTuple):
    """A part of the log. Go on from `next`; there is nothing more once it lies beyond `last`, or the end that was asked for."""

    records: list[LogRecord]
    next: Index
    first: Index  # of the whole log
    last: Index


class StateHash(NamedTuple):
    """What `storage.hashing` made of one applied state."""

    at: EntryId  # the last entry that was applied to it
    sha256: bytes  # 32 bytes
    records: int
    bytes: int  # of the hashed records
    seconds: float


class CheckStep(NamedTuple):
    """How far a check of everything is, and what it has newly found: sentences that name file and record."""

    part: str  # log, state or snapshots
    done: int  # records read of that part, or bytes of snapshots
    total: int  # as far as is known now
    problems: tuple[str, ...]


class StagedSnapshot(Protocol):
    """A snapshot on its way in, on disk beside the state. Survives a restart, so that a broken transfer goes on."""

    @property
    def received(self) -> int:
        """Bytes that are durable; the sender goes on from here."""
        ...

    async def write(self, offset: int, data: bytes) -> None:
        """`offset` must equal `received`. Raises SnapshotRefusedError if it does not or the file would grow past its size."""
        ...

    async def finish(self) -> Snapshot:
        """Verify size, sha256, cluster and format; from now on the snapshot can be installed by a `Save` that names it.

        Raises SnapshotRefusedError; the file is deleted then.
        """
        ...

    async def discard(self) -> None:
        """Give the transfer up and delete its file. A finished one stays: a `Save` may be about to name it."""
        ...


class Store(Storage, Protocol):
    """Durable state of one replica. The read methods of `Storage` show what has been saved."""

    # --- the log

    async def save(self, saves: Sequence[Save]) -> None:
        """Make these saves durable, in order, in one transaction. Calls must not overlap: the driver has one under way at a time.

        A save with a snapshot installs it: the staged file becomes the state (see `receive`), the log begins after it, and
        `applied`, `reader()` and `txn()` show it from the moment this returns; nothing may be applied meanwhile. Raises
        StoreFailedError, after which the store is dead.
        """
        ...

    async def compact(self, to: Index) -> None:
        """Drop entries up to and including `to`, never past `flushed`, never past one that `hold` protects.

        In steps between saves.
        """
        ...

    def compactable(self, to: Index) -> Index:
        """How far `compact` would go now."""
        ...

    # --- the applied state

    @property
    def applied(self) -> EntryId:
        """The last entry whose effects are in the table or on disk."""
        ...

    @property
    def flushed(self) -> EntryId:
        """The last entry whose effects are on disk."""
        ...

    @property
    def unflushed_bytes(self) -> int:
        """Size of all segments in memory, the open one too."""
        ...

    @property
    def unflushed_segments(self) -> int:
        """Segments in memory that hold something."""
        ...

    @property
    def congested(self) -> bool:
        """Sealed segments exceed `unflushed_bytes_max`: the driver applies nothing more and refuses proposals until this is
        false.
        """
        ...

    @property
    def congested_since(self) -> float | None:
        """The loop's time at which the store became `congested`; None while it is not."""
        ...

    def txn(self) -> Txn:
        """Return the open segment. The same object may be used until `applied_to` is called.

        A caller that fails between its first write and `applied_to` leaves half of an entry: from then on `reader`, `flush`,
        `hash_applied` and `build_snapshot` raise HalfAppliedError, and nothing of that entry reaches the disk.
        """
        ...

    def applied_to(self, at: EntryId) -> None:
        """The effects written into `txn()` so far are exactly those of all entries up to `at`.

        Seals a full segment and starts its flush.
        """
        ...

    def reader(self) -> Reader:
        """The state right now. Cheap; valid until the caller's next await."""
        ...

    @property
    def cold(self) -> bool:
        """Whether a read may have to wait for the disk: callers page in what they are about to read, then."""
        ...

    def look_for_faults(self) -> None:
        """Find out whether the event loop has waited for the disk since the last call. Call it at every tick."""
        ...

    async def page_in(self, keys: Sequence[bytes]) -> None:
        """Read these user keys on another thread, so that reading them on the event loop does not wait for the disk."""
        ...

    async def page_in_range(self, start: bytes, end: bytes | None, keys_max: int, bytes_max: int) -> None:
        """The same for user keys with start <= key < end, up to a number of keys, or of bytes of them and their values."""
        ...

    async def verify_slots(self, slots: Sequence[int], keys_max: int) -> int:
        """Compare the index of the first of these slots with what was written, until `keys_max` keys were seen or none is left.

        Return how many slots were verified: one at least. Runs in one read transaction on a file thread. What is in memory needs
        no verification. Raises DamagedError, which names file and slot, where a slot lists other keys than those that are there.
        The keys themselves are not damaged then, so the replica may go on; but no migration may trust its index.
        """
        ...

    async def count_keys(self, slots: Sequence[int]) -> int:
        """Return how many keys these slots had at the last flush, by their summaries. Raises DamagedError for a damaged one."""
        ...

    async def flush(self) -> None:
        """Seal the open segment and return once everything applied up to now is on disk."""
        ...

    def hash_applied(self) -> asyncio.Future[StateHash]:
        """Hash the state as it is now, at `applied`: seals the open segment, and hashes what its flush leaves, on a file thread.

        Returns at once; flushes and whatever is applied meanwhile go on. One hash at a time. The future raises HashStoppedError
        where another one is under way, the state is replaced, a write has to wait for it, or the store closes; DamagedError where
        the state cannot be read.
        """
        ...

    # --- snapshots

    def snapshots(self) -> Sequence[SnapshotFile]:
        """Verified files, newest first."""
        ...

    async def build_snapshot(self) -> SnapshotFile:
        """Make a file of what is applied now. Raises StoreError where the disk is full; then no file is left behind."""
        ...

    def open_snapshot(self, at: Index) -> SnapshotFile:
        """The file that `snapshot()` named with this index. Raises SnapshotTemporarilyUnavailableError if it is gone."""
        ...

    async def doubt_snapshot(self, at: Index) -> None:
        """A peer did not take the file of this index: verify it again. A damaged one is put aside, so that another is built."""
        ...

    def hold(self, index: Index) -> None:
        """Keep the log after `index` while a snapshot of it travels, up to `log_retain_bytes_max`.

        Counted; undone by `release`.
        """
        ...

    def release(self, index: Index) -> None: ...

    async def receive(self, header: bytes, size_bytes: int, sha256: bytes) -> StagedSnapshot:
        """Begin or go on receiving a file; `sha256` is its 32 bytes.

        Raises SnapshotRefusedError where its header cannot be ours or it would take the state back, StoreError on a full disk.
        """
        ...

    # --- who and how much

    @property
    def identity(self) -> Identity: ...

    async def set_identity(self, identity: Identity) -> None:
        """Take a seat, durably. Repeating the same is no error; raises StoreError if a different identity is there already."""
        ...

    @property
    def boot(self) -> Boot:
        """The newest start that was recorded here."""
        ...

    async def record_boot(self, boot: Boot) -> None:
        """Record a start durably. Raises StoreFailedError."""
        ...

    @property
    def peer_marks(self) -> Marks:
        """High-water marks of other members, as this replica last recorded them."""
        ...

    async def record_peer_marks(self, marks: Marks) -> None:
        """Record high-water marks durably, in place of those that are there. Raises StoreFailedError."""
        ...

    async def mark_removed(self) -> None:
        """Note for good that the cluster took this replica out. Repeating it is no error."""
        ...

    async def bootstrap(self, identity: Identity, snapshot: Snapshot, hard_state: HardState, write_state: WriteState) -> None:
        """The birth of a cluster: identity, hard state and a log that begins after `snapshot`, in one durable transaction.

        `write_state` is called on the loop, before it, with a transaction of its own: what it writes, and nothing else, is the
        state at `snapshot`. Raises StoreError where this directory has an identity or a log already.
        """
        ...

    @property
    def db_used_bytes(self) -> int:
        """Pages of the state in use, less free ones: what the quota counts. As of the last flush."""
        ...

    @property
    def db_map_bytes(self) -> int:
        """The map of the state: address space, which is larger than what it may hold. As of the last flush."""
        ...

    @property
    def log_used_bytes(self) -> int: ...

    def stats(self) -> Sequence[EnvironmentStats]:
        """raft/ first, then the state."""
        ...

    async def log_page(self, first: Index, end: Index) -> LogPage:
        """The records of [first, end) as they lie on the disk, as far as one page goes, read off the loop.

        Unlike `entries` it raises nothing for a damaged record, but tells it in its place.
        """
        ...

    def checking(self, rules: Rules | None = None) -> AsyncGenerator[CheckStep, None]:
        """Read every record of log, state and snapshots, off the loop and in short transactions, and name all that is wrong.

        `rules` are the machine's. Starting checks only what it needs.
        """
        ...

    async def check(self) -> Sequence[str]:
        """All problems that `checking` tells of."""
        ...

    async def close(self) -> None:
        """Flush, stop the writer threads, close both environments, give the directory free. Safe to call twice."""
        ...
