"""`ravelctl playground`: real clusters on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.cli.app import App
from ravelctl.cli.command import TLS_OPTIONS, Effect, NameType, RavelGroup, Whole, pass_app
from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.output import ABSENT, U64, Table, View, columns, count_text

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient
    from ravelctl.playground.processes import Playground, Replica

REPLICAS: Final = 3
REPLICAS_MAX: Final = 9
CLUSTERS_MAX: Final = 9
ADMINS: Final = 3
ADMINS_MAX: Final = 5
LEADER: Final = "leader"


def _dir_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    text = f"Where it lives. [default: {default}]"
    return click.option("--dir", "folder", metavar="DIR", type=click.Path(file_okay=False), help=text)


_new_dir = _dir_option("~/.local/state/ravel/playground")
_dir = _dir_option("~/.local/state/ravel/playground, else the only one elsewhere")

PLAYER: Final = NameType("replica", "player")


@click.group("playground", cls=RavelGroup)
@pass_app
def command(app: App) -> None:
    """Run a real cluster of daemons on this machine, to try things out."""
    app.local = True
    for name in TLS_OPTIONS:  # its daemons speak plain text on loopback, whatever variables say of other clusters
        app.given.pop(name, None)


@command.command("up", effect=Effect.PLANS)
@click.option("--replicas", type=Whole(1, REPLICAS_MAX), help=f"How many, in each cluster. [default: {REPLICAS}]")
@click.option("--clusters", type=Whole(1, CLUSTERS_MAX), help="How many clusters; with admins more may be added later.")
@click.option(
    "--admins",
    type=Whole(1, ADMINS_MAX),
    help=f"How many admin servers keep the list of the clusters. [default: none; {ADMINS} for several clusters]",
)
@click.option("--http", is_flag=True, help="The first admin server serves HTTP too.")
@_new_dir
@click.option("--detach/--attach", default=True, help="Leave the daemons running, or stop them with Ctrl-C.", show_default=True)
@pass_app
async def up(
    app: App, replicas: int | None, clusters: int | None, admins: int | None, http: bool, folder: str | None, detach: bool
) -> View:
    """Start a cluster, or what is down of it.

    With --clusters or --admins it is the whole system: an admin group (a1 a2 a3) and the clusters that it lists (c1 c2, with the
    replicas n1 n2 ...). More --clusters than there are adds some.

    It leaves a context named playground behind, which is the current one if there is no other; `down` takes it away.
    """
    from ravelctl.playground import processes, system
    from ravelctl.playground.known import remember
    from ravelctl.playground.wanted import Wanted

    where = processes.folder_named(folder)
    ground = processes.load(where)
    wanted = Wanted(replicas, clusters, admins, http)
    if ground is None:
        if app.settings.dry_run:
            return _planned(f"make {wanted.words} in {where}", ())
        ground = wanted.planned(where)
        processes.save(ground)
    else:
        wanted.check(ground)
        if clusters is not None and clusters > len(ground.clusters):
            if app.settings.dry_run:
                return _planned(f"add {count_text(clusters - len(ground.clusters), 'cluster')} in {where}", ())
            ground = processes.with_clusters(ground, clusters, replicas or len(ground.of(ground.clusters[0])))
            processes.save(ground)
    if app.settings.dry_run:
        down = tuple(replica.name for replica in ground.replicas if not replica.alive)
        return _planned(f"start {', '.join(down) or 'nothing'} in {where}", down)
    remember(where)
    ground = processes.start_network(ground)
    if ground.admins:
        ground = await system.brought_up(app, ground)
    else:
        for replica in ground.replicas:
            ground = system.started(app, ground, replica)
        ground = await _founded(app, ground)
    context, ways = _reached(app, ground)
    if not detach:
        await _stay(app, ground, ways)
    return _view(ground, context, ways)


def _reached(app: App, ground: Playground) -> tuple[str, tuple[str, ...]]:
    """Leave a context behind: its name (empty: none could be made), and how the next command finds the cluster."""
    from ravelctl.playground import context as playground_context

    export = f"export RAVELCTL_ENDPOINTS={','.join(ground.endpoints)}"
    try:
        name, current = playground_context.keep(ground)
    except CommandError as error:
        return "", (f"no context was made: {error.message}", export)
    if "endpoints" in app.given:
        origin = app.origins["endpoints"].removeprefix("variable ")
        return name, (f"{origin} is stronger than the context {name}; to mean these daemons:", export)
    if app.given.get("context", name) != name or not current:
        return name, (f"reach it with `--context {name}`, or make it the current one: ravelctl context use {name}",)
    if ground.admins:
        each = ", ".join(f"--context {name}-{cluster}" for cluster in ground.clusters[:2])
        words = f"`ravelctl admin clusters`, `ravelctl top`, and of one cluster `ravelctl status` with {each}"
        http = (f"HTTP at http://{ground.http}, described at http://{ground.http}/",) if ground.http else ()
        return name, (f"the current context is {name} now, the admin group: try {words}", *http)
    return name, (f"the current context is {name} now: try `ravelctl status`, `ravelctl top`",)


async def _founded(app: App, ground: Playground) -> Playground:
    """Wait until all daemons answer, make them one cluster, and remember who they are in it."""
    from dataclasses import replace

    from ravelctl.cli import dial
    from ravelctl.cluster.founding import found
    from ravelctl.playground import processes
    from ravelctl.playground.system import answering

    async with dial.cluster(app, ground.endpoints) as client:
        with app.progress("playground:") as progress:
            for replica in ground.replicas:
                await answering(app, replica, dial.Wait(app.settings.wait_timeout_s(), progress))
        if not all(replica.replica_id for replica in ground.replicas):
            await found(app, ground.endpoints, ground.cluster_name)
        else:
            await _leader(app, client, ground.endpoints)
        for replica in ground.replicas:
            status = await client.status(replica.listen)
            ground = replace(
                ground.with_replica(replace(replica, replica_id=status.header.replica_id)), cluster_id=status.header.cluster_id
            )
    processes.save(ground)
    return ground


async def _leader(app: App, client: ClusterClient, endpoints: tuple[str, ...]) -> str:
    """The name of the replica that leads. Raises CommandError where none does within the time."""
    from ravelctl.cli import dial
    from ravelctl.cluster.overview import overview, survey

    async def look() -> str | tuple[str]:
        found = overview(await survey(client, endpoints, timeout_s=app.settings.timeout_s))
        return (found.leader,) if found.leader else "waiting for a leader"

    with app.progress("playground:") as progress:
        return (await dial.Wait(app.settings.wait_timeout_s(), progress).until(look, "a leader"))[0]


async def _stay(app: App, ground: Playground, ways: tuple[str, ...]) -> None:
    """Until Ctrl-C, which stops the daemons; their data stays."""
    import asyncio

    from ravelctl.playground import processes

    for line in (*ways, f"endpoints {','.join(ground.endpoints)}; Ctrl-C stops the daemons"):
        app.say(line)
    try:
        await asyncio.Event().wait()
    finally:
        processes.stop(ground.replicas)
        processes.save(processes.stop_network(ground))
        _forget(ground)


def _forget(ground: Playground) -> str:
    """Take its context away, and say so. A file of contexts that is broken does not keep a playground from going down."""
    from ravelctl.playground import context as playground_context

    try:
        names = playground_context.forget(ground)
    except CommandError as error:
        return f"its context stays: {error.message}"
    if len(names) > 1:
        return f"the contexts {', '.join(names)} are gone"
    return f"the context {names[0]} is gone" if names else ""


@command.command("kill", effect=Effect.PLANS)
@click.argument("name", type=PLAYER)
@_dir
@pass_app
async def kill(app: App, name: str, folder: str | None) -> View:
    """Crash the daemon of NAME, or of `leader`.

    It gets SIGKILL. `leader` is whichever leads; with admins it is `c1/leader`, `admin/leader`.
    """
    from ravelctl.playground import processes
    from ravelctl.playground.known import folder_meant

    ground = processes.require(folder_meant(folder))
    replica = ground.find(await _named(app, ground, name))
    if app.settings.dry_run:
        return _planned(f"kill {replica.name}", (replica.name,))
    processes.kill(replica)
    return View(kind="PlaygroundKill", data=_replica_data(replica), body=f"killed {replica.name}", names=(replica.name,))


async def _named(app: App, ground: Playground, word: str) -> str:
    """The name meant: `leader` is whichever leads."""
    from ravelctl.cli import dial

    words = ground.leader_words
    if word not in words:
        if word == LEADER:
            raise usage_error("there are several leaders", f"name one of them: {', '.join(words)}")
        return word
    endpoints = tuple(replica.listen for replica in ground.of(words[word]))
    async with dial.cluster(app, endpoints) as client:
        return await _leader(app, client, endpoints)


def _planned(what: str, names: tuple[str, ...]) -> View:
    return View(
        kind="PlaygroundPlan",
        data={"would": what, "replicas": list(names)},
        body=f"would {what}",
        names=names,
        notes=("dry run: nothing was changed",),
    )


@command.command("pause", effect=Effect.PLANS)
@click.argument("name", type=PLAYER)
@_dir
@pass_app
async def pause(app: App, name: str, folder: str | None) -> View:
    """Have the daemon of NAME, or of `leader`, hang.

    It gets SIGSTOP; `start` and `heal` let it go on. `leader` is whichever leads; with admins it is `c1/leader`, `admin/leader`.
    """
    from ravelctl.playground import processes
    from ravelctl.playground.known import folder_meant

    ground = processes.require(folder_meant(folder))
    replica = ground.find(await _named(app, ground, name))
    if app.settings.dry_run:
        return _planned(f"pause {replica.name}", (replica.name,))
    processes.pause(replica)
    return View(kind="PlaygroundPause", data=_replica_data(replica), body=f"paused {replica.name}", names=(replica.name,))


@command.command("partition", effect=Effect.PLANS)
@click.argument("group", nargs=-1, required=True, type=PLAYER, metavar="NAME[,NAME]...")
@_dir
@pass_app
async def partition(app: App, group: tuple[str, ...], folder: str | None) -> View:
    """Cut daemons into groups that do not hear each other. Each word is a group; those that are not named are one more.

    `partition leader` cuts the leader off, `partition n1,n2 n3` leaves n1 and n2 together. What is cut is what replicas of one
    cluster, or admin servers, say to each other: clients still reach every daemon, and servers report to the admins as before.
    """
    from dataclasses import replace

    from ravelctl.playground import processes
    from ravelctl.playground.known import folder_meant
    from ravelctl.playground.links import can_tell_who_dials

    ground = processes.require(folder_meant(folder))
    if not can_tell_who_dials() or not all(replica.link for replica in ground.replicas):
        raise CommandError(
            "nothing lies between these daemons that could be cut",
            next_step="this needs Linux; an older playground is made again with `ravelctl playground down --purge` and `up`",
        )
    groups = [[ground.find(await _named(app, ground, word)).name for word in words.split(",") if word] for words in group]
    named = [name for names in groups for name in names]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise usage_error(f"{twice} is in more than one group", "name each replica once")
    rest = [replica.name for replica in ground.replicas if replica.name not in named]
    parts = tuple(tuple(names) for names in (*groups, rest) if names)
    said = " | ".join(", ".join(names) for names in parts)
    if len(parts) < 2:
        raise usage_error(f"{said} is one group: nothing would be cut", "leave one of them out, or name a second group")
    if app.settings.dry_run:
        return _planned(f"cut {said}", tuple(named))
    processes.save(replace(processes.start_network(ground), groups=parts))
    return View(
        kind="PlaygroundPartition", data={"groups": [list(names) for names in parts]}, body=f"cut {said}", names=tuple(named)
    )


@command.command("heal", effect=Effect.PLANS)
@_dir
@pass_app
def heal(app: App, folder: str | None) -> View:
    """Let all hear each other again, and those that are paused go on. The dead stay dead: `start` is for them."""
    from dataclasses import replace

    from ravelctl.playground import processes
    from ravelctl.playground.known import folder_meant

    ground = processes.require(folder_meant(folder))
    paused = tuple(replica.name for replica in ground.replicas if replica.paused)
    did = [words for words, there in (("joined all groups", ground.groups), (f"resumed {', '.join(paused)}", paused)) if there]
    if app.settings.dry_run:
        return _planned(f"have {' and '.join(did) or 'nothing to do'}", paused)
    for replica in ground.replicas:
        if replica.paused:
            processes.resume(replica)
    processes.save(replace(processes.start_network(ground), groups=()))
    return View(
        kind="PlaygroundHeal",
        data={"resumed": list(paused), "groups_before": [list(names) for names in ground.groups]},
        body="; ".join(did) or "nothing was cut or paused",
        names=paused,
    )


@command.command("start", effect=Effect.PLANS)
@click.argument("name", type=PLAYER)
@_dir
@pass_app
async def start(app: App, name: str, folder: str | None) -> View:
    """Start the daemon of NAME again.

    It has the same ports and the same data; one that is paused goes on.
    """
    from ravelctl.cli import dial
    from ravelctl.playground import processes, system
    from ravelctl.playground.known import folder_meant

    ground = processes.require(folder_meant(folder))
    replica = ground.find(name)
    if app.settings.dry_run:
        return _planned(f"start {name}", (name,))
    if replica.paused:
        processes.resume(replica)
        return View(kind="PlaygroundStart", data=_replica_data(replica), body=f"{name} goes on", names=(name,))
    if replica.alive:
        raise CommandError(f"{name} runs already", next_step="see `ravelctl status`")
    ground = processes.start_network(ground)
    ground = system.started(app, ground, ground.find(name))
    with app.progress("playground:") as progress:
        await system.answering(app, ground.find(name), dial.Wait(app.settings.wait_timeout_s(), progress))
    return View(kind="PlaygroundStart", data=_replica_data(ground.find(name)), body=f"started {name}", names=(name,))


@command.command("status")
@_dir
@pass_app
def status(app: App, folder: str | None) -> View:
    """Show its daemons: which run, hang or are down.

    Nobody is asked: what the cluster says of itself is `ravelctl status`.
    """
    from ravelctl.playground import processes
    from ravelctl.playground.known import folder_meant

    ground = processes.require(folder_meant(folder))
    rows = [{**_replica_data(replica), "state": replica.state} for replica in ground.replicas]
    cut = " | ".join(", ".join(names) for names in ground.groups)
    return View(
        kind="PlaygroundStatus",
        data={"dir": str(ground.folder), "replicas": rows, "groups": [list(names) for names in ground.groups]},
        body=_table(ground, rows, ("name", "cluster", "state", "pid", "address", "data_dir"), (f"cut {cut}",) if cut else ()),
        names=tuple(replica.name for replica in ground.replicas),
    )


@command.command("down", effect=Effect.PLANS)
@_dir
@click.option("--purge", is_flag=True, help="Also remove the data.")
@pass_app
def down(app: App, folder: str | None, purge: bool) -> View:
    """Stop the daemons in order, and forget their context. Their data stays, and `up` goes on with it."""
    from ravelctl.playground import processes
    from ravelctl.playground.known import folder_meant

    ground = processes.require(folder_meant(folder))
    if purge and ground.folder != processes.folder_named(folder):
        raise usage_error(f"the only playground is in {ground.folder}", "to have its data removed, name it with --dir")
    running = [replica.name for replica in ground.replicas if replica.alive]
    if app.settings.dry_run:
        return _planned(f"stop {', '.join(running) or 'nothing'}" + (" and remove the data" if purge else ""), tuple(running))
    stubborn = processes.stop(ground.replicas)
    ground = processes.stop_network(ground)
    processes.save(ground)
    if purge:
        processes.purge(ground)
    killed = f"{count_text(len(stubborn), 'daemon')} did not stop in time and had to be killed" if stubborn else ""
    said = f"stopped {', '.join(running)}" if running else "nothing was running"
    return View(
        kind="PlaygroundDown",
        data={"dir": str(ground.folder), "stopped": running, "killed": stubborn, "purged": purge},
        body=f"{said}; removed {ground.folder}" if purge else f"{said}; the data stays in {ground.folder}",
        names=tuple(running),
        notes=tuple(line for line in (killed, _forget(ground)) if line),
    )


def _replica_data(replica: Replica) -> dict[str, Any]:
    return {
        "name": replica.name,
        **({"cluster": replica.cluster} if replica.cluster else {}),
        "id": U64(replica.replica_id),
        "pid": replica.process.pid if replica.process else None,
        "address": replica.listen,
        "data_dir": replica.data_dir,
    }


def _table(ground: Playground, rows: list[dict[str, Any]], shown: tuple[str, ...], below: tuple[str, ...]) -> Table:
    """These fields of the daemons; the cluster only where there are several."""
    kept = [name for name in shown if name != "cluster" or ground.admins]
    return Table(
        columns=columns(*(_TITLES.get(name, name.upper()) for name in kept)),
        rows=tuple(tuple(str(row[name]) if row[name] else ABSENT for name in kept) for row in rows),
        below=below,
    )


_TITLES: Final = {"data_dir": "DATA"}


def _view(ground: Playground, context: str, below: tuple[str, ...]) -> View:
    rows = [_replica_data(replica) for replica in ground.replicas]
    return View(
        kind="Playground",
        data={
            "cluster": ground.cluster_id,
            "cluster_name": ground.cluster_name,
            "endpoints": list(ground.endpoints),
            "http": ground.http,
            "context": context,
            "replicas": rows,
        },
        body=_table(ground, rows, ("name", "cluster", "id", "pid", "address", "data_dir"), below),
        names=tuple(replica.name for replica in ground.replicas),
    )
