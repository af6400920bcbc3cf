"""Where commands meet the network: clients made from the settings, and the client's errors as a command's.

This module loads asyncio, and its functions grpc: commands import it inside their functions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ravelctl.cli.app import App, KeysAt, Progress
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.reasons import EXIT_OF
from ravelctl.client.connection.tls import TlsOptions
from ravelctl.client.errors import LocalReason, OutcomeUnknownError, RavelError, WrongServerError
from ravelpb.errors import Reason

if TYPE_CHECKING:
    from ravelctl.client import AdminClient, ClusterClient, InspectClient, RavelClient

T = TypeVar("T")

POLL_EVERY_S: Final = 0.1
"""Between two looks at a cluster that is waited for."""

_ABOUT_WHERE: Final = frozenset({Reason.TIMEOUT, Reason.NOT_ADMIN})
"""What an operator can judge only who sees which daemons were asked."""

_LOCAL_EXIT: Final = {
    LocalReason.UNREACHABLE: ExitCode.UNREACHABLE,
    LocalReason.CLOSED: ExitCode.FAILED,
    LocalReason.NOT_SENT: ExitCode.INTERRUPTED,
    LocalReason.MISUSED: ExitCode.FAILED,
}


def tls(app: App) -> TlsOptions | None:
    """How daemons are dialled: None in plain text. Raises CommandError (2) for options that do not go together."""
    settings = app.settings
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "--key" if settings.tls_key is None else "--cert"
        raise usage_error("a certificate and its key belong together", f"give {missing} too")
    if settings.cacert is None:
        if settings.tls_cert is not None:
            raise usage_error("a certificate is only shown with TLS", "give the daemons' authority with --cacert too")
        return None
    return TlsOptions(settings.cacert, settings.tls_cert, settings.tls_key)


@asynccontextmanager
async def keys(app: App) -> AsyncIterator[RavelClient]:
    """Yield the key-value client of the cluster, or of all clusters of the admin group, at the addresses of the settings.

    The client has no session: a script of ten thousand commands would push the sessions of long-lived programs out. So a write
    with an unknown outcome is not repeated, but reported (exit 6), also if Ctrl-C ends the wait for its answer. Raises
    CommandError (2) for addresses of several clusters.
    """
    from ravelctl.client import RavelClient

    if app.keys_at is None:
        app.keys_at = await _keys_at(app)
    answered = False
    try:
        async with RavelClient(
            app.keys_at.endpoints,
            admin=app.keys_at.admin,
            timeout_s=app.settings.call_timeout_s,
            exactly_once=False,
            tls=tls(app),
            cluster_id=app.keys_at.cluster_id,
        ) as client:
            yield client
            answered = True
            app.unsent = False
    except asyncio.CancelledError as interrupt:
        if answered:
            return  # Ctrl-C came too late: the command has its answer, and only the connections were open
        if isinstance(interrupt.__cause__, OutcomeUnknownError):
            raise CommandError(
                "interrupted: the write was sent, and it may or may not have happened",
                code=ExitCode.OUTCOME_UNKNOWN,
                next_step="read the key before you write it again",
                reason=str(interrupt.__cause__.reason),
            ) from interrupt
        raise


async def _keys_at(app: App) -> KeysAt:
    """Ask the daemons of the settings for their cluster. Raises CommandError (2) if they belong to several."""
    from ravelctl.client.services.identify import Identity, identify

    settings = app.settings
    found = await identify(settings.endpoints, timeout_s=settings.call_timeout_s, tls=tls(app), cluster_id=settings.cluster_id)
    for answer in found.values():
        if isinstance(answer, WrongServerError):
            app.say(f"warning: {answer.message}")
    daemons = {address: answer for address, answer in found.items() if isinstance(answer, Identity)}
    admin = {address: answer for address, answer in daemons.items() if answer.is_admin}
    asked = {address: answer for address, answer in (admin or daemons).items() if answer.cluster_id}
    clusters = {answer.cluster_id for answer in asked.values()}
    if len(clusters) > 1:
        where = "; ".join(f"{address} is in {answer.cluster_name} ({answer.cluster_id})" for address, answer in asked.items())
        raise usage_error(
            f"the endpoints belong to {len(clusters)} {'admin groups' if admin else 'clusters'}: {where}",
            f"name those of one {'group' if admin else 'cluster, or servers of an admin group'}",
        )
    cluster_id = next(iter(clusters), settings.cluster_id)
    silent = tuple(address for address in settings.endpoints if address not in found)  # asked only if the others do not help
    return KeysAt(() if admin else (*daemons, *silent), tuple(admin), cluster_id)


def cluster(app: App, endpoints: tuple[str, ...] | None = None, *, cluster_id: str | None = None) -> ClusterClient:
    """The client for membership, at these endpoints or at those of the settings; `cluster_id`: of another than the context's."""
    from ravelctl.client import ClusterClient

    settings = app.settings
    return ClusterClient(
        settings.endpoints if endpoints is None else endpoints,
        timeout_s=settings.call_timeout_s,
        tls=tls(app),
        cluster_id=settings.cluster_id if cluster_id is None else cluster_id,
    )


