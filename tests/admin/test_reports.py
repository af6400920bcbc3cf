"""Leaders report memberships; servers leave and are struck."""

from __future__ import annotations

import pytest

from ravel_node.admin.codec import encode
from ravel_node.admin.commands import (
    BeginMove,
    CommandFormError,
    DecideMove,
    FinishMove,
    ForgetServer,
    MarkLeaving,
    RemoveCluster,
    ReportMembership,
    Seated,
    SetCluster,
)
from ravel_node.admin.model import Seat
from ravelpb.errors import Reason
from tests.admin.helpers import Admin, hex_id, registering, report


@pytest.fixture
def admin() -> Admin:
    return Admin()


def test_a_report_founds_the_cluster_and_seats_its_members(admin: Admin) -> None:
    for number in (1, 2, 3):
        admin.run(registering(number))
    admin.run(report(admin.cluster("default"), 1, learners=[2], index=4, term=3))
    cluster = admin.cluster("default")
    assert (cluster.founded, cluster.leader_id, cluster.term, cluster.config_index) == (True, hex_id(1), 3, 4)
    assert [admin.server(number).seat for number in (1, 2, 3)] == [Seat.VOTER, Seat.LEARNER, Seat.ASSIGNED]
    assert [admin.server(number).replica_id for number in (1, 2, 3)] == [1, 2, 0]
    assert admin.directory.addresses_of(cluster.number) == [admin.server(1).listen, admin.server(2).listen]


def test_addresses_begin_with_the_leader(admin: Admin) -> None:
    cluster = admin.found("a", 1, 2, 3)
    admin.run(report(cluster, 1, 2, 3, 4, leader=3, term=2))
    assert admin.directory.addresses_of(cluster.number) == [admin.server(number).listen for number in (3, 1, 2)]


def test_a_repeated_report_is_no_news(admin: Admin) -> None:
    admin.found("a", 1, 2)
    before, view = admin.rows(), admin.directory
    admin.run(report(admin.cluster("a"), 1, 2))
    assert admin.rows() == before
    assert admin.directory is view, "whoever asks `decide` first sees that it need not be proposed"


def test_reports_are_fenced_by_term_leader_and_membership(admin: Admin) -> None:
    cluster = admin.found("a", 1, 2)
    admin.run(report(cluster, 1, 2, term=5, index=9, leader=2))
    admin.refuses(report(cluster, 1, 2, term=4, index=9), Reason.STALE_REPORT, "term 4", "term 5")
    admin.refuses(report(cluster, 1, 2, term=5, index=9, leader=1), Reason.STALE_REPORT, "leader")
    admin.refuses(report(cluster, 1, 2, term=6, index=8), Reason.STALE_REPORT, "membership 8", "9 is known")
    stranger = ReportMembership(hex_id(99), hex_id(1), 1, 1, (Seated(hex_id(1), 1),))
    admin.refuses(stranger, Reason.WRONG_CLUSTER_ID, "not in the list")


def test_members_that_never_registered_are_known_by_the_report_alone(admin: Admin) -> None:
    cluster = admin.found("a", 1)
    admin.run(report(cluster, 1, 7, index=2))
    seen = admin.server(7)
    assert (seen.name, seen.listen, seen.seat, seen.replica_id) == ("", "", Seat.VOTER, 7)
    admin.run(registering(7, cluster_id=cluster.cluster_id, replica_id=7))
    assert (admin.server(7).name, admin.server(7).seat) == ("n7", Seat.VOTER)
    admin.run(report(cluster, 1, 7, 8, index=3))
    admin.run(report(cluster, 1, 7, index=4))
    assert hex_id(8) not in admin.directory.servers


def test_one_that_was_put_into_another_cluster_stays_there_until_it_registers(admin: Admin) -> None:
    a, b = admin.found("a", 1), admin.found("b", 2)
    admin.run(registering(3, new_cluster="b"))
    admin.run(report(a, 1, 3, index=2))
    assert (admin.server(3).cluster, admin.server(3).seat) == (b.number, Seat.ASSIGNED)
    admin.run(registering(3, cluster_id=a.cluster_id, replica_id=3))
    admin.run(report(a, 1, 3, index=2))
    assert (admin.server(3).cluster, admin.server(3).seat) == (a.number, Seat.VOTER)


