"""How commands stand in the log.

    payload = format u8, [time u64 if format is 2], group ...
    group   = flags u8, command count u16, [client id u64, sequence u64, acked below u64 if flags has ONCE], command ...
    command = kind u8, sequence offset u16, body length u32, body

A group is what one request wrote. The driver packs many groups into one entry by joining their bytes, and looks into none of
them. The time is the leader's clock as it packed the entry, in milliseconds since 1970: for people only. No rule of a
machine may look at it, since clocks jump; replicas apply the same entry to the same state whatever it says.

All numbers are big-endian. The bodies are told with the functions that encode them; what comes back is an `Outcome`:

    PUT                 revision: the value's
    DELETE              revision: the cluster's, after it; found
    GET_AND_DELETE      revision, value: the removed one's; found
    COMPARE_AND_SWAP    revision: the new value's; CONDITION_FAILED: revision, value, found tell what is there
    WRITE               revision: of all it did; CONDITION_FAILED: revision and found of the first key whose condition did not
                        hold, value: that key and its actual value (see `split_failed_condition`)
    REGISTER_SESSION    revision: the client id; REFUSED: the id is in use
    ALLOCATE_REPLICA    revision: the replica id
    SET_MEMBER          OK or REFUSED
    CHECKSUM            revision: the index at which every replica hashes its state
    SLOTS               revision: the cluster's, after it; found: PURGE and DROP, keys are left; value: the chunk u64 that an
                        import takes next; REFUSED: the step does not fit (see machine.ownership)
    DIRECTORY           value: the answer, as admin.commands tells with each command
    HIGH_WATER          OK
    SETTING             OK

A write (one of the first five) may also end in WRONG_CLUSTER or SLOT_MOVING, where a slot of its keys belongs to another cluster
or is frozen: revision: the version of the map of slots; value: the slot u16.

Two kinds of damage are told apart. Bytes that are not a payload, or an unknown kind, stop the replica: nobody can say what they
mean. A body that breaks a bound (`CommandError`) is a command that every replica refuses alike; the entry's others still apply.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from ravel_node.machine.base import MemberRecord
from ravel_node.machine.limits import CONDITIONS_MAX, KEY_BYTES_MAX, OPERATIONS_MAX, VALUE_BYTES_CEILING
from ravel_node.machine.members import RECORD_VERSION, encode_member, is_server_id


class Kind(IntEnum):
    """What a command does. The numbers are in the log: they are never used twice."""

    PUT = 1
    DELETE = 2
    GET_AND_DELETE = 3
    COMPARE_AND_SWAP = 4
    WRITE = 5
    REGISTER_SESSION = 6
    ALLOCATE_REPLICA = 7
    SET_MEMBER = 8
    CHECKSUM = 9
    SLOTS = 10
    DIRECTORY = 11
    HIGH_WATER = 12
    SETTING = 13


FORMAT: Final = 5
"""The newest set of kinds and layouts that this build applies. It stands in every member's record. 2: CHECKSUM. 3: SLOTS,
DIRECTORY. 4: payloads with a time. 5: HIGH_WATER, SETTING, sessions whose id the leader draws."""

DRAWN_SESSION_IDS_SINCE: Final = 5
"""The format that every member's record must reach before a REGISTER_SESSION names its id."""

TIMED_SINCE: Final = 4
"""The format that every member's record must reach before payloads carry a time."""

PLAIN: Final = 1
TIMED: Final = 2
"""What the first byte of a payload may be: the layouts above."""

STEP_NEWEST: Final = 11
"""The newest step of a SLOTS command (machine.slots.Step) that this build applies; it is the first byte of the body."""

SETTING_BYTES_MAX: Final = 256
"""Bytes of the value of a setting."""

SETTING_NAME: Final = re.compile(rb"[a-z0-9._-]{1,64}")

_KIND_PUT: Final = int(Kind.PUT)  # packing a plain number is measurably cheaper than an enum's
_ONCE: Final = 1  # flag of a group

