"""What past entries of the log changed, told without the state that they met.

The log says what was asked for, not what came of it: whether a compare-and-swap swapped, a deleted key had been there, or a
repeated write ran at all depends on a state that is gone. So that a watch can be served from the log alone, the machine notes
in Database.HISTORY the little that the log lacks:

- *idle* places: which commands of an entry changed nothing, or which operations of a Write. Nearly every command does what it
  says, so most entries need no record.
- *anchors*: the cluster's revision before each 64th entry. Every change moves the revision by one, so the revisions of the
  entries between follow by counting.
- *raises*: by how much an entry moved the revision on at its end, without a change: keys with higher revisions were imported.
- *arrivals*: for each slot that was activated here, the cluster's revision after that entry. Changes of its keys here are above.
- *since*: the first entry of which all this is known.

All of it is a function of the log like everything else in the state: replicas agree on them byte for byte, and they travel with
snapshots. What is older than HISTORY_ENTRIES_MAX entries is dropped, a block with each anchor; arrivals stay.

    "s"                 u64 index            since
    "a" u64 index       u64 revision         before this entry
    "i" u64 index       (u16 place, u16 count, count x u16 operation), ...; count 0: the whole command
    "r" u64 index       u64                  by how much the revision was raised
    "c" u16 slot        u64 revision         after the entry by which the slot came here last
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from ravel_node.machine.base import Database, Reader, Txn
from ravel_node.machine.envelope import Kind, decode, read_compare_and_swap, read_key, read_put, read_write
from ravel_node.machine.limits import ENTRY_COMMANDS_MAX, HISTORY_ENTRIES_MAX
from ravel_node.raft.types import Index
from ravelpb.slots import SLOT_COUNT

ANCHOR_ENTRIES: Final = 64
"""Entries between two anchors: so many are read, at most, to find a revision."""

Change = tuple[bytes, bytes | None]
"""A key and its new value; None: it was deleted."""

Idle = Mapping[int, frozenset[int]]
"""Places of commands that changed nothing -> which operations of that Write; empty: the whole command."""

Getter = Callable[[Database, bytes], bytes | None]

NOTHING_IDLE: Final[Idle] = {}

_SINCE: Final = b"s"
_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")
_PLACE: Final = struct.Struct(">HH")


def _anchor_key(index: int) -> bytes:
    return b"a" + _U64.pack(index)


def _idle_key(index: int) -> bytes:
    return b"i" + _U64.pack(index)


def _raise_key(index: int) -> bytes:
    return b"r" + _U64.pack(index)


def _arrival_key(slot: int) -> bytes:
    return b"c" + _U16.pack(slot)


# --- noting


class History:
    """Notes what the applied entries did. Called by the machine only, which fills `idle`, `raised` and `arrived` while it runs an
    entry."""

    def __init__(self) -> None:
        self.idle: list[tuple[int, Sequence[int]]] = []  # place of a command, and which of its operations; none: the whole
        self.raised = 0
        self.arrived: Iterable[int] = ()  # slots that this entry has activated
        self._since = Index(0)  # 0: nothing was applied yet

    def open(self, reader: Reader) -> None:
        self._since = read_since(reader.get)

    def applied(self, index: Index, revision_before: int, revision: int, txn: Txn) -> None:
        """Take in that an entry was applied, and the revisions before and after it. Called for each one, whatever its type."""
        if self.idle:
            txn.put(Database.HISTORY, _idle_key(index), _encode_idle(self.idle))
            self.idle.clear()
        if self.raised:
            txn.put(Database.HISTORY, _raise_key(index), _U64.pack(self.raised))
            self.raised = 0
        for slot in self.arrived:
            txn.put(Database.HISTORY, _arrival_key(slot), _U64.pack(revision))
        self.arrived = ()
        if not index % ANCHOR_ENTRIES:
            txn.put(Database.HISTORY, _anchor_key(index), _U64.pack(revision_before))
            self._forget(index - HISTORY_ENTRIES_MAX, txn)
        if not self._since:
            self._set_since(index, txn)

    def _forget(self, below: int, txn: Txn) -> None:
        """Drop what is known of the entries below this one."""
        if not 0 < self._since < below:
            return
        for key_of in (_anchor_key, _idle_key, _raise_key):
            for key, _ in list(txn.scan(Database.HISTORY, key_of(self._since), key_of(below))):
                txn.delete(Database.HISTORY, key)
        self._set_since(below, txn)

    def _set_since(self, index: int, txn: Txn) -> None:
        self._since = Index(index)
        txn.put(Database.HISTORY, _SINCE, _U64.pack(index))


def _encode_idle(idle: Sequence[tuple[int, Sequence[int]]]) -> bytes:
    parts: list[bytes] = []
    for place, operations in idle:
        parts.append(_PLACE.pack(place, len(operations)))
        parts.append(struct.pack(f">{len(operations)}H", *operations))
    return b"".join(parts)


# --- reading


def read_since(get: Getter) -> Index:
    """The first entry whose changes can be told; 0: there is none yet."""
    found = get(Database.HISTORY, _SINCE)
    return Index(_U64.unpack(found)[0] if found is not None else 0)


def read_anchor(get: Getter, index: int) -> int | None:
    """The revision before this entry, a multiple of ANCHOR_ENTRIES from `since` on and at most the last applied one."""
    found = get(Database.HISTORY, _anchor_key(index))
    return _U64.unpack(found)[0] if found is not None else None


def read_idle(get: Getter, index: int) -> Idle:
    """What of this entry changed nothing."""
    record = get(Database.HISTORY, _idle_key(index))
    if record is None:
        return NOTHING_IDLE
    idle: dict[int, frozenset[int]] = {}
    at = 0
    while at < len(record):
        place, count = _PLACE.unpack_from(record, at)
        at += _PLACE.size
        idle[place] = frozenset(struct.unpack_from(f">{count}H", record, at))
        at += 2 * count
    return idle


def read_raise(get: Getter, index: int) -> int:
    """By how much the revision was raised at the end of this entry, beyond what its changes moved it."""
    found = get(Database.HISTORY, _raise_key(index))
    return _U64.unpack(found)[0] if found is not None else 0


def read_arrival(get: Getter, slot: int) -> int:
    """Return the revision after the entry by which this slot came here last; 0: none has brought it."""
    found = get(Database.HISTORY, _arrival_key(slot))
    return _U64.unpack(found)[0] if found is not None else 0


def record_problem(key: bytes, payload: bytes, revision: int) -> str:
    """Why this record of Database.HISTORY cannot be what a machine at this revision wrote; empty if it can."""
    arrival = key[:1] == b"c" and len(key) == 1 + _U16.size and _U16.unpack(key[1:])[0] < SLOT_COUNT
    if key == _SINCE or arrival or (key[:1] in (b"a", b"r") and len(key) == 1 + _U64.size):
        if len(payload) != _U64.size:
            return f"it has {len(payload)} bytes, and a number has {_U64.size}"
        number = _U64.unpack(payload)[0]
        if key != _SINCE and number > revision:
            return f"an anchor or an arrival at, or a raise by, revision {number}, and the cluster's is {revision}"
        return ""
    if key[:1] != b"i" or len(key) != 1 + _U64.size:
        return f"no record of this database has such a key of {len(key)} bytes"
    at = 0
    while at + _PLACE.size <= len(payload):
        at += _PLACE.size + 2 * _PLACE.unpack_from(payload, at)[1]
    return "" if at == len(payload) and at else f"a note of {len(payload)} bytes that ends within a place"


def changes(payload: bytes, idle: Idle) -> list[list[Change]]:
    """What an applied normal entry changed: one list for each revision, in order. `idle` is `read_idle` of the entry."""
    found: list[list[Change]] = []
    place = 0
    for _, commands in decode(payload):
        if place + len(commands) > ENTRY_COMMANDS_MAX:
            place += len(commands)  # every replica refused this group: see KVMachine.apply
            continue
        for at, (kind, _, body) in enumerate(commands, place):
            if kind > Kind.WRITE:
                continue
            operations = idle.get(at)
            if operations is None:
                found.append(_CHANGES[kind](body))
            elif operations:
                found.append([change for number, change in enumerate(_write(body)) if number not in operations])
        place += len(commands)
    return found


def _put(body: bytes) -> list[Change]:
    return [read_put(body)]


def _delete(body: bytes) -> list[Change]:
    return [(read_key(body), None)]


def _compare_and_swap(body: bytes) -> list[Change]:
    key, _, value = read_compare_and_swap(body)
    return [(key, value)]


def _write(body: bytes) -> list[Change]:
    _, operations = read_write(body)
    return list(operations)


_CHANGES: Final[dict[int, Callable[[bytes], list[Change]]]] = {
    Kind.PUT: _put,
    Kind.DELETE: _delete,
    Kind.GET_AND_DELETE: _delete,
    Kind.COMPARE_AND_SWAP: _compare_and_swap,
    Kind.WRITE: _write,
}
