"""Real daemons whose log nobody reads, whose standard descriptors are closed, or who get signals that end other programs."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from ravelctl.client import ClusterClient
from ravelpb.v1 import cluster_pb2
from tests.e2e.cluster import CALL_S, START_S, Cluster, Server, running_cluster, until
from tests.e2e.http_door import running_gateway
from tests.e2e.ports import free_ports
from tests.security.certificates import Authority

HARMLESS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StuckPipe:
    """A pipe that is full, as that of a log collector that hangs. `read` makes it flow again."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4_096)
        self.fill()

    def fill(self) -> None:
        os.set_blocking(self.writing, False)
        try:
            while True:
                os.write(self.writing, b"x")
        except BlockingIOError:
            os.set_blocking(self.writing, True)

    async def read(self, until_seen: str) -> str:
        """Everything in it up to the line with this text."""
        seen = b""

        async def look() -> bool:
            nonlocal seen
            while select.select([self.reading], [], [], 0)[0]:
                seen += os.read(self.reading, 65_536)
            return until_seen.encode() in seen.rpartition(b"\n")[0]

        await until(f"{until_seen!r} is in the log", look, START_S)
        return seen.rpartition(b"\n")[0].decode()

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


@contextmanager
def stuck_pipe() -> Iterator[StuckPipe]:
    pipe = StuckPipe()
    try:
        yield pipe
    finally:
        pipe.close()


def command(server: Server) -> list[str]:
    return [
        sys.executable, "-m", "ravel_node", server.verb, "--data-dir", str(server.data_dir), "--name", server.name,
        "--listen", server.address, "--peer-listen", server.peer_address, *server.flags,
    ]  # fmt: skip


def start_with(server: Server, stderr: int, words: Sequence[str] = ()) -> None:
    """Start its process, or these words instead."""
    server.process = subprocess.Popen(
        words or command(server), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
    )


def start_planted(server: Server, stderr: int, source: str) -> None:
    """Start it with something of its code replaced."""
    source += "\nfrom ravel_node.__main__ import main\nmain()\n"
    start_with(server, stderr, [sys.executable, "-c", source, *command(server)[3:]])


def tls_flags(folder: Path) -> list[str]:
    authority = Authority(folder, "authority")
    pair = authority.issue("server")
    return ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-ca", str(authority.cert), "--insecure"]


@asynccontextmanager
async def cluster_of(folder: Path, stderr: int, flags: Sequence[str] = ()) -> AsyncIterator[Cluster]:
    """Three daemons that share this stderr."""
    cluster = Cluster(folder, flags)
    try:
        for name in ("n1", "n2", "n3"):
            start_with(cluster.add(name), stderr)
        await cluster.bootstrap(*cluster.servers.values())
        yield cluster
    finally:
        cluster.stop_all()


async def ends(server: Server, number: int = signal.SIGTERM) -> int:
    """Its exit status after this signal. It must need no more time than any daemon has for it."""
    os.kill(server.pid, number)
    return await asyncio.to_thread(server.wait, START_S)


async def test_a_cluster_whose_log_nobody_reads_serves_elects_and_ends(tmp_path: Path) -> None:
    """The pipe is full before the first daemon starts, as it is for one that a supervisor starts again."""
    with stuck_pipe() as pipe:
        async with cluster_of(tmp_path, pipe.writing) as cluster:
            async with cluster.client() as client:
                await client.put(b"k", b"v")
                first = await cluster.leader()
                second = (await cluster.followers())[0]
                second_id = (await cluster.status(second)).header.replica_id
                async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as asked:

                    async def moved() -> bool:
                        if await cluster.leader() is not second:
                            await asked.transfer_leader(second_id)
                        return await cluster.leader() is second

                    await until("leadership moves without a word in the log", moved, START_S)
                await client.put(b"k", b"w")
                second.kill()
                assert (await cluster.leader()) is not second, "and is won by others"
                await client.put(b"k", b"x")
                found = await client.get(b"k")
                assert found is not None
                assert found.value == b"x"
            assert await ends(first) == 0


async def test_when_the_log_is_read_again_nothing_is_missing(tmp_path: Path) -> None:
    with stuck_pipe() as pipe:
        server = Cluster(tmp_path).add("n1")
        start_with(server, pipe.writing)
        try:
            cluster = Cluster(tmp_path)
            cluster.servers["n1"] = server
            await cluster.bootstrap(server)
            await cluster.leader()
            lines = (await pipe.read('"daemon.bootstrapped"')).lstrip("x").splitlines()
            names = [json.loads(line)["event"] for line in lines]
            assert [name for name in names if name.startswith("daemon.")] == [
                "daemon.started",
                "daemon.blank",
                "daemon.bootstrapped",
            ]
            assert await ends(server) == 0
            assert '"daemon.stopped"' in await pipe.read("daemon.stopped")
        finally:
            server.kill()


