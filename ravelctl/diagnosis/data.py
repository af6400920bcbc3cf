"""Rules RV6xx: damaged, foreign and useless directories, and replicas that stopped themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ravelctl.diagnosis.finding import Finding, finding
from ravelctl.diagnosis.leaderless import who_is_at
from ravelctl.diagnosis.seen import Picture, Reach

DAMAGE_LINES: Final = 5
"""Of more damage in one directory the rest is counted."""


def damage(p: Picture) -> Iterator[Finding]:
    """One finding for each kind of damage in each directory."""
    for directory in p.seen.directories:
        by_code: dict[str, list[str]] = {}
        for found in directory.damage:
            by_code.setdefault(found.code, []).append(found.said)
        for code, said in by_code.items():
            lines = said[1 : DAMAGE_LINES + 1]
            if more := len(said) - 1 - len(lines):
                lines.append(f"and {more} more: `ravelctl store check --data-dir {directory.path}` tells all")
            who = f"{directory.name} ({directory.path})" if directory.name else directory.path
            sentence = said[0] if directory.path in said[0] else f"{who}: {said[0]}"
            yield finding(code, directory.name or directory.path, sentence, lines, do=directory.next_step)


def stopped_replicas(p: Picture) -> Iterator[Finding]:
    for door in p.seen.doors:
        if door.reach in (Reach.STOPPED, Reach.FAILS):
            name, _ = who_is_at(p, door)
            yield finding("RV610", name, f"{name} at {door.address} {door.reach.value}", [door.said], do=door.next_step)


def without_a_seat(p: Picture) -> Iterator[Finding]:
    for directory in p.seen.directories:
        if directory.server_id and not directory.seated:
            what = "belongs to a replica that was removed" if directory.removed else "belongs to no cluster"
            yield finding("RV611", directory.path, f"{directory.path} {what}", [f"server {directory.server_id[:8]}"])


def other_clusters(p: Picture) -> Iterator[Finding]:
    for directory in p.seen.directories:
        if directory.cluster_id and directory.cluster_id != p.cluster_id:
            other = f"{directory.cluster_name} ({directory.cluster_id[:8]})".strip()
            sentence = f"{directory.path} is of cluster {other}, not of {p.cluster_id[:8]}, which is looked at"
            yield finding("RV612", directory.path, sentence)


RULES: Final = (damage, stopped_replicas, without_a_seat, other_clusters)
