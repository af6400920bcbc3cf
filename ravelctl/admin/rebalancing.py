"""Slots on the move, as an operator starts, follows and stops them. The moves themselves are the admin's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ravelctl.admin.copy_progress import CopyRow, copy_row, copy_text
from ravelctl.admin.directory import find_cluster, move_rows, names_of
from ravelctl.admin.views import plan_table, plan_view
from ravelctl.cli import dial
from ravelctl.cli.app import App, Progress
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import U64, View, age_text, count_text, plain_text, size_text
from ravelctl.client.connection.rules import RETRYABLE
from ravelctl.client.errors import DeadlineError, RavelError
from ravelctl.config.settings import Output
from ravelpb.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import AdminClient

PATIENCE_S: Final = 60.0
"""How long no admin may answer before a rebalance is given up being watched. It goes on all the same."""

MOVES_TOLD: Final = 3
"""Under way at once, on one line."""

HOW_TO_LOOK: Final = "`ravelctl admin rebalance --follow` looks again, `ravelctl admin rebalance --stop` calls them off"


@dataclass(slots=True)
class Way:
    """How far the moves are, as last told."""

    names: Mapping[int, str] = field(default_factory=dict)  # of clusters, by number
    total: int = 0  # slots, moved or not
    left: int = 0
    keys: int = 0
    bytes: int = 0
    copying: CopyRow = field(default_factory=lambda: copy_row(pb.CopyProgress()))
    obstacle: str = ""

    def take(self, message: pb.RebalanceResponse) -> None:
        self.left = message.slots_left
        self.total = max(self.total, message.slots_moved + message.slots_left)
        self.keys = max(self.keys, message.keys_moved)
        self.copying = copy_row(message.copying)
        self.bytes = max(self.bytes, self.copying.bytes_copied)
        self.obstacle = message.obstacle

    @property
    def moved(self) -> int:
        return max(0, self.total - self.left)

    def words(self, message: pb.RebalanceResponse) -> str:
        """`64 of 1366 slots, 1,204 of about 9,800 keys, about 3.0s left; a -> b copying`."""
        said = f"{self.moved} of {self.total} slots, {copy_text(self.copying, self.keys) or '0 keys'}"
        rows = move_rows((move for move in message.moves if move.phase != pb.PLANNED), self.names)
        if rows:
            said += "; " + ", ".join(f"{row.source} -> {row.destination} {row.phase}" for row in rows[:MOVES_TOLD])
        return f"{said}; waits: {self.obstacle}" if self.obstacle else said


async def plan(app: App, empty: Sequence[str]) -> View:
    """What would move."""
    async with dial.admin(app) as client:
        await _known(client, empty)
        found = await client.plan_rebalance(empty)
    words = "".join(f" --empty {name}" for name in empty)
    return plan_view(found, (f"`ravelctl admin rebalance --apply{words}` moves them",) if found.moves else ())


async def _known(client: AdminClient, names: Sequence[str]) -> pb.DirectoryResponse:
    """Raises CommandError for a cluster that is not there."""
    directory = await client.directory()
    for name in names:
        find_cluster(directory, name)
    return directory


async def apply(app: App, empty: Sequence[str]) -> View:
    """Begin what the plan says, and tell how it gets on until it is done."""
    async with dial.admin(app) as client:
        return await balance(app, client, empty)


async def balance(app: App, client: AdminClient, empty: Sequence[str] = (), *, within_s: float | None = None) -> View:
    """The same with a client that is there. `within_s`: for so long at most, unless --timeout says otherwise."""
    directory = await _known(client, empty)
    found = await client.plan_rebalance(empty)
    if app.settings.dry_run:
        return plan_view(found, ("dry run: nothing was changed",))
    if not found.moves and not empty and not directory.moves:
        return plan_view(found)
    if found.moves and app.settings.output is not Output.JSON:
        app.say(plain_text(plan_table(found)).rstrip("\n"))
    way = _way(directory, found.moves)
    return await _followed(app, client, way, begin=_Begin(tuple(empty), found.map_version), within_s=within_s)


def _way(directory: pb.DirectoryResponse, planned: Iterable[pb.DirectoryMove] = ()) -> Way:
    """Before anything was told: all is left."""
    slots = sum(len(move.slots) for move in (*planned, *directory.moves))
    return Way(names_of(directory.clusters), total=slots, left=slots)


async def follow(app: App) -> View:
    """Tell how the moves that are under way get on until they are done."""
    async with dial.admin(app) as client:
        directory = await client.directory()
        if not directory.moves:
            return View(kind="Rebalance", data=_data(Way(), 0.0), body="nothing is on the move")
        return await _followed(app, client, _way(directory))


async def stop(app: App) -> View:
    """Call off what is not decided."""
    async with dial.admin(app) as client:
        directory = await client.directory()
        undecided = [move for move in directory.moves if move.phase in (pb.PLANNED, pb.COPYING)]
        if app.settings.dry_run:
            said = f"would call off {count_text(len(undecided), 'move')}"
            data = {"moves_stopped": 0, "would_stop": len(undecided)}
            return View(kind="RebalanceStop", data=data, body=said, notes=("dry run: nothing was changed",))
        stopped = (await client.stop_rebalance()).moves_stopped
    said = f"called off {count_text(stopped, 'move')}; what was moved before stays moved" if stopped else "nothing to call off"
    return View(kind="RebalanceStop", data={"moves_stopped": stopped}, body=said)


@dataclass(frozen=True, slots=True)
class _Begin:
    """What is to be begun."""

    empty: tuple[str, ...]
    map_version: int  # of the plan that was shown


async def _followed(
    app: App, client: AdminClient, way: Way, begin: _Begin | None = None, *, within_s: float | None = None
) -> View:
    began = time.monotonic()
    try:
        with app.progress("rebalance:") as progress:
            limit_s = within_s if app.settings.timeout_s is None else app.settings.timeout_s
            try:
                async with asyncio.timeout(limit_s):
                    await _told_to_the_end(client, way, progress, begin)
            except TimeoutError:
                raise CommandError(
                    f"{count_text(way.left, 'slot')} of {way.total} were not moved within {limit_s:g}s{_waits(way)}",
                    code=ExitCode.TIMED_OUT,
                    next_step=f"the moves go on: {HOW_TO_LOOK}",
                ) from None
    except asyncio.CancelledError:
        app.say(f"the moves go on: {HOW_TO_LOOK}")
        raise
    if way.left:
        raise CommandError(
            f"the moves have ended, and {count_text(way.left, 'slot')} of {way.total} stayed where they were{_waits(way)}",
            next_step="see `ravelctl admin rebalance`, and repeat it with --apply",
        )
    took_s = time.monotonic() - began
    said = (
        f"moved {count_text(way.moved, 'slot')} with {way.keys:,} key{'s' * (way.keys != 1)} ({size_text(way.bytes)})"
        f" in {age_text(took_s)}"
        if way.total
        else "nothing had to move"
    )
    return View(kind="Rebalance", data=_data(way, took_s), body=said)


def _waits(way: Way) -> str:
    return f": {way.obstacle}" if way.obstacle else ""


def _data(way: Way, took_s: float) -> dict[str, object]:
    return {
        "slots_moved": way.moved,
        "slots_left": way.left,
        "keys_moved": U64(way.keys),
        "bytes_moved": U64(way.bytes),
        "seconds": round(took_s, 3),
    }


async def _told_to_the_end(client: AdminClient, way: Way, progress: Progress, begin: _Begin | None) -> None:
    """Listen until all moves have ended; whoever of the admins leads by then. Raises RavelError where none does for long."""
    silent_since = time.monotonic()
    while True:
        try:
            async with aclosing(_messages(client, begin)) as messages:
                async for message in messages:
                    begin = None  # it is in the log
                    silent_since = time.monotonic()
                    way.take(message)
                    progress.amount(way.moved, way.total, way.words(message))
            return
        except RavelError as error:
            if error.reason not in RETRYABLE and not isinstance(error, DeadlineError):
                raise
            if time.monotonic() - silent_since > PATIENCE_S:
                raise
            progress.update(f"waits for an admin: {error.message}")
            await asyncio.sleep(dial.POLL_EVERY_S)
        if begin is not None and await _something_moves(client):
            begin = None  # it was taken, and the answer lost


async def _something_moves(client: AdminClient) -> bool:
    """As far as anybody says."""
    with suppress(RavelError):
        return bool((await client.directory()).moves)
    return False


def _messages(client: AdminClient, begin: _Begin | None) -> AsyncGenerator[pb.RebalanceResponse, None]:
    if begin is None:
        return client.rebalance(watch_only=True)
    return client.rebalance(begin.empty, map_version=begin.map_version)
