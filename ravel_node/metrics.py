"""What a daemon counts, and the small HTTP server that shows it: /metrics, /healthz, /readyz.

Counters and histograms are told on the loop as things happen. What a replica says of itself is turned into gauges at each scrape,
from `Replica.status`, which belongs to the loop too. So the page must be made on the loop: prometheus-client's own server, which
answers on threads, does not fit, and a whole ASGI stack is too much for three pages. The server here speaks just enough HTTP/1.1
for scrapers and probes, one request a connection, every part of it bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ravel_node import __version__
from ravel_node.forms import Address
from ravel_node.log_metrics import LogCollector
from ravel_node.log_output import LogCounts
from ravel_node.raft.types import Role
from ravel_node.replica.status import MemberRole, PeerView, ReplicaStatus

SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets of durations: from a commit on a fast disk to one that has lost its leader."""

COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096)
"""Buckets of batch sizes."""

REQUEST_HEAD_BYTES_MAX: Final = 8_192
CONNECTIONS_MAX: Final = 32
REQUEST_TIMEOUT_S: Final = 5.0


class Metrics:
    """One process's metrics. Every method is called on the loop, is cheap and never raises."""

    def __init__(self, logged: LogCounts | None = None) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(LogCollector(logged or LogCounts()))
        self._status = _StatusCollector()
        registry.register(self._status)
        self._save_seconds = Histogram(
            "ravel_save_seconds", "Time to make a batch of saves durable (fsync).", buckets=SECONDS, registry=registry
        )
        self._saves = Counter("ravel_saves", "Saves made durable; several share one commit.", registry=registry)
        self._saved_entries = Counter("ravel_saved_entries", "Log entries made durable.", registry=registry)
        self._apply_seconds = Histogram(
            "ravel_apply_seconds", "Time of one turn of applying committed entries.", buckets=SECONDS, registry=registry
        )
        self._apply_commands = Histogram(
            "ravel_apply_commands", "Commands applied in one turn.", buckets=COUNTS, registry=registry
        )
        self._commit_seconds = Histogram(
            "ravel_commit_seconds",
            "Time from the append of a batch on this leader to its application.",
            buckets=SECONDS,
            registry=registry,
        )
        self._transport_faults = Counter(
            "ravel_transport_faults", "Attempts to reach a peer that ended by an error in this program.", registry=registry
        )

    def transport_fault(self) -> None:
        """An attempt to reach a peer ended by an error in this program."""
        self._transport_faults.inc()

    def saved(self, seconds: float, saves: int, entries: int) -> None:
        """A commit of the log ended: `saves` saves with `entries` entries took `seconds`."""
        self._save_seconds.observe(seconds)
        self._saves.inc(saves)
        self._saved_entries.inc(entries)

    def applied(self, seconds: float, commands: int) -> None:
        """A turn of applying ended."""
        self._apply_seconds.observe(seconds)
        self._apply_commands.observe(commands)

    def committed(self, seconds: float) -> None:
        """A batch that this leader appended was applied, `seconds` later."""
        self._commit_seconds.observe(seconds)

    def watch(self, status: Callable[[], ReplicaStatus]) -> None:
        """From now on ask `status` at each scrape. Until then the gauges of the replica are not there."""
        self._status.source = status


class _StatusCollector(Collector):
    """Gauges made from `ReplicaStatus` at the moment of a scrape."""

    def __init__(self) -> None:
        self.source: Callable[[], ReplicaStatus] | None = None

    def collect(self) -> Iterator[Metric]:
        yield _labelled("ravel_build_info", "The version that runs.", ["version"], [((__version__,), 1)])
        if self.source is not None:
            status = self.source()
            yield from _replica_gauges(status)
            yield from _counters(status)
            yield from _peer_gauges(status)


def _replica_gauges(status: ReplicaStatus) -> Iterator[Metric]:
    identity = (status.cluster_id, status.cluster_name, str(status.replica_id), status.boot_id)
    names = ["cluster_id", "cluster_name", "replica_id", "boot_id"]
    yield _labelled("ravel_replica_info", "Which replica this is.", names, [(identity, 1)])
    roles = [((role.name.lower(),), float(role is status.role)) for role in Role]
    yield _labelled("ravel_role", "1 for the role that the replica has now.", ["role"], roles)
    for name, documentation, value in (
        ("term", "Its Raft term.", status.term),
        ("leader_id", "The leader that it knows; 0: none.", status.leader_id),
        ("first_index", "First index of its log.", status.first_index),
        ("last_index", "Last index of its log.", status.last_index),
        ("commit_index", "Last index known to be committed.", status.commit_index),
        ("applied_index", "Last index applied.", status.applied_index),
        ("flushed_index", "Last index whose effects are on disk.", status.flushed_index),
        ("snapshot_index", "Index of its newest snapshot; 0: none.", status.snapshot_index),
        ("revision", "Changes of user data so far.", status.revision),
        ("config_index", "Index of the membership in use.", status.config_index),
        ("leader_age_seconds", "Since the leader was elected.", status.leader_age_s),
        ("contact_age_seconds", "Since it heard from the leader, or the leader from a majority.", status.contact_age_s),
        ("lease_remaining_seconds", "How long the leader may still answer reads alone.", status.lease_remaining_s),
        ("election_timeout_seconds", "The shortest election timeout.", status.election_timeout_s),
        ("uptime_seconds", "Since the replica started.", status.uptime_s),
        ("db_used_bytes", "Size of the state, as the quota counts it.", status.db_used_bytes),
        ("db_map_bytes", "The map of the state, as it is now.", status.db_map_bytes),
        ("db_size_max_bytes", "The quota.", status.db_size_max_bytes),
        ("log_used_bytes", "Size of the log.", status.log_used_bytes),
        ("elections_1h", "Elections that it saw within an hour.", status.elections_1h),
        ("ready", "1 if it serves.", status.ready),
        ("removed", "1 if the cluster took it out for good.", status.removed),
    ):
        yield GaugeMetricFamily(f"ravel_{name}", documentation, value=float(value))
    if (checksum := status.checksum) is not None:
        index, documentation = float(checksum.at.index), "The last entry at which it hashed its state."
        yield GaugeMetricFamily("ravel_checksum_index", documentation, value=index)
        yield GaugeMetricFamily("ravel_checksum_seconds", "How long that hash took.", value=checksum.seconds)
    members = [((role.name.lower(),), sum(member.role is role for member in status.members)) for role in MemberRole]
    yield _labelled("ravel_members", "Members of the cluster by their part in it.", ["role"], members)
    codes = sorted({alarm.code for alarm in status.alarms})
    yield _labelled("ravel_alarm", "1 for each kind of alarm that is raised.", ["code"], [((code,), 1) for code in codes])


