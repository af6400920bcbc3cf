"""The lines of the screen of one replica: its log beside the leader's, both views of it, its trend, how it differs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from ravelctl.dashboard.figures import LAST_KNOWN, NOTHING, UNKNOWN, count, difference, lag_seconds, micros, size, span
from ravelctl.dashboard.model import ClusterView, Freshness, ReplicaView, Role, member_name
from ravelctl.dashboard.observer import Picture
from ravelctl.dashboard.panels import Status, chosen_events, clock, event_lines
from ravelctl.dashboard.text import BLANK, Line, Span, Tone, fitted, joined, line, spread, width
from ravelctl.dashboard.trend import plot, scale
from ravelpb.v1 import cluster_pb2 as pb

LAG_WARN_S: Final = 2.0
DIFFERS_BY: Final = 3.0
"""A duration so many times the median of all replicas is worth a word."""
SKEW_NOTED_MS: Final = 1_000


def title(picture: Picture, row: ReplicaView, status: Status, columns: int) -> Line:
    """Who it is, at one look."""
    told = row.status
    role = f"{row.role.value} {'voter' if row.voter else 'no voter'}"
    parts = [
        line(Span(" ravel top › ", Tone.DIM), f"{picture.view.name or UNKNOWN} › ", Span(row.name, Tone.TITLE)),
        line(Span(role, Tone.LEAD if row.role is Role.LEADER else Tone.PLAIN)),
        line(row.address),
        line(f"v{told.server.version}") if told is not None and told.server.version else (),
        line(f"up {span(told.uptime_ms / 1000)}") if told is not None else (),
        line(f"boot {told.boot_id[:4]}") if told is not None and told.boot_id else (),
    ]
    right = line(
        Span("PAUSED" if status.paused else status.mode, Tone.WARN if status.paused else Tone.GOOD),
        f"  {clock(picture.wall_ms)} ",
    )
    return spread(joined(parts, columns - width(right) - 2), right, columns)


def body(picture: Picture, row: ReplicaView, columns: int, rows: int, minutes: int) -> list[Line]:
    """What fits in so many rows: the strips first, then the two views, the chart, the differences, events."""
    view = picture.view
    rule = line(Span("─" * columns, Tone.DIM))
    lines = [*_strips(view, row, columns), rule, *_views(view, row, columns), rule]
    chart_rows = 5 if rows - len(lines) >= 12 else 3
    samples = picture.trend("lag", row.key)
    interval_s = view.interval_s or 1.0
    wanted = samples[-max(1, round(minutes * 60 / interval_s)) :]
    room = columns - 12
    chart = plot(_thinned(wanted, room), columns - 5, chart_rows, scale(wanted, 4), LAG_WARN_S)
    lines.append(line(Span(f" LAG-s, the last {minutes}m", Tone.TITLE)))
    lines += [(Span(" "), *spans) for spans in chart]
    lines.append(_differences(picture, row, columns))
    events = chosen_events(picture.events, "all", row.key)
    lines.append(line(Span(f" EVENTS of {row.name}", Tone.TITLE), Span("" if events else "  none yet", Tone.DIM)))
    lines += event_lines(events[: max(0, rows - len(lines))], columns)
    return lines[:rows]


def _thinned(values: Sequence[float | None], room: int) -> list[float | None]:
    """No more values than there is room for: of neighbours the greatest stays, so that no peak is lost."""
    if len(values) <= room or room < 1:
        return list(values)
    step = -(-len(values) // room)
    groups = [values[at : at + step] for at in range(len(values) % step, len(values), step)]
    return [max((value for value in group if value is not None), default=None) for group in groups]


# --- the log strips


def _strips(view: ClusterView, row: ReplicaView, columns: int) -> list[Line]:
    """Two logs on one scale: from the leader's first index to its last."""
    lead, told = view.leader, row.status
    chief = lead.status if lead is not None else None
    if chief is None or lead is None:
        indexes = NOTHING if told is None else f"first {count(told.first_index)}  last {count(told.last_index)}"
        return [line(Span(" LOG ", Tone.TITLE), indexes), line(Span("     no leader to compare with", Tone.DIM))]
    name_width = max(len(lead.name), len(row.name), 2)
    note = "" if row.match is None or row.role is Role.LEADER else f" match {difference(row.match - chief.last_index, 11)}"
    end = f" {count(chief.last_index)}".ljust(len(note))
    room = columns - 5 - name_width - 2 - len(end)
    low, high = chief.first_index, max(chief.last_index, 1)
    head = line(Span(" LOG ", Tone.TITLE), Span(f"{lead.name:<{name_width}} ", Tone.LEAD))
    top = (*head, *_strip(low, high, chief.applied_index, chief.commit_index, chief.last_index, room), Span(end))
    if row.role is Role.LEADER:
        return [top, line(Span(" " * (6 + name_width) + "█ applied  ▓ committed  ▒ in its log only", Tone.DIM))]
    if told is None:
        return [top, line(" " * 5, f"{row.name:<{name_width}} ", Span("nothing is known of its log", Tone.DIM))]
    strip = _strip(low, high, told.applied_index, told.commit_index, told.last_index, room)
    shown = (Span(" " * 5), Span(f"{row.name:<{name_width}} "), *strip, Span(note, Tone.DIM))
    return [top, fitted(shown, columns)]


