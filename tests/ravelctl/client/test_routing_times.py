"""Moving slots on virtual time: when the map is asked for, how long calls wait, and what is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ravelctl.client import (
    ClosedError,
    DeadlineError,
    NoLeaderError,
    OutcomeUnknownError,
    RavelClient,
    RetryPolicy,
    SlotMovingError,
    UnreachableError,
    WrongClusterError,
    WrongServerError,
)
from ravelctl.client.routing.outages import PAUSE_S
from ravelctl.client.routing.routed_store import ASK_EVERY, RETIRE_S
from ravelctl.client.routing.slot_map_cache import LOOK_EVERY_S
from ravelpb.errors import Reason
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import kv_pb2
from ravelpb.v1.admin_pb2 import RoutedCluster, SlotMapRequest, SlotMapResponse
from tests.ravelctl.client.scripted import Cluster, Network, refusal
from tests.replica.virtual import virtual

ADMIN, ONE, TWO = "admin:1", "one:1", "two:1"
ADMIN_ID, ONE_ID, TWO_ID = "e" * 32, f"{1:032x}", f"{2:032x}"
RETRY = RetryPolicy(backoff_min_s=0.1, backoff_max_s=0.1)


def now() -> float:
    return asyncio.get_running_loop().time()


class World:
    """An admin and two clusters of one daemon each; cluster 1 owns all slots. `asked` is when the map was asked for."""

    def __init__(self) -> None:
        self.network = Network(ADMIN, ONE, TWO)
        for address, cluster_id in ((ADMIN, ADMIN_ID), (ONE, ONE_ID), (TWO, TWO_ID)):
            self.network[address].cluster_id = cluster_id
        self.one, self.two = Cluster(self.network[ONE]), Cluster(self.network[TWO])
        self.version = 1
        self.owner = 1
        self.clusters = {1: (ONE_ID, ONE), 2: (TWO_ID, TWO)}
        self.asked: list[float] = []
        self.network[ADMIN].handlers["SlotMap"] = self.slot_map

    def slot_map(self, request: SlotMapRequest) -> SlotMapResponse:
        self.asked.append(now())
        known = request.known_version == self.version
        return SlotMapResponse(
            version=self.version,
            owners=b"" if known else self.owner.to_bytes(2, "big") * SLOT_COUNT,
            clusters=[
                RoutedCluster(number=number, name=f"c{number}", cluster_id=cluster_id, addresses=[address])
                for number, (cluster_id, address) in self.clusters.items()
            ],
            header=self.network[ADMIN].header,
        )

    def client(self, **options: Any) -> RavelClient:
        return RavelClient(admin=[ADMIN], channel_factory=self.network, retry=RETRY, **{"timeout_s": 5.0, **options})

    def refuse(self, cluster: Cluster, reason: Reason, **fields: str) -> None:
        cluster.run = lambda command: kv_pb2.Result(error=refusal(reason, "not now", **fields))  # type: ignore[method-assign]


@pytest.mark.parametrize("timeout_s", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("reason", [Reason.SLOT_MOVING, Reason.WRONG_CLUSTER])
def test_a_slot_that_no_cluster_takes_is_waited_for_within_the_time(timeout_s: float, reason: Reason) -> None:
    @virtual
    async def run() -> None:
        world = World()
        world.refuse(world.one, reason, map_version="1")
        async with world.client() as client:
            for call in (client.put, client.get):
                began = now()
                arguments = (b"k", b"v") if call == client.put else (b"k",)
                kind = SlotMovingError if reason is Reason.SLOT_MOVING else WrongClusterError
                with pytest.raises(kind, match=rf"gave up within {timeout_s:.3g} s: not now"):
                    await call(*arguments, timeout_s=timeout_s)
                assert timeout_s * 0.75 - 1e-6 <= now() - began <= timeout_s + 1e-6

    run()


@pytest.mark.parametrize("timeout_s", [1.5, 4.0])
def test_a_client_of_one_cluster_waits_for_a_moving_slot_within_the_time_of_the_call(timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        world = World()
        world.refuse(world.one, Reason.SLOT_MOVING)
        world.one.answer_after_s = 1.0
        async with RavelClient([ONE], channel_factory=world.network, retry=RETRY) as client:
            with pytest.raises((SlotMovingError, OutcomeUnknownError)):
                await client.put(b"k", b"v", timeout_s=timeout_s)
        assert timeout_s * 0.75 - 0.1 <= now() <= timeout_s + 0.03
        assert len(world.one.requests) >= 2

    run()


@virtual
async def test_the_map_is_asked_for_with_every_third_refusal_that_names_no_newer_one() -> None:
    world = World()
    world.refuse(world.one, Reason.WRONG_CLUSTER, map_version="1")
    async with world.client(timeout_s=2.0) as client:
        with pytest.raises(WrongClusterError):
            await client.put(b"k", b"v")
    refused = len(world.one.requests)
    assert refused >= 15
    assert len(world.asked) - 1 == pytest.approx(refused / ASK_EVERY, abs=1)
    assert ASK_EVERY == 3


@virtual
async def test_a_newer_map_that_comes_too_late_is_not_used() -> None:
    world = World()
    async with world.client() as client:
        await client.put(b"k", b"1")
        world.version, world.owner = 2, 2
        world.refuse(world.one, Reason.WRONG_CLUSTER, map_version="2")

        async def late(request: SlotMapRequest) -> SlotMapResponse:
            await asyncio.sleep(0.95)
            return world.slot_map(request)

        world.network[ADMIN].handlers["SlotMap"] = late
        with pytest.raises(WrongClusterError, match="gave up within 1 s: not now"):
            await client.put(b"k", b"2", timeout_s=1.0)
        assert now() == pytest.approx(0.95)
        await client.put(b"k", b"3")
    assert world.two.applied == {b"3": 1}


@virtual
async def test_a_newer_map_is_used_at_once() -> None:
    world = World()
    async with world.client() as client:
        await client.put(b"k", b"1")
        world.version, world.owner = 2, 2
        world.refuse(world.one, Reason.WRONG_CLUSTER, map_version="2")
        await client.put(b"k", b"2")
    assert (world.one.applied[b"2"], world.two.applied[b"2"]) == (0, 1)
    assert len(world.asked) == 2
    assert now() == 0.0


@pytest.mark.parametrize("timeout_s", [0.2, 3.0])
def test_without_a_map_a_call_ends_within_its_time(timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        world = World()
        for hangs in (False, True):
            world.network[ADMIN].reachable = hangs
            world.network[ADMIN].handlers["SlotMap"] = lambda request: asyncio.sleep(10_000)
            async with world.client(timeout_s=60.0) as client:
                for call in (client.put(b"k", b"v", timeout_s=timeout_s), client.prepare(timeout_s=timeout_s)):
                    began = now()
                    with pytest.raises((UnreachableError, DeadlineError)):
                        await call
                    assert now() - began == pytest.approx(timeout_s, abs=0.11)

    run()


@virtual
async def test_an_answer_that_is_late_for_one_call_serves_the_next() -> None:
    world = World()

    async def late(request: SlotMapRequest) -> SlotMapResponse:
        await asyncio.sleep(1.0)
        return world.slot_map(request)

    world.network[ADMIN].handlers["SlotMap"] = late
    async with world.client() as client:
        calls = [asyncio.create_task(client.put(b"k", b"%d" % number, timeout_s=0.5)) for number in range(3)]
        for call in calls:
            with pytest.raises(DeadlineError, match=r"did not say within 0.5 s which cluster owns the key"):
                await call
        await client.put(b"k", b"v", timeout_s=0.8)
    assert len(world.asked) == 1


@virtual
async def test_while_members_are_not_found_their_addresses_are_asked_for_now_and_then() -> None:
    world = World()
    async with world.client() as client:
        await client.put(b"k", b"1")
        world.network[ONE].reachable = False
        world.network.break_streams(ONE)
        putting = asyncio.create_task(client.put(b"k", b"2", timeout_s=30.0))
        await asyncio.sleep(20.0)
        gaps = [later - earlier for earlier, later in zip(world.asked[1:], world.asked[2:], strict=False)]
        assert len(gaps) > 5
        assert min(gaps) >= LOOK_EVERY_S - 1e-6
        assert max(gaps) < 4 * LOOK_EVERY_S
        world.network["one:2"].cluster_id = ONE_ID
        world.one = Cluster(world.network["one:2"])
        world.clusters[1] = (ONE_ID, "one:2")
        await putting
        assert world.one.applied[b"2"] == 1


@virtual
async def test_a_cluster_that_left_the_map_is_kept_for_what_is_under_way_and_then_closed() -> None:
    world = World()
    async with world.client(timeout_s=60.0) as client:
        await client.put(b"k", b"1")
        world.refuse(world.one, Reason.NO_LEADER)
        late = asyncio.create_task(client.put(b"k", b"late"))
        await asyncio.sleep(0.01)
        world.version, world.owner = 2, 2
        del world.clusters[1]
        await client._store._map.renew(1.0)  # type: ignore[attr-defined]
        await client.put(b"k", b"2")
        assert world.two.applied[b"2"] == 1
        await asyncio.sleep(RETIRE_S - 1.0)
        assert not world.network[ONE].dropped_at
        assert not late.done()
        await asyncio.sleep(2.0)
        assert world.network[ONE].dropped_at
        with pytest.raises(ClosedError):
            await late
    assert RETIRE_S == 30.0


@virtual
async def test_a_cluster_that_is_away_costs_the_first_caller_its_time_and_nobody_after_it() -> None:
    world = World()
    world.refuse(world.one, Reason.NO_LEADER)
    async with world.client(fail_fast=True, timeout_s=2.0) as client:
        with pytest.raises(NoLeaderError, match=r"no leader was found in time"):
            await client.put(b"k", b"1")
        assert now() == pytest.approx(2.0, abs=0.05)
        for _ in range(3):
            began = now()
            with pytest.raises(NoLeaderError, match="the cluster is away, and is asked again until it answers"):
                await client.put(b"k", b"2")
            assert now() == began
        del world.one.run
        await asyncio.sleep(2.0 + PAUSE_S + 0.1)
        await client.put(b"k", b"3")
        assert world.one.applied == {b"3": 1}
        world.refuse(world.one, Reason.NO_LEADER)  # and again: it is not remembered for ever
        began = now()
        with pytest.raises(NoLeaderError, match=r"no leader was found in time"):
            await client.put(b"k", b"4")
        assert now() - began == pytest.approx(2.0, abs=0.05)
    assert PAUSE_S == 0.1


@virtual
async def test_the_admin_group_is_pinned_and_its_clusters_are_those_of_the_map() -> None:
    world = World()
    async with world.client(timeout_s=2.0) as client:
        await client.put(b"k", b"1")
        assert world.network[ADMIN].meant == [("SlotMap", "")]
        assert {meant for _, meant in world.network[ONE].meant} == {ONE_ID}
        world.network[ADMIN].cluster_id = TWO_ID
        with pytest.raises(
            WrongServerError, match=f"admin:1 belongs to cluster {TWO_ID}, and this client is for cluster {ADMIN_ID}"
        ):
            await client._store._map._admin.slot_map()  # type: ignore[attr-defined]
        await client.put(b"k", b"2")  # the map that is known serves on
        world.network[ONE].cluster_id = TWO_ID
        world.network.break_streams(ONE)
        await asyncio.sleep(0.1)
        with pytest.raises(WrongServerError, match=f"one:1 belongs to cluster {TWO_ID}, and this client is for cluster {ONE_ID}"):
            await client.put(b"k", b"3")
    assert world.one.applied[b"3"] == 0


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_routed_call_without_time_does_nothing(timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        world = World()
        async with world.client() as client:
            for call in (client.put(b"k", b"v", timeout_s=timeout_s), client.get(b"k", timeout_s=timeout_s)):
                with pytest.raises(DeadlineError, match="nothing was done"):
                    await call
        assert not world.asked

    run()


@pytest.mark.parametrize("timeout_s", [0.5, 4.0])
def test_a_scan_waits_for_slots_that_nobody_shows_within_the_time_of_a_page(timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        world = World()
        shown = (1).to_bytes(SLOT_COUNT // 8, "little")  # slot 0 alone

        async def some(request: kv_pb2.ScanRequest) -> Any:
            yield kv_pb2.ScanResponse(slots=shown, header=world.network[ONE].header)

        world.network[ONE].handlers["Scan"] = some
        async with world.client() as client:
            with pytest.raises(SlotMovingError, match=rf"4095 slots were not shown within {timeout_s:.3g} s: the first is 1"):
                await anext(client.scan(timeout_s=timeout_s))
        assert timeout_s * 0.75 - 1e-6 <= now() <= timeout_s + 1e-6
        assert len(world.asked) == pytest.approx(timeout_s / 0.075, rel=0.5)
        assert world.asked[:2] == [0.0, 0.0]  # a newer map may be all that is missing

    run()
