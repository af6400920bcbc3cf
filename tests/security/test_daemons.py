"""Real daemons with TLS: a cluster that works, and every way not to get in, as both sides tell it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from ravelctl.client import ClusterClient, RavelClient, TlsOptions
from ravelpb.v1 import cluster_pb2, raft_pb2
from tests.e2e.cluster import CALL_S, LOOK_S, START_S, Cluster, Server, until
from tests.security.certificates import Authority, Pair, client_flags, peer_flags, server_flags

pytestmark = pytest.mark.e2e


@dataclass
class Certificates:
    """What the tests of this module show each other."""

    folder: Path
    clients: Authority = field(init=False)  # signs for the client port and for clients
    peers: Authority = field(init=False)
    strangers: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.clients, self.peers, self.strangers = (Authority(self.folder, name) for name in ("clients", "peers", "strangers"))
        self.server = self.clients.issue("server")
        self.operator = self.clients.issue("operator", ())
        self.peer = self.peers.issue("peer")

    @property
    def operator_tls(self) -> TlsOptions:
        return TlsOptions(self.clients.cert, self.operator.cert, self.operator.key)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def daemon(folder: Path, *flags: str) -> Iterator[Server]:
    """One blank daemon that has started."""
    cluster = Cluster(folder)
    server = cluster.add("n1", flags)
    try:
        server.start()
        wait_for(server, "daemon.started")
        yield server
    finally:
        cluster.stop_all()


@pytest.fixture(scope="module")
def both(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A daemon with mutual TLS on both ports."""
    flags = [*server_flags(certificates.clients, certificates.server), *peer_flags(certificates.peers, certificates.peer)]
    with daemon(tmp_path_factory.mktemp("both"), *flags) as server:
        yield server


def wait_for(server: Server, *words: str) -> str:
    """The line of its log that holds all of them."""

    async def look() -> str | None:
        assert server.running, server.log
        return next((line for line in server.log.splitlines() if all(word in line for word in words)), None)

    return asyncio.run(until(f"{server.name} logs {words}: {server.log[-3000:]}", look, START_S))


def ctl(*arguments: str, code: int = 0) -> str:
    """What ravelctl prints, on both of its outputs, one after the other."""
    environment = {**os.environ, "RAVELCTL_TIMEOUT": f"{CALL_S:g}s"}
    done = subprocess.run(
        [sys.executable, "-m", "ravelctl", *arguments],
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
        env=environment,
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def status(server: Server, *flags: str, code: int = 3) -> str:
    return ctl("status", "--endpoints", server.address, *flags, code=code)


# --- a cluster


@asynccontextmanager
async def cluster_of_three(folder: Path, certificates: Certificates) -> AsyncIterator[Cluster]:
    flags = server_flags(certificates.clients, certificates.server)
    cluster = Cluster(folder, flags)
    try:
        for number, name in enumerate(("n1", "n2", "n3")):
            # The third has another certificate than the others, as each has in most places.
            own = certificates.peer if number < 2 else certificates.peers.issue("third-peer", ("127.0.0.1", "n3.example"))
            cluster.add(name, peer_flags(certificates.peers, own)).start()
        yield cluster
    finally:
        cluster.stop_all()


async def leader_of(cluster: Cluster, tls: TlsOptions) -> Server:
    async def find() -> Server | None:
        async with ClusterClient(cluster.endpoints, tls=tls) as client:
            for server in (server for server in cluster.servers.values() if server.running):
                answer = (await client.statuses(timeout_s=LOOK_S)).get(server.address)
                if isinstance(answer, cluster_pb2.StatusResponse) and answer.role == cluster_pb2.LEADER:
                    return server
        return None

    return await until("there is a leader", find, START_S)


async def test_three_replicas_with_authorities_of_their_own_form_a_cluster_and_fail_over(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = certificates.operator_tls
    flags = client_flags(certificates.clients, certificates.operator)
    async with cluster_of_three(tmp_path, certificates) as cluster:
        async with ClusterClient(cluster.endpoints, tls=tls) as client:

            async def all_answer() -> bool:
                answers = await client.statuses(timeout_s=LOOK_S)
                return all(isinstance(answer, cluster_pb2.StatusResponse) for answer in answers.values())

            await until("all answer", all_answer, START_S)
        told = await asyncio.to_thread(ctl, "bootstrap", *cluster.endpoints, "--name", "safe", *flags)
        assert "3 voters" in told
        first = await leader_of(cluster, tls)
        async with RavelClient(cluster.endpoints, tls=tls, timeout_s=CALL_S) as keys:
            await keys.put(b"before", b"1")
            first.kill()
            await keys.put(b"after", b"2")
            scanned = [(item.key, item.value) async for item in keys.scan()]
        assert scanned == [(b"after", b"2"), (b"before", b"1")]
        second = await leader_of(cluster, tls)
        assert second is not first
        first.start()

        async def whole_again() -> bool:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "ravelctl", "status", "-e", ",".join(cluster.endpoints), *flags],
                capture_output=True,
            )
            return done.returncode == 0

        await until("the cluster is healthy again", whole_again, START_S)
        for server in cluster.servers.values():
            assert server.terminate() == 0
            assert "daemon.stopped" in server.log, "a process that has ended has written everything"
            assert "PRIVATE KEY" not in server.log
            assert "handshaker" not in server.log, "the library's own words stay out of the log"


