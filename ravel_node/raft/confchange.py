"""Membership changes: how they alter a membership, and their form in the log.

A simple change alters at most one voter, so that every majority before it shares a member with every majority after it
(thesis 4.1). Any other change passes through a joint configuration in which both majorities decide (thesis 4.3):
entered by one entry, left by a second one. A change is a value: it is checked whole and yields a new `Membership`;
where it is refused nothing happened.

In the log a change is written as the protobuf message that etcd's tools know (`raftpb.ConfChange`,
`raftpb.ConfChangeV2`): a few varints, read here strictly. The empty payload is the empty ConfChangeV2, which leaves a
joint configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ravel_node.raft.errors import ConfChangeError
from ravel_node.raft.tracker import NOBODY, Membership
from ravel_node.raft.types import (
    ChangeType,
    ConfChange,
    ConfChangeV2,
    Entry,
    EntryType,
    ReplicaId,
    SingleChange,
    Transition,
)


class MembershipChange(NamedTuple):
    """The outcome of a change: the membership to switch to, and whose progress must start anew."""

    membership: Membership
    forgotten: frozenset[ReplicaId] = NOBODY


class Changer:
    """Applies changes to one membership: every method returns the outcome, or raises ConfChangeError."""

    def __init__(self, membership: Membership) -> None:
        self._before: Final = membership

    def simple(self, changes: Sequence[SingleChange]) -> MembershipChange:
        """Change at most one voter, and any number of learners."""
        if self._before.is_joint:
            raise ConfChangeError("can't apply simple config change in joint config")
        draft = _Draft(self._before)
        draft.apply(changes)
        if len(draft.voters ^ self._before.voters) > 1:
            raise ConfChangeError("more than one voter changed without entering joint config")
        return draft.finish(auto_leave=False)

    def enter_joint(self, changes: Sequence[SingleChange], *, auto_leave: bool) -> MembershipChange:
        """Make the voters of now the outgoing half, and `changes` to them the incoming one."""
        if self._before.is_joint:
            raise ConfChangeError("config is already joint")
        if not self._before.voters:
            raise ConfChangeError("can't make a zero-voter config joint")
        draft = _Draft(self._before)
        draft.outgoing = set(self._before.voters)
        draft.apply(changes)
        return draft.finish(auto_leave=auto_leave)

    def leave_joint(self) -> MembershipChange:
        """Keep the incoming half alone; who waited to become a learner becomes one."""
        if not self._before.is_joint:
            raise ConfChangeError("can't leave a non-joint config")
        draft = _Draft(self._before)
        draft.learners |= draft.learners_next
        draft.learners_next = set()
        draft.outgoing = set()
        return draft.finish(auto_leave=False)

    def change(self, change: ConfChange | ConfChangeV2) -> MembershipChange:
        """Apply a change as the log holds it, with the transition that it asks for."""
        if isinstance(change, ConfChange):
            return self.simple([SingleChange(change.type, change.replica_id)])
        if not change.changes:
            return self.leave_joint()
        if change.transition is Transition.AUTO and len(change.changes) == 1:
            return self.simple(change.changes)
        return self.enter_joint(change.changes, auto_leave=change.transition is not Transition.JOINT_EXPLICIT)


class _Draft:
    """A membership in the making. Every verb is idempotent; replica id 0 stands for nobody and is passed over."""

    def __init__(self, before: Membership) -> None:
        self.voters = set(before.voters)
        self.outgoing = set(before.outgoing)
        self.learners = set(before.learners)
        self.learners_next = set(before.learners_next)
        self.forgotten: set[ReplicaId] = set()

    def apply(self, changes: Iterable[SingleChange]) -> None:
        for change, replica in changes:
            if replica == 0 or change is ChangeType.UPDATE:
                continue
            if change is ChangeType.ADD_VOTER:
                self._make_voter(replica)
            elif change is ChangeType.ADD_LEARNER:
                self._make_learner(replica)
            else:
                self._remove(replica)
                if replica not in self.outgoing:
                    self.forgotten.add(replica)
        if not self.voters:
            raise ConfChangeError("removed all voters")

    def _make_voter(self, replica: ReplicaId) -> None:
        self._remove(replica)
        self.voters.add(replica)

    def _make_learner(self, replica: ReplicaId) -> None:
        self._remove(replica)
        # As long as the outgoing half counts its vote, a replica can only be on its way to become a learner.
        (self.learners_next if replica in self.outgoing else self.learners).add(replica)

    def _remove(self, replica: ReplicaId) -> None:
        for group in (self.voters, self.learners, self.learners_next):
            group.discard(replica)

    def finish(self, *, auto_leave: bool) -> MembershipChange:
        membership = Membership(
            frozenset(self.voters),
            frozenset(self.outgoing),
            frozenset(self.learners),
            frozenset(self.learners_next),
            auto_leave,
        )
        return MembershipChange(membership.checked(), frozenset(self.forgotten))


# The form in the log. Field numbers: ConfChange type=2 replica_id=3 context=4; ConfChangeV2 transition=1 changes=2
# context=3; a single change type=1 replica_id=2.

_VARINT: Final = 0
_BYTES: Final = 2


def encode_conf_change(change: ConfChange | ConfChangeV2) -> tuple[EntryType, bytes]:
    """The type and the payload of the entry that carries `change`."""
    if isinstance(change, ConfChange):
        body = _number(2, change.type) + _number(3, change.replica_id)
        return EntryType.CONF_CHANGE, body + (_blob(4, change.context) if change.context else b"")
    singles = b"".join(_blob(2, _number(1, kind) + _number(2, replica)) for kind, replica in change.changes)
    context = _blob(3, change.context) if change.context else b""
    return EntryType.CONF_CHANGE_V2, _number(1, change.transition) + singles + context


def decode_conf_change(entry: Entry) -> ConfChange | ConfChangeV2:
    """The change that `entry` carries. Raises ConfChangeError if it carries none."""
    try:
        if entry.type is EntryType.CONF_CHANGE:
            return _decode_v1(entry.data)
        if entry.type is EntryType.CONF_CHANGE_V2:
            return _decode_v2(entry.data)
    except (ValueError, IndexError, TypeError) as error:
        raise ConfChangeError(f"entry {entry.index} holds no readable membership change: {error}") from error
    raise ConfChangeError(f"entry {entry.index} is no membership change")


def _decode_v1(data: bytes) -> ConfChange:
    kind, replica, context = 0, 0, b""
    for field, value in _fields(data):
        if field == 2:
            kind = _integer(value)
        elif field == 3:
            replica = _integer(value)
        elif field == 4:
            context = _bytes(value)
    return ConfChange(ChangeType(kind), ReplicaId(replica), context)


def _decode_v2(data: bytes) -> ConfChangeV2:
    transition, changes, context = 0, [], b""
    for field, value in _fields(data):
        if field == 1:
            transition = _integer(value)
        elif field == 2:
            changes.append(_decode_single(_bytes(value)))
        elif field == 3:
            context = _bytes(value)
    return ConfChangeV2(tuple(changes), Transition(transition), context)


def _decode_single(data: bytes) -> SingleChange:
    kind, replica = 0, 0
    for field, value in _fields(data):
        if field == 1:
            kind = _integer(value)
        elif field == 2:
            replica = _integer(value)
    return SingleChange(ChangeType(kind), ReplicaId(replica))


def _integer(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("a number was expected")
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("bytes were expected")
    return value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _blob(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values, in order. Raises ValueError or IndexError where `data` is cut short or malformed."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if key & 7 == _VARINT:
            yield key >> 3, value
        elif key & 7 == _BYTES:
            if at + value > len(data):
                raise ValueError(f"a field of {value} bytes runs past the end")
            yield key >> 3, data[at : at + value]
            at += value
        else:
            raise ValueError(f"wire type {key & 7} does not occur")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise ValueError("a number has more than 64 bits")
