"""Real clusters on this machine: daemons as processes of their own, remembered in a folder. Nothing is faked.

    DIR/playground.json    the clusters and their daemons: ports, process ids
    DIR/n1/                the data directory of n1
    DIR/n1.log             what its daemon printed
    DIR/network.log        the same of `ravelctl.playground.links`, through which the daemons of a cluster dial each other

Without admin servers there is one cluster, n1 n2 n3. With them there are one or several, c1 c2, whose replicas go on counting
(n4 is in c2), and the admin group, a1 a2 a3, which is a cluster too.

A process id alone names nobody: it may have been given to another program since. So the moment the process started is kept beside
it, and a process is signalled only if both still agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode

STATE_FILE: Final = "playground.json"
FORMAT: Final = 1
REPLICAS_MAX: Final = 9
CLUSTERS_MAX: Final = 9
ADMINS_MAX: Final = 5
ADMIN: Final = "admin"
"""The name of the admin group, which is a cluster as others are."""
HTTP: Final = "--http"
HOST: Final = "127.0.0.1"
LEADER: Final = "leader"
# Below the range from which Linux draws ports of outgoing connections: what is free while a replica is down stays free.
PORT_MIN, PORT_MAX = 17400, 31998
NETWORK_LOG: Final = "network.log"
NETWORK_WAIT_S: Final = 30.0
TERM_WAIT_S: Final = 10.0
KILL_WAIT_S: Final = 5.0
_PROC: Final = Path("/proc/self/stat")
_POLL_S: Final = 0.05
_LOG_TAIL_LINES: Final = 5


@dataclass(frozen=True, slots=True)
class Process:
    """A process, known by its id and the moment it started (in the system's own words)."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        return started_at(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class Replica:
    name: str
    replica_id: int  # 0: not in the cluster yet
    listen: str
    peer_listen: str
    data_dir: str
    log: str
    process: Process | None
    link: str = ""  # the address that it advertises to peers: a port of `ravelctl.playground.links`; empty: they dial it directly
    cluster: str = ""  # the name of its cluster, where an admin keeps a list of them
    options: tuple[str, ...] = ()  # of its daemon, beside those that all have

    @property
    def is_admin(self) -> bool:
        return self.cluster == ADMIN

    @property
    def state(self) -> str:
        return "paused" if self.paused else "runs" if self.alive else "down"

    @property
    def paused(self) -> bool:
        return self.process is not None and self.process.alive and is_stopped(self.process.pid)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive


@dataclass(frozen=True, slots=True)
class Playground:
    folder: Path
    cluster_id: str  # of the only cluster, or of the admin group
    cluster_name: str
    replicas: tuple[Replica, ...]  # all daemons, those of the admin group last
    network: Process | None = None  # which runs `ravelctl.playground.links`
    groups: tuple[tuple[str, ...], ...] = ()  # who hears whom; empty: all each other
    cluster_ids: Mapping[str, str] = field(default_factory=dict)  # by name, of those that an admin lists

    def apart(self, one: str, other: str) -> bool:
        """Whether these two are cut off from each other. Who is in no group, such as a daemon of another cluster, is not."""
        places = [next((number for number, names in enumerate(self.groups) if name in names), None) for name in (one, other)]
        return None not in places and places[0] != places[1]

    @property
    def admins(self) -> tuple[Replica, ...]:
        return self.of(ADMIN)

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names, in the order in which they were made, without the admin group. One without admins is the empty name."""
        return tuple(dict.fromkeys(replica.cluster for replica in self.replicas if not replica.is_admin))

    def of(self, cluster: str) -> tuple[Replica, ...]:
        return tuple(replica for replica in self.replicas if replica.cluster == cluster)

    @property
    def http(self) -> str:
        """Where the gateway listens; empty: there is none."""
        return next((admin.options[admin.options.index(HTTP) + 1] for admin in self.admins if HTTP in admin.options), "")

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Of the admin group, or else of the one cluster."""
        return tuple(replica.listen for replica in self.admins or self.replicas)

    @property
    def leader_words(self) -> dict[str, str]:
        """What stands for the leader of each cluster, by what is typed."""
        if not self.admins:
            return {LEADER: ""}
        return {f"{name}/{LEADER}": name for name in (*self.clusters, ADMIN)}

    def find(self, name: str) -> Replica:
        """Raises CommandError (2) that lists the names there are."""
        for replica in self.replicas:
            if replica.name == name:
                return replica
        there = ", ".join(replica.name for replica in self.replicas)
        what = "daemon" if self.admins else "replica"
        raise usage_error(f"the playground in {self.folder} has no {what} {name!r}; there are {there}", "name one of them")

    def with_replica(self, changed: Replica) -> Playground:
        return replace(self, replicas=tuple(changed if r.name == changed.name else r for r in self.replicas))


def default_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "ravel" / "playground"


def folder_named(word: str | None) -> Path:
    """Where the playground of --dir is; of no --dir, the default."""
    return Path(word).absolute() if word else default_folder()


# --- the state file


def load(folder: Path) -> Playground | None:
    """None: there is no playground in this folder. Raises CommandError (8) for a file that cannot be read."""
    path = folder / STATE_FILE
    try:
        raw = json.loads(path.read_text())
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']}, this program reads {FORMAT}")
        replicas = tuple(_replica(fields) for fields in raw["replicas"])
        network = Process(**raw["network"]) if raw.get("network") else None
        groups = tuple(tuple(map(str, names)) for names in raw.get("groups", ()))
        cluster_ids = {str(name): str(known) for name, known in raw.get("cluster_ids", {}).items()}
        return Playground(folder, raw["cluster_id"], raw["cluster_name"], replicas, network, groups, cluster_ids)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(
            f"{path} is no playground's: {error}", code=ExitCode.DAMAGED, next_step="remove the folder by hand"
        ) from error


def _replica(fields: dict[str, Any]) -> Replica:
    process, options = fields.pop("process"), tuple(fields.pop("options", ()))
    return Replica(**fields, options=options, process=Process(**process) if process else None)


def require(folder: Path) -> Playground:
    """Raises CommandError (1) where there is none."""
    if (found := load(folder)) is None:
        raise CommandError(f"there is no playground in {folder}", next_step="start one with `ravelctl playground up`")
    return found


def save(playground: Playground) -> None:
    """Written beside, synced, then renamed."""
    replicas = [asdict(replica) for replica in playground.replicas]
    fields = {
        "format": FORMAT,
        "cluster_id": playground.cluster_id,
        "cluster_name": playground.cluster_name,
        "replicas": replicas,
        "network": asdict(playground.network) if playground.network else None,
        "groups": playground.groups,
        "cluster_ids": dict(playground.cluster_ids),
    }
    path = playground.folder / STATE_FILE
    beside = path.with_suffix(".json.part")
    with beside.open("w") as stream:
        json.dump(fields, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(path)


def plan(folder: Path, count: int, cluster_name: str) -> Playground:
    """A new playground of `count` replicas with free ports; nothing is started. Makes the folder."""
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ports = free_ports()
    return Playground(folder, "", cluster_name, tuple(_blank(folder, f"n{number}", ports) for number in range(1, count + 1)))


def plan_system(folder: Path, clusters: int, replicas: int, admins: int, http: bool = False) -> Playground:
    """A new playground of several clusters and an admin group; nothing is started. Makes the folder.

    With `http` the first admin server is to serve the gateway too.
    """
    folder = folder.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ports = free_ports()
    group = [_blank(folder, f"a{number}", ports, cluster=ADMIN) for number in range(1, admins + 1)]
    if http:
        group[0] = replace(group[0], options=(HTTP, f"{HOST}:{next(ports)[0]}"))
    return with_clusters(Playground(folder, "", ADMIN, tuple(group)), clusters, replicas, ports)


def with_clusters(
    playground: Playground, clusters: int, replicas: int, ports: Iterator[tuple[int, int]] | None = None
) -> Playground:
    """The same with so many clusters in all; the new ones have `replicas` each, which count on from those there are."""
    ports = free_ports() if ports is None else ports
    daemons = [replica for replica in playground.replicas if not replica.is_admin]
    asked = ("--admin", ",".join(admin.listen for admin in playground.admins))
    for number in range(len(playground.clusters) + 1, clusters + 1):
        for _ in range(replicas):
            name, cluster = f"n{len(daemons) + 1}", f"c{number}"
            daemons.append(_blank(playground.folder, name, ports, cluster=cluster, options=(*asked, "--new-cluster", cluster)))
    return replace(playground, replicas=(*daemons, *playground.admins))


def _blank(
    folder: Path, name: str, ports: Iterator[tuple[int, int]], *, cluster: str = "", options: tuple[str, ...] = ()
) -> Replica:
    """Raises CommandError (2) if something of this name is in the folder already."""
    if (folder / name).exists():
        raise usage_error(
            f"{folder / name} is there, but {folder / STATE_FILE} is not, or does not know it",
            "remove it, or name another folder with --dir",
        )
    listen, peer_listen = next(ports)
    return Replica(
        name=name,
        replica_id=0,
        listen=f"{HOST}:{listen}",
        peer_listen=f"{HOST}:{peer_listen}",
        data_dir=str(folder / name),
        log=str(folder / f"{name}.log"),
        process=None,
        link=f"{HOST}:{next(ports)[0]}",
        cluster=cluster,
        options=options,
    )


def free_ports() -> Iterator[tuple[int, int]]:
    """Pairs of neighbouring ports that nobody has bound at this moment, each pair once."""
    pairs = list(range(PORT_MIN, PORT_MAX, 2))
    random.shuffle(pairs)
    for port in pairs:
        if _is_free(port) and _is_free(port + 1):
            yield port, port + 1
    raise CommandError(f"no two neighbouring ports between {PORT_MIN} and {PORT_MAX} are free on {HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


# --- processes


def started_at(pid: int) -> str:
    """When this process started, in words that only compare; empty: there is none, or it has ended and was not yet collected."""
    return _started_by_proc(pid) if _PROC.exists() else _started_by_ps(pid)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped this process."""
    state = "".join(_stat_by_proc(pid)[:1]) if _PROC.exists() else _ask_ps(pid, "stat=")
    return state.startswith("T")


def _stat_by_proc(pid: int) -> list[str]:
    """The fields after the name, of which the first is the state and the twentieth the start time. Empty: no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return stat[stat.rindex(")") + 2 :].split()  # the name, in parentheses, may hold blanks and parentheses


def _started_by_proc(pid: int) -> str:
    fields = _stat_by_proc(pid)
    return "" if not fields or fields[0] in {"Z", "X"} else fields[19]


def _started_by_ps(pid: int) -> str:
    """Where there is no /proc."""
    state, _, began = _ask_ps(pid, "stat=,lstart=").partition(" ")
    return "" if state.startswith("Z") else began.strip()


def _ask_ps(pid: int, columns: str) -> str:
    return subprocess.run(["ps", "-o", columns, "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()


def start(replica: Replica) -> Replica:
    """Start its daemon, in a session of its own, so that it outlives this program and no Ctrl-C of ours reaches it."""
    command = [
        sys.executable,
        *("-m", "ravel_node", "admin" if replica.is_admin else "start"),
        *("--data-dir", replica.data_dir),
        *("--listen", replica.listen),
        *("--peer-listen", replica.peer_listen),
        *("--name", replica.name),
        *(("--peer-advertise", replica.link) if replica.link else ()),
        *replica.options,
    ]
    return replace(replica, process=_spawn(command, Path(replica.log)))


def start_network(playground: Playground) -> Playground:
    """Start what lies between the daemons, unless it runs, or there is nothing in between. Waits until it can be dialled."""
    links = [replica.link for replica in playground.replicas if replica.link]
    if not links:
        return playground
    save(playground)  # which it reads
    log = playground.folder / NETWORK_LOG
    network = playground.network
    if network is None or not network.alive:
        network = _spawn([sys.executable, "-m", "ravelctl.playground.links", str(playground.folder)], log)
    deadline = time.monotonic() + NETWORK_WAIT_S
    while links := [link for link in links if not _answers(link)]:  # each that answers is dialled once: a daemon is behind it
        if not network.alive or time.monotonic() > deadline:
            raise CommandError("the playground's network did not start", next_step=f"read {log}")
        time.sleep(_POLL_S)
    playground = replace(playground, network=network)
    save(playground)
    return playground


def stop_network(playground: Playground) -> Playground:
    if playground.network is not None and playground.network.alive:
        os.kill(playground.network.pid, signal.SIGTERM)
        deadline = time.monotonic() + KILL_WAIT_S
        while playground.network.alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    return replace(playground, network=None, groups=())


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host, int(port)), timeout=1).close()
        return True
    return False


def _spawn(command: Sequence[str], log_path: Path) -> Process:
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=log_path.parent,
            env=_environment(),
        )
    return Process(child.pid, started_at(child.pid))


def _environment() -> dict[str, str]:
    """Ours, without settings of other daemons, and with this program's own import path, which need not be installed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAVEL_")}
    return kept | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def check_running(replica: Replica) -> None:
    """Raises CommandError (1) with the last lines of its log if the daemon has ended."""
    if replica.alive:
        return
    lines = Path(replica.log).read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    raise CommandError(
        f"the daemon of {replica.name} has ended; its log ends with: {' / '.join(lines) or 'nothing'}",
        next_step=f"read {replica.log}",
    )


def kill(replica: Replica) -> None:
    """SIGKILL, as a crash. Raises CommandError (1) if it does not run."""
    if not replica.alive:
        raise CommandError(f"{replica.name} does not run", next_step=f"start it with `ravelctl playground start {replica.name}`")
    _signal(replica, signal.SIGKILL)
    if left := _wait_gone([replica], KILL_WAIT_S):
        raise CommandError(f"{left[0].name} did not end within {KILL_WAIT_S:g}s of SIGKILL", next_step="look at its process")


def pause(replica: Replica) -> None:
    """SIGSTOP: it keeps its sockets and answers nothing, as a machine that hangs. Raises CommandError (1) if it does not run."""
    if not replica.alive:
        raise CommandError(f"{replica.name} does not run", next_step=f"start it with `ravelctl playground start {replica.name}`")
    _signal(replica, signal.SIGSTOP)


def resume(replica: Replica) -> None:
    _signal(replica, signal.SIGCONT)


def stop(replicas: Sequence[Replica]) -> list[str]:
    """SIGTERM all that run, SIGKILL those that have not ended in time; returns the names of the latter."""
    running = [replica for replica in replicas if replica.alive]
    for replica in running:
        _signal(replica, signal.SIGTERM)
        _signal(replica, signal.SIGCONT)  # one that is paused hears nothing before
    stubborn = _wait_gone(running, TERM_WAIT_S)
    for replica in stubborn:
        _signal(replica, signal.SIGKILL)
    _wait_gone(stubborn, KILL_WAIT_S)
    return [replica.name for replica in stubborn]


def _signal(replica: Replica, number: signal.Signals) -> None:
    """Only to the very process that was started: its id and the moment of its start must agree."""
    if replica.process is not None and replica.process.alive:
        try:
            os.kill(replica.process.pid, number)
        except ProcessLookupError:
            return  # it ended just now


def _wait_gone(replicas: Sequence[Replica], wait_s: float) -> list[Replica]:
    """Those that still run when the time is up."""
    deadline = time.monotonic() + wait_s
    while (left := [replica for replica in replicas if replica.alive]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def purge(playground: Playground) -> None:
    """Remove what the playground made, and the folder if nothing else is in it."""
    for replica in playground.replicas:
        shutil.rmtree(replica.data_dir, ignore_errors=True)
        Path(replica.log).unlink(missing_ok=True)
    (playground.folder / NETWORK_LOG).unlink(missing_ok=True)
    (playground.folder / STATE_FILE).unlink(missing_ok=True)
    try:
        playground.folder.rmdir()
    except OSError:
        return  # something of the operator's is in it
