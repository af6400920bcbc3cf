"""A watch on virtual time: when it gives up, and what it asks until then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ravelctl.client import CompactedError, DeadlineError, NoLeaderError, RavelClient, RavelError, RetryPolicy, UnreachableError
from ravelctl.client.session.message_stream import MEMBERS_TIMEOUT_S, SILENCE_S
from ravelctl.client.session.watch import PROGRESS_MS
from ravelpb.errors import Reason
from ravelpb.v1 import cluster_pb2, kv_pb2
from ravelpb.v1.common_pb2 import ServerRef
from tests.ravelctl.client.scripted import Daemon, Network, refusal, refused
from tests.replica.virtual import virtual

A, B, C = "a:1", "b:1", "c:1"
RETRY = RetryPolicy(backoff_min_s=0.1, backoff_max_s=0.1)


def now() -> float:
    return asyncio.get_running_loop().time()


class Changes:
    """The changes of a cluster behind some daemons: number n happened at revision n. `asked` are the first revisions wanted."""

    def __init__(self, *daemons: Daemon) -> None:
        self.made = 0
        self.refusal: Reason | None = None
        self.silent = False
        self.asked: list[tuple[str, int]] = []
        self.first: dict[str, int] = {}  # the first revision that a daemon can tell
        for daemon in daemons:
            daemon.handlers["Watch"] = lambda request, daemon=daemon: self.watch(daemon, request)

    async def watch(self, daemon: Daemon, request: kv_pb2.WatchRequest) -> Any:
        assert request.progress_ms == PROGRESS_MS == 1_000
        self.asked.append((daemon.address, request.from_revision))
        told = request.from_revision - 1 if request.from_revision else self.made
        if told + 1 < self.first.get(daemon.address, 0):
            raise refused(refusal(Reason.COMPACTED, "gone", first_revision=str(self.first[daemon.address])))
        first = True
        while True:
            if self.silent:
                await asyncio.Event().wait()
            if self.refusal is not None:
                raise refused(refusal(self.refusal, "not here"))
            events = [kv_pb2.KeyEvent(key=b"k", value=b"v", revision=n) for n in range(told + 1, self.made + 1)]
            if first:
                events = []  # it says where the watch begins
            if events or first or now() % 1.0 < 0.1:
                told, first = self.made if events else told, False
                yield kv_pb2.WatchResponse(events=events, revision=told, header=daemon.header)
            await asyncio.sleep(0.1)


async def revisions(watch: Any, count: int) -> list[int]:
    return [(await anext(watch)).revision for _ in range(count)]


@pytest.mark.parametrize("timeout_s", [0.2, 2.0, 12.0])
@pytest.mark.parametrize("how", ["refused", "silent", "unreachable"])
def test_a_watch_that_cannot_begin_ends_within_its_time(timeout_s: float, how: str) -> None:
    @virtual
    async def run() -> None:
        network = Network(A, B)
        changes = Changes(*network.daemons.values())
        changes.refusal = Reason.NO_LEADER if how == "refused" else None
        changes.silent = how == "silent"
        for daemon in network.daemons.values():
            daemon.reachable = how != "unreachable"
        async with RavelClient([A, B], channel_factory=network, retry=RETRY) as client:
            watch = client.watch(timeout_s=timeout_s)
            for _ in range(2):  # one who tries again has all of the time again
                began = now()
                with pytest.raises((NoLeaderError, UnreachableError, DeadlineError)):
                    await watch.started()
                assert timeout_s * 0.75 - 1e-6 <= now() - began <= timeout_s + 1e-6

    run()


@pytest.mark.parametrize("outage_max_s", [0.5, 4.0, 60.0])
def test_an_outage_is_borne_as_long_as_was_said_and_again_after_each_recovery(outage_max_s: float) -> None:
    @virtual
    async def run() -> None:
        network = Network(A, B)
        changes = Changes(*network.daemons.values())
        async with (
            RavelClient([A, B], channel_factory=network, retry=RETRY, timeout_s=1.0) as client,
            client.watch(outage_max_s=outage_max_s) as watch,
        ):
            for expected in (1, 2, 3):  # an outage that ends in time, again and again
                changes.refusal = Reason.NO_LEADER
                waiting = asyncio.ensure_future(revisions(watch, 1))
                await asyncio.sleep(0.3 * outage_max_s)
                changes.refusal = None
                changes.made += 1
                assert await waiting == [expected]
                await asyncio.sleep(2.0)
            began = now()
            changes.refusal = Reason.NO_LEADER
            with pytest.raises(NoLeaderError, match=rf"within {outage_max_s:.3g} s"):
                await anext(watch)
            assert outage_max_s * 0.75 - 1e-6 <= now() - began <= outage_max_s + 0.3

    run()


@virtual
async def test_without_a_bound_it_waits_as_long_as_it_takes_and_misses_nothing() -> None:
    network = Network(A, B)
    changes = Changes(*network.daemons.values())
    async with (
        RavelClient([A, B], channel_factory=network, retry=RETRY, timeout_s=1.0) as client,
        client.watch() as watch,
    ):
        changes.refusal = Reason.NO_LEADER
        waiting = asyncio.ensure_future(revisions(watch, 3))
        await asyncio.sleep(300.0)
        assert not waiting.done()
        changes.made, changes.refusal = 3, None
        assert await waiting == [1, 2, 3]
    assert {first for _, first in changes.asked[1:]} == {1}


@virtual
async def test_no_outage_is_borne_where_none_was_allowed() -> None:
    network = Network(A)
    changes = Changes(network[A])
    async with RavelClient([A], channel_factory=network, retry=RETRY) as client, client.watch(outage_max_s=0.0) as watch:
        changes.refusal = Reason.NO_LEADER
        began = now()
        with pytest.raises(NoLeaderError):
            await anext(watch)
        assert now() - began < 0.2


@virtual
async def test_a_silent_server_is_left_after_a_fixed_time() -> None:
    network = Network(A, B)
    changes, others = Changes(network[A]), Changes(network[B])
    others.made = 1
    async with RavelClient([A, B], channel_factory=network, retry=RETRY) as client, client.watch(from_revision=1) as watch:
        assert changes.asked == [(A, 1)]
        await asyncio.sleep(10.0)
        changes.silent = True
        began = now()
        assert await revisions(watch, 1) == [1]
        assert now() - began == pytest.approx(SILENCE_S, abs=1.2)
    assert SILENCE_S == 5.0


@virtual
async def test_a_new_server_may_take_twice_the_time_of_an_answer() -> None:
    network = Network(A, B)
    Changes(network[A]).silent = True
    Changes(network[B])
    async with RavelClient([A, B], channel_factory=network, retry=RETRY, timeout_s=60.0) as client:
        await client.watch().started()
    assert now() == pytest.approx(2 * RETRY.progress_timeout_s)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_watch_without_time_does_nothing(timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        network = Network(A)
        Changes(network[A])
        async with RavelClient([A], channel_factory=network) as client:
            with pytest.raises(DeadlineError, match="nothing was done"):
                await client.watch(timeout_s=timeout_s).started()
        assert not network[A].calls

    run()


@virtual
async def test_every_replica_is_asked_for_a_compacted_revision_before_it_is_given_up() -> None:
    network = Network(A, B, C)
    changes = Changes(*network.daemons.values())
    changes.made = 20
    changes.first = {A: 15, B: 10, C: 12}
    async with RavelClient([A, B, C], channel_factory=network, retry=RETRY, timeout_s=30.0) as client:
        with pytest.raises(CompactedError) as told:
            await client.watch(from_revision=5).started()
        assert told.value.first_revision == 10
        assert sorted(changes.asked) == [(A, 5), (B, 5), (C, 5)]
        assert now() == 0.0
        network[C].reachable = False
        changes.asked.clear()
        with pytest.raises(CompactedError):  # one that does not answer has its time
            await client.watch(from_revision=5, timeout_s=8.0).started()
        assert {address for address, _ in changes.asked} == {A, B}
        assert 6.0 <= now() <= 9.0
        async with client.watch(from_revision=11) as watch:
            assert await revisions(watch, 10) == list(range(11, 21))


@virtual
async def test_members_become_known_with_the_first_answer_and_take_no_time_to() -> None:
    network = Network(A, B)
    Changes(network[A])
    member = cluster_pb2.Member(server=ServerRef(server_id="b" * 32))
    member.server.addresses.listen = B

    async def slow(request: Any) -> cluster_pb2.StatusResponse:
        await asyncio.sleep(50.0)
        return cluster_pb2.StatusResponse(members=[member], header=network[A].header)

    async with RavelClient([A], channel_factory=network, retry=RETRY) as client:
        network[A].handlers["Status"] = slow
        await client.watch().started()
        assert now() == pytest.approx(MEMBERS_TIMEOUT_S)
        assert client._store.connections.endpoints == (A,)  # type: ignore[attr-defined]
        network[A].handlers["Status"] = lambda request: cluster_pb2.StatusResponse(members=[member], header=network[A].header)
        await client.watch().started()
        assert client._store.connections.endpoints == (A, B)  # type: ignore[attr-defined]
    assert network[A].calls["Status"] == 2


@pytest.mark.parametrize("reason", [Reason.INVALID_ARGUMENT, Reason.UNSUPPORTED_VERSION])
def test_what_every_replica_would_refuse_is_told_at_once(reason: Reason) -> None:
    @virtual
    async def run() -> None:
        network = Network(A, B)
        changes = Changes(*network.daemons.values())
        changes.refusal = reason
        async with RavelClient([A, B], channel_factory=network, retry=RETRY) as client:
            with pytest.raises(RavelError, match="not here"):
                await client.watch().started()
        assert len(changes.asked) == 1
        assert now() == 0.0

    run()
