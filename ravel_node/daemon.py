"""The composition root: the only file that builds stores, transports, replicas and servers, and joins them.

A daemon has one data directory and at most one replica. It starts *blank* until it takes an identity, once: by `bootstrap` (it
becomes the first voter of a new cluster) or by `join` (a leader takes it in as a learner). From then on every start is the same:
open the store, start the replica, serve.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from random import SystemRandom
from typing import Final

import structlog

from ravel_node import __version__, credentials, descriptors
from ravel_node.admin.directory import DirectoryMachine
from ravel_node.admin.liveness import Liveness
from ravel_node.admin_link import AdminLink, NoPlaceError
from ravel_node.config import ServerConfig
from ravel_node.event_keeper import EventKeeper
from ravel_node.forms import Address
from ravel_node.leaving import remember_admins
from ravel_node.log_output import AT_EXIT_S, LogOutput, stderr_output
from ravel_node.logs import event_line, setup_logging
from ravel_node.machine import members
from ravel_node.machine.base import MemberRecord
from ravel_node.machine.envelope import FORMAT
from ravel_node.machine.kv import KVMachine
from ravel_node.metrics import Metrics, MetricsServer
from ravel_node.raft import InvariantError, RaftEvent, ReplicaId
from ravel_node.replica.errors import BlankError, CopiedDirectoryError, MembershipError, RemovedError, ReplicaStoppedError
from ravel_node.replica.events import EventKind, EventLog
from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.replica import Replica
from ravel_node.seat import Seat
from ravel_node.server.app import ServerOptions, admin_service, build_client_server, build_peer_server
from ravel_node.server.binding import ListenError, Service
from ravel_node.server.clusters import Clusters
from ravel_node.server.desk import DirectoryDesk
from ravel_node.server.handshakes import HandshakeLog, LibraryOutput
from ravel_node.server.host import Joined
from ravel_node.server.limits import Limits
from ravel_node.server.moving import LeadersMover
from ravel_node.server.peer_certificates import PeerCertificates
from ravel_node.signals import handle_harmless
from ravel_node.storage.base import Identity, Store, StoreError, StoreFailedError
from ravel_node.storage.directory import EVENTS, Presence, next_folder, set_aside
from ravel_node.storage.store import StoreOptions, map_bytes_for, open_store
from ravel_node.transport.grpc_transport import GrpcTransport
from ravelctl.client import AdminClient, RavelClient

STOP_GRACE_S: Final = 1.0
RESET_DELAY_S: Final = 0.2
"""Between the answer to a reset and the end of the process that gave it."""

DIRECTORY_EVERY_S: Final = 1.0
"""Between two looks whether the data directory still is where it was."""

LAST_WORDS_S: Final = 0.05
"""What an exit at once spends on its last log line, which takes less if stderr takes it."""

EXPECTED: Final = (StoreError, NoPlaceError, OSError)
"""Errors that say by themselves why the daemon stops. All others are logged with their traceback."""

log = structlog.get_logger("ravel_node")


def run(config: ServerConfig, *, admin: bool = False) -> int:
    """Run a daemon until it is told to stop: a replica of keys and values, or with `admin` one of an admin group.

    Returns the exit status: 0 after an orderly end, 1 if it stopped itself.
    """
    output = stderr_output()
    library_output = LibraryOutput.if_it_talks(os.environ, output)
    setup_logging(config.logging, output)
    try:
        daemon = Daemon(config, output, library_output, admin=admin)
    except OSError as error:
        log.error("daemon.stopped_itself", why=f"a certificate or key cannot be read: {error}", kind=type(error).__name__)
        return 1
    status = _event_loop_run(daemon)
    if daemon.resets_to and status == 0:
        try:
            set_aside(config.data_dir, daemon.resets_to)
        except (OSError, StoreError) as error:
            log.error("daemon.stopped_itself", why=f"the data could not be set aside: {error}", kind=type(error).__name__)
            return 1
        output.finish()
        output.flush(AT_EXIT_S)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return status


def _event_loop_run(daemon: Daemon) -> int:
    if sys.platform == "win32":
        return asyncio.run(daemon.run())
    import uvloop

    return uvloop.run(daemon.run())


class Daemon:
    """One server. Implements `ravel_node.server.host.Host`."""

    def __init__(
        self, config: ServerConfig, output: LogOutput, library_output: LibraryOutput | None = None, *, admin: bool = False
    ) -> None:
        self.config = config
        self._output = output
        self._library_output = library_output
        self.boot_id = os.urandom(8).hex()
        self._events: EventLog | None = None
        self.version = __version__
        self._started_at = time.monotonic()
        self._connections = descriptors.ConnectionCount(config.listen.port, time.monotonic)
        self._connections_max = config.limits.connections_max
        self._machine = DirectoryMachine() if admin else KVMachine()
        self._metrics = Metrics(output.counts)
        self._transport = GrpcTransport(
            channel_factory=credentials.peer_channels(config.peer_tls),
            on_fault=self._metrics.transport_fault,
            on_broken=self._fatal,
        )
        self._client_tls = credentials.as_client(config.tls)
        self._store: Store | None = None
        self._replica: Replica | None = None
        self._seat = Seat(self, start_replica=self._start_replica, tell=self._tell, client_tls=self._client_tls)
        self.resets_to = ""  # the folder for the data of a daemon that ends in order to start again as a blank one
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._stack = AsyncExitStack()
        self._tasks: asyncio.TaskGroup | None = None
        self._spawned: list[asyncio.Task[None]] = []

    # --- life

    async def run(self) -> int:
        """Start, serve, and end in order. Problems that a person can mend are told in one sentence."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        handle_harmless(loop, lambda name: log.info("daemon.signal_received", signal=name, effect="none"))
        try:
            async with self._stack, asyncio.TaskGroup() as self._tasks:
                await self._start()
                await self._stop.wait()
                await self._shut_down()
        except* (StoreError, ListenError, OSError, MembershipError, members.StateError) as problems:
            self._failure = self._failure or problems.exceptions[0]
        self._output.finish()  # the reason for the end is the last line
        if self._failure is not None:
            log.error("daemon.stopped_itself", why=str(self._failure), kind=type(self._failure).__name__)
            return 1
        log.info("daemon.stopped")
        return 0

    def _signalled(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("daemon.exits_at_once", signal=signal.Signals(number).name)
            self._output.flush(LAST_WORDS_S)
            os._exit(0 if self._failure is None else 1)
        name = signal.Signals(number).name
        log.info("daemon.stopping", signal=name)
        self._tell(EventKind.SERVER, "server-stopping", f"stops in order, told to by {name}", {"signal": name})
        self._stop.set()

    async def _start(self) -> None:
        config = self.config
        self._store = await open_store(config.data_dir, _store_options(config, self._store_event))
        self._stack.push_async_callback(self._store.close)
        await self._open_events()
        self._spawn(self._watch_directory())
        await self._serve()
        log.info(
            "daemon.started",
            version=self.version,
            server_id=self.identity.server_id,
            cluster_id=self.identity.cluster_id or "none",
            replica_id=self.identity.replica_id,
            machine="directory" if isinstance(self._machine, DirectoryMachine) else "keys",
            listen=str(config.listen),
            peer_listen=str(config.peer_listen),
            tls=config.tls.on,
            peer_tls=config.peer_tls.on,
            data_dir=str(config.data_dir),
        )
        if not self.identity.blank:
            await self._start_replica()
        elif config.join:
            self._spawn(self._seat.join_until_taken([str(address) for address in config.join]))
        elif not config.admin:
            log.info(
                "daemon.blank",
                next_step=f"ravelctl bootstrap {config.advertise}, or ravelctl join {config.advertise} --via MEMBER",
            )
        if config.admin:
            await asyncio.to_thread(remember_admins, config.data_dir, config.admin)
            link = AdminLink(
                self,
                self._seat,
                [str(address) for address in config.admin],
                new_cluster=config.new_cluster or "",
                client_tls=self._client_tls,
                turned_out=self._fatal,
            )
            self._spawn(link.run())

    async def _watch_directory(self) -> None:
        """Writes to files without a name succeed and are lost with this process: end before many are acknowledged so."""
        presence = await asyncio.to_thread(Presence, self.config.data_dir)
        missing = None
        while missing is None:
            await asyncio.sleep(DIRECTORY_EVERY_S)
            missing = await asyncio.to_thread(presence.missing)
        self._fatal(
            StoreFailedError(
                f"{missing} is not there any more, or is another file: the data directory was removed, moved or replaced "
                "while it was open; move it back, or take this replica out and let a new one join"
            )
        )

    async def _open_events(self) -> None:
        """What happened in earlier boots, and from now on. The directory is ours: the store has locked it."""
        keeper = EventKeeper(self.config.data_dir / EVENTS, lambda event, fields: log.warning(event, **fields))
        self._stack.push_async_callback(keeper.close)
        self._events = EventLog(self.boot_id, time.time, kept=await keeper.open())
        self._events.replica_id = self.identity.replica_id
        keeper.follow(self._events)
        text = f"version {self.version} started"
        self._events.record(EventKind.SERVER, "server-started", text, {"version": self.version, "name": self.config.name})

    async def _serve(self) -> None:
        config = self.config
        if self._library_output is not None:
            self._library_output.start(HandshakeLog({config.listen.port: "client", config.peer_listen.port: "peer"}))
            self._stack.callback(self._library_output.close)
        limits = Limits(
            value_bytes_max=config.limits.value_bytes_max,
            request_bytes_max=config.limits.request_bytes_max,
            session_requests_max=config.limits.session_requests_max,
            watches_max=config.limits.watches_max,
        )
        calls_max = config.limits.streams_max
        shares = descriptors.claim(config.limits.connections_max)
        self._connections_max = shares.clients
        if not shares.enough:
            log.warning(
                "daemon.few_open_files",
                limit=shares.limit,
                client_connections_max=shares.clients,
                peer_connections_max=shares.peers,
                next_step=f"let this process open {shares.wanted} files (ulimit -n, or LimitNOFILE= of systemd), "
                f"or lower --connections-max ({config.limits.connections_max})",
            )
        clients = ServerOptions(
            listen=str(config.listen),
            limits=limits,
            calls_max=calls_max,
            connections_max=shares.clients,
            credentials=credentials.client_port(config.tls),
        )
        peers = ServerOptions(
            listen=str(config.peer_listen),
            limits=limits,
            calls_max=calls_max,
            connections_max=shares.peers,
            credentials=credentials.peer_port(config.peer_tls),
        )
        shown = PeerCertificates(config.peer_tls.peer_tls_name) if config.peer_tls.on else None
        more: list[Service] = []
        if isinstance(self._machine, DirectoryMachine):
            desk = DirectoryDesk(self, self._machine)
            clusters = Clusters(desk, self._client_tls)
            self._stack.push_async_callback(clusters.close)
            mover = LeadersMover(self, desk, clusters)
            self._spawn(mover.run())
            more.append(admin_service(self, desk, Liveness(time.monotonic), mover, clusters, self._client_tls))
        for server in (
            build_client_server(self, clients, self._fatal, more=more),
            build_peer_server(self, peers, self._fatal, on_peer=self._peer_dialled, certificates=shown),
        ):
            await server.start()
            self._stack.push_async_callback(server.stop, STOP_GRACE_S)
        if config.http is not None:
            await self._open_gateway(config.http)
        if config.metrics_listen is not None:
            metrics_server = MetricsServer(
                config.metrics_listen, self._metrics.registry, healthy=lambda: self._failure is None, ready=self._ready
            )
            await metrics_server.start()
            self._stack.push_async_callback(metrics_server.close)

    async def _open_gateway(self, listen: Address) -> None:
        """HTTP for all clusters, by way of this admin's own client port: what any other gateway does, nearer."""
        # Loaded here: a daemon without HTTP has no use for it.
        from ravel_node.gateway.serve import Listener

        admins = [str(self.config.advertise)]
        client = await self._stack.enter_async_context(RavelClient(admin=admins, tls=self._client_tls, fail_fast=True))
        admin = await self._stack.enter_async_context(AdminClient(admins, tls=self._client_tls))
        tls = self.config.tls
        gateway = Listener(
            listen,
            client,
            admin,
            tls_cert=tls.tls_cert,
            tls_key=tls.tls_key,
            tls_client_ca=tls.tls_client_ca,
            logged=self._output.counts,
            on_broken=self._fatal,
        )
        try:
            await self._stack.enter_async_context(gateway)
        except OSError as error:
            raise ListenError(f"cannot listen for HTTP at {listen}: {error.strerror or error}; give another --http") from None
        log.info("gateway.serving", address=str(listen), tls=tls.on)

    async def _shut_down(self) -> None:
        if self._replica is not None:
            await self._replica.stop()
        for task in self._spawned:
            task.cancel()

    # --- the replica

    async def _start_replica(self) -> None:
        config = self.config
        self._replica = Replica(
            store=self.store,
            machine=self._machine,
            transport=self._transport,
            observer=_Observer(self._metrics),
            events=self.events,
            options=_replica_options(config),
            rng=SystemRandom(),
            boot_id=self.boot_id,
            version=self.version,
            peer_address=str(config.peer_advertise),
        )
        self._metrics.watch(self._replica.status)
        await self._replica.start()
        self._spawn(self._watch_replica(self._replica))
        self._spawn(self._say_when_expelled(self._replica))
        self._spawn(self._seat.tell_new_addresses(self._replica))

    def _peer_dialled(self, peer: ReplicaId) -> None:
        """Dial a peer at once that could reach this server."""
        self._transport.nudge(peer)

    async def _watch_replica(self, replica: Replica) -> None:
        try:
            await replica.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fatal(error)

    async def _say_when_expelled(self, replica: Replica) -> None:
        """Log why this daemon serves nobody any more, and what to do."""
        why = await replica.expelled()
        if isinstance(why, RemovedError):
            next_step = "stop this daemon; with an empty data directory it can join as a new replica"
            log.warning("daemon.removed", why=str(why), next_step=next_step)
            return
        next_step = f"ravelctl member replace {self.config.name}"
        if isinstance(why, CopiedDirectoryError):
            next_step = "stop this daemon and delete its data directory"
        self._tell(EventKind.SERVER, "server-expelled", f"takes no part any more: {why}", {})
        log.error("daemon.expelled", why=str(why), next_step=next_step)

    def _store_event(self, event: str, fields: Mapping[str, object]) -> None:
        """What the store tells of itself. A failed background flush ends the daemon even if nobody asks anything of the store."""
        log.warning(event, **fields) if "failed" in event or "damaged" in event else log.info(event, **fields)
        if event.startswith("store.snapshot_"):
            self._snapshot_event(event.removeprefix("store.snapshot_"), fields)
        if event == "store.failed":
            self._fatal(StoreFailedError(str(fields.get("why", "a write to the disk failed"))))

    def _snapshot_event(self, what: str, fields: Mapping[str, object]) -> None:
        index, term = fields.get("index", 0), fields.get("term", 0)
        if what == "built":
            text = f"snapshot {index} was built: {fields['size_bytes']} bytes"
        else:
            text = f"a snapshot {'file is damaged' if what == 'damaged' else 'could not be built'}: {fields.get('why', '')}"
        self._tell(EventKind.SNAPSHOTS, f"snapshot-{what}", text, fields, term=int(str(term)), index=int(str(index)))

    def _fatal(self, error: BaseException) -> None:
        """The replica cannot go on: say why, and end."""
        if self._failure is None and not self._stop.is_set():
            self._failure = error
            self._tell(EventKind.SERVER, "server-failed", f"stops itself: {error}", {"error": type(error).__name__})
            if not isinstance(error, EXPECTED):
                name = "daemon.broken_invariant" if isinstance(error, InvariantError) else "daemon.failed"
                log.critical(name, exc_info=error)
            self._stop.set()

    def _tell(
        self, kind: EventKind, name: str, text: str, fields: Mapping[str, object], *, term: int = 0, index: int = 0
    ) -> None:
        """Record an event, if there is a directory to record it in yet."""
        if self._events is not None:
            self._events.record(kind, name, text, fields, term=term, index=index)

    # --- taking an identity

    async def bootstrap(self, cluster_id: str, cluster_name: str) -> MemberRecord:
        return await self._seat.found(cluster_id, cluster_name)

    async def reset(self, server_id: str, *, dry_run: bool) -> str:
        identity = self.identity
        if identity.blank:
            raise MembershipError("this daemon is blank already", "`ravelctl join` takes it into a cluster")
        if server_id != identity.server_id:
            raise MembershipError(f"this is server {identity.server_id}, not {server_id[:64]!r}", "look with `ravelctl status`")
        if self._replica is None or self._replica.why_expelled is None:
            raise MembershipError(
                f"{self.config.name} takes part in cluster {identity.cluster_name}: its data is needed",
                f"take it out first: `ravelctl leave {self.config.name}`",
            )
        folder = await asyncio.to_thread(next_folder, self.config.data_dir)
        if not dry_run:
            log.warning("daemon.resets", folder=folder, why=str(self._replica.why_expelled))
            self.resets_to = folder
            asyncio.get_running_loop().call_later(RESET_DELAY_S, self._stop.set)  # the answer leaves before
        return folder

    async def join(self, via: Sequence[str], *, promote: bool, dry_run: bool) -> Joined:
        return await self._seat.join(via, promote=promote, dry_run=dry_run)

    # --- what servicers see (Host)

    @property
    def replica(self) -> Replica:
        if self._replica is None:
            raise ReplicaStoppedError() if self._stop.is_set() else BlankError()
        return self._replica

    @property
    def is_admin(self) -> bool:
        return isinstance(self._machine, DirectoryMachine)

    @property
    def machine(self) -> KVMachine:
        return self._machine

    @property
    def store(self) -> Store:
        if self._store is None:
            raise ReplicaStoppedError("the daemon has not opened its store yet")
        return self._store

    @property
    def events(self) -> EventLog:
        if self._events is None:
            raise ReplicaStoppedError("the daemon has not opened its store yet")
        return self._events

    @property
    def identity(self) -> Identity:
        return self.store.identity

    @property
    def server(self) -> MemberRecord:
        config = self.config
        return MemberRecord(
            replica_id=self.identity.replica_id,
            server_id=self.identity.server_id,
            name=config.name,
            version=self.version,
            format=FORMAT,
            listen=str(config.advertise),
            peer=str(config.peer_advertise),
            listen_bind=str(config.listen),
            peer_bind=str(config.peer_listen),
        )

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started_at

    @property
    def client_connections(self) -> tuple[int, int]:
        return self._connections.now(), self._connections_max

    @property
    def peer_tls(self) -> bool:
        return self.config.peer_tls.on

    def _ready(self) -> tuple[bool, str]:
        if self._replica is None:
            return False, "blank: belongs to no cluster yet"
        return (
            self._replica.ready,
            f"role {self._replica.status().role.name.lower()}, leader {self._replica.leader_id or 'unknown'}",
        )

    # --- tasks

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        if self._tasks is None:
            raise InvariantError("a task was started before the daemon")
        self._spawned.append(self._tasks.create_task(work))


class _Observer:
    """Turns what the driver tells into metrics and log lines."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def raft_event(self, event: RaftEvent) -> None:
        event_line(log, event)

    def saved(self, seconds: float, saves: int, entries: int) -> None:
        self._metrics.saved(seconds, saves, entries)

    def applied(self, seconds: float, commands: int) -> None:
        self._metrics.applied(seconds, commands)

    def committed(self, seconds: float) -> None:
        self._metrics.committed(seconds)


def _store_options(config: ServerConfig, observe: Callable[[str, Mapping[str, object]], None]) -> StoreOptions:
    storage = config.storage
    return StoreOptions(
        segment_bytes_max=storage.segment_bytes_max,
        unflushed_bytes_max=storage.unflushed_bytes_max,
        log_retain_bytes_max=storage.log_retain_bytes_max,
        snapshots_kept=storage.snapshots_kept,
        raft_map_bytes=map_bytes_for(storage.log_retain_bytes_max),
        state_map_bytes=map_bytes_for(storage.db_size_max),
        observe=observe,
    )


def _replica_options(config: ServerConfig) -> ReplicaOptions:
    timing, limits, storage, batching = config.timing, config.limits, config.storage, config.batching
    return ReplicaOptions(
        tick_s=timing.tick_s,
        heartbeat_ticks=timing.heartbeat_ticks,
        election_ticks=timing.election_ticks,
        batch_commands_max=batching.batch_commands_max,
        batch_bytes_max=batching.batch_bytes_max,
        apply_commands_max=batching.apply_commands_max,
        proposals_waiting_max=limits.proposals_waiting_max,
        proposals_waiting_bytes_max=limits.proposals_waiting_bytes_max,
        log_retain_entries=storage.log_retain_entries,
        log_retain_bytes_max=storage.log_retain_bytes_max,
        db_size_max_bytes=storage.db_size_max,
        checksum_interval_s=float(storage.checksum_interval_s),
    )
