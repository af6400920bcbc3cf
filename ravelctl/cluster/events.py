"""`events`: what the replicas of a cluster keep of what happened to them, put into one order, and then as it comes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ravelctl.cli import dial
from ravelctl.cli.output import ABSENT, U64, View, emit, rfc3339
from ravelctl.client.errors import LocalReason, RavelError
from ravelctl.cluster.overview import chief, find_member, replies, require_answer, survey
from ravelctl.completion.names import remember
from ravelctl.config.settings import Output
from ravelpb.errors import Reason
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.cli.app import App
    from ravelctl.client import ClusterClient

RETRY_EVERY_S: Final = 0.5
LOOK_EVERY_S: Final = 10.0
"""How often, while following, the cluster is asked for members that have come."""

WAITING_MAX: Final = 1_000
"""Events that have come and are not printed yet; further ones wait at their replicas."""

TITLES: Final = ("TIME", "REPLICA", "KIND", "EVENT")
WIDTHS: Final = (24, 8, 10)
_PASSING: Final = {LocalReason.UNREACHABLE, Reason.TIMEOUT, Reason.SHUTTING_DOWN, Reason.STOPPED, Reason.BUSY}


@dataclass(frozen=True, slots=True)
class Query:
    """Which events. `limit`: the newest so many of all replicas together."""

    replica: str | None  # a name or an id; None: all
    since_ms: int  # wall clock; 0: no bound
    limit: int
    kinds: tuple[pb.EventKind.ValueType, ...]  # none: all


@dataclass(slots=True)
class Teller:
    """A daemon whose events are read, and how far."""

    name: str
    address: str
    server_id: str
    after: pb.EventPosition


@dataclass(frozen=True, slots=True)
class Told:
    """An event and the name of the daemon that told it."""

    by: str
    event: pb.Event

    @property
    def order(self) -> tuple[int, str, int]:
        return self.event.wall_ms, self.by, self.event.sequence


async def kept(app: App, query: Query) -> tuple[list[Told], list[str]]:
    """The events that are kept, oldest first by their replicas' clocks, each once; and a sentence for each silent replica."""
    async with dial.cluster(app) as client:
        tellers = await find_tellers(app, client, query.replica)
        return await read_kept(client, tellers, query)


async def find_tellers(app: App, client: ClusterClient, replica: str | None) -> list[Teller]:
    """Whom to ask: every daemon that answers, blank ones too, each once. Raises CommandError where none does."""
    answers = await survey(client, app.settings.endpoints, timeout_s=app.settings.timeout_s)
    require_answer(answers)
    remember(app, answers.values())
    status = chief(answers)
    wanted = find_member(status.members, replica).server.server_id if replica is not None and status is not None else None
    found: dict[str, Teller] = {}
    for address, reply in replies(answers).items():
        server = reply.server
        if wanted in (None, server.server_id):
            position = pb.EventPosition(boot_id=reply.boot_id, sequence=reply.events_sequence)
            found.setdefault(server.server_id, Teller(server.name, address, server.server_id, position))
    return list(found.values())


async def read_kept(client: ClusterClient, tellers: Sequence[Teller], query: Query) -> tuple[list[Told], list[str]]:
    """As `kept`; every teller stands behind the last of its events afterwards."""

    async def read(teller: Teller) -> list[Told] | RavelError:
        try:
            events = client.events(teller.address, since_ms=query.since_ms, limit=min(query.limit, 1_000), kinds=query.kinds)
            return [Told(teller.name, event) async for event in events]
        except RavelError as error:
            return error

    answers = await asyncio.gather(*map(read, tellers))
    found: list[Told] = []
    silent: list[str] = []
    for teller, answer in zip(tellers, answers, strict=True):
        if isinstance(answer, RavelError):
            silent.append(f"{teller.name} does not tell its events: {answer.message}")
            continue
        found += answer
        if answer:
            last = answer[-1].event
            teller.after = pb.EventPosition(boot_id=last.boot_id, sequence=last.sequence)
    return sorted(found, key=lambda told: told.order)[-query.limit :], silent


# --- following


