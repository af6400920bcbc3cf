"""The table of the main screen: one line a row, painted from a cache, with a cursor that stays on its replica."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ravelctl.dashboard.text import Line
from ravelctl.dashboard.widgets.panel import Painter


class RowTable(ScrollView, can_focus=True):
    """Titles, and rows that are named by keys. A row that did not change is not painted again."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--cursor"}

    class Opened(Message):
        """A row was clicked twice, or Enter pressed on it."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._title: Line = ()
        self._keys: tuple[str, ...] = ()
        self._line_of: Callable[[int], Line] = lambda row: ()
        self._lines: dict[int, Line] = {}  # by row; those that were needed so far
        self._cursor: str | None = None
        self._fell_from = 0  # where the cursor was when its row went away
        self._painter: Painter | None = None
        self._over: Style | None = None
        self._cache: dict[tuple[Line, int, bool], Strip] = {}

    # --- what is shown

    def show(self, title: Line, keys: Sequence[str], line_of: Callable[[int], Line]) -> None:
        """`line_of` makes the line of a row, counted from 0; it is asked only for rows that are in sight.

        The cursor stays on its key; if that row is gone, it goes to the one that took its place.
        """
        before, titled = self._lines, self._title
        at = self.cursor_row
        self._title, self._line_of, self._lines = title, line_of, {}
        self._keys = tuple(keys)
        if self._cursor not in self._keys:
            place = at if at is not None else self._fell_from
            self._fell_from = place
            self._cursor = self._keys[min(place, len(self._keys) - 1)] if self._keys else None
        size = Size(self.size.width, len(self._keys) + 1)
        if size != self.virtual_size:
            self.virtual_size = size
        top = self.scroll_offset.y
        in_sight = range(top, top + max(0, self.size.height - 1))
        changed = {row + 1 for row in in_sight if self._line(row) != before.get(row)}
        if title != titled:
            changed.add(0)
        if at != self.cursor_row:
            changed |= {row + 1 for row in (at, self.cursor_row) if row is not None}
            self._reveal()
        self._refresh_rows(changed)

    def _line(self, row: int) -> Line:
        """Blank below the last row."""
        if row >= len(self._keys):
            return ()
        if row not in self._lines:
            self._lines[row] = self._line_of(row)
        return self._lines[row]

    @property
    def cursor(self) -> str | None:
        """The key of the chosen row."""
        return self._cursor

    @cursor.setter
    def cursor(self, key: str) -> None:
        if key in self._keys and key != self._cursor:
            before, self._cursor = self.cursor_row, key
            self._reveal()
            self._refresh_rows({row + 1 for row in (before, self.cursor_row) if row is not None})

    @property
    def cursor_row(self) -> int | None:
        return self._keys.index(self._cursor) if self._cursor in self._keys else None

    @property
    def keys_shown(self) -> tuple[str, ...]:
        return self._keys

    @property
    def text(self) -> str:
        """Titles and rows, without tones."""
        return "\n".join("".join(span.text for span in line) for line in (self._title, *map(self._line, range(len(self._keys)))))

    # --- moving

    def move(self, by: int) -> None:
        if self._keys:
            at = self.cursor_row or 0
            self.cursor = self._keys[max(0, min(len(self._keys) - 1, at + by))]

    def on_key(self, event: events.Key) -> None:
        page = max(1, self.size.height - 2)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page, "pagedown": page, "home": -10_000, "end": 10_000}
        if event.key in steps:
            event.stop()
            event.prevent_default()
            self.move(steps[event.key])

    def on_click(self, event: events.Click) -> None:
        row = event.y + self.scroll_offset.y - 1
        if event.y > 0 and 0 <= row < len(self._keys):
            self.cursor = self._keys[row]
            if event.chain == 2:
                self.post_message(self.Opened(self._keys[row]))

    def _reveal(self) -> None:
        row = self.cursor_row
        room = self.size.height - 1
        if row is None or room <= 0:
            return
        top = self.scroll_offset.y
        if row < top:
            self.scroll_to(y=row, animate=False)
        elif row >= top + room:
            self.scroll_to(y=row - room + 1, animate=False)

    # --- painting

    def _refresh_rows(self, changed: set[int]) -> None:
        """`changed`: 0 is the title, 1 the first row."""
        top = self.scroll_offset.y
        places = ((0 if y == 0 else y - top) for y in changed)
        regions = [Region(0, y, self.size.width, 1) for y in places if 0 <= y < self.size.height]
        if regions:
            self.refresh(*regions)

    def notify_style_update(self) -> None:
        self._painter = None
        self._cache.clear()
        super().notify_style_update()

    def on_resize(self) -> None:
        self._cache.clear()
        self._reveal()

    def render_line(self, y: int) -> Strip:
        if self._painter is None:
            self._painter = Painter(self)
            self._over = self.get_component_rich_style("table--cursor", partial=True)
        row = y - 1 + self.scroll_offset.y
        line = self._title if y == 0 else self._line(row)
        chosen = y > 0 and row < len(self._keys) and self._keys[row] == self._cursor
        key = (line, self.size.width, chosen)
        strip = self._cache.get(key)
        if strip is None:
            if len(self._cache) > 4 * (self.size.height + 4):
                self._cache.clear()
            strip = self._cache[key] = self._painter.strip(line, self.size.width, self._over if chosen else None)
        return strip
