"""Where the pictures come from: a live cluster, or a recording. Screens ask nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ravelctl.cli.errors import CommandError
from ravelctl.client.errors import RavelError
from ravelctl.dashboard.figures import size
from ravelctl.dashboard.observer import Heard, Lost, Observer, Picture, Report, Told, Watched
from ravelctl.dashboard.poller import TURNING, Poller
from ravelctl.dashboard.recording import Player, Recorder

if TYPE_CHECKING:
    from ravelctl.client import AdminClient, ClusterClient, InspectClient

INTERVAL_S: Final = 1.0
FLEET_INTERVAL_S: Final = 5.0


class Clock:
    """This host's clocks. Tests stand in another."""

    def now_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """A cluster, and how it is dialled: what a context of the configuration comes to."""

    endpoints: tuple[str, ...]
    connect: Callable[[Sequence[str]], ClusterClient]  # may raise CommandError or RavelError: options or files that are wrong
    inspect: Callable[[], InspectClient]


def _unlisted(endpoints: tuple[str, ...], cluster_id: str) -> Target:
    raise CommandError(f"cluster {cluster_id} at {', '.join(endpoints)} is of no list that was asked for")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    target: Target
    interval_s: float = INTERVAL_S
    read_only: bool = False
    record: Path | None = None
    replay: Path | None = None
    theme: str = ""  # empty: what fits the terminal
    bell: bool = False
    version: Callable[[], str] = lambda: "unknown"  # of ravelctl; looked up only when it is written down
    clusters: Mapping[str, Target] = field(default_factory=dict)  # the contexts of the configuration, by name
    admin: Callable[[], AdminClient] | None = None  # asks the daemons of `target` for a list of clusters; may raise CommandError
    member: Callable[[tuple[str, ...], str], Target] = _unlisted  # a cluster of such a list, by its addresses and its id
    clock: Clock = field(default_factory=Clock)


class Source(Protocol):
    """What a cluster's screens are fed from."""

    @property
    def picture(self) -> Picture: ...

    @property
    def mode(self) -> str: ...

    @property
    def is_replay(self) -> bool: ...

    @property
    def recording(self) -> str: ...


class Live:
    """A cluster that is watched now. `run` polls until it is cancelled; `changed` is called when a picture cannot wait."""

    is_replay = False

    def __init__(
        self, options: Options, target: Target, *, interval_s: float, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.options = options
        self.target = target
        self.interval_s = interval_s
        self.observer = Observer(interval_s)
        self.recorder: Recorder | None = None
        self._changed = changed
        self._clock = options.clock
        self.picture = self.observer.picture(self._clock.now_s(), self._clock.wall_ms())

    @property
    def mode(self) -> str:
        return f"LIVE {self.interval_s:g}s"

    @property
    def recording(self) -> str:
        return size(self.recorder.bytes_written) if self.recorder is not None else ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the cluster is reached, as far as it is known: those that answer first."""
        sights = sorted(self.observer.sights, key=lambda sight: bool(sight.error))
        return tuple(sight.address for sight in sights) or self.target.endpoints

    async def run(self) -> None:
        endpoints = self.target.endpoints
        try:
            client = self.target.connect(endpoints)
        except (CommandError, RavelError) as error:
            self.take(Watched(endpoints))
            for address in endpoints:
                self.take(Lost(address, error.message))
            return
        async with client:
            await Poller(client, endpoints, self.take, interval_s=self.interval_s).run()

    def take(self, report: Report) -> None:
        """Also for what happens at the screen itself."""
        pressing = self._is_pressing(report)
        at_s, wall_ms = self._clock.now_s(), self._clock.wall_ms()
        self.observer.take(report, at_s, wall_ms)
        if self.recorder is not None:
            self.recorder.write(report, at_s, wall_ms)
        if pressing:
            self._changed()

    def _is_pressing(self, report: Report) -> bool:
        """Whether the operator must see it before the next interval: who leads, who is lost, what happened."""
        match report:
            case Told():
                return any(event.kind in TURNING for event in report.events)
            case Heard():
                sight, new = self.observer.sight(report.address), report.status
                old = sight.status if sight is not None and not sight.error else None
                return old is None or (old.role, old.leader_id, old.header.term) != (new.role, new.leader_id, new.header.term)
            case Lost():
                sight = self.observer.sight(report.address)
                return sight is not None and not sight.error
        return True

    def look(self, *, at_interval: bool) -> Picture:
        """A new picture; one that is not at an interval leaves alarms and trends as they stand."""
        now_s, wall_ms = self._clock.now_s(), self._clock.wall_ms()
        if not at_interval:
            self.picture = self.observer.picture(now_s, wall_ms)
            return self.picture
        self.picture = self.observer.tick(now_s, wall_ms)
        if self.recorder is not None:
            self.recorder.tick(self.observer, now_s, wall_ms)
        return self.picture

    def start_recording(self, path: Path) -> None:
        """Raises CommandError if the file cannot be begun."""
        self.recorder = Recorder(
            path,
            interval_s=self.interval_s,
            cluster=self.picture.view.name,
            version=self.options.version(),
            wall_ms=self._clock.wall_ms(),
        )

    def stop_recording(self) -> None:
        if self.recorder is not None:
            recorder, self.recorder = self.recorder, None
            recorder.close()

    @property
    def split(self) -> bool:
        """Whether two replicas lead in one term."""
        return bool(self.picture.view.rivals)


class Replayed:
    """A recording as a source."""

    is_replay = True
    recording = ""

    def __init__(self, player: Player) -> None:
        self.player = player

    @property
    def picture(self) -> Picture:
        return self.player.picture

    @property
    def mode(self) -> str:
        return self.player.mode
