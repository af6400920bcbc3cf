"""Raft messages to protobuf and back, total in both directions.

Whatever bytes a peer sends, the answer is a message that the core can take or `WireError`. Beside the plain ranges this checks
what the core builds on and could otherwise be brought to stop by: entries of an append follow each other, terms do not go back,
and a configuration names each replica once.

It is on the way of every entry, so messages are built in place: protobuf copies a payload once when it is set and once when the
frame is serialized, and nothing here adds to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from ravel_node.raft.types import (
    LOCAL_APPLY,
    ConfState,
    Entry,
    EntryType,
    Index,
    Message,
    MessageType,
    ReplicaId,
    Snapshot,
    Term,
)
from ravelpb.v1 import raft_pb2

MESSAGE_OVERHEAD_BYTES: Final = 64
ENTRY_OVERHEAD_BYTES: Final = 32
"""More than the fields beside the payload ever take: `size_of` is an upper bound that needs no encoding."""

LOCAL_TYPES: Final = frozenset(
    {
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAPSHOT_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESPONSE,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESPONSE,
        MessageType.FORGET_LEADER,
    }
)
"""Types that never leave the process: a peer that sent one could make this replica act without its disk or its clock."""

_TYPES: Final = {int(kind): kind for kind in MessageType if kind not in LOCAL_TYPES}
_ENTRY_TYPES: Final = {int(kind): kind for kind in EntryType}
_IDS_MAX: Final = 1_024  # in one part of a configuration


class WireError(Exception):
    """This is no Raft message, or none that may travel; the message names the field and its value."""


def size_of(message: Message) -> int:
    """An upper bound of the message's size on the wire, in bytes, but for a snapshot's membership."""
    size = MESSAGE_OVERHEAD_BYTES + len(message.context)
    for entry in message.entries:
        size += ENTRY_OVERHEAD_BYTES + len(entry.data)
    return size


def fill_message(wire: raft_pb2.Message, message: Message) -> None:
    """Write `message` into the empty `wire`. Raises WireError for one that may not travel; `wire` is then partly filled."""
    if message.type not in _TYPES or message.responses or message.vote:
        raise WireError(f"a message of type {message.type!r} is local and never leaves the process")
    if not (0 < message.to < LOCAL_APPLY and 0 < message.from_ < LOCAL_APPLY):
        raise WireError(f"a message from {message.from_} to {message.to} cannot travel: both must be replicas")
    try:
        wire.type = message.type
        wire.to = message.to
        setattr(wire, "from", message.from_)
        wire.term = message.term
        wire.log_term = message.log_term
        wire.index = message.index
        wire.commit = message.commit
        wire.reject = message.reject
        wire.reject_hint = message.reject_hint
        wire.context = message.context
        wire.promise_us = message.promise_us
        add = wire.entries.add
        for term, index, kind, data in message.entries:
            add(term=term, index=index, type=kind, data=data)
        if message.snapshot is not None:
            _fill_snapshot(wire.snapshot, message.snapshot)
    except (ValueError, TypeError) as error:
        raise WireError(f"a message of type {message.type.name} holds what protobuf cannot: {error}") from error


def message_to_wire(message: Message) -> raft_pb2.Message:
    """Raises WireError."""
    wire = raft_pb2.Message()
    fill_message(wire, message)
    return wire


def _fill_snapshot(wire: raft_pb2.SnapshotMeta, snapshot: Snapshot) -> None:
    conf = snapshot.conf_state
    wire.index = snapshot.index
    wire.term = snapshot.term
    wire.data = snapshot.data
    wire.conf_state.voters.extend(conf.voters)
    wire.conf_state.learners.extend(conf.learners)
    wire.conf_state.voters_outgoing.extend(conf.voters_outgoing)
    wire.conf_state.learners_next.extend(conf.learners_next)
    wire.conf_state.auto_leave = conf.auto_leave


def message_from_wire(wire: raft_pb2.Message) -> Message:
    """Raises WireError for anything that the core must not see."""
    kind = _TYPES.get(wire.type)
    if kind is None:
        raise WireError(f"type {wire.type} is unknown, or local and never sent")
    to, from_ = wire.to, getattr(wire, "from")
    if not (0 < to < LOCAL_APPLY and 0 < from_ < LOCAL_APPLY):
        raise WireError(f"from {from_} to {to}: both must be replicas")
    message = Message(
        kind,
        ReplicaId(to),
        ReplicaId(from_),
        Term(wire.term),
        Term(wire.log_term),
        Index(wire.index),
        _entries(wire.entries) if wire.entries else (),
        Index(wire.commit),
        snapshot=_snapshot(wire.snapshot) if wire.HasField("snapshot") else None,
        reject=wire.reject,
        reject_hint=Index(wire.reject_hint),
        context=wire.context,
        promise_us=wire.promise_us,
    )
    if kind is MessageType.APPEND:
        _check_append(message)
    elif kind is MessageType.SNAPSHOT and (message.snapshot is None or not message.snapshot.index):
        raise WireError("a snapshot message names no snapshot")
    return message


def parse_message(data: bytes) -> Message:
    """The message in these bytes. Raises WireError, also for bytes that are no protobuf message."""
    try:
        return message_from_wire(raft_pb2.Message.FromString(data))
    except DecodeError as error:
        raise WireError(f"{len(data)} bytes are no message: {error}") from error


def _entries(wires: Sequence[raft_pb2.Entry]) -> tuple[Entry, ...]:
    try:
        return tuple([Entry(Term(wire.term), Index(wire.index), _ENTRY_TYPES[wire.type], wire.data) for wire in wires])
    except KeyError as error:
        raise WireError(f"an entry has the unknown type {error}") from None


def _check_append(message: Message) -> None:
    """Entries continue the log after (log_term, index), one by one, in terms that never go back and none above the sender's."""
    index, term = message.index, message.log_term
    for entry in message.entries:
        index = Index(index + 1)
        if entry.index != index or not term <= entry.term <= message.term:
            raise WireError(
                f"entry {entry.index} of term {entry.term} where index {index} of term {term} to {message.term} must follow"
            )
        term = entry.term


def _snapshot(wire: raft_pb2.SnapshotMeta) -> Snapshot:
    conf = wire.conf_state
    return Snapshot(
        Index(wire.index),
        Term(wire.term),
        ConfState(
            _ids(conf.voters, "voters"),
            _ids(conf.learners, "learners"),
            _ids(conf.voters_outgoing, "voters_outgoing"),
            _ids(conf.learners_next, "learners_next"),
            conf.auto_leave,
        ),
        wire.data,
    )


def _ids(ids: Sequence[int], field: str) -> tuple[ReplicaId, ...]:
    """Ascending and distinct, as a ConfState holds them."""
    if len(ids) > _IDS_MAX:
        raise WireError(f"{field} holds {len(ids)} replicas, the most is {_IDS_MAX}")
    found = tuple(map(ReplicaId, ids))
    before = 0
    for replica_id in found:
        if not before < replica_id < LOCAL_APPLY:
            raise WireError(f"{field} holds replica {replica_id} after {before}: ids ascend from 1")
        before = replica_id
    return found
