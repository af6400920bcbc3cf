"""The Inspect service: a look at the log, the snapshots and the store of the asked replica, leader or not."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, closing
from typing import Final

from ravel_node.admin.records import RULES
from ravel_node.machine.entries import DAMAGED, EntryFilter, digest
from ravel_node.machine.envelope import FORMAT
from ravel_node.raft.types import Index
from ravel_node.replica.errors import StaleViewError
from ravel_node.replica.events import EventKind
from ravel_node.server.errors import LogCompactedError, NoSuchThingError
from ravel_node.server.host import Host
from ravel_node.server.limits import InputError
from ravel_node.storage.base import LogRecord, SnapshotFile, Store
from ravelpb.v1 import cluster_pb2, common_pb2, inspect_pb2

LOG_ENTRIES_DEFAULT: Final = 1_000
LOG_TAIL_FILTERED_MAX: Final = 1_000
"""Entries of a filtered tail: they are kept until the end of the log was seen."""

TURN_BYTES: Final = 64 << 10
"""Payloads that are put into words before the loop turns to others."""

FETCH_CHUNK_BYTES: Final = 1 << 20


class InspectHandlers:
    """Handlers of `ravel.v1.Inspect`. Disk reads that may take long are done off the loop."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def _header(self) -> common_pb2.ResponseHeader:
        replica, identity = self._host.replica, self._host.identity
        return common_pb2.ResponseHeader(
            cluster_id=identity.cluster_id, replica_id=identity.replica_id, term=replica.term, index=replica.applied.index
        )

    # --- the log

    async def read_log(self, request: inspect_pb2.ReadLogRequest) -> AsyncIterator[inspect_pb2.ReadLogResponse]:
        """Pages of entries, at least one page, read from the disk. Raises LogCompactedError for a start below the log's."""
        wanted = EntryFilter(request.term, frozenset(request.types), request.key_prefix, request.since_ms, request.until_ms)
        filtered = bool(wanted)
        at, end = _range(request, self._host.store, filtered=filtered)
        left = request.limit or LOG_ENTRIES_DEFAULT
        newest: deque[inspect_pb2.LogEntry] = deque(maxlen=min(left, LOG_TAIL_FILTERED_MAX))
        while True:
            page, last = self._log_page(), True
            store = self._host.store
            if at < store.first_index():
                raise LogCompactedError(at, store.first_index())
            if at < end:
                read = await store.log_page(Index(at), Index(end))
                found, page.untimed = await _log_entries(read.records, wanted, request)
                at, last = read.next, read.next >= end
                if request.tail and filtered:
                    newest += found
                else:
                    page.entries.extend(found[:left])
                    left -= len(page.entries)
                    last = last or not left
            if last:
                page.entries.extend(newest)
            page.next_index = page.entries[-1].index + 1 if page.entries and not left else at
            yield page
            if last:
                return

    def _log_page(self) -> inspect_pb2.ReadLogResponse:
        status = self._host.replica.status()
        store = self._host.store
        page = inspect_pb2.ReadLogResponse(
            header=self._header(),
            first_index=store.first_index(),
            last_index=store.last_index(),
            commit_index=status.commit_index,
        )
        if snapshots := store.snapshots():
            page.snapshot_index, page.snapshot_term = snapshots[0].header.index, snapshots[0].header.term
        return page

    # --- snapshots

    async def list_snapshots(self, request: inspect_pb2.ListSnapshotsRequest) -> inspect_pb2.ListSnapshotsResponse:
        header = self._header()
        return inspect_pb2.ListSnapshotsResponse(header=header, snapshots=map(_snapshot_info, self._host.store.snapshots()))

    async def save_snapshot(self, request: inspect_pb2.SaveSnapshotRequest) -> inspect_pb2.SaveSnapshotResponse:
        self._header()  # refuses on a blank daemon, which has nothing to save
        self._check_view(request.expect)
        store = self._host.store
        snapshots = store.snapshots()
        if snapshots and snapshots[0].header.index >= store.applied.index:
            saved = snapshots[0]
        else:
            saved = await store.build_snapshot()
            text = f"snapshot {saved.header.index} was asked for by hand"
            self._host.events.record(EventKind.ACTION, "snapshot-asked", text, index=saved.header.index)
        return inspect_pb2.SaveSnapshotResponse(header=self._header(), snapshot=_snapshot_info(saved))

    def _check_view(self, expect: cluster_pb2.Expectation) -> None:
        """Raises StaleViewError where the caller decided on something else than this replica knows now."""
        now = (self._host.replica.term, self._host.machine.config_index)
        for what, expected, found in zip(("term", "configuration index"), (expect.term, expect.config_index), now, strict=True):
            if expected and expected != found:
                message = f"this was decided at {what} {expected}, and here it is {found} now"
                raise StaleViewError(message, "look again: `ravelctl status`")

    async def fetch_snapshot(self, request: inspect_pb2.FetchSnapshotRequest) -> AsyncIterator[inspect_pb2.FetchSnapshotResponse]:
        """The file from `offset` on. It stays readable while it is open, even if a newer one pushes it out meanwhile."""
        file = self._snapshot(request.name)
        size, offset = file.header.size_bytes, request.offset
        if offset > size:
            raise InputError(
                f"offset {offset} lies beyond the {size} bytes of snapshot {file.name}", field="offset", value=offset, limit=size
            )
        try:
            source = await asyncio.to_thread(open, file.path, "rb")
        except FileNotFoundError:
            raise _no_snapshot(request.name) from None
        response = inspect_pb2.FetchSnapshotResponse(header=file.header_bytes, size_bytes=size)
        with closing(source):
            while True:
                response.offset = offset
                response.data = await asyncio.to_thread(os.pread, source.fileno(), FETCH_CHUNK_BYTES, offset)
                if not response.data and offset < size:
                    raise OSError(f"snapshot {file.name} ends at byte {offset} of {size}")
                yield response
                offset += len(response.data)
                if offset >= size:
                    return
                response = inspect_pb2.FetchSnapshotResponse()

    def _snapshot(self, name: str) -> SnapshotFile:
        """Only names out of the store's own list are opened: what a caller sends never becomes a path."""
        self._header()
        for file in self._host.store.snapshots():
            if file.name == name:
                return file
        raise _no_snapshot(name)

    # --- the store

    async def check_store(self, request: inspect_pb2.CheckStoreRequest) -> AsyncIterator[inspect_pb2.CheckStoreResponse]:
        """A message a step; the check ends with the call."""
        header = self._header()
        async with aclosing(self._host.store.checking(RULES)) as steps:
            async for step in steps:
                if request.log_only and step.part != "log":
                    break
                yield inspect_pb2.CheckStoreResponse(
                    header=header, part=step.part, done=step.done, total=step.total, problems=step.problems
                )
        yield inspect_pb2.CheckStoreResponse(header=self._header(), finished=True)

    async def compact(self, request: inspect_pb2.CompactRequest) -> inspect_pb2.CompactResponse:
        replica, store = self._host.replica, self._host.store
        first, used = store.first_index(), store.log_used_bytes
        done = await replica.compact(request.keep, dry_run=request.dry_run)
        if not request.dry_run:
            text = f"the log was compacted by hand: it began at {first} and begins at {done.first_index}"
            self._host.events.record(EventKind.ACTION, "log-compacted", text, {"keep": request.keep}, term=replica.term)
        return inspect_pb2.CompactResponse(
            header=self._header(),
            first_index_before=first,
            first_index=done.first_index,
            last_index=store.last_index(),
            log_used_bytes_before=used,
            log_used_bytes=store.log_used_bytes,
            held_by=done.held_by,
        )

    async def store_stats(self, request: inspect_pb2.StoreStatsRequest) -> inspect_pb2.StoreStatsResponse:
        store = self._host.store
        return inspect_pb2.StoreStatsResponse(
            header=self._header(),
            environments=[
                inspect_pb2.EnvironmentStats(
                    name=environment.name,
                    map_size_bytes=environment.map_size,
                    used_bytes=environment.used,
                    free_bytes=environment.free,
                    readers=environment.readers,
                    databases=[
                        inspect_pb2.DatabaseStats(name=database.name, entries=database.entries, pages=database.pages)
                        for database in environment.databases
                    ],
                )
                for environment in store.stats()
            ],
            unflushed_bytes=store.unflushed_bytes,
            unflushed_segments=store.unflushed_segments,
            format=FORMAT,
        )

    async def state_hash(self, request: inspect_pb2.StateHashRequest) -> inspect_pb2.StateHashResponse:
        replica = self._host.replica
        found = await replica.compare_states()
        names = {member.record.replica_id: member.record.name for member in replica.members()}
        return inspect_pb2.StateHashResponse(
            header=self._header(),
            index=found.at.index,
            term=found.at.term,
            replicas=[
                inspect_pb2.ReplicaStateHash(
                    replica_id=one.replica_id,
                    name=names.get(one.replica_id, ""),
                    sha256=one.sha256,
                    problem=one.problem,
                    differs=one.differs,
                    agreed_index=one.agreed_index,
                    differed_index=one.differed_index,
                )
                for one in found.replicas
            ],
        )


