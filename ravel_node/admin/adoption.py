"""How a cluster that came back under another id takes its old place in the directory. Pure.

`snapshot restore` and `recover apply` make a new cluster, so that nobody can take it for the old one. The directory knows the
old one; what the operator says with AdoptCluster is: "this one is it now". In one step of the log

- the cluster keeps its number, its name and its slots, and gets the new id. Clients and movers name the id of the cluster that
  they mean with every connection, and members refuse what is not meant for them: from here on nobody is sent to the old one.
- the old id is remembered. Its members are struck, and whoever brings that id is refused for good (SUPERSEDED): a list never has
  two clusters for the same slots. They cannot be adopted back either.
- the servers of the new one register by themselves, as they have tried to all along; term and membership are counted anew.
- moves of its slots that were being copied are called off, those that waited are struck: what was copied is not known to it. A
  move that was decided stays so; it waits until the slots are made right.
- the map gets a new version, so that whoever keeps one looks again.

Which slots the new cluster owns does not change here: those that it owned when it was backed up. A reconciliation (reconcile.py)
makes that agree with the map.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ravel_node.admin.answers import RefusedError
from ravel_node.admin.commands import AdoptCluster
from ravel_node.admin.model import ClusterEntry, ClusterNumber, Directory, Move, MoveId, Phase
from ravelpb.errors import Reason

SUPERSEDED_MAX: Final = 16
"""Former ids that a cluster remembers, the newest ones."""


def adopted(directory: Directory, command: AdoptCluster) -> tuple[Directory, ClusterNumber]:
    """The directory in which the cluster has its new id. Raises RefusedError."""
    cluster = directory.cluster_named(command.name)
    if cluster is None:
        raise RefusedError(
            Reason.NOT_FOUND,
            f"there is no cluster {command.name} in the list: put it there first (ravelctl admin add-cluster {command.name})",
        )
    if cluster.cluster_id == command.cluster_id:
        return directory, cluster.number
    if cluster.cluster_id != command.superseded_id:
        raise RefusedError(
            Reason.STALE_VIEW,
            f"cluster {cluster.name} has the id {cluster.cluster_id[:8]} now, and was to be adopted in the place of "
            f"{command.superseded_id[:8]}: look again",
        )
    _check_free(directory, command.cluster_id)
    former = (cluster.cluster_id, *cluster.superseded)[:SUPERSEDED_MAX]
    entry = ClusterEntry(
        number=cluster.number,
        name=cluster.name,
        cluster_id=command.cluster_id,
        replicas_wanted=cluster.replicas_wanted,
        founded=True,
        emptying=cluster.emptying,
        superseded=former,
    )
    slot_map = directory.slot_map
    after = replace(
        directory,
        clusters={**directory.clusters, cluster.number: entry},
        servers={name: server for name, server in directory.servers.items() if server.cluster != cluster.number},
        moves=_moves_without(directory, cluster.number),
        slot_map=replace(slot_map, version=slot_map.version + 1) if slot_map.version else slot_map,
    )
    return after, cluster.number


def check_not_superseded(directory: Directory, cluster_id: str, who: str) -> None:
    """Raises RefusedError (SUPERSEDED) for the id of a cluster that another one stands for; `who` begins the sentence."""
    cluster = directory.cluster_that_superseded(cluster_id)
    if cluster is not None:
        raise RefusedError(
            Reason.SUPERSEDED,
            f"{who} is of cluster {cluster_id[:8]}, in whose place {cluster.cluster_id[:8]} is cluster {cluster.name} now: what "
            "it holds is not served any more; stop it, and keep or delete its data directory",
        )


def _check_free(directory: Directory, cluster_id: str) -> None:
    if (other := directory.cluster_of_id(cluster_id)) is not None:
        raise RefusedError(Reason.INVALID_ARGUMENT, f"the id {cluster_id[:8]} is that of cluster {other.name}")
    if (other := directory.cluster_that_superseded(cluster_id)) is not None:
        raise RefusedError(
            Reason.INVALID_ARGUMENT,
            f"cluster {cluster_id[:8]} was superseded as cluster {other.name}, and cannot come back as it is: make a new one out "
            "of it (ravelctl recover apply), and adopt that",
        )


def _moves_without(directory: Directory, number: ClusterNumber) -> dict[MoveId, Move]:
    """The moves, those of this cluster called off."""
    kept: dict[MoveId, Move] = {}
    for move_id, move in directory.moves.items():
        if number not in (move.source, move.destination) or move.phase in (Phase.COMMITTED, Phase.ABORTED):
            kept[move_id] = move
        elif move.phase is Phase.COPYING:
            kept[move_id] = replace(move, phase=Phase.ABORTED)
    return kept
