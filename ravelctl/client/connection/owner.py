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

_forks = 0
"""How many forks lie between the first process and this one: cheaper to compare than process ids."""


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class Owner:
    """Binds a client to the process and event loop of its first call."""

    __slots__ = ("_forks", "_loop", "_pid")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forks = 0
        self._pid = 0

    def check(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, in the process and on the loop of the first call; else raise ClientMisusedError."""
        loop = asyncio.get_running_loop()
        if loop is self._loop and self._forks == _forks:
            return loop
        if self._loop is None:
            self._loop, self._forks, self._pid = loop, _forks, os.getpid()
            return loop
        raise self.misuse()

    @property
    def is_here(self) -> bool:
        """Whether this is the process and loop of the first call, or there was none yet."""
        return self._loop is None or (self._forks == _forks and asyncio.get_running_loop() is self._loop)

    def misuse(self) -> ClientMisusedError:
        """Return the error of a call that comes from somewhere else."""
        if self._forks != _forks:
            return forked(self._pid)
        return ClientMisusedError(
            "this client belongs to the event loop of its first call, and was called on another one",
            next_step="make the client inside the event loop that uses it: one client for each asyncio.run()",
        )


def forked(owner_pid: int) -> ClientMisusedError:
    """Return the error of a call in a process that was forked from the client's own."""
    return ClientMisusedError(
        f"this client belongs to process {owner_pid}, and was called in process {os.getpid()}, which was forked from it",
        next_step=NEW_PROCESS,
    )


NEW_PROCESS: Final = (
    "make the client in the process that uses it, and fork before the first client is used, or start processes with the method "
    "'spawn'"
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
                f"process {pid} was forked from process {parent} while clients were in use there, and gRPC does not survive that",
                next_step=NEW_PROCESS,
            )
