"""Data directories with a real machine's state and log in them, made without a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final

import lmdb

from ravel_node.machine import envelope
from ravel_node.machine.kv import KVMachine
from ravel_node.machine.members import bootstrap_state, write_allocated, write_member
from ravel_node.raft.types import ConfState, Entry, EntryType, HardState, Index, ReplicaId, Snapshot, Term
from ravel_node.storage.base import Identity, Save
from ravel_node.storage.keys import decode_entry, encode_entry, index_key, seal, seed_of
from ravel_node.storage.store import StoreOptions, open_store
from tests.server.fakes import record

CLUSTER: Final = "c" * 32
OPTIONS: Final = StoreOptions(flush_interval_s=3_600.0, state_map_bytes=64 << 20, raft_map_bytes=64 << 20)
BIRTH: Final = Snapshot(Index(1), Term(1), ConfState(voters=(ReplicaId(1), ReplicaId(2), ReplicaId(3))))

Groups = Sequence[Sequence[bytes]]
"""Entries, each a list of commands; an empty one is a new leader's entry."""


def puts(first: int, last: int, prefix: bytes = b"orders/") -> list[list[bytes]]:
    """An entry for each number, which puts one key."""
    return [[envelope.put(prefix + b"%d" % number, b"value of %d" % number)] for number in range(first, last + 1)]


def make(
    path: Path,
    entries: Groups,
    *,
    replica: int = 1,
    unapplied: int = 0,
    term: int = 3,
    snapshot_at: int = 0,
    raw: Sequence[Entry] = (),
    machine: KVMachine | None = None,
    times: Sequence[int] = (),
) -> Path:
    """The directory of replica 1, 2 or 3 of CLUSTER, whose log holds these entries from index 2 on.

    The last `unapplied` are in the log only. `snapshot_at` is an index at which it builds a snapshot file. `raw` come last.
    `times` are those of the first entries, in milliseconds since 1970.
    """
    asyncio.run(_make(path, entries, replica, unapplied, Term(term), snapshot_at, raw, machine or KVMachine(), times))
    return path


async def _make(
    path: Path,
    groups: Groups,
    replica: int,
    unapplied: int,
    term: Term,
    snapshot_at: int,
    raw: Sequence[Entry],
    machine: KVMachine,
    times: Sequence[int],
) -> None:
    store = await open_store(path, replace(OPTIONS, draw_id=lambda: f"{replica:032x}"))
    identity = Identity(f"{replica:032x}", CLUSTER, "orders", ReplicaId(replica), f"n{replica}")
    await store.bootstrap(identity, BIRTH, HardState(Term(1), ReplicaId(0), Index(1)), partial(_first_state, machine.machine))
    machine.open(store.reader())
    entries = [
        Entry(term, Index(index), EntryType.NORMAL, envelope.payload([envelope.group(commands)], at) if commands else b"")
        for index, (commands, at) in enumerate(zip(groups, chain(times, repeat(0)), strict=False), 2)
    ]
    if entries:
        await store.save([Save(entries)])
    for entry in entries[: len(entries) - unapplied]:
        machine.apply(entry.id, entry.data, store.txn())
        store.applied_to(entry.id)
        if entry.index == snapshot_at:
            await store.build_snapshot()
    if raw:
        await store.save([Save(list(raw))])
    last = store.last_index()
    await store.save([Save(hard_state=HardState(store.term(last), ReplicaId(0), Index(last - unapplied - len(raw))))])
    await store.close()


def _first_state(machine: bytes, txn: Any) -> None:
    bootstrap_state(
        txn, cluster_name="orders", member=record(1), conf_state=BIRTH.conf_state, config_index=Index(1), machine=machine
    )
    for number in (2, 3):
        write_member(txn, record(number))
        write_allocated(txn, record(number).server_id, ReplicaId(number))


def edit_log(path: Path, index: int, change: Callable[[Entry], Entry]) -> None:
    """Replace one entry by another with a right check sum: what a faulty program, or a human, might do."""
    with lmdb.open(str(path / "raft"), max_dbs=2, map_size=64 << 20) as env:
        log = env.open_db(b"log")
        with env.begin(write=True) as txn:
            key = index_key(Index(index))
            found = txn.get(key, db=log)
            assert found is not None
            txn.put(key, encode_entry(change(decode_entry(key, found))), db=log)


def edit_state(path: Path, key: bytes, value: bytes) -> None:
    """Give a key of the applied state another value, with a right check sum and its revision as it was."""
    edit_record(path, "kv", key, lambda record: record[:8] + value)


def edit_record(path: Path, database: str, key: bytes, change: Callable[[bytes], bytes]) -> None:
    """Replace a record of the applied state by another, with a right check sum."""
    (state,) = path.glob("state-*")
    with lmdb.open(str(state), max_dbs=16, map_size=64 << 20) as env:
        records = env.open_db(database.encode())
        with env.begin(write=True) as txn:
            record = (txn.get(key, db=records) or b"")[4:]
            txn.put(key, seal(seed_of(database), key, change(record)), db=records)


def flip_log_byte(path: Path, index: int) -> None:
    """Flip one bit of an entry's payload on the disk."""
    with lmdb.open(str(path / "raft"), max_dbs=2, map_size=64 << 20) as env:
        log = env.open_db(b"log")
        with env.begin(write=True) as txn:
            key = index_key(Index(index))
            found = bytearray(txn.get(key, db=log) or b"")
            found[-1] ^= 1
            txn.put(key, bytes(found), db=log)
