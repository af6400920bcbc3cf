"""Page-ins: keys are read on another thread first, so that their pages are in memory when the event loop reads them.

A state that is larger than the page cache has pages on the disk only. A read of such a page on the event loop would keep
heartbeats waiting for the disk. While no page had to be fetched lately nothing is paged in, and reads cost nothing extra.

Nor is the state's file read ahead: a system that reads ahead by megabytes drops as many pages that are needed for each that it
brings (20 times more gets a second, with a state of twice the page cache and 8 MiB read ahead).
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Final

from ravel_node.machine.base import Database
from ravel_node.storage.base import StoreError
from ravel_node.storage.engine import Environment, ReadTxn
from ravel_node.storage.keys import KEY_BYTES_MAX, STATE_NAMES

COLD_S: Final = 10.0
"""Keys are paged in until no read has waited for the disk for this long."""

_KV: Final = STATE_NAMES[Database.KV]
_WHO: Final = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # systems other than Linux count by process


def major_faults() -> int:
    """Return how often the calling thread has waited for a page of a mapped file to come from the disk."""
    return resource.getrusage(_WHO).ru_majflt


class PageIns:
    """Knows whether reads have to wait for the disk, and makes such reads elsewhere. Used on the event loop."""

    def __init__(self, faults: Callable[[], int] = major_faults) -> None:
        """`faults` counts the waits of the thread that calls it."""
        self._faults = faults
        self._faults_seen = faults()
        self._cold_until = float("-inf")

    @property
    def cold(self) -> bool:
        """Whether reads of the state may have to wait for the disk."""
        return asyncio.get_running_loop().time() < self._cold_until

    def look(self) -> None:
        """Find out whether the event loop has waited for the disk since the last call. Call it at every tick."""
        faults = self._faults()
        if faults != self._faults_seen:
            self._faults_seen = faults
            self._stay_cold()

    def _stay_cold(self) -> None:
        self._cold_until = asyncio.get_running_loop().time() + COLD_S

    async def read(self, environment: Environment, job: Callable[[ReadTxn], None]) -> None:
        """Run a read on another thread. Its errors are left to the same read on the event loop, which meets them again."""

        def run(txn: ReadTxn) -> int:
            before = self._faults()
            job(txn)
            return self._faults() - before

        with suppress(StoreError):
            if await environment.inspect(run):
                self._stay_cold()


def read_keys(txn: ReadTxn, keys: Iterable[bytes]) -> None:
    """Read the records of these user keys."""
    for key in keys:
        if 0 < len(key) <= KEY_BYTES_MAX:
            txn.get(_KV, key)


def read_range(txn: ReadTxn, start: bytes, end: bytes | None, keys_max: int, bytes_max: int) -> None:
    """Read the records of user keys with start <= key < end, up to a number of keys or bytes."""
    size = 0
    for key, record in islice(txn.items(_KV, start), keys_max):
        size += len(key) + len(record)
        if size >= bytes_max or (end is not None and key >= end):
            return
