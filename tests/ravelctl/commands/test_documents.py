"""What programs read: the documents of -o json, field by field. A name or a type that changes here breaks somebody's script."""

from __future__ import annotations

from typing import Any

import pytest

from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import MIB, FakeCluster

CLUSTER = "3f9c21aa" + "0" * 24


@pytest.fixture
def at(cluster: FakeCluster) -> str:
    return ",".join(cluster.found(3, leader=2))


def document(ctl: Ctl, at: str, *words: object, code: int = 0) -> dict[str, Any]:
    """The fields of a command's document, but for the version of its form."""
    ran = ctl(*words, "-e", at, "-o", "json")
    assert ran.code == code, ran.err
    found = dict(ran.json)
    assert found.pop("apiVersion") == "ravel/v1"
    return found


def test_writes_of_keys(ctl: Ctl, at: str) -> None:
    def kv(*words: object, code: int = 0) -> dict[str, Any]:
        return document(ctl, at, "kv", *words, code=code)

    assert kv("put", "k", "v") == {"kind": "Put", "key": "k", "revision": "1"}
    assert kv("get", "k") == {"kind": "Key", "key": "k", "value": "v", "revision": "1"}
    assert kv("del", "k", "--dry-run") == {"kind": "Delete", "key": "k", "found": True, "dry_run": True}
    assert kv("del", "k") == {"kind": "Delete", "key": "k", "found": True, "revision": "2"}
    assert kv("del", "k") == {"kind": "Delete", "key": "k", "found": False, "revision": "2"}
    assert kv("cas", "k", "one", "--revision", 0) == {"kind": "Swap", "key": "k", "swapped": True, "revision": "3"}
    assert kv("cas", "k", "two", "--revision", 9, code=1) == {
        "kind": "Swap", "key": "k", "swapped": False, "revision": "3", "found": True, "value": "one",
    }  # fmt: skip
    assert kv("cas", "no", "x", "--revision", 9, code=1) == {
        "kind": "Swap", "key": "no", "swapped": False, "revision": "0", "found": False,
    }  # fmt: skip
    assert kv("put", "k", "w", "--dry-run") == {
        "kind": "Put", "key": "k", "found": True, "revision": "3", "writes": True, "dry_run": True,
    }  # fmt: skip


