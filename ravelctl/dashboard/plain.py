"""One plain frame, for a pipe or a terminal that cannot be drawn on. No Textual."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import View
from ravelctl.client.errors import RavelError
from ravelctl.cluster.overview import without_place
from ravelctl.dashboard.fleet import FleetRow, arranged, fleet_lines
from ravelctl.dashboard.listing import GROUP, clusters_of
from ravelctl.dashboard.model import Freshness, Sight
from ravelctl.dashboard.observer import Picture
from ravelctl.dashboard.panels import plain_frame
from ravelctl.dashboard.recording import Player, Recording
from ravelctl.dashboard.session import Live
from ravelctl.dashboard.text import plain

if TYPE_CHECKING:
    from ravelctl.dashboard.session import Options
    from ravelpb.v1.admin_pb2 import DirectoryResponse

FRAME_INTERVAL_S: Final = 0.5
"""Two frames make rates."""
PATIENCE_S: Final = 3.0
"""So long a daemon may take to answer or to be given up."""
POLL_S: Final = 0.02
FLEET_COLUMNS_WIDE: Final = 160
"""Nothing of the table of clusters is left out in a pipe."""


async def one_frame(options: Options) -> View:
    """What a screen would show, as text: the cluster, or all that an admin lists. Raises CommandError (3) if nobody answers."""
    live = Live(options, options.target, interval_s=FRAME_INTERVAL_S)
    task = asyncio.create_task(live.run())
    asking = asyncio.create_task(_list_of(options))
    try:
        await _settled(live, task)
        if any(sight.status is not None for sight in live.observer.sights) and (directory := await asking) is not None:
            return await _fleet_frame(options, live, directory)
    finally:
        for one in (task, asking):
            one.cancel()
        await asyncio.gather(task, asking, return_exceptions=True)
    live.look(at_interval=True)
    picture = live.look(at_interval=True)  # an alarm stands once two views break its rule
    if not any(row.fresh for row in picture.view.replicas):
        why = (
            "; ".join(sorted({without_place(row.address, row.error) for row in picture.view.replicas if row.error}))
            or "no answer in time"
        )
        raise CommandError(
            f"no daemon answers at {', '.join(options.target.endpoints)}: {why}",
            code=ExitCode.UNREACHABLE,
            next_step="check that the daemons run, or name others with --endpoints",
            reason="UNREACHABLE",
        )
    return _view(picture)


async def _list_of(options: Options) -> DirectoryResponse | None:
    """What the daemons of the target list, if they are admin servers."""
    if options.admin is None:
        return None
    with suppress(RavelError, CommandError):
        async with options.admin() as client:
            return await client.directory(timeout_s=PATIENCE_S)
    return None


async def _fleet_frame(options: Options, group: Live, directory: DirectoryResponse) -> View:
    """All clusters, and the admin group, each looked at for a moment and all at once."""
    listed = clusters_of(directory, options)
    lives = {name: Live(options, one.target, interval_s=FRAME_INTERVAL_S) for name, one in listed.items()}
    tasks = {name: asyncio.create_task(live.run()) for name, live in lives.items()}
    try:
        await asyncio.gather(*(_settled(live, tasks[name]) for name, live in lives.items()))
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    for live in (group, *lives.values()):
        live.look(at_interval=True)
        live.look(at_interval=True)  # as for one
    rows = arranged(
        [FleetRow(GROUP, group.picture), *(FleetRow(name, live.picture, listed[name].slots) for name, live in lives.items())],
        "trouble",
    )
    title, lines = fleet_lines(rows, FLEET_COLUMNS_WIDE)
    text = "".join(f"{plain(spans).rstrip()}\n" for spans in (title, *(spans for _, spans in lines)))
    return View("TopFleet", {"clusters": list(map(_cluster_data, rows))}, body=text, names=tuple(row.name for row in rows))


def _cluster_data(row: FleetRow) -> dict[str, object]:
    view = row.picture.view if row.picture is not None else None
    return {
        "name": row.name,
        "health": row.health,
        "leader": view.leader.name if view is not None and view.leader is not None else "",
        "term": view.term if view is not None else None,
        "voters": view.voters if view is not None else None,
        "acknowledging": view.acknowledging if view is not None else None,
        "slots": row.slots,
        "reached": row.reached,
    }


async def _settled(live: Live, task: asyncio.Task[None]) -> None:
    """Until every daemon has answered twice or cannot be reached."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while loop.time() < deadline and not task.done():
        sights = live.observer.sights
        if sights and all(_has_said_enough(sight) for sight in sights):
            return
        await asyncio.sleep(POLL_S)


def _has_said_enough(sight: Sight) -> bool:
    """Two frames, unless it is gone, blank, or of a version that counts nothing."""
    if sight.error or sight.before is not None:
        return True
    return sight.status is not None and not sight.status.HasField("counters")


def replayed_frame(path: Path) -> View:
    """The last frame of a recording."""
    player = Player(Recording(path))
    player.seek(player.recording.length_ms)
    return _view(player.picture, notes=(f"{path} is damaged: {player.damage}",) if player.damage else ())


def _view(picture: Picture, notes: tuple[str, ...] = ()) -> View:
    view = picture.view
    data = {
        "cluster": view.name,
        "term": view.term,
        "leader": view.leader.name if view.leader is not None else "",
        "voters": view.voters,
        "quorum": view.quorum,
        "acknowledging": view.acknowledging,
        "replicas": [
            {
                "name": row.name,
                "role": row.role.value,
                "state": row.state,
                "lag": row.lag,
                "lag_ms": row.lag_ms,
                "reached": row.freshness is Freshness.LIVE,
            }
            for row in view.replicas
        ],
        "alarms": [{"severity": alarm.severity.name, "text": alarm.breach.text} for alarm in picture.alarms],
    }
    return View("Top", data, body=plain_frame(picture), names=tuple(row.name for row in view.replicas), notes=notes)
