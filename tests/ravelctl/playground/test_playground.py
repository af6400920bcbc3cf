"""Processes of the playground, with a stand-in for the daemon: it listens to signals and to nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ravelctl.cli.errors import CommandError
from ravelctl.playground import context as playground_context
from ravelctl.playground import known as playground_known
from ravelctl.playground import links, processes
from ravelctl.playground.links import can_tell_who_dials
from ravelpb.slots import slot_of
from tests.ravelctl.conftest import Ctl

STAND_IN = """
import os, signal, sys, time
if os.environ.get("STAND_IN") == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ.get("STAND_IN") == "fails":
    sys.exit("the address 127.0.0.1:1 is in use")
print(" ".join(["started", *sys.argv[1:]]), flush=True)  # one write, so that no half of it is read
time.sleep(300)
"""


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[processes.Playground]:
    """Two replicas, not started. Whatever a test has started is killed after it."""
    package = tmp_path / "path" / "ravel_node"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    begun: list[processes.Replica] = []
    really_start = processes.start

    def start(replica: processes.Replica) -> processes.Replica:
        begun.append(really_start(replica))
        return begun[-1]

    monkeypatch.setattr(processes, "start", start)
    yield processes.plan(tmp_path / "ground", 2, "test")
    for replica in begun:
        if replica.process is not None and replica.process.alive:
            os.kill(replica.process.pid, signal.SIGKILL)


def _wait_for_log(replica: processes.Replica, word: str) -> None:
    deadline = time.monotonic() + 90
    while word not in Path(replica.log).read_text():
        assert time.monotonic() < deadline, Path(replica.log).read_text()
        time.sleep(0.02)


def test_a_plan_has_neighbouring_ports_that_are_its_own(ground: processes.Playground) -> None:
    ports = [int(address.rpartition(":")[2]) for r in ground.replicas for address in (r.listen, r.peer_listen)]
    assert ports[1] == ports[0] + 1
    assert len({*ports, *(int(r.link.rpartition(":")[2]) for r in ground.replicas)}) == 6
    assert all(processes.PORT_MIN <= port <= processes.PORT_MAX for port in ports)
    assert [r.name for r in ground.replicas] == ["n1", "n2"]


def test_it_is_remembered(ground: processes.Playground) -> None:
    processes.save(ground)
    assert processes.load(ground.folder) == ground
    assert processes.load(ground.folder / "elsewhere") is None
    for wrong in ("", "[]", "{}", '{"format": 2}'):
        (ground.folder / processes.STATE_FILE).write_text(wrong)
        with pytest.raises(CommandError) as raised:
            processes.load(ground.folder)
        assert raised.value.code == 8


def test_daemons_start_with_their_flags_and_end_in_order(ground: processes.Playground) -> None:
    first, second = (processes.start(replica) for replica in ground.replicas)
    assert first.alive
    assert second.alive
    _wait_for_log(first, "started")
    assert (
        f"--data-dir {first.data_dir} --listen {first.listen} --peer-listen {first.peer_listen} --name n1"
        in Path(first.log).read_text()
    )
    assert processes.stop([first, second]) == []
    assert not first.alive
    assert not second.alive


def test_kill_is_a_crash(ground: processes.Playground) -> None:
    replica = processes.start(ground.replicas[0])
    processes.kill(replica)
    assert not replica.alive
    with pytest.raises(CommandError, match="n1 does not run"):
        processes.kill(replica)


def test_one_that_does_not_stop_is_killed(ground: processes.Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN", "stubborn")
    monkeypatch.setattr(processes, "TERM_WAIT_S", 0.5)
    replica = processes.start(ground.replicas[0])
    _wait_for_log(replica, "started")
    assert processes.stop([replica]) == ["n1"]
    assert not replica.alive


def test_pause_and_resume(ground: processes.Playground) -> None:
    replica = processes.start(ground.replicas[0])
    _wait_for_log(replica, "started")
    assert not replica.paused
    processes.pause(replica)
    _until(lambda: replica.paused)
    assert replica.alive
    processes.resume(replica)
    _until(lambda: not replica.paused)
    processes.pause(replica)
    assert processes.stop([replica]) == [], "one that is paused ends in order too"
    with pytest.raises(CommandError, match="n1 does not run"):
        processes.pause(replica)


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_status_tells_which_run_hang_or_are_down(ground: processes.Playground, ctl: Ctl) -> None:
    replica = processes.start(ground.replicas[0])
    processes.save(ground.with_replica(replica))
    _wait_for_log(replica, "started")
    assert [r["state"] for r in ctl("playground", "status", "--dir", ground.folder, "-o", "json").json["replicas"]] == [
        "runs",
        "down",
    ]
    processes.pause(replica)
    _until(lambda: replica.paused)
    processes.save(replace(ground.with_replica(replica), groups=(("n1",), ("n2",))))
    out = ctl("playground", "status", "--dir", ground.folder).out
    assert out.splitlines()[1].split()[:2] == ["n1", "paused"]
    assert out.splitlines()[-1] == "cut n1 | n2"


def test_who_hears_whom(ground: processes.Playground) -> None:
    assert not ground.apart("n1", "n2")
    cut = replace(ground, groups=(("n1",), ("n2", "n3")))
    assert cut.apart("n1", "n2")
    assert cut.apart("n3", "n1")
    assert not cut.apart("n2", "n3")
    assert not cut.apart("", "n1"), "who is not of the playground is not cut off from it"
    processes.save(cut)
    assert processes.load(cut.folder) == cut


@pytest.mark.skipif(not can_tell_who_dials(), reason="this system does not tell whose a socket is")
def test_connections_between_groups_are_cut_and_others_are_not(ground: processes.Playground) -> None:
    """n1 dials n2 through the network: bytes pass, a cut breaks the connection, and a new one only after it is healed."""
    host, _, port = ground.replicas[1].peer_listen.rpartition(":")
    with (
        socket.create_server((host, int(port))) as listening,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as other,
    ):
        mine = processes.Process(os.getpid(), processes.started_at(os.getpid()))
        theirs = processes.Process(other.pid, processes.started_at(other.pid))
        ground = ground.with_replica(replace(ground.replicas[0], process=mine))
        ground = ground.with_replica(replace(ground.replicas[1], process=theirs))
        ground = processes.start_network(ground)
        try:
            listening.settimeout(30)
            assert _passes(ground, listening)
            link, accepted = _dialled(ground, listening)
            with link, accepted:
                processes.save(replace(ground, groups=(("n1",), ("n2",))))
                assert _ended(accepted)
                assert _ended(link)
            listening.settimeout(0.5)
            assert not _passes(ground, listening)
            processes.save(replace(ground, groups=()))
            _until(lambda: _passes(ground, listening))
        finally:
            ground = processes.stop_network(ground)
            other.kill()
    assert ground.network is None
    assert started_again(ground)


def started_again(ground: processes.Playground) -> bool:
    """The network is a process that comes and goes with the playground."""
    again = processes.start_network(ground)
    assert again.network is not None
    alive = again.network.alive
    processes.stop_network(again)
    return alive and not again.network.alive


@pytest.mark.skipif(not can_tell_who_dials(), reason="this system does not tell whose a socket is")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_kernel_and_its_tables_agree_on_who_dials(family: socket.AddressFamily) -> None:
    """gRPC dials 127.0.0.1 from sockets of both kinds."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(family) as dialling:
        at = listening.getsockname()[1]
        dialling.connect(("127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1", at))
        port = dialling.getsockname()[1]
        assert links.dialler(port, at, {os.getpid(): "n1"}) == "n1"
        assert links.dialler(port, at, {os.getppid(): "n2"}) == ""
        inode = os.fstat(dialling.fileno()).st_ino
        assert links._inodes_by_tables(port) == {f"socket:[{inode}]"}
        if _may_ask_the_kernel():
            assert links._inode_by_netlink(port, at) == inode
            assert links._inode_by_netlink(port, port) == 0, "there is no such socket"