def _no_snapshot(name: str) -> NoSuchThingError:
    return NoSuchThingError(
        f"there is no snapshot {name[:128]!r} here: `ravelctl snapshot list` names those there are", what="name", value=name
    )


def _range(request: inspect_pb2.ReadLogRequest, store: Store, *, filtered: bool) -> tuple[int, int]:
    """The indexes [at, end) that are to be looked at, as far as the log holds them."""
    limit = request.limit or LOG_ENTRIES_DEFAULT
    end = min(store.last_index(), request.to_index or store.last_index()) + 1
    if request.tail and not filtered:
        return max(store.first_index(), end - limit), end
    at = (0 if request.tail else request.from_index) or store.first_index()
    return at, end if filtered else min(end, at + limit)


def _snapshot_info(file: SnapshotFile) -> inspect_pb2.SnapshotInfo:
    header = file.header
    return inspect_pb2.SnapshotInfo(
        name=file.name,
        cluster_id=header.cluster_id,
        cluster_name=header.cluster_name,
        index=header.index,
        term=header.term,
        voters=header.voters,
        learners=header.learners,
        keys=header.keys,
        size_bytes=header.size_bytes,
        sha256=bytes.fromhex(header.sha256),
        taken_at_ms=header.taken_at_ms,
        taken_by=header.taken_by,
        revision=header.revision,
        format=header.format,
    )


