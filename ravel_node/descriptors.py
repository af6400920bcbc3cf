"""How many files and connections this process may have open at once, and who gets them.

A system often starts a process with a limit of 1,024. A process that has used it up can accept nobody, and open no file:
clients that connect and do nothing would cut a replica off from its peers and make its next snapshot fail. So the limit is
raised as far as the system allows, and the ports get no more than what is left beside the files of the store.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OWN_FILES: Final = 128
"""For the store, the loop, log, metrics, and connections to other replicas."""

PEER_CONNECTIONS_MAX: Final = 256
"""On the peer port: a replica has one or two to each other one, and more for a moment while it reconnects."""


COUNTED_FOR_S: Final = 5.0
"""For so long a count of connections is not made again: thousands of them take milliseconds."""

_SOCKETS: Final = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))


@dataclass(frozen=True, slots=True)
class Shares:
    """Connections that each port may have open at once. With `wanted` open files nobody has to do with less."""

    clients: int
    peers: int
    limit: int  # of open files, as it is now
    wanted: int

    @property
    def enough(self) -> bool:
        return self.limit >= self.wanted


def share_out(limit: int, clients_max: int) -> Shares:
    """What the ports get of `limit` open files, where clients should get `clients_max`. Each gets at least one."""
    wanted = clients_max + PEER_CONNECTIONS_MAX + OWN_FILES
    if limit >= wanted:
        return Shares(clients_max, PEER_CONNECTIONS_MAX, limit, wanted)
    room = max(2, limit - OWN_FILES)
    peers = max(1, min(PEER_CONNECTIONS_MAX, room // 4))
    return Shares(max(1, min(clients_max, room - peers)), peers, limit, wanted)


def claim(clients_max: int) -> Shares:
    """Raise this process's limit of open files as far as needed and allowed, and share it out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = share_out(0, clients_max).wanted
    if soft == resource.RLIM_INFINITY:
        return share_out(wanted, clients_max)
    if soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):  # some systems have a lower bound than the one they name
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return share_out(soft, clients_max)


class ConnectionCount:
    """How many connections are open on a port of this machine, as Linux tells; counted when asked, every few seconds at most."""

    def __init__(self, port: int, clock: Callable[[], float]) -> None:
        # The local address, the remote one, and the state: 01 is an established connection.
        self._line = re.compile(rb":%04X [0-9A-F]+:[0-9A-F]{4} 01 " % port)
        self._clock = clock
        self._counted_at = -COUNTED_FOR_S
        self._count = 0

    def now(self) -> int:
        """0 where the system does not tell."""
        if self._clock() - self._counted_at >= COUNTED_FOR_S:
            self._counted_at = self._clock()
            self._count = sum(self._in(path) for path in _SOCKETS)
        return self._count

    def _in(self, path: Path) -> int:
        try:
            return len(self._line.findall(path.read_bytes()))
        except OSError:
            return 0
