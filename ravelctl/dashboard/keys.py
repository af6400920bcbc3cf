"""What can be done at a screen: one table, from which the keys, the footer, the help and the palette are made. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

from ravelctl.dashboard.text import Line, Span, Tone, joined, width


class Where(Flag):
    """On which screens a command exists."""

    CLUSTER = auto()
    REPLICA = auto()
    FLEET = auto()
    REPLAY = auto()  # of a cluster or a replica, while a recording is played back
    ALL = CLUSTER | REPLICA | FLEET


@dataclass(frozen=True, slots=True)
class Command:
    keys: str  # as Textual names them, separated by commas
    shown: str  # as people read it
    action: str  # the method action_... of the app
    brief: str  # in the footer; empty: not there
    text: str  # in help and palette: a sentence without its stop
    where: Where
    changes: bool = False  # the cluster: off with --read-only and in a replay
    pair: str = ""  # in the footer, for two commands that belong together: both keys


_WATCHING: Final = Where.CLUSTER | Where.REPLICA

COMMANDS: Final[tuple[Command, ...]] = (
    Command("question_mark,f1", "?", "help", "help", "Show the keys, the columns and the marks", Where.ALL),
    Command("slash", "/", "filter", "filter", "Show only rows that contain a word; ! for those with trouble", Where.CLUSTER),
    Command("s", "s", "sort", "sort", "Sort by role, name, trouble, lag, contact or fsync", Where.CLUSTER | Where.FLEET),
    Command("enter", "↵", "open", "node", "Open the chosen replica or cluster", Where.CLUSTER | Where.FLEET),
    Command("escape", "esc", "back", "back", "Back, or clear the filter", Where.ALL),
    Command("right", "→", "peer(1)", "", "The next replica", Where.REPLICA),
    Command("left", "←", "peer(-1)", "peer", "The replica before", Where.REPLICA, pair="←→"),
    Command("t", "t", "range", "range", "Time range of the chart: 1, 3 or 10 minutes", Where.REPLICA),
    Command("y", "y", "copy", "copy-JSON", "Copy what the replica reports as JSON", Where.REPLICA),
    Command("m", "m", "fleet", "multi", "All clusters, of the admin or of the configuration", _WATCHING),
    Command("p", "p", "pause", "pause", "Hold the picture still; what happens meanwhile is kept", Where.ALL),
    Command("e", "e", "events", "events", "Which events are listed: all, election, membership, snapshot, ...", _WATCHING),
    Command("a", "a", "acknowledge", "ack", "Acknowledge the alarms that are shown", Where.ALL),
    Command("R", "R", "record", "record", "Record to a file, or stop recording", _WATCHING),
    Command("T", "T", "transfer", "transfer", "Hand leadership to the chosen replica", _WATCHING, changes=True),
    Command("P", "P", "promote", "promote", "Make the chosen learner a voter", _WATCHING, changes=True),
    Command("D", "D", "remove", "remove", "Take the chosen replica out of the cluster for good", _WATCHING, changes=True),
    Command("S", "S", "snapshot", "snapshot", "Have the chosen replica build a snapshot now", _WATCHING, changes=True),
    Command("space", "space", "play", "play", "Play or hold the recording", Where.REPLAY),
    Command("left_square_bracket", "[", "step(-1)", "step", "One interval back", Where.REPLAY, pair="[]"),
    Command("right_square_bracket", "]", "step(1)", "", "One interval on", Where.REPLAY),
    Command("left_curly_bracket", "{", "jump(-1)", "event", "To the event before", Where.REPLAY, pair="{}"),
    Command("right_curly_bracket", "}", "jump(1)", "", "To the next event", Where.REPLAY),
    Command("g", "g", "goto", "goto", "Go to a time, HH:MM[:SS]", Where.REPLAY),
    Command("plus,equals_sign", "+", "faster(1)", "speed", "Faster, up to 60 times", Where.REPLAY, pair="+-"),
    Command("minus", "-", "faster(-1)", "", "Slower, down to real time", Where.REPLAY),
    Command("L", "L", "theme", "", "The next theme: dark, light, sixteen colours", Where.ALL),
    Command("colon,ctrl+p", ":", "command_palette", "palette", "Choose a command by its name", Where.ALL),
    Command("q", "q", "quit", "quit", "Leave", Where.ALL),
)


_NOT_IN_REPLAY: Final = frozenset({"record", "fleet", "acknowledge"})


def commands(where: Where, *, replay: bool, read_only: bool) -> Iterator[Command]:
    """Those that exist on a screen now."""
    for command in COMMANDS:
        if command.where is Where.REPLAY:
            exists = replay and where is not Where.FLEET
        elif replay:
            exists = bool(where & command.where) and not command.changes and command.action not in _NOT_IN_REPLAY
        else:
            exists = bool(where & command.where) and not (command.changes and read_only)
        if exists:
            yield command


def footer(where: Where, *, replay: bool, read_only: bool, columns: int) -> Line:
    """The keys of a screen in one line. Where it is narrow, what changes the cluster is named by its key alone."""
    found = [c for c in commands(where, replay=replay, read_only=read_only) if c.brief]
    if replay:  # the keys of the player come first: they are why one is here
        found.sort(key=lambda c: c.where is not Where.REPLAY)
    if where is Where.CLUSTER:
        found = [c for c in found if c.action != "back"]
    found.sort(key=lambda c: c.action == "quit")
    full = [_piece(c, terse=c.action == "quit") for c in found]
    if sum(width(piece) + 1 for piece in full) <= columns - 1:
        return (Span(" "), *joined(full, columns - 2, " "))
    terse = [_piece(c, terse=c.changes or c.action in _TERSE) for c in found]
    must = sum(width(piece) + 1 for piece, c in zip(terse, found, strict=True) if c.changes or c.action == "quit")
    rest = [piece for piece, c in zip(terse, found, strict=True) if not (c.changes or c.action == "quit")]
    tail = [piece for piece, c in zip(terse, found, strict=True) if c.changes or c.action == "quit"]
    return (Span(" "), *joined(rest, columns - 2 - must, " "), Span(" "), *joined(tail, must, " "))


_TERSE: Final = frozenset({"quit", "acknowledge"})


def _piece(command: Command, *, terse: bool = False) -> Line:
    mark = command.pair or command.shown
    if terse:
        return (Span(mark, Tone.KEY),)
    return (Span(mark, Tone.KEY), Span(f"{'-' if mark[-1].isalpha() else ''}{command.brief}", Tone.DIM))
