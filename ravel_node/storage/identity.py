"""Who a data directory is: drawn and assigned once, written once, checked at every start.

A server's id is drawn when its directory is made. Cluster, replica id and name come with the seat, by bootstrap or join, and
never change again; the one thing that may be added is that the cluster took the replica out. A directory whose identity cannot be
read must not start: under a wrong one it could vote twice.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from typing import Final

from ravel_node.raft.types import ReplicaId
from ravel_node.storage.base import Identity, StoreError
from ravel_node.storage.keys import BadRecordError

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_TYPES: Final = {
    field.name: bool if field.name == "removed" else int if field.name == "replica_id" else str for field in fields(Identity)
}


def encode_identity(identity: Identity) -> bytes:
    """The payload of the identity record: a JSON object with the fields of `Identity`."""
    return json.dumps(asdict(identity), sort_keys=True).encode()


def decode_identity(payload: bytes) -> Identity:
    """Raises BadRecordError."""
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError) as error:  # the second one for brackets in brackets
        raise BadRecordError(f"an identity of {len(payload)} bytes that is no JSON") from error
    if not isinstance(values, dict) or {name: type(value) for name, value in values.items()} != _TYPES:
        raise BadRecordError(f"an identity with other fields than {', '.join(_TYPES)}")
    identity = Identity(**{**values, "replica_id": ReplicaId(values["replica_id"])})
    if problem := _problem(identity):
        raise BadRecordError(problem)
    return identity


def require_takeable(current: Identity, wanted: Identity) -> None:
    """Raise StoreError unless a directory that is `current` may become `wanted`."""
    if problem := _problem(wanted):
        raise StoreError(f"no identity can be taken with {problem}")
    if wanted.server_id != current.server_id:
        raise StoreError(f"this server is {current.server_id} and cannot become {wanted.server_id}")
    if wanted.blank or (not current.blank and wanted != current):
        raise StoreError(
            f"this directory is replica {current.replica_id} of cluster {current.cluster_id or '(none)'} already: "
            "an identity is taken once"
        )


def _problem(identity: Identity) -> str:
    if not _HEX_ID.match(identity.server_id):
        return f"server id {identity.server_id[:40]!r}: it must be 32 lower-case hex digits"
    if identity.blank:
        return "a replica id but no cluster id" if identity.replica_id else ""
    if not _HEX_ID.match(identity.cluster_id):
        return f"cluster id {identity.cluster_id[:40]!r}: it must be 32 lower-case hex digits"
    return "" if 0 < identity.replica_id < 1 << 63 else f"replica id {identity.replica_id}: ids start at 1"
