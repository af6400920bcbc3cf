"""`ravelctl admin`: the list of all clusters and servers, who owns which slot, and slots on the move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.byte_forms import byte_form_options, chosen_form
from ravelctl.cli.command import Effect, NameType, RavelGroup, Whole, Work, pass_app
from ravelctl.cli.errors import usage_error
from ravelctl.cli.output import View
from ravelctl.completion.names import remember_servers

if TYPE_CHECKING:
    from ravelpb.v1.admin_pb2 import DirectoryCluster

REPLICAS_MAX: Final = 9
NAME_CHARS_MAX: Final = 63
_SERVER: Final = NameType("server", "server")
_empty_option = click.option(
    "--empty", "empty", multiple=True, metavar="CLUSTER", help="This cluster is to own no slots. May be given again."
)


@click.group("admin", cls=RavelGroup)
def command() -> None:
    """List clusters, servers and slots; move slots.

    The admin group is asked: --endpoints, or the context, name some of its servers. It is itself a cluster, so `ravelctl status`,
    `doctor`, `top` and `member` work on it as on any other.
    """


@command.command("clusters", watchable=True)
@pass_app
async def clusters(app: App) -> View:
    """List clusters: leader, replicas, slots.

    REPLICAS is live/wanted. What a cluster says of itself: `ravelctl status` with the address of one of its servers.
    """
    from ravelctl.admin.views import clusters_view
    from ravelctl.cli import dial

    async with dial.admin(app) as client:
        directory = await client.directory()
    remember_servers(app, directory)
    return clusters_view(directory)


@command.command("servers", watchable=True)
@click.option("--cluster", metavar="NAME", help="Only those of this cluster.")
@pass_app
async def servers(app: App, cluster: str | None) -> View:
    """List servers: cluster, address, last heard."""
    from ravelctl.admin.directory import find_cluster
    from ravelctl.admin.views import servers_view
    from ravelctl.cli import dial

    async with dial.admin(app) as client:
        directory = await client.directory()
    remember_servers(app, directory)
    if cluster is not None:
        find_cluster(directory, cluster)
    return servers_view(directory, cluster)


@command.command("slots", watchable=True)
@click.argument("key", required=False)
@byte_form_options
@pass_app
def slots(app: App, key: str | None) -> Work:
    """Show who owns which slots, or a key's slot.

    Without KEY: which cluster owns which slots of the key space, and what is on the move. With KEY: its slot and cluster.

    A key is in one of 4,096 slots, by a hash of it; a slot is of one cluster at a time.
    """
    form = chosen_form()
    raw = None if key is None else form.read(key.encode(errors="surrogateescape"), "the key")
    if raw == b"":
        raise usage_error("a key has at least 1 byte", "name one")
    return _slots(app, raw)


async def _slots(app: App, key: bytes | None) -> View:
    from ravelctl.admin.views import KEY_SHOWN, key_view, slots_view
    from ravelctl.cli import dial

    form = chosen_form()
    async with dial.admin(app) as client:
        slot_map = await client.slot_map()
        directory = await client.directory()
    if key is None:
        return slots_view(directory, slot_map)
    return key_view(key, form.show(key, KEY_SHOWN), form.fields(key=key), directory, slot_map)


@command.command("rebalance", effect=Effect.PLANS)
@click.option("--plan", "plan", is_flag=True, help="Show what would move. [default]")
@click.option("--apply", "apply", is_flag=True, help="Move it, and tell how it gets on.")
@click.option("--follow", is_flag=True, help="Tell how the moves that are under way get on.")
@click.option("--stop", "stop", is_flag=True, help="Call off what is not yet decided. What was moved stays moved.")
@_empty_option
@pass_app
def rebalance(app: App, plan: bool, apply: bool, follow: bool, stop: bool, empty: tuple[str, ...]) -> Work:
    """Move slots: every cluster bears its share.

    Writers and readers go on meanwhile. Ctrl-C ends the watching and not the moves; `--follow` looks again.
    """
    said = [f"--{word}" for word, given in _ways(plan, apply, follow, stop).items() if given]
    if len(said) > 1:
        raise usage_error(f"{' and '.join(said)} exclude each other", "give one of them")
    if empty and (follow or stop):
        raise usage_error(f"--empty is no matter of {said[0]}", "give it with --plan or --apply")
    from ravelctl.admin import rebalancing

    if stop:
        return rebalancing.stop(app)
    if follow:
        return rebalancing.follow(app)
    return rebalancing.apply(app, empty) if apply else rebalancing.plan(app, empty)


def _ways(plan: bool, apply: bool, follow: bool, stop: bool) -> dict[str, bool]:
    return {"plan": plan, "apply": apply, "follow": follow, "stop": stop}


@command.command("leave", effect=Effect.PLANS)
@click.argument("server", type=_SERVER)
@pass_app
async def leave(app: App, server: str) -> View:
    """Take SERVER out of its cluster for good.

    SERVER is a name, CLUSTER/NAME or an id. It is marked, leaves its cluster, and goes from the list once the leader of its
    cluster has reported that it is out. Interrupted, the same command goes on where it stopped. The last server of a cluster
    goes with its cluster, if that owns no slots.
    """
    from ravelctl.admin import leaving

    return await leaving.leave(app, server)


@command.command("forget", effect=Effect.PLANS)
@click.argument("server", type=_SERVER)
@pass_app
async def forget(app: App, server: str) -> View:
    """Strike a SERVER off the list that is gone.

    SERVER is a name, CLUSTER/NAME or an id. One that is a member of its cluster is refused: `leave` is for it.
    """
    from ravelctl.admin import leaving

    return await leaving.forget(app, server)


@command.command("add-cluster", effect=Effect.PLANS)
@click.argument("name")
@click.option("--replicas", type=Whole(1, REPLICAS_MAX), help="How many it wants. [default: as it is; 3 for a new one]")
@pass_app
async def add_cluster(app: App, name: str, replicas: int | None) -> View:
    """Put a cluster on the list, or change it.

    New servers are put into the cluster that has the fewest; the first one founds it. It owns no slots before a rebalance. A
    cluster that was emptied takes part again, unless --replicas says what else is to change.
    """
    from ravelctl.cli import dial

    async with dial.admin(app) as client:
        there = {cluster.name for cluster in (await client.directory()).clusters}
        what = "change" if name in there else "add"
        if app.settings.dry_run:
            return _cluster_view(name, f"would {what} cluster {name}", changed=False, notes=("dry run: nothing was changed",))
        emptying = None if replicas else False
        cluster = (await client.set_cluster(name, replicas_wanted=replicas or 0, emptying=emptying)).cluster
    done = f"cluster {name} wants {cluster.replicas_wanted} replicas" + (
        "" if name in there else f"; it is number {cluster.number}"
    )
    step = "" if cluster.founded else f"its servers: ravel_node start --admin ADDRESS --new-cluster {name}"
    return _cluster_view(name, done, changed=True, cluster=cluster, notes=(step,) if step else ())


@command.command("remove-cluster", effect=Effect.PLANS)
@click.argument("name")
@pass_app
async def remove_cluster(app: App, name: str) -> View:
    """Strike a cluster off the list that is empty.

    One that has servers or slots is refused.
    """
    from ravelctl.admin.directory import find_cluster
    from ravelctl.cli import dial

    async with dial.admin(app) as client:
        find_cluster(await client.directory(), name)
        if app.settings.dry_run:
            return _cluster_view(name, f"would remove cluster {name}", changed=False, notes=("dry run: nothing was changed",))
        await client.remove_cluster(name)
    return _cluster_view(name, f"cluster {name} is off the list", changed=True)


@command.command("adopt", effect=Effect.PLANS)
@click.argument("cluster")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@click.option("--confirm", metavar="CLUSTER_ID", help="The old cluster's id, in place of typing it.")
@pass_app
async def adopt(app: App, cluster: str, addresses: tuple[str, ...], confirm: str | None) -> View:
    """Give a restored or recovered cluster its old place.

    `snapshot restore` and `recover apply` make a new cluster, which the list does not know. Start it with --admin, and name the
    CLUSTER of the list whose place it takes, and where it answers. The old one, which must be down, is refused from then on for
    good. Slots that it owned when it was backed up and those that the list gives it may differ by now: `ravelctl admin reconcile`
    shows that, and makes them agree.
    """
    from ravelctl.admin import adoption as adopting

    return await adopting.adopt(app, cluster, addresses, confirm)


@command.command("reconcile", effect=Effect.PLANS)
@click.option("--accept-loss", metavar="SLOTS", help="Slots that open although keys are lost: 0-99,200, or all.")
@pass_app
async def reconcile(app: App, accept_loss: str | None) -> View:
    """Make registry and clusters agree on slots.

    After a cluster or the admin group was restored, or lost, the list and the clusters may say different things about who owns
    which slot. Each cluster is asked what it owns; for each slot the newest version of the map wins; what a cluster does not own
    any more is deleted there. Slots whose keys would be lost stay as they are until --accept-loss names them. --dry-run shows
    what would be done.
    """
    from ravelctl.admin import reconciling

    return await reconciling.reconcile(app, accept_loss)


def _cluster_view(
    name: str, said: str, *, changed: bool, cluster: DirectoryCluster | None = None, notes: tuple[str, ...] = ()
) -> View:
    data: dict[str, object] = {"name": name, "changed": changed}
    if cluster is not None:
        data |= {"number": cluster.number, "replicas_wanted": cluster.replicas_wanted, "emptying": cluster.emptying}
    return View(kind="AdminCluster", data=data, body=said, names=(name,), notes=notes)
