"""The hash of an applied state: equal on all replicas that applied the same log prefix, different where one byte differs.

sha256 over, all numbers big-endian:

    "ravel state 1\\n", term u64 and index u64 of the last applied entry
    for each hashed database, in the order of their numbers (machine.base.Database):
        number u8, record count u64
        for each record, in the order of keys: key length u16, record length u32, key, record as it is stored

Hashed are all databases that are a function of the log alone: META, KV, SESSIONS, RESULTS, MEMBERS, OWNERSHIP, HISTORY. SLOTS is
not: the flush makes it out of KV, and `store check` holds the one against the other. A stored record begins with its own check
sum, which is a function of place and content: it is hashed too, so that one which rotted alone is noticed.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable
from time import monotonic
from typing import Final

from ravel_node.machine.base import Database
from ravel_node.raft.errors import InvariantError
from ravel_node.raft.types import Index
from ravel_node.storage.base import HashStoppedError, StateHash, StoreError
from ravel_node.storage.engine import DATA_FILE, Environment, ReadTxn
from ravel_node.storage.keys import STATE_NAMES
from ravel_node.storage.state_store import StateReader

HASHED: Final = tuple(database for database in Database if database is not Database.SLOTS)

BATCH_RECORDS: Final = 64
"""Records read in one go: LMDB's binding keeps the interpreter's lock for each."""

BATCH_BYTES: Final = 1 << 20
"""A batch of large values ends here."""

_MAGIC: Final = b"ravel state 1\n"
_POSITION: Final = struct.Struct(">QQ")
_DATABASE: Final = struct.Struct(">BQ")
_RECORD: Final = struct.Struct(">HI")


def hash_state(txn: ReadTxn, file: str, pause: Callable[[], None]) -> StateHash:
    """Hash the state that `txn` shows. Holds one batch of records in memory at a time.

    `pause` is called after each batch: it lets other threads run, and raises HashStoppedError to end the work. Raises
    DamagedError where the state cannot be read; `file` names it then.
    """
    began = monotonic()
    at = StateReader(txn, file).applied()
    digest = hashlib.sha256(_MAGIC + _POSITION.pack(at.term, at.index))
    records = size = 0
    pack = _RECORD.pack
    for database in HASHED:
        name = STATE_NAMES[database]
        digest.update(_DATABASE.pack(database, txn.entries(name)))
        parts: list[bytes] = []
        waiting = 0
        for key, record in txn.items(name):
            parts += (pack(len(key), len(record)), key, record)
            waiting += len(record)
            records += 1
            if not records % BATCH_RECORDS or waiting >= BATCH_BYTES:
                digest.update(b"".join(parts))
                parts.clear()
                size, waiting = size + waiting, 0
                pause()
        digest.update(b"".join(parts))
        size += waiting
    return StateHash(at, digest.digest(), records, size, monotonic() - began)


class Hashing:
    """The one hash that a store has under way. Used on the loop."""

    def __init__(self) -> None:
        self._wanted: Index | None = None
        self._done: asyncio.Future[StateHash] | None = None  # invariant: there is one while an index is wanted
        self._running: asyncio.Future[StateHash] | None = None  # what the thread does

    def want(self, at: Index) -> asyncio.Future[StateHash]:
        """Ask for the hash of the state at this entry, which the next flushes lead to. See Store.hash_applied for its errors."""
        done: asyncio.Future[StateHash] = asyncio.get_running_loop().create_future()
        if self._wanted is None:
            self._wanted, self._done = at, done
        else:
            done.set_exception(HashStoppedError(f"the state of entry {self._wanted} is still being hashed"))
        return done

    def flushed(self, at: Index, environment: Environment, name: str) -> None:
        """The environment of this name now holds the state of this entry. To be called after each flush, before the next."""
        if self._wanted is None or self._running is not None or at < self._wanted:
            return
        try:
            self._running = environment.inspect_from_here(lambda txn, pause: hash_state(txn, f"{name}/{DATA_FILE}", pause))
        except StoreError as error:  # of the hash alone: flushes go on
            self._answer(error)
        else:
            self._running.add_done_callback(self._ended)

    def give_up(self, why: str) -> None:
        """What was wanted will not come. A thread that is at work already ends by itself, when its environment closes."""
        if self._running is None:
            self._answer(HashStoppedError(f"the hash of the state was given up: {why}"))

    def _ended(self, running: asyncio.Future[StateHash]) -> None:
        self._running = None
        if running.cancelled():
            self._answer(HashStoppedError("the hash of the state was given up"))
            return
        error = running.exception()
        if error is None and running.result().at.index != self._wanted:
            error = InvariantError(f"the state of entry {running.result().at.index} was hashed for that of {self._wanted}")
        self._answer(error or running.result())

    def _answer(self, result: StateHash | BaseException) -> None:
        done, self._wanted, self._done = self._done, None, None
        if done is None or done.done():
            return
        if isinstance(result, BaseException):
            done.set_exception(result)
        else:
            done.set_result(result)
