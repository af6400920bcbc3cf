"""What a state must say so that it can be the beginning of another cluster.

The keys and their revisions stay. What tied the state to the old cluster goes: its members are marked removed, its sessions end,
and what was noted of its log is forgotten. The revision jumps, so that no revision that the old cluster may have given out after
this state is given out again for something else: a compare-and-swap, a watch or a cache that knows such a one fails, and is not
deceived.

A cluster that owned all slots is unmanaged again: it stands alone. One that owned some keeps these and no other: the rest lives
elsewhere. Moves that were under way are forgotten, and with them the keys that they had brought here or not yet deleted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ravel_node.machine.base import Database, MemberRecord, Reader, Txn
from ravel_node.machine.kv import REVISION, read_revision
from ravel_node.machine.members import (
    CLUSTER_NAME,
    LAST_REPLICA_ID,
    MemberRecordError,
    is_name,
    read_cluster_name,
    read_members,
    read_number,
    write_allocated,
    write_member,
    write_membership,
    write_number,
)
from ravel_node.machine.ownership import Mark, read_ownership, write_ownership
from ravel_node.machine.slots import ALL_SLOTS
from ravel_node.raft.types import ConfState, ReplicaId

REVISION_JUMP: Final = 1_000_000_000
"""More than a cluster writes while a backup grows old: nearly three hours of 100,000 writes a second."""

FORGOTTEN: Final = (Database.SESSIONS, Database.RESULTS, Database.HISTORY, Database.OWNERSHIP)
"""Databases of which the new cluster has only what `refound` writes; whoever writes the state clears them before."""


@dataclass(frozen=True, slots=True)
class Founder:
    """The first member of the new cluster. Its addresses are those it is started with: it tells its cluster then."""

    server_id: str
    name: str
    version: str
    format: int


def refound(reader: Reader, txn: Txn, founder: Founder, cluster_name: str) -> ReplicaId:
    """Make this state that of a new cluster whose only member is `founder`; its replica id, one that was never used before.

    `cluster_name` empty: the old one stays. Raises MemberRecordError for a bad name.
    """
    name = cluster_name or read_cluster_name(reader.get)
    if not is_name(name):
        raise MemberRecordError(f"cluster name {name[:80]!r}: it must be 1 to 63 of a-z, 0-9, '-', '_', '.'")
    members = read_members(reader)
    replica_id = ReplicaId(max(read_number(reader.get, LAST_REPLICA_ID), *members, 0) + 1)
    for record in members.values():
        if not record.removed:
            write_member(txn, replace(record, removed=True))
    write_member(
        txn,
        MemberRecord(
            replica_id=replica_id,
            server_id=founder.server_id,
            name=founder.name,
            version=founder.version,
            format=founder.format,
            listen="",
            peer="",
            listen_bind="",
            peer_bind="",
        ),
    )
    write_allocated(txn, founder.server_id, replica_id)
    write_membership(txn, ConfState(voters=(replica_id,)), reader.applied.index)
    txn.put(Database.META, CLUSTER_NAME, name.encode())
    write_number(txn, REVISION, read_revision(reader.get) + REVISION_JUMP)
    _keep_slots(reader, txn)
    return replica_id


def _keep_slots(reader: Reader, txn: Txn) -> None:
    ownership = read_ownership(reader)
    if ownership is None:
        return
    for move in ownership.moves.values():
        for slot in move.slots:
            if ownership.marks[slot] == Mark.FOREIGN:
                for key in list(reader.slot_keys(slot)):
                    txn.delete(Database.KV, key)
    if ownership.owned != ALL_SLOTS:
        write_ownership(txn, ownership.owned, ownership.map_version)
