"""The sequences of one registered session: those without an answer, and those that the cluster may forget. Pure."""

from __future__ import annotations

from typing import Final

WINDOW_MAX: Final = 1024
"""Sequences from the lowest unanswered one to the newest: the number of results that the cluster keeps of a session."""


class SequenceWindow:
    """Counts the sequences 1, 2, 3, ... of a session and knows the lowest one whose answer has not arrived.

    A run is a group of consecutive sequences, identified by its session and its first sequence. It is settled as a whole, or
    replaced by the runs that are left of it. Runs of an earlier session are ignored: its numbers mean nothing in the present one.

    invariant: next - acked_below <= WINDOW_MAX, so that the cluster never forgets a result that may still be asked for again.
    """

    def __init__(self) -> None:
        self.client_id = 0  # 0: no session
        self._next = 1
        self._out: set[int] = set()

    def begin(self, client_id: int) -> None:
        """Begin a new session. Its sequences start at 1."""
        self.client_id = client_id
        self._next = 1
        self._out.clear()

    def end(self, client_id: int) -> None:
        """End this session; a newer one stays."""
        if self.client_id == client_id:
            self.begin(0)

    @property
    def acked_below(self) -> int:
        """The client holds the answers of all sequences below this one, or will never ask for them."""
        return min(self._out, default=self._next)

    @property
    def room(self) -> int:
        """The number of sequences that may be taken now; 0 without a session."""
        return WINDOW_MAX - (self._next - self.acked_below) if self.client_id else 0

    def take(self, count: int) -> int:
        """Take `count` new sequences and return the first one. 1 <= count <= room."""
        first = self._next
        self._next += count
        self._out.add(first)
        return first

    def settle(self, client_id: int, first: int) -> None:
        """Mark a run as done: every command has its answer, or will never be sent again."""
        if client_id == self.client_id:
            self._out.discard(first)

    def keep(self, client_id: int, first: int) -> None:
        """Keep a part of a settled run: `first` is the first sequence of that part."""
        if client_id == self.client_id:
            self._out.add(first)
