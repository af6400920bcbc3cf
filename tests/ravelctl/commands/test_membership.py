"""What changes membership or leadership: the verdict first, then a yes, then the change that was judged."""

from __future__ import annotations

import time

import pytest

from ravelctl.client import ClusterClient
from ravelctl.client.errors import UnreachableError
from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster


@pytest.fixture
def at(cluster: FakeCluster) -> str:
    return cluster.found(3)[0]


VERDICT = (
    "remove n3 (3) from cluster orders\n"
    "        VOTERS    LEARNERS  QUORUM  LIVE  CAUGHT-UP  TOLERATES\n"
    "before  n1,n2,n3  -         2       3     3          1 failure\n"
    "after   n1,n2     -         2       2     2          0 failures\n"
)


@pytest.mark.parametrize("words", [["leave", "n3"], ["member", "remove", "3"]])
def test_leave_shows_the_verdict_and_sends_back_what_was_judged(
    ctl: Ctl, at: str, cluster: FakeCluster, words: list[str]
) -> None:
    ran = ctl(*words, "--yes", "-e", at)
    assert (ran.code, ran.out, ran.err) == (0, "removed n3 (3)\n", VERDICT)
    (request,) = cluster.asked
    assert list(request.replica_ids) == [3]
    assert (request.expect.term, request.expect.config_index) == (7, 40)
    assert 3 not in cluster.members


