"""The one hash on which servers and clients must agree: which slot a key belongs to."""

from __future__ import annotations

from typing import Final
from zlib import crc32

SLOT_COUNT: Final = 4096
"""Slots of the key space. Part of the on-disk format and of the wire: never changed."""


def slot_of(key: bytes) -> int:
    """Return the slot of a key, 0 <= slot < SLOT_COUNT: the low twelve bits of the CRC-32 (ISO-HDLC, as in zlib) of its hash tag.

    The tag is what stands between the key's first "{" and the next "}", if that is one byte at least; else it is the whole key.
    So `{orders}/17` and `{orders}/18` are in one slot, and move together.
    """
    begin = key.find(b"{") + 1
    if begin and (end := key.find(b"}", begin)) > begin:
        key = key[begin:end]
    return crc32(key) & (SLOT_COUNT - 1)
