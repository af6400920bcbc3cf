"""RavelClient against a fake cluster that works: values, batches, scans, bounds, the leader's whereabouts."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from ravelctl.client import (
    BlankError,
    ClosedError,
    Condition,
    Consistency,
    DeadlineError,
    Delete,
    DeleteResult,
    InvalidArgumentError,
    KeyValue,
    NoLeaderError,
    Operation,
    OutcomeUnknownError,
    Put,
    PutResult,
    RavelClient,
    RetryPolicy,
    SlotMovingError,
    SwapResult,
    UnreachableError,
    WriteResult,
    WrongClusterError,
)
from ravelctl.client.session.scan import range_of_prefix
from ravelpb.errors import Reason
from ravelpb.slots import slot_of
from tests.ravelctl.client.fake_server import FakeCluster, Fault, fake_cluster, make_status, scripted
from tests.ravelctl.client.patience import ends_in


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with fake_cluster(3) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: FakeCluster) -> AsyncIterator[RavelClient]:
    async with RavelClient([replica.address for replica in cluster.replicas], timeout_s=20) as client:
        yield client


async def test_every_call_gives_its_value(client: RavelClient) -> None:
    assert await client.put(b"k", b"v1") == PutResult(1)
    assert await client.get(b"k") == KeyValue(b"k", b"v1", 1)
    assert await client.get(b"k", consistency=Consistency.QUORUM) == KeyValue(b"k", b"v1", 1)
    assert await client.get(b"missing") is None
    assert await client.compare_and_swap(b"k", b"v2", expected_revision=1) == SwapResult(True, 2, None)
    assert await client.compare_and_swap(b"k", b"v3", expected_revision=1) == SwapResult(False, 2, KeyValue(b"k", b"v2", 2))
    assert await client.compare_and_swap(b"missing", b"v", expected_revision=9) == SwapResult(False, 0, None)
    assert await client.delete(b"missing") == DeleteResult(False, 2)
    assert await client.delete(b"k") == DeleteResult(True, 3)
    await client.put(b"k", b"")
    assert await client.get_and_delete(b"k") == KeyValue(b"k", b"", 4)
    assert await client.get_and_delete(b"k") is None


async def test_write_is_all_or_nothing(client: RavelClient) -> None:
    operations: list[Operation] = [Put(b"a", b"1"), Delete(b"b"), Put(b"c", b"2")]
    assert await client.write(operations, conditions=[Condition(b"a", 0)]) == WriteResult(True, 1, None, None)
    failed = await client.write([Put(b"c", b"3")], conditions=[Condition(b"b", 0), Condition(b"a", 9)])
    assert failed == WriteResult(False, 1, KeyValue(b"a", b"1", 1), b"a")
    missing = await client.write([Put(b"c", b"3")], conditions=[Condition(b"b", 4)])
    assert missing == WriteResult(False, 0, None, b"b")
    assert await client.get(b"c") == KeyValue(b"c", b"2", 1)


async def test_text_instead_of_bytes_is_told_at_the_call(client: RavelClient) -> None:
    with pytest.raises(TypeError):
        await client.put("k", b"v")  # type: ignore[arg-type]


async def test_concurrent_calls_travel_together_and_within_the_window(cluster: FakeCluster, client: RavelClient) -> None:
    await client.put(b"first", b"")
    cluster.requests.clear()
    results = await asyncio.gather(*(client.put(b"k%d" % i, b"v%d" % i) for i in range(3_000)))
    assert len(cluster.requests) < 3_000 / 50
    assert max(len(request.commands) for request in cluster.requests) > 50
    # In the order of the calls, though nobody promises more than that each happens once.
    assert [result.revision for result in results] == sorted(result.revision for result in results)
    assert cluster.violations == []
    assert max(cluster.applied.values()) == 1
    sequences = [request.once.sequence for request in cluster.requests]
    assert sequences == sorted(sequences)
    assert cluster.sessions_made == 1
    assert cluster.replicas[0].calls["Session"] == 1


async def test_a_request_stays_within_its_bytes(cluster: FakeCluster, client: RavelClient) -> None:
    value = bytes(300_000)
    await asyncio.gather(*(client.put(b"k%d" % i, value + b"%d" % i) for i in range(12)))
    assert max(request.ByteSize() for request in cluster.requests) < (1 << 20) + 1024
    big = await client.put(b"big", bytes(3 << 20))
    assert big.revision == 13


async def test_a_command_that_no_server_takes_is_refused_here(cluster: FakeCluster, client: RavelClient) -> None:
    with pytest.raises(InvalidArgumentError, match="no server takes more than 67108864") as told:
        await client.put(b"k", bytes(64 << 20))
    assert told.value.reason is Reason.REQUEST_TOO_LARGE
    assert cluster.requests == []


@pytest.mark.parametrize("exactly_once", [True, False])
async def test_a_command_that_this_server_does_not_read_fails_alone(cluster: FakeCluster, exactly_once: bool) -> None:
    """gRPC ends the whole stream over it: the calls beside it go on, this one is told the sizes, and it is sent once."""
    async with RavelClient([cluster.replicas[0].address], exactly_once=exactly_once) as client:
        await client.put(b"k", b"v")
        with pytest.raises(
            InvalidArgumentError, match=r"has 50000\d\d bytes, and \S+ reads at most 4194304.*--request-bytes-max"
        ) as told:
            await client.put(b"large", bytes(5_000_000))
        assert told.value.reason is Reason.REQUEST_TOO_LARGE
        assert told.value.metadata["limit"] == "4194304"
        assert (await client.put(b"k", b"w")).revision == 2
        together = await asyncio.gather(
            *(client.get(b"k") for _ in range(3)), client.put(b"large", bytes(6_000_000)), return_exceptions=True
        )
        assert [type(each) for each in together] == [KeyValue] * 3 + [InvalidArgumentError]
    assert max(cluster.applied.values(), default=1) == 1
    assert cluster.violations == []


async def test_reads_do_not_wait_for_writes(cluster: FakeCluster, client: RavelClient) -> None:
    await client.put(b"k", b"v")
    await client.get(b"k")
    cluster.script = lambda request: Fault.HANG if request.commands[0].HasField("put") else Fault.NONE
    writing = asyncio.create_task(client.put(b"k", b"w", timeout_s=30))
    while len(cluster.requests) < 3:
        await asyncio.sleep(0.01)
    assert await client.get(b"k") == KeyValue(b"k", b"v", 1)
    assert not writing.done()
    writing.cancel()


async def test_without_exactly_once_no_session_is_registered(cluster: FakeCluster) -> None:
    async with RavelClient([cluster.replicas[0].address], exactly_once=False) as client:
        await client.put(b"k", b"v")
    assert cluster.sessions_made == 0
    assert not cluster.requests[0].HasField("once")


@pytest.mark.parametrize("hint", [True, False])
async def test_the_leader_is_found_from_any_endpoint_and_again_when_it_moves(cluster: FakeCluster, hint: bool) -> None:
    cluster.hint = hint
    endpoints = [replica.address for replica in cluster.replicas[: 1 if hint else 3]]
    cluster.leader = cluster.replicas[2]
    async with RavelClient(endpoints, timeout_s=20) as client:
        await client.put(b"k", b"v1")
        for replica in (cluster.replicas[1], cluster.replicas[0], cluster.replicas[1]):
            cluster.leader = replica
            await client.put(b"k", b"v-%d" % replica.replica_id)
            assert await client.get(b"k") is not None
    assert cluster.sessions_made == 1


async def test_stale_reads_need_no_leader(cluster: FakeCluster, client: RavelClient) -> None:
    await client.put(b"k", b"v")
    cluster.leader = None
    assert await client.get(b"k", consistency=Consistency.STALE) == KeyValue(b"k", b"v", 1)
    assert [item.key async for item in client.scan(consistency=Consistency.STALE)] == [b"k"]
    refused = await ends_in(NoLeaderError, lambda limit_s: client.get(b"k", timeout_s=limit_s))
    assert "no leader was found" in str(refused)
    await ends_in(NoLeaderError, lambda limit_s: client.put(b"k", b"w", timeout_s=limit_s))


async def test_calls_wait_for_an_election(cluster: FakeCluster, client: RavelClient) -> None:
    cluster.leader = None
    putting = asyncio.create_task(client.put(b"k", b"v"))
    await asyncio.sleep(0.2)
    assert not putting.done()
    cluster.leader = cluster.replicas[1]
    assert await putting == PutResult(1)


async def test_a_daemon_that_is_not_there_is_told_as_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there, nobody else can take it
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        async with RavelClient([endpoint], timeout_s=0.5) as client:
            began = time.monotonic()
            for call in (client.get(b"k"), client.put(b"k", b"v"), anext(client.scan())):
                with pytest.raises(UnreachableError) as told:
                    await call
                assert endpoint in told.value.message
            assert time.monotonic() - began < 10


async def test_a_blank_daemon_did_nothing(cluster: FakeCluster) -> None:
    replica = cluster.replicas[0]
    replica.refusal = make_status(Reason.BLANK, "this daemon belongs to no cluster yet")
    for exactly_once in (True, False):
        async with RavelClient([replica.address], exactly_once=exactly_once) as client:
            await ends_in(BlankError, lambda limit_s, client=client: client.put(b"k", b"v", timeout_s=limit_s))  # type: ignore[misc]
            await ends_in(BlankError, lambda limit_s, client=client: client.get(b"k", timeout_s=limit_s))  # type: ignore[misc]


async def test_a_hanging_cluster_ends_reads_and_leaves_writes_unknown(cluster: FakeCluster) -> None:
    async with RavelClient([cluster.replicas[0].address], timeout_s=20) as client:
        await client.put(b"k", b"v")
        await client.get(b"k")
        cluster.script = lambda request: Fault.HANG
        await ends_in(DeadlineError, lambda limit_s: client.get(b"k", timeout_s=limit_s))
        await ends_in(OutcomeUnknownError, lambda limit_s: client.put(b"k", b"w", timeout_s=limit_s))


async def test_a_call_can_be_cancelled_and_the_others_go_on(cluster: FakeCluster, client: RavelClient) -> None:
    cluster.leader = None
    calls = [asyncio.create_task(client.put(b"k%d" % i, b"v%d" % i)) for i in range(10)]
    await asyncio.sleep(0.05)
    for call in calls[::2]:
        call.cancel()
    cluster.leader = cluster.replicas[0]
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, PutResult) for result in done] == [False, True] * 5
    assert set(cluster.applied) == {b"v%d" % i for i in range(1, 10, 2)}


async def test_deadlines_of_many_calls_are_kept_apart(cluster: FakeCluster, client: RavelClient) -> None:
    cluster.leader = None
    loop = asyncio.get_running_loop()

    async def late(limit_s: float) -> float:
        began = loop.time()
        with pytest.raises(NoLeaderError):
            await client.get(b"k", timeout_s=limit_s)
        return loop.time() - began - limit_s

    over = await asyncio.gather(*(late(0.3 + 0.002 * i) for i in range(300)))
    assert min(over) > -0.01
    assert max(over) < 5


async def test_close_ends_what_waits_and_what_was_sent(cluster: FakeCluster) -> None:
    client = RavelClient([cluster.replicas[0].address], timeout_s=30)
    await client.put(b"k", b"v")
    cluster.script = lambda request: Fault.HANG
    sent = asyncio.create_task(client.put(b"k", b"w"))
    while len(cluster.requests) < 2:
        await asyncio.sleep(0.01)
    reading = asyncio.create_task(client.get(b"k"))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(OutcomeUnknownError):
        await sent
    with pytest.raises(ClosedError):
        await reading
    with pytest.raises(ClosedError):
        await client.put(b"k", b"x")


@pytest.mark.parametrize("endpoint", ["", "localhost", "localhost:", ":7400", "localhost:0", "localhost:65536", "localhost:x"])
def test_endpoints_are_checked(endpoint: str) -> None:
    with pytest.raises(InvalidArgumentError, match="host:port"):
        RavelClient([endpoint])


def test_no_endpoints_are_told_as_that() -> None:
    with pytest.raises(InvalidArgumentError, match="no endpoints"):
        RavelClient([])


# Scans.


async def fill(client: RavelClient, count: int) -> list[bytes]:
    keys = [b"k%04d" % i for i in range(count)]
    await asyncio.gather(*(client.put(key, b"v" + key) for key in keys))
    return keys


async def test_a_scan_gives_every_key_in_order(client: RavelClient) -> None:
    keys = await fill(client, 55)
    await client.put(b"j", b"")
    await client.put(b"l", b"")
    found = [item async for item in client.scan(prefix=b"k", page_keys_max=10)]
    assert [item.key for item in found] == keys
    assert all(item.value == b"v" + item.key and item.revision > 0 for item in found)
    assert [item.key async for item in client.scan()] == [b"j", *keys, b"l"]


async def test_limit_range_and_keys_only(client: RavelClient) -> None:
    keys = await fill(client, 30)
    assert [item.key async for item in client.scan(limit=25, page_keys_max=10)] == keys[:25]
    assert [item.key async for item in client.scan(start=keys[3], end=keys[7])] == keys[3:7]
    assert [item.key async for item in client.scan(prefix=b"k000", start=keys[3])] == keys[3:10]
    assert [item.key async for item in client.scan(prefix=b"k000", end=keys[3])] == keys[:3]
    assert {item.value async for item in client.scan(keys_only=True)} == {b""}
    assert [item async for item in client.scan(start=b"b", end=b"a")] == []
    assert [item async for item in client.scan(end=b"")] == []


async def test_a_scan_goes_on_where_it_was_when_the_server_goes(cluster: FakeCluster, client: RavelClient) -> None:
    keys = await fill(client, 100)
    for replica in cluster.replicas:
        replica.scans_break_after.extend([3, 1, 0])
    seen: list[bytes] = []
    async for item in client.scan(page_keys_max=7, limit=95):
        seen.append(item.key)
        if len(seen) == 20:
            cluster.leader = cluster.replicas[1]
    assert seen == keys[:95]


async def test_a_scan_that_is_left_early_closes_its_stream(client: RavelClient) -> None:
    keys = await fill(client, 100)
    async with aclosing(client.scan(page_keys_max=5)) as found:
        assert (await anext(found)).key == keys[0]
    assert (await client.get(keys[1])) is not None


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", b""), (b"a\x00", b"a\x01"), (b"k9", b"k:"), (b"", b"")],
)
def test_the_range_of_a_prefix(prefix: bytes, end: bytes) -> None:
    assert range_of_prefix(prefix) == (prefix, end)


async def test_impatience_is_a_setting(cluster: FakeCluster) -> None:
    retry = RetryPolicy(progress_timeout_s=0.1, backoff_min_s=0.001, suspicion_s=0.05)
    async with RavelClient([cluster.replicas[0].address], timeout_s=20, retry=retry) as client:
        cluster.script = scripted([Fault.HANG])
        assert await client.put(b"k", b"v") == PutResult(1)


async def test_a_frozen_slot_is_waited_for_and_a_foreign_one_is_not(cluster: FakeCluster, client: RavelClient) -> None:
    await client.put(b"k", b"v")
    cluster.frozen = 1 << slot_of(b"k")
    waiting = asyncio.create_task(client.put(b"k", b"w"))
    assert await client.put(b"other", b"v") == PutResult(2)
    assert await client.get(b"k") == KeyValue(b"k", b"v", 1)
    await ends_in(SlotMovingError, lambda limit_s: client.put(b"k", b"x", timeout_s=limit_s))
    cluster.frozen = 0
    assert await waiting == PutResult(3)
    cluster.owned &= ~(1 << slot_of(b"k"))
    with pytest.raises(WrongClusterError):
        await client.put(b"k", b"y")
    with pytest.raises(WrongClusterError):
        await client.get(b"k")
