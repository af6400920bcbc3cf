"""Every Cluster call over a real server: what is asked of the daemon and the replica, and how their answers look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

from ravel_node.admin.directory import DirectoryMachine
from ravel_node.machine import envelope
from ravel_node.raft.types import EntryId, Index, ReplicaId, Term
from ravel_node.replica.errors import (
    AlreadyMemberError,
    ChangeInProgressError,
    MembershipError,
    NameTakenError,
    NotCaughtUpError,
    NotLeaderError,
    StaleViewError,
    TransferFailedError,
    UnknownMemberError,
    UnreachableMemberError,
    UnsafeChangeError,
    UnsupportedVersionError,
)
from ravel_node.replica.status import Expectation, Member, MemberRole
from ravel_node.replica.verdict import Plan
from ravel_node.server.cluster import (
    member_from_proto,
    record_from_proto,
    replica_to_proto,
    verdict_from_proto,
    verdict_to_proto,
)
from ravel_node.server.host import Joined
from ravel_node.server.limits import InputError
from ravel_node.server.status import member_to_proto, server_to_proto
from ravelpb.errors import Field, Reason
from ravelpb.v1 import cluster_pb2, common_pb2
from ravelpb.v1.cluster_pb2_grpc import ClusterStub
from tests.server.fakes import CLUSTER, VERDICT, FakeHost, info_of, record, server_id, serving

EXPECT = cluster_pb2.Expectation(term=7, config_index=5)


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def cluster(host: FakeHost) -> AsyncIterator[Any]:
    async with serving(host) as channel:
        yield ClusterStub(channel)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    info = info_of(caught.value)
    return caught.value.code(), info.reason, dict(info.metadata)


async def test_bootstrap(cluster: Any, host: FakeHost) -> None:
    answer = await cluster.Bootstrap(cluster_pb2.BootstrapRequest(cluster_id="a" * 32, cluster_name="prod-1"))
    assert host.asked == [("bootstrap", "a" * 32, "prod-1")]
    assert (answer.replica.replica_id, answer.replica.server.name) == (1, "n1")
    assert answer.header.cluster_id == CLUSTER


@pytest.mark.parametrize(
    ("cluster_id", "name", "field"),
    [
        ("", "x", "cluster_id"),
        ("A" * 32, "x", "cluster_id"),
        ("a" * 31, "x", "cluster_id"),
        ("a" * 32 + "\n", "x", "cluster_id"),
        ("a" * 32, "", "cluster_name"),
        ("a" * 32, "Prod", "cluster_name"),
        ("a" * 32, "x" * 64, "cluster_name"),
    ],
)
async def test_bootstrap_checks_what_it_is_given(cluster: Any, host: FakeHost, cluster_id: str, name: str, field: str) -> None:
    call = cluster.Bootstrap(cluster_pb2.BootstrapRequest(cluster_id=cluster_id, cluster_name=name))
    code, reason, fields = await refused(call)
    assert (code, reason, fields["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", field)
    assert host.asked == []


async def test_a_daemon_that_has_an_identity_says_which(cluster: Any, host: FakeHost) -> None:
    async def bootstrap(cluster_id: str, cluster_name: str) -> Any:
        raise AlreadyMemberError(CLUSTER, ReplicaId(1))

    host.bootstrap = bootstrap  # type: ignore[method-assign]
    call = cluster.Bootstrap(cluster_pb2.BootstrapRequest(cluster_id="a" * 32, cluster_name="x"))
    assert await refused(call) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "ALREADY_MEMBER",
        {"cluster_id": CLUSTER, "replica_id": "1"},
    )


async def test_join(cluster: Any, host: FakeHost) -> None:
    answer = await cluster.Join(cluster_pb2.JoinRequest(via=["a:1", "b:2"], no_promote=True))
    assert host.asked == [("join", ["a:1", "b:2"], False, False)]
    assert (answer.replica.replica_id, answer.verdict.next_step) == (4, "bring one back")
    assert answer.header.term == 3
    code, _, fields = await refused(cluster.Join(cluster_pb2.JoinRequest()))
    assert (code, fields["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "via")


async def test_a_blank_daemon_can_be_asked_for_a_verdict_and_its_status() -> None:
    host = FakeHost.blank()
    host.joined = Joined(None, (), VERDICT)
    async with serving(host) as channel:
        cluster: Any = ClusterStub(channel)
        answer = await cluster.Join(cluster_pb2.JoinRequest(via=["a:1"], dry_run=True))
        assert host.asked == [("join", ["a:1"], True, True)]
        assert not answer.HasField("replica")
        assert answer.verdict.seen == EXPECT
        status = await cluster.Status(cluster_pb2.StatusRequest())
        assert (status.blank, status.boot_id, status.server.server_id) == (True, "b" * 16, server_id(1))
        assert (status.uptime_ms, status.server.addresses.listen) == (12_500, "127.0.0.1:7001")
        for call in (
            cluster.Promote(cluster_pb2.PromoteRequest(replica_ids=[1])),
            cluster.TransferLeader(cluster_pb2.TransferLeaderRequest()),
        ):
            assert (await refused(call))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "BLANK")


async def test_add_member(cluster: Any, host: FakeHost) -> None:
    server = server_to_proto(record(4))
    answer = await cluster.AddMember(cluster_pb2.AddMemberRequest(server=server, auto_promote=True, expect=EXPECT))
    expected = replace(record(4), replica_id=ReplicaId(0), auto_promote=True)
    assert host.fake.changes == [("add", expected, False, Expectation(7, 5))]
    assert (answer.replica.replica_id, answer.replica.server, answer.cluster_name) == (4, server, "test")
    assert [member.replica_id for member in answer.members] == [1, 3]
    assert record_from_proto(answer.replica) == record(4)
    dry = await cluster.AddMember(cluster_pb2.AddMemberRequest(server=server, dry_run=True))
    assert host.fake.changes[1][2:] == (True, Expectation(0, 0))
    assert not dry.HasField("replica")
    assert not dry.verdict.allowed


@pytest.mark.parametrize(
    ("server", "field"),
    [
        (common_pb2.ServerRef(), "server.server_id"),
        (common_pb2.ServerRef(server_id="x" * 32), "server.server_id"),
        (common_pb2.ServerRef(server_id=server_id(4), name="n"), "server.addresses"),
    ],
)
async def test_a_server_that_cannot_be_one_is_refused(
    cluster: Any, host: FakeHost, server: common_pb2.ServerRef, field: str
) -> None:
    code, _, fields = await refused(cluster.AddMember(cluster_pb2.AddMemberRequest(server=server)))
    assert (code, fields["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert host.fake.changes == []


async def test_promote_and_leave(cluster: Any, host: FakeHost) -> None:
    promoted = await cluster.Promote(cluster_pb2.PromoteRequest(replica_ids=[3, 2], dry_run=True, expect=EXPECT))
    left = await cluster.Leave(cluster_pb2.LeaveRequest(replica_ids=[2]))
    assert host.fake.changes == [("promote", [3, 2], True, Expectation(7, 5)), ("remove", [2], False, Expectation())]
    for answer in (promoted, left):
        assert verdict_from_proto(answer.verdict) == VERDICT
        assert [(member.replica_id, member.role) for member in answer.members] == [
            (1, cluster_pb2.VOTER),
            (3, cluster_pb2.LEARNER),
        ]
        assert [member.auto_promote for member in answer.members] == [False, True]


async def test_a_change_of_several_kinds(cluster: Any, host: FakeHost) -> None:
    request = cluster_pb2.ChangeRequest(promote=[4], demote=[2, 3], remove=[1], dry_run=True, expect=EXPECT)
    answer = await cluster.Change(request)
    plan = Plan(promote=(ReplicaId(4),), demote=(ReplicaId(2), ReplicaId(3)), remove=(ReplicaId(1),))
    assert host.fake.changes == [("change", plan, True, Expectation(7, 5))]
    assert verdict_from_proto(answer.verdict) == VERDICT
    both = await refused(cluster.Change(cluster_pb2.ChangeRequest(promote=[4], remove=[4])))
    assert (both[0], both[2]["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "replica_ids")
    assert len(host.fake.changes) == 1


@pytest.mark.parametrize("ids", [[], [0], [2, 2], list(range(1, 66))])
async def test_changes_name_each_replica_once(cluster: Any, host: FakeHost, ids: list[int]) -> None:
    for call in (
        cluster.Promote(cluster_pb2.PromoteRequest(replica_ids=ids)),
        cluster.Leave(cluster_pb2.LeaveRequest(replica_ids=ids)),
        cluster.Change(cluster_pb2.ChangeRequest(demote=ids)),
    ):
        code, _, fields = await refused(call)
        assert (code, fields["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "replica_ids")
    assert host.fake.changes == []


async def test_update_replaces_the_record_and_keeps_what_it_does_not_tell(cluster: Any, host: FakeHost) -> None:
    new = replace(record(1), listen="10.0.0.9:7400")
    answer = await cluster.Update(cluster_pb2.UpdateRequest(replica_id=1, server=server_to_proto(new), expect=EXPECT))
    assert host.fake.changes == [("update", new, Expectation(7, 5))]
    assert answer.member.server.addresses.listen == "10.0.0.9:7400"
    assert (await refused(cluster.Update(cluster_pb2.UpdateRequest(server=server_to_proto(new)))))[2]["field"] == "replica_ids"


async def test_transfer_leader(cluster: Any, host: FakeHost) -> None:
    answer = await cluster.TransferLeader(cluster_pb2.TransferLeaderRequest(replica_id=2, dry_run=True, expect=EXPECT))
    assert host.fake.changes == [("transfer", 2, True, Expectation(7, 5))]
    assert (answer.leader_id, answer.leader_term, answer.verdict.allowed) == (1, 3, False)


async def test_step_down(cluster: Any, host: FakeHost) -> None:
    await cluster.TransferLeader(cluster_pb2.TransferLeaderRequest(step_down=True, expect=EXPECT))
    assert host.fake.changes == [("step down", False, Expectation(7, 5))]
    named = await refused(cluster.TransferLeader(cluster_pb2.TransferLeaderRequest(step_down=True, replica_id=2)))
    assert (named[0], named[2]["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "replica_id")
    assert len(host.fake.changes) == 1


@pytest.mark.parametrize(
    ("failure", "code", "reason", "fields"),
    [
        (UnsafeChangeError("no quorum", "wait"), grpc.StatusCode.FAILED_PRECONDITION, "UNSAFE_CHANGE", {"next_step": "wait"}),
        (StaleViewError("moved"), grpc.StatusCode.ABORTED, "STALE_VIEW", {}),
        (ChangeInProgressError("one at a time"), grpc.StatusCode.ABORTED, "CHANGE_IN_PROGRESS", {}),
        (UnknownMemberError("no replica 9"), grpc.StatusCode.NOT_FOUND, "UNKNOWN_MEMBER", {}),
        (NameTakenError("n1 is taken"), grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN", {}),
        (UnreachableMemberError("nobody there"), grpc.StatusCode.FAILED_PRECONDITION, "UNREACHABLE_MEMBER", {}),
        (NotCaughtUpError("behind"), grpc.StatusCode.FAILED_PRECONDITION, "NOT_CAUGHT_UP", {}),
        (TransferFailedError("no answer"), grpc.StatusCode.ABORTED, "TRANSFER_FAILED", {}),
        (MembershipError("it is a voter"), grpc.StatusCode.FAILED_PRECONDITION, "INVALID_ARGUMENT", {}),
        (UnsupportedVersionError("n2 is old"), grpc.StatusCode.FAILED_PRECONDITION, "UNSUPPORTED_VERSION", {}),
        (
            NotLeaderError(ReplicaId(2), "b:1"),
            grpc.StatusCode.FAILED_PRECONDITION,
            "NOT_LEADER",
            {"leader_id": "2", "leader_address": "b:1"},
        ),
    ],
)
async def test_refused_changes(
    cluster: Any, host: FakeHost, failure: Exception, code: grpc.StatusCode, reason: str, fields: dict[str, str]
) -> None:
    host.fake.change_failure = failure
    for call in (
        cluster.AddMember(cluster_pb2.AddMemberRequest(server=server_to_proto(record(4)))),
        cluster.Promote(cluster_pb2.PromoteRequest(replica_ids=[2])),
        cluster.Leave(cluster_pb2.LeaveRequest(replica_ids=[2])),
        cluster.Update(cluster_pb2.UpdateRequest(replica_id=1, server=server_to_proto(record(1)))),
        cluster.TransferLeader(cluster_pb2.TransferLeaderRequest(replica_id=2)),
        cluster.TransferLeader(cluster_pb2.TransferLeaderRequest(step_down=True)),
        cluster.Change(cluster_pb2.ChangeRequest(demote=[2])),
    ):
        assert await refused(call) == (code, reason, fields)


async def test_status_tells_everything(cluster: Any) -> None:
    status = await cluster.Status(cluster_pb2.StatusRequest())
    assert (status.header.cluster_id, status.header.replica_id, status.header.term, status.header.index) == (CLUSTER, 1, 3, 9)
    assert status.server == server_to_proto(record(1))
    assert (status.cluster_name, status.role, status.leader_id) == ("test", cluster_pb2.LEADER, 1)
    assert (status.first_index, status.last_index, status.commit_index) == (2, 11, 10)
    assert (status.applied_index, status.flushed_index, status.config_index, status.snapshot_index) == (9, 8, 5, 6)
    assert (status.leader_age_ms, status.contact_age_ms, status.uptime_ms) == (1500, 0, 12_500)
    assert (status.db_used_bytes, status.db_size_max_bytes, status.log_used_bytes) == (123, 456, 789)
    assert (status.lease_remaining_ms, status.transferee_id, status.election_timeout_ms) == (500, 0, 800)
    assert (status.blank, status.removed, status.ready, status.boot_id) == (False, False, True, "b" * 16)
    (alarm,) = status.alarms
    assert (alarm.code, alarm.replica_id, alarm.severity, alarm.raised_ms) == ("RV301", 1, cluster_pb2.WARNING, 1250)
    assert (status.vote_id, status.heartbeat_ms, status.elections_1h, status.db_map_bytes) == (1, 100, 2, 400)
    assert [(found.count, found.p50_us, found.p99_us, found.max_us) for found in (status.fsync, status.apply, status.commit)] == [
        (9, 1_000, 2_000, 3_000),
        (8, 100, 200, 300),
        (7, 4_000, 5_000, 6_000),
    ]
    counters = status.counters
    assert (counters.monotonic_ms, counters.writes, counters.reads, counters.log_bytes) == (12_500, 11, 22, 333)
    assert counters.elections == 3
    assert not status.HasField("candidacy")
    assert status.wall_ms > 1_600_000_000_000
    sending, silent = status.progress
    assert (sending.replica_id, sending.state, sending.match, sending.next) == (3, cluster_pb2.SNAPSHOT, 4, 5)
    assert (sending.contacted, sending.contact_age_ms, sending.inflight, sending.inflight_max) == (True, 250, 3, 256)
    assert (sending.snapshot_index, sending.snapshot_sent_bytes, sending.snapshot_size_bytes) == (9, 100, 1000)
    assert (sending.lag_entries, sending.lag_bytes, sending.lag_bytes_is_least) == (7, 70, True)
    assert (sending.lag_ms, sending.lag_ms_is_least, sending.ack.p99_us) == (1500, False, 800)
    assert (silent.lag_entries, silent.lag_ms, silent.ack.count) == (0, 0, 0)
    assert (silent.contacted, silent.contact_age_ms, silent.state) == (False, 0, cluster_pb2.PROBE)


# --- translations


async def test_a_candidacy_tells_who_voted_how(cluster: Any, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = {ReplicaId(3): True, ReplicaId(1): True, ReplicaId(2): False}
    standing = replace(host.fake.status(), leader_id=ReplicaId(0), votes=votes)
    monkeypatch.setattr(host.fake, "status", lambda: standing)
    found = (await cluster.Status(cluster_pb2.StatusRequest())).candidacy
    assert (list(found.granted_by), list(found.refused_by), found.since_ms) == ([1, 3], [2], 1_500)


def test_what_is_translated_comes_back() -> None:
    assert verdict_from_proto(verdict_to_proto(VERDICT)) == VERDICT
    allowed = replace(VERDICT, reason="", next_step="")
    assert verdict_from_proto(verdict_to_proto(allowed)) == allowed
    for role in MemberRole:
        member = Member(replace(record(2), auto_promote=True), role)
        assert member_from_proto(member_to_proto(member)) == member
    assert record_from_proto(replica_to_proto(record(2))) == record(2)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError):
        member_from_proto(cluster_pb2.Member(server=server_to_proto(record(1))))
    with pytest.raises(InputError):
        record_from_proto(common_pb2.ReplicaRef(replica_id=1))
    assert not verdict_from_proto(cluster_pb2.Verdict()).allowed


@pytest.mark.parametrize("machine", ["directory", "a later one"])
async def test_a_cluster_takes_only_its_own_kind(host: FakeHost, cluster: Any, machine: str) -> None:
    request = cluster_pb2.AddMemberRequest(server=server_to_proto(record(4)), machine=machine)
    _, reason, fields = await refused(cluster.AddMember(request))
    assert reason == Reason.INVALID_ARGUMENT
    assert fields[Field.NEXT_STEP]
    assert host.fake.changes == []


async def test_an_admin_group_takes_no_replica_of_keys() -> None:
    host = FakeHost(DirectoryMachine())
    async with serving(host) as channel:
        request = cluster_pb2.AddMemberRequest(server=server_to_proto(record(4)))
        _, _, fields = await refused(ClusterStub(channel).AddMember(request))
        assert "ravel_node admin" in fields[Field.NEXT_STEP]
        request.machine = "directory"
        await ClusterStub(channel).AddMember(request)
        assert len(host.fake.changes) == 1


async def test_a_daemon_is_reset(cluster: Any, host: FakeHost) -> None:
    answer = await cluster.Reset(cluster_pb2.ResetRequest(server_id=server_id(1), dry_run=True))
    assert answer.folder == "old-1"
    assert host.asked == [("reset", server_id(1), True)]


async def test_settings_are_listed_and_set(cluster: Any, host: FakeHost) -> None:
    host.fake.machine.apply(
        EntryId(Term(1), Index(2)), envelope.payload([envelope.group([envelope.setting("leases", "off")])]), host.fake.state
    )
    (leases,) = (await cluster.Settings(cluster_pb2.SettingsRequest())).settings
    assert (leases.name, leases.value, leases.default, list(leases.values)) == ("leases", "off", "on", ["on", "off"])
    assert leases.help
    await cluster.SetSetting(cluster_pb2.SetSettingRequest(name="leases", value="on"))
    assert host.fake.changes == [("set", "leases", "on")]
    code, reason, fields = await refused(cluster.SetSetting(cluster_pb2.SetSettingRequest(name="lease")))
    assert (code, reason, fields["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "name")
