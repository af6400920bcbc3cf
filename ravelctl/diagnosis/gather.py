"""Looks at the daemons: their status, what became of a connection where there is none, clocks, certificates, events."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ravelctl.cli import dial
from ravelctl.client.connection.certificates import leaf, validity
from ravelctl.client.connection.tls import HTTP2_OPENING, SETTINGS_FRAME_TYPE, HandshakeError, TlsOptions, shown_until
from ravelctl.client.errors import (
    DeadlineError,
    RavelError,
    StoppedError,
    UnreachableError,
    UnsupportedVersionError,
    WrongServerError,
)
from ravelctl.cluster.events import kinds_of
from ravelctl.cluster.overview import ANSWER_TIMEOUT_S
from ravelctl.completion.names import remember
from ravelctl.diagnosis.seen import Directory, Door, Happening, Picture, Reach, Seen
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.cli.app import App
    from ravelctl.client import ClusterClient

ROUNDS_MAX: Final = 3
"""An endpoint names members, which may name newer ones."""

LOOK_AGAIN_S: Final = 1.5
"""Until the second look, where one cannot tell what lasts from what passes: about the shortest election timeout, doubled."""

EVENTS_MAX: Final = 50
"""The newest so many of each daemon."""

PROBE_TIMEOUT_S: Final = 1.0


async def gather(app: App, endpoints: Sequence[str], directories: Iterable[Directory] = ()) -> Seen:
    """Look at the daemons behind these endpoints and at all members that they name. Raises CommandError for wrong TLS files."""
    tls = dial.tls(app)
    timeout_s = ANSWER_TIMEOUT_S if app.settings.timeout_s is None else app.settings.timeout_s
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(dial.cluster(app, tuple(endpoints)))
        doors = await _look(client, endpoints, timeout_s, tls)
        earlier: tuple[Door, ...] = ()
        if _may_pass(doors):
            await asyncio.sleep(LOOK_AGAIN_S)
            doors, earlier = await _look(client, endpoints, timeout_s, tls), doors
        happenings = await _happenings(client, doors, timeout_s)
    remember(app, (door.status for door in doors if door.status is not None))
    return Seen(
        doors=doors,
        earlier=earlier,
        directories=tuple(directories),
        happenings=happenings,
        cluster_id=app.settings.cluster_id,
        own_certificate_ends_in_s=_own_certificate(tls),
    )


def _may_pass(doors: tuple[Door, ...]) -> bool:
    """Whether there is something that is a fault only if it lasts."""
    picture = Picture.of(Seen(doors))
    if picture.chief is None:
        return False
    joint = any(member.role == pb.LEAVING for member in picture.members)
    return picture.leader is None or joint or any(peer.paused for peer in picture.leader.progress)


async def _look(client: ClusterClient, endpoints: Sequence[str], timeout_s: float, tls: TlsOptions | None) -> tuple[Door, ...]:
    """Ask the endpoints, then whomever they name as members, all at once in each round."""
    doors: dict[str, Door] = {}
    wanted = list(dict.fromkeys(endpoints))
    for _ in range(ROUNDS_MAX):
        named = not doors
        found = await asyncio.gather(*(_ask(client, address, timeout_s, tls, named=named) for address in wanted))
        doors.update(zip(wanted, found, strict=True))
        if not (wanted := _unasked(doors)):
            break
    return tuple(doors.values())


def _unasked(doors: dict[str, Door]) -> list[str]:
    """Addresses of members that were not dialled: also of those that answered under another, since someone else may be there."""
    statuses = [door.status for door in doors.values() if door.status is not None]
    addresses = (member.server.addresses.listen for status in statuses for member in status.members)
    return list(dict.fromkeys(address for address in addresses if address and address not in doors))


async def _ask(client: ClusterClient, address: str, timeout_s: float, tls: TlsOptions | None, *, named: bool) -> Door:
    begun = time.time()
    try:
        status = await client.status(address, timeout_s=timeout_s)
    except RavelError as error:
        reach = await _reach(address, error)
        return Door(address, reach, error.message, error.next_step, named=named, plain=tls is None)
    off_ms = _clock_off_ms(status.wall_ms, int(begun * 1000), int(time.time() * 1000))
    ends_in_s = None
    if tls is not None:
        with suppress(OSError, ValueError):
            until = await asyncio.to_thread(shown_until, address, tls)
            ends_in_s = (until - datetime.now(UTC)).total_seconds()
    return Door(
        address,
        Reach.ANSWERS,
        status=status,
        named=named,
        clock_off_ms=off_ms,
        plain=tls is None,
        certificate_ends_in_s=ends_in_s,
    )


def _clock_off_ms(theirs: int, asked: int, answered: int) -> int:
    """How far their clock lies outside of the time in which they answered by ours; 0: it does not, or they did not say."""
    if not theirs or asked <= theirs <= answered:
        return 0
    return theirs - answered if theirs > answered else theirs - asked


async def _reach(address: str, error: RavelError) -> Reach:
    """What a failed call comes from. What gRPC does not say, a plain connection does."""
    if isinstance(error, HandshakeError):
        return Reach.TLS
    if isinstance(error, WrongServerError):
        return Reach.OTHER_CLUSTER
    if isinstance(error, StoppedError):
        return Reach.STOPPED
    if isinstance(error, UnsupportedVersionError):
        return Reach.NOT_OURS  # such as a replica's peer port
    if not isinstance(error, (UnreachableError, DeadlineError)):
        return Reach.FAILS
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return Reach.SILENT
    except socket.gaierror:
        return Reach.UNKNOWN_HOST
    except ConnectionRefusedError:
        return Reach.REFUSED
    except OSError:
        return Reach.SILENT
    try:
        return Reach.HANGS if await _may_be_a_daemon(reader, writer) else Reach.NOT_OURS
    finally:
        writer.transport.abort()


async def _may_be_a_daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the far end says nothing, as a process that hangs, or begins as HTTP/2 does."""
    writer.write(HTTP2_OPENING)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            head = await reader.readexactly(9)
    except TimeoutError:
        return True
    except (asyncio.IncompleteReadError, OSError):
        return False
    return head[3] == SETTINGS_FRAME_TYPE


def _own_certificate(tls: TlsOptions | None) -> float | None:
    if tls is None or tls.cert is None:
        return None
    with suppress(OSError, ValueError):
        return (validity(leaf(Path(tls.cert)))[1] - datetime.now(UTC)).total_seconds()
    return None


async def _happenings(client: ClusterClient, doors: Sequence[Door], timeout_s: float) -> tuple[Happening, ...]:
    """What replicas tell of elections and leaders, oldest first; daemons that tell nothing are left out."""

    async def read(door: Door, status: pb.StatusResponse) -> list[Happening]:
        found: list[Happening] = []
        with suppress(RavelError):
            events = client.events(
                door.address, limit=EVENTS_MAX, kinds=kinds_of(("election", "leadership")), timeout_s=timeout_s
            )
            found += [Happening(event.wall_ms, status.server.name, event.text) async for event in events]
        return found

    told = await asyncio.gather(*(read(door, door.status) for door in doors if door.status is not None))
    return tuple(sorted((one for found in told for one in found), key=lambda one: one.wall_ms))
