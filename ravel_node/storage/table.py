"""The table of applied, unflushed effects in memory, and one view over it and the state below.

The table is a chain of segments. One is open: the machine writes into it, and `applied_to` says which entry its content has
reached. A sealed segment is never changed again; it is the effect of one contiguous range of the log, so that flushing it whole,
and in order, takes the state below from one log prefix to another. It leaves the table when the state below shows it, on the loop
and in one step, so no reader ever sees a gap or an effect twice.

A machine that raises in the middle of an entry leaves some of the entry's effects in the open segment. That segment is never
sealed: the disk would hold half of an entry under the index of the one before it. Its complete entries are applied again from the
log after a restart.

A deleted key stands in a segment as None, since the state below may still have it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import groupby, islice, repeat
from typing import Final, Protocol

from ravel_node.machine.base import Database
from ravel_node.raft.errors import InvariantError, invariant
from ravel_node.raft.types import EntryId
from ravel_node.storage.base import HalfAppliedError
from ravel_node.storage.keys import KEY_BYTES_MAX
from ravelpb.slots import slot_of

RECORD_OVERHEAD_BYTES: Final = 64
"""What a record is taken to cost besides its key and value: its place in a dict, its objects, and the same again on its pages."""

Record = tuple[bytes, bytes]


class _Missing:
    """The type of MISSING: no layer of the table says anything of the key."""


MISSING: Final = _Missing()


class Below(Protocol):
    """The state under the table: what the last flush left."""

    def get(self, database: Database, key: bytes) -> bytes | None: ...

    def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[Record]: ...

    def slot_keys(self, slot: int, after: bytes = b"") -> Iterator[bytes]: ...


class Layer:
    """One segment's records of one database."""

    __slots__ = ("_order", "_slots", "records")

    def __init__(self) -> None:
        self.records: dict[bytes, bytes | None] = {}
        self._order: list[bytes] = []
        self._slots: tuple[int, dict[int, list[bytes]]] = (0, {})  # how many keys are in it; keys by slot

    def order(self) -> list[bytes]:
        """The keys in byte order. A list that was handed out is never changed.

        For a sealed layer the writer thread may ask too: both make the same list. A dict keeps the order of first insertion and a
        layer loses no key, so the keys that the last list lacks are the newest ones of the dict; sorting is near linear on a
        sorted list with a few more at its end.
        """
        fresh = len(self.records) - len(self._order)
        if fresh:
            self._order = sorted((*self._order, *islice(reversed(self.records), fresh)))
        return self._order

    def in_slot(self, slot: int) -> Sequence[bytes]:
        """The keys of a slot, in no order, deleted ones too. Made when it is first asked for; used on the loop only."""
        known, by_slot = self._slots
        for key in islice(reversed(self.records), len(self.records) - known):
            by_slot.setdefault(slot_of(key), []).append(key)
        self._slots = (len(self.records), by_slot)
        return by_slot.get(slot, ())


class Segment:
    """The effects of the entries after the previous segment's `last`, up to its own."""

    __slots__ = ("last", "layers", "size")

    def __init__(self, last: EntryId) -> None:
        self.layers = tuple(Layer() for _ in Database)
        self.last = last
        self.size = 0  # bytes, counted at each write: an upper bound, because a key written twice counts twice


