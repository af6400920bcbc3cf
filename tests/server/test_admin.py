"""Every Admin call over a real server: a real directory behind a replica that does as the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest

from ravel_node.admin.codec import encode
from ravel_node.admin.commands import BeginMove, Command, DecideMove, FinishMove
from ravel_node.admin.directory import DirectoryMachine
from ravel_node.admin.liveness import DOWN_AFTER_S, Liveness
from ravel_node.admin.model import MoveId
from ravel_node.admin.progress import Amount, Progress, Totals
from ravel_node.machine import envelope
from ravel_node.raft.types import ReplicaId, Term
from ravel_node.replica.errors import NotLeaderError
from ravel_node.server.app import admin_service
from ravel_node.server.clusters import Clusters
from ravel_node.server.desk import DirectoryDesk
from ravelpb.errors import Field, Reason
from ravelpb.slots import SLOT_COUNT
from ravelpb.v1 import admin_pb2, cluster_pb2, common_pb2
from ravelpb.v1.admin_pb2_grpc import AdminStub
from tests.ravelctl.client.fake_server import fake_cluster
from tests.server.fakes import CLUSTER, FakeHost, as_host, info_of, server_id, serving


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def server(number: int, name: str = "", port: int = 0) -> common_pb2.ServerRef:
    port = port or 7000 + 10 * number
    return common_pb2.ServerRef(
        server_id=server_id(number),
        name=name or f"n{number}",
        version="0.1.0",
        format=3,
        addresses=common_pb2.Addresses(listen=f"127.0.0.1:{port}", peer=f"127.0.0.1:{port + 1}"),
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host() -> FakeHost:
    return FakeHost(DirectoryMachine())


class StandingMover:
    """A mover that moves nothing: the test says how it gets on."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.found: dict[int, Progress] = {}

    def progress(self, move_id: MoveId) -> Progress:
        return self.found.get(move_id, Progress())


@pytest.fixture
def mover() -> StandingMover:
    return StandingMover()


@pytest.fixture
async def admin(host: FakeHost, clock: Clock, mover: StandingMover) -> AsyncIterator[Any]:
    machine = host.machine
    assert isinstance(machine, DirectoryMachine)
    desk = DirectoryDesk(as_host(host), machine)
    async with serving(host, more=[admin_service(as_host(host), desk, Liveness(clock), mover, Clusters(desk, None))]) as channel:
        yield AdminStub(channel)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = info_of(caught.value)
    return caught.value.code(), info.reason, dict(info.metadata)


async def register(admin: Any, number: int, **more: Any) -> Any:
    return await admin.Register(admin_pb2.RegisterRequest(server=server(number), **more))


def seated(*numbers: int, learner: int = 0) -> list[admin_pb2.ReportedMember]:
    return [
        admin_pb2.ReportedMember(server_id=server_id(number), replica_id=number, learner=number == learner) for number in numbers
    ]


async def report(
    admin: Any, number: int, cluster_id: str, *, term: int = 0, config_index: int = 1, members: Any = (), replica_id: int = 0
) -> Any:
    leader = admin_pb2.LeaderReport(term=term, config_index=config_index, members=members) if term else None
    return await admin.Report(
        admin_pb2.ReportRequest(server=server(number), cluster_id=cluster_id, replica_id=replica_id or number, leader=leader)
    )


async def founded(admin: Any, host: FakeHost) -> str:
    """Cluster `default` with the voters 1 and 2; returns its id. Nothing of it counts as proposed."""
    cluster_id = str((await register(admin, 1)).cluster.cluster_id)
    await register(admin, 2)
    await report(admin, 1, cluster_id, term=2, members=seated(1, 2))
    host.fake.proposals.clear()
    return cluster_id


# --- joining


async def test_who_was_struck_while_it_waited_is_not_taken_for_a_new_one(admin: Any, host: FakeHost) -> None:
    await register(admin, 1)
    await register(admin, 2)
    await register(admin, 2, again=True)
    await admin.Forget(admin_pb2.ForgetRequest(server="n2"))
    host.fake.proposals.clear()
    code, reason, _ = await refused(register(admin, 2, again=True))
    assert (code, reason, host.fake.proposals) == (grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, [])
    await register(admin, 2)


def _answer(answer: Any, _request: Any) -> Any:
    return answer


