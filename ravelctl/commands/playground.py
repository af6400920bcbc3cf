"""`ravelctl playground`: a real cluster on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ravelctl.app import App
from ravelctl.command import TLS_OPTIONS, Effect, RavelGroup, pass_app
from ravelctl.errors import CommandError, usage_error
from ravelctl.output import ABSENT, U64, Table, View, columns, count_text

if TYPE_CHECKING:
    from pathlib import Path

    from ravelctl.client import ClusterClient
    from ravelctl.dial import Wait
    from ravelctl.playground import Playground, Replica
    from ravelpb.v1.cluster_pb2 import StatusResponse

REPLICAS: Final = 3
REPLICAS_MAX: Final = 9
CLUSTER_NAME: Final = "playground"
LEADER: Final = "leader"

_dir_option = click.option(
    "--dir",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Where it lives. [default: ~/.local/state/ravel/playground]",
)


@click.group("playground", cls=RavelGroup)
@pass_app
def command(app: App) -> None:
    """Run a real cluster of daemons on this machine, to try things out."""
    app.local = True
    for name in TLS_OPTIONS:  # its daemons speak plain text on loopback, whatever variables say of other clusters
        app.given.pop(name, None)


@command.command("up", effect=Effect.CHANGES)
@click.option("--replicas", type=click.IntRange(1, REPLICAS_MAX), help=f"How many. [default: {REPLICAS}]")
@_dir_option
@click.option("--detach/--attach", default=True, help="Leave the daemons running, or stop them with Ctrl-C.", show_default=True)
@pass_app
async def up(app: App, replicas: int | None, folder: str | None, detach: bool) -> View:
    """Start a cluster, or what is down of it, and print where it is reached."""
    from ravelctl import playground as grounds

    where = _folder(folder)
    ground = grounds.load(where)
    if ground is None:
        ground = grounds.plan(where, replicas or REPLICAS, CLUSTER_NAME)
        grounds.save(ground)
    elif replicas is not None and replicas != len(ground.replicas):
        raise usage_error(
            f"the playground in {where} has {len(ground.replicas)} replicas, not {replicas}",
            "leave out --replicas, remove it with `ravelctl playground down --purge`, or name another folder with --dir",
        )
    for replica in ground.replicas:
        ground = _started(app, ground, replica)
    ground = await _founded(app, ground)
    if not detach:
        await _stay(app, ground)
    return _view(ground)


def _started(app: App, ground: Playground, replica: Replica) -> Playground:
    """The playground with this replica's daemon running; what runs already is left alone."""
    from ravelctl import playground as grounds

    if replica.alive:
        return ground
    ground = ground.with_replica(grounds.start(replica))
    # Saved after each start: whatever happens next, no daemon of ours is forgotten.
    grounds.save(ground)
    app.say(f"{replica.name} starts at {replica.listen}")
    return ground


async def _founded(app: App, ground: Playground) -> Playground:
    """Wait until all daemons answer, make them one cluster, and remember who they are in it."""
    from dataclasses import replace

    from ravelctl import dial
    from ravelctl import playground as grounds
    from ravelctl.founding import found

    async with dial.cluster(app, ground.endpoints) as client:
        with app.progress("playground:") as progress:
            for replica in ground.replicas:
                await _answering(client, replica, dial.Wait(app.settings.wait_timeout_s(), progress))
        if not all(replica.replica_id for replica in ground.replicas):
            await found(app, ground.endpoints, ground.cluster_name)
        else:
            await _leader(app, client, ground)
        for replica in ground.replicas:
            status = await client.status(replica.listen)
            ground = replace(
                ground.with_replica(replace(replica, replica_id=status.header.replica_id)), cluster_id=status.header.cluster_id
            )
    grounds.save(ground)
    return ground


async def _answering(client: ClusterClient, replica: Replica, wait: Wait) -> StatusResponse:
    """Its status, once it answers. Raises CommandError as soon as its daemon has ended."""
    from ravelctl import playground as grounds

    async def look() -> StatusResponse | str:
        grounds.check_running(replica)
        return await client.status(replica.listen)

    return await wait.until(look, f"an answer of {replica.name}")


