"""How a command of the directory becomes bytes of the log, and back.

    body = {"kind": name, field: value, ...}     canonical JSON: sorted keys, no spaces, ASCII; every field is there

Two kinds of damage are told apart, as in machine.envelope. A kind or a field that this version does not know was written by a
later one: the replica stops (UnknownCommandError). Anything else that is no command, breaks a bound, or is not written in the one
canonical way (CommandFormError) is refused by every replica alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any, Final

from ravel_node.admin.answers import canonical, field_values
from ravel_node.admin.commands import (
    KINDS,
    AdoptCluster,
    Command,
    CommandFormError,
    PlanMoves,
    PlannedMove,
    RegisterServer,
    ReportMembership,
    Seated,
)
from ravel_node.machine.envelope import UnknownCommandError
from ravel_node.machine.limits import ADDRESS_BYTES_MAX, NAME_BYTES_MAX, VERSION_BYTES_MAX
from ravel_node.machine.members import is_name, is_server_id
from ravelpb.slots import SLOT_COUNT

BODY_BYTES_MAX: Final = 512 << 10
"""Bytes of one command: more than a plan of all slots, one to a move, has."""

MOVES_MAX: Final = SLOT_COUNT
"""Moves of one plan."""

MOVE_SLOTS_MAX: Final = 64
"""Slots of one move: what is copied, and frozen, together."""

REPORT_MEMBERS_MAX: Final = 256
"""Members of one reported membership."""

REPLICAS_WANTED_MAX: Final = 64

CLUSTER_NUMBER_MAX: Final = (1 << 16) - 1
"""The slot map has two bytes for a number."""

_NUMBER_MAX: Final = (1 << 63) - 1
_FORMAT_MAX: Final = (1 << 16) - 1


def encode(command: Command) -> bytes:
    """The body of a command. Raises CommandFormError where it breaks a bound."""
    body = _write(command)
    _check_size(body)
    decode(body)
    return body


def decode(body: bytes) -> Command:
    """The command in these bytes. Raises CommandFormError, UnknownCommandError."""
    value = _parse(body)
    command: Command = _read(_form(value), value, "kind")
    _check_whole(command)
    if _write(command) != body:
        raise CommandFormError(f"a command of {len(body)} bytes that is not canonical JSON: sorted keys, no spaces")
    return command


def check_known(body: bytes) -> None:
    """Raise UnknownCommandError for what a later version wrote; whatever else is wrong with it is no matter here."""
    try:
        decode(body)
    except CommandFormError:
        return


def _form(value: dict[str, Any]) -> type[Command]:
    kind = value.get("kind")
    if not isinstance(kind, str):
        raise CommandFormError("a command of the directory without a kind")
    if kind not in KINDS:
        raise UnknownCommandError(f"a command of the directory of kind {kind[:NAME_BYTES_MAX]!r}")
    return KINDS[kind]


def _write(command: Command) -> bytes:
    return canonical({"kind": command.kind, **field_values(command)})


def _check_size(body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise CommandFormError(f"a command of {len(body)} bytes, at most {BODY_BYTES_MAX}")


def _parse(body: bytes) -> dict[str, Any]:
    _check_size(body)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise CommandFormError(f"{len(body)} bytes that are no JSON: a command of the directory is a JSON object") from None
    if not isinstance(value, dict):
        raise CommandFormError(f"JSON of {len(body)} bytes that is no object: a command of the directory is one")
    return value


def _read(form: type[Any], value: object, *besides: str) -> Any:
    """One frozen value of this form out of a parsed object."""
    if not isinstance(value, dict):
        raise CommandFormError(f"a {form.__name__} that is no object")
    names = [field.name for field in fields(form)]
    later = sorted(value.keys() - {*names, *besides})
    if later:
        raise UnknownCommandError(f"a {form.__name__} of the directory with a field {later[0][:NAME_BYTES_MAX]!r}")
    if missing := [name for name in names if name not in value]:
        raise CommandFormError(f"a {form.__name__} without {missing[0]}")
    return form(**{name: _FIELDS[name](name, value[name]) for name in names})


# --- fields


def _bad(name: str, value: object, rule: str) -> CommandFormError:
    shown = repr(value)
    return CommandFormError(f"{name} {shown if len(shown) <= 80 else shown[:80] + '…'}: it must be {rule}")


def _number(low: int, high: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _bad(name, value, f"a number from {low} to {high}")
        return value

    return read


def _text(allowed: Callable[[str], bool], rule: str) -> Callable[[str, object], str]:
    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or not allowed(value):
            raise _bad(name, value, rule)
        return value

    return read


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _bad(name, value, "true or false")
    return value


def _many(form: type[Any], at_most: int) -> Callable[[str, object], tuple[Any, ...]]:
    def read(name: str, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= at_most:
            raise _bad(name, f"of {len(value)}" if isinstance(value, list) else value, f"1 to {at_most}")
        return tuple(_read(form, one) for one in value)

    return read


def _slots(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOVE_SLOTS_MAX:
        raise _bad(name, value, f"1 to {MOVE_SLOTS_MAX} slots")
    slots = tuple(_slot(name, one) for one in value)
    if any(one >= other for one, other in pairwise(slots)):
        raise _bad(name, value, "ascending, each slot once")
    return slots


def _ascending(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOVES_MAX:
        raise _bad(name, value, f"at most {MOVES_MAX} ids")
    ids = tuple(_number(1, _NUMBER_MAX)(name, one) for one in value)
    if any(one >= other for one, other in pairwise(ids)):
        raise _bad(name, value, "ascending, each id once")
    return ids


def _owners(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != SLOT_COUNT:
        raise _bad(name, value, f"{SLOT_COUNT} numbers of clusters")
    return tuple(_number(0, CLUSTER_NUMBER_MAX)(name, one) for one in value)


def _is_address(text: str) -> bool:
    return ":" in text and text.isprintable() and " " not in text and len(text.encode()) <= ADDRESS_BYTES_MAX


def _is_version(text: str) -> bool:
    return text.isprintable() and len(text.encode()) <= VERSION_BYTES_MAX


_slot: Final = _number(0, SLOT_COUNT - 1)
_id: Final = _text(is_server_id, "32 lower-case hex digits")
_address: Final = _text(_is_address, f"HOST:PORT of at most {ADDRESS_BYTES_MAX} bytes")
_cluster: Final = _number(1, CLUSTER_NUMBER_MAX)

_FIELDS: Final[dict[str, Callable[[str, object], object]]] = {
    "server_id": _id,
    "leader_id": _id,
    "fresh_id": _id,
    "superseded_id": _id,
    "cluster_id": _text(lambda text: not text or is_server_id(text), "32 lower-case hex digits, or empty"),
    "name": _text(is_name, f"1 to {NAME_BYTES_MAX} of a-z, 0-9, '-', '_', '.'"),
    "new_cluster": _text(lambda text: not text or is_name(text), f"up to {NAME_BYTES_MAX} of a-z, 0-9, '-', '_', '.'"),
    "version": _text(_is_version, f"printable text of at most {VERSION_BYTES_MAX} bytes"),
    "listen": _address,
    "peer": _address,
    "format": _number(1, _FORMAT_MAX),
    "replica_id": _number(0, _NUMBER_MAX),
    "term": _number(1, _NUMBER_MAX),
    "config_index": _number(1, _NUMBER_MAX),
    "map_version": _number(1, _NUMBER_MAX),
    "move_id": _number(1, _NUMBER_MAX),
    "replicas_wanted": _number(0, REPLICAS_WANTED_MAX),
    "source": _cluster,
    "destination": _cluster,
    "slots": _slots,
    "leaving": _flag,
    "learner": _flag,
    "emptying": _flag,
    "commit": _flag,
    "members": _many(Seated, REPORT_MEMBERS_MAX),
    "moves": _many(PlannedMove, MOVES_MAX),
    "seen": _id,
    "owners": _owners,
    "struck": _ascending,
    "last_move": _number(0, _NUMBER_MAX),
}


# --- what the fields of a command say together


def _check_whole(command: Command) -> None:
    """Raise CommandFormError where fields that are right each do not go together."""
    if isinstance(command, RegisterServer):
        if bool(command.cluster_id) != bool(command.replica_id):
            raise CommandFormError("an identity is a cluster id and a replica id: a server brings both, or neither")
        if command.listen == command.peer:
            raise CommandFormError(f"{command.listen} cannot be both what clients dial and what replicas dial")
    elif isinstance(command, ReportMembership):
        if not command.cluster_id:
            raise CommandFormError("a report without a cluster id")
        if any(not member.replica_id for member in command.members):
            raise CommandFormError("a reported member without a replica id")
        for ids in ([member.server_id for member in command.members], [member.replica_id for member in command.members]):
            if len(set(ids)) < len(ids):
                raise CommandFormError("a report that names a member twice")
    elif isinstance(command, AdoptCluster):
        if not is_server_id(command.cluster_id) or command.cluster_id == command.superseded_id:
            raise CommandFormError("a cluster that is adopted brings a cluster id, and another one than it had")
    elif isinstance(command, PlanMoves):
        if any(move.source == move.destination for move in command.moves):
            raise CommandFormError("a move from a cluster to itself")
        moving = [slot for move in command.moves for slot in move.slots]
        if len(set(moving)) < len(moving):
            raise CommandFormError("a plan that moves a slot twice")
