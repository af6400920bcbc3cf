"""Several fake clusters and the admin group that knows them: who owns what changes when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from ravelctl.client import RavelClient, RetryPolicy
from ravelpb.slots import SLOT_COUNT, slot_of
from ravelpb.v1.admin_pb2 import RoutedCluster, RoutedMigration, SlotMapRequest, SlotMapResponse
from ravelpb.v1.cluster_pb2 import Member, StatusResponse
from ravelpb.v1.common_pb2 import Addresses, ResponseHeader, ServerRef
from tests.ravelctl.client.fake_server import ALL_SLOTS, FakeCluster, fake_cluster

QUICK = RetryPolicy(backoff_min_s=0.005, backoff_max_s=0.02, progress_timeout_s=0.3, suspicion_s=0.05)


class FakeWorld:
    """`clusters[n]` has the number n + 1. `asked` are the questions for the map, in order."""

    def __init__(self, admin: FakeCluster, clusters: Sequence[FakeCluster]) -> None:
        self.admin = admin
        self.clusters = list(clusters)
        self.version = 1
        self.owners = [1 + slot % len(clusters) for slot in range(SLOT_COUNT)]
        self.ids = {number: f"{number:032x}" for number in range(1, len(clusters) + 1)}  # as the map has them
        self.migrations: list[RoutedMigration] = []
        self.asked: list[SlotMapRequest] = []
        for number, cluster in enumerate(self.clusters, start=1):
            cluster.owned = sum(1 << slot for slot, owner in enumerate(self.owners) if owner == number)
            cluster.map_version = 1
            for replica in cluster.replicas:
                replica.cluster_id = f"{number:032x}"
                replica.answers["Status"] = self._status(cluster, number)
        for replica in admin.replicas:
            replica.answers["SlotMap"] = self.slot_map

    @staticmethod
    def _status(cluster: FakeCluster, number: int) -> Any:
        return lambda request: StatusResponse(
            header=ResponseHeader(cluster_id=f"{number:032x}"),
            cluster_name=f"c{number}",
            members=[
                Member(server=ServerRef(server_id=replica.server_id, addresses=Addresses(listen=replica.address)))
                for replica in cluster.replicas
            ],
        )

    def slot_map(self, request: SlotMapRequest) -> SlotMapResponse:
        self.asked.append(request)
        return SlotMapResponse(
            version=self.version,
            owners=b"" if request.known_version == self.version else b"".join(o.to_bytes(2, "big") for o in self.owners),
            clusters=[
                RoutedCluster(
                    number=number,
                    name=f"c{number}",
                    cluster_id=self.ids[number],
                    addresses=[replica.address for replica in cluster.replicas],
                )
                for number, cluster in enumerate(self.clusters, start=1)
            ],
            migrations=self.migrations,
        )

    def addresses(self) -> list[str]:
        return [replica.address for replica in self.admin.replicas]

    def client(self, *, timeout_s: float = 20, exactly_once: bool = True, fail_fast: bool = False) -> RavelClient:
        return RavelClient(
            admin=self.addresses(), timeout_s=timeout_s, retry=QUICK, exactly_once=exactly_once, fail_fast=fail_fast
        )

    def owner(self, key: bytes) -> FakeCluster:
        return self.clusters[self.owners[slot_of(key)] - 1]

    # --- the steps of a move, as the protocol has them

    def freeze(self, slots: Iterable[int], source: int) -> None:
        self.clusters[source - 1].frozen |= _bits(slots)

    def commit(self, slots: Iterable[int], destination: int) -> None:
        self.version += 1
        for slot in slots:
            self.owners[slot] = destination

    def release(self, slots: Iterable[int], source: int) -> None:
        cluster = self.clusters[source - 1]
        cluster.owned &= ~_bits(slots)
        cluster.frozen &= ~_bits(slots)
        cluster.map_version = self.version
        for slot in slots:
            cluster.tenures[slot] = (cluster.tenures.get(slot, (0, 0))[0], cluster.revision)

    def activate(self, slots: Iterable[int], source: int, destination: int) -> None:
        """The destination has the keys at the revisions they had, and counts on from where the source let go."""
        old, new = self.clusters[source - 1], self.clusters[destination - 1]
        slots = set(slots)
        new.data |= {key: found for key, found in old.data.items() if slot_of(key) in slots}
        for slot in slots:
            left = old.tenures[slot][1]
            new.tenures[slot] = (left, 0)
            while new.revision < left:
                new.revision += 1
                new.history.append([])
        new.arrivals.update(dict.fromkeys(slots, new.revision))
        new.owned |= _bits(slots)
        new.map_version = self.version

    def purge(self, slots: Iterable[int], source: int) -> None:
        old = self.clusters[source - 1]
        slots = set(slots)
        old.data = {key: found for key, found in old.data.items() if slot_of(key) not in slots}

    def move(self, slots: Iterable[int], source: int, destination: int) -> None:
        """All steps at once."""
        slots = list(slots)
        self.freeze(slots, source)
        self.commit(slots, destination)
        self.release(slots, source)
        self.activate(slots, source, destination)
        self.purge(slots, source)

    def watched_slots(self, number: int) -> set[int]:
        """The slots that a watch of this cluster is sent, for the time that they are there now."""
        cluster = self.clusters[number - 1]
        served = {slot: came for replica in cluster.replicas for slot, came in replica.serves.items()}
        return {slot for slot, came in served.items() if came == cluster.tenures.get(slot, (0, 0))[0]}

    def settle(self) -> None:
        """Every slot is owned by exactly one cluster: what a test may count on at its end."""
        assert sum(cluster.owned for cluster in self.clusters) == ALL_SLOTS


def _bits(slots: Iterable[int]) -> int:
    return sum(1 << slot for slot in slots)


def key_of_slot(slots: Iterable[int], count: int = 1, prefix: bytes = b"k") -> list[bytes]:
    """Keys of these slots."""
    wanted = set(slots)
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        key = prefix + str(number).encode()
        number += 1
        if slot_of(key) in wanted:
            found.append(key)
    return found


@asynccontextmanager
async def fake_world(clusters: int = 2, *, replicas: int = 1, admins: int = 1) -> AsyncIterator[FakeWorld]:
    """So many clusters, each with an equal share of the slots: slot s belongs to cluster 1 + s % clusters."""
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(fake_cluster(admins, admin=True))
        found = [await stack.enter_async_context(fake_cluster(replicas)) for _ in range(clusters)]
        yield FakeWorld(admin, found)
