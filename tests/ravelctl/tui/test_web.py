"""`top --web`: the same table in a browser. Once by the page's own protocol, once in headless Chromium where there is one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pyte
import pytest

from tests.ravelctl.tui.terminal import ROOT
from tests.ravelctl.tui.test_terminal import Scene

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_S = 60.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The address of a dashboard that is served."""
    scene = Scene("split-view", 5)
    port = free_port()
    environ = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "protos")]), RAVELCTL_CONFIG=str(ROOT / "none"))
    command = [sys.executable, "-m", "ravelctl", "top", "--web", "--port", str(port), "--endpoints", scene.addresses]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
            scene.close()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "nothing listens"
            time.sleep(0.05)


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
    """The page's script marks the body once the dashboard has drawn; its terminal is a canvas, whose text no DOM holds."""
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        f"--user-data-dir={tmp_path}", "--window-size=1400,900", page,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            asyncio.run(_drawn(_debug_port(tmp_path / "DevToolsActivePort"), page))
        finally:
            browser.terminate()


def _debug_port(file: Path) -> int:
    """Where the browser takes questions: it writes that down when it is ready."""
    deadline = time.monotonic() + WAIT_S
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.1)
    return int(file.read_text().split()[0])


async def _drawn(port: int, page: str) -> None:
    """Ask the browser over its own debugging protocol until the page has drawn."""
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as session:
        places: list[str] = []
        while not places:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                targets = await answer.json(content_type=None)
            places = [t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page" and t["url"].startswith(page)]
            await asyncio.sleep(0.1)
        async with session.ws_connect(places[0]) as socket_:
            number, classes = 0, ""
            while "-first-byte" not in classes:
                number += 1
                question = {"expression": "document.body ? document.body.className : ''"}
                await socket_.send_json({"id": number, "method": "Runtime.evaluate", "params": question})
                classes = (await socket_.receive_json())["result"]["result"]["value"]
                await asyncio.sleep(0.2)
