"""Signals that do not end a daemon, although by default they end every process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

HARMLESS: Final = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


def ignore_harmless() -> None:
    """Ignore these signals until the event loop handles them. Call this early: a daemon takes a while to start."""
    for number in HARMLESS:
        signal.signal(number, signal.SIG_IGN)


def handle_harmless(loop: AbstractEventLoop, received: Callable[[str], None]) -> None:
    """Call `received` with the name of each such signal, on this loop."""
    for number in HARMLESS:
        loop.add_signal_handler(number, received, signal.Signals(number).name)
