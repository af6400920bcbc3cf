"""The machine's view of the state, in dictionaries: a Reader and a Txn at once, for tests and benchmarks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from ravel_node.machine.base import Database
from ravel_node.raft.types import EntryId, Index, Term
from ravelpb.slots import slot_of


class MemoryState:
    """Named databases of byte keys and values; writes are seen at once. SLOTS is the storage layer's and stays empty."""

    def __init__(self) -> None:
        self.databases: dict[Database, dict[bytes, bytes]] = {database: {} for database in Database}
        self.applied = EntryId(Term(0), Index(0))

    def get(self, database: Database, key: bytes) -> bytes | None:
        return self.databases[database].get(key)

    def put(self, database: Database, key: bytes, value: bytes) -> None:
        self.databases[database][key] = value

    def delete(self, database: Database, key: bytes) -> None:
        self.databases[database].pop(key, None)

    def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        pairs = self.databases[database]
        keys = sorted(pairs)
        for key in keys[bisect_left(keys, start) :]:
            if end is not None and key >= end:
                return
            yield key, pairs[key]

    def slot_keys(self, slot: int, after: bytes = b"") -> Iterator[bytes]:
        return iter([key for key in sorted(self.databases[Database.KV]) if slot_of(key) == slot and key > after])

    def content(self) -> dict[str, list[tuple[bytes, bytes]]]:
        """Every byte of the state, comparable."""
        return {database.name: sorted(pairs.items()) for database, pairs in self.databases.items()}
