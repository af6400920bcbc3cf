"""What deserves an operator's eye: found by looking at a status once a second, raised and cleared with hysteresis.

`Lookout` finds breaches: pure, but for what it remembers of the look before. `AlarmBoard` raises an alarm at its second breach
in a row and clears it after ten seconds of calm, so that a single slow save, or a follower that was away for a moment, wakes
nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Final, NamedTuple

from ravel_node.raft import Index, ProgressState, ReplicaId, Role
from ravel_node.replica.events import EventKind, EventLog
from ravel_node.replica.status import Alarm, MemberRole, PeerView, ReplicaStatus
from ravelpb.alarms import KIND_OF

LOOK_S: Final = 1.0
BREACHES_TO_RAISE: Final = 2
CALM_S: Final = 10.0

QUOTA_WARN: Final = 0.80
QUOTA_CRITICAL: Final = 0.95
FSYNC_WARN_US: Final = 10_000
FSYNC_CRITICAL_US: Final = 25_000
FSYNC_SAVES_MIN: Final = 20  # within ten seconds: of fewer, one alone would be the worst hundredth
LAG_WARN_S: Final = 2.0
LAG_CRITICAL_S: Final = 10.0
SNAPSHOT_STALLED_S: Final = 10.0
ELECTIONS_1H_MAX: Final = 3
APPLY_GAP_MIN: Final = 1_000  # entries


class Breach(NamedTuple):
    """A bound that does not hold at one look."""

    code: str
    subject: ReplicaId
    message: str


class Lookout:
    """Finds what is amiss. Called with every look's status, in order."""

    def __init__(self, name_of: Callable[[ReplicaId], str]) -> None:
        self._name_of = name_of
        self._apply_gap = 0  # at the look before
        self._snapshots: dict[ReplicaId, tuple[Index, int, float]] = {}  # index, bytes, and since when they are so many

    def look(self, status: ReplicaStatus, now: float) -> Sequence[Breach]:
        """Every breach; of two that differ in degree, both."""
        found = [*self._own(status), *self._apply(status)]
        if status.role is Role.LEADER:
            found += [breach for peer in status.progress for breach in self._peer(status, peer, now)]
            found += self._membership(status)
        if status.role is Role.LEADER or not status.leader_id:
            found += self._elections(status)
        self._snapshots = {
            peer: seen
            for peer, seen in self._snapshots.items()
            if any(view.replica_id == peer and view.snapshot_index for view in status.progress)
        }
        return found

    def _own(self, status: ReplicaStatus) -> Iterable[Breach]:
        used, most, own = status.db_used_bytes, status.db_size_max_bytes, status.replica_id
        if used >= QUOTA_WARN * most:
            yield Breach("RV301", own, f"the store holds {used} of {most} bytes")
        if used >= QUOTA_CRITICAL * most:
            yield Breach("RV302", own, f"the store holds {used} of {most} bytes; at --db-size-max writes are refused")
        fsync = status.fsync
        slow = f"the slowest hundredth of {fsync.count} saves within 10 s took {fsync.p99_us / 1000:.1f} ms or more"
        if fsync.count >= FSYNC_SAVES_MIN and fsync.p99_us >= FSYNC_WARN_US:
            yield Breach("RV303", own, slow)
        if fsync.count >= FSYNC_SAVES_MIN and fsync.p99_us >= FSYNC_CRITICAL_US:
            yield Breach("RV304", own, slow)
        if status.saving_s > status.election_timeout_s:
            yield Breach("RV305", own, f"a save has not finished for {status.saving_s:.1f} s")

    def _apply(self, status: ReplicaStatus) -> Iterable[Breach]:
        gap = status.commit_index - status.applied_index
        before, self._apply_gap = self._apply_gap, gap
        if gap >= max(APPLY_GAP_MIN, before):
            yield Breach("RV205", status.replica_id, f"{gap} committed entries are not applied yet, {before} were a moment ago")

    def _elections(self, status: ReplicaStatus) -> Iterable[Breach]:
        if status.elections_1h > ELECTIONS_1H_MAX:
            yield Breach("RV103", status.replica_id, f"{status.elections_1h} elections were seen within the last hour")

    def _membership(self, status: ReplicaStatus) -> Iterable[Breach]:
        voters = sum(member.role is MemberRole.VOTER for member in status.members)
        if voters and voters % 2 == 0 and not any(member.role is MemberRole.LEAVING for member in status.members):
            bears = (voters - 1) // 2
            failures = "1 failure" if bears == 1 else f"{bears} failures"
            yield Breach("RV401", status.replica_id, f"{voters} voters bear {failures}, as {voters - 1} would")

    def _peer(self, status: ReplicaStatus, peer: PeerView, now: float) -> Iterable[Breach]:
        name, silent_s = self._name_of(peer.replica_id), peer.contact_age_s
        if silent_s is None:
            silent_s = status.leader_age_s
        if silent_s > status.election_timeout_s:
            yield Breach("RV201", peer.replica_id, f"{name} has not answered for {silent_s:.1f} s")
        if peer.contact_age_s is not None and peer.state != ProgressState.SNAPSHOT:
            least = "at least " if peer.lag.bytes_is_least else ""
            behind = f"{name} is {peer.lag.seconds:.1f} s behind: {peer.lag.entries} entries, {least}{peer.lag.bytes} bytes"
            if peer.lag.seconds >= LAG_WARN_S:
                yield Breach("RV202", peer.replica_id, behind)
            if peer.lag.seconds >= LAG_CRITICAL_S:
                yield Breach("RV203", peer.replica_id, behind)
        if peer.snapshot_index:
            index, sent, since = self._snapshots.get(peer.replica_id, (Index(0), 0, now))
            if (index, sent) != (peer.snapshot_index, peer.snapshot_sent_bytes):
                since = now
            self._snapshots[peer.replica_id] = (peer.snapshot_index, peer.snapshot_sent_bytes, since)
            if now - since >= SNAPSHOT_STALLED_S:
                of = f"{peer.snapshot_sent_bytes} of {peer.snapshot_size_bytes} bytes"
                yield Breach(
                    "RV204", peer.replica_id, f"snapshot {peer.snapshot_index} to {name} stands at {of} for {now - since:.0f} s"
                )


