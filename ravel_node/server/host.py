"""What the servicers need of the daemon that they run in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ravel_node.machine.base import MemberRecord
from ravel_node.machine.kv import KVMachine
from ravel_node.replica.events import EventLog
from ravel_node.replica.replica import Replica
from ravel_node.replica.status import Member, Verdict
from ravel_node.storage.base import Identity, Store


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a join: what the daemon is now, or only the leader's verdict."""

    member: MemberRecord | None
    members: tuple[Member, ...]
    verdict: Verdict | None


class Host(Protocol):
    """A daemon: blank until it takes an identity, then the seat of one replica. Everything runs on the loop."""

    boot_id: str
    version: str

    @property
    def replica(self) -> Replica:
        """Raises BlankError on a blank daemon, ReplicaStoppedError on one that stops."""
        ...

    @property
    def machine(self) -> KVMachine: ...

    @property
    def store(self) -> Store: ...

    @property
    def identity(self) -> Identity: ...

    @property
    def server(self) -> MemberRecord:
        """This server's own record: id, name, version, addresses; replica id 0 while blank."""
        ...

    @property
    def events(self) -> EventLog:
        """What has happened here, since before this boot too."""
        ...

    @property
    def is_admin(self) -> bool:
        """Whether this daemon is a server of an admin group."""
        ...

    @property
    def uptime_s(self) -> float: ...

    @property
    def client_connections(self) -> tuple[int, int]:
        """Open on the client port now (0: the system does not tell), and how many it takes at once."""
        ...

    @property
    def peer_tls(self) -> bool:
        """Whether the peer port speaks TLS."""
        ...

    async def bootstrap(self, cluster_id: str, cluster_name: str) -> MemberRecord:
        """Become the first voter of a new cluster. Raises AlreadyMemberError for another cluster's id."""
        ...

    async def reset(self, server_id: str, *, dry_run: bool) -> str:
        """Set the data aside and start again as a blank daemon; return the name of the folder that holds it.

        Raises MembershipError for a daemon that is blank, takes part in its cluster, or is another server.
        """
        ...

    async def join(self, via: Sequence[str], *, promote: bool, dry_run: bool) -> Joined:
        """Ask the cluster behind these addresses to take this daemon in, and start as what it answers."""
        ...
