"""`ravelctl leader`: who leads, and who shall."""

from __future__ import annotations

from typing import Final

import click

from ravelctl.app import App
from ravelctl.command import REPLICA, Effect, RavelGroup, pass_app
from ravelctl.output import U64, View, age_text

MOST_CAUGHT_UP: Final = 0  # as a replica id in TransferLeader


@click.group("leader", cls=RavelGroup)
def command() -> None:
    """Show or transfer leadership."""


@command.command("show", watchable=True)
@pass_app
async def show(app: App) -> View:
    """Show who leads the cluster. Exits 4 if nobody does."""
    from ravelctl import dial
    from ravelctl.membership import cluster_status
    from ravelctl.overview import name_of

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
    from ravelctl import dial
    from ravelctl.membership import cluster_status
    from ravelctl.overview import find_member, name_of
    from ravelctl.preflight import preflight
    from ravelpb.v1 import cluster_pb2 as pb

    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        now = name_of(status.members, status.header.replica_id)
        target = find_member(status.members, replica).replica_id if replica else MOST_CAUGHT_UP
        whom = name_of(status.members, target) if target else "the voter that is most caught up"

        async def judge() -> pb.Verdict:
            return (await client.transfer_leader(target, dry_run=True)).verdict

        verdict, dry = await preflight(app, f"hand leadership from {now} to {whom}", judge, status.members)
        if dry:
            return dry
        done = await client.transfer_leader(target, expect=verdict.seen)
    name = name_of(status.members, done.leader_id)
    return View(
        kind="LeaderTransfer",
        data={"id": U64(done.leader_id), "name": name, "term": U64(done.leader_term), "before": now},
        body=f"{name} leads in term {done.leader_term}",
        names=(name,),
    )
