"""What an operator can have done from a screen: the same changes as the commands', fenced by what the screen showed.

A plan is made from one picture: whom it is about, the term and the membership's index are those that stood on the screen. They go
with the change, so that a cluster that has moved on since refuses it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ravelctl.cli.output import size_text
from ravelctl.client.errors import RavelError
from ravelctl.cluster.changes import CHANGE_TIMEOUT_S, Change, listed, promotion, removal
from ravelctl.cluster.preflight import verdict_text
from ravelctl.dashboard.figures import UNKNOWN, count
from ravelctl.dashboard.model import ClusterView, ReplicaView, Role
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient
    from ravelctl.dashboard.session import Target

Judge = Callable[["ClusterClient"], Awaitable[pb.Verdict]]
Make = Callable[["ClusterClient", pb.Expectation], Awaitable[str]]
"""Makes the change, if nothing has moved since what was seen; returns what became of it."""


class NotDoneError(Exception):
    """It cannot be done, or was not; a sentence that says why, and what to do next."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a dialog shows and does. `judge` gives the leader's verdict as text; both raise NotDoneError."""

    title: str
    facts: tuple[str, ...]
    question: str
    judge: Callable[[], Awaitable[str]]
    carry_out: Callable[[], Awaitable[str]]
    typed: str = ""  # what must be typed before it is done; empty: a yes will do


@dataclass(frozen=True, slots=True)
class Ground:
    """The picture that a plan stands on."""

    view: ClusterView
    leader: pb.StatusResponse
    member: pb.Member
    row: ReplicaView
    addresses: tuple[str, ...]

    @property
    def seen(self) -> pb.Expectation:
        return pb.Expectation(term=self.leader.header.term, config_index=self.leader.config_index)

    @property
    def facts(self) -> tuple[str, ...]:
        lag = UNKNOWN if self.row.lag is None else f"{count(self.row.lag)} entries"
        behind = "it leads" if self.row.role is Role.LEADER else f"lag {lag}"
        return (
            f"{self.row.name}, id {self.row.replica_id}, {self.row.address}: {behind}",
            f"seen in term {self.leader.header.term}, membership of index {self.leader.config_index}",
        )


def ground(view: ClusterView, row: ReplicaView, addresses: Sequence[str]) -> Ground:
    """Raises NotDoneError where there is no leader to ask, or the row is no member."""
    leader = view.leader.status if view.leader is not None and view.leader.fresh else None
    if leader is None:
        raise NotDoneError("the cluster has no leader that answers here: nothing can be changed before there is one")
    member = next((m for m in leader.members if m.replica_id == row.replica_id and row.replica_id), None)
    if member is None:
        raise NotDoneError(f"{row.name} is no member of the cluster")
    return Ground(view, leader, member, row, tuple(addresses))


def transfer(target: Target, base: Ground) -> Plan:
    """Hand leadership to the chosen replica."""
    if base.row.role is Role.LEADER:
        raise NotDoneError(f"{base.row.name} leads already: choose the replica that shall lead")
    if base.member.role != pb.VOTER:
        raise NotDoneError(f"{base.row.name} is no voter: only a voter can lead; promote it first")
    now, heir = base.leader.server.name, base.member.replica_id

    async def judge(client: ClusterClient) -> pb.Verdict:
        return (await client.transfer_leader(heir, dry_run=True)).verdict

    async def make(client: ClusterClient, seen: pb.Expectation) -> str:
        done = await client.transfer_leader(heir, expect=seen)
        return f"leadership went from {now} to {base.row.name}, in term {done.leader_term}"

    title = f"hand leadership from {now} to {base.row.name}"
    return _plan(target, base, title, f"{_begun(title)}?", judge, make)


def promote(target: Target, base: Ground) -> Plan:
    """Make the chosen learner a voter."""
    if base.member.role != pb.LEARNER:
        raise NotDoneError(f"{base.row.name} is no learner")
    title = f"promote {listed([base.member])}"
    return _change(target, base, title, lambda client: promotion(client, [base.member]), f"Make {base.row.name} a voter?")


def remove(target: Target, base: Ground) -> Plan:
    """Take the chosen replica out. Its id is typed."""

    def change(client: ClusterClient) -> Change:
        return removal(client, base.view.name, [base.member])

    question = "An id is never used twice. Type it to remove this replica."
    title = f"remove {listed([base.member])} from cluster {base.view.name}"
    return _change(target, base, title, change, question, typed=str(base.member.replica_id))


def snapshot(target: Target, base: Ground) -> Plan:
    """Have the chosen replica build a snapshot file. It changes nothing that the cluster must agree on: no verdict is asked."""

    async def judge() -> str:
        return ""

    async def carry_out() -> str:
        try:
            async with target.inspect() as client:
                info = (await client.save_snapshot(base.row.address, expect=base.seen)).snapshot
        except RavelError as error:
            raise NotDoneError(_sentence(error)) from error
        return f"{base.row.name} has a snapshot of index {count(info.index)}, {size_text(info.size_bytes)}"

    return Plan(f"Snapshot of {base.row.name}", base.facts, f"Have {base.row.name} build a snapshot now?", judge, carry_out)


def _change(
    target: Target, base: Ground, title: str, change: Callable[[ClusterClient], Change], question: str, typed: str = ""
) -> Plan:
    """The plan of a change of membership, which the commands make in the same way."""

    async def judge(client: ClusterClient) -> pb.Verdict:
        return (await change(client).ask(dry_run=True)).verdict

    async def make(client: ClusterClient, seen: pb.Expectation) -> str:
        made = change(client)
        await made.ask(expect=seen, timeout_s=CHANGE_TIMEOUT_S)
        return made.done

    return _plan(target, base, title, question, judge, make, typed)


def _plan(target: Target, base: Ground, title: str, question: str, judge: Judge, make: Make, typed: str = "") -> Plan:
    async def judged() -> str:
        try:
            async with target.connect(base.addresses) as client:
                verdict = await judge(client)
        except RavelError as error:
            raise NotDoneError(_sentence(error)) from error
        if not verdict.allowed:
            raise NotDoneError(f"the leader refuses: {verdict.reason}" + (f"; {verdict.next_step}" if verdict.next_step else ""))
        if verdict.seen != base.seen:
            raise NotDoneError(
                f"the cluster has moved on since this was shown (term {verdict.seen.term}, membership of index "
                f"{verdict.seen.config_index} by now): close this, look, and ask again"
            )
        return verdict_text(verdict, base.leader.members)

    async def made() -> str:
        try:
            async with target.connect(base.addresses) as client:
                return await make(client, base.seen)
        except RavelError as error:
            raise NotDoneError(_sentence(error)) from error

    return Plan(_begun(title), base.facts, question, judged, made, typed)


def _begun(title: str) -> str:
    return title[:1].upper() + title[1:]


def _sentence(error: RavelError) -> str:
    return f"{error.message}: {error.next_step}" if error.next_step else error.message