def test_many_keys(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.data.update({b"a/1": (b"x", 1), b"a/2": (b"\xff", 2), b"b": (b"z", 3)})
    assert document(ctl, at, "kv", "list", "a/") == {
        "kind": "KeyList",
        "items": [
            {"key": "a/1", "revision": "1", "value": "x"},
            {"key": "a/2", "revision": "2", "value": "/w==", "value_encoding": "base64"},
        ],
    }
    assert document(ctl, at, "kv", "list", "--keys-only", "--limit", 1) == {
        "kind": "KeyList", "items": [{"key": "a/1", "revision": "1"}],
    }  # fmt: skip
    counted = {"kind": "DeletePrefix", "prefix": "a/", "counted": 2, "left": 0}
    assert document(ctl, at, "kv", "del", "--prefix", "a/", "--dry-run") == counted | {"deleted": 0, "dry_run": True}
    assert set(cluster.data) == {b"a/1", b"a/2", b"b"}, "a dry run deletes nothing"
    assert document(ctl, at, "kv", "del", "--prefix", "a/", "--yes") == counted | {"deleted": 2, "dry_run": False}
    assert set(cluster.data) == {b"b"}


def test_a_dry_delete_of_one_key_deletes_nothing(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.data[b"k"] = (b"v", 1)
    assert ctl("kv", "del", "k", "--dry-run", "-e", at).out == "would delete k\n"
    assert set(cluster.data) == {b"k"}


def test_the_health_of_a_cluster(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    healthy = {
        "kind": "Health", "health": "HEALTHY", "cluster": CLUSTER, "leader": "n2", "voters": 3, "live": 3, "quorum": 2,
        "tolerates": 1, "worries": [],
    }  # fmt: skip
    assert document(ctl, at, "health") == healthy
    cluster.progress[3].recent_active, cluster.progress[3].contact_age_ms = False, 95_000
    assert document(ctl, at, "health", code=7) == healthy | {
        "health": "DEGRADED", "live": 2, "tolerates": 0, "worries": ["the leader has not heard n3 for 1m35s"],
    }  # fmt: skip


def test_the_status_of_a_cluster(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.progress[3].match, cluster.progress[3].contact_age_ms = 48_100, 1_900
    found = document(ctl, at, "status")
    rows = found.pop("replicas")
    assert found == {
        "kind": "Status", "health": "HEALTHY", "cluster_id": CLUSTER, "cluster_name": "orders", "term": "7", "leader": "n2",
        "leader_age_s": 11_520.0, "commit_index": "48210", "revision": found["revision"], "quorum": 2, "live": 3, "tolerates": 1,
        "alarms": [], "notes": [],
    }  # fmt: skip
    assert isinstance(found["revision"], str)
    addresses = at.split(",")
    common = {
        "db_used_bytes": str(212 * MIB), "db_size_max_bytes": str(4_096 * MIB), "version": "0.1.0", "answers": True, "error": "",
    }  # fmt: skip
    assert rows == [
        {
            "name": f"n{number}", "replica_id": str(number), "server_id": f"{number:032x}", "address": addresses[number - 1],
            "applied_index": str(48_210 - number), **own, **common,
        }
        for number, own in (
            (1, {"role": "voter", "state": "replicate", "match": "48210", "lag": "0", "contact_s": 0.041}),
            (2, {"role": "leader", "state": "", "match": "48210", "lag": None, "contact_s": None}),
            (3, {"role": "voter", "state": "replicate", "match": "48100", "lag": "110", "contact_s": 1.9}),
        )
    ]  # fmt: skip


def test_a_compaction(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    done = {
        "kind": "StoreCompact", "source": "n1", "dropped": "10", "first_index": "46011", "last_index": "48210",
        "log_used_bytes_before": str(MIB), "log_used_bytes": str(MIB // 2), "held_by": "", "dry_run": False,
    }  # fmt: skip
    dry = document(ctl, at, "store", "compact", "--keep", 5, "--dry-run")
    assert dry == done | {"log_used_bytes": str(MIB), "dry_run": True}
    assert cluster.asked == [], "a dry run drops nothing"
    assert document(ctl, at, "store", "compact", "--keep", 5) == done
    assert [request.keep for request in cluster.asked] == [5]


def test_members_and_the_leader(ctl: Ctl, at: str) -> None:
    addresses = at.split(",")
    assert document(ctl, at, "member", "list") == {
        "kind": "MemberList",
        "cluster_id": CLUSTER,
        "members": [
            {
                "id": str(number), "name": f"n{number}", "role": "voter", "auto_promote": False, "listen": addresses[number - 1],
                "peer": f"10.0.0.{number}:7401", "version": "0.1.0", "server_id": f"{number:032x}",
            }
            for number in (1, 2, 3)
        ],
    }  # fmt: skip
    assert document(ctl, at, "leader", "show") == {
        "kind": "Leader", "cluster_id": CLUSTER, "id": "2", "name": "n2", "address": addresses[1], "term": "7",
        "age_s": 11_520.0, "lease_remaining_s": 0.7,
    }  # fmt: skip


def test_events_logs_and_snapshots(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.events[1] = [
        pb.Event(
            boot_id="ab" * 8, sequence=4, wall_ms=1_700_000_000_123, kind=pb.ELECTION, name="leader-elected", replica_id=2,
            term=7, index=48_000, text="n2 leads in term 7", fields={"votes": "2"},
        )
    ]  # fmt: skip
    assert document(ctl, at, "events") == {
        "kind": "Event", "time": "2023-11-14T22:13:20.123Z", "replica": "n1", "replica_id": "2", "boot_id": "ab" * 8,
        "sequence": "4", "event_kind": "election", "name": "leader-elected", "term": "7", "index": "48000",
        "text": "n2 leads in term 7", "fields": {"votes": "2"},
    }  # fmt: skip
    assert document(ctl, at, "log", "show") == {
        "kind": "Log", "source": "n1", "entries": [], "untimed": "0", "first_index": "46001", "last_index": "48210",
        "commit_index": "48210", "snapshot_index": "48000", "snapshot_term": "7",
    }  # fmt: skip
    found = document(ctl, at, "snapshot", "list")
    assert len(found["snapshots"][0].pop("sha256")) == 64
    assert found == {
        "kind": "SnapshotList",
        "source": "n1",
        "snapshots": [
            {
                "name": "snapshot-48000", "cluster": CLUSTER, "cluster_name": "orders", "index": "48000", "term": "7",
                "revision": "47000", "voters": ["1", "2", "3"], "learners": [], "keys": "184220", "size_bytes": "1000",
                "taken_at": "2026-03-02T10:04:11Z", "taken_by": "n1", "format": 1,
            }
        ],
        "problems": [],
    }  # fmt: skip
    found = document(ctl, at, "store", "stats")
    assert found.keys() == {"kind", "source", "environments", "unflushed_bytes", "unflushed_segments", "format"}
    assert found["environments"][0] == {
        "name": "raft", "used_bytes": str(MIB), "free_bytes": "0", "map_size_bytes": "0", "readers": 0, "databases": [],
    }  # fmt: skip


def test_verdicts_on_changes(ctl: Ctl, at: str) -> None:
    before = {"voters": ["1", "2", "3"], "learners": [], "quorum": 2, "live": 3, "caught_up": 3, "tolerates": 1}
    verdict = {
        "kind": "Verdict", "allowed": True, "before": before, "reason": "", "next_step": "", "warnings": [], "term": "7",
        "config_index": "40",
    }  # fmt: skip
    assert document(ctl, at, "leader", "transfer", "n1", "--dry-run") == verdict | {
        "change": "hand leadership from n2 to n1", "after": before,
    }  # fmt: skip
    assert document(ctl, at, "leave", "n3", "--dry-run") == verdict | {
        "change": "remove n3 (3) from cluster orders",
        "after": {"voters": ["1", "2"], "learners": [], "quorum": 2, "live": 2, "caught_up": 2, "tolerates": 0},
    }