async def _leader(app: App, client: ClusterClient, ground: Playground) -> str:
    """The name of the replica that leads; empty: none does within the time."""
    from ravelctl import dial
    from ravelctl.overview import overview, survey

    async def look() -> str | tuple[str]:
        found = overview(await survey(client, ground.endpoints, timeout_s=app.settings.timeout_s))
        return (found.leader,) if found.leader else "waiting for a leader"

    with app.progress("playground:") as progress:
        return (await dial.Wait(app.settings.wait_timeout_s(), progress).until(look, "a leader"))[0]


async def _stay(app: App, ground: Playground) -> None:
    """Until Ctrl-C, which stops the daemons; their data stays."""
    import asyncio

    from ravelctl import playground as grounds

    app.say(f"endpoints {','.join(ground.endpoints)}; Ctrl-C stops the daemons")
    try:
        await asyncio.Event().wait()
    finally:
        grounds.stop(ground.replicas)


@command.command("kill", effect=Effect.CHANGES)
@click.argument("name")
@_dir_option
@pass_app
async def kill(app: App, name: str, folder: str | None) -> View:
    """Kill the daemon of NAME with SIGKILL; `leader` is whichever leads."""
    from ravelctl import dial
    from ravelctl import playground as grounds

    ground = grounds.require(_folder(folder))
    if name == LEADER:
        async with dial.cluster(app, ground.endpoints) as client:
            name = await _leader(app, client, ground)
    replica = ground.find(name)
    grounds.kill(replica)
    return View(kind="PlaygroundKill", data=_replica_data(replica), body=f"killed {replica.name}", names=(replica.name,))


@command.command("start", effect=Effect.CHANGES)
@click.argument("name")
@_dir_option
@pass_app
async def start(app: App, name: str, folder: str | None) -> View:
    """Start the daemon of NAME again, at the same ports, on the same data."""
    from ravelctl import dial
    from ravelctl import playground as grounds

    ground = grounds.require(_folder(folder))
    if ground.find(name).alive:
        raise CommandError(f"{name} runs already", next_step="see `ravelctl status`")
    ground = _started(app, ground, ground.find(name))
    async with dial.cluster(app, ground.endpoints) as client:
        with app.progress("playground:") as progress:
            await _answering(client, ground.find(name), dial.Wait(app.settings.wait_timeout_s(), progress))
    return View(kind="PlaygroundStart", data=_replica_data(ground.find(name)), body=f"started {name}", names=(name,))


@command.command("down", effect=Effect.CHANGES)
@_dir_option
@click.option("--purge", is_flag=True, help="Also remove the data.")
@pass_app
def down(app: App, folder: str | None, purge: bool) -> View:
    """Stop the daemons in order. Their data stays, and `up` goes on with it."""
    from ravelctl import playground as grounds

    ground = grounds.require(_folder(folder))
    running = [replica.name for replica in ground.replicas if replica.alive]
    stubborn = grounds.stop(ground.replicas)
    if purge:
        grounds.purge(ground)
    said = f"stopped {', '.join(running)}" if running else "nothing was running"
    return View(
        kind="PlaygroundDown",
        data={"dir": str(ground.folder), "stopped": running, "killed": stubborn, "purged": purge},
        body=f"{said}; removed {ground.folder}" if purge else f"{said}; the data stays in {ground.folder}",
        names=tuple(running),
        notes=(f"{count_text(len(stubborn), 'daemon')} did not stop in time and had to be killed",) if stubborn else (),
    )


def _folder(folder: str | None) -> Path:
    from pathlib import Path

    from ravelctl.playground import default_folder

    return Path(folder).absolute() if folder else default_folder()


def _replica_data(replica: Replica) -> dict[str, Any]:
    return {
        "name": replica.name,
        "id": U64(replica.replica_id),
        "pid": replica.process.pid if replica.process else None,
        "address": replica.listen,
        "data_dir": replica.data_dir,
    }


def _view(ground: Playground) -> View:
    rows = [_replica_data(replica) for replica in ground.replicas]
    return View(
        kind="Playground",
        data={
            "cluster": ground.cluster_id,
            "cluster_name": ground.cluster_name,
            "endpoints": list(ground.endpoints),
            "replicas": rows,
        },
        body=Table(
            columns=columns("NAME", "ID", "PID", "ADDRESS", "DATA"),
            rows=tuple(tuple(ABSENT if cell is None else str(cell) for cell in row.values()) for row in rows),
            below=(f"export RAVELCTL_ENDPOINTS={','.join(ground.endpoints)}",),
        ),
        names=tuple(replica.name for replica in ground.replicas),
    )
