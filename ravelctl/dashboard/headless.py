"""Recording without a screen: what `ravelctl record` does. No Textual."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ravelctl.cli.app import App
from ravelctl.cli.errors import CommandError
from ravelctl.cli.output import U64, View, age_text, size_text
from ravelctl.dashboard.recording import default_name
from ravelctl.dashboard.session import Live

if TYPE_CHECKING:
    from ravelctl.dashboard.session import Options


async def record(app: App, options: Options, file: Path | None, for_s: float | None) -> View:
    """Record until the time is over, or until SIGINT or SIGTERM. Raises CommandError if the file cannot be written."""
    live = Live(options, options.target, interval_s=options.interval_s)
    clock = options.clock
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError, ValueError, RuntimeError):  # not in a thread, and not on every system
            loop.add_signal_handler(number, enough.set)
    task = asyncio.create_task(live.run())
    began_s = loop.time()
    try:
        await _named(live, enough)
        path = file or Path(default_name(live.look(at_interval=False).view.name, clock.wall_ms()))
        live.start_recording(path)
        app.say(f"recording to {path}; Ctrl-C ends it")
        with app.progress("recording:") as progress:
            while not enough.is_set() and not task.done() and (for_s is None or loop.time() - began_s < for_s):
                with suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), options.interval_s)
                live.look(at_interval=True)
                progress.update(f"{age_text(loop.time() - began_s)}, {live.recording}, {live.observer.frames} frames")
    except OSError as error:
        raise CommandError(f"the recording ended: {error.strerror}", next_step="what was written can be played") from error
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError, ValueError, RuntimeError):
                loop.remove_signal_handler(number)
        written = live.recorder.bytes_written if live.recorder is not None else 0
        live.stop_recording()
    frames = live.observer.frames
    body = f"{path}  {age_text(loop.time() - began_s)}  {frames} frames  {size_text(written)}"
    data = {"file": str(path), "seconds": loop.time() - began_s, "frames": U64(frames), "bytes": U64(written)}
    return View("Recording", data, body=body, names=(str(path),), notes=(f"play it with `ravelctl top --replay {path}`",))


async def _named(live: Live, enough: asyncio.Event) -> None:
    """A moment for the cluster to say its name."""
    for _ in range(30):
        if enough.is_set() or live.look(at_interval=False).view.name:
            return
        await asyncio.sleep(0.1)
