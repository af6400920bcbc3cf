from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from ravelpb.errors import Reason
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster


@pytest.fixture
def at(cluster: FakeCluster) -> str:
    return ",".join(cluster.found(3, leader=2))


def test_put_get_delete(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    assert ctl("kv", "put", "k", "v", "-e", at).out == "revision 1\n"
    assert ctl("kv", "get", "k", "-e", at).out == "v\n"
    assert ctl("kv", "get", "k", "--raw", "-e", at).out == "v"
    assert ctl("kv", "get", "k", "-e", at, "-o", "json").json == {
        "apiVersion": "ravel/v1", "kind": "Key", "key": "k", "value": "v", "revision": "1",
    }  # fmt: skip
    assert ctl("kv", "del", "k", "-e", at).out == "deleted, revision 2\n"
    again = ctl("kv", "del", "k", "-e", at)
    assert (again.code, again.out) == (0, "not there, nothing deleted\n")


def test_a_key_that_is_not_there_exits_1_with_nothing_on_stdout(ctl: Ctl, at: str) -> None:
    ran = ctl("kv", "get", "nope", "-e", at)
    assert (ran.code, ran.out) == (1, "")
    assert "there is no key 'nope'" in ran.err
    assert ctl("kv", "get", "nope", "-e", at, "-o", "json").error["reason"] == "NOT_FOUND"


def test_values_from_stdin_and_files_are_taken_as_they_are(
    ctl: Ctl, at: str, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"\x00\xff\n"
    (tmp_path / "value").write_bytes(content)
    assert ctl("kv", "put", "file", "--file", tmp_path / "value", "-e", at).code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert ctl("kv", "put", "pipe", "-", "-e", at).code == 0
    assert cluster.data[b"file"][0] == cluster.data[b"pipe"][0] == content
    told = ctl("kv", "get", "file", "-e", at, "-o", "json").json
    assert (told["value"], told["value_encoding"]) == ("AP8K", "base64")


@pytest.mark.parametrize("words", [["k"], ["k", "v", "--file", "f"], ["k", "--file", "/does/not/exist"]])
def test_a_value_comes_from_one_place_that_is_there(ctl: Ctl, at: str, words: list[str]) -> None:
    ran = ctl("kv", "put", *words, "-e", at)
    assert (ran.code, ran.out) == (2, "")


def test_compare_and_swap(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    assert ctl("kv", "cas", "k", "one", "--revision", 0, "-e", at).out == "revision 1\n"
    lost = ctl("kv", "cas", "k", "two", "--revision", 0, "-e", at)
    assert (lost.code, lost.out) == (1, "not swapped: revision 1 value one\n")
    told = ctl("kv", "cas", "k", "two", "--revision", 0, "-e", at, "-o", "json")
    assert told.code == 1
    assert told.json == {
        "apiVersion": "ravel/v1", "kind": "Swap", "key": "k", "swapped": False, "revision": "1", "found": True, "value": "one",
    }  # fmt: skip
    absent = ctl("kv", "cas", "other", "x", "--revision", 5, "-e", at)
    assert (absent.code, absent.out) == (1, "not swapped: other is not there\n")
    assert cluster.data == {b"k": (b"one", 1)}
    assert ctl("kv", "cas", "k", "x", "-e", at).code == 2


def test_list(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.data.update({b"a/1": (b"x", 1), b"a/2": (b"y" * 100, 2), b"b": (b"\xff\n", 3)})
    assert ctl("kv", "list", "-e", at).out == (
        f"KEY  REVISION  VALUE\na/1  1         x\na/2  2         {'y' * 63}…\nb    3         \\xff\\n\n"
    )
    assert "y" * 100 in ctl("kv", "list", "-e", at, "-o", "wide").out
    assert ctl("kv", "list", "a/", "-e", at, "--keys-only").out == "KEY  REVISION\na/1  1\na/2  2\n"
    assert ctl("kv", "list", "--prefix", "a/", "-e", at, "-o", "name").out == "a/1\na/2\n"
    assert ctl("kv", "list", "a/", "--prefix", "a/", "-e", at).code == 2
    assert ctl("kv", "list", "-e", at, "--limit", 1, "-o", "name").out == "a/1\n"
    assert ctl("kv", "list", "--start", "a/2", "--end", "b", "-e", at, "-o", "name").out == "a/2\n"
    items = ctl("kv", "list", "-e", at, "-o", "json").json["items"]
    assert items[2] == {"key": "b", "revision": "3", "value": "/wo=", "value_encoding": "base64"}
    assert ctl("kv", "list", "zzz", "-e", at).out == ""
    assert ctl("kv", "list", "a", "--start", "b", "-e", at).code == 2


@pytest.mark.parametrize(
    ("reason", "code"),
    [(Reason.OUTCOME_UNKNOWN, 6), (Reason.QUOTA_EXCEEDED, 5), (Reason.KEY_TOO_LARGE, 2), (Reason.NAME_TAKEN, 5)],
)
def test_refusals_keep_their_reason_and_sentence(ctl: Ctl, at: str, cluster: FakeCluster, reason: Reason, code: int) -> None:
    cluster.kv_refusal = (reason, "the value 7 is above the limit 3")
    ran = ctl("kv", "put", "k", "v", "-e", at, "-o", "json", "--timeout", "2s")
    assert (ran.code, ran.out, ran.error["exit_code"]) == (code, "", code)
    assert ran.error["reason"] == reason


def test_a_dry_write_tells_what_it_would_do(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.data[b"k"] = (b"old", 3)
    before = dict(cluster.data)
    ran = ctl("kv", "put", "k", "value", "--dry-run", "-e", at)
    assert (ran.code, ran.out) == (0, "would write 5 bytes under k, which has revision 3 now\n")
    assert ctl("kv", "put", "new", "v", "--dry-run", "-e", at).out == "would write 1 byte under new, which is not there now\n"
    assert ctl("kv", "cas", "k", "v", "--revision", "3", "--dry-run", "-e", at).code == 0
    stale = ctl("kv", "cas", "k", "v", "--revision", "2", "--dry-run", "-e", at, "-o", "json")
    assert (stale.code, stale.json["writes"], stale.json["revision"]) == (1, False, "3")
    assert cluster.data == before