def test_who_only_said_to_be_a_replica_that_another_one_is_loses_it(admin: Admin) -> None:
    cluster = admin.found("a", 1)
    admin.run(registering(3, cluster_id=cluster.cluster_id, replica_id=8))
    admin.run(report(cluster, 1, 8, index=2))
    assert admin.server(3).replica_id == 0
    assert admin.run(registering(8, cluster_id=cluster.cluster_id, replica_id=8)) == {"cluster": 1}


def test_a_leaving_server_is_struck_once_the_membership_lacks_it(admin: Admin) -> None:
    cluster = admin.found("a", 1, 2, 3)
    assert admin.run(MarkLeaving(hex_id(3))) == admin.run(MarkLeaving(hex_id(3))) == {"struck": False}
    assert admin.server(3).leaving
    admin.run(report(cluster, 1, 2, 3))
    assert admin.server(3).leaving
    admin.run(report(cluster, 1, 2, index=2))
    assert hex_id(3) not in admin.directory.servers


def test_one_taken_out_without_the_admin_is_struck_too_and_one_that_waits_is_not(admin: Admin) -> None:
    cluster = admin.found("a", 1, 2)
    admin.run(registering(3))
    admin.run(report(cluster, 1, index=2))
    assert sorted(admin.directory.servers) == [hex_id(1), hex_id(3)]
    admin.run(MarkLeaving(hex_id(3)))
    admin.run(report(cluster, 1, index=2))
    assert sorted(admin.directory.servers) == [hex_id(1)], "it waited, and left"


def test_the_last_replica_of_a_cluster_with_slots_cannot_leave(admin: Admin) -> None:
    admin.found("a", 1, 2)
    admin.run(registering(3))
    admin.run(MarkLeaving(hex_id(2)))
    admin.refuses(MarkLeaving(hex_id(1)), Reason.LAST_REPLICA, "cluster a", "rebalance --empty a")
    admin.refuses(MarkLeaving(hex_id(50)), Reason.NOT_FOUND, hex_id(50)[:8])


def test_the_last_replica_of_a_cluster_without_slots_takes_it_along(admin: Admin) -> None:
    admin.found("a", 1)
    b = admin.found("b", 2, 3)
    assert admin.run(MarkLeaving(hex_id(2))) == admin.run(MarkLeaving(hex_id(3))) == {"struck": False}
    admin.run(report(b, 3, leader=3, term=2, index=2))
    assert admin.run(MarkLeaving(hex_id(3))) == {"struck": True}
    assert [cluster.name for cluster in admin.directory.clusters.values()] == ["a"]
    assert admin.run(registering(4, new_cluster="c")) == {"cluster": 3}, "no number is used twice"


def test_a_cluster_with_a_move_under_way_keeps_its_last_replica(admin: Admin) -> None:
    a, b = admin.found("a", 1), admin.found("b", 2)
    move_id = admin.plan(a, b, 5)
    admin.refuses(MarkLeaving(hex_id(2)), Reason.LAST_REPLICA, "cluster b")
    admin.refuses(RemoveCluster("b"), Reason.CLUSTER_IN_USE)
    admin.abort(move_id)
    assert admin.run(MarkLeaving(hex_id(2))) == {"struck": True}


def test_a_server_of_a_cluster_that_nobody_founded_is_struck_at_once(admin: Admin) -> None:
    admin.run(registering(1))
    admin.refuses(MarkLeaving(hex_id(1)), Reason.LAST_REPLICA)
    admin.run(registering(2))
    assert admin.run(MarkLeaving(hex_id(1))) == {"struck": True}
    assert admin.cluster("default").founder_id == ""


def test_only_who_is_no_member_is_forgotten(admin: Admin) -> None:
    admin.found("a", 1, 2)
    admin.run(registering(3))
    admin.refuses(ForgetServer(hex_id(2)), Reason.UNSAFE_CHANGE, "replica 2", "ravelctl leave")
    admin.run(MarkLeaving(hex_id(2)))
    admin.refuses(ForgetServer(hex_id(2)), Reason.UNSAFE_CHANGE)
    admin.run(ForgetServer(hex_id(3)))
    admin.refuses(ForgetServer(hex_id(3)), Reason.NOT_FOUND)