async def follow(app: App, query: Query, printer: Printer) -> None:
    """Print what is kept, then what comes, through restarts of daemons and arrivals of members. Does not end by itself."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(dial.cluster(app))
        tellers = await find_tellers(app, client, query.replica)
        told, silent = await read_kept(client, tellers, query)
        printer.events(told)
        for line in silent:
            printer.note(line)
        coming: asyncio.Queue[Told] = asyncio.Queue(WAITING_MAX)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        for teller in tellers:
            tasks.create_task(_listen(client, teller, query, coming, printer))
        if query.replica is None:
            known = {teller.server_id for teller in tellers}
            tasks.create_task(_find_newcomers(app, client, query, known, coming, printer, tasks))
        while True:
            printer.events([await coming.get()])


async def _listen(client: ClusterClient, teller: Teller, query: Query, coming: asyncio.Queue[Told], printer: Printer) -> None:
    """Read one daemon's events for ever, waiting for it while it is away."""
    silent = False
    while True:
        try:
            async for event in client.events(teller.address, after=teller.after, kinds=query.kinds, follow=True):
                teller.after = pb.EventPosition(boot_id=event.boot_id, sequence=event.sequence)
                await coming.put(Told(teller.name, event))
                silent = False
        except RavelError as error:
            if error.reason not in _PASSING:
                printer.note(f"{teller.name} does not tell its events: {error.message}")
                return
            if not silent:
                printer.note(f"{teller.name} does not answer, waiting for it: {error.message}")
            silent = True
        await asyncio.sleep(RETRY_EVERY_S)


async def _find_newcomers(
    app: App,
    client: ClusterClient,
    query: Query,
    known: set[str],
    coming: asyncio.Queue[Told],
    printer: Printer,
    tasks: asyncio.TaskGroup,
) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        answers = await survey(client, app.settings.endpoints, timeout_s=app.settings.timeout_s)
        for address, reply in replies(answers).items():
            server = reply.server
            if server.server_id not in known:
                known.add(server.server_id)
                newcomer = Teller(server.name, address, server.server_id, pb.EventPosition(boot_id=reply.boot_id))
                tasks.create_task(_listen(client, newcomer, query, coming, printer))


# --- printing


class Printer:
    """Prints events one after the other, in columns of a fixed width, or as `-o` asks: with JSON one object a line."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._begun = False

    def events(self, events: Iterable[Told]) -> None:
        settings = self._app.settings
        for told in events:
            if settings.output in (Output.TABLE, Output.WIDE):
                self._row(told, wide=settings.output is Output.WIDE)
            else:
                emit(View("Event", data_of(told), names=(told.event.name,)), settings, sys.stdout, one_line=True)
        sys.stdout.flush()

    def note(self, line: str) -> None:
        """Prose, on stderr."""
        self._app.say(line)

    def _row(self, told: Told, *, wide: bool) -> None:
        if not self._begun:
            self._begun = True
            _write_row(TITLES)
        _write_row(row_of(told, wide=wide))


def _write_row(cells: Sequence[str]) -> None:
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)]
    sys.stdout.write("  ".join((*padded, *cells[len(WIDTHS) :])).rstrip() + "\n")


def row_of(told: Told, *, wide: bool) -> tuple[str, ...]:
    event = told.event
    more = f"  ({event.name}, term {event.term}, index {event.index or ABSENT})" if wide else ""
    return _time(event), told.by or ABSENT, _kind(event), event.text + more


def data_of(told: Told) -> dict[str, Any]:
    """One event for programs."""
    event = told.event
    return {
        "time": _moment(event),
        "replica": told.by,
        "replica_id": U64(event.replica_id),
        "boot_id": event.boot_id,
        "sequence": U64(event.sequence),
        "event_kind": _kind(event),
        "name": event.name,
        "term": U64(event.term),
        "index": U64(event.index),
        "text": event.text,
        "fields": dict(event.fields),
    }


def kinds_of(names: Collection[str]) -> tuple[pb.EventKind.ValueType, ...]:
    return tuple(pb.EventKind.Value(name.upper()) for name in names)


def _kind(event: pb.Event) -> str:
    """Its name; a number where a newer daemon knows more of them."""
    known = pb.EventKind.DESCRIPTOR.values_by_number.get(event.kind)
    return str(event.kind) if known is None else known.name.lower()


def _moment(event: pb.Event) -> datetime:
    return datetime.fromtimestamp(event.wall_ms / 1000, UTC)


def _time(event: pb.Event) -> str:
    """To the millisecond always, so that columns and eyes can compare."""
    moment = _moment(event)
    return rfc3339(moment) if moment.microsecond else rfc3339(moment).replace("Z", ".000Z")
