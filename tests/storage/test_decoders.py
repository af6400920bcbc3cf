"""What reads bytes from a disk, or from a peer's snapshot, gives a value or says that they are damaged: for any bytes, and for
valid ones in which something was changed."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ravel_node.machine.envelope import EnvelopeError, UnknownCommandError, decode
from ravel_node.machine.members import MemberRecordError, MemberVersionError, decode_conf_state, decode_context, decode_member
from ravel_node.raft.confchange import decode_conf_change
from ravel_node.raft.errors import ConfChangeError
from ravel_node.raft.types import Entry, EntryType, Index, ReplicaId, Term
from ravel_node.storage.base import Identity, SnapshotHeader, SnapshotRefusedError
from ravel_node.storage.identity import decode_identity, encode_identity
from ravel_node.storage.keys import (
    BadRecordError,
    decode_entry,
    decode_entry_id,
    decode_hard_state,
    decode_number,
    encode_entry,
    index_key,
    pack_u32,
    seal,
    unseal,
)
from ravel_node.storage.snapshots import decode_header, encode_header
from ravel_node.storage.store import open_store
from tests.storage.support import CLUSTER, NEVER, append, apply, bootstrap, until

ALLOCATED_BYTES_MAX: Final = 8 << 20
DEEP: Final = b"[" * 100_000
HEADER: Final = SnapshotHeader(
    format=2,
    cluster_id=CLUSTER,
    cluster_name="test",
    index=9,
    term=2,
    voters=(1, 2),
    learners=(3,),
    voters_outgoing=(),
    learners_next=(),
    auto_leave=False,
    revision=7,
    keys=3,
    size_bytes=8192,
    sha256="a" * 64,
    taken_at_ms=1,
    taken_by="n1",
)
IDENTITY: Final = Identity("0" * 31 + "1", CLUSTER, "test", ReplicaId(1), "n1")


def _entry(data: bytes) -> Entry:
    return decode_entry(index_key(7), data)


def _conf_change(kind: EntryType) -> Callable[[bytes], object]:
    return lambda data: decode_conf_change(Entry(Term(1), Index(1), kind, data))


def _unsealed(data: bytes) -> bytes:
    return unseal(7, b"key", data)


MEMBER_ERRORS: Final = (MemberRecordError, MemberVersionError)
DECODERS: Final[dict[str, tuple[Callable[[bytes], object], tuple[type[Exception], ...]]]] = {
    "log record": (_entry, (BadRecordError,)),
    "record": (_unsealed, (BadRecordError,)),
    "entry id": (decode_entry_id, (BadRecordError,)),
    "hard state": (decode_hard_state, (BadRecordError,)),
    "number": (decode_number, (BadRecordError,)),
    "identity": (decode_identity, (BadRecordError,)),
    "snapshot header": (decode_header, (SnapshotRefusedError,)),
    "payload": (decode, (EnvelopeError, UnknownCommandError)),
    "member record": (decode_member, MEMBER_ERRORS),
    "context": (decode_context, MEMBER_ERRORS),
    "membership": (decode_conf_state, MEMBER_ERRORS),
    "one change": (_conf_change(EntryType.CONF_CHANGE), (ConfChangeError,)),
    "changes": (_conf_change(EntryType.CONF_CHANGE_V2), (ConfChangeError,)),
}
VALID: Final[dict[str, bytes]] = {
    "log record": encode_entry(Entry(Term(3), Index(7), EntryType.NORMAL, b"some data")),
    "record": seal(7, b"key", b"value"),
    "identity": encode_identity(IDENTITY),
    "snapshot header": encode_header(HEADER),
}


@pytest.mark.parametrize("name", DECODERS)
def test_any_bytes_are_a_value_or_damage(name: str) -> None:
    read, errors = DECODERS[name]

    @given(st.binary(max_size=300))
    @example(b"")
    @example(DEEP)
    @example(b"\x01" + b"\xff" * 300)
    @example(b'{"format": 2' + b"0" * 5_000 + b"}")
    def check(data: bytes) -> None:
        try:
            read(data)
        except errors as error:
            assert len(str(error)) < 1_000  # noqa: PT017

    check()


@pytest.mark.parametrize("name", VALID)
def test_changed_bytes_are_a_value_or_damage(name: str) -> None:
    read, errors = DECODERS[name]
    valid = VALID[name]
    read(valid)

    @given(st.data())
    def check(data: st.DataObject) -> None:
        changed = bytearray(valid)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(changed) - 1))
            changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
            changed = changed or bytearray(b"x")
        try:
            read(bytes(changed))
        except errors as error:
            assert str(error)  # noqa: PT017

    check()


@pytest.mark.parametrize("name", ["payload", "member record", "context", "membership", "one change", "changes"])
def test_a_length_that_lies_allocates_nothing(name: str) -> None:
    """Each of these formats has lengths or counts inside; all ones is the largest of each."""
    read, errors = DECODERS[name]
    tracemalloc.start()
    try:
        for head in range(64):
            for start in (b"\x01", b"\x01\x00\x00\x01", b"\x0a", b"\x12", b""):
                data = start + b"\x00" * (head % 16) + b"\xff" * head
                try:
                    read(data)
                except errors:
                    continue
        assert tracemalloc.get_traced_memory()[1] < ALLOCATED_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_a_log_record_of_an_unknown_type_whose_check_sum_fits_is_damage() -> None:
    from crc32c import crc32c

    head = (7).to_bytes(8, "big") + (3).to_bytes(8, "big") + b"\x09"
    with pytest.raises(ValueError, match="9"):
        _entry(pack_u32(crc32c(b"data", crc32c(head))) + head[8:] + b"data")


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
UNTAKEABLE: Final[list[tuple[str, Any]]] = [
    ("index", 1 << 64),
    ("keys", -1),
    ("term", True),
    ("voters", [0]),
    ("voters", [1 << 70]),
    ("voters", {"1": 2}),
    ("sha256", "A" * 64),
    ("sha256", ""),
    ("taken_by", "\ud800"),
    ("taken_by", "x" * 10_000),
    ("cluster_name", None),
    ("auto_leave", 0),
    ("format", 3),
    ("format", True),
    ("more", 1),
]


@given(st.sampled_from(list(json.loads(encode_header(HEADER)))), values)
@example("taken_by", "\ud800")
def test_any_value_in_a_snapshots_header_is_taken_whole_or_refused(field: str, value: Any) -> None:
    changed = json.dumps({**json.loads(encode_header(HEADER)), field: value}).encode()
    try:
        header = decode_header(changed)
    except SnapshotRefusedError:
        return
    assert decode_header(encode_header(header)) == header


@pytest.mark.parametrize(("field", "value"), UNTAKEABLE)
def test_a_header_that_nobody_could_have_written_is_refused(field: str, value: Any) -> None:
    with pytest.raises(SnapshotRefusedError):
        decode_header(json.dumps({**json.loads(encode_header(HEADER)), field: value}).encode())


@given(st.sampled_from(list(json.loads(encode_identity(IDENTITY)))), values)
@example("replica_id", 1 << 64)
@example("replica_id", True)
def test_any_value_in_an_identity_is_taken_whole_or_damage(field: str, value: Any) -> None:
    try:
        identity = decode_identity(json.dumps({**json.loads(encode_identity(IDENTITY)), field: value}).encode())
    except BadRecordError:
        return
    assert identity == replace(IDENTITY, **{field: value})
    assert identity.replica_id < 1 << 63


# --- the header beside a snapshot has no check sum of its own: the file must bear it out


async def _built(path: Path) -> Path:
    """The header of the one snapshot of a closed directory."""
    store = await open_store(path, NEVER)
    await bootstrap(store)
    await append(store, 2, 3)
    apply(store, 3, {b"key": b"value"})
    await store.build_snapshot()
    await store.close()
    (header,) = (path / "snapshots").glob("*.json")
    return header


async def test_no_altered_header_makes_a_snapshot_something_else(tmp_path: Path) -> None:
    """Any one byte: the file is left out and told, or what is for people only has changed."""
    header = await _built(tmp_path / "d")
    whole = header.read_bytes()
    store = await open_store(tmp_path / "d", NEVER)
    await until(lambda: len(store.snapshots()) == 1)
    (file,) = store.snapshots()
    taken = 0
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :]
        try:
            altered = decode_header(changed)
        except SnapshotRefusedError:
            continue
        problem = await asyncio.to_thread(store._shelf._problem, replace(file, header=altered), CLUSTER)
        if altered.size_bytes == file.path.stat().st_size and not problem:
            taken += 1
            for_people: dict[str, Any] = {"taken_at_ms": 0, "taken_by": ""}
            assert replace(altered, **for_people) == replace(file.header, **for_people)
    assert taken < 30  # the digits of a time, the letters of a name
    await store.close()


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (b'"index": 3', b'"index": 2', ".json.damaged"),
        (b'"keys": 1', b'"keys": 9', ".json.damaged"),
        (CLUSTER.encode(), b"d" * 32, ".json.damaged"),
        (b'"size_bytes": ', b'"size_bytes": 9', ".json.damaged"),
        (b"{", DEEP, ".json"),
        (b"{", b"", ".json"),
        (b'"format": 2', b'"format": 3', ".json"),
    ],
)
async def test_an_altered_header_is_told_with_its_cause(tmp_path: Path, old: bytes, new: bytes, kept: str) -> None:
    header = await _built(tmp_path / "d")
    header.write_bytes(header.read_bytes().replace(old, new, 1))
    told: list[dict[str, object]] = []
    options = replace(NEVER, observe=lambda event, fields: told.append({"event": event, **fields}))
    store = await open_store(tmp_path / "d", options)
    await until(lambda: len(told) > 0)
    assert [each["event"] for each in told] == ["store.snapshot_damaged"]
    assert header.stem in str(told[0]["file"])
    assert len(str(told[0]["why"])) > 20
    assert store.snapshots() == ()
    assert (header.parent / (header.stem + kept)).exists()
    await store.build_snapshot()  # another one takes its place
    assert len(store.snapshots()) == 1
    await store.close()
