from __future__ import annotations

from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster


def test_three_blank_daemons_become_a_cluster(ctl: Ctl, cluster: FakeCluster) -> None:
    addresses = cluster.grow(3)
    ran = ctl("bootstrap", *addresses, "--name", "orders", "-o", "json")
    assert ran.code == 0, ran.err
    founding, join2, join3, promotion = cluster.asked
    assert (founding.cluster_name, len(founding.cluster_id)) == ("orders", 32)
    assert [(list(join.via), join.no_promote) for join in (join2, join3)] == [([addresses[0]], True)] * 2
    assert list(promotion.replica_ids) == [2, 3]
    assert (ran.json["cluster"], ran.json["cluster_name"]) == (founding.cluster_id, "orders")
    assert [m["role"] for m in ran.json["members"]] == ["voter"] * 3
    assert f"{addresses[0]} founds cluster orders" in ran.err
    assert "2 learners caught up: they become voters" in ran.err


def test_repeated_it_changes_nothing(ctl: Ctl, cluster: FakeCluster) -> None:
    addresses = cluster.grow(3)
    first = ctl("bootstrap", *addresses, "-o", "json").json
    asked = len(cluster.asked)
    again = ctl("bootstrap", *addresses, "-o", "json")
    assert (again.code, again.json) == (0, first)
    (founding,) = cluster.asked[asked:]
    assert founding.cluster_id == first["cluster"]


def test_an_interrupted_one_is_finished(ctl: Ctl, cluster: FakeCluster) -> None:
    addresses = cluster.found(1, name="orders") + cluster.grow(2)
    cluster.seat(cluster.daemons[1], pb.LEARNER)
    ran = ctl("bootstrap", *addresses)
    assert ran.code == 0, ran.err
    assert [type(asked).__name__ for asked in cluster.asked] == ["BootstrapRequest", "JoinRequest", "PromoteRequest"]
    assert list(cluster.asked[-1].replica_ids) == [2, 3]
    assert all(member.role == pb.VOTER for member in cluster.members.values())


def test_one_alone_is_a_cluster_too(ctl: Ctl, cluster: FakeCluster) -> None:
    (address,) = cluster.grow(1)
    ran = ctl("bootstrap", address)
    assert (ran.code, ran.out.splitlines()[1].split()[:3]) == (0, ["1", "n1", "leader"])


def test_a_learner_that_is_behind_is_waited_for(ctl: Ctl, cluster: FakeCluster) -> None:
    addresses = cluster.found(1) + cluster.grow(1)
    cluster.seat(cluster.daemons[1], pb.LEARNER)
    cluster.progress[2].match = 48000
    ran = ctl("bootstrap", *addresses, "--timeout", "2s")
    assert (ran.code, "n2 is 210 entries behind" in ran.err) == (124, True)
    assert not any(isinstance(asked, pb.PromoteRequest) for asked in cluster.asked)


def test_all_must_answer_before_anything_is_done(ctl: Ctl, cluster: FakeCluster) -> None:
    addresses = cluster.grow(3)
    cluster.daemons[2].stop()
    ran = ctl("bootstrap", *addresses, "--timeout", "3s")
    assert (ran.code, cluster.asked) == (3, [])
    assert "waiting for the daemons to answer" in ran.err
    assert "1 of 3 daemons do not answer" in ran.err
    assert addresses[2] in ran.err


def test_a_dry_run_shows_the_plan(ctl: Ctl, cluster: FakeCluster) -> None:
    addresses = cluster.grow(2)
    ran = ctl("bootstrap", *addresses, "--dry-run")
    assert (ran.code, cluster.asked) == (0, [])
    assert [line.split()[0] for line in ran.out.splitlines()] == ["cluster", "NAME", "n1", "n2"]
    assert "founds it" in ran.out


def test_what_cannot_become_one_cluster_is_refused(ctl: Ctl, cluster: FakeCluster) -> None:
    (first, *_rest) = cluster.found(3)
    (blank,) = cluster.grow(1)
    stranger = ctl("bootstrap", blank, first)
    assert (stranger.code, "is a member of cluster orders" in stranger.err) == (5, True)
    extended = ctl("bootstrap", first, blank)
    assert (extended.code, "ravelctl join" in extended.err) == (5, True)
    renamed = ctl("bootstrap", *(d.address for d in cluster.daemons[:3]), "--name", "users")
    assert (renamed.code, "founded cluster orders, not users" in renamed.err) == (5, True)
    twice = ctl("bootstrap", blank, blank.replace("127.0.0.1", "localhost"))
    assert (twice.code, "names a daemon twice" in twice.err) == (2, True)
    assert cluster.asked == []
