"""The process and the event loop that a client belongs to.

gRPC's channels and asyncio's futures work only where they were made. Elsewhere a call would wait for ever, past its timeout: a
child process has no thread that serves the channel, and another event loop never runs the task that answers. So every call asks
its `Owner` first, which raises at once.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final
from weakref import WeakKeyDictionary

from grpc import aio

from ravelctl.client.errors import ClientMisusedError

_opened: Final[WeakKeyDictionary[aio.Channel, int]] = WeakKeyDictionary()
"""The channels that are alive, with the process that opened each."""


class Owner:
    """Binds a client to the process and event loop of its first call."""

    __slots__ = ("_loop", "_pid")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def check(self) -> None:
        """Return if this is the process and loop of the first call; else raise ClientMisusedError."""
        loop = asyncio.get_running_loop()
        if loop is self._loop and os.getpid() == self._pid:
            return
        if self._loop is None:
            self._loop, self._pid = loop, os.getpid()
            return
        raise self.misuse()

    @property
    def is_here(self) -> bool:
        """Whether this is the process and loop of the first call, or there was none yet."""
        return self._loop is None or (self._pid == os.getpid() and asyncio.get_running_loop() is self._loop)

    def misuse(self) -> ClientMisusedError:
        """Return the error of a call that comes from somewhere else."""
        if self._pid != os.getpid():
            return ClientMisusedError(
                f"this client belongs to process {self._pid}, and was called in process {os.getpid()}, which was forked from it",
                next_step=NEW_PROCESS,
            )
        return ClientMisusedError(
            "this client belongs to the event loop of its first call, and was called on another one",
            next_step="make the client inside the event loop that uses it: one client for each asyncio.run()",
        )


NEW_PROCESS: Final = (
    "make the client in the process that uses it, and fork before the first client is used or start processes with the method "
    "'spawn': gRPC does not survive a fork"
)


def note_channel(channel: aio.Channel) -> aio.Channel:
    """Record the process of a channel that was just opened, and return it."""
    _opened[channel] = os.getpid()
    return channel


def check_process() -> None:
    """Raise ClientMisusedError in a process that was forked while clients of its parent were in use: none can work there."""
    pid = os.getpid()
    for parent in _opened.values():
        if parent != pid:
            raise ClientMisusedError(
                f"process {pid} was forked from process {parent} while clients were in use there", next_step=NEW_PROCESS
            )
