"""A bit of the index of slots that flipped on a disk: no move loses the key, and the operator learns which replica it is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import pytest

from ravel_node.admin.codec import MOVE_SLOTS_MAX
from ravelctl.client import ClusterClient, InspectClient, RavelClient, RavelError
from ravelpb.slots import SLOT_COUNT, slot_of
from tests.e2e.admins import System, running_system
from tests.e2e.cluster import CALL_S, START_S, Server, until
from tests.e2e.test_rebalance import add_cluster, slots_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MOVED: Final = range(SLOT_COUNT - MOVE_SLOTS_MAX, SLOT_COUNT)
"""Slots of the first move of a rebalance between two clusters."""

KEY: Final = next(key for number in range(1_000_000) if slot_of(key := b"the-flipped-key/%d" % number) in MOVED)
KEYS: Final = (KEY, *(b"key/%d" % number for number in range(200)))


def value_of(key: bytes) -> bytes:
    return b"the value of " + key[::-1]  # in which the key does not stand


def flip_in_the_index(path: Path) -> int:
    """Flip one bit of KEY wherever it stands in the file but in `kv`, where its record follows it. Return how many it were."""
    data = bytearray(path.read_bytes())
    flipped, at = 0, data.find(KEY)
    while at >= 0:
        value = at + len(KEY) + 4 + 8  # behind check sum and revision
        if data[value : value + len(value_of(KEY))] != value_of(KEY):
            data[at + len(KEY) - 1] ^= 0x01
            flipped += 1
        at = data.find(KEY, at + 1)
    path.write_bytes(data)
    return flipped


async def led_by(system: System, server: Server) -> None:
    """Hand the leadership of its cluster to this server."""
    number = (await system.servers.answering(server)).header.replica_id
    members = [one.address for name, one in system.servers.servers.items() if name != "n4"]

    async def leads() -> bool:
        if (await system.servers.status(server)).leader_id == number:
            return True
        try:
            async with ClusterClient(members, timeout_s=CALL_S) as client:
                await client.transfer_leader(number)
        except RavelError:
            pass  # it may be refused for a moment: asked again
        return False

    await until(f"{server.name} leads", leads, START_S)


async def moved(system: System, *empty: str) -> tuple[dict[str, int], str]:
    """Rebalance, and wait until nothing moves any more: the slots of each cluster, and why the last move was called off."""
    obstacle = ""
    async with system.client(timeout_s=20.0) as admin, asyncio.timeout(300.0):
        async for message in admin.rebalance(empty):
            obstacle = message.obstacle
    return slots_of(await system.directory()), obstacle


async def all_are_there(system: System) -> None:
    async with RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client:
        found = await asyncio.gather(*(client.get(key) for key in KEYS))
    assert [(item.value if item is not None else None) for item in found] == [value_of(key) for key in KEYS]


async def test_a_flipped_bit_of_the_index_stops_the_move_and_loses_nothing(tmp_path: Path) -> None:
    async with running_system(tmp_path) as system:
        await add_cluster(system, "one", "n1", "n2", "n3")
        async with RavelClient(admin=system.admins.endpoints, timeout_s=CALL_S) as client:
            await asyncio.gather(*(client.put(key, value_of(key)) for key in KEYS))
        victim = system.servers.servers["n3"]
        await system.servers.caught_up(victim)
        assert victim.terminate() == 0  # it flushes
        (path,) = victim.data_dir.glob("state-*/data.mdb")
        assert flip_in_the_index(path) > 0
        system.start("n3")
        await led_by(system, victim)
        await add_cluster(system, "two", "n4")

        shares, why = await moved(system)
        assert shares == {"one": 2_048 + len(MOVED), "two": 2_048 - len(MOVED)}, "all moves but one have ended well"
        assert "n3 (replica " in why
        assert f"slot {slot_of(KEY)} " in why
        await all_are_there(system)
        (alarm,) = [alarm for alarm in (await system.servers.status(victim)).alarms if alarm.code == "RV613"]
        assert alarm.replica_id == (await system.servers.status(victim)).header.replica_id
        assert f"slot {slot_of(KEY)} " in alarm.message
        assert KEY.decode() not in alarm.message

        async with InspectClient(timeout_s=CALL_S) as inspect:
            for server in system.servers.servers.values():
                found = [problem async for step in inspect.check_store(server.address) for problem in step.problems]
                assert bool(found) == (server is victim), (server.name, found)
                assert {"database slots" in problem for problem in found} <= {True}

        await led_by(system, system.servers.servers["n1"])
        shares, why = await moved(system, "one")
        assert (shares, why) == ({"one": 0, "two": 4_096}, "")
        await all_are_there(system)
