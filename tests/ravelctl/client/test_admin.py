"""AdminClient against fake admins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ravelctl.client import (
    AdminClient,
    NoLeaderError,
    NotAdminError,
    NotFoundError,
    RefusedError,
    RetryPolicy,
    WrongServerError,
)
from ravelpb.errors import Reason
from ravelpb.v1 import admin_pb2
from ravelpb.v1.common_pb2 import Addresses, ServerRef
from tests.ravelctl.client.fake_server import FakeCluster, fake_cluster, make_status
from tests.ravelctl.client.patience import ends_in

QUICK = RetryPolicy(backoff_min_s=0.005, backoff_max_s=0.02, progress_timeout_s=0.3, suspicion_s=0.05)
SERVER = ServerRef(server_id="a" * 32, name="n1", addresses=Addresses(listen="127.0.0.1:7400", peer="127.0.0.1:7401"))


@pytest.fixture
async def admins() -> AsyncIterator[FakeCluster]:
    async with fake_cluster(3, admin=True) as cluster:
        yield cluster


@pytest.fixture
async def client(admins: FakeCluster) -> AsyncIterator[AdminClient]:
    async with AdminClient([admins.replicas[1].address], timeout_s=20, retry=QUICK) as client:
        yield client


def note(found: list[Any], answer: Any) -> Callable[[Any], Any]:
    def answered(request: Any) -> Any:
        found.append(request)
        return answer

    return answered


async def test_every_call_follows_the_leader_with_what_it_was_given(admins: FakeCluster, client: AdminClient) -> None:
    asked: list[Any] = []
    leader = admins.replicas[0]
    leader.answers = {
        method.name: note(asked, getattr(admin_pb2, f"{method.name}Response")())
        for method in admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods
    }
    report = admin_pb2.LeaderReport(term=3, config_index=9, members=[admin_pb2.ReportedMember(server_id="a" * 32, replica_id=1)])
    await client.register(SERVER, new_cluster="orders")
    await client.report(SERVER, cluster_id="c" * 32, replica_id=1, leader=report)
    await client.mark_leaving("n1", dry_run=True)
    await client.forget("n2")
    await client.set_cluster("orders", replicas_wanted=5, emptying=True)
    await client.remove_cluster("users")
    await client.directory()
    await client.slot_map(7)
    await client.plan_rebalance(["orders"])
    await client.stop_rebalance()
    assert asked == [
        admin_pb2.RegisterRequest(server=SERVER, new_cluster="orders"),
        admin_pb2.ReportRequest(server=SERVER, cluster_id="c" * 32, replica_id=1, leader=report),
        admin_pb2.MarkLeavingRequest(server="n1", dry_run=True),
        admin_pb2.ForgetRequest(server="n2"),
        admin_pb2.SetClusterRequest(name="orders", replicas_wanted=5, emptying=True),
        admin_pb2.RemoveClusterRequest(name="users"),
        admin_pb2.DirectoryRequest(),
        admin_pb2.SlotMapRequest(known_version=7),
        admin_pb2.PlanRebalanceRequest(empty_clusters=["orders"]),
        admin_pb2.StopRebalanceRequest(),
    ]


async def test_a_call_goes_on_with_the_next_leader(admins: FakeCluster, client: AdminClient) -> None:
    for replica in admins.replicas:
        replica.answers["SlotMap"] = lambda request: admin_pb2.SlotMapResponse(version=request.known_version)
    await client.slot_map(1)
    await admins.replicas[0].stop()
    admins.leader = admins.replicas[2]
    assert (await client.slot_map(2)).version == 2
    assert admins.replicas[2].calls["SlotMap"] == 1


async def test_without_a_leader_nothing_is_done(admins: FakeCluster, client: AdminClient) -> None:
    admins.leader = None
    await ends_in(NoLeaderError, lambda limit_s: client.directory(timeout_s=limit_s))


async def test_a_rebalance_is_told_by_the_leader_until_it_ends(admins: FakeCluster, client: AdminClient) -> None:
    admins.replicas[0].answers["SlotMap"] = lambda request: admin_pb2.SlotMapResponse()
    asked: list[Any] = []
    told = [admin_pb2.RebalanceResponse(slots_left=left) for left in (2, 1, 0)]
    admins.replicas[0].answers["Rebalance"] = note(asked, told)
    assert [one async for one in client.rebalance(["orders"], map_version=4, watch_only=True)] == told
    assert asked == [admin_pb2.RebalanceRequest(empty_clusters=["orders"], map_version=4, watch_only=True)]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.NAME_TAKEN, RefusedError),
        (Reason.ADDRESS_TAKEN, RefusedError),
        (Reason.STALE_REPORT, RefusedError),
        (Reason.LAST_REPLICA, RefusedError),
        (Reason.CLUSTER_IN_USE, RefusedError),
        (Reason.WRONG_IDENTITY, WrongServerError),
        (Reason.WRONG_CLUSTER_ID, WrongServerError),
        (Reason.NOT_FOUND, NotFoundError),
    ],
)
async def test_a_refusal_is_told_at_once(admins: FakeCluster, client: AdminClient, reason: Reason, kind: type[Exception]) -> None:
    leader = admins.replicas[0]
    leader.answers["Register"] = lambda request: make_status(reason, "why not")
    with pytest.raises(kind, match="why not") as caught:
        await client.register(SERVER)
    assert getattr(caught.value, "reason", None) is reason
    assert leader.calls["Register"] == 1


async def test_a_daemon_that_is_no_admin_is_told_as_such() -> None:
    async with fake_cluster(1) as cluster, AdminClient([cluster.replicas[0].address], retry=QUICK) as client:
        with pytest.raises(NotAdminError, match="no admin server"):
            await client.directory()
        with pytest.raises(NotAdminError):
            await anext(client.rebalance())
