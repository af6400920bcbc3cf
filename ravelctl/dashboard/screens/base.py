"""What all screens share: they are shown pictures, and know which commands exist on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Static

from ravelctl.dashboard.keys import Where, footer
from ravelctl.dashboard.text import Line, Span, Tone
from ravelctl.dashboard.widgets.panel import TONE_CLASSES, Panel

if TYPE_CHECKING:
    from ravelctl.dashboard.app import TopApp

LEAST_COLUMNS = 80
LEAST_ROWS = 16


class Paged(Screen[None]):
    """A screen of the dashboard. `paint` shows the newest picture, at the size that there is."""

    COMPONENT_CLASSES: ClassVar[set[str]] = set(TONE_CLASSES)
    where: ClassVar[Where] = Where.CLUSTER

    @property
    def top(self) -> TopApp:
        return cast("TopApp", self.app)

    def compose_small(self) -> ComposeResult:
        yield Static("", id="small")

    def on_mount(self) -> None:
        self.refit()

    def on_resize(self) -> None:
        self.refit()

    def on_screen_resume(self) -> None:
        self.refit()

    def refit(self) -> None:
        """Whether the terminal is large enough; if it is, paint."""
        size = self.app.size
        small = size.width < LEAST_COLUMNS or size.height < LEAST_ROWS
        if small != self.has_class("too-small"):
            self.set_class(small, "too-small")
        if small:
            needed = f"ravel top needs {LEAST_COLUMNS}x{LEAST_ROWS}: make it larger."
            self.query_one("#small", Static).update(f"This terminal is {size.width}x{size.height}.\n{needed}")
        else:
            self.paint()

    def paint(self) -> None:
        raise NotImplementedError

    def paint_footer(self) -> None:
        self.query_one("#foot", Panel).show([self.footer()])

    def footer(self) -> Line:
        top = self.top
        return footer(self.where, replay=top.source.is_replay, read_only=top.options.read_only, columns=self.app.size.width)

    def rule(self) -> Line:
        return (Span("─" * self.app.size.width, Tone.DIM),)
