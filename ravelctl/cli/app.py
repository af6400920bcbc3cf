"""What a command gets beside its arguments: the settings, and a voice on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from ravelctl.cli.errors import usage_error
from ravelctl.config.places import context_path
from ravelctl.config.settings import Settings, settings

if TYPE_CHECKING:
    from asyncio import Runner

    from ravelctl.config.contexts import Context

PROGRAM: Final = "ravelctl"

PROGRESS_EVERY_S: Final = 10.0
"""Between lines of progress where stderr is not a terminal."""


class KeysAt(NamedTuple):
    """The cluster of a run's keys, or the admin group that knows the cluster of each key."""

    endpoints: tuple[str, ...]
    admin: tuple[str, ...]
    cluster_id: str  # of the cluster, or of the admin group


@dataclass(slots=True)
class App:
    """One run of the program. Options are gathered in `given` while the command line is read; `settings` resolves them."""

    given: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)  # of what was given: which flag, which variable
    apart: bool = False  # the command names its daemons itself: a context does not apply unless this run names one
    local: bool = False  # the command has nothing to do with any context
    runner: Runner | None = None  # of the event loop, once a command has dialled
    keys_at: KeysAt | None = None  # where keys are read and written, once the daemons were asked
    unsent: bool = False  # the command makes one write, which has not been sent

    _read: dict[str, Context | None] = field(default_factory=dict)  # by the name that was asked for; "": the current one

    @property
    def settings(self) -> Settings:
        """What holds now. Raises CommandError for a context that is not there, and for a file of contexts that is broken."""
        context = self.context
        given = {name: value for name, value in self.given.items() if name != "context"}
        if context is None:
            return settings(given, os.environ)
        return settings({**given, "context": context.name}, os.environ, context.values)

    @property
    def context(self) -> Context | None:
        """The one that this run names, else the current one, unless the run names daemons of its own: a context is a whole."""
        name = str(self.given.get("context", ""))
        if self.local:
            return None
        if not name and (self.apart or "endpoints" in self.given):
            return None
        if name not in self._read:
            self._read[name] = self._read_context(name)
        return self._read[name]

    def _read_context(self, name: str) -> Context | None:
        if not name and not os.path.exists(context_path(os.environ)):
            return None
        from pathlib import Path

        from ravelctl.config import contexts

        path = Path(context_path(os.environ))
        file = contexts.load(path)
        if contexts.is_open(path):
            self.say(f"warning: {path} can be read by others; `chmod 600 {path}` ends that")
        return file.find(name or file.current) if name or file.current else None

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
        with _interruptible():
            print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
            answer = sys.stdin.readline()
        if answer.strip().lower() not in {"y", "yes"}:
            raise usage_error("not confirmed, nothing was changed")


@contextmanager
def _interruptible() -> Iterator[None]:
    """An event loop would only note Ctrl-C and go on waiting for the line. To be entered in the main thread."""
    import signal

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
