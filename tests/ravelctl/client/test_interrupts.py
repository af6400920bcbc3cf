"""A caller that stops waiting for its write, by cancellation or by Ctrl-C: what is known of the write is not lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ravelctl.client import (
    Delete,
    LocalReason,
    NotSentError,
    OutcomeUnknownError,
    QuotaExceededError,
    RavelClient,
    RetryPolicy,
    SlotMovingError,
)
from ravelctl.client.session.batcher import WriteAnswer
from ravelctl.client.session.cluster_store import outcome_of_cancelled
from ravelpb.errors import Reason
from ravelpb.v1 import kv_pb2
from tests.ravelctl.client.scripted import Cluster, Network, refusal
from tests.ravelctl.client.test_routing_times import World
from tests.replica.virtual import virtual

ROOT = Path(__file__).resolve().parents[3]
A = "a:1"

WRITES: dict[str, Callable[[RavelClient], Awaitable[Any]]] = {
    "put": lambda client: client.put(b"k", b"w"),
    "delete": lambda client: client.delete(b"k"),
    "get_and_delete": lambda client: client.get_and_delete(b"k"),
    "compare_and_swap": lambda client: client.compare_and_swap(b"k", b"w", expected_revision=1),
    "write": lambda client: client.write([Delete(b"k")]),
}


async def cause_of(task: asyncio.Task[Any]) -> BaseException | None:
    """Cancel a task, and return what its CancelledError has as its cause."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as told:
        await task
    return told.value.__cause__


@pytest.mark.parametrize("exactly_once", [True, False])
@pytest.mark.parametrize("way", WRITES)
def test_a_write_that_was_sent_is_unknown_and_one_that_was_not_is_not(way: str, exactly_once: bool) -> None:
    @virtual
    async def run() -> None:
        network = Network(A)
        cluster = Cluster(network[A])
        async with RavelClient([A], channel_factory=network, exactly_once=exactly_once, timeout_s=60.0) as client:
            await client.put(b"k", b"v")
            cluster.silent = True
            sent = asyncio.ensure_future(WRITES[way](client))
            await asyncio.sleep(0.1)
            assert isinstance(cause := await cause_of(sent), OutcomeUnknownError)
            assert cause.next_step == "read before writing again"
            network[A].reachable = False
            network.break_streams(A)
            await asyncio.sleep(5.0)
            waiting = asyncio.ensure_future(WRITES[way](client))
            await asyncio.sleep(0.5)
            assert isinstance(cause := await cause_of(waiting), NotSentError)
            assert cause.reason is LocalReason.NOT_SENT
            assert "nothing was done" in cause.message
            at_once = asyncio.ensure_future(WRITES[way](client))
            await asyncio.sleep(0)
            assert isinstance(await cause_of(at_once), NotSentError)

    run()


@virtual
async def test_a_write_that_was_sent_again_after_a_refusal_was_not_sent_in_between() -> None:
    """Each refusal proves that nothing was done; after a lost answer nothing proves it any more."""
    network = Network(A)
    cluster = Cluster(network[A])
    busy = kv_pb2.Result(error=refusal(Reason.BUSY, "busy", retry_after_ms="5000"))
    for exactly_once in (True, False):
        cluster.run = lambda command: busy  # type: ignore[method-assign]
        async with RavelClient([A], channel_factory=network, exactly_once=exactly_once, timeout_s=60.0) as client:
            put = asyncio.ensure_future(client.put(b"k", b"w"))
            await asyncio.sleep(1.0)
            assert len(cluster.requests) >= 1
            assert isinstance(await cause_of(put), NotSentError)
    del cluster.run
    async with RavelClient([A], channel_factory=network, timeout_s=60.0) as client:
        await client.put(b"k", b"v")
        cluster.silent = True
        lost = asyncio.ensure_future(client.put(b"k", b"w"))
        await asyncio.sleep(0.1)
        network[A].reachable = False
        network.break_streams(A)
        await asyncio.sleep(10.0)
        assert isinstance(await cause_of(lost), OutcomeUnknownError)


@virtual
async def test_a_write_that_waits_for_a_moving_slot_was_not_sent() -> None:
    network = Network(A)
    cluster = Cluster(network[A])
    cluster.run = lambda command: kv_pb2.Result(error=refusal(Reason.SLOT_MOVING, "moving"))  # type: ignore[method-assign]
    async with RavelClient([A], channel_factory=network, timeout_s=60.0) as client:
        put = asyncio.ensure_future(client.put(b"k", b"w"))
        await asyncio.sleep(2.0)
        assert isinstance(await cause_of(put), NotSentError | SlotMovingError)


