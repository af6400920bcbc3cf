"""The Cluster service: how a cluster begins, who is in it, who leads it, how it does. Translates, and decides nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Final

from ravel_node.machine.base import MemberRecord
from ravel_node.machine.members import DIRECTORY, is_name
from ravel_node.machine.settings import SETTINGS, ClusterSetting, value_of
from ravel_node.raft.types import ReplicaId
from ravel_node.replica.errors import MembershipError
from ravel_node.replica.reads import ReadMode
from ravel_node.replica.replica import Replica
from ravel_node.replica.status import Expectation, Member, MemberRole, Standing, Verdict
from ravel_node.replica.verdict import Plan
from ravel_node.server.host import Host
from ravel_node.server.limits import InputError
from ravel_node.server.status import header_of, member_to_proto, server_to_proto, status_of
from ravel_node.server.watching import Watching
from ravelpb.v1 import cluster_pb2, common_pb2

REPLICAS_MAX: Final = 64
"""Replicas that one change may name, and addresses that one join may try."""

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")


class ClusterHandlers:
    """Handlers of `ravel.v1.Cluster`. Those that change membership or leadership are for the leader: others raise
    NotLeaderError."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._watching = Watching(host)

    def _header(self, replica: Replica | None) -> common_pb2.ResponseHeader:
        return header_of(self._host, replica)

    # --- asked of a blank daemon

    async def bootstrap(self, request: cluster_pb2.BootstrapRequest) -> cluster_pb2.BootstrapResponse:
        if not _HEX_ID.fullmatch(request.cluster_id):
            raise InputError(
                f"cluster id {request.cluster_id[:64]!r} is not 32 lower-case hex digits",
                field="cluster_id",
                value=request.cluster_id,
            )
        if not is_name(request.cluster_name):
            raise InputError(
                f"cluster name {request.cluster_name[:80]!r} is not 1 to 63 characters of a-z, 0-9, '-', '_', '.'",
                field="cluster_name",
                value=request.cluster_name,
            )
        record = await self._host.bootstrap(request.cluster_id, request.cluster_name)
        return cluster_pb2.BootstrapResponse(header=self._header(self._host.replica), replica=replica_to_proto(record))

    async def join(self, request: cluster_pb2.JoinRequest) -> cluster_pb2.JoinResponse:
        if not 0 < len(request.via) <= REPLICAS_MAX:
            raise InputError(
                f"a join names {len(request.via)} addresses of the cluster, it must name 1 to {REPLICAS_MAX}",
                field="via",
                value=len(request.via),
                limit=REPLICAS_MAX,
            )
        joined = await self._host.join(list(request.via), promote=not request.no_promote, dry_run=request.dry_run)
        response = cluster_pb2.JoinResponse(header=self._header(None if request.dry_run else self._host.replica))
        if joined.member is not None:
            response.replica.CopyFrom(replica_to_proto(joined.member))
        if joined.verdict is not None:
            response.verdict.CopyFrom(verdict_to_proto(joined.verdict))
        return response

    async def reset(self, request: cluster_pb2.ResetRequest) -> cluster_pb2.ResetResponse:
        folder = await self._host.reset(request.server_id, dry_run=request.dry_run)
        return cluster_pb2.ResetResponse(header=self._header(self._host.replica), folder=folder)

    # --- asked of the leader

    async def settings(self, request: cluster_pb2.SettingsRequest) -> cluster_pb2.SettingsResponse:
        replica = self._host.replica
        await replica.read_barrier(ReadMode.LINEARIZABLE)
        return self._settings(replica)

    async def set_setting(self, request: cluster_pb2.SetSettingRequest) -> cluster_pb2.SettingsResponse:
        replica = self._host.replica
        await replica.set_setting(_setting(request.name), request.value)
        return self._settings(replica)

    def _settings(self, replica: Replica) -> cluster_pb2.SettingsResponse:
        stored = replica.machine.settings
        return cluster_pb2.SettingsResponse(
            header=self._header(replica),
            settings=[
                cluster_pb2.Setting(
                    name=setting.name,
                    value=value_of(setting, stored),
                    default=setting.default,
                    values=setting.values,
                    help=setting.help,
                )
                for setting in SETTINGS.values()
            ],
        )

    async def add_member(self, request: cluster_pb2.AddMemberRequest) -> cluster_pb2.AddMemberResponse:
        replica = self._host.replica
        record = _record(request.server, ReplicaId(0), auto_promote=request.auto_promote)
        if request.machine.encode() != self._host.machine.machine:
            raise _wrong_kind(record.name, is_admin=request.machine.encode() == DIRECTORY)
        added, verdict = await replica.add_member(record, dry_run=request.dry_run, expect=_expectation(request.expect))
        status = replica.status()
        response = cluster_pb2.AddMemberResponse(
            header=self._header(replica),
            cluster_name=status.cluster_name,
            members=map(member_to_proto, status.members),
            verdict=verdict_to_proto(verdict),
        )
        if added is not None:
            response.replica.CopyFrom(replica_to_proto(added))
        return response

    async def promote(self, request: cluster_pb2.PromoteRequest) -> cluster_pb2.ChangeResponse:
        replica = self._host.replica
        verdict = await replica.promote(_ids(request.replica_ids), dry_run=request.dry_run, expect=_expectation(request.expect))
        return self._changed(replica, verdict)

    async def leave(self, request: cluster_pb2.LeaveRequest) -> cluster_pb2.ChangeResponse:
        replica = self._host.replica
        verdict = await replica.remove(_ids(request.replica_ids), dry_run=request.dry_run, expect=_expectation(request.expect))
        return self._changed(replica, verdict)

    async def change(self, request: cluster_pb2.ChangeRequest) -> cluster_pb2.ChangeResponse:
        replica = self._host.replica
        _ids([*request.promote, *request.demote, *request.remove])  # none twice, none in two lists
        plan = Plan(
            promote=tuple(map(ReplicaId, request.promote)),
            demote=tuple(map(ReplicaId, request.demote)),
            remove=tuple(map(ReplicaId, request.remove)),
        )
        verdict = await replica.change_members(plan, dry_run=request.dry_run, expect=_expectation(request.expect))
        return self._changed(replica, verdict)

    def _changed(self, replica: Replica, verdict: Verdict) -> cluster_pb2.ChangeResponse:
        return cluster_pb2.ChangeResponse(
            header=self._header(replica),
            verdict=verdict_to_proto(verdict),
            members=map(member_to_proto, replica.status().members),
        )

    async def update(self, request: cluster_pb2.UpdateRequest) -> cluster_pb2.UpdateResponse:
        replica = self._host.replica
        (replica_id,) = _ids([request.replica_id])
        known = self._host.machine.members.get(replica_id)
        record = _record(request.server, replica_id, auto_promote=known is not None and known.auto_promote)
        member = await replica.update_member(record, dry_run=request.dry_run, expect=_expectation(request.expect))
        return cluster_pb2.UpdateResponse(header=self._header(replica), member=member_to_proto(member))

    async def transfer_leader(self, request: cluster_pb2.TransferLeaderRequest) -> cluster_pb2.TransferLeaderResponse:
        replica = self._host.replica
        target, dry_run, expect = ReplicaId(request.replica_id), request.dry_run, _expectation(request.expect)
        if request.step_down and target:
            raise InputError(
                f"a leader that steps down names nobody, and {target} is named", field="replica_id", value=str(target)
            )
        if request.step_down:
            verdict = await replica.step_down(dry_run=dry_run, expect=expect)
        else:
            verdict = await replica.transfer_leader(target, dry_run=dry_run, expect=expect)
        return cluster_pb2.TransferLeaderResponse(
            header=self._header(replica), leader_id=replica.leader_id, leader_term=replica.term, verdict=verdict_to_proto(verdict)
        )

    # --- asked of anybody

    async def status(self, request: cluster_pb2.StatusRequest) -> cluster_pb2.StatusResponse:
        return status_of(self._host)

    async def watch_status(self, request: cluster_pb2.WatchStatusRequest) -> AsyncIterator[cluster_pb2.WatchStatusResponse]:
        async with aclosing(self._watching.statuses(request)) as frames:
            async for frame in frames:
                yield frame

    async def events(self, request: cluster_pb2.EventsRequest) -> AsyncIterator[cluster_pb2.EventsResponse]:
        async with aclosing(self._watching.events(request)) as pages:
            async for page in pages:
                yield page

    def close(self) -> None:
        """End the streams that have no end of their own."""
        self._watching.close()


