"""The columns of the table of replicas: what each says, and which of them fit. Pure.

A column has a width that its figures fit in in any case, and one that it would like; the room that a terminal leaves is dealt out
in order. Cells are then written to their width (`ravelctl.dashboard.figures`): nothing is ever cropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ravelctl.dashboard.alarms import db_severity, fsync_severity, lag_severity
from ravelctl.dashboard.figures import LAST_KNOWN, NOTHING, UNKNOWN, count, difference, elided, lag_seconds, micros, size, span
from ravelctl.dashboard.model import ClusterView, Freshness, ReplicaView, Role, Severity
from ravelctl.dashboard.text import Line, Span, Tone

Cell = Callable[[ReplicaView, ClusterView, int], str]


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    least: int  # all of its figures fit in this
    want: int  # what it takes where there is room
    drop: int  # the highest is dropped first; 0: never
    cell: Cell
    left: bool = False
    most: int = 0  # it grows this far for a longer text; 0: no further than `want`
    wide: int = 0  # only in a terminal of so many characters


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns and their widths, for a terminal of `width` characters."""

    columns: tuple[tuple[Column, int], ...]
    width: int
    gap: int

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(column.title for column, _ in self.columns)


# --- cells


def _own(row: ReplicaView, text: str) -> str:
    """A replica's own report: what is not of now is marked."""
    return text + LAST_KNOWN if row.freshness in (Freshness.DOWN, Freshness.STALE) else text


def _own_room(row: ReplicaView, width: int) -> int:
    return width - 1 if row.freshness in (Freshness.DOWN, Freshness.STALE) else width


def _term(row: ReplicaView, view: ClusterView, width: int) -> str:
    return UNKNOWN if row.term is None else _own(row, count(row.term, _own_room(row, width)).replace(",", ""))


def _index(get: Callable[[ReplicaView], int | None]) -> Cell:
    def cell(row: ReplicaView, view: ClusterView, width: int) -> str:
        value = get(row)
        if value is None:
            return UNKNOWN
        room = _own_room(row, width)
        top = view.top
        highest = row.role is Role.LEADER or (view.leader is None and value == top)
        if top is None or (get is _last and highest):
            return _own(row, count(value, room))
        return _own(row, difference(value - top, room))

    return cell


def _last(row: ReplicaView) -> int | None:
    return row.last


def _of_peer(row: ReplicaView) -> bool:
    """Whether the leader has anything to say of it: not of itself, nor of daemons outside the cluster."""
    return row.role not in (Role.LEADER, Role.BLANK, Role.REMOVED)


def _lag(row: ReplicaView, view: ClusterView, width: int) -> str:
    if not _of_peer(row):
        return NOTHING
    return UNKNOWN if row.lag is None else count(row.lag, width)


def _lag_bytes(row: ReplicaView, view: ClusterView, width: int) -> str:
    if not _of_peer(row):
        return NOTHING
    if row.lag_bytes is None:
        return UNKNOWN
    text = "0" if row.lag_bytes == 0 and not row.lag_bytes_is_least else size(row.lag_bytes)
    return text + (LAST_KNOWN if row.lag_bytes_is_least else "")


def _lag_s(row: ReplicaView, view: ClusterView, width: int) -> str:
    if not _of_peer(row):
        return NOTHING
    if row.lag_ms is None:
        return UNKNOWN
    return lag_seconds(row.lag_ms) + ("+" if row.lag_ms_is_least and row.lag else "")


def _inflight(row: ReplicaView, view: ClusterView, width: int) -> str:
    if row.inflight is None or not row.inflight_max:
        return NOTHING
    full = f"{row.inflight}/{row.inflight_max}"
    return full if len(full) <= width else count(row.inflight, width)


def _contact(row: ReplicaView, view: ClusterView, width: int) -> str:
    if not _of_peer(row):
        return NOTHING
    return UNKNOWN if row.contact_ms is None else span(row.contact_ms / 1000)


def _duration(get: Callable[[ReplicaView], int | None]) -> Cell:
    def cell(row: ReplicaView, view: ClusterView, width: int) -> str:
        value = get(row)
        if row.role is Role.BLANK or value == -1 or not row.fresh:
            return NOTHING
        return UNKNOWN if value is None else micros(value)

    return cell


