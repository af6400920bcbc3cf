"""What happened, in words: the last steps for people, and a hash over all of them that tells two runs apart."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Final

SHOWN_STEPS: Final = 60
"""Steps that a failure tells."""


class Trace:
    """Every step of a run, of which the last ones are kept."""

    def __init__(self) -> None:
        self._last: deque[tuple[float, str]] = deque(maxlen=SHOWN_STEPS)
        self._hash = blake2b(digest_size=16)
        self.steps = 0

    def add(self, now: float, what: str) -> None:
        self.steps += 1
        self._last.append((now, what))
        self._hash.update(f"{now!r} {what}\n".encode())

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def lines(self) -> list[str]:
        return [f"{now:12.6f}  {what}" for now, what in self._last]
