"""Snapshot files: what they hold, states as of an entry, and new clusters made of them."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ravel_node.machine import envelope
from ravel_node.machine.kv import KVMachine, get
from ravel_node.machine.members import encode_context
from ravel_node.raft.confchange import encode_conf_change
from ravel_node.raft.types import ChangeType, ConfChange, Entry, Index, ReplicaId, Term
from ravel_node.storage.store import open_store
from ravelctl.store.snapshot_file import write_snapshot
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.offline.support import CLUSTER, OPTIONS, flip_log_byte, make, puts
from tests.server.fakes import record

YEAR_2026_US = 1_767_225_600_000_000
"""Microseconds since 1970: the numbers of a cluster that is made now lie above it."""


def saved(path: Path, target: Path) -> Path:
    """The newest snapshot of a directory as a file of `snapshot save`."""
    header = max((path / "snapshots").glob("*.json"))
    write_snapshot(target, header.read_bytes(), header.with_suffix(".mdb"))
    return target


@pytest.fixture
def path(tmp_path: Path) -> Path:
    commands = [[], [envelope.register_session()], *puts(1, 8), [envelope.delete(b"orders/2")], *puts(1, 30, b"users/")]
    return make(tmp_path / "n1", commands, snapshot_at=8, unapplied=5)


def content(path: Path) -> dict[str, Any]:
    """What a directory says of itself, opened as a daemon opens it."""

    async def read() -> dict[str, Any]:
        store = await open_store(path, OPTIONS)
        machine = KVMachine()
        machine.open(store.reader())
        pair = get(store.reader(), b"orders/1")
        found = {
            "identity": store.identity,
            "applied": store.applied,
            "revision": machine.revision,
            "voters": machine.conf_state.voters,
            "members": machine.members,
            "sessions": machine.session_count,
            "keys": len(list(store.reader().scan(1, b"", None))),  # type: ignore[arg-type]
            "orders/1": pair,
            "hard_state": store.initial_state()[0],
            "problems": await store.check(),
        }
        await store.close()
        return found

    return asyncio.run(read())


def test_a_snapshot_is_inspected_and_verified(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    file = saved(path, tmp_path / "s.rvsnap")
    ran = ctl("snapshot", "inspect", file)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[1] == "position  index 8 term 3, voters n1 n2 n3"
    assert ran.out.splitlines()[-2:] == ["PREFIX   KEYS  BYTES", "orders/  5     90B"]
    assert ctl("snapshot", "inspect", file, "--separator", "#", "-o", "json").json["prefixes"] == [
        {"prefix": "(none)", "keys": "5", "bytes": "90"}
    ]
    assert ctl("snapshot", "verify", file).code == 0
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-100] + b"x" + whole[-99:], whole + b"x", whole[:300], b"", whole[:20]):
        file.write_bytes(damaged)
        assert ctl("snapshot", "verify", file).code == 8
        assert ctl("snapshot", "inspect", file).code == 8
        assert ctl("snapshot", "restore", file, "--data-dir", tmp_path / "new").code == 8
        assert not (tmp_path / "new").exists()
    assert ctl("snapshot", "verify", tmp_path / "none").code == 2


def test_a_header_that_lies_is_found(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    """The sums are right, but the record within is not that of the header, or a record is forged."""
    file = saved(path, tmp_path / "s.rvsnap")
    header = json.loads(max((path / "snapshots").glob("*.json")).read_bytes())
    data = max((path / "snapshots").glob("*.mdb"))
    header["index"] += 1
    write_snapshot(file, json.dumps(header).encode(), data)
    ran = ctl("snapshot", "verify", file)
    assert (ran.code, "its header says 9 of term 3" in ran.out) == (8, True)
    header["index"] -= 1
    forged = tmp_path / "forged"
    forged.write_bytes(data.read_bytes().replace(b"value of 3", b"value of X"))
    header["sha256"] = hashlib.sha256(forged.read_bytes()).hexdigest()
    write_snapshot(file, json.dumps(header).encode(), forged)
    ran = ctl("snapshot", "verify", file)
    assert (ran.code, "record 'orders/3' of database kv is damaged" in ran.out) == (8, True)


def test_a_restore_is_told_before_it_is_done(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    file = saved(path, tmp_path / "s.rvsnap")
    target = tmp_path / "new"
    words = ("snapshot", "restore", file, "--data-dir", target, "--name", "a1")
    before = sorted(tmp_path.rglob("*"))
    ran = ctl(*words, "--dry-run")
    assert (ran.code, "dry run: nothing was changed" in ran.err) == (0, True)
    assert ran.out.startswith(f"would make {target}, and nothing else; ")
    told = ctl(*words, "--dry-run", "-o", "json").json
    assert (told["from_cluster"], told["restored"]) == (CLUSTER, False)
    assert sorted(tmp_path.rglob("*")) == before
    made = ctl(*words, "-o", "json").json
    assert int(made["revision"]) >= int(told["revision"]) > YEAR_2026_US
    assert int(made["index"]) >= int(told["index"]) > YEAR_2026_US // 100
    assert (told["snapshot_index"], made["upto_index"]) == ("8", "8")
    shared = ("keys", "name", "cluster_name", "data_dir")
    assert {name: told[name] for name in shared} == {name: made[name] for name in shared}
    ran = ctl(*words, "--dry-run")
    assert (ran.code, "is not empty" in ran.err) == (5, True)
    assert ctl("snapshot", "restore", file, "--data-dir", tmp_path / "no" / "new", "--dry-run").code == 2
    file.write_bytes(file.read_bytes()[:-100])
    assert ctl("snapshot", "restore", file, "--data-dir", tmp_path / "other", "--dry-run").code == 8


def test_a_snapshot_of_an_entry_is_told_before_it_is_made(ctl: Ctl, tmp_path: Path) -> None:
    path = make(tmp_path / "n1", puts(1, 20), snapshot_at=8, times=[1_772_452_800_000] * 20)
    file = tmp_path / "ten.rvsnap"
    words = ("snapshot", "at", "--index", 10, "--data-dir", path, "-f", file)
    before = sorted(tmp_path.rglob("*"))
    ran = ctl(*words, "--dry-run")
    assert (ran.code, "at index 8, and 2 entries of the log after it" in ran.out) == (0, True), ran.err
    assert ran.out.endswith("up to index 10 of 2026-03-02T12:00:00Z\n")
    told = ctl(*words, "--dry-run", "-o", "json").json
    assert sorted(tmp_path.rglob("*")) == before
    made = ctl(*words, "-o", "json").json
    assert all(told[name] == made[name] for name in ("file", "index", "time", "from"))
    assert made["time"] == "2026-03-02T12:00:00Z"
    assert ctl(*words, "--dry-run").code == 2, "the file is there now"
    assert ctl(*words[:3], 99, *words[4:6], "-f", tmp_path / "none", "--dry-run").code == 1


def test_a_restored_cluster_is_another_one(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    file = saved(path, tmp_path / "s.rvsnap")
    target = tmp_path / "new"
    ran = ctl("snapshot", "restore", file, "--data-dir", target, "--name", "a1")
    assert ran.code == 0, ran.err
    assert f"ravel_node start --data-dir {target} --name a1" in ran.out
    found = content(target)
    identity = found["identity"]
    assert identity.cluster_id != CLUSTER
    assert (identity.cluster_name, identity.name, identity.replica_id) == ("orders", "a1", 4)
    term, index = found["applied"]
    assert found["hard_state"] == (term, 0, index)
    assert term > YEAR_2026_US // 1_000_000
    assert index > YEAR_2026_US // 100
    assert found["revision"] > YEAR_2026_US
    assert (found["voters"], found["sessions"]) == ((4,), 0)
    assert {member.replica_id: member.removed for member in found["members"].values()} == {1: True, 2: True, 3: True, 4: False}
    assert (found["keys"], found["orders/1"].value, found["orders/1"].revision) == (5, b"value of 1", 1)
    assert found["problems"] == []
    assert (target.stat().st_mode & 0o777, (target / "FORMAT").read_text()) == (0o700, "ravel 2\n")
    again = ctl("snapshot", "restore", file, "--data-dir", target)
    assert (again.code, "not empty" in again.err) == (5, True)
    (tmp_path / "other").mkdir()
    other = ctl("snapshot", "restore", file, "--data-dir", tmp_path / "other", "--cluster-name", "copy", "-o", "json")
    assert (other.json["cluster_name"], other.json["cluster"] != identity.cluster_id) == ("copy", True)
    assert ctl("snapshot", "restore", file, "--data-dir", tmp_path / "x", "--cluster-name", "Not A Name").code == 2
    assert ctl("snapshot", "restore", file, "--data-dir", tmp_path / "no" / "x").code == 2
    assert not (tmp_path / "x").exists()


def test_a_full_disk_and_ctrl_c_leave_nothing(ctl: Ctl, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ravelctl.offline import snapshots

    file = saved(path, tmp_path / "s.rvsnap")
    before = sorted(tmp_path.iterdir())
    for failure, code in ((OSError(errno.ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 130)):

        def fails(*_: object, failure: BaseException = failure) -> None:
            raise failure

        monkeypatch.setattr("shutil.copyfileobj", fails)
        ran = ctl("snapshot", "restore", file, "--data-dir", tmp_path / "new")
        assert ran.code == code, ran.err
        assert sorted(tmp_path.iterdir()) == before
        monkeypatch.undo()
        monkeypatch.setattr(snapshots, "write_snapshot", fails)
        ran = ctl("snapshot", "at", "--index", 10, "--data-dir", path, "-f", tmp_path / "at.rvsnap")
        assert ran.code == code, ran.err
        assert sorted(tmp_path.iterdir()) == before
        monkeypatch.undo()
    (tmp_path / ".new.making").mkdir()
    (tmp_path / ".new.making" / "raft").mkdir()
    assert ctl("snapshot", "restore", file, "--data-dir", tmp_path / "new").code == 0, "what a crash left is begun anew"
    assert not (tmp_path / ".new.making").exists()


def test_the_state_as_of_an_entry(ctl: Ctl, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "at.rvsnap"

    def keys(index: int, *words: object) -> int:
        ran = ctl("snapshot", "at", "--index", index, "--data-dir", path, "--overwrite", "-f", file, *words)
        assert ran.code == 0, ran.err
        assert ctl("snapshot", "verify", file).code == 0
        told = ctl("snapshot", "inspect", file, "-o", "json").json
        assert told["index"] == str(index)
        return sum(int(row["keys"]) for row in told["prefixes"])

    assert keys(8) == 5
    assert keys(11) == 8
    assert keys(12) == 7
    assert keys(37) == 32, "what the replica has applied"
    assert keys(42) == 37, "and what only its log has"
    ran = ctl("snapshot", "at", "--index", 42, "--data-dir", path, "--overwrite", "-f", file)
    assert "is not known to be committed" in ran.err
    assert ctl("snapshot", "at", "--index", 43, "--data-dir", path, "--overwrite", "-f", file).code == 1
    assert ctl("snapshot", "at", "--index", 7, "--data-dir", path, "--overwrite", "-f", file).code == 1
    base = saved(path, tmp_path / "base.rvsnap")
    assert keys(12, "--from", base) == 7
    flip_log_byte(path, 20)
    ran = ctl("snapshot", "at", "--index", 25, "--data-dir", path, "--overwrite", "-f", file)
    assert (ran.code, "entry 20 of the log" in ran.err, "--index 19" in ran.err) == (8, True, True)
    assert keys(38) == 33, "from the applied state, which lies behind the damage"


def test_membership_changes_are_applied_on_the_way(ctl: Ctl, tmp_path: Path) -> None:
    kind, data = encode_conf_change(ConfChange(ChangeType.ADD_LEARNER, ReplicaId(4), encode_context([record(4)])))
    change = Entry(Term(3), Index(4), kind, data)
    path = make(tmp_path / "n1", puts(1, 2), raw=[change, Entry(Term(3), Index(5), data=b"")], snapshot_at=2)
    assert ctl("snapshot", "at", "--index", 5, "--data-dir", path, "-f", tmp_path / "s").code == 0
    told = ctl("snapshot", "inspect", tmp_path / "s", "-o", "json").json
    assert (told["voters"], told["learners"]) == (["1", "2", "3"], ["4"])
    made = ctl("snapshot", "restore", tmp_path / "s", "--data-dir", tmp_path / "new", "-o", "json").json
    assert made["replica_id"] == "5", "an id is never used twice"


def test_snapshots_of_a_directory_are_listed(ctl: Ctl, path: Path) -> None:
    ran = ctl("snapshot", "list", "--data-dir", path)
    assert (ran.code, ran.out.splitlines()[1].split()[:3]) == (0, ["8", "3", "5"])
    (path / "snapshots" / next((path / "snapshots").glob("*.mdb")).name).write_bytes(b"short")
    ran = ctl("snapshot", "list", "--data-dir", path)
    assert (ran.code, "it has 5 bytes, and its header says" in ran.out) == (8, True)
