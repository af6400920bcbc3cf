"""Entries of the log in words, for people: what one holds, whether it is looked for, and what two replicas' are compared by.

Total: whatever the bytes are, there is something to print.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from ravel_node.machine.envelope import read_time
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


class Looked(NamedTuple):
    """An entry in words: its type, a line for each of its commands that passes, and when its leader packed it."""

    word: str
    lines: list[str]
    time_ms: int  # since 1970; 0: it carries none


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """What is looked for. An entry passes if it is of the term and the time, and one of its commands is of a type and names such
    a key. One that carries no time passes as far as time goes: whoever asks leaves it out, and counts it (see `by_time`)."""

    term: int = 0  # 0: any
    types: frozenset[str] = frozenset()  # empty: any
    key_prefix: bytes = b""  # empty: any
    since_ms: int = 0  # 0: any
    until_ms: int = 0  # 0: any

    def __bool__(self) -> bool:
        return bool(self.term or self.types or self.key_prefix or self.by_time)

    @property
    def by_time(self) -> bool:
        return bool(self.since_ms or self.until_ms)

    def look(self, entry: Entry) -> Looked | None:
        """None for an entry that does not pass. Clocks jump, so one that does not pass says nothing about those after it."""
        time_ms = read_time(entry.data) if entry.type is EntryType.NORMAL else 0
        if time_ms and (time_ms < self.since_ms or (self.until_ms and time_ms > self.until_ms)):
            return None
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
        return Looked(word, lines, time_ms)

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