async def test_an_address_is_his_who_answers_there(admin: Any, host: FakeHost) -> None:
    """Servers 1 and 2 exchange their addresses; server 3 was given one of them by mistake."""
    async with fake_cluster(2) as there:
        ports = [int(replica.address.rpartition(":")[2]) for replica in there.replicas]
        for number, replica in enumerate(there.replicas, start=1):
            told_of = common_pb2.ServerRef(server_id=server_id(number))
            replica.answers["Status"] = partial(_answer, cluster_pb2.StatusResponse(server=told_of))

        async def registered(number: int, port: int) -> Any:
            return await admin.Register(admin_pb2.RegisterRequest(server=server(number, port=port)))

        await registered(1, ports[1])
        await registered(2, ports[0])
        host.fake.proposals.clear()
        _, reason, _ = await refused(registered(3, ports[0]))
        assert (reason, host.fake.proposals) == (Reason.ADDRESS_TAKEN, [])
        await registered(1, ports[0])
        await registered(2, ports[1])
        told = await admin.Directory(admin_pb2.DirectoryRequest())
        found = {one.server.name: one.server.addresses.listen for one in told.servers}
        assert found == {f"n{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, start=1)}


async def test_what_is_not_said_of_a_cluster_stays(admin: Any, host: FakeHost) -> None:
    async def told(**what: Any) -> tuple[int, bool]:
        cluster = (await admin.SetCluster(admin_pb2.SetClusterRequest(name="orders", **what))).cluster
        return cluster.replicas_wanted, cluster.emptying

    assert await told(emptying=True) == (3, True)
    assert await told(replicas_wanted=5) == (5, True)
    assert await told(emptying=False) == (5, False)


async def test_what_cannot_be_adopted_changes_nothing(admin: Any, host: FakeHost) -> None:
    await founded(admin, host)
    for cluster, addresses, wanted in (
        ("orders", ["127.0.0.1:1"], Reason.NOT_FOUND),
        ("default", [], Reason.INVALID_ARGUMENT),
        ("default", ["127.0.0.1:1"], Reason.UNREACHABLE_MEMBER),
    ):
        _, reason, _ = await refused(admin.Adopt(admin_pb2.AdoptRequest(cluster=cluster, addresses=addresses)))
        assert reason == wanted
    assert host.fake.proposals == []


async def test_the_first_server_founds_and_the_next_ones_are_sent_to_it(admin: Any) -> None:
    first = await register(admin, 1)
    assert (first.found_it, first.owns_all_slots, list(first.addresses)) == (True, True, [])
    assert (first.cluster.number, first.cluster.name, first.cluster.founded) == (1, "default", False)
    assert first.header.cluster_id == CLUSTER
    waiting = await register(admin, 2)
    assert (waiting.found_it, list(waiting.addresses)) == (False, [])
    assert waiting.cluster.cluster_id == first.cluster.cluster_id
    await report(admin, 1, first.cluster.cluster_id, term=2, members=seated(1))
    told = await register(admin, 2)
    assert (told.found_it, list(told.addresses)) == (False, ["127.0.0.1:7010"])
    again = await register(admin, 1, cluster_id=first.cluster.cluster_id, replica_id=1)
    assert not again.found_it


async def test_a_further_cluster_begins_without_slots(admin: Any, host: FakeHost) -> None:
    await founded(admin, host)
    other = await register(admin, 3, new_cluster="orders")
    assert (other.cluster.name, other.found_it, other.owns_all_slots) == ("orders", True, False)


async def test_what_is_no_news_is_not_in_the_log(admin: Any, host: FakeHost) -> None:
    cluster_id = await founded(admin, host)
    for _ in range(3):
        await register(admin, 1)
        await register(admin, 2, cluster_id=cluster_id, replica_id=2)
        await report(admin, 2, cluster_id)
        await report(admin, 1, cluster_id, term=2, members=seated(1, 2))
    assert host.fake.proposals == []
    await report(admin, 1, cluster_id, term=3, members=seated(1, 2))
    assert [proposal.grows for proposal in host.fake.proposals] == [False]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (admin_pb2.RegisterRequest(server=server(3, name="n1")), Reason.NAME_TAKEN),
        (admin_pb2.RegisterRequest(server=server(3, port=7010)), Reason.ADDRESS_TAKEN),
        (admin_pb2.RegisterRequest(server=server(3), cluster_id="d" * 32, replica_id=1), Reason.WRONG_CLUSTER_ID),
        (admin_pb2.RegisterRequest(server=server(3, name="Not a name")), Reason.INVALID_ARGUMENT),
        (admin_pb2.RegisterRequest(), Reason.INVALID_ARGUMENT),
        (admin_pb2.RegisterRequest(server=server(3), cluster_id="d" * 32), Reason.INVALID_ARGUMENT),
    ],
)
async def test_a_registration_that_cannot_be_changes_nothing(
    admin: Any, host: FakeHost, request_: admin_pb2.RegisterRequest, reason: Reason
) -> None:
    await founded(admin, host)
    before = await admin.Directory(admin_pb2.DirectoryRequest())
    assert (await refused(admin.Register(request_)))[1] == reason
    assert host.fake.proposals == []
    assert await admin.Directory(admin_pb2.DirectoryRequest()) == before


