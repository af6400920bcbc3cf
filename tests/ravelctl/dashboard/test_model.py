"""The rules that keep the picture true, each on statuses that make its situation."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravelctl.dashboard.model import ClusterView, Freshness, ReplicaView, Role, Sight, cluster_view, natural
from ravelctl.dashboard.observer import Heard, Lost, Observer, Told
from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.dashboard import scripted
from tests.ravelctl.dashboard.scripted import WALL_MS, Scripted

NOW_S = 100.0


def made(count: int = 5) -> Scripted:
    cluster = Scripted(count)
    for replica in cluster.replicas.values():
        replica.port = 7400 + replica.number
    return cluster


def seen(cluster: Scripted, *, without: Iterable[int] = (), heard_s: float = NOW_S) -> list[Sight]:
    return [Sight(r.address, r.status(), None, heard_s) for r in cluster.replicas.values() if r.number not in without]


def view_of(cluster: Scripted, *, without: Iterable[int] = ()) -> ClusterView:
    return cluster_view(seen(cluster, without=without), NOW_S, 1.0)


def row(view: ClusterView, name: str) -> ReplicaView:
    return next(row for row in view.replicas if row.name == name)


def test_lag_state_and_contact_come_from_the_leader_and_indexes_from_the_replica() -> None:
    cluster = made()
    scripted.split_view(cluster)
    found = row(view_of(cluster), "n4")
    assert (found.lag, found.lag_bytes, found.lag_ms, found.state, found.contact_ms) == (
        9_204, 1_363_149, 3_800, "repl-PAUSED", 41
    )  # fmt: skip
    assert found.last == scripted.LAST - 9_204


def test_older_than_three_intervals_is_stale() -> None:
    cluster = made(3)
    sights = seen(cluster)
    old = [Sight(s.address, s.status, None, NOW_S - (3.1 if n == 2 else 2.9)) for n, s in enumerate(sights)]
    view = cluster_view(old, NOW_S, 1.0)
    assert [r.freshness for r in view.replicas] == [Freshness.LIVE, Freshness.LIVE, Freshness.STALE]


def test_what_a_stale_leader_said_of_others_is_not_known_now() -> None:
    cluster = made(3)
    sights = seen(cluster)
    sights[0] = Sight(sights[0].address, sights[0].status, None, NOW_S - 4)
    view = cluster_view(sights, NOW_S, 1.0)
    assert row(view, "n1").state == "STALE-4.0s"
    assert row(view, "n2").lag is None


def test_without_a_leader_no_lag_is_known() -> None:
    cluster = made()
    scripted.no_leader(cluster)
    view = view_of(cluster)
    assert view.leader is None
    assert view.leaderless_s == 14
    assert view.acknowledging is None
    assert {r.lag for r in view.replicas} == {None}
    assert view.candidates == ("n1 stands in term 43, votes n1 n4",)


def test_a_leader_is_missed_since_the_last_replica_lost_it() -> None:
    cluster = made()
    scripted.no_leader(cluster)
    for replica in cluster.replicas.values():
        replica.leaderless_ms = 20_000 + replica.number
    cluster.replicas[4].leaderless_ms = 2_500
    assert view_of(cluster).leaderless_s == 2.5


def test_a_leader_of_a_lower_term_only_claims() -> None:
    cluster = made()
    scripted.split_view(cluster)
    view = view_of(cluster)
    assert view.leader is not None
    assert view.leader.name == "n2"
    assert row(view, "n5").role is Role.CLAIMS
    assert row(view, "n5").state == "STALE-VIEW"
    assert row(view, "n5").lag is None


def test_a_lone_leader_whose_voters_are_a_term_ahead_leads_no_more() -> None:
    cluster = made()
    for number in (2, 3, 4):
        cluster.replicas[number].term, cluster.replicas[number].leader = 43, 0
    view = view_of(cluster)
    assert view.leader is None
    assert row(view, "n1").role is Role.CLAIMS


def test_one_disruptive_candidate_does_not_unseat_a_leader() -> None:
    cluster = made()
    cluster.replicas[5].term, cluster.replicas[5].role = 44, pb.CANDIDATE
    view = view_of(cluster)
    assert view.leader is not None
    assert view.leader.name == "n1"


def test_two_leaders_in_one_term_are_rivals() -> None:
    cluster = made()
    cluster.replicas[3].role = pb.LEADER
    assert view_of(cluster).rivals == ((42, ("n1", "n3")),)


def test_the_quorum_counts_voters_that_the_leader_hears() -> None:
    cluster = made()
    cluster.roles[5] = pb.LEARNER
    cluster.peer(4).contact(9_000, active=False)
    view = view_of(cluster)
    assert (view.acknowledging, view.voters, view.quorum, view.learners) == (3, 4, 3, 1)


def test_a_one_way_cut_shows_on_both_sides() -> None:
    """The leader does not hear n3; n3 hears the leader and answers us: it is not down, and its lag is not known."""
    cluster = made()
    cluster.peer(3).contact(9_000, active=False)
    view = view_of(cluster)
    found = row(view, "n3")
    assert found.freshness is Freshness.LIVE
    assert (found.state, found.lag, found.contact_ms) == ("LOST", None, 9_000)
    assert found.status is not None
    assert found.status.contact_age_ms == 41


def test_a_replica_that_only_we_cannot_reach_keeps_the_leaders_word() -> None:
    cluster = made()
    sights = seen(cluster)
    sights[2] = Sight(sights[2].address, sights[2].status, None, NOW_S - 9, "the connection was refused", NOW_S - 9)
    found = row(cluster_view(sights, NOW_S, 1.0), "n3")
    assert (found.role, found.state, found.lag) == (Role.DOWN, "repl", 0)


def test_a_leader_that_cannot_be_asked_is_named_and_not_made_up() -> None:
    view = view_of(made(), without=(1,))
    assert view.leader is None
    assert view.leader_named == "n1@42"
    assert row(view, "n2").lag is None


def test_members_that_never_answered_have_a_row() -> None:
    view = view_of(made(), without=(4,))
    assert row(view, "n4").freshness is Freshness.NEVER
    assert row(view, "n4").term is None


def test_an_older_version_leaves_out_what_it_does_not_know() -> None:
    cluster = made(3)
    for replica in cluster.replicas.values():
        replica.old = True
    found = row(view_of(cluster), "n2")
    assert (found.lag, found.lag_bytes, found.lag_ms, found.fsync_p99_us) == (0, None, None, None)
    assert view_of(cluster).elections_1h is None


def test_one_daemon_under_two_addresses_is_one_row() -> None:
    cluster = made(3)
    sights = seen(cluster)
    view = cluster_view([*sights, Sight("localhost:7402", cluster.replicas[2].status(), None, NOW_S)], NOW_S, 1.0)
    assert len(view.replicas) == 3


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_no_lag_is_negative(last: int, match: int) -> None:
    cluster = made(3)
    cluster.replicas[1].last = last
    cluster.progress[2].match = match
    found = row(view_of(cluster), "n2")
    assert found.lag is not None
    assert found.lag == max(0, last - match)


def test_names_are_in_the_order_that_people_expect() -> None:
    assert sorted(["n10", "n2", "n1", "m3"], key=natural) == ["m3", "n1", "n2", "n10"]


# --- over time


def test_rates_are_differences_over_the_servers_own_time() -> None:
    cluster = made(1)
    leader = cluster.replicas[1]
    observer = Observer(1.0)
    observer.take(Heard(leader.address, leader.status()), 10.0, WALL_MS)
    assert observer.tick(10.0, WALL_MS).view.writes_s is None
    cluster.passed_ms += 2_000
    leader.writes += 8_000
    observer.take(Heard(leader.address, leader.status()), 11.0, WALL_MS)  # a frame that came early says the same
    assert observer.tick(11.0, WALL_MS).view.writes_s == 4_000


@pytest.mark.parametrize("counted", [0, 5, 200, 900], ids=["nothing", "less", "as much", "more"])
def test_a_restart_blanks_the_rates_of_one_frame(counted: int) -> None:
    """Whatever the new process has counted so far: the old one's figures say nothing of it."""
    cluster = made(1)
    leader = cluster.replicas[1]
    observer = Observer(1.0)
    frames = ((1, 100, None), (1, 200, 100.0), (2, counted, None), (2, counted + 20, 20.0))
    for boot, done, expected in frames:
        leader.boot, leader.writes, leader.reads = boot, done, 3 * done
        cluster.passed_ms += 1_000
        observer.take(Heard(leader.address, leader.status()), 10.0, WALL_MS)
        view = observer.picture(10.0, WALL_MS).view
        assert (view.writes_s, view.reads_s) == (expected, None if expected is None else 3 * expected)


