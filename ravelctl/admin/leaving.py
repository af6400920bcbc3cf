"""A server leaves for good: its cluster, by the cluster's own leader, and the admin's list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ravelctl.admin.directory import find_server, names_of
from ravelctl.cli import dial
from ravelctl.cli.app import App
from ravelctl.cli.output import View
from ravelctl.client.services.leaving import leave_through_admin
from ravelctl.cluster.membership import cluster_status
from ravelctl.cluster.preflight import preflight
from ravelctl.completion.names import remember_servers
from ravelpb.v1 import admin_pb2 as pb
from ravelpb.v1 import cluster_pb2

if TYPE_CHECKING:
    from ravelctl.client import AdminClient

LEAVE_TIMEOUT_S: Final = 60.0
"""For all of it, unless --timeout says otherwise: the leader of a cluster must also report that the server is out."""


async def leave(app: App, word: str) -> View:
    """Judged and confirmed; then marked, out of the cluster, off the list: each step only where it is still to be done."""
    async with dial.admin(app) as admin:
        server, name = await _meant(app, admin, word)
        server_id = server.server.server_id
        answer = await admin.mark_leaving(server_id, dry_run=True)
        dry = await (_judged_last if answer.last else _judged)(app, answer, name)
        if dry is not None:
            return dry
        with app.progress(f"leave {name}:") as progress:
            progress.update("until its cluster's leader has reported that it is out")
            timeout_s = app.settings.wait_timeout_s(LEAVE_TIMEOUT_S)
            await leave_through_admin(admin, server_id, tls=dial.tls(app), timeout_s=timeout_s)
    gone = f"{name} and cluster {answer.cluster.name} are off the list" if answer.last else f"{name} has left its cluster"
    return View(
        kind="AdminLeave",
        data={"server": name, "server_id": server_id, "left": True, "cluster_gone": answer.last},
        body=gone,
        names=(name,),
        notes=("its daemon may be stopped now; its data directory stays as it is, and never takes part again",),
    )


async def _meant(app: App, admin: AdminClient, word: str) -> tuple[pb.DirectoryServer, str]:
    """The server, and CLUSTER/NAME. Raises CommandError as `find_server`."""
    directory = await admin.directory()
    remember_servers(app, directory)
    server = find_server(directory, word)
    return server, f"{names_of(directory.clusters).get(server.cluster, '?')}/{server.server.name}"


async def _judged_last(app: App, answer: pb.MarkLeavingResponse, name: str) -> View | None:
    """The last one of a cluster that owns no slots. With --dry-run: the view that the command ends with."""
    said = f"{name} is the last server of cluster {answer.cluster.name}, which owns no slots and goes with it"
    if app.settings.dry_run:
        return _dry(said, name, answer)
    app.confirm(f"{said}. Take it out?")
    return None


async def _judged(app: App, answer: pb.MarkLeavingResponse, name: str) -> View | None:
    """The verdict of its cluster's leader, and a yes; without either where it is in no membership any more."""
    server_id = answer.server.server.server_id
    if answer.addresses:
        # Not with the context's cluster id, which is the admin group's.
        async with dial.cluster(app, tuple(answer.addresses), cluster_id=answer.cluster.cluster_id) as client:
            status = await cluster_status(app, client, answer.addresses, need_leader=True)
            member = next((one for one in status.members if one.server.server_id == server_id), None)
            if member is not None:
                replica_id = member.replica_id

                async def judge() -> cluster_pb2.Verdict:
                    return (await client.leave([replica_id], dry_run=True)).verdict

                title = f"take {name} out of its cluster for good"
                return (await preflight(app, title, judge, status.members, question=f"{title}?"))[1]
    return _dry(f"{name} is in no membership, and goes from the list", name, answer) if app.settings.dry_run else None


def _dry(said: str, name: str, answer: pb.MarkLeavingResponse) -> View:
    data = {"server": name, "server_id": answer.server.server.server_id, "left": False, "cluster_gone": False}
    return View(kind="AdminLeave", data=data, body=said, names=(name,), notes=("dry run: nothing was changed",))


async def forget(app: App, word: str) -> View:
    """Strike a server that no membership has."""
    async with dial.admin(app) as admin:
        server, name = await _meant(app, admin, word)
        dry = app.settings.dry_run
        if not dry:
            app.confirm(f"forget {name}? If it ever comes back, it is a new server.")
            await admin.forget(server.server.server_id)
    return View(
        kind="AdminForget",
        data={"server": name, "server_id": server.server.server_id, "changed": not dry},
        body=f"would forget {name}" if dry else f"{name} is off the list",
        names=(name,),
        notes=("dry run: nothing was changed",) if dry else (),
    )
