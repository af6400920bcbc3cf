"""The membership in use, and a leader's book on every replica in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from ravel_node.raft.errors import ConfChangeError
from ravel_node.raft.progress import Inflights, Progress
from ravel_node.raft.quorum import JointConfig, MajorityConfig, VoteResult
from ravel_node.raft.types import LOCAL_APPLY, ConfState, Index, ReplicaId

NOBODY: Final[frozenset[ReplicaId]] = frozenset()


@dataclass(frozen=True, slots=True)
class Membership:
    """Who votes and who only listens. Written `(1 2 3)&&(1 2)`: the incoming voters, and the outgoing ones while joint.

    A voter that is about to become a learner stands in `learners_next` until the joint configuration is left, since the
    outgoing half still counts its vote: no replica is voter and learner at once.
    """

    voters: frozenset[ReplicaId] = NOBODY  # the incoming half
    outgoing: frozenset[ReplicaId] = NOBODY  # the old half; empty unless joint
    learners: frozenset[ReplicaId] = NOBODY  # invariant: disjoint from both halves
    learners_next: frozenset[ReplicaId] = NOBODY  # invariant: within outgoing, disjoint from voters
    auto_leave: bool = False  # invariant: only while joint

    @classmethod
    def from_conf_state(cls, conf_state: ConfState) -> Membership:
        """The inverse of `conf_state()`. Raises ConfChangeError for one that cannot be."""
        return cls(
            frozenset(conf_state.voters),
            frozenset(conf_state.voters_outgoing),
            frozenset(conf_state.learners),
            frozenset(conf_state.learners_next),
            conf_state.auto_leave,
        ).checked()

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def all_voters(self) -> frozenset[ReplicaId]:
        return self.voters | self.outgoing

    @property
    def members(self) -> frozenset[ReplicaId]:
        return self.voters | self.outgoing | self.learners | self.learners_next

    def conf_state(self) -> ConfState:
        return ConfState(
            voters=tuple(sorted(self.voters)),
            learners=tuple(sorted(self.learners)),
            voters_outgoing=tuple(sorted(self.outgoing)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )

    def checked(self) -> Membership:
        """This membership, if it keeps its invariants. Raises ConfChangeError with the first that it does not."""
        for problem in self._problems():
            raise ConfChangeError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if strange := [replica for replica in self.members if not 0 < replica < LOCAL_APPLY]:
            yield f"replica id {strange[0]} is reserved"
        if self.learners & self.all_voters:
            yield f"a learner may not vote: {self}"
        if self.learners_next - self.outgoing or self.learners_next & self.voters:
            yield f"a future learner must vote in the outgoing half only: {self}"
        if self.auto_leave and not self.is_joint:
            yield f"only a joint configuration can be left by itself: {self}"
        if not self.voters and self.members:
            yield f"there must be a voter: {self}"

    def __str__(self) -> str:
        parts = [_ids(self.voters) + (f"&&{_ids(self.outgoing)}" if self.outgoing else "")]
        if self.learners:
            parts.append(f"learners={_ids(self.learners)}")
        if self.learners_next:
            parts.append(f"learners_next={_ids(self.learners_next)}")
        if self.auto_leave:
            parts.append("auto_leave")
        return " ".join(parts)


def _ids(replicas: Iterable[ReplicaId]) -> str:
    return f"({' '.join(str(replica) for replica in sorted(replicas))})"


class Tally(NamedTuple):
    """An election so far."""

    granted: tuple[ReplicaId, ...]
    rejected: tuple[ReplicaId, ...]
    result: VoteResult


class ProgressTracker:
    """The membership, one `Progress` for each replica in it, and the votes of the election that runs."""

    def __init__(self, inflight_messages_max: int, inflight_bytes_max: int) -> None:
        self._inflight_messages_max: Final = inflight_messages_max
        self._inflight_bytes_max: Final = inflight_bytes_max
        self.membership = Membership()
        self.quorum = JointConfig()  # invariant: the voters of `membership`
        self.progress: dict[ReplicaId, Progress] = {}  # invariant: keys are membership.members
        self.ids: tuple[ReplicaId, ...] = ()  # the same, ascending: the order of every broadcast
        self.votes: dict[ReplicaId, bool] = {}  # first answers of this round only

    def adopt(self, membership: Membership, forgotten: Iterable[ReplicaId], last_index: Index) -> None:
        """Switch to `membership`. Who stays keeps its progress, unless forgotten; who is new starts at our last entry.

        Somebody new counts as active: it had no chance yet to answer, and must not cost the leader its quorum.
        """
        for replica in forgotten:
            self.progress.pop(replica, None)
        self.ids = tuple(sorted(membership.members))
        kept = self.progress
        self.progress = {}
        for replica in self.ids:
            progress = kept.get(replica)
            if progress is None:
                progress = self._new_progress(max(last_index, Index(1)))
                progress.heard()
            progress.is_learner = replica in membership.learners
            self.progress[replica] = progress
        self.membership = membership
        self.quorum = JointConfig(MajorityConfig(membership.voters), MajorityConfig(membership.outgoing))

    def restart(self, next_index: Index) -> None:
        """Forget every progress, as at the start of a term: each peer is probed from `next_index`."""
        for replica, progress in self.progress.items():
            self.progress[replica] = self._new_progress(next_index, is_learner=progress.is_learner)

    def _new_progress(self, next_index: Index, *, is_learner: bool = False) -> Progress:
        inflights = Inflights(self._inflight_messages_max, self._inflight_bytes_max)
        return Progress(next_index, inflights, is_learner=is_learner)

    def is_singleton(self, replica: ReplicaId) -> bool:
        """Whether `replica` decides alone."""
        return self.membership.voters == {replica} and not self.membership.is_joint

    def committed_index(self) -> Index:
        """The highest index that a quorum holds durably."""
        return self.quorum.committed_index({replica: progress.match for replica, progress in self.progress.items()})

    def quorum_active(self) -> bool:
        """Whether a quorum was heard of since the last check."""
        return self.quorum.vote_result(self._activity()) is VoteResult.WON

    def _activity(self) -> Mapping[ReplicaId, bool]:
        return {replica: progress.recent_active for replica, progress in self.progress.items()}

    def reset_votes(self) -> None:
        self.votes = {}

    def record_vote(self, replica: ReplicaId, granted: bool) -> Tally:
        """Count the first answer of `replica` in this round, and no later one. Only voters decide."""
        self.votes.setdefault(replica, granted)
        counted = sorted(self.votes.keys() & self.membership.all_voters)
        yes = tuple(voter for voter in counted if self.votes[voter])
        no = tuple(voter for voter in counted if not self.votes[voter])
        return Tally(yes, no, self.quorum.vote_result(self.votes))
