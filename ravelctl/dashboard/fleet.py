"""The table of many clusters: one row for each, the sickest first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ravelctl.dashboard.figures import LAST_KNOWN, NOTHING, UNKNOWN, elided, lag_seconds, micros, short, span
from ravelctl.dashboard.model import Freshness, natural
from ravelctl.dashboard.observer import Picture
from ravelctl.dashboard.text import Line, Span, Tone
from ravelctl.dashboard.trend import blocks, scale

TREND_CELLS: Final = 10


@dataclass(frozen=True, slots=True)
class FleetRow:
    """One cluster. `picture` is None until it was looked at."""

    name: str
    picture: Picture | None
    slots: int | None = None  # that it owns, where an admin lists it

    @property
    def health(self) -> str:
        picture = self.picture
        if picture is None:
            return UNKNOWN
        view = picture.view
        if all(row.freshness is Freshness.DOWN for row in view.replicas):
            return "UNREACH" if view.replicas else UNKNOWN
        if all(row.freshness is Freshness.NEVER for row in view.replicas):
            return UNKNOWN
        if not view.voters:
            return "BLANK" if any(row.fresh for row in view.replicas) else UNKNOWN
        if view.leader is None:
            return "UNSEEN" if view.leader_named else "NO-LEADER"
        crit, warn = picture.counts
        return "CRIT" if crit else "WARN" if warn else "ok"

    @property
    def rank(self) -> int:
        return {"NO-LEADER": 0, "CRIT": 1, "UNREACH": 2, "UNSEEN": 3, "WARN": 3, "BLANK": 4, UNKNOWN: 4}.get(self.health, 5)

    @property
    def reached(self) -> bool:
        return self.picture is not None and any(row.fresh for row in self.picture.view.replicas)


Cell = Callable[[FleetRow, int], str]


@dataclass(frozen=True, slots=True)
class FleetColumn:
    title: str
    width: int
    drop: int
    cell: Cell
    left: bool = False


def _name(row: FleetRow, width: int) -> str:
    mark = "x" if row.health == "UNREACH" else "!" if row.health in ("NO-LEADER", "CRIT") else " "
    return mark + elided(row.name, width - 1)


def _known(get: Callable[[Picture], str]) -> Cell:
    """What is known only while somebody answers."""

    def cell(row: FleetRow, width: int) -> str:
        return get(row.picture) if row.picture is not None and row.reached else UNKNOWN

    return cell


def _leader(row: FleetRow, width: int) -> str:
    if row.picture is None:
        return UNKNOWN
    view = row.picture.view
    if view.leader is not None:
        return elided(view.leader.name, width - 1) + ("" if view.leader.fresh else LAST_KNOWN)
    if view.leader_named:
        return elided(view.leader_named.partition("@")[0], width - 1) + LAST_KNOWN
    if not row.reached:
        return UNKNOWN
    return NOTHING if view.leaderless_s is None else f"-({span(view.leaderless_s)})"


def _term(row: FleetRow, width: int) -> str:
    if row.picture is None or row.picture.view.term is None:
        return UNKNOWN
    return short_term(row.picture.view.term, width - 1) + ("" if row.reached else LAST_KNOWN)


def short_term(term: int, width: int) -> str:
    return str(term) if len(str(term)) <= width else short(term)


def _nodes(picture: Picture) -> str:
    view = picture.view
    return f"{view.voters}+{view.learners}" if view.learners else str(view.voters)


def _quorum(row: FleetRow, width: int) -> str:
    if row.picture is None or not row.picture.view.voters:
        return UNKNOWN
    view = row.picture.view
    heard = view.acknowledging if view.acknowledging is not None and row.reached else view.answering
    return f"{heard}/{view.voters}"


def _max_lag(picture: Picture) -> str:
    found = picture.view.max_lag
    if found is None or found.lag is None:
        return NOTHING if picture.view.leader is not None and picture.view.voters == 1 else UNKNOWN
    return f"{short(found.lag)}@{elided(found.name, 8)}" if found.lag else "0"


def _lag_s(picture: Picture) -> str:
    found = picture.view.max_lag
    return UNKNOWN if found is None or found.lag_ms is None else lag_seconds(found.lag_ms)


def _snapshots(picture: Picture) -> str:
    found = [row.state.removeprefix("snap-") for row in picture.view.replicas if row.state.startswith("snap")]
    return f"{len(found)}@{found[0]}" if found else NOTHING


def _fsync(picture: Picture) -> str:
    found = [row.fsync_p99_us for row in picture.view.replicas if row.fsync_p99_us is not None and row.fresh]
    if not found:
        return UNKNOWN
    return micros(max(found)) if max(found) >= 0 else NOTHING


def _writes(picture: Picture) -> str:
    return UNKNOWN if picture.view.writes_s is None else short(picture.view.writes_s)


def _changes(picture: Picture) -> str:
    return UNKNOWN if picture.view.leader_changes_1h is None else str(picture.view.leader_changes_1h)


def _trend(row: FleetRow, width: int) -> str:
    if row.picture is None or not row.reached:
        return UNKNOWN * 5
    values = row.picture.trend("lag")[-TREND_CELLS:]
    return blocks(values, min(width, TREND_CELLS), scale(values, 4)).strip()


FLEET_COLUMNS: Final[tuple[FleetColumn, ...]] = (
    FleetColumn("CLUSTER", 12, 0, _name, left=True),
    FleetColumn("HEALTH", 9, 0, lambda row, width: row.health, left=True),
    FleetColumn("LEADER", 8, 0, _leader, left=True),
    FleetColumn("TERM", 6, 4, _term),
    FleetColumn("CHG/h", 5, 5, _known(_changes)),
    FleetColumn("NODES", 5, 7, _known(_nodes)),
    FleetColumn("QUORUM", 6, 0, _quorum),
    FleetColumn("SLOTS", 5, 6, lambda row, width: NOTHING if row.slots is None else str(row.slots)),
    FleetColumn("MAX-LAG", 13, 3, _known(_max_lag)),
    FleetColumn("LAG-s", 6, 0, _known(_lag_s)),
    FleetColumn("SNAP", 6, 8, _known(_snapshots), left=True),
    FleetColumn("WRITE/s", 7, 0, _known(_writes)),
    FleetColumn("FSYNC", 5, 2, _known(_fsync)),
    FleetColumn("TREND", TREND_CELLS, 1, _trend, left=True),
)

_TONES: Final[Mapping[str, Tone]] = {
    "NO-LEADER": Tone.CRIT,
    "CRIT": Tone.CRIT,
    "UNREACH": Tone.CRIT,
    "UNSEEN": Tone.WARN,
    "WARN": Tone.WARN,
    "ok": Tone.GOOD,
}

FLEET_ORDERS: Final[tuple[tuple[str, str], ...]] = (("trouble", "HEALTH"), ("name", "CLUSTER"))


def arranged(rows: Sequence[FleetRow], order: str) -> list[FleetRow]:
    by_name = sorted(rows, key=lambda row: natural(row.name))
    return sorted(by_name, key=lambda row: row.rank) if order == "trouble" else by_name


def fleet_lines(rows: Sequence[FleetRow], columns: int) -> tuple[Line, list[tuple[str, Line]]]:
    """The titles, and a line for each cluster by its name."""
    chosen = [c for c in FLEET_COLUMNS if c.title != "SLOTS" or any(row.slots is not None for row in rows)]
    while sum(c.width + 1 for c in chosen) - 1 > columns and any(c.drop for c in chosen):
        chosen.remove(max(chosen, key=lambda c: c.drop))
    spare = columns - (sum(c.width + 1 for c in chosen) - 1)
    longest = max((len(row.name) + 1 for row in rows), default=0)
    widths = {c.title: c.width for c in chosen}
    widths["CLUSTER"] += max(0, min(spare, longest - widths["CLUSTER"], 20))

    def pad(column: FleetColumn, text: str) -> str:
        return text.ljust(widths[column.title]) if column.left else text.rjust(widths[column.title])

    title: Line = (Span(" ".join(pad(c, c.title) for c in chosen), Tone.TITLE),)
    return title, [(row.name, _row_line(row, chosen, pad, widths)) for row in rows]


def _row_line(
    row: FleetRow, chosen: Sequence[FleetColumn], pad: Callable[[FleetColumn, str], str], widths: Mapping[str, int]
) -> Line:
    tone = _TONES.get(row.health, Tone.DIM)
    spans = []
    for number, column in enumerate(chosen):
        text = column.cell(row, widths[column.title])
        shade = Tone.PLAIN
        if column.title == "HEALTH" or (column.title == "CLUSTER" and tone is not Tone.GOOD):
            shade = tone
        elif (column.title != "SLOTS" and not row.reached) or text in (UNKNOWN, NOTHING):
            shade = Tone.DIM
        elif column.title == "LEADER":
            shade = Tone.LEAD if row.picture is not None and row.picture.view.leader is not None else Tone.CRIT
        elif column.title == "TREND":
            shade = Tone.TREND
        spans.append(Span((" " if number else "") + pad(column, text), shade))
    return tuple(spans)


def fleet_counts(rows: Sequence[FleetRow]) -> tuple[int, int, int]:
    """Replicas that are known, alarms that are critical, and warnings, of all."""
    pictures = [row.picture for row in rows if row.picture is not None]
    nodes = sum(len(picture.view.replicas) for picture in pictures)
    crit = sum(picture.counts[0] for picture in pictures)
    return nodes, crit, sum(picture.counts[1] for picture in pictures)
