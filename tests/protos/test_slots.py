"""The slot of a key is part of the disk format and of the wire: these numbers must never change."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravelpb.slots import SLOT_COUNT, slot_of


def test_the_number_of_slots_is_fixed() -> None:
    assert SLOT_COUNT == 4096


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        (b"", 0x000),
        (b"a", 0xE43),  # CRC-32 e8b7be43
        (b"123456789", 0x926),  # cbf43926, the check value of CRC-32
        (b"orders/17", 0x594),
        (b"\x00\xff", 0xD72),
        ("\N{ELECTRIC LIGHT BULB}".encode(), 0xD90),
        (b"x" * 480, 0x229),
    ],
)
def test_fixed_vectors(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@given(st.binary(max_size=480))
def test_a_slot_is_within_the_range_and_the_low_bits_of_the_checksum(key: bytes) -> None:
    assert 0 <= slot_of(key) < SLOT_COUNT
    if b"{" not in key:
        assert crc32(key) % SLOT_COUNT == slot_of(key)


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        (b"{orders}/17", b"orders"),
        (b"today/{orders}/17", b"orders"),
        (b"{orders}", b"orders"),
        (b"{orders}{items}", b"orders"),
        (b"{a{b}c}", b"a{b"),
        (b"}{orders}", b"orders"),
        (b"{{orders}}", b"{orders"),
        (b"{}/17", b"{}/17"),
        (b"{}{orders}", b"{}{orders}"),
        (b"{orders", b"{orders"),
        (b"orders}", b"orders}"),
        (b"}orders{", b"}orders{"),
        (b"{", b"{"),
    ],
)
def test_keys_with_one_hash_tag_share_a_slot(key: bytes, tag: bytes) -> None:
    """The same as in Redis Cluster."""
    assert slot_of(key) == crc32(tag) % SLOT_COUNT


def test_keys_spread_over_the_slots() -> None:
    hit = {slot_of(b"orders/%d" % number) for number in range(40_000)}
    assert len(hit) > 0.99 * SLOT_COUNT
