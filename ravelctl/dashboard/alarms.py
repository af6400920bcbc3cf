"""What deserves an operator's attention: the rules, and the book that raises and clears alarms. Pure.

A rule says what is wrong in one view. An alarm is raised once a rule has been broken in two views one after the other (a broken
promise of safety at once), and cleared once it has been kept for ten seconds, so that nothing flickers at a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from ravelctl.cli.output import count_text
from ravelctl.dashboard.figures import count, micros, span
from ravelctl.dashboard.model import ClusterView, Freshness, ReplicaView, Role, Severity
from ravelpb.v1 import cluster_pb2 as pb

LAG_WARN_MS: Final = 2_000
LAG_CRIT_MS: Final = 10_000
LAG_ENTRIES: Final = 250
CONTACT_WARN_MS: Final = 200
CONTACT_HEARTBEATS: Final = 3
FSYNC_WARN_US: Final = 10_000
FSYNC_CRIT_US: Final = 25_000
DB_WARN: Final = 0.80
DB_CRIT: Final = 0.95
SNAPSHOT_STALLED_S: Final = 10.0
ELECTIONS_1H: Final = 3
APPLY_GAP_SAMPLES: Final = 5
APPLY_GAP_LEAST: Final = 100
"""Entries: a gap between commit and applied is one only above this, or every burst would be."""
BREACHES_TO_RAISE: Final = 2
CALM_S: Final = 10.0
SEEN_HERE: Final = frozenset(f"RV{number}" for number in (103, 201, 202, 203, 204, 205, 207, 301, 302, 303, 304, 401))
"""Alarms of daemons whose rules are judged here, too: told twice they would hide others."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that one view breaks."""

    rule: str
    subject: str  # the key of the replica, or empty: the cluster
    severity: Severity
    text: str
    brief: str  # the same for a narrow screen
    at_once: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.rule, self.subject


@dataclass(frozen=True, slots=True)
class Alarm:
    breach: Breach
    since_s: float  # when it was raised
    calm_since_s: float | None = None  # since when the rule is kept again
    acknowledged: bool = False

    @property
    def severity(self) -> Severity:
        return self.breach.severity


# --- thresholds of one replica, also used to colour its figures


def lag_severity(row: ReplicaView, view: ClusterView | None) -> Severity:
    """A replica that installs a snapshot, or a learner that catches up, is behind by design."""
    if row.lag is None or not row.voter or row.state.startswith("snap"):
        return Severity.OK
    if row.lag_ms is not None and row.lag_ms >= LAG_CRIT_MS:
        return Severity.CRIT
    second = view.writes_s if view is not None and view.writes_s is not None else 0.0
    behind = view is not None and row.lag > max(LAG_ENTRIES, second)
    return Severity.WARN if behind or (row.lag_ms is not None and row.lag_ms >= LAG_WARN_MS) else Severity.OK


def fsync_severity(row: ReplicaView) -> Severity:
    p99 = row.fsync_p99_us
    if p99 is None or not row.fresh:
        return Severity.OK
    return Severity.CRIT if p99 >= FSYNC_CRIT_US else Severity.WARN if p99 >= FSYNC_WARN_US else Severity.OK


def db_severity(row: ReplicaView) -> Severity:
    if row.db_used is None or not row.db_max:
        return Severity.OK
    share = row.db_used / row.db_max
    return Severity.CRIT if share >= DB_CRIT else Severity.WARN if share >= DB_WARN else Severity.OK


# --- rules


