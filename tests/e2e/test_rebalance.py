"""Slots move between real clusters while writers and readers go on, and the mover and leaders are killed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from ravelctl.client import AdminClient, OutcomeUnknownError, RavelClient, RavelError
from ravelctl.linearizability.checker import check
from ravelctl.linearizability.history import Operation
from ravelctl.linearizability.recorder import RecordedClient, Recorder
from ravelpb.v1 import admin_pb2
from tests.e2e.admins import System, running_system
from tests.e2e.cluster import CALL_S, START_S, Server
from tests.faults.proxy import Network

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

KEYS = tuple(b"key-%d" % number for number in range(48))
CLIENTS = 6
MOVED_S = 400.0
SLOW_S = 0.3
"""How long a mover's requests to one of the clusters are on their way, so that a move cannot be over before it is seen."""


class Applications:
    """Clients that write and read without pause, each call recorded."""

    def __init__(self, admins: list[str]) -> None:
        self._clients = [RavelClient(admin=admins, timeout_s=CALL_S) for _ in range(CLIENTS)]
        self.recorder = Recorder(self._clients[0])
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._values = 0

    def start(self) -> None:
        for number, client in enumerate(self._clients):
            recorded = self.recorder.client(f"c{number}", client)
            self._tasks.append(asyncio.create_task(self._work(recorded, Random(number))))

    async def _work(self, client: RecordedClient, rng: Random) -> None:
        while not self._stopping:
            try:
                await self._one(client, rng.choice(KEYS), rng.random())
            except OutcomeUnknownError:
                continue
            except RavelError:
                await asyncio.sleep(0.05)
            await asyncio.sleep(rng.uniform(0.0, 0.02))

    async def _one(self, client: RecordedClient, key: bytes, chance: float) -> None:
        self._values += 1
        value = b"value %d" % self._values
        if chance < 0.4:
            await client.put(key, value)
        elif chance < 0.7:
            await client.get(key)
        elif chance < 0.8:
            await client.delete(key)
        else:
            found = await client.get(key)
            await client.compare_and_swap(key, value, expected_revision=found.revision if found else 0)

    @property
    def done(self) -> int:
        return len(self.recorder.history)

    async def stop(self) -> None:
        """Let each finish what it has under way, and read every key once more."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        last = self.recorder.client("last", self._clients[0])
        for key in KEYS:
            await last.get(key, timeout_s=60.0)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))

    def check(self) -> None:
        """Key by key: clusters count their revisions apart."""
        by_key: dict[bytes, list[Operation]] = defaultdict(list)
        for operation in self.recorder.history:
            by_key[operation.key].append(operation)
        assert set(by_key) == set(KEYS)
        for operations in by_key.values():
            report = check(operations)
            assert not report.violations, str(report)


@asynccontextmanager
async def applications(system: System) -> AsyncIterator[Applications]:
    found = Applications(system.admins.endpoints)
    found.start()
    try:
        yield found
    finally:
        await found.close()


async def add_cluster(system: System, name: str, *servers: str) -> None:
    """One server after the other, so that the first founds it."""
    for server in servers:
        system.start(server, "--new-cluster", name)
        await system.told(f"{server} is known", lambda directory, server=server: _server(directory, server))  # type: ignore[misc]
    await system.seated(name, *servers)


def _server(directory: admin_pb2.DirectoryResponse, name: str) -> admin_pb2.DirectoryServer | None:
    return next((server for server in directory.servers if server.server.name == name), None)


def slots_of(directory: admin_pb2.DirectoryResponse) -> dict[str, int]:
    return {cluster.name: cluster.slots for cluster in directory.clusters}


async def rebalance(admin: AdminClient, *empty: str) -> None:
    """Begin the moves of a plan, and listen no further."""
    async with asyncio.timeout(START_S):
        while True:
            try:
                async for _ in admin.rebalance(empty):
                    return
            except RavelError:
                await asyncio.sleep(0.2)


async def rest(system: System, *empty: str) -> None:
    """Wait until nothing moves, the named clusters own nothing, and the others bear fair shares; whatever was called off on the
    way is planned again."""
    async with AdminClient(system.admins.endpoints, timeout_s=CALL_S) as admin:
        async with asyncio.timeout(MOVED_S):
            while True:
                directory = await system.directory()
                shares = slots_of(directory)
                wanted = len(shares) - len(empty)
                fair = 4096 / wanted
                even = all(0.74 * fair <= count <= 1.26 * fair for name, count in shares.items() if name not in empty)
                if not directory.moves and even and not any(shares[name] for name in empty):
                    return
                if not directory.moves:
                    await rebalance(admin, *empty)
                await asyncio.sleep(0.3)


async def kill_now_and_then(system: System, victims: list[Server], rng: Random) -> None:
    """Kill the admin that leads, and so the mover, or another leader; each comes back before the next one goes."""
    while True:
        await asyncio.sleep(rng.uniform(1.0, 2.5))
        victim = rng.choice(victims)
        victim.kill()
        await asyncio.sleep(rng.uniform(0.1, 1.0))
        if victim in system.admins.servers.values():
            victim.start()
        else:
            system.start(victim.name)


async def kill_the_mover_for_good(system: System) -> None:
    """While it copies: one of the others has to go on."""
    await system.told(
        "a move is under way", lambda directory: any(move.phase != admin_pb2.PLANNED for move in directory.moves) or None
    )
    (await system.admins.leader()).kill()


@asynccontextmanager
async def network_of(system: System) -> AsyncIterator[Network]:
    def pids() -> dict[str, int]:
        servers = {**system.admins.servers, **system.servers.servers}
        return {name: server.pid for name, server in servers.items() if server.running}

    network = Network(pids)
    try:
        yield network
    finally:
        await network.close()


async def test_slots_move_under_load_while_the_mover_and_leaders_are_killed(tmp_path: Path) -> None:
    async with running_system(tmp_path, ("a1", "a2", "a3")) as system, network_of(system) as network:
        await add_cluster(system, "one", "n1", "n2", "n3")  # the first one owns all slots
        await add_cluster(system, "two", "n4")
        async with applications(system) as applied, system.client(timeout_s=CALL_S) as admin:
            await rebalance(admin)
            await rest(system)
            before = applied.done
            fifth = system.servers.add("n5")
            fifth.flags += ["--advertise", await network.front("n5", fifth.address)]
            await add_cluster(system, "three", "n5")
            everyone = [*system.admins.servers.values(), *system.servers.servers.values()]
            killing = asyncio.create_task(kill_now_and_then(system, everyone, Random(7)))
            await rebalance(admin)
            await asyncio.sleep(4.0)
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
            for server in everyone:
                if not server.running:
                    server.start(*([] if server.verb == "admin" else ["--admin", ",".join(system.admins.endpoints)]))
            await rest(system)
            for name in system.admins.servers:
                network.slow(name, "n5", SLOW_S)
            await rebalance(admin, "one")
            await kill_the_mover_for_good(system)
            await rest(system, "one")
            assert applied.done > before + 100
            await applied.stop()
            async with RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client:
                found = [pair.key async for pair in client.scan()]
            assert len(found) == len(set(found))
        applied.check()


async def test_a_destination_above_its_quota_ends_the_rebalance_with_the_reason(tmp_path: Path) -> None:
    """The source keeps its slots and keys, and nothing of them is left at the destination."""
    value = bytes(64 << 10)
    keys = [b"large-%d" % number for number in range(64)]
    async with running_system(tmp_path) as system:
        await add_cluster(system, "large", "n1")
        system.start("m1", "--new-cluster", "small", "--db-size-max", "1MiB")
        await system.seated("small", "m1")
        async with RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client:
            for key in keys:
                await client.put(key, value)
            async with AdminClient(system.admins.endpoints, timeout_s=CALL_S) as admin, asyncio.timeout(MOVED_S):
                last = [message async for message in admin.rebalance(["large"])][-1]
                assert "cluster small: the store holds" in last.obstacle, last
                assert "--db-size-max" in last.obstacle
                assert (len(last.moves), last.slots_left > 0) == (0, True)
                await admin.stop_rebalance()
            for key in keys:
                found = await client.get(key)
                assert found is not None
                assert found.value == value
