"""A data directory that a daemon must not start on: it ends with status 1 and one sentence, and changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import START_S, Server, running_cluster
from tests.e2e.ports import free_ports

NOBODY = 65_534


def refusal(server: Server) -> str:
    """Start it, see it end by itself, and take the one sentence that it leaves."""
    server.log_path.unlink(missing_ok=True)
    server.start()
    assert server.wait() == 1, server.log
    assert "Traceback" not in server.log
    [line] = [line for line in server.log.splitlines() if "daemon.stopped_itself" in line]
    return line


def a_file(path: Path) -> None:
    path.write_text("mine")


def holds_something_else(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("mine")


def not_for_us_to_make(path: Path) -> None:
    """A parent that is a file: no directory can be made under it."""
    path.symlink_to("/dev/null/ravel")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(a_file, "is not a directory"), (holds_something_else, "thesis.tex"), (not_for_us_to_make, "cannot be used")],
)
def test_what_is_no_data_directory_is_left_as_it_is(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    server = Server(tmp_path, "n1")
    spoil(server.data_dir)
    told = refusal(server)
    assert said in told
    assert str(server.data_dir) in told
    if spoil is a_file:
        assert server.data_dir.read_text() == "mine"
    if spoil is holds_something_else:
        assert [each.name for each in server.data_dir.iterdir()] == ["thesis.tex"]


def test_a_directory_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    """As another user where the tests run as root, whom no permission stops."""
    user = NOBODY if os.geteuid() == 0 else None
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    modes = {path: path.stat().st_mode for path in tmp_path.parents[:2]}
    client, peer = free_ports(2)
    command = [sys.executable, "-m", "ravel_node", "start", "--data-dir", str(folder / "n1")]
    command += ["--listen", f"127.0.0.1:{client}", "--peer-listen", f"127.0.0.1:{peer}"]
    try:
        for path in (tmp_path, *modes):  # pytest lets only its own user through
            path.chmod(0o755)
        if user and not _can_run(user):
            pytest.skip("no other user can run this interpreter: a directory that may not be written to is NOT tested")
        command = as_user(user, command)
        ended = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=START_S, check=False)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    assert str(folder / "n1") in said
    assert "ermission denied" in said
    assert "Traceback" not in said


def as_user(user: int | None, command: list[str]) -> list[str]:
    """The command, run by this user. `subprocess` itself would fork this process for it, in which gRPC may run."""
    become = "import os, sys\nos.setgroups([])\nos.setgid(int(sys.argv[1]))\nos.setuid(int(sys.argv[1]))\n"
    become += "os.execv(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-c", become, str(user), *command] if user else command


def _can_run(user: int) -> bool:
    """Whether this user may run what the tests run: an interpreter in somebody's home may be closed to it."""
    tried = subprocess.run(as_user(user, [sys.executable, "-c", "import ravel_node"]), cwd="/", capture_output=True, check=False)
    return tried.returncode == 0


def truncated(path: Path) -> None:
    (path / "raft" / "data.mdb").write_bytes((path / "raft" / "data.mdb").read_bytes()[:20_000])


def noise(path: Path) -> None:
    (path / "raft" / "data.mdb").write_bytes(b"\xa5" * 65_536)


def identity_altered(path: Path) -> None:
    data = (path / "raft" / "data.mdb").read_bytes()
    assert b'"cluster_name": "test"' in data
    (path / "raft" / "data.mdb").write_bytes(data.replace(b'"cluster_name": "test"', b'"cluster_name": "tesu"'))


def state_gone(path: Path) -> None:
    (state,) = path.glob("state-*")
    shutil.rmtree(state)


def state_noise(path: Path) -> None:
    (state,) = path.glob("state-*")
    (state / "data.mdb").write_bytes(b"\x5a" * 65_536)


def later_format(path: Path) -> None:
    (path / "FORMAT").write_text("ravel 99\n")


async def test_a_damaged_directory_says_what_is_damaged_and_what_to_do(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1"]) as cluster, cluster.client() as client:
        for number in range(200):
            await client.put(b"k%d" % number, b"v" * 300)
        cluster.servers["n1"].terminate()
        server = cluster.servers["n1"]
        whole = tmp_path / "whole"
        shutil.copytree(server.data_dir, whole)
        for spoil, said in (
            (truncated, "raft"),
            (noise, "raft/data.mdb"),
            (identity_altered, "identity is damaged"),
            (state_gone, "is missing"),
            (state_noise, "data.mdb"),
            (later_format, "format 99"),
        ):
            shutil.rmtree(server.data_dir)
            shutil.copytree(whole, server.data_dir)
            spoil(server.data_dir)
            told = refusal(server)
            assert said in told, (spoil.__name__, told)
            assert "ravelctl member replace" in told or "later one" in told, (spoil.__name__, told)
        shutil.rmtree(server.data_dir)
        shutil.copytree(whole, server.data_dir)
        server.start()
        await cluster.answering(server)
        kept = await client.get(b"k199")
        assert kept is not None
        assert kept.value == b"v" * 300


async def test_a_daemon_whose_directory_is_removed_ends_and_says_why(tmp_path: Path) -> None:
    """Its writes and syncs would all succeed, into files that are gone once it ends."""
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        await client.put(b"before", b"1")
        leader = await cluster.leader()
        shutil.rmtree(leader.data_dir)
        assert await asyncio.to_thread(leader.wait) == 1, leader.log
        [line] = [line for line in leader.log.splitlines() if "daemon.stopped_itself" in line]
        assert str(leader.data_dir / "LOCK") in line
        assert "removed, moved or replaced" in line
        assert "Traceback" not in leader.log
        kept = await client.get(b"before")
        assert kept is not None, "the others have it"
