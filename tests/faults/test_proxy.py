"""The network of the fault tests does what the tests say it did."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from tests.faults.proxy import OUTSIDE, Network

SELF = "one"


@asynccontextmanager
async def echo(network: Network) -> AsyncIterator[str]:
    """A server `two` that sends back what it gets; its address in the network."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield await network.front("two", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        await network.close()
        server.close()


async def dial(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def silent(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.2):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_bytes_pass_and_are_counted_by_who_dialled() -> None:
    network = Network(lambda: {SELF: os.getpid()})
    async with echo(network) as address:
        reader, writer = await dial(address)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        assert network.carried_bytes == {(SELF, "two"): 5, ("two", SELF): 5}
        writer.close()


async def test_whoever_is_no_server_is_outside() -> None:
    network = Network(dict)
    async with echo(network) as address:
        reader, writer = await dial(address)
        writer.write(b"x")
        await reader.readexactly(1)
        assert network.carried_bytes[OUTSIDE, "two"] == 1
        writer.close()


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_cut_holds_what_goes_one_way_and_lets_it_through_in_the_end(way: str) -> None:
    network = Network(lambda: {SELF: os.getpid()})
    async with echo(network) as address:
        reader, writer = await dial(address)
        link = (SELF, "two") if way == "there" else ("two", SELF)
        network.cut(*link)
        writer.write(b"late")
        assert await silent(reader)
        assert network.held_chunks == {link: 1}
        network.heal()
        assert await reader.readexactly(4) == b"late"
        writer.close()


async def test_a_mute_link_holds_messages_but_not_answers() -> None:
    network = Network(lambda: {SELF: os.getpid()})
    async with echo(network) as address:
        reader, writer = await dial(address)
        network.mute("two", SELF)
        writer.write(b"answered")
        assert await reader.readexactly(8) == b"answered"
        network.mute(SELF, "two")
        writer.write(b"held")
        assert await silent(reader)
        writer.close()


async def test_a_slow_link_delays_but_does_not_narrow() -> None:
    network = Network(lambda: {SELF: os.getpid()})
    async with echo(network) as address:
        reader, writer = await dial(address)
        network.slow(SELF, "two", 0.3)
        began = monotonic()
        for _ in range(10):
            writer.write(b"x" * 1000)
            await asyncio.sleep(0.01)
        await reader.readexactly(10_000)
        assert monotonic() - began >= 0.3
        assert network.delayed_chunks[SELF, "two"] >= 1
        writer.close()


async def test_a_reset_breaks_both_sides() -> None:
    network = Network(lambda: {SELF: os.getpid()})
    async with echo(network) as address:
        reader, writer = await dial(address)
        writer.write(b"x")
        await reader.readexactly(1)
        assert network.reset() == 1
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        reader, writer = await dial(address)
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        writer.close()


async def test_so_many_bytes_pass_and_the_rest_when_it_is_healed() -> None:
    network = Network(lambda: {SELF: os.getpid()})
    async with echo(network) as address:
        reader, writer = await dial(address)
        network.allow(SELF, "two", 1)
        writer.write(b"first")
        assert await reader.readexactly(5) == b"first", "what is on its way as one passes as one"
        writer.write(b"second")
        assert await silent(reader)
        network.heal()
        assert await reader.readexactly(6) == b"second"
        writer.close()
