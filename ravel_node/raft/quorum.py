"""Which index is committed, and who won: pure arithmetic over sets of voters.

A majority of a set decides (paper, section 5); in a joint configuration a majority of each half must agree (thesis
4.3). A half without voters agrees with anything, so a configuration that is not joint is one whose outgoing half is
empty, and nothing needs a special case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from ravel_node.raft.types import NO_LIMIT, Index, ReplicaId


class VoteResult(IntEnum):
    """Where an election stands."""

    PENDING = 0  # undecided, and what is missing can still decide it
    LOST = 1  # a majority can no longer be reached
    WON = 2


@dataclass(frozen=True, slots=True)
class MajorityConfig:
    """One set of voters that decides by majority."""

    voters: frozenset[ReplicaId] = frozenset()

    def committed_index(self, matched: Mapping[ReplicaId, Index]) -> Index:
        """The highest index that a majority has reached; a voter missing in `matched` has reached none."""
        if not self.voters:
            return Index(NO_LIMIT)
        reached = sorted([matched.get(voter, Index(0)) for voter in self.voters], reverse=True)
        return reached[len(reached) // 2]

    def vote_result(self, votes: Mapping[ReplicaId, bool]) -> VoteResult:
        """The outcome of `votes`, where a voter that is missing has not answered yet."""
        if not self.voters:
            return VoteResult.WON
        granted = missing = 0
        for voter in self.voters:
            answer = votes.get(voter)
            if answer is None:
                missing += 1
            elif answer:
                granted += 1
        needed = len(self.voters) // 2 + 1
        if granted >= needed:
            return VoteResult.WON
        return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST


@dataclass(frozen=True, slots=True)
class JointConfig:
    """Two sets of voters that must both agree; `outgoing` is empty except in the middle of a membership change."""

    incoming: MajorityConfig = MajorityConfig()
    outgoing: MajorityConfig = MajorityConfig()

    @property
    def voters(self) -> frozenset[ReplicaId]:
        return self.incoming.voters | self.outgoing.voters

    def committed_index(self, matched: Mapping[ReplicaId, Index]) -> Index:
        if not self.outgoing.voters:
            return self.incoming.committed_index(matched)
        return min(self.incoming.committed_index(matched), self.outgoing.committed_index(matched))

    def vote_result(self, votes: Mapping[ReplicaId, bool]) -> VoteResult:
        first, second = self.incoming.vote_result(votes), self.outgoing.vote_result(votes)
        if VoteResult.LOST in (first, second):
            return VoteResult.LOST
        return VoteResult.WON if first is second is VoteResult.WON else VoteResult.PENDING
