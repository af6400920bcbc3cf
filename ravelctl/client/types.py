"""The values that go into the client and come out of it.

Results are named tuples: one is made for every call, and they are the cheapest frozen values with names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

KEY_BYTES_MAX: Final = 480
"""Bytes of the longest key. The same bound is compiled into every server."""


class Consistency(IntEnum):
    """The guarantee of a read. Numbers as in kv.proto."""

    LINEARIZABLE = 0  # shows every acknowledged write; the leader answers alone while it holds its lease
    QUORUM = 1  # the same, always confirmed by a majority
    STALE = 2  # shows what some replica has applied, leader or not; it works without a leader


class KeyValue(NamedTuple):
    """A key with its value. `value` is empty if a scan asked for keys only; `revision` is that of the last write of the key."""

    key: bytes
    value: bytes
    revision: int


class PutResult(NamedTuple):
    """`revision` is the cluster's revision at which the value was written."""

    revision: int


class DeleteResult(NamedTuple):
    """Whether the key existed, and the cluster's revision after the delete (unchanged if the key did not exist)."""

    found: bool
    revision: int


class SwapResult(NamedTuple):
    """`revision` is that of the new value if swapped, else that of the actual one (0: the key does not exist).

    `actual` is the actual key and value if nothing was swapped and the key exists.
    """

    swapped: bool
    revision: int
    actual: KeyValue | None


class WriteResult(NamedTuple):
    """`revision` is that of all operations if done, else that of the key whose condition failed (0: the key does not exist).

    `failed_key` is the first key whose condition did not hold, None if done; `failed` is its actual value, if it exists.
    """

    done: bool
    revision: int
    failed: KeyValue | None
    failed_key: bytes | None


class WatchEvent(NamedTuple):
    """A change of one key. `value` is the new value, None for a deleted key; `revision` is the cluster's at which it happened.

    The changes of an atomic write share a revision and come one after the other: `more` says that another one of them follows.
    """

    key: bytes
    value: bytes | None
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class Put:
    """An operation of `RavelClient.write`: set the value of the key."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """An operation of `RavelClient.write`: delete the key. A key that does not exist is no error."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of `RavelClient.write`: the revision of the key is this one; 0: the key does not exist."""

    key: bytes
    revision: int


Operation = Put | Delete
