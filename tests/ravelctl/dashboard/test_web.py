"""`top --web`: the same table in a browser. Once by the page's own protocol, once in headless Chromium where there is one."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pyte
import pytest

from tests.ravelctl.dashboard.browser import CHROMIUM, WAIT_S, photograph, served


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The address of a dashboard that is served."""
    with served("split-view", 5) as address:
        yield address


async def test_the_page_and_what_it_draws(page: str) -> None:
    """The page's own script feeds what comes on the socket to a terminal; so does this test."""
    screen = pyte.Screen(120, 36)
    stream = pyte.ByteStream(screen)
    async with aiohttp.ClientSession() as session:
        async with session.get(page) as answer:
            assert "ravel top" in await answer.text()
        async with asyncio.timeout(WAIT_S), session.ws_connect(f"{page}/ws?width=120&height=36") as socket_:
            async for message in socket_:
                if message.type is aiohttp.WSMsgType.BINARY:
                    stream.feed(message.data)
                elif message.type is aiohttp.WSMsgType.TEXT and json.loads(message.data)[0] == "data":
                    stream.feed(json.loads(message.data)[1].encode())
                text = "\n".join(screen.display)
                if "repl-PAUSED" in text and "READ-ONLY" in text:
                    break
            assert re.search(r"n2 +LEADER +42 918,442,110", text)
            await socket_.send_str(json.dumps(["stdin", "D"]))


def test_it_listens_on_loopback_only(page: str) -> None:
    port = int(page.rpartition(":")[2])
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    places = {line.split()[1].partition(":")[0] for line in listening if line.split()[1].endswith(f":{port:04X}")}
    assert places == {"0100007F"}


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    with urllib.request.urlopen(page, timeout=WAIT_S) as answer:
        text = answer.read().decode()
    sources = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert sources
    assert all(source.startswith(("/", page)) for source in sources), sources


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here: `top --web` in a browser is NOT tested")
def test_a_browser_draws_it(page: str, tmp_path: Path) -> None:
    picture = photograph(page, tmp_path)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000, "the page is nearly empty"