def _db(row: ReplicaView, view: ClusterView, width: int) -> str:
    if row.role is Role.BLANK:
        return NOTHING
    return UNKNOWN if row.db_used is None else _own(row, size(row.db_used))


def _db_share(row: ReplicaView, view: ClusterView, width: int) -> str:
    if row.db_used is None or not row.db_max:
        return NOTHING if row.role is Role.BLANK else UNKNOWN
    return f"{min(999, row.db_used * 100 // row.db_max)}%"


def _version(row: ReplicaView, view: ClusterView, width: int) -> str:
    return elided(row.status.server.version or UNKNOWN, width) if row.status is not None else UNKNOWN


_MARKS: Final = {Severity.OK: " ", Severity.WARN: "!", Severity.CRIT: "!"}


def mark(row: ReplicaView) -> str:
    """One character before the name: x is down, ~ is of the past, ! has an alarm."""
    if row.freshness is Freshness.DOWN:
        return "x"
    if row.freshness is Freshness.STALE:
        return LAST_KNOWN
    return _MARKS[row.severity]


def _name(row: ReplicaView, view: ClusterView, width: int) -> str:
    return mark(row) + elided(row.name, width - 1)


COLUMNS: Final[tuple[Column, ...]] = (
    Column("NODE", 5, 5, 0, _name, left=True, most=25),
    Column("ROLE", 9, 9, 0, lambda row, view, width: row.role.value, left=True),
    Column("TERM", 6, 6, 0, _term, most=12),
    Column("LAST", 7, 11, 3, _index(_last), most=21),
    Column("COMMIT", 7, 8, 4, _index(lambda row: row.commit), most=21),
    Column("APPLIED", 7, 8, 5, _index(lambda row: row.applied), most=21),
    Column("LAG", 6, 7, 0, _lag, most=21),
    Column("LAG-B", 5, 6, 0, _lag_bytes),
    Column("LAG-s", 6, 6, 0, _lag_s),
    Column("STATE", 11, 11, 0, lambda row, view, width: row.state, left=True, most=14),
    Column("INFL", 5, 5, 6, _inflight, most=9),
    Column("CONTACT", 7, 7, 0, _contact),
    Column("FSYNC", 5, 6, 0, _duration(lambda row: row.fsync_p99_us)),
    Column("APPLY", 5, 6, 7, _duration(lambda row: row.apply_p99_us)),
    Column("DB", 5, 5, 0, _db),
    Column("DB%", 4, 4, 8, _db_share, wide=130),
    Column("ADDRESS", 15, 15, 9, lambda row, view, width: elided(row.address, width), left=True, most=32, wide=130),
    Column("VERSION", 7, 8, 10, _version, left=True, most=12, wide=130),
)

_GROWTH: Final = ("NODE", "LAG", "STATE", "LAST", "COMMIT", "APPLIED", "TERM", "INFL", "ADDRESS", "VERSION")
_GAP_MAX: Final = 2


def layout(width: int, texts: Mapping[str, int]) -> Layout:
    """Which columns a terminal of `width` characters takes, and how wide. `texts`: the longest of each, if known."""
    chosen = [column for column in COLUMNS if column.wide <= width]
    while sum(column.least + 1 for column in chosen) - 1 > width:
        droppable = [column for column in chosen if column.drop]
        if not droppable:
            break
        chosen.remove(max(droppable, key=lambda column: column.drop))
    widths = {column.title: column.least for column in chosen}
    spare = width - sum(widths.values()) - (len(chosen) - 1)
    by_title = {column.title: column for column in chosen}

    def grow(title: str, goal: int) -> None:
        nonlocal spare
        step = min(spare, max(0, goal - widths[title]))
        widths[title] += step
        spare -= step

    for title in _GROWTH:
        if column := by_title.get(title):
            grow(title, min(column.most or column.want, texts.get(title, 0)))
    for title, column in by_title.items():
        grow(title, column.want)
    gap = 1
    while gap < _GAP_MAX and spare >= len(chosen) - 1:
        spare -= len(chosen) - 1
        gap += 1
    return Layout(tuple((column, widths[column.title]) for column in chosen), width, gap)