def _may_ask_the_kernel() -> bool:
    """Whether netlink is open here: some containers close it."""
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, links._NETLINK_SOCK_DIAG).close()
    except (OSError, AttributeError):
        return False
    return True


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="this system does not tell the state of a connection")
async def test_who_has_hung_up_meanwhile_is_not_looked_for(ground: processes.Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a process that was held up looks for callers who are gone, while those who are there give up."""
    looked_for: list[int] = []

    def look(port: int, *_: object) -> str:
        looked_for.append(port)
        return ""

    monkeypatch.setattr(links, "dialler", look)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        replica = replace(ground.replicas[0], peer_listen=f"127.0.0.1:{nobody.getsockname()[1]}")
    between = links.Links(ground.folder, replace(ground, replicas=(replica,)))
    held_up, done = asyncio.Event(), asyncio.Semaphore(0)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held_up.wait()
        await between._pass_on(replica.name, reader, writer)
        done.release()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        at = server.sockets[0].getsockname()
        for _ in range(3):
            socket.create_connection(at).close()
        with socket.create_connection(at) as patient:
            held_up.set()
            for _ in range(4):
                await asyncio.wait_for(done.acquire(), 30)
            assert looked_for == [patient.getsockname()[1]]


def _dialled(ground: processes.Playground, listening: socket.socket) -> tuple[socket.socket, socket.socket]:
    host, _, port = ground.replicas[1].link.rpartition(":")
    link = socket.create_connection((host, int(port)), timeout=30)
    link.sendall(b"hello")
    try:
        while True:
            accepted, _ = listening.accept()
            accepted.settimeout(30)
            if accepted.recv(5) == b"hello":  # looks whether the port is open say nothing
                return link, accepted
            accepted.close()
    except TimeoutError:
        link.close()
        raise


def _passes(ground: processes.Playground, listening: socket.socket) -> bool:
    try:
        link, accepted = _dialled(ground, listening)
    except OSError:
        return False
    with link, accepted:
        accepted.sendall(b"back")
        return link.recv(4) == b"back"


def _ended(end: socket.socket) -> bool:
    end.settimeout(30)
    try:
        return end.recv(1) == b""
    except ConnectionError:
        return True


def test_a_process_that_took_over_the_id_is_never_signalled(ground: processes.Playground) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as other:
        try:
            foreign = replace(ground.replicas[0], process=processes.Process(other.pid, "some other moment"))
            assert not foreign.alive
            assert processes.stop([foreign]) == []
            with pytest.raises(CommandError):
                processes.kill(foreign)
            time.sleep(0.2)
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("way", ["proc", "ps"])
def test_both_ways_to_tell_when_a_process_started_tell_who_lives(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "ps":
        if shutil.which("ps") is None:
            pytest.skip("this machine has no ps, which is asked only where there is no /proc")
        monkeypatch.setattr(processes, "_PROC", Path("/no/such/file"))
    elif not Path("/proc/self/stat").exists():
        pytest.skip("this machine has no /proc")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        assert processes.started_at(child.pid) == processes.started_at(child.pid) != ""
        assert not processes.is_stopped(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert processes.is_stopped(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
        assert processes.started_at(child.pid) == ""
    finally:
        child.kill()
        child.wait()
    assert processes.started_at(child.pid) == ""
    assert not processes.is_stopped(child.pid)


def test_a_daemon_that_ends_at_once_is_told_with_its_last_words(
    ground: processes.Playground, monkeypatch: pytest.MonkeyPatch, ctl: Ctl
) -> None:
    monkeypatch.setenv("STAND_IN", "fails")
    processes.save(ground)
    ran = ctl("playground", "up", "--dir", ground.folder, "--timeout", "20s")
    assert ran.code == 1
    assert "the daemon of n1 has ended; its log ends with: the address 127.0.0.1:1 is in use" in ran.err


def test_down_keeps_the_data_and_purge_removes_only_what_is_ours(ground: processes.Playground, ctl: Ctl) -> None:
    running = ground.with_replica(processes.start(ground.replicas[0]))
    processes.save(running)
    Path(ground.replicas[0].data_dir).mkdir()
    ran = ctl("playground", "down", "--dir", ground.folder, "-o", "json")
    assert (ran.code, ran.json["stopped"], ran.json["purged"]) == (0, ["n1"], False)
    assert Path(ground.replicas[0].data_dir).is_dir()
    (ground.folder / "mine.txt").touch()
    again = ctl("playground", "down", "--purge", "--dir", ground.folder)
    assert (again.code, again.out) == (0, f"nothing was running; removed {ground.folder}\n")
    assert [path.name for path in ground.folder.iterdir()] == ["mine.txt"]
    assert ctl("playground", "down", "--dir", ground.folder).code == 1


def test_it_leaves_a_context_behind_and_takes_away_only_its_own(
    ground: processes.Playground, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("RAVELCTL_CONFIG", str(file))
    first, second = (replace(ground, cluster_id=digit * 32) for digit in "12")
    assert playground_context.keep(first) == ("playground", True)
    assert playground_context.keep(first) == ("playground", True), "up once more"
    assert playground_context.keep(second) == ("playground-2", False)
    assert ctl("context", "add", "playground-3", "-e", "127.0.0.1:1", "--cluster", "3" * 32).code == 0
    processes.save(first)
    down = ctl("playground", "down", "--dir", ground.folder)
    assert (down.code, down.err) == (0, "the context playground is gone\n")
    assert ctl("context", "list", "-o", "json").json["current"] == ""
    assert ctl("playground", "down", "--dir", ground.folder).err == "", "it is gone already"
    assert playground_context.forget(second) == ("playground-2",)
    assert ctl("context", "list", "-o", "name").out == "playground-3\n"
    processes.save(replace(ground, cluster_id=""))
    file.write_text("[contexts")
    assert ctl("playground", "down", "--dir", ground.folder).code == 0, "a broken file is no reason to let daemons run"


def test_wrong_usage(ground: processes.Playground, ctl: Ctl) -> None:
    assert ctl("playground", "kill", "n1", "--dir", ground.folder / "none").code == 1
    processes.save(ground)
    assert "is in more than one group" in ctl("playground", "partition", "n1", "n2,n1", "--dir", ground.folder).err
    assert "nothing would be cut" in ctl("playground", "partition", "n1,n2", "--dir", ground.folder).err
    assert ctl("playground", "heal", "--dir", ground.folder, "--dry-run").code == 0
    dry = ctl("playground", "partition", "n1", "--dir", ground.folder, "--dry-run", "-o", "json")
    assert (dry.code, dry.json["would"]) == (0, "cut n1 | n2")
    assert processes.load(ground.folder) == ground
    unknown = ctl("playground", "kill", "n7", "--dir", ground.folder)
    assert (unknown.code, "there are n1, n2" in unknown.err) == (2, True)
    more = ctl("playground", "up", "--replicas", 5, "--dir", ground.folder)
    assert (more.code, "has 2 replicas, not 5" in more.err) == (2, True)
    (ground.folder / processes.STATE_FILE).unlink()
    (ground.folder / "n1").mkdir()
    stale = ctl("playground", "up", "--dir", ground.folder)
    assert (stale.code, "remove it" in stale.err) == (2, True)


@pytest.mark.e2e
def test_a_real_cluster_comes_up_loses_a_replica_and_goes_down(tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAVELCTL_TIMEOUT", "60s")
    where = tmp_path / "ground"
    try:
        up = ctl("playground", "up", "--replicas", 3, "--dir", where, "--detach", "-o", "json")
        assert up.code == 0, up.err
        assert [(r["name"], r["id"]) for r in up.json["replicas"]] == [("n1", "1"), ("n2", "2"), ("n3", "3")]
        endpoints = ",".join(up.json["endpoints"])
        assert up.json["context"] == "playground"
        assert ctl("kv", "put", "k", "v").code == 0, "found without being told where"
        killed = ctl("playground", "kill", "leader", "--dir", where, "-o", "json")
        assert killed.code == 0
        assert ctl("kv", "get", "k", "-e", endpoints).out == "v\n"
        assert ctl("playground", "start", killed.json["name"], "--dir", where).code == 0
        _until(lambda: ctl("health", "-e", endpoints).code == 0)
        cut = ctl("playground", "partition", "leader", "--dir", where, "-o", "json")
        assert cut.code == 0, cut.err
        _until(lambda: ctl("leader", "show", "-e", endpoints, "-o", "name").out.strip() in cut.json["groups"][1])
        assert ctl("playground", "heal", "--dir", where).out == "joined all groups\n"
        _until(lambda: ctl("health", "-e", endpoints).code == 0)
        assert ctl("playground", "up", "--dir", where).code == 0
    finally:
        down = ctl("playground", "down", "--purge", "--dir", where)
    assert (down.code, where.exists()) == (0, False)
    assert json.loads(up.out)["cluster_name"] == "playground"


# --- with admins


@pytest.fixture
def system(ground: processes.Playground, tmp_path: Path) -> processes.Playground:
    """Two clusters of two, and an admin server, not started."""
    return processes.plan_system(tmp_path / "system", 2, 2, 1, http=True)


def test_a_system_is_planned_and_remembered(system: processes.Playground) -> None:
    assert [(replica.name, replica.cluster) for replica in system.replicas] == [
        ("n1", "c1"), ("n2", "c1"), ("n3", "c2"), ("n4", "c2"), ("a1", "admin"),
    ]  # fmt: skip
    (admin,) = system.admins
    assert (system.clusters, system.endpoints) == (("c1", "c2"), (admin.listen,))
    assert system.replicas[2].options == ("--admin", admin.listen, "--new-cluster", "c2")
    assert admin.options[0] == "--http"
    system = replace(system, cluster_ids={"c1": "1" * 32})
    processes.save(system)
    assert processes.load(system.folder) == system
    ports = [port for replica in system.replicas for port in (replica.listen, replica.peer_listen, replica.link)]
    assert len({*ports, admin.options[1]}) == len(ports) + 1


def test_a_cluster_is_added_and_the_others_stay(system: processes.Playground) -> None:
    grown = processes.with_clusters(system, 3, 2)
    assert [replica.name for replica in grown.replicas] == ["n1", "n2", "n3", "n4", "n5", "n6", "a1"]
    assert set(system.replicas) < set(grown.replicas)
    assert {replica.options for replica in grown.of("c3")} == {("--admin", system.admins[0].listen, "--new-cluster", "c3")}


def test_daemons_are_started_as_what_they_are(system: processes.Playground) -> None:
    for replica in (system.find("a1"), system.find("n3")):
        running = processes.start(replica)
        _wait_for_log(running, "started")
        told = Path(replica.log).read_text().split()
        assert told[1] == ("admin" if replica.is_admin else "start")
        assert told[-len(replica.options) :] == list(replica.options)


def test_words_of_a_system(system: processes.Playground, ctl: Ctl) -> None:
    processes.save(system)
    where = ("--dir", system.folder)
    status = ctl("playground", "status", *where)
    assert [line.split()[:3] for line in status.out.splitlines()[:2]] == [["NAME", "CLUSTER", "STATE"], ["n1", "c1", "down"]]
    several = ctl("playground", "kill", "leader", *where)
    assert (several.code, "name one of them: c1/leader, c2/leader, admin/leader" in several.err) == (2, True)
    unknown = ctl("playground", "kill", "n9", *where)
    assert (unknown.code, "no daemon 'n9'; there are n1, n2, n3, n4, a1" in unknown.err) == (2, True)
    assert "cut n1, a1 | n2, n3, n4" in ctl("playground", "partition", "n1,a1", "--dry-run", *where).out
    for words, why in [
        (["--clusters", 1], "has 2 clusters, not 1"),
        (["--admins", 3], "has 1 admin server, not 3"),
        (["--replicas", 5], "has 2 replicas in each cluster, not 5"),
    ]:
        ran = ctl("playground", "up", *words, *where)
        assert (ran.code, why in ran.err) == (2, True), ran.err
    grow = ctl("playground", "up", "--clusters", 4, "--replicas", 1, "--dry-run", *where)
    assert (grow.code, "would add 2 clusters" in grow.out) == (0, True)
    assert processes.load(system.folder) == system


def test_what_is_asked_for_without_saying_all(ctl: Ctl, ground: processes.Playground, tmp_path: Path) -> None:
    def planned(*words: object) -> str:
        return ctl("playground", "up", "--dry-run", "--dir", tmp_path / "new", *words).out.partition(" in ")[0]

    assert planned() == "would make a cluster of 3"
    assert planned("--clusters", 2) == "would make 3 admin servers and 2 clusters of 3"
    assert planned("--admins", 1, "--replicas", 1) == "would make 1 admin server and 1 cluster of 1"
    assert planned("--http") == "would make 3 admin servers and 1 cluster of 3"
    processes.save(ground)
    for words in (["--admins", 1], ["--clusters", 2], ["--http"]):
        ran = ctl("playground", "up", *words, "--dir", ground.folder)
        assert (ran.code, "down --purge" in ran.err) == (2, True)


def test_each_cluster_of_a_system_has_a_context(
    system: processes.Playground, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAVELCTL_CONFIG", str(tmp_path / "config.toml"))
    system = replace(system, cluster_id="a" * 32, cluster_ids={"c1": "1" * 32, "c2": "2" * 32})
    processes.save(system)
    assert playground_context.keep(system) == ("playground", True)
    told = ctl("context", "list", "-o", "json").json
    assert told["current"] == "playground"
    assert ctl("context", "list", "-o", "name").out.split() == ["playground", "playground-c1", "playground-c2"]
    down = ctl("playground", "down", "--dir", system.folder)
    assert down.err == "the contexts playground, playground-c1, playground-c2 are gone\n"
    assert ctl("context", "list", "-o", "name").out == ""


@pytest.mark.e2e
def test_a_whole_system_comes_up_in_one_command_and_grows(tmp_path: Path, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by every command without being told where; keys go to their clusters, before and after there is one more."""
    monkeypatch.setenv("RAVELCTL_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("RAVELCTL_TIMEOUT", "60s")
    where = ("--dir", tmp_path / "system")
    try:
        up = ctl("playground", "up", "--clusters", 2, "--replicas", 1, "--admins", 1, *where, "-o", "json")
        assert up.code == 0, up.err

        def clusters() -> list[tuple[str, int, str]]:
            told = ctl("admin", "clusters", "-o", "json").json["clusters"]
            return [(one["name"], one["slots"], one["state"]) for one in told]

        _until(lambda: clusters() == [("c1", 2048, "HEALTHY"), ("c2", 2048, "HEALTHY")])
        for number in range(8):
            assert ctl("kv", "put", f"order/{number}", number).code == 0
        foreign = next(key for key in (f"order/{number}" for number in range(100)) if slot_of(key.encode()) >= 2048)
        refused = ctl("kv", "put", foreign, "elsewhere", "--context", "playground-c1", "-o", "json")
        assert (refused.code, refused.error["reason"]) == (5, "WRONG_CLUSTER")
        assert ctl("status", "--context", "playground-c2", "-o", "json").json["cluster_name"] == "c2"
        assert ctl("status", "-o", "json").json["cluster_name"] == "admin"
        overview = ctl("top", "-o", "json").json
        assert {one["name"]: one["slots"] for one in overview["clusters"]} == {"(admin)": None, "c1": 2048, "c2": 2048}
        grown = ctl("playground", "up", "--clusters", 3, *where)
        assert grown.code == 0, grown.err
        assert len(ctl("admin", "servers", "-o", "name").out.split()) == 3
        assert [one["slots"] for one in ctl("admin", "slots", "-o", "json").json["clusters"]] == [1366, 1365, 1365]
        assert [ctl("kv", "get", f"order/{number}").out for number in range(8)] == [f"{number}\n" for number in range(8)]
        killed = ctl("playground", "kill", "c3/leader", *where)
        assert (killed.code, killed.out) == (0, "killed n3\n")
        assert ctl("playground", "start", "n3", *where).code == 0
    finally:
        down = ctl("playground", "down", "--purge", *where)
    assert down.code == 0
    assert ctl("context", "list", "-o", "name").out == ""


class TestWithoutDir:
    """Which playground is meant where no folder is named."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def made(self, folder: Path) -> Path:
        processes.save(processes.plan(folder, 1, "test"))
        playground_known.remember(folder)
        return folder

    def test_the_only_one_elsewhere(self, ctl: Ctl, tmp_path: Path) -> None:
        assert ctl("playground", "status").err.startswith(f"error: there is no playground in {processes.default_folder()}\n")
        elsewhere = self.made(tmp_path / "elsewhere")
        assert ctl("playground", "status", "-o", "json").json["dir"] == str(elsewhere)
        assert f"the data stays in {elsewhere}" in ctl("playground", "down").out
        purge = ctl("playground", "down", "--purge")
        assert (purge.code, "name it with --dir" in purge.err, elsewhere.exists()) == (2, True, True), (
            "data goes by its name only"
        )

    def test_the_default_one_goes_before_others(self, ctl: Ctl, tmp_path: Path) -> None:
        self.made(tmp_path / "elsewhere")
        default = self.made(processes.default_folder())
        assert playground_known.known() == (tmp_path / "elsewhere",)
        assert ctl("playground", "status", "-o", "json").json["dir"] == str(default)

    def test_one_of_several_has_to_be_named(self, ctl: Ctl, tmp_path: Path) -> None:
        one, other = self.made(tmp_path / "one"), self.made(tmp_path / "other")
        ran = ctl("playground", "down", "--purge")
        assert (ran.code, f"there are several elsewhere: {one}, {other}" in ran.err) == (2, True)
        assert one.exists(), "nothing was removed"
        assert ctl("playground", "down", "--purge", "--dir", one).code == 0
        assert ctl("playground", "status", "-o", "json").json["dir"] == str(other)

    def test_where_nothing_can_be_kept(self, ctl: Ctl, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("a file is in the way")
        self.made(tmp_path / "elsewhere")
        assert playground_known.known() == ()
        assert ctl("playground", "status", "--dir", tmp_path / "elsewhere").code == 0