def test_a_dead_cluster_without_slots_can_be_taken_from_the_list(admin: Admin) -> None:
    admin.found("a", 1)
    admin.found("b", 2, 3)
    for number in (2, 3):
        admin.run(MarkLeaving(hex_id(number)))
    for number in (2, 3):
        admin.run(ForgetServer(hex_id(number)))
    admin.run(RemoveCluster("b"))
    admin.refuses(RemoveCluster("b"), Reason.NOT_FOUND, "b")


def test_a_cluster_in_use_is_not_removed(admin: Admin) -> None:
    a, b = admin.found("a", 1), admin.found("b", 2)
    admin.refuses(RemoveCluster("b"), Reason.CLUSTER_IN_USE, "1 servers")
    move_id = admin.plan(a, b, 5)
    for step in (BeginMove(move_id), DecideMove(move_id, True), FinishMove(move_id)):
        admin.run(step)
    admin.run(report(b, 9, term=2, index=2))
    admin.refuses(ForgetServer(hex_id(9)), Reason.UNSAFE_CHANGE)
    admin.refuses(RemoveCluster("a"), Reason.CLUSTER_IN_USE)


def test_the_only_cluster_goes_with_its_slots_while_nobody_has_founded_it(admin: Admin) -> None:
    admin.run(registering(1, new_cluster="misspelt"))
    admin.run(ForgetServer(hex_id(1)))
    admin.run(RemoveCluster("misspelt"))
    assert set(admin.directory.slot_map.owners) == {0}
    assert admin.run(registering(1)) == {"cluster": 2}
    assert set(admin.directory.slot_map.owners) == {2}
    assert admin.directory.slot_map.version == 3


def test_a_cluster_with_slots_that_nobody_founded_stays_beside_others(admin: Admin) -> None:
    admin.run(registering(1, new_cluster="a"))
    admin.found("b", 2)
    admin.run(ForgetServer(hex_id(1)))
    admin.refuses(RemoveCluster("a"), Reason.CLUSTER_IN_USE, "4096 slots", "found it")


def test_what_is_wanted_of_a_cluster(admin: Admin) -> None:
    number = admin.make("a", 50, replicas_wanted=5)
    assert admin.cluster("a").replicas_wanted == 5
    assert admin.make("a", 51) == number
    assert admin.cluster("a").replicas_wanted == 5
    assert admin.make("a", 52, replicas_wanted=1) == number
    assert (admin.cluster("a").replicas_wanted, admin.cluster("a").cluster_id) == (1, hex_id(50))
    assert admin.directory.slot_map.version == 0, "slots go to the first that has a founder"


def test_the_last_cluster_that_could_own_slots_is_not_emptied(admin: Admin) -> None:
    admin.found("a", 1)
    admin.refuses(SetCluster("a", hex_id(7), emptying=True), Reason.CLUSTER_IN_USE, "no other cluster could take")
    admin.found("b", 2)
    admin.run(SetCluster("a", hex_id(7), emptying=True))
    assert admin.cluster("a").emptying
    admin.run(SetCluster("a", hex_id(7)))
    assert not admin.cluster("a").emptying


def test_a_report_must_make_sense() -> None:
    one = Seated(hex_id(1), 1)
    for bad in (
        ReportMembership(hex_id(1), hex_id(1), 1, 1, ()),
        ReportMembership(hex_id(1), hex_id(1), 1, 1, (one, one)),
        ReportMembership(hex_id(1), hex_id(1), 1, 1, (one, Seated(hex_id(2), 1))),
        ReportMembership("", hex_id(1), 1, 1, (one,)),
        ReportMembership(hex_id(1), hex_id(1), 0, 1, (one,)),
        ReportMembership(hex_id(1), "", 1, 1, (one,)),
        ReportMembership(hex_id(1), hex_id(1), 1, 1, (Seated(hex_id(1), 0),)),
    ):
        with pytest.raises(CommandFormError):
            encode(bad)
