"""Servers register: where they are put, who founds, what is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from ravel_node.admin import decisions
from ravel_node.admin.commands import ForgetServer, MarkLeaving, RemoveCluster, SetCluster, VacateAddress
from ravel_node.admin.model import Seat
from ravelpb.errors import Reason
from tests.admin.helpers import Admin, hex_id, registering, report


@pytest.fixture
def admin() -> Admin:
    return Admin()


def test_the_first_server_founds_a_cluster_that_owns_all_slots(admin: Admin) -> None:
    assert admin.run(registering(1)) == {"cluster": 1}
    cluster = admin.cluster("default")
    assert (cluster.number, cluster.cluster_id, cluster.founder_id) == (1, hex_id(1_001), hex_id(1))
    assert not cluster.founded
    assert cluster.replicas_wanted == 3
    assert admin.directory.slot_map.version == 1
    assert set(admin.directory.slot_map.owners) == {1}
    assert admin.server(1).seat is Seat.ASSIGNED


def test_a_hundred_at_once_come_out_balanced(admin: Admin) -> None:
    for name, fresh in (("a", 901), ("b", 902), ("c", 903)):
        admin.make(name, fresh)
    for number in range(1, 101):
        admin.run(registering(number))
    assert sorted(Counter(server.cluster for server in admin.directory.servers.values()).values()) == [33, 33, 34]
    assert {cluster.founder_id for cluster in admin.directory.clusters.values()} == {hex_id(1), hex_id(2), hex_id(3)}
    assert len(admin.directory.slots_of(admin.cluster("a").number)) == 4_096, "the first founder of all gets them"


def test_repeated_it_is_the_same_answer_and_nothing_is_written(admin: Admin) -> None:
    admin.run(registering(1))
    before, view = admin.rows(), admin.directory
    assert admin.run(registering(1, fresh_id=hex_id(77))) == {"cluster": 1}
    assert admin.rows() == before
    assert admin.directory == view


def test_addresses_version_and_name_are_recorded_anew(admin: Admin) -> None:
    admin.found("a", 1, 2)
    admin.run(registering(2, name="other", listen="h:1", peer="h:2", version="0.2.0", format=4))
    server = admin.server(2)
    assert (server.name, server.listen, server.peer, server.version, server.format) == ("other", "h:1", "h:2", "0.2.0", 4)
    assert (server.seat, server.replica_id) == (Seat.VOTER, 2)


def test_a_named_cluster_is_made_once_and_owns_nothing(admin: Admin) -> None:
    admin.found("a", 1)
    assert admin.run(registering(2, new_cluster="b")) == admin.run(registering(3, new_cluster="b")) == {"cluster": 2}
    assert admin.cluster("b").founder_id == hex_id(2)
    assert admin.directory.slots_of(admin.cluster("b").number) == ()
    assert admin.directory.slot_map.version == 1


def test_whom_a_lost_founder_leaves_behind_the_next_to_ask_founds_under_a_new_id(admin: Admin) -> None:
    admin.run(registering(1))
    admin.run(registering(2))
    admin.run(ForgetServer(hex_id(1)))
    assert admin.cluster("default").founder_id == ""
    admin.refuses(registering(2, fresh_id=hex_id(1_001)), Reason.INVALID_ARGUMENT, "drawn")
    assert admin.run(registering(2)) == {"cluster": 1}, "it waited there already"
    cluster = admin.cluster("default")
    assert (cluster.founder_id, cluster.cluster_id) == (hex_id(2), hex_id(1_002))
    assert admin.directory.slot_map.version == 1, "the slots stay with the cluster"
    lost = registering(1, cluster_id=hex_id(1_001), replica_id=1)
    admin.refuses(lost, Reason.WRONG_CLUSTER_ID, "n1", "not in the list")


def test_a_founded_cluster_keeps_its_id_when_its_founder_goes(admin: Admin) -> None:
    cluster = admin.found("a", 1, 2)
    admin.run(MarkLeaving(hex_id(1)))
    admin.run(report(cluster, 2, term=2, index=5))
    admin.run(registering(3))
    assert admin.cluster("a").cluster_id == cluster.cluster_id


def test_a_server_with_an_identity_stays_what_it_is(admin: Admin) -> None:
    cluster = admin.found("a", 1)
    admin.run(registering(2, new_cluster="b"))
    known = {"cluster_id": cluster.cluster_id}
    assert admin.run(registering(3, replica_id=3, **known)) == {"cluster": 1}, "it joined by itself"
    assert admin.server(3).replica_id == 3
    assert admin.run(registering(2, replica_id=2, **known)) == {"cluster": 1}, "it was put elsewhere, and nobody seated it there"
    assert admin.cluster("b").founder_id == ""
    admin.refuses(registering(3, replica_id=4, **known), Reason.WRONG_IDENTITY, "replica 4", "replica 3")
    admin.refuses(registering(4, replica_id=3, **known), Reason.WRONG_IDENTITY, "n4", "n3")


def test_a_seated_server_cannot_bring_another_clusters_identity(admin: Admin) -> None:
    a, b = admin.found("a", 1), admin.found("b", 2)
    admin.refuses(
        registering(1, cluster_id=b.cluster_id, replica_id=9), Reason.WRONG_IDENTITY, "of cluster b", "cluster a reported"
    )
    admin.refuses(registering(5, cluster_id=hex_id(5), replica_id=1), Reason.WRONG_CLUSTER_ID, "not in the list")
    assert admin.run(registering(1, cluster_id=a.cluster_id, replica_id=1, new_cluster="b")) == {"cluster": 1}


def test_one_that_waits_for_a_cluster_is_not_moved_to_another(admin: Admin) -> None:
    admin.run(registering(1))
    admin.refuses(registering(1, new_cluster="b"), Reason.WRONG_IDENTITY, "default", "ravelctl admin forget")
    admin.run(report(admin.cluster("default"), 1))
    assert admin.run(registering(1, new_cluster="b")) == {"cluster": 1}, "a wish of the past, once it has a seat"


def test_names_and_addresses_are_taken_once(admin: Admin) -> None:
    admin.found("a", 1, 2)
    admin.refuses(registering(3, name="n1", new_cluster="a"), Reason.NAME_TAKEN, "n1", "cluster a")
    assert admin.run(registering(3, name="n1", new_cluster="b")) == {"cluster": 2}, "a name is its cluster's"
    taken = admin.server(1)
    admin.refuses(registering(4, listen=taken.listen), Reason.ADDRESS_TAKEN, taken.listen, "admin forget")
    admin.refuses(registering(4, peer=taken.listen), Reason.ADDRESS_TAKEN, taken.listen)
    admin.refuses(registering(2, peer=taken.peer), Reason.ADDRESS_TAKEN, taken.peer)
    admin.refuses(registering(2, name="n1"), Reason.NAME_TAKEN)


def test_an_address_is_vacated_only_while_its_server_still_has_it(admin: Admin) -> None:
    """The server may have registered at another address while somebody found that nobody answers at the old one."""
    admin.found("a", 1, 2)
    old = admin.server(1)
    admin.run(registering(1, listen="10.9.9.9:7400", peer="10.9.9.9:7401"))
    moved = admin.server(1)
    for listen, peer in ((old.listen, old.peer), (old.listen, moved.peer), (moved.listen, old.peer)):
        assert admin.run(VacateAddress(hex_id(1), listen, peer)) == {}
        assert admin.server(1) == moved
    admin.run(VacateAddress(hex_id(1), moved.listen, moved.peer))
    assert (admin.server(1).listen, admin.server(1).peer) == ("", "")
    assert admin.run(registering(3, listen=moved.listen, peer=moved.peer)) == {"cluster": 1}, "the address is free"


def test_a_cluster_that_is_emptied_takes_no_servers(admin: Admin) -> None:
    admin.found("a", 1)
    admin.found("b", 2)
    admin.run(SetCluster("b", hex_id(7), emptying=True))
    admin.refuses(registering(3, new_cluster="b"), Reason.CLUSTER_IN_USE, "being emptied")
    assert admin.run(registering(3)) == admin.run(registering(4)) == {"cluster": 1}
    assert admin.run(registering(2)) == {"cluster": 2}, "who is in it stays"
    other = Admin()
    other.make("only", 7, emptying=True)
    other.refuses(registering(1), Reason.CLUSTER_IN_USE, "--new-cluster")


def test_a_fresh_id_must_be_fresh(admin: Admin) -> None:
    cluster = admin.found("a", 1)
    admin.refuses(registering(2, new_cluster="b", fresh_id=cluster.cluster_id), Reason.INVALID_ARGUMENT, "drawn")
    admin.refuses(SetCluster("b", cluster.cluster_id), Reason.INVALID_ARGUMENT, "drawn")


def test_the_list_has_bounds(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "SERVERS_MAX", 2)
    monkeypatch.setattr(decisions, "CLUSTERS_MAX", 1)
    cluster = admin.found("a", 1, 2)
    admin.refuses(registering(3), Reason.INVALID_ARGUMENT, "2 servers and takes no more")
    admin.refuses(SetCluster("b", hex_id(7)), Reason.INVALID_ARGUMENT, "no more clusters")
    assert admin.run(registering(2, name="again")) == {"cluster": 1}, "who is there may register"
    admin.run(report(cluster, 1, 2, 3, index=2))
    assert hex_id(3) not in admin.directory.servers, "a report is not refused for it"
    assert admin.cluster("a").config_index == 2


def test_numbers_of_clusters_end(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "CLUSTER_NUMBER_MAX", 1)
    admin.make("a", 7)
    admin.run(RemoveCluster("a"))
    admin.refuses(SetCluster("b", hex_id(8)), Reason.INVALID_ARGUMENT, "1 ever")
