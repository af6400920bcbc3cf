"""Commands of the log in words, for `log show` and its kin. Total: whatever the bytes are, there is something to print."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ravel_node.machine.envelope import (
    CommandError,
    EnvelopeError,
    Kind,
    decode,
    read_compare_and_swap,
    read_key,
    read_put,
    read_server_id,
    read_setting,
    read_write,
)
from ravel_node.machine.high_water import decode_marks
from ravel_node.machine.members import MemberRecordError, MemberVersionError, decode_member, is_server_id
from ravel_node.machine.slots import read_step

SHOWN_CHARACTERS_MAX: Final = 64
"""Characters of a key that are shown; a longer one is cut and its length told."""

DIRECTORY_CHARACTERS_MAX: Final = 400
"""Characters of a command of the directory that are shown: nearly always all."""

SHOWN_OPERATIONS_MAX: Final = 4
"""Operations of a WRITE that are shown; the rest are counted."""


class Described(NamedTuple):
    """One command in words: its type, one line, and the user keys that it names."""

    word: str
    line: str
    keys: tuple[bytes, ...]


def described(payload: bytes) -> list[Described]:
    """Each command, in order. Empty for an empty payload: a new leader's entry."""
    try:
        groups = decode(payload, any_kind=True)
    except EnvelopeError as error:
        return [Described("unreadable", str(error), ())]
    return [_describe(kind, body) for _, commands in groups for kind, _, body in commands]


def describe(payload: bytes) -> list[tuple[str, str]]:
    """The type word and one line for each command, in order."""
    return [(word, line) for word, line, _ in described(payload)]


def show_bytes(data: bytes, characters_max: int = SHOWN_CHARACTERS_MAX) -> str:
    """A key for people: text as it is, other bytes as \\xNN, a long one cut with its length."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in data)
    else:
        text = text.replace("\\", "\\x5c")
    if len(text) <= characters_max:
        return text
    return f"{text[:characters_max]}… ({len(data)} bytes)"


def _describe(kind: int, body: bytes) -> Described:
    known = _WORDS.get(kind)
    if known is None:
        return Described("unknown", f"kind {kind}, {len(body)} bytes: a later version wrote it", ())
    word, line, keys = known
    try:
        return Described(word, line(body), keys(body))
    except (CommandError, MemberRecordError, MemberVersionError) as error:
        return Described(word, f"refused: {error}", ())


def _put(body: bytes) -> str:
    key, value = read_put(body)
    return f"{show_bytes(key)} = {len(value)} bytes"


def _key(body: bytes) -> str:
    return show_bytes(read_key(body))


def _compare_and_swap(body: bytes) -> str:
    key, expected, _ = read_compare_and_swap(body)
    return f"{show_bytes(key)} {_condition(expected)}"


def _condition(revision: int) -> str:
    return f"if rev {revision}" if revision else "if absent"


def _write(body: bytes) -> str:
    conditions, operations = read_write(body)
    shown = [f"{'del' if value is None else 'put'} {show_bytes(key)}" for key, value in operations[:SHOWN_OPERATIONS_MAX]]
    if len(operations) > SHOWN_OPERATIONS_MAX:
        shown.append(f"{len(operations) - SHOWN_OPERATIONS_MAX} more")
    checked = [f"{show_bytes(key)} {_condition(revision)}" for key, revision in conditions[:1]]
    if len(conditions) > 1:
        checked.append(f"and {len(conditions) - 1} more")
    done = ", ".join(shown) or "nothing"
    return f"{done}; {', '.join(checked)}" if checked else done


def _register_session(_body: bytes) -> str:
    return "register"


def _allocate_replica(body: bytes) -> str:
    return f"replica id for server {read_server_id(body)[:8]}"


def _set_member(body: bytes) -> str:
    record = decode_member(body)
    return f"update {record.name} listen {record.listen} peer {record.peer}"


def _written_keys(body: bytes) -> tuple[bytes, ...]:
    conditions, operations = read_write(body)
    return (*(key for key, _ in conditions), *(key for key, _ in operations))


def _checksum(_body: bytes) -> str:
    return "every replica hashes its state here"


def _high_water(body: bytes) -> str:
    try:
        marks = decode_marks(body)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return ", ".join(f"replica {replica_id} start {mark.boot_number} index {mark.index}" for replica_id, mark in marks.items())


def _setting(body: bytes) -> str:
    name, value = read_setting(body)
    return f"{name} = {value or 'its default'}"


def _slots(body: bytes) -> str:
    step = read_step(body)
    parts = [step.step.name.lower().replace("_", " ")]
    if step.move:
        parts.append(f"of move {step.move}")
    if step.slots:
        parts.append(f"slots {show_slots(step.slots)}")
    if step.chunk:
        parts.append(f"number {step.chunk}")
    if step.keys:
        parts.append(f"{len(step.keys)} keys")
    if step.map_version:
        parts.append(f"map {step.map_version}")
    return ", ".join(parts)


def show_slots(slots: Sequence[int]) -> str:
    """Ascending slots as runs, such as 0-63,100; the last ones are counted where there are many runs."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and runs[-1][1] == slot - 1:
            runs[-1][1] = slot
        else:
            runs.append([slot, slot])
    shown = [f"{first}-{last}" if first != last else str(first) for first, last in runs[:SHOWN_OPERATIONS_MAX]]
    rest = sum(last - first + 1 for first, last in runs[SHOWN_OPERATIONS_MAX:])
    return ",".join(shown) + (f" and {rest} more" if rest else "")


def _directory(body: bytes) -> str:
    """The kind, then the fields as they are written; of a list only how many are in it, of an id the first digits."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return f"unreadable: {show_bytes(body)}"
    shown = [str(value.pop("kind", "no kind"))]
    for name, held in value.items():
        if isinstance(held, list):
            shown.append(f"{name}: {len(held)}")
        elif held != "":
            shown.append(f"{name}={_short(held)}")
    return show_bytes(" ".join(shown).encode(errors="backslashreplace"), DIRECTORY_CHARACTERS_MAX)


def _short(held: object) -> str:
    """A field's value; an id by its first digits, as everywhere."""
    if isinstance(held, str):
        return held[:8] if is_server_id(held) else held
    return json.dumps(held)


def _no_keys(_body: bytes) -> tuple[bytes, ...]:
    return ()


_WORDS: Final[dict[int, tuple[str, Callable[[bytes], str], Callable[[bytes], tuple[bytes, ...]]]]] = {
    Kind.PUT: ("put", _put, lambda body: (read_put(body)[0],)),
    Kind.DELETE: ("delete", _key, lambda body: (read_key(body),)),
    Kind.GET_AND_DELETE: ("getdel", _key, lambda body: (read_key(body),)),
    Kind.COMPARE_AND_SWAP: ("cas", _compare_and_swap, lambda body: (read_compare_and_swap(body)[0],)),
    Kind.WRITE: ("write", _write, _written_keys),
    Kind.REGISTER_SESSION: ("session", _register_session, _no_keys),
    Kind.ALLOCATE_REPLICA: ("allocate", _allocate_replica, _no_keys),
    Kind.SET_MEMBER: ("config", _set_member, _no_keys),
    Kind.CHECKSUM: ("checksum", _checksum, _no_keys),
    Kind.SLOTS: ("slots", _slots, lambda body: tuple(key for key, _, _ in read_step(body).keys)),
    Kind.DIRECTORY: ("directory", _directory, _no_keys),
    Kind.HIGH_WATER: ("marks", _high_water, _no_keys),
    Kind.SETTING: ("setting", _setting, _no_keys),
}
