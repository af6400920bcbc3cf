"""Unary calls and server streams on virtual time: how often they are sent, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ravelctl.client import (
    AdminClient,
    BusyError,
    ClusterClient,
    DeadlineError,
    InspectClient,
    NoLeaderError,
    OutcomeUnknownError,
    RavelClient,
    RavelError,
    RetryPolicy,
    SlotsClient,
    StoppedError,
    UnreachableError,
)
from ravelpb.errors import Reason
from ravelpb.v1 import admin_pb2, cluster_pb2, inspect_pb2, slots_pb2
from ravelpb.v1.common_pb2 import ServerRef
from tests.ravelctl.client.scripted import Cluster, Network, refusal
from tests.replica.virtual import virtual

A, B, C = "a:1", "b:1", "c:1"
RETRY = RetryPolicy(backoff_min_s=0.1, backoff_max_s=0.1)


def now() -> float:
    return asyncio.get_running_loop().time()


async def for_ever(request: Any) -> Any:
    await asyncio.Event().wait()


async def silence(request: Any) -> Any:
    await asyncio.Event().wait()
    yield


def answers(*answers: Any) -> Callable[[Any], Any]:
    """These, one after the other; the last one for ever."""
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


CHANGED = cluster_pb2.ChangeResponse()


# --- repetition


@pytest.mark.parametrize(
    "reason", [Reason.NOT_LEADER, Reason.NO_LEADER, Reason.BUSY, Reason.BLANK, Reason.REMOVED, Reason.SHUTTING_DOWN]
)
def test_a_change_that_was_refused_undone_is_sent_again_until_it_is_taken(reason: Reason) -> None:
    @virtual
    async def run() -> None:
        network = Network(A)
        network[A].handlers["Leave"] = answers(*[refusal(reason)] * 4, CHANGED)
        async with ClusterClient([A], channel_factory=network, retry=RETRY) as client:
            await client.leave([1])
        assert network[A].calls["Leave"] == 5

    run()


@pytest.mark.parametrize(
    "reason", [Reason.OUTCOME_UNKNOWN, Reason.STOPPED, Reason.TIMEOUT, Reason.INTERNAL, Reason.TRANSFER_FAILED]
)
def test_a_change_that_may_have_been_made_is_sent_once(reason: Reason) -> None:
    @virtual
    async def run() -> None:
        network = Network(A, B)
        for daemon in network.daemons.values():
            daemon.handlers["Leave"] = answers(refusal(reason, "who knows"))
        async with ClusterClient([A, B], channel_factory=network, retry=RETRY) as client:
            with pytest.raises(OutcomeUnknownError, match="the change may or may not have happened: who knows"):
                await client.leave([1])
        assert (network[A].calls["Leave"], network[B].calls["Leave"]) == (1, 0)
        assert now() == 0.0

    run()


@pytest.mark.parametrize("reason", [Reason.OUTCOME_UNKNOWN, Reason.STOPPED, Reason.TIMEOUT])
def test_what_changes_nothing_or_is_always_the_same_is_sent_again(reason: Reason) -> None:
    @virtual
    async def run() -> None:
        network = Network(A)
        network[A].handlers |= {
            "Leave": answers(refusal(reason), refusal(reason), CHANGED),
            "AddMember": answers(refusal(reason), refusal(reason), cluster_pb2.AddMemberResponse(cluster_name="orders")),
            "SlotMap": answers(refusal(reason), refusal(reason), admin_pb2.SlotMapResponse(version=3)),
        }
        async with ClusterClient([A], channel_factory=network, retry=RETRY) as client:
            await client.leave([1], dry_run=True)
            assert (await client.add_member(ServerRef(name="n4"))).cluster_name == "orders"
        async with AdminClient([A], channel_factory=network, retry=RETRY) as admin:
            assert (await admin.slot_map()).version == 3
        assert {name: network[A].calls[name] for name in ("Leave", "AddMember", "SlotMap")} == dict.fromkeys(
            ("Leave", "AddMember", "SlotMap"), 3
        )

    run()


@pytest.mark.parametrize("reason", [Reason.UNSAFE_CHANGE, Reason.STALE_VIEW, Reason.NOT_FOUND, Reason.INVALID_ARGUMENT])
def test_a_refusal_is_told_at_once_and_the_call_not_repeated(reason: Reason) -> None:
    @virtual
    async def run() -> None:
        network = Network(A, B)
        network[A].handlers["Leave"] = answers(refusal(reason, "no way"))
        async with ClusterClient([A, B], channel_factory=network, retry=RETRY) as client:
            with pytest.raises(RavelError, match="no way"):
                await client.leave([1], dry_run=True)
        assert (network[A].calls["Leave"], network[B].calls["Leave"]) == (1, 0)
        assert now() == 0.0

    run()


@virtual
async def test_the_leader_is_asked_first_the_next_time() -> None:
    network = Network(A, B, C)
    network[A].handlers["Leave"] = answers(refusal(Reason.NOT_LEADER, leader_address=C))
    network[C].handlers["Leave"] = answers(CHANGED)
    async with ClusterClient([A, B], channel_factory=network, retry=RETRY) as client:
        for _ in range(3):
            await client.leave([1])
    assert {address: network[address].calls["Leave"] for address in (A, B, C)} == {A: 1, B: 0, C: 3}
    assert now() == 0.0


@virtual
async def test_members_are_asked_for_where_nobody_names_the_leader_and_not_too_often() -> None:
    network = Network(A, B)
    member = cluster_pb2.Member(server=ServerRef(server_id="b" * 32))
    member.server.addresses.listen = B
    network[A].handlers |= {
        "Leave": answers(refusal(Reason.REMOVED, "removed")),
        "Status": lambda request: cluster_pb2.StatusResponse(members=[member], header=network[A].header),
    }
    network[B].handlers["Leave"] = answers(*[refusal(Reason.NO_LEADER)] * 40, CHANGED)
    async with ClusterClient([A], channel_factory=network, retry=RETRY, timeout_s=60.0) as client:
        await client.leave([1])
    assert network[A].calls["Status"] <= 1 + now() / 5.0
    assert network[B].calls["Leave"] == 41


# --- deadlines


@pytest.mark.parametrize("timeout_s", [0.2, 1.0, 7.5])
@pytest.mark.parametrize("own", [True, False])
def test_a_call_ends_within_its_time(timeout_s: float, own: bool) -> None:
    """Given with the call, or with the client; in seconds."""

    @virtual
    async def run() -> None:
        network = Network(A, B)
        for daemon in network.daemons.values():
            daemon.handlers["Leave"] = answers(refusal(Reason.NO_LEADER, "none"))
        async with ClusterClient([A, B], channel_factory=network, retry=RETRY, timeout_s=60.0 if own else timeout_s) as client:
            with pytest.raises(NoLeaderError, match=rf"within {timeout_s:.3g} s"):
                await client.leave([1], timeout_s=timeout_s if own else None)
        assert 0.9 * timeout_s - 0.05 <= now() <= timeout_s + 1e-6

    run()


@pytest.mark.parametrize("timeout_s", [0.2, 1.0, 7.5])
def test_a_hanging_leader_takes_no_more_than_the_time_of_the_call(timeout_s: float) -> None:
    @virtual
    async def run() -> None:
        network = Network(A)
        network[A].handlers["Leave"] = for_ever
        async with ClusterClient([A], channel_factory=network, retry=RETRY) as client:
            with pytest.raises(OutcomeUnknownError):
                await client.leave([1], timeout_s=timeout_s)
            assert now() == pytest.approx(timeout_s)
            began = now()
            with pytest.raises((UnreachableError, DeadlineError)):
                await client.leave([1], dry_run=True, timeout_s=timeout_s)
            assert timeout_s * 0.75 - 1e-6 <= now() - began <= timeout_s + 1e-6
        assert network[A].calls["Leave"] >= 2

    run()


@virtual
async def test_the_time_in_which_a_connection_is_made_counts() -> None:
    async with InspectClient(channel_factory=(network := Network(A, B, C)), timeout_s=2.0) as inspect:
        for daemon in network.daemons.values():
            daemon.handlers |= {"StoreStats": for_ever, "ReadLog": silence, "Leave": for_ever}
            daemon.reachable, daemon.connects_after_s = False, 0.9
        async with ClusterClient([C], channel_factory=network, retry=RETRY) as client:
            for call in (
                inspect.store_stats(A),
                anext(inspect.read_log(B)),
                client.leave([1], timeout_s=2.0),
            ):
                began = now()
                with pytest.raises(RavelError):
                    await call
                assert now() - began == pytest.approx(2.0)


@virtual
async def test_a_repeatable_call_leaves_a_hanging_leader_in_time_for_the_next_one() -> None:
    network = Network(A, B)
    network[A].handlers["Leave"] = for_ever
    network[B].handlers["Leave"] = answers(CHANGED)
    async with ClusterClient([A, B], channel_factory=network, retry=RETRY) as client:
        await client.leave([1], dry_run=True, timeout_s=10.0)
    assert now() == pytest.approx(5.0)  # half of the time


@virtual
async def test_a_short_timeout_of_one_caller_does_not_cost_the_others_their_connection() -> None:
    network = Network(A)
    network[A].handlers["Status"] = for_ever
    network[A].handlers["Leave"] = for_ever
    async with ClusterClient([A], channel_factory=network, retry=RETRY) as client:
        with pytest.raises(DeadlineError, match=r"a:1 did not answer within 0.2 s"):
            await client.status(A, timeout_s=0.2)
        with pytest.raises(RavelError):
            await client.leave([1], dry_run=True, timeout_s=0.2)
        assert network.opened[A] == 1
        with pytest.raises(DeadlineError, match="within 3 s"):
            await client.status(A, timeout_s=3.0)
        with pytest.raises(DeadlineError):
            await client.status(A, timeout_s=0.2)
        assert network.opened[A] == 2  # one that had all of its time hangs


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_a_call_without_time_does_nothing(timeout_s: float) -> None:
    """0 is a time of its own, and not the client's default."""

    @virtual
    async def run() -> None:
        network = Network(A)
        network[A].handlers["Leave"] = answers(CHANGED)
        async with ClusterClient([A], channel_factory=network) as client, InspectClient(channel_factory=network) as inspect:
            for call in (
                client.leave([1], timeout_s=timeout_s),
                client.status(A, timeout_s=timeout_s),
                inspect.compact(A, timeout_s=timeout_s),
                anext(inspect.check_store(A, timeout_s=timeout_s)),
            ):
                with pytest.raises(DeadlineError, match="nothing was done"):
                    await call
        assert not network[A].calls
        assert now() == 0.0

    run()


