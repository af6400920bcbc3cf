"""A gateway to fake clusters, asked without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from ravel_node.gateway.app import make_app
from ravel_node.gateway.door import GatewayLimits
from ravelctl.client import AdminClient
from tests.ravelctl.client.fake_admin import QUICK, FakeWorld, fake_world

CALL_S = 3.0


@pytest.fixture
async def world() -> AsyncIterator[FakeWorld]:
    async with fake_world(2) as world:
        yield world


@pytest.fixture
async def http(world: FakeWorld) -> AsyncIterator[httpx.AsyncClient]:
    """Bodies up to 2,000 bytes, eight requests at once, and so much time for each that a busy machine answers in it."""
    async with (
        world.client(timeout_s=CALL_S, fail_fast=True) as client,
        AdminClient(world.addresses(), retry=QUICK, timeout_s=CALL_S) as admin,
    ):
        app = make_app(client, admin, GatewayLimits(body_bytes_max=2_000, requests_max=8))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield http
