"""The `Store` of a data directory: log, state, table and snapshots joined into the port that the driver knows.

    save    -> LogStore, one transaction of raft/
    apply   -> Table, in memory -> (sealed, full or a second old) -> StateStore, one transaction of state-N/
    reads   -> Table, then StateStore

Two steps replace the state as a whole: `bootstrap`, and a save with a snapshot. Both make the directory state-(N+1) first, whole
and synced, which nothing names yet. Then one transaction of raft/ names it, together with everything that must change at the same
moment. A crash before that leaves the old state, with the old name; a crash after it the new one. What no name points to is
deleted at start.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Final
from uuid import uuid4

from ravel_node.machine.base import Reader, Rules, Txn
from ravel_node.machine.high_water import Marks
from ravel_node.machine.members import read_conf_state
from ravel_node.raft.errors import SnapshotTemporarilyUnavailableError, invariant
from ravel_node.raft.types import ConfState, Entry, EntryId, HardState, Index, Snapshot, Term
from ravel_node.storage import files
from ravel_node.storage.base import (
    Boot,
    CheckStep,
    DamagedError,
    EnvironmentStats,
    HalfAppliedError,
    Identity,
    LogPage,
    Save,
    SnapshotFile,
    StagedSnapshot,
    StateHash,
    StoreError,
    StoreFailedError,
    WriteState,
)
from ravel_node.storage.checking import LogCheck, StateCheck
from ravel_node.storage.directory import Directory
from ravel_node.storage.engine import DATA_FILE, WAY_OUT, Engine, Observe
from ravel_node.storage.hashing import Hashing
from ravel_node.storage.identity import require_takeable
from ravel_node.storage.keys import RAFT_DATABASES, STATE_DATABASES
from ravel_node.storage.lmdb_engine import LmdbEngine
from ravel_node.storage.log_pages import read_log_page
from ravel_node.storage.log_store import Birth, LogStore
from ravel_node.storage.page_ins import PageIns, major_faults, read_keys, read_range
from ravel_node.storage.slot_index import count_keys, verify_slots
from ravel_node.storage.snapshots import Incoming, Shelf, move_in, snapshot_of
from ravel_node.storage.state_store import StateStore
from ravel_node.storage.table import Segment, Table, written

NOTHING: Final = EntryId(Term(0), Index(0))

MAP_ROOM_BYTES: Final = 1 << 30
"""Of a map, beside twice what the environment may hold: a quota is checked when an entry is proposed, not when it is flushed."""


def _ignore(event: str, fields: Mapping[str, object]) -> None:
    """The observer of a store that nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """Sizes in bytes, times in seconds of the loop's clock."""

    segment_bytes_max: int = 4 << 20  # a segment that has as much is sealed
    unflushed_bytes_max: int = 64 << 20  # of sealed segments; above it the store is congested
    flush_interval_s: float = 1.0  # what was applied waits no longer than this for its flush
    log_tail_bytes_max: int = 16 << 20  # newest entries kept in memory
    log_retain_bytes_max: int = 1 << 30  # a log that is larger is compacted even under a snapshot in transfer
    compact_records_max: int = 1_000  # entries that one transaction of a compaction drops
    snapshots_kept: int = 2  # newest files; one in transfer is kept besides
    snapshot_retry_s: float = 10.0  # after a failed build `snapshot()` starts no other for so long
    raft_map_bytes: int = 1 << 30  # of the maps: address space, not disk (see `map_bytes_for`)
    state_map_bytes: int = 4 << 30
    draw_id: Callable[[], str] = lambda: uuid4().hex  # the server id of a new directory
    now_ms: Callable[[], int] = lambda: int(time() * 1_000)  # wall clock, for the header of a snapshot
    major_faults: Callable[[], int] = major_faults  # of the calling thread
    observe: Observe = _ignore


def map_bytes_for(bytes_max: int) -> int:
    """Return the size of the map for an environment that holds up to `bytes_max`, so that it need not grow.

    A map that grows waits for copies and inspections to end, and flushes wait with it. Free pages take room besides those in use:
    what was deleted, and what is overwritten while a snapshot is copied, which may take minutes.
    """
    return 2 * bytes_max + MAP_ROOM_BYTES