@virtual
async def test_each_message_of_a_stream_may_take_the_time() -> None:
    async def slow(request: Any) -> Any:
        for _ in range(4):
            await asyncio.sleep(1.9)
            yield inspect_pb2.ReadLogResponse(first_index=1)
        await asyncio.sleep(2.1)
        yield inspect_pb2.ReadLogResponse(first_index=2)

    network = Network(A)
    network[A].handlers["ReadLog"] = slow
    async with InspectClient(channel_factory=network, timeout_s=2.0) as client:
        found: list[int] = []
        with pytest.raises(DeadlineError, match="a:1 sent nothing for 2 s"):
            await collect(client.read_log(A), found)
    assert found == [1] * 4
    assert now() == pytest.approx(4 * 1.9 + 2.0)


async def collect(pages: Any, found: list[int]) -> None:
    while True:
        found.append((await anext(pages)).first_index)


@virtual
async def test_only_the_first_message_of_an_endless_stream_is_due() -> None:
    async def quiet(request: Any) -> Any:
        yield cluster_pb2.EventsResponse(events=[cluster_pb2.Event(sequence=1)])
        await asyncio.sleep(500.0)
        yield cluster_pb2.EventsResponse(events=[cluster_pb2.Event(sequence=2)])

    network = Network(A)
    network[A].handlers["Events"] = quiet
    async with ClusterClient([A], channel_factory=network, timeout_s=2.0) as client:
        assert [event.sequence async for event in client.events(A, follow=True)] == [1, 2]
        with pytest.raises(DeadlineError):
            assert [event.sequence async for event in client.events(A)]


