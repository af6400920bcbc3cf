"""The picture of a cluster, in text and for programs."""

from __future__ import annotations

import pytest

from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import MIB, FakeCluster


def test_a_healthy_cluster(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3, leader=2)
    ran = ctl("status", "-e", first)
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out == (
        "cluster orders 3f9c21aa  HEALTHY  term 7  leader n2 (3h12m)  commit 48210  tolerates 1 failure\n"
        "NAME  ROLE    STATE      MATCH  LAG  CONTACT  DB/MAX\n"
        "n1    voter   replicate  48210  0    41ms     212MiB/4GiB\n"
        "n2    leader  -          48210  -    -        212MiB/4GiB\n"
        "n3    voter   replicate  48210  0    41ms     212MiB/4GiB\n"
    )


def test_a_voter_that_installs_a_snapshot_does_not_count(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3, leader=2)
    behind = cluster.progress[3]
    behind.state, behind.match, behind.contact_age_ms = pb.SNAPSHOT, 31002, 1900
    behind.snapshot_index, behind.snapshot_sent_bytes, behind.snapshot_size_bytes = 48000, 62 * MIB, 100 * MIB
    ran = ctl("status", "-e", first)
    assert ran.code == 7
    assert ran.out.splitlines() == [
        "cluster orders 3f9c21aa  DEGRADED  term 7  leader n2 (3h12m)  commit 48210  tolerates 0 failures",
        "NAME  ROLE    STATE      MATCH  LAG    CONTACT  DB/MAX",
        "n1    voter   replicate  48210  0      41ms     212MiB/4GiB",
        "n2    leader  -          48210  -      -        212MiB/4GiB",
        "n3    voter   snapshot   31002  17208  1.9s     212MiB/4GiB",
        "n3 is installing snapshot 48000 (62% of 100MiB)",
    ]


def test_a_dead_voter_is_shown_with_the_reason(ctl: Ctl, cluster: FakeCluster) -> None:
    first, _, third = cluster.found(3)
    cluster.daemons[2].stop()
    cluster.progress[3].recent_active, cluster.progress[3].contact_age_ms = False, 95_000
    ran = ctl("status", "-e", first)
    assert ran.code == 7
    assert "n3    voter   replicate  48210  0    1m35s    -\n" in ran.out
    assert f"n3 does not answer at {third}: the connection was refused or failed\n" in ran.out
    assert "the leader has not heard n3 for 1m35s\n" in ran.out
    assert "tolerates 0 failures" in ran.out


def test_all_members_are_found_from_one_and_told_to_programs(ctl: Ctl, cluster: FakeCluster) -> None:
    _, _, third = cluster.found(3)
    told = ctl("status", "-e", third, "-o", "json").json
    assert (told["apiVersion"], told["kind"], told["health"], told["leader"]) == ("ravel/v1", "Status", "HEALTHY", "n1")
    assert (told["term"], told["commit_index"], told["tolerates"], told["leader_age_s"]) == ("7", "48210", 1, 11520.0)
    assert [row["name"] for row in told["replicas"]] == ["n1", "n2", "n3"]
    assert all(row["answers"] for row in told["replicas"])
    assert told["replicas"][0]["match"] == "48210"
    assert ctl("status", "-e", third, "-o", "name").out == "n1\nn2\nn3\n"


def test_without_a_leader_it_exits_4_and_still_shows_the_replicas(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3, leader=0)
    ran = ctl("status", "-e", first)
    assert ran.code == 4
    assert ran.out.startswith("cluster orders 3f9c21aa  NO LEADER  term 7  commit 48210\n")
    assert "n1    voter  follower  48210  -    -        212MiB/4GiB\n" in ran.out


