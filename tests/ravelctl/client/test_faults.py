"""What a write came to, whatever happens on the way: done once, not done, or told as unknown, and never the wrong one of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from ravelctl.client import (
    OutcomeUnknownError,
    PutResult,
    QuotaExceededError,
    RavelClient,
    RavelError,
    RetryPolicy,
    SessionExpiredError,
)
from ravelpb.errors import Reason
from ravelpb.v1 import kv_pb2
from tests.ravelctl.client.fake_server import FakeCluster, Fault, fake_cluster, make_status, scripted

IMPATIENT = RetryPolicy(backoff_min_s=0.002, backoff_max_s=0.02, progress_timeout_s=0.15, suspicion_s=0.03)
"""Finds a hanging server at once. On a busy machine it finds some that do not hang: that must only cost time."""

DOES_IT = {
    Fault.LOSE_ANSWER,
    Fault.APPLY_LATER,
    Fault.APPLY_AND_HANG,
    Fault.UNKNOWN_DONE,
    Fault.NONSENSE,
}
"""Faults under which the first attempt is applied, though the client does not learn it."""

PROVED_UNDONE = {Fault.BUSY, Fault.SHUTTING_DOWN}


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with fake_cluster(3) as cluster:
        yield cluster


def client_of(cluster: FakeCluster, *, exactly_once: bool = True, timeout_s: float = 30) -> RavelClient:
    endpoints = [replica.address for replica in cluster.replicas]
    return RavelClient(endpoints, timeout_s=timeout_s, retry=IMPATIENT, exactly_once=exactly_once)


FAULTS = [fault for fault in Fault if fault is not Fault.QUOTA]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_with_a_session_a_write_happens_once_whatever_happens(cluster: FakeCluster, fault: Fault) -> None:
    cluster.script = scripted([fault, Fault.NONE, fault, fault])
    async with client_of(cluster) as client:
        for i in range(4):
            await asyncio.gather(*(client.put(b"k%d" % j, b"v%d-%d" % (i, j)) for j in range(20)))
    await asyncio.sleep(2 * cluster.late_s)
    assert cluster.applied == dict.fromkeys([b"v%d-%d" % (i, j) for i in range(4) for j in range(20)], 1)
    assert cluster.violations == []
    assert cluster.sessions_made == 1


# Not END: whether the next write still leaves on the stream that ends is a race, and it is told as unknown then.
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault is not Fault.END], ids=lambda fault: fault.name)
async def test_without_a_session_a_write_is_not_repeated_once_it_may_have_happened(cluster: FakeCluster, fault: Fault) -> None:
    cluster.script = scripted([fault])
    async with client_of(cluster, exactly_once=False) as client:
        call = client.put(b"k", b"v")
        if fault in PROVED_UNDONE | {Fault.NONE, Fault.SWAP, Fault.SLOW}:
            await call
        else:
            with pytest.raises(OutcomeUnknownError):
                await call
        await client.put(b"other", b"w")
    await asyncio.sleep(2 * cluster.late_s)
    happened = fault in DOES_IT | PROVED_UNDONE | {Fault.NONE, Fault.SWAP, Fault.SLOW}
    assert cluster.applied == {b"w": 1} | ({b"v": 1} if happened else {})


async def test_reads_are_repeated_whatever_happens(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        await client.put(b"k", b"v")
        cluster.script = scripted([fault for fault in FAULTS for _ in range(2)])
        for _ in range(2 * len(FAULTS)):
            found = await client.get(b"k")
            assert found is not None
            assert found.value == b"v"


async def test_a_repeated_request_keeps_its_numbers_and_commands(cluster: FakeCluster) -> None:
    cluster.script = scripted([Fault.LOSE_ANSWER, Fault.UNKNOWN_DONE, Fault.HANG])
    async with client_of(cluster) as client:
        await asyncio.gather(*(client.put(b"k%d" % i, b"v") for i in range(30)))
    attempts = [request for request in cluster.requests if request.once.sequence == cluster.requests[0].once.sequence]
    assert len(attempts) >= 4
    for attempt in attempts[1:]:
        assert attempt.once == attempts[0].once
        assert list(attempt.commands) == list(attempts[0].commands)


async def test_the_answers_of_what_is_out_are_never_acknowledged(cluster: FakeCluster) -> None:
    rng = random.Random(1)
    cluster.script = lambda request: rng.choice([Fault.NONE, Fault.NONE, Fault.SWAP, Fault.SLOW, Fault.UNKNOWN_DONE])
    answered: set[int] = set()

    honest = cluster.run

    def run(request: kv_pb2.SessionRequest) -> list[kv_pb2.Result]:
        # What a request acknowledges was answered before it: the client cannot know of answers that were never made.
        if not answered >= set(range(1, request.once.acked_below)):
            cluster.violations.append(f"{request.once} acknowledges too much")
        answered.update(request.once.sequence + i for i in range(len(request.commands)))
        return honest(request)

    cluster.run = run  # type: ignore[method-assign]
    async with client_of(cluster) as client:
        for _ in range(10):
            await asyncio.gather(*(client.put(b"k%d" % i, b"v") for i in range(200)))
    assert cluster.violations == []


async def test_a_session_that_expired_is_replaced(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        await client.put(b"k", b"v1")
        cluster.expire_sessions()
        await asyncio.gather(*(client.put(b"k%d" % i, b"w%d" % i) for i in range(50)))
    assert cluster.sessions_made == 2
    assert set(cluster.applied.values()) == {1}


async def test_a_repeated_write_that_meets_an_expired_session_is_unknown(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        await client.put(b"k", b"v1")

        def lose_and_expire(request: kv_pb2.SessionRequest) -> Fault:
            cluster.script = expire
            return Fault.LOSE_ANSWER

        def expire(request: kv_pb2.SessionRequest) -> Fault:
            cluster.expire_sessions()
            return Fault.NONE

        cluster.script = lose_and_expire
        with pytest.raises(OutcomeUnknownError) as told:
            await client.put(b"k", b"v2")
        assert isinstance(told.value.__cause__, SessionExpiredError)
        cluster.script = lambda request: Fault.NONE
        await client.put(b"k", b"v3")
    assert cluster.applied == {b"v1": 1, b"v2": 1, b"v3": 1}


async def test_a_refusal_after_an_attempt_that_may_have_happened_proves_nothing(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        cluster.script = scripted([Fault.QUOTA])
        with pytest.raises(QuotaExceededError):
            await client.put(b"k", b"v0")
        cluster.script = scripted([Fault.APPLY_LATER, Fault.QUOTA])
        with pytest.raises(OutcomeUnknownError) as told:
            await client.put(b"k", b"v1")
        assert isinstance(told.value.__cause__, QuotaExceededError)
        cluster.script = scripted([Fault.BUSY, Fault.QUOTA])
        with pytest.raises(QuotaExceededError):
            await client.put(b"k", b"v2")
    assert b"v0" not in cluster.applied
    assert b"v2" not in cluster.applied


async def test_what_was_given_up_is_not_sent_again_and_cannot_run_late(cluster: FakeCluster) -> None:
    """The abandoned number falls below `acked_below`, so a copy that the network kept finds the door shut."""
    async with client_of(cluster) as client:
        await client.put(b"k", b"v1")
        kept: list[kv_pb2.SessionRequest] = []

        def keep(request: kv_pb2.SessionRequest) -> Fault:
            """Also of one that was sent in time and arrives only after it was given up."""
            if any(command.put.value == b"v2" for command in request.commands):
                kept.append(request)
                return Fault.BREAK
            return Fault.NONE

        cluster.script = keep
        with pytest.raises(OutcomeUnknownError):
            await client.put(b"k", b"v2", timeout_s=2.0)
        await client.put(b"k", b"v3")
    assert kept
    for request in kept:
        cluster.run(request)
    assert cluster.applied == {b"v1": 1, b"v3": 1}


async def test_a_batch_mate_that_is_done_is_not_sent_again(cluster: FakeCluster) -> None:
    """One of a request fails for good, the others for now: only the others come again, under the numbers they had."""
    honest = cluster.run

    def run(request: kv_pb2.SessionRequest) -> list[kv_pb2.Result]:
        if len(request.commands) < 5:
            return honest(request)
        busy = kv_pb2.Result(error=make_status(Reason.BUSY, "later"))
        large = kv_pb2.Result(error=make_status(Reason.VALUE_TOO_LARGE, "too large"))
        return [large if i == 2 else busy for i in range(len(request.commands))]

    cluster.run = run  # type: ignore[method-assign]
    async with client_of(cluster) as client:
        await client.get(b"k")  # who leads is known, so that what follows goes as one request
        results = await asyncio.gather(*(client.put(b"k%d" % i, b"v%d" % i) for i in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [PutResult, PutResult, type(results[2]), PutResult, PutResult]
    assert isinstance(results[2], RavelError)
    assert results[2].reason is Reason.VALUE_TOO_LARGE
    first, *later = [
        range(request.once.sequence, request.once.sequence + len(request.commands))
        for request in cluster.requests
        if request.commands[0].HasField("put")
    ]
    assert first == range(1, 6)
    assert sorted({number for numbers in later for number in numbers}) == [1, 2, 4, 5]


async def test_a_batch_too_large_for_the_server_is_split(cluster: FakeCluster) -> None:
    honest = cluster.run

    def run(request: kv_pb2.SessionRequest) -> list[kv_pb2.Result]:
        if request.ByteSize() > 2_000:
            return [kv_pb2.Result(error=make_status(Reason.REQUEST_TOO_LARGE, "too large"))] * len(request.commands)
        return honest(request)

    cluster.run = run  # type: ignore[method-assign]
    for exactly_once in (True, False):
        cluster.applied.clear()
        async with client_of(cluster, exactly_once=exactly_once) as client:
            values = [bytes([i]) * (3_000 if i == 7 else 300) for i in range(40)]
            results = await asyncio.gather(*(client.put(b"k", value) for value in values), return_exceptions=True)
        assert [i for i, result in enumerate(results) if not isinstance(result, PutResult)] == [7]
        assert set(cluster.applied.values()) == {1}
        assert len(cluster.applied) == 39


async def test_a_leader_that_hangs_is_left_for_the_next_one(cluster: FakeCluster) -> None:
    async with client_of(cluster) as client:
        await client.put(b"k", b"v1")
        await client.get(b"k")
        cluster.replicas[0].hangs = True
        calls = [asyncio.create_task(client.put(b"k", b"v2")), asyncio.create_task(client.get(b"k"))]
        await asyncio.sleep(0.05)
        cluster.leader = cluster.replicas[2]
        await asyncio.gather(*calls)
        cluster.replicas[0].hangs = False
    assert cluster.applied == {b"v1": 1, b"v2": 1}


async def test_a_daemon_that_restarts_is_found_again(cluster: FakeCluster) -> None:
    replica = cluster.replicas[0]
    port = int(replica.address.rpartition(":")[2])
    async with RavelClient([replica.address], timeout_s=30, retry=IMPATIENT) as client:
        await client.put(b"k", b"v1")
        await replica.stop()
        putting = asyncio.create_task(client.put(b"k", b"v2"))
        await asyncio.sleep(0.1)
        assert not putting.done()
        await replica.start(port)
        await putting
        found = await client.get(b"k")
    assert found is not None
    assert found.value == b"v2"
    assert cluster.applied == {b"v1": 1, b"v2": 1}


@pytest.mark.parametrize("exactly_once", [True, False])
@pytest.mark.parametrize("seed", range(3))
async def test_no_write_is_told_wrongly_under_random_faults(cluster: FakeCluster, seed: int, exactly_once: bool) -> None:
    """Every value is written by one call. What is told as done is there once, as not done never, as unknown at most once."""
    rng = random.Random(seed)
    faults = [Fault.NONE] * 12 + FAULTS
    write_faults = [*faults, Fault.QUOTA]
    cluster.script = lambda request: rng.choice(faults if request.commands[0].HasField("get") else write_faults)
    cluster.late_s = 0.1
    told: dict[bytes, str] = {}

    async def write(worker: int, client: RavelClient) -> None:
        key = b"key-%d" % worker
        possible: set[bytes | None] = {None}
        for i in range(8):
            value = b"%d-%d" % (worker, i)
            try:
                await client.put(key, value, timeout_s=rng.choice([0.02, 0.3, 10]))
            except OutcomeUnknownError:
                told[value] = "unknown"
                possible.add(value)
            except RavelError as error:
                told[value] = f"not done: {error.reason}"
            else:
                told[value] = "done"
                possible.add(value)
            if rng.random() < 0.3:
                found = await client.get(key, timeout_s=30)
                assert (found and found.value) in possible

    async def disturb() -> None:
        while True:
            await asyncio.sleep(rng.uniform(0.01, 0.08))
            # A busy machine asks more slowly than this sleeps: nobody would ever find the leader.
            seen = len(cluster.requests)
            while len(cluster.requests) < seen + 4:
                await asyncio.sleep(0.005)
            cluster.leader = rng.choice([*cluster.replicas, None])
            cluster.hint = rng.random() < 0.7
            if rng.random() < 0.1:
                cluster.expire_sessions()
            if cluster.leader is None:
                await asyncio.sleep(0.02)
                cluster.leader = rng.choice(cluster.replicas)

    disturbing = asyncio.create_task(disturb())
    async with client_of(cluster, exactly_once=exactly_once) as client:
        await asyncio.gather(*(write(worker, client) for worker in range(16)))
    disturbing.cancel()
    await asyncio.sleep(2 * cluster.late_s)
    allowed = {"done": {1}, "unknown": {0, 1}}
    wrong = {v: (how, cluster.applied[v]) for v, how in told.items() if cluster.applied[v] not in allowed.get(how, {0})}
    assert wrong == {}
    assert len(told) == 16 * 8
    assert cluster.violations == []
    if exactly_once:
        assert sum(how == "done" for how in told.values()) >= 8  # a busy machine lets most of the short ones run out
