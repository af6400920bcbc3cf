"""What lies on one replica's disk: its log and its snapshots."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from ravelctl.cli.output import size_text
from ravelctl.store.snapshot_file import PartFile
from ravelpb.v1.inspect_pb2 import FetchSnapshotRequest, LogEntry
from tests.ravelctl.conftest import Ctl
from tests.ravelctl.fake import FakeCluster
from tests.ravelctl.offline.support import make, puts


@pytest.fixture
def at(cluster: FakeCluster) -> str:
    return cluster.found(3, leader=2)[1]


def test_log_show(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.log = [
        LogEntry(index=48207, term=7, type="cas", bytes=66, summary=["orders/17 if rev 48206"]),
        LogEntry(index=48208, term=7, type="config", bytes=38, summary=["update n3 peer 10.0.0.3:7001"]),
        LogEntry(index=48209, term=7, type="delete", bytes=19, summary=["orders/9"]),
    ]
    ran = ctl("log", "show", "--from", 48207, "--limit", 3, "-e", at)
    assert ran.code == 0
    assert ran.out == (
        "INDEX  TERM  TYPE    BYTES  SUMMARY\n"
        "48207  7     cas     66     orders/17 if rev 48206\n"
        "48208  7     config  38     update n3 peer 10.0.0.3:7001\n"
        "48209  7     delete  19     orders/9\n"
        "first 46001  snapshot 48000@7  commit 48210  last 48210  source n2\n"
    )
    assert ctl("log", "show", "--tail", "--limit", 1, "-e", at, "-o", "name").out == "48209\n"
    assert "source n3" in ctl("log", "show", "--replica", "n3", "-e", at).out
    assert ctl("log", "show", "--tail", "--from", 1, "-e", at).code == 2
    assert ctl("log", "show", "--replica", "n9", "-e", at).code == 1


def test_a_batch_is_shown_as_its_commands(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.log = [
        LogEntry(index=5, term=1, type="batch", bytes=90, summary=["put a", "put b\x1b[2J"]),
        LogEntry(index=6, term=1, type="noop"),
    ]
    assert [line.split(None, 4) for line in ctl("log", "show", "-e", at).out.splitlines()[1:4]] == [
        ["5", "1", "batch", "90", "put a"],
        ["5", "1", "batch", "-", "put b\\x1b[2J"],
        ["6", "1", "noop", "0", "-"],
    ]
    told = ctl("log", "show", "-e", at, "-o", "json").json
    assert told["entries"][0] == {
        "index": "5",
        "term": "1",
        "time": None,
        "type": "batch",
        "bytes": 90,
        "commands": ["put a", "put b\x1b[2J"],
    }
    assert (told["commit_index"], told["source"]) == ("48210", "n2")


def test_an_older_daemon_is_not_taken_at_its_word_on_times(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    """It ignores what it does not know of a request, and answers with all entries."""
    cluster.log = [LogEntry(index=5, term=1, type="put"), LogEntry(index=6, term=1, type="put")]
    ran = ctl("log", "show", "--since", "10m", "-e", at, "-o", "name")
    assert (ran.code, ran.out) == (0, "")
    assert "2 entries carry no time and are left out" in ran.err


def test_times_of_any_size_are_printed(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    cluster.log = [LogEntry(index=5, term=1, type="noop", time_ms=2**64 - 1), LogEntry(index=6, term=1, type="noop", time_ms=1)]
    told = ctl("log", "show", "-e", at, "-o", "json").json
    assert [entry["time"] for entry in told["entries"]] == ["18446744073709551615", "1970-01-01T00:00:00.001Z"]


def test_snapshot_list(ctl: Ctl, at: str, cluster: FakeCluster) -> None:
    assert ctl("snapshot", "list", "-e", at).out == (
        "INDEX  TERM  KEYS    SIZE   TAKEN                 BY\n48000  7     184220  1000B  2026-03-02T10:04:11Z  n1\n"
    )


def test_a_snapshot_is_saved_and_inspected(ctl: Ctl, at: str, cluster: FakeCluster, tmp_path: Path) -> None:
    target = tmp_path / "s.rvsnap"
    (state,) = (make(tmp_path / "d", puts(1, 3), snapshot_at=3) / "snapshots").glob("*.mdb")
    cluster.snapshot = state.read_bytes()
    ran = ctl("snapshot", "save", "-f", target, "-e", at)
    assert ran.code == 0, ran.err
    digest = hashlib.sha256(cluster.snapshot).hexdigest()
    size = size_text(len(cluster.snapshot))
    assert ran.out == f"{target}: index 48000, 184220 keys, {size}, sha256 {digest}\n"
    assert target.read_bytes().endswith(cluster.snapshot)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "d", target]
    seen = ctl("snapshot", "inspect", target)
    assert (seen.code, seen.out) == (
        0,
        "cluster   orders 3f9c21aa    taken by n1, 2026-03-02T10:04:11Z\n"
        "position  index 48000 term 7, voters n1 n2 n3\n"
        f"contents  184,220 keys, {size}\n"
        f"checksum  sha256 {digest[:4]}…{digest[-4:]} OK\n"
        "PREFIX   KEYS  BYTES\n"
        "orders/  2     36B\n",
    )
    told = ctl("snapshot", "inspect", target, "-o", "json").json
    assert (told["index"], told["voters"], told["taken_at"], told["sha256"]) == (
        "48000",
        ["1", "2", "3"],
        "2026-03-02T10:04:11Z",
        digest,
    )


def test_a_dry_run_tells_what_would_be_saved(ctl: Ctl, at: str, tmp_path: Path) -> None:
    ran = ctl("snapshot", "save", "-f", tmp_path / "s.rvsnap", "-e", at, "--dry-run")
    assert ran.code == 0, ran.err
    assert "would save the state of n2 at index 48210 or later, about 1MiB, to" in ran.out
    assert ran.err == "dry run: nothing was changed\n"
    assert list(tmp_path.iterdir()) == []


def test_a_broken_download_goes_on_where_it_stopped(ctl: Ctl, at: str, cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.break_after = 320
    target = tmp_path / "s.rvsnap"
    ran = ctl("snapshot", "save", "-f", target, "-e", at)
    assert ran.code == 0, ran.err
    offsets = [asked.offset for asked in cluster.asked if isinstance(asked, FetchSnapshotRequest)]
    assert offsets == [0, 320]
    assert target.read_bytes().endswith(cluster.snapshot)


def test_a_part_of_an_earlier_run_is_taken_up(ctl: Ctl, at: str, cluster: FakeCluster, tmp_path: Path) -> None:
    target = tmp_path / "s.rvsnap"
    assert ctl("snapshot", "save", "-f", target, "-e", at).code == 0
    whole = target.read_bytes()
    part = tmp_path / "s.rvsnap.part"
    part.write_bytes(whole[:-300])
    target.unlink()
    cluster.asked.clear()
    assert ctl("snapshot", "save", "-f", target, "-e", at).code == 0
    assert [asked.offset for asked in cluster.asked] == [700]
    assert target.read_bytes() == whole


@pytest.mark.parametrize("kind", ["of another snapshot", "too long", "no snapshot", "cut within the header"])
def test_any_other_part_is_thrown_away(ctl: Ctl, at: str, cluster: FakeCluster, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "s.rvsnap"
    assert ctl("snapshot", "save", "-f", target, "-e", at).code == 0
    whole = target.read_bytes()
    digest = hashlib.sha256(cluster.snapshot).hexdigest().encode()
    parts = {
        "of another snapshot": whole.replace(digest, b"0" * 64),
        "too long": whole + b"more",
        "no snapshot": b"something else",
        "cut within the header": whole[:40],
    }
    (tmp_path / "s.rvsnap.part").write_bytes(parts[kind])
    cluster.asked.clear()
    assert ctl("snapshot", "save", "-f", target, "--overwrite", "-e", at).code == 0
    assert [asked.offset for asked in cluster.asked] == [0]
    assert target.read_bytes() == whole


def test_what_is_damaged_on_the_way_is_not_kept(ctl: Ctl, at: str, cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.snapshot_damage = lambda data: data.replace(b"x", b"y", 1)
    ran = ctl("snapshot", "save", "-f", tmp_path / "s.rvsnap", "-e", at)
    assert (ran.code, "was received damaged" in ran.err) == (8, True)
    assert list(tmp_path.iterdir()) == []


def test_damage_in_the_file_is_found_wherever_it_is(ctl: Ctl, at: str, tmp_path: Path) -> None:
    target = tmp_path / "s.rvsnap"
    assert ctl("snapshot", "save", "-f", target, "-e", at).code == 0
    whole = target.read_bytes()
    for number, wrong in enumerate(
        [b"", whole[:10], whole[:-1], whole + b"x", b"Q" + whole[1:], whole[:-1] + b"y", b"RVSNAP\x00\x02" + whole[8:]]
    ):
        target.write_bytes(wrong)
        assert ctl("snapshot", "inspect", target).code == 8, number
    assert ctl("snapshot", "inspect", tmp_path / "none").code == 2


def test_a_folder_that_is_not_there_is_told_before_anything_is_asked(ctl: Ctl, tmp_path: Path) -> None:
    ran = ctl("snapshot", "save", "-f", tmp_path / "no" / "s.rvsnap", "-e", "127.0.0.1:1")
    assert (ran.code, "there is no folder" in ran.err) == (2, True)


def test_a_full_disk_ends_a_save_and_the_next_one_goes_on(
    ctl: Ctl, at: str, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "s.rvsnap"
    target.write_bytes(b"an older one")
    append = PartFile.append

    def full(part: PartFile, data: bytes) -> None:
        if part.received >= 256:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(part, data)

    monkeypatch.setattr(PartFile, "append", full)
    ran = ctl("snapshot", "save", "-f", target, "-e", at)
    assert (ran.code, "s.rvsnap is there already" in ran.err) == (2, True)
    ran = ctl("snapshot", "save", "-f", target, "--overwrite", "-e", at)
    assert (ran.code, "No space left on device" in ran.err, "free some space" in ran.err) == (1, True, True)
    assert target.read_bytes() == b"an older one"
    monkeypatch.undo()
    cluster.asked.clear()
    assert ctl("snapshot", "save", "-f", target, "--overwrite", "-e", at).code == 0
    assert [asked.offset for asked in cluster.asked] == [256]
    assert sorted(tmp_path.iterdir()) == [target]
