"""The verdict on a change of membership: what the cluster bears before and after, and whether the change may be made. Pure.

A change takes effect once the voters that there are have committed it, and goes on once the voters that will be have a quorum: in
between (joint, where more than one voter changes) both are asked. So both must have a live quorum, or the change would leave a
cluster that stands still.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ravel_node.raft import ConfState, ReplicaId
from ravel_node.replica.status import Expectation, Standing, Verdict


@dataclass(frozen=True, slots=True)
class Health:
    """What a leader knows of its voters and learners."""

    conf_state: ConfState
    live: frozenset[ReplicaId]  # heard of within an election timeout; the leader itself always
    caught_up: frozenset[ReplicaId]


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of whom, all in one change. Nobody stands in two of them."""

    add_learners: tuple[ReplicaId, ...] = ()
    promote: tuple[ReplicaId, ...] = ()  # learners become voters
    demote: tuple[ReplicaId, ...] = ()  # voters become learners
    remove: tuple[ReplicaId, ...] = ()  # for good

    @property
    def empty(self) -> bool:
        return not (self.add_learners or self.promote or self.demote or self.remove)

    def after(self, state: ConfState) -> tuple[frozenset[ReplicaId], frozenset[ReplicaId]]:
        """Voters and learners once it is made."""
        voters = (set(state.voters) | set(self.promote)) - set(self.demote) - set(self.remove)
        learners = (set(state.learners) | set(self.add_learners) | set(self.demote)) - set(self.promote) - set(self.remove)
        return frozenset(voters), frozenset(learners)


def standing(voters: Iterable[ReplicaId], learners: Iterable[ReplicaId], health: Health) -> Standing:
    """What these voters bear, given who lives and who is caught up. Only caught-up voters count for what is tolerated."""
    voters = tuple(sorted(voters))
    quorum = len(voters) // 2 + 1
    live = sum(voter in health.live for voter in voters)
    caught_up = sum(voter in health.live and voter in health.caught_up for voter in voters)
    return Standing(
        voters=voters,
        learners=tuple(sorted(learners)),
        quorum=quorum,
        live=live,
        caught_up=caught_up,
        tolerates=max(caught_up - quorum, 0) if live >= quorum else live - quorum,
    )


def judge(health: Health, plan: Plan, seen: Expectation) -> Verdict:
    """The verdict on one change."""
    after_voters, after_learners = plan.after(health.conf_state)
    before = standing(health.conf_state.voters, health.conf_state.learners, health)
    after = standing(after_voters, after_learners, health)
    reason, next_step = _objection(health, plan, before, after)
    return Verdict(before, after, seen, reason, next_step, _warnings(plan, before, after))


def _objection(health: Health, plan: Plan, before: Standing, after: Standing) -> tuple[str, str]:
    """Why not, and what to do instead; empty: nothing speaks against it."""
    if not after.voters:
        if plan.demote:
            return "it would leave no voter, and a cluster without voters stands still", "keep at least one voter"
        return (
            "it would remove the last voter, and with it the cluster's data",
            "stop the daemon instead: its data directory keeps everything",
        )
    if not plan.empty and before.live < before.quorum:
        return (
            f"{_of(before)}, so no change can be committed",
            "bring voters back first: `ravelctl status` shows which are down",
        )
    if after.live < after.quorum:
        return (
            f"it would leave {after.live} live voters of {len(after.voters)}, and a quorum needs {after.quorum}",
            "bring voters back first (`ravelctl status` shows which are down), or remove the dead ones before live ones",
        )
    if behind := [replica_id for replica_id in plan.promote if replica_id not in health.caught_up]:
        return (
            f"replica {behind[0]} has not caught up with the leader's log",
            "wait until `ravelctl status` shows no lag for it, then try again",
        )
    return "", ""


def _of(now: Standing) -> str:
    return f"{now.live} of {len(now.voters)} voters are live, and a quorum needs {now.quorum}"


def _warnings(plan: Plan, before: Standing, after: Standing) -> tuple[str, ...]:
    warnings: list[str] = []
    if len(after.voters) > 1 and after.live >= after.quorum and after.tolerates < 1 and after.voters != before.voters:
        warnings.append("afterwards the cluster tolerates 0 failures")
    if after.voters and len(after.voters) % 2 == 0 and after.voters != before.voters:
        warnings.append(f"{len(after.voters)} voters tolerate no more failures than {len(after.voters) - 1}")
    return tuple(warnings)
