"""Entries of the log in words, for people: what one holds, whether it is looked for, and what two replicas' are compared by.

Total: whatever the bytes are, there is something to print.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from ravel_node.machine.members import MemberRecordError, MemberVersionError, decode_context
from ravel_node.machine.summary import Described, described
from ravel_node.raft.confchange import decode_conf_change
from ravel_node.raft.errors import ConfChangeError
from ravel_node.raft.types import ConfChange, Entry, EntryType, SingleChange

DIGEST_BYTES: Final = 16
SUMMARY_LINES_MAX: Final = 256
"""Lines told of one entry: it may hold thousands of commands."""

DAMAGED: Final = "damaged"
"""The type word of what cannot be read."""

_HEAD: Final = struct.Struct(">QQB")


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """What is looked for. An entry passes if it is of the term and one of its commands is of a type and names such a key."""

    term: int = 0  # 0: any
    types: frozenset[str] = frozenset()  # empty: any
    key_prefix: bytes = b""  # empty: any

    def __bool__(self) -> bool:
        return bool(self.term or self.types or self.key_prefix)

    def words(self, entry: Entry) -> tuple[str, list[str]] | None:
        """The entry's type word and a line for each of its commands that passes; None for one that does not pass."""
        if self.term and entry.term != self.term:
            return None
        word, commands = _commands(entry)
        by_command = not self.types or word not in self.types
        passing = [command for command in commands if self._passes(command, by_command)]
        if not passing and (self.key_prefix or (self.types and word not in self.types)):
            return None
        lines = [f"{one.word} {one.line}" if word == "batch" else one.line for one in passing]
        if len(lines) > SUMMARY_LINES_MAX:
            lines[SUMMARY_LINES_MAX:] = [f"and {len(lines) - SUMMARY_LINES_MAX} more"]
        return word, lines

    def _passes(self, command: Described, by_command: bool) -> bool:
        if by_command and self.types and command.word not in self.types:
            return False
        return not self.key_prefix or any(key.startswith(self.key_prefix) for key in command.keys)


def digest(entry: Entry) -> bytes:
    """Equal for equal entries only, as far as anybody can tell."""
    head = _HEAD.pack(entry.index, entry.term, entry.type)
    return hashlib.sha256(head + entry.data).digest()[:DIGEST_BYTES]


def _commands(entry: Entry) -> tuple[str, list[Described]]:
    if entry.type is not EntryType.NORMAL:
        return "config", [Described("config", line, ()) for line in _config_lines(entry)]
    commands = described(entry.data)
    if not commands:
        return "noop", []
    return (commands[0].word if len(commands) == 1 else "batch"), commands


def _config_lines(entry: Entry) -> list[str]:
    try:
        change = decode_conf_change(entry)
        records = {record.replica_id: record for record in decode_context(change.context)}
    except (ConfChangeError, MemberRecordError, MemberVersionError) as error:
        return [f"unreadable: {error}"]
    singles = [SingleChange(change.type, change.replica_id)] if isinstance(change, ConfChange) else list(change.changes)
    if not singles:
        return ["leave the joint configuration"]
    lines: list[str] = []
    for kind, replica_id in singles:
        record = records.get(replica_id)
        named = f" {record.name} listen {record.listen} peer {record.peer}" if record else ""
        lines.append(f"{kind.name.lower().replace('_', ' ')} {replica_id}{named}")
    return lines
