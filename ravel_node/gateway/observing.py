"""What a gateway counts, for Prometheus, and the log of its requests."""

from __future__ import annotations

from time import perf_counter
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ravel_node import __version__
from ravel_node.gateway.openapi import PATHS
from ravel_node.log_metrics import LogCollector
from ravel_node.log_output import LogCounts

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets of durations: from a read nearby to a request that has waited for its cluster in vain."""

METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE"})
OTHER: Final = "other"
"""Of methods and paths that are not offered: callers make them up, and each label is kept for good."""

LOGGED_PATH_CHARACTERS: Final = 256

log = structlog.get_logger("ravel_node.gateway")


class GatewayMetrics:
    """One gateway's metrics. Every method is called on the loop and is cheap."""

    def __init__(self, logged: LogCounts | None = None) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(LogCollector(logged or LogCounts()))
        Gauge("ravel_build_info", "The version that runs.", ["version"], registry=registry).labels(__version__).set(1)
        self.serving = Gauge("ravel_http_requests_in_progress", "Requests that are being served.", registry=registry)
        self._requests = Counter(
            "ravel_http_requests", "Requests that were answered.", ["method", "path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "ravel_http_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["method", "path"],
            buckets=SECONDS,
            registry=registry,
        )

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """`status` 0: the caller went away before there was one."""
        method = method if method in METHODS else OTHER
        path = route_of(path)
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(method, path).observe(seconds)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page and its media type, by what a scraper accepts."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


def route_of(path: str) -> str:
    """The path without what a caller put into it."""
    if path.startswith("/v1/kv/"):
        return "/v1/kv/{key}"
    return path if path in PATHS or path == "/" else OTHER


class Observed:
    """An ASGI application that tells of each request what came of it."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, access_log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        status = size = 0

        async def sent(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        self._metrics.serving.inc()
        try:
            await self._app(scope, receive, sent)
        except Exception:
            status = 500  # which is sent further out
            raise
        finally:
            self._metrics.serving.dec()
            seconds = perf_counter() - began
            self._metrics.answered(scope["method"], scope["path"], status, seconds)
            if self._access_log:
                self._log(scope, status, size, seconds)

    def _log(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        log.info(
            "gateway.request",
            method=scope["method"],
            path=raw[:LOGGED_PATH_CHARACTERS].decode("ascii", "backslashreplace"),
            status=status,
            bytes=size,
            ms=round(seconds * 1000, 2),
            client=scope["client"][0] if scope.get("client") else "",
        )
