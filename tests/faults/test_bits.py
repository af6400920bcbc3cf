"""A bit that turned over on the disk of a stopped daemon: found when it is read, named, never served. The others go on."""

from __future__ import annotations

import re
from pathlib import Path
from time import monotonic
from typing import Final

import pytest

from ravelctl.client import ClusterClient, Consistency, InspectClient, RavelClient, RavelError
from tests.e2e.cluster import CALL_S, START_S, Server, until
from tests.faults.conftest import Trial
from tests.faults.ordeal import Ordeal, events
from tests.faults.test_disks import stopped_itself

MARK: Final = b"a value that stands on every disk in one place"
KEY: Final = b"marked"


def holds_mark(path: Path) -> bool:
    return MARK in path.read_bytes()


def flip(path: Path) -> None:
    """Turn one bit over in every place where MARK stands in a file."""
    data = bytearray(path.read_bytes())
    found = data.find(MARK)
    assert found >= 0, f"{path} does not hold it"
    while found >= 0:
        data[found + 7] ^= 0x04
        found = data.find(MARK, found + 1)
    path.write_bytes(data)


async def mark(ordeal: Ordeal) -> None:
    await ordeal.workload.recorder.client("marker").put(KEY, MARK)


async def replaced(ordeal: Ordeal, server: Server, replica_id: int) -> None:
    """What the operator does: the damaged replica leaves, and its server joins anew with an empty disk."""
    members = [other.address for other in ordeal.cluster.servers.values() if other is not server]
    async with ClusterClient(members, timeout_s=CALL_S) as client:
        await client.leave([replica_id])
    server.wipe()
    server.start("--join", members[0])

    async def votes() -> bool:
        return server.name in await ordeal.cluster.voters()

    await until(f"{server.name} is a voter again", votes, START_S)
    await ordeal.cluster.caught_up(server, START_S)


async def replica_id(ordeal: Ordeal, server: Server) -> int:
    return (await ordeal.cluster.status(server)).header.replica_id


async def test_a_bit_of_a_log_record(trial: Trial) -> None:
    async with trial("a bit flipped in a log record", failing_disks=True) as ordeal:
        await ordeal.progress()
        follower = (await ordeal.cluster.followers())[0]
        number = await replica_id(ordeal, follower)
        disk = ordeal.disks[follower.name]
        disk.only("/state-")
        disk.sync_delay_ms = 20_000  # what is applied from here on is in its log only, and must be read there by its next start
        slowed = disk.slowed

        async def flushing() -> bool:
            return disk.slowed > slowed

        await until("a flush hangs", flushing, START_S)
        await mark(ordeal)
        await ordeal.cluster.caught_up(follower)
        follower.kill()
        disk.sync_delay_ms = 0
        flip(follower.data_dir / "raft" / "data.mdb")
        follower.start()
        why = await stopped_itself(follower)
        assert re.search(r"raft/data\.mdb: entry \d+ is damaged", why), why
        ordeal.happened()
        await ordeal.recovered(monotonic())
        await ordeal.progress()
        await replaced(ordeal, follower, number)


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_bit_of_the_state(trial: Trial, role: str) -> None:
    async with trial(f"a bit flipped in the state, read on the {role}") as ordeal:
        await mark(ordeal)
        await ordeal.progress()
        server = (await ordeal.cluster.followers())[0]
        number = await replica_id(ordeal, server)
        assert server.terminate() == 0
        (path,) = server.data_dir.glob("state-*/data.mdb")
        flip(path)
        await ordeal.restart(server)
        await ordeal.cluster.caught_up(server)
        if role == "leader":
            await led_by(ordeal, server, number)
            found = await ordeal.workload.recorder.client("reader").get(KEY, timeout_s=30.0)
            assert found is not None, "another leader has it whole"
        else:
            async with RavelClient([server.address], timeout_s=3.0) as client:
                with pytest.raises(RavelError):
                    await client.get(KEY, consistency=Consistency.STALE)
        why = await stopped_itself(server)
        assert re.search(r"state-\d+/data\.mdb: record 'marked' of database kv is damaged", why), why
        ordeal.happened()
        await ordeal.recovered(monotonic())
        await ordeal.progress()
        await replaced(ordeal, server, number)


async def led_by(ordeal: Ordeal, server: Server, number: int) -> None:
    async def leads() -> bool:
        if await ordeal.cluster.leader() is server:
            return True
        try:
            async with ClusterClient(ordeal.cluster.endpoints, timeout_s=CALL_S) as client:
                await client.transfer_leader(number)
        except RavelError:
            pass  # it may be refused for a moment: asked again
        return False

    await until(f"{server.name} leads", leads, START_S)


async def test_a_bit_of_a_snapshot(trial: Trial) -> None:
    async with trial("a bit flipped in a snapshot file, found at start") as ordeal:
        await mark(ordeal)
        await ordeal.progress()
        server = (await ordeal.cluster.followers())[0]
        async with InspectClient(timeout_s=CALL_S) as inspect:
            await inspect.save_snapshot(server.address)
            assert server.terminate() == 0
            (path,) = (server.data_dir / "snapshots").glob("*.mdb")
            flip(path)
            await ordeal.restart(server)

            async def told() -> bool:
                return any(found["file"] == str(path) for found in events(server, "store.snapshot_damaged"))

            await until("the damaged file is told", told, START_S)
            ordeal.happened()
            assert path.with_name(path.name + ".damaged").exists(), "it is put aside"
            assert path.stem not in {file.name for file in (await inspect.snapshots(server.address)).snapshots}
        await ordeal.progress()


async def test_a_bit_of_a_snapshot_that_is_about_to_be_sent(trial: Trial) -> None:
    async with trial("a bit flipped in a snapshot file, found by its receiver", flags=["--log-retain-entries", "20"]) as ordeal:
        await mark(ordeal)
        await ordeal.progress()
        leader, follower = await ordeal.cluster.leader(), (await ordeal.cluster.followers())[0]
        last = (await ordeal.cluster.status(follower)).last_index
        follower.kill()

        async def compacted() -> bool:
            return (await ordeal.cluster.status(leader)).first_index > last + 1

        await until("the log begins after what the follower holds", compacted, START_S)
        await ordeal.workload.stop()  # else a newer snapshot takes the place of the damaged one
        async with InspectClient(timeout_s=CALL_S) as inspect:
            await inspect.save_snapshot(leader.address)
        for path in filter(holds_mark, (leader.data_dir / "snapshots").glob("*.mdb")):
            flip(path)
            ordeal.happened()
        await ordeal.restart(follower)
        await ordeal.cluster.caught_up(follower, START_S)
        assert (await ordeal.cluster.status(follower)).first_index > last + 1, "it came by a snapshot"
        assert list(events(leader, "store.snapshot_damaged")), "the leader tells of its damaged file"
