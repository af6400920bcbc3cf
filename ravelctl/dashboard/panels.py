"""The lines of the main screen around its table: header, banner, alarms, events. Pure: one picture in, lines out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from ravelctl.cli.output import count_text
from ravelctl.dashboard.columns import ORDERS, arranged, layout, row_line, title_line, wanted
from ravelctl.dashboard.figures import NOTHING, UNKNOWN, clipped, elided, micros, short, span
from ravelctl.dashboard.model import ClusterView, Freshness, Severity
from ravelctl.dashboard.observer import FILTERS, Happening, Picture
from ravelctl.dashboard.text import Line, Span, Tone, fitted, joined, line, plain, spread, width
from ravelctl.dashboard.trend import trend

WIDE: Final = 100
"""From so many characters on the header takes three lines, below two."""

TONES: Final = {Severity.OK: Tone.PLAIN, Severity.WARN: Tone.WARN, Severity.CRIT: Tone.CRIT}


@dataclass(frozen=True, slots=True)
class Status:
    """How the picture comes to be: live or played back, paused, recorded."""

    mode: str = "LIVE 1s"
    paused: bool = False
    recording: str = ""  # how much has been written; empty: nothing is
    read_only: bool = False


def clock(wall_ms: int) -> str:
    return f"{datetime.fromtimestamp(wall_ms / 1000, UTC):%H:%M:%S}Z"


def header(picture: Picture, status: Status, columns: int) -> list[Line]:
    """Three lines where there is room, else two; always as many for one width, so that nothing below moves."""
    view = picture.view
    if columns >= WIDE:
        return [_title(picture, status, columns), _second(picture, columns), _trends(picture, columns)]
    return [
        _short_title(picture, status, columns),
        _short_second(picture, columns) if not _banner(view) else _second(picture, columns),
    ]


def _title(picture: Picture, status: Status, columns: int) -> Line:
    view = picture.view
    members = count_text(view.voters, "voter") + (f"+{count_text(view.learners, 'learner')}" if view.learners else "")
    left = joined(
        [
            line(Span(" ravel top", Tone.DIM), Span(" › ", Tone.DIM), Span(view.name or UNKNOWN, Tone.TITLE)),
            line(members) if view.voters else (),
            _quorum(view),
            _leader(view, long=True),
        ],
        columns - width(_mode(picture, status)) - 3,
    )
    return spread(left, _mode(picture, status), columns)


def _short_title(picture: Picture, status: Status, columns: int) -> Line:
    view = picture.view
    right = joined([_counts(picture), _mode(picture, status)], columns, "  ")
    left = joined(
        [line(Span(" " + clipped(view.name or UNKNOWN, 24), Tone.TITLE)), _leader(view, long=False), _quorum(view)],
        columns - width(right) - 2,
        "  ",
    )
    return spread(left, right, columns)


def _mode(picture: Picture, status: Status) -> Line:
    parts = [line(Span("PAUSED", Tone.WARN)) if status.paused else line(Span(status.mode, Tone.GOOD))]
    if status.read_only:
        parts.append(line(Span("READ-ONLY", Tone.DIM)))
    if status.recording:
        parts.append(line(Span("REC ", Tone.CRIT), Span(status.recording)))
    parts.append(line(clock(picture.wall_ms) + " "))
    return joined(parts, 60, "  ")


def _quorum(view: ClusterView) -> Line:
    if not view.voters:
        return ()
    if view.acknowledging is None:
        return line("quorum ", Span(f"{UNKNOWN}/{view.voters}", Tone.CRIT))
    spare = view.acknowledging - view.quorum
    tone = Tone.CRIT if spare < 0 else Tone.WARN if spare == 0 and view.acknowledging < view.voters else Tone.GOOD
    return line("quorum ", Span(f"{view.acknowledging}/{view.voters}", tone))


def _leader(view: ClusterView, *, long: bool) -> Line:
    word = "leader " if long else ""
    if view.leader is None:
        if view.leader_named:
            return line(word, Span(f"{view.leader_named}~", Tone.WARN))
        if view.silent:
            return line(f"leader {UNKNOWN}")
        return line(Span("no leader" if view.voters else "", Tone.CRIT)) if view.voters else ()
    mark = "" if view.leader.freshness is Freshness.LIVE else "~"
    told = view.leader.status
    age = f" ({span(told.leader_age_ms / 1000)})" if long and told is not None else ""
    return line(word, Span(f"{view.leader.name}@{view.leader.term}{mark}", Tone.LEAD), Span(age, Tone.DIM))


def _counts(picture: Picture) -> Line:
    crit, warn = picture.counts
    return joined(
        [line(Span(f"{crit} CRIT", Tone.CRIT)) if crit else (), line(Span(f"{warn} WARN", Tone.WARN)) if warn else ()], 40, " "
    )


def _banner(view: ClusterView, *, brief: bool = False) -> str:
    """What comes before any figure: nobody answers, or nobody leads."""
    if view.silent and view.replicas:
        return f"NOBODY ANSWERS for {span(min(row.age_s for row in view.replicas))}"
    if view.leader is not None or not view.voters:
        return ""
    if view.leader_named:
        return f"THE LEADER {view.leader_named} CANNOT BE ASKED FROM HERE"
    if brief:
        since = f" {span(view.leaderless_s)}" if view.leaderless_s is not None else ""
        names = ", ".join(text.partition(" ")[0] for text in view.candidates) or "nobody"
        return f"NO LEADER{since} · {names} stands · {view.answering}/{view.voters} answer, need {view.quorum}"
    since = f" for {span(view.leaderless_s)}" if view.leaderless_s is not None else ""
    stands = "".join(f" · {text}" for text in view.candidates) or " · nobody stands"
    needed = f" · {view.answering} of {view.voters} voters answer, {view.quorum} needed"
    return f"NO LEADER{since}{stands}{needed}"


def _second(picture: Picture, columns: int) -> Line:
    view = picture.view
    if text := _banner(view, brief=columns < WIDE):
        counts = _counts(picture) if columns >= WIDE else ()
        room = columns - width(counts) - 2
        return spread(line(Span(f" {clipped(text, room - 2)} ", Tone.BANNER)), line(*counts, " "), columns)
    figures = joined(
        [
            line(" writes ", Span(_rate(view.writes_s), Tone.TITLE)),
            line("reads ", Span(_rate(view.reads_s), Tone.TITLE)),
            line("commit-p99 ", Span(_micros(view.commit_p99_us), Tone.TITLE)),
            line("elections/1h ", Span(UNKNOWN if view.elections_1h is None else str(view.elections_1h), Tone.TITLE)),
        ],
        columns - 20,
    )
    return spread(figures, line(*_counts(picture), " "), columns)


def _short_second(picture: Picture, columns: int) -> Line:
    view = picture.view
    rates = line(" w ", Span(_rate(view.writes_s), Tone.TITLE), " r ", Span(_rate(view.reads_s), Tone.TITLE), "  ")
    # A fixed place for the trend: rates of other lengths must not shift it.
    rates = (*rates, Span(" " * max(0, 24 - width(rates))))
    return (*rates, *trend("lag-s", picture.trend("lag"), max(0, min(columns - 25, 50)), 4, ""))


def _trends(picture: Picture, columns: int) -> Line:
    room = (columns - 2 - 6) // 3
    return (
        Span(" "),
        *trend("lag-s", picture.trend("lag"), room, 4, ""),
        Span("   "),
        *trend("writes", picture.trend("writes"), room, 100, ""),
        Span("   "),
        *trend("fsync-p99", picture.trend("fsync"), room, 10, "ms"),
    )


def _rate(value: float | None) -> str:
    return f"{UNKNOWN}/s" if value is None else f"{short(value)}/s"


def _micros(value: int | None) -> str:
    return UNKNOWN if value is None else NOTHING if value < 0 else micros(value)


# --- alarms


def alarm_line(picture: Picture, columns: int) -> tuple[Line, int]:
    """The gravest alarms as far as there is room, how many more there are, and how many are shown."""
    alarms = picture.alarms
    if not alarms:
        return line(Span(" no alarms", Tone.DIM)), 0
    brief = columns < WIDE
    spans: list[Span] = [Span(" ")]
    shown = 0
    for alarm in alarms:
        calm = alarm.calm_since_s is not None
        text = (alarm.breach.brief if brief else alarm.breach.text) + (" (over)" if calm else "")
        more = len(alarms) - shown - 1
        tail = f" (+{more}, press a)" if more else ""
        head = f"{alarm.severity.name} "
        gap = " · " if shown else ""
        room = columns - sum(len(s.text) for s in spans) - len(gap) - len(head) - len(tail) - 1
        if shown and len(text) > room:
            spans.append(Span(f" (+{more + 1}, press a)", Tone.DIM))
            break
        tone = Tone.DIM if alarm.acknowledged or calm else TONES[alarm.severity]
        spans += [
            Span(gap, Tone.DIM),
            Span(head, tone),
            Span(clipped(text, max(8, room)), tone if alarm.acknowledged or calm else Tone.PLAIN),
        ]
        shown += 1
    return fitted(tuple(spans), columns), shown


# --- events


def event_tabs(chosen: str, columns: int) -> Line:
    tabs = (Span(f"[{name}]", Tone.KEY) if name == chosen else Span(f" {name} ", Tone.DIM) for name in FILTERS)
    return fitted((Span(" EVENTS ", Tone.TITLE), *tabs), columns)


def chosen_events(events: Sequence[Happening], kind: str, subject: str = "") -> list[Happening]:
    """Newest first."""
    return [e for e in reversed(events) if (kind == "all" or e.kind == kind) and (not subject or e.subject == subject)]


WHO_WIDTH_MAX: Final = 14
TOGETHER_MS: Final = 2_000
TOGETHER_NEAR: Final = 16
"""Events that several replicas tell within so short a time, and with so few lines between, are one line."""


def together(events: Iterable[Happening], most: int) -> list[Happening]:
    """The first `most` lines, newest first. What several replicas tell in the same words is one line with all their names."""
    lines: list[tuple[Happening, list[str]]] = []
    for event in events:
        names = next((names for line, names in lines[-TOGETHER_NEAR:] if _one_line(line, event, names)), None)
        if names is not None:
            names.append(event.who)
        elif len(lines) == most:
            break
        else:
            lines.append((event, [event.who]))
    return [replace(event, who=_told_by(sorted(names))) for event, names in lines]


def _one_line(line: Happening, event: Happening, names: Sequence[str]) -> bool:
    same = (line.kind, line.text, line.severity) == (event.kind, event.text, event.severity)
    return same and line.at_ms - event.at_ms <= TOGETHER_MS and event.who not in names


def _told_by(names: Sequence[str]) -> str:
    all_of_them = " ".join(names)
    return all_of_them if len(names) == 1 or len(all_of_them) <= WHO_WIDTH_MAX else f"{names[0]} +{len(names) - 1}"


def event_lines(events: Sequence[Happening], columns: int) -> list[Line]:
    """One each, with the names below each other."""
    who = max((min(len(event.who), WHO_WIDTH_MAX) for event in events), default=0)
    return [_event_line(event, columns, who) for event in events]


def _event_line(event: Happening, columns: int, who_width: int) -> Line:
    moment = datetime.fromtimestamp(event.at_ms / 1000, UTC)
    stamp = f"{moment:%H:%M:%S}" + (f".{moment.microsecond // 100_000}" if columns >= WIDE else "")
    who, kind = elided(event.who, who_width).ljust(who_width), f"{event.kind:<10}" if columns >= WIDE else event.kind
    tone = TONES[event.severity]
    return fitted((Span(f" {stamp} ", Tone.DIM), Span(f"{who} "), Span(f"{kind} ", Tone.KEY), Span(event.text, tone)), columns)


def silence_lines(picture: Picture, columns: int) -> list[Line]:
    """Of each address that does not answer: since when, and why."""
    silent = [row for row in picture.view.replicas if row.freshness in (Freshness.DOWN, Freshness.NEVER)]
    if not silent:
        return []
    longest = max(len(row.address) for row in silent)
    lines = [line(Span(" NO ANSWER FROM", Tone.TITLE))]
    for row in silent:
        why = row.error.removeprefix(f"{row.address} ") or "not asked yet, or still connecting"
        lines.append(
            fitted(line(f" {row.address:<{longest}}  ", Span(f"{span(row.age_s):>5}  ", Tone.CRIT), Span(why, Tone.DIM)), columns)
        )
    return [*lines, line(Span(" It is asked again and again: this screen goes on by itself.", Tone.DIM))]


# --- without a terminal


def plain_frame(picture: Picture, columns: int = 120) -> str:
    """One frame as text, without colour and without anything that depends on a terminal."""
    view = picture.view
    rows = arranged(view.replicas, ORDERS[0])
    shown = layout(columns, wanted(rows, view, {}))
    lines = header(picture, Status("ONE FRAME"), columns)[:2]
    lines += [title_line(shown), *(row_line(row, view, shown) for row in rows)]
    lines += [line(f"{alarm.severity.name} {alarm.breach.text}") for alarm in picture.alarms]
    lines += silence_lines(picture, columns)[1:-1] if view.silent else []
    return "".join(f"{plain(spans).rstrip()}\n" for spans in lines)