class Rules:
    """The rules, and the little that they must remember between views: how long a transfer stands still, how a gap grows."""

    def __init__(self) -> None:
        self._snapshots: dict[str, tuple[int, float]] = {}
        self._gaps: dict[str, list[int]] = {}
        self._claims: dict[str, float] = {}

    def broken(self, view: ClusterView, now_s: float) -> list[Breach]:
        found = list(_of_cluster(view))
        for row in view.replicas:
            found += [*_of_row(row, view), *self._claim(row, view, now_s), *self._stalled(row, now_s), *self._gap(row)]
        return found

    def _claim(self, row: ReplicaView, view: ClusterView, now_s: float) -> Iterator[Breach]:
        """A leader in a lower term: a moment after an election that is normal, after an election timeout it is not."""
        if row.role is not Role.CLAIMS or row.term is None or view.term is None or row.term >= view.term:
            self._claims.pop(row.key, None)
            return
        since_s = self._claims.setdefault(row.key, now_s)
        timeout_s = (row.status.election_timeout_ms if row.status is not None else 0) / 1000
        severity = Severity.CRIT if now_s - since_s > timeout_s else Severity.WARN
        text = f"{row.name} claims leadership in term {row.term} < {view.term}"
        yield Breach("claim", row.key, severity, text, f"{row.name} leader@{row.term}<{view.term}")

    def _stalled(self, row: ReplicaView, now_s: float) -> Iterator[Breach]:
        if not row.state.startswith("snap"):
            self._snapshots.pop(row.key, None)
            return
        sent, since_s = self._snapshots.get(row.key, (-1, now_s))
        if sent != row.snapshot_sent:
            self._snapshots[row.key] = (row.snapshot_sent, now_s)
        elif now_s - since_s >= SNAPSHOT_STALLED_S:
            text = f"snapshot to {row.name} has stood still for {span(now_s - since_s)} at {row.state.removeprefix('snap-')}"
            yield Breach("snapshot", row.key, Severity.WARN, text, f"{row.name} snapshot stalled")

    def _gap(self, row: ReplicaView) -> Iterator[Breach]:
        if row.commit is None or row.applied is None or not row.fresh:
            self._gaps.pop(row.key, None)
            return
        gaps = self._gaps.setdefault(row.key, [])
        gaps.append(row.commit - row.applied)
        del gaps[:-APPLY_GAP_SAMPLES]
        grows = all(before < after for before, after in pairwise(gaps))
        if len(gaps) == APPLY_GAP_SAMPLES and grows and gaps[-1] > APPLY_GAP_LEAST:
            text = f"{row.name} applies more slowly than it commits: {count(gaps[-1])} entries wait"
            yield Breach("apply", row.key, Severity.WARN, text, f"{row.name} apply -{count(gaps[-1], 6)}")


def _of_cluster(view: ClusterView) -> Iterator[Breach]:
    for term, names in view.rivals:
        text = f"SAFETY two leaders in term {term}: {' and '.join(names)}"
        yield Breach("safety", str(term), Severity.CRIT, text, f"SAFETY {'+'.join(names)} lead {term}", at_once=True)
    if view.leader is None and not view.leader_named and view.voters and view.answering:
        since = "" if view.leaderless_s is None else f" for {span(view.leaderless_s)}"
        yield Breach("leader", "", Severity.CRIT, f"no leader{since}", f"no leader{since}")
    elif view.leader is None and view.leader_named and view.answering:
        text = f"the leader {view.leader_named} cannot be asked from here"
        yield Breach("leader-unseen", "", Severity.WARN, text, f"leader {view.leader_named} unseen")
    if view.acknowledging is not None and view.acknowledging < view.quorum:
        text = f"no quorum: {view.acknowledging} of {view.voters} voters answer the leader, {view.quorum} are needed"
        yield Breach("quorum", "", Severity.CRIT, text, f"quorum {view.acknowledging}<{view.quorum}")
    if view.elections_1h is not None and view.elections_1h > ELECTIONS_1H:
        text = f"{view.elections_1h} elections within an hour"
        yield Breach("elections", "", Severity.WARN, text, f"{view.elections_1h} elections/h")
    if view.voters and view.voters % 2 == 0:
        text = f"{view.voters} voters: an even number tolerates no more failures than {view.voters - 1}"
        yield Breach("even", "", Severity.WARN, text, f"{view.voters} voters, even")


def _of_row(row: ReplicaView, view: ClusterView) -> Iterator[Breach]:
    if row.role in (Role.BLANK, Role.REMOVED):
        return
    if row.freshness is Freshness.DOWN:
        if view.voters:  # before, nothing is known of whom that concerns
            yield _unreachable(row, view)
    elif row.freshness is Freshness.STALE:
        text = f"{row.name} has sent nothing for {span(row.age_s)}"
        yield Breach("reach", row.key, Severity.WARN, text, f"{row.name} silent {span(row.age_s)}")
    elif row.state in ("LOST", "never-met"):
        since = "" if row.contact_ms is None else f" for {span(row.contact_ms / 1000)}"
        yield Breach(
            "reach", row.key, Severity.CRIT, f"the leader has not heard {row.name}{since}", f"{row.name} lost{since[4:]}"
        )
    else:
        yield from _slow(row, view)
    if severity := fsync_severity(row):
        yield Breach("fsync", row.key, severity, f"{row.name} fsync p99 {micros(row.fsync_p99_us or 0)}", f"{row.name} fsync")
    if severity := db_severity(row):
        share = f"{(row.db_used or 0) / row.db_max:.0%}"
        yield Breach("db", row.key, severity, f"{row.name} store {share} full", f"{row.name} db {share}")
    for alarm in row.status.alarms if row.status is not None else ():
        if alarm.code not in SEEN_HERE:
            yield _servers_own(row, alarm)


