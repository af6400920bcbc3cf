"""The rule for calls that name the cluster they are meant for.

A channel outlives the daemon at its far end: after a daemon is replaced, the address belongs to another cluster while clients go
on calling. So every call carries the id of the cluster that its caller means, and `binding.py` asks this rule before the handler
runs. A refused call has done nothing.
"""

from __future__ import annotations

from ravel_node.server.errors import OtherClusterError
from ravel_node.server.host import Host


class ClusterCheck:
    """Compares the cluster that a call means with the cluster of one daemon."""

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def cluster_id(self) -> str:
        """The id of the daemon's cluster; empty while the daemon belongs to none."""
        return self._host.identity.cluster_id

    def check(self, meant: str) -> None:
        """Raise OtherClusterError if `meant` is the id of another cluster.

        A daemon that belongs to no cluster passes every call on: its handlers answer BLANK, or serve what such a daemon serves.
        """
        own = self._host.identity.cluster_id
        if own and meant != own:
            raise OtherClusterError(own, meant)
