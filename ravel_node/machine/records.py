"""What a record of the applied state must look like, and what it must agree with: for whoever checks a whole state.

Check sums tell that a record is what was written. This tells that what was written makes sense: a state that was put together
from two, or edited, has good sums and is refused by the machine all the same, or worse, is not.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from ravel_node.machine import history, ownership
from ravel_node.machine.base import Database, Rules
from ravel_node.machine.kv import REVISION
from ravel_node.machine.members import (
    LAST_REPLICA_ID,
    Getter,
    MemberRecordError,
    MemberVersionError,
    all_replicas,
    decode_member,
    read_conf_state,
    read_config_index,
    read_number,
)
from ravel_node.machine.sessions import stored_sequences
from ravel_node.raft.errors import InvariantError
from ravel_node.raft.types import Index

_U64: Final = struct.Struct(">Q")
_PAIR: Final = struct.Struct(">QQ")


def _record_problem(database: Database, key: bytes, payload: bytes, get: Getter) -> str:
    """Why a record whose check sum is right cannot be what a machine wrote; empty if it can. `get` reads the same state."""
    check = _CHECKS.get(database)
    return check(key, payload, get) if check is not None else ""


def _state_problems(get: Getter, applied: Index) -> list[str]:
    """What does not fit together in the membership and the counters of a state that was applied up to `applied`."""
    problems: list[str] = []
    if (config_index := read_config_index(get)) > applied:
        problems.append(f"its membership is of entry {config_index}, and it ends at {applied}")
    try:
        conf_state = read_conf_state(get)
    except (MemberRecordError, MemberVersionError) as error:
        return [*problems, str(error)]
    newest = read_number(get, LAST_REPLICA_ID)
    for replica_id in sorted(all_replicas(conf_state)):
        record = get(Database.MEMBERS, _U64.pack(replica_id))
        if record is None:
            problems.append(f"replica {replica_id} is in the membership and has no record")
        elif replica_id > newest:
            problems.append(f"replica {replica_id} is in the membership, and ids were given out up to {newest}")
    return problems


def _key_value(_key: bytes, payload: bytes, get: Getter) -> str:
    if len(payload) < _U64.size:
        return f"it has {len(payload)} bytes, too few for a revision"
    revision = int.from_bytes(payload[: _U64.size], "big")
    newest = read_number(get, REVISION)
    return f"it was written at revision {revision}, and the cluster's is {newest}" if revision > newest else ""


def _session(key: bytes, payload: bytes, _get: Getter) -> str:
    return "" if len(key) == _U64.size and len(payload) == _PAIR.size else f"a session of {len(key)} and {len(payload)} bytes"


def _result(key: bytes, payload: bytes, get: Getter) -> str:
    if len(key) != _PAIR.size:
        return f"answers under a key of {len(key)} bytes"
    client_id, first = _PAIR.unpack(key)
    if get(Database.SESSIONS, key[: _U64.size]) is None:
        return f"answers of client {client_id}, which has no session"
    try:
        sequences = stored_sequences(first, payload)
    except (struct.error, ValueError, InvariantError) as error:
        return f"answers of client {client_id} that cannot be read: {error}"
    return "" if sequences else f"a record of client {client_id} without answers"


def _member(key: bytes, payload: bytes, _get: Getter) -> str:
    try:
        record = decode_member(payload)
    except (MemberRecordError, MemberVersionError) as error:
        return str(error)
    return "" if key == _U64.pack(record.replica_id) else f"it is the record of replica {record.replica_id}"


def _history(key: bytes, payload: bytes, get: Getter) -> str:
    return history.record_problem(key, payload, read_number(get, REVISION))


def _ownership(key: bytes, payload: bytes, get: Getter) -> str:
    return ownership.record_problem(key, payload, read_number(get, REVISION))


_CHECKS: Final[dict[Database, Callable[[bytes, bytes, Getter], str]]] = {
    Database.KV: _key_value,
    Database.SESSIONS: _session,
    Database.RESULTS: _result,
    Database.MEMBERS: _member,
    Database.OWNERSHIP: _ownership,
    Database.HISTORY: _history,
}

KV_RULES: Final = Rules(_record_problem, _state_problems)
"""Those of `machine.kv` and what belongs to it."""