class Table:
    """The chain of segments and the view through it. It is both the `Reader` and the `Txn` of the applied state."""

    def __init__(self, below: Below, at: EntryId, *, segment_bytes_max: int) -> None:
        """`below` shows the state of entry `at`."""
        self._below = below
        self._segment_bytes_max = segment_bytes_max
        self._sealed: list[Segment] = []  # oldest first
        self._open = Segment(at)
        self._complete_size = 0  # of the open segment at its last complete entry
        self._flushed = at
        self._version = 0  # moves with every change of the chain: a scan does not outlive it
        self.sealed_bytes = 0
        self._relink()

    def _relink(self) -> None:
        """Rebuild the list of dicts that a read looks through, newest first; the open one stands in front."""
        self._version += 1
        self._records = tuple(layer.records for layer in self._open.layers)
        self._chains = tuple(
            (
                self._open.layers[database].records,
                *(segment.layers[database].records for segment in reversed(self._sealed) if segment.layers[database].records),
            )
            for database in Database
        )

    # --- Reader and Txn

    @property
    def applied(self) -> EntryId:
        return self._open.last

    def get(self, database: Database, key: bytes) -> bytes | None:
        for records in self._chains[database]:
            value = records.get(key, MISSING)
            if value is not MISSING:
                return value  # type: ignore[return-value]  # the one object that is not bytes or None was ruled out
        return self._below.get(database, key)

    def put(self, database: Database, key: bytes, value: bytes) -> None:
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise InvariantError(f"a key of {len(key)} bytes in database {database.name}, where 1 to {KEY_BYTES_MAX} are allowed")
        self._records[database][key] = value
        self._open.size += len(key) + len(value) + RECORD_OVERHEAD_BYTES

    def delete(self, database: Database, key: bytes) -> None:
        self._records[database][key] = None
        self._open.size += len(key) + RECORD_OVERHEAD_BYTES

    def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[Record]:
        """Pairs with start <= key < end. A write during the scan may or may not show in what is still to come."""
        version = self._version
        layers = [segment.layers[database] for segment in (self._open, *reversed(self._sealed))]
        sources = [
            _range(layer, age, start, end)
            for age, layer in enumerate(layers)
            if layer.records and _any(layer.order(), start, end)
        ]
        below = self._below.scan(database, start, end)
        pairs = _merged(sources, below, len(layers)) if sources else below
        for pair in pairs:
            if version != self._version:
                raise InvariantError(f"a scan of database {database.name} went on after the table had moved on")
            yield pair

    def slot_keys(self, slot: int, after: bytes = b"") -> Iterator[bytes]:
        """User keys of a slot above `after`, in byte order. The same rules as for `scan`."""
        version = self._version
        chain = self._chains[Database.KV]
        segments = (self._open, *self._sealed)
        changed = sorted({key for one in segments for key in one.layers[Database.KV].in_slot(slot) if key > after})
        below = self._below.slot_keys(slot, after)
        for key, _ in groupby(merge(changed, below)) if changed else zip(below, repeat(None)):  # most slots have not changed
            if version != self._version:
                raise InvariantError("a scan of a slot went on after the table had moved on")
            newest = next((records[key] for records in chain if key in records), b"") if changed else b""
            if newest is not None:
                yield key

    # --- the chain

    def applied_to(self, at: EntryId) -> bool:
        """Record that the open segment has reached `at`. Return whether it is full and should be sealed."""
        segment = self._open
        if at.index <= segment.last.index:
            raise InvariantError(f"entry {at.index} applied after entry {segment.last.index}")
        segment.last = at
        self._complete_size = segment.size
        return segment.size >= self._segment_bytes_max

    @property
    def half_applied(self) -> bool:
        """Whether the open segment holds effects of an entry that was not applied to its end."""
        return self._open.size != self._complete_size

    def seal(self) -> Segment | None:
        """Close the open segment, unless nothing was applied since the last one, and open the next. Return the newest sealed one.

        Raises HalfAppliedError while the open segment holds half of an entry; it stays open then.
        """
        if self.half_applied:
            raise HalfAppliedError(
                f"the entry after {self._open.last.index} was applied in part and failed: nothing of it is written to the disk; "
                "restart this replica, which applies it again from its log"
            )
        if self._open.last == (self._sealed[-1].last if self._sealed else self._flushed):
            return self._sealed[-1] if self._sealed else None
        self._sealed.append(self._open)
        self.sealed_bytes += self._open.size
        self._open = Segment(self._open.last)
        self._complete_size = 0
        self._relink()
        return self._sealed[-1]

    @property
    def oldest(self) -> Segment | None:
        """The segment to flush next."""
        return self._sealed[0] if self._sealed else None

    def drop_oldest(self, flushed: Segment) -> None:
        """Drop the oldest segment, which must be `flushed`: the state below shows it now."""
        invariant(bool(self._sealed) and self._sealed[0] is flushed, f"segment {flushed.last} was flushed and is not the oldest")
        segment = self._sealed.pop(0)
        self.sealed_bytes -= segment.size
        self._flushed = segment.last
        self._relink()

    @property
    def flushed(self) -> EntryId:
        return self._flushed

    @property
    def size(self) -> int:
        return self.sealed_bytes + self._open.size

    @property
    def segments(self) -> int:
        return len(self._sealed) + (self._open.size > 0)


def written(below: Below, at: EntryId, write: Callable[[Table], None]) -> Segment:
    """Return what `write` writes over `below` as one segment that makes it the state at `at`."""
    table = Table(below, at, segment_bytes_max=0)
    write(table)
    return table._open


def _any(order: list[bytes], start: bytes, end: bytes | None) -> bool:
    at = bisect_left(order, start)
    return at < len(order) and (end is None or order[at] < end)


def _range(layer: Layer, age: int, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, int, bytes | None]]:
    order, records = layer.order(), layer.records
    at = bisect_left(order, start)
    until = len(order) if end is None else bisect_left(order, end, lo=at)
    return ((order[position], age, records[order[position]]) for position in range(at, until))


def _merged(sources: list[Iterator[tuple[bytes, int, bytes | None]]], below: Iterator[Record], age: int) -> Iterator[Record]:
    """One ascending run of pairs: of each key the newest record, and none where that is a deletion."""
    last: bytes | None = None
    for key, _, value in merge(*sources, ((key, age, value) for key, value in below)):
        if key == last:
            continue
        last = key
        if value is not None:
            yield key, value
