"""Who is in the cluster: the steps of a change.

The verdict on a change (`verdict.py`) is the leader's, because only it knows which voters it hears and how far each log has come.
What the verdict speaks against is refused; so is what was decided on a view that is no longer true.

One change at a time. A joiner is a learner until it has caught up (thesis 4.2.1: a round of catching up took less than an
election timeout); `auto_promote` stands in its replicated record, so that a new leader goes on where the old one stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final, Protocol

from ravel_node.machine import envelope, members
from ravel_node.machine.base import MemberRecord, Outcome
from ravel_node.machine.base import Status as OutcomeStatus
from ravel_node.machine.kv import KVMachine
from ravel_node.raft import (
    NO_REPLICA,
    ChangeType,
    ConfChangeV2,
    ConfState,
    EntryId,
    Index,
    ProposalDroppedError,
    RawNode,
    ReplicaId,
    SingleChange,
    Term,
)
from ravel_node.replica.admission import Admission
from ravel_node.replica.errors import (
    ChangeInProgressError,
    MembershipError,
    NameTakenError,
    NotCaughtUpError,
    NotLeaderError,
    ReplicaError,
    StaleViewError,
    TransferFailedError,
    UnknownMemberError,
    UnreachableMemberError,
    UnsafeChangeError,
)
from ravel_node.replica.formats import require_not_behind
from ravel_node.replica.options import ReplicaOptions
from ravel_node.replica.status import Expectation, Member, Verdict
from ravel_node.replica.verdict import Health, Plan, judge
from ravel_node.replica.waiters import ChangeApplied, Waiters
from ravel_node.transport.base import ProbeAnswer, ProbeFailedError, Transport

NOT_PROPOSED: Final = ChangeApplied(EntryId(Term(0), Index(0)), effective=False)

STEP_DOWN_TIMEOUTS: Final = 4
"""How many election timeouts whoever asked a leader to step down waits for the next one: votes may split once or twice."""

JOINT_TIMEOUTS: Final = 20
"""How many election timeouts a change waits for the end of the joint configuration that it has made."""

PROBE_TIMEOUT_S: Final = 2.0
"""How long a leader waits for a joining server to answer at its peer address."""


class CatchUp:
    """Rounds of catching up, one replica each. A round ends when the follower holds what the leader's log held at its start."""

    def __init__(self) -> None:
        self._rounds: dict[ReplicaId, tuple[Index, float]] = {}  # the round's target and when it began
        self._last_round_s: dict[ReplicaId, float] = {}

    def observe(self, matches: Mapping[ReplicaId, Index], last: Index, now: float) -> None:
        """Called every heartbeat with what each follower is known to hold."""
        for peer, match in matches.items():
            target, began = self._rounds.get(peer, (last, now))
            if match >= target:
                self._last_round_s[peer] = now - began
                self._rounds[peer] = (last, now)
            else:
                self._rounds[peer] = (target, began)
        for gone in self._rounds.keys() - matches.keys():
            del self._rounds[gone]
            self._last_round_s.pop(gone, None)

    def caught_up(self, peer: ReplicaId, now: float, within_s: float) -> bool:
        """Whether its last round took less than `within_s`, and the present one does too so far."""
        last = self._last_round_s.get(peer)
        return last is not None and last < within_s and now - self._rounds[peer][1] < within_s

    def forget(self) -> None:
        self._rounds.clear()
        self._last_round_s.clear()


class Seat(Protocol):
    """What a change needs of the replica that carries it out."""

    options: ReplicaOptions
    machine: KVMachine
    peer_address: str  # where it says that other replicas reach it
    admission: Admission

    @property
    def id(self) -> ReplicaId: ...

    @property
    def term(self) -> Term: ...

    @property
    def leader_id(self) -> ReplicaId: ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def in_transfer(self) -> bool: ...

    @property
    def conf_state(self) -> ConfState: ...

    @property
    def waiters(self) -> Waiters: ...

    def members(self) -> Sequence[Member]: ...

    def health(self) -> Health: ...

    def check_leader(self) -> None: ...

    def not_leader(self) -> NotLeaderError: ...

    def call(self, function: Callable[[RawNode], None]) -> None: ...

    def begin_transfer(self, target: ReplicaId) -> None: ...

    def best_heir(self, exclude: Sequence[ReplicaId]) -> ReplicaId | None: ...

    async def propose(self, group: bytes, count: int, *, grows: bool) -> Sequence[Outcome]: ...

    async def changed(self, timeout_s: float | None = None) -> None: ...