def _strip(low: int, high: int, applied: int, commit: int, last: int, room: int) -> Line:
    """`├snap┤` stands for what is compacted; then what is applied, what is committed, what is only in the log."""
    snap = "├snap┤" if low > 1 else "├"
    room -= len(snap) + 1
    if room < 8:
        return ()

    def place(index: int) -> int:
        return max(0, min(room, round(room * (index - low + 1) / max(1, high - low + 1))))

    done, sure, there = place(applied), place(commit), place(last)
    sure, there = max(done, sure), max(done, sure, there)
    # The smallest difference is one mark: a replica that lacks one entry must not look as if it lacked none.
    missing = last < high and there == room
    there = there - 1 if missing else there
    done, sure = min(done, there), min(sure, there)
    blocks = "█" * done + "▓" * (sure - done) + "▒" * (there - sure) + " " * (room - there)
    return (Span(snap, Tone.DIM), Span(blocks, Tone.TREND), Span("│", Tone.DIM))


# --- both views


def _views(view: ClusterView, row: ReplicaView, columns: int) -> list[Line]:
    half = columns // 2
    left = _leaders_view(view, row, half - 1) if row.role is not Role.LEADER else _leading(row)
    right = _own_view(view, row)
    lines = []
    for number in range(max(len(left), len(right))):
        one = left[number] if number < len(left) else BLANK
        other = right[number] if number < len(right) else BLANK
        one = fitted(one, half - 1)
        lines.append((*one, Span(" " * (half - width(one))), Span("│ ", Tone.DIM), *fitted(other, columns - half - 2)))
    return lines


def _leading(row: ReplicaView) -> list[Line]:
    told = row.status
    lines = [line(Span(" IT LEADS", Tone.TITLE))]
    if told is None:
        return lines
    lines.append(line(f"  for {span(told.leader_age_ms / 1000)}, lease {span(told.lease_remaining_ms / 1000)}"))
    lines.append(line(f"  commit p50 {_micros(told, 'commit', 'p50_us')} p99 {_micros(told, 'commit', 'p99_us')}"))
    lines.append(line(f"  election timeout {told.election_timeout_ms}ms, heartbeat {told.heartbeat_ms}ms"))
    if told.transferee_id:
        lines.append(line(Span(f"  is handing over to {member_name(told.members, told.transferee_id)}", Tone.WARN)))
    return lines


def _leaders_view(view: ClusterView, row: ReplicaView, columns: int) -> list[Line]:
    if view.leader is None:
        return [line(Span(" LEADER'S VIEW", Tone.TITLE), Span("  there is none", Tone.DIM))]
    lag_bytes = UNKNOWN if row.lag_bytes is None else size(row.lag_bytes) + (LAST_KNOWN if row.lag_bytes_is_least else "")
    lag_s = UNKNOWN if row.lag_ms is None else f"{lag_seconds(row.lag_ms)}s"
    full = "" if row.inflight is None else f": inflight {row.inflight}/{row.inflight_max}"
    progress = f"snapshot {size(row.snapshot_sent)} of {size(row.snapshot_size)}" if row.snapshot_size else f"{row.state}{full}"
    ack = row.ack
    rtt = NOTHING if ack is None or not ack.count else f"p50 {micros(ack.p50_us)} p99 {micros(ack.p99_us)}"
    contact = UNKNOWN if row.contact_ms is None else span(row.contact_ms / 1000)
    return [
        line(Span(" LEADER'S VIEW", Tone.TITLE), f" ({view.leader.name})"),
        line(f"  {progress}"),
        _indexes(row, columns),
        line(f"  lag {UNKNOWN if row.lag is None else count(row.lag, 13)} / {lag_bytes} / {lag_s}"),
        line(f"  ack RTT {rtt}"),
        line(f"  last contact {contact}"),
    ]