@virtual
async def test_a_status_frame_may_be_late_by_the_time_of_the_client() -> None:
    async def frames(request: cluster_pb2.WatchStatusRequest) -> Any:
        yield cluster_pb2.WatchStatusResponse()
        await asyncio.sleep(4.9)
        yield cluster_pb2.WatchStatusResponse()
        await asyncio.sleep(5.1)
        yield cluster_pb2.WatchStatusResponse()

    network = Network(A)
    network[A].handlers["WatchStatus"] = frames
    async with ClusterClient([A], channel_factory=network, timeout_s=2.0) as client:
        stream = client.watch_status(A, 3.0)
        assert [await anext(stream), await anext(stream)]
        with pytest.raises(DeadlineError, match="sent nothing for 5 s"):
            await anext(stream)


# --- defaults


@virtual
async def test_the_times_that_nobody_names() -> None:
    """In seconds, and as the documentation says."""
    network = Network(A)
    for name in ("Leave", "Status", "Join", "SaveSnapshot", "StateHash", "StoreStats", "Adopt", "Directory"):
        network[A].handlers[name] = for_ever
    Cluster(network[B]).silent = True
    network[B].handlers["Scan"] = silence
    async with (
        ClusterClient([A], channel_factory=network, retry=RETRY) as client,
        InspectClient(channel_factory=network, retry=RETRY) as inspect,
        AdminClient([A], channel_factory=network, retry=RETRY) as admin,
        RavelClient([B], channel_factory=network, retry=RETRY) as keys,
    ):
        for call, limit_s in (
            (keys.put(b"k", b"v"), 5.0),
            (keys.get(b"k"), 5.0),
            (anext(keys.scan()), 5.0),
            (client.leave([1]), 5.0),
            (client.status(A), 5.0),
            (client.join(A, [B]), 60.0),
            (inspect.store_stats(A), 5.0),
            (inspect.save_snapshot(A), 600.0),
            (inspect.state_hash(A), 900.0),
            (admin.directory(), 5.0),
            (admin.adopt("orders", [B]), 30.0),
        ):
            began = now()
            with pytest.raises(RavelError):
                await call
            assert now() - began == pytest.approx(limit_s, abs=0.11)


