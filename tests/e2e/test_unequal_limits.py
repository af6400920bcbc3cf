"""Members with unequal limits: what one of them takes from a client, all of them replicate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ravelctl.client import ClusterClient, Consistency, InvalidArgumentError, Put, RavelClient, WatchEvent
from ravelpb.errors import Reason
from tests.e2e.cluster import CALL_S, START_S, running_cluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MIB = 1 << 20
PATIENT = ["--election-ticks", "200"]  # 10 s: no election is due to how long a busy machine takes to carry 60 MiB
LARGE = ["--request-bytes-max", "64MiB", "--value-bytes-max", "32MiB"]


async def test_a_request_near_the_limit_of_one_member_reaches_all(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, flags=PATIENT) as cluster:
        large = cluster.servers["n1"]
        for server in cluster.servers.values():
            server.terminate()
        large.start(*LARGE)
        for name in ("n2", "n3"):
            cluster.servers[name].start()
        number = (await cluster.answering(large)).header.replica_id

        async def leads() -> bool:
            if await cluster.leader() is large:
                return True
            async with ClusterClient(cluster.endpoints, timeout_s=CALL_S) as client:
                await client.transfer_leader(number)
            return False

        await until("the member with the larger limits leads", leads, START_S)
        term = (await cluster.status(large)).header.term
        one, other = b"1" * (32 * MIB), b"2" * (32 * MIB - (64 << 10))
        async with RavelClient([large.address], timeout_s=120.0) as client:
            await client.put(b"one", one)
            await client.put(b"small", b"s" * (100 << 10))
            written = await client.write([Put(b"a", one), Put(b"b", other)])  # nearly 64 MiB in one entry
        await cluster.settled(120.0)
        status = await cluster.status(large)
        assert (status.header.term, status.leader_id) == (term, number), "it cost nobody the leadership"
        for server in cluster.servers.values():
            async with RavelClient([server.address], timeout_s=120.0) as client:
                for key, value in ((b"one", one), (b"a", one), (b"b", other)):
                    found = await client.get(key, consistency=Consistency.STALE)
                    assert found is not None
                    assert found.value == value, (server.name, key)
        follower = cluster.servers["n2"]
        async with RavelClient([follower.address], timeout_s=120.0) as client, client.watch(prefix=b"", from_revision=1) as watch:
            async with asyncio.timeout(120.0):
                seen = [(event.key, event.value) async for event in _up_to(watch, written.revision, 4)]
        assert [key for key, _ in seen] == [b"one", b"small", b"a", b"b"]
        assert [value for _, value in seen] == [one, b"s" * (100 << 10), one, other]


async def _up_to(watch: AsyncIterator[WatchEvent], revision: int, count: int) -> AsyncIterator[WatchEvent]:
    async for event in watch:
        yield event
        count -= 1
        if not count:
            assert event.revision == revision
            return


async def test_a_member_takes_from_clients_what_its_own_limit_says(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, ["n1"]) as cluster, cluster.client() as client:
        with pytest.raises(InvalidArgumentError) as caught:
            await client.put(b"k", b"v" * (20 * MIB))
        assert caught.value.reason in (Reason.REQUEST_TOO_LARGE, Reason.VALUE_TOO_LARGE)
        await client.put(b"k", b"v" * MIB)