async def test_lines_that_are_too_many_are_counted_in_the_log_and_in_the_metrics(tmp_path: Path) -> None:
    with stuck_pipe() as pipe:
        (port,) = free_ports(1)
        cluster = Cluster(tmp_path, ["--metrics-listen", f"127.0.0.1:{port}"])
        server = cluster.add("n1")
        start_planted(server, pipe.writing, "from ravel_node import log_output\nlog_output.LINES_MAX = 3")
        try:
            await cluster.bootstrap(server)
            await cluster.leader()

            async def dropped() -> int:
                return await metric(port, "ravel_log_lines_dropped_total")

            count = await until("lines are dropped", dropped, START_S)
            text = await pipe.read("log.lines_dropped")
            assert count > 0
            (line,) = [line for line in text.splitlines() if "log.lines_dropped" in line]
            told = json.loads(line)["dropped"]
            assert f"{told} log lines were dropped because stderr did not take them" in line
            assert 0 < told <= await dropped()
        finally:
            server.kill()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_daemon_that_stops_itself_or_is_told_twice_ends_too(tmp_path: Path, tls: bool) -> None:
    flags = tls_flags(tmp_path) if tls else []
    with stuck_pipe() as pipe:
        first, second = Server(tmp_path, "n1", flags), Server(tmp_path, "n1", flags)
        first.start()
        try:
            await asyncio.to_thread(first.until_started)
            start_with(second, pipe.writing)  # in the same directory, which is taken
            assert await asyncio.to_thread(second.wait, START_S) == 1
        finally:
            first.kill()
        start_with(second, pipe.writing)
        try:
            await until("it listens", lambda: listens(second), START_S)
            os.kill(second.pid, signal.SIGTERM)
            os.kill(second.pid, signal.SIGTERM)
            assert await asyncio.to_thread(second.wait, START_S) in (0, -signal.SIGTERM)
        finally:
            second.kill()


async def listens(server: Server) -> bool:
    host, _, port = server.address.partition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        assert server.running
        return False
    writer.close()
    return True


async def test_a_crash_ends_a_daemon_whose_log_nobody_reads(tmp_path: Path) -> None:
    """An error that no code expects, with its traceback on the way to a full pipe."""
    source = "from ravel_node.daemon import Daemon\nasync def fail(self): raise KeyError('planted')\nDaemon._serve = fail"
    server = Server(tmp_path, "n1")
    with stuck_pipe() as pipe, (tmp_path / "log").open("wb") as log:
        for stderr in (pipe.writing, log.fileno()):
            start_planted(server, stderr, source)
            try:
                assert await asyncio.to_thread(server.wait, START_S) == 1
            finally:
                server.kill()
    assert "KeyError: 'planted'" in (tmp_path / "log").read_text(), "where somebody reads them its last words are seen"


async def test_a_gateway_whose_log_nobody_reads_serves_and_ends(tmp_path: Path) -> None:
    with stuck_pipe() as pipe:
        (port,) = free_ports(1)
        words = ["gateway", "--admin", "127.0.0.1:1", "--listen", f"127.0.0.1:{port}", "--access-log", "--timeout-ms", "200"]
        gateway = Server(tmp_path, "gateway")
        gateway.address = f"127.0.0.1:{port}"
        start_with(gateway, pipe.writing, [sys.executable, "-m", "ravel_node", *words])
        try:
            await until("it listens", lambda: listens(gateway), START_S)
            for _ in range(100):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await asyncio.wait_for(reader.read(), CALL_S)).startswith(b"HTTP/1.1 200")
                writer.close()
            assert await ends(gateway) == 0
        finally:
            gateway.kill()


# --- closed descriptors


def start_without(server: Server, closed: Sequence[int]) -> None:
    redirections = " ".join({0: "0<&-", 1: "1>&-", 2: "2>&-"}[number] for number in closed)
    words = ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", *command(server)]
    with server.log_path.open("wb") as log:
        start_with(server, log.fileno(), words)


