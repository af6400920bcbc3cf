"""Tab: what can stand where the cursor is, answered without the program.

A shell waits for this at every press of the key, and loading click alone takes longer than that may be. So the tree of commands
lies in a table (`tab_table`, made from the tree by `make completions`), and this module, which loads next to nothing, walks it.
More is loaded only where a value needs it.

The scripts (`scripts`) hand over the whole line up to the cursor, since bash breaks words at `=` and `:`. What comes back is a
line for each offer: kind, a tab, the text to insert, a tab, its description. Kinds: `plain`; `file` and `dir`, where the shell
completes the path that is given as text.
"""

from __future__ import annotations

import os
import sys

from ravelctl.completion import names
from ravelctl.completion.tab_table import GLOBAL, ROOT

TYPE_CHECKING = False  # as type checkers know it: `typing` takes longer to load than Tab takes for the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Final, TypeAlias

    from ravelctl.completion.tab_table import Command, Option

    Offer: TypeAlias = tuple[str, str, str]

SHELLS: Final = ("bash", "zsh", "fish")

FLAG: Final = "flag"
TEXT: Final = "text"
"""Kinds of values beside those of `_VALUES`: none, and one of which nothing is known."""


def complete(instruction: str, line: str) -> int:
    """Answer a shell that asks, and return the exit code. Nothing is said but what can be offered."""
    shell, _, what = instruction.partition("_")
    if shell not in SHELLS or what != "complete":
        return 2
    sys.stdout.write("".join(f"{kind}\t{text}\t{about}\n" for kind, text, about in offers(line)))
    sys.stdout.flush()
    return 0


def offers(line: str) -> list[Offer]:
    """What can stand at the end of this line: kind, text, description. What follows `--option=` carries that: it is one word."""
    words = split(line)[1:]
    incomplete = "" if line[-1:].isspace() or not words else words.pop()
    read = Reader(words)
    if read.lost:
        return []
    if read.wanting is not None and not incomplete.startswith("-"):
        return read.values(read.wanting[1], incomplete)
    if incomplete.startswith("--") and "=" in incomplete and not read.only_words:
        name, _, incomplete = incomplete.partition("=")
        option = read.option(name)
        found = read.values(option[1], incomplete) if option is not None else []
        return [(kind, f"{name}={text}" if kind == "plain" else text, about) for kind, text, about in found]
    if incomplete.startswith("-") and not read.only_words:
        return [("plain", name, option[3]) for option in read.open_options() for name in option[0] if name.startswith(incomplete)]
    verbs = [("plain", name, verb[0]) for name, verb in read.command[3].items() if name.startswith(incomplete)]
    argument = read.argument()
    return verbs + (read.values(argument, incomplete) if argument is not None else [])


