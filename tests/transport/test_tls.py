"""Replicas that dial each other with TLS: whom they trust, and what they say where they do not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from structlog.testing import capture_logs

from ravel_node import credentials
from ravel_node.config import PeerTlsConfig
from ravel_node.server.app import RpcServer, ServerOptions, build_peer_server
from ravel_node.server.peer_certificates import PeerCertificates
from ravel_node.transport.base import PeerStats, ProbeFailedError
from ravel_node.transport.grpc_transport import GrpcTransport
from ravel_node.transport.peer import PeerOptions
from tests.security.certificates import Authority
from tests.server.fakes import FakeHost, as_host, server_id
from tests.transport.support import HELLO, ONE, Listener, eventually, heartbeat

FAST = PeerOptions(backoff_min_s=0.01, backoff_max_s=0.05, refused_backoff_s=0.05)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("peers"), "peers")


def config(authority: Authority, name: str, *hosts: str, shared: str | None = None) -> PeerTlsConfig:
    pair = authority.issue(name, hosts)
    return PeerTlsConfig(peer_tls_cert=pair.cert, peer_tls_key=pair.key, peer_tls_ca=authority.cert, peer_tls_name=shared)


@asynccontextmanager
async def serving(host: FakeHost, tls: PeerTlsConfig | None) -> AsyncIterator[RpcServer]:
    options = ServerOptions(listen="127.0.0.1:0", credentials=credentials.peer_port(tls) if tls else None)
    certificates = PeerCertificates(tls.peer_tls_name) if tls else None
    server = build_peer_server(as_host(host), options, host.fatal.append, certificates=certificates)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.0)


@asynccontextmanager
async def dialling(server: RpcServer, tls: PeerTlsConfig | None) -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport(channel_factory=credentials.peer_channels(tls or PeerTlsConfig()), options=FAST, rng=Random(1))
    hello = replace(HELLO, address="127.0.0.1:9")
    await transport.start(lambda: hello, Listener())
    transport.add_peer(ONE, f"127.0.0.1:{server.port}", server_id(1))
    try:
        yield transport
    finally:
        await transport.close()


@pytest.mark.parametrize("strict", [True, False])
async def test_peers_that_trust_each_other(tmp_path: Path, strict: bool) -> None:
    host, peers = FakeHost(), Authority(tmp_path, "peers", strict=strict)
    async with (
        serving(host, config(peers, "one", "127.0.0.1")) as server,
        dialling(server, config(peers, "two", "127.0.0.1")) as two,
    ):
        await eventually(lambda: two.stats(ONE).connected)
        two.send([heartbeat()])
        await eventually(lambda: bool(host.replica.stepped))


async def test_peers_that_share_a_name_instead_of_having_their_own(peers: Authority) -> None:
    shared = config(peers, "shared", "peers.example", shared="peers.example")
    async with serving(FakeHost(), shared) as server, dialling(server, shared) as two:
        await eventually(lambda: two.stats(ONE).connected)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("other authority", "its certificate is signed by an authority that this server does not trust"),
        ("expired", "its certificate has expired"),
        ("other name", "its certificate does not hold the name or address that was dialled"),
        ("plain", "it speaks plain text"),
    ],
)
async def test_a_server_that_is_not_trusted(peers: Authority, tmp_path: Path, case: str, words: str) -> None:
    match case:
        case "other authority":
            theirs: PeerTlsConfig | None = config(Authority(tmp_path, "stranger"), "strange", "127.0.0.1")
        case "expired":
            pair = peers.issue("expired", to_days=-1)
            theirs = PeerTlsConfig(peer_tls_cert=pair.cert, peer_tls_key=pair.key, peer_tls_ca=peers.cert)
        case "other name":
            theirs = config(peers, "elsewhere", "10.9.8.7")
        case _:
            theirs = None
    with capture_logs() as logs:
        async with serving(FakeHost(), theirs) as server, dialling(server, config(peers, "two", "127.0.0.1")) as two:
            await eventually(lambda: two.stats(ONE).reconnects > 5)
            assert words in two.stats(ONE).last_error
            with pytest.raises(ProbeFailedError, match=words):
                await two.probe(f"127.0.0.1:{server.port}", 5.0)
    told = [line for line in logs if line["event"] == "transport.peer_refused"]
    assert {line["reason"] for line in told} == {"HANDSHAKE_FAILED"}
    assert words in told[0]["why"]
    assert all(line == told[0] for line in told), "the log counts what repeats, and so no field may differ"


async def test_a_server_that_does_not_trust_us(peers: Authority, tmp_path: Path) -> None:
    """All that is seen at this end is a closed connection: the far end's log says why."""
    pair = Authority(tmp_path, "stranger").issue("strange")
    ours = PeerTlsConfig(peer_tls_cert=pair.cert, peer_tls_key=pair.key, peer_tls_ca=peers.cert)
    async with serving(FakeHost(), config(peers, "one", "127.0.0.1")) as server:
        for tls in (ours, None):
            async with dialling(server, tls) as two:
                await eventually(lambda: "it ended the connection at once" in _stats(two).last_error)


async def test_a_certificate_for_another_host_is_refused_as_another_identity(peers: Authority) -> None:
    with capture_logs() as logs:
        async with (
            serving(FakeHost(), config(peers, "one", "127.0.0.1")) as server,
            dialling(server, config(peers, "moved", "10.9.8.7")) as two,
        ):
            await eventually(lambda: two.stats(ONE).reconnects > 2)
            assert "is valid for 10.9.8.7 and not for 127.0.0.1" in two.stats(ONE).last_error
    assert {line["event"] for line in logs} == {"transport.peer_refused", "server.peer_refused"}
    assert len({tuple(line.items()) for line in logs}) == 2, "the log counts what repeats, and so no field may differ"


def _stats(transport: GrpcTransport) -> PeerStats:
    return transport.stats(ONE)
