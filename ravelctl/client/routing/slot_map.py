"""The client's copy of the slot map, which names the cluster of each key. Pure.

The admin group owns the map and versions it. A client needs it to know which cluster to ask, not to decide ownership: each
cluster knows from its own log which slots it owns, and refuses the keys of others. So an old map costs a refusal and a newer
map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from ravelctl.client.errors import InternalError, InvalidArgumentError, UnreachableError
from ravelpb.slots import SLOT_COUNT, slot_of

if TYPE_CHECKING:
    from ravelpb.v1.admin_pb2 import SlotMapResponse

ALL_SLOTS: Final = (1 << SLOT_COUNT) - 1
"""Every slot, as a bit set: bit 0 is slot 0."""

NOBODY: Final = 0
"""The cluster number of a slot without an owner."""

_OWNERS: Final = Struct(f">{SLOT_COUNT}H")


@dataclass(frozen=True, slots=True)
class ClusterRoute:
    """A cluster of the registry with the addresses of its members, the leader first as far as the admin group knows."""

    number: int
    name: str
    cluster_id: str
    addresses: tuple[str, ...]


class Migration(NamedTuple):
    """Slots (a bit set) on their way from one cluster to another."""

    slots: int
    source: int
    destination: int


@dataclass(frozen=True, slots=True)
class SlotRoutes:
    """One version of the map. `owners[slot]` is the number of a cluster, or NOBODY."""

    version: int
    owners: tuple[int, ...]
    clusters: Mapping[int, ClusterRoute]
    shares: Mapping[int, int] = field(default_factory=dict)  # number -> its slots, as a bit set
    migrations: Sequence[Migration] = ()  # that have begun

    @classmethod
    def first(cls, answer: SlotMapResponse) -> Self:
        """Return the map in an answer to a client that had none. Raises InternalError for an answer that holds no map."""
        if len(answer.owners) != _OWNERS.size:
            raise InternalError(f"the admin sent a map of {len(answer.owners)} bytes, and it has {_OWNERS.size}")
        owners = _OWNERS.unpack(answer.owners)
        return cls(answer.version, owners, _clusters(answer), _shares(owners), _migrations(answer))

    def updated(self, answer: SlotMapResponse) -> SlotRoutes:
        """Return the map after this answer. An older one changes nothing: a late answer must not lead back."""
        if answer.version < self.version:
            return self
        if answer.version == self.version or not answer.owners:
            return SlotRoutes(self.version, self.owners, _clusters(answer), self.shares, _migrations(answer))
        return SlotRoutes.first(answer)

    def share(self, number: int) -> int:
        """Return the slots of a cluster, as a bit set."""
        return self.shares.get(number, 0)

    def may_show(self, number: int) -> int:
        """Return the slots that a cluster may show if it says that it owns them: its own, and those of its migrations."""
        ends = (migration.slots for migration in self.migrations if number in (migration.source, migration.destination))
        return reduce(or_, ends, self.share(number))

    @property
    def owning(self) -> Sequence[int]:
        """The numbers of the clusters that own slots, ascending."""
        return sorted(number for number in self.shares if number in self.clusters)

    def owner_of(self, key: bytes) -> ClusterRoute:
        """Return the cluster of this key. Raises UnreachableError if there is none."""
        number = self.owners[slot_of(key)]
        cluster = self.clusters.get(number)
        if cluster is None or not cluster.addresses:
            raise _nowhere(key, number, cluster, self.version)
        return cluster

    def owner_of_all(self, keys: Iterable[bytes]) -> ClusterRoute:
        """Return the one cluster of all these keys, at least one. Raises InvalidArgumentError if several clusters hold them."""
        first: bytes | None = None
        owner: ClusterRoute | None = None
        for key in keys:
            found = self.owner_of(key)
            if owner is None:
                first, owner = key, found
            elif found.number != owner.number:
                raise InvalidArgumentError(
                    "the keys of an atomic write must live in one cluster, "
                    f"and {first!r} is in {owner.name} while {key!r} is in {found.name}",
                    next_step="write them one by one, or under keys of one slot",
                )
        if owner is None:
            raise InvalidArgumentError("an atomic write without a key belongs to no cluster", next_step="give it an operation")
        return owner


def slots_in(bitmap: bytes) -> int:
    """Return slots as a bit set. On the wire slot 0 is the lowest bit of the first byte; empty: all slots."""
    return int.from_bytes(bitmap, "little") & ALL_SLOTS if bitmap else ALL_SLOTS


def _clusters(answer: SlotMapResponse) -> dict[int, ClusterRoute]:
    return {
        cluster.number: ClusterRoute(cluster.number, cluster.name, cluster.cluster_id, tuple(cluster.addresses))
        for cluster in answer.clusters
    }


def _migrations(answer: SlotMapResponse) -> Sequence[Migration]:
    return [
        Migration(sum(1 << slot for slot in migration.slots), migration.source, migration.destination)
        for migration in answer.migrations
    ]


def _shares(owners: Sequence[int]) -> dict[int, int]:
    bits: dict[int, bytearray] = {}
    for slot, number in enumerate(owners):
        if number != NOBODY:
            bits.setdefault(number, bytearray(SLOT_COUNT // 8))[slot // 8] |= 1 << slot % 8
    return {number: int.from_bytes(found, "little") for number, found in bits.items()}


def _nowhere(key: bytes, number: int, cluster: ClusterRoute | None, version: int) -> UnreachableError:
    if number == NOBODY:
        why = f"no cluster owns the slot of {key!r} by version {version} of the map"
        return UnreachableError(why, next_step="start the first servers of a cluster with `ravel_node start --admin`")
    named = f"cluster {number}" if cluster is None else cluster.name
    return UnreachableError(
        f"{key!r} belongs to {named}, of which the admin knows no address", next_step="see `ravelctl admin clusters`"
    )
