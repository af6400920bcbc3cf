"""The table against a model: whatever was written, sealed and flushed, reads and scans show one plain dict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ravel_node.machine.base import Database
from ravel_node.raft.errors import InvariantError
from ravel_node.storage import table as table_module
from ravel_node.storage.base import HalfAppliedError
from ravel_node.storage.table import Segment, Table, written
from ravelpb.slots import slot_of
from tests.storage.support import at

KV = Database.KV


class Dict:
    """The state below, in a dict."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def get(self, database: Database, key: bytes) -> bytes | None:
        return self.values.get(key)

    def scan(self, database: Database, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        return ((key, self.values[key]) for key in sorted(self.values) if key >= start and (end is None or key < end))

    def slot_keys(self, slot: int, after: bytes = b"") -> Iterator[bytes]:
        return (key for key in sorted(self.values) if slot_of(key) == slot and key > after)

    def take(self, segment: Segment) -> None:
        for key, value in segment.layers[KV].records.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value


def table_over(below: Dict) -> Table:
    return Table(below, at(0, 0), segment_bytes_max=1 << 20)


keys = st.binary(min_size=1, max_size=3).map(lambda raw: bytes(byte % 4 for byte in raw))
ranges = st.tuples(st.binary(max_size=2).map(lambda raw: bytes(byte % 5 for byte in raw)), st.none() | keys)
steps = st.one_of(
    st.tuples(st.just("put"), keys, st.binary(max_size=3)),
    st.tuples(st.just("delete"), keys, st.just(b"")),
    st.tuples(st.sampled_from(["apply", "seal", "flush"]), st.just(b""), st.just(b"")),
)


@pytest.fixture
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that keys meet in them."""
    for module in (table_module, sys.modules[__name__]):
        monkeypatch.setattr(module, "slot_of", lambda key: crc32(key) & 3)


@pytest.mark.usefixtures("few_slots")
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=60), st.lists(ranges, min_size=1, max_size=4))
def test_the_table_shows_what_a_dict_would(
    script: list[tuple[str, bytes, bytes]], windows: list[tuple[bytes, bytes | None]]
) -> None:
    below, model, index = Dict(), dict[bytes, bytes](), 0
    table = table_over(below)
    for step, key, value in script:
        if step == "put":
            table.put(KV, key, value)
            model[key] = value
        elif step == "delete":
            table.delete(KV, key)
            model.pop(key, None)
        elif step == "flush" and table.oldest is not None:
            below.take(table.oldest)
            table.drop_oldest(table.oldest)
        else:
            index += 1
            table.applied_to(at(index))
            if step == "seal":
                table.seal()
        assert table.get(KV, key or b"\0") == model.get(key or b"\0")
        for start, end in windows:
            wanted = [(k, model[k]) for k in sorted(model) if k >= start and (end is None or k < end)]
            assert list(table.scan(KV, start, end)) == wanted
        slot, after = slot_of(key), windows[0][0]
        in_slot = [k for k in sorted(model) if slot_of(k) == slot]
        assert list(table.slot_keys(slot)) == in_slot
        assert list(table.slot_keys(slot, after)) == [k for k in in_slot if k > after]
    for key in {*model, *below.values, b"\0", b"\1\2"}:
        assert table.get(KV, key) == model.get(key)


def test_a_scan_meets_its_own_writes_without_harm() -> None:
    """A machine that deletes what it scans sees each key once."""
    below = Dict()
    below.values = {b"%02d" % number: b"below" for number in range(0, 20, 2)}
    table = table_over(below)
    for number in range(1, 20, 2):
        table.put(KV, b"%02d" % number, b"table")
    seen = []
    for key, _ in table.scan(KV, b"", None):
        seen.append(key)
        table.delete(KV, key)
    assert seen == [b"%02d" % number for number in range(20)]
    assert list(table.scan(KV, b"", None)) == []


def test_an_interrupted_scan_is_noticed_only_when_the_chain_moved() -> None:
    table = table_over(Dict())
    table.put(KV, b"a", b"1")
    table.put(KV, b"b", b"2")
    table.applied_to(at(1))
    scan = table.scan(KV, b"", None)
    next(scan)
    table.put(KV, b"c", b"3")
    assert next(scan) == (b"b", b"2")
    scan = table.scan(KV, b"", None)
    next(scan)
    table.applied_to(at(2))
    table.seal()
    with pytest.raises(InvariantError, match="moved on"):
        next(scan)


def test_a_segment_is_full_at_its_very_size() -> None:
    for size, full in ((163, True), (164, True), (165, False)):
        table = Table(Dict(), at(0, 0), segment_bytes_max=size)
        table.put(KV, b"k", b"v" * 99)
        assert table.applied_to(at(1)) == full


def test_a_deletion_has_a_size_too() -> None:
    table = Table(Dict(), at(0, 0), segment_bytes_max=1 << 20)
    table.delete(KV, b"key")
    assert table.size == 3 + table_module.RECORD_OVERHEAD_BYTES


def test_sizes_and_segments() -> None:
    table = Table(Dict(), at(0, 0), segment_bytes_max=200)
    assert table.seal() is None
    table.put(KV, b"k", b"v" * 99)
    assert not table.applied_to(at(1))
    assert (table.size, table.segments, table.sealed_bytes) == (164, 1, 0)
    table.put(KV, b"k", b"")
    assert table.applied_to(at(2))
    sealed = table.seal()
    assert sealed is not None
    assert sealed is table.oldest
    assert (table.size, table.segments, table.sealed_bytes) == (229, 1, 229)
    assert table.seal() is sealed
    table.applied_to(at(3))
    table.seal()
    assert (table.applied, table.flushed) == (at(3), at(0, 0))
    table.drop_oldest(sealed)
    assert (table.flushed, table.sealed_bytes) == (at(2), 0)
    with pytest.raises(InvariantError, match="not the oldest"):
        table.drop_oldest(sealed)
    assert table.oldest is not None
    table.drop_oldest(table.oldest)
    assert table.flushed == at(3)
    assert table.oldest is None


@pytest.mark.parametrize(
    "write", [lambda table: table.put(KV, b"b", b""), lambda table: table.delete(KV, b"a")], ids=["put", "delete"]
)
def test_half_of_an_entry_is_never_sealed(write: Callable[[Table], None]) -> None:
    table = table_over(Dict())
    table.put(KV, b"a", b"1")
    table.applied_to(at(1))
    write(table)
    for _ in range(2):
        with pytest.raises(HalfAppliedError, match="the entry after 1"):
            table.seal()
    assert table.oldest is None
    table.applied_to(at(2))  # it was only slow
    sealed = table.seal()
    assert sealed is not None
    assert sealed.last == at(2)
    write(table)  # the size of a new segment is counted from its own beginning
    with pytest.raises(HalfAppliedError, match="the entry after 2"):
        table.seal()


def test_what_is_written_at_once_is_one_segment_at_that_entry() -> None:
    below = Dict()
    below.values = {b"a": b"1", b"b": b"2"}

    def write(table: Table) -> None:
        assert table.applied == at(7)
        assert table.get(KV, b"a") == b"1"
        table.delete(KV, b"a")

    segment = written(below, at(7), write)
    below.take(segment)
    assert (segment.last, below.values) == (at(7), {b"b": b"2"})
