"""Ctrl-C in `ravelctl kv`: a write that was sent is unknown (exit 6), one that was not did nothing (exit 130)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ravelpb.errors import Reason
from ravelpb.v1.admin_pb2 import SlotMapRequest
from tests.ravelctl.client.fake_admin import fake_world
from tests.ravelctl.client.fake_server import FakeCluster, Fault, fake_cluster, make_status

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60
WRITES = (["put", "k", "v"], ["del", "k"], ["cas", "k", "v", "--revision", "0"])


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with fake_cluster(1) as cluster:
        yield cluster


async def interrupted(words: list[str], address: str, home: Path, under_way: Callable[[], bool]) -> tuple[int, str, str]:
    """Run a command, and press Ctrl-C once it is `under_way`. Returns exit code, output and errors."""
    places = {f"XDG_{kind}_HOME": str(home / kind.lower()) for kind in ("CONFIG", "CACHE", "STATE")}
    environment = {**os.environ, **places, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos")])}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ravelctl", "kv", *words, "-e", address, "--timeout", "60s",
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_S):
        while not under_way():
            assert child.returncode is None
            await asyncio.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, err = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("words", WRITES, ids=lambda words: words[0])
@pytest.mark.parametrize("fault", [Fault.HANG, Fault.APPLY_AND_HANG])
async def test_a_write_that_was_sent(cluster: FakeCluster, tmp_path: Path, words: list[str], fault: Fault) -> None:
    cluster.script = lambda request: fault
    code, out, err = await interrupted(words, cluster.replicas[0].address, tmp_path, lambda: bool(cluster.requests))
    assert (code, out) == (6, "")
    assert err == (
        "error: interrupted: the write was sent, and it may or may not have happened\n"
        "next: read the key before you write it again\n"
    )


async def test_a_write_that_was_sent_as_json(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.script = lambda request: Fault.HANG
    words = ["put", "k", "v", "-o", "json"]
    code, out, err = await interrupted(words, cluster.replicas[0].address, tmp_path, lambda: bool(cluster.requests))
    assert (code, out) == (6, "")
    told = json.loads(err)
    assert (told["exit_code"], told["reason"]) == (6, "OUTCOME_UNKNOWN")


@pytest.mark.parametrize("words", WRITES, ids=lambda words: words[0])
async def test_a_write_that_was_not_sent(cluster: FakeCluster, tmp_path: Path, words: list[str]) -> None:
    replica = cluster.replicas[0]
    replica.hangs = True
    code, out, err = await interrupted(words, replica.address, tmp_path, lambda: bool(replica.calls["Status"]))
    assert (code, out, err) == (130, "", "error: interrupted: nothing was done\n")


@pytest.mark.parametrize("words", WRITES, ids=lambda words: words[0])
async def test_a_write_whose_server_does_not_speak(tmp_path: Path, words: list[str]) -> None:
    connected: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda reader, writer: connected.append(writer), "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    try:
        code, out, err = await interrupted(words, f"{host}:{port}", tmp_path, lambda: bool(connected))
    finally:
        for writer in connected:
            writer.close()
        listener.close()
    assert (code, out, err) == (130, "", "error: interrupted: nothing was done\n")


async def test_a_write_that_an_admin_group_routed(tmp_path: Path) -> None:
    async with fake_world(2) as world:
        for cluster in world.clusters:
            cluster.script = lambda request: Fault.HANG

        def under_way() -> bool:
            return any(cluster.requests for cluster in world.clusters)

        code, out, err = await interrupted(["put", "k", "v"], world.addresses()[0], tmp_path, under_way)
        assert (code, out) == (6, "")
        assert "may or may not have happened" in err


async def test_a_write_that_no_admin_has_routed_yet(tmp_path: Path) -> None:
    async with fake_world(2) as world:
        asked = 0

        def never(request: SlotMapRequest) -> Any:
            nonlocal asked
            asked += 1
            return make_status(Reason.NO_LEADER, "no leader is known here")

        world.admin.replicas[0].answers["SlotMap"] = never
        code, out, err = await interrupted(["put", "k", "v"], world.addresses()[0], tmp_path, lambda: asked > 0)
        assert (code, out, err) == (130, "", "error: interrupted: nothing was done\n")


async def test_many_deletes_of_which_the_last_was_sent(cluster: FakeCluster, tmp_path: Path) -> None:
    for number in range(5):
        cluster._set(b"k%d" % number, b"v")
    cluster.script = lambda request: Fault.HANG
    words = ["del", "--prefix", "k", "--yes"]
    code, out, err = await interrupted(words, cluster.replicas[0].address, tmp_path, lambda: bool(cluster.requests))
    assert (code, out) == (6, "")
    assert "may or may not have happened" in err


@pytest.mark.parametrize("words", [["get", "k"], ["watch"]], ids=lambda words: words[0])
async def test_reads_are_interrupted_as_before(cluster: FakeCluster, tmp_path: Path, words: list[str]) -> None:
    cluster.script = lambda request: Fault.HANG
    replica = cluster.replicas[0]

    def under_way() -> bool:
        return bool(cluster.requests or replica.calls["Watch"])

    code, out, err = await interrupted(words, replica.address, tmp_path, under_way)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "error: interrupted"


async def test_an_interrupt_that_comes_after_the_answer_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """While connections are closed: the command has its answer, and shows it."""
    from ravelctl.cli import dial
    from ravelctl.cli.app import App
    from ravelctl.client import RavelClient

    async with fake_cluster(1) as cluster:
        app = App({"endpoints": (cluster.replicas[0].address,)}, unsent=True)
        close = RavelClient.close

        async def slow(client: RavelClient) -> None:
            await close(client)
            raise asyncio.CancelledError

        monkeypatch.setattr(RavelClient, "close", slow)
        written: Any = None
        async with dial.keys(app) as client:
            written = await client.put(b"k", b"v")
        assert written.revision == 1
        assert not app.unsent
