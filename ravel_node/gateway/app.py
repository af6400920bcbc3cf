"""The application: paths, and an answer in one form for whatever goes wrong outside of them."""

from __future__ import annotations

import structlog
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from ravel_node.gateway.door import Directory, Door, GatewayLimits, Keys
from ravel_node.gateway.errors import HttpError
from ravel_node.gateway.observing import Observed
from ravel_node.gateway.routes import routes
from ravel_node.log_output import LogCounts
from ravelpb.errors import Reason

log = structlog.get_logger("ravel_node.gateway")


class _AnyBytes(Convertor[str]):
    """The rest of a path, whatever it holds: line ends too, and nothing at all."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def make_app(
    client: Keys, admin: Directory, limits: GatewayLimits, *, access_log: bool = False, logged: LogCounts | None = None
) -> Starlette:
    """An ASGI application without a lifespan: who made the clients closes them. `logged` is shown at /metrics."""
    door = Door(client, admin, limits, logged)
    register_url_convertor("bytes", _AnyBytes())
    app = Starlette(
        routes=routes(door),
        middleware=[Middleware(Observed, door.metrics, access_log)],
        exception_handlers={HTTPException: _of_http, Exception: _fault},
    )
    app.router.redirect_slashes = False
    return app


async def _of_http(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: 404 and 405."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(getattr(error, "headers", None) or {})
    if status == 405:
        allowed = ", ".join(sorted(word.strip() for word in headers.get("Allow", "").split(",")))
        message = f"{request.method} is not allowed for {request.url.path}; allowed are: {allowed}"
        return HttpError(405, "METHOD_NOT_ALLOWED", message, headers={"Allow": allowed}).response()
    if status == 404:
        return HttpError(404, "NO_SUCH_PATH", f"there is nothing at {request.url.path}", next_step="see /openapi.json").response()
    return HttpError(status, Reason.INVALID_ARGUMENT, str(error), headers=headers).response()


async def _fault(request: Request, error: Exception) -> Response:
    """A fault of the gateway. It may have come after a write."""
    log.error("gateway.fault", method=request.method, path=request.url.path, error=repr(error))
    return HttpError(500, Reason.INTERNAL, f"the gateway failed: {type(error).__name__}", outcome_known=False).response()