async def test_another_servers_identity_is_refused(admin: Any, host: FakeHost) -> None:
    cluster_id = await founded(admin, host)
    assert (await refused(register(admin, 3, cluster_id=cluster_id, replica_id=2)))[1] == Reason.WRONG_IDENTITY
    assert host.fake.proposals == []


# --- reports


async def test_a_report_that_cannot_be_changes_nothing(admin: Any, host: FakeHost) -> None:
    cluster_id = await founded(admin, host)
    before = await admin.Directory(admin_pb2.DirectoryRequest())
    late = {
        Reason.STALE_REPORT: report(admin, 2, cluster_id, term=1, members=seated(2)),
        Reason.NOT_FOUND: report(admin, 9, cluster_id),
        Reason.WRONG_IDENTITY: report(admin, 2, "d" * 32),
    }
    for reason, call in late.items():
        assert (await refused(call))[1] == reason
    assert (await refused(report(admin, 2, cluster_id, term=2, members=seated(2))))[
        1
    ] == Reason.STALE_REPORT  # another leads in it
    assert (await refused(report(admin, 2, cluster_id, replica_id=1)))[1] == Reason.WRONG_IDENTITY
    assert (await refused(report(admin, 1, cluster_id, term=3)))[1] == Reason.INVALID_ARGUMENT  # of nobody
    assert host.fake.proposals == []
    assert await admin.Directory(admin_pb2.DirectoryRequest()) == before


async def test_a_server_that_reports_other_addresses_than_the_list_has_is_told_to_register(admin: Any, host: FakeHost) -> None:
    cluster_id = await founded(admin, host)

    def said(ref: common_pb2.ServerRef) -> Any:
        return admin.Report(admin_pb2.ReportRequest(server=ref, cluster_id=cluster_id, replica_id=2))

    assert not (await said(server(2))).register
    moved = server(2, port=7999)
    assert (await said(moved)).register
    await admin.Register(admin_pb2.RegisterRequest(server=moved, cluster_id=cluster_id, replica_id=2))
    assert not (await said(moved)).register


async def test_a_silent_server_is_down_until_it_is_heard_again(admin: Any, host: FakeHost, clock: Clock) -> None:
    cluster_id = await founded(admin, host)

    async def look() -> list[tuple[bool, bool]]:
        return [(one.heard, one.down) for one in (await admin.Directory(admin_pb2.DirectoryRequest())).servers]

    clock.now += DOWN_AFTER_S + 1
    await report(admin, 1, cluster_id)
    assert await look() == [(True, False), (True, True)]
    await report(admin, 2, cluster_id)
    assert await look() == [(True, False), (True, False)]
    host.fake.term = Term(4)
    clock.now += DOWN_AFTER_S + 1
    assert await look() == [(False, False), (False, False)], "a new leader has heard of nobody yet"


# --- leaving and the list


