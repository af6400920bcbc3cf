"""Changes of membership and leadership, from the operator's words to what became of them.

Each is judged first: the leader's verdict is shown, a refused one ends here (exit 5), --dry-run stops here. What was judged goes
back with the change, so that the cluster makes the change that the operator saw, or none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ravelctl.cli import dial
from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import U64, View
from ravelctl.client.errors import RavelError
from ravelctl.cluster.membership import cluster_status, distance, member_data, newcomer_status
from ravelctl.cluster.overview import find_member, name_of
from ravelctl.cluster.preflight import preflight, refusal, show_refused, verdict_view
from ravelpb.errors import Reason
from ravelpb.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from ravelctl.client import ClusterClient

CHANGE_TIMEOUT_S: Final = 30.0
"""For a change that the leader answers only once it is in effect."""

NEW_LEADER_S: Final = 5.0
"""How long a new leader may take to hear from the others before its verdict counts."""

NOBODY: Final = 0  # as a replica id in TransferLeader: the most caught-up voter


class Ask(Protocol):
    """One kind of change, asked of the leader."""

    async def __call__(
        self, *, dry_run: bool = False, expect: pb.Expectation | None = None, timeout_s: float | None = None
    ) -> pb.ChangeResponse: ...


@dataclass(frozen=True, slots=True)
class Change:
    title: str  # what it would do: "remove n1 (1) from cluster orders"
    done: str  # what it did: "removed n1 (1)"
    touched: Sequence[pb.Member]
    losing: frozenset[int]  # who loses its vote: a leader among them hands over first
    ask: Ask
    question: str = ""


async def promote(app: App, words: Sequence[str]) -> View:
    """Make learners voters, in one change."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        rising, _, already = _sorted_out(status, words, pb.LEARNER)
        return await _made(app, client, status, promotion(client, rising), already, "a voter")


def promotion(client: ClusterClient, rising: Sequence[pb.Member]) -> Change:
    """Learners become voters."""
    ids = [member.replica_id for member in rising]

    async def ask(
        *, dry_run: bool = False, expect: pb.Expectation | None = None, timeout_s: float | None = None
    ) -> pb.ChangeResponse:
        return await client.promote(ids, dry_run=dry_run, expect=expect, timeout_s=timeout_s)

    return Change(f"promote {listed(rising)}", f"promoted {listed(rising)}", rising, frozenset(), ask)


async def demote(app: App, words: Sequence[str]) -> View:
    """Make voters learners, in one change."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        falling, ids, already = _sorted_out(status, words, pb.VOTER)

        async def ask(
            *, dry_run: bool = False, expect: pb.Expectation | None = None, timeout_s: float | None = None
        ) -> pb.ChangeResponse:
            return await client.change(demote=ids, dry_run=dry_run, expect=expect, timeout_s=timeout_s)

        change = Change(f"demote {listed(falling)}", f"demoted {listed(falling)}", falling, frozenset(ids), ask)
        return await _made(app, client, status, change, already, "a learner")


async def remove(app: App, words: Sequence[str]) -> View:
    """Take replicas out for good, in one change, after a yes."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        leaving = [find_member(status.members, word) for word in dict.fromkeys(words)]
        return await _made(app, client, status, removal(client, status.cluster_name, leaving), (), "")


def removal(client: ClusterClient, cluster: str, leaving: Sequence[pb.Member]) -> Change:
    """Replicas go for good."""
    ids = [member.replica_id for member in leaving]

    async def ask(
        *, dry_run: bool = False, expect: pb.Expectation | None = None, timeout_s: float | None = None
    ) -> pb.ChangeResponse:
        return await client.leave(ids, dry_run=dry_run, expect=expect, timeout_s=timeout_s)

    title = f"remove {listed(leaving)} from cluster {cluster}"
    question = f"{title}? An id is never used twice."
    return Change(title, f"removed {listed(leaving)}", leaving, frozenset(ids), ask, question)


def listed(members: Sequence[pb.Member]) -> str:
    return ", ".join(f"{member.server.name} ({member.replica_id})" for member in members)