def split(line: str) -> list[str]:
    """Words as a shell breaks the line into. A quotation that is still open goes up to its end."""
    if not any(mark in line for mark in "'\"\\"):
        return line.split()
    from shlex import shlex

    lexer = shlex(line, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:  # no closing quotation
        words.append(lexer.token)
    return words


class Reader:
    """The words before the cursor, read: which command they have come to, and what has been said to it."""

    def __init__(self, words: Iterable[str]) -> None:
        self.command: Command = ROOT
        self.wanting: Option | None = None  # the option whose value comes next
        self.only_words = False  # after --
        self.lost = False  # behind a word that is no command
        self._said: dict[str, list[str]] = {}  # values of options, by their last name
        self._here: set[str] = set()  # options said to this command, by their last name
        self._count = 0  # of this command's arguments
        for word in words:
            self._read(word)

    def _read(self, word: str) -> None:
        if not self.only_words and len(word) > 1 and word[0] == "-":
            self.wanting = None  # a value may be left out (--watch), and does not begin so
            self._read_flag(word)
        elif self.wanting is not None:
            self._said.setdefault(self.wanting[0][-1], []).append(word)
            self.wanting = None
        elif self.command[3]:
            self.lost = self.lost or word not in self.command[3]
            self.command = self.command[3].get(word, self.command)
            self._here = set()
        else:
            self._count += 1

    def _read_flag(self, word: str) -> None:
        if word == "--":
            self.only_words = True
            return
        name, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        option = self.option(name)
        if option is None:
            return
        self._here.add(option[0][-1])
        if option[1] == FLAG:
            if equals and not word.startswith("--"):
                self._read_flag(f"-{value}")  # -qv is -q -v
        elif equals:
            self._said.setdefault(option[0][-1], []).append(value)
        else:
            self.wanting = option

    def option(self, name: str) -> Option | None:
        return next((option for option in (*self.command[1], *GLOBAL) if name in option[0]), None)

    def open_options(self) -> list[Option]:
        """Those that may still be said to this command."""
        said = self._here - ({self.wanting[0][-1]} if self.wanting else set())
        return [option for option in (*self.command[1], *GLOBAL) if option[2] or option[0][-1] not in said]

    def argument(self) -> str | tuple[str, ...] | None:
        """What the next argument is, if there can be one."""
        arguments = self.command[2]
        if self._count < len(arguments):
            return arguments[self._count][0]
        return arguments[-1][0] if arguments and arguments[-1][1] else None

    def said(self, name: str) -> str:
        """The last value of an option that has one; else the variable's."""
        return self._said.get(name, [os.environ.get("RAVELCTL_" + name.lstrip("-").upper(), "")])[-1]

    def cluster(self) -> str:
        """How this line reaches its cluster, as `names` has it."""
        context, endpoints = self.said("--context"), self._said.get("--endpoints") or [self.said("--endpoints")]
        if context or not any(endpoints):
            return names.reached(context, ())
        from ravelctl.config.settings import endpoint_list

        try:
            return names.reached("", tuple(dict.fromkeys(one for text in endpoints for one in endpoint_list(text))))
        except ValueError:
            return ""

    def values(self, kind: str | tuple[str, ...], incomplete: str) -> list[Offer]:
        """What a value of this kind may be that begins so."""
        if isinstance(kind, tuple):
            return [("plain", choice, "") for choice in kind if choice.startswith(incomplete)]
        if kind in ("file", "dir"):
            return [(kind, incomplete, "")]
        return _VALUES[kind](self, incomplete) if kind in _VALUES else []


def _beginning(found: Sequence[str], incomplete: str) -> list[Offer]:
    return [("plain", name, "") for name in found if name.startswith(incomplete)]


def _addresses(read: Reader, incomplete: str) -> list[Offer]:
    head, comma, last = incomplete.rpartition(",")
    return [("plain", f"{head}{comma}{one}", "") for one in names.addresses(read.cluster()) if one.startswith(last)]


def _codes(read: Reader, incomplete: str) -> list[Offer]:
    from ravelctl.diagnosis.codes import CODES

    return [("plain", code, kind.title) for code, kind in CODES.items() if code.startswith(incomplete.upper())]


def _players(read: Reader, incomplete: str) -> list[Offer]:
    """The daemons of the playground that the line names, and `leader`, or `c1/leader` where there are admins."""
    from ravelctl.cli.errors import CommandError
    from ravelctl.playground import processes
    from ravelctl.playground.known import folder_meant

    try:
        ground = processes.load(folder_meant(read.said("--dir")))
    except CommandError:
        return []
    return _beginning([*(replica.name for replica in ground.replicas), *ground.leader_words] if ground else [], incomplete)


_VALUES: Final[dict[str, Callable[[Reader, str], list[Offer]]]] = {
    "context": lambda read, incomplete: _beginning(names.context_names(), incomplete),
    "replica": lambda read, incomplete: _beginning(names.replica_names(read.cluster()), incomplete),
    "server": lambda read, incomplete: _beginning(names.server_names(read.cluster()), incomplete),
    "addresses": _addresses,
    "code": _codes,
    "player": _players,
}
