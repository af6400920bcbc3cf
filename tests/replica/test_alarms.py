"""Which statuses are alarming, and when an alarm is raised and cleared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ravel_node.raft import Index, ReplicaId, Role
from ravel_node.replica.alarms import CALM_S, AlarmBoard, Breach, Lookout
from ravel_node.replica.events import EventLog
from ravel_node.replica.histogram import LatencySummary
from ravel_node.replica.status import Member, MemberRole, PeerView, ReplicaStatus
from ravel_node.replica.trail import Lag
from ravelpb.alarms import KIND_OF, KINDS, AlarmKind, Severity
from tests.replica.cluster import record
from tests.server.fakes import FakeHost

OWN = ReplicaId(1)


def name_of(replica_id: ReplicaId) -> str:
    return f"n{replica_id}"


def peer(number: int = 2, **more: Any) -> PeerView:
    view = PeerView(
        replica_id=ReplicaId(number),
        state=1,
        match=Index(90),
        next=Index(91),
        paused=False,
        recent_active=True,
        inflight=0,
        inflight_max=64,
        contact_age_s=0.1,
        snapshot_index=Index(0),
        snapshot_sent_bytes=0,
        snapshot_size_bytes=0,
    )
    return replace(view, **more)


def status(**more: Any) -> ReplicaStatus:
    """A healthy leader of three."""
    calm: dict[str, Any] = {
        "members": tuple(Member(record(number), MemberRole.VOTER) for number in (1, 2, 3)),
        "progress": (peer(2), peer(3)),
        "db_used_bytes": 10,
        "db_size_max_bytes": 100,
        "elections_1h": 1,
        "commit_index": Index(10),
        "applied_index": Index(9),
    }
    return replace(FakeHost().fake.status(), **{**calm, **more})


def codes(*statuses: ReplicaStatus, apart_s: float = 1.0) -> Sequence[str]:
    """What the last of these looks finds."""
    lookout = Lookout(name_of)
    found: Sequence[Breach] = ()
    for number, one in enumerate(statuses):
        found = lookout.look(one, 50.0 + number * apart_s)
    return [breach.code for breach in found]


def slow(p99_us: int, count: int = 100) -> LatencySummary:
    return LatencySummary(count, 1_000, p99_us, p99_us)


def behind(seconds: float) -> Lag:
    return Lag(5, 50, False, seconds, False)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (status(), []),
        (status(db_used_bytes=79), []),
        (status(db_used_bytes=80), ["RV301"]),
        (status(db_used_bytes=95), ["RV301", "RV302"]),
        (status(fsync=slow(9_999)), []),
        (status(fsync=slow(10_000)), ["RV303"]),
        (status(fsync=slow(25_000)), ["RV303", "RV304"]),
        (status(fsync=slow(25_000, count=3)), []),  # one slow save among three is not a habit
        (status(saving_s=0.9), ["RV305"]),
        (status(progress=(peer(contact_age_s=0.9),)), ["RV201"]),
        (status(progress=(peer(contact_age_s=None),)), ["RV201"]),  # not once since this leader began
        (status(progress=(peer(contact_age_s=None),), leader_age_s=0.1), []),
        (status(progress=(peer(lag=behind(1.9)),)), []),
        (status(progress=(peer(lag=behind(2.0)),)), ["RV202"]),
        (status(progress=(peer(lag=behind(10.0)),)), ["RV202", "RV203"]),
        (status(progress=(peer(lag=behind(99.0), state=2),)), []),  # it is being sent a snapshot
        (status(progress=(peer(lag=behind(99.0)),), role=Role.FOLLOWER), []),
        (status(members=tuple(Member(record(number), MemberRole.VOTER) for number in (1, 2))), ["RV401"]),
        (status(elections_1h=4), ["RV103"]),
        (status(elections_1h=4, role=Role.FOLLOWER), []),  # its leader tells
        (status(elections_1h=4, role=Role.FOLLOWER, leader_id=ReplicaId(0)), ["RV103"]),
    ],
)
def test_what_is_amiss_in_one_look(found: ReplicaStatus, expected: Sequence[str]) -> None:
    assert codes(found) == expected


def test_a_snapshot_that_does_not_move() -> None:
    at = peer(snapshot_index=Index(9), snapshot_sent_bytes=100, snapshot_size_bytes=200)
    on = replace(at, snapshot_sent_bytes=101)
    assert codes(status(progress=(at,)), status(progress=(at,)), apart_s=9.0) == []
    assert codes(status(progress=(at,)), status(progress=(at,)), apart_s=10.0) == ["RV204"]
    assert codes(status(progress=(at,)), status(progress=(on,)), apart_s=10.0) == []
    assert codes(status(progress=(at,)), status(), status(progress=(at,)), apart_s=10.0) == []


def test_applying_that_does_not_keep_up() -> None:
    def gap(entries: int) -> ReplicaStatus:
        return status(commit_index=Index(9 + entries))

    assert codes(gap(999)) == []
    assert codes(gap(5_000), gap(6_000)) == ["RV205"]
    assert codes(gap(5_000), gap(4_000)) == [], "it catches up"


class TestBoard:
    def setup_method(self) -> None:
        self.events = EventLog("b" * 16, lambda: 0.0)
        self.board = AlarmBoard(self.events, name_of)

    def told(self) -> list[tuple[str, str]]:
        return [(event.name, event.fields["code"]) for event in self.events.since(0)]

    def raised(self, now: float) -> list[str]:
        return [alarm.code for alarm in self.board.raised(now)]

    def test_the_second_breach_in_a_row_raises(self) -> None:
        breach = Breach("RV202", ReplicaId(2), "n2 is 2.5 s behind")
        self.board.looked([breach], 1.0)
        self.board.looked([], 2.0)
        self.board.looked([breach], 3.0)
        assert self.raised(3.0) == []
        self.board.looked([breach._replace(message="n2 is 3.5 s behind")], 4.0)
        (alarm,) = self.board.raised(6.0)
        assert (alarm.code, alarm.replica_id, alarm.severity, alarm.raised_s) == ("RV202", 2, Severity.WARNING, 2.0)
        assert alarm.message == "n2 is 3.5 s behind"
        assert self.told() == [("alarm-raised", "RV202")]

    def test_ten_seconds_of_calm_clear(self) -> None:
        breach = Breach("RV202", ReplicaId(2), "lag")
        for now in (1.0, 2.0, 3.0):
            self.board.looked([breach], now)
        self.board.looked([], 3.0 + CALM_S - 0.1)
        assert [alarm.message for alarm in self.board.raised(13.0)] == ["lag; over for 10 s"]
        self.board.looked([], 3.0 + CALM_S)
        assert self.raised(13.0) == []
        assert self.told() == [("alarm-raised", "RV202"), ("alarm-cleared", "RV202")]

    def test_the_worse_hides_the_lesser_of_the_same_replica(self) -> None:
        breaches = [Breach(code, ReplicaId(2), "lag") for code in ("RV202", "RV203")] + [Breach("RV202", ReplicaId(3), "lag")]
        for now in (1.0, 2.0):
            self.board.looked(breaches, now)
        assert [(alarm.code, alarm.replica_id) for alarm in self.board.raised(2.0)] == [("RV202", 3), ("RV203", 2)]

    def test_what_a_leader_sees_ends_with_its_leadership(self) -> None:
        for now in (1.0, 2.0):
            self.board.looked([Breach("RV201", ReplicaId(2), "gone"), Breach("RV301", OWN, "full")], now)
        self.board.leadership_ended()
        assert self.raised(2.0) == ["RV301"]
        assert self.told()[-1] == ("alarm-cleared", "RV201")

    def test_one_happening_that_lasts(self) -> None:
        self.board.raise_now(Breach("RV601", OWN, "impossible; 1"), 1.0)
        self.board.raise_now(Breach("RV601", OWN, "impossible; 2"), 2.0)
        self.board.looked([], 1e6)
        (alarm,) = self.board.raised(1e6)
        assert "over for" not in alarm.message
        assert (alarm.code, alarm.message) == ("RV601", "impossible; 2")
        assert self.told() == [("alarm-raised", "RV601")]


def row(kind: AlarmKind) -> str:
    return f"| {kind.code} | {kind.severity.name.lower()} | {kind.meaning} | {kind.cure} |"


def test_the_table_is_whole() -> None:
    assert len(KIND_OF) == len(KINDS)
    assert all(kind.lesser in KIND_OF for kind in KINDS if kind.lesser)
    operations = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    assert [kind.code for kind in KINDS if row(kind) not in operations] == []


def test_a_transfer_that_stands_still_is_found_at_whatever_look_its_time_is_up() -> None:
    """Its time runs from the last byte that moved, however many looks there are meanwhile."""
    lookout = Lookout(name_of)
    found: list[tuple[float, list[str]]] = []
    for now, sent in ((0.0, 10), (4.0, 10), (8.0, 20), (12.0, 20), (17.0, 20), (18.0, 20), (22.0, 20), (23.0, 30)):
        at = peer(3, state=2, snapshot_index=Index(50), snapshot_sent_bytes=sent, snapshot_size_bytes=100)
        found.append(
            (now, [breach.code for breach in lookout.look(status(progress=(peer(2), at)), now) if breach.code == "RV204"])
        )
    assert [now for now, codes in found if codes] == [18.0, 22.0]
