"""The values that go into and come out of the client.

Results are named tuples: one is made for every call, and they are the cheapest frozen value that has names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Consistency(IntEnum):
    """What a read may show. Numbers as in kv.proto."""

    LINEARIZABLE = 0  # what every acknowledged write left; the leader answers alone while it holds its lease
    QUORUM = 1  # the same, always confirmed by a majority
    STALE = 2  # what some replica has applied, leader or not; it works without a leader


class KeyValue(NamedTuple):
    """A key that is there. `value` is empty if a scan asked for keys only; `revision` is that of its last write."""

    key: bytes
    value: bytes
    revision: int


class PutResult(NamedTuple):
    """`revision` is the cluster's at which the value was written."""

    revision: int


class DeleteResult(NamedTuple):
    """Whether the key was there, and the cluster's revision after the delete (unchanged if it was not)."""

    found: bool
    revision: int


class SwapResult(NamedTuple):
    """`revision` is the new value's if swapped, else the actual one's (0: the key is not there).

    `actual` is what is there instead, if it was not swapped and the key is there.
    """

    swapped: bool
    revision: int
    actual: KeyValue | None


class WriteResult(NamedTuple):
    """`revision` is that of all operations if done, else the actual one of the key whose condition failed (0: not there).

    `failed_key` is the first key whose condition did not hold, None if done; `failed` is what is there under it, if anything.
    """

    done: bool
    revision: int
    failed: KeyValue | None
    failed_key: bytes | None


class WatchEvent(NamedTuple):
    """A change. `value` is the new one, None for a key that was deleted; `revision` is the cluster's at which it happened.

    The changes of an atomic write share a revision and come one after the other: `more` says that another one of it follows.
    """

    key: bytes
    value: bytes | None
    revision: int
    more: bool


@dataclass(frozen=True, slots=True)
class Put:
    """An operation of `RavelClient.write`: the key gets this value."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """An operation of `RavelClient.write`: the key goes. A key that is not there is no error."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of `RavelClient.write`: the key's revision is this one; 0: the key is not there."""

    key: bytes
    revision: int


Operation = Put | Delete