@virtual
async def test_a_routed_write_knows_it_too() -> None:
    world = World()
    async with world.client(timeout_s=60.0) as client:
        await client.put(b"k", b"1")
        world.one.silent = True
        sent = asyncio.ensure_future(client.put(b"k", b"2"))
        await asyncio.sleep(0.1)
        assert isinstance(await cause_of(sent), OutcomeUnknownError)
        world.network["admin:1"].handlers["SlotMap"] = lambda request: asyncio.sleep(1000)
    async with world.client(timeout_s=60.0) as client:
        waiting = asyncio.ensure_future(client.put(b"k", b"2"))
        await asyncio.sleep(0.5)
        assert isinstance(await cause_of(waiting), NotSentError)


@virtual
async def test_a_read_that_is_cancelled_has_nothing_to_tell() -> None:
    network = Network(A)
    cluster = Cluster(network[A])
    async with RavelClient([A], channel_factory=network, timeout_s=60.0) as client:
        cluster.silent = True
        read = asyncio.ensure_future(client.get(b"k"))
        await asyncio.sleep(0.1)
        assert await cause_of(read) is None


@virtual
async def test_an_answer_that_comes_with_the_cancellation_is_what_is_known() -> None:
    answer = WriteAnswer()
    answer.sent = True
    answer.set_exception(QuotaExceededError("full"))
    assert isinstance(outcome_of_cancelled(answer), QuotaExceededError)
    answer = WriteAnswer()
    assert isinstance(outcome_of_cancelled(answer), NotSentError)
    answer.sent = True
    answer.cancel()
    assert isinstance(outcome_of_cancelled(answer), OutcomeUnknownError)
    assert isinstance(outcome_of_cancelled(None), NotSentError)


@virtual
async def test_timeouts_and_groups_of_asyncio_work_as_with_any_other_call() -> None:
    network = Network(A)
    cluster = Cluster(network[A])
    async with RavelClient([A], channel_factory=network, timeout_s=60.0) as client:
        cluster.silent = True
        with pytest.raises(TimeoutError) as told:
            async with asyncio.timeout(1.0):
                await client.put(b"k", b"w")
        assert told.value.__cause__ is not None
        assert isinstance(told.value.__cause__.__cause__, OutcomeUnknownError)
    assert RetryPolicy().progress_timeout_s > 1.0


# --- Ctrl-C in the blocking client

PROGRAM = """
import sys
from ravelctl.client import connect, OutcomeUnknownError, NotSentError
with connect(sys.argv[1], timeout_s=600) as store:
    try:
        if sys.argv[2] != "unsent":
            store.put(b"k", b"v")
        print("waiting", flush=True)
        {"get": lambda: store.get(b"k")}.get(sys.argv[2], lambda: store.put(b"k", b"w"))()
    except KeyboardInterrupt as interrupt:
        cause = interrupt.__cause__
        print(type(cause).__name__, getattr(cause, "message", ""), flush=True)
"""


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("sent", "OutcomeUnknownError the write was sent and may or may not have happened"),
        ("unsent", "NotSentError the write was cancelled before it was sent: nothing was done"),
        ("get", "NoneType"),
    ],
)
async def test_ctrl_c_in_the_blocking_client_keeps_what_is_known(what: str, told: str) -> None:
    from tests.ravelctl.client.fake_server import Fault, fake_cluster

    async with fake_cluster(1) as cluster:
        cluster.script = lambda request: Fault.HANG if len(cluster.requests) > (0 if what == "unsent" else 1) else Fault.NONE
        if what == "unsent":
            cluster.leader = None
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos")])}
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, cluster.replicas[0].address, what, env=environment, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert await child.stdout.readline() == b"waiting\n"
        async with asyncio.timeout(60):
            while len(cluster.requests) < 2 and what != "unsent":
                await asyncio.sleep(0.01)
            while what == "unsent" and cluster.replicas[0].calls["RegisterSession"] < 2:
                await asyncio.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(child.communicate(), 60)
        assert out.decode().startswith(told)
        assert child.returncode == 0
