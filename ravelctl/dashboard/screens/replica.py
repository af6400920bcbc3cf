"""The screen of one replica."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult

from ravelctl.dashboard.detail import body, title
from ravelctl.dashboard.keys import Where
from ravelctl.dashboard.screens.base import Paged
from ravelctl.dashboard.text import Span, Tone, line
from ravelctl.dashboard.widgets.panel import Panel

RANGES = (1, 3, 10)


class ReplicaScreen(Paged):
    """Follows one replica by its key, also while it is down; when it has left the cluster, the screen says so."""

    where: ClassVar[Where] = Where.REPLICA

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.range = len(RANGES) - 1

    def compose(self) -> ComposeResult:
        yield Panel(id="head")
        yield Panel(id="rule-1")
        yield Panel(id="events")
        yield Panel(id="foot")
        yield from self.compose_small()

    def paint(self) -> None:
        picture, size = self.top.source.picture, self.app.size
        self.query_one("#head").styles.height = 1
        self.query_one("#rule-1", Panel).show([self.rule()])
        row = picture.view.replica(self.key)
        if row is None:
            self.query_one("#head", Panel).show([line(Span(" ravel top › this replica is no longer in the cluster", Tone.WARN))])
            self.query_one("#events", Panel).show([line(Span(" esc goes back to the others", Tone.DIM))])
        else:
            self.query_one("#head", Panel).show([title(picture, row, self.top.status, size.width)])
            self.query_one("#events", Panel).show(body(picture, row, size.width, size.height - 3, RANGES[self.range]))
        self.paint_footer()

    def peer(self, by: int) -> None:
        """The next replica, in the order of names."""
        keys = [row.key for row in self.top.source.picture.view.replicas]
        if self.key in keys:
            self.key = keys[(keys.index(self.key) + by) % len(keys)]
        elif keys:
            self.key = keys[0]
        self.refit()