async def test_leaving_marks_a_server_and_a_report_without_it_ends_its_record(admin: Any, host: FakeHost) -> None:
    cluster_id = await founded(admin, host)
    dry = await admin.MarkLeaving(admin_pb2.MarkLeavingRequest(server="n2", dry_run=True))
    assert (dry.server.leaving, dry.last, list(dry.addresses)) == (False, False, ["127.0.0.1:7010", "127.0.0.1:7020"])
    assert host.fake.proposals == []
    marked = await admin.MarkLeaving(admin_pb2.MarkLeavingRequest(server="default/n2"))
    assert (marked.server.leaving, marked.cluster.cluster_id) == (True, cluster_id)
    assert (await report(admin, 2, cluster_id)).leaving
    assert len(host.fake.proposals) == 1
    assert (await admin.MarkLeaving(admin_pb2.MarkLeavingRequest(server=server_id(2)))).server.leaving, "repeated"
    assert len(host.fake.proposals) == 1
    await report(admin, 1, cluster_id, term=2, config_index=5, members=seated(1))
    directory = await admin.Directory(admin_pb2.DirectoryRequest())
    assert [one.server.name for one in directory.servers] == ["n1"]
    assert (await refused(admin.MarkLeaving(admin_pb2.MarkLeavingRequest(server="n2"))))[1] == Reason.NOT_FOUND
    for dry_run in (True, False):
        last = admin_pb2.MarkLeavingRequest(server="n1", dry_run=dry_run)
        assert (await refused(admin.MarkLeaving(last)))[1] == Reason.LAST_REPLICA


async def test_the_last_server_of_a_cluster_without_slots_takes_it_along(admin: Any, host: FakeHost) -> None:
    await founded(admin, host)
    cluster_id = (await register(admin, 3, new_cluster="orders")).cluster.cluster_id
    await admin.Report(
        admin_pb2.ReportRequest(
            server=server(3),
            cluster_id=cluster_id,
            replica_id=1,
            leader=admin_pb2.LeaderReport(
                term=2, config_index=1, members=[admin_pb2.ReportedMember(server_id=server_id(3), replica_id=1)]
            ),
        )
    )
    assert (await admin.MarkLeaving(admin_pb2.MarkLeavingRequest(server="n3", dry_run=True))).last
    assert (await admin.MarkLeaving(admin_pb2.MarkLeavingRequest(server="n3"))).last
    assert [one.name for one in (await admin.Directory(admin_pb2.DirectoryRequest())).clusters] == ["default"]


async def test_a_name_of_several_servers_must_be_told_apart(admin: Any, host: FakeHost) -> None:
    await founded(admin, host)
    await admin.Register(admin_pb2.RegisterRequest(server=server(3, name="n1"), new_cluster="orders"))
    code, reason, fields = await refused(admin.MarkLeaving(admin_pb2.MarkLeavingRequest(server="n1", dry_run=True)))
    assert (code, reason, fields[Field.VALUE]) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_ARGUMENT, "n1")
    found = await admin.MarkLeaving(admin_pb2.MarkLeavingRequest(server="orders/n1", dry_run=True))
    assert found.server.server.server_id == server_id(3)


async def test_who_only_waited_can_be_forgotten_and_a_member_cannot(admin: Any, host: FakeHost) -> None:
    await founded(admin, host)
    await register(admin, 3)
    await admin.Forget(admin_pb2.ForgetRequest(server="n3"))
    assert (await refused(admin.Forget(admin_pb2.ForgetRequest(server="n3"))))[1] == Reason.NOT_FOUND
    assert (await refused(admin.Forget(admin_pb2.ForgetRequest(server="n2"))))[1] == Reason.UNSAFE_CHANGE


async def test_clusters_are_made_changed_and_struck(admin: Any, host: FakeHost) -> None:
    await founded(admin, host)
    made = await admin.SetCluster(admin_pb2.SetClusterRequest(name="orders", replicas_wanted=5))
    assert (made.cluster.number, made.cluster.replicas_wanted, made.cluster.founded) == (2, 5, False)
    changed = await admin.SetCluster(admin_pb2.SetClusterRequest(name="orders"))
    assert changed.cluster.replicas_wanted == 5
    await admin.RemoveCluster(admin_pb2.RemoveClusterRequest(name="orders"))
    assert (await refused(admin.RemoveCluster(admin_pb2.RemoveClusterRequest(name="orders"))))[1] == Reason.NOT_FOUND
    assert (await refused(admin.RemoveCluster(admin_pb2.RemoveClusterRequest(name="default"))))[1] == Reason.CLUSTER_IN_USE


# --- reading