def _unreachable(row: ReplicaView, view: ClusterView) -> Breach:
    name, since = row.name, span(row.age_s)
    if row.state not in ("?",) and not row.state.startswith("DOWN"):
        return Breach("reach", row.key, Severity.WARN, f"{name} does not answer here, but the leader hears it", f"{name} unseen")
    spare = None if view.acknowledging is None else view.acknowledging - view.quorum
    if not row.voter:
        return Breach("reach", row.key, Severity.WARN, f"{name} unreachable {since}", f"{name} down {since}")
    if spare is None or spare <= 0:
        rest = " (1 more loss = no quorum)" if spare == 0 else ""
        return Breach("reach", row.key, Severity.CRIT, f"{name} unreachable {since}{rest}", f"{name} down {since}")
    rest = f" (quorum survives {count_text(spare, 'more loss', 'more losses')})"
    return Breach("reach", row.key, Severity.WARN, f"{name} unreachable {since}{rest}", f"{name} down {since}")


def _slow(row: ReplicaView, view: ClusterView) -> Iterator[Breach]:
    if severity := lag_severity(row, view):
        seconds = "" if row.lag_ms is None else f" {row.lag_ms / 1000:.1f}s"
        limit = LAG_CRIT_MS if severity is Severity.CRIT else LAG_WARN_MS
        if row.lag_ms is not None and row.lag_ms >= LAG_WARN_MS:
            text = f"{row.name} lag{seconds}>{limit // 1000}s"
        else:
            text = f"{row.name} lag {count(row.lag or 0)} entries"
        yield Breach("lag", row.key, severity, text, f"{row.name} lag{seconds or ' ' + count(row.lag or 0, 6)}")
    heartbeat_ms = view.leader.status.heartbeat_ms if view.leader is not None and view.leader.status is not None else 0
    limit_ms = max(CONTACT_WARN_MS, CONTACT_HEARTBEATS * heartbeat_ms)
    if row.contact_ms is not None and row.contact_ms > limit_ms and row.role not in (Role.LEADER, Role.CLAIMS):
        text = f"{row.name} last heard {row.contact_ms}ms ago, limit {limit_ms}ms"
        yield Breach("contact", row.key, Severity.WARN, text, f"{row.name} contact {span(row.contact_ms / 1000)}")


def _servers_own(row: ReplicaView, alarm: pb.Alarm) -> Breach:
    """As severe as the daemon says; of an older one, which does not say, the worst is believed."""
    severity = Severity.WARN if alarm.severity in (pb.NOTICE, pb.WARNING) else Severity.CRIT
    return Breach(alarm.code, row.key, severity, f"{row.name} {alarm.code} {alarm.message}", f"{row.name} {alarm.code}")


# --- raise and clear


class AlarmBook:
    """Which alarms stand. `update` once for each new view."""

    def __init__(self) -> None:
        self._breached: dict[tuple[str, str], int] = {}
        self._alarms: dict[tuple[str, str], Alarm] = {}

    def update(self, breaches: Sequence[Breach], now_s: float) -> tuple[list[Alarm], list[Alarm]]:
        """Those that were raised by this, and those that were cleared."""
        by_key = {breach.key: breach for breach in breaches}
        self._breached = {key: self._breached.get(key, 0) + 1 for key in by_key}
        raised, cleared = [], []
        for key, breach in by_key.items():
            standing = self._alarms.get(key)
            if standing is not None:
                worse = breach.severity > standing.severity
                self._alarms[key] = replace(
                    standing, breach=breach, calm_since_s=None, acknowledged=standing.acknowledged and not worse
                )
            elif breach.at_once or self._breached[key] >= BREACHES_TO_RAISE:
                self._alarms[key] = alarm = Alarm(breach, now_s)
                raised.append(alarm)
        for key, alarm in list(self._alarms.items()):
            if key in by_key:
                continue
            calm_since_s = now_s if alarm.calm_since_s is None else alarm.calm_since_s
            if now_s - calm_since_s >= CALM_S:
                cleared.append(self._alarms.pop(key))
            elif alarm.calm_since_s is None:
                self._alarms[key] = replace(alarm, calm_since_s=calm_since_s)
        return raised, cleared

    def acknowledge(self, shown: int) -> int:
        """The operator has seen the first `shown` of `standing`; returns how many of them were new to them."""
        fresh = [alarm.breach.key for alarm in self.standing[:shown] if not alarm.acknowledged]
        for key in fresh:
            self._alarms[key] = replace(self._alarms[key], acknowledged=True)
        return len(fresh)

    @property
    def standing(self) -> tuple[Alarm, ...]:
        """What is amiss now before what is over, the gravest first, of equals the one that was raised first."""
        return tuple(sorted(self._alarms.values(), key=_gravity))


def _gravity(alarm: Alarm) -> tuple[object, ...]:
    return alarm.acknowledged, alarm.calm_since_s is not None, -alarm.severity, alarm.since_s, alarm.breach.key
