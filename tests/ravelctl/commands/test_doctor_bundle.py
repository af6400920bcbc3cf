"""`doctor --bundle`: what is in the archive, what never is, and what is left behind when it cannot be made."""

from __future__ import annotations

import hashlib
import json
import stat
import tarfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ravelctl.diagnosis import bundle
from ravelpb.v1 import cluster_pb2 as pb
from ravelpb.v1 import inspect_pb2 as ins
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster
from tests.ravelctl.offline.support import make, puts

SECRET = "orders/17"


def unpacked(path: Path) -> dict[str, bytes]:
    """The parts by name, without their folder."""
    with tarfile.open(path, "r:gz") as archive:
        found = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        assert all(name.startswith("ravel-doctor/") for name in found)
        return {name.removeprefix("ravel-doctor/"): file.read() for name, file in found.items() if file is not None}


@pytest.fixture
def founded(cluster: FakeCluster) -> list[str]:
    addresses = cluster.found(2)
    cluster.log = [
        ins.LogEntry(index=48209, term=7, type="put", bytes=66, summary=[SECRET], digest=b"\x01" * 16),
        ins.LogEntry(index=48210, term=7, type="config", bytes=38, summary=["update n2"], digest=b"\x02" * 16),
    ]
    cluster.events[1] = [pb.Event(sequence=1, wall_ms=1_700_000_000_000, name="leader-known", text="n1 leads in term 7")]
    return addresses


def test_what_is_in_it(ctl: Ctl, founded: list[str], tmp_path: Path) -> None:
    target = tmp_path / "case.tar.gz"
    ran = ctl("doctor", "-e", founded[0], "--bundle", target)
    assert ran.out.startswith("cluster orders ")
    assert ran.err.startswith(f"{target}: ")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["case.tar.gz"]
    parts = unpacked(target)
    manifest = json.loads(parts.pop("manifest.json"))
    assert (manifest["format"], manifest["left_out"]) == (1, [])
    assert {part["name"]: part["sha256"] for part in manifest["parts"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in parts.items()
    }
    for name in ("status.json", "events.jsonl", "snapshots.json", "log.jsonl"):
        assert {f"daemons/1-n1/{name}", f"daemons/2-n2/{name}"} <= parts.keys()
    assert json.loads(parts["daemons/1-n1/status.json"])["role"] == "LEADER"
    assert b"n1 leads in term 7" in parts["daemons/1-n1/events.jsonl"]
    assert parts["doctor.txt"].decode() == ran.out
    assert json.loads(parts["doctor.json"])["cluster_name"] == "orders"


def test_keys_are_in_it_only_if_asked_for(ctl: Ctl, founded: list[str], tmp_path: Path) -> None:
    ctl("doctor", "-e", founded[0], "--bundle", tmp_path / "a.tar.gz")
    without = unpacked(tmp_path / "a.tar.gz")
    assert not any(SECRET.encode() in data for data in without.values())
    put, config = (json.loads(line) for line in without["daemons/1-n1/log.jsonl"].splitlines())
    assert (put["index"], put["type"], put["digest"], "summary" in put) == (48209, "put", "01" * 16, False)
    assert config["summary"] == ["update n2"]
    ctl("doctor", "-e", founded[0], "--bundle", tmp_path / "b.tar.gz", "--with-keys")
    assert SECRET.encode() in unpacked(tmp_path / "b.tar.gz")["daemons/1-n1/log.jsonl"]


def test_directories_without_daemons(ctl: Ctl, tmp_path: Path) -> None:
    path = make(tmp_path / "n1", puts(2, 20))
    ran = ctl("doctor", "--data-dir", path, "--bundle", tmp_path / "case.tar.gz")
    assert ran.code == 4
    parts = unpacked(tmp_path / "case.tar.gz")
    assert json.loads(parts["directories/1.json"])["last_index"] == 20
    assert not any(b"orders/" in data or b"value of" in data for data in parts.values())
    assert len(parts["directories/1-log.jsonl"].splitlines()) == 19
    assert b"RV112" in parts["doctor.txt"]
    assert not any(name.startswith("daemons/") for name in parts)


def test_a_key_of_damage_in_the_state_is_left_out() -> None:
    rest = "  why:  a disk\n  do:   this\n\nRV109 critical: n2\n  seen: y\n"
    told = f"x\n\nRV604 critical: n1: it names key 6f7264\n  seen: key 6f7264\n{rest}"
    assert bundle._without_damaged_keys(told) == f"x\n\nRV604 critical: {bundle._NO_KEYS}\n{rest}"
    found: dict[str, Any] = {"findings": [{"code": "RV604", "message": "key 6f7264", "seen": ("key 6f7264",)}, {"code": "RV109"}]}
    assert "6f7264" not in json.dumps(bundle._findings_without_keys(found))


def test_metrics_of_the_addresses_that_are_named(ctl: Ctl, founded: list[str], tmp_path: Path) -> None:
    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(b"ravel_term 7\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Metrics)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        ctl("doctor", "-e", founded[0], "--bundle", tmp_path / "case.tar.gz", "--metrics", address, "--metrics", "127.0.0.1:1")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    parts = unpacked(tmp_path / "case.tar.gz")
    assert parts["metrics/1.txt"] == b"ravel_term 7\n"
    assert parts["metrics/2.txt"].startswith(b"# 127.0.0.1:1 cannot be read: ")


def test_what_is_too_much_is_cut_or_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "PART_BYTES_MAX", 10)
    monkeypatch.setattr(bundle, "BUNDLE_BYTES_MAX", 16)
    parts = bundle.Parts([], [])
    parts.text("long", "line 1\nline 2\nline 3\n")
    parts.text("other", "12345678\n")
    parts.text("further", "1234567\n")
    assert [(part.name, part.data, part.cut) for part in parts.made] == [
        ("long", b"line 1\n", True),
        ("other", b"12345678\n", False),
    ]
    assert parts.left_out == ["further"]


def there_already(target: Path) -> None:
    target.write_text("mine")


def no_folder(target: Path) -> None:
    target.parent.rmdir()


@pytest.mark.parametrize(("spoil", "said"), [(there_already, "is there already"), (no_folder, "is no directory")])
def test_where_it_cannot_be_put(ctl: Ctl, tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    """Told before anybody is asked."""
    target = tmp_path / "folder" / "case.tar.gz"
    target.parent.mkdir()
    spoil(target)
    ran = ctl("doctor", "-e", "127.0.0.1:1", "--bundle", target)
    assert ran.code == 2
    assert said in ran.err
    if spoil is there_already:
        assert target.read_text() == "mine"


def test_a_disk_that_is_full_leaves_nothing_behind(
    ctl: Ctl, founded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ravelctl.diagnosis.bundle._add", full)
    folder = tmp_path / "folder"
    folder.mkdir()
    ran = ctl("doctor", "-e", founded[0], "--bundle", folder / "case.tar.gz")
    assert ran.code == 1
    assert "no space left on device" in ran.err
    assert list(folder.iterdir()) == []


def test_options_of_a_bundle_need_one(ctl: Ctl) -> None:
    assert ctl("doctor", "--with-keys").code == 2
    assert ctl("doctor", "--metrics", "127.0.0.1:1").code == 2