def test_a_counter_that_fell_gives_no_rate() -> None:
    cluster = made(1)
    leader = cluster.replicas[1]
    observer = Observer(1.0)
    for writes, reads, expected in ((100, 10, (None, None)), (40, 30, (None, 20.0)), (41, 30, (1.0, 0.0))):
        leader.writes, leader.reads = writes, reads
        cluster.passed_ms += 1_000
        observer.take(Heard(leader.address, leader.status()), 10.0, WALL_MS)
        view = observer.picture(10.0, WALL_MS).view
        assert (view.writes_s, view.reads_s) == expected


def test_an_event_is_shown_once_whatever_a_stream_repeats() -> None:
    cluster = made(1)
    one = cluster.replicas[1]
    one.tell(pb.ELECTION, "won term 42")
    observer = Observer(1.0)
    observer.take(Heard(one.address, one.status()), 1.0, WALL_MS)
    for _ in range(3):
        observer.take(Told(one.address, tuple(one.events)), 1.0, WALL_MS)
    assert [event.text for event in observer.tick(1.0, WALL_MS).events] == ["won term 42"]


@pytest.mark.parametrize("offset_ms", [-3_600_000, 0, 3_600_000])
def test_events_of_a_host_whose_clock_is_wrong_are_in_their_place(offset_ms: int) -> None:
    cluster = made(2)
    one, other = cluster.replicas[1], cluster.replicas[2]
    other.wall_offset_ms = offset_ms
    observer = Observer(1.0)
    for replica in (one, other):
        observer.take(Heard(replica.address, replica.status()), 1.0, WALL_MS)
    one.tell(pb.ELECTION, "first", wall_ms=WALL_MS - 3_000)
    other.tell(pb.ELECTION, "second", wall_ms=WALL_MS - 2_000)
    one.tell(pb.ELECTION, "third", wall_ms=WALL_MS - 1_000)
    observer.take(Told(other.address, tuple(other.events)), 1.0, WALL_MS)
    observer.take(Told(one.address, tuple(one.events)), 1.0, WALL_MS)
    assert [event.text for event in observer.tick(1.0, WALL_MS).events] == ["first", "second", "third"]


def test_a_silence_is_counted_from_its_beginning() -> None:
    cluster = made(1)
    one = cluster.replicas[1]
    observer = Observer(1.0)
    observer.take(Heard(one.address, one.status()), 10.0, WALL_MS)
    observer.take(Lost(one.address, "gone"), 10.5, WALL_MS)
    observer.take(Lost(one.address, "refused"), 15.0, WALL_MS)
    (found,) = observer.tick(20.0, WALL_MS).view.replicas
    assert (found.freshness, found.age_s, found.error) == (Freshness.DOWN, 10.0, "refused")