def _own_view(view: ClusterView, row: ReplicaView) -> list[Line]:
    told = row.status
    age = "" if row.freshness is Freshness.LIVE else f", {span(row.age_s)} ago"
    lines = [line(Span("OWN VIEW", Tone.TITLE), f" ({row.name}{age})")]
    if told is None:
        return [*lines, line(Span(f" {row.error or 'not heard yet'}", Tone.DIM))]
    led = f"{member_name(told.members, told.leader_id)}@{told.header.term}" if told.leader_id else "none known"
    voted = member_name(told.members, told.vote_id) if told.vote_id else "nobody"
    top = view.leader.last if view.leader is not None else None
    commit = count(told.commit_index, 10) if top is None else difference(told.commit_index - top, 10)
    applied = count(told.applied_index, 10) if top is None else difference(told.applied_index - top, 10)
    queue = max(0, told.commit_index - told.applied_index)
    contact = "it leads" if row.role is Role.LEADER else f"last contact {span(told.contact_age_ms / 1000)}"
    share = f" {told.db_used_bytes / told.db_size_max_bytes:.0%}" if told.db_size_max_bytes else ""
    lines += [
        line(f" leader {led}, voted {voted}"),
        line(f" commit {commit}  applied {applied}"),
        line(f" queue {count(queue, 9)}  LMDB {size(told.db_used_bytes)}/{size(told.db_size_max_bytes)}{share}"),
        line(f" fsync {_summary(told, 'fsync')}"),
        line(f" apply {_summary(told, 'apply')}"),
        line(f" {contact}"),
    ]
    if row.freshness is Freshness.DOWN:
        lines.append(line(Span(f" {row.error}", Tone.CRIT)))
    return lines


def _indexes(row: ReplicaView, columns: int) -> Line:
    """The two indexes that the leader holds of a peer: in full where both fit, else rounded. A number is never cut."""
    for digits in (13, 9):
        match, following = (UNKNOWN if value is None else count(value, digits) for value in (row.match, row.next))
        shown = line(f"  match {match}  next {following}")
        if width(shown) <= columns:
            break
    return shown


def _summary(told: pb.StatusResponse, field: str) -> str:
    if not told.HasField(field):  # type: ignore[arg-type]  # the name of a field
        return UNKNOWN
    found: pb.LatencySummary = getattr(told, field)
    if not found.count:
        return "nothing in 10s"
    return f"p50 {micros(found.p50_us)} p99 {micros(found.p99_us)} max {micros(found.max_us)}"


def _micros(told: pb.StatusResponse, field: str, part: str) -> str:
    found: pb.LatencySummary = getattr(told, field)
    return micros(getattr(found, part)) if found.count else NOTHING


# --- what is not as with the others


def _differences(picture: Picture, row: ReplicaView, columns: int) -> Line:
    view, told = picture.view, row.status
    found = []
    for name in ("fsync", "apply"):
        mine = _p99(row, name)
        others = [us for r in view.replicas if r.key != row.key and r.fresh and (us := _p99(r, name)) is not None and us > 0]
        if mine is not None and mine > 0 and others and mine > DIFFERS_BY * median(others):
            found.append(f"{name} p99 {micros(mine)} (median {micros(round(median(others)))})")
    chief = view.leader.status if view.leader is not None else None
    if told is not None and chief is not None and told.server.version != chief.server.version:
        found.append(f"version {told.server.version or UNKNOWN} (leader {chief.server.version or UNKNOWN})")
    if told is not None and chief is not None and told.config_index != chief.config_index:
        found.append(f"membership of index {told.config_index} (leader {chief.config_index})")
    if told is not None and told.wall_ms and row.fresh and abs(told.wall_ms - picture.wall_ms) > SKEW_NOTED_MS + row.age_s * 1000:
        skew_s = (told.wall_ms - picture.wall_ms) / 1000 + row.age_s
        found.append(f"its clock {skew_s:+.1f}s from ours")
    word = "DIFFERS FROM THE OTHERS: " if found else "as the others: durations, version, membership, clock"
    head = line(Span(f" {word}", Tone.WARN if found else Tone.DIM))
    return (*head, *joined([line(text) for text in found], columns - width(head), "; "))  # whole ones: no number loses its end


def _p99(row: ReplicaView, name: str) -> int | None:
    return row.fsync_p99_us if name == "fsync" else row.apply_p99_us


def as_json(row: ReplicaView) -> str:
    """The replica's own last report, as JSON."""
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(row.status) if row.status is not None else "{}"
