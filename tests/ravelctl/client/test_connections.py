"""Connections: why an endpoint cannot be reached."""

from __future__ import annotations

import asyncio
import socket

import pytest
from grpc import aio

from ravelctl.client import RetryPolicy
from ravelctl.client.connection import channels, connections


async def test_a_name_that_stands_for_no_address_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def unknown(host: str, port: str) -> object:
        raise socket.gaierror(socket.EAI_NONAME, f"nobody knows {host}")

    assert await connections._unresolved("127.0.0.1:7400", loop.time() + 10) == ""
    assert await connections._unresolved("[::1]:7400", loop.time() + 10) == ""
    monkeypatch.setattr(loop, "getaddrinfo", unknown)
    assert await connections._unresolved("n9:7400", loop.time() + 10) == "the name n9 does not resolve (nobody knows n9)"


async def test_addresses_that_nothing_is_connected_to_make_room_for_new_ones() -> None:
    """Members may come and go for years. The given ones and the leader stay, and so does what is in use."""
    opened: list[str] = []

    def dial(endpoint: str) -> aio.Channel:
        opened.append(endpoint)
        return channels.plain_channel(endpoint)

    known = connections.Connections(["a:1", "b:1"], retry=RetryPolicy(connect_timeout_s=5.0), factory=dial)
    server = aio.server()
    used = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        known.learn(used)
        await known.ready(used)
        known.learn("lead:1")
        known.served("lead:1")
        for number in range(10 * connections.ENDPOINTS_MAX):
            known.learn(f"n{number}:1")
        assert len(known.endpoints) == connections.ENDPOINTS_MAX
        assert known.endpoints[:4] == ("a:1", "b:1", used, "lead:1")
        assert known.endpoints[-1] == f"n{10 * connections.ENDPOINTS_MAX - 1}:1"
        assert opened == [used]
    finally:
        await known.close()
        await server.stop(0)