def _wrong_kind(name: str, *, is_admin: bool) -> MembershipError:
    if is_admin:
        return MembershipError(
            f"{name} is an admin server, and this cluster holds keys and values", "give the address of an admin with --join"
        )
    return MembershipError(
        f"this is an admin group, and {name} was started as a replica of keys and values",
        "start it with `ravel_node start --admin` and this address, or as an admin with `ravel_node admin`",
    )


# --- our values to messages


def replica_to_proto(record: MemberRecord) -> common_pb2.ReplicaRef:
    return common_pb2.ReplicaRef(replica_id=record.replica_id, server=server_to_proto(record))


def _standing(standing: Standing) -> cluster_pb2.Standing:
    return cluster_pb2.Standing(
        voters=standing.voters,
        learners=standing.learners,
        quorum=standing.quorum,
        live=standing.live,
        caught_up=standing.caught_up,
        tolerates=standing.tolerates,
    )


def verdict_to_proto(verdict: Verdict) -> cluster_pb2.Verdict:
    return cluster_pb2.Verdict(
        allowed=verdict.allowed,
        before=_standing(verdict.before),
        after=_standing(verdict.after),
        reason=verdict.reason,
        next_step=verdict.next_step,
        warnings=verdict.warnings,
        seen=cluster_pb2.Expectation(term=verdict.seen.term, config_index=verdict.seen.config_index),
    )


