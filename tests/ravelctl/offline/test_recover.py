"""What is left of a cluster: ranked, judged, and made into another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ravel_node.machine import envelope
from ravel_node.raft.types import Entry, Index, Term
from ravelctl.cli.errors import CommandError
from ravelctl.cluster.recovery import Survivor, plan
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.offline.support import CLUSTER, flip_log_byte, make, puts
from tests.ravelctl.offline.test_snapshots import YEAR_2026_US, content


def left(source: str, replica: int, last: int, *, term: int = 3, voters: tuple[int, ...] = (1, 2, 3), **more: object) -> Survivor:
    values: dict[str, object] = {
        "source": source,
        "name": f"n{replica}",
        "cluster_id": CLUSTER,
        "cluster_name": "orders",
        "replica_id": replica,
        "last_term": term,
        "last_index": last,
        "commit_index": 5,
        "applied_index": 5,
        "halves": (voters,),
        "config_index": 1,
        "names": {1: "n1", 2: "n2", 3: "n3"},
    }
    return Survivor(**{**values, **more})  # type: ignore[arg-type]


def test_survivors_are_ranked_as_in_an_election() -> None:
    found = plan([left("a", 1, 9), left("b", 2, 7, term=4), left("c", 3, 8, term=4, voters=(1, 2, 3, 4, 5, 6, 7))])
    assert [survivor.source for survivor in found.survivors] == ["c", "b", "a"]
    damaged = plan([left("a", 1, 9, problems=("broken",)), left("b", 2, 7)])
    assert [survivor.source for survivor in damaged.survivors] == ["b", "a"]
    assert not damaged.has_quorum


def test_a_quorum_that_is_left_needs_no_recovery() -> None:
    found = plan([left("a", 1, 9), left("b", 2, 7)])
    assert (found.has_quorum, found.missing) == (True, (3,))
    assert any("nothing to recover" in sentence for sentence in found.sentences)
    assert not plan([left("a", 1, 9), left("b", 2, 7), left("c", 3, 7, config_index=9, voters=(3, 4, 5, 6, 7))]).has_quorum
    joint = plan([left("a", 1, 9, halves=((1, 2), (2, 3))), left("b", 2, 9, halves=((1, 2), (2, 3)))])
    assert not joint.has_quorum, "of each half"


def test_those_of_different_clusters_are_refused() -> None:
    with pytest.raises(CommandError, match="different clusters"):
        plan([left("a", 1, 9), left("b", 2, 7, cluster_id="d" * 32)])
    with pytest.raises(CommandError, match="none of these"):
        plan([left("a", 1, 9, cluster_id="")])


def test_a_plan_says_what_may_be_lost(ctl: Ctl, tmp_path: Path) -> None:
    one = make(tmp_path / "n1", puts(1, 9), unapplied=2)
    ran = ctl("recover", "plan", one)
    assert ran.code == 0, ran.err
    assert "1 of 3 voters are here, and a quorum is 2" in ran.out
    assert "kept: all that was committed up to entry 8" in ran.out
    assert "taken over: 2 entries after that" in ran.out
    assert "may be lost: acknowledged writes after entry 10 that only n2, n3 had" in ran.out
    assert f"next: ravelctl recover apply {one} --to NEW_DIRECTORY --name n1" in ran.out
    two = make(tmp_path / "n2", puts(1, 12), replica=2)
    ran = ctl("recover", "plan", one, two, tmp_path / "gone/", "-o", "json")
    assert [survivor["source"] for survivor in ran.json["survivors"]] == [str(two), str(one)]
    assert "is not there" in ran.json["unreadable"][0]
    assert (ran.json["voters"], ran.json["missing"], ran.json["quorum"], ran.json["has_quorum"]) == (
        ["1", "2", "3"],
        ["3"],
        2,
        True,
    )
    flip_log_byte(two, 13)
    ran = ctl("recover", "plan", one, two, "-o", "json")
    assert (ran.json["survivors"][0]["source"], ran.json["survivors"][1]["problems"] != []) == (str(one), True)


def test_a_new_cluster_is_made_of_the_log_and_the_old_directory_stays(ctl: Ctl, tmp_path: Path) -> None:
    old = make(
        tmp_path / "n1", [[envelope.register_session()], *puts(1, 9)], unapplied=3, raw=[Entry(Term(7), Index(12), data=b"")]
    )
    before = {file: file.read_bytes() for file in old.rglob("*") if file.is_file() and file.name != "lock.mdb"}
    target = tmp_path / "new"
    dry = ctl("recover", "apply", old, "--to", target, "--dry-run")
    assert (dry.code, target.exists()) == (0, False)
    assert ctl("recover", "apply", old, "--to", target).code == 2, "nobody typed the id"
    assert ctl("recover", "apply", old, "--to", target, "--yes").code == 2
    wrong = ctl("recover", "apply", old, "--to", target, "--yes", "--confirm", "d" * 32)
    assert (wrong.code, target.exists()) == (5, False)
    ran = ctl("recover", "apply", old, "--to", target, "--yes", "--confirm", CLUSTER)
    assert ran.code == 0, ran.err
    found = content(target)
    assert found["identity"].cluster_id not in ("", CLUSTER)
    assert found["keys"] == 9
    assert found["revision"] > YEAR_2026_US
    assert (found["voters"], found["sessions"], found["problems"]) == ((4,), 0, [])
    assert {file: file.read_bytes() for file in before} == before
    part = ctl("recover", "apply", old, "--to", tmp_path / "part", "--index", 10, "--yes", "--confirm", CLUSTER[:8], "-o", "json")
    assert (part.json["upto_index"], part.json["keys"]) == ("10", "8")
    again = ctl("recover", "apply", old, "--to", target, "--yes", "--confirm", CLUSTER)
    assert again.code == 5


def test_what_cannot_be_recovered_is_refused(ctl: Ctl, tmp_path: Path) -> None:
    old = make(tmp_path / "n1", puts(1, 9), unapplied=3)
    flip_log_byte(old, 9)
    ran = ctl("recover", "apply", old, "--to", tmp_path / "new", "--yes", "--confirm", CLUSTER)
    assert (ran.code, "--index 8" in ran.err, (tmp_path / "new").exists()) == (8, True, False)
    assert ctl("recover", "apply", tmp_path / "none", "--to", tmp_path / "new", "--yes", "--confirm", CLUSTER).code == 2
    assert ctl("recover", "plan", "Not-An:Address:x").code == 2
