"""The command: whom it asks, what it prints, how it exits. The rules have tests of their own (tests/ravelctl/diagnosis)."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
from pathlib import Path

import pytest

from ravelctl.diagnosis.codes import CODES
from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster
from tests.ravelctl.offline.support import flip_log_byte, make, puts


def test_a_healthy_cluster_gets_two_lines(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    ran = ctl("doctor", "-e", first)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "cluster orders 3f9c21aa  nothing is wrong\n"
        "checked: 3 of 3 daemons answered (n1, n2, n3); "
        "leadership, replication, disks, membership, versions, settings, clocks, TLS\n"
    )
    assert ctl("doctor", "-e", first, "-o", "name").out == ""


def test_a_finding_has_code_evidence_cause_and_next_step(ctl: Ctl, cluster: FakeCluster) -> None:
    first, _, third = cluster.found(3)
    cluster.daemons[2].stop()
    cluster.progress[3].recent_active, cluster.progress[3].contact_age_ms = False, 95_000
    ran = ctl("doctor", "-e", first)
    assert ran.code == 7
    assert ran.out.splitlines()[:6] == [
        "cluster orders 3f9c21aa  1 finding",
        "",
        f"RV109 critical: n3 cannot be reached: {third} refuses connections",
        f"  seen: {third} refuses connections",
        "  seen: the leader heard it 1m35s ago",
        "  why:  it is down, its host is, or its address is not reachable from here",
    ]
    told = ctl("doctor", "-e", first, "-o", "json").json
    assert (told["kind"], told["healthy"], told["cluster_name"]) == ("Doctor", False, "orders")
    [found] = told["findings"]
    assert found == {
        "code": "RV109",
        "severity": "critical",
        "subject": "n3",
        "message": f"n3 cannot be reached: {third} refuses connections",
        "seen": [f"{third} refuses connections", "the leader heard it 1m35s ago"],
        "why": CODES["RV109"].cause,
        "do": CODES["RV109"].cure,
    }
    assert ctl("doctor", "-e", first, "-o", "name").out == "RV109\n"


def test_nobody_answers(ctl: Ctl, cluster: FakeCluster) -> None:
    (only,) = cluster.found(1)
    cluster.stop()
    ran = ctl("doctor", "-e", only)
    assert (ran.code, ran.out.splitlines()[2]) == (3, f"RV110 critical: nobody answers at {only}")


def test_a_change_that_is_done_at_the_second_look_is_no_finding(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = cluster.found(3)
    cluster.members[3].role = pb.LEAVING
    ran = ctl("doctor", "-e", first, "-o", "name")
    assert ran.out.splitlines() == ["RV405"]  # the fake's number of the change is the same at both


@pytest.mark.parametrize("words", [["RV207"], ["rv207"], ["--explain", "RV207"]])
def test_a_code_is_explained_without_a_cluster(ctl: Ctl, words: list[str]) -> None:
    ran = ctl("doctor", *words)
    assert ran.code == 0
    assert ran.out.startswith("RV207 snapshot (notice, replication)\nmeaning:   a follower is installing a snapshot\n")
    assert ctl("doctor", *words, "-o", "json").json["exit_code"] == 0


def test_a_code_that_is_none_gets_a_suggestion(ctl: Ctl) -> None:
    ran = ctl("doctor", "RV1O1")
    assert ran.code == 2
    assert ran.err.startswith("error: there is no code 'RV1O1'\nnext: did you mean `ravelctl doctor RV")


def test_what_is_no_daemon_at_all(ctl: Ctl, cluster: FakeCluster) -> None:
    """Something that takes a connection and says what no daemon says; and something that says nothing."""
    first, *_ = cluster.found(1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    connection.close()

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        told = ctl("doctor", "-e", f"{first},{address}", "-o", "name").out.splitlines()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)
    assert told == ["RV513", "RV402"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert ctl("doctor", "-e", f"{first},{address}", "-o", "name").out.splitlines() == ["RV108", "RV402"]


# --- directories


def test_directories_alone_are_not_dialled_for(
    ctl: Ctl, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what a variable names."""
    (only,) = cluster.found(1)
    monkeypatch.setenv("RAVELCTL_ENDPOINTS", only)
    paths = [make(tmp_path / f"n{n}", puts(2, 20 + n), replica=n) for n in (1, 2)]
    ran = ctl("doctor", "--data-dir", paths[0], "--data-dir", paths[1])
    assert ran.code == 4
    assert "RV111 critical: no daemon runs; 2 of 3 voters' directories are at hand and whole, which is a quorum" in ran.out
    assert f"start the daemons, each on its directory: {paths[1]}, {paths[0]}; the newest is n2" in ran.out
    assert "answered" not in ran.out
    asked = ctl("doctor", "--data-dir", paths[0], "-e", only)
    assert "1 of 1 daemon answered" in asked.out


def test_damage_is_named_with_its_index(ctl: Ctl, tmp_path: Path) -> None:
    path = make(tmp_path / "n1", puts(2, 20))
    flip_log_byte(path, 9)
    ran = ctl("doctor", "--data-dir", path, "-o", "json")
    assert ran.code == 8
    found = {finding["code"]: finding for finding in ran.json["findings"]}
    assert set(found) == {"RV112", "RV603"}
    assert "entry 9" in found["RV603"]["message"]
    assert str(path) in found["RV112"]["message"] + found["RV603"]["message"]


def spoil_format(path: Path) -> None:
    (path / "FORMAT").write_text("ravel 99\n")


def spoil_state(path: Path) -> None:
    (state,) = path.glob("state-*")
    (state / "data.mdb").write_bytes(b"\x5a" * 65_536)


def drop_state(path: Path) -> None:
    (state,) = path.glob("state-*")
    shutil.rmtree(state)


def cut_log(path: Path) -> None:
    (path / "raft" / "data.mdb").write_bytes(b"\xa5" * 65_536)


def cut_snapshot(path: Path) -> None:
    (data,) = (path / "snapshots").glob("*.mdb")
    data.write_bytes(data.read_bytes()[:-4_096])


def open_up(path: Path) -> None:
    path.chmod(0o755)


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def hold_something_else(path: Path) -> None:
    empty(path)
    (path / "thesis.tex").write_text("mine")


@pytest.mark.parametrize(
    ("spoil", "codes", "exits"),
    [
        (spoil_format, {"RV607"}, 7),
        (spoil_state, {"RV604", "RV112"}, 8),
        (drop_state, {"RV604", "RV112"}, 8),
        (cut_log, {"RV603"}, 8),
        (cut_snapshot, {"RV605", "RV112"}, 8),
        (open_up, {"RV508", "RV112"}, 4),
        (empty, {"RV606"}, 7),
        (hold_something_else, {"RV606"}, 7),
        (shutil.rmtree, {"RV608"}, 7),
    ],
)
def test_a_spoilt_directory(ctl: Ctl, tmp_path: Path, spoil: object, codes: set[str], exits: int) -> None:
    path = make(tmp_path / "n1", puts(2, 20), snapshot_at=10)
    spoil(path)  # type: ignore[operator]
    ran = ctl("doctor", "--data-dir", path, "-o", "json")
    assert {finding["code"] for finding in json.loads(ran.out)["findings"]} == codes, ran.out
    assert ran.code == exits