def admin(app: App, endpoints: tuple[str, ...] | None = None) -> AdminClient:
    """The client for the admin group, at these endpoints or at those of the settings."""
    from ravelctl.client import AdminClient

    settings = app.settings
    return AdminClient(
        endpoints or settings.endpoints, timeout_s=settings.call_timeout_s, tls=tls(app), cluster_id=settings.cluster_id
    )


def inspect(app: App, *, cluster_id: str | None = None) -> InspectClient:
    from ravelctl.client import InspectClient

    settings = app.settings
    pinned = settings.cluster_id if cluster_id is None else cluster_id
    return InspectClient(timeout_s=settings.call_timeout_s, tls=tls(app), cluster_id=pinned)


def run(app: App, work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work on the run's one loop: grpc cannot move to another. What the client raises ends the command."""
    runner = app.runner = app.runner or asyncio.Runner()
    try:
        return runner.run(work)
    except RavelError as error:
        raise command_error(error, app) from error


def command_error(error: RavelError, app: App) -> CommandError:
    """The same sentence, with the exit code of its reason and a next step where the server gave none."""
    message = error.message
    asked = app.settings.endpoints
    if error.reason in _ABOUT_WHERE and not any(address in message for address in asked):
        message += f" at {', '.join(asked)}"  # whoever named several clusters today wants to know which it was
    return CommandError(
        message,
        code=exit_code(error),
        next_step=error.next_step or _next_step(error, app),
        reason=str(error.reason),
        metadata=error.metadata,
    )


def exit_code(error: RavelError) -> ExitCode:
    if isinstance(error.reason, Reason):
        return EXIT_OF[error.reason]
    return _LOCAL_EXIT[error.reason]


def _next_step(error: RavelError, app: App) -> str:
    asked = ",".join(app.settings.endpoints)
    steps = {
        LocalReason.UNREACHABLE: f"check that a daemon listens at {asked}, or name others with --endpoints",
        Reason.OUTCOME_UNKNOWN: "read the key before you write it again",
        Reason.SESSION_EXPIRED: "read the key before you write it again",
        Reason.NO_LEADER: "look with `ravelctl status`: a majority of the voters must be up",
        Reason.NOT_LEADER: "look with `ravelctl status`",
        Reason.TIMEOUT: "look with `ravelctl status`, or give it longer with --timeout",
        Reason.BLANK: "make a cluster with `ravelctl bootstrap`, or take the daemon into one with `ravelctl join`",
        Reason.BUSY: "try again in a moment",
        Reason.QUOTA_EXCEEDED: "delete keys, or raise --db-size-max of the daemons",
        Reason.STALE_VIEW: "look again and repeat the command",
        Reason.CHANGE_IN_PROGRESS: "wait until `ravelctl member list` shows the change done, then repeat the command",
        Reason.UNKNOWN_MEMBER: "see `ravelctl member list`",
        Reason.REQUEST_TOO_LARGE: "send less at once",
        Reason.NOT_FOUND: "see `ravelctl snapshot list`",
        Reason.WRONG_CLUSTER: "`ravelctl admin slots KEY`, asked of the admin group, tells the cluster of a key",
        Reason.SLOT_MOVING: "try again in a moment",
        Reason.NOT_ADMIN: "name servers of the admin group with --endpoints, or a context that does",
        Reason.MOVE_REFUSED: "see `ravelctl admin slots`",
    }
    return steps.get(error.reason, "")


class Wait:
    """The patience of one command: all that it waits for shares one time limit."""

    def __init__(self, timeout_s: float, progress: Progress) -> None:
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._progress = progress

    async def until(self, look: Callable[[], Awaitable[T | str]], what: str) -> T:
        """Look until there is a value; a text says how far it is. Unreachable daemons and lost leaders count as not yet.

        Raises CommandError with exit code 124 when the time has run out, naming how far it was.
        """
        while True:
            try:
                found = await look()
            except (RavelError, CommandError) as error:
                code = error.code if isinstance(error, CommandError) else exit_code(error)
                if code not in _PASSING:
                    raise
                found = error.message
            if not isinstance(found, str):
                return found
            self._progress.update(found)
            if time.monotonic() >= self._deadline:
                raise CommandError(
                    f"{what} did not come about within {self._timeout_s:g}s: {found}",
                    code=ExitCode.TIMED_OUT,
                    next_step="it may still go on: look with `ravelctl status`; repeating the command goes on where it stands",
                )
            await asyncio.sleep(POLL_EVERY_S)


_PASSING: Final = {ExitCode.UNREACHABLE, ExitCode.NO_LEADER}
"""What may cure itself while a cluster gets going."""
