"""Real replicas whose states differ, and real daemons of two versions in one cluster."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from ravel_node.machine.base import Database
from ravel_node.machine.envelope import FORMAT
from ravel_node.storage.keys import STATE_NAMES, seal, seed_of
from ravel_node.storage.store import StoreOptions, open_store
from ravelctl.client import InspectClient, RavelError
from ravelpb.v1 import inspect_pb2
from tests.e2e.cluster import CALL_S, START_S, STEADY, Cluster, Server, running_cluster, until

OLDER = Path(__file__).with_name("older_daemon.py")


async def ctl(*words: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ravelctl", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), START_S)
    return process.returncode or 0, out.decode(), err.decode()


async def forge(server: Server, key: bytes, value: bytes) -> None:
    """Give a stopped replica another value than its log says, with a right check sum, through the storage layer."""
    store = await open_store(server.data_dir, StoreOptions())
    name = STATE_NAMES[Database.KV]

    def replace(txn) -> None:  # type: ignore[no-untyped-def]
        before = txn.get(name, key)
        txn.put(name, key, seal(seed_of(name), key, before[4:12] + value))

    await store._state.environment.write(replace)
    await store.close()


async def alarms(cluster: Cluster) -> dict[str, str]:
    """RV602 as the leader shows it: whom it is about, and its sentence."""
    status = await cluster.status(await cluster.leader())
    names = {member.replica_id: member.server.name for member in status.members}
    return {names[alarm.replica_id]: alarm.message for alarm in status.alarms if alarm.code == "RV602"}


async def test_a_forged_value_on_one_replica_is_found_named_and_cleared(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, flags=STEADY) as cluster:  # the leader remembers when all were equal
        endpoints = ",".join(cluster.endpoints)
        async with cluster.client() as client:
            for number in range(200):
                await client.put(b"k%03d" % number, b"v")
        code, out, err = await ctl("store", "hash", "-e", endpoints, "-o", "json")
        assert code == 0, err
        told = json.loads(out)
        assert told["equal"]
        assert len({one["sha256"] for one in told["replicas"]}) == 1
        other = (await cluster.followers())[1].name
        code, out, err = await ctl("log", "diff", "n1", other if other != "n1" else "n2", "-e", endpoints, "-o", "json")
        assert (code, json.loads(out)["state"]["same"]) == (0, True), (out, err)
        agreed = json.loads(out)["state"]["index"]

        wrong = (await cluster.followers())[0]
        assert wrong.terminate() == 0
        await forge(wrong, b"k100", b"forged")
        wrong.start()
        await cluster.answering(wrong)
        await cluster.caught_up(wrong)
        code, out, err = await ctl("store", "hash", "-e", endpoints, "-o", "json")
        assert code == 8, (out, err)
        told = json.loads(out)
        (one,) = [one for one in told["replicas"] if one["differs"]]
        assert one["name"] == wrong.name
        assert one["agreed_index"] == agreed
        differed = one["differed_index"]
        code, out, err = await ctl("store", "hash", "-e", endpoints)
        assert code == 8
        assert f"{wrong.name} went astray" in out
        # The entries are the same, and what was made of them is not: the range is told by replicas that live.
        code, out, err = await ctl("log", "diff", other, wrong.name, "-e", endpoints)
        assert code == 8, (out, err)
        assert "are the same on" in out
        assert f"they were the same at entry {agreed} and no more at entry {differed}" in out
        assert (await ctl("log", "diff", wrong.name, other, "-e", endpoints, "--no-state"))[0] == 0
        assert (await ctl("store", "hash", "-e", endpoints, "-o", "name"))[:2] == (8, f"{wrong.name}\n")
        assert list(await alarms(cluster)) == [wrong.name]
        assert f"the state of {wrong.name} is not that of" in (await alarms(cluster))[wrong.name]
        code, out, err = await ctl("status", "-e", endpoints)
        assert "RV602" in out

        async with cluster.client() as client:
            await client.put(b"k100", b"right again")
        code, out, err = await ctl("store", "hash", "-e", endpoints)
        assert code == 0, (out, err)
        assert "all hold the same" in out
        assert not await alarms(cluster)

        # Without the daemons: each stops at its own entry, and directories of the same entry are compared.
        copy = tmp_path / "copy"
        assert wrong.terminate() == 0
        shutil.copytree(wrong.data_dir, copy)
        words = ["store", "hash", "-o", "json", "--data-dir", str(wrong.data_dir), "--data-dir", str(copy)]
        code, out, err = await ctl(*words)
        assert code == 0, (out, err)
        assert len({each["sha256"] for each in json.loads(out)["directories"]}) == 1
        await forge(wrong, b"k007", b"forged")
        code, out, err = await ctl(*words)
        assert code == 8, (out, err)
        assert not json.loads(out)["equal"]


def older(folder: Path, name: str, like: Server | None = None) -> Server:
    """A server whose daemon is of an older version (older_daemon.py)."""
    server = Server(folder, name)
    server.program = [str(OLDER)]
    return server if like is None else moved(server, like)


def moved(server: Server, like: Server) -> Server:
    """Another program for the same directory and addresses."""
    server.data_dir, server.address, server.peer_address = like.data_dir, like.address, like.peer_address
    return server


async def hashed(cluster: Cluster) -> inspect_pb2.StateHashResponse | str:
    """The comparison, or the reason for which there is none."""
    leader = await cluster.leader()
    async with InspectClient(timeout_s=CALL_S) as client:
        try:
            return await client.state_hash(leader.address, timeout_s=CALL_S)
        except RavelError as error:
            return str(error.reason)


async def compared(cluster: Cluster, right: Callable[[inspect_pb2.StateHashResponse], bool]) -> inspect_pb2.StateHashResponse:
    """The first comparison that is right: an election calls one off, or leaves a replica out."""

    async def ask() -> inspect_pb2.StateHashResponse | None:
        found = await hashed(cluster)
        return found if isinstance(found, inspect_pb2.StateHashResponse) and right(found) else None

    return await until("the replicas are compared", ask, START_S)


async def formats(cluster: Cluster) -> dict[str, int]:
    status = await cluster.status(await cluster.leader())
    return {member.server.name: member.server.format for member in status.members}


async def test_a_rolling_upgrade_proposes_nothing_new_until_all_are_of_the_new_version(tmp_path: Path) -> None:
    """Restarted one by one, each replica's record follows; a comparison every second would be made if it could be."""
    cluster = Cluster(tmp_path, ["--checksum-interval-s", "1"])

    async def due() -> bool:
        return (await cluster.status(await cluster.leader())).leader_age_ms > 2_000

    async def refused() -> bool:
        return await hashed(cluster) == "UNSUPPORTED_VERSION"

    try:
        for name in ("n1", "n2", "n3"):
            cluster.servers[name] = older(tmp_path, name)
            cluster.servers[name].start()
        await cluster.bootstrap(*cluster.servers.values())
        assert await formats(cluster) == {"n1": 1, "n2": 1, "n3": 1}
        for step, name in enumerate(("n1", "n2", "n3"), 1):
            old = cluster.servers[name]
            assert old.terminate() == 0
            new = cluster.servers[name] = moved(Server(tmp_path, name, cluster.flags), old)
            new.start()
            await cluster.answering(new)
            await cluster.caught_up(new)

            async def recorded(name: str = name) -> bool:
                return (await formats(cluster))[name] == FORMAT

            await until(f"the record of {name} follows", recorded, START_S)
            if step < 3:
                _, out, _ = await ctl("status", "-e", ",".join(cluster.endpoints))
                assert "versions differ: 0.0.9 on" in out
                await until("a comparison was due", due, START_S)
                await until("it says that a version does not know it", refused, START_S)
            assert all(server.running for server in cluster.servers.values())
        found = await compared(cluster, lambda found: all(len(one.sha256) == 32 for one in found.replicas))
        assert len({one.sha256 for one in found.replicas}) == 1
    finally:
        cluster.stop_all()


async def test_an_older_daemon_that_meets_what_it_does_not_know_stops_with_a_clear_word(tmp_path: Path) -> None:
    """Somebody went back to the older version on one replica, after the fact."""
    async with running_cluster(tmp_path) as cluster:
        away = (await cluster.followers())[0]
        away.kill()
        await cluster.unheard()
        await compared(cluster, lambda found: [one.name for one in found.replicas if not one.sha256] == [away.name])
        downgraded = cluster.servers[away.name] = older(tmp_path, away.name, away)
        downgraded.start()
        assert await asyncio.to_thread(downgraded.wait) == 1
        assert "a payload of format 2, where this version knows 1: upgrade this server" in downgraded.log
        again = cluster.servers[away.name] = moved(Server(tmp_path, away.name), away)
        again.start()
        await cluster.answering(again)
        await cluster.caught_up(again)
