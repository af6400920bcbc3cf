"""Lines of toned text on the screen, painted only where they changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from ravelctl.dashboard.text import Line, Tone, fitted

TONE_CLASSES: frozenset[str] = frozenset(f"tone--{tone.value}" for tone in Tone)
"""Component classes of every screen that holds one of these widgets."""


class Painter:
    """Turns lines into strips with the styles that `ravel.tcss` gives the tones, on the background of one widget.

    The tones are component classes of the widget's screen: were they each widget's own, Textual would work out a hundred styles
    before the first picture.
    """

    def __init__(self, widget: Widget) -> None:
        ground, screen = widget.rich_style, widget.screen
        self._styles = {tone: ground + screen.get_component_rich_style(f"tone--{tone.value}", partial=True) for tone in Tone}

    def strip(self, line: Line, width: int, over: Style | None = None) -> Strip:
        """Exactly `width` cells; `over` is laid over every tone, as the cursor is."""
        plain = self._styles[Tone.PLAIN]
        segments = [
            Segment(span.text, self._styles[span.tone] if over is None else self._styles[span.tone] + over)
            for span in fitted(line, width)
        ]
        return Strip(segments).adjust_cell_length(width, plain if over is None else plain + over)


class Panel(Widget):
    """As many lines as it is given, from its top; what does not fit is not shown."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: tuple[Line, ...] = ()
        self._painter: Painter | None = None

    def show(self, lines: Sequence[Line]) -> None:
        """Paint what differs from what is shown."""
        before, self._lines = self._lines, tuple(lines)
        if before == self._lines:
            return
        changed = [y for y in range(max(len(before), len(self._lines))) if before[y : y + 1] != self._lines[y : y + 1]]
        self.refresh(*(Region(0, y, self.size.width, 1) for y in changed if y < self.size.height))

    @property
    def text(self) -> str:
        """What is shown, without tones."""
        return "\n".join("".join(span.text for span in line) for line in self._lines)

    def notify_style_update(self) -> None:
        self._painter = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        if self._painter is None:
            self._painter = Painter(self)
        line: Line = self._lines[y] if y < len(self._lines) else ()
        return self._painter.strip(line, self.size.width)

    def render_lines(self, crop: Region) -> list[Strip]:
        return [self.render_line(y).crop(crop.x, crop.right) for y in _rows(crop)]


def _rows(crop: Region) -> Iterable[int]:
    return range(crop.y, crop.bottom)
