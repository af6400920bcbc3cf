"""What the tests of the store share: small stores, entries, and a cluster's birth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from ravel_node.machine import members
from ravel_node.machine.base import Database, MemberRecord, Txn
from ravel_node.raft.types import ConfState, Entry, EntryId, HardState, Index, ReplicaId, Snapshot, Term
from ravel_node.storage.base import Identity, Save, SnapshotFile, Store
from ravel_node.storage.store import StoreOptions

CLUSTER: Final = "c" * 32
BIRTH: Final = Snapshot(Index(1), Term(1), ConfState(voters=(ReplicaId(1),)))
WAIT_S: Final = 30.0

NEVER: Final = StoreOptions(flush_interval_s=3_600.0)
"""Nothing is flushed unless the test says so, or a segment is full."""


def entry(index: int, term: int = 1, data: bytes = b"") -> Entry:
    return Entry(Term(term), Index(index), data=data or b"entry %d" % index)


def entries(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entry(index, term) for index in range(first, last + 1)]


def at(index: int, term: int = 1) -> EntryId:
    return EntryId(Term(term), Index(index))


def hard_state(term: int, commit: int, vote: int = 1) -> HardState:
    return HardState(Term(term), ReplicaId(vote), Index(commit))


def seat(server_id: str, replica_id: int, name: str = "") -> Identity:
    return Identity(server_id, CLUSTER, "test", ReplicaId(replica_id), name or f"r{replica_id}")


async def bootstrap(store: Store) -> None:
    """Make the store the first replica of CLUSTER: state and log begin at entry 1 of term 1."""
    identity = seat(store.identity.server_id, 1)
    record = MemberRecord(ReplicaId(1), identity.server_id, identity.name, "1.0", 1, "a:1", "a:2", "a:1", "a:2")

    def write_state(txn: Txn) -> None:
        members.bootstrap_state(txn, cluster_name="test", member=record, conf_state=BIRTH.conf_state, config_index=BIRTH.index)

    await store.bootstrap(identity, BIRTH, hard_state(1, 1, vote=0), write_state)


async def join(store: Store, replica_id: int = 2) -> None:
    await store.set_identity(seat(store.identity.server_id, replica_id))


async def append(store: Store, first: int, last: int, term: int = 1) -> None:
    await store.save([Save(entries(first, last, term))])


def apply(store: Store, index: int, puts: Mapping[bytes, bytes | None], term: int = 1) -> None:
    """Apply one entry that puts these user keys, and deletes those with None."""
    txn = store.txn()
    for key, value in puts.items():
        if value is None:
            txn.delete(Database.KV, key)
        else:
            txn.put(Database.KV, key, value)
    store.applied_to(at(index, term))


async def write(store: Store, puts: Iterable[tuple[bytes, bytes | None]], term: int = 1) -> None:
    """Append and apply one entry for each."""
    for key, value in puts:
        index = store.last_index() + 1
        await append(store, index, index, term)
        apply(store, index, {key: value}, term)


def contents(store: Store, start: bytes = b"", end: bytes | None = None) -> list[tuple[bytes, bytes]]:
    return list(store.reader().scan(Database.KV, start, end))


def get(store: Store, key: bytes) -> bytes | None:
    return store.reader().get(Database.KV, key)


async def until(condition: Callable[[], bool]) -> None:
    """Poll; fails after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


async def transfer(file: SnapshotFile, store: Store, chunk: int = 100_000) -> Snapshot:
    """Send a snapshot file to another store, to its end."""
    header = file.header
    staged = await store.receive(file.header_bytes, header.size_bytes, bytes.fromhex(header.sha256))
    data = file.path.read_bytes()
    while staged.received < len(data):
        await staged.write(staged.received, data[staged.received : staged.received + chunk])
    return await staged.finish()


async def install(store: Store, snapshot: Snapshot, and_then: Sequence[Save] = ()) -> None:
    await store.save([Save(snapshot=snapshot, hard_state=hard_state(snapshot.term, snapshot.index, vote=0)), *and_then])


def renamed(identity: Identity, name: str) -> Identity:
    return replace(identity, name=name)
