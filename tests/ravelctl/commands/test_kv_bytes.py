"""Keys that are no text, many keys at once, and keys that are watched."""

from __future__ import annotations

import io
import json
import sys

import pytest

from ravelctl.cli.byte_forms import ByteForm
from ravelctl.client.session.position import write_position
from ravelctl.commands.kv import POSITION_PREFIX
from ravelpb.v1.kv_pb2 import ClusterPosition, KeyEvent, WatchPosition
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster

RAW = bytes(range(256))


@pytest.fixture
def at(cluster: FakeCluster) -> str:
    return ",".join(cluster.found(3, leader=2))


@pytest.mark.parametrize("form", [ByteForm.HEX, ByteForm.BASE64])
def test_any_bytes_go_in_and_come_out(ctl: Ctl, at: str, cluster: FakeCluster, form: ByteForm) -> None:
    key, value, flag = form.show(b"\x00\xff"), form.show(RAW), f"--{form.value}"
    assert ctl("kv", "put", key, value, flag, "-e", at).out == "revision 1\n"
    assert cluster.data[b"\x00\xff"] == (RAW, 1)
    assert ctl("kv", "get", key, flag, "-e", at).out == value + "\n"
    told = ctl("kv", "get", key, flag, "-e", at, "-o", "json").json
    assert told["key"] == key
    assert told["value"] == value
    assert told["key_encoding"] == told["value_encoding"] == form.value
    assert ctl("kv", "cas", key, form.show(b"2"), "--revision", 1, flag, "-e", at).code == 0
    assert ctl("kv", "list", form.show(b"\x00"), flag, "-o", "name", "-e", at).out == key + "\n"
    listed = ctl("kv", "list", flag, "-e", at).out
    assert listed.splitlines()[1].split() == [key, "2", form.show(b"2")]
    assert ctl("kv", "del", key, flag, "-e", at).code == 0
    assert not cluster.data


def test_a_file_s_and_stdin_s_bytes_are_taken_as_they_are(
    ctl: Ctl, at: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(RAW)))
    assert ctl("kv", "put", "00", "-", "--hex", "-e", at).code == 0
    assert cluster.data == {b"\x00": (RAW, 1)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["put", "0", "00", "--hex"], "key '0' is not hex"),
        (["put", "00", "zz", "--hex"], "value 'zz' is not hex"),
        (["get", "a", "--base64"], "key 'a' is not base64"),
        (["get", "00", "--hex", "--base64"], "exclude each other"),
        (["get", "00", "--hex", "--raw"], "--raw"),
        (["del"], "either a key or --prefix"),
        (["del", "a", "--prefix", "b"], "either a key or --prefix"),
        (["watch", "a", "--prefix", "b"], "exclude each other"),
        (["watch", "--from", "0"], "0"),
    ],
)
def test_what_makes_no_sense_exits_2(ctl: Ctl, at: str, words: list[str], said: str) -> None:
    ran = ctl("kv", *words, "-e", at)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def fill(cluster: FakeCluster, count: int) -> None:
    for number in range(count):
        cluster.revision += 1
        cluster.data[b"a/%05d" % number] = (b"", cluster.revision)
    cluster.revision += 1
    cluster.data[b"b"] = (b"", cluster.revision)


def test_a_prefix_goes_in_batches_after_a_yes(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    fill(cluster, 2_500)
    looked = ctl("kv", "del", "--prefix", "a/", "--dry-run", "-e", at)
    assert (looked.code, looked.out) == (0, "would delete 2,500 keys that begin with 'a/'\n")
    asked = ctl("kv", "del", "--prefix", "a/", "-e", at)
    assert (asked.code, asked.out) == (2, "")
    assert "--yes" in asked.err
    assert len(cluster.data) == 2_501
    done = ctl("kv", "del", "--prefix", "a/", "--yes", "-e", at)
    assert (done.code, done.out) == (0, "deleted 2500 keys\n")
    assert cluster.batches == [1_000, 1_000, 500]
    assert list(cluster.data) == [b"b"]
    again = ctl("kv", "del", "--prefix", "a/", "-e", at)
    assert (again.code, again.out) == (0, "there are no keys that begin with 'a/'\n")


def test_what_changes_meanwhile_stays(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    fill(cluster, 10)

    def meanwhile() -> None:
        if len(cluster.batches) == 1:
            cluster.revision += 1
            cluster.data[b"a/00003"] = (b"new", cluster.revision)

    cluster.before_write = meanwhile
    told = ctl("kv", "del", "--prefix", "a/", "--yes", "-e", at, "-o", "json").json
    assert (told["counted"], told["deleted"], told["left"]) == (10, 9, 1)
    assert sorted(cluster.data) == [b"a/00003", b"b"]


def test_dry_run_of_one_key_changes_nothing(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    fill(cluster, 1)
    assert ctl("kv", "del", "a/00000", "--dry-run", "-e", at).out == "would delete a/00000\n"
    assert ctl("kv", "del", "nope", "--dry-run", "-e", at).out == "not there, nothing to delete\n"
    assert len(cluster.data) == 2


@pytest.fixture
def changes(cluster: FakeCluster) -> None:
    cluster.changes = [
        KeyEvent(key=b"a", value=b"1", revision=4),
        KeyEvent(kind=KeyEvent.DELETE, key=b"\xff", revision=5),
        KeyEvent(key=b"b", value=b"x" * 200, revision=5),
    ]


@pytest.mark.usefixtures("changes")
def test_watch_prints_a_line_a_change(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    ran = ctl("kv", "watch", "--from", 4, "--limit", 3, "-e", at)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[:2] == ["4  put  a  1", "5  delete  \\xff"]
    assert len(lines[2]) < 90
    assert cluster.watched[-1].from_revision == 4
    assert ctl("kv", "watch", "--from", 4, "--limit", 3, "-e", at, "-o", "wide").out.splitlines()[2] == "5  put  b  " + "x" * 200
    assert ctl("kv", "watch", "--prefix", "a", "--from", 4, "--limit", 1, "-o", "name", "-e", at).out == "a\n"
    assert (cluster.watched[-1].start, cluster.watched[-1].end) == (b"a", b"b")


@pytest.mark.usefixtures("changes")
def test_watch_resumes_at_a_revision_or_a_position(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    place = ClusterPosition(cluster_id=cluster.cluster_id, revision=3)
    position = write_position(WatchPosition(clusters=[place]))
    assert position.startswith(POSITION_PREFIX)
    ran = ctl("kv", "watch", "--from", position, "--limit", 1, "-e", at)
    assert (ran.code, ran.out) == (0, "4  put  a  1\n")
    assert cluster.watched[-1].from_revision == 4
    for wrong in (position[:-4], position[1:], "0", "w1"):
        refused = ctl("kv", "watch", "--from", wrong, "-e", at)
        assert refused.code == 2, refused.err
        assert not refused.out


@pytest.mark.usefixtures("changes")
def test_watch_prints_json_a_line_a_change(ctl: Ctl, at: str) -> None:
    ran = ctl("kv", "watch", "--from", 4, "--limit", 3, "-e", at, "-o", "json")
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert events[0] == {
        "apiVersion": "ravel/v1", "kind": "KeyEvent", "event": "put", "key": "a", "value": "1", "revision": "4", "more": False,
    }  # fmt: skip
    assert (events[1]["event"], events[1]["key"], events[1]["key_encoding"], events[1]["more"]) == (
        "delete",
        "/w==",
        "base64",
        True,
    )
    assert "value" not in events[1]
