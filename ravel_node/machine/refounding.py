"""What a state must say so that it can be the beginning of another cluster.

The keys and their revisions stay. What tied the state to the old cluster goes: its members are marked removed, its sessions and
high-water marks end, and what was noted of its log is forgotten. Revision, log index and term rise above everything that the
old cluster may have reported after this state (`start_above`), so a compare-and-swap, a watch, a cache or a migrator that knows
a later number of the old cluster is refused and not deceived.

A managed cluster stays managed: it keeps the slots that it owned and no other, for the rest lives elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ravel_node.machine.base import Database, MemberRecord, Reader, Start, Txn
from ravel_node.machine.high_water import forget_marks
from ravel_node.machine.kv import REVISION
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
from ravel_node.machine.ownership import Ownership, Side, Tenure, read_ownership, write_ownership
from ravel_node.machine.slots import slots_of
from ravel_node.raft.types import ConfState, EntryId, Index, ReplicaId, Term

REVISION_JUMP: Final = 1_000_000_000
"""By how much the revision rises where the clock says nothing: it stands in the past, as seen from the state."""

INDEX_JUMP: Final = 1 << 32
TERM_JUMP: Final = 1 << 20
"""The same for log indexes and terms."""

FORGOTTEN: Final = (Database.SESSIONS, Database.RESULTS, Database.HISTORY, Database.OWNERSHIP)
"""Databases of which the new cluster has only what `refound` writes; whoever writes the state clears them before."""


@dataclass(frozen=True, slots=True)
class Founder:
    """The first member of the new cluster. Its addresses are those it is started with: it tells its cluster then."""

    server_id: str
    name: str
    version: str
    format: int


def start_above(at: EntryId, revision: int, now_us: int) -> Start:
    """Return the start of a new cluster that is made from a state at `at`, with the cluster's revision there.

    The earlier cluster has gone on after that state, for an unknown time, and may itself have been made from an older one. So a
    fixed jump is not enough: the numbers are those of the clock, `now_us` microseconds since 1970. A cluster that writes less
    than 1,000,000 revisions and 10,000 entries a second, and elects less than one leader a second, never overtakes them. Only
    where the state is ahead of the clock they jump: if they always did, one restore after the other would get ahead of it, and
    a later one, from an older state, would begin below them.
    """
    index = after(at.index, now_us // 100, INDEX_JUMP)
    term = after(at.term, now_us // 1_000_000, TERM_JUMP)
    return Start(EntryId(Term(term), Index(index)), after(revision, now_us, REVISION_JUMP))


def after(known: int, now: int, jump: int) -> int:
    """Return a number above all that was counted on from `known` up to `now`, a count of the clock."""
    return now if now > known else known + jump


def refound(reader: Reader, txn: Txn, founder: Founder, cluster_name: str, start: Start) -> ReplicaId:
    """Make this state that of a new cluster whose only member is `founder`; return its replica id, which is a fresh one.

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
    write_membership(txn, ConfState(voters=(replica_id,)), start.at.index)
    txn.put(Database.META, CLUSTER_NAME, name.encode())
    write_number(txn, REVISION, start.revision)
    forget_marks(reader, txn)
    _keep_slots(reader, txn)
    return replica_id


def _keep_slots(reader: Reader, txn: Txn) -> None:
    """Keep what is owned, and by which map each slot came. Nothing of what was under way can be gone on with.

    A migration that was not decided when the state was saved is over for its source. What came in at a destination may be a
    part of what was copied in the end, so it can only be dropped, or opened where the rest is lost (OWN). What was let go waits
    for its PURGE.
    """
    ownership = read_ownership(reader)
    if ownership is None:
        return
    moves = {
        move_id: move if move.side is Side.RELEASED else replace(move, side=Side.DROPPING)
        for move_id, move in ownership.moves.items()
        if move.side not in (Side.EXPORTING, Side.FROZEN)
    }
    came_by = {slot: ownership.came_by(slot) for slot in slots_of(ownership.owned)}
    tenures = {slot: Tenure(map_version=version) for slot, version in came_by.items() if version != ownership.since}
    let_go = [move.slots for move in moves.values() if move.side is Side.RELEASED]
    tenures |= {slot: ownership.tenures[slot] for slots in let_go for slot in slots}
    last = max([ownership.last_move, *(move for move in ownership.moves if move not in moves)])
    end = ownership.last_end if last == ownership.last_move else 0
    kept = Ownership(ownership.owned, ownership.map_version, last, end, moves, tenures, ownership.since, ownership.changes)
    write_ownership(txn, kept)
