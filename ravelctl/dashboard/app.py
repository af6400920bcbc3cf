"""`ravelctl top`: the Textual application. It owns the source of pictures, the screens, and what keys do."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

from textual import work
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from ravelctl.cli.errors import CommandError
from ravelctl.dashboard.columns import ORDERS
from ravelctl.dashboard.detail import as_json
from ravelctl.dashboard.figures import span
from ravelctl.dashboard.fleet import FLEET_ORDERS, FleetRow
from ravelctl.dashboard.keys import COMMANDS, commands
from ravelctl.dashboard.listing import Fleet
from ravelctl.dashboard.model import ReplicaView, Severity
from ravelctl.dashboard.observer import FILTERS, Noted
from ravelctl.dashboard.panels import Status, clock
from ravelctl.dashboard.recording import Player, Recording, default_name
from ravelctl.dashboard.screens.base import Paged
from ravelctl.dashboard.screens.cluster import ClusterScreen
from ravelctl.dashboard.screens.help import HelpScreen
from ravelctl.dashboard.screens.overview import FleetScreen
from ravelctl.dashboard.screens.replica import RANGES, ReplicaScreen
from ravelctl.dashboard.session import Live, Options, Replayed, Source, Target
from ravelctl.dashboard.themes import ANSI, DARK, THEMES
from ravelctl.dashboard.widgets.replica_table import RowTable

PRESSING_AFTER_S: Final = 0.1
"""What cannot wait for the next interval is painted after this: what comes together is painted together."""
REPLAY_TICK_S: Final = 0.1
SETTLED_S: Final = 3.0
"""After this all is loaded that a dashboard which is only looked at will ever load."""


class TopApp(App[None]):
    """`options` say what to watch; `options.replay` makes it a player."""

    CSS_PATH = Path(__file__).with_name("ravel.tcss")
    TITLE = "ravel top"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(command.keys, command.action, command.text, show=False) for command in COMMANDS),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, options: Options) -> None:
        # Textual chooses how it takes colours away before it knows the theme: greys in 24 bits, unless it is told of this one.
        super().__init__(ansi_color=True if options.theme == ANSI.name else None)
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = options.theme or DARK.name
        self.options = options
        self.paused = False
        self.fleet = Fleet(options, lambda live: self.watch_fleet(live).cancel)
        self._fleet_begun = False
        self._fleet_shown: list[FleetRow] = []
        self._pressing = False
        self._rang = 0
        self._split_recorded = False
        self.live: Live | None = None
        self.source: Source
        if options.replay is not None:
            self.source = Replayed(Player(Recording(options.replay)))
        else:
            self.live = Live(options, options.target, interval_s=options.interval_s, changed=self._press)
            self.source = self.live
            if options.record is not None:
                self.live.start_recording(options.record)  # before the screen is taken: what is wrong with the file is told there

    def get_default_screen(self) -> Screen[Any]:
        return ClusterScreen()

    # --- life

    async def on_mount(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Without this the terminal would stay as it is: no cursor, no echo.
            with suppress(NotImplementedError, ValueError, RuntimeError):  # not in a thread, and not on every system
                asyncio.get_running_loop().add_signal_handler(number, self.exit)
        if not gc.isenabled():
            self.set_timer(SETTLED_S, _look_for_garbage)
        if isinstance(self.source, Replayed):
            if self.source.player.damage:
                self.notify(_extent(self.source.player), title="This recording is damaged", severity="warning", timeout=15)
            self.set_interval(REPLAY_TICK_S, self._play_on)
            return
        if self.live is None:
            return
        # The screen stands before gRPC is loaded.
        self.call_after_refresh(self.watch_cluster, self.live)
        self.call_after_refresh(self.watch_list)
        self.begin_ticking()

    def begin_ticking(self) -> None:
        """From now on there is a picture each interval."""
        self.set_interval(self.options.interval_s, self.tick)

    async def on_unmount(self) -> None:
        if self.live is not None:
            self.live.stop_recording()

    @work(group="cluster", exclusive=True)
    async def watch_cluster(self, live: Live) -> None:
        await live.run()

    @work(group="fleet")
    async def watch_fleet(self, live: Live) -> None:
        await live.run()

    @work(group="list", exclusive=True)
    async def watch_list(self) -> None:
        await self.fleet.run(self._listed)

    # --- pictures

    @property
    def status(self) -> Status:
        return Status(self.source.mode, self.paused, self.source.recording, self.options.read_only)

    def tick(self) -> None:
        """Alarms and recordings go on while the picture is held still."""
        if self.live is None:
            return
        held = self.live.picture
        try:
            picture = self.live.look(at_interval=True)
        except OSError as error:
            self.live.stop_recording()
            self.notify(f"the recording ended: {error.strerror}", severity="error")
            picture = self.live.look(at_interval=False)
        if self.live.split and self.live.recorder is None:
            self._record_split()
        self._ring(sum(alarm.severity is Severity.CRIT and not alarm.acknowledged for alarm in picture.alarms))
        if self.paused:
            self.live.picture = held
        else:
            self._paint()

    def _press(self) -> None:
        """Something cannot wait for the next interval."""
        if not self._pressing and self.is_running:
            self._pressing = True
            self.set_timer(PRESSING_AFTER_S, self._paint_pressing)

    def _paint_pressing(self) -> None:
        self._pressing = False
        if self.live is not None and not self.paused:
            self.live.look(at_interval=False)
            self._paint()

    def _paint(self) -> None:
        for screen in self.screen_stack:
            if isinstance(screen, Paged) and screen.is_mounted:
                screen.refit()

    def _ring(self, crit: int) -> None:
        if self.options.bell and crit > self._rang:
            self.bell()
        self._rang = crit

    def _play_on(self) -> None:
        if isinstance(self.source, Replayed):
            was_playing = self.source.player.playing
            if self.source.player.advance(REPLAY_TICK_S) or was_playing != self.source.player.playing:
                self._paint()

    # --- which commands exist now

    @property
    def page(self) -> Paged | None:
        """The uppermost screen that is not a dialog."""
        return next((screen for screen in reversed(self.screen_stack) if isinstance(screen, Paged)), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        known = [command for command in COMMANDS if command.action.partition("(")[0] == action]
        if not known or self.page is None:
            return True
        there = commands(self.page.where, replay=self.source.is_replay, read_only=self.options.read_only)
        return any(command.action.partition("(")[0] == action for command in there)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        page = self.page
        if page is None:
            return
        for command in commands(page.where, replay=self.source.is_replay, read_only=self.options.read_only):
            if command.action not in ("command_palette", "back", "open"):
                name = command.action.partition("(")[0]
                yield SystemCommand(f"{name}  {command.shown}", command.text, self._runner(command.action))

    def _runner(self, action: str) -> Callable[[], None]:
        def run() -> None:
            self.run_worker(self.run_action(action), exit_on_error=True)

        return run

    # --- looking

    @property
    def chosen(self) -> ReplicaView | None:
        """The replica that a command is about: the row under the cursor, or the one whose screen this is."""
        page = self.page
        if isinstance(page, ReplicaScreen):
            return self.source.picture.view.replica(page.key)
        key = page.query_one(RowTable).cursor if isinstance(page, ClusterScreen) else None
        return self.source.picture.view.replica(key) if key is not None else None

    def action_help(self) -> None:
        if self.page is not None:
            self.push_screen(HelpScreen(self.page.where, replay=self.source.is_replay, read_only=self.options.read_only))

    def action_filter(self) -> None:
        if isinstance(self.page, ClusterScreen):
            self.page.open_filter()

    def action_sort(self) -> None:
        page = self.page
        if isinstance(page, ClusterScreen):
            page.order = (page.order + 1) % len(ORDERS)
            page.refit()
        elif isinstance(page, FleetScreen):
            page.order = (page.order + 1) % len(FLEET_ORDERS)
            page.refit()

    def action_open(self) -> None:
        page = self.page
        if isinstance(page, FleetScreen):
            name = page.query_one(RowTable).cursor
            if name is not None:
                self._enter(name)
        elif (row := self.chosen) is not None and isinstance(page, ClusterScreen):
            self.push_screen(ReplicaScreen(row.key))

    async def action_back(self) -> None:
        page = self.page
        if isinstance(page, ClusterScreen):
            page.close_filter(clear=True)
        elif len(self.screen_stack) > 1:
            self.pop_screen()

    def action_peer(self, by: int) -> None:
        if isinstance(self.page, ReplicaScreen):
            self.page.peer(by)

    def action_range(self) -> None:
        if isinstance(self.page, ReplicaScreen):
            self.page.range = (self.page.range + 1) % len(RANGES)
            self.page.refit()

    def action_copy(self) -> None:
        if (row := self.chosen) is not None:
            self.copy_to_clipboard(as_json(row))
            self.notify(f"what {row.name} last reported is on the clipboard, as JSON")

    def action_pause(self) -> None:
        self.paused = not self.paused
        if isinstance(self.source, Replayed):
            self.paused = False
            self.action_play()
            return
        if not self.paused and self.live is not None:
            self.live.look(at_interval=False)
        self._paint()

    def action_events(self) -> None:
        if isinstance(self.page, ClusterScreen):
            page = self.page
            page.events_shown = FILTERS[(FILTERS.index(page.events_shown) + 1) % len(FILTERS)]
            page.refit()

    def action_acknowledge(self) -> None:
        page = self.page
        shown = page.alarms_shown if isinstance(page, ClusterScreen) else len(self.source.picture.alarms)
        if self.live is not None and self.live.observer.acknowledge(shown) and not self.paused:
            self.live.look(at_interval=False)
            self._paint()

    def action_theme(self) -> None:
        if self.ansi_color:
            self.notify("this terminal, or NO_COLOR, asks for sixteen colours; --theme chooses another look")
            return
        names = [theme.name for theme in THEMES]
        self.theme = names[(names.index(self.theme) + 1) % len(names)] if self.theme in names else names[0]

    # --- recording and playing

    def action_record(self) -> None:
        if self.live is None:
            return
        if self.is_web:
            self.notify("a page writes no files: `ravelctl record` does", severity="warning")
        elif self.live.recorder is not None:
            path = self.live.recorder.path
            self.live.stop_recording()
            self.notify(f"recorded to {path}")
        else:
            self._start_recording(Path(default_name(self.live.picture.view.name, self.options.clock.wall_ms())))
        self._paint()

    def _start_recording(self, path: Path) -> None:
        if self.live is None:
            return
        try:
            self.live.start_recording(path)
        except CommandError as error:
            self.notify(f"{error.message}: {error.next_step}", severity="error")
        except OSError as error:
            self.notify(f"cannot record to {path}: {error.strerror}", severity="error")
        else:
            self.notify(f"recording to {path.absolute()}")

    def _record_split(self) -> None:
        """Two leaders in one term: what led to it will be asked for. Tried once: a full disk must not be tried each second."""
        if self.live is not None and not self._split_recorded and not self.is_web:
            self._split_recorded = True
            self._start_recording(Path(default_name(f"{self.live.picture.view.name}-safety", self.options.clock.wall_ms())))

    def _player(self) -> Player | None:
        return self.source.player if isinstance(self.source, Replayed) else None

    def action_play(self) -> None:
        if (player := self._player()) is not None:
            if player.at_ms >= player.recording.length_ms and not player.playing:
                player.seek(0)
            player.playing = not player.playing
            self._paint()

    def action_step(self, by: int) -> None:
        if (player := self._player()) is not None:
            player.step(by)
            self._paint()

    def action_jump(self, by: int) -> None:
        if (player := self._player()) is not None:
            player.jump(by)
            self._paint()

    def action_faster(self, by: int) -> None:
        if (player := self._player()) is not None:
            player.faster(by)
            self._paint()

    def action_goto(self) -> None:
        from ravelctl.dashboard.screens.confirm import AskScreen

        player = self._player()
        if player is None:
            return

        def accept(text: str) -> None:
            player.goto(text)
            self._paint()

        self.push_screen(AskScreen("Go to which time (UTC)?", "HH:MM or HH:MM:SS", accept))

    # --- many clusters

    def action_fleet(self) -> None:
        if self.live is None or isinstance(self.page, FleetScreen):
            return
        self.fleet.begin()
        if not self._fleet_begun:
            self._fleet_begun = True
            self.set_interval(self.fleet.interval_s, self._tick_fleet)
            # The first round of answers need not wait for the interval.
            for after_s in (0.3, 1.0, 2.0):
                self.set_timer(after_s, self._look_at_fleet)
        self._look_at_fleet()
        while len(self.screen_stack) > 1:
            self.pop_screen()
        self.push_screen(FleetScreen())

    def _listed(self) -> None:
        """The admin has said which clusters there are. What it was pointed at is the list, so that is what is shown first."""
        if not self._fleet_begun and len(self.screen_stack) == 1:
            self.action_fleet()
        self._look_at_fleet()

    def _tick_fleet(self) -> None:
        self.fleet.look(at_interval=True)
        self._show_fleet()

    def _look_at_fleet(self) -> None:
        self.fleet.look(at_interval=False)
        self._show_fleet()

    def _show_fleet(self) -> None:
        if not self.paused:
            self._fleet_shown = self.fleet.rows
            if isinstance(self.page, FleetScreen) and self.page.is_mounted:
                self.page.refit()

    def fleet_rows(self) -> list[FleetRow]:
        """The clusters that are known by name, or else the one that is watched."""
        if self._fleet_shown:
            return self._fleet_shown
        return [FleetRow(self.source.picture.view.name or "?", self.source.picture)]

    def _enter(self, name: str) -> None:
        """Watch this cluster instead of the one before."""
        live = self.fleet.live(name)
        if live is not None and self.live is not None and live.target is not self.live.target:
            self.live.stop_recording()
            self.live = Live(self.options, live.target, interval_s=self.options.interval_s, changed=self._press)
            self.source = self.live
            self.watch_cluster(self.live)
        self.pop_screen()
        self._paint()

    # --- changes

    def _propose(self, change: str) -> None:
        """Open the dialog of a change, named as in `ravelctl.dashboard.actions`, about what the screen shows at this moment."""
        from ravelctl.dashboard import actions  # with it come the commands' own changes, which no first picture needs
        from ravelctl.dashboard.screens.confirm import ConfirmScreen

        row, live = self.chosen, self.live
        if row is None or live is None:
            return
        make: Callable[[Target, actions.Ground], actions.Plan] = getattr(actions, change)
        try:
            plan = make(live.target, actions.ground(live.picture.view, row, live.addresses))
        except actions.NotDoneError as refusal:
            self.notify(str(refusal), severity="warning")
            return

        def told(outcome: str, failed: bool) -> None:
            live.take(Noted("action", outcome, failed))

        self.push_screen(ConfirmScreen(plan, told))

    def action_transfer(self) -> None:
        self._propose("transfer")

    def action_promote(self) -> None:
        self._propose("promote")

    def action_remove(self) -> None:
        self._propose("remove")

    def action_snapshot(self) -> None:
        self._propose("snapshot")


def _extent(player: Player) -> str:
    """How far a damaged recording is good."""
    end_ms = player.recording.began_ms + player.recording.length_ms
    return f"{player.damage}. It plays up to {clock(end_ms)}, {span(player.recording.length_ms / 1000)} after it began."


def _look_for_garbage() -> None:
    """From now on, and never in what has been there since the start."""
    gc.freeze()
    gc.enable()


def run(options: Options) -> None:
    """Show the dashboard until it is left. Raises CommandError where it cannot begin, and exits 1 if it failed within.

    Begins without garbage collection if the caller has switched it off, and switches it on once the first pictures are there.
    """
    app = TopApp(options)
    app.run()
    if app.return_code:
        raise CommandError("ravel top failed; the error stands above", next_step="report it with the lines above")
