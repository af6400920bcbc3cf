"""All that has been heard of one cluster, and the picture that it makes. Pure: time is an argument.

What comes from the network is a `Report`; the same reports at the same times make the same pictures, which is how a recording is
played back. `take` may be called at any rate; `tick` once an interval: it alone moves alarms and trends on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ravelctl.dashboard.alarms import Alarm, AlarmBook, Rules
from ravelctl.dashboard.model import ClusterView, ReplicaView, Severity, Sight, cluster_view
from ravelpb.v1 import cluster_pb2 as pb

EVENTS_MAX: Final = 1_000
SAMPLES_MAX: Final = 600
"""Of each trend: ten minutes at one a second."""
SKEW_NOTED_MS: Final = 1_000
"""A host's wall clock that differs by less is taken as ours: the way of a frame takes time too."""
CLUSTER: Final = ""
"""The subject of trends and events that belong to no replica."""

KINDS: Final[Mapping[int, str]] = {
    pb.SERVER: "server",
    pb.ELECTION: "election",
    pb.LEADERSHIP: "election",
    pb.MEMBERSHIP: "membership",
    pb.SNAPSHOTS: "snapshot",
    pb.ALARM: "alarm",
    pb.ACTION: "action",
}
FILTERS: Final = ("all", "election", "membership", "snapshot", "alarm", "action")


# --- what comes in


@dataclass(frozen=True, slots=True)
class Heard:
    """A daemon said how it does."""

    address: str
    status: pb.StatusResponse


