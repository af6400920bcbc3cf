"""The one hash on which servers and clients must agree: which slot a key belongs to."""

from __future__ import annotations

from typing import Final
from zlib import crc32

SLOT_COUNT: Final = 4096
"""Slots of the key space. Part of the on-disk format and of the wire: never changed."""


def slot_of(key: bytes) -> int:
    """The slot of a key, 0 <= slot < SLOT_COUNT: the low twelve bits of its CRC-32 (ISO-HDLC, as in zlib)."""
    return crc32(key) & (SLOT_COUNT - 1)
