"""Channels: why an endpoint cannot be reached."""

from __future__ import annotations

import asyncio
import socket

import pytest

from ravelctl.client import channels


async def test_a_name_that_stands_for_no_address_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()

    async def unknown(host: str, port: str) -> object:
        raise socket.gaierror(socket.EAI_NONAME, f"nobody knows {host}")

    assert await channels._unresolved("127.0.0.1:7400", loop.time() + 10) == ""
    assert await channels._unresolved("[::1]:7400", loop.time() + 10) == ""
    monkeypatch.setattr(loop, "getaddrinfo", unknown)
    assert await channels._unresolved("n9:7400", loop.time() + 10) == "the name n9 does not resolve (nobody knows n9)"