@dataclass(frozen=True, slots=True)
class Told:
    """A daemon told what happened."""

    address: str
    events: tuple[pb.Event, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """A daemon cannot be reached, or no longer."""

    address: str
    error: str


@dataclass(frozen=True, slots=True)
class Watched:
    """These addresses are asked from now on, and no others."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that happened at this screen: an action, and what became of it."""

    kind: str
    text: str
    grave: bool = False


Report = Heard | Told | Lost | Watched | Noted


# --- what comes out


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of the list of events. `at_ms` is by our wall clock."""

    at_ms: int
    who: str
    kind: str
    text: str
    severity: Severity = Severity.OK
    subject: str = CLUSTER  # the key of the replica


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything a screen shows. Trends: newest last, None where it was not known."""

    view: ClusterView
    alarms: tuple[Alarm, ...]
    events: tuple[Happening, ...]  # oldest first
    trends: Mapping[tuple[str, str], tuple[float | None, ...]]
    now_s: float
    wall_ms: int
    frames: int = field(compare=False)  # status frames that came in so far

    def trend(self, name: str, subject: str = CLUSTER) -> tuple[float | None, ...]:
        return self.trends.get((name, subject), ())

    @property
    def counts(self) -> tuple[int, int]:
        """Alarms that are critical, and that are warnings."""
        return sum(a.severity is Severity.CRIT for a in self.alarms), sum(a.severity is Severity.WARN for a in self.alarms)


class Observer:
    """Owned by one task. `interval_s` is how often frames are asked for."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.frames = 0
        self.happened = 0  # events so far: grows with each
        self._sights: dict[str, Sight] = {}
        self._events: deque[Happening] = deque(maxlen=EVENTS_MAX)
        self._raw: deque[tuple[str, pb.Event]] = deque(maxlen=EVENTS_MAX)
        self._seen: dict[tuple[str, str, int], None] = {}
        self._skews: dict[str, int] = {}
        self._trends: dict[tuple[str, str], deque[float | None]] = {}
        self._rules = Rules()
        self._book = AlarmBook()

    # --- in

    def take(self, report: Report, at_s: float, wall_ms: int) -> None:
        match report:
            case Heard():
                self._hear(report, at_s, wall_ms)
            case Told():
                for event in report.events:
                    self._tell(report.address, event, wall_ms)
            case Lost():
                self._lose(report, at_s)
            case Watched():
                self._watch(report.addresses, at_s)
            case Noted():
                severity = Severity.CRIT if report.grave else Severity.OK
                self._insert(Happening(wall_ms, "you", report.kind, report.text, severity))

    def _hear(self, report: Heard, at_s: float, wall_ms: int) -> None:
        self.frames += 1
        old = self._sights.get(report.address)
        before = old.status if old is not None else None
        same = before is not None and before.boot_id == report.status.boot_id
        # A status that was asked for between two frames says nothing new: rates need the frame before it.
        if same and before is not None and before.counters.monotonic_ms == report.status.counters.monotonic_ms:
            before = old.before if old is not None else None
        self._sights[report.address] = Sight(report.address, report.status, before if same else None, at_s)
        self._skews[report.address] = report.status.wall_ms - wall_ms if report.status.wall_ms else 0

    def _lose(self, report: Lost, at_s: float) -> None:
        old = self._sights.get(report.address) or Sight(report.address, heard_s=at_s)
        since_s = old.silent_since_s if old.error else at_s if old.status is None else max(old.heard_s, at_s - self.interval_s)
        self._sights[report.address] = replace(old, error=report.error, silent_since_s=since_s, before=None)

    def _watch(self, addresses: Sequence[str], at_s: float) -> None:
        for gone in self._sights.keys() - set(addresses):
            del self._sights[gone]
        for new in addresses:
            self._sights.setdefault(new, Sight(new, heard_s=at_s))

    def _tell(self, address: str, event: pb.Event, wall_ms: int) -> None:
        """Each event once, in the order of our own clock: a host whose clock is wrong is set right by what it is wrong by."""
        key = (address, event.boot_id, event.sequence)
        if key in self._seen:
            return
        self._seen[key] = None
        while len(self._seen) > 4 * EVENTS_MAX:
            del self._seen[next(iter(self._seen))]
        skew_ms = self._skews.get(address, 0)
        at_ms = event.wall_ms - (skew_ms if abs(skew_ms) >= SKEW_NOTED_MS else 0)
        sight = self._sights.get(address)
        server = sight.status.server if sight is not None and sight.status is not None else None
        who = server.name if server is not None else address
        subject = server.server_id if server is not None else address
        severity = Severity.WARN if event.kind == pb.ALARM and "clear" not in event.name else Severity.OK
        kind = KINDS.get(event.kind, "other")
        self._insert(Happening(min(at_ms, wall_ms), who, kind, event.text or event.name, severity, subject))
        self._raw.append((address, event))

    def _insert(self, happening: Happening) -> None:
        """In the order of time; nearly always at the end."""
        self.happened += 1
        late = []
        while self._events and self._events[-1].at_ms > happening.at_ms:
            late.append(self._events.pop())
        self._events.append(happening)
        self._events.extend(reversed(late))

    # --- out

    def tick(self, now_s: float, wall_ms: int) -> Picture:
        """One interval has passed: alarms are judged, trends go on."""
        view = cluster_view(list(self._sights.values()), now_s, self.interval_s)
        raised, cleared = self._book.update(self._rules.broken(view, now_s), now_s)
        for alarm in raised:
            text = f"{alarm.severity.name} {alarm.breach.text}"
            self._insert(Happening(wall_ms, _name(view, alarm), "alarm", text, alarm.severity, alarm.breach.subject))
        for alarm in cleared:
            text = f"cleared: {alarm.breach.text}"
            self._insert(Happening(wall_ms, _name(view, alarm), "alarm", text, subject=alarm.breach.subject))
        for key, value in _samples(view):
            self._trends.setdefault(key, deque(maxlen=SAMPLES_MAX)).append(value)
        return self._picture(view, now_s, wall_ms)

    def picture(self, now_s: float, wall_ms: int) -> Picture:
        """As things stand, between two ticks."""
        return self._picture(cluster_view(list(self._sights.values()), now_s, self.interval_s), now_s, wall_ms)

    def _picture(self, view: ClusterView, now_s: float, wall_ms: int) -> Picture:
        standing = self._book.standing
        worst: dict[str, Severity] = {}
        for alarm in standing:
            worst[alarm.breach.subject] = max(worst.get(alarm.breach.subject, Severity.OK), alarm.severity)
        rows = tuple(replace(row, severity=worst[row.key]) if row.key in worst else row for row in view.replicas)
        leader = next((row for row in rows if view.leader is not None and row.key == view.leader.key), None)
        shown = replace(view, replicas=rows, leader=leader)
        trends = {key: tuple(samples) for key, samples in self._trends.items()}
        return Picture(shown, standing, tuple(self._events), trends, now_s, wall_ms, self.frames)

    def acknowledge(self, shown: int) -> int:
        """The first `shown` alarms have been seen; returns how many of them were new."""
        return self._book.acknowledge(shown)

    @property
    def sights(self) -> tuple[Sight, ...]:
        return tuple(self._sights.values())

    def sight(self, address: str) -> Sight | None:
        return self._sights.get(address)

    def whole(self) -> Iterator[tuple[float, Report]]:
        """Reports, with their times, that bring a new observer to where this one is: what a recording can be entered with."""
        yield 0.0, Watched(tuple(self._sights))
        for sight in self._sights.values():
            if sight.status is not None:
                yield sight.heard_s, Heard(sight.address, sight.status)
            if sight.error:
                yield sight.silent_since_s, Lost(sight.address, sight.error)
        for address, event in self._raw:
            yield 0.0, Told(address, (event,))


def _name(view: ClusterView, alarm: Alarm) -> str:
    row = view.replica(alarm.breach.subject)
    return row.name if row is not None else view.name or "cluster"


def _samples(view: ClusterView) -> Iterable[tuple[tuple[str, str], float | None]]:
    lags = [row.lag_ms for row in view.replicas if row.lag_ms is not None and row.voter]
    syncs = [us for row in view.replicas if (us := _happened(row.fsync_p99_us)) is not None and row.fresh]
    yield ("lag", CLUSTER), max(lags) / 1000 if lags else 0.0 if view.leader is not None and view.voters == 1 else None
    yield ("writes", CLUSTER), view.writes_s
    yield ("fsync", CLUSTER), max(syncs) / 1000 if syncs else None
    for row in view.replicas:
        yield from _row_samples(row)


def _row_samples(row: ReplicaView) -> Iterable[tuple[tuple[str, str], float | None]]:
    sync = _happened(row.fsync_p99_us)
    yield ("lag", row.key), row.lag_ms / 1000 if row.lag_ms is not None else None
    yield ("fsync", row.key), sync / 1000 if sync is not None and row.fresh else None


def _happened(p99_us: int | None) -> int | None:
    return None if p99_us is None or p99_us < 0 else p99_us