def _sorted_out(
    status: pb.StatusResponse, words: Sequence[str], role: pb.MemberRole.ValueType
) -> tuple[list[pb.Member], list[int], list[pb.Member]]:
    """The members meant that have this role, their ids, and those that do not have it."""
    meant = [find_member(status.members, word) for word in dict.fromkeys(words)]
    fit = [member for member in meant if member.role == role]
    return fit, [member.replica_id for member in fit], [member for member in meant if member.role != role]


async def _made(
    app: App, client: ClusterClient, status: pb.StatusResponse, change: Change, already: Sequence[pb.Member], what: str
) -> View:
    """Judged, confirmed and made; what is so already is told."""
    told = tuple(f"{member.server.name} ({member.replica_id}) is {what} already" for member in already)
    if not change.touched:
        return View(
            kind="Change",
            data={"replicas": [], "members": [member_data(m) for m in status.members], "changed": False},
            body="; ".join((*told, "nothing was changed")),
        )
    for line in told:
        app.say(line)

    async def judge() -> pb.Verdict:
        return (await change.ask(dry_run=True)).verdict

    verdict, dry = await preflight(app, change.title, judge, status.members, question=change.question)
    if dry:
        return dry
    done = await _asked(app, change, verdict, status)
    return View(
        kind="Change",
        data={
            "replicas": [{"name": m.server.name, "id": U64(m.replica_id)} for m in change.touched],
            "members": [member_data(m) for m in done.members],
            "tolerates": done.verdict.after.tolerates,
            "changed": True,
        },
        body=change.done,
        names=tuple(m.server.name for m in change.touched),
    )


async def _asked(app: App, change: Change, verdict: pb.Verdict, status: pb.StatusResponse) -> pb.ChangeResponse:
    """The change, made. A leader that loses its vote hands over first; then the new one is asked, if nothing else has changed."""
    timeout_s = app.settings.wait_timeout_s(CHANGE_TIMEOUT_S)
    try:
        return await change.ask(expect=verdict.seen, timeout_s=timeout_s)
    except RavelError as error:
        handed_over = error.reason is Reason.STALE_VIEW and status.header.replica_id in change.losing
        if not handed_over:
            raise
        now = await _judged_again(change)
        if now.seen.config_index != verdict.seen.config_index:
            raise
    app.say(f"{status.server.name} led, and has handed leadership over")
    if not now.allowed:
        show_refused(app, now, status.members)
        raise refusal(change.title, now)
    return await change.ask(expect=now.seen, timeout_s=timeout_s)


async def _judged_again(change: Change) -> pb.Verdict:
    """The verdict of a leader that has just begun: for a moment it has not heard everybody yet."""
    deadline = time.monotonic() + NEW_LEADER_S
    while True:
        verdict = (await change.ask(dry_run=True)).verdict
        if verdict.allowed or time.monotonic() >= deadline:
            return verdict
        await asyncio.sleep(dial.POLL_EVERY_S)


# --- replacement


async def replace(app: App, word: str, address: str) -> View:
    """Put the daemon at `address` in the place of a voter: it joins as a learner, catches up, and takes over in one change."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        old = find_member(status.members, word)
        newcomer = await newcomer_status(app, client, address)
        _check_pair(status, old, newcomer, address)
        name = newcomer.server.name
        title = f"replace {listed([old])} by {name} at {address}"
        via = [status.server.addresses.listen]
        if newcomer.blank:
            members = [*status.members, pb.Member(server=newcomer.server)]  # it has no id yet
            verdict = (await client.join(address, via, promote=False, dry_run=True)).verdict
            if not verdict.allowed:
                show_refused(app, verdict, members)
                raise refusal(title, verdict)
            if app.settings.dry_run:
                app.say(f"{name} would join as a learner; caught up, it takes the place of {old.server.name} in one change")
                return verdict_view(title, verdict, members)
            app.confirm(f"{title}? The id {old.replica_id} is never used again.")
            app.say(f"{name} joins as a learner")
            replica_id = (await client.join(address, via, promote=False)).replica.replica_id
        else:
            replica_id = newcomer.header.replica_id
            if not app.settings.dry_run:
                app.confirm(f"{title}? The id {old.replica_id} is never used again.")
        return await _take_over(app, client, old, replica_id, title)


def _check_pair(status: pb.StatusResponse, old: pb.Member, newcomer: pb.StatusResponse, address: str) -> None:
    """Raises CommandError (5) where the daemon cannot take the member's place."""
    name = newcomer.server.name
    if old.role != pb.VOTER:
        raise _refused(
            f"{old.server.name} is no voter, so nobody needs to take its place in one change",
            f"`ravelctl leave {old.server.name}`, then `ravelctl join {address}`",
        )
    if newcomer.blank:
        return
    if newcomer.header.cluster_id != status.header.cluster_id:
        raise _refused(
            f"{name} at {address} is a member of cluster {newcomer.cluster_name} ({newcomer.header.cluster_id[:8]}) already",
            "an identity is taken once: start the daemon with an empty data directory",
        )
    role = next((m.role for m in status.members if m.replica_id == newcomer.header.replica_id), None)
    if role != pb.LEARNER:
        what = "is a voter already" if role is not None else "was removed from this cluster"
        raise _refused(
            f"{name} at {address} {what}",
            f"`ravelctl leave {old.server.name}`" if role is not None else "start it with an empty data directory",
        )