async def open_store(path: Path, options: StoreOptions, engine: Engine | None = None) -> DiskStore:
    """Open the data directory at `path`, and make it if it is not there or empty.

    Raises DirectoryInUseError, FormatError, DamagedError, or StoreError where it cannot be used; then nothing is left open.
    """
    engine = engine or LmdbEngine(options.observe)
    async with AsyncExitStack() as opened:
        opened.push_async_callback(engine.close)
        directory = Directory(path)
        opened.callback(directory.release)
        fresh = await engine.run(directory.claim)
        await engine.run(directory.make_folders)
        raft = await engine.open(directory.raft, RAFT_DATABASES, options.raft_map_bytes)
        opened.push_async_callback(raft.close)
        if fresh:
            if not LogStore.exists(raft):
                await LogStore.create(raft, await _first_birth(engine, directory, options))
            await engine.run(directory.seal)
        log = LogStore(raft, tail_bytes_max=options.log_tail_bytes_max, compact_records_max=options.compact_records_max)
        await engine.run(lambda: _delete_unnamed(engine, directory, log.state))
        state = await _open_state(engine, directory, log.state, options)
        opened.push_async_callback(state.close)
        _require_fitting(log, state.applied(), state.path_name)
        store = DiskStore(directory, engine, log, state, options)
        await store.start()
        opened.pop_all()
    return store


async def _first_birth(engine: Engine, directory: Directory, options: StoreOptions) -> Birth:
    """Make the empty state of a blank server, and draw its id."""
    await engine.run(lambda: _delete_unnamed(engine, directory, 0))
    await _create_state(engine, directory, 1, Segment(NOTHING), options)
    return Birth(Identity(options.draw_id()), NOTHING, HardState(), 1)


async def _create_state(engine: Engine, directory: Directory, number: int, content: Segment, options: StoreOptions) -> None:
    path = directory.state(number)
    await engine.run(lambda: files.make_directory(path))
    env = await engine.open(path, STATE_DATABASES, options.state_map_bytes, read_ahead=False)
    try:
        await StateStore.create(env, content.last, content)
    finally:
        await env.close()


async def _open_state(engine: Engine, directory: Directory, number: int, options: StoreOptions) -> StateStore:
    path = directory.state(number)
    if not await engine.run(path.is_dir):
        raise DamagedError(f"{path} is missing; {WAY_OUT}")
    env = await engine.open(path, STATE_DATABASES, options.state_map_bytes, read_ahead=False)
    try:
        store = StateStore(env, path.name)
        at = store.applied()
        keys = await store.summarize_slots()
        if keys is not None:
            options.observe("store.slots_summarized", {"environment": path.name, "index": at.index, "keys": keys})
    except BaseException:
        await env.close()
        raise
    return store


def _delete_unnamed(engine: Engine, directory: Directory, named: int) -> None:
    """Blocks. Delete every state directory but the named one: a step that was not finished, or what it replaced."""
    for number in directory.state_numbers():
        if number != named:
            engine.remove(directory.state(number))


def _require_fitting(log: LogStore, applied: EntryId, state: str) -> None:
    """Refuse a state and a log that cannot be of one history: they were copied apart, or one was put back."""
    base, last, commit = log.base, log.last, log.hard_state.commit
    if applied.index > last.index:
        raise DamagedError(f"{state} holds entry {applied.index}, and the log in raft ends at {last.index}; {WAY_OUT}")
    if applied.index < base.index:
        raise DamagedError(f"{state} ends at entry {applied.index}, and the log in raft begins after {base.index}; {WAY_OUT}")
    if log.term(applied.index) != applied.term:
        raise DamagedError(
            f"{state} holds entry {applied.index} of term {applied.term}, "
            f"and in raft it is of term {log.term(applied.index)}; {WAY_OUT}"
        )
    if commit > last.index:
        raise DamagedError(f"the log in raft ends at entry {last.index}, and {commit} was committed; {WAY_OUT}")


