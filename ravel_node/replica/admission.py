"""Which peers this replica talks to: the checks of a handshake, the same for a peer that dials and for one that is dialled.

A peer is admitted once for each of its starts. It must belong to this cluster, be the server that the log names under its replica
id, and not have been removed. Beyond that:

- A data directory that is older than what its replica has acknowledged was restored from a copy. The replica in it may have
  forgotten votes and acknowledgements, so it is refused, a leader does not count what it had acknowledged, and an alarm names it.
- A replica at another address than the recorded one is either a server that has moved, or a copy of a data directory whose owner
  still runs. The recorded address is asked: if the same server answers there with another start, the newcomer is the copy.
- A replica that this log does not know yet was added while this one was away. Known members are asked for it; what it says of
  itself is never enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from ravel_node.machine.base import MemberRecord
from ravel_node.machine.kv import KVMachine
from ravel_node.raft import ConfState, ReplicaId
from ravel_node.replica.errors import (
    CopiedDirectoryError,
    OutdatedDirectoryError,
    RemovedError,
    ReplicaError,
    WrongClusterError,
    WrongIdentityError,
)
from ravel_node.replica.peer_marks import PeerMarks
from ravel_node.storage.base import Store
from ravel_node.transport.base import Hello, MemberAddress, ProbeAnswer, ProbeFailedError, Transport
from ravelpb.errors import Reason

ASK_TIMEOUT_S: Final = 1.0
"""How long another replica may take to answer a question that a handshake waits for."""


_REASONS: Final[Mapping[type[ReplicaError], Reason]] = {
    WrongClusterError: Reason.WRONG_CLUSTER_ID,
    WrongIdentityError: Reason.WRONG_IDENTITY,
    RemovedError: Reason.REMOVED,
    OutdatedDirectoryError: Reason.DIRECTORY_OUTDATED,
    CopiedDirectoryError: Reason.DIRECTORY_COPIED,
}


def reason_of(error: ReplicaError) -> str:
    """Return the reason under which a refused handshake is reported to the peer."""
    return _REASONS.get(type(error), Reason.SHUTTING_DOWN)


class OnRefused(Protocol):
    """Told of a peer whose data directory is out of date or a copy."""

    def __call__(self, peer: ReplicaId, error: OutdatedDirectoryError | CopiedDirectoryError, /) -> None: ...


class Admission:
    """The handshakes of one replica. Everything runs on the loop."""

    def __init__(
        self,
        *,
        replica_id: ReplicaId,
        store: Store,
        machine: KVMachine,
        transport: Transport,
        marks: PeerMarks,
        peers: Mapping[ReplicaId, str],
        name_of: Callable[[ReplicaId], str],
        on_admitted: Callable[[ReplicaId], None],
        on_refused: OnRefused,
    ) -> None:
        """`peers` are the addresses of those that this replica talks to, as they change."""
        self._id = replica_id
        self._store = store
        self._machine = machine
        self._transport = transport
        self._marks = marks
        self._peers = peers
        self._name_of = name_of
        self._on_admitted = on_admitted
        self._on_refused = on_refused
        self._admitted: dict[ReplicaId, str] = {}  # the start of each peer that was admitted last
        self.vouched: dict[ReplicaId, MemberAddress] = {}  # members that this log does not know yet

    def check(self, hello: Hello, to: ReplicaId) -> None:
        """Check who a peer is and whom it means. Raises WrongClusterError, RemovedError or WrongIdentityError."""
        cluster_id = self._store.identity.cluster_id
        if hello.cluster_id != cluster_id:
            raise WrongClusterError(
                f"a replica of cluster {hello.cluster_id} dialled a replica of cluster {cluster_id}: check the addresses"
            )
        if to != self._id:
            raise WrongClusterError(f"a peer looks for replica {to} here, and this is replica {self._id}: check the addresses")
        peer = hello.replica_id
        if peer == self._id:
            raise WrongIdentityError(
                f"a peer calls itself replica {peer}, which is this one: a data directory was copied and started twice; "
                "stop the copy and delete its directory"
            )
        known = self._known(peer)
        if known is None:
            return
        if known.removed:
            raise RemovedError(f"replica {peer} was removed from cluster {cluster_id} for good")
        if known.server_id != hello.server_id:
            raise WrongIdentityError(
                f"server {hello.server_id} calls itself replica {peer}, which is server {known.server_id}: a data directory that "
                "was emptied cannot come back under its old id; remove that replica and let the server join again"
            )

    async def admit(self, hello: Hello, to: ReplicaId) -> None:
        """Check a peer that dials, or one that was dialled (`to` is then this replica).

        Raises what `check` raises, OutdatedDirectoryError, CopiedDirectoryError, or StoreFailedError.
        """
        self.check(hello, to)
        peer = hello.replica_id
        if self._known(peer) is None and self._machine.conf_state != ConfState():
            self.vouched[peer] = await self._vouch(peer)
            self.check(hello, to)
        known = self._admitted.get(peer) == hello.boot_id
        if not known:
            await self._require_no_copy(hello)  # first: the directory of a copy is older too, and the remedy is another one
        self._require_current(hello)
        if known:
            return
        if hello.boot_number:
            await self._marks.record_start(hello)
            self._require_current(hello)  # another start may have come meanwhile
        self._admitted[peer] = hello.boot_id
        self._on_admitted(peer)

    def admitted(self, hello: Hello) -> bool:
        """Return whether this very start of a peer was admitted, and nothing speaks against it now."""
        return self._admitted.get(hello.replica_id) == hello.boot_id and not self._marks.objection(hello)

    def address_of(self, hello: Hello) -> str:
        """Return where the cluster knows a peer; for a replica without any state, what the peer says itself."""
        known = self._known(hello.replica_id)
        return known.address if known is not None else hello.address

    def _known(self, peer: ReplicaId) -> MemberAddress | None:
        record: MemberRecord | None = self._machine.members.get(peer)
        if record is not None:
            self.vouched.pop(peer, None)
            return MemberAddress(record.server_id, record.peer, record.removed)
        return self.vouched.get(peer)

    def _require_current(self, hello: Hello) -> None:
        if objection := self._marks.objection(hello):
            name = self._name_of(hello.replica_id)
            error = OutdatedDirectoryError(
                f"the data directory of {name} is older than what {name} has acknowledged: {objection}. It was restored from a "
                f"copy, or its disk has lost writes. Run `ravelctl member replace {name}` to take {name} in again under a new id"
            )
            self._admitted.pop(hello.replica_id, None)
            self._on_refused(hello.replica_id, error)
            raise error

    async def check_move(self, peer: ReplicaId, answer: ProbeAnswer, old_address: str, new_address: str) -> None:
        """Check what a member answers at a new address before it is recorded.

        Raises OutdatedDirectoryError, or CopiedDirectoryError if it still runs at the old one.
        """
        hello = Hello(
            cluster_id=answer.cluster_id,
            replica_id=peer,
            server_id=answer.server_id,
            boot_id=answer.boot_id,
            version=answer.version,
            address=new_address,
            boot_number=answer.boot_number,
            term=answer.term,
            last_index=answer.last_index,
        )
        await self._require_elsewhere_silent(hello, old_address)
        self._require_current(hello)

    async def _require_no_copy(self, hello: Hello) -> None:
        known = self._known(hello.replica_id)
        if known is not None and hello.address and hello.address != known.address:
            await self._require_elsewhere_silent(hello, known.address)

    async def _require_elsewhere_silent(self, hello: Hello, recorded: str) -> None:
        """Raise CopiedDirectoryError if the same server answers at its recorded address with another start."""
        try:
            answer = await self._transport.probe(recorded, ASK_TIMEOUT_S)
        except ProbeFailedError:
            return  # it has moved
        if answer.server_id == hello.server_id and answer.boot_id != hello.boot_id:
            name = self._name_of(hello.replica_id)
            error = CopiedDirectoryError(
                f"the data directory of {name} was copied and started twice: it runs at {recorded}, and a copy of it at "
                f"{hello.address}. Stop the copy and delete its directory"
            )
            self._on_refused(hello.replica_id, error)
            raise error

    async def _vouch(self, peer: ReplicaId) -> MemberAddress:
        """Ask all known members for a replica that this log does not know. Raises WrongIdentityError if none knows it."""

        async def ask(member: ReplicaId) -> MemberAddress | None:
            try:
                return await self._transport.member(member, peer, ASK_TIMEOUT_S)
            except ProbeFailedError:
                return None

        for answer in asyncio.as_completed([ask(member) for member in self._peers if member in self._machine.members]):
            if (found := await answer) is not None:
                return found
        raise WrongIdentityError(f"no member that answers knows replica {peer} of this cluster")