def _refused(message: str, next_step: str) -> CommandError:
    return CommandError(message, code=ExitCode.REFUSED, next_step=next_step, reason="UNSAFE_CHANGE")


async def _take_over(app: App, client: ClusterClient, old: pb.Member, replica_id: int, title: str) -> View:
    """Wait until the leader finds that the newcomer has caught up, then make the one change."""

    async def ask(
        *, dry_run: bool = False, expect: pb.Expectation | None = None, timeout_s: float | None = None
    ) -> pb.ChangeResponse:
        return await client.change(
            promote=[replica_id], remove=[old.replica_id], dry_run=dry_run, expect=expect, timeout_s=timeout_s
        )

    async def ready() -> pb.StatusResponse | str:
        verdict = (await ask(dry_run=True)).verdict
        now = await cluster_status(app, client, need_leader=True)
        return now if verdict.allowed else f"{verdict.reason} ({distance(now, replica_id)})"

    if not app.settings.dry_run:
        with app.progress(f"{title}:") as progress:
            await dial.Wait(app.settings.wait_timeout_s(), progress).until(ready, "catching up")
    status = await cluster_status(app, client, need_leader=True)
    new = find_member(status.members, str(replica_id))
    done = f"{listed([new])} has taken the place of {listed([old])}"
    change = Change(title, done, [new, old], frozenset([old.replica_id]), ask)
    return await _made(app, client, status, change, (), "")


# --- leadership


async def transfer(app: App, word: str | None) -> View:
    """Hand leadership to a voter, or to the most caught-up one."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        now = name_of(status.members, status.header.replica_id)
        target = find_member(status.members, word).replica_id if word else NOBODY
        if target == status.header.replica_id:
            return _leads(status.members, target, status.header.term, before=now, sentence=f"{now} leads already")
        whom = name_of(status.members, target) if target else "the voter that is most caught up"

        async def judge() -> pb.Verdict:
            return (await client.transfer_leader(target, dry_run=True)).verdict

        verdict, dry = await preflight(app, f"hand leadership from {now} to {whom}", judge, status.members)
        if dry:
            return dry
        done = await client.transfer_leader(target, expect=verdict.seen)
    return _leads(status.members, done.leader_id, done.leader_term, before=now)


async def step_down(app: App) -> View:
    """Have the leader stop leading, and the voters elect."""
    async with dial.cluster(app) as client:
        status = await cluster_status(app, client, need_leader=True)
        now = name_of(status.members, status.header.replica_id)
        title = f"have {now} step down and the voters elect"

        async def judge() -> pb.Verdict:
            return (await client.step_down(dry_run=True)).verdict

        question = f"{title}? Until they have, nothing can be written."
        verdict, dry = await preflight(app, title, judge, status.members, question=question)
        if dry:
            return dry
        timeout_s = app.settings.wait_timeout_s(CHANGE_TIMEOUT_S)
        done = await client.step_down(expect=verdict.seen, timeout_s=timeout_s)
    return _leads(status.members, done.leader_id, done.leader_term, before=now)


def _leads(members: Sequence[pb.Member], leader_id: int, term: int, *, before: str, sentence: str = "") -> View:
    name = name_of(members, leader_id)
    return View(
        kind="LeaderTransfer",
        data={"id": U64(leader_id), "name": name, "term": U64(term), "before": before},
        body=sentence or f"{name} leads in term {term}",
        names=(name,),
    )
