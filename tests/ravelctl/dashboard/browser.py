"""`top --web` as it is served, and headless Chromium in front of it.

`python -m tests.ravelctl.dashboard.browser FILE` makes the picture of docs/top.md.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.e2e.ports import free_ports
from tests.ravelctl.dashboard.terminal import ROOT
from tests.ravelctl.dashboard.test_terminal import Scene

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_S: Final = 60.0


@contextmanager
def served(scene_name: str, replicas: int) -> Iterator[str]:
    """The address of the dashboard of a scripted cluster."""
    scene = Scene(scene_name, replicas)
    (port,) = free_ports(1)
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


def photograph(page: str, folder: Path) -> bytes:
    """What a browser shows of the page once the dashboard has drawn: a PNG."""
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        f"--user-data-dir={folder}", "--window-size=1400,900", page,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            return asyncio.run(_drawn(_debug_port(folder / "DevToolsActivePort"), page))
        finally:
            browser.terminate()


def _debug_port(file: Path) -> int:
    """Where the browser takes questions: it writes that down when it is ready."""
    deadline = time.monotonic() + WAIT_S
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.1)
    return int(file.read_text().split()[0])


async def _drawn(port: int, page: str) -> bytes:
    """Ask the browser over its own debugging protocol until the page has drawn, then for a picture.

    The page's script marks the body once the dashboard has drawn; its terminal is a canvas, whose text no DOM holds.
    """
    async with asyncio.timeout(WAIT_S), aiohttp.ClientSession() as session:
        places: list[str] = []
        while not places:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                targets = await answer.json(content_type=None)
            places = [t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page" and t["url"].startswith(page)]
            await asyncio.sleep(0.1)
        async with session.ws_connect(places[0], max_msg_size=1 << 26) as browser:
            number = 0

            async def ask(method: str, **params: object) -> Any:
                nonlocal number
                number += 1
                await browser.send_json({"id": number, "method": method, "params": params})
                return (await browser.receive_json())["result"]

            classes = ""
            while "-first-byte" not in classes:
                asked = await ask("Runtime.evaluate", expression="document.body ? document.body.className : ''")
                classes = asked["result"]["value"]
                await asyncio.sleep(0.2)
            await asyncio.sleep(3.0)  # two more frames, so that rates are known
            return base64.b64decode((await ask("Page.captureScreenshot", format="png"))["data"])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, served("split-view", 5) as page:
        Path(sys.argv[1]).write_bytes(photograph(page, Path(folder)))


if __name__ == "__main__":
    main()
