"""The screen of many clusters: those that an admin lists, or the contexts of the configuration."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult

from ravelctl.cli.output import count_text
from ravelctl.dashboard.fleet import FLEET_ORDERS, FleetRow, arranged, fleet_counts, fleet_lines
from ravelctl.dashboard.keys import Where
from ravelctl.dashboard.panels import clock
from ravelctl.dashboard.screens.base import Paged
from ravelctl.dashboard.text import Span, Tone, joined, line, spread
from ravelctl.dashboard.widgets.panel import Panel
from ravelctl.dashboard.widgets.replica_table import RowTable


class FleetScreen(Paged):
    """One line a cluster, the sickest first."""

    where: ClassVar[Where] = Where.FLEET

    def __init__(self) -> None:
        super().__init__()
        self.order = 0

    def compose(self) -> ComposeResult:
        yield Panel(id="head")
        yield Panel(id="rule-1")
        yield RowTable(id="table")
        yield Panel(id="events")
        yield Panel(id="foot")
        yield from self.compose_small()

    def on_mount(self) -> None:
        self.query_one(RowTable).focus()
        super().on_mount()

    def paint(self) -> None:
        columns, height = self.app.size
        found = self.top.fleet_rows()
        rows = arranged(found, FLEET_ORDERS[self.order][0])
        self.query_one("#head").styles.height = 1
        self.query_one("#head", Panel).show([self._title(rows, columns)])
        self.query_one("#rule-1", Panel).show([self.rule()])
        title, lines = fleet_lines(rows, columns)
        table = self.query_one(RowTable)
        table.styles.height = min(max(3, height - 4), len(lines) + 1)
        table.show(title, [name for name, _ in lines], lambda at: lines[at][1])
        self.query_one("#events", Panel).show(
            []
            if len(found) > 1
            else [(), line(Span(" Only one cluster is known: the configuration names no contexts.", Tone.DIM))]
        )
        self.paint_footer()

    def _title(self, rows: list[FleetRow], columns: int) -> tuple[Span, ...]:
        nodes, crit, warn = fleet_counts(rows)
        left = joined(
            [
                line(Span(" ravel top", Tone.TITLE)),
                line(f"{count_text(len(rows), 'cluster')}  {count_text(nodes, 'node')}"),
                line(Span(f"{crit} CRIT", Tone.CRIT)) if crit else (),
                line(Span(f"{warn} WARN", Tone.WARN)) if warn else (),
            ],
            columns - 26,
        )
        word = "PAUSED" if self.top.paused else f"LIVE {self.top.fleet.interval_s:g}s"
        right = line(Span(word, Tone.WARN if self.top.paused else Tone.GOOD), f"  {clock(self.top.options.clock.wall_ms())} ")
        return spread(left, right, columns)

    @on(RowTable.Opened)
    def _row_opened(self) -> None:
        self.top.action_open()
