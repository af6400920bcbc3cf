"""Servers that are told by an admin group where they belong: joining, leaving, and admins that are killed meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ravelctl.client import AdminGroupError, ClusterClient, RavelClient, RavelError, WrongClusterError
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import admin_pb2
from tests.e2e.admins import System, running_system
from tests.e2e.cluster import CALL_S, START_S, Server, until
from tests.e2e.test_cli import ravelctl

pytestmark = pytest.mark.e2e


def down(name: str, *, is_down: bool) -> Callable[[admin_pb2.DirectoryResponse], bool]:
    def ask(directory: admin_pb2.DirectoryResponse) -> bool:
        (server,) = [entry for entry in directory.servers if entry.server.name == name]
        return server.down == is_down and server.heard

    return ask


async def test_three_admins_and_two_clusters(tmp_path: Path) -> None:
    """The admin leader is killed while servers join; a server that is killed is shown as down, and comes back by itself."""
    async with running_system(tmp_path, admins=("a1", "a2", "a3")) as system:
        system.start("n1")
        await system.seated("default", "n1")
        system.start("o1", "--new-cluster", "orders")
        await system.seated("orders", "o1")
        leader = await system.admins.leader()
        for name in ("n2", "o2"):
            system.start(name, "--new-cluster", "default" if name == "n2" else "orders")
        leader.kill()
        # Who asks for a cluster gets it, however many are in it: they come before those whose cluster depends on that.
        await system.told("both joined since", lambda directory: len(directory.servers) == 4, START_S)
        for name in ("n3", "o3"):
            system.start(name)  # each goes to the cluster with the fewest

        def balanced(directory: admin_pb2.DirectoryResponse) -> bool:
            voters = [entry.cluster for entry in directory.servers if entry.seat == admin_pb2.SEAT_VOTER]
            return sorted(voters) == [1, 1, 1, 2, 2, 2]

        await system.told("both clusters have three voters", balanced, START_S)
        n2 = system.servers.servers["n2"]
        n2.kill()
        leader.start()
        await system.admins.caught_up(leader)
        directory = await system.directory()
        assert [(entry.name, entry.replicas_wanted, entry.founded) for entry in directory.clusters] == [
            ("default", 3, True),
            ("orders", 3, True),
        ]
        assert len({entry.replica_id for entry in directory.servers if entry.cluster == 1}) == 3
        await system.told("n2 is down", down("n2", is_down=True), START_S)
        system.start("n2")
        await system.told("n2 is back", down("n2", is_down=False), START_S)
        assert await system.members(n2) == await system.members(system.servers.servers["n1"])


STOP_IT = "stop its daemon and delete its data directory"


async def put(server: Server, key: bytes) -> None:
    async with RavelClient([server.address], timeout_s=CALL_S) as client:
        await client.put(key, b"v")


async def test_a_cluster_goes_on_without_admins_and_reports_when_they_are_back(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        servers = [system.start(name) for name in ("n1", "n2", "n3")]
        await system.seated("default", "n1", "n2", "n3")
        (admin,) = system.admins.servers.values()
        admin.terminate()
        await put(servers[0], b"before")
        led = await system.servers.leader()
        led.kill()
        heir = await system.servers.leader()
        await put(heir, b"after")
        await until("it says that no admin answers", said(heir, '"obstacle": "away"'), START_S)
        led.start("--admin", ",".join(system.admins.endpoints))  # it starts and serves without any admin
        await system.servers.caught_up(led)
        assert (await system.servers.status(led)).role is not None
        blank = system.start("n4")
        await system.servers.answering(blank)
        admin.start()
        term = (await system.servers.status(await system.servers.leader())).header.term

        def reported(directory: admin_pb2.DirectoryResponse) -> bool:
            (cluster,) = directory.clusters
            return cluster.term >= term

        await system.told("another one leads", reported, START_S)
        await system.seated("default", "n1", "n2", "n3", "n4")
        await until("it says that an admin answers again", said(heir, "daemon.admin_answers"), START_S)
        begun, over = heir.log.count('"obstacle": "away"'), heir.log.count("daemon.admin_answers")
        assert begun <= 1 + over, "one line for all that time"


async def test_servers_leave_and_stay_out(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        n1, n2, n3, n4 = [system.start(name) for name in ("n1", "n2", "n3", "n4")]
        await system.seated("default", "n1", "n2", "n3", "n4")
        assert n4.terminate() == 0
        async with system.client(timeout_s=CALL_S) as admin:
            await admin.mark_leaving("n4")  # as a leave does that is interrupted right after it
        assert (await system.leave(n4))[0] == 0, "it is completed, though its daemon does not run"
        assert await system.leave(n2) == (0, f"{await says(system, n2)} has left cluster default: {STOP_IT}\n")
        await system.seated("default", "n1", "n3")
        for server in (n2, n4):
            server.kill()
            system.start(server.name)
            await until("it knows, also after a restart", removed(system, server), START_S)
            await until("it says so", said(server, "daemon.removed"), START_S)
        await system.seated("default", "n1", "n3")
        again, text = await system.leave(n2)
        assert (again, "not in the admin's list (any more)" in text) == (0, True)
        (cluster,) = (await system.directory()).clusters
        leads = (await system.servers.status(n1)).server.server_id == cluster.leader_id
        leader, other = (n1, n3) if leads else (n3, n1)
        assert (await system.leave(leader))[0] == 0
        await system.seated("default", other.name)
        status, text = await system.leave(other)
        assert (status, "last replica" in text) == (1, True), text
        await put(other, b"it serves on")
        await system.seated("default", other.name)


async def says(system: System, server: Server) -> str:
    """How `ravel_node leave` names it."""
    return f"{server.name} (server {(await system.servers.status(server)).server.server_id[:8]})"


def removed(system: System, server: Server) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        try:
            return (await system.servers.status(server)).removed
        except RavelError:
            return False

    return ask


def said(server: Server, event: str) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return event in server.log

    return ask


async def test_what_cannot_be_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        n1 = system.start("n1")
        await system.seated("default", "n1")
        before = (await system.directory()).servers
        namesake = system.servers.add("n1-again")
        namesake.name = "n1"
        namesake.start("--admin", system.admins.endpoints[0])
        stranger = system.servers.add("stranger")
        stranger.start()
        await system.servers.answering(stranger)
        async with ClusterClient([stranger.address], timeout_s=CALL_S) as client:
            await client.bootstrap(stranger.address, "ab" * 16, "elsewhere")
        stranger.terminate()
        system.start("stranger")
        await until("the taken name is told", said(namesake, "has this name already"), START_S)
        await until("the foreign identity is told", said(stranger, "not in the list"), START_S)
        assert [entry.server for entry in (await system.directory()).servers] == [entry.server for entry in before]
        assert (await system.servers.status(namesake)).blank
        await put(stranger, b"serves on")
        admin_dir = system.admins.servers["a1"]
        admin_dir.terminate()
        admin_dir.verb = "start"
        admin_dir.start()
        assert await asyncio.to_thread(admin_dir.wait) == 1
        assert "start it with `ravel_node admin`" in admin_dir.log
        n1.terminate()
        n1.verb = "admin"
        n1.start()
        assert await asyncio.to_thread(n1.wait) == 1
        assert "start it with `ravel_node start`" in n1.log


async def test_an_admin_group_holds_no_keys(tmp_path: Path) -> None:
    """Whatever a client takes the addresses for, and whichever admin is suspended."""
    async with running_system(tmp_path, admins=("a1", "a2", "a3")) as system:
        n1 = system.start("n1")
        await system.seated("default", "n1")
        first, *others = system.admins.servers.values()
        for addresses in ([first.address], [server.address for server in (first, *others)]):
            async with RavelClient(addresses, timeout_s=CALL_S) as mistaken:
                for call in (mistaken.put(b"k", b"v"), mistaken.get(b"k"), mistaken.watch().started()):
                    with pytest.raises(AdminGroupError):
                        await call
        first.pause()
        try:
            ran = await ravelctl(system.admins, "kv", "put", "k", "v")
            assert ran.status == 0, ran.err
        finally:
            first.resume()
        async with RavelClient([n1.address], timeout_s=CALL_S) as there:
            found = await there.get(b"k")
            assert found is not None
            assert found.value == b"v"


async def test_slots_move_to_a_cluster_that_was_added(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        n1 = system.start("n1")
        await system.seated("default", "n1")
        async with RavelClient([n1.address], timeout_s=CALL_S) as client:
            for number in range(200):
                await client.put(b"k%d" % number, b"v%d" % number)
        o1 = system.start("o1", "--new-cluster", "orders")
        await system.seated("orders", "o1")
        async with RavelClient([o1.address], timeout_s=CALL_S) as client:
            with pytest.raises(WrongClusterError):
                await client.put(b"k1", b"x")
        async with system.client(timeout_s=CALL_S) as admin:
            plan = await admin.plan_rebalance()
            assert sum(len(move.slots) for move in plan.moves) == SLOT_COUNT // 2
            told = [message async for message in admin.rebalance(map_version=plan.map_version)]
            assert (told[-1].slots_left, told[-1].obstacle) == (0, "")
            slots = {entry.name: entry.slots for entry in (await admin.directory()).clusters}
            assert slots == {"default": SLOT_COUNT // 2, "orders": SLOT_COUNT // 2}
        async with RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client:
            for number in range(200):
                found = await client.get(b"k%d" % number)
                assert found is not None
                assert found.value == b"v%d" % number
