"""Which servers have been heard of lately: soft state of the admin that leads, in memory, gone with its leadership.

Only what is news of a report goes into the directory; that a server lives is none. A new leader of the admin group has heard of
nobody yet, so a server is down only once it has been silent for DOWN_AFTER_S towards this leader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

DOWN_AFTER_S: Final = 10.0
"""A daemon reports every two seconds."""


class Heard(NamedTuple):
    """What is known of one server."""

    heard: bool  # since this admin leads
    age_s: float  # since it was heard last, or since this admin leads
    down: bool


class Liveness:
    """When each server was heard last. `clock` is monotonic, in seconds; every call names the term that this admin leads in."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._term = 0
        self._since = 0.0
        self._heard: dict[str, float] = {}  # by server id; those of the list, as of the last look at it

    def note(self, term: int, server_id: str) -> None:
        """This server spoke. Call only for servers of the list: they are what bounds this."""
        self._lead(term)
        self._heard[server_id] = self._clock()

    def look(self, term: int, server_id: str) -> Heard:
        self._lead(term)
        at = self._heard.get(server_id)
        age_s = self._clock() - (self._since if at is None else at)
        return Heard(at is not None, age_s, age_s > DOWN_AFTER_S)

    def forget(self, server_id: str) -> None:
        """It was struck from the list."""
        self._heard.pop(server_id, None)

    def _lead(self, term: int) -> None:
        """Begin anew where this is not the term that was known: what was heard before belongs to another leader's time."""
        if term != self._term:
            self._term, self._since = term, self._clock()
            self._heard.clear()