def wanted(rows: Sequence[ReplicaView], view: ClusterView, known: Mapping[str, int]) -> dict[str, int]:
    """The longest text of each column that may grow, these rows and what was `known` before: a column never shrinks."""
    found = dict(known)
    for column in COLUMNS:
        if column.most:
            longest = max((len(column.cell(row, view, column.most)) for row in rows), default=0)
            found[column.title] = max(found.get(column.title, 0), longest)
    return found


# --- lines


def title_line(shown: Layout, sort: str = "") -> Line:
    """The heads of the columns; the one that is sorted by is marked."""
    parts = []
    for column, width in shown.columns:
        title = column.title
        if title == sort:
            title = f"{title}▾"[:width] if len(title) < width else title
        parts.append(title.ljust(width) if column.left else title.rjust(width))
    return (Span((" " * shown.gap).join(parts), Tone.TITLE),)


def row_line(row: ReplicaView, view: ClusterView, shown: Layout) -> Line:
    """The cells of one replica, with the tone of each."""
    spans = []
    faults = row_faults(row)
    for number, (column, width) in enumerate(shown.columns):
        text = column.cell(row, view, width)
        padded = text.ljust(width) if column.left else text.rjust(width)
        spans.append(Span(padded if not number else " " * shown.gap + padded, _tone(column.title, text, row, faults)))
    return tuple(spans)


_BY_SEVERITY: Final = {Severity.OK: Tone.PLAIN, Severity.WARN: Tone.WARN, Severity.CRIT: Tone.CRIT}


def _tone(title: str, text: str, row: ReplicaView, faults: Mapping[str, Severity]) -> Tone:
    if title == "NODE":
        if row.freshness is Freshness.DOWN:
            return Tone.CRIT
        return Tone.LEAD if row.role is Role.LEADER and not row.severity else _BY_SEVERITY[row.severity]
    if row.freshness in (Freshness.DOWN, Freshness.STALE):
        return Tone.CRIT if title == "STATE" and row.freshness is Freshness.DOWN else Tone.DIM
    if text in (UNKNOWN, NOTHING):
        return Tone.DIM
    if title == "ROLE":
        return Tone.LEAD if row.role is Role.LEADER else Tone.CRIT if row.role is Role.CLAIMS else Tone.PLAIN
    if title == "STATE":
        bad = text.startswith(("STALE", "LOST", "never-met"))
        return Tone.CRIT if bad else Tone.WARN if "PAUSED" in text or text.startswith(("snap", "probe")) else Tone.PLAIN
    return _BY_SEVERITY[faults.get(title, Severity.OK)]


def row_faults(row: ReplicaView) -> dict[str, Severity]:
    """The figures of a row that are beyond what the alarms allow, by column."""
    lag, store = lag_severity(row, None), db_severity(row)
    return {"FSYNC": fsync_severity(row), "DB": store, "DB%": store, "LAG": lag, "LAG-s": lag}


# --- order


def severity_rank(row: ReplicaView) -> int:
    return {Freshness.DOWN: 3, Freshness.STALE: 2, Freshness.NEVER: 2}.get(row.freshness, 0) or int(row.severity)


@dataclass(frozen=True, slots=True)
class Order:
    """One way to sort the table; rows that are equal by it keep the order of their names."""

    name: str
    column: str
    key: Callable[[ReplicaView], float]


ORDERS: Final[tuple[Order, ...]] = (
    Order("leader first", "ROLE", lambda row: 0 if row.role is Role.LEADER else 2 if not row.voter else 1),
    Order("name", "NODE", lambda row: 0),
    Order("trouble first", "STATE", lambda row: -severity_rank(row)),
    Order("lag", "LAG", lambda row: -(row.lag if row.lag is not None else -1)),
    Order("contact", "CONTACT", lambda row: -(row.contact_ms if row.contact_ms is not None else -1)),
    Order("fsync", "FSYNC", lambda row: -(row.fsync_p99_us if row.fsync_p99_us is not None else -1)),
)


def arranged(rows: Sequence[ReplicaView], order: Order, pattern: str = "") -> tuple[ReplicaView, ...]:
    """The rows that contain `pattern` in name, role, state or address (`!`: those with trouble), in order."""
    word = pattern.strip().lower()

    def shown(row: ReplicaView) -> bool:
        if word == "!":
            return severity_rank(row) > 0
        return word in f"{row.name} {row.role.value} {row.state} {row.address}".lower()

    return tuple(sorted((row for row in rows if shown(row)), key=order.key))
