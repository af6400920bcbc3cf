"""High-water marks: what the data directory of each member must hold at the least.

A directory that holds less was restored from a copy, or has lost writes. The replica in it may have forgotten a vote or an
acknowledgement, so the other members do not talk to it (see replica.admission). Each member keeps marks of all others on its own
disk, and the leader writes them into the log now and then, so that members which were away learn them too.

    mark   = replica id u64, boot number u64, boot id (8 bytes), term u64, index u64
    marks  = mark ...; the body of a HIGH_WATER command, and the record `peers` of raft/

Marks only rise. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from ravel_node.machine.base import Database, Reader, Txn
from ravel_node.raft.types import Index, ReplicaId, Term

MARKS_MAX: Final = 1_024
"""Marks in one command or record."""

PREFIX: Final = b"high_water/"
"""Of the keys of Database.META that hold the marks: then comes the replica id u64."""

_MARK: Final = struct.Struct(">QQ8sQQ")
_ID: Final = struct.Struct(">Q")


class HighWaterMark(NamedTuple):
    """What one replica's data directory must hold at the least."""

    boot_number: int = 0  # starts of this replica
    boot_id: str = ""  # of its newest start, 16 hex digits
    term: Term = Term(0)  # the highest term that it has spoken in
    index: Index = Index(0)  # type: ignore[assignment]  # a committed entry that it has acknowledged

    def merged(self, other: HighWaterMark) -> HighWaterMark:
        """Return the mark that holds where both do. Of two starts with one number the first stays known."""
        newest = other if other.boot_number > self.boot_number else self
        return HighWaterMark(newest.boot_number, newest.boot_id, max(self.term, other.term), Index(max(self.index, other.index)))


NO_MARK: Final = HighWaterMark()

Marks = Mapping[ReplicaId, HighWaterMark]


def encode_marks(marks: Marks) -> bytes:
    """Return the bytes of marks, by replica id."""
    parts = []
    for replica_id in sorted(marks)[:MARKS_MAX]:
        mark = marks[replica_id]
        boot_id = bytes.fromhex(mark.boot_id) if mark.boot_id else bytes(8)
        parts.append(_MARK.pack(replica_id, mark.boot_number, boot_id, mark.term, mark.index))
    return b"".join(parts)


def decode_marks(data: bytes) -> dict[ReplicaId, HighWaterMark]:
    """Return the marks in these bytes. Raises ValueError for bytes that are none."""
    if len(data) % _MARK.size or len(data) > MARKS_MAX * _MARK.size:
        raise ValueError(f"{len(data)} bytes are no list of high-water marks of {_MARK.size} bytes each")
    found: dict[ReplicaId, HighWaterMark] = {}
    for replica_id, number, boot_id, term, index in _MARK.iter_unpack(data):
        if not replica_id:
            raise ValueError("a high-water mark of replica 0: ids start at 1")
        found[ReplicaId(replica_id)] = HighWaterMark(number, boot_id.hex() if number else "", Term(term), Index(index))
    return found


def read_marks(reader: Reader) -> dict[ReplicaId, HighWaterMark]:
    """Return the marks in an applied state. Raises ValueError where a record is none."""
    marks: dict[ReplicaId, HighWaterMark] = {}
    for _, value in reader.scan(Database.META, PREFIX, PREFIX[:-1] + bytes([PREFIX[-1] + 1])):
        marks |= decode_marks(value)
    return marks


def raise_marks(known: Marks, marks: Marks, txn: Txn) -> dict[ReplicaId, HighWaterMark]:
    """Write the marks that rise above what is known, and return all of them."""
    raised = dict(known)
    for replica_id, mark in marks.items():
        before = known.get(replica_id, NO_MARK)
        if (after := before.merged(mark)) != before:
            raised[replica_id] = after
            txn.put(Database.META, _key(replica_id), encode_marks({replica_id: after}))
    return raised


def forget_marks(reader: Reader, txn: Txn) -> None:
    """Delete all marks from a state: that of a new cluster begins without any."""
    for replica_id in read_marks(reader):
        txn.delete(Database.META, _key(replica_id))


def _key(replica_id: ReplicaId) -> bytes:
    return PREFIX + _ID.pack(replica_id)