_GROUP: Final = struct.Struct(">BH")
_ONCE_FIELDS: Final = struct.Struct(">QQQ")
_COMMAND: Final = struct.Struct(">BHI")
_PUT: Final = struct.Struct(">BHIH")  # a command's head and the length of the key
_SWAP: Final = struct.Struct(">BHIQH")  # and before that the expected revision
_SWAP_FIELDS: Final = struct.Struct(">QH")
_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")
_WRITE: Final = struct.Struct(">HH")
_CONDITION: Final = struct.Struct(">HQ")
_OPERATION: Final = struct.Struct(">BHI")
_OPERATION_PUT: Final = 1
_OPERATION_DELETE: Final = 2

_unpack_u16: Final[Callable[[bytes], tuple[int]]] = _U16.unpack_from
_PLAIN_HEAD: Final = bytes((PLAIN,))
_TIMED_HEAD: Final = struct.Struct(">BQ")
_HEAD_BYTES: Final = {PLAIN: len(_PLAIN_HEAD), TIMED: _TIMED_HEAD.size}
"""The layouts that this build reads."""


class Once(NamedTuple):
    """Names a registered client and the place of a group in its writes. `sequence` is the one of offset 0."""

    client_id: int
    sequence: int
    acked_below: int


class Command(NamedTuple):
    """One command as it stands in the log. `decode` gives plain tuples of this shape, since it is on the way of every write."""

    kind: int
    offset: int
    body: bytes


class Group(NamedTuple):
    """What one request wrote."""

    once: Once | None
    commands: list[tuple[int, int, bytes]]  # kind, sequence offset, body


class EnvelopeError(Exception):
    """These bytes are not a payload. The replica that applies them stops."""


class UnknownCommandError(Exception):
    """A command of a later version. The replica stops, since it cannot know what the others do with it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the log holds {what}, which this version does not know: upgrade this server")


class CommandError(ValueError):
    """A body that breaks a bound: the command is refused by every replica alike, with this sentence."""


def required_format(kind: Kind) -> int:
    """The format that every member's record must reach before a command of this kind may be proposed."""
    return _FORMAT_OF[kind]


_FORMAT_OF: Final[dict[Kind, int]] = {
    **dict.fromkeys(Kind, 1),
    Kind.CHECKSUM: 2,
    Kind.SLOTS: 3,
    Kind.DIRECTORY: 3,
    Kind.HIGH_WATER: 5,
    Kind.SETTING: 5,
}

_KNOWN_KINDS: Final = frozenset(int(kind) for kind, since in _FORMAT_OF.items() if since <= FORMAT)
"""What this build applies. A member record among them may still be one of a later form."""


# --- encoding: callers have checked keys, values and counts against limits.py; what does not fit its field raises struct.error


def put(key: bytes, value: bytes) -> bytes:
    """Body: key length u16, key, value."""
    size = len(key)
    return _PUT.pack(_KIND_PUT, 0, 2 + size + len(value), size) + key + value


def delete(key: bytes) -> bytes:
    """Body: key."""
    return _COMMAND.pack(Kind.DELETE, 0, len(key)) + key


def get_and_delete(key: bytes) -> bytes:
    """Body: key."""
    return _COMMAND.pack(Kind.GET_AND_DELETE, 0, len(key)) + key


def compare_and_swap(key: bytes, expected_revision: int, value: bytes) -> bytes:
    """Body: expected revision u64 (0: the key must not be there), key length u16, key, value."""
    size = len(key)
    return _SWAP.pack(Kind.COMPARE_AND_SWAP, 0, 10 + size + len(value), expected_revision, size) + key + value


