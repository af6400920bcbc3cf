"""Ports for the daemons of tests, which are bound some time after they were chosen, and again after each restart."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from typing import Final

FIRST: Final = 10_240
"""Below the ports of playgrounds (ravelctl/playground/processes.py), which lie below those that Linux gives to outgoing
connections: what is free while a daemon is down stays free."""
PER_WORKER: Final = 894
WORKERS: Final = 8


def _ours() -> Iterator[int]:
    """The ports of this process, one after the other, and then from the first again. Tests that run at once share none."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    number = int(worker) % (WORKERS - 1) if worker.isdecimal() else WORKERS - 1
    at = random.SystemRandom().randrange(PER_WORKER)  # two runs of the tests at once need not try the same ones
    while True:
        yield FIRST + number * PER_WORKER + at
        at = (at + 1) % PER_WORKER


_PORTS: Final = _ours()


def free_ports(count: int) -> list[int]:
    """Ports that nobody has bound now, and that this process has not given out for long."""
    found: list[int] = []
    for _ in range(PER_WORKER):
        if len(found) == count:
            return found
        port = next(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    raise RuntimeError(f"fewer than {count} of {PER_WORKER} ports are free")
