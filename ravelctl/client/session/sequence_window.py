"""The sequences of one registered session: which are out, and which the cluster may forget. Pure."""

from __future__ import annotations

from typing import Final

WINDOW_MAX: Final = 1024
"""Sequences from the lowest unanswered one to the newest. The cluster keeps so many results of a session, and no more."""


class SequenceWindow:
    """Counts sequences 1, 2, 3, ... of a session and knows the lowest one whose answer has not arrived.

    A run is a group of consecutive sequences, known by its session and its first sequence, which is settled as a whole or
    replaced by what is left of it. Runs of an earlier session are ignored: its numbers mean nothing to the present one.

    invariant: next - acked_below <= WINDOW_MAX, so that no result which may still be asked for again is ever forgotten.
    """

    def __init__(self) -> None:
        self.client_id = 0  # 0: no session
        self._next = 1
        self._out: set[int] = set()

    def begin(self, client_id: int) -> None:
        """A new session. Its sequences start over."""
        self.client_id = client_id
        self._next = 1
        self._out.clear()

    def end(self, client_id: int) -> None:
        """This session is no more; a newer one is left alone."""
        if self.client_id == client_id:
            self.begin(0)

    @property
    def acked_below(self) -> int:
        return min(self._out, default=self._next)

    @property
    def room(self) -> int:
        """How many sequences may be taken now; 0 without a session."""
        return WINDOW_MAX - (self._next - self.acked_below) if self.client_id else 0

    def take(self, count: int) -> int:
        """The first of `count` new sequences, 1 <= count <= room."""
        first = self._next
        self._next += count
        self._out.add(first)
        return first

    def settle(self, client_id: int, first: int) -> None:
        """Every command of this run has its answer, or will never be asked for again."""
        if client_id == self.client_id:
            self._out.discard(first)

    def keep(self, client_id: int, first: int) -> None:
        """This is the first sequence of what is left of a settled run."""
        if client_id == self.client_id:
            self._out.add(first)
