"""How fast the log saves, and how soon a store with a long log and many keys is ready.

    python -m tests.benchmarks.bench_log_store [--keys 1000000] [--entries 100000]

Prints: saves a second and records a second for 1, 64 and 256 records a save, durable, on the disk that holds the temporary
directory; reads of entries from memory and from disk; the time from `open_store` to a store that answers.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from time import perf_counter

from ravel_node.machine.base import Database
from ravel_node.raft.types import Entry, EntryId, HardState, Index, ReplicaId, Term
from ravel_node.storage.base import Save
from ravel_node.storage.store import DiskStore, StoreOptions, open_store

TERM = Term(1)
OPTIONS = StoreOptions()


async def bench_saves(folder: Path, records: int, seconds: float, value_bytes: int) -> str:
    store = await open_store(folder / f"saves-{records}", OPTIONS)
    data, index, saves = b"x" * value_bytes, 1, 0
    began = perf_counter()
    while perf_counter() - began < seconds:
        entries = [Entry(TERM, Index(at), data=data) for at in range(index, index + records)]
        await store.save([Save(entries, HardState(TERM, ReplicaId(1), Index(index - 1)))])
        index += records
        saves += 1
    took = perf_counter() - began
    await store.close()
    return (
        f"save, {records:3} records of {value_bytes} bytes: {saves / took:7,.0f} saves/s {saves * records / took:9,.0f} records/s"
    )


async def fill(store: DiskStore, keys: int, entries: int, value_bytes: int) -> None:
    """A log of `entries`, each of which puts its share of `keys`, saved and flushed."""
    value, index, key = b"v" * value_bytes, 1, 0
    share = keys // entries
    while index <= entries:
        batch = [Entry(TERM, Index(at), data=b"e" * 256) for at in range(index, min(index + 1_000, entries + 1))]
        await store.save([Save(batch, HardState(TERM, ReplicaId(1), batch[-1].index))])
        for entry in batch:
            txn = store.txn()
            for _ in range(share):
                txn.put(Database.KV, b"key-%012d" % key, value)
                key += 1
            store.applied_to(EntryId(TERM, entry.index))
        index = batch[-1].index + 1
        if store.congested:
            await store.flush()
    await store.flush()


async def bench_start(folder: Path, keys: int, entries: int) -> list[str]:
    path = folder / "start"
    store = await open_store(path, OPTIONS)
    began = perf_counter()
    await fill(store, keys, entries, 256)
    filled = perf_counter() - began
    memory, disk = read_rate(store, entries - 1_000, 500), 0.0
    await store.close()
    began = perf_counter()
    store = await open_store(path, OPTIONS)
    store.initial_state()
    ready = perf_counter() - began
    disk = read_rate(store, 1, 2_000)
    used = store.db_used_bytes
    await store.close()
    return [
        f"fill, {keys:,} keys of 256 bytes and {entries:,} entries: {filled:.1f} s, state {used / 1e6:.0f} MB",
        f"entries from memory {memory:,.0f}/s, from disk {disk:,.0f}/s",
        f"start, {keys:,} keys and {entries:,} entries: ready in {ready * 1e3:.1f} ms",
    ]


def read_rate(store: DiskStore, first: int, count: int) -> float:
    """Entries a second, read 100 at a time."""
    began = perf_counter()
    for at in range(first, first + count, 100):
        store.entries(Index(at), Index(at + 100), 1 << 20)
    return count / (perf_counter() - began)


async def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        for records in (1, 64, 256):
            print(await bench_saves(Path(folder), records, arguments.seconds, 256), flush=True)
        for line in await bench_start(Path(folder), arguments.keys, arguments.entries):
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=None, help="where the temporary directory goes (default: the system's)")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=100_000)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
