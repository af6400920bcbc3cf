"""How fast applied state is written, read and flushed, on one core.

    python -m tests.benchmarks.bench_table

Prints: puts into the table, gets from table and LMDB, gets of keys that are not there, scans of pages of 100 with and without a
full table, the flush of sealed segments, and how long the loop was kept from running while they were flushed.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from time import perf_counter

from ravel_node.machine.base import Database
from ravel_node.raft.types import Entry, EntryId, HardState, Index, ReplicaId, Term
from ravel_node.storage.base import Save
from ravel_node.storage.store import DiskStore, StoreOptions, open_store

TERM = Term(1)
OPTIONS = StoreOptions(flush_interval_s=3_600.0)


def key_of(number: int) -> bytes:
    return b"key-%012d" % number


def rate(count: int, step: Callable[[int], object]) -> float:
    began = perf_counter()
    for number in range(count):
        step(number)
    return count / (perf_counter() - began)


async def grow_log(store: DiskStore, last: int) -> None:
    first = store.last_index() + 1
    entries = [Entry(TERM, Index(index)) for index in range(first, last + 1)]
    await store.save([Save(entries, HardState(TERM, ReplicaId(1), Index(last)))])


def put_all(store: DiskStore, numbers: Sequence[int], value: bytes, index: int) -> int:
    """Put these keys, 64 an entry; the next free index."""
    for at in range(0, len(numbers), 64):
        txn = store.txn()
        for number in numbers[at : at + 64]:
            txn.put(Database.KV, key_of(number), value)
        store.applied_to(EntryId(TERM, Index(index)))
        index += 1
    return index


def flushed(keys: int, value_bytes: int, seconds: float) -> str:
    return f"{keys * (16 + value_bytes) / 1e6 / seconds:8.1f} MB/s of keys and values, {keys / seconds:,.0f} keys/s"


async def longest_gap(until: asyncio.Task[None]) -> float:
    """The longest time that the loop could not come back to a task that only wants to run again."""
    longest, last = 0.0, perf_counter()
    while not until.done():
        await asyncio.sleep(0)
        now = perf_counter()
        longest, last = max(longest, now - last), now
    return longest


async def run(arguments: argparse.Namespace) -> None:
    keys, value, random = arguments.keys, b"v" * arguments.value_bytes, Random(1)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        store = await open_store(Path(folder) / "d", OPTIONS)
        await grow_log(store, 4 * keys // 64 + 100)
        numbers = list(range(keys))
        random.shuffle(numbers)

        began = perf_counter()
        index = put_all(store, numbers, value, 1)
        print(f"put into the table          {keys / (perf_counter() - began):12,.0f}/s")
        print(f"get from the table          {rate(keys, lambda n: store.reader().get(Database.KV, key_of(numbers[n]))):12,.0f}/s")
        size, segments = store.unflushed_bytes, store.unflushed_segments
        flush = asyncio.create_task(store.flush())
        began = perf_counter()
        gap = await longest_gap(flush)
        took = perf_counter() - began
        raw = keys * (16 + len(value)) / 1e6
        print(
            f"flush of {segments:3} segments, new keys     {raw / took:8.1f} MB/s of keys and values, {keys / took:,.0f} keys/s"
        )
        print(f"longest wait of the loop meanwhile {gap * 1e3:8.2f} ms ({size / 1e6:.0f} MB in the table)")
        print(f"get from LMDB               {rate(keys, lambda n: store.reader().get(Database.KV, key_of(numbers[n]))):12,.0f}/s")
        print(f"get of a missing key        {rate(keys, lambda n: store.reader().get(Database.KV, b'none')):12,.0f}/s")

        def page(n: int) -> None:
            scan = store.reader().scan(Database.KV, key_of(numbers[n]), None)
            for _, _ in zip(range(100), scan, strict=False):
                pass

        print(f"scan of 100, LMDB alone     {rate(1_000, page):12,.0f} pages/s")
        rewritten = numbers[: keys // 2]
        put_all(store, rewritten, value, index)
        page(0)
        print(f"scan of 100, {store.unflushed_segments:3} segments   {rate(1_000, page):12,.0f} pages/s")
        began = perf_counter()
        await store.flush()
        took = perf_counter() - began
        print(f"flush, keys that are there  {flushed(len(rewritten), len(value), took)}")
        await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default=None, help="where the temporary directory goes (default: the system's)")
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--value-bytes", type=int, default=256)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
