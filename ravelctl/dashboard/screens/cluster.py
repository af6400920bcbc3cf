"""The main screen: one cluster, a line for each replica."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.widgets import Input

from ravelctl.dashboard.columns import ORDERS, arranged, layout, row_line, title_line, wanted
from ravelctl.dashboard.keys import Where
from ravelctl.dashboard.observer import FILTERS
from ravelctl.dashboard.panels import alarm_line, chosen_events, event_lines, event_tabs, header, silence_lines, together
from ravelctl.dashboard.screens.base import Paged
from ravelctl.dashboard.text import BLANK, Line
from ravelctl.dashboard.widgets.panel import Panel
from ravelctl.dashboard.widgets.replica_table import RowTable

ROOMY_ROWS = 30
"""From so many lines on the parts are ruled off from each other."""
EVENT_ROWS_LEAST = 3
WIDTHS_EVERY = 5
"""Pictures, between two looks at whether columns should be wider: until then a number is written shorter, never cropped."""


class ClusterScreen(Paged):
    """Header, table, alarms, events, keys."""

    where: ClassVar[Where] = Where.CLUSTER

    def __init__(self) -> None:
        super().__init__()
        self.order = 0
        self.events_shown = FILTERS[0]
        self.alarms_shown = 0
        self._widths: dict[str, int] = {}
        self._widths_of: tuple[str, ...] = ()
        self._paints = 0
        self._field: Input | None = None  # of the filter

    def compose(self) -> ComposeResult:
        yield Panel(id="head")
        yield Panel(id="rule-1")
        yield RowTable(id="table")
        yield Panel(id="rule-2")
        yield Panel(id="alarms")
        yield Panel(id="rule-3")
        yield Panel(id="tabs")
        yield Panel(id="events")
        yield Panel(id="foot")
        yield from self.compose_small()

    def on_mount(self) -> None:
        self.query_one(RowTable).focus()
        super().on_mount()

    @property
    def pattern(self) -> str:
        field = self._field
        return field.value if field is not None else ""

    def paint(self) -> None:
        picture, size = self.top.source.picture, self.app.size
        view = picture.view
        keys = tuple(row.key for row in view.replicas)
        if self._widths_of != keys:
            self._widths, self._widths_of, self._paints = {}, keys, 0
        if self._paints % WIDTHS_EVERY == 0:
            self._widths = wanted(view.replicas, view, self._widths)
        self._paints += 1
        shown = layout(size.width, self._widths)
        order = ORDERS[self.order]
        rows = arranged(view.replicas, order, self.pattern)
        head = header(picture, self.top.status, size.width)
        self._fit(len(head), len(rows), size.height)
        self.query_one("#head", Panel).show(head)
        table = self.query_one(RowTable)
        table.show(title_line(shown, order.column), [row.key for row in rows], lambda at: row_line(rows[at], view, shown))
        alarms, self.alarms_shown = alarm_line(picture, size.width)
        self.query_one("#alarms", Panel).show([alarms])
        for rule in ("#rule-1", "#rule-2", "#rule-3"):
            self.query_one(rule, Panel).show([self.rule()])
        self.query_one("#tabs", Panel).show([event_tabs(self.events_shown, size.width)])
        self.query_one("#events", Panel).show(self._event_lines(size.width, size.height))
        self.paint_footer()

    def _event_lines(self, columns: int, rows: int) -> list[Line]:
        picture = self.top.source.picture
        why = [*silence_lines(picture, columns), BLANK] if picture.view.silent and not self.top.source.is_replay else []
        return [*why, *event_lines(together(chosen_events(picture.events, self.events_shown), rows), columns)]

    def _fit(self, head: int, rows: int, height: int) -> None:
        """The table takes what its rows need, as long as some events remain."""
        roomy = height >= ROOMY_ROWS
        self.query_one("#rule-3").display = roomy
        self.query_one("#tabs").display = roomy or self.events_shown != FILTERS[0]
        fixed = head + 2 + 1 + (2 if roomy else 0) + 1 + self._filter_is_open
        room = max(3, height - fixed - EVENT_ROWS_LEAST)
        for name, wanted_rows in (("#head", head), ("#table", min(room, max(rows, 1) + 1))):
            styles = self.query_one(name).styles
            if styles.height is None or styles.height.value != wanted_rows:
                styles.height = wanted_rows

    # --- the filter

    @property
    def _filter_is_open(self) -> bool:
        return self._field is not None and self._field.has_class("open")

    def open_filter(self) -> None:
        """The field is made when it is first wanted: its styles take a while to read, and most looks at a cluster need none."""
        if self._field is None:
            self._field = Input(
                id="filter", placeholder="part of a name, a role, a state or an address; ! shows those with trouble"
            )
            self.mount(self._field, before="#foot")
        self._field.add_class("open")
        self._field.focus()
        self.refit()

    def close_filter(self, *, clear: bool) -> bool:
        """Back to the table. Returns whether there was anything to close."""
        was_open = self._filter_is_open
        if self._field is not None:
            if clear:
                self._field.value = ""
            if not self._field.value:
                self._field.remove_class("open")
        self.query_one(RowTable).focus()
        self.refit()
        return was_open

    @on(Input.Changed, "#filter")
    def _filter_changed(self) -> None:
        self.refit()

    @on(Input.Submitted, "#filter")
    def _filter_submitted(self) -> None:
        self.close_filter(clear=False)

    @on(RowTable.Opened)
    def _row_opened(self) -> None:
        self.top.action_open()
