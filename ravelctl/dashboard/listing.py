"""The clusters that are watched at once: what an admin group lists, or the contexts of the configuration. No Textual.

The daemon that the dashboard was pointed at is asked once whether it is an admin server; if so, its list is read again at every
interval, and each cluster on it is followed at its own members' addresses, as long as it is on the list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ravelctl.cli.errors import CommandError
from ravelctl.client.errors import InvalidArgumentError, NotAdminError, RavelError, UnsupportedVersionError
from ravelctl.dashboard.fleet import FleetRow
from ravelctl.dashboard.session import FLEET_INTERVAL_S, Live, Options, Target

if TYPE_CHECKING:
    from ravelpb.v1.admin_pb2 import DirectoryResponse

GROUP: Final = "(admin)"
"""The admin group itself, among the clusters that it lists: no cluster can have this name."""
CLUSTERS_MAX: Final = 256
NO_ADMIN: Final = (NotAdminError, UnsupportedVersionError, InvalidArgumentError)
"""What a daemon answers that is none, or of another version: its cluster is watched alone."""

Stop = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Listed:
    """One cluster of the list."""

    target: Target
    slots: int | None = None  # that it owns; None: the list says nothing of slots


class Fleet:
    """`follow` is called to watch a cluster, and returns how to end that."""

    def __init__(self, options: Options, follow: Callable[[Live], Stop], *, interval_s: float = FLEET_INTERVAL_S) -> None:
        self.interval_s = interval_s
        self.is_listed = False  # by an admin group
        self._options = options
        self._follow = follow
        self._lives: dict[str, Live] = {}
        self._stops: dict[str, Stop] = {}
        self._slots: dict[str, int | None] = {}

    @property
    def rows(self) -> list[FleetRow]:
        return [FleetRow(name, live.picture, self._slots.get(name)) for name, live in self._lives.items()]

    def live(self, name: str) -> Live | None:
        return self._lives.get(name)

    def begin(self) -> bool:
        """Watch the contexts of the configuration, unless something is watched. Returns whether this began it."""
        if self._lives or self.is_listed:
            return False
        self._watch({name: Listed(target) for name, target in self._options.clusters.items()})
        return True

    def look(self, *, at_interval: bool) -> None:
        for live in self._lives.values():
            live.look(at_interval=at_interval)

    async def run(self, listed: Callable[[], None]) -> None:
        """Read the admin's list again and again; `listed` is called after each time. Returns where there is no admin."""
        if self._options.admin is None:
            return
        try:
            client = self._options.admin()
        except (CommandError, RavelError):
            return  # whoever watches the cluster tells it
        async with client:
            while True:
                try:
                    self.take(await client.directory())
                    listed()
                except NO_ADMIN:
                    if not self.is_listed:
                        return
                except RavelError:
                    pass  # the clusters go on, and so does watching those that are known
                await asyncio.sleep(self.interval_s)

    def take(self, directory: DirectoryResponse) -> None:
        """What the admin lists now."""
        self.is_listed = True
        self._watch({GROUP: Listed(self._options.target), **clusters_of(directory, self._options)})

    def _watch(self, wanted: Mapping[str, Listed]) -> None:
        """These, and no others."""
        for gone in self._lives.keys() - wanted.keys():
            self._drop(gone)
        for name, listed in wanted.items():
            live = self._lives.get(name)
            if live is not None and name != GROUP and self.is_listed and _moved(live, listed.target):
                self._drop(name)
                live = None
            if live is None:
                self._lives[name] = live = Live(self._options, listed.target, interval_s=self.interval_s)
                self._stops[name] = self._follow(live)
            self._slots[name] = listed.slots
        self._lives = {name: self._lives[name] for name in wanted}

    def _drop(self, name: str) -> None:
        self._stops.pop(name)()
        self._lives.pop(name)
        self._slots.pop(name, None)


def _moved(live: Live, target: Target) -> bool:
    """Whether nobody whom we ask is on the list any more. As long as one is, the others are learned from it."""
    return bool(target.endpoints) and not set(target.endpoints) & set(live.addresses)


def clusters_of(directory: DirectoryResponse, options: Options) -> dict[str, Listed]:
    """By name, each reached at the addresses of its servers, the leader first."""
    found = {}
    for cluster in list(directory.clusters)[:CLUSTERS_MAX]:
        servers = [server.server for server in directory.servers if server.cluster == cluster.number]
        servers.sort(key=lambda server: server.server_id != cluster.leader_id)
        endpoints = tuple(server.addresses.listen for server in servers)
        found[cluster.name] = Listed(options.member(endpoints, cluster.cluster_id), cluster.slots)
    return found