# --- messages to our values


def record_from_proto(message: common_pb2.ReplicaRef) -> MemberRecord:
    """Raises InputError for a record that no server has."""
    return _record(message.server, ReplicaId(message.replica_id), auto_promote=False)


def member_from_proto(message: cluster_pb2.Member) -> Member:
    """Raises InputError for a record that no server has, or a role of a later version."""
    try:
        role = MemberRole(message.role)
    except ValueError:
        raise InputError(
            f"member {message.replica_id} has the unknown role {message.role}", field="role", value=message.role
        ) from None
    return Member(_record(message.server, ReplicaId(message.replica_id), auto_promote=message.auto_promote), role)


def verdict_from_proto(message: cluster_pb2.Verdict) -> Verdict:
    """A refusal without a reason is given one: `Verdict.allowed` rests on it."""
    return Verdict(
        before=_standing_from_proto(message.before),
        after=_standing_from_proto(message.after),
        seen=_expectation(message.seen),
        reason=message.reason or ("" if message.allowed else "the leader refuses it and does not say why"),
        next_step=message.next_step,
        warnings=tuple(message.warnings),
    )


def _standing_from_proto(message: cluster_pb2.Standing) -> Standing:
    return Standing(
        voters=tuple(map(ReplicaId, message.voters)),
        learners=tuple(map(ReplicaId, message.learners)),
        quorum=message.quorum,
        live=message.live,
        caught_up=message.caught_up,
        tolerates=message.tolerates,
    )


def _expectation(message: cluster_pb2.Expectation) -> Expectation:
    return Expectation(term=message.term, config_index=message.config_index)


def _ids(ids: Iterable[int]) -> Sequence[ReplicaId]:
    """Distinct replica ids. Raises InputError for none, too many, one twice or 0."""
    found = [ReplicaId(replica_id) for replica_id in ids]
    if not 0 < len(found) <= REPLICAS_MAX:
        raise InputError(
            f"a change names {len(found)} replicas, it must name 1 to {REPLICAS_MAX}",
            field="replica_ids",
            value=len(found),
            limit=REPLICAS_MAX,
        )
    if 0 in found or len(set(found)) < len(found):
        raise InputError(
            f"replica ids {found} must be distinct and start at 1", field="replica_ids", value=",".join(map(str, found))
        )
    return found


def _record(server: common_pb2.ServerRef, replica_id: ReplicaId, *, auto_promote: bool) -> MemberRecord:
    """A member's record from what the wire says. Bounds of the texts are checked where a record is encoded."""
    if not _HEX_ID.fullmatch(server.server_id):
        raise InputError(
            f"server id {server.server_id[:64]!r} is not 32 lower-case hex digits",
            field="server.server_id",
            value=server.server_id,
        )
    addresses = server.addresses
    if not addresses.listen or not addresses.peer:
        raise InputError("a server's record needs the addresses for clients and for peers", field="server.addresses")
    return MemberRecord(
        replica_id=replica_id,
        server_id=server.server_id,
        name=server.name,
        version=server.version,
        format=server.format,
        listen=addresses.listen,
        peer=addresses.peer,
        listen_bind=addresses.listen_bind,
        peer_bind=addresses.peer_bind,
        auto_promote=auto_promote,
    )


def _setting(name: str) -> ClusterSetting:
    """Return the setting of that name. Raises InputError."""
    if (found := SETTINGS.get(name)) is None:
        raise InputError(f"no setting is named {name[:64]!r}: there are {', '.join(SETTINGS)}", field="name", value=name[:64])
    return found
