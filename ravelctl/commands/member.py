"""`ravelctl member`: who is in the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import ENDPOINT, REPLICA, Effect, RavelGroup, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import Table, View, columns

if TYPE_CHECKING:
    from ravelpb.v1.cluster_pb2 import Member


@click.group("member", cls=RavelGroup)
def command() -> None:
    """List, promote, demote, replace, remove, update members."""


@command.command("list", watchable=True)
@pass_app
async def list_members(app: App) -> View:
    """List the members of the cluster."""
    from ravelctl.cli import dial
    from ravelctl.cluster.membership import cluster_status, member_data, member_table

    async with dial.cluster(app) as client:
        status = await cluster_status(app, client)
    return View(
        kind="MemberList",
        data={"cluster_id": status.header.cluster_id, "members": [member_data(m) for m in status.members]},
        body=member_table(status.members, status.leader_id),
        names=tuple(m.server.name for m in status.members),
    )


@command.command("promote", effect=Effect.PLANS)
@click.argument("replica", type=REPLICA, nargs=-1, required=True)
@pass_app
async def promote(app: App, replica: tuple[str, ...]) -> View:
    """Make learners voters, all in one change. REPLICA is a name or an id."""
    from ravelctl.cluster import changes

    return await changes.promote(app, replica)


@command.command("demote", effect=Effect.PLANS)
@click.argument("replica", type=REPLICA, nargs=-1, required=True)
@pass_app
async def demote(app: App, replica: tuple[str, ...]) -> View:
    """Make voters learners, all in one change. REPLICA is a name or an id.

    They keep what they have and follow on, but no longer count for the quorum. `member promote` takes it back.
    """
    from ravelctl.cluster import changes

    return await changes.demote(app, replica)


@command.command("remove", effect=Effect.PLANS)
@click.argument("replica", type=REPLICA, nargs=-1, required=True)
@pass_app
async def remove(app: App, replica: tuple[str, ...]) -> View:
    """Take replicas out for good, all in one change. REPLICA is a name or an id."""
    from ravelctl.cluster import changes

    return await changes.remove(app, replica)


@command.command("replace", effect=Effect.PLANS)
@click.argument("replica", type=REPLICA)
@click.option("--with", "address", type=ENDPOINT, help="The blank daemon that takes its place. [default: its own daemon]")
@pass_app
async def replace(app: App, replica: str, address: str | None) -> View:
    """Replace REPLICA, a name or an id, by a new replica that starts empty.

    With --with, a blank daemon joins as a learner; once it has caught up it becomes a voter and the old replica is removed, in
    one change, so that the quorum is never smaller.

    Without --with, the server itself joins again under a new id. This is for a replica that the others refuse because its data
    directory was restored from a copy (RV614). Its daemon keeps the old data in a folder of the data directory.

    If the command is interrupted, run it again.
    """
    if address is None:
        from ravelctl.cluster.replacement import rejoin

        return await rejoin(app, replica)
    from ravelctl.cluster import changes

    return await changes.replace(app, replica, address)


@command.command("update", effect=Effect.PLANS)
@click.argument("replica", type=REPLICA)
@click.option("--listen", type=ENDPOINT, help="Its new address for clients.")
@click.option("--peer", type=ENDPOINT, help="Its new address for other replicas.")
@click.option("--name", help="Its new name.")
@pass_app
def update(app: App, replica: str, listen: str | None, peer: str | None, name: str | None) -> Work:
    """Change the recorded addresses or the name of REPLICA, a name or an id."""
    if listen is None and peer is None and name is None:
        raise usage_error(f"nothing to change about {replica!r}", "give --listen, --peer or --name")
    return _update(app, replica, listen, peer, name)


async def _update(app: App, replica: str, listen: str | None, peer: str | None, name: str | None) -> View:
    from ravelctl.cli import dial
    from ravelctl.cluster.membership import cluster_status, member_data
    from ravelctl.cluster.overview import find_member
    from ravelpb.v1 import cluster_pb2 as pb

    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        before = find_member(status.members, replica)
        after = pb.Member()
        after.CopyFrom(before)
        after.server.name = name or before.server.name
        after.server.addresses.listen = listen or before.server.addresses.listen
        after.server.addresses.peer = peer or before.server.addresses.peer
        dry = app.settings.dry_run
        expect = pb.Expectation(term=status.header.term, config_index=status.config_index)
        after = (await client.update_member(before.replica_id, after.server, dry_run=dry, expect=expect)).member
    return View(
        kind="MemberUpdate",
        data={"before": member_data(before), "after": member_data(after), "changed": not dry},
        body=_difference(before, after),
        names=(after.server.name,),
        notes=("dry run: nothing was changed",) if dry else (),
    )


def _difference(before: Member, after: Member) -> Table:
    def row(label: str, member: Member) -> tuple[str, ...]:
        return (label, str(member.replica_id), member.server.name, member.server.addresses.listen, member.server.addresses.peer)

    return Table(columns=columns("", "ID", "NAME", "CLIENTS", "PEERS"), rows=(row("before", before), row("after", after)))
