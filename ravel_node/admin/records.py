"""The directory at rest: what stands in Database.DIRECTORY, and what must hold of it.

    "s" 16 bytes server id      a server
    "c" u16 number              a cluster
    "m" u64 move id             an unfinished move
    "o"                         the slot map: u64 version, then for each slot u16 the number of its cluster (0: nobody),
                                then for each slot u64 the version that gave it to that one
    "n"                         counters: u64 the newest cluster number, u64 the newest move id

Every value begins with u8 RECORD_VERSION. Servers, clusters and moves go on with canonical JSON: all fields of the value in
model.py but the one in the key. All numbers are big-endian.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

from ravel_node.admin.answers import canonical, field_values
from ravel_node.admin.model import (
    NO_MAP,
    NOBODY,
    ClusterEntry,
    ClusterNumber,
    Directory,
    Move,
    MoveId,
    Phase,
    Seat,
    ServerEntry,
    SlotMap,
)
from ravel_node.machine.base import Database, Reader, Rules, Txn
from ravel_node.machine.members import DIRECTORY, MACHINE, Getter, MemberVersionError, StateError
from ravel_node.machine.records import KV_RULES
from ravelpb.slots import SLOT_COUNT

RECORD_VERSION: Final = 1

MAP_KEY: Final = b"o"
COUNTERS_KEY: Final = b"n"

_VERSION: Final = bytes((RECORD_VERSION,))
_MAP: Final = struct.Struct(f">BQ{SLOT_COUNT}H{SLOT_COUNT}Q")
_COUNTERS: Final = struct.Struct(">BQQ")
_NUMBER: Final = struct.Struct(">H")
_MOVE_ID: Final = struct.Struct(">Q")


class DirectoryRecordError(StateError):
    """A record of the directory that no machine wrote. The replica stops."""


def server_key(server_id: str) -> bytes:
    return b"s" + bytes.fromhex(server_id)


def cluster_key(number: ClusterNumber) -> bytes:
    return b"c" + _NUMBER.pack(number)


def move_key(move_id: MoveId) -> bytes:
    return b"m" + _MOVE_ID.pack(move_id)


# --- writing


def write_changes(txn: Txn, before: Directory, after: Directory) -> None:
    """Make the records of `before` those of `after`."""
    for key, record in _changes(before, after):
        if record is None:
            txn.delete(Database.DIRECTORY, key)
        else:
            txn.put(Database.DIRECTORY, key, record)


def _changes(before: Directory, after: Directory) -> list[tuple[bytes, bytes | None]]:
    changes: list[tuple[bytes, bytes | None]] = []
    if after.servers is not before.servers:
        changes += [(server_key(name), None) for name in before.servers if name not in after.servers]
        new = [server for name, server in after.servers.items() if before.servers.get(name) != server]
        changes += [(server_key(server.server_id), _text(server, "server_id")) for server in new]
    if after.clusters is not before.clusters:
        changes += [(cluster_key(number), None) for number in before.clusters if number not in after.clusters]
        made = [cluster for number, cluster in after.clusters.items() if before.clusters.get(number) != cluster]
        changes += [(cluster_key(cluster.number), _text(cluster, "number")) for cluster in made]
    if after.moves is not before.moves:
        changes += [(move_key(move_id), None) for move_id in before.moves if move_id not in after.moves]
        begun = [move for move_id, move in after.moves.items() if before.moves.get(move_id) != move]
        changes += [(move_key(move.move_id), _text(move, "move_id")) for move in begun]
    if after.slot_map is not before.slot_map:
        changes.append(
            (MAP_KEY, _MAP.pack(RECORD_VERSION, after.slot_map.version, *after.slot_map.owners, *after.slot_map.decided))
        )
    if (after.last_cluster, after.last_move) != (before.last_cluster, before.last_move):
        changes.append((COUNTERS_KEY, _COUNTERS.pack(RECORD_VERSION, after.last_cluster, after.last_move)))
    return changes


def _text(entry: ServerEntry | ClusterEntry | Move, in_key: str) -> bytes:
    value = field_values(entry)
    del value[in_key]
    for name in _LEFT_OUT:
        if name in value and not value[name]:
            del value[name]
    return _VERSION + canonical(value)


_LEFT_OUT: Final = frozenset({"superseded"})
"""Fields that stand in a record only where they say something: what was written before there were any reads the same."""


# --- reading


def load(reader: Reader) -> Directory:
    """The directory in a state. Raises DirectoryRecordError, MemberVersionError (a later version wrote it)."""
    servers: dict[str, ServerEntry] = {}
    clusters: dict[ClusterNumber, ClusterEntry] = {}
    moves: dict[MoveId, Move] = {}
    slot_map, last_cluster, last_move = NO_MAP, NOBODY, MoveId(0)
    for key, record in reader.scan(Database.DIRECTORY, b"", None):
        value = decode(key, record)
        if isinstance(value, ServerEntry):
            servers[value.server_id] = value
        elif isinstance(value, ClusterEntry):
            clusters[value.number] = value
        elif isinstance(value, Move):
            moves[value.move_id] = value
        elif isinstance(value, SlotMap):
            slot_map = value
        else:
            last_cluster, last_move = value
    return Directory(slot_map, servers, clusters, moves, last_cluster, last_move)


Value = ServerEntry | ClusterEntry | Move | SlotMap | tuple[ClusterNumber, MoveId]
"""What a record holds."""


def decode(key: bytes, record: bytes) -> Value:
    """What stands under this key. Raises DirectoryRecordError, MemberVersionError."""
    if record and record[0] > RECORD_VERSION:
        raise MemberVersionError("record of the directory", record[0], RECORD_VERSION)
    try:
        return _READERS[key[:1]](key[1:], record)
    except (KeyError, ValueError, TypeError, struct.error, RecursionError) as error:
        what = f"a record of the directory under {key[:20].hex()}, {len(record)} bytes, cannot be read: {error}"
        raise DirectoryRecordError(f"{what}; take this replica out and let a new one join") from None


def _server(key: bytes, record: bytes) -> Value:
    if len(key) != 16:
        raise ValueError(f"a server id of {len(key)} bytes")
    value = _object(ServerEntry, "server_id", record)
    return ServerEntry(**{**value, "server_id": key.hex(), "seat": Seat(value["seat"])})


def _cluster(key: bytes, record: bytes) -> Value:
    (number,) = _NUMBER.unpack(key)
    value = _object(ClusterEntry, "number", record)
    return ClusterEntry(**{**value, "number": number, "superseded": tuple(value.get("superseded", ()))})


def _move(key: bytes, record: bytes) -> Value:
    (move_id,) = _MOVE_ID.unpack(key)
    value = _object(Move, "move_id", record)
    return Move(**{**value, "move_id": move_id, "slots": tuple(value["slots"]), "phase": Phase(value["phase"])})


def _slot_map(_key: bytes, record: bytes) -> Value:
    _, version, *rest = _MAP.unpack(record)
    return SlotMap(version, tuple(ClusterNumber(owner) for owner in rest[:SLOT_COUNT]), tuple(rest[SLOT_COUNT:]))


def _counters(_key: bytes, record: bytes) -> Value:
    _, last_cluster, last_move = _COUNTERS.unpack(record)
    return ClusterNumber(last_cluster), MoveId(last_move)


_READERS: Final[dict[bytes, Callable[[bytes, bytes], Value]]] = {
    b"s": _server,
    b"c": _cluster,
    b"m": _move,
    MAP_KEY: _slot_map,
    COUNTERS_KEY: _counters,
}


def _object(form: type[Any], in_key: str, record: bytes) -> dict[str, Any]:
    value = json.loads(record[1:])
    names = {field.name for field in fields(form)} - {in_key}
    if not isinstance(value, dict) or value.keys() | _LEFT_OUT != names | _LEFT_OUT:
        raise ValueError(f"it has not the fields of a {form.__name__}")
    return value


# --- checking


def _record_problem(database: Database, key: bytes, payload: bytes, get: Getter) -> str:
    if database is not Database.DIRECTORY:
        return KV_RULES.record(database, key, payload, get)
    if get(Database.META, MACHINE) != DIRECTORY:
        return "a record of a directory, in a state that is no admin group's"
    try:
        value = decode(key, payload)
        last_cluster, last_move = _known_counters(get)
    except StateError as error:
        return str(error)
    if isinstance(value, ServerEntry):
        return _missing(get, [value.cluster], f"server {value.server_id[:8]}")
    if isinstance(value, ClusterEntry):
        late = value.number > last_cluster
        return f"cluster {value.number}, and numbers were given out up to {last_cluster}" if late else ""
    if isinstance(value, Move):
        if value.move_id > last_move:
            return f"move {value.move_id}, and ids were given out up to {last_move}"
        return _missing(get, [value.source, value.destination], f"move {value.move_id}")
    if isinstance(value, SlotMap):
        return _missing(get, sorted({*value.owners} - {NOBODY}), "the slot map")
    return ""


def _known_counters(get: Getter) -> tuple[ClusterNumber, MoveId]:
    record = get(Database.DIRECTORY, COUNTERS_KEY)
    value = decode(COUNTERS_KEY, record) if record is not None else None
    return value if isinstance(value, tuple) else (NOBODY, MoveId(0))


def _missing(get: Getter, numbers: list[ClusterNumber], what: str) -> str:
    gone = [number for number in numbers if get(Database.DIRECTORY, cluster_key(number)) is None]
    return f"{what} names cluster {gone[0]}, which is not there" if gone else ""


RULES: Final = Rules(_record_problem, KV_RULES.state)
"""Those of every state, an admin group's or not."""