@virtual
async def test_an_address_that_hung_is_avoided_for_a_second() -> None:
    """The times of a policy that nobody wrote down."""
    network = Network(A, B)
    network[A].handlers["Leave"] = for_ever
    network[B].handlers["Leave"] = answers(*[refusal(Reason.NO_LEADER)] * 1000)
    async with ClusterClient([A, B], channel_factory=network, timeout_s=12.0) as client:
        with pytest.raises(RavelError):
            await client.leave([1], dry_run=True)
    gaps = [later - earlier for earlier, later in zip(network[A].at, network[A].at[1:], strict=False)]
    assert len(gaps) > 1
    assert min(gaps) >= RetryPolicy().progress_timeout_s + 1.0 - 1e-6
    assert RetryPolicy() == RetryPolicy(0.02, 0.5, 1.15, 2, 1.0, 1.5, 1.0)


@virtual
async def test_a_rebalance_may_be_silent_for_some_seconds() -> None:
    async def progress(request: Any) -> Any:
        yield admin_pb2.RebalanceResponse()
        await asyncio.sleep(14.9)
        yield admin_pb2.RebalanceResponse()
        await asyncio.sleep(15.1)
        yield admin_pb2.RebalanceResponse()

    network = Network(A)
    network[A].handlers |= {"SlotMap": answers(admin_pb2.SlotMapResponse()), "Rebalance": progress}
    async with AdminClient([A], channel_factory=network, timeout_s=2.0) as client:
        stream = client.rebalance()
        assert [await anext(stream), await anext(stream)]
        with pytest.raises(DeadlineError, match="sent nothing for 15 s"):
            await anext(stream)
    assert now() == pytest.approx(29.9)


@pytest.mark.parametrize("step", list(slots_pb2.SlotsStep.values()))
def test_every_step_of_a_move_but_a_chunk_is_repeated(step: Any) -> None:
    """A chunk that was taken would be refused the second time."""

    @virtual
    async def run() -> None:
        network = Network(A)
        network[A].handlers["ChangeSlots"] = answers(refusal(Reason.OUTCOME_UNKNOWN), slots_pb2.ChangeSlotsResponse())
        async with SlotsClient([A], channel_factory=network, retry=RETRY) as client:
            if step == slots_pb2.IMPORT_CHUNK:
                with pytest.raises(OutcomeUnknownError):
                    await client.change(slots_pb2.ChangeSlotsRequest(step=step))
            else:
                await client.change(slots_pb2.ChangeSlotsRequest(step=step))
        assert network[A].calls["ChangeSlots"] == (1 if step == slots_pb2.IMPORT_CHUNK else 2)

    run()


@virtual
async def test_busy_is_told_where_it_lasts_and_a_stop_where_that_came_last() -> None:
    network = Network(A, B)
    network[A].handlers["Leave"] = answers(refusal(Reason.BUSY, "busy", retry_after_ms="100"))
    network[B].handlers["Leave"] = answers(refusal(Reason.SHUTTING_DOWN, "bye"))
    async with ClusterClient([A, B], channel_factory=network, retry=RETRY) as client:
        with pytest.raises((BusyError, StoppedError), match="gave up within 2 s"):
            await client.leave([1], timeout_s=2.0)
    assert network[A].calls["Leave"] + network[B].calls["Leave"] >= 15