def test_a_leader_that_hears_nobody_has_no_quorum(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    for number in (2, 3):
        cluster.progress[number].recent_active = False
    # Just after the leader has begun a new round of counting, nobody is active yet: that alone says nothing.
    assert ctl("status", "-e", first).code == 0
    for number in (2, 3):
        cluster.progress[number].contact_age_ms = 900
    ran = ctl("status", "-e", first)
    assert (ran.code, "NO QUORUM" in ran.out, "has no quorum" in ran.out) == (4, True, True)


def test_nobody_reachable_exits_3(ctl: Ctl, cluster: FakeCluster) -> None:
    (address,) = cluster.grow(1)
    cluster.daemons[0].stop()
    ran = ctl("status", "-e", address, "-o", "json")
    assert (ran.code, ran.out) == (3, "")
    assert (ran.error["kind"], ran.error["reason"], ran.error["exit_code"]) == ("Error", "UNREACHABLE", 3)
    assert address in ran.error["message"]
    assert "--endpoints" in ran.error["next_step"]


def test_blank_daemons_are_shown_as_blank(ctl: Ctl, cluster: FakeCluster) -> None:
    addresses = cluster.grow(2)
    ran = ctl("status", "-e", ",".join(addresses))
    assert ran.code == 4
    assert ran.out == (
        "no cluster\n"
        "NAME  ROLE   STATE  MATCH  LAG  CONTACT  DB/MAX\n"
        "n1    blank  -      -      -    -        -\n"
        "n2    blank  -      -      -    -        -\n"
        f"there is no cluster yet: `ravelctl bootstrap {' '.join(addresses)}` makes one\n"
    )


def test_a_blank_daemon_beside_a_cluster_is_no_fault(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    (blank,) = cluster.grow(1)
    ran = ctl("status", "-e", f"{first},{blank}")
    assert ran.code == 0
    assert "n4    blank   -" in ran.out
    assert ran.out.endswith(f"n4 belongs to no cluster yet: `ravelctl join {blank} --via {first}` takes it in\n")


def test_a_learner_that_catches_up_is_no_fault(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    cluster.grow(1)
    cluster.seat(cluster.daemons[3], pb.LEARNER)
    cluster.progress[4].state, cluster.progress[4].match, cluster.progress[4].snapshot_index = pb.SNAPSHOT, 0, 48000
    ran = ctl("status", "-e", first)
    assert (ran.code, "n4 is installing snapshot 48000" in ran.out) == (0, True)
    cluster.progress[4].recent_active = cluster.progress[4].contacted = False
    assert ctl("status", "-e", first).code == 7


def test_what_two_replicas_tell_in_the_same_words_is_told_once(ctl: Ctl, cluster: FakeCluster) -> None:
    addresses = cluster.found(3)
    text = "6 elections were seen within the last hour"
    cluster.alarms += [pb.Alarm(code="RV103", message=text, replica_id=number, severity=pb.WARNING) for number in (1, 3)]
    assert [line for line in ctl("status", "-e", addresses[0]).out.splitlines() if text in line] == [f"RV103 n1, n3: {text}"]


def test_alarms_degrade_and_are_told_with_their_code(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    cluster.alarms.append(pb.Alarm(code="RV104", message="n1 uses 81% of 4GiB", replica_id=1))
    ran = ctl("status", "-e", first)
    assert (ran.code, ran.out.splitlines()[-1]) == (7, "RV104 n1 uses 81% of 4GiB")


@pytest.mark.parametrize(
    ("severity", "code"), [(pb.ALARM_SEVERITY_UNSPECIFIED, 7), (pb.NOTICE, 0), (pb.WARNING, 0), (pb.CRITICAL, 7)]
)
def test_only_what_is_bad_degrades(ctl: Ctl, cluster: FakeCluster, severity: pb.AlarmSeverity.ValueType, code: int) -> None:
    first, *_ = cluster.found(3)
    cluster.alarms.append(pb.Alarm(code="RV303", message="saves are slow", replica_id=1, severity=severity))
    ran = ctl("status", "-e", first)
    assert (ran.code, ran.out.splitlines()[-1]) == (code, "RV303 n1: saves are slow")


def test_a_snapshot_that_an_alarm_tells_of_is_told_once(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    cluster.progress[3].state, cluster.progress[3].match, cluster.progress[3].snapshot_index = pb.SNAPSHOT, 0, 48000
    text = "n3 is installing snapshot 48000 (62%, about 8s left)"
    cluster.alarms.append(pb.Alarm(code="RV207", message=text, replica_id=3, severity=pb.NOTICE))
    ran = ctl("status", "-e", first)
    assert ran.code == 7
    assert [line for line in ran.out.splitlines() if "installing" in line] == [f"RV207 {text}"]


def test_versions_that_differ_are_told(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    assert "versions" not in ctl("status", "-e", first).out
    cluster.daemons[2].version = "0.2.0"
    ran = ctl("status", "-e", first)
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "versions differ: 0.1.0 on n1 n2, 0.2.0 on n3")


def test_endpoints_of_two_clusters_are_refused(ctl: Ctl, cluster: FakeCluster) -> None:
    (first,) = cluster.found(1)
    other = FakeCluster()
    try:
        (second,) = other.found(1)
        other.cluster_id = "a" * 32
        ran = ctl("status", "-e", f"{first},{second}")
    finally:
        other.stop()
    assert (ran.code, "2 clusters" in ran.err) == (2, True)


def test_wide_adds_columns(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(1)
    lines = ctl("-o", "wide", "status", "-e", first).out.splitlines()
    assert lines[1].split() == ["NAME", "ROLE", "STATE", "MATCH", "LAG", "CONTACT", "DB/MAX", "ID", "ADDRESS", "VERSION"]
    assert lines[2].split()[-3:] == ["1", first, "0.1.0"]