class _Standing:
    """One alarm: raised, or about to be."""

    __slots__ = ("breached_at", "breaches", "message", "raised_at")

    def __init__(self) -> None:
        self.breaches = 0  # in a row
        self.breached_at = 0.0
        self.raised_at: float | None = None
        self.message = ""

    def told(self, now: float) -> str:
        """What was amiss at the last look that found it, and for how long that is past: nobody should take it for the present."""
        if self.breaches or not isfinite(self.breached_at):
            return self.message
        return f"{self.message}; over for {now - self.breached_at:.0f} s"


class AlarmBoard:
    """Which alarms are raised. Times in seconds of one monotonic clock."""

    def __init__(self, events: EventLog, name_of: Callable[[ReplicaId], str]) -> None:
        self._events = events
        self._name_of = name_of
        self._all: dict[tuple[str, ReplicaId], _Standing] = {}

    def looked(self, breaches: Iterable[Breach], now: float) -> None:
        """Take note of one look: of everything that was amiss then."""
        found = {(breach.code, breach.subject): breach.message for breach in breaches}
        for key, message in found.items():
            standing = self._all.setdefault(key, _Standing())
            standing.breaches += 1
            standing.breached_at, standing.message = now, message
            if standing.raised_at is None and standing.breaches >= BREACHES_TO_RAISE:
                standing.raised_at = now
                self._tell(key, "alarm-raised", message)
        for key in self._all.keys() - found.keys():
            standing = self._all[key]
            standing.breaches = 0
            if standing.raised_at is None or now - standing.breached_at >= CALM_S:
                self._clear(key)

    def raise_now(self, breach: Breach, now: float) -> None:
        """An alarm that one happening is enough for. It stays until something clears it."""
        standing = self._all.setdefault((breach.code, breach.subject), _Standing())
        standing.message = breach.message
        standing.breached_at = float("inf")  # no calm clears it
        if standing.raised_at is None:
            standing.raised_at = now
            self._tell((breach.code, breach.subject), "alarm-raised", breach.message)

    def clear(self, code: str, subject: ReplicaId) -> None:
        """It is over. One that does not stand is no error."""
        if (code, subject) in self._all:
            self._clear((code, subject))

    def leadership_ended(self) -> None:
        """What a leader alone can see is seen no more."""
        for key in [key for key in self._all if KIND_OF[key[0]].leader_only]:
            self._clear(key)

    def raised(self, now: float) -> Sequence[Alarm]:
        """By code, without those that a worse one hides."""
        raised = {key: one for key, one in self._all.items() if one.raised_at is not None}
        hidden = {(KIND_OF[code].lesser, subject) for code, subject in raised}
        return [
            Alarm(code, one.told(now), subject, KIND_OF[code].severity, now - (one.raised_at or now))
            for (code, subject), one in sorted(raised.items())
            if (code, subject) not in hidden
        ]

    def _clear(self, key: tuple[str, ReplicaId]) -> None:
        standing = self._all.pop(key)
        if standing.raised_at is not None:
            self._tell(key, "alarm-cleared", f"over: {KIND_OF[key[0]].meaning}")

    def _tell(self, key: tuple[str, ReplicaId], name: str, text: str) -> None:
        code, subject = key
        severity = KIND_OF[code].severity.name.lower()
        fields = {"code": code, "subject_id": subject, "subject": self._name_of(subject), "severity": severity}
        self._events.record(EventKind.ALARM, name, f"{code} {text}", fields)
