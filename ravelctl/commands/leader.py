"""`ravelctl leader`: who leads, and who shall."""

from __future__ import annotations

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import REPLICA, Effect, RavelGroup, pass_app
from ravelctl.cli.output import U64, View, age_text


@click.group("leader", cls=RavelGroup)
def command() -> None:
    """Show, transfer or give up leadership."""


@command.command("show", watchable=True)
@pass_app
async def show(app: App) -> View:
    """Show who leads the cluster. Exits 4 if nobody does."""
    from ravelctl.cli import dial
    from ravelctl.cluster.membership import cluster_status
    from ravelctl.cluster.overview import name_of

    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
    name = name_of(status.members, status.header.replica_id)
    address, age_s = status.server.addresses.listen, status.leader_age_ms / 1000
    return View(
        kind="Leader",
        data={
            "cluster_id": status.header.cluster_id,
            "id": U64(status.header.replica_id),
            "name": name,
            "address": address,
            "term": U64(status.header.term),
            "age_s": age_s,
            "lease_remaining_s": status.lease_remaining_ms / 1000,
        },
        body=f"{name}  {address}  term {status.header.term}  for {age_text(age_s)}",
        names=(name,),
    )


@command.command("transfer", effect=Effect.PLANS)
@click.argument("replica", type=REPLICA, required=False)
@pass_app
async def transfer(app: App, replica: str | None) -> View:
    """Hand leadership to REPLICA, a name or an id, or to the voter that is most caught up."""
    from ravelctl.cluster import changes

    return await changes.transfer(app, replica)


@command.command("stepdown", effect=Effect.PLANS)
@pass_app
async def step_down(app: App) -> View:
    """Have the leader stop leading, and the voters elect.

    For when a transfer does not succeed. They may elect the same one again; until they have elected, nothing can be written.
    """
    from ravelctl.cluster import changes

    return await changes.step_down(app)
