"""Who is in the cluster, as its own log has it: member records, the membership at rest, the cluster's name.

A member record is written by the membership change that adds the replica (it travels as that change's *context*), replaced by a
SET_MEMBER command, and marked removed, for good, by the change that takes the replica out.

    record      = version u8, flags u8 (1 auto_promote, 2 removed), replica id u64, format u16, then seven texts: server id, name,
                  version, listen, peer, listen_bind, peer_bind; a text is its length u16 and UTF-8
    context     = version u8, record count u16, then for each record its length u16 and the record
    conf state  = version u8, auto_leave u8, four counts u16, then the ids u64 of voters, learners, outgoing voters, next learners

All numbers are big-endian. An older version never guesses at a later one's bytes: see MemberVersionError.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Final

from ravel_node.machine.base import Database, MemberRecord, Reader, Txn
from ravel_node.machine.limits import ADDRESS_BYTES_MAX, CONTEXT_RECORDS_MAX, NAME_BYTES_MAX, VERSION_BYTES_MAX
from ravel_node.raft.types import ConfState, Index, ReplicaId

RECORD_VERSION: Final = 1
CONTEXT_VERSION: Final = 1
CONF_STATE_VERSION: Final = 1

CLUSTER_NAME: Final = b"cluster_name"
CONFIG_INDEX: Final = b"config_index"
CONF_STATE: Final = b"conf_state"
LAST_REPLICA_ID: Final = b"last_replica_id"
ALLOCATED_PREFIX: Final = b"allocated/"
MACHINE: Final = b"machine"
"""Keys of Database.META. `last_replica_id` is the newest id given out; `allocated/` + server id holds that server's. `machine` is
there in a state that is not only keys and values: which machine it is of, written when the cluster is born."""

KEY_VALUE: Final = b""
DIRECTORY: Final = b"directory"
"""What `machine` says: of keys and values alone (it is not there), of an admin group."""

_RECORD: Final = struct.Struct(">BBQH")
_CONTEXT: Final = struct.Struct(">BH")
_CONF_STATE: Final = struct.Struct(">BB4H")
_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")
_AUTO_PROMOTE: Final = 1
_REMOVED: Final = 2

_SERVER_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_NAME: Final = re.compile(rf"[a-z0-9._-]{{1,{NAME_BYTES_MAX}}}\Z")
_NAME_RULE: Final = f"1 to {NAME_BYTES_MAX} of a-z, 0-9, '-', '_', '.'"

Getter = Callable[[Database, bytes], bytes | None]
"""`get` of a Reader or a Txn."""


class MemberRecordError(ValueError):
    """A record or a context that breaks a bound; the message tells which field and its value."""


class StateError(Exception):
    """A state that this machine cannot open; nothing was changed. The message says why and what to do."""


class MemberVersionError(StateError):
    """A record or a membership written by a later version. The replica stops: it cannot know what it says."""

    def __init__(self, what: str, version: int, known: int) -> None:
        self.what = f"a {what} of version {version}"
        super().__init__(f"{self.what}, where this build knows {known}: upgrade this server")


class WrongMachineError(StateError):
    """A state of another machine than the one that was to open it. The message says which to start."""

    def __init__(self, stored: bytes) -> None:
        started, wanted = _STARTED.get(stored, ("a machine of a later version", "a later version"))
        super().__init__(f"this is the state of {started}: start it with {wanted}")


_STARTED: Final = {
    KEY_VALUE: ("a replica of a cluster of keys and values, not of an admin group", "`ravel_node start`"),
    DIRECTORY: ("an admin server", "`ravel_node admin`"),
}


def is_server_id(text: str) -> bool:
    """Whether it is 32 lower-case hex digits."""
    return _SERVER_ID.match(text) is not None


def is_name(text: str) -> bool:
    """Whether it may name a member or a cluster."""
    return _NAME.match(text) is not None


# --- records


def encode_member(record: MemberRecord) -> bytes:
    """The bytes of a record. Raises MemberRecordError where a field breaks its bound."""
    check_member(record)
    flags = (_AUTO_PROMOTE if record.auto_promote else 0) | (_REMOVED if record.removed else 0)
    parts = [_RECORD.pack(RECORD_VERSION, flags, record.replica_id, record.format)]
    for text in _texts(record):
        raw = text.encode()
        parts += (_U16.pack(len(raw)), raw)
    return b"".join(parts)


def decode_member(data: bytes) -> MemberRecord:
    """The record in these bytes, and nothing after it. Raises MemberRecordError, MemberVersionError."""
    if data and data[0] > RECORD_VERSION:
        raise MemberVersionError("member record", data[0], RECORD_VERSION)
    try:
        version, flags, replica_id, format_ = _RECORD.unpack_from(data)
        at = _RECORD.size
        texts: list[str] = []
        for _ in range(7):
            (size,) = _U16.unpack_from(data, at)
            at += 2 + size
            texts.append(data[at - size : at].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise MemberRecordError(f"a member record of {len(data)} bytes that cannot be read: {error}") from None
    if version != RECORD_VERSION or at != len(data) or flags & ~(_AUTO_PROMOTE | _REMOVED):
        raise MemberRecordError(f"a member record of {len(data)} bytes, version {version}, flags {flags:#x}, ends at byte {at}")
    server_id, name, version_text, listen, peer, listen_bind, peer_bind = texts
    record = MemberRecord(
        replica_id=ReplicaId(replica_id),
        server_id=server_id,
        name=name,
        version=version_text,
        format=format_,
        listen=listen,
        peer=peer,
        listen_bind=listen_bind,
        peer_bind=peer_bind,
        auto_promote=bool(flags & _AUTO_PROMOTE),
        removed=bool(flags & _REMOVED),
    )
    check_member(record)
    return record


def check_member(record: MemberRecord) -> None:
    """Raise MemberRecordError for the first field that breaks its bound."""
    if not 0 < record.replica_id < 1 << 63:
        raise MemberRecordError(f"replica id {record.replica_id}: ids start at 1")
    if not 0 < record.format < 1 << 16:
        raise MemberRecordError(f"format {record.format} of replica {record.replica_id}: it must be 1 to 65535")
    if not is_server_id(record.server_id):
        raise MemberRecordError(f"server id {record.server_id[:40]!r}: it must be 32 lower-case hex digits")
    if not is_name(record.name):
        raise MemberRecordError(f"name {record.name[:80]!r}: it must be {_NAME_RULE}")
    if len(record.version.encode()) > VERSION_BYTES_MAX:
        raise MemberRecordError(f"a version of {len(record.version)} characters, at most {VERSION_BYTES_MAX} bytes")
    for address in (record.listen, record.peer, record.listen_bind, record.peer_bind):
        if len(address.encode()) > ADDRESS_BYTES_MAX:
            raise MemberRecordError(f"an address of {len(address)} characters, at most {ADDRESS_BYTES_MAX} bytes")


def _texts(record: MemberRecord) -> tuple[str, ...]:
    return (
        record.server_id,
        record.name,
        record.version,
        record.listen,
        record.peer,
        record.listen_bind,
        record.peer_bind,
    )


# --- the context of a membership change


def encode_context(records: Sequence[MemberRecord]) -> bytes:
    """The context of a change that adds or alters these members; empty for none. Raises MemberRecordError."""
    if not records:
        return b""
    if len(records) > CONTEXT_RECORDS_MAX:
        raise MemberRecordError(f"a membership change with {len(records)} records, at most {CONTEXT_RECORDS_MAX}")
    parts = [_CONTEXT.pack(CONTEXT_VERSION, len(records))]
    for record in records:
        raw = encode_member(record)
        parts += (_U16.pack(len(raw)), raw)
    return b"".join(parts)


def decode_context(context: bytes) -> list[MemberRecord]:
    """The records of a change's context. Raises MemberRecordError, MemberVersionError."""
    if not context:
        return []
    if context[0] > CONTEXT_VERSION:
        raise MemberVersionError("membership change", context[0], CONTEXT_VERSION)
    try:
        version, count = _CONTEXT.unpack_from(context)
        at = _CONTEXT.size
        records: list[MemberRecord] = []
        for _ in range(count):
            (size,) = _U16.unpack_from(context, at)
            at += 2 + size
            records.append(decode_member(context[at - size : at]))
    except struct.error as error:
        raise MemberRecordError(f"the context of a membership change, {len(context)} bytes, cannot be read: {error}") from None
    if version != CONTEXT_VERSION or count > CONTEXT_RECORDS_MAX or at != len(context):
        raise MemberRecordError(
            f"the context of a membership change: version {version}, {count} records, {len(context)} bytes of which {at} are read"
        )
    return records


