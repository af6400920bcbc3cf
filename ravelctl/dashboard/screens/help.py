"""Keys, columns and marks, on one page."""

from __future__ import annotations

from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen

from ravelctl.dashboard.keys import Where, commands
from ravelctl.dashboard.text import Line, Span, Tone, line
from ravelctl.dashboard.widgets.panel import TONE_CLASSES, Panel

_COLUMNS: Final = (
    ("ROLE … APPLIED", "what the replica says of itself; indexes as a difference to the leader's LAST"),
    ("LAG", "entries that the leader has and this replica has not acknowledged"),
    ("LAG-B LAG-s", "the same in bytes of log, and as the age of the oldest such entry by the leader's clock"),
    ("STATE", "the leader's word: probe, repl, snap-43%; PAUSED: its window of messages is full"),
    ("INFL", "append messages under way / as many as may be"),
    ("CONTACT", "since the leader last heard it"),
    ("FSYNC APPLY", "99th percentile of the last ten seconds"),
    ("DB", "the store: used, and of --db-size-max"),
)
_MARKS: Final = (
    ("!", "an alarm stands about this replica"),
    ("x", "it cannot be reached from here"),
    ("~", "the last that was known: the value is of the past"),
    ("?", "not known"),
    ("-", "does not exist here, or nothing happened"),
    ("+", "at least so much"),
)


def help_lines(where: Where, *, replay: bool, read_only: bool) -> list[Line]:
    lines: list[Line] = [line(Span(" KEYS", Tone.TITLE))]
    found = commands(where, replay=replay, read_only=read_only)
    lines += [line(Span(f"  {command.shown:<6}", Tone.KEY), command.text) for command in found]
    lines += [line(Span("  ↑↓ jk ", Tone.KEY), "Choose a row; also with the mouse"), (), line(Span(" MARKS", Tone.TITLE))]
    lines += [line(Span(f"  {mark:<6}", Tone.KEY), text) for mark, text in _MARKS]
    lines += [(), line(Span(" COLUMNS", Tone.TITLE))]
    lines += [line(Span(f"  {name:<15}", Tone.KEY), text) for name, text in _COLUMNS]
    if read_only:
        lines += [(), line(Span(" Nothing can be changed from here: --read-only.", Tone.WARN))]
    return [*lines, (), line(Span(" esc closes this page, arrows scroll it", Tone.DIM))]


class HelpScreen(ModalScreen[None]):
    """The page scrolls where it does not fit."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(TONE_CLASSES)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter,f1", "dismiss", show=False)]

    def __init__(self, where: Where, *, replay: bool, read_only: bool) -> None:
        super().__init__()
        self._lines = help_lines(where, replay=replay, read_only=read_only)

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Panel(id="help-text")

    def on_mount(self) -> None:
        panel = self.query_one("#help-text", Panel)
        panel.styles.height = len(self._lines)
        panel.show(self._lines)
        self.query_one("#help").focus()
