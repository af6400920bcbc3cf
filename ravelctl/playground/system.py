"""A playground of several clusters and an admin group, brought up: the admins first, then clusters, in their order, by the admin.

The replicas are started as an operator would: with the admins' addresses and the name of their cluster. What they become is read
from the directory. A playground that was made before comes up by itself; only what is new has to be waited for and balanced.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ravelctl.admin import rebalancing
from ravelctl.cli import dial
from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError
from ravelctl.cli.output import count_text
from ravelctl.client.errors import RavelError
from ravelctl.cluster.founding import found
from ravelctl.playground import processes
from ravelctl.playground.processes import ADMIN, Playground, Replica
from ravelpb.v1 import admin_pb2 as pb

BALANCE_TIMEOUT_S: Final = 60.0
"""So long `up` waits until every cluster has its share of slots; the moves go on."""

if TYPE_CHECKING:
    from ravelctl.cli.dial import Wait
    from ravelctl.client import AdminClient
    from ravelpb.v1.cluster_pb2 import StatusResponse


def started(app: App, ground: Playground, replica: Replica) -> Playground:
    """The playground with this daemon running; what runs already is left alone."""
    if replica.alive:
        return ground
    ground = ground.with_replica(processes.start(replica))
    # Saved after each start: whatever happens next, no daemon of ours is forgotten.
    processes.save(ground)
    app.say(f"{replica.name} starts at {replica.listen}")
    return ground


async def answering(app: App, replica: Replica, wait: Wait) -> StatusResponse:
    """Its status, once it answers. Raises CommandError as soon as its daemon has ended."""
    async with dial.cluster(app, (replica.listen,)) as client:

        async def look() -> StatusResponse | str:
            processes.check_running(replica)
            return await client.status(replica.listen)

        return await wait.until(look, f"an answer of {replica.name}")


async def brought_up(app: App, ground: Playground) -> Playground:
    """All daemons run, all clusters are led, and slots are shared among them."""
    fresh = any(not replica.replica_id for replica in ground.replicas)
    ground = await _admins(app, ground)
    async with dial.admin(app, ground.endpoints) as client:
        for cluster in ground.clusters:
            if not any(replica.replica_id for replica in ground.of(cluster)):
                await client.set_cluster(cluster, replicas_wanted=len(ground.of(cluster)))
            # The first one that is founded owns all slots, so it is to be the first one by name.
            for replica in ground.of(cluster):
                ground = started(app, ground, replica)
            if cluster == ground.clusters[0] or fresh:
                await _led(app, ground, client, cluster)
        for cluster in ground.clusters:
            ground = await _seated(app, ground, client, cluster)
        processes.save(ground)
        if fresh:
            await _balanced(app, client)
    return ground


async def _admins(app: App, ground: Playground) -> Playground:
    for admin in ground.admins:
        ground = started(app, ground, admin)
    with app.progress("playground:") as progress:
        wait = dial.Wait(app.settings.wait_timeout_s(), progress)
        for admin in ground.admins:
            await answering(app, admin, wait)
    if not all(admin.replica_id for admin in ground.admins):
        await found(app, ground.endpoints, ADMIN)
    with app.progress("playground:") as progress:
        wait = dial.Wait(app.settings.wait_timeout_s(), progress)
        for admin in ground.admins:
            status = await answering(app, admin, wait)
            ground = replace(
                ground.with_replica(replace(admin, replica_id=status.header.replica_id)), cluster_id=status.header.cluster_id
            )
    processes.save(ground)
    return ground


async def _led(app: App, ground: Playground, client: AdminClient, cluster: str) -> None:
    """Wait until a leader of this cluster has reported."""

    async def look() -> tuple[()] | str:
        _check_running(ground, cluster)
        found = next((one for one in (await client.directory()).clusters if one.name == cluster), None)
        return () if found is not None and found.founded else f"{cluster} is being founded"

    with app.progress("playground:") as progress:
        await dial.Wait(app.settings.wait_timeout_s(), progress).until(look, f"the founding of {cluster}")


async def _seated(app: App, ground: Playground, client: AdminClient, cluster: str) -> Playground:
    """Wait until the directory has all its servers as voters, but those that have left; the playground with their ids."""

    async def look() -> tuple[pb.DirectoryResponse] | str:
        _check_running(ground, cluster)
        directory = await client.directory()
        seats = {one.server.addresses.listen: one.seat for one in directory.servers}
        missing = [
            replica.name
            for replica in ground.of(cluster)
            if seats.get(replica.listen, pb.SEAT_VOTER if replica.replica_id else pb.SEAT_UNSPECIFIED) != pb.SEAT_VOTER
        ]
        return f"{cluster}: {', '.join(missing)} will be voters soon" if missing else (directory,)

    with app.progress("playground:") as progress:
        wait = dial.Wait(app.settings.wait_timeout_s(), progress)
        (directory,) = await wait.until(look, f"{count_text(len(ground.of(cluster)), 'voter')} of {cluster}")
    ids = {one.server.addresses.listen: one.replica_id for one in directory.servers}
    cluster_id = next((one.cluster_id for one in directory.clusters if one.name == cluster), "")
    if not cluster_id:
        app.say(f"{cluster} has left the admin's list")
        return ground
    for replica in ground.of(cluster):
        ground = ground.with_replica(replace(replica, replica_id=ids.get(replica.listen, replica.replica_id)))
    return replace(ground, cluster_ids={**ground.cluster_ids, cluster: cluster_id})


def _check_running(ground: Playground, cluster: str) -> None:
    for replica in (*ground.admins, *ground.of(cluster)):
        processes.check_running(replica)


async def _balanced(app: App, client: AdminClient) -> None:
    """Every cluster gets its share of the slots. Where that does not come about, all are up all the same."""
    try:
        if (await client.plan_rebalance()).moves:
            app.say(str((await rebalancing.balance(app, client, within_s=BALANCE_TIMEOUT_S)).body))
    except (CommandError, RavelError) as error:
        app.say(f"slots are not shared out yet: {error.message}; see `ravelctl admin rebalance`")
