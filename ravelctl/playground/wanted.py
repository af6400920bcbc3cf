"""What `playground up` was asked for, and whether it is what is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ravelctl.cli.errors import CommandError, usage_error
from ravelctl.cli.output import count_text
from ravelctl.playground import processes
from ravelctl.playground.processes import Playground

CLUSTER_NAME: Final = "playground"
"""Of the one that has no admin group."""
REPLICAS: Final = 3
ADMINS: Final = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `up` was asked for. None: nothing was said."""

    replicas: int | None  # in each cluster
    clusters: int | None
    admins: int | None
    http: bool

    @property
    def with_admins(self) -> bool:
        return bool(self.admins) or (self.clusters or 1) > 1 or self.http

    @property
    def words(self) -> str:
        each = self.replicas or REPLICAS
        if not self.with_admins:
            return f"a cluster of {each}"
        admins = count_text(self.admins or ADMINS, "admin server")
        return f"{admins} and {count_text(self.clusters or 1, 'cluster')} of {each}"

    def planned(self, where: Path) -> Playground:
        each = self.replicas or REPLICAS
        if not self.with_admins:
            return processes.plan(where, each, CLUSTER_NAME)
        return processes.plan_system(where, self.clusters or 1, each, self.admins or ADMINS, self.http)

    def check(self, ground: Playground) -> None:
        """Raises CommandError (2) where the playground that is there is another one."""
        there = f"the playground in {ground.folder} has"
        clusters = len(ground.clusters)
        if self.admins is not None and self.admins != len(ground.admins):
            raise _other_ground(f"{there} {count_text(len(ground.admins), 'admin server')}, not {self.admins}", "--admins")
        if self.http and not ground.http:
            raise _other_ground(f"{there} no HTTP gateway", "--http")
        if self.clusters is not None and self.clusters != clusters and (self.clusters < clusters or not ground.admins):
            raise _other_ground(f"{there} {count_text(clusters, 'cluster')}, not {self.clusters}", "--clusters")
        adds = self.clusters is not None and self.clusters > clusters
        each = len(ground.of(ground.clusters[0]))
        if self.replicas is not None and self.replicas != each and not adds:
            per = " in each cluster" if ground.admins else ""
            raise _other_ground(f"{there} {each} replicas{per}, not {self.replicas}", "--replicas")


def _other_ground(message: str, flag: str) -> CommandError:
    return usage_error(
        message, f"leave out {flag}, remove it with `ravelctl playground down --purge`, or name another folder with --dir"
    )