def _counters(status: ReplicaStatus) -> Iterator[Metric]:
    counters = status.counters
    for name, documentation, value in (
        ("writes", "Commands that it proposed for clients and that took effect.", counters.writes),
        ("reads", "Reads that it answered.", counters.reads),
        ("log_appended_bytes", "Payloads appended to its log.", counters.log_bytes),
        ("elections", "Elections that it saw: each is a term that began.", counters.elections),
    ):
        yield CounterMetricFamily(f"ravel_{name}", documentation, value=float(value))


def _peer_gauges(status: ReplicaStatus) -> Iterator[Metric]:
    """What a leader knows of the others; nothing on a follower."""
    columns: tuple[tuple[str, str, Callable[[PeerView], float | None]], ...] = (
        ("match_index", "Last index known to be durable there.", lambda peer: peer.match),
        (
            "lag_entries",
            "Entries of the leader's log not known to be there.",
            lambda peer: peer.lag.entries,
        ),
        (
            "lag_bytes",
            "Payload of those entries; at least that much where they are older than the leader.",
            lambda peer: peer.lag.bytes,
        ),
        ("lag_seconds", "For how long the first of them has been in the leader's log.", lambda peer: peer.lag.seconds),
        ("active", "1 if it answered within the last election timeout.", lambda peer: peer.recent_active),
        ("paused", "1 if nothing is sent until it answers.", lambda peer: peer.paused),
        ("inflight_messages", "Appends sent and not yet answered.", lambda peer: peer.inflight),
        ("contact_age_seconds", "Since it last answered.", lambda peer: peer.contact_age_s),
        ("snapshot_sent_bytes", "Sent of the snapshot that is on its way.", lambda peer: peer.snapshot_sent_bytes),
        ("snapshot_size_bytes", "Its size; 0: none is on its way.", lambda peer: peer.snapshot_size_bytes),
    )
    for name, documentation, read in columns:
        values = [((str(peer.replica_id),), value) for peer in status.progress if (value := read(peer)) is not None]
        yield _labelled(f"ravel_peer_{name}", documentation, ["peer"], values)


def _labelled(
    name: str, documentation: str, labels: list[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, float(value))
    return family


class MetricsListenError(OSError):
    """The address for metrics cannot be bound; the message names it, the cause and the way out."""


class MetricsServer:
    """/metrics for Prometheus; /healthz: the process works; /readyz: it serves. Belongs to one loop."""

    def __init__(
        self,
        listen: Address,
        registry: CollectorRegistry,
        *,
        healthy: Callable[[], bool],
        ready: Callable[[], tuple[bool, str]],
    ) -> None:
        self._listen = listen
        self._registry = registry
        self._healthy = healthy
        self._ready = ready
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return self._server.sockets[0].getsockname()[1] if self._server is not None else 0

    async def start(self) -> None:
        """Listen. Raises MetricsListenError."""
        try:
            self._server = await asyncio.start_server(
                self._serve, self._listen.host, self._listen.port, limit=REQUEST_HEAD_BYTES_MAX
            )
        except OSError as error:
            raise MetricsListenError(
                f"cannot listen on {self._listen} for metrics: {error.strerror or error}; choose another --metrics-listen"
            ) from error

    async def close(self) -> None:
        """Stop listening and end what is under way. Safe to call twice."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer. Ends within the timeout whatever the caller does."""
        task = asyncio.current_task()
        if task is None or len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                writer.write(await self._exchange(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the caller went away, or dawdled: there is nobody to tell
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _answer(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request head is at most {REQUEST_HEAD_BYTES_MAX} bytes\n"
            )
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _answer(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request\n")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _answer(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n", more="Allow: GET, HEAD\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        answer = self._page(target.partition("?")[0], headers.get("accept", ""))
        return answer if method == "GET" else answer[: answer.index(b"\r\n\r\n") + 4]

    def _page(self, path: str, accept: str) -> bytes:
        match path:
            case "/metrics":
                encode, content_type = choose_encoder(accept)
                return _answer(HTTPStatus.OK, encode(self._registry), content_type)
            case "/healthz":
                healthy = self._healthy()
                return _answer(HTTPStatus.OK, "ok\n") if healthy else _answer(HTTPStatus.SERVICE_UNAVAILABLE, "not ok\n")
            case "/readyz":
                ready, why = self._ready()
                return _answer(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, f"{why}\n")
            case _:
                return _answer(HTTPStatus.NOT_FOUND, "there is /metrics, /healthz and /readyz\n")


def _answer(status: HTTPStatus, body: str | bytes, content_type: str = "text/plain; charset=utf-8", *, more: str = "") -> bytes:
    content = body.encode() if isinstance(body, str) else body
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n"
        f"Connection: close\r\n{more}\r\n"
    )
    return head.encode("latin-1") + content
