"""health: one line for probes, with its exit codes and with those of monitoring plugins."""

from __future__ import annotations

import pytest

from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster

LINE = "RAVEL {} - {} | live={} quorum=2 tolerates={} lag=0\n"


def test_healthy(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    ran = ctl("health", "-e", first)
    assert (ran.code, ran.out, ran.err) == (0, "HEALTHY cluster orders, leader n1, tolerates 1 failure\n", "")
    told = ctl("health", "-e", first, "-o", "json").json
    assert (told["kind"], told["health"], told["live"], told["quorum"], told["worries"]) == ("Health", "HEALTHY", 3, 2, [])
    assert ctl("health", "-e", first, "-o", "name").out == "HEALTHY\n"
    nagios = ctl("health", "-e", first, "--format", "nagios")
    assert (nagios.code, nagios.err) == (0, "")
    assert nagios.out == LINE.format("OK", "HEALTHY cluster orders, leader n1, tolerates 1 failure", 3, 1)


def test_degraded(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    cluster.progress[3].recent_active = cluster.progress[3].contacted = False
    ran = ctl("health", "-e", first)
    assert (ran.code, ran.out.splitlines()[0]) == (7, "DEGRADED cluster orders, leader n1, tolerates 0 failures")
    assert "the leader has not heard n3" in ran.out
    nagios = ctl("health", "-e", first, "--format", "nagios")
    assert (nagios.code, nagios.out.startswith("RAVEL WARNING - DEGRADED cluster orders"), len(nagios.out.splitlines())) == (
        1,
        True,
        1,
    )


@pytest.mark.parametrize(("format_", "code"), [("text", 4), ("nagios", 2)])
def test_no_leader(ctl: Ctl, cluster: FakeCluster, format_: str, code: int) -> None:
    first, *_ = cluster.found(3)
    cluster.leader = 0
    assert ctl("health", "-e", first, "--format", format_).code == code


def test_nobody_answers(ctl: Ctl) -> None:
    ran = ctl("health", "-e", "127.0.0.1:1")
    assert (ran.code, ran.out) == (3, "")
    nagios = ctl("health", "-e", "127.0.0.1:1", "--format", "nagios")
    assert (nagios.code, nagios.err) == (2, "")
    assert nagios.out.startswith("RAVEL CRITICAL - no daemon answers at 127.0.0.1:1")


def test_a_check_that_does_not_come_about_is_unknown(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(1)
    other = FakeCluster()
    try:
        (foreign,) = other.found(1, name="users")
        other.cluster_id = "a" * 32
        ran = ctl("health", "-e", f"{first},{foreign}", "--format", "nagios")
    finally:
        other.stop()
    assert (ran.code, ran.err) == (3, "")
    assert ran.out.startswith("RAVEL UNKNOWN - the endpoints belong to 2 clusters")
    assert ctl("health", "--format", "nagios", "-o", "json", "-e", first).code == 2
    ran = ctl("health", "--format", "nagios", "--watch", "-e", first)
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: --format nagios answers one check")
