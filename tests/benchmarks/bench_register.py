"""How long a hundred replicas take that all register at once, until every one of them is a voter of its cluster by the list.

    python -m tests.benchmarks.bench_register [--replicas 100] [--clusters 8] [--admins 3] [--rounds 3] [--kill]

The admin group is real daemons. The replicas are simulated: each has a client and connections of its own and says to the admin
what a daemon says (ask for a place until the cluster is founded, register with the identity, report), but its cluster is a list
in this process. With --kill the admin group's leader is killed as soon as half of them have a place.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from ravel_node.machine.envelope import FORMAT
from ravelctl.client import AdminClient, RavelError
from ravelpb.v1 import admin_pb2
from ravelpb.v1.common_pb2 import Addresses, ServerRef
from tests.e2e.admins import System, running_system

ASK_AGAIN_S = 0.5
"""As a daemon waits whose cluster is not founded yet (ravel_node.admin_link)."""

CALL_S = 30.0
"""So long a call is repeated before the run has failed."""


@dataclass
class SimulatedCluster:
    """What the leader of a cluster would know."""

    leader: SimulatedReplica
    members: list[str] = field(default_factory=list)  # server ids; the place in it, from 1, is the replica id
    config_index: int = 1

    def take(self, server_id: str) -> int:
        """The replica id of a server, which joins if it has not."""
        if server_id not in self.members:
            self.members.append(server_id)
            self.config_index += 1
        return self.members.index(server_id) + 1

    def report(self) -> admin_pb2.LeaderReport:
        members = [admin_pb2.ReportedMember(server_id=one, replica_id=at) for at, one in enumerate(self.members, 1)]
        return admin_pb2.LeaderReport(term=1, config_index=self.config_index, members=members)


class SimulatedReplica:
    """One server that nobody else would dial."""

    def __init__(self, number: int, admins: list[str], clusters: dict[str, SimulatedCluster]) -> None:
        addresses = Addresses(
            listen=f"10.{number // 250}.{number % 250}.1:7400", peer=f"10.{number // 250}.{number % 250}.1:7401"
        )
        self.server = ServerRef(
            server_id=secrets.token_hex(16), name=f"n{number}", version="0.1.0", addresses=addresses, format=FORMAT
        )
        self._client = AdminClient(admins, timeout_s=CALL_S)
        self._clusters = clusters
        self.placed_s = 0.0

    async def run(self) -> None:
        """Until the admin has answered its first report as a member."""
        async with self._client as client:
            began = perf_counter()
            while True:
                told = await client.register(self.server)
                self.placed_s = self.placed_s or perf_counter() - began
                cluster_id = told.cluster.cluster_id
                if told.found_it:
                    self._clusters[cluster_id] = SimulatedCluster(self)
                if cluster_id in self._clusters and (told.found_it or told.addresses):
                    break
                await asyncio.sleep(ASK_AGAIN_S)
            cluster = self._clusters[cluster_id]
            replica_id = cluster.take(self.server.server_id)
            await client.register(self.server, cluster_id=cluster_id, replica_id=replica_id)
            if cluster.leader is not self:
                await client.report(self.server, cluster_id=cluster_id, replica_id=replica_id)
            await cluster.leader.tell(cluster_id)

    async def tell(self, cluster_id: str) -> None:
        """Report the membership as it is now; somebody else may have told of a later one meanwhile."""
        cluster = self._clusters[cluster_id]
        report = cluster.report()
        try:
            await self._client.report(self.server, cluster_id=cluster_id, replica_id=1, leader=report)
        except RavelError as error:
            if error.reason != "STALE_REPORT":
                raise


async def run(system: System, count: int, clusters: int, kill: bool) -> tuple[float, float]:
    """Seconds until the last of them had a place, and until the list had all of them as voters."""
    async with system.client(timeout_s=CALL_S) as admin:
        for number in range(clusters):
            await admin.set_cluster(f"c{number}")
        known: dict[str, SimulatedCluster] = {}
        replicas = [SimulatedReplica(number, system.admins.endpoints, known) for number in range(count)]
        began = perf_counter()
        async with asyncio.TaskGroup() as group:
            for replica in replicas:
                group.create_task(replica.run())
            if kill:
                while sum(replica.placed_s > 0 for replica in replicas) < count // 2:
                    await asyncio.sleep(0.001)
                (await system.admins.leader()).kill()
        took = perf_counter() - began
        directory = await admin.directory()
        sizes = Counter(server.cluster for server in directory.servers)
        if any(server.seat != admin_pb2.SEAT_VOTER for server in directory.servers) or len(directory.servers) != count:
            raise SystemExit("not everybody is a voter by the list")
        if max(sizes.values()) - min(sizes.values()) > 1 or len(sizes) != min(clusters, count):
            raise SystemExit(f"not balanced: {sorted(sizes.values())}")
        return max(replica.placed_s for replica in replicas), took


async def measure(options: argparse.Namespace) -> None:
    placed: list[float] = []
    seated: list[float] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="ravel-bench-") as folder:
            async with running_system(Path(folder), [f"a{number}" for number in range(1, options.admins + 1)]) as system:
                one, other = await run(system, options.replicas, options.clusters, options.kill)
        placed.append(one)
        seated.append(other)
        print(f"all have a place after {one:.2f} s, all are voters by the list after {other:.2f} s", flush=True)
    where = f"{options.replicas} replicas, {options.clusters} clusters, {options.admins} admins"
    print(f"{where}: median {statistics.median(placed):.2f} s and {statistics.median(seated):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--admins", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kill", action="store_true", help="kill the admin group's leader in the middle")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
