"""The seam between the store and what keeps its bytes: environments of named databases, and work off the loop.

Everything that touches a disk goes through an `Engine`. The real one is LMDB (`lmdb_engine.py`); `memory.py` has one in
dictionaries, and a simulator can put one in whose commits fail, stall or vanish, and whose jobs finish in an order that it draws.

**Writing.** A job is a plain function of a `WriteTxn`, which runs in one durable transaction on the environment's one writer
thread. Jobs run in the order in which they were handed over. A job may run more than once (when the map is full, the
transaction is aborted, the map grows, and it runs again), so it changes nothing but the transaction.

**Failing.** After a failed commit nothing is known of what the disk holds. So the first failure ends the environment for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, TypeVar

from ravel_node.storage.base import EnvironmentStats

T = TypeVar("T")

DATA_FILE: Final = "data.mdb"
WAY_OUT: Final = "replace this replica by a new one with `ravelctl member replace`; do not restore its directory from a copy"


class ReadTxn(Protocol):
    """The databases at one point in time. Begun and used on one thread; ended with `close`."""

    def get(self, database: str, key: bytes) -> bytes | None: ...

    def has(self, database: str, key: bytes) -> bool:
        """Return whether the key is there. Does not read its value."""
        ...

    def keys(self, database: str) -> Iterator[bytes]:
        """Yield the keys in ascending order, once each, without their values."""
        ...

    def items(self, database: str, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Pairs with key >= start, ascending; all values of a key in their order where a key has many."""
        ...

    def has_value(self, database: str, key: bytes, value: bytes) -> bool:
        """Return whether the value is one of the key's, in a database where a key has many."""
        ...

    def values(self, database: str, key: bytes, start: bytes) -> Iterator[bytes]:
        """The values >= start of one key, ascending, in a database where a key has many."""
        ...

    def last(self, database: str) -> tuple[bytes, bytes] | None: ...

    def entries(self, database: str) -> int: ...

    def pause(self) -> None:
        """Let other threads run. A job of many records calls this every few dozen of them."""
        ...

    def close(self) -> None: ...


class WriteTxn(ReadTxn, Protocol):
    """What a job writes through; it sees its own writes."""

    def put(self, database: str, key: bytes, value: bytes) -> None: ...

    def append(self, database: str, key: bytes, value: bytes) -> None:
        """Put a key that is above every key of the database. Raises InvariantError for one that is not."""
        ...

    def insert(self, database: str, key: bytes, value: bytes) -> bool:
        """Put a key unless it is there. Return whether it was put."""
        ...

    def delete(self, database: str, key: bytes) -> bool:
        """Delete a key. Return whether it was there."""
        ...

    def delete_from(self, database: str, start: bytes) -> None:
        """Delete every key >= start."""
        ...

    def clear(self, database: str) -> None: ...

    def add_value(self, database: str, key: bytes, value: bytes) -> bool:
        """Put one more value under a key, in a database where a key has many. Return whether it was not there before."""
        ...

    def remove_value(self, database: str, key: bytes, value: bytes) -> bool:
        """Remove one of the values of a key. Return whether it was there."""
        ...


class View(ReadTxn, Protocol):
    """A read transaction that the loop keeps for long."""

    def renew(self) -> None:
        """Move to the last commit, and let go of the pages of the old point in time."""
        ...


class Environment(Protocol):
    """Named databases that commit together. Used on the loop."""

    async def write(self, job: Callable[[WriteTxn], T]) -> T:
        """Run `job` in one durable transaction.

        Raises StoreFailedError from the first failed one on; what `job` raises passes through.
        """
        ...

    def view(self) -> View:
        """Begin a read transaction on the loop. Close it, or renew it after each write: an old one pins pages."""
        ...

    async def inspect(self, job: Callable[[ReadTxn], T]) -> T:
        """Run `job` with a read transaction on a file thread, for reads that take long."""
        ...

    def inspect_from_here(self, job: Callable[[ReadTxn, Callable[[], None]], T]) -> asyncio.Future[T]:
        """As `inspect`, but of the state as it is at this moment, whatever is written before the thread comes to it.

        `job` calls its second argument often: that lets other threads run, and raises HashStoppedError once a write waits for
        the transaction to end (a map cannot grow while it is read through) or the environment is about to close.
        Raises StoreError where no transaction can be begun.
        """
        ...

    async def copy(self, path: Path) -> None:
        """Write a compact copy of the last commit to a new file and sync it. Raises OSError; a part may be left behind then."""
        ...

    def stats(self) -> EnvironmentStats: ...

    async def close(self) -> None:
        """Stop copies, wait for the job that runs, and close. Safe to call twice."""
        ...


class Engine(Protocol):
    """What opens environments. One for each store."""

    async def open(self, path: Path, databases: Mapping[str, bool], map_size: int, *, read_ahead: bool = True) -> Environment:
        """Open the environment in a directory that exists, and make what it lacks; `databases` tells which have many values a
        key. Without `read_ahead` a read from the disk brings one page, and not those after it.

        Raises DamagedError where the file is not a whole one, StoreError where it cannot be opened.
        """
        ...

    def examine(self, path: Path, databases: Mapping[str, bool], job: Callable[[ReadTxn], T]) -> T:
        """Run `job` on a copy that `Environment.copy` wrote. Blocks: call it inside `run`. Raises DamagedError."""
        ...

    def remove(self, path: Path) -> None:
        """Delete the directory of an environment that is not open. Blocks: call it inside `run`."""
        ...

    async def run(self, job: Callable[[], T]) -> T:
        """Run file work on a thread. Raises what the job raises."""
        ...

    async def close(self) -> None:
        """Wait for file work to end and stop the threads; the environments were closed before."""
        ...


Observe = Callable[[str, Mapping[str, object]], None]
"""What the store wants people to know: the name of an event and its fields. Called on the loop; must not raise."""
