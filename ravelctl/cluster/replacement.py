"""`member replace` without a new machine: the same server, with an empty data directory and under a new replica id.

For a replica that has no place in its cluster any more, because its data directory was restored from a copy, or because it was
removed. Its daemon sets the old data aside, starts again as a blank one, and joins. Each step can be repeated: the next run
finishes an interrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ravelctl.cli import dial
from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import View
from ravelctl.client.errors import RavelError, UnreachableError
from ravelctl.cluster.changes import Change, listed, removal
from ravelctl.cluster.founding import join
from ravelctl.cluster.membership import cluster_status
from ravelctl.cluster.overview import find_member
from ravelctl.cluster.preflight import preflight
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient


async def rejoin(app: App, word: str) -> View:
    """Remove a member, empty its data directory, and take its server in again. Raises CommandError (5) if it still takes part."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        old = find_member(status.members, word)
        address = old.server.addresses.listen
        daemon = await client.status(address)
        change = removal(client, status.cluster_name, [old])
        title = f"replace {listed([old])} by the same server with an empty data directory"
        folder = await _folder(client, daemon, old, address)

        async def judge() -> pb.Verdict:
            return (await change.ask(dry_run=True)).verdict

        aside = f" Its data is kept in {folder}/ of its data directory." if folder else ""
        question = f"{title}? The id {old.replica_id} is never used again.{aside}"
        verdict, dry = await preflight(app, title, judge, status.members, question=question)
        if dry:
            return dry
        via = [member.server.addresses.listen for member in status.members if member.replica_id != old.replica_id]
        await _remove(app, change, verdict, address, via[0])
        if folder:
            await reset(app, client, address, daemon.server.server_id)
    return await join(app, address, via, promote=True, wait=True)


async def _folder(client: ClusterClient, daemon: pb.StatusResponse, old: pb.Member, address: str) -> str:
    """Return where the daemon will keep its data; empty for one that is blank. Raises CommandError (5) if it takes part."""
    name = old.server.name
    if daemon.blank:
        return ""
    if daemon.server.server_id != old.server.server_id:
        raise CommandError(
            f"at {address} answers server {daemon.server.server_id[:8]}, not {name} (server {old.server.server_id[:8]})",
            code=ExitCode.REFUSED,
            next_step=f"start the daemon of {name}, or name another one: `ravelctl member replace {name} --with ADDRESS`",
        )
    try:
        return (await client.reset(address, old.server.server_id, dry_run=True)).folder
    except RavelError as error:
        raise CommandError(
            f"{name} cannot be replaced by itself: {error.message}",
            code=ExitCode.REFUSED,
            next_step=f"to put another daemon in its place, `ravelctl member replace {name} --with ADDRESS`",
            reason=error.reason,
        ) from None


async def _remove(app: App, change: Change, verdict: pb.Verdict, address: str, via: str) -> None:
    await change.ask(expect=verdict.seen, timeout_s=app.settings.wait_timeout_s(30.0))
    app.say(f"{change.done}; if this is interrupted now, `ravelctl join {address} --via {via} --reset` goes on")


async def reset(app: App, client: ClusterClient, address: str, server_id: str) -> None:
    """Have the daemon at `address` set its data aside, and wait until it answers as a blank one."""
    folder = (await client.reset(address, server_id)).folder
    app.say(f"the data of the daemon at {address} is kept in {folder}/ of its data directory, which can be deleted")

    async def blank() -> pb.StatusResponse | str:
        try:
            now = await client.status(address)
        except UnreachableError:
            return "it starts again"
        return now if now.server.server_id != server_id else "it is about to start again"

    with app.progress(f"reset {address}:") as progress:
        await dial.Wait(app.settings.wait_timeout_s(), progress).until(blank, "the start of the daemon")


async def reset_first(app: App, address: str, via: Sequence[str]) -> None:
    """As `reset`, for a daemon that is to join next; one that is blank already stays as it is."""
    async with dial.cluster(app, tuple(via)) as client:
        daemon = await client.status(address)
        if daemon.blank:
            return
        folder = (await client.reset(address, daemon.server.server_id, dry_run=True)).folder
        if app.settings.dry_run:
            app.say(f"{daemon.server.name} would keep its data in {folder}/ of its data directory and start again blank")
            return
        app.confirm(f"set aside the data of {daemon.server.name} at {address}, in {folder}/ of its data directory?")
        await reset(app, client, address, daemon.server.server_id)
