"""A cluster that came back under another id takes its old place, and the old one stays out."""

from __future__ import annotations

from ravel_node.admin.adoption import SUPERSEDED_MAX
from ravel_node.admin.commands import AdoptCluster, BeginMove, DecideMove, FinishMove
from ravel_node.admin.model import MoveId, Phase
from ravelpb.errors import Reason
from tests.admin.helpers import Admin, hex_id, registering, report

NEW = hex_id(77)


def system() -> Admin:
    """Cluster a, which owns all slots, and cluster b."""
    admin = Admin()
    admin.found("a", 1, 2, 3)
    admin.found("b", 4)
    return admin


def adopt(admin: Admin, name: str, new: str = NEW) -> str:
    """The id that it had."""
    old = admin.cluster(name).cluster_id
    admin.run(AdoptCluster(name, old, new))
    return old


def test_the_new_one_has_number_name_and_slots_and_counts_anew() -> None:
    admin = system()
    before, owners, version = admin.cluster("a"), admin.directory.slot_map.owners, admin.directory.slot_map.version
    old = adopt(admin, "a")
    after = admin.cluster("a")
    assert (after.number, after.cluster_id, after.superseded, after.founded) == (before.number, NEW, (old,), True)
    assert (after.leader_id, after.term, after.config_index) == ("", 0, 0)
    assert (admin.directory.slot_map.owners, admin.directory.slot_map.version) == (owners, version + 1)
    assert [server.name for server in admin.directory.servers.values()] == ["n4"]
    assert admin.directory.addresses_of(after.number) == [], "nobody is sent to the old members"
    admin.reopen()
    assert admin.cluster("a") == after


def test_its_servers_register_at_the_addresses_of_the_old_ones() -> None:
    admin = system()
    adopt(admin, "a")
    admin.run(registering(9, name="n1", listen=registering(1).listen, peer=registering(1).peer, cluster_id=NEW, replica_id=4))
    admin.run(report(admin.cluster("a"), 9, term=1, index=1))
    assert admin.directory.addresses_of(admin.cluster("a").number) == [registering(1).listen]


def test_members_of_the_old_one_are_refused_for_good() -> None:
    admin = system()
    before = admin.cluster("a")
    old = adopt(admin, "a")
    words = (old[:8], NEW[:8], "cluster a now")
    admin.refuses(registering(2, cluster_id=old, replica_id=2), Reason.SUPERSEDED, "n2", *words)
    admin.refuses(report(before, 1, 2, 3, term=90, index=90), Reason.SUPERSEDED, *words)
    adopt(admin, "a", hex_id(78))
    admin.refuses(registering(2, cluster_id=old, replica_id=2), Reason.SUPERSEDED, hex_id(78)[:8])
    admin.refuses(AdoptCluster("a", hex_id(78), old), Reason.INVALID_ARGUMENT, "cannot come back")
    admin.refuses(registering(8, new_cluster="c", fresh_id=old), Reason.INVALID_ARGUMENT, "must be drawn")


def test_what_does_not_fit_is_refused() -> None:
    admin = system()
    old = admin.cluster("a").cluster_id
    admin.refuses(AdoptCluster("z", old, NEW), Reason.NOT_FOUND, "add-cluster z")
    admin.refuses(AdoptCluster("a", hex_id(5), NEW), Reason.STALE_VIEW, old[:8])
    admin.refuses(AdoptCluster("a", old, admin.cluster("b").cluster_id), Reason.INVALID_ARGUMENT, "cluster b")
    adopt(admin, "a")
    view = admin.directory
    admin.run(AdoptCluster("a", old, NEW))
    assert admin.directory is view, "said again, it changes nothing"


def test_what_was_copied_is_called_off_and_what_was_decided_stays() -> None:
    admin = system()
    a, b = admin.cluster("a"), admin.cluster("b")
    c = admin.found("c", 5)
    copying, planned = admin.plan(a, b, 1), admin.plan(a, b, 2)
    admin.run(BeginMove(copying))
    adopt(admin, "b")
    assert {move_id: move.phase for move_id, move in admin.directory.moves.items()} == {copying: Phase.ABORTED}
    admin.refuses(DecideMove(copying, True), Reason.MOVE_REFUSED, "aborted")
    admin.run(FinishMove(copying))
    other = admin.plan(a, c, 3)
    admin.run(BeginMove(other))
    admin.run(DecideMove(other, True))
    adopt(admin, "a", hex_id(79))
    assert admin.directory.moves[MoveId(other)].phase is Phase.COMMITTED
    assert planned not in admin.directory.moves


def test_only_so_many_former_ids_are_kept() -> None:
    admin = system()
    for number in range(SUPERSEDED_MAX + 5):
        adopt(admin, "a", hex_id(500 + number))
    kept = admin.cluster("a").superseded
    assert (len(kept), kept[0]) == (SUPERSEDED_MAX, hex_id(500 + SUPERSEDED_MAX + 3))


def test_a_record_without_former_ids_is_the_record_of_before() -> None:
    admin = system()
    assert not any(b"superseded" in record for record in admin.rows().values())
    adopt(admin, "a")
    assert sum(b"superseded" in record for record in admin.rows().values()) == 1
