"""Reading and writing through a real cluster of three daemons."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ravelctl.client import (
    Condition,
    Consistency,
    Delete,
    InvalidArgumentError,
    Put,
    RavelClient,
)
from tests.e2e.cluster import CALL_S, running_cluster
from tests.e2e.load import same_on_all

pytestmark = pytest.mark.e2e


async def test_every_operation_from_several_clients(tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path) as cluster,
        cluster.client() as one,
        RavelClient([cluster.endpoints[-1]], timeout_s=CALL_S) as other,
    ):
        first = await one.put(b"a", b"1")
        found = await other.get(b"a")
        assert found == (b"a", b"1", first.revision)

        second = await other.put(b"a", b"2")
        assert second.revision == first.revision + 1

        failed = await one.compare_and_swap(b"a", b"3", expected_revision=first.revision)
        assert (failed.swapped, failed.revision, failed.actual) == (False, second.revision, (b"a", b"2", second.revision))
        done = await one.compare_and_swap(b"a", b"3", expected_revision=second.revision)
        assert done.swapped
        created = await one.compare_and_swap(b"new", b"x", expected_revision=0)
        assert created.swapped
        assert not (await one.compare_and_swap(b"new", b"y", expected_revision=0)).swapped

        taken = await other.get_and_delete(b"a")
        assert taken == (b"a", b"3", done.revision)
        assert await one.get(b"a") is None
        assert not (await one.delete(b"a")).found
        assert (await one.delete(b"new")).found

        written = await one.write([Put(b"w/1", b"1"), Put(b"w/2", b"2")], conditions=[Condition(b"w/1", 0)])
        assert written.done
        refused = await one.write([Delete(b"w/1"), Delete(b"w/2")], conditions=[Condition(b"w/2", 1)])
        assert (refused.done, refused.failed_key) == (False, b"w/2")
        assert {await one.get(b"w/1"), await one.get(b"w/2")} == {
            (b"w/1", b"1", written.revision),
            (b"w/2", b"2", written.revision),
        }


async def test_a_thousand_concurrent_puts_are_read_everywhere(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, cluster.client() as client:
        await asyncio.gather(*(client.put(f"k/{number:04}".encode(), str(number).encode()) for number in range(1000)))
        scanned = [item async for item in client.scan(prefix=b"k/", page_keys_max=100)]
        assert [item.key for item in scanned] == [f"k/{number:04}".encode() for number in range(1000)]
        assert [item.value for item in scanned] == [str(number).encode() for number in range(1000)]
        limited = [item async for item in client.scan(prefix=b"k/", limit=7, keys_only=True)]
        assert [item.key for item in limited] == [f"k/{number:04}".encode() for number in range(7)]

        await cluster.settled()
        clients = [RavelClient([server.address], timeout_s=CALL_S) for server in cluster.servers.values()]
        try:
            assert len(await same_on_all(clients)) == 1000
            quorum = await client.get(b"k/0042", consistency=Consistency.QUORUM)
            assert quorum is not None
            assert quorum.value == b"42"
        finally:
            for each in clients:
                await each.close()


async def test_keys_and_values_at_and_beyond_their_bounds(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, names=["n1"]) as cluster, cluster.client() as client:
        await client.put(b"k" * 480, b"v" * (1 << 20))
        found = await client.get(b"k" * 480)
        assert found is not None
        assert len(found.value) == 1 << 20
        await client.put(b"empty", b"")
        assert (await client.get(b"empty")) is not None
        for key, value, words in (
            (b"", b"v", "empty"),
            (b"k" * 481, b"v", "481"),
            (b"k", b"v" * ((1 << 20) + 1), str((1 << 20) + 1)),
        ):
            with pytest.raises(InvalidArgumentError, match=words):
                await client.put(key, value)
        assert await client.get(b"k") is None
