"""The Inspect service: a look at the log, the snapshots and the store of the asked replica, leader or not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Final

from ravel_node.machine.envelope import FORMAT
from ravel_node.machine.members import MemberRecordError, MemberVersionError, decode_context
from ravel_node.machine.summary import describe
from ravel_node.raft.confchange import decode_conf_change
from ravel_node.raft.errors import ConfChangeError
from ravel_node.raft.types import ConfChange, Entry, EntryType, Index, SingleChange
from ravel_node.server.errors import LogCompactedError, NoSuchThingError
from ravel_node.server.host import Host
from ravel_node.server.limits import InputError
from ravel_node.storage.base import SnapshotFile, Store
from ravelpb.v1 import common_pb2, inspect_pb2

LOG_ENTRIES_DEFAULT: Final = 1_000
LOG_PAGE_ENTRIES: Final = 256
LOG_PAGE_BYTES: Final = 1 << 20
"""Bounds of one message of ReadLog; an entry that is larger than a page is a page by itself."""

SUMMARY_LINES_MAX: Final = 256
"""Lines told of one entry: it may hold thousands of commands."""

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
        """Pages of entries, at least one page. Raises LogCompactedError for a start below the log's."""
        at, end = _range(request, self._host.store)
        first = True
        while first or at < end:
            page = self._log_page()
            store = self._host.store
            if at < store.first_index():
                raise LogCompactedError(at, store.first_index())
            if at < end:
                entries = store.entries(Index(at), Index(min(end, at + LOG_PAGE_ENTRIES)), LOG_PAGE_BYTES)
                page.entries.extend(_log_entry(entry, with_data=request.with_data) for entry in entries)
                at += len(entries)
            first = False
            yield page

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
        store = self._host.store
        snapshots = store.snapshots()
        if snapshots and snapshots[0].header.index >= store.applied.index:
            saved = snapshots[0]
        else:
            saved = await store.build_snapshot()
        return inspect_pb2.SaveSnapshotResponse(header=self._header(), snapshot=_snapshot_info(saved))

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
            format=FORMAT,
        )


def _no_snapshot(name: str) -> NoSuchThingError:
    return NoSuchThingError(
        f"there is no snapshot {name[:128]!r} here: `ravelctl snapshot list` names those there are", what="name", value=name
    )


def _range(request: inspect_pb2.ReadLogRequest, store: Store) -> tuple[int, int]:
    """The indexes [at, end) that are asked for, as far as the log holds them."""
    limit = request.limit or LOG_ENTRIES_DEFAULT
    end = store.last_index() + 1
    if request.tail:
        return max(store.first_index(), end - limit), end
    at = request.from_index or store.first_index()
    return at, min(end, at + limit)


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


def _log_entry(entry: Entry, *, with_data: bool) -> inspect_pb2.LogEntry:
    word, lines = _in_words(entry)
    if len(lines) > SUMMARY_LINES_MAX:
        lines[SUMMARY_LINES_MAX:] = [f"and {len(lines) - SUMMARY_LINES_MAX} more"]
    return inspect_pb2.LogEntry(
        index=entry.index,
        term=entry.term,
        type=word,
        bytes=len(entry.data),
        summary=lines,
        data=entry.data if with_data else b"",
    )


def _in_words(entry: Entry) -> tuple[str, list[str]]:
    """The type word of an entry and a line for each of its commands. Never raises: what cannot be read is said so."""
    if entry.type is not EntryType.NORMAL:
        return "config", _config_in_words(entry)
    commands = describe(entry.data)
    if not commands:
        return "noop", []
    if len(commands) == 1:
        word, line = commands[0]
        return word, [line]
    return "batch", [f"{word} {line}" for word, line in commands]


def _config_in_words(entry: Entry) -> list[str]:
    try:
        change = decode_conf_change(entry)
        records = {record.replica_id: record for record in decode_context(change.context)}
    except (ConfChangeError, MemberRecordError, MemberVersionError) as error:
        return [f"unreadable: {error}"]
    singles = [SingleChange(change.type, change.replica_id)] if isinstance(change, ConfChange) else list(change.changes)
    if not singles:
        return ["leave the joint configuration"]
    lines: list[str] = []
    for kind, replica_id in singles:
        record = records.get(replica_id)
        named = f" {record.name} listen {record.listen} peer {record.peer}" if record else ""
        lines.append(f"{kind.name.lower().replace('_', ' ')} {replica_id}{named}")
    return lines
