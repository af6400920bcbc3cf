"""Which cluster a new server joins. Pure."""

from __future__ import annotations

from collections import Counter

from ravel_node.admin.model import NOBODY, ClusterNumber, Directory


def choose_cluster(directory: Directory) -> ClusterNumber:
    """The cluster with the fewest replicas, of equal ones the lowest number; NOBODY where none takes servers.

    It is called while the command is applied, so each choice sees all earlier ones. Assigned servers count like members, since
    they will be; leaving ones do not. A cluster that is emptying takes none.
    """
    replicas = Counter(server.cluster for server in directory.servers.values() if not server.leaving)
    taking = [cluster.number for cluster in directory.clusters.values() if not cluster.emptying]
    return min(taking, key=lambda number: (replicas[number], number), default=NOBODY)
