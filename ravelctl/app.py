"""What a command gets beside its arguments: the settings, and a voice on stderr."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from ravelctl.config import Settings, settings
from ravelctl.errors import usage_error

if TYPE_CHECKING:
    from asyncio import Runner

PROGRAM: Final = "ravelctl"

COMPLETE_VARIABLE: Final = "_RAVELCTL_COMPLETE"
"""Set by the shell's completion script to what it wants (click's convention)."""

PROGRESS_EVERY_S: Final = 10.0
"""Between lines of progress where stderr is not a terminal."""


@dataclass(slots=True)
class App:
    """One run of the program. Options are gathered in `given` while the command line is read; `settings` resolves them."""

    given: dict[str, Any] = field(default_factory=dict)
    runner: Runner | None = None  # of the event loop, once a command has dialled

    @property
    def settings(self) -> Settings:
        return settings(self.given, os.environ)

    def close(self) -> None:
        """Cancel what is still under way, and close the loop."""
        if self.runner is not None:
            self.runner.close()

    def say(self, line: str) -> None:
        """Prose on stderr, unless -q."""
        if not self.given.get("quiet"):
            print(line, file=sys.stderr, flush=True)

    def progress(self, title: str) -> Progress:
        return Progress(title, quiet=bool(self.given.get("quiet")))

    def confirm(self, question: str) -> None:
        """Return if the operator agrees or has said --yes. Without a terminal nobody can be asked: exit 2, naming the flag."""
        if self.given.get("yes"):
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise usage_error("this needs a yes, and there is no terminal to ask on", "repeat the command with --yes")
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise usage_error("not confirmed, nothing was changed")


class Progress:
    """Tells how far long work is: a line that is rewritten on a terminal, else a line every 10 s. Use as a context."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._title = title
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._said = ""
        self._next = time.monotonic() + PROGRESS_EVERY_S

    def __enter__(self) -> Self:
        if self._live:
            self.update("")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live and not self._quiet and self._said:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def update(self, detail: str) -> None:
        """How far it is now, in words. Called as often as is handy."""
        line = f"{self._title} {detail}".rstrip()
        if self._quiet:
            return
        if self._live:
            if line != self._said:
                print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
                self._said = line
        elif time.monotonic() >= self._next:
            print(line, file=sys.stderr, flush=True)
            self._next = time.monotonic() + PROGRESS_EVERY_S

    def amount(self, done: int, total: int, unit: str = "") -> None:
        """The same as a bar, for work whose size is known."""
        share = min(1.0, done / total) if total else 1.0
        bar = "#" * round(share * 20)
        self.update(f"[{bar:<20}] {share:4.0%} {unit}".rstrip())