# --- the membership at rest


def encode_conf_state(conf_state: ConfState) -> bytes:
    parts = (conf_state.voters, conf_state.learners, conf_state.voters_outgoing, conf_state.learners_next)
    head = _CONF_STATE.pack(CONF_STATE_VERSION, conf_state.auto_leave, *map(len, parts))
    return head + b"".join(_U64.pack(replica_id) for part in parts for replica_id in part)


def decode_conf_state(data: bytes) -> ConfState:
    """Raises MemberRecordError, MemberVersionError."""
    if data and data[0] > CONF_STATE_VERSION:
        raise MemberVersionError("membership", data[0], CONF_STATE_VERSION)
    if len(data) < _CONF_STATE.size:
        raise MemberRecordError(f"a membership of {len(data)} bytes")
    version, auto_leave, *counts = _CONF_STATE.unpack_from(data)
    if version != CONF_STATE_VERSION or auto_leave > 1 or len(data) != _CONF_STATE.size + 8 * sum(counts):
        raise MemberRecordError(f"a membership of version {version}, {len(data)} bytes, for {sum(counts)} ids")
    ids = [ReplicaId(replica_id) for (replica_id,) in _U64.iter_unpack(data[_CONF_STATE.size :])]
    parts: list[tuple[ReplicaId, ...]] = []
    for count in counts:
        parts.append(tuple(ids[:count]))
        del ids[:count]
    return ConfState(parts[0], parts[1], parts[2], parts[3], bool(auto_leave))