# --- who is not let in


def test_a_client_that_shows_its_certificate_is_let_in(both: Server, certificates: Certificates) -> None:
    # Blank daemons have no leader.
    assert "there is no cluster yet" in status(both, *client_flags(certificates.clients, certificates.operator), code=4)


def test_a_client_without_a_certificate(both: Server, certificates: Certificates) -> None:
    told = status(both, *client_flags(certificates.clients))
    assert f"{both.address}: asks for a client certificate and was shown none" in told
    assert "next: give one with --cert and --key" in told
    wait_for(both, "server.handshake_failed", '"port": "client"', '"caller": "127.0.0.1"', "it showed no certificate")


def test_plain_text_on_a_tls_port(both: Server) -> None:
    told = status(both)
    assert f"{both.address}: speaks TLS and this client does not" in told
    assert "next: give the file of its authority with --cacert" in told
    wait_for(both, "server.handshake_failed", '"port": "client"', "it speaks plain text")


def test_tls_on_a_plain_port(tmp_path: Path, certificates: Certificates) -> None:
    with daemon(tmp_path) as server:
        told = status(server, *client_flags(certificates.clients))
    assert f"{server.address}: speaks plain text and this client speaks TLS" in told
    assert "leave out --cacert" in told


def test_a_client_that_holds_another_authority(both: Server, certificates: Certificates) -> None:
    told = status(both, *client_flags(certificates.strangers))
    assert f"the certificate of {both.address} is signed by an authority that {certificates.strangers.cert} does not hold" in told
    assert "next: check --cacert" in told
    wait_for(
        both,
        "server.handshake_failed",
        '"port": "client"',
        "it refuses this server's certificate: it does not trust its authority",
    )


@pytest.mark.parametrize("signed_by", ["strangers", "peers"])
def test_a_client_whose_certificate_another_authority_signed(both: Server, certificates: Certificates, signed_by: str) -> None:
    """Among them a peer's certificate on the client port."""
    authority: Authority = getattr(certificates, signed_by)
    shown = authority.issue(f"client-of-{signed_by}")
    told = status(both, *client_flags(certificates.clients, shown))
    assert f"{both.address}: does not accept the certificate in {shown.cert}" in told
    assert "--tls-client-ca" in told
    wait_for(both, "server.handshake_failed", '"port": "client"', "signed by an authority that this server does not trust")


def test_an_expired_client_certificate(both: Server, certificates: Certificates) -> None:
    """ravelctl finds it in the file already; the daemon is asked by a client that does not look."""
    shown = certificates.clients.issue("expired-client", to_days=-1)
    told = status(both, *client_flags(certificates.clients, shown), code=2)
    assert f"the certificate in {shown.cert} expired on " in told
    assert "unavailable" in asyncio.run(_probe(both.address, certificates.clients, shown)).lower()
    wait_for(both, "server.handshake_failed", '"port": "client"', "its certificate has expired")


def test_a_client_certificate_on_the_peer_port(both: Server, certificates: Certificates) -> None:
    # As an operator errs: with the client's settings. The peer port's certificate is signed by an authority it does not hold.
    told = ctl(
        "status", "-e", both.peer_address, *client_flags(certificates.clients, certificates.operator), code=3
    )  # fmt: skip
    assert f"the certificate of {both.peer_address} is signed by an authority that" in told
    assert "peers have an authority of their own" in told
    wait_for(
        both, "server.handshake_failed", '"port": "peer"', "it refuses this server's certificate: it does not trust its authority"
    )
    # And as somebody who trusts it, but has no certificate of a peer.
    told = ctl("status", "-e", both.peer_address, *client_flags(certificates.peers, certificates.operator), code=3)
    assert f"{both.peer_address}: does not accept the certificate in {certificates.operator.cert}" in told
    wait_for(both, "server.handshake_failed", '"port": "peer"', "signed by an authority that this server does not trust")


def test_plain_text_and_no_certificate_on_the_peer_port(both: Server, certificates: Certificates) -> None:
    assert f"{both.peer_address}: speaks TLS" in ctl("status", "-e", both.peer_address, code=3)
    wait_for(both, "server.handshake_failed", '"port": "peer"', "it speaks plain text")
    told = ctl("status", "-e", both.peer_address, *client_flags(certificates.peers), code=3)
    assert "asks for a client certificate" in told
    wait_for(both, "server.handshake_failed", '"port": "peer"', "it showed no certificate")


