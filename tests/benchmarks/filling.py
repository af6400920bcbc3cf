"""Data directories of any size, without waiting for a cluster to write them: real entries, the real machine, the real store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from ravel_node.machine import envelope
from ravel_node.machine.kv import KVMachine
from ravel_node.raft import Entry, Index
from ravel_node.storage.base import Save
from ravel_node.storage.store import StoreOptions, open_store

ENTRIES_A_SAVE = 1_000
COMPACT_ABOVE_BYTES = 64 << 20


def puts(count: int, value: bytes, *, a_payload: int, first: int = 0) -> Iterator[bytes]:
    """Payloads that put so many keys, `a_payload` in each."""
    commands = (envelope.put(f"key/{number:012}".encode(), value) for number in range(first, first + count))
    while part := list(islice(commands, a_payload)):
        yield envelope.payload([envelope.group(part)])


async def fill(data_dir: Path, payloads: Iterable[bytes]) -> None:
    """Append these to the log of a stopped replica that is alone in its cluster, and apply them. All is on disk at the end."""
    store = await open_store(data_dir, StoreOptions())
    try:
        machine = KVMachine()
        machine.open(store.reader())
        hard, _ = store.initial_state()
        last = store.last_index()
        found = iter(payloads)
        while part := list(islice(found, ENTRIES_A_SAVE)):
            entries = [Entry(hard.term, Index(last + 1 + at), data=payload) for at, payload in enumerate(part)]
            last = entries[-1].index
            await store.save([Save(entries, hard._replace(commit=last))])
            for entry in entries:
                machine.apply(entry.id, entry.data, store.txn())
                store.applied_to(entry.id)
            await store.flush()
            if store.log_used_bytes > COMPACT_ABOVE_BYTES:
                await store.compact(entries[0].index)
    finally:
        await store.close()