def all_replicas(conf_state: ConfState) -> frozenset[ReplicaId]:
    """Whoever is in some part of a configuration."""
    return frozenset((*conf_state.voters, *conf_state.learners, *conf_state.voters_outgoing, *conf_state.learners_next))


# --- reading and writing the state


def read_members(reader: Reader) -> dict[ReplicaId, MemberRecord]:
    """Every record by replica id, ascending, removed ones too."""
    records = (decode_member(value) for _, value in reader.scan(Database.MEMBERS, b"", None))
    return {record.replica_id: record for record in records}


def read_conf_state(get: Getter) -> ConfState:
    """The membership at rest; an empty one in a state that nothing was applied to."""
    data = get(Database.META, CONF_STATE)
    return ConfState() if data is None else decode_conf_state(data)


def read_config_index(get: Getter) -> Index:
    """The log index of the newest applied membership change; 0 in a state that nothing was applied to."""
    return Index(read_number(get, CONFIG_INDEX))


def read_cluster_name(get: Getter) -> str:
    """Empty in a state that nothing was applied to."""
    return (get(Database.META, CLUSTER_NAME) or b"").decode()


def check_machine(get: Getter, wanted: bytes) -> None:
    """Raise WrongMachineError for a state of another machine. One that nothing was applied to may become any."""
    stored = get(Database.META, MACHINE) or KEY_VALUE
    if stored != wanted and get(Database.META, CLUSTER_NAME) is not None:
        raise WrongMachineError(stored)


def read_number(get: Getter, key: bytes) -> int:
    """A number of Database.META; 0 where it is not set."""
    data = get(Database.META, key)
    return 0 if data is None else int.from_bytes(data, "big")


def write_number(txn: Txn, key: bytes, number: int) -> None:
    """Set a number of Database.META: u64."""
    txn.put(Database.META, key, _U64.pack(number))


def write_member(txn: Txn, record: MemberRecord) -> None:
    txn.put(Database.MEMBERS, _U64.pack(record.replica_id), encode_member(record))


def write_membership(txn: Txn, conf_state: ConfState, config_index: Index) -> None:
    txn.put(Database.META, CONF_STATE, encode_conf_state(conf_state))
    write_number(txn, CONFIG_INDEX, config_index)


def read_allocated(get: Getter, server_id: str) -> ReplicaId:
    """The id that was given to a server; 0: none was."""
    return ReplicaId(read_number(get, ALLOCATED_PREFIX + server_id.encode("ascii")))


def write_allocated(txn: Txn, server_id: str, replica_id: ReplicaId) -> None:
    """Give the next id to a server, for good: the counter moves with it."""
    write_number(txn, ALLOCATED_PREFIX + server_id.encode("ascii"), replica_id)
    write_number(txn, LAST_REPLICA_ID, replica_id)


def bootstrap_state(
    txn: Txn,
    *,
    cluster_name: str,
    member: MemberRecord,
    conf_state: ConfState,
    config_index: Index,
    machine: bytes = KEY_VALUE,
) -> None:
    """Write what the state of a new cluster begins with: name, first member, and the counter of replica ids at that member.

    `machine` DIRECTORY makes it an admin group's. `conf_state` and `config_index` are those of the snapshot after which the first
    replica's log begins. Raises MemberRecordError for a bad record or cluster name.
    """
    if not is_name(cluster_name):
        raise MemberRecordError(f"cluster name {cluster_name[:80]!r}: it must be {_NAME_RULE}")
    txn.put(Database.META, CLUSTER_NAME, cluster_name.encode())
    write_membership(txn, conf_state, config_index)
    write_member(txn, member)
    write_allocated(txn, member.server_id, member.replica_id)
    if machine != KEY_VALUE:
        txn.put(Database.META, MACHINE, machine)