def write(conditions: Sequence[tuple[bytes, int]], operations: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """All operations or none. A condition is a key and the revision it must have (0: it must not be there); an operation is a key
    and its new value, or None to delete it. A key may be operated on once.

    Body: condition count u16, operation count u16; each condition: key length u16, revision u64, key; each operation: u8 1 (put)
    or 2 (delete), key length u16, value length u32, key, value.
    """
    parts = [_WRITE.pack(len(conditions), len(operations))]
    for key, revision in conditions:
        parts += (_CONDITION.pack(len(key), revision), key)
    for key, value in operations:
        if value is None:
            parts += (_OPERATION.pack(_OPERATION_DELETE, len(key), 0), key)
        else:
            parts += (_OPERATION.pack(_OPERATION_PUT, len(key), len(value)), key, value)
    return _command(Kind.WRITE, b"".join(parts))


def register_session(client_id: int = 0) -> bytes:
    """Body: the client id u64, drawn at random by the leader; empty where it is 0: the machine then makes one of the log index.

    Only in a group without `Once`. An id in the body needs DRAWN_SESSION_IDS_SINCE.
    """
    return _command(Kind.REGISTER_SESSION, _U64.pack(client_id) if client_id else b"")


def allocate_replica(server_id: str) -> bytes:
    """Body: the server id, 32 hex digits."""
    return _command(Kind.ALLOCATE_REPLICA, server_id.encode("ascii"))


def set_member(record: MemberRecord) -> bytes:
    """Body: the record, as `members.encode_member` writes it. Raises MemberRecordError where a field breaks its bound."""
    return _command(Kind.SET_MEMBER, encode_member(record))


def checksum() -> bytes:
    """Body: empty. Only once every member knows the kind (see `required_format`), and in a group without `Once`."""
    return _command(Kind.CHECKSUM, b"")


def slots(body: bytes) -> bytes:
    """One step of a move of slots; body: `slots.encode_step`. See `checksum`."""
    return _command(Kind.SLOTS, body)


def directory(body: bytes) -> bytes:
    """A command of the admin's directory, as admin.commands writes it. See `checksum`."""
    return _command(Kind.DIRECTORY, body)


def high_water(body: bytes) -> bytes:
    """Raise the marks of members; body: `high_water.encode_marks`. See `checksum`."""
    return _command(Kind.HIGH_WATER, body)


def setting(name: str, value: str) -> bytes:
    """Set one setting of the whole cluster; an empty value is the default. Body: name length u8, name, value. See `checksum`."""
    raw = name.encode("ascii")
    return _command(Kind.SETTING, bytes((len(raw),)) + raw + value.encode())


def _command(kind: Kind, body: bytes) -> bytes:
    return _COMMAND.pack(kind, 0, len(body)) + body


def group(commands: Sequence[bytes], once: Once | None = None, offsets: Sequence[int] | None = None) -> bytes:
    """One request's commands, as the functions above encode them, at most GROUP_COMMANDS_MAX.

    With `once` the sequence of a command is `once.sequence` plus its offset. Offsets ascend strictly; without `offsets` they are
    0, 1, 2, ... Requests whose reads count too leave gaps.
    """
    if once is None:
        return b"".join((_GROUP.pack(0, len(commands)), *commands))
    head = _GROUP.pack(_ONCE, len(commands)) + _ONCE_FIELDS.pack(*once)
    if offsets is None and len(commands) == 1:
        return head + commands[0]
    joined = bytearray(b"".join((head, *commands)))
    pack_into = _U16.pack_into
    at = len(head) + 1
    for offset, command in zip(range(len(commands)) if offsets is None else offsets, commands, strict=True):
        pack_into(joined, at, offset)
        at += len(command)
    return bytes(joined)


def payload(groups: Sequence[bytes], time_ms: int = 0) -> bytes:
    """The data of one log entry: at most ENTRY_COMMANDS_MAX commands in all.

    `time_ms` is in milliseconds since 1970; 0, and a clock that stands before then: none. See TIMED_SINCE.
    """
    return b"".join((_TIMED_HEAD.pack(TIMED, time_ms) if time_ms > 0 else _PLAIN_HEAD, *groups))


# --- decoding


def decode(payload: bytes, *, any_kind: bool = False) -> list[tuple[Once | None, list[tuple[int, int, bytes]]]]:
    """The groups of a payload, in the shapes of `Group` and `Command` but as plain tuples; none for an empty payload.

    Raises EnvelopeError for bytes that are not a payload, and UnknownCommandError for what a later version wrote, unless
    `any_kind`: people may look at a later version's log. Bodies are left to the read functions below.
    """
    if not payload:
        return []
    at = _HEAD_BYTES.get(payload[0], 0)
    if not at:
        raise EnvelopeError(f"a payload of format {payload[0]}, where this version knows {max(_HEAD_BYTES)}: upgrade this server")
    groups: list[tuple[Once | None, list[tuple[int, int, bytes]]]] = []
    size = len(payload)
    read_command = _COMMAND.unpack_from
    if size < at:
        raise EnvelopeError(f"a payload of {size} bytes ends within its head")
    try:
        while at < size:
            flags, count = _GROUP.unpack_from(payload, at)
            at += 3
            once = None
            if flags:
                if flags != _ONCE:
                    raise EnvelopeError(f"a group with flags {flags:#x} at byte {at - 3}, where this version knows {_ONCE:#x}")
                once = Once._make(_ONCE_FIELDS.unpack_from(payload, at))
                at += 24
            commands: list[tuple[int, int, bytes]] = []
            append = commands.append
            for _ in range(count):
                kind, offset, length = read_command(payload, at)
                start = at + 7
                at = start + length
                if at > size:
                    raise EnvelopeError(f"a command of {length} bytes at byte {start} of a payload of {size}")
                body = payload[start:at]
                if not 0 < kind < Kind.SET_MEMBER and not any_kind:
                    _check_known(kind, body)
                append((kind, offset, body))
            groups.append((once, commands))
    except struct.error:
        raise EnvelopeError(f"a payload of {size} bytes ends within a header at byte {at}") from None
    return groups


def read_time(payload: bytes) -> int:
    """When the leader packed these commands, in milliseconds since 1970; 0 where the payload does not tell. Total."""
    if len(payload) < _TIMED_HEAD.size or payload[0] != TIMED:
        return 0
    return int(_TIMED_HEAD.unpack_from(payload)[1])


def _check_known(kind: int, body: bytes) -> None:
    """What a later version wrote must stop the replica before anything of its entry was applied: also a later form of record."""
    if kind not in _KNOWN_KINDS:
        raise UnknownCommandError(f"a command of kind {kind}")
    if kind == Kind.SET_MEMBER and body and body[0] > RECORD_VERSION:
        raise UnknownCommandError(f"a member record of version {body[0]}")
    if kind == Kind.SLOTS and body and body[0] > STEP_NEWEST:
        raise UnknownCommandError(f"step {body[0]} of a move of slots")


def read_put(body: bytes) -> tuple[bytes, bytes]:
    """Key and value of a PUT. Raises CommandError."""
    if len(body) < 2:
        raise CommandError(f"a put of {len(body)} bytes has no key")
    end = 2 + _unpack_u16(body)[0]
    if not 2 < end <= KEY_BYTES_MAX + 2 or end > len(body):
        raise _bad_key(end - 2)
    if len(body) - end > VALUE_BYTES_CEILING:
        raise _bad_value(len(body) - end)
    return body[2:end], body[end:]


def read_key(body: bytes) -> bytes:
    """Key of a DELETE or GET_AND_DELETE. Raises CommandError."""
    if not 0 < len(body) <= KEY_BYTES_MAX:
        raise _bad_key(len(body))
    return body


def read_compare_and_swap(body: bytes) -> tuple[bytes, int, bytes]:
    """Key, expected revision and value. Raises CommandError."""
    if len(body) < _SWAP_FIELDS.size:
        raise CommandError(f"a compare-and-swap of {len(body)} bytes has no key")
    expected, size = _SWAP_FIELDS.unpack_from(body)
    end = _SWAP_FIELDS.size + size
    if not 0 < size <= KEY_BYTES_MAX or end > len(body):
        raise _bad_key(size)
    if len(body) - end > VALUE_BYTES_CEILING:
        raise _bad_value(len(body) - end)
    return body[_SWAP_FIELDS.size : end], expected, body[end:]


def read_write(body: bytes) -> tuple[list[tuple[bytes, int]], list[tuple[bytes, bytes | None]]]:
    """Conditions and operations, as `write` took them. Raises CommandError."""
    try:
        return _read_write(body)
    except struct.error:
        raise CommandError(f"a write of {len(body)} bytes ends within a header") from None


def _read_write(body: bytes) -> tuple[list[tuple[bytes, int]], list[tuple[bytes, bytes | None]]]:
    condition_count, operation_count = _WRITE.unpack_from(body)
    if condition_count > CONDITIONS_MAX or operation_count > OPERATIONS_MAX:
        counts = f"{condition_count} conditions and {operation_count} operations"
        raise CommandError(f"a write of {counts}, at most {CONDITIONS_MAX} and {OPERATIONS_MAX}")
    at = _WRITE.size
    conditions: list[tuple[bytes, int]] = []
    for _ in range(condition_count):
        size, revision = _CONDITION.unpack_from(body, at)
        at += _CONDITION.size
        conditions.append((_key_at(body, at, size), revision))
        at += size
    operations: dict[bytes, bytes | None] = {}
    for _ in range(operation_count):
        what, size, value_size = _OPERATION.unpack_from(body, at)
        at += _OPERATION.size
        key = _key_at(body, at, size)
        at += size
        if key in operations:
            raise CommandError(f"a write that operates twice on a key of {size} bytes")
        operations[key] = _operation_value(body, at, what, value_size)
        at += value_size
    if at != len(body):
        raise CommandError(f"a write of {at} bytes is followed by {len(body) - at} more")
    return conditions, list(operations.items())


def _key_at(body: bytes, at: int, size: int) -> bytes:
    if not 0 < size <= KEY_BYTES_MAX or at + size > len(body):
        raise _bad_key(size)
    return body[at : at + size]


def _operation_value(body: bytes, at: int, what: int, size: int) -> bytes | None:
    if size > VALUE_BYTES_CEILING or at + size > len(body):
        raise _bad_value(size)
    if what == _OPERATION_PUT:
        return body[at : at + size]
    if what != _OPERATION_DELETE or size:
        raise CommandError(f"a write with an operation {what} of {size} bytes: it must be put (1) or delete (2, without a value)")
    return None


def read_server_id(body: bytes) -> str:
    """Server id of an ALLOCATE_REPLICA. Raises CommandError."""
    server_id = body.decode("ascii", errors="replace")
    if not is_server_id(server_id):
        raise CommandError(f"a server id of {len(body)} bytes: it must be 32 lower-case hex digits")
    return server_id


def read_client_id(body: bytes) -> int:
    """Return the client id of a REGISTER_SESSION; 0 where it names none. Raises CommandError."""
    if not body:
        return 0
    client_id = int.from_bytes(body, "big") if len(body) == _U64.size else 0
    if not 0 < client_id < 1 << 63:
        raise CommandError(f"a session is registered with an id of 8 bytes, from 1 to 2^63 - 1, not with {len(body)} bytes")
    return client_id


def read_setting(body: bytes) -> tuple[str, str]:
    """Return name and value of a SETTING. Raises CommandError."""
    size = body[0] if body else 0
    name, value = body[1 : 1 + size], body[1 + size :]
    if len(name) != size or len(value) > SETTING_BYTES_MAX or not SETTING_NAME.fullmatch(name):
        raise CommandError(f"a setting of {len(body)} bytes: its name must be 1 to 64 of a-z, 0-9, '-', '.', '_'")
    try:
        return name.decode("ascii"), value.decode()
    except UnicodeDecodeError:
        raise CommandError(f"a value of setting {name.decode('ascii')} that is no text") from None


def failed_condition(key: bytes, actual: bytes) -> bytes:
    """The `value` of a WRITE's outcome whose condition on `key` did not hold: key length u16, key, the actual value."""
    return _U16.pack(len(key)) + key + actual


def split_failed_condition(value: bytes) -> tuple[bytes, bytes]:
    """Key and actual value out of a failed WRITE's outcome."""
    end = 2 + _unpack_u16(value)[0]
    return value[2:end], value[end:]


def _bad_key(size: int) -> CommandError:
    return CommandError(f"a key of {size} bytes: it must have 1 to {KEY_BYTES_MAX}, all of them within its command")


def _bad_value(size: int) -> CommandError:
    return CommandError(f"a value of {size} bytes: it must have at most {VALUE_BYTES_CEILING}, all of them within its command")
