"""`events`: one order out of many replicas' stories."""

from __future__ import annotations

import json
import time

from ravelpb.v1 import cluster_pb2 as pb
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster

AT_MS = 1_770_000_000_000


def event(sequence: int, after_ms: int, text: str, kind: pb.EventKind.ValueType = pb.ELECTION, boot: str = "a") -> pb.Event:
    return pb.Event(
        boot_id=boot * 16,
        sequence=sequence,
        wall_ms=AT_MS + after_ms,
        kind=kind,
        name=text.partition(" ")[0],
        replica_id=1,
        term=7,
        index=9 if kind == pb.MEMBERSHIP else 0,
        text=text,
        fields={"granted_by": "1,2"},
    )


def told(cluster: FakeCluster) -> list[str]:
    addresses = cluster.found(3)
    cluster.events = {
        1: [event(1, 0, "begun"), event(2, 2_500, "won term 7")],
        2: [event(1, 1_000, "known n1", pb.LEADERSHIP, "b"), event(2, 3_000, "added n3", pb.MEMBERSHIP, "b")],
    }
    return addresses


def test_all_replicas_in_one_order(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    ran = ctl("events", "-e", first)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "TIME                      REPLICA   KIND        EVENT\n"
        "2026-02-02T02:40:00.000Z  n1        election    begun\n"
        "2026-02-02T02:40:01.000Z  n2        leadership  known n1\n"
        "2026-02-02T02:40:02.500Z  n1        election    won term 7\n"
        "2026-02-02T02:40:03.000Z  n2        membership  added n3\n"
    )


def test_one_event_under_two_addresses_is_shown_once(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    twice = f"{first},localhost:{first.rpartition(':')[2]}"
    assert ctl("events", "-e", twice).out == ctl("events", "-e", first).out


def test_json_is_an_object_a_line(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    lines = ctl("-o", "json", "events", "-e", first).out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["begun", "known n1", "won term 7", "added n3"]
    assert json.loads(lines[2]) == {
        "apiVersion": "ravel/v1",
        "kind": "Event",
        "time": "2026-02-02T02:40:02.500Z",
        "replica": "n1",
        "replica_id": "1",
        "boot_id": "a" * 16,
        "sequence": "2",
        "event_kind": "election",
        "name": "won",
        "term": "7",
        "index": "0",
        "text": "won term 7",
        "fields": {"granted_by": "1,2"},
    }


def texts(ctl: Ctl, *words: object) -> list[str]:
    return [json.loads(line)["text"] for line in ctl("-o", "json", "events", *words).out.splitlines()]


def test_the_newest_of_all_together(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    assert texts(ctl, "-e", first, "--limit", 3) == ["known n1", "won term 7", "added n3"]


def test_kinds(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    assert texts(ctl, "-e", first, "--kind", "election") == ["begun", "won term 7"]
    assert texts(ctl, "-e", first, "--kind", "membership", "--kind", "leadership") == ["known n1", "added n3"]
    ran = ctl("events", "-e", first, "--kind", "weather")
    assert (ran.code, "weather" in ran.err) == (2, True)


def test_since(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    cluster.events[1][1].wall_ms = int(time.time() * 1000) - 60_000
    assert texts(ctl, "-e", first, "--since", "10m") == ["won term 7"]
    assert texts(ctl, "-e", first, "--since", "30s") == []


def test_one_replica(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    assert texts(ctl, "-e", first, "--replica", "n2") == ["known n1", "added n3"]
    ran = ctl("events", "-e", first, "--replica", "n9")
    assert (ran.code, "n9" in ran.err) == (1, True)


def test_a_silent_replica_does_not_hide_the_others(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    cluster.daemons[1].stop()
    assert texts(ctl, "-e", first) == ["begun", "won term 7"]


def test_wide_tells_name_and_term(ctl: Ctl, cluster: FakeCluster) -> None:
    first, *_ = told(cluster)
    lines = ctl("-o", "wide", "events", "-e", first).out.splitlines()
    assert lines[-1].endswith("added n3  (added, term 7, index 9)")


def test_nobody_answers(ctl: Ctl, cluster: FakeCluster) -> None:
    (first,) = cluster.found(1)
    cluster.stop()
    assert ctl("events", "-e", first).code == 3
