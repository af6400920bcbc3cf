"""Which of the survivors of a lost quorum knows most, and what nobody knows any more. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ravelctl.cli.errors import CommandError
from ravelctl.cli.exit_codes import ExitCode
from ravelctl.cli.output import count_text


@dataclass(frozen=True, slots=True)
class Survivor:
    """One replica of the old cluster: a directory, or a daemon that answers."""

    source: str
    name: str
    cluster_id: str
    cluster_name: str
    replica_id: int
    last_term: int
    last_index: int
    commit_index: int
    applied_index: int
    halves: tuple[tuple[int, ...], ...]  # voters of the newest membership that it has applied; of a joint one both halves
    config_index: int
    names: Mapping[int, str] = field(default_factory=dict)
    running: bool = False
    problems: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[bool, int, int, int, int]:
        """The higher the better. What Raft compares when it elects comes first: term and index of the last entry."""
        return (not self.problems, self.last_term, self.last_index, self.commit_index, self.applied_index)


@dataclass(frozen=True, slots=True)
class Plan:
    """The survivors, the best one first, and what they mean together."""

    survivors: tuple[Survivor, ...]
    voters: tuple[int, ...]
    missing: tuple[int, ...]  # voters of which nothing is left
    quorum: int
    has_quorum: bool
    sentences: tuple[str, ...]

    @property
    def best(self) -> Survivor:
        return self.survivors[0]


def plan(found: Sequence[Survivor]) -> Plan:
    """Rank the survivors of one cluster. Raises CommandError (5) where they are not of one."""
    members = [survivor for survivor in found if survivor.cluster_id]
    if not members:
        raise CommandError("none of these belongs to a cluster: there is nothing to recover", code=ExitCode.REFUSED)
    clusters = {survivor.cluster_id: survivor.source for survivor in members}
    if len(clusters) > 1:
        told = ", ".join(f"{source} of {cluster[:8]}" for cluster, source in clusters.items())
        raise CommandError(f"these are of different clusters: {told}", code=ExitCode.REFUSED, next_step="name those of one")
    ranked = sorted(members, key=lambda survivor: survivor.rank, reverse=True)
    newest = max(members, key=lambda survivor: survivor.config_index)
    voters = tuple(sorted({voter for half in newest.halves for voter in half}))
    there = {survivor.replica_id for survivor in members if not survivor.problems}
    missing = tuple(voter for voter in voters if voter not in there)
    quorum = len(voters) // 2 + 1
    has_quorum = bool(voters) and all(2 * len(there & set(half)) > len(half) for half in newest.halves if half)
    sentences = _sentences(ranked[0], voters, missing, quorum, has_quorum, newest.names)
    return Plan(tuple(ranked), voters, missing, quorum, has_quorum, tuple(sentences))


def _sentences(
    best: Survivor, voters: Sequence[int], missing: Sequence[int], quorum: int, has_quorum: bool, names: Mapping[int, str]
) -> list[str]:
    lost = ", ".join(names.get(replica_id, str(replica_id)) for replica_id in missing)
    have = f"{len(voters) - len(missing)} of {count_text(len(voters), 'voter')} are here, and a quorum is {quorum}"
    if best.problems:
        return [have, f"the best of them, {best.source}, is damaged: {best.problems[0]}"]
    if has_quorum:
        return [have, "a quorum is left: start these daemons, and nothing is lost; there is nothing to recover"]
    told = [
        have,
        f"{best.source} knows most: its log ends at entry {best.last_index} of term {best.last_term}",
        f"kept: all that was committed up to entry {best.commit_index}, which it is sure of",
    ]
    open_entries = best.last_index - best.commit_index
    if open_entries > 0:
        told.append(
            f"taken over: {count_text(open_entries, 'entry', 'entries')} after that, whose writers may have been told so or not"
        )
    told.append(f"may be lost: acknowledged writes after entry {best.last_index} that only {lost or 'others'} had")
    return told