async def test_the_directory_tells_everything(admin: Any, host: FakeHost) -> None:
    cluster_id = await founded(admin, host)
    await report(admin, 1, cluster_id, term=2, config_index=4, members=seated(1, 2, learner=2))
    directory = await admin.Directory(admin_pb2.DirectoryRequest())
    (cluster,) = directory.clusters
    assert (cluster.leader_id, cluster.term, cluster.config_index, cluster.slots) == (server_id(1), 2, 4, SLOT_COUNT)
    assert [(one.cluster, one.replica_id, one.seat) for one in directory.servers] == [
        (1, 1, admin_pb2.SEAT_VOTER),
        (1, 2, admin_pb2.SEAT_LEARNER),
    ]
    assert directory.servers[0].server == server(1)
    assert directory.map_version == 1


async def test_the_map_of_slots_is_sent_only_to_who_has_another(admin: Any, host: FakeHost) -> None:
    empty = await admin.SlotMap(admin_pb2.SlotMapRequest())
    assert (empty.version, empty.owners, list(empty.clusters)) == (0, bytes(2 * SLOT_COUNT), [])
    await founded(admin, host)
    told = await admin.SlotMap(admin_pb2.SlotMapRequest())
    assert (told.version, told.owners) == (1, b"\0\1" * SLOT_COUNT)
    assert [(one.name, list(one.addresses)) for one in told.clusters] == [("default", ["127.0.0.1:7010", "127.0.0.1:7020"])]
    assert (await admin.SlotMap(admin_pb2.SlotMapRequest(known_version=1))).owners == b""


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Register", admin_pb2.RegisterRequest(server=server(1))),
        ("Report", admin_pb2.ReportRequest(server=server(1))),
        ("MarkLeaving", admin_pb2.MarkLeavingRequest(server="n1")),
        ("Forget", admin_pb2.ForgetRequest(server="n1")),
        ("SetCluster", admin_pb2.SetClusterRequest(name="orders")),
        ("RemoveCluster", admin_pb2.RemoveClusterRequest(name="orders")),
        ("Directory", admin_pb2.DirectoryRequest()),
        ("SlotMap", admin_pb2.SlotMapRequest()),
        ("PlanRebalance", admin_pb2.PlanRebalanceRequest()),
        ("StopRebalance", admin_pb2.StopRebalanceRequest()),
    ],
)
async def test_only_the_leader_answers(admin: Any, host: FakeHost, method: str, request_: Any) -> None:
    host.fake.free = False
    host.fake.barrier_failure = NotLeaderError(ReplicaId(2), "127.0.0.1:7002")
    _, reason, fields = await refused(getattr(admin, method)(request_))
    assert (reason, fields[Field.LEADER_ADDRESS]) == (Reason.NOT_LEADER, "127.0.0.1:7002")


# --- moves


async def two_clusters(admin: Any, host: FakeHost) -> None:
    """`default` with all slots, `orders` with none; both are founded."""
    await founded(admin, host)
    cluster_id = (await register(admin, 3, new_cluster="orders")).cluster.cluster_id
    members = [admin_pb2.ReportedMember(server_id=server_id(3), replica_id=1)]
    await report(admin, 3, cluster_id, term=2, members=members, replica_id=1)


async def command(host: FakeHost, value: Command) -> None:
    """As the mover puts it into the log."""
    await host.fake.propose(envelope.group((envelope.directory(encode(value)),)), 1, grows=False)


