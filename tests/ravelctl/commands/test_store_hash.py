"""`ravelctl store hash`: what is shown of a comparison, and of directories, in every form."""

from __future__ import annotations

from pathlib import Path

from ravel_node.machine.base import Database
from ravel_node.storage.store import DiskStore, StoreOptions, open_store
from ravelpb.v1 import inspect_pb2 as ins
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster
from tests.ravelctl.offline.support import make, puts
from tests.storage.support import append, at, bootstrap

SAME, OTHER = bytes(range(32)), bytes(range(32, 64))


def found(*replicas: ins.ReplicaStateHash) -> ins.StateHashResponse:
    return ins.StateHashResponse(index=900, term=7, replicas=replicas)


def of(number: int, sha256: bytes, problem: str = "") -> ins.ReplicaStateHash:
    return ins.ReplicaStateHash(replica_id=number, name=f"n{number}", sha256=sha256, problem=problem)


def astray(number: int, agreed: int) -> ins.ReplicaStateHash:
    return ins.ReplicaStateHash(
        replica_id=number, name=f"n{number}", sha256=OTHER, differs=True, agreed_index=agreed, differed_index=800
    )


def test_a_dry_run_of_compact_tells_what_would_go(ctl: Ctl, cluster: FakeCluster, tmp_path: Path) -> None:
    endpoints = cluster.found(3)
    dry = ctl("store", "compact", "-e", endpoints[0], "--dry-run")
    assert dry.code == 0, dry.err
    assert dry.out == "n1: 10 entries would be dropped, first 46011 then, log 1MiB now\n"
    assert (dry.err, cluster.asked) == ("dry run: nothing was changed\n", [])
    path = make(tmp_path / "n1", puts(1, 40))
    before = {file: file.read_bytes() for file in path.rglob("data.mdb")}
    told = ctl("store", "compact", "--data-dir", path, "--dry-run", "-o", "json").json
    assert {one["name"] for one in told["environments"]} >= {"raft"}
    assert all(int(one["bytes"]) <= int(one["bytes_before"]) for one in told["environments"])
    assert {file: file.read_bytes() for file in path.rglob("data.mdb")} == before


def test_all_hold_the_same(ctl: Ctl, cluster: FakeCluster) -> None:
    endpoints = cluster.found(3, leader=2)
    cluster.state_hash = found(of(1, SAME), of(2, SAME), of(3, SAME))
    done = ctl("store", "hash", "-e", endpoints[0])
    assert done.code == 0
    assert done.out.splitlines() == [
        "NAME  STATE  HASH",
        *(f"n{number}    same   0001020304050607" for number in (1, 2, 3)),
        "at entry 900 of term 7 all hold the same",
    ]


def test_who_differs_is_named_with_exit_code_8(ctl: Ctl, cluster: FakeCluster) -> None:
    endpoints = cluster.found(3)
    cluster.state_hash = found(of(1, SAME), of(2, SAME), astray(3, 700))
    done = ctl("store", "hash", "-e", endpoints[0], "-o", "wide")
    assert done.code == 8
    assert f"n3    differs  700     2021222324252627  {OTHER.hex()}" in done.out
    assert "the states differ: n3 went astray after entry 700 and not later than 800" in done.out
    assert ctl("store", "hash", "-e", endpoints[0], "-o", "name").out == "n3\n"
    told = ctl("store", "hash", "-e", endpoints[0], "-o", "json")
    assert (told.code, told.json["equal"], told.json["index"]) == (8, False, "900")
    assert told.json["replicas"][2] == {
        "replica_id": "3",
        "name": "n3",
        "sha256": OTHER.hex(),
        "differs": True,
        "agreed_index": "700",
        "differed_index": "800",
    }
    cluster.state_hash = found(of(1, SAME), of(2, SAME), astray(3, 0))
    assert "n3 went astray not later than entry 800" in ctl("store", "hash", "-e", endpoints[0]).out


def test_one_that_did_not_answer_is_told_and_no_damage(ctl: Ctl, cluster: FakeCluster) -> None:
    endpoints = cluster.found(3)
    cluster.state_hash = found(of(1, SAME), of(2, SAME), of(3, b"", "no replica answers at 10.0.0.3:7401"))
    done = ctl("store", "hash", "-e", endpoints[0])
    assert done.code == 0
    assert "n3    unknown  -" in done.out
    assert done.out.endswith(
        "at entry 900 of term 7 those that answered hold the same\nn3: no replica answers at 10.0.0.3:7401\n"
    )


def test_a_member_that_is_too_old_refuses_it(ctl: Ctl, cluster: FakeCluster) -> None:
    endpoints = cluster.found(3)
    done = ctl("store", "hash", "-e", endpoints[0])
    assert done.code == 5
    assert "need format 2" in done.err


# --- directories


async def made(path: Path, value: bytes, last: int = 3) -> None:
    options = StoreOptions(raft_map_bytes=1 << 20, state_map_bytes=1 << 20, draw_id=lambda: "a" * 32)
    store: DiskStore = await open_store(path, options)
    await bootstrap(store)
    await append(store, 2, last)
    store.txn().put(Database.KV, b"k", bytes(8) + value)
    store.applied_to(at(last))
    await store.close()


async def test_directories_of_the_same_entry_are_compared(tmp_path: Path, ctl: Ctl) -> None:
    for name, value, last in (("a", b"v", 3), ("b", b"v", 3), ("c", b"w", 3), ("d", b"w", 4)):
        await made(tmp_path / name, value, last)

    def compared(*names: str) -> tuple[int, list[str]]:
        words = [word for name in names for word in ("--data-dir", tmp_path / name)]
        done = ctl("store", "hash", "-o", "json", *words)
        return done.code, [one["sha256"] for one in done.json["directories"]]

    code, hashes = compared("a", "b")
    assert code == 0
    assert len(set(hashes)) == 1
    code, hashes = compared("a", "b", "c")
    assert code == 8
    assert len(set(hashes)) == 2
    assert compared("a", "d")[0] == 0  # another entry: nothing can be said
    done = ctl("store", "hash", "--data-dir", tmp_path / "a", "--data-dir", tmp_path / "d")
    assert "only states of the same entry can be compared" in done.out
    assert ctl("store", "hash", "--data-dir", tmp_path / "nowhere").code == 2