class Changes:
    """Carries out changes of membership and leadership on the leader, one at a time."""

    def __init__(self, replica: Seat, transport: Transport) -> None:
        self._replica = replica
        self._transport = transport
        self._busy_with = ""
        self._pending: asyncio.Future[ChangeApplied] | None = None  # of the change that was handed to the driver last

    def end(self, why: ReplicaError) -> None:
        """Nobody carries a change out any more; one that is in the log was answered already."""
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(why)

    # --- what operators and joining daemons ask for

    async def add_member(
        self, record: MemberRecord, *, dry_run: bool, expect: Expectation
    ) -> tuple[MemberRecord | None, Verdict]:
        """Take a server in as a learner. The same server asked again gets the same answer."""
        if (seat := self._seat_of(record, expect)) is not None:
            return seat, self._judge(Plan())
        require_not_behind(record, [member.record for member in self._members()])
        await self._check_reachable(
            record, "check --peer-listen and --peer-advertise of the joining daemon, and what lies between"
        )
        if (seat := self._seat_of(record, expect)) is not None:  # it, or another of that name, may have come meanwhile
            return seat, self._judge(Plan())
        verdict = self._judge(Plan(add_learners=(ReplicaId(0),)))
        if dry_run:
            return None, verdict
        if not verdict.allowed:
            raise UnsafeChangeError(f"joining refused: {verdict.reason}", verdict.next_step)
        with self._alone(f"adding {record.name}"):
            outcome = await self._run(envelope.allocate_replica(record.server_id))
            if outcome.status is not OutcomeStatus.OK:
                raise MembershipError(
                    outcome.value.decode(), "empty its data directory and start it again, so that it draws a new identity"
                )
            added = replace(record, replica_id=ReplicaId(outcome.revision), removed=False)
            await self._change([SingleChange(ChangeType.ADD_LEARNER, added.replica_id)], [added], expect)
        return added, verdict

    async def promote(self, ids: Sequence[ReplicaId], *, dry_run: bool, expect: Expectation) -> Verdict:
        """Learners become voters, all in one (joint, where they are several) change."""
        return await self.change(Plan(promote=tuple(ids)), dry_run=dry_run, expect=expect)

    async def remove(self, ids: Sequence[ReplicaId], *, dry_run: bool, expect: Expectation) -> Verdict:
        """Take replicas out for good."""
        return await self.change(Plan(remove=tuple(ids)), dry_run=dry_run, expect=expect)

    async def change(self, plan: Plan, *, dry_run: bool, expect: Expectation) -> Verdict:
        """Promote, demote and remove, all in one change. What is so already is no error: a lost answer can be asked for again.

        A leader that is to lose its vote hands leadership over first, and names the new leader by NotLeaderError.
        """
        self._check_view(expect)
        plan = self._to_do(plan)
        verdict = self._judge(plan)
        if dry_run or plan.empty:
            return verdict
        what = _noun(plan)
        if not verdict.allowed:
            in_time = verdict.after.live >= verdict.after.quorum and verdict.before.live >= verdict.before.quorum
            error = NotCaughtUpError if in_time and plan.promote and verdict.after.voters else UnsafeChangeError
            raise error(f"{what} refused: {verdict.reason}", verdict.next_step)
        losing = (*plan.demote, *plan.remove)
        if self._replica.id in losing:
            await self._hand_over(exclude=losing)
            raise self._replica.not_leader()
        with self._alone(f"making a {what} of {_ids((*plan.promote, *losing))}"):
            moved = (*plan.promote, *plan.demote)
            # Whoever was moved by hand stays there: no leader promotes it by itself.
            records = [replace(self._replica.machine.members[replica_id], auto_promote=False) for replica_id in moved]
            await self._change(_single_changes(plan), records, expect)
        return verdict

    def _to_do(self, plan: Plan) -> Plan:
        """The plan without what is so already. Raises UnknownMemberError for whom the cluster does not have."""
        state, machine = self._replica.conf_state, self._replica.machine
        remove = tuple(replica_id for replica_id in plan.remove if not machine.is_removed(replica_id))
        for replica_id in (*plan.promote, *plan.demote, *remove):
            self._check_member(replica_id)
        promote = tuple(replica_id for replica_id in plan.promote if replica_id not in state.voters)
        demote = tuple(replica_id for replica_id in plan.demote if replica_id in state.voters)
        return Plan(promote=promote, demote=demote, remove=remove)

    async def update_member(self, record: MemberRecord, *, dry_run: bool = False, expect: Expectation) -> Member:
        """Replace a member's record: new addresses, name or version. A dry run is refused for the same reasons."""
        self._check_view(expect)
        member = self._check_member(record.replica_id)
        if record.peer != member.record.peer:
            await self._check_new_peer(record, member.record.peer)
            self._check_view(expect)
            member = self._check_member(record.replica_id)  # it may have changed, or gone, meanwhile
        kept = replace(record, auto_promote=member.record.auto_promote, removed=False)
        if kept == member.record:
            return member
        if dry_run:
            if refusal := self._replica.machine.member_refusal(kept):
                raise MembershipError(f"the update would be refused: {refusal}")
            return replace(member, record=kept)
        with self._alone(f"updating {_ids([record.replica_id])}"):  # a promotion would put back the record that it began with
            outcome = await self._run(envelope.set_member(kept))
        if outcome.status is not OutcomeStatus.OK:
            raise MembershipError(f"the update was refused: {outcome.value.decode()}")
        return self._check_member(record.replica_id)

    async def transfer_leader(self, target: ReplicaId, *, dry_run: bool, expect: Expectation) -> Verdict:
        """Hand leadership to `target`, or to the voter that has the most of the log. Returns once it leads."""
        self._check_view(expect)
        if target:
            self._check_member(target)
        verdict = self._judge(Plan())
        if target == self._replica.id:
            return verdict
        reason, next_step = self._heir_objection(target)
        verdict = replace(verdict, reason=reason, next_step=next_step)
        if not dry_run:
            if reason:
                raise UnsafeChangeError(f"transfer refused: {reason}", next_step)
            await self._hand_over(target)
        return verdict

    def _heir_objection(self, target: ReplicaId) -> tuple[str, str]:
        """Why `target`, or anybody where it is 0, cannot take over, and what to do; empty: it can."""
        if target and target not in self._replica.conf_state.voters:
            return f"replica {target} is a learner and cannot lead", f"promote it first: `ravelctl member promote {target}`"
        if target and target not in self._replica.health().live:
            return f"replica {target} does not answer the leader", "`ravelctl status` shows who does"
        if not target and self._replica.best_heir(()) is None:
            return "no other voter answers the leader, so nobody can take over", "`ravelctl status` shows who does"
        return "", ""

    async def step_down(self, *, dry_run: bool, expect: Expectation) -> Verdict:
        """Stop leading and let the voters elect, for when a transfer does not succeed. Returns once somebody leads again."""
        self._check_view(expect)
        replica = self._replica
        reason, next_step = self._heir_objection(NO_REPLICA)
        verdict = replace(self._judge(Plan()), reason=reason, next_step=next_step)
        if dry_run:
            return verdict
        if reason:
            raise UnsafeChangeError(f"stepping down refused: {reason}", next_step)
        term = replica.term
        with self._alone("stepping down"):
            deadline = asyncio.get_running_loop().time() + STEP_DOWN_TIMEOUTS * replica.options.election_timeout_s
            replica.call(lambda raw: raw.step_down("an operator asked for it"))
            while replica.term == term or not replica.leader_id:
                if (left := deadline - asyncio.get_running_loop().time()) <= 0:
                    raise TransferFailedError(
                        f"replica {replica.id} does not lead any more, and nobody has been elected yet",
                        "look with `ravelctl status`",
                    )
                await replica.changed(timeout_s=min(left, 0.1))
        return verdict

    # --- what the leader does by itself

    async def promote_caught_up(self) -> None:
        """Promote learners that asked for it and have caught up. Refusals are tried again later."""
        wanted = [
            member.record.replica_id
            for member in self._members()
            if member.record.auto_promote and member.record.replica_id in self._replica.conf_state.learners
        ]
        health = self._replica.health()
        ready = [replica_id for replica_id in wanted if replica_id in health.caught_up and replica_id in health.live]
        if ready and not self._busy_with:
            with suppress(ReplicaError):
                await self.promote(ready, dry_run=False, expect=Expectation())

    # --- steps

    async def _run(self, command: bytes) -> Outcome:
        (outcome,) = await self._replica.propose(envelope.group([command]), 1, grows=False)
        return outcome

    async def _change(self, changes: Sequence[SingleChange], records: Sequence[MemberRecord], expect: Expectation) -> None:
        """Propose one membership change and wait until it is applied, and a joint configuration has been left."""
        change = ConfChangeV2(tuple(changes), context=members.encode_context(records))
        loop, options = asyncio.get_running_loop(), self._replica.options
        deadline = loop.time() + options.election_timeout_s
        while not await self._take_effect(change, expect):
            # A new leader counts all that it inherited as a change that may be pending, until it has applied that.
            if loop.time() >= deadline:
                raise ChangeInProgressError(
                    "another membership change is not applied yet; nothing was changed", "try again in a moment"
                )
            await asyncio.sleep(options.tick_s)
        deadline = loop.time() + JOINT_TIMEOUTS * options.election_timeout_s
        while self._replica.conf_state.voters_outgoing:
            if not self._replica.is_leader:
                return  # the change is made, and the next leader ends the joint configuration
            if (left := deadline - loop.time()) <= 0:
                raise ChangeInProgressError(
                    "the change is made, but the old voters still count: the end of the joint configuration is not committed "
                    f"after {JOINT_TIMEOUTS * options.election_timeout_s:.0f} s",
                    "`ravelctl status` shows which voters do not answer; the leader goes on by itself once they do",
                )
            await self._replica.changed(timeout_s=left)

    async def _take_effect(self, change: ConfChangeV2, expect: Expectation) -> bool:
        """Propose a change once and wait until it is applied; False if the core does not take one now."""
        future: asyncio.Future[ChangeApplied] = asyncio.get_running_loop().create_future()
        self._pending = future

        def propose(raw: RawNode) -> None:
            try:
                self._check_view(expect)
            except ReplicaError as error:
                future.set_exception(error)
                return
            at: EntryId | None = None
            if not raw.conf_change_refusal(change):
                with suppress(ProposalDroppedError):
                    at = raw.propose_conf_change(change)
            if at is None:
                future.set_result(NOT_PROPOSED)
            else:
                self._replica.waiters.add_change(at, future)

        self._replica.call(lambda raw: None if future.done() else propose(raw))
        return (await future).effective

    async def _hand_over(self, target: ReplicaId = NO_REPLICA, exclude: Sequence[ReplicaId] = ()) -> None:
        replica = self._replica
        heir = target or replica.best_heir(exclude)
        if heir is None:
            raise UnsafeChangeError(
                "no other voter answers the leader, so nobody can take over", "`ravelctl status` shows who does"
            )
        with self._alone(f"handing leadership to replica {heir}"):
            deadline = asyncio.get_running_loop().time() + 2 * replica.options.election_timeout_s
            replica.begin_transfer(heir)
            while replica.leader_id in (replica.id, 0) or replica.is_leader:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 or (replica.is_leader and not replica.in_transfer and left < replica.options.election_timeout_s):
                    raise TransferFailedError(
                        f"replica {heir} did not take over within {2 * replica.options.election_timeout_s:.1f} s; "
                        f"replica {replica.leader_id or 'nobody'} leads",
                        "see whether it is reachable and caught up: `ravelctl status`",
                    )
                await replica.changed(timeout_s=min(left, 0.1))
            if target and replica.leader_id != target:
                raise TransferFailedError(
                    f"replica {replica.leader_id} leads now, not replica {target}", "see whether that will do, or transfer again"
                )

    async def _check_new_peer(self, record: MemberRecord, old_address: str) -> None:
        """Refuse a peer address at which this very member does not answer, or answers from a copy of its data directory.

        A voter behind a wrong address is dialled by nobody and never receives a correction: a quorum may be lost for good.
        """
        if record.replica_id != self._replica.id:
            answer = await self._check_reachable(
                record, f"start {record.name} with its new addresses, or correct those that it has: it reports them to the leader"
            )
            await self._replica.admission.check_move(record.replica_id, answer, old_address, record.peer)
        elif record.peer != self._replica.peer_address:
            raise UnreachableMemberError(
                f"{record.name} leads and was started with the peer address {self._replica.peer_address}, not {record.peer}",
                "start it with its new addresses: it tells the next leader by itself",
            )

    async def _check_reachable(self, record: MemberRecord, next_step: str) -> ProbeAnswer:
        """Return what this very server answers the leader at its peer address. Raises UnreachableMemberError."""
        try:
            answer = await self._transport.probe(record.peer, PROBE_TIMEOUT_S)
        except ProbeFailedError as error:
            raise UnreachableMemberError(
                f"the leader cannot reach {record.name} at its peer address {record.peer}: {error}", next_step
            ) from None
        if answer.server_id != record.server_id:
            raise UnreachableMemberError(
                f"at peer address {record.peer} answers server {answer.server_id}, not {record.name} (server {record.server_id})",
                next_step,
            )
        return answer

    # --- checks

    def _judge(self, plan: Plan) -> Verdict:
        return judge(self._replica.health(), plan, self._view())

    def _view(self) -> Expectation:
        return Expectation(self._replica.term, self._replica.machine.config_index)

    def _check_view(self, expect: Expectation) -> None:
        self._replica.check_leader()
        now = self._view()
        if expect.term and expect.term != now.term:
            raise StaleViewError(
                f"the change was decided in term {expect.term}, and now it is term {now.term}", "look again: `ravelctl status`"
            )
        if expect.config_index and expect.config_index != now.config_index:
            raise StaleViewError(
                f"the membership changed at index {now.config_index}, after the one at {expect.config_index} that was looked at",
                "look again: `ravelctl member list`",
            )

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """While it is entered, no other change begins."""
        if self._busy_with:
            raise ChangeInProgressError(f"the leader is {self._busy_with}; one change at a time", "try again when it is done")
        self._busy_with = what
        try:
            yield
        finally:
            self._busy_with = ""

    def _members(self) -> Sequence[Member]:
        return self._replica.members()

    def _seat_of(self, record: MemberRecord, expect: Expectation) -> MemberRecord | None:
        """The seat that this server has already. Raises what speaks against giving it one."""
        self._check_view(expect)
        present = [member.record for member in self._members()]
        for known in present:
            if known.server_id == record.server_id:
                return known
        for other in present:
            if other.name == record.name:
                raise NameTakenError(
                    f"the name {record.name} belongs to replica {other.replica_id} at {other.listen}",
                    "start the joining daemon with another --name",
                )
        return None

    def _check_member(self, replica_id: ReplicaId) -> Member:
        for member in self._members():
            if member.record.replica_id == replica_id:
                return member
        raise UnknownMemberError(f"no member has the id {replica_id}", "`ravelctl member list` shows them")


def _single_changes(plan: Plan) -> list[SingleChange]:
    return [
        *(SingleChange(ChangeType.ADD_VOTER, replica_id) for replica_id in plan.promote),
        *(SingleChange(ChangeType.ADD_LEARNER, replica_id) for replica_id in plan.demote),
        *(SingleChange(ChangeType.REMOVE, replica_id) for replica_id in plan.remove),
    ]


def _noun(plan: Plan) -> str:
    kinds = [word for word, ids in (("promotion", plan.promote), ("demotion", plan.demote), ("removal", plan.remove)) if ids]
    return kinds[0] if len(kinds) == 1 else "replacement"


def _ids(ids: Sequence[ReplicaId]) -> str:
    return "replicas " + ", ".join(map(str, ids)) if len(ids) > 1 else f"replica {ids[0]}"
