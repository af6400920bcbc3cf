"""What a daemon says to its admin, with a fake admin that answers as the test says and a daemon that is only its surface."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from ravel_node import admin_link
from ravel_node.admin_link import AdminLink
from ravel_node.machine.base import MemberRecord
from ravel_node.machine.ownership import founded
from ravel_node.raft.types import ConfState, Index, ReplicaId, Term
from ravel_node.seat import Seat
from ravel_node.server.errors import ForwardedError
from ravel_node.server.host import Host
from ravel_node.storage.base import Identity
from ravelpb.errors import Reason
from ravelpb.v1 import admin_pb2
from tests.ravelctl.client.fake_server import FakeCluster, FakeReplica, fake_cluster, make_status
from tests.server.fakes import record, server_id

CLUSTER = admin_pb2.DirectoryCluster(number=1, name="orders", cluster_id="c" * 32)
SEATED = Identity(server_id(1), "c" * 32, "orders", ReplicaId(1), "n1")


class StandingReplica:
    """A replica whose standing the test sets."""

    def __init__(self) -> None:
        self.is_leader = False
        self.term = Term(2)
        self.machine = self
        self.config_index = Index(4)
        self.members = {ReplicaId(1): record(1), ReplicaId(2): record(2)}
        self.conf_state = ConfState(voters=(ReplicaId(1),), learners=(ReplicaId(2),))
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def change(self, **what: Any) -> None:
        for name, value in what.items():
            setattr(self, name, value)
        self._changed.set()


class StandingHost:
    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.replica = StandingReplica()
        self.turned_out: list[admin_link.NoPlaceError] = []

    @property
    def server(self) -> MemberRecord:
        return replace(record(1), replica_id=self.identity.replica_id)


class StandingSeat:
    """Takes whatever identity it is told to, and notes how."""

    def __init__(self, host: StandingHost) -> None:
        self._host = host
        self.taken: list[tuple[Any, ...]] = []
        self.failures: list[Exception] = []

    async def found(self, *what: Any, **more: Any) -> None:
        self._take("found", *what, *more.values())

    async def join(self, via: list[str], *, promote: bool, dry_run: bool, cluster_id: str) -> None:
        self._take("join", via, cluster_id)

    def _take(self, *how: Any) -> None:
        self.taken.append(how)
        if self.failures:
            raise self.failures.pop(0)
        self._host.identity = SEATED


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPORT_EVERY_S", "RETRY_S", "RETRY_MAX_S"):
        monkeypatch.setattr(admin_link, name, 0.05)
    monkeypatch.setattr(admin_link, "CALL_S", 0.5)


@pytest.fixture
async def admins() -> AsyncIterator[FakeCluster]:
    async with fake_cluster(1, admin=True) as cluster:
        admin = cluster.replicas[0]
        admin.answers["Register"] = lambda request: admin_pb2.RegisterResponse(cluster=CLUSTER)
        admin.answers["Report"] = lambda request: admin_pb2.ReportResponse()
        admin.answers["MarkLeaving"] = lambda request: admin_pb2.MarkLeavingResponse()
        yield cluster


@asynccontextmanager
async def linked(host: StandingHost, seat: StandingSeat, admin: FakeReplica, new_cluster: str = "") -> AsyncIterator[None]:
    options: dict[str, Any] = {"new_cluster": new_cluster, "client_tls": None, "turned_out": host.turned_out.append}
    link = AdminLink(cast(Host, host), cast(Seat, seat), [admin.address], **options)
    task = asyncio.create_task(link.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60.0):
        while not condition():
            await asyncio.sleep(0.01)


def script(admin: FakeReplica, method: str, *answers: Any) -> list[Any]:
    """These answers in turn, the last one for ever; the requests, as they come."""
    asked: list[Any] = []

    def answer(request: Any) -> Any:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    admin.answers[method] = answer
    return asked


@pytest.mark.parametrize(("all_slots", "owned"), [(True, b"\xff" * 512), (False, bytes(512))])
async def test_a_blank_server_founds_the_cluster_that_it_is_given(admins: FakeCluster, all_slots: bool, owned: bytes) -> None:
    host = StandingHost(Identity(server_id(1)))
    seat = StandingSeat(host)
    found = admin_pb2.RegisterResponse(cluster=CLUSTER, found_it=True, owns_all_slots=all_slots, map_version=7)
    asked = script(admins.replicas[0], "Register", found)
    async with linked(host, seat, admins.replicas[0], new_cluster="orders"):
        await until(lambda: len(asked) == 2)
    assert seat.taken == [("found", "c" * 32, "orders", founded(owned, 7))]
    assert (asked[0].new_cluster, asked[0].cluster_id) == ("orders", "")
    assert (asked[1].new_cluster, asked[1].cluster_id, asked[1].replica_id) == ("", "c" * 32, 1), "then it says who it is"


async def test_a_blank_server_asks_until_there_is_somebody_to_join_and_until_it_is_taken_in(admins: FakeCluster) -> None:
    host = StandingHost(Identity(server_id(1)))
    seat = StandingSeat(host)
    seat.failures = [ForwardedError("no leader", Reason.NO_LEADER, {})]
    waits = admin_pb2.RegisterResponse(cluster=CLUSTER)
    told = admin_pb2.RegisterResponse(cluster=CLUSTER, addresses=["127.0.0.1:7002"])
    busy = make_status(Reason.NAME_TAKEN, "that name is taken")
    script(admins.replicas[0], "Register", waits, busy, told)
    async with linked(host, seat, admins.replicas[0]):
        await until(lambda: not host.identity.blank)
    assert seat.taken == [("join", ["127.0.0.1:7002"], "c" * 32)] * 2


async def test_a_leader_says_at_once_that_it_leads_and_whom(admins: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_link, "REPORT_EVERY_S", 60.0)
    host = StandingHost(SEATED)
    asked = script(admins.replicas[0], "Report", admin_pb2.ReportResponse())
    async with linked(host, StandingSeat(host), admins.replicas[0]):
        await until(lambda: len(asked) == 1)
        assert not asked[0].HasField("leader")
        host.replica.change(is_leader=True)
        await until(lambda: len(asked) == 2)
        host.replica.change(config_index=Index(5), conf_state=ConfState(voters=(ReplicaId(1), ReplicaId(2))))
        await until(lambda: len(asked) == 3)
    first, second = asked[1].leader, asked[2].leader
    assert (first.term, first.config_index) == (2, 4)
    assert [(member.server_id, member.replica_id, member.learner) for member in first.members] == [
        (server_id(1), 1, False),
        (server_id(2), 2, True),
    ]
    assert (second.config_index, [member.learner for member in second.members]) == (5, [False, False])


async def test_with_all_admins_away_it_says_so_once_and_goes_on_asking(admins: FakeCluster) -> None:
    host = StandingHost(SEATED)
    admin = admins.replicas[0]
    asked = script(admin, "Report", admin_pb2.ReportResponse())
    with capture_logs() as logs:
        async with linked(host, StandingSeat(host), admin):
            await until(lambda: bool(asked))
            admin.refusal = make_status(Reason.BUSY, "not now")
            await until(lambda: any(line["event"] == "daemon.admin_link" for line in logs))
            await asyncio.sleep(3 * admin_link.CALL_S)
            seen = len(asked)
            admin.refusal = None
            await until(lambda: len(asked) > seen)
            await until(lambda: any(line["event"] == "daemon.admin_answers" for line in logs))
    assert [line["obstacle"] for line in logs if line["event"] == "daemon.admin_link"] == ["away"]


async def test_a_server_that_is_not_in_the_list_any_more_registers_again(admins: FakeCluster) -> None:
    host = StandingHost(SEATED)
    gone = make_status(Reason.NOT_FOUND, "not in the list")
    registered = script(admins.replicas[0], "Register", admin_pb2.RegisterResponse(cluster=CLUSTER))
    reported = script(admins.replicas[0], "Report", admin_pb2.ReportResponse(), gone, admin_pb2.ReportResponse())
    async with linked(host, StandingSeat(host), admins.replicas[0]):
        await until(lambda: len(registered) == 2 and len(reported) > 3)


async def test_a_server_whose_addresses_the_list_does_not_have_registers_again(admins: FakeCluster) -> None:
    host = StandingHost(SEATED)
    vacated = admin_pb2.ReportResponse(register=True)
    registered = script(admins.replicas[0], "Register", admin_pb2.RegisterResponse(cluster=CLUSTER))
    reported = script(admins.replicas[0], "Report", admin_pb2.ReportResponse(), vacated, admin_pb2.ReportResponse())
    async with linked(host, StandingSeat(host), admins.replicas[0]):
        await until(lambda: len(registered) == 2 and len(reported) > 3)


async def test_a_registration_that_is_refused_is_told_and_keeps_no_report_back(admins: FakeCluster) -> None:
    host = StandingHost(SEATED)
    host.replica.is_leader = True
    script(admins.replicas[0], "Register", make_status(Reason.ADDRESS_TAKEN, "that address is taken"))
    reported = script(admins.replicas[0], "Report", admin_pb2.ReportResponse(leaving=True))
    with capture_logs() as logs:
        async with linked(host, StandingSeat(host), admins.replicas[0]):
            await until(lambda: len(reported) > 3)
    told = {(line["obstacle"], line["why"]) for line in logs if line["event"] == "daemon.admin_link"}
    assert sorted(obstacle for obstacle, _ in told) == ["leaving", "refused"], "the log counts what repeats"


async def test_a_server_whose_cluster_was_superseded_must_not_go_on(admins: FakeCluster) -> None:
    host = StandingHost(SEATED)
    script(admins.replicas[0], "Register", make_status(Reason.SUPERSEDED, "another one is cluster orders now"))
    async with linked(host, StandingSeat(host), admins.replicas[0]):
        await until(lambda: bool(host.turned_out))
    assert "cluster orders now" in str(host.turned_out[0])


async def test_a_blank_server_that_was_struck_while_it_waited_does_not_come_back_by_itself(admins: FakeCluster) -> None:
    host = StandingHost(Identity(server_id(1)))
    waits = admin_pb2.RegisterResponse(cluster=CLUSTER)
    asked = script(admins.replicas[0], "Register", waits, waits, make_status(Reason.NOT_FOUND, "struck"))
    async with linked(host, StandingSeat(host), admins.replicas[0]):
        await until(lambda: bool(host.turned_out))
    assert [request.again for request in asked[:3]] == [False, True, True]


async def test_a_server_that_was_taken_out_has_itself_struck_and_says_no_more(admins: FakeCluster) -> None:
    host = StandingHost(replace(SEATED, removed=True))
    struck = script(admins.replicas[0], "MarkLeaving", make_status(Reason.BUSY, "wait"), admin_pb2.MarkLeavingResponse())
    async with linked(host, StandingSeat(host), admins.replicas[0]):
        await until(lambda: len(struck) == 2)
        await asyncio.sleep(0.2)
    assert [request.server for request in struck] == [server_id(1)] * 2
    assert admins.replicas[0].calls["Register"] == admins.replicas[0].calls["Report"] == 0
