"""`ravelctl log diff` of live replicas: where the entries are the same their states are compared, or it is said why not."""

from __future__ import annotations

import pytest

from ravelpb.v1 import inspect_pb2 as ins
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster

SAME, OTHER, THIRD = bytes(32), b"\x01" * 32, b"\x02" * 32


@pytest.fixture
def at(cluster: FakeCluster) -> str:
    cluster.log = [
        ins.LogEntry(index=index, term=7, type="put", bytes=9, summary=["put a"], digest=b"d%d" % index)
        for index in range(48201, 48211)
    ]
    return cluster.found(3, leader=2)[0]


def one(number: int, sha256: bytes, agreed: int = -1, differed: int = 0, problem: str = "") -> ins.ReplicaStateHash:
    return ins.ReplicaStateHash(
        replica_id=number,
        name=f"n{number}",
        sha256=sha256,
        problem=problem,
        differs=agreed >= 0,
        agreed_index=max(agreed, 0),
        differed_index=differed,
    )


def hashed(*replicas: ins.ReplicaStateHash) -> ins.StateHashResponse:
    return ins.StateHashResponse(index=48300, term=7, replicas=replicas)


def test_states_that_are_the_same(ctl: Ctl, cluster: FakeCluster, at: str) -> None:
    cluster.state_hash = hashed(one(1, SAME), one(2, SAME), one(3, OTHER, 48200, 48250))
    ran = ctl("log", "diff", "n1", "n2", "--from", 48201, "-e", at)
    assert ran.code == 0, ran.err
    assert ran.out == ("10 entries from 48201 to 48210 are the same on n1 and n2\ntheir states at entry 48300 are the same\n")


def test_the_range_in_which_states_parted_is_told(ctl: Ctl, cluster: FakeCluster, at: str) -> None:
    cluster.state_hash = hashed(one(1, SAME), one(2, SAME), one(3, OTHER, 48200, 48250))
    words = ["log", "diff", "n3", "n1", "--from", 48201, "-e", at]
    ran = ctl(*words)
    assert ran.code == 8
    assert "their states differ: they were the same at entry 48200 and no more at entry 48250" in ran.out
    assert "ravelctl log show --from 48201 --to 48250 --replica n3" in ran.out
    told = ctl(*words, "-o", "json").json
    assert told["same"] is False
    assert told["state"] == {
        "compared": True, "index": "48300", "term": "7", "same": False, "agreed_index": "48200", "differed_index": "48250",
    }  # fmt: skip
    assert ctl(*words, "-o", "name").out == "48250\n"
    assert ctl(*words, "--no-state").code == 0


def test_two_that_both_went_astray_parted_after_the_older_agreement(ctl: Ctl, cluster: FakeCluster, at: str) -> None:
    cluster.state_hash = hashed(one(1, SAME, 48100, 48220), one(2, OTHER, 48200, 48250), one(3, THIRD, 0, 48300))
    ran = ctl("log", "diff", "n1", "n2", "--from", 48201, "-e", at)
    assert "the same at entry 48100 and no more at entry 48250" in ran.out
    ran = ctl("log", "diff", "n1", "n3", "--from", 48201, "-e", at)
    assert (ran.code, "differ since entry 48300 at the latest; when they were the same is not known" in ran.out) == (8, True)


def test_what_hinders_a_comparison_is_told_and_raised_where_it_was_asked_for(ctl: Ctl, cluster: FakeCluster, at: str) -> None:
    words = ["log", "diff", "n1", "n2", "--from", 48201, "-e", at]
    ran = ctl(*words)  # some member is too old
    assert (ran.code, "their states were not compared: checksum entries need format 2" in ran.out) == (0, True)
    assert ctl(*words, "--state").code == 5
    cluster.state_hash = hashed(one(1, SAME), one(2, b"", problem="no replica answers at 10.0.0.2:7401"))
    ran = ctl(*words, "-o", "json")
    assert ran.json["state"] == {"compared": False, "why": "n2 gave no hash: no replica answers at 10.0.0.2:7401"}
    assert (ran.code, ctl(*words, "--state").code) == (0, 1)
    cluster.leader = 0
    assert "were not compared: cluster orders has no leader" in ctl(*words).out
    assert ctl(*words, "--state").code == 4
    assert ctl("log", "diff", "n1", "n1", "--from", 48201, "-e", at).out.count("\n") == 1
