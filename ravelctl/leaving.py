"""A server leaves for good: its cluster, by the cluster's own leader, and the admin's list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ravelctl import changes, dial
from ravelctl.app import App
from ravelctl.directory import find_server, names_of
from ravelctl.membership import cluster_status
from ravelctl.output import View
from ravelpb.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import AdminClient
    from ravelctl.dial import Wait

RECORD_TIMEOUT_S: Final = 60.0
"""How long the leader of a cluster may take to report that a server is out, unless --timeout says otherwise."""


async def leave(app: App, word: str) -> View:
    """Marked, out of the cluster, off the list: each step only where it is still to be done."""
    async with dial.admin(app) as admin:
        directory = await admin.directory()
        server = find_server(directory, word)
        server_id = server.server.server_id
        name = f"{names_of(directory.clusters).get(server.cluster, '?')}/{server.server.name}"
        answer = await admin.mark_leaving(server_id, dry_run=True)
        if answer.last:
            return await _with_its_cluster(app, admin, answer, name)
        dry = await _out_of_its_cluster(app, admin, answer)
        if dry is not None:
            return dry
        with app.progress(f"leave {name}:") as progress:
            await _off_the_list(admin, server_id, name, dial.Wait(app.settings.wait_timeout_s(RECORD_TIMEOUT_S), progress))
    return _left(name, server_id, f"{name} has left its cluster and is off the list")


async def _with_its_cluster(app: App, admin: AdminClient, answer: pb.MarkLeavingResponse, name: str) -> View:
    """The last one of a cluster that owns no slots."""
    said = f"{name} is the last server of cluster {answer.cluster.name}, which owns no slots and goes with it"
    if app.settings.dry_run:
        return View(
            kind="AdminLeave",
            data={"server": name, "server_id": answer.server.server.server_id, "left": False, "cluster_goes": True},
            body=said,
            names=(name,),
            notes=("dry run: nothing was changed",),
        )
    app.confirm(f"{said}. Take it out?")
    await admin.mark_leaving(answer.server.server.server_id)
    return _left(
        name,
        answer.server.server.server_id,
        f"{name} and cluster {answer.cluster.name} are off the list",
        notes=("its daemon may be stopped now; its data directory stays as it is",),
    )


async def _out_of_its_cluster(app: App, admin: AdminClient, answer: pb.MarkLeavingResponse) -> View | None:
    """Mark it and take it out, after the cluster's verdict and a yes. With --dry-run: the view that the command ends with."""
    server_id = answer.server.server.server_id

    async def mark() -> None:
        await admin.mark_leaving(server_id)

    if answer.addresses:
        # Not with the context's cluster id, which is the admin group's.
        async with dial.cluster(app, tuple(answer.addresses), cluster_id=answer.cluster.cluster_id) as client:
            status = await cluster_status(app, client, answer.addresses, need_leader=True)
            member = next((one for one in status.members if one.server.server_id == server_id), None)
            if member is not None:
                change = changes.removal(client, status.cluster_name, [member], first=mark)
                view = await changes.made(app, client, status, change)
                app.say(f"{member.server.name} is out of cluster {status.cluster_name}")
                return view if app.settings.dry_run else None
    if app.settings.dry_run:
        said = f"would take {answer.server.server.name} off the list: it is in no cluster's membership"
        return View(
            kind="AdminLeave", data={"server_id": server_id, "left": False}, body=said, notes=("dry run: nothing was changed",)
        )
    await mark()
    return None


async def _off_the_list(admin: AdminClient, server_id: str, name: str, wait: Wait) -> None:
    """Until no server of this id is there."""

    async def look() -> tuple[()] | str:
        there = any(server.server.server_id == server_id for server in (await admin.directory()).servers)
        return f"{name} is marked as leaving; its cluster's leader has yet to report that it is out" if there else ()

    await wait.until(look, f"the end of the record of {name}")


async def forget(app: App, word: str) -> View:
    """Strike a server that no membership has."""
    async with dial.admin(app) as admin:
        directory = await admin.directory()
        server = find_server(directory, word)
        name = f"{names_of(directory.clusters).get(server.cluster, '?')}/{server.server.name}"
        if app.settings.dry_run:
            notes = ("dry run: nothing was changed",)
            return View(kind="AdminForget", data={"server": name, "changed": False}, body=f"would forget {name}", notes=notes)
        app.confirm(f"forget {name}? If it ever comes back, it is a new server.")
        await admin.forget(server.server.server_id)
    return View(
        kind="AdminForget",
        data={"server": name, "server_id": server.server.server_id, "changed": True},
        body=f"{name} is off the list",
        names=(name,),
    )


def _left(name: str, server_id: str, said: str, notes: tuple[str, ...] = ()) -> View:
    return View(
        kind="AdminLeave", data={"server": name, "server_id": server_id, "left": True}, body=said, names=(name,), notes=notes
    )
