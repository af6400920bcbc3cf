"""ClusterClient: the calls of operators, and of daemons that join. Answers are the protobuf messages of cluster.proto."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from grpc import aio

from ravelctl.client.connection.connections import no_endpoints
from ravelctl.client.errors import RavelError
from ravelctl.client.services.service_client import ServiceClient
from ravelctl.client.services.unary import ask_leader, ask_one, stream_from
from ravelpb.v1.cluster_pb2 import (
    AddMemberRequest,
    AddMemberResponse,
    BootstrapRequest,
    BootstrapResponse,
    ChangeRequest,
    ChangeResponse,
    Event,
    EventKind,
    EventPosition,
    EventsRequest,
    Expectation,
    JoinRequest,
    JoinResponse,
    LeaveRequest,
    PromoteRequest,
    ResetRequest,
    ResetResponse,
    SetSettingRequest,
    SettingsRequest,
    SettingsResponse,
    StatusRequest,
    StatusResponse,
    TransferLeaderRequest,
    TransferLeaderResponse,
    UpdateRequest,
    UpdateResponse,
    WatchStatusRequest,
    WatchStatusResponse,
)
from ravelpb.v1.cluster_pb2_grpc import ClusterStub
from ravelpb.v1.common_pb2 import ServerRef

if TYPE_CHECKING:
    from ravelpb.v1.cluster_pb2_grpc import ClusterAsyncStub

T = TypeVar("T")


class ClusterClient(ServiceClient):
    """The calls of the Cluster service: some ask one named daemon, and the changes follow the leader from any endpoint.

    Every call takes `timeout_s`, or the client's own if it is None. All errors are RavelError. A refused change raises
    RefusedError and nothing changed; with `dry_run` the verdict is in the answer instead and nothing is changed either way. A
    change whose answer was lost raises OutcomeUnknownError. `expect` is the view on which the operator decided (`Verdict.seen`,
    for example): the change is refused if the cluster has changed since.
    """

    async def status(self, endpoint: str, *, timeout_s: float | None = None) -> StatusResponse:
        """Return the status of this daemon and, if it leads, of its peers. Raises UnreachableError; DeadlineError if it hangs."""
        return await self._ask_one(endpoint, lambda stub: stub.Status(StatusRequest()), timeout_s)

    async def statuses(self, *, timeout_s: float | None = None) -> dict[str, StatusResponse | RavelError]:
        """Return the status of every endpoint and of every further member that an answer names, by address.

        All are asked at the same time. A member that was reached at one address is not asked again at another. `timeout_s` is for
        each.
        """
        found: dict[str, StatusResponse | RavelError] = {}
        asked = list(self._connections.endpoints)
        if not asked:
            raise no_endpoints()
        while asked:
            found |= zip(asked, await asyncio.gather(*(self._status_or_error(one, timeout_s) for one in asked)), strict=True)
            answers = [answer for answer in found.values() if isinstance(answer, StatusResponse)]
            reached = {answer.server.server_id for answer in answers}
            told = {
                member.server.addresses.listen: None
                for answer in answers
                for member in answer.members
                if member.server.addresses.listen and member.server.server_id not in reached
            }
            asked = [endpoint for endpoint in told if endpoint not in found]
        return found

    async def watch_status(
        self, endpoint: str, interval_s: float = 1.0, after: EventPosition | None = None, *, timeout_s: float | None = None
    ) -> AsyncGenerator[WatchStatusResponse, None]:
        """Yield the status of this daemon at once and then every `interval_s` (0.1 to 60), and its events as they happen.

        `after` is the last event that was seen before, for example on a stream that broke; None: only events from now on. The
        stream has no end; it raises UnreachableError if the daemon goes away, DeadlineError if a frame is `timeout_s` late.
        """
        request = WatchStatusRequest(interval_ms=round(interval_s * 1000), after=after)
        limit_s = interval_s + self._limit_s(timeout_s)
        frames = stream_from(
            self._connections, self._retry, endpoint, lambda channel: ClusterStub(channel).WatchStatus(request), timeout_s=limit_s
        )
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    async def events(
        self,
        endpoint: str,
        *,
        after: EventPosition | None = None,
        since_ms: int = 0,
        limit: int = 0,
        kinds: Iterable[EventKind.ValueType] = (),
        follow: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield the kept events of this daemon, oldest first, and with `follow` those that happen from then on.

        `since_ms` is wall clock time; `limit`: the number of newest kept events (0: all). Raises what `watch_status` raises.
        """
        request = EventsRequest(after=after, since_ms=since_ms, limit=limit, follow=follow, kinds=kinds)
        pages = stream_from(
            self._connections,
            self._retry,
            endpoint,
            lambda channel: ClusterStub(channel).Events(request),
            timeout_s=self._limit_s(timeout_s),
            endless=follow,
        )
        async with aclosing(pages):
            async for page in pages:
                for event in page.events:
                    yield event

    async def bootstrap(
        self, endpoint: str, cluster_id: str, cluster_name: str, *, timeout_s: float | None = None
    ) -> BootstrapResponse:
        """Make this uninitialized daemon the first voter of a new cluster; repeated with the same `cluster_id`, the answer is the
        same.

        `cluster_id` is 32 lower-case hex digits that the caller draws. Raises AlreadyMemberError.
        """
        request = BootstrapRequest(cluster_id=cluster_id, cluster_name=cluster_name)
        return await self._ask_one(endpoint, lambda stub: stub.Bootstrap(request), timeout_s, changes=True)

    async def join(
        self, endpoint: str, via: Sequence[str], *, promote: bool = True, dry_run: bool = False, timeout_s: float = 60.0
    ) -> JoinResponse:
        """Have this uninitialized daemon join the cluster at the addresses `via`; repeated, the answer is the same.

        It joins as a learner; with `promote` the leader makes it a voter once it has caught up. The call does not wait for that.
        """
        request = JoinRequest(via=via, no_promote=not promote, dry_run=dry_run)
        return await self._ask_one(endpoint, lambda stub: stub.Join(request), timeout_s, changes=not dry_run)

    async def reset(
        self, endpoint: str, server_id: str, *, dry_run: bool = False, timeout_s: float | None = None
    ) -> ResetResponse:
        """Have a daemon without a place in its cluster set its data aside and start again as a blank one.

        Raises RefusedError for a daemon whose replica takes part.
        """
        request = ResetRequest(server_id=server_id, dry_run=dry_run)
        return await self._ask_one(endpoint, lambda stub: stub.Reset(request), timeout_s, changes=not dry_run)

    async def settings(self, *, timeout_s: float | None = None) -> SettingsResponse:
        """Return the settings of the whole cluster."""
        return await self._ask_leader(lambda stub: stub.Settings(SettingsRequest()), timeout_s, repeatable=True)

    async def set_setting(self, name: str, value: str, *, timeout_s: float | None = None) -> SettingsResponse:
        """Set one setting of the whole cluster; an empty value is its default."""
        request = SetSettingRequest(name=name, value=value)
        return await self._ask_leader(lambda stub: stub.SetSetting(request), timeout_s, repeatable=True)

    async def add_member(
        self,
        server: ServerRef,
        *,
        machine: str = "",
        auto_promote: bool = True,
        dry_run: bool = False,
        expect: Expectation | None = None,
        timeout_s: float | None = None,
    ) -> AddMemberResponse:
        """Add this server to the cluster as a learner: the call of a joining daemon. `machine` is "directory" for an admin
        server.

        For one server id the answer is always the same, so the call is repeated until it is answered.
        """
        request = AddMemberRequest(server=server, machine=machine, auto_promote=auto_promote, dry_run=dry_run, expect=expect)
        return await self._ask_leader(lambda stub: stub.AddMember(request), timeout_s, repeatable=True)

    async def promote(
        self,
        replica_ids: Sequence[int],
        *,
        dry_run: bool = False,
        expect: Expectation | None = None,
        timeout_s: float | None = None,
    ) -> ChangeResponse:
        """Make these learners voters, all in one change."""
        request = PromoteRequest(replica_ids=replica_ids, dry_run=dry_run, expect=expect)
        return await self._ask_leader(lambda stub: stub.Promote(request), timeout_s, repeatable=dry_run)

    async def leave(
        self,
        replica_ids: Sequence[int],
        *,
        dry_run: bool = False,
        expect: Expectation | None = None,
        timeout_s: float | None = None,
    ) -> ChangeResponse:
        """Remove these replicas for good, all in one change."""
        request = LeaveRequest(replica_ids=replica_ids, dry_run=dry_run, expect=expect)
        return await self._ask_leader(lambda stub: stub.Leave(request), timeout_s, repeatable=dry_run)

    async def change(
        self,
        *,
        promote: Sequence[int] = (),
        demote: Sequence[int] = (),
        remove: Sequence[int] = (),
        dry_run: bool = False,
        expect: Expectation | None = None,
        timeout_s: float | None = None,
    ) -> ChangeResponse:
        """Make learners voters and voters learners, and remove replicas for good, all in one change."""
        request = ChangeRequest(promote=promote, demote=demote, remove=remove, dry_run=dry_run, expect=expect)
        return await self._ask_leader(lambda stub: stub.Change(request), timeout_s, repeatable=dry_run)

    async def update_member(
        self,
        replica_id: int,
        server: ServerRef,
        *,
        dry_run: bool = False,
        expect: Expectation | None = None,
        timeout_s: float | None = None,
    ) -> UpdateResponse:
        """Replace a member's record: addresses, name, version; `server.server_id` must be its own."""
        request = UpdateRequest(replica_id=replica_id, server=server, dry_run=dry_run, expect=expect)
        return await self._ask_leader(lambda stub: stub.Update(request), timeout_s, repeatable=dry_run)

    async def transfer_leader(
        self,
        replica_id: int = 0,
        *,
        dry_run: bool = False,
        expect: Expectation | None = None,
        timeout_s: float | None = None,
    ) -> TransferLeaderResponse:
        """Hand leadership to this voter; 0: to the most caught-up one."""
        request = TransferLeaderRequest(replica_id=replica_id, dry_run=dry_run, expect=expect)
        return await self._ask_leader(lambda stub: stub.TransferLeader(request), timeout_s, repeatable=dry_run)

    async def step_down(
        self, *, dry_run: bool = False, expect: Expectation | None = None, timeout_s: float | None = None
    ) -> TransferLeaderResponse:
        """Have the leader step down and the voters elect a leader, perhaps the same one: for use when a transfer fails."""
        request = TransferLeaderRequest(step_down=True, dry_run=dry_run, expect=expect)
        return await self._ask_leader(lambda stub: stub.TransferLeader(request), timeout_s, repeatable=dry_run)

    async def _status_or_error(self, endpoint: str, timeout_s: float | None) -> StatusResponse | RavelError:
        try:
            return await self.status(endpoint, timeout_s=timeout_s)
        except RavelError as error:
            return error

    async def _ask_one(
        self, endpoint: str, call: Callable[[ClusterAsyncStub], Awaitable[T]], timeout_s: float | None, *, changes: bool = False
    ) -> T:
        return await ask_one(
            self._connections, self._retry, endpoint, _with_stub(call), timeout_s=self._limit_s(timeout_s), changes=changes
        )

    async def _ask_leader(
        self, call: Callable[[ClusterAsyncStub], Awaitable[T]], timeout_s: float | None, *, repeatable: bool
    ) -> T:
        return await ask_leader(
            self._connections, self._retry, _with_stub(call), timeout_s=self._limit_s(timeout_s), repeatable=repeatable
        )


def _with_stub(call: Callable[[ClusterAsyncStub], Awaitable[T]]) -> Callable[[aio.Channel], Awaitable[T]]:
    return lambda channel: call(ClusterStub(channel))
