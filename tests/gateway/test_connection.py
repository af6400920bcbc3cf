"""What callers may do to a connection before any handler sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ravel_node.forms import Address
from ravel_node.gateway import connection
from ravel_node.gateway.serve import Listener
from ravelctl.client import AdminClient
from tests.e2e.ports import free_ports
from tests.ravelctl.client.fake_admin import fake_world

ENOUGH_S = 30.0


@asynccontextmanager
async def gateway() -> AsyncIterator[int]:
    """The port of one."""
    (port,) = free_ports(1)
    async with (
        fake_world(1) as world,
        world.client() as client,
        AdminClient(world.addresses()) as admin,
        Listener(Address("127.0.0.1", port), client, admin),
    ):
        yield port


async def said(port: int, *parts: bytes) -> bytes:
    """All that comes until the connection ends, after these parts were sent."""
    async with asyncio.timeout(ENOUGH_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


def refusal(answer: bytes) -> tuple[int, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n",),
        (HEAD, b"X: a\r\n" * 20_000),
        (HEAD + b"X: ", *[b"a" * 100_000] * 10),
        (b"GET /v1/kv/" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",),
        (b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;", *[b"x" * 100_000] * 10),
    ],
    ids=["one header", "many headers", "a header without end", "a path", "an extension of a chunk"],
)
async def test_a_head_that_is_too_large_is_refused(parts: tuple[bytes, ...]) -> None:
    async with gateway() as port:
        answer = await said(port, *parts)
        if answer:  # what was sent behind the bound may have reset the connection before its answer was read
            status, error = refusal(answer)
            assert (status, error["reason"]) == (431, "REQUEST_TOO_LARGE")
        assert b" 200 OK" in await said(port, HEAD + b"Connection: close\r\n\r\n")


async def test_what_is_no_http_is_told_so_in_the_usual_form() -> None:
    async with gateway() as port:
        status, error = refusal(await said(port, b"\x16\x03\x01 hello\r\n\r\n"))
        assert (status, error["message"]) == (400, "this is not an HTTP/1.1 request")


async def test_a_head_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 0.2)
    async with gateway() as port:
        status, error = refusal(await said(port, HEAD))
        assert (status, error["reason"], error["outcome"]) == (408, "TIMEOUT", "nothing done")
        assert await said(port) == b""  # who says nothing is told nothing


async def test_a_body_that_nobody_reads_does_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MESSAGE_TIMEOUT_S", 0.3)
    async with gateway() as port:
        assert b" 200 OK" in await said(port, HEAD + b"Content-Length: 10\r\n\r\nhello")


async def test_who_takes_no_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNTAKEN_TIMEOUT_S", 0.2)
    async with gateway() as port:
        asked = HEAD.replace(b"/healthz", b"/openapi.json") + b"\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)

        async def ask_without_end() -> None:
            while True:
                writer.write(asked)
                await writer.drain()
                await asyncio.sleep(0)

        try:
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(ask_without_end(), ENOUGH_S)
        finally:
            writer.transport.abort()


async def test_requests_in_a_row_on_one_connection() -> None:
    async with gateway() as port:
        answer = await said(port, (HEAD + b"\r\n") * 5 + HEAD + b"Connection: close\r\n\r\n")
        assert answer.count(b" 200 OK") == 6


async def test_each_request_of_a_connection_may_have_a_head_of_its_own_size() -> None:
    """The bound is that of one head, not of all that came on a connection."""
    large = HEAD + b"X: " + b"a" * (connection.HEAD_BYTES_MAX * 2 // 3) + b"\r\n"
    async with gateway() as port:
        answer = await said(port, (large + b"\r\n") * 4 + large + b"Connection: close\r\n\r\n")
        assert answer.count(b" 200 OK") == 5
