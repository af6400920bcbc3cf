"""Commands come back from the log as they were written, and no bytes do more harm than a named error."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ravel_node.machine import envelope
from ravel_node.machine.envelope import CommandError, EnvelopeError, Kind, Once, UnknownCommandError
from ravel_node.machine.limits import CONDITIONS_MAX, KEY_BYTES_MAX, OPERATIONS_MAX, VALUE_BYTES_CEILING
from ravel_node.machine.members import decode_member
from ravel_node.machine.summary import describe
from tests.machine.helpers import Cluster, commands, keys, member, server_id, values, write_arguments

u64 = st.integers(0, (1 << 64) - 1)
onces = st.none() | st.builds(Once, u64, u64, u64)


def bodies(command: bytes) -> tuple[int, int, bytes]:
    """Kind, offset and body of one encoded command, through a whole payload."""
    ((_, [only]),) = envelope.decode(envelope.payload([envelope.group([command])]))
    return only


@given(keys, values)
def test_put_comes_back(key: bytes, value: bytes) -> None:
    kind, offset, body = bodies(envelope.put(key, value))
    assert (kind, offset) == (Kind.PUT, 0)
    assert envelope.read_put(body) == (key, value)


@given(keys)
def test_delete_and_get_and_delete_come_back(key: bytes) -> None:
    assert bodies(envelope.delete(key)) == (Kind.DELETE, 0, key)
    assert bodies(envelope.get_and_delete(key)) == (Kind.GET_AND_DELETE, 0, key)
    assert envelope.read_key(key) == key


@given(keys, u64, values)
def test_compare_and_swap_comes_back(key: bytes, expected: int, value: bytes) -> None:
    kind, _, body = bodies(envelope.compare_and_swap(key, expected, value))
    assert kind == Kind.COMPARE_AND_SWAP
    assert envelope.read_compare_and_swap(body) == (key, expected, value)


@given(write_arguments())
def test_write_comes_back(arguments: tuple[list[tuple[bytes, int]], list[tuple[bytes, bytes | None]]]) -> None:
    kind, _, body = bodies(envelope.write(*arguments))
    assert kind == Kind.WRITE
    assert envelope.read_write(body) == arguments


def test_cluster_commands_come_back() -> None:
    assert bodies(envelope.register_session()) == (Kind.REGISTER_SESSION, 0, b"")
    kind, _, body = bodies(envelope.allocate_replica(server_id(7)))
    assert (kind, envelope.read_server_id(body)) == (Kind.ALLOCATE_REPLICA, server_id(7))
    kind, _, body = bodies(envelope.set_member(member(3)))
    assert (kind, decode_member(body)) == (Kind.SET_MEMBER, member(3))


@given(st.lists(st.tuples(onces, st.lists(commands(), max_size=4)), max_size=4))
def test_groups_come_back(written: list[tuple[Once | None, list[bytes]]]) -> None:
    payload = envelope.payload([envelope.group(some, once) for once, some in written])
    read = envelope.decode(payload)
    assert [once for once, _ in read] == [once for once, _ in written]
    for (once, some), (_, originals) in zip(read, written, strict=True):
        assert [offset for _, offset, _ in some] == [at if once else 0 for at in range(len(originals))]
        assert [(kind, body) for kind, _, body in some] == [bodies(command)[::2] for command in originals]


def test_offsets_are_kept() -> None:
    payload = envelope.payload(
        [envelope.group([envelope.put(b"a", b""), envelope.delete(b"b")], Once(1, 2, 1), offsets=[3, 65_535])]
    )
    ((once, some),) = envelope.decode(payload)
    assert once == Once(1, 2, 1)
    assert [offset for _, offset, _ in some] == [3, 65_535]
    single = envelope.payload([envelope.group([envelope.put(b"a", b"")], Once(1, 2, 1), offsets=[9])])
    assert envelope.decode(single)[0][1][0][1] == 9


def test_bytes_are_fixed() -> None:
    """The format of the log: these bytes may never change their meaning."""
    group = envelope.group([envelope.put(b"k", b"val"), envelope.delete(b"d")], Once(0x0102, 5, 4))
    assert envelope.payload([group]).hex() == (
        "01"  # format
        "01 0002 0000000000000102 0000000000000005 0000000000000004"  # group: once, two commands
        "01 0000 00000006 0001 6b 76616c"  # put
        "02 0001 00000001 64"  # delete
    ).replace(" ", "")
    assert envelope.payload([group], 0x0102030405)[:9].hex() == "020000000102030405"  # format, milliseconds
    assert envelope.payload([group], 5)[9:] == envelope.payload([group])[1:]
    assert {kind.name: kind.value for kind in Kind} == {
        "PUT": 1,
        "DELETE": 2,
        "GET_AND_DELETE": 3,
        "COMPARE_AND_SWAP": 4,
        "WRITE": 5,
        "REGISTER_SESSION": 6,
        "ALLOCATE_REPLICA": 7,
        "SET_MEMBER": 8,
        "CHECKSUM": 9,
        "SLOTS": 10,
        "DIRECTORY": 11,
        "HIGH_WATER": 12,
        "SETTING": 13,
    }


def test_every_kind_is_of_a_known_format() -> None:
    assert {envelope.required_format(kind) for kind in Kind} <= set(range(1, envelope.FORMAT + 1))
    assert [kind for kind in Kind if envelope.required_format(kind) > 1] == [
        Kind.CHECKSUM,
        Kind.SLOTS,
        Kind.DIRECTORY,
        Kind.HIGH_WATER,
        Kind.SETTING,
    ]


def test_an_older_version_stops_at_a_kind_that_came_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = envelope.payload([envelope.group([envelope.put(b"k", b"v"), envelope.checksum()])])
    assert [kind for _, commands in envelope.decode(entry) for kind, _, _ in commands] == [Kind.PUT, Kind.CHECKSUM]
    monkeypatch.setattr(envelope, "_KNOWN_KINDS", frozenset(range(1, 9)))
    with pytest.raises(UnknownCommandError, match=r"kind 9, which this version does not know: upgrade"):
        envelope.decode(entry)


def test_an_older_version_stops_at_a_payload_that_carries_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = envelope.payload([envelope.group([envelope.put(b"k", b"v")])], 7)
    monkeypatch.setattr(envelope, "_HEAD_BYTES", {1: 1})
    with pytest.raises(EnvelopeError, match="format 2, where this version knows 1: upgrade this server"):
        envelope.decode(entry)


def test_an_empty_payload_holds_nothing() -> None:
    assert envelope.decode(b"") == []


@given(groups=st.lists(st.lists(commands(), min_size=1, max_size=3), min_size=1, max_size=3), time_ms=st.integers(1, 2**64 - 1))
def test_the_time_of_an_entry_changes_nothing_that_it_does(groups: list[list[bytes]], time_ms: int) -> None:
    packed = [envelope.group(some) for some in groups]
    plain, timed = envelope.payload(packed), envelope.payload(packed, time_ms)
    assert (envelope.read_time(plain), envelope.read_time(timed)) == (0, time_ms)
    assert envelope.decode(timed) == envelope.decode(plain)
    one, other = Cluster(), Cluster()
    assert one.machine.apply(one.next(), plain, one.state) == other.machine.apply(other.next(), timed, other.state)
    assert one.state.content() == other.state.content()


@pytest.mark.parametrize("time_ms", [0, -5])
def test_a_clock_before_1970_gives_no_time(time_ms: int) -> None:
    assert envelope.payload([envelope.group([])], time_ms) == envelope.payload([envelope.group([])])


@given(st.binary(max_size=20))
def test_the_time_of_any_bytes_is_a_number(garbage: bytes) -> None:
    assert envelope.read_time(garbage) >= 0


@given(st.binary(max_size=200))
@example(b"\x01\x00\x00\x01\x01\x00\x00\xff\xff\xff\xff")
@example(b"\x01\x00\x00\x01\x08\x00\x00\x00\x00\x00\x00")
def test_garbage_is_a_named_error_or_a_payload(garbage: bytes) -> None:
    cluster = Cluster()
    for data in (garbage, b"\x01" + garbage, b"\x02" + garbage):
        before = cluster.state.content()
        try:
            cluster.machine.apply(cluster.next(), data, cluster.state)
        except (EnvelopeError, UnknownCommandError):
            assert cluster.state.content() == before
        assert len(describe(data)) == len(cluster.machine.summarize(data))


@given(st.lists(commands(), min_size=1, max_size=4), st.data())
def test_a_damaged_payload_is_a_named_error_or_a_payload(some: list[bytes], data: st.DataObject) -> None:
    payload = bytearray(envelope.payload([envelope.group(some), envelope.group(some, Once(1, 1, 1))]))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    cluster = Cluster()
    before = cluster.state.content()
    try:
        cluster.machine.apply(cluster.next(), cut, cluster.state)
    except (EnvelopeError, UnknownCommandError):
        assert cluster.state.content() == before
    assert len(describe(cut)) == len(cluster.machine.summarize(cut))


@given(
    st.sampled_from([envelope.read_put, envelope.read_key, envelope.read_compare_and_swap, envelope.read_write]),
    st.binary(max_size=80),
)
def test_a_garbage_body_is_a_command_error_or_a_body(read: Callable[[bytes], object], body: bytes) -> None:
    try:
        read(body)
    except CommandError as error:
        assert str(error)  # noqa: PT017


def test_a_truncated_payload_is_refused_at_every_length() -> None:
    group = envelope.group([envelope.put(b"key", b"value")], Once(1, 1, 1))
    for payload, head in ((envelope.payload([group]), 1), (envelope.payload([group], 1 << 40), 9)):
        for size in range(1, len(payload)):
            if size != head:  # a payload without groups
                with pytest.raises(EnvelopeError):
                    envelope.decode(payload[:size])


def test_what_a_later_version_wrote_stops_the_replica() -> None:
    later = struct.pack(">BBHBHI", 1, 0, 1, 99, 0, 0)
    with pytest.raises(UnknownCommandError, match=r"kind 99.*upgrade"):
        envelope.decode(later)
    assert describe(later) == [("unknown", "kind 99, 0 bytes: a later version wrote it")]
    with pytest.raises(EnvelopeError, match=r"format 3.*upgrade"):
        envelope.decode(b"\x03")
    with pytest.raises(EnvelopeError, match="flags 0x2"):
        envelope.decode(b"\x01\x02\x00\x00")
    record = b"\x02" + envelope.set_member(member(1))[8:]
    with pytest.raises(UnknownCommandError, match="record of version 2"):
        envelope.decode(envelope.payload([envelope.group([struct.pack(">BHI", 8, 0, len(record)) + record])]))


def test_nothing_of_an_entry_is_applied_if_its_end_cannot_be_read() -> None:
    cluster = Cluster()
    before = cluster.state.content()
    unknown = struct.pack(">BHI", 99, 0, 0)
    with pytest.raises(UnknownCommandError):
        cluster.apply(envelope.group([envelope.put(b"k", b"v")]), envelope.group([unknown]))
    assert cluster.state.content() == before


@pytest.mark.parametrize("size", [1, KEY_BYTES_MAX])
def test_keys_within_bounds(size: int) -> None:
    key = b"k" * size
    assert envelope.read_put(bodies(envelope.put(key, b""))[2]) == (key, b"")
    assert envelope.read_key(key) == key
    assert envelope.read_compare_and_swap(bodies(envelope.compare_and_swap(key, 1, b""))[2]) == (key, 1, b"")
    assert envelope.read_write(bodies(envelope.write([(key, 0)], [(key, None)]))[2]) == ([(key, 0)], [(key, None)])


@pytest.mark.parametrize("size", [0, KEY_BYTES_MAX + 1])
def test_keys_out_of_bounds(size: int) -> None:
    key = b"k" * size
    for read, command in (
        (envelope.read_put, envelope.put(key, b"v" * 600)),
        (envelope.read_key, envelope.delete(key)),
        (envelope.read_compare_and_swap, envelope.compare_and_swap(key, 0, b"")),
        (envelope.read_write, envelope.write([(key, 1)], [])),
        (envelope.read_write, envelope.write([], [(key, b"v")])),
    ):
        with pytest.raises(CommandError, match=f"a key of {size} bytes"):
            read(bodies(command)[2])


def test_a_key_longer_than_its_command_is_refused() -> None:
    with pytest.raises(CommandError, match="a key of 9 bytes"):
        envelope.read_put(b"\x00\x09abc")
    with pytest.raises(CommandError, match="a key of 9 bytes"):
        envelope.read_compare_and_swap(bytes(8) + b"\x00\x09abc")
    with pytest.raises(CommandError, match="a value of 9 bytes"):
        envelope.read_write(struct.pack(">HHBHI", 0, 1, 1, 1, 9) + b"kabc")


def test_counts_and_values_out_of_bounds() -> None:
    with pytest.raises(CommandError, match="at most 1024 and 1024"):
        envelope.read_write(bodies(envelope.write([(b"k", 1)] * (CONDITIONS_MAX + 1), []))[2])
    many = [(str(number).encode(), None) for number in range(OPERATIONS_MAX + 1)]
    with pytest.raises(CommandError, match="at most 1024 and 1024"):
        envelope.read_write(bodies(envelope.write([], many))[2])
    conditions, operations = envelope.read_write(bodies(envelope.write([(b"k", 1)] * CONDITIONS_MAX, many[:-1]))[2])
    assert (len(conditions), len(operations)) == (CONDITIONS_MAX, OPERATIONS_MAX)
    with pytest.raises(CommandError, match="twice"):
        envelope.read_write(bodies(envelope.write([], [(b"k", b"1"), (b"k", None)]))[2])
    with pytest.raises(CommandError, match="followed by 1 more"):
        envelope.read_write(bodies(envelope.write([], []))[2] + b"x")
    with pytest.raises(CommandError, match=f"a value of {VALUE_BYTES_CEILING + 1} bytes"):
        envelope.read_put(b"\x00\x01k" + bytes(VALUE_BYTES_CEILING + 1))


def test_a_failed_condition_comes_back() -> None:
    assert envelope.split_failed_condition(envelope.failed_condition(b"key", b"actual")) == (b"key", b"actual")


def test_summaries_read_as_in_the_manual() -> None:
    some = [
        envelope.compare_and_swap(b"orders/17", 48_206, b"v"),
        envelope.compare_and_swap(b"orders/18", 0, b"v"),
        envelope.delete(b"orders/9"),
        envelope.get_and_delete(b"orders/9"),
        envelope.put(b"orders/9", b"value"),
        envelope.write([(b"a", 3), (b"b", 0)], [(b"k%d" % number, None if number else b"v") for number in range(6)]),
        envelope.register_session(),
        envelope.allocate_replica(server_id(7)),
        envelope.set_member(member(3)),
        envelope.put(b"", b""),
    ]
    assert describe(envelope.payload([envelope.group(some)])) == [
        ("cas", "orders/17 if rev 48206"),
        ("cas", "orders/18 if absent"),
        ("delete", "orders/9"),
        ("getdel", "orders/9"),
        ("put", "orders/9 = 5 bytes"),
        ("write", "put k0, del k1, del k2, del k3, 2 more; a if rev 3, and 1 more"),
        ("session", "register"),
        ("allocate", "replica id for server 00000000"),
        ("config", "update n3 listen 10.0.0.3:7400 peer 10.0.0.3:7401"),
        ("put", "refused: a key of 0 bytes: it must have 1 to 480, all of them within its command"),
    ]
    assert describe(b"") == []
    assert describe(b"\x07") == [("unreadable", "a payload of format 7, where this version knows 2: upgrade this server")]


def test_keys_that_are_not_text_are_escaped_and_long_ones_cut() -> None:
    def shown(key: bytes) -> str:
        return describe(envelope.payload([envelope.group([envelope.delete(key)])]))[0][1]

    assert shown(b"\x00\xffab") == r"\x00\xffab"
    assert shown("schlüssel".encode()) == "schlüssel"
    assert shown(b"a\nb") == r"a\x0ab"
    assert shown(b"a\\x00") == r"a\x5cx00"
    assert shown(b"k" * 100) == "k" * 64 + "… (100 bytes)"
