"""Who waits for which log index.

A future is named by term and index. If the entry that is applied at that index has another term, another leader's entry took its
place and the waiting command will never run: nothing was done. If leadership ends first, nobody can say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ravel_node.machine.base import Outcome
from ravel_node.raft import EntryId, Index, Term
from ravel_node.replica.errors import ReplicaError
from ravel_node.replica.inbox import Proposal


class _Batch(NamedTuple):
    term: Term
    proposals: Sequence[Proposal]  # in the order of their groups in the entry
    appended_at: float


class ChangeApplied(NamedTuple):
    """How a membership entry ended: whether it took effect, or was emptied because it was not allowed when it was proposed."""

    at: EntryId
    effective: bool


class Waiters:
    """Futures of proposals and membership changes by log index. Owned by the driver's task."""

    def __init__(self) -> None:
        self._batches: dict[Index, _Batch] = {}
        self._changes: dict[Index, tuple[Term, asyncio.Future[ChangeApplied]]] = {}

    def __len__(self) -> int:
        return len(self._batches) + len(self._changes)

    @property
    def on_round(self) -> bool:
        """Whether an entry of proposals is in the log and not yet applied."""
        return bool(self._batches)

    def add(self, at: EntryId, proposals: Sequence[Proposal], now: float) -> None:
        self._batches[at.index] = _Batch(at.term, proposals, now)

    def add_change(self, at: EntryId, future: asyncio.Future[ChangeApplied]) -> None:
        self._changes[at.index] = (at.term, future)

    def applied(self, at: EntryId, outcomes: Sequence[Outcome], overwritten: Callable[[], ReplicaError]) -> float | None:
        """Answer whoever waits for this entry; returns when it was appended. `overwritten` makes the error
        for those of another term."""
        if self._changes and (change := self._changes.pop(at.index, None)) is not None:
            self._answer_change(change, ChangeApplied(at, effective=False), overwritten)
        batch = self._batches.pop(at.index, None)
        if batch is None:
            return None
        if batch.term != at.term:
            _fail(batch.proposals, overwritten())
            return None
        start = 0
        for proposal in batch.proposals:
            end = start + proposal.count
            if not proposal.future.done():
                proposal.future.set_result(outcomes[start:end])
            start = end
        return batch.appended_at

    def change_applied(self, at: EntryId, overwritten: Callable[[], ReplicaError]) -> None:
        """Answer whoever waits for this membership entry, which took effect."""
        if (change := self._changes.pop(at.index, None)) is not None:
            self._answer_change(change, ChangeApplied(at, effective=True), overwritten)
        if (batch := self._batches.pop(at.index, None)) is not None:
            _fail(batch.proposals, overwritten())

    def fail_all(self, error: ReplicaError) -> None:
        """Leadership ended, or the replica stops: nobody will be told an outcome any more."""
        batches, self._batches = self._batches, {}
        changes, self._changes = self._changes, {}
        for batch in batches.values():
            _fail(batch.proposals, error)
        for _, future in changes.values():
            if not future.done():
                future.set_exception(error)

    @staticmethod
    def _answer_change(
        change: tuple[Term, asyncio.Future[ChangeApplied]], result: ChangeApplied, overwritten: Callable[[], ReplicaError]
    ) -> None:
        term, future = change
        if future.done():
            return
        if term == result.at.term:
            future.set_result(result)
        else:
            future.set_exception(overwritten())


def _fail(proposals: Sequence[Proposal], error: ReplicaError) -> None:
    for proposal in proposals:
        if not proposal.future.done():
            proposal.future.set_exception(error)
