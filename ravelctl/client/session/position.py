"""The text in which a place of a watch is written down, so that another watch can resume there.

The text is a WatchPosition of kv.proto, compressed, in URL-safe Base64. Of each list of slots it has the first one and then the
differences, which compress better: a position of three clusters has some hundred characters.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, MutableSequence
from itertools import accumulate, pairwise
from typing import Final

from google.protobuf.message import DecodeError

from ravelctl.client.errors import InvalidArgumentError
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1.kv_pb2 import ClusterPosition, WatchPosition

_PREFIX: Final = "w1."
_BYTES_MAX: Final = 1 << 20
"""Bytes of the longest WatchPosition: one of 1,024 clusters has a tenth of it."""


def write_position(position: WatchPosition) -> str:
    packed = WatchPosition()
    packed.CopyFrom(position)
    for slots in _slot_lists(packed):
        slots[:] = [slot - before for before, slot in pairwise([0, *slots])]
    return _PREFIX + urlsafe_b64encode(zlib.compress(packed.SerializeToString(), 9)).rstrip(b"=").decode()


def _slot_lists(position: WatchPosition) -> Iterator[MutableSequence[int]]:
    for cluster in position.clusters:
        yield from (part.slots for part in cluster.slots)
        yield from (left.slots for left in cluster.left)


def read_position(text: str) -> WatchPosition:
    """Return the place. Raises InvalidArgumentError for a text that `write_position` did not make."""
    try:
        if not text.startswith(_PREFIX):
            raise ValueError
        encoded = text[len(_PREFIX) :].encode("ascii")
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)), _BYTES_MAX)
        if not unpacker.eof:
            raise ValueError
        position = WatchPosition.FromString(data)
        for listed in _slot_lists(position):
            listed[:] = accumulate(listed)
        slots = [slot for listed in _slot_lists(position) for slot in listed]
        if not position.clusters or len(set(slots)) != len(slots) or max(slots, default=0) >= SLOT_COUNT:
            raise ValueError
    except (ValueError, binascii.Error, zlib.error, DecodeError) as error:
        raise InvalidArgumentError(
            f"{text[:32]!r} is no position of a watch", next_step="give it exactly as the watch returned it"
        ) from error
    return position


def alone(position: WatchPosition) -> ClusterPosition | None:
    """Return the place of a watch that names no slots; None: this one names slots."""
    (first, *others) = position.clusters
    return None if others or first.slots or first.left else first
