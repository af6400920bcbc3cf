"""The client with TLS: what it says of its own files, and of servers with which no connection comes about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravelctl.client import ClusterClient, HandshakeError, InvalidArgumentError, RavelClient, TlsOptions, UnreachableError
from ravelctl.client.connection.certificates import leaf, validity
from tests.security.certificates import Authority, Pair


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@asynccontextmanager
async def serving(pair: Pair) -> AsyncIterator[str]:
    """A server without any service: enough to shake hands with."""
    server = grpc.aio.server()
    credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def refusal(endpoint: str, tls: TlsOptions | None) -> UnreachableError:
    async with ClusterClient([endpoint], tls=tls) as client:
        with pytest.raises(UnreachableError) as refused:
            await client.status(endpoint)
    return refused.value


@pytest.mark.parametrize(
    ("more", "words", "step"),
    [
        ({"to_days": -1}, "expired on 20", "check the clocks"),
        ({"from_days": 1}, "is not valid before 20", "check the clocks"),
        ({"hosts": ("db1.example", "10.9.8.7")}, "is valid for ", "dial it by a name that its certificate holds"),
    ],
)
async def test_what_is_wrong_with_a_servers_certificate(
    authority: Authority, more: dict[str, object], words: str, step: str
) -> None:
    async with serving(authority.issue("wrong-server", **more)) as endpoint:  # type: ignore[arg-type]
        error = await refusal(endpoint, TlsOptions(authority.cert))
    assert isinstance(error, HandshakeError)
    assert error.message.startswith(f"the certificate of {endpoint} {words}")
    assert step in error.next_step
    if "hosts" in more:
        assert "db1.example" in error.message
        assert error.message.endswith("and not for 127.0.0.1")


async def test_the_cause_survives_until_the_time_of_a_call_is_up(authority: Authority) -> None:
    async with (
        serving(authority.issue("server-that-expired", to_days=-1)) as endpoint,
        RavelClient([endpoint, "127.0.0.1:1"], tls=TlsOptions(authority.cert), timeout_s=1.0) as client,
    ):
        with pytest.raises(UnreachableError, match=f"the certificate of {endpoint} expired on") as refused:
            await client.put(b"k", b"v")
    assert "renew it there" in refused.value.next_step


async def test_a_daemon_that_is_not_there_is_not_blamed_on_tls(authority: Authority) -> None:
    for tls in (None, TlsOptions(authority.cert)):
        error = await refusal("127.0.0.1:1", tls)
        assert not isinstance(error, HandshakeError)
        assert "the connection was refused or failed" in error.message


def test_files_are_checked_before_anything_is_dialled(authority: Authority, tmp_path: Path) -> None:
    pair, other = authority.issue("client"), authority.issue("another-client")
    for tls, words in (
        (TlsOptions(tmp_path / "none.pem"), "none.pem cannot be read: no such file"),
        (TlsOptions(authority.cert, pair.cert), "are given together"),
        (TlsOptions(authority.cert, pair.cert, other.key), "does not belong to the certificate"),
        (TlsOptions(pair.key, pair.key, pair.cert), "holds no certificate in PEM form; .* holds no certificate of an authority"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            RavelClient(["127.0.0.1:1"], tls=tls)
    pair.key.chmod(0o604)
    with pytest.raises(InvalidArgumentError, match="others than its owner can reach"):
        ClusterClient(["127.0.0.1:1"], tls=TlsOptions(authority.cert, pair.cert, pair.key))


def test_dates_are_read_from_a_certificate(authority: Authority) -> None:
    for days in (1, 20_000):  # past 2049 dates have another form
        begins, ends = validity(leaf(authority.issue("dated", to_days=days).cert))
        assert abs(ends - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=5)
        assert begins < datetime.now(UTC) < ends


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        validity(data)


@given(cut=st.integers(0, 10_000), at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_certificate_that_was_cut_or_altered(authority: Authority, cut: int, at: int, value: int) -> None:
    der = bytearray(leaf(authority.cert))
    der[at % len(der)] = value
    try:
        validity(bytes(der[: cut % (len(der) + 1)]))
    except ValueError:
        return