@pytest.mark.parametrize("closed", [c for n in (1, 2, 3) for c in itertools.combinations((0, 1, 2), n)], ids=str)
async def test_closed_descriptors_are_replaced_before_a_file_of_the_daemon_gets_them(
    tmp_path: Path, closed: tuple[int, ...]
) -> None:
    cluster = Cluster(tmp_path)
    server = cluster.add("n1")
    start_without(server, closed)
    try:
        await cluster.bootstrap(server)
        async with cluster.client() as client:
            await client.put(b"k", b"v")
        for number in closed:
            assert os.readlink(f"/proc/{server.pid}/fd/{number}") == os.devnull
        assert await ends(server) == 0
        assert ("daemon.stopped" in server.log) is (2 not in closed)
        for path in server.data_dir.rglob("*"):
            assert not path.is_file() or b"daemon.st" not in path.read_bytes(), f"{path} holds log lines"
        server.start()
        await cluster.answering(server)
        async with cluster.client() as client:
            assert await client.get(b"k") is not None
    finally:
        server.kill()


async def test_with_tls_too_a_closed_stderr_is_replaced(tmp_path: Path) -> None:
    """Then descriptor 2 is the pipe on which gRPC reports handshakes."""
    server = Server(tmp_path, "n1", tls_flags(tmp_path))
    start_without(server, (0, 1, 2))
    try:
        await until("it listens", lambda: listens(server), START_S)
        assert "pipe:" in os.readlink(f"/proc/{server.pid}/fd/2")
        assert await ends(server) == 0
    finally:
        server.kill()


# --- signals


async def test_hangups_and_user_signals_do_not_end_a_daemon(tmp_path: Path) -> None:
    names = ("SIGHUP", "SIGUSR1", "SIGUSR2")
    async with running_cluster(tmp_path, ["n1"]) as cluster:
        (server,) = cluster.servers.values()
        for name in names:
            os.kill(server.pid, getattr(signal, name))
            await until(f"it logs {name}", lambda name=name: has_line(server, name), START_S)  # type: ignore[misc]
        assert (await cluster.status(server)).role == cluster_pb2.LEADER
    assert server.process is not None
    assert server.process.returncode == 0


async def has_line(server: Server, name: str) -> bool:
    assert server.running, server.log
    return f'"signal": "{name}"' in server.log


async def test_a_hangup_while_a_daemon_starts_does_not_end_it(tmp_path: Path) -> None:
    server = Server(tmp_path, "n1")
    server.start()
    try:

        async def prepared() -> bool:
            """Whether it has taken care of these signals: one that comes earlier finds a program that loads its modules."""
            return all(harmless_signals(server.pid) >> (number - 1) & 1 for number in HARMLESS)

        await until("it has taken care of these signals", prepared, START_S, every_s=0.001)
        for number in HARMLESS:
            os.kill(server.pid, number)
        await asyncio.to_thread(server.until_started)
        assert await ends(server) == 0
    finally:
        server.kill()


def harmless_signals(pid: int) -> int:
    """A mask of the signals that a process ignores or handles."""
    status = Path(f"/proc/{pid}/status").read_text()
    ignored, handled = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigIgn:", "SigCgt:")))
    return ignored | handled


async def test_signals_do_not_end_a_gateway(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, ["127.0.0.1:1"]) as gateway:
        for number in HARMLESS:
            os.kill(gateway.pid, number)
        log = tmp_path / "gateway.log"

        async def told() -> bool:
            return log.read_text().count("gateway.signal_received") == 3

        await until("it logs the signals", told, START_S)


# --- floods


async def test_a_replica_that_is_alone_logs_its_polls_a_few_times_and_then_their_number(tmp_path: Path) -> None:
    """It polls at each election timeout, for as long as the others are away."""
    (port,) = free_ports(1)
    fast = ["--tick-ms", "5", "--election-ticks", "20", "--heartbeat-ticks", "2"]
    async with running_cluster(tmp_path, ["n1", "n2"], fast) as cluster:
        other, alone = await cluster.leader(), (await cluster.followers())[0]
        await ends(alone)
        alone.start("--metrics-listen", f"127.0.0.1:{port}")
        await cluster.caught_up(alone)
        other.kill()
        before, withheld_before = len(alone.log.splitlines()), await metric(port, "ravel_log_lines_withheld_total")

        async def withheld() -> bool:
            return await metric(port, "ravel_log_lines_withheld_total") >= withheld_before + 60

        await until("many polls are over", withheld, START_S)
        assert await ends(alone) == 0
        events = [json.loads(line) for line in alone.log.splitlines()[before:]]
        counts = [one["repeated"] for one in events if one["event"] == "raft.election_started" and "repeated" in one]
        assert sum(counts) >= 20, "what was not logged was counted"
        assert len(events) < 60


async def metric(port: int, name: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    page = (await asyncio.wait_for(reader.read(), CALL_S)).decode()
    writer.close()
    (line,) = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return int(float(line.split()[1]))
