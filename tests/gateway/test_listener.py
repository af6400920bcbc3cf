"""The gateway on a real socket, with TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from ravel_node.forms import Address
from ravel_node.gateway.serve import Listener
from ravelctl.client import AdminClient
from tests.e2e.ports import free_ports
from tests.ravelctl.client.fake_admin import fake_world
from tests.security.certificates import Authority


def trusting(authority: Authority) -> ssl.SSLContext:
    """As Python 3.13 and later trust it: earlier ones do not look as closely by themselves."""
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


async def test_https(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "clients")
    pair = authority.issue("gateway")
    (port,) = free_ports(1)
    async with fake_world(1) as world, world.client() as client, AdminClient(world.addresses()) as admin:
        listener = Listener(Address("127.0.0.1", port), client, admin, tls_cert=pair.cert, tls_key=pair.key)
        async with listener, httpx.AsyncClient(verify=trusting(authority), base_url=f"https://127.0.0.1:{port}") as http:
            assert (await http.put("/v1/kv/k", content=b"v")).status_code == 200
            assert (await http.get("/v1/kv/k")).content == b"v"


async def test_clients_in_new_pythons_say_what_a_certificate_lacks(tmp_path: Path) -> None:
    """docs/operations.md quotes it: the gateway serves with such a certificate, and clients that look less closely take it."""
    authority = Authority(tmp_path, "clients", strict=False)
    pair = authority.issue("gateway")
    (port,) = free_ports(1)
    lenient = ssl.create_default_context(cafile=str(authority.cert))
    lenient.verify_flags &= ~ssl.VERIFY_X509_STRICT
    async with (
        fake_world(1) as world,
        world.client() as client,
        AdminClient(world.addresses()) as admin,
        Listener(Address("127.0.0.1", port), client, admin, tls_cert=pair.cert, tls_key=pair.key),
        httpx.AsyncClient(verify=trusting(authority), base_url=f"https://127.0.0.1:{port}") as strict_http,
        httpx.AsyncClient(verify=lenient, base_url=f"https://127.0.0.1:{port}") as http,
    ):
        with pytest.raises(httpx.ConnectError, match=r"Missing Authority Key Identifier|CA cert does not include key usage"):
            await strict_http.get("/v1/kv/k")
        assert (await http.put("/v1/kv/k", content=b"v")).status_code == 200


async def test_a_certificate_that_is_gone_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with fake_world(1) as world, world.client() as client, AdminClient(world.addresses()) as admin:
        missing = tmp_path / "gone.pem"
        with pytest.raises(OSError, match="No such file"):
            async with Listener(Address("127.0.0.1", port), client, admin, tls_cert=missing, tls_key=missing):
                pass


async def test_an_address_in_use_is_an_error(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with (
        fake_world(1) as world,
        world.client() as client,
        AdminClient(world.addresses()) as admin,
        Listener(Address("127.0.0.1", port), client, admin),
    ):
        with pytest.raises(OSError, match="in use"):
            await Listener(Address("127.0.0.1", port), client, admin).__aenter__()