def test_one_caller_is_logged_once_a_minute(both: Server, certificates: Certificates) -> None:
    def told() -> int:
        lines = both.log.splitlines()
        return sum("it showed no certificate" in line and '"port": "client"' in line for line in lines)

    assert "UNAVAILABLE" in asyncio.run(_probe(both.address, certificates.clients, None))
    wait_for(both, "server.handshake_failed", '"port": "client"', "it showed no certificate")
    before = told()
    for _ in range(5):
        assert "UNAVAILABLE" in asyncio.run(_probe(both.address, certificates.clients, None))
    status(both)  # another kind, which is logged after those
    wait_for(both, "server.handshake_failed", '"port": "client"', "it speaks plain text")
    assert told() - before <= 1, "more than one only if a minute has passed"


async def _probe(address: str, authority: Authority, shown: Pair | None) -> str:
    """What gRPC says to a bare call of a client with these certificates."""
    pair = (shown.key.read_bytes(), shown.cert.read_bytes()) if shown else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes(), *pair)
    async with grpc.aio.secure_channel(address, credentials) as channel:
        try:
            ask: Any = channel.unary_unary("/ravel.v1.RaftTransport/Probe")
            await ask(raft_pb2.ProbeRequest().SerializeToString(), timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
    return "OK"


# --- between replicas


async def test_a_joining_replica_of_another_authority_is_not_taken_in(tmp_path: Path, certificates: Certificates) -> None:
    """The leader finds out before anything changes, and says so; the daemon that would join logs that it was not trusted."""
    flags = server_flags(certificates.clients, certificates.server)
    stranger = certificates.strangers.issue("stranger-peer")
    cluster = Cluster(tmp_path, flags)
    first = cluster.add("n1", peer_flags(certificates.peers, certificates.peer))
    second = cluster.add("n2", peer_flags(certificates.strangers, stranger))
    try:
        first.start()
        second.start()
        for server in (first, second):
            await asyncio.to_thread(wait_for, server, "daemon.started")
        options = client_flags(certificates.clients, certificates.operator)
        await asyncio.to_thread(ctl, "bootstrap", first.address, *options)
        told = await asyncio.to_thread(ctl, "join", second.address, "--via", first.address, *options, code=5)
        assert "its certificate is signed by an authority that this server does not trust" in told
        assert (await asyncio.to_thread(ctl, "member", "list", "-e", first.address, *options)).count("n2") == 0
        await asyncio.to_thread(wait_for, second, "server.handshake_failed", '"port": "peer"', "it may not trust")
    finally:
        cluster.stop_all()


@pytest.mark.parametrize("shared_name", [None, "peers.example"])
async def test_a_certificate_for_another_host_or_without_the_shared_name_is_no_peers(
    tmp_path: Path, certificates: Certificates, shared_name: str | None
) -> None:
    """One daemon, one caller with a valid certificate of the peers' authority that is not for its address."""
    good = certificates.peers.issue("good-peer", ("127.0.0.1", "peers.example"))
    wrong = certificates.peers.issue("wrong-peer", ("10.9.8.7", "other.example"))
    flags = [*server_flags(certificates.clients, certificates.server), *peer_flags(certificates.peers, good, shared_name)]
    cluster = Cluster(tmp_path)
    server = cluster.add("n1", flags)
    try:
        server.start()
        await asyncio.to_thread(wait_for, server, "daemon.started")
        async with ClusterClient([server.address], tls=certificates.operator_tls, timeout_s=CALL_S) as client:
            await client.bootstrap(server.address, "c" * 32, "test")
        wanted = shared_name or "127.0.0.1"
        refusal = await _hello(server, certificates, wrong)
        assert f"valid for 10.9.8.7, other.example and not for {wanted}" in refusal or (
            f"valid for other.example, 10.9.8.7 and not for {wanted}" in refusal
        )
        line = await asyncio.to_thread(wait_for, server, "server.peer_refused")
        assert "--peer-tls-name" in line
        # Its certificate is good; that it is no member is another matter.
        assert await _hello(server, certificates, good) == "no member that answers knows replica 2 of this cluster"
    finally:
        cluster.stop_all()


async def _hello(server: Server, certificates: Certificates, shown: Pair) -> str:
    """The answer to the hello of a second replica at 127.0.0.1 that shows this certificate."""
    credentials = grpc.ssl_channel_credentials(
        certificates.peers.cert.read_bytes(), shown.key.read_bytes(), shown.cert.read_bytes()
    )
    hello = raft_pb2.PeerHello(
        cluster_id="c" * 32,
        from_replica_id=2,
        to_replica_id=1,
        from_server_id="2" * 32,
        boot_id="2" * 16,
        version="0.1.0",
        from_address="127.0.0.1:9",
    )
    async with grpc.aio.secure_channel(server.peer_address, credentials) as channel:
        call: Any = channel.stream_stream("/ravel.v1.RaftTransport/Exchange")()
        await call.write(raft_pb2.PeerFrame(hello=hello).SerializeToString())
        try:
            raw = await call.read()
        except grpc.aio.AioRpcError as error:
            return error.details() or ""
        if raw is grpc.aio.EOF:
            return await call.details() or ""
        call.cancel()
        return "welcome"