class DiskStore:
    """`Store` over an engine. Everything runs on the loop; `open_store` makes one."""

    def __init__(self, directory: Directory, engine: Engine, log: LogStore, state: StateStore, options: StoreOptions) -> None:
        self._directory = directory
        self._engine = engine
        self._log = log
        self._state = state
        self._options = options
        self._table = self._table_over(state)
        self._shelf = Shelf(
            engine, directory.snapshots, kept=options.snapshots_kept, now_ms=options.now_ms, observe=options.observe
        )
        self._incoming = Incoming(engine, directory.incoming)
        self._held: Counter[Index] = Counter()
        self._failure: StoreFailedError | None = None
        self._closed = False
        self._replacing = False  # the state is being replaced: nothing is flushed, compacted or built meanwhile
        self._congested_since: float | None = None
        self._flush_wanted = asyncio.Event()
        self._not_flushing = asyncio.Event()
        self._not_flushing.set()
        self._flush_waiters: list[tuple[Index, asyncio.Future[None]]] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._verifier: asyncio.Task[None] | None = None
        self._hashing = Hashing()
        self._page_ins = PageIns(options.major_faults)
        self._build: asyncio.Task[SnapshotFile] | None = None
        self._build_not_before = 0.0

    def _table_over(self, state: StateStore) -> Table:
        return Table(state, state.applied(), segment_bytes_max=self._options.segment_bytes_max)

    async def start(self) -> None:
        """Begin to flush, and verify the snapshots that are there."""
        await self._incoming.load(self.applied.index)
        self._flusher = asyncio.create_task(self._flush_forever(), name="store.flush")
        found = await self._shelf.load()
        self._verifier = asyncio.create_task(self._verify(found), name="store.verify")

    async def _verify(self, found: Sequence[SnapshotFile]) -> None:
        try:
            await self._shelf.verify(found, self.identity.cluster_id)
        except (OSError, StoreError) as error:
            self._options.observe("store.snapshots_unreadable", {"why": str(error)})

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StoreError(f"the store in {self._directory.path} is closed")

    def _fail(self, error: StoreFailedError) -> None:
        if self._failure is None:
            self._failure = error
            self._options.observe("store.failed", {"why": str(error)})
        waiters, self._flush_waiters = self._flush_waiters, []
        for _, done in waiters:
            if not done.done():
                done.set_exception(self._failure)
        self._hashing.give_up(str(error))

    # --- the log: what the core reads

    def initial_state(self) -> tuple[HardState, ConfState]:
        hard_state = self._log.hard_state
        commit = max(hard_state.commit, self.applied.index)  # only what is locally durable is ever applied
        return hard_state._replace(commit=Index(commit)), read_conf_state(self._table.get)

    def entries(self, first: Index, end: Index, bytes_max: int) -> Sequence[Entry]:
        return self._log.entries(first, end, bytes_max)

    def term(self, index: Index) -> Term:
        return self._log.term(index)

    def first_index(self) -> Index:
        return self._log.first_index()

    def last_index(self) -> Index:
        return self._log.last_index()

    def snapshot(self) -> Snapshot:
        newest = self._newest_useful()
        if newest is not None:
            return snapshot_of(newest.header)
        self._start_build()
        raise SnapshotTemporarilyUnavailableError

    # --- the log: what the driver writes

    async def save(self, saves: Sequence[Save]) -> None:
        self._check()
        try:
            installs = [save.snapshot for save in saves if save.snapshot is not None]
            if installs:
                await self._install(saves, installs[-1])
            else:
                await self._log.save(saves)
        except StoreFailedError as error:
            self._fail(error)
            raise
        except (OSError, StoreError) as error:
            self._fail(failure := StoreFailedError(f"the log could not be saved: {error}"))
            raise failure from error

    async def compact(self, to: Index) -> None:
        self._check()
        try:
            more = True
            while more and not self._replacing:
                more = await self._log.compact_step(self.compactable(to))
        except StoreFailedError as error:
            self._fail(error)
            raise

    def compactable(self, to: Index) -> Index:
        """How far the log may be compacted now: to what is flushed, and to a snapshot in transfer while the log is small."""
        to = min(to, self.flushed.index)
        if self._held and self.log_used_bytes <= self._options.log_retain_bytes_max:
            to = min(to, *self._held)
        return Index(to)

    # --- the state

    @property
    def applied(self) -> EntryId:
        return self._table.applied

    @property
    def flushed(self) -> EntryId:
        return self._table.flushed

    @property
    def unflushed_bytes(self) -> int:
        return self._table.size

    @property
    def unflushed_segments(self) -> int:
        return self._table.segments

    @property
    def congested(self) -> bool:
        return self._table.sealed_bytes > self._options.unflushed_bytes_max

    @property
    def congested_since(self) -> float | None:
        return self._congested_since

    def _note_congestion(self) -> None:
        """Keep the time since which the store is congested. To be called whenever segments were sealed or dropped."""
        if not self.congested:
            self._congested_since = None
        elif self._congested_since is None:
            self._congested_since = asyncio.get_running_loop().time()

    def txn(self) -> Txn:
        if self._failure is not None or self._closed:
            self._check()
        return self._table

    def reader(self) -> Reader:
        if self._failure is not None or self._closed or self._table.half_applied:
            self._check()
            self._seal()  # raises: a reader must not see half of an entry
        return self._table

    def applied_to(self, at: EntryId) -> None:
        if self._failure is not None or self._closed:
            self._check()
        if self._table.applied_to(at):
            self._seal()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(self._options.flush_interval_s, self._seal_by_timer)

    def _seal(self) -> None:
        """Seal the open segment and wake the flusher. Raises HalfAppliedError, and fails the store, where that cannot be done."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        try:
            self._table.seal()
        except HalfAppliedError as error:
            self._fail(error)
            raise
        self._note_congestion()
        self._flush_wanted.set()

    def _seal_by_timer(self) -> None:
        with suppress(HalfAppliedError):  # `_fail` has reported it
            self._seal()

    @property
    def cold(self) -> bool:
        return self._page_ins.cold

    def look_for_faults(self) -> None:
        self._page_ins.look()

    async def page_in(self, keys: Sequence[bytes]) -> None:
        self._check()
        await self._page_ins.read(self._state.environment, lambda txn: read_keys(txn, keys))

    async def page_in_range(self, start: bytes, end: bytes | None, keys_max: int, bytes_max: int) -> None:
        self._check()
        await self._page_ins.read(self._state.environment, lambda txn: read_range(txn, start, end, keys_max, bytes_max))

    async def verify_slots(self, slots: Sequence[int], keys_max: int) -> int:
        self._check()
        state = self._state
        return await state.environment.inspect(lambda txn: verify_slots(txn, state.file, slots, keys_max))

    async def count_keys(self, slots: Sequence[int]) -> int:
        self._check()
        state = self._state
        return await state.environment.inspect(lambda txn: count_keys(txn, state.file, slots))

    async def flush(self) -> None:
        self._check()
        self._seal()
        if self._table.oldest is not None:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._flush_waiters.append((self.applied.index, done))
            await done

    async def _flush_forever(self) -> None:
        """Flush the oldest segment, one at a time, until cancelled or until a flush fails. The one task that flushes."""
        try:
            while True:
                await self._flush_wanted.wait()
                self._flush_wanted.clear()
                while not self._replacing and (segment := self._table.oldest) is not None:
                    await self._flush(segment)
        except StoreFailedError as error:
            self._fail(error)
        except Exception as error:  # nobody awaits this task: the next call to the store raises the error
            self._fail(StoreFailedError(f"a flush of the applied state failed: {error}"))
            raise
        finally:
            self._not_flushing.set()

    async def _flush(self, segment: Segment) -> None:
        self._not_flushing.clear()
        await self._state.flush(segment)
        self._table.drop_oldest(segment)
        self._note_congestion()
        self._not_flushing.set()
        self._hash_if_wanted()
        self._tell_flushed()

    def _tell_flushed(self) -> None:
        reached, waiting = self.flushed.index, self._flush_waiters
        self._flush_waiters = [waiter for waiter in waiting if waiter[0] > reached]
        for index, done in waiting:
            if index <= reached and not done.done():
                done.set_result(None)

    def hash_applied(self) -> asyncio.Future[StateHash]:
        self._check()
        self._seal()
        done = self._hashing.want(self.applied.index)
        self._hash_if_wanted()
        return done

    def _hash_if_wanted(self) -> None:
        self._hashing.flushed(self.flushed.index, self._state.environment, self._state.path_name)

    # --- replacing the state

    async def _install(self, saves: Sequence[Save], snapshot: Snapshot) -> None:
        path = self._incoming.finished(snapshot.id)
        if path is None:
            raise StoreFailedError(f"the snapshot of entry {snapshot.index} is not here: it was never received to its end")

        async def prepare(number: int) -> None:
            await self._engine.run(lambda: move_in(path, self._directory.state(number)))

        async def commit(number: int) -> None:
            await self._log.save(saves, number)

        await self._replace_state(snapshot.id, prepare, commit)
        await self._incoming.clear(snapshot.index)

    async def bootstrap(self, identity: Identity, snapshot: Snapshot, hard_state: HardState, write_state: WriteState) -> None:
        self._check()
        if not self.identity.blank or self._log.last != NOTHING or self.applied != NOTHING:
            raise StoreError(f"{self._directory.path} is replica {self.identity.replica_id} of a cluster already, or has a log")
        require_takeable(self.identity, identity)
        content = written(self._state, snapshot.id, write_state)

        async def prepare(number: int) -> None:
            await _create_state(self._engine, self._directory, number, content, self._options)

        async def commit(number: int) -> None:
            await self._log.birth(Birth(identity, snapshot.id, hard_state, number))

        try:
            await self._replace_state(snapshot.id, prepare, commit)
        except StoreFailedError as error:
            self._fail(error)
            raise
        except OSError as error:
            raise StoreError(f"no cluster could be made in {self._directory.path}: {error.strerror or error}") from error

    async def _replace_state(
        self, at: EntryId, prepare: Callable[[int], Awaitable[None]], commit: Callable[[int], Awaitable[None]]
    ) -> None:
        """Make the next state directory with `prepare`, name it with `commit`, and go over to it.

        The order is what makes it safe.
        """
        self._replacing = True
        try:
            await self._not_flushing.wait()
            numbers = await self._engine.run(self._directory.state_numbers)
            old, number = self._log.state, max(numbers, default=0) + 1
            await prepare(number)
            fresh = await _open_state(self._engine, self._directory, number, self._options)
            try:
                invariant(fresh.applied() == at, f"the new state is of {fresh.applied()}, not of {at}")
                await commit(number)
            except BaseException:
                await fresh.close()
                raise
            replaced, self._state = self._state, fresh
            self._table = self._table_over(fresh)
            self._note_congestion()
            self._hashing.give_up("a snapshot took the place of the state")
            self._tell_flushed()
            await replaced.close()
            await self._engine.run(lambda: self._engine.remove(self._directory.state(old)))
        finally:
            self._replacing = False
            self._flush_wanted.set()

    # --- snapshots

    def snapshots(self) -> Sequence[SnapshotFile]:
        return tuple(self._shelf.files)

    def _newest_useful(self) -> SnapshotFile | None:
        """The newest file after which the log goes on without a gap."""
        newest = self._shelf.files[0] if self._shelf.files else None
        return newest if newest is not None and newest.header.index >= self.first_index() - 1 else None

    async def build_snapshot(self) -> SnapshotFile:
        self._check()
        wanted = self.applied.index
        while True:
            newest = self._shelf.files[0] if self._shelf.files else None
            if newest is not None and newest.header.index >= wanted:
                return newest
            if self._build is None:
                self._build = asyncio.create_task(self._build_one(wanted), name="store.snapshot")
            await asyncio.shield(self._build)

    def _start_build(self) -> None:
        """Start one build in the background, unless one runs or has just failed."""
        if self._build is None and not self._closed and asyncio.get_running_loop().time() >= self._build_not_before:
            self._build = asyncio.create_task(self._build_one(Index(self.first_index() - 1)), name="store.snapshot")
            self._build.add_done_callback(lambda build: build.cancelled() or build.exception())

    async def _build_one(self, wanted: Index) -> SnapshotFile:
        """Build a file of the state at `wanted` or later, unless there turns out to be one."""
        try:
            if self._verifier is not None:
                await asyncio.wait([self._verifier])
            newest = self._shelf.files[0] if self._shelf.files else None
            if newest is not None and newest.header.index >= wanted:
                return newest
            await self.flush()
            file = await self._shelf.build(self._state.environment, self.identity)
            await self._shelf.prune(lambda file: Index(file.header.index) in self._held)
        except StoreError as error:
            self._build_not_before = asyncio.get_running_loop().time() + self._options.snapshot_retry_s
            self._options.observe("store.snapshot_failed", {"why": str(error)})
            raise
        finally:
            self._build = None
        self._options.observe(
            "store.snapshot_built",
            {"file": file.name, "size_bytes": file.header.size_bytes, "index": file.header.index, "term": file.header.term},
        )
        return file

    def open_snapshot(self, at: Index) -> SnapshotFile:
        for file in self._shelf.files:
            if file.header.index == at:
                return file
        raise SnapshotTemporarilyUnavailableError

    async def doubt_snapshot(self, at: Index) -> None:
        with suppress(StoreError):  # the store closes
            await self._shelf.doubt(at, self.identity.cluster_id)

    def hold(self, index: Index) -> None:
        self._held[index] += 1

    def release(self, index: Index) -> None:
        self._held[index] -= 1
        if self._held[index] <= 0:
            del self._held[index]

    async def receive(self, header: bytes, size_bytes: int, sha256: bytes) -> StagedSnapshot:
        self._check()
        return await self._incoming.begin(self.identity, self.applied.index, header, size_bytes, sha256)

    # --- who and how much

    @property
    def identity(self) -> Identity:
        return self._log.identity

    async def set_identity(self, identity: Identity) -> None:
        self._check()
        require_takeable(self.identity, identity)
        if identity != self.identity:
            await self._write_identity(identity)

    async def mark_removed(self) -> None:
        self._check()
        if not self.identity.removed:
            await self._write_identity(replace(self.identity, removed=True))

    async def _write_identity(self, identity: Identity) -> None:
        await self._write_meta(self._log.set_identity(identity))

    @property
    def boot(self) -> Boot:
        return self._log.boot

    async def record_boot(self, boot: Boot) -> None:
        self._check()
        await self._write_meta(self._log.record_boot(boot))

    @property
    def peer_marks(self) -> Marks:
        return self._log.peer_marks

    async def record_peer_marks(self, marks: Marks) -> None:
        self._check()
        await self._write_meta(self._log.record_peer_marks(marks))

    async def _write_meta(self, writing: Awaitable[None]) -> None:
        try:
            await writing
        except StoreFailedError as error:
            self._fail(error)
            raise

    @property
    def db_used_bytes(self) -> int:
        return self._state.used_bytes

    @property
    def db_map_bytes(self) -> int:
        return self._state.map_bytes

    @property
    def log_used_bytes(self) -> int:
        return self._log.used_bytes()

    def stats(self) -> Sequence[EnvironmentStats]:
        return (self._log.stats(), self._state.stats())

    async def log_page(self, first: Index, end: Index) -> LogPage:
        self._check()
        return await self._log.environment.inspect(lambda txn: read_log_page(txn, first, end))

    async def checking(self, rules: Rules | None = None) -> AsyncGenerator[CheckStep, None]:
        self._check()
        log = LogCheck(raft=rules is not None)
        while not log.finished:
            yield await self._log.environment.inspect(log.step)
        state, environment = StateCheck(f"{self._state.path_name}/{DATA_FILE}", rules), self._state.environment
        while not state.finished and environment is self._state.environment:  # else a snapshot has replaced the state
            yield await environment.inspect(state.step)
        async with aclosing(self._shelf.checking()) as steps:
            async for step in steps:
                yield step

    async def check(self) -> Sequence[str]:
        async with aclosing(self.checking()) as steps:
            return [problem async for step in steps for problem in step.problems]

    # --- the end

    async def close(self) -> None:
        if self._closed:
            return
        if self._failure is None:
            with suppress(StoreError):
                await self.flush()
        self._closed = True
        self._shelf.stop()
        self._incoming.stopping.set = True
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        await self._stop_tasks()
        await self._log.close()
        await self._engine.close()
        self._directory.release()

    async def _stop_tasks(self) -> None:
        tasks = [task for task in (self._flusher, self._verifier, self._build) if task is not None]
        if self._flusher is not None:
            self._flusher.cancel()
        self._hashing.give_up("the store closes")
        await self._state.close()  # ends a copy that is under way
        await asyncio.gather(*tasks, return_exceptions=True)