async def test_a_plan_changes_nothing_and_says_what_would_move(admin: Any, host: FakeHost) -> None:
    await two_clusters(admin, host)
    before = len(host.fake.proposals)
    plan = await admin.PlanRebalance(admin_pb2.PlanRebalanceRequest())
    assert sum(len(move.slots) for move in plan.moves) == SLOT_COUNT // 2
    assert [(share.name, share.slots_before, share.slots_after) for share in plan.shares] == [
        ("default", SLOT_COUNT, SLOT_COUNT // 2),
        ("orders", 0, SLOT_COUNT // 2),
    ]
    assert (plan.map_version, plan.header.cluster_id) == (1, CLUSTER)
    assert len(host.fake.proposals) == before
    unknown = admin_pb2.PlanRebalanceRequest(empty_clusters=["users"])
    assert (await refused(admin.PlanRebalance(unknown)))[1] == Reason.NOT_FOUND


async def test_a_rebalance_tells_how_it_gets_on_until_it_has_ended(admin: Any, host: FakeHost, mover: StandingMover) -> None:
    await two_clusters(admin, host)
    stale = admin.Rebalance(admin_pb2.RebalanceRequest(map_version=7))
    assert (await refused(stale.read()))[1] == Reason.STALE_VIEW
    stream = aiter(admin.Rebalance(admin_pb2.RebalanceRequest(map_version=1)))
    first = await anext(stream)
    assert (first.slots_moved, first.slots_left) == (0, SLOT_COUNT // 2)
    moves = list(first.moves)
    assert {move.phase for move in moves} == {admin_pb2.PLANNED}
    copied = Amount(done=20, keys=12, bytes=1_200)
    mover.totals.copied, mover.totals.per_s = copied, Amount(done=10, keys=6, bytes=600)
    mover.found[moves[0].move] = Progress(copied, mover.totals.per_s, 100, "cluster orders is away")
    while not (second := await anext(stream)).obstacle:
        pass
    assert (second.keys_moved, second.obstacle, second.moves[0].keys_copied) == (12, "cluster orders is away", 12)
    expected = 100 * (SLOT_COUNT // 2) // len(moves[0].slots)
    assert second.copying == admin_pb2.CopyProgress(
        bytes_copied=1_200,
        keys_done=20,
        keys_expected=expected,
        bytes_expected=expected * 100,
        keys_per_s=10,
        bytes_per_s=600,
        ms_left=(expected - 20) * 100,
    )
    assert second.moves[0].copying == admin_pb2.CopyProgress(
        bytes_copied=1_200,
        keys_done=20,
        keys_expected=100,
        bytes_expected=10_000,
        keys_per_s=10,
        bytes_per_s=600,
        ms_left=8_000,
    )
    assert not second.moves[1].copying.HasField("keys_expected")
    mover.found.clear()
    for move in moves:
        moving = MoveId(move.move)
        await command(host, BeginMove(moving))
        await command(host, DecideMove(moving, commit=move is not moves[-1]))
        await command(host, FinishMove(moving))
    mover.totals.called_off, mover.totals.why_called_off = 1, "it took too long"
    told = [message async for message in stream]
    assert (list(told[-1].moves), told[-1].obstacle) == ([], "it took too long")
    assert (told[-1].slots_moved, told[-1].slots_left) == (SLOT_COUNT // 2 - len(moves[-1].slots), len(moves[-1].slots))
    assert told[-1].map_version > 1
    nothing = [message async for message in admin.Rebalance(admin_pb2.RebalanceRequest(watch_only=True))]
    assert [(list(message.moves), message.slots_left) for message in nothing] == [([], 0)]


async def test_stopping_calls_off_what_is_not_decided(admin: Any, host: FakeHost) -> None:
    await two_clusters(admin, host)
    stream = admin.Rebalance(admin_pb2.RebalanceRequest())
    moves = (await stream.read()).moves
    stream.cancel()
    decided = MoveId(moves[0].move)
    await command(host, BeginMove(decided))
    await command(host, DecideMove(decided, commit=True))
    assert (await admin.StopRebalance(admin_pb2.StopRebalanceRequest())).moves_stopped == len(moves) - 1
    phases = [move.phase for move in (await admin.Directory(admin_pb2.DirectoryRequest())).moves]
    assert phases == [admin_pb2.COMMITTED], "those that only waited are struck at once"
    assert (await admin.StopRebalance(admin_pb2.StopRebalanceRequest())).moves_stopped == 0


async def test_a_cluster_that_is_emptied_is_marked_so(admin: Any, host: FakeHost) -> None:
    await two_clusters(admin, host)
    refusal = admin.Rebalance(admin_pb2.RebalanceRequest(empty_clusters=["users"]))
    assert (await refused(refusal.read()))[1] == Reason.NOT_FOUND
    stream = admin.Rebalance(admin_pb2.RebalanceRequest(empty_clusters=["default"]))
    assert (await stream.read()).slots_left == SLOT_COUNT
    stream.cancel()
    clusters = (await admin.Directory(admin_pb2.DirectoryRequest())).clusters
    assert [cluster.emptying for cluster in clusters] == [True, False]
