"""Alarms: what raises them, and that nothing flickers at a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest

from ravelctl.dashboard.alarms import AlarmBook, Breach, Rules
from ravelctl.dashboard.model import Severity, Sight, cluster_view
from ravelctl.dashboard.observer import Happening, Observer
from ravelctl.dashboard.panels import alarm_line, together
from ravelctl.dashboard.text import plain
from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.dashboard.scripted import GIB, LAST, Scripted
from tests.ravelctl.dashboard.test_model import NOW_S, made, seen, view_of

BREACH = Breach("lag", "n4", Severity.WARN, "n4 lag 3.8s>2s", "n4 lag")


def test_two_breaches_raise_and_ten_calm_seconds_clear() -> None:
    book = AlarmBook()
    assert book.update([BREACH], 0.0) == ([], [])
    raised, _ = book.update([BREACH], 1.0)
    assert [alarm.breach for alarm in raised] == [BREACH]
    for now_s in (2.0, 5.0, 11.9):
        assert book.update([], now_s) == ([], [])
    _, cleared = book.update([], 12.0)
    assert [alarm.breach for alarm in cleared] == [BREACH]
    assert book.standing == ()


def test_a_breach_in_between_begins_the_calm_anew() -> None:
    book = AlarmBook()
    for now_s in (0.0, 1.0):
        book.update([BREACH], now_s)
    book.update([], 2.0)
    book.update([BREACH], 8.0)
    for now_s in (9.0, 18.9):
        assert book.update([], now_s)[1] == []
    assert book.update([], 19.0)[1] != []


def test_what_is_over_stands_behind_what_is_not_and_says_so() -> None:
    book = AlarmBook()
    over = Breach("reach", "n1", Severity.CRIT, "n1 unreachable 41s", "n1 down 41s")
    for now_s in (0.0, 1.0):
        book.update([over, BREACH], now_s)
    assert [alarm.breach for alarm in book.standing] == [over, BREACH]
    book.update([BREACH], 2.0)
    assert [alarm.breach for alarm in book.standing] == [BREACH, over]
    picture = replace(Observer(1.0).picture(0.0, 0), alarms=book.standing)
    shown, count = alarm_line(picture, 120)
    assert (plain(shown).strip(), count) == ("WARN n4 lag 3.8s>2s · CRIT n1 unreachable 41s (over)", 2)


def test_what_all_replicas_tell_is_one_line() -> None:
    def told(at_ms: int, who: str, text: str) -> Happening:
        return Happening(at_ms, who, "election", text, subject=who)

    leads = [told(10_000 - number, f"n{number}", "n3 leads in term 3") for number in (1, 2, 3)]
    again = [told(5_000, "n3", "n3 leads in term 3"), told(4_900, "n3", "asks"), told(4_800, "n3", "asks")]
    lines = together([*leads, *again], 10)
    assert [(line.who, line.text) for line in lines] == [
        ("n1 n2 n3", "n3 leads in term 3"), ("n3", "n3 leads in term 3"), ("n3", "asks"), ("n3", "asks"),
    ]  # fmt: skip
    assert len(together([*leads, *again], 2)) == 2
    many = [told(1_000, f"server-{number}", "n3 leads in term 3") for number in range(5)]
    assert [line.who for line in together(many, 10)] == ["server-0 +4"]


def test_one_breach_alone_raises_nothing() -> None:
    book = AlarmBook()
    for number in range(20):
        assert book.update([BREACH] if number % 2 else [], float(number))[0] == []


def test_a_broken_promise_of_safety_does_not_wait() -> None:
    book = AlarmBook()
    raised, _ = book.update([Breach("safety", "42", Severity.CRIT, "two leaders", "two", at_once=True)], 0.0)
    assert len(raised) == 1


def test_an_alarm_that_grows_worse_is_new_again() -> None:
    book = AlarmBook()
    for now_s in (0.0, 1.0):
        book.update([BREACH], now_s)
    assert book.acknowledge(1) == 1
    assert book.acknowledge(1) == 0
    book.update([Breach("lag", "n4", Severity.CRIT, "n4 lag 12s>10s", "n4 lag")], 2.0)
    assert not book.standing[0].acknowledged


def lagging(cluster: Scripted) -> None:
    cluster.peer(3).lag(10, ms=2_500)


def far_behind(cluster: Scripted) -> None:
    cluster.peer(3).lag(10, ms=11_000)


def many_entries(cluster: Scripted) -> None:
    cluster.peer(3).lag(251, ms=100)


def out_of_touch(cluster: Scripted) -> None:
    cluster.peer(3).contact(301)


def slow_disk(cluster: Scripted) -> None:
    cluster.replicas[3].fsync_us = 10_000


def very_slow_disk(cluster: Scripted) -> None:
    cluster.replicas[3].fsync_us = 25_000


def full(cluster: Scripted) -> None:
    cluster.replicas[3].db_used = int(6.5 * GIB)


def very_full(cluster: Scripted) -> None:
    cluster.replicas[3].db_used = int(7.7 * GIB)


def elections(cluster: Scripted) -> None:
    cluster.replicas[2].elections_1h = 4


def even(cluster: Scripted) -> None:
    cluster.add()


def not_heard(cluster: Scripted) -> None:
    cluster.peer(3).contact(9_000, active=False)


def of_the_server(cluster: Scripted) -> None:
    cluster.replicas[3].alarms.append(pb.Alarm(code="RV601", message="two leaders in term 42", replica_id=3))


def diverged(cluster: Scripted) -> None:
    cluster.replicas[3].alarms.append(pb.Alarm(code="RV602", message="the states differ", replica_id=3, severity=pb.CRITICAL))


def only_a_warning(cluster: Scripted) -> None:
    cluster.replicas[3].alarms.append(pb.Alarm(code="RV402", message="stands", replica_id=3, severity=pb.WARNING))


@pytest.mark.parametrize(
    ("situation", "severity", "text"),
    [
        (lagging, Severity.WARN, "n3 lag 2.5s>2s"),
        (far_behind, Severity.CRIT, "n3 lag 11.0s>10s"),
        (many_entries, Severity.WARN, "n3 lag 251 entries"),
        (out_of_touch, Severity.WARN, "n3 last heard 301ms ago, limit 300ms"),
        (slow_disk, Severity.WARN, "n3 fsync p99 10ms"),
        (very_slow_disk, Severity.CRIT, "n3 fsync p99 25ms"),
        (full, Severity.WARN, "n3 store 81% full"),
        (very_full, Severity.CRIT, "n3 store 96% full"),
        (elections, Severity.WARN, "4 elections within an hour"),
        (even, Severity.WARN, "6 voters: an even number"),
        (not_heard, Severity.CRIT, "the leader has not heard n3 for 9.0s"),
        (of_the_server, Severity.CRIT, "n3 RV601 two leaders in term 42"),
        (diverged, Severity.CRIT, "n3 RV602 the states differ"),
        (only_a_warning, Severity.WARN, "n3 RV402 stands"),
    ],
)
def test_what_each_rule_says(situation: Callable[[Scripted], None], severity: Severity, text: str) -> None:
    cluster = made()
    situation(cluster)
    (found,) = Rules().broken(view_of(cluster), NOW_S)
    assert found.severity is severity
    assert found.text.startswith(text)


ROW_SITUATIONS = {
    "lag": far_behind,
    "contact": out_of_touch,
    "fsync": very_slow_disk,
    "db": very_full,
    "RV601": of_the_server,
    "RV602": diverged,
    "RV402": only_a_warning,
}


def _broken(cluster: Scripted) -> set[str]:
    return {breach.rule for breach in Rules().broken(view_of(cluster), NOW_S)}


@pytest.mark.parametrize("pair", list(combinations(ROW_SITUATIONS, 2)), ids="-".join)
def test_no_rule_of_a_replica_hides_another(pair: tuple[str, str]) -> None:
    cluster = made()
    for rule in pair:
        ROW_SITUATIONS[rule](cluster)
    assert _broken(cluster) == set(pair)


def test_all_rules_at_once_stand_in_the_book() -> None:
    """Several replicas, several rules of each, and those of the cluster: none is lost on the way to the screen."""
    cluster = made(6)
    for situation in ROW_SITUATIONS.values():
        situation(cluster)
    cluster.replicas[2].fsync_us = 10_000
    cluster.peer(4).contact(9_000, active=False)
    cluster.replicas[5].elections_1h = 9
    rules, book = Rules(), AlarmBook()
    for now_s in (NOW_S, NOW_S + 1):
        book.update(rules.broken(view_of(cluster), now_s), now_s)
    expected = {(rule, 3) for rule in ROW_SITUATIONS} | {("fsync", 2), ("reach", 4), ("elections", 0), ("even", 0)}
    keys = {row.key: row.replica_id for row in view_of(cluster).replicas}
    assert {(alarm.breach.rule, keys.get(alarm.breach.subject, 0)) for alarm in book.standing} == expected


def test_no_rule_of_the_cluster_hides_another() -> None:
    leaderless = made(6)
    leaderless.no_leader(term=43, since_ms=14_000)
    leaderless.replicas[2].elections_1h = 4
    assert _broken(leaderless) == {"leader", "elections", "even"}
    cut = made(6)
    cut.replicas[2].elections_1h = 4
    for number in (3, 4, 5, 6):
        cut.peer(number).contact(9_000, active=False)
    assert _broken(cut) == {"quorum", "elections", "even", "reach"}
    two_leaders = made(6)
    two_leaders.replicas[3].role = pb.LEADER
    two_leaders.replicas[2].elections_1h = 4
    assert {"safety", "elections", "even"} <= _broken(two_leaders)


def test_a_transfer_that_moved_again_has_its_time_from_then_on() -> None:
    cluster = made()
    rules = Rules()
    for now_s, sent, stands in ((0.0, 100, False), (9.0, 200, False), (12.0, 200, False), (18.9, 200, False), (19.0, 200, True)):
        cluster.peer(3).snapshot(sent, 1_000)
        assert bool(rules.broken(view_of(cluster), now_s)) is stands, now_s


def test_a_healthy_cluster_breaks_no_rule() -> None:
    assert Rules().broken(view_of(made()), NOW_S) == []


def test_who_installs_a_snapshot_or_learns_is_not_late() -> None:
    cluster = made(4)
    cluster.roles[4] = pb.LEARNER
    cluster.peer(4).lag(400_000, ms=61_000)
    cluster.peer(3).lag(400_000, ms=61_000).snapshot(1, 2)
    assert Rules().broken(view_of(cluster), NOW_S) == []


@pytest.mark.parametrize(("down", "text"), [((5,), "quorum survives 1 more loss"), ((4, 5), "1 more loss = no quorum")])
def test_who_is_down_is_told_with_what_is_left(down: tuple[int, ...], text: str) -> None:
    cluster = made()
    for number in down:
        cluster.peer(number).contact(9_000, active=False)
    sights = [
        Sight(s.address, s.status, None, NOW_S, "refused", NOW_S - 12) if n + 1 in down else s
        for n, s in enumerate(seen(cluster))
    ]
    found = Rules().broken(cluster_view(sights, NOW_S, 1.0), NOW_S)
    assert len(found) == len(down)
    assert all(text in breach.text and "unreachable 12s" in breach.text for breach in found)


def test_a_lower_leader_is_critical_after_an_election_timeout() -> None:
    cluster = made()
    cluster.replicas[5].role, cluster.replicas[5].term = pb.LEADER, 41
    rules = Rules()
    assert rules.broken(view_of(cluster), 100.0)[0].severity is Severity.WARN
    assert rules.broken(view_of(cluster), 100.7)[0].severity is Severity.WARN
    assert rules.broken(view_of(cluster), 100.9)[0].severity is Severity.CRIT


def test_a_transfer_that_stands_still() -> None:
    cluster = made()
    cluster.peer(3).snapshot(100, 1_000)
    rules = Rules()
    assert rules.broken(view_of(cluster), 0.0) == []
    assert rules.broken(view_of(cluster), 9.0) == []
    assert "stood still for 10s at 10%" in rules.broken(view_of(cluster), 10.0)[0].text
    cluster.peer(3).snapshot(200, 1_000)
    assert rules.broken(view_of(cluster), 11.0) == []


def test_a_gap_that_grows_between_commit_and_applied() -> None:
    cluster = made()
    rules = Rules()
    found: list[Breach] = []
    for gap in (10, 50, 100, 200, 300):
        cluster.replicas[3].applied = LAST - 3 - gap
        found = rules.broken(view_of(cluster), NOW_S)
    assert [breach.text for breach in found] == ["n3 applies more slowly than it commits: 300 entries wait"]


def test_no_leader_and_no_quorum() -> None:
    cluster = made()
    cluster.no_leader(term=43, since_ms=14_000)
    assert [b.text for b in Rules().broken(view_of(cluster), NOW_S)] == ["no leader for 14s"]
    other = made()
    for number in (3, 4, 5):
        other.peer(number).contact(9_000, active=False)
    assert "no quorum: 2 of 5 voters answer the leader, 3 are needed" in [b.text for b in Rules().broken(view_of(other), NOW_S)]