def test_without_a_terminal_and_without_yes_nothing_happens(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    ran = ctl("leave", "n3", "-e", at)
    assert ran.code == 2
    assert ran.err.endswith("error: this needs a yes, and there is no terminal to ask on\nnext: repeat the command with --yes\n")
    assert cluster.asked == []


def test_a_dry_run_stops_after_the_verdict(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    ran = ctl("leave", "n3", "--dry-run", "-e", at)
    assert (ran.code, ran.out) == (0, VERDICT.partition("\n")[2])
    told = ctl("leave", "n3", "--dry-run", "-e", at, "-o", "json").json
    assert (told["kind"], told["allowed"], told["before"]["tolerates"], told["after"]["tolerates"]) == ("Verdict", True, 1, 0)
    assert (told["after"]["voters"], told["term"]) == (["1", "2"], "7")
    assert cluster.asked == []


@pytest.mark.parametrize("extra", [[], ["--yes"], ["--dry-run"]])
def test_a_change_that_loses_quorum_is_refused_with_the_way_out(
    ctl: Ctl, at: str, cluster: FakeCluster, extra: list[str]
) -> None:
    cluster.unsafe = "1 of 2 voters would be live, and 2 are needed"
    ran = ctl("leave", "n2", *extra, "-e", at, "-o", "json")
    assert (ran.code, ran.out, cluster.asked) == (5, "", [])
    error = ran.error
    assert error["message"] == "refused to remove n2 (2) from cluster orders: 1 of 2 voters would be live, and 2 are needed"
    assert (error["next_step"], error["exit_code"]) == ("start n3 first", 5)
    assert (error["metadata"]["voters_before"], error["metadata"]["quorum_after"]) == ("1 2 3", "2")
    plain = ctl("leave", "n2", *extra, "-e", at)
    assert plain.code == 5
    assert plain.err.startswith("        VOTERS    LEARNERS")


def test_an_unknown_replica_is_told_with_those_there_are(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    ran = ctl("leave", "n9", "--yes", "-e", at)
    assert (ran.code, cluster.asked) == (1, [])
    assert "the cluster has no member 'n9'; its members are n1 (1), n2 (2), n3 (3)" in ran.err


def test_member_list(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    lines = ctl("member", "list", "-e", at).out.splitlines()
    assert lines[0].split() == ["ID", "NAME", "ROLE", "CLIENTS", "PEERS", "VERSION"]
    assert lines[1].split() == ["1", "n1", "leader", at, "10.0.0.1:7401", "0.1.0"]
    assert lines[2].split()[2] == "voter"
    told = ctl("member", "list", "-e", at, "-o", "json").json["members"]
    assert (told[2]["id"], told[2]["role"], told[2]["listen"]) == ("3", "voter", cluster.daemons[2].address)


def test_promote(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.grow(1)
    cluster.seat(cluster.daemons[3], pb.LEARNER)
    ran = ctl("member", "promote", "n4", "-e", at)
    assert (ran.code, ran.out, cluster.members[4].role) == (0, "promoted n4 (4)\n", pb.VOTER)
    assert "before  n1,n2,n3     n4        2       3     3          1 failure\n" in ran.err


def test_promoting_a_voter_is_no_change(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.grow(1)
    cluster.seat(cluster.daemons[3], pb.LEARNER)
    ran = ctl("member", "promote", "n2", "-e", at)
    assert (ran.code, ran.out, cluster.asked) == (0, "n2 (2) is a voter already; nothing was changed\n", [])
    assert ctl("member", "demote", "n4", "-e", at).out == "n4 (4) is a learner already; nothing was changed\n"
    both = ctl("member", "promote", "n2", "n4", "-e", at)
    assert (both.out, list(cluster.asked[0].replica_ids)) == ("promoted n4 (4)\n", [4])
    assert both.err.startswith("n2 (2) is a voter already\npromote n4 (4)\n")


def test_demote(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    assert ctl("member", "demote", "n3", "--dry-run", "-e", at).code == 0
    assert cluster.asked == []
    ran = ctl("member", "demote", "n3", "-e", at)
    assert (ran.code, ran.out, cluster.members[3].role) == (0, "demoted n3 (3)\n", pb.LEARNER)
    assert "after   n1,n2     n3        2       2     2          0 failures\n" in ran.err
    (request,) = cluster.asked
    assert (list(request.demote), request.expect.term, request.expect.config_index) == ([3], 7, 40)


@pytest.mark.parametrize("words", [["leave", "n1", "--yes"], ["member", "demote", "n1"]])
def test_a_leader_that_loses_its_vote_hands_over_and_the_new_one_makes_the_change(
    ctl: Ctl, at: str, cluster: FakeCluster, words: list[str]
) -> None:
    ran = ctl(*words, "-e", at)
    assert (ran.code, cluster.leader) == (0, 2)
    assert ran.err.endswith("n1 led, and has handed leadership over\n")
    (request,) = cluster.asked
    assert (request.expect.term, request.expect.config_index) == (8, 40)


def test_a_change_is_not_repeated_where_more_than_the_leader_has_changed(
    ctl: Ctl, at: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.ravelctl import fake

    refuse = fake.refuse

    def moved(*arguments: object, **metadata: str) -> None:
        cluster.config_index += 1
        refuse(*arguments, **metadata)  # type: ignore[arg-type]

    monkeypatch.setattr(fake, "refuse", moved)
    assert ctl("leave", "n1", "--yes", "-e", at).code == 5
    assert cluster.asked == []


def test_replace(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    (new,) = cluster.grow(1)
    assert ctl("member", "replace", "n3", "--with", new, "-e", at).code == 2
    dry = ctl("member", "replace", "n3", "--with", new, "-e", at, "--dry-run")
    assert (dry.code, cluster.asked) == (0, [])
    assert "n4 would join as a learner; caught up, it takes the place of n3 in one change" in dry.err
    ran = ctl("member", "replace", "n3", "--with", new, "-e", at, "--yes")
    assert (ran.code, ran.out) == (0, "n4 (4) has taken the place of n3 (3)\n")
    joined, changed = cluster.asked
    assert joined.no_promote
    assert (list(changed.promote), list(changed.remove)) == ([4], [3])
    assert {number: member.role for number, member in cluster.members.items()} == dict.fromkeys((1, 2, 4), pb.VOTER)


def test_a_replacement_goes_on_where_it_stopped(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    (new,) = cluster.grow(1)
    cluster.seat(cluster.daemons[3], pb.LEARNER)
    ran = ctl("member", "replace", "n3", "--with", new, "-e", at, "--yes")
    assert (ran.code, len(cluster.asked)) == (0, 1)
    again = ctl("member", "replace", "n2", "--with", new, "-e", at, "--yes")
    assert (again.code, len(cluster.asked)) == (5, 1)
    assert "n4 at " in again.err
    assert "is a voter already" in again.err


def test_stepdown(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    assert ctl("leader", "stepdown", "-e", at).code == 2
    assert ctl("leader", "stepdown", "-e", at, "--dry-run").code == 0
    assert cluster.asked == []
    ran = ctl("leader", "stepdown", "-e", at, "--yes")
    assert (ran.code, ran.out) == (0, "n2 leads in term 8\n")
    assert cluster.asked[0].step_down
    assert ctl("leader", "transfer", "n2", "-e", at).out == "n2 leads already\n"
    assert len(cluster.asked) == 1


def test_update(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    words = ["member", "update", "n3", "--peer", "10.9.9.9:7001", "--name", "gamma", "-e", at]
    dry = ctl(*words, "--dry-run")
    assert (dry.code, cluster.asked) == (0, [])
    ran = ctl(*words)
    assert (ran.code, ran.out) == (0, dry.out)
    assert ran.out.splitlines()[2].split() == ["after", "3", "gamma", cluster.daemons[2].address, "10.9.9.9:7001"]
    (request,) = cluster.asked
    assert (request.replica_id, request.server.server_id, request.expect.config_index) == (3, f"{3:032x}", 40)
    assert ctl("member", "update", "n3", "-e", at).code == 2


def test_leader_show_and_transfer(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    assert ctl("leader", "show", "-e", at).out == f"n1  {at}  term 7  for 3h12m\n"
    ran = ctl("leader", "transfer", "n3", "-e", at)
    assert (ran.code, ran.out) == (0, "n3 leads in term 8\n")
    assert ran.err.startswith("hand leadership from n1 to n3\n")
    assert cluster.asked[0].replica_id == 3
    assert ctl("leader", "show", "-e", at, "-o", "name").out == "n3\n"
    cluster.leader = 0
    assert ctl("leader", "show", "-e", at).code == 4


def test_the_leader_is_chosen_by_the_cluster_where_none_is_named(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    ran = ctl("leader", "transfer", "-e", at, "-o", "json")
    assert (ran.code, cluster.asked[0].replica_id) == (0, 0)
    assert (ran.json["id"], ran.json["name"], ran.json["before"]) == ("2", "n2", "n1")


def test_a_daemon_that_was_started_a_moment_ago_is_waited_for(
    ctl: Ctl, at: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (new,) = cluster.grow(1)
    asked: list[str] = []
    status = ClusterClient.status

    async def not_yet(self: ClusterClient, endpoint: str, *, timeout_s: float | None = None) -> pb.StatusResponse:
        asked.append(endpoint)
        if endpoint == new and asked.count(new) < 3:
            raise UnreachableError(f"{new} cannot be reached: the connection was refused or failed")
        return await status(self, endpoint, timeout_s=timeout_s)

    monkeypatch.setattr(ClusterClient, "status", not_yet)
    assert ctl("join", new, "--via", at, "--no-wait").code == 0
    assert asked.count(new) == 3
    began = time.monotonic()
    assert ctl("join", "127.0.0.1:1", "--via", at, "--timeout", "2s").code == 3
    assert time.monotonic() - began < 30


def test_join_and_wait(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    (new,) = cluster.grow(1)
    ran = ctl("join", new, "--via", at)
    assert (ran.code, ran.out) == (0, "n4 is replica 4 of cluster orders, a voter\n")
    assert ran.err.startswith("join n4 to cluster orders\n        VOTERS")
    assert "after   n1,n2,n3  n4        2" in ran.err
    (request,) = cluster.asked
    assert (list(request.via), request.no_promote) == ([at], False)
    again = ctl("join", new, "--via", at)
    assert (again.code, again.out) == (0, ran.out)
    assert len(cluster.asked) == 1


def test_a_learner_may_stay_one(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    (new,) = cluster.grow(1)
    ran = ctl("join", new, "-e", at, "--no-promote", "-o", "json")
    assert (ran.code, ran.json["role"], ran.json["id"]) == (0, "learner", "4")
    assert cluster.asked[0].no_promote


def test_one_that_was_removed_is_told_how_to_come_back(ctl: Ctl, cluster: FakeCluster) -> None:
    first, _, third = cluster.found(3)
    del cluster.members[3]
    cluster.daemons[2].removed = True
    ran = ctl("join", third, "--via", first)
    assert (ran.code, "was removed from cluster orders for good\nnext: " in ran.err) == (5, True)
    assert f"`ravelctl join {third} --via {first} --reset`" in ran.err


def test_a_join_that_does_not_come_about_in_time_says_how_far_it_is(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    (new,) = cluster.grow(1)
    cluster.seat(cluster.daemons[3], pb.LEARNER)
    cluster.progress[4].match = 48000
    ran = ctl("join", new, "--via", at, "--timeout", "2s")
    assert ran.code == 124
    assert "catching up did not come about within 2s: n4 is a learner, 210 entries behind" in ran.err


def test_join_is_refused_for_a_member_of_another_cluster(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    other = FakeCluster()
    try:
        (foreign,) = other.found(1, name="users")
        other.cluster_id = "a" * 32
        ran = ctl("join", foreign, "--via", at)
    finally:
        other.stop()
    assert (ran.code, cluster.asked, other.asked) == (5, [], [])
    assert "is a member of cluster users (aaaaaaaa) already" in ran.err


def test_join_must_know_where(ctl: Ctl) -> None:
    ran = ctl("join", "127.0.0.1:9")
    assert (ran.code, "--via" in ran.err) == (2, True)


def test_join_may_be_refused_by_the_leader(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    (new,) = cluster.grow(1)
    cluster.unsafe = "the leader cannot reach 10.0.0.4:7401"
    ran = ctl("join", new, "--via", at)
    assert (ran.code, cluster.asked) == (5, [])
    assert "the leader cannot reach 10.0.0.4:7401" in ran.err