# --- entries in words


async def _log_entries(
    records: Sequence[LogRecord], wanted: EntryFilter, request: inspect_pb2.ReadLogRequest
) -> tuple[list[inspect_pb2.LogEntry], int]:
    """Those that pass the filters, in words, and how many were left out because they carry no time.

    A page may hold a hundred thousand commands: others get their turn meanwhile.
    """
    found: list[inspect_pb2.LogEntry] = []
    size = untimed = 0
    for record in records:
        size += len(record.entry.data) if record.entry is not None else 0
        if size > TURN_BYTES:
            size = 0
            await asyncio.sleep(0)
        if (entry := _log_entry(record, wanted, request)) is None:
            continue
        if wanted.by_time and not entry.time_ms and entry.type != DAMAGED:
            untimed += 1
        else:
            found.append(entry)
    return found, untimed


def _log_entry(record: LogRecord, wanted: EntryFilter, request: inspect_pb2.ReadLogRequest) -> inspect_pb2.LogEntry | None:
    entry = record.entry
    if entry is None:  # it may be any, so it passes every filter
        return inspect_pb2.LogEntry(index=record.index, type=DAMAGED, summary=[record.problem])
    looked = wanted.look(entry)
    if looked is None:
        return None
    return inspect_pb2.LogEntry(
        index=entry.index,
        term=entry.term,
        type=looked.word,
        bytes=len(entry.data),
        summary=looked.lines,
        time_ms=looked.time_ms,
        data=entry.data if request.with_data else b"",
        digest=digest(entry) if request.with_digest else b"",
    )
