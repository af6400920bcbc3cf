"""A cluster that came back under another id takes its old place in the admin's list: looked at, confirmed, done, waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ravelctl.admin.directory import find_cluster
from ravelctl.cli import dial
from ravelctl.cli.app import App
from ravelctl.cli.confirmation import typed_id
from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import U64, View, count_text
from ravelctl.config.settings import endpoint
from ravelpb.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import AdminClient

REGISTERED_S: Final = 30.0
"""How long the new cluster may take to report, unless --timeout says otherwise: a daemon that was refused asks every 2 s."""

LOOK_S: Final = 0.3
RECONCILE: Final = "what it owns may be older than what the list says: see `ravelctl admin reconcile --dry-run`"


async def adopt(app: App, name: str, words: Sequence[str], confirm: str | None) -> View:
    """Look, ask, do, and wait until the new cluster has registered."""
    try:
        addresses = [endpoint(word) for word in words]
    except ValueError as error:
        raise usage_error(str(error)) from error
    async with dial.admin(app) as admin:
        find_cluster(await admin.directory(), name)
        found = await admin.adopt(name, addresses, dry_run=True)
        if found.done:
            return _view(found, f"cluster {name} is {found.cluster_id[:8]} already", changed=False, notes=(RECONCILE,))
        app.say("\n".join(told(found)))
        if app.settings.dry_run:
            would = f"would give {found.cluster_id[:8]} the place of cluster {name}"
            return _view(found, would, changed=False, notes=("dry run: nothing was changed",))
        typed_id(app, found.cluster.cluster_id, confirm, look="ravelctl admin clusters -o wide", done="changed")
        found = await admin.adopt(name, addresses, cluster_id=found.cluster_id)
        with app.progress(f"adopt {name}:") as progress:
            progress.update("until its servers have registered")
            reported = await _reported(admin, found.cluster_id, app.settings.wait_timeout_s(REGISTERED_S))
    late = (
        () if reported else ("its servers have not registered yet: start them with --admin; `ravelctl admin servers` shows them",)
    )
    return _view(found, f"cluster {name} is {found.cluster_id[:8]} now", changed=True, notes=(*late, RECONCILE))


def told(found: pb.AdoptResponse) -> list[str]:
    """What would become of it, line by line."""
    old = found.cluster
    members = ", ".join(server.name for server in found.members)
    lines = [
        f"cluster {old.name}, number {old.number}: {old.cluster_id[:8]} is superseded by {found.cluster_id[:8]} "
        f"({found.cluster_name}: {members}; revision {found.revision:,})"
    ]
    if found.struck:
        names = ", ".join(entry.server.name or entry.server.server_id[:8] for entry in found.struck)
        lines.append(f"its {count_text(len(found.struck), 'server')} {names} go from the list, and are refused for good")
    if found.moves_called_off:
        lines.append(f"{count_text(found.moves_called_off, 'move')} of its slots that were not decided are called off")
    return lines


def _view(found: pb.AdoptResponse, said: str, *, changed: bool, notes: tuple[str, ...]) -> View:
    data = {
        "cluster": found.cluster.name,
        "number": found.cluster.number,
        "superseded": found.cluster.cluster_id if not found.done else "",
        "cluster_id": found.cluster_id,
        "cluster_name": found.cluster_name,
        "revision": U64(found.revision),
        "members": [server.name for server in found.members],
        "struck": [entry.server.server_id for entry in found.struck],
        "moves_called_off": found.moves_called_off,
        "changed": changed,
    }
    return View(kind="AdminAdopt", data=data, body=said, names=(found.cluster.name,), notes=notes)


async def _reported(admin: AdminClient, cluster_id: str, timeout_s: float) -> bool:
    """Whether the leader of this cluster has registered and reported in time."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while asyncio.get_running_loop().time() < deadline:
        directory = await admin.directory()
        leaders = {one.leader_id for one in directory.clusters if one.cluster_id == cluster_id and one.leader_id}
        if any(server.server.server_id in leaders and server.server.name for server in directory.servers):
            return True
        await asyncio.sleep(LOOK_S)
    return False
