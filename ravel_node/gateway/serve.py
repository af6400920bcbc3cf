"""The gateway as a server: uvicorn on a socket of ours, in a loop of ours, stopped by us.

`Listener` is what a daemon mounts beside its other ports; `run` is the whole process of `ravel_node gateway`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from ravel_node import __version__
from ravel_node.forms import Address
from ravel_node.gateway.app import make_app
from ravel_node.gateway.connection import BoundedProtocol
from ravel_node.gateway.door import GatewayLimits
from ravel_node.gateway.options import GatewayConfig
from ravel_node.log_output import LogCounts, stderr_output
from ravel_node.logs import setup_logging
from ravel_node.signals import handle_harmless
from ravelctl.client import AdminClient, RavelClient

CONNECTIONS_PER_REQUEST: Final = 4
"""Connections that may be open for each request that may be served: most of them wait for their next one."""

KEEP_ALIVE_S: Final = 75
"""An idle connection is kept so long: longer than the usual minute of the proxies in front, so that they close it, not we."""

STOP_GRACE_S: Final = 3
BACKLOG: Final = 512

log = structlog.get_logger("ravel_node.gateway")


class _Server(uvicorn.Server):
    """Signals are the business of whose process it is; `up` tells when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """HTTP at one address, for the clusters of one admin group. A context: it serves inside, and has answered all at its end."""

    def __init__(
        self,
        listen: Address,
        client: RavelClient,
        admin: AdminClient,
        *,
        limits: GatewayLimits | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        tls_client_ca: Path | None = None,
        access_log: bool = False,
        logged: LogCounts | None = None,
        on_broken: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """The clients stay their maker's, who closes them after this was left.

        `logged` is for /metrics. `on_broken` gets the error if serving ends by itself.
        """
        self._listen = listen
        self._on_broken = on_broken
        limits = limits or GatewayLimits()
        config = uvicorn.Config(
            make_app(client, admin, limits, access_log=access_log, logged=logged),
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.requests_max * CONNECTIONS_PER_REQUEST,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_GRACE_S,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
            ssl_ca_certs=tls_client_ca,
            ssl_cert_reqs=ssl.CERT_REQUIRED if tls_client_ca is not None else ssl.CERT_NONE,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        """Raises OSError if the address cannot be bound."""
        bound = _bind(self._listen)
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([bound]), name="http gateway")
        up = asyncio.ensure_future(self._server.up.wait())
        await asyncio.wait({up, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():  # it failed before it served: a certificate that cannot be read any more, say
            up.cancel()
            bound.close()
            await self._serving
        self._serving.add_done_callback(self._ended)
        return self

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_broken(error)

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait([self._serving])


def _bind(listen: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = next((one for one in found if one[0] == family), found[0])
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def run(config: GatewayConfig) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status: 0 after an orderly end, 1 if it could not serve."""
    output = stderr_output()
    setup_logging(config.logging, output)
    if sys.platform == "win32":
        return asyncio.run(_serve(config, output.counts))
    import uvloop

    return uvloop.run(_serve(config, output.counts))


async def _serve(config: GatewayConfig, logged: LogCounts) -> int:
    stop = asyncio.Event()
    failures: list[BaseException] = []

    def broken(error: BaseException) -> None:
        log.critical("gateway.failed", exc_info=error)
        failures.append(error)
        stop.set()

    loop = asyncio.get_running_loop()
    handle_harmless(loop, lambda name: log.info("gateway.signal_received", signal=name, effect="none"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    addresses = [str(address) for address in config.admin]
    timeout_s = config.timeout_ms / 1000
    async with AsyncExitStack() as stack:
        client = RavelClient(admin=addresses, timeout_s=timeout_s, tls=config.cluster_tls, fail_fast=True)
        await stack.enter_async_context(client)
        admin = await stack.enter_async_context(AdminClient(addresses, timeout_s=timeout_s, tls=config.cluster_tls))
        listener = Listener(
            config.listen,
            client,
            admin,
            limits=GatewayLimits(config.body_bytes_max, config.requests_max),
            tls_cert=config.tls_cert,
            tls_key=config.tls_key,
            tls_client_ca=config.tls_client_ca,
            access_log=config.access_log,
            logged=logged,
            on_broken=broken,
        )
        try:
            await stack.enter_async_context(listener)
        except OSError as error:
            log.error("gateway.cannot_listen", address=str(config.listen), why=error.strerror or str(error))
            return 1
        log.info("gateway.serving", address=str(config.listen), admin=addresses, version=__version__)
        await stop.wait()
        log.info("gateway.stopping")
    return 1 if failures else 0
