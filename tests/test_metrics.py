"""What is counted, how a status becomes gauges, and the bounded HTTP server that shows both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ravel_node.forms import Address
from ravel_node.machine.base import MemberRecord
from ravel_node.metrics import CONNECTIONS_MAX, REQUEST_HEAD_BYTES_MAX, Metrics, MetricsListenError, MetricsServer
from ravel_node.raft.types import EntryId, Index, ReplicaId, Role, Term
from ravel_node.replica.histogram import LatencySummary
from ravel_node.replica.status import Alarm, Counters, Member, MemberRole, PeerView, ReplicaStatus
from ravel_node.replica.trail import Lag
from ravel_node.storage.base import StateHash
from ravelpb.alarms import Severity

LOOPBACK = Address("127.0.0.1", 0)


def _status() -> ReplicaStatus:
    def member(replica_id: int, role: MemberRole) -> Member:
        record = MemberRecord(ReplicaId(replica_id), "a" * 32, f"n{replica_id}", "0.1.0", 1, "h:1", "h:2", "h:1", "h:2")
        return Member(record, role)

    def peer(replica_id: int, match: int, contact_age_s: float | None) -> PeerView:
        return PeerView(
            replica_id=ReplicaId(replica_id),
            state=1,
            match=Index(match),
            next=Index(match + 1),
            paused=False,
            recent_active=contact_age_s is not None,
            inflight=2,
            inflight_max=64,
            contact_age_s=contact_age_s,
            snapshot_index=Index(0),
            snapshot_sent_bytes=0,
            snapshot_size_bytes=0,
            lag=Lag(100 - match, 1_000, False, 0.5, False),
        )

    return ReplicaStatus(
        cluster_id="c" * 32,
        cluster_name='or"ders',
        replica_id=ReplicaId(1),
        role=Role.LEADER,
        term=Term(7),
        leader_id=ReplicaId(1),
        leader_address="h:1",
        first_index=Index(10),
        last_index=Index(100),
        commit_index=Index(99),
        applied_index=Index(98),
        flushed_index=Index(50),
        revision=80,
        config_index=Index(3),
        members=(member(1, MemberRole.VOTER), member(2, MemberRole.VOTER), member(3, MemberRole.LEARNER)),
        progress=(peer(2, 95, 0.25), peer(3, 40, None)),
        leader_age_s=12.5,
        contact_age_s=0.1,
        db_used_bytes=4096,
        db_map_bytes=400,
        db_size_max_bytes=8 << 30,
        log_used_bytes=8192,
        uptime_s=60.0,
        boot_id="b" * 16,
        snapshot_index=Index(0),
        ready=True,
        removed=False,
        lease_remaining_s=0.5,
        transferee_id=ReplicaId(0),
        election_timeout_s=0.8,
        vote_id=ReplicaId(1),
        heartbeat_s=0.1,
        votes={},
        elections_1h=2,
        fsync=LatencySummary(9, 1_000, 2_000, 3_000),
        apply=LatencySummary(8, 100, 200, 300),
        commit=LatencySummary(7, 4_000, 5_000, 6_000),
        saving_s=0.0,
        counters=Counters(12.5, 11, 22, 333, 3),
        alarms=tuple(Alarm("RV301", "full", ReplicaId(number), Severity.WARNING, 1.0) for number in (1, 2)),
    )


class _Daemon:
    """A metrics server and what it asks of its daemon."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.healthy = True
        self.ready = (True, "leader of 3")
        self.server = MetricsServer(LOOPBACK, self.metrics.registry, healthy=lambda: self.healthy, ready=lambda: self.ready)

    async def ask(self, request: str | bytes) -> tuple[int, str, str]:
        """Send raw bytes; return status, head and body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(request.encode() if isinstance(request, str) else request)
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        head, _, body = answer.decode().partition("\r\n\r\n")
        return int(head.split(" ")[1]), head, body

    async def get(self, path: str, headers: str = "") -> tuple[int, str, str]:
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")

    async def samples(self) -> dict[tuple[str, tuple[str, ...]], float]:
        _, _, body = await self.get("/metrics")
        return {
            (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }


@pytest.fixture
async def daemon() -> AsyncIterator[_Daemon]:
    daemon = _Daemon()
    await daemon.server.start()
    yield daemon
    await daemon.server.close()


async def test_what_is_told_is_counted(daemon: _Daemon) -> None:
    metrics = daemon.metrics
    metrics.saved(0.002, 3, 5)
    metrics.saved(0.2, 1, 0)
    metrics.applied(0.001, 200)
    metrics.committed(0.004)
    samples = await daemon.samples()
    assert samples["ravel_save_seconds_count", ()] == 2
    assert samples["ravel_save_seconds_sum", ()] == pytest.approx(0.202)
    assert samples["ravel_save_seconds_bucket", ("0.0025",)] == 1
    assert samples["ravel_saves_total", ()] == 4
    assert samples["ravel_saved_entries_total", ()] == 5
    assert samples["ravel_apply_commands_bucket", ("128.0",)] == 0
    assert samples["ravel_apply_commands_bucket", ("256.0",)] == 1
    assert samples["ravel_apply_commands_sum", ()] == 200
    assert samples["ravel_apply_seconds_count", ()] == 1
    assert samples["ravel_commit_seconds_count", ()] == 1
    assert ("ravel_grpc_call_seconds_count", ("ravel.v1.KV/Session",)) not in samples


async def test_a_status_becomes_gauges_at_each_scrape(daemon: _Daemon) -> None:
    status = _status()
    daemon.metrics.watch(lambda: status)
    samples = await daemon.samples()
    assert samples["ravel_replica_info", ("b" * 16, "c" * 32, 'or"ders', "1")] == 1
    assert {role: samples["ravel_role", (role,)] for role in ("leader", "follower", "candidate", "pre_candidate")} == {
        "leader": 1,
        "follower": 0,
        "candidate": 0,
        "pre_candidate": 0,
    }
    plain = {name: value for (name, labels), value in samples.items() if not labels}
    assert (plain["ravel_term"], plain["ravel_commit_index"], plain["ravel_applied_index"], plain["ravel_flushed_index"]) == (
        7,
        99,
        98,
        50,
    )
    assert (plain["ravel_db_used_bytes"], plain["ravel_ready"], plain["ravel_removed"]) == (4096, 1, 0)
    assert (plain["ravel_writes_total"], plain["ravel_reads_total"], plain["ravel_elections_total"]) == (11, 22, 3)
    assert plain["ravel_log_appended_bytes_total"] == 333
    assert samples["ravel_members", ("voter",)] == 2
    assert samples["ravel_members", ("learner",)] == 1
    assert samples["ravel_alarm", ("RV301",)] == 1
    assert (samples["ravel_peer_lag_entries", ("2",)], samples["ravel_peer_lag_entries", ("3",)]) == (5, 60)
    assert (samples["ravel_peer_lag_bytes", ("2",)], samples["ravel_peer_lag_seconds", ("2",)]) == (1_000, 0.5)
    assert samples["ravel_peer_contact_age_seconds", ("2",)] == 0.25
    assert ("ravel_peer_contact_age_seconds", ("3",)) not in samples, "never answered is not zero seconds ago"

    assert ("ravel_checksum_index", ()) not in samples
    made = StateHash(EntryId(Term(7), Index(90)), b"h" * 32, 10, 1_000, 0.25)
    status = replace(status, role=Role.FOLLOWER, progress=(), term=Term(8), checksum=made)
    samples = await daemon.samples()
    assert (samples["ravel_checksum_index", ()], samples["ravel_checksum_seconds", ()]) == (90, 0.25)
    assert (samples["ravel_term", ()], samples["ravel_role", ("leader",)]) == (8, 0)
    assert not any(name.startswith("ravel_peer_") for name, _ in samples)


async def test_a_blank_daemon_shows_itself_and_its_process(daemon: _Daemon) -> None:
    samples = await daemon.samples()
    assert samples["ravel_build_info", ("0.1.0",)] == 1
    assert ("ravel_term", ()) not in samples
    assert any(name.startswith("python_gc") for name, _ in samples)


def test_two_daemons_of_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.committed(1.0)
    assert one.registry.get_sample_value("ravel_commit_seconds_count") == 1
    assert other.registry.get_sample_value("ravel_commit_seconds_count") == 0


async def test_health_and_readiness(daemon: _Daemon) -> None:
    status, head, body = await daemon.get("/healthz?verbose")
    assert (status, body) == (200, "ok\n")
    assert "Connection: close" in head
    assert (await daemon.get("/readyz"))[::2] == (200, "leader of 3\n")
    daemon.healthy, daemon.ready = False, (False, "blank: belongs to no cluster yet")
    assert (await daemon.get("/healthz"))[::2] == (503, "not ok\n")
    assert (await daemon.get("/readyz"))[::2] == (503, "blank: belongs to no cluster yet\n")


async def test_a_scraper_gets_the_format_it_asks_for(daemon: _Daemon) -> None:
    _, plain, _ = await daemon.get("/metrics")
    assert "Content-Type: text/plain; version=" in plain
    _, head, body = await daemon.get("/metrics", "ACCEPT: application/openmetrics-text; version=1.0.0\r\n")
    assert "Content-Type: application/openmetrics-text" in head
    assert body.endswith("# EOF\n")


async def test_head_is_answered_without_a_body(daemon: _Daemon) -> None:
    status, head, body = await daemon.ask("HEAD /metrics HTTP/1.1\r\n\r\n")
    assert (status, body) == (200, "")
    assert "Content-Length: 0" not in head


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        ("GET /other HTTP/1.1\r\n\r\n", 404),
        ("POST /metrics HTTP/1.1\r\n\r\n", 405),
        ("GET /metrics\r\n\r\n", 400),
        ("\x16\x03\x01\x00\x00 TLS HTTP/2\r\n\r\n", 400),
        ("\r\n\r\n", 400),
    ],
)
async def test_bad_requests(daemon: _Daemon, request_head: str, expected: int) -> None:
    assert (await daemon.ask(request_head))[0] == expected
    assert (await daemon.get("/healthz"))[0] == 200


async def test_a_head_that_does_not_end_is_refused(daemon: _Daemon) -> None:
    status, _, body = await daemon.ask(b"GET / HTTP/1.1\r\nX: " + b"x" * (REQUEST_HEAD_BYTES_MAX + 1) + b"\r\n\r\n")
    assert status == 431
    assert str(REQUEST_HEAD_BYTES_MAX) in body


async def test_a_caller_that_says_nothing_is_left(daemon: _Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ravel_node.metrics.REQUEST_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.server.port)
    assert await asyncio.wait_for(_rest(reader), 30) == b""
    writer.close()


async def test_only_so_many_callers_at_once(daemon: _Daemon) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", daemon.server.port) for _ in range(CONNECTIONS_MAX)]
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.server.port)
    assert await asyncio.wait_for(_rest(reader), 30) == b""
    for one in (writer, *(each for _, each in silent)):
        one.close()


async def test_close_ends_what_is_under_way_and_may_be_called_twice() -> None:
    daemon = _Daemon()
    assert daemon.server.port == 0
    await daemon.server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.server.port)
    writer.write(b"GET")
    await writer.drain()
    await daemon.server.close()
    await daemon.server.close()
    assert await asyncio.wait_for(_rest(reader), 30) == b""
    writer.close()


async def test_an_address_in_use_is_told_with_the_way_out(daemon: _Daemon) -> None:
    taken = Address("127.0.0.1", daemon.server.port)
    other = MetricsServer(taken, daemon.metrics.registry, healthy=lambda: True, ready=lambda: (True, ""))
    with pytest.raises(MetricsListenError, match=rf"cannot listen on {taken} for metrics: .*--metrics-listen"):
        await other.start()
    await other.close()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """All that still comes; a reset connection has ended too."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""
