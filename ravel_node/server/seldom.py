"""Log lines that anybody who can connect may cause: each kind once in a while, however often it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

TOLD_EVERY_S: Final = 60.0
KEYS_MAX: Final = 1_024
"""Kinds that are remembered; past that the oldest is forgotten, and may be told once more."""


class Seldom:
    """Remembers what was told when."""

    def __init__(self, every_s: float = TOLD_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._told_at: dict[Hashable, float] = {}  # in the order in which they were told

    def due(self, key: Hashable) -> bool:
        """Whether to tell this now; if so, it counts as told."""
        now = self._clock()
        told_at = self._told_at.get(key)
        if told_at is not None and now - told_at < self._every_s:
            return False
        self._told_at.pop(key, None)
        self._told_at[key] = now
        if len(self._told_at) > KEYS_MAX:
            del self._told_at[next(iter(self._told_at))]
        return True
