"""A real gateway process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.e2e.cluster import START_S, until
from tests.e2e.ports import free_ports


class Gateway(NamedTuple):
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def running_gateway(folder: Path, admins: Sequence[str], *flags: str) -> AsyncIterator[Gateway]:
    """At the end it is told to stop, and must do so in order."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "ravel_node", "gateway", "--admin", ",".join(admins), "--listen", f"127.0.0.1:{port}"]
    log = folder / "gateway.log"
    process = _start([*command, *flags], log)
    gateway = Gateway(port, process.pid)
    try:
        async with httpx.AsyncClient() as http:

            async def answers() -> bool:
                try:
                    return (await http.get(f"{gateway.url}/healthz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until("the gateway answers", answers, START_S)
        yield gateway
        process.terminate()
        assert await asyncio.to_thread(process.wait, START_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
